"""A photograph and a signal pooled by the methods for pictures, side by side: writes out/gallery.png.

The photograph, one of scikit-learn's, is pooled by windows of 2x2, twice in a row, so that each cell that is shown
stands for 16. The signal below it is pooled by windows of 4. Values are 0 and more, in units of the photograph's
standard deviation: SoftPool and detail-preserving pooling depend on that unit. Where a method would learn, its
parameters were set by hand, as the captions say.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from onnxpool import nn

OUT, REDUCED = Path("out/gallery.png"), Path("docs/gallery.jpg")
CROP = (64, 20, 384, 260)
TIMES = 2
WINDOW = 4
POWER, ALPHA, LAMBDA, COEFFICIENT, SHARE = 4.0, 0.01, 3.0, 5.0, 0.5
COLUMNS, MARGIN, HEAD, GAP, STRIP = 4, 16, 76, 6, 110
INK, FAINT, MARK = "#1a1a1a", "#a8b4bf", "#c8281e"

Size = int | tuple[int, int]
Make = Callable[[Size], torch.nn.Module]


class Contrast(torch.nn.Module):
    """A logit made by hand: how far a cell is from the mean of the 3x3 cells around it, times ``coefficient``."""

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        brightness = x.mean(1, keepdim=True)
        around = torch.nn.functional.avg_pool2d(brightness, 3, 1, 1, count_include_pad=False)
        return self.coefficient * (brightness - around).abs()


def detail_preserving(size: Size, reward: str) -> torch.nn.Module:
    """With alpha and lambda chosen: strongly for cells that are far from the mean of their window."""
    pool = nn.DetailPreservingPool2d(3, size, reward=reward)
    torch.nn.init.constant_(pool.a, math.log(ALPHA))
    torch.nn.init.constant_(pool.l, math.log(LAMBDA))
    return pool


def mixed(size: Size) -> torch.nn.Module:
    """As after a training that drew the maximum more often for red, and the mean for green and blue."""
    pool = nn.MixedPool2d(size)
    pool.load_state_dict({"max_draws": torch.tensor([2, 1, 1]), "mean_draws": torch.tensor([1, 2, 2])})
    return pool


def gated(size: Size) -> torch.nn.Module:
    """With a gate that opens where the sum of the window is large."""
    pool = nn.GatedPool2d(size)
    torch.nn.init.constant_(pool.gate, 1 / pool.gate.numel())
    return pool


def blurred(size: Size) -> tuple[Any, Any]:
    """A filter of twice the stride, up to 7 cells, and the stride."""
    if isinstance(size, int):
        return 2 * size, size
    return tuple(1 if n == 1 else min(2 * n, 7) for n in size), size


class Downscaled(torch.nn.Module):
    """Detail-preserving downscaling to as many cells as a window of this size would give."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        h, w = (n // step for n, step in zip(x.shape[2:], self.size, strict=True))
        small: torch.Tensor = nn.DetailPreservingDownscale((h, w))(x)
        return small


def drawing(size: Size) -> torch.nn.Module:
    """Stochastic pooling as in training."""
    return nn.StochasticPool2d(size, sample_in_eval=True)


@dataclass(frozen=True)
class Panel:
    """One method: its caption in two lines, how to make it for a window, and how often it pools the photograph."""

    name: str
    remark: str
    make: Make
    times: int = TIMES


PANELS = (
    Panel("Maximum", "the largest cell of each window", nn.MaxPool2d),
    Panel("Average", "their mean", nn.AvgPool2d),
    Panel("Global average", "one mean over everything", lambda _: nn.GlobalAvgPool2d(), times=1),
    Panel("Mixed", "set: red by maximum, green and blue by mean", mixed),
    Panel("Stochastic, in training", "a cell drawn in proportion to its value", drawing),
    Panel("Stochastic, in evaluation", "the mean of such draws", nn.StochasticPool2d),
    Panel("Power average", f"p = {POWER:g}, mean", lambda size: nn.PowerAvgPool2d(size, p=POWER, norm="mean")),
    Panel("SoftPool", "weights exp(x)", nn.SoftPool2d),
    Panel(
        "Local importance",
        f"logits by hand: {COEFFICIENT:g} x local contrast",
        lambda size: nn.LocalImportancePool2d(Contrast(COEFFICIENT), size, size, 0),
    ),
    Panel(
        "Detail-preserving, symmetric",
        f"set: alpha {ALPHA:g}, lambda {LAMBDA:g}",
        lambda size: detail_preserving(size, "symmetric"),
    ),
    Panel(
        "Detail-preserving, asymmetric",
        "the same, for cells above the mean",
        lambda size: detail_preserving(size, "asymmetric"),
    ),
    Panel(
        "Learned mix",
        f"set: {SHARE:g} of the maximum, the rest of the mean",
        lambda size: nn.LearnedMixedPool2d(size, share=SHARE),
    ),
    Panel("Gated", "set: more of the maximum where cells are bright", gated),
    Panel(
        "AdaPool",
        f"set: {SHARE:g} by likeness to the mean, the rest SoftPool",
        lambda size: nn.AdaPool2d(size, beta=SHARE, learn_beta=False),
    ),
    Panel(
        "Attention",
        "the start of training: logits 2x, channel by channel",
        lambda size: nn.AttentionPool2d(3, size, ceil_mode=False),
    ),
    Panel("Blur", "binomial filter 1 3 3 1, every second cell", lambda size: nn.BlurPool2d(*blurred(size))),
    Panel(
        "Maximum, then blur",
        "the largest cell at stride 1, then the filter",
        lambda size: nn.MaxBlurPool2d(size, filter_size=blurred(size)[0]),
    ),
    Panel("Adaptive polyphase", "every second cell, from where the norm is largest", nn.AdaptivePolyphasePool2d),
    Panel(
        "Detail-preserving downscaling",
        "lambda 1: a pixel counts by how far it is from its patch",
        Downscaled,
    ),
)


def photograph(name: str) -> tuple[torch.Tensor, float]:
    """``(1, 3, height, width)`` in units of its standard deviation, and that unit."""
    pixels = np.asarray(Image.fromarray(load_sample_image(name)).crop(CROP)) / 255
    unit = float(pixels.std())
    return torch.from_numpy(pixels / unit).permute(2, 0, 1)[None], unit


def signal() -> torch.Tensor:
    """A slope, noise, a spike, an edge, a gap, a wave, ``(1, 3, 1, 64)``: the same in all channels; 0 to 4."""
    noise = 2 + 0.3 * np.random.default_rng(4).standard_normal(10)
    wave = 1.9 + 1.5 * np.sin(np.arange(18) * np.pi / 4)
    x = np.concatenate([np.linspace(0.3, 2, 14), noise, np.full(10, 0.8), np.full(12, 3.0), wave])
    x[29], x[38] = 3.8, 0.4
    return torch.from_numpy(x).expand(1, 3, 1, -1).contiguous()


# --- drawing


def colours(x: torch.Tensor, unit: float) -> Image.Image:
    """A pooled photograph as a picture."""
    values = np.clip(x[0].permute(1, 2, 0).numpy() * unit, 0, 1)
    return Image.fromarray((255 * values).round().astype(np.uint8))


def plot(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], x: NDArray[Any], y: NDArray[Any] | None) -> None:
    """The signal as faint bars, and what it was pooled to, per channel, as lines over the cells they stand for."""
    left, top, right, bottom = box

    def height(value: float) -> float:
        return bottom - value / 4 * (bottom - top)

    bar = (right - left) / len(x)
    for i, value in enumerate(x):
        draw.rectangle((left + i * bar + 1, height(value), left + (i + 1) * bar - 2, bottom), FAINT)
    draw.line((left, bottom, right, bottom), INK)
    for channel in y if y is not None else ():
        step = (right - left) / len(channel)
        for i, value in enumerate(channel):
            draw.line((left + i * step + 1, height(value), left + (i + 1) * step - 2, height(value)), MARK, 3)


def panel(name: str, remark: str, image: Image.Image, x: NDArray[Any], y: NDArray[Any] | None) -> Image.Image:
    """Caption, photograph, signal."""
    width, height = 2 * (CROP[2] - CROP[0]), 2 * (CROP[3] - CROP[1])
    sheet = Image.new("RGB", (width, HEAD + height + GAP + STRIP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 2), name, INK, ImageFont.load_default(size=34))
    draw.text((0, 42), remark, "#555555", ImageFont.load_default(size=26))
    sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (0, HEAD))
    plot(draw, (0, HEAD + height + GAP, width - 1, HEAD + height + GAP + STRIP - 2), x, y)
    return sheet


def gallery(name: str) -> Image.Image:
    """Everything on one sheet."""
    x, unit = photograph(name)
    line = signal()
    shown = line[0, 0, 0].numpy()
    torch.manual_seed(0)
    panels = [
        panel(
            "The photograph",
            f"{x.shape[3]} x {x.shape[2]}, pooled to a quarter; and a signal",
            colours(x, unit),
            shown,
            None,
        )
    ]
    for method in PANELS:
        pool, pooled = method.make(2).eval().double(), x
        with torch.no_grad():
            for _ in range(method.times):
                pooled = pool(pooled)
            y = method.make((1, WINDOW)).eval().double()(line)[0, :, 0].numpy()
        panels.append(panel(method.name, method.remark, colours(pooled, unit), shown, y))

    width, height = panels[0].size
    rows = -(-len(panels) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), "white")
    for i, image in enumerate(panels):
        row, column = divmod(i, COLUMNS)
        sheet.paste(image, (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)))
    return sheet


def main() -> None:
    """Draw and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photograph", choices=("china.jpg", "flower.jpg"), default="china.jpg", help="(china.jpg)")
    parser.add_argument("--docs", action="store_true", help=f"write {REDUCED} too, half as wide, for the README")
    given = parser.parse_args()
    OUT.parent.mkdir(exist_ok=True)
    sheet = gallery(given.photograph)
    sheet.save(OUT)
    print(f"{OUT}, {sheet.width} x {sheet.height}")
    if given.docs:
        REDUCED.parent.mkdir(exist_ok=True)
        sheet.reduce(2).save(REDUCED, quality=88, optimize=True)
        print(f"{REDUCED}, {REDUCED.stat().st_size} bytes")


if __name__ == "__main__":
    main()
