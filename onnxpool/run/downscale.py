"""Picture files made smaller by detail-preserving downscaling (:mod:`onnxpool.pools.detail_preserving_downscale`).

Needs PyTorch and Pillow. Pixels are taken as they are stored, from 0 to 255, and rounded to the nearest whole number.
Pictures are turned as their EXIF data says, and grey ones stay grey. Where a picture has transparency, its opacity is
one more channel, and the others are multiplied by it before and divided by it after: what is not seen has no weight.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxpool._files import complete, writable
from onnxpool.errors import ArgumentError
from onnxpool.pools.detail_preserving_downscale import DetailPreservingDownscale2d
from onnxpool.run.picture import opened

_TRANSPARENT = ("PNG", "WEBP", "TIFF")
"""Kinds of files that hold the opacity of grey and coloured pictures, as Pillow names them."""


@dataclass(frozen=True)
class Downscaled:
    """The ``output`` file that was written, and heights and widths in pixels: before, and after."""

    output: str
    before: tuple[int, int]
    after: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def downscale(
    picture: Path,
    output: Path | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    lambda_: float = 1.0,
) -> Downscaled:
    """Write a smaller picture; of width and height, the one that is missing follows from the picture's proportions.

    Without ``output`` it is written beside the picture, as ``photo.96x128.png`` for a ``photo.jpg``.

    Raises :class:`ArgumentError` for a file that is no picture, sizes that are not smaller than it or that make it
    empty, a ``lambda_`` below 0, and an ``output`` whose ending names no kind of picture, or one without transparency
    where the picture has it; :class:`MissingExtra` without PyTorch or Pillow.
    """
    image = opened(picture, None, transparent=True)
    from PIL import Image

    before = (image.height, image.width)
    after = _size(before, height, width)
    output = output or picture.with_suffix(f".{after[0]}x{after[1]}.png")
    kind = Image.registered_extensions().get(output.suffix.lower())
    if kind not in Image.SAVE:
        raise ArgumentError(f"output={str(output)!r} has no ending of a picture that can be written; use .png")
    transparent = image.mode.endswith("A")
    if transparent and kind not in _TRANSPARENT:
        raise ArgumentError(f"output={str(output)!r}: {kind} cannot hold the picture's transparency; use .png")
    if output.exists() and output.samefile(picture):
        raise ArgumentError(f"output={str(output)!r} is the picture itself; write to another file")
    writable(output)
    layer = DetailPreservingDownscale2d(after, lambda_=lambda_)
    import torch

    pixels = torch.from_numpy(np.array(image, np.uint8)).reshape(*before, -1).permute(2, 0, 1)[None].float()
    if transparent:
        pixels[:, :-1] *= pixels[:, -1:] / 255
    with torch.no_grad():
        small = layer(pixels)
    if transparent:
        small[:, :-1] *= torch.where(small[:, -1:] > 0, 255 / small[:, -1:], 0)
    whole = small.clamp(0, 255).round().to(torch.uint8)[0].permute(1, 2, 0)
    made = Image.fromarray(whole.squeeze(-1).numpy())
    output.parent.mkdir(parents=True, exist_ok=True)
    complete(output, made.save)
    return Downscaled(str(output), before, after)


def _size(before: tuple[int, int], height: int | None, width: int | None) -> tuple[int, int]:
    if height is None and width is None:
        raise ArgumentError("width and height are missing: give one of them, or both")
    for name, size, most in (("height", height, before[0]), ("width", width, before[1])):
        if size is not None and not 0 < size <= most:
            raise ArgumentError(f"{name}={size} must be from 1 to the picture's, {most}")
    if height is None:
        height = max(1, round(before[0] * (width or 0) / before[1]))
    if width is None:
        width = max(1, round(before[1] * height / before[0]))
    return height, width
