"""Where cells come from: the nodes that move them are run, on numbers in place of values, at every size that fits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.errors import OnnxpoolError
from onnxpool.golden.collect import first_line
from onnxpool.golden.inputs import Feeds, generate, inputs_of, modest
from onnxpool.lifting.match import Cells
from onnxpool.lifting.sizes import may_change, resized
from onnxpool.lifting.sums import Mismatch
from onnxpool.lifting.values import base, moved_by, present
from onnxpool.run.session import Session, load

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """At one size: the shape of what was moved, and for each output ``(N, C, ...)`` its cells' numbers, 0 padding.

    ``masked``: a mask is true for padding, and there alone. ``rank``: how many axes the cells had with those reduced.
    """

    shape: tuple[int, ...]
    places: Places
    output: tuple[int, ...]
    masked: bool
    rank: int


def trace_cells(model: ir.Model, values: Sequence[ir.Value], cells: Cells, mask: ir.Value | None) -> list[Trace]:
    """What arrives at ``values``, at every size that the model can be run at."""
    session = load(_numbered(model, values, mask), kernels="off", threads=1)
    found: list[Trace] = []
    fault = "its inputs are unknown"
    for feeds in _sizes(model):
        try:
            shape, *moved = attempt(session, {info.name: feeds[info.name] for info in session.inputs})
            is_masked = mask is not None and np.array_equal(np.broadcast_to(moved.pop(), moved[0].shape), moved[0] == 0)
            trace = _trace(tuple(int(size) for size in shape), moved, cells, is_masked)
        except Exception as error:  # a size that this network does not take
            fault = first_line(error)
            continue
        if trace.places.size:  # else an empty batch, or too small for any window
            found.append(trace)
    if not found:
        raise Mismatch(f"its cells could not be traced, since the model does not run here: {fault}")
    if may_change(model) and len({trace.shape for trace in found}) == 1:
        raise Mismatch(
            f"its cells could be traced at one size alone, which does not tell its window: {fault}; export the model "
            "for one size"
        )
    return found


def attempt(session: Session, feeds: Feeds) -> list[NDArray[Any]]:
    """Run the model on inputs that it may not take, without a word on standard error."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    results: list[NDArray[Any]] = session.inner.run(None, feeds, options)
    return results


def _sizes(model: ir.Model) -> Iterator[Feeds]:
    """Ordinary inputs of several sizes. Not of 1: views may be empty then, and ONNX Runtime's Concat skips these."""
    try:
        inputs = modest(inputs_of(model))
    except OnnxpoolError:
        return
    for name, feeds in generate(inputs):
        larger = all(1 not in array.shape[2:] for array in feeds.values())
        if name == "ordinary" or (name.startswith("sizes") and larger):
            yield feeds
    for fixed in resized(model):
        yield next(feeds for name, feeds in generate(inputs_of(fixed)) if name == "ordinary")


def _numbered(model: ir.Model, values: Sequence[ir.Value], mask: ir.Value | None) -> ir.Model:
    """The model that gives the shape of what ``values`` were taken from, ``values`` with numbers in its place, and the
    mask where there is one.
    """
    start = str(base(values[0]).name)
    traced = model.clone()
    named = {value.name: value for node in traced.graph for value in node.outputs}
    named |= {value.name: value for value in (*traced.graph.inputs, *traced.graph.initializers.values())}
    if start not in named or any(value.name not in named for value in (*values, *present([mask]))):
        raise Mismatch("it stands inside of an If or Loop, where cells are not traced")
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: Sequence[ir.Value | None], attributes: Any = None, outputs: int = 1) -> ir.Node:
        nodes.append(ir.Node("", op_type, inputs, attributes or (), num_outputs=outputs, name=f"trace_{len(nodes)}"))
        for i, value in enumerate(nodes[-1].outputs):
            value.name = f"trace_{len(nodes)}_{i}"
        return nodes[-1]

    def number(value: int) -> ir.Value:
        tensor = ir.tensor(np.array(value, np.int64))
        return add("Constant", [], [ir.AttrTensor("value", tensor)]).outputs[0]

    shape = add("Shape", [named[start]]).outputs[0]
    shape.dtype = ir.DataType.INT64
    size = add("ReduceProd", [shape], [ir.AttrInt64("keepdims", 0)]).outputs[0]
    end = add("Add", [size, number(1)]).outputs[0]
    places = add("Range", [number(1), end, number(1)]).outputs[0]
    copies: dict[ir.Value, ir.Value] = {named[start]: add("Reshape", [places, shape]).outputs[0]}

    def copy(value: ir.Value) -> ir.Value:
        if value not in copies:
            node = value.producer()
            assert node is not None
            moved = moved_by(node)
            inputs = [copy(given) if given in moved else given for given in node.inputs]
            attributes = [attribute for name, attribute in node.attributes.items() if name != "value"]
            if node.op_type == "Pad":
                inputs[2:3] = [None]
            made = add(node.op_type, inputs, attributes, len(node.outputs))
            copies.update(zip(node.outputs, made.outputs, strict=True))
        return copies[value]

    outputs = [copy(named[str(value.name)]) for value in values]
    for value in dict.fromkeys(outputs):
        value.dtype = ir.DataType.INT64
    if mask is not None:
        outputs.append(add("Identity", [named[str(mask.name)]]).outputs[0])
        outputs[-1].dtype = ir.DataType.BOOL
    graph = traced.graph
    graph.extend(nodes)
    del graph.outputs[:]
    graph.outputs.extend([shape, *outputs])
    ir.passes.common.RemoveUnusedNodesPass()(traced)
    return traced


def _trace(shape: tuple[int, ...], moved: Sequence[Places], cells: Cells, masked: bool) -> Trace:
    stacked = moved[0] if cells.axes else np.stack(moved, -1)
    axes = cells.axes or (stacked.ndim - 1,)
    rest = tuple(size for i, size in enumerate(stacked.shape) if i not in axes)
    output = tuple(1 if i in axes else size for i, size in enumerate(stacked.shape)) if cells.keep else rest
    last = np.moveaxis(stacked, axes, range(stacked.ndim - len(axes), stacked.ndim))
    return Trace(shape, last.reshape(*rest, -1), output, masked, stacked.ndim)
