"""A model in OpenVINO, for tools/bench: natively by our extension, or in standard form."""

import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import onnxpool
from onnxpool import openvino
from onnxpool.graph import forms


def why_not(*, native: bool) -> str:
    """Why OpenVINO is not among the ways here, or nothing."""
    if not find_spec("openvino"):
        return "openvino is not installed"
    return (openvino.why_missing() or "") if native else ""


def bound(
    model: Any, feeds: Mapping[str, NDArray[Any]], threads: int, *, native: bool
) -> tuple[Callable[[], Any], Callable[[], NDArray[Any]]]:
    """``(run, output)``: it in OpenVINO on the CPU with these inputs, which it reads where they lie."""
    import openvino as ov

    core = ov.Core()
    if native:
        core.add_extension(openvino.extension_path())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        forms.write(onnxpool.to_form(model, "function" if native else "standard"), path)
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(path, "CPU", settings).create_infer_request()
    tensors = {name: ov.Tensor(array, shared_memory=True) for name, array in feeds.items()}
    for name, tensor in tensors.items():
        request.set_tensor(name, tensor)

    def output() -> NDArray[Any]:
        values: NDArray[Any] = request.get_output_tensor(0).data.copy()
        return values

    def run(_: Mapping[str, Any] = tensors) -> None:  # which own what the request reads
        request.infer(share_outputs=True)  # by default it copies what it gives, which takes as long as a small pooling

    return run, output
