"""Which window an unfolding, slicing or reshaping makes: found by moving numbered cells instead of values.

Between a tensor and the cells of its windows stand nodes that only move values (Slice, Gather, Reshape, ...), spelled
in as many ways as there are exporters. So they are not read but run: on a tensor that holds at each place that place's
number, at several sizes where axes may change. What arrives says which cells make which output, and the one
:class:`~onnxpool.window.Window` that has the same cells in every case is the window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.errors import OnnxpoolError
from onnxpool.golden.collect import first_line
from onnxpool.golden.inputs import Feeds, generate, inputs_of, modest
from onnxpool.lifting import logits
from onnxpool.lifting.logits import Pointwise
from onnxpool.lifting.match import Cells
from onnxpool.lifting.sizes import may_change, resized
from onnxpool.lifting.sums import Mismatch
from onnxpool.lifting.values import MOVES, attribute, base, moved_by, present, producer, scalar, sizes_of
from onnxpool.run.session import Session, load
from onnxpool.window import Window

Places = NDArray[np.int64]

NOTHING = -1e30
"""Cells padded with this or less weigh nothing; so do those with float16's lowest number."""


@dataclass(frozen=True)
class View:
    """The window that cells were taken over, the values that were moved, and how the output is arranged.

    ``shape`` is what to reshape the output to, in the words of ONNX's Reshape; None where it is right as it is.
    """

    window: Window
    inputs: tuple[ir.Value, ...]
    shape: tuple[int, ...] | None
    logits: tuple[ir.Node, ...] = ()
    expand: bool = False
    last: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class _Trace:
    """At one size: the shape of what was moved, and for each output ``(N, C, ...)`` its cells' numbers, 0 padding.

    ``masked``: a mask is true for padding, and there alone. ``rank``: how many axes the cells had with those reduced.
    """

    shape: tuple[int, ...]
    places: Places
    output: tuple[int, ...]
    masked: bool
    rank: int


def view(model: ir.Model, cells: Cells) -> View:
    """The window over which ``cells`` were taken.

    Raises :class:`Mismatch` where they are not windows, take padding as values, or depend on sizes that may change.
    """
    pointwise = _pointwise(cells)
    if pointwise is not None:
        cells = replace(cells, logit=(pointwise.start,))
    groups = [group for group in (cells.x, cells.logit) if group]
    bases = tuple(dict.fromkeys(base(group[0]) for group in groups))
    if any(base(value) is not base(group[0]) for group in groups for value in group):
        raise Mismatch("its cells are taken from several tensors")
    if cells.axes and all(base(value) is value for group in groups for value in group):
        return View(_whole(bases[0]), bases, None if cells.keep else (0, 0))
    mask = pointwise.mask if pointwise is not None else None
    traces = [_traces(model, group, cells, mask) for group in groups]
    _check_padding(cells, traces[-1], pointwise)
    last, found = _channels_first(traces[0])
    one_for_all = [_weights_fit(found, [_turned(trace, *last) for trace in weights]) for weights in traces[1:]]
    window = _window(found)
    shape = _arranged_last(window, found) if last[1] else _arranged(window, found)
    if pointwise is None:
        return View(window, bases, shape, expand=any(one_for_all), last=last)
    kept = [axis for axis in range(found[0].rank) if axis not in cells.axes]
    channel_axis = kept[-1 if last[1] else 1]
    if pointwise.mixing and channel_axis != (1 if pointwise.mixing == "Conv" else found[0].rank - 1):
        raise Mismatch("its weights are made across other axes than that of channels")
    channels = None if bases[0].shape is None else bases[0].shape[-1 if last[0] else 1]
    return View(window, bases, shape, pointwise.nodes, pointwise.one_for_all(channels), last)


def _pointwise(cells: Cells) -> Pointwise | None:
    """How logits are made of the very cells that are pooled; None where they are cells themselves."""
    if len(cells.logit) != 1 or not cells.axes or base(cells.logit[0]) is base(cells.x[0]):
        return None
    found = logits.read(cells.logit[0])
    same_cells = found is not None and base(found.start) is base(cells.x[0]) is not cells.x[0]
    return found if same_cells else None


def _whole(value: ir.Value) -> Window:
    sizes = sizes_of(value)
    if sizes is None:
        raise Mismatch(
            f"it pools all of {value.name!r}, whose sizes may change, and a window has fixed ones; export the model "
            "for one size"
        )
    if len(sizes) > 3:
        raise Mismatch(f"{value.name!r} has {len(sizes)} spatial axes; pooling has 1, 2 or 3")
    return Window.of(len(sizes), sizes)


# --- tracing


def _traces(model: ir.Model, values: Sequence[ir.Value], cells: Cells, mask: ir.Value | None) -> list[_Trace]:
    """What arrives at ``values``, at every size that the model can be run at."""
    session = load(_numbered(model, values, mask), kernels="off", threads=1)
    found: list[_Trace] = []
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
        yield dict(generate(inputs_of(fixed)))["ordinary"]


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


def _trace(shape: tuple[int, ...], moved: Sequence[Places], cells: Cells, masked: bool) -> _Trace:
    stacked = moved[0] if cells.axes else np.stack(moved, -1)
    axes = cells.axes or (stacked.ndim - 1,)
    rest = tuple(size for i, size in enumerate(stacked.shape) if i not in axes)
    output = tuple(1 if i in axes else size for i, size in enumerate(stacked.shape)) if cells.keep else rest
    last = np.moveaxis(stacked, axes, range(stacked.ndim - len(axes), stacked.ndim))
    return _Trace(shape, last.reshape(*rest, -1), output, masked, stacked.ndim)


def _weights_fit(values: Sequence[_Trace], weights: Sequence[_Trace]) -> bool:
    """Whether weights of one channel are for all; :class:`Mismatch` where they are not those of the same cells."""
    one = all(trace.shape[1] == 1 for trace in weights) and any(trace.shape[1] != 1 for trace in values)
    if len(values) != len(weights) or not all(_alike(*pair, one) for pair in zip(values, weights, strict=True)):
        raise Mismatch("values and weights are taken from different cells")
    return one


def _alike(values: _Trace, weights: _Trace, one: bool) -> bool:
    if not one:
        return values.shape == weights.shape and np.array_equal(values.places, weights.places)
    first = values.shape[0], 1, *values.shape[2:]
    offset = (np.arange(first[0]) * (values.shape[1] - 1) * np.prod(first[2:])).reshape(-1, *[1] * 3)
    places = values.places.reshape(*values.shape[:2], -1, values.places.shape[-1])[:, :1]
    moved = np.where(places > 0, places - offset, 0)
    return weights.shape == first and np.array_equal(moved.ravel(), weights.places.ravel())


def _check_padding(cells: Cells, weights: Sequence[_Trace], pointwise: Pointwise | None) -> None:
    """Padding must weigh nothing: its logit is so low, or it is a 0 that weighs itself."""
    masked = pointwise is not None and pointwise.mask is not None
    if masked and not all(trace.masked for trace in weights):
        raise Mismatch("its mask is for other cells than those of padding")
    if all((trace.places > 0).all() for trace in weights):
        return
    fills = {fill for value in cells.logit or cells.x for fill in _fills(value)}
    if masked and pointwise is not None:
        fills = {pointwise.fill}
    lowest = {ir.DataType.FLOAT16: -65504.0}.get(cells.x[0].dtype or ir.DataType.FLOAT, NOTHING)
    if not all(fill <= (lowest if cells.logit else 0) for fill in fills):
        raise Mismatch(
            f"the padding takes part in it, as cells of {', '.join(f'{fill:g}' for fill in sorted(fills))}; the "
            "pooling leaves padding out"
        )


def _fills(value: ir.Value) -> Iterator[float]:
    """What a value was padded with on its way."""
    node = producer(value, *MOVES)
    if node is None or base(value) is value:
        return
    for given in moved_by(node):
        yield from _fills(given)
    if node.op_type == "Pad":
        mode = attribute(node, "mode", "constant")
        given_fill = node.inputs[2] if len(node.inputs) > 2 else None
        fill = attribute(node, "value", 0.0) if given_fill is None else scalar(given_fill)
        if mode != "constant" or fill is None:
            raise Mismatch(f"its padding (mode {mode!r}) is not a number of the model")
        yield fill


# --- from numbers to the window


def _window(traces: Sequence[_Trace]) -> Window:
    """The window whose cells these are, at every size."""
    wanted = [_plane(trace) for trace in traces]
    fullest = max(range(len(traces)), key=lambda i: len(wanted[i]))
    kernel, dilation = _kernel(traces[fullest].shape[2:], wanted[fullest])
    sequences = [_sequences(trace.shape[2:], rows) for trace, rows in zip(traces, wanted, strict=True)]
    axes = []
    for axis, (k, d) in enumerate(zip(kernel, dilation, strict=True)):
        lines = [(trace.shape[2 + axis], sequence[axis]) for trace, sequence in zip(traces, sequences, strict=True)]
        axes.append({ceil: next(_lines(k, d, ceil, lines), None) for ceil in (False, True)})
    for ceil in (False, True):
        found = [axis[ceil] for axis in axes]
        if all(line is not None for line in found):
            stride, pad = zip(*found, strict=True)
            window = Window(kernel, stride, pad, dilation, ceil)
            if all(_cells(window, trace.shape) == rows for trace, rows in zip(traces, wanted, strict=True)):
                return window
    raise Mismatch("its cells make no window of fixed kernel, stride, padding and dilation")


def _channels_first(traces: Sequence[_Trace]) -> tuple[tuple[bool, bool], list[_Trace]]:
    """The traces with channels as axis 1 of inputs and outputs, and in which of both they were the last axis."""
    for last in product((False, True), repeat=2):
        try:
            turned = [_turned(trace, *last) for trace in traces]
            for trace in turned:
                _plane(trace)
        except (Mismatch, ValueError):  # or of sizes that do not divide
            continue
        return last, turned
    for trace in traces:
        _plane(trace)  # raises what is wrong with them as they are
    raise Mismatch("its cells are not taken per sample and channel")


def _turned(trace: _Trace, inputs: bool, outputs: bool) -> _Trace:
    shape, places = trace.shape, trace.places
    if inputs:
        shape = (shape[0], shape[-1], *shape[1:-1])
        numbers = np.arange(1, places.dtype.type(np.prod(shape)) + 1)
        renumbered = np.zeros(len(numbers) + 1, np.int64)
        renumbered[np.moveaxis(numbers.reshape(trace.shape), -1, 1).ravel()] = numbers
        places = renumbered[places]
    if outputs:
        places = np.moveaxis(places.reshape(shape[0], -1, shape[1], places.shape[-1]), 2, 1)
    return replace(trace, shape=shape, places=places)


def _plane(trace: _Trace) -> list[tuple[int, ...]]:
    """The cells of each output of the first channel, checked to be those of every other channel."""
    shape, places = trace.shape, trace.places
    if not 3 <= len(shape) <= 5 or places.ndim < 3 or places.shape[:2] != shape[:2] or 0 in shape:
        raise Mismatch("its cells are not taken per sample and channel")
    planes = places.reshape(shape[0] * shape[1], -1, places.shape[-1])
    size = int(np.prod(shape[2:]))
    moved = np.where(planes[0] > 0, planes[0] + size * np.arange(len(planes))[:, None, None], 0)
    if not np.array_equal(planes, moved):
        raise Mismatch("its cells are not taken per sample and channel")
    rows = [tuple(sorted(int(cell) for cell in row if cell)) for row in planes[0]]
    if any(len(set(row)) != len(row) or not row for row in rows):
        raise Mismatch("it takes a cell twice")
    return rows


def _kernel(sizes: tuple[int, ...], rows: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    row = max(rows, key=len)
    places = [np.unique(axis) for axis in np.unravel_index(np.array(row) - 1, sizes)]
    return tuple(len(axis) for axis in places), tuple(int(axis[1] - axis[0]) if len(axis) > 1 else 1 for axis in places)


def _sequences(sizes: tuple[int, ...], rows: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Along each axis, the positions that the windows have there, one after the other."""
    found: list[dict[tuple[int, ...], None]] = [{} for _ in sizes]
    for row in rows:
        for axis, places in enumerate(np.unravel_index(np.array(row) - 1, sizes)):
            found[axis][tuple(int(place) for place in np.unique(places))] = None
    return [list(axis) for axis in found]


def _lines(k: int, d: int, ceil: bool, lines: Sequence[tuple[int, list[tuple[int, ...]]]]) -> Iterator[tuple[int, int]]:
    """Every stride and padding with which windows along one axis have these positions, at every size."""
    longest = max(size for size, _ in lines)
    strides = [k, *(stride for stride in range(1, longest + 1) if stride != k)]
    for stride, pad in product(strides, range((d * (k - 1) + 1) // 2 + 1)):
        window = Window((k,), (stride,), (pad,), (d,), ceil)
        if all(_positions(window, size) == wanted for size, wanted in lines):
            yield stride, pad


def _positions(window: Window, size: int) -> list[tuple[int, ...]]:
    return [tuple(range(size)[inside[0]]) for _, inside in window.windows((size,))]


def _cells(window: Window, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    numbers = np.arange(1, int(np.prod(shape[2:])) + 1).reshape(shape[2:])
    return [tuple(int(cell) for cell in numbers[inside].ravel()) for _, inside in window.windows(shape[2:])]


def _arranged_last(window: Window, traces: Sequence[_Trace]) -> tuple[int, ...] | None:
    """As :func:`_arranged`, of what has channels as its last axis."""
    pairs = [((trace.shape[0], *window.output(trace.shape[2:]), trace.shape[1]), trace.output) for trace in traces]
    if all(pooled == given for pooled, given in pairs):
        return None
    shape = []
    for i, sizes in enumerate(zip(*(given for _, given in pairs), strict=True)):
        kept = all(i < len(pooled) and pooled[i] == given[i] for pooled, given in pairs)
        shape.append(0 if kept else sizes[0] if len(set(sizes)) == 1 else -1)
    if shape.count(-1) > 1:
        raise Mismatch("it gives its output in another arrangement than a pooling does")
    return tuple(shape)


def _arranged(window: Window, traces: Sequence[_Trace]) -> tuple[int, ...] | None:
    """How to reshape the window's output to what the model gave."""
    if all(trace.output == (*trace.shape[:2], *window.output(trace.shape[2:])) for trace in traces):
        return None
    sizes = list(zip(*(trace.output[2:] for trace in traces), strict=True))
    shape = (0, 0, *(1 if set(axis) == {1} else -1 for axis in sizes))
    if shape.count(-1) > 1:
        raise Mismatch("it gives its output in another arrangement than a pooling does")
    return shape
