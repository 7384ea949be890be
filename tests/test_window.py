"""The window: shapes by hand, then against PyTorch's own rule, then the cells that it names."""

import pytest
import torch
from cases import geometries

from onnxpool.errors import ArgumentError
from onnxpool.window import Window


def test_shapes_by_hand():
    assert Window.of(2, 3, 2, 1).output((112, 113)) == (56, 57)
    assert Window.of(1, 2).output((5,)) == (2,)
    assert Window.of(1, 2, ceil_mode=True).output((5,)) == (3,)
    assert Window.of(1, 3, 2, 1, 1, True).output((4,)) == (3,)
    assert Window.of(1, 1, 3, ceil_mode=True).output((5,)) == (2,), "a third window would start past the end"
    assert Window.of(3, (1, 2, 3), 1, 0, (1, 2, 2)).output((4, 4, 5)) == (4, 2, 1)


def test_shapes_are_those_of_pytorch():
    checked = 0
    for window, n in geometries():
        (kernel,), (stride,), (pad,), (dilation,) = window.kernel, window.stride, window.pad, window.dilation
        if pad > kernel // 2:  # max_pool2d measures padding by the undilated kernel
            continue
        x = torch.zeros(1, 1, n, 1)
        try:
            y = torch.nn.functional.max_pool2d(x, (kernel, 1), (stride, 1), (pad, 0), (dilation, 1), window.ceil)
        except RuntimeError:
            assert window.output((n,))[0] < 1
        else:
            assert window.output((n,)) == (y.shape[2],), (window, n)
            checked += 1
    assert checked > 2500


def test_cells_are_the_positions_inside():
    for window, n in geometries():
        try:
            window.check((1, 1, n))
        except ArgumentError:
            continue
        k, s, p, d = (sizes[0] for sizes in (window.kernel, window.stride, window.pad, window.dilation))
        for (position,), (inside,) in window.windows((n,)):
            start = position * s - p
            wanted = [i for i in range(start, start + k * d, d) if 0 <= i < n]
            assert list(range(n))[inside] == wanted
            assert wanted, "check() lets no empty window through"


def test_attributes_round_trip():
    window = Window.of(2, (2, 3), (3, 1), (1, 0), (1, 2), True)
    assert window.attributes() == {
        "kernel_shape": [2, 3],
        "strides": [3, 1],
        "pads": [1, 0, 1, 0],
        "dilations": [1, 2],
        "ceil_mode": 1,
    }
    assert Window.from_attributes(window.attributes()) == window


def test_text():
    assert str(Window.of(2, 3, 2, 1)) == "3x3 s2 p1"
    assert str(Window.of(1, 2, ceil_mode=True)) == "2 ceil"
    assert str(Window.of(3, (1, 2, 2), 1, 0, (1, 2, 1))) == "1x2x2 s1 d1x2x1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2, 0), "kernel_size=(0, 0): each number must be at least 1"),
        ((2, -1), "kernel_size=(-1, -1)"),
        ((2, 2.0), "kernel_size=2.0 must be an int or 2 ints"),
        ((2, True), "kernel_size=True"),
        ((2, (2, 2, 2)), "kernel_size=(2, 2, 2) must be an int or 2 ints"),
        ((2, "33"), "kernel_size='33'"),
        ((2, 2, 0), "stride=(0, 0)"),
        ((2, 2, 2, -1), "padding=(-1, -1): each number must be at least 0"),
        ((2, 3, 2, 2), "padding=(2, 2) is more than half the extent of the window, (3, 3); use at most (1, 1)"),
        ((2, 2, 2, 0, 0), "dilation=(0, 0)"),
        ((2, 2, 2, 0, 1, 1), "ceil_mode=1 is not a bool"),
        ((4, 2), "has 4 axes"),
    ],
)
def test_refused_arguments(arguments, words):
    with pytest.raises(ArgumentError) as caught:
        Window.of(*arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("window", "shape", "words"),
    [
        (Window.of(2, 3), (1, 1, 5), "has 3 axes"),
        (Window.of(2, 3), (1, 1, 2, 5), "too small for 3x3"),
        (Window.of(2, 2, 2, 1), (1, 1, 0, 4), "too small"),
        (Window.of(1, 2, 1, 1, 2), (1, 1, 1), "without any cell"),
    ],
)
def test_refused_shapes(window, shape, words):
    with pytest.raises(ArgumentError, match=words):
        window.check(shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pads": [1, 1, 0, 0]}, "differ at begin and end"),
        ({"ceil_mode": 2}, "ceil_mode=2"),
        ({"extra": 1}, "['extra'] are unknown"),
        ({"strides": None}, "['strides'] are missing"),
        ({"strides": [2]}, "stride=(2,) has 1 numbers; give one per axis, 2"),
    ],
)
def test_refused_attributes(change, words):
    attributes = {**Window.of(2, 3, 2, 1).attributes(), **change}
    with pytest.raises(ArgumentError) as caught:
        Window.from_attributes({name: value for name, value in attributes.items() if value is not None})
    assert words in str(caught.value)
