"""The largest error of the native kernels in many windows, beside the proved bound: tools/rounding --help.

Errors are in ULP of the largest finite magnitude in the window, as onnxpool.golden.bounds promises them. The yardstick
is the formula in float64, or for float64 in NumPy's longdouble. Cells are drawn in turn from normal distributions of
several deviations, and evenly between a low and a high end, where relative errors are worth most ULP.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxpool.domain import DOMAIN, IR_VERSION, OPSETS, VERSION
from onnxpool.golden import bounds
from onnxpool.run import native_library
from onnxpool.window import Window

Numbers = NDArray[Any]

OPERATORS = {"SoftPool": ("x",), "LocalImportancePool": ("x", "logit"), "StochasticPool": ("x",)}
WINDOWS = {
    "2x2 s2": (Window.of(2, 2), (32, 64, 64)),
    "3x3 s2 p1": (Window.of(2, 3, 2, 1), (16, 96, 96)),
    "3x3 s1 p1": (Window.of(2, 3, 1, 1), (16, 32, 80)),
    "3x3 s1 p1, short rows": (Window.of(2, 3, 1, 1), (32, 28, 28)),
    "5x5 s1 p2": (Window.of(2, 5, 1, 2), (32, 20, 20)),
    "7x7, global": (Window.of(2, 7), (2048, 7, 7)),
}
"""The window, and channels and sizes of a batch, such that each loop of custom_ops/kernels is taken."""

DTYPES = ("float32", "float64", "float16", "bfloat16")
DRAWS: tuple[Callable[[np.random.Generator, tuple[int, ...]], Numbers], ...] = (
    lambda rng, shape: rng.standard_normal(shape),
    lambda rng, shape: rng.standard_normal(shape) * 3,
    lambda rng, shape: rng.random(shape) * 10 - 8,
    lambda rng, shape: rng.standard_normal(shape) * 0.1,
    lambda rng, shape: rng.random(shape) + 1,
)


def session(window: Window, dtype: str) -> onnxruntime.InferenceSession:
    """All operators with this window; bfloat16, which ONNX Runtime takes no arrays of, between casts."""
    short = dtype == "bfloat16"
    outer = TensorProto.FLOAT if short else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = []
    for name in ("x", "logit"):
        to = TensorProto.BFLOAT16 if short else outer
        nodes.append(helper.make_node("Cast", [name], [f"own_{name}"], to=to))
    for operator, inputs in OPERATORS.items():
        own = [f"own_{name}" for name in inputs]
        nodes.append(helper.make_node(operator, own, [f"own_{operator}"], domain=DOMAIN, **window.attributes()))
        nodes.append(helper.make_node("Cast", [f"own_{operator}"], [operator], to=outer))
    shape = ["N", "C", "H", "W"]
    graph = helper.make_graph(
        nodes,
        "rounding",
        [helper.make_tensor_value_info(name, outer, shape) for name in ("x", "logit")],
        [helper.make_tensor_value_info(operator, outer, None) for operator in OPERATORS],
    )
    opsets = [helper.make_opsetid("", OPSETS[0]), helper.make_opsetid(DOMAIN, VERSION)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    native_library.register(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def over_windows(window: Window, cells: Numbers, join: Callable[..., Numbers], empty: float) -> Numbers:
    """``join`` over each window's cells; padding is ``empty``. ``(N, C, H, W)``, no dilation."""
    pads = [(0, 0), (0, 0), *((pad, pad) for pad in window.pad)]
    cells = np.pad(cells, pads, constant_values=empty)
    high, wide = window.output([n - 2 * p for n, p in zip(cells.shape[2:], window.pad, strict=True)])
    result: Numbers | None = None
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            own = cells[:, :, i :: window.stride[0], j :: window.stride[1]][:, :, :high, :wide]
            result = own.copy() if result is None else join(result, own, out=result)
    assert result is not None
    return result


def answers(window: Window, x: Numbers, logit: Numbers) -> Iterator[tuple[str, Numbers, Numbers]]:
    """Each operator's name, its values, and the largest magnitude in each window."""
    rectified = np.maximum(x, 0)
    for operator, values, weights in (
        ("SoftPool", x, np.exp(x)),
        ("LocalImportancePool", x, np.exp(logit)),
        ("StochasticPool", rectified, rectified),
    ):
        total = over_windows(window, weights, np.add, 0)
        y = over_windows(window, weights * values, np.add, 0) / np.where(total == 0, 1, total)
        yield operator, y, over_windows(window, np.abs(values), np.maximum, 0)


def worst(name: str, dtype: str, count: int, seed: int) -> dict[str, float]:
    """The largest error of each operator in ``count`` windows, in ULP."""
    window, shape = WINDOWS[name]
    opened = session(window, dtype)
    outer = np.float32 if dtype == "bfloat16" else np.dtype(dtype)
    inner = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    judge = np.longdouble if dtype == "float64" else np.float64
    eps = float(ml_dtypes.finfo(inner).eps)  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(seed)
    largest = dict.fromkeys(OPERATORS, 0.0)
    done = batch = 0
    while done < count:
        draw = DRAWS[batch % len(DRAWS)]
        x, logit = (draw(rng, (1, *shape)).astype(inner).astype(outer) for _ in range(2))
        results = dict(zip(OPERATORS, opened.run(list(OPERATORS), {"x": x, "logit": logit}), strict=True))
        for operator, y, magnitude in answers(window, x.astype(judge), logit.astype(judge)):
            unit = np.ldexp(judge(eps), np.frexp(np.where(magnitude == 0, 1, magnitude))[1] - 1)
            error = np.abs(results[operator].astype(judge) - y) / unit
            largest[operator] = max(largest[operator], float(error.max()))
        done += results["SoftPool"].size
        batch += 1
    return largest


def main() -> None:
    """Measure and print, a line for each window and type."""
    parser = argparse.ArgumentParser(prog="tools/rounding", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--windows", type=float, default=12e6, help="so many for each line; by default 12 million")
    parser.add_argument("--only", default="", metavar="TEXT", help="windows with TEXT in their name")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(f"{'window':22} {'type':9} {'proved':>7}  worst seen: {', '.join(OPERATORS)}")
    for name, (window, _) in WINDOWS.items():
        for dtype in chosen.dtypes:
            if chosen.only not in name:
                continue
            start = time.process_time()
            seen = worst(name, dtype, math.ceil(chosen.windows), chosen.seed)
            proved = 1.0 if dtype in ("float16", "bfloat16") else bounds.native_ulps(window.kernel)
            figures = ", ".join(f"{error:.2f}" for error in seen.values())
            print(f"{name:22} {dtype:9} {proved:7.1f}  {figures}  ({time.process_time() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
