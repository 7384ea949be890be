"""Runs model.onnx beside this file in ONNX Runtime on the inputs in test_data_set_0, and compares with the outputs.

    python reproduce.py [LIBRARY]    LIBRARY: a custom-op library to register first, beside those that came along

Needs numpy, onnx and onnxruntime. Exit status 0 where every error is within allowed.json, else 1.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

HERE = Path(__file__).resolve().parent
BFLOAT16 = onnx.TensorProto.BFLOAT16


def main() -> int:
    """One line per output on standard output; returns the exit status."""
    options = onnxruntime.SessionOptions()
    beside = json.loads((HERE / "versions.json").read_text(encoding="utf-8")).get("libraries", [])
    for library in (*(str(HERE / name) for name in beside), *sys.argv[1:]):
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), options, providers=["CPUExecutionProvider"])
    allowed = json.loads((HERE / "allowed.json").read_text(encoding="utf-8"))
    expected = tensors("output")
    results = session.run_with_ort_values(
        [tensor.name for tensor in expected], {tensor.name: given(tensor) for tensor in tensors("input")}
    )
    lines, failed = [f"onnxruntime {onnxruntime.__version__}"], False
    for tensor, result in zip(expected, results, strict=True):
        answer, got = numpy_helper.to_array(tensor).astype(np.float64), numbers(result, tensor.data_type)
        error, limit = worst(got, answer, allowed[tensor.name])
        failed |= not error <= limit
        shapes = f"shape {got.shape}" if got.shape == answer.shape else f"shape {got.shape} in place of {answer.shape}"
        lines.append(f"{tensor.name}: {shapes}, error {error:.3g}, allowed {limit:.3g}")
    sys.stdout.write("\n".join([*lines, "FAILED" if failed else "PASSED", ""]))
    return int(failed)


def tensors(kind: str) -> list[onnx.TensorProto]:
    """The inputs or outputs, in order."""
    files = sorted(HERE.glob(f"test_data_set_0/{kind}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return [onnx.TensorProto.FromString(path.read_bytes()) for path in files]


def given(tensor: onnx.TensorProto) -> Any:
    """What ONNX Runtime takes; bfloat16, which NumPy lacks, as its bits."""
    array, value = numpy_helper.to_array(tensor), onnxruntime.OrtValue
    if tensor.data_type == BFLOAT16:
        return value.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
    return value.ortvalue_from_numpy(array)


def numbers(result: Any, data_type: int) -> Any:
    """What ONNX Runtime gave, in float64."""
    if data_type != BFLOAT16:
        return result.numpy().astype(np.float64)
    shape = result.shape()
    bits = np.ctypeslib.as_array((ctypes.c_uint16 * int(np.prod(shape))).from_address(result.data_ptr()))
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64).reshape(shape)


def worst(got: Any, answer: Any, allowed: Any) -> tuple[float, float]:
    """The error that is largest beside what is allowed, and that; infinite where shapes, NaN or infinities differ.

    ``allowed`` is one number, or one by the binary exponent of an answer.
    """
    if got.shape != answer.shape or not np.array_equal(np.isnan(got), np.isnan(answer)):
        return float("inf"), 0.0
    limits = np.full(answer.shape, 0.0 if isinstance(allowed, dict) else allowed)
    if isinstance(allowed, dict):
        exponents = np.frexp(np.where(np.isfinite(answer), answer, 0))[1]
        for exponent in np.unique(exponents).tolist():  # rounding an answer may have taken it into the next one
            near = [allowed[str(one)] for one in (exponent, exponent - 1) if str(one) in allowed]
            limits[exponents == exponent] = max(near, default=0.0)
    with np.errstate(invalid="ignore"):
        error = np.where((got == answer) | np.isnan(answer), 0, np.abs(got - answer))
    if not error.size:
        return 0.0, 0.0
    place = np.argmax(np.where(error == 0, -1, error - limits))
    return float(error.flat[place]), float(limits.flat[place])


if __name__ == "__main__":
    sys.exit(main())
