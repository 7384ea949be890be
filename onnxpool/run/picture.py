"""From a picture file to the array that a model takes, by the shape and type of the model's one input.

    pixels / 255, minus mean, divided by std, per channel      mean, std: those of ImageNet by default
    crop of the largest middle part of size's proportions      crop: 0.875, as networks for ImageNet are evaluated

Where the model's height and width may change and no size is asked for, the whole picture is taken in its own size.
Pictures are turned as their EXIF data says; transparency is dropped. A uint8 input takes pixels as they are.

>>> Preparation.of(session.inputs).array("photo.jpg").shape  # doctest: +SKIP
(1, 3, 224, 224)
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import POOLED
from onnxpool.errors import ArgumentError, MissingExtra
from onnxpool.graph.shapes import fits
from onnxpool.run.session import TensorInfo

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = str | os.PathLike[str] | bytes
"""A picture file, or the bytes of one."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's training pictures in red, green, blue, as PyTorch's networks are trained with."""

LARGEST = 50_000_000
"""Pixels; a small file may claim any number, and would fill the memory."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read. Pillow knows more formats; for some of these it would run another program, such as Ghostscript."""

_FLOATS = tuple(element.name for element in POOLED)
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preparation:
    """How pictures become arrays. ``size`` is (height, width), or None: as the picture is."""

    name: str
    dtype: np.dtype[Any]
    channels: int
    channels_last: bool
    size: tuple[int, int] | None
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorInfo],
        *,
        size: tuple[int, int] | None = None,
        crop: float = 0.875,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Preparation":
        """What a model with these inputs needs; without ``mean`` and ``std`` those of ImageNet.

        Raises :class:`ArgumentError` for a model that takes no picture, and for arguments that do not fit it.
        """
        if len(inputs) != 1:
            raise ArgumentError(
                f"the model takes {len(inputs)} inputs, {', '.join(info.name for info in inputs)}; a picture is one: "
                "use onnxpool.load and .run"
            )
        (info,) = inputs
        channels_last = _channels_last(info)
        axes = (1, 2) if channels_last else (2, 3)
        channels = info.shape[3 if channels_last else 1]
        channels = channels if isinstance(channels, int) else 3
        if info.dtype.name not in (*_FLOATS, "uint8"):
            raise ArgumentError(f"input {info.name!r} is {info.dtype}; pictures become {', '.join(_FLOATS)} or uint8")
        if info.dtype == np.uint8 and (mean is not None or std is not None):
            raise ArgumentError(f"input {info.name!r} is uint8, which takes pixels as they are; leave mean and std out")
        if not 0 < crop <= 1:
            raise ArgumentError(f"crop={crop!r} must be above 0 and at most 1")
        return cls(
            name=info.name,
            dtype=info.dtype,
            channels=channels,
            channels_last=channels_last,
            size=_size(info, tuple(info.shape[axis] for axis in axes), size),
            crop=crop,
            mean=_per_channel("mean", mean, MEAN, channels),
            std=_per_channel("std", std, STD, channels),
        )

    def array(self, picture: Picture) -> NDArray[Any]:
        """The picture as a batch of one: (1, channels, height, width), or channels last.

        Raises :class:`ArgumentError` for a file that is missing, no picture, or too large.
        """
        image = _fitted(opened(picture, _MODES[self.channels]), self.size, self.crop)
        pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, self.channels)
        scaled = pixels if self.dtype == np.uint8 else self._scaled(pixels)
        return np.ascontiguousarray(scaled if self.channels_last else scaled.transpose(2, 0, 1))[None]

    def size_of(self, array: NDArray[Any]) -> tuple[int, int]:
        """Height and width of what :meth:`array` gave."""
        return (array.shape[1], array.shape[2]) if self.channels_last else (array.shape[2], array.shape[3])

    def feeds(self, picture: Picture) -> dict[str, NDArray[Any]]:
        """The model's inputs for this picture; raises what :meth:`array` does."""
        return {self.name: self.array(picture)}

    def _scaled(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        wide = np.dtype(np.float64 if self.dtype == np.float64 else np.float32)
        mean, std = np.array(self.mean, wide), np.array(self.std, wide)
        scaled: NDArray[Any] = (np.true_divide(pixels, 255, dtype=wide) - mean) / std
        return scaled.astype(self.dtype)


def _channels_last(info: TensorInfo) -> bool:
    shape = info.shape
    if len(shape) != 4:
        raise ArgumentError(f"input {info.name!r} has shape {shape}; a picture needs 4 axes")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ArgumentError(
            f"input {info.name!r} has shape {shape}: {shape[0]} pictures at a time, always; export the model again "
            "with --dynamic batch"
        )
    if shape[1] in _MODES:
        return False
    if shape[3] in _MODES:
        return True
    if not isinstance(shape[1], int):
        return False
    raise ArgumentError(f"input {info.name!r} has shape {shape}, with {shape[1]} channels; a picture has 1 or 3")


def _size(info: TensorInfo, have: tuple[Any, ...], want: tuple[int, int] | None) -> tuple[int, int] | None:
    fixed = [isinstance(number, int) for number in have]
    if want is None and any(fixed) and not all(fixed):
        raise ArgumentError(f"input {info.name!r} has shape {info.shape}: give size=(height, width)")
    if want is None:
        return (have[0], have[1]) if all(fixed) else None
    if min(want) < 1 or want[0] * want[1] > LARGEST:
        raise ArgumentError(f"size={want!r} must be two positive numbers, of at most {LARGEST} pixels")
    if not fits(want, have):
        raise ArgumentError(f"size={want!r} does not fit input {info.name!r} of shape {info.shape}; leave size out")
    return want


def _per_channel(
    argument: str, given: Sequence[float] | None, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        return default if channels == 3 else (sum(default) / 3,)
    if len(given) != channels or not np.all(np.isfinite(given)) or (argument == "std" and min(given) <= 0):
        kind = "positive numbers" if argument == "std" else "numbers"
        raise ArgumentError(f"{argument}={list(given)} must be {channels} {kind}, one per channel of the model's input")
    return tuple(map(float, given))


def opened(picture: Picture, mode: str | None, *, transparent: bool = False) -> "Image":
    """The picture as Pillow's ``mode``, by default ``"L"`` where it is grey and ``"RGB"`` else, turned as EXIF says.

    If ``transparent``, the default is ``"LA"`` or ``"RGBA"`` where the picture has transparency.

    Raises :class:`ArgumentError` for a file that is missing, no picture, too large, or of more than 8 bits.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtra("pillow", "serve", "reading pictures") from error
    name = "the picture" if isinstance(picture, bytes) else os.fspath(picture)
    try:
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except FileNotFoundError as error:
        raise ArgumentError(f"there is no picture file {name}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ArgumentError(f"{name} has too many pixels; at most {LARGEST} are read") from error
    except Exception as error:  # a damaged header fails in many ways
        raise ArgumentError(f"{name} cannot be read as a picture of {', '.join(FORMATS)}") from error
    if image.width * image.height > LARGEST:
        raise ArgumentError(f"{name} has {image.width}x{image.height} pixels; at most {LARGEST} are read")
    if image.mode.startswith(("I", "F")):
        raise ArgumentError(f"{name} has more than 8 bits per channel ({image.mode}); convert it to 8 bits")
    try:
        own = "L" if image.mode in ("1", "L", "LA") else "RGB"
        alpha = "A" if transparent and image.has_transparency_data else ""
        return ImageOps.exif_transpose(image).convert(mode or own + alpha)
    except Exception as error:  # so do damaged pixels
        raise ArgumentError(f"{name} is damaged: {error}") from error


def number_of_pixels(picture: bytes) -> int:
    """As its header says; 0 for what is no picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # which who opens it whole will explain
        return 0


def _fitted(image: "Image", size: tuple[int, int] | None, crop: float) -> "Image":
    """The largest middle part of the wanted proportions, ``crop`` of it, at the wanted size."""
    if size is None:
        return image
    from PIL.Image import Resampling

    height, width = size
    scale = crop * min(image.height / height, image.width / width)
    top, left = (image.height - scale * height) / 2, (image.width - scale * width) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Resampling.BILINEAR, box=box)
