"""Element types: what NumPy, ONNX, ONNX's text format and the inference protocol call each, and bfloat16's bits.

>>> BY_NAME["float16"].code, BY_NAME["float16"].protocol
(10, 'FP16')

NumPy has no bfloat16 of its own: arrays have ``ml_dtypes.bfloat16``, and files and runtimes that do not know that type
get its 16 bits as uint16.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""What references take and give."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class ElementType:
    """One element type.

    ``onnx`` is its name in ONNX's text format, ``code`` its number in ``TensorProto.DataType``, ``protocol`` its name
    in the Open Inference Protocol.
    """

    dtype: np.dtype[Any]
    onnx: str
    code: int
    protocol: str

    @property
    def name(self) -> str:
        """Its name in NumPy, such as ``float32``."""
        return self.dtype.name


TYPES = (
    ElementType(np.dtype(np.float32), "float", 1, "FP32"),
    ElementType(np.dtype(np.float64), "double", 11, "FP64"),
    ElementType(np.dtype(np.float16), "float16", 10, "FP16"),
    ElementType(BFLOAT16, "bfloat16", 16, "BF16"),
    ElementType(np.dtype(np.int64), "int64", 7, "INT64"),
    ElementType(np.dtype(np.int32), "int32", 6, "INT32"),
    ElementType(np.dtype(np.int16), "int16", 5, "INT16"),
    ElementType(np.dtype(np.int8), "int8", 3, "INT8"),
    ElementType(np.dtype(np.uint64), "uint64", 13, "UINT64"),
    ElementType(np.dtype(np.uint32), "uint32", 12, "UINT32"),
    ElementType(np.dtype(np.uint16), "uint16", 4, "UINT16"),
    ElementType(np.dtype(np.uint8), "uint8", 2, "UINT8"),
    ElementType(np.dtype(np.bool_), "bool", 9, "BOOL"),
)
"""Every type that inputs and outputs of models may have here."""

POOLED = TYPES[:4]
"""The types that pooling takes."""

BY_NAME = {element.name: element for element in TYPES}
"""Every type by its name in NumPy."""

BY_ONNX = {element.onnx: element for element in TYPES}
"""Every type by its name in ONNX's text format."""

BY_CODE = {element.code: element for element in TYPES}
"""Every type by its number in ``TensorProto.DataType``."""


def to_bits(array: NDArray[Any]) -> NDArray[Any]:
    """The array, bfloat16 as its bits; the memory is shared."""
    return array.view(np.uint16) if array.dtype == BFLOAT16 else array


def from_bits(array: NDArray[Any], dtype: np.dtype[Any] | str) -> NDArray[Any]:
    """The inverse of :func:`to_bits`, for an array of that type."""
    return array.view(BFLOAT16) if np.dtype(BFLOAT16 if dtype == BFLOAT16.name else dtype) == BFLOAT16 else array
