"""Ways from a network with our poolings to something that runs: tools/ecosystem runs each in its own environment.

    python tools/ecosystem_ways.py WAY NETWORK

Prints a JSON object: what the way is worth against float64, or what was said instead.
"""

import contextlib
import copy
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ecosystem_runtimes
import numpy as np
import torch

import onnxpool
from onnxpool import models, nn

Run = Callable[[torch.Tensor], Any]
"""The result of a way: an answer for an input."""

FOLDER = Path(tempfile.mkdtemp(prefix="ecosystem"))
NAMED = ({0: "batch", 2: "height", 3: "width"},)
LARGEST_ERROR = 1e-4
"""Relative to the largest element; more counts as wrong."""


class Converted(Exception):  # noqa: N818 - it is a result
    """There is a result, which this machine cannot run; says what it is."""


# --- what goes in


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A network in evaluation mode, the example that is exported, and a batch of another size."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(3, 8, 3, padding=1)
    if name == "a":
        net = torch.nn.Sequential(first, nn.SoftPool2d(3, 2, 1), torch.nn.Conv2d(8, 4, 1), nn.SoftPool2d(2))
    elif name == "b":
        logit = nn.SimplifiedLogit2d(8, zero=False)
        again = nn.LocalImportancePool2d(nn.ProjectionLogit2d(8, zero=False), 2, 2, 0)
        net = torch.nn.Sequential(first, nn.LocalImportancePool2d(logit), again)
    elif name == "c":
        net = torch.nn.Sequential(
            first,
            nn.StochasticPool2d(3, 2, 1),
            nn.PowerAvgPool2d(2, 1, p=2.5, learn_p=True),
            nn.DetailPreservingPool2d(8),
            nn.AdaptiveAvgPool2d(3),
        )
    else:
        net = models.softpool_resnet18(10)
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    length = 64 if name == "d" else 24
    return net.eval(), torch.randn(2, 3, length, length), torch.randn(3, 3, length + 16, length + 8)


NETWORKS = {
    "a": "SoftPool twice",
    "b": "local importance pooling twice, with both kinds of logits",
    "c": "stochastic, power average with a learned p, detail-preserving and adaptive average pooling",
    "d": "SoftPool-ResNet-18",
}


def error(y: Any, net: torch.nn.Module, x: torch.Tensor) -> float:
    """The largest difference from float64, relative to the largest element."""
    with torch.no_grad():
        wanted = copy.deepcopy(net).double()(x.double()).numpy()
    given = np.asarray(y.detach() if isinstance(y, torch.Tensor) else y, np.float64)
    if given.shape != wanted.shape:
        raise ValueError(f"the shape is {given.shape}, not {wanted.shape}")
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


# --- ways


def exported(net: torch.nn.Module, x: torch.Tensor, free: bool) -> "torch.export.ExportedProgram":
    """PyTorch's program, of which batch, height and width are ``free``, or as in the example."""
    any_size = torch.export.Dim.DYNAMIC
    return torch.export.export(net, (x,), dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},) if free else None)


def in_onnxruntime(path: Path) -> Run:
    """The file in ONNX Runtime, without a library of ours."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def in_openvino(model: Any) -> Run:
    """The model in OpenVINO, in float32."""
    import openvino

    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x.numpy())[0]


def torch_onnx(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """PyTorch's exporter as it is."""
    path = FOLDER / "plain.onnx"
    torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=NAMED if free else None, verbose=False)
    return in_onnxruntime(path)


def torch_onnx_translations(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """PyTorch's exporter with our nodes."""
    path, table = FOLDER / "ours.onnx", onnxpool.translations()
    axes = NAMED if free else None
    program = torch.onnx.export(
        net, (x,), dynamo=True, dynamic_shapes=axes, custom_translation_table=table, verbose=False
    )
    onnxpool.finish(program).save(path)
    return in_onnxruntime(path)


def torch_onnx_torchscript(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """PyTorch's older exporter."""
    path = FOLDER / "script.onnx"
    axes = {"x": NAMED[0]} if free else None
    torch.onnx.export(net, (x,), path, dynamo=False, dynamic_axes=axes, input_names=["x"])
    return in_onnxruntime(path)


def torch_export(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """A program in a file."""
    torch.export.save(exported(net, x, free), FOLDER / "network.pt2")
    return torch.export.load(FOLDER / "network.pt2").module()


def torch_export_decomposed(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """A program of PyTorch's core operators."""
    return exported(net, x, free).run_decompositions().module()


def torch_jit_trace(net: torch.nn.Module, x: torch.Tensor, _: bool) -> Run:
    """TorchScript in a file."""
    torch.jit.trace(net, x).save(FOLDER / "network.pt")
    return torch.jit.load(FOLDER / "network.pt")


def torch_fx(net: torch.nn.Module, _: torch.Tensor, __: bool) -> Run:
    """A graph module, our layers leaves of it."""
    return torch.fx.symbolic_trace(net)


def torch_compile(net: torch.nn.Module, _: torch.Tensor, free: bool) -> Run:
    """Inductor, just in time."""
    return torch.compile(net, fullgraph=True, dynamic=free)


def aot_inductor(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """Inductor, ahead of time."""
    path = str(FOLDER / "inductor.pt2")
    torch._inductor.aoti_compile_and_package(exported(net, x, free), package_path=path)
    return torch._inductor.aoti_load_package(path)


def openvino_module(net: torch.nn.Module, x: torch.Tensor, _: bool) -> Run:
    """OpenVINO from the module, which it traces."""
    import openvino

    return in_openvino(openvino.convert_model(net, example_input=x))


def openvino_program(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """OpenVINO from a program that holds our operators."""
    import openvino

    return in_openvino(openvino.convert_model(exported(net, x, free)))


def openvino_decomposed(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """OpenVINO from a program of core operators."""
    import openvino

    return in_openvino(openvino.convert_model(exported(net, x, free).run_decompositions()))


def lightning_onnx(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """Lightning's own export."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    path = FOLDER / "lightning.onnx"
    Module().eval().to_onnx(path, (x,), dynamo=True, dynamic_shapes=NAMED if free else None)
    return in_onnxruntime(path)


def executorch_portable(net: torch.nn.Module, x: torch.Tensor, free: bool, *backends: Any) -> Run:
    """ExecuTorch in its own runtime, by ``backends`` where they take a part."""
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    shapes = None
    if free:  # memory is planned for the largest
        batch = torch.export.Dim("batch", max=8)
        height, width = (torch.export.Dim(name, min=16, max=96) for name in ("height", "width"))
        shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(net, (x,), dynamic_shapes=shapes)
    lowered = to_edge_transform_and_lower(program, partitioner=list(backends)).to_executorch()
    path = FOLDER / "network.pte"
    path.write_bytes(lowered.buffer)
    loaded = Runtime.get().load_program(path)
    method = loaded.load_method("forward")
    return lambda x: (loaded, method.execute([x])[0].clone())[1]  # its memory lives as long as the program


def executorch_xnnpack(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """ExecuTorch with XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return executorch_portable(net, x, free, XnnpackPartitioner())


def litert(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """LiteRT, in its own runtime."""
    import litert_torch

    if free:
        raise NotImplementedError("sizes are fixed")
    model = litert_torch.convert(net, (x,))
    model.export(str(FOLDER / "network.tflite"))
    return model


def core_ml(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """Core ML, which runs on Apple's systems alone."""
    import coremltools

    if free:
        raise NotImplementedError("sizes are fixed")
    program = exported(net, x, free).run_decompositions()
    model = coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS17)
    raise Converted(f"{len(model._mil_program.functions['main'].operations)} operations")


def pt2e_quantized(net: torch.nn.Module, x: torch.Tensor, free: bool) -> Run:
    """Weights and activations of convolutions in 8 bits."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported(net, x, free).module(), quantizer)
    prepared(x)
    return convert_pt2e(prepared)


WAYS: dict[str, Callable[[torch.nn.Module, torch.Tensor, bool], Run]] = {
    name: way
    for name, way in globals().items()
    if callable(way) and getattr(way, "__annotations__", {}).get("return") == Run and name[0] != "_"
    if name not in {"in_onnxruntime", "in_openvino"}
} | ecosystem_runtimes.WAYS


def tried(way: str, name: str) -> dict[str, Any]:
    """The error with free sizes; where that fails, why, and the error with the example's, or what was said then."""
    told: list[str] = []
    for free in (True, False):
        net, x, other = network(name)
        try:
            with torch.no_grad():
                run = WAYS[way](net, x, free)
                batches = (x, torch.ones_like(x), *([other] if free else []))
                worst = max(error(run(batch), net, batch) for batch in batches)
            limit = 0.1 if way == "pt2e_quantized" else LARGEST_ERROR
            if worst <= limit:
                return {"error": worst, "free": free, "said": "".join(told)}
            told.append(f"wrong: {worst:.1e}")
        except Converted as model:
            return {"error": None, "free": free, "said": f"converts: {model}"}
        except Exception as failure:
            first = next((line for line in str(failure).splitlines() if line.strip()), "")
            told.append(f"{type(failure).__name__}: {first.strip():.160}")
    return {"error": None, "free": False, "said": told[-1]}


def main() -> None:
    """Print a line for the way and the network that are named."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    way, name = sys.argv[1:]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        row = tried(way, name)
    print(json.dumps({"way": way, "network": name, **row}), flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


if __name__ == "__main__":
    main()
