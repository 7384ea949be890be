"""Which window an unfolding, slicing or reshaping makes: found by moving numbered cells instead of values.

Between a tensor and the cells of its windows stand nodes that only move values (Slice, Gather, Reshape, ...), spelled
in as many ways as there are exporters. So they are not read but run: on a tensor that holds at each place that place's
number, at several sizes where axes may change. What arrives says which cells make which output, and the one
:class:`~onnxpool.window.Window` that has the same cells in every case is the window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import onnx_ir as ir

from onnxpool.lifting import logits
from onnxpool.lifting.logits import Pointwise
from onnxpool.lifting.match import Cells
from onnxpool.lifting.sums import Mismatch, Unrelated
from onnxpool.lifting.tracing import Trace, trace_cells
from onnxpool.lifting.values import MOVES, attribute, base, depends, moved_by, producer, scalar, sizes_of
from onnxpool.window import Window

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


def view(model: ir.Model, cells: Cells) -> View:
    """The window over which ``cells`` were taken.

    Raises :class:`Mismatch` where they are not windows, take padding as values, or depend on sizes that may change, and
    :class:`Unrelated` where moreover the weights have nothing to do with the values.
    """
    try:
        return _view(model, cells)
    except Mismatch as reason:
        if cells.logit and not depends(cells.logit[0], base(cells.x[0])):  # as in attention
            raise Unrelated(str(reason)) from reason
        raise


def _view(model: ir.Model, cells: Cells) -> View:
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
    traces = [trace_cells(model, group, cells, mask) for group in groups]
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


# --- what must fit


def _weights_fit(values: Sequence[Trace], weights: Sequence[Trace]) -> bool:
    """Whether weights of one channel are for all; :class:`Mismatch` where they are not those of the same cells."""
    one = all(trace.shape[1] == 1 for trace in weights) and any(trace.shape[1] != 1 for trace in values)
    if len(values) != len(weights) or not all(_alike(*pair, one) for pair in zip(values, weights, strict=True)):
        raise Mismatch("values and weights are taken from different cells")
    return one


def _alike(values: Trace, weights: Trace, one: bool) -> bool:
    if not one:
        return values.shape == weights.shape and np.array_equal(values.places, weights.places)
    first = values.shape[0], 1, *values.shape[2:]
    offset = (np.arange(first[0]) * (values.shape[1] - 1) * np.prod(first[2:])).reshape(-1, *[1] * 3)
    places = values.places.reshape(*values.shape[:2], -1, values.places.shape[-1])[:, :1]
    moved = np.where(places > 0, places - offset, 0)
    return weights.shape == first and np.array_equal(moved.ravel(), weights.places.ravel())


def _check_padding(cells: Cells, weights: Sequence[Trace], pointwise: Pointwise | None) -> None:
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


def _window(traces: Sequence[Trace]) -> Window:
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


def _channels_first(traces: Sequence[Trace]) -> tuple[tuple[bool, bool], list[Trace]]:
    """In which of both, inputs and outputs, channels are the last axis; and the traces with them as axis 1."""
    for last in ((False, False), (False, True), (True, False), (True, True)):
        try:
            turned = [_turned(trace, *last) for trace in traces]
            for trace in turned:
                _plane(trace)
        except Mismatch:
            continue
        return last, turned
    for trace in traces:
        _plane(trace)  # raises what is wrong with them as they are
    raise Mismatch("its cells are not taken per sample and channel")


def _turned(trace: Trace, inputs: bool, outputs: bool) -> Trace:
    shape, places = trace.shape, trace.places
    if len(shape) < 3 or 0 in shape:
        raise Mismatch("its cells are not taken per sample and channel")
    if inputs:
        shape = (shape[0], shape[-1], *shape[1:-1])
        numbers = np.arange(1, places.dtype.type(np.prod(shape)) + 1)
        renumbered = np.zeros(len(numbers) + 1, np.int64)
        renumbered[np.moveaxis(numbers.reshape(trace.shape), -1, 1).ravel()] = numbers
        places = renumbered[places]
    if outputs:
        if places.size % (shape[0] * shape[1] * places.shape[-1]):
            raise Mismatch("its cells are not taken per sample and channel")
        places = np.moveaxis(places.reshape(shape[0], -1, shape[1], places.shape[-1]), 2, 1)
    return replace(trace, shape=shape, places=places)


def _plane(trace: Trace) -> list[tuple[int, ...]]:
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


def _arranged_last(window: Window, traces: Sequence[Trace]) -> tuple[int, ...] | None:
    """As :func:`_arranged`, of what has channels as its last axis."""
    known = {1, *(trace.shape[1] for trace in traces)}
    fixed = len({trace.shape for trace in traces}) == 1
    pairs = [((trace.shape[0], *window.output(trace.shape[2:]), trace.shape[1]), trace.output) for trace in traces]
    if all(pooled == given for pooled, given in pairs):
        return None
    shape = []
    for i, sizes in enumerate(zip(*(given for _, given in pairs), strict=True)):
        kept = all(i < len(pooled) and pooled[i] == given[i] for pooled, given in pairs)
        same = len(set(sizes)) == 1 and (fixed or sizes[0] in known)
        shape.append(0 if kept else sizes[0] if same else -1)
    if shape.count(-1) > 1:
        raise Mismatch("it gives its output in another arrangement than a pooling does")
    return tuple(shape)


def _arranged(window: Window, traces: Sequence[Trace]) -> tuple[int, ...] | None:
    """How to reshape the window's output to what the model gave."""
    if all(trace.output == (*trace.shape[:2], *window.output(trace.shape[2:])) for trace in traces):
        return None
    sizes = list(zip(*(trace.output[2:] for trace in traces), strict=True))
    shape = (0, 0, *(1 if set(axis) == {1} else -1 for axis in sizes))
    if shape.count(-1) > 1:
        raise Mismatch("it gives its output in another arrangement than a pooling does")
    return shape
