"""Runtimes for the standard form of a network, each a way of ecosystem_ways.py.

Each exports the network, with batch, height and width ``free`` or as in the example, and returns what runs the file.
The bounded form is that for inputs within 60 (``onnxpool form --to standard --range 60``), where a network has one.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import onnxpool
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.runtimes import RUNTIMES
from onnxpool.runtimes._child import Child

Run = Callable[[torch.Tensor], Any]

FOLDER = Path(tempfile.mkdtemp(prefix="ecosystem"))
NAMED = ({0: "batch", 2: "height", 3: "width"},)
WITHIN = 60.0


def standard_form(net: torch.nn.Module, x: torch.Tensor, free: bool, bounded: bool = False) -> Path:
    """The network's file, its input named ``x`` and its output ``y``."""
    path = FOLDER / "standard.onnx"
    axes = NAMED if free else None
    model = onnxpool.export(net, (x,), dynamic_shapes=axes, golden=False, input_names=["x"], output_names=["y"])
    if bounded and not any(OPERATORS[node.op_type].bounded for node in onnxpool.pool_nodes(model)):
        raise ValueError("the network has no pooling with a bounded form")
    forms.write(forms.to_form(model, "standard", within=WITHIN if bounded else None), path)
    return path


def onnxruntime_standard(net: torch.nn.Module, x: torch.Tensor, free: bool, denormals: str = "0") -> Run:
    """ONNX Runtime without a library of ours."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", denormals)
    path = standard_form(net, x, free)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def onnxruntime_no_denormals(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """ONNX Runtime that takes denormal numbers for 0."""
    return onnxruntime_standard(net, x, free, "1")


def openvino_standard(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """OpenVINO, in float32."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(standard_form(net, x, free), "CPU", settings)
    return lambda x: compiled(x.numpy())[0]


def reference_standard(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """The onnx package's evaluator."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(standard_form(net, x, free)))
    return lambda x: evaluator.run(None, {"x": x.numpy()})[0]


def onnxruntime_web_standard(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """ONNX Runtime's WebAssembly in Node.js."""
    runtime = RUNTIMES["onnxruntime_web"]
    if reason := runtime.why_not({"dtypes": ["float32"]}):
        raise RuntimeError(reason)
    child = Child(runtime.command(sys.executable), FOLDER, timeout_s=300)
    child.open(standard_form(net, x, free), {"outputs": ["y"], "dtypes": ["float32"]})
    return lambda x: child.run({"x": x.numpy()})["y"]


def tract_standard(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """The runtime tract."""
    import tract

    runnable = tract.onnx().load(str(standard_form(net, x, free))).into_model().into_runnable()
    return lambda x: runnable.run([x.numpy()])[0].to_numpy()


def opencv_standard(net: torch.nn.Module, x: torch.Tensor, free: bool, bounded: bool = False, engine: int = 2) -> Run:
    """OpenCV's module for networks; ``engine`` 1 is its classic one, 2 the one of release 5."""
    import cv2

    network = cv2.dnn.readNetFromONNX(str(standard_form(net, x, free, bounded)), engine)

    def run(x: torch.Tensor) -> Any:
        network.setInput(x.numpy())
        return network.forward()

    return run


def opencv_classic_bounded(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """OpenCV's classic engine."""
    return opencv_standard(net, x, free, bounded=True, engine=1)


def ncnn_bounded(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """ncnn, by its converter pnnx."""
    import ncnn

    if free:
        raise NotImplementedError("sizes are fixed")
    path = standard_form(net, x, free, bounded=True)
    shape = str(list(x.shape)).replace(" ", "")
    pnnx = Path(sys.executable).with_name("pnnx")
    subprocess.run([pnnx, path.name, f"inputshape={shape}", "fp16=0"], cwd=FOLDER, check=True, capture_output=True)
    network = ncnn.Net()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, name, False)
    network.load_param(str(path.with_suffix(".ncnn.param")))
    network.load_model(str(path.with_suffix(".ncnn.bin")))

    def one(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        extractor = network.create_extractor()
        extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image)))
        return np.array(extractor.extract("out0")[1])

    return lambda x: np.stack([one(image) for image in x.numpy()])


def tvm_standard(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """TVM on the processor."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    program = tvm.compile(from_onnx(onnx.load(standard_form(net, x, free))), target="llvm")
    machine = relax.VirtualMachine(program, tvm.cpu())
    return lambda x: machine["main"](tvm.runtime.tensor(x.numpy())).numpy()


def iree_standard(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """IREE on the processor."""
    import iree.runtime

    path, tools = standard_form(net, x, free), Path(sys.executable).parent
    between, compiled = path.with_suffix(".mlir"), path.with_suffix(".vmfb")
    subprocess.run([tools / "iree-import-onnx", path, "-o", between], check=True, capture_output=True)
    target = "--iree-hal-target-backends=llvm-cpu"
    subprocess.run([tools / "iree-compile", between, target, "-o", compiled], check=True, capture_output=True)
    module = iree.runtime.load_vm_flatbuffer_file(str(compiled), driver="local-task")
    (name,) = (name for name in module.vm_module.function_names if not name.startswith("_") and "$" not in name)
    return lambda x: np.asarray(module[name](x.numpy()))


_ENDINGS = ("_standard", "_bounded", "_denormals")
WAYS: dict[str, Callable[[torch.nn.Module, torch.Tensor, bool], Run]] = {
    name: way for name, way in globals().items() if name.endswith(_ENDINGS)
}
