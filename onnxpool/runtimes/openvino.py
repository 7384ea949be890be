"""OpenVINO on the CPU, told to compute in the model's own type; it takes the standard form.

With our extension (:mod:`onnxpool.openvino`) it takes the others, and runs their nodes natively.
"""

from collections.abc import Callable
from typing import Any

FORMS = ("standard",)
KERNELS = ("function", "custom")
LOSES_NAN = ("*",)
LIMITS = {"batch_size.get_length() > 0": "OpenVINO takes no empty batch"}

Pairs = dict[str, tuple[str, Any]]

_DEVICE = "CPU"
_NODE = "onnxpool_node"
"""Where the extension keeps a node's name in the ONNX file."""


def why_not(options: dict[str, Any]) -> str:
    """Why this cannot be tried here, or nothing."""
    from importlib.util import find_spec

    if not find_spec("openvino"):
        return "openvino is not installed: pip install 'onnxpool[openvino]'"
    return "OpenVINO computes float64 in float32" if "float64" in options["dtypes"] else ""


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """A compiled model: in the child."""
    import numpy as np
    import openvino as ov
    from openvino import properties

    settings = {
        properties.hint.inference_precision(): ov.Type.f32,  # some processors would take bfloat16
        properties.hint.execution_mode(): properties.hint.ExecutionMode.ACCURACY,
    }
    core = ov.Core()
    if options.get("library"):
        core.add_extension(options["library"])
    model = core.read_model(path)
    compiled = core.compile_model(model, _DEVICE, settings)
    request = compiled.create_infer_request()

    def tensor(dtype: str, array: Any) -> Any:
        return ov.Tensor(array, array.shape, ov.Type.bf16) if dtype == "bfloat16" else ov.Tensor(array)

    def pair(output: Any) -> tuple[str, Any]:
        value = request.get_tensor(output)
        bfloat16 = value.element_type == ov.Type.bf16
        array = value.data.copy()
        return "bfloat16" if bfloat16 else array.dtype.name, array.view(np.uint16) if bfloat16 else array

    def run(feeds: Pairs) -> Pairs:
        request.infer({name: tensor(*given) for name, given in feeds.items()})
        return dict(zip(options["outputs"], map(pair, compiled.outputs), strict=True))

    return run, {"version": ov.__version__, "nodes": _nodes(model) if options.get("library") else None}


def _nodes(model: Any) -> list[list[str]]:
    """Name, domain and operator of each of our nodes, for which there are no other kernels, and the device."""
    found = [node for node in model.get_ordered_ops() if _NODE in node.get_rt_info()]
    return [
        [node.get_rt_info()[_NODE].astype(str), node.get_type_info().version_id, node.get_type_name(), _DEVICE]
        for node in found
    ]
