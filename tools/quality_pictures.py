"""What becomes of a photograph at a quarter of its size: by filters that make pictures small, and by poolings twice.

    found = photographs_measured()  # {row: {measure: 48 numbers, one for each tile; fewer where some have no edges}}

Scikit-learn's two photographs, in tiles of about 105x105 pixels. A small picture is enlarged to the old size by a
bicubic filter, each of its pixels in the middle of what it was made of, and compared with the photograph. Pixels are
measured in standard deviations of their photograph, as a network takes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from quality_network import Strided
from sklearn.datasets import load_sample_image
from torch.nn import functional

from onnxpool import nn

FACTOR = 4
STRONGEST = 0.05  # of a photograph's pixels, by the size of the slope, or of what is not in its blurred copy
TILES = (4, 6)
NAMES = ("china.jpg", "flower.jpg")

MEASURES = {
    "error": "root of the mean square, levels of 255",
    "at edges": "the same where slopes are in the strongest 5 per cent",
    "detail": "what is kept where the photograph differs most from its blurred copy, %",
    "information": "peak to error of 4x4 pixels that a linear map reads from 3x3 pixels of the small picture, dB",
}
"""What is measured of every tile, and its unit."""

Picture = torch.Tensor
"""``(1, 3, H, W)``, in standard deviations."""


@dataclass(frozen=True)
class Smaller:
    """How a picture becomes small, and where its first pixel's middle lies, in pixels of the photograph."""

    of: Callable[[Picture], Picture]
    middle: float = (FACTOR - 1) / 2


def filtered(resampling: Image.Resampling) -> Smaller:
    """By Pillow, in float32."""

    def small(x: Picture) -> Picture:
        size = (x.shape[3] // FACTOR, x.shape[2] // FACTOR)
        planes = [np.asarray(Image.fromarray(plane).resize(size, resampling)) for plane in x[0].numpy()]
        return torch.tensor(np.stack(planes))[None]

    return Smaller(small)


def twice(pool: torch.nn.Module, middle: float = (FACTOR - 1) / 2) -> Smaller:
    """By a pooling that halves the size, as a network does it."""

    @torch.no_grad()
    def small(x: Picture) -> Picture:
        halved: Picture = pool.eval()(pool.eval()(x))
        return halved

    return Smaller(small, middle)


def downscaled(lambda_: float) -> Smaller:
    """By DPID."""
    layer = nn.DetailPreservingDownscale(scale_factor=1 / FACTOR, lambda_=lambda_)
    return Smaller(layer)


SMALLER: dict[str, Smaller] = {
    "box": filtered(Image.Resampling.BOX),
    "bicubic": filtered(Image.Resampling.BICUBIC),
    "Lanczos": filtered(Image.Resampling.LANCZOS),
    "DPID": downscaled(1.0),
    "DPID, lambda 0.5": downscaled(0.5),
    "every second cell": twice(Strided(), 0),
    "MaxPool": twice(nn.MaxPool2d(2)),
    "PowerAvgPool, p = 2": twice(nn.PowerAvgPool2d(2, p=2.0, norm="mean")),
    "LogSumExpPool": twice(nn.LogSumExpPool2d(2)),
    "StochasticPool": twice(nn.StochasticPool2d(2)),
    "SoftPool": twice(nn.SoftPool2d(2)),
    "AdaPool": twice(nn.AdaPool2d(2)),
    "DetailPreservingPool": twice(nn.DetailPreservingPool2d(3)),
    "S3DetailPreservingPool": twice(nn.S3DetailPreservingPool2d(3), 3),
    "MaxPool 3x3": twice(nn.MaxPool2d(3, 2, 1), 0),
    "AvgPool 3x3": twice(nn.AvgPool2d(3, 2, 1, count_include_pad=False), 0),
    "SoftPool 3x3": twice(nn.SoftPool2d(3, 2, 1), 0),
    "BlurPool": twice(nn.BlurPool2d(4)),
    "MaxBlurPool": twice(nn.MaxBlurPool2d(2), 3),
}
"""Average pooling twice is the box filter. What is learned stands as it does before training; what then is a mean, or
draws its weights at random, is left out."""


@cache
def photograph(name: str) -> tuple[Picture, float]:
    """One, of sizes that are multiples of 8, and the levels of 255 in its standard deviation."""
    pixels = load_sample_image(name)[:424, :640].astype(np.float32)
    unit = float(pixels.std())
    return torch.tensor(pixels.transpose(2, 0, 1)[None] / unit), unit


def enlarged(small: Picture, middle: float) -> Picture:
    """Back to the old size, each pixel over the middle of its patch."""
    height, width = (FACTOR * n for n in small.shape[2:])
    edge = functional.pad(small, [1] * 4, mode="replicate")[0].numpy()
    start = 1 + ((FACTOR - 1) / 2 - middle) / FACTOR
    part = (start, start, start + small.shape[3], start + small.shape[2])
    planes = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC, part)) for p in edge]
    return torch.tensor(np.stack(planes))[None]


def fine(x: Picture) -> Picture:
    """What of it a mean of nine pixels each way has not."""
    return x - functional.avg_pool2d(functional.pad(x, [4] * 4, mode="replicate"), 9, 1)


def slopes(x: Picture) -> Picture:
    """Their size, of the mean of the colours: ``(1, 1, H, W)``."""
    down, across = torch.gradient(x.mean(1, keepdim=True), dim=(2, 3))
    return torch.hypot(down, across)


def strongest(x: Picture) -> Picture:
    """Where, as ones among zeros."""
    return (x >= x.flatten().kthvalue(int((1 - STRONGEST) * x.numel())).values).to(x.dtype)


def tiles(x: Picture) -> NDArray[np.float64]:
    """Sums over them, and over colours."""
    rows = [part for band in x.double().chunk(TILES[0], 2) for part in band.chunk(TILES[1], 3)]
    return np.array([part.sum().item() for part in rows])


def shares(part: Picture, whole: Picture, places: Picture, ones: Picture) -> NDArray[np.float64]:
    """The part of the whole, in tiles where at least every hundredth pixel is one of the places."""
    enough = tiles(places) >= tiles(ones) / 100
    return tiles(part)[enough] / tiles(whole)[enough]


def read(small: Picture, x: Picture, fitted_small: Picture, fitted: Picture) -> Picture:
    """The pixels of ``x`` that a linear map of 3x3 cells gives, fitted to another photograph, for each colour alike."""

    def around(y: Picture) -> torch.Tensor:
        cells = functional.unfold(functional.pad(y, [1] * 4, mode="replicate").transpose(0, 1), 3)
        rows = cells.transpose(1, 2).flatten(0, 1).double()
        return torch.cat([rows, torch.ones(len(rows), 1)], 1)

    cells = around(fitted_small)
    pixels = functional.unfold(fitted.transpose(0, 1), FACTOR, stride=FACTOR).transpose(1, 2).flatten(0, 1).double()
    solution = torch.linalg.solve(cells.T @ cells, cells.T @ pixels)
    found = (around(small) @ solution).unflatten(0, (3, -1)).transpose(1, 2).to(x.dtype)
    return functional.fold(found, x.shape[2:], FACTOR, stride=FACTOR).transpose(0, 1)


def measured(smaller: Smaller) -> dict[str, list[float]]:
    """Each of :data:`MEASURES`, for every tile of both photographs."""
    pictures = [photograph(name) for name in NAMES]
    small = [smaller.of(x) for x, _ in pictures]
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for i, (x, unit) in enumerate(pictures):
        large = enlarged(small[i], smaller.middle)
        squares, ones = (large - x).square(), torch.ones_like(x)
        edges, fine_x = strongest(slopes(x)).expand_as(x), fine(x)
        places = strongest(fine_x.abs())
        read_back = read(small[i], x, small[1 - i], pictures[1 - i][0])
        mean_square = tiles((read_back - x).square()) / tiles(ones)
        found["error"] += [*unit * np.sqrt(tiles(squares) / tiles(ones))]
        found["at edges"] += [*unit * np.sqrt(shares(squares * edges, edges, edges, ones))]
        found["detail"] += [*100 * shares(fine(large) * fine_x * places, fine_x.square() * places, places, ones)]
        found["information"] += [*10 * np.log10((255 / unit) ** 2 / mean_square)]
    return found


def photographs_measured() -> dict[str, dict[str, list[float]]]:
    """Of every row."""
    torch.manual_seed(0)
    return {name: measured(smaller) for name, smaller in SMALLER.items()}


# --- the picture


SHOWN = ("box", "bicubic", "Lanczos", "DPID", "every second cell", "MaxPool", "SoftPool", "BlurPool")
CROP = (200, 96, 360, 200)  # left, top, right, bottom: of the first photograph
SCALE = 2  # of a photograph's pixel


def picture() -> Image.Image:
    """A part of the photograph, as it is and as each of :data:`SHOWN` makes it, its pixels as squares."""
    x, unit = photograph(NAMES[0])
    left, top, right, bottom = CROP
    width, height, head, columns = SCALE * (right - left), SCALE * (bottom - top), 34, 3
    sheet = Image.new("RGB", (columns * (width + 8) - 8, 3 * (height + head)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=24)
    panels = [("the photograph", x, 1), *((name, SMALLER[name].of(x), FACTOR) for name in SHOWN)]
    for i, (name, y, factor) in enumerate(panels):
        part = y[0, :, top // factor : bottom // factor, left // factor : right // factor]
        levels = (part * unit).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        place = (i % columns * (width + 8), i // columns * (height + head))
        draw.text((place[0], place[1] + 2), name, "black", font)
        tile = Image.fromarray(levels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (place[0], place[1] + head))
    return sheet
