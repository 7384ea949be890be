"""A model as ONNX Runtime runs it fastest on this processor, with our poolings in its own layout.

>>> optimize("network.onnx", "network-here.onnx")  # doctest: +SKIP
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from onnxpool.domain import IR_VERSION, OPSETS
from onnxpool.errors import KernelError, SessionError
from onnxpool.graph import blocks, forms
from onnxpool.graph.element_types import pooled_dtype
from onnxpool.graph.forms import Model, PoolNode
from onnxpool.graph.repair import pool_calls
from onnxpool.run.native_library import CPU, register, why_missing
from onnxpool.run.options import onnxruntime_itself

__all__ = ["Optimized", "block_size", "optimize"]

_BLOCK_SIZES = (8, 16)


@dataclass(frozen=True)
class Optimized:
    """What :func:`optimize` made: ``model`` is to be saved if any pooling node is ``in_blocks``, of so many channels.

    ``kept`` says of the other pooling nodes why they are not, by name.
    """

    model: ir.Model
    block_size: int
    in_blocks: tuple[PoolNode, ...]
    kept: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; without the model."""
        found = [{"node": node.name, "op_type": node.op_type, "window": str(node.window)} for node in self.in_blocks]
        return {"block_size": self.block_size, "in_blocks": found, "kept": dict(self.kept)}


def optimize(model: Model) -> Optimized:
    """The model as ONNX Runtime optimises it for this processor, with pooling nodes in blocks of channels.

    Between convolutions ONNX Runtime keeps tensors in blocks of 8 or 16 channels (its layout NCHWc), and reorders them
    before and after each operator that it does not know there. SoftPool, local importance and stochastic pooling, with
    two spatial axes and in float32, take the blocks as they are. Answers change by rounding alone; what is promised of
    native kernels holds.

    ``onnxpool.save(made.model, path)`` writes it. It runs with the native library, on processors with the same blocks
    (AVX-512 has 16 channels, AVX2 has 8): others refuse to load it. Keep the model that it was made from.

    Raises :class:`KernelError` without the native library, or where ONNX Runtime has no blocks on this processor;
    :class:`SessionError` where it does not load the model, and :class:`FormError` for what is not a model.
    """
    if missing := why_missing():
        raise KernelError(f"an optimised model needs the native library: {missing}")
    original = forms.to_form(model, "function")
    size = block_size()
    if size is None:
        raise KernelError("ONNX Runtime has no blocks of channels on this processor; load the model as it is")
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        source, made = Path(folder, "model.onnx"), Path(folder, "optimised.onnx")
        forms.write(original.clone(), source)
        try:
            _optimise(source, made)
        except Exception as error:
            raise SessionError(f"ONNX Runtime could not load the model: {error}") from error
        optimised = ir.load(made)
        ir.external_data.load_to_model(optimised)
    blocks.into_blocks(optimised, size)
    moved = {node.name for node in blocks.nodes_in_blocks(optimised)}
    nodes = forms.pool_nodes(original)
    kept = {str(node.name): _why_kept(node) for node in pool_calls(original) if node.name not in moved}
    return Optimized(optimised, size, tuple(node for node in nodes if node.name in moved), kept)


def _optimise(source: Path, made: Path) -> None:
    """Let ONNX Runtime write what it makes of a file for the CPU, weights beside it."""
    runtime = onnxruntime_itself()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # it warns that the file is for this processor
    options.optimized_model_filepath = str(made)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{made.name}.data")
    register(options)
    runtime.InferenceSession(str(source), options, providers=[CPU])


@cache
def block_size() -> int | None:
    """How many channels a block of ONNX Runtime's has on this processor; None where it has no blocks."""
    for channels in _BLOCK_SIZES:  # a pooling of less than one block stays as it is
        if any(node.domain == blocks.THEIRS for node in _optimised_pooling(channels)):
            return channels
    return None


def _optimised_pooling(channels: int) -> Iterator[onnx.NodeProto]:
    """The nodes that ONNX Runtime makes of one pooling of so many channels."""
    code, info = TensorProto.FLOAT, helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])],
        "pooling",
        [info("x", code, (1, channels, 4, 4))],
        [info("y", code, (1, channels, 3, 3))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSETS[0])], ir_version=IR_VERSION)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        source, made = Path(folder, "model.onnx"), Path(folder, "optimised.onnx")
        onnx.save(model, source)
        _optimise(source, made)
        yield from onnx.load(made).graph.node


def _why_kept(node: ir.Node) -> str:
    """Why a pooling node is not in blocks."""
    if (axes := len(node.attributes["kernel_shape"].as_ints())) != 2:
        return f"it has {axes} spatial axes, and blocks are for 2"
    if (dtype := pooled_dtype(node)) != ir.DataType.FLOAT:
        return f"it is in {dtype.numpy()}, and blocks are for float32"
    return "what it takes is not in blocks: no convolution or pooling of ONNX Runtime's gives it"
