"""The onnx package's ReferenceEvaluator: each operator as its specification has it, in NumPy. Slow, and independent."""

from collections.abc import Callable
from typing import Any

FORMS = ("function", "standard")
LOSES_NAN = ("MaxPool", "AveragePool")
LIMITS = {
    "zero-size array to reduction": "the evaluator's MaxPool leaves NaN out, and fails in a window of NaN alone",
    "Softmax by the rule of opset 13": "the evaluator computes Softmax of opsets below 13 by the newer rule",
}

Pairs = dict[str, tuple[str, Any]]


_MOST_WEIGHTS = 4_000_000


def one_size(options: dict[str, Any]) -> bool:
    """A case of a large network takes seconds, and a minute where many images come at once."""
    return bool(options["weights"] > _MOST_WEIGHTS)


def why_not(_: dict[str, Any]) -> str:
    """Nothing: onnxpool cannot be installed without the onnx package."""
    return ""


def open_model(path: str, _: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """The evaluator: in the child."""
    import ml_dtypes
    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(path)
    old = evaluator.opsets_.get("", 13) < 13
    newer_rule = old and any(node.onnx_node.op_type in ("Softmax", "LogSoftmax") for node in evaluator.rt_nodes_)
    bfloat16 = np.dtype(ml_dtypes.bfloat16)

    def pair(array: Any) -> tuple[str, Any]:
        array = np.asarray(array)
        return array.dtype.name, array.view(np.uint16) if array.dtype == bfloat16 else array

    def run(feeds: Pairs) -> Pairs:
        if newer_rule:
            raise RuntimeError("Softmax by the rule of opset 13")
        arrays = {
            name: array.view(bfloat16) if dtype == "bfloat16" else array for name, (dtype, array) in feeds.items()
        }
        with np.errstate(all="ignore"):  # NaN and infinity are part of some cases
            return dict(zip(evaluator.output_names, map(pair, evaluator.run(None, arrays)), strict=True))

    return run, {"version": onnx.__version__}
