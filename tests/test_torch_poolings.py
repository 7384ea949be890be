"""torch.nn's own poolings, in anybody's module: exported with axes that may change, and right at sizes not traced."""

import itertools
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from exported import SPATIAL, operators
from torch import nn

import onnxpool
from onnxpool.errors import ExportError
from onnxpool.graph.shapes import size_of
from onnxpool.network.capture import captured
from onnxpool.pools import adaptive_average, adaptive_max, average
from onnxpool.pools import max as maximum
from onnxpool.pools._method import over_windows
from onnxpool.window import Window

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import fuzz_export

Array = np.ndarray[Any, np.dtype[np.float64]]
TRACED = {1: (2, 3, 12), 2: (2, 3, 12, 13), 3: (2, 3, 6, 7, 8)}
OTHERS = {
    1: [(1, 3, 11), (3, 3, 26), (2, 3, 9)],
    2: [(1, 3, 11, 16), (3, 3, 9, 9), (2, 3, 21, 8)],
    3: [(1, 3, 7, 9, 6), (3, 3, 5, 5, 11), (2, 3, 8, 6, 7)],
}


class Calls(nn.Module):
    """Anybody's module: it calls functions, or layers of its own."""

    def __init__(self, *calls: Callable[..., Any]) -> None:
        super().__init__()
        self.calls = calls
        self.layers = nn.ModuleList(call for call in calls if isinstance(call, nn.Module))

    def forward(self, x: torch.Tensor) -> Any:
        return [call(x) for call in self.calls]


def exported(rank: int, *calls: Callable[..., Any], dtype: torch.dtype = torch.float32) -> ir.Model:
    """One model of all calls, traced at one size, every axis but that of channels free."""
    axes = {0: "batch", **dict(enumerate(SPATIAL[rank], start=2))}
    x = torch.zeros(TRACED[rank], dtype=dtype)
    return onnxpool.export(Calls(*calls).eval(), (x,), dynamic_shapes=(axes,), golden=False, check=False)


def values(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.manual_seed(seed)).to(dtype)


def run(model: ir.Model, x: torch.Tensor) -> list[Any]:
    return list(onnxpool.load(model, kernels="off", threads=1).run({"x": x.numpy()}).values())


def flat(y: Any) -> list[torch.Tensor]:
    return [y] if isinstance(y, torch.Tensor) else [tensor for part in y for tensor in flat(part)]


def assert_right(rank: int, *calls: Callable[..., Any]) -> ir.Model:
    """ONNX Runtime and PyTorch in float64 agree at sizes that were not traced."""
    model = exported(rank, *calls)
    for seed, shape in enumerate(OTHERS[rank]):
        x = values(shape, seed)
        for y, right in zip(run(model, x), flat(Calls(*calls)(x.double())), strict=True):
            np.testing.assert_allclose(y, right, rtol=3e-6, atol=3e-6)
    return model


# --- the table: 52 poolings, and their formulas in float64


@dataclass(frozen=True)
class Case:
    """A pooling, what it computes, by the plain formula, and the number of spatial axes."""

    name: str
    rank: int
    pool: Callable[..., Any]
    formula: Callable[[Array], Any]


def of_max(window: Window) -> Callable[[Array], Array]:
    return lambda x: maximum.reference(window, x)


def of_max_with_indices(window: Window) -> Callable[[Array], tuple[Array, Any]]:
    """The maximum and where in its plane it first stands, in row-major order."""

    def formula(x: Array) -> tuple[Array, Any]:
        y = maximum.reference(window, x)
        plane, where = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:]), np.empty(y.shape, np.int64)
        for position, inside in window.windows(x.shape[2:]):
            places, cells = plane[inside].ravel(), x[(..., *inside)].reshape(*x.shape[:2], -1)
            where[(..., *position)] = places[cells.argmax(-1)]
        return y, where

    return formula


def of_average(window: Window, *options: Any) -> Callable[[Array], Array]:
    return lambda x: average.reference(window, x, *options)


def of_lp(window: Window, p: float) -> Callable[[Array], Array]:
    """PyTorch's: without a magnitude, and a window that overhangs the end counts as if it were whole."""

    def root(cells: Array) -> Array:
        total: Array = (cells**p).mean(-1) * math.prod(window.kernel)
        return total ** (1 / p)

    return lambda x: over_windows(root, window, x)


def of_adaptive_max_with_indices(*sizes: int | None) -> Callable[[Array], tuple[Array, Any]]:
    def formula(x: Array) -> tuple[Array, Any]:
        y = adaptive_max.reference(x, sizes)
        plane, where = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:]), np.empty(y.shape, np.int64)
        for position in itertools.product(*map(range, y.shape[2:])):
            axes = zip(position, x.shape[2:], y.shape[2:], strict=True)
            inside = tuple(slice(i * n // o, -(-(i + 1) * n // o)) for i, n, o in axes)
            cells = x[(..., *inside)].reshape(*x.shape[:2], -1)
            where[(..., *position)] = plane[inside].ravel()[cells.argmax(-1)]
        return y, where

    return formula


def of_unpool(window: Window) -> Callable[[Array], Array]:
    """Each maximum where it stood, zeros elsewhere: the output is as large as the input."""

    def formula(x: Array) -> Array:
        y, where = of_max_with_indices(window)(x)
        full = np.zeros((*x.shape[:2], math.prod(x.shape[2:])))
        for n, c in np.ndindex(x.shape[:2]):
            full[n, c, where[n, c].ravel()] = y[n, c].ravel()
        return full.reshape(x.shape)

    return formula


def unpooled(rank: int, *window: Any, same: bool) -> Callable[[Any], Any]:
    pool, unpool = (
        getattr(nn, f"MaxPool{rank}d")(*window, return_indices=True),
        getattr(nn, f"MaxUnpool{rank}d")(*window),
    )
    return lambda x: unpool(*pool(x), output_size=x.shape if same else None)


def gem(x: torch.Tensor) -> torch.Tensor:
    """As published: Radenovic et al., 2018."""
    return F.avg_pool2d(x.clamp(min=1e-6).pow(3.0), (x.size(-2), x.size(-1))).pow(1.0 / 3.0)


W = Window.of
CASES = [
    Case("max 1d", 1, nn.MaxPool1d(3, 2, 1), of_max(W(1, 3, 2, 1))),
    Case("max 1d, dilated, indices", 1, nn.MaxPool1d(2, 2, 1, 3, True), of_max_with_indices(W(1, 2, 2, 1, 3))),
    Case("max 2d", 2, nn.MaxPool2d(3, 2, 1), of_max(W(2, 3, 2, 1))),
    Case("max 2d, ceil", 2, nn.MaxPool2d(2, ceil_mode=True), of_max(W(2, 2, ceil_mode=True))),
    Case(
        "max 2d, all arguments",
        2,
        nn.MaxPool2d((2, 3), (3, 1), (1, 0), (1, 2), True),
        of_max_with_indices(W(2, (2, 3), (3, 1), (1, 0), (1, 2))),
    ),
    Case(
        "max 2d, ceil, indices",
        2,
        nn.MaxPool2d(3, 2, 1, return_indices=True, ceil_mode=True),
        of_max_with_indices(W(2, 3, 2, 1, 1, True)),
    ),
    Case("max 3d", 3, nn.MaxPool3d(2), of_max(W(3, 2))),
    Case(
        "max 3d, ceil, indices",
        3,
        nn.MaxPool3d((1, 3, 2), (1, 2, 2), (0, 1, 1), 1, True, True),
        of_max_with_indices(W(3, (1, 3, 2), (1, 2, 2), (0, 1, 1), 1, True)),
    ),
    Case("F.max_pool2d", 2, lambda x: F.max_pool2d(input=x, kernel_size=3, padding=(1, 0)), of_max(W(2, 3, 3, (1, 0)))),
    Case("F.max_pool2d_with_indices", 2, lambda x: F.max_pool2d_with_indices(x, 2), of_max_with_indices(W(2, 2))),
    Case("torch.max_pool2d", 2, lambda x: torch.max_pool2d(x, [2], []), of_max(W(2, 2))),
    Case("max 2d, no batch", 2, lambda x: nn.MaxPool2d(2)(x[0]), lambda x: of_max(W(2, 2))(x[:1])[0]),
    Case("average 1d", 1, nn.AvgPool1d(3, 2, 1), of_average(W(1, 3, 2, 1))),
    Case("average 1d, no pad", 1, nn.AvgPool1d(4, 3, 2, True, False), of_average(W(1, 4, 3, 2, 1, True), False)),
    Case("average 2d", 2, nn.AvgPool2d(3, 2, 1), of_average(W(2, 3, 2, 1))),
    Case("average 2d, no pad", 2, nn.AvgPool2d(3, 2, 1, False, False), of_average(W(2, 3, 2, 1), False)),
    Case("average 2d, ceil", 2, nn.AvgPool2d(3, 3, 1, True), of_average(W(2, 3, 3, 1, 1, True))),
    Case("average 2d, divisor", 2, nn.AvgPool2d(3, 2, divisor_override=2), of_average(W(2, 3, 2), True, 2)),
    Case(
        "average 2d, all arguments",
        2,
        nn.AvgPool2d((2, 3), (1, 2), 1, True, False),
        of_average(W(2, (2, 3), (1, 2), 1, 1, True), False),
    ),
    Case("average 3d", 3, nn.AvgPool3d(2), of_average(W(3, 2))),
    Case("average 3d, no pad", 3, nn.AvgPool3d(3, 2, 1, True, False), of_average(W(3, 3, 2, 1, 1, True), False)),
    Case("average 3d, divisor", 3, nn.AvgPool3d(2, divisor_override=3), of_average(W(3, 2), True, 3)),
    Case("aten.avg_pool2d", 2, lambda x: torch.ops.aten.avg_pool2d(x, [2, 2]), of_average(W(2, 2))),
    Case("average 1d, no batch", 1, lambda x: F.avg_pool1d(x[0], (2,)), lambda x: of_average(W(1, 2))(x[:1])[0]),
    Case("Lp 1d", 1, nn.LPPool1d(2, 3, 2), of_lp(W(1, 3, 2), 2)),
    Case("Lp 2d", 2, nn.LPPool2d(2, 3), of_lp(W(2, 3), 2)),
    Case("Lp 2d, ceil", 2, nn.LPPool2d(4, 3, 2, True), of_lp(W(2, 3, 2, 0, 1, True), 4)),
    Case("Lp 2d, odd", 2, lambda x: F.lp_pool2d(x + 4, 3, (2, 3)), lambda x: of_lp(W(2, (2, 3)), 3)(x + 4)),
    Case("Lp 2d, fraction", 2, lambda x: F.lp_pool2d(x.abs(), 2.5, 2), lambda x: of_lp(W(2, 2), 2.5)(np.abs(x))),
    Case("Lp 2d, infinite", 2, nn.LPPool2d(math.inf, 2), lambda x: of_max(W(2, 2))(np.abs(x))),
    Case("Lp 3d", 3, nn.LPPool3d(2, 2), of_lp(W(3, 2), 2)),
    Case("adaptive average 1d", 1, nn.AdaptiveAvgPool1d(3), lambda x: adaptive_average.reference(x, (3,))),
    Case("adaptive average 1d to 1", 1, nn.AdaptiveAvgPool1d(1), lambda x: x.mean(-1, keepdims=True)),
    Case("adaptive average 2d", 2, nn.AdaptiveAvgPool2d(6), lambda x: adaptive_average.reference(x, (6, 6))),
    Case("adaptive average 2d, None", 2, nn.AdaptiveAvgPool2d((None, 1)), lambda x: x.mean(-1, keepdims=True)),
    Case("adaptive average 2d, two", 2, nn.AdaptiveAvgPool2d((3, 5)), lambda x: adaptive_average.reference(x, (3, 5))),
    Case("adaptive average 3d", 3, nn.AdaptiveAvgPool3d(3), lambda x: adaptive_average.reference(x, (3, 3, 3))),
    Case(
        "torch.adaptive_avg_pool1d",
        1,
        lambda x: torch.adaptive_avg_pool1d(x, 4),
        lambda x: adaptive_average.reference(x, (4,)),
    ),
    Case("adaptive max 1d", 1, nn.AdaptiveMaxPool1d(3), lambda x: adaptive_max.reference(x, (3,))),
    Case("adaptive max 1d, indices", 1, nn.AdaptiveMaxPool1d(5, True), of_adaptive_max_with_indices(5)),
    Case("adaptive max 2d to 1", 2, nn.AdaptiveMaxPool2d(1), lambda x: x.max((2, 3), keepdims=True)),
    Case("adaptive max 2d", 2, nn.AdaptiveMaxPool2d(3), lambda x: adaptive_max.reference(x, (3, 3))),
    Case("adaptive max 2d, indices", 2, nn.AdaptiveMaxPool2d((None, 4), True), of_adaptive_max_with_indices(None, 4)),
    Case(
        "adaptive max 3d, indices",
        3,
        nn.AdaptiveMaxPool3d((2, None, 3), True),
        of_adaptive_max_with_indices(2, None, 3),
    ),
    Case("unpool 1d", 1, unpooled(1, 3, 2, 1, same=True), of_unpool(W(1, 3, 2, 1))),
    Case("unpool 2d", 2, unpooled(2, 2, same=True), of_unpool(W(2, 2))),
    Case("unpool 2d, usual size", 2, unpooled(2, 3, 1, same=False), of_unpool(W(2, 3, 1))),
    Case("unpool 3d", 3, unpooled(3, 2, same=True), of_unpool(W(3, 2))),
    Case(
        "GeM",
        2,
        gem,
        lambda x: (np.maximum(x, 1e-6) ** 3).mean((2, 3), keepdims=True) ** (1 / 3),
    ),
    Case("max of the whole", 2, lambda x: F.max_pool2d(x, x.shape[2:]), lambda x: x.max((2, 3), keepdims=True)),
]
REFUSED = [nn.FractionalMaxPool2d(2, output_size=3), nn.FractionalMaxPool3d(2, output_ratio=0.5)]


@pytest.fixture(scope="module")
def models() -> dict[int, tuple[list[Case], ir.Model]]:
    """All cases of each rank, in one model."""
    of_rank = {rank: [case for case in CASES if case.rank == rank] for rank in (1, 2, 3)}
    return {rank: (cases, exported(rank, *(case.pool for case in cases))) for rank, cases in of_rank.items()}


def test_there_are_52():
    assert (len(CASES), len(REFUSED)) == (50, 2)
    assert len({case.name for case in CASES}) == 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_right_at_other_sizes(case, models):
    cases, model = models[case.rank]
    sizes = [len(flat(other.pool(torch.zeros(TRACED[case.rank])))) for other in cases]
    place = sum(sizes[: cases.index(case)])
    mine = range(place, place + sizes[cases.index(case)])
    assert all(shape[0] != TRACED[case.rank][0] or shape != TRACED[case.rank] for shape in OTHERS[case.rank])
    forms = [fuzz_export.part(onnxpool.to_form(model, form), mine) for form in ("function", "standard")]
    for seed, shape in enumerate(OTHERS[case.rank]):
        x = values(shape, seed)
        right = case.formula(x.double().numpy())
        for session in forms:
            for y, truth in zip(session.run({"x": x.numpy()}).values(), _tuple(right), strict=True):
                assert y.shape == truth.shape
                if truth.dtype == np.int64:
                    np.testing.assert_array_equal(y, truth)
                else:
                    np.testing.assert_allclose(y, truth, rtol=3e-6, atol=3e-6)


def _tuple(y: Any) -> tuple[Any, ...]:
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_formula_is_that_of_pytorch(case):
    for seed, shape in enumerate(OTHERS[case.rank]):
        x = values(shape, seed).double()
        for y, right in zip(flat(case.pool(x)), _tuple(case.formula(x.numpy())), strict=True):
            np.testing.assert_allclose(y, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", REFUSED, ids=str)
def test_what_draws_at_random_is_refused(layer):
    module = nn.Sequential(nn.Identity(), layer)
    x = torch.zeros(1, 2, *[8] * (3 if isinstance(layer, nn.FractionalMaxPool3d) else 2))
    with pytest.raises(
        ExportError, match=r"fractional_max_pool\dd in layer '1'.*draws its windows at random.*Adaptive"
    ):
        onnxpool.export(module, (x,))


def test_declared_sizes_are_those_that_come_out(models):
    """Stock PyTorch declares 4 for 5 after AvgPool2d(3, 3, 1, ceil_mode=True) of 13."""
    for rank, (_, model) in models.items():
        for shape in OTHERS[rank]:
            sizes = dict(zip(("batch", *SPATIAL[rank]), (shape[0], *shape[2:]), strict=True))
            for y, output in zip(run(model, torch.zeros(shape)), model.graph.outputs, strict=True):
                declared = [size_of(axis if isinstance(axis, int) else str(axis.value), sizes) for axis in output.shape]
                assert [size for size in declared if size is not None] == list(y.shape)


# --- as plain as it can be


@pytest.mark.parametrize(
    ("pool", "made"),
    [
        (nn.MaxPool2d(3, 2, 1), ["MaxPool"]),
        (nn.AvgPool2d(3, 2, 1, True, False), ["AveragePool"]),
        (nn.AdaptiveAvgPool2d(1), ["GlobalAveragePool"]),
        (nn.AdaptiveMaxPool2d(1), ["GlobalMaxPool"]),
        (lambda x: F.avg_pool2d(x, x.shape[2:]), ["GlobalAveragePool"]),
        (lambda x: F.max_pool2d(x, (x.size(2), x.size(3))), ["GlobalMaxPool"]),
        (lambda x: F.avg_pool2d(x, (x.size(2), 1)), ["ReduceMean"]),
    ],
)
def test_plain_poolings_are_plain_operators(pool, made):
    assert operators(exported(2, pool)) == made


# --- sizes that the module computes


def pyramid(x: torch.Tensor) -> torch.Tensor:
    """Spatial pyramid pooling (He et al., 2014), as it is often published."""
    levels, (height, width) = [], x.shape[2:]
    for n in (1, 2, 3):
        window = int(math.ceil(height / n)), int(math.ceil(width / n))  # noqa: RUF046
        padding = int((window[0] * n - height + 1) / 2), int((window[1] * n - width + 1) / 2)
        levels.append(nn.MaxPool2d(window, stride=window, padding=padding)(x).flatten(1))
    return torch.cat(levels, 1)


def pyramid_head(x: torch.Tensor) -> torch.Tensor:
    """PSPNet's (Zhao et al., 2017)."""
    levels = [F.adaptive_avg_pool2d(x, size) for size in (1, 2, 3, 6)]
    return torch.cat([F.interpolate(y, size=x.shape[2:], mode="bilinear") for y in levels], 1)


def same(pool: Callable[..., Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """TensorFlow's "SAME" padding, around a window of 3 with a stride of 2."""

    def padded(x: torch.Tensor) -> torch.Tensor:
        more = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[2:]]
        return pool(F.pad(x, (more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2)), 3, 2)

    return padded


SIZED: list[Callable[..., Any]] = [
    pyramid,
    pyramid_head,
    same(F.max_pool2d),
    same(F.avg_pool2d),
    lambda x: F.avg_pool2d(x, (x.shape[2] // 2, 3), padding=1, count_include_pad=False),
    lambda x: F.avg_pool2d(x, (x.shape[2] // 2, 3), (2, x.shape[3] // 4), 1, True, divisor_override=x.shape[2]),
    lambda x: F.max_pool2d(x, 3, stride=(x.shape[2] // 4, x.shape[3] // 3), ceil_mode=True),
    lambda x: F.max_pool2d(x, (x.shape[2], 2), return_indices=True),
    lambda x: F.max_pool2d(x, (x.shape[2] // 2, x.shape[3] // 3), 2, (1, 0), (1, 2), return_indices=True),
    lambda x: F.lp_pool2d(x, 2, (x.shape[2] // 2, x.shape[3]), ceil_mode=True),
    lambda x: F.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] + 3)),
    lambda x: F.adaptive_max_pool2d(x, x[:, :, ::2].shape[2:]),
    lambda x: F.adaptive_max_pool2d(x, (x.shape[3] // 2, None), return_indices=True),
    lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 6), size=x.shape[2:]) + x,
]


def test_sizes_from_shapes():
    model = assert_right(2, *SIZED)
    assert {node.domain for node in model.graph} == {""}


NUMBERS: list[Callable[[Any], Any]] = [
    lambda n: -(-n // 2),
    lambda n: n // 3,
    lambda n: 100 - n // 2,
    lambda n: n % 3 + 1,
    lambda n: -n % 5 + 1,
    lambda n: (n - 40) // 3 + 20,
    lambda n: math.ceil(n / 3),
    lambda n: math.floor(n * 0.29 * 100),  # 0.29 * 100 is just below 29
    lambda n: max(math.floor(-n / 2) + 30, 1),
    lambda n: math.trunc(n / 2.5),
    lambda n: round(n * 0.5),  # halves go to the even number
    lambda n: int(n / 2),
    lambda n: int(float(n) * 0.7),
    lambda n: int(n) + 1,
    lambda n: max(n - 12, 3),
    lambda n: min(n // 2, 7),
    lambda n: n**2 // 7,
]


def test_sizes_are_computed_as_python_does():
    """Each gives the length of an output; stock PyTorch makes 3 of -(-7 // 2)."""

    def sizes(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.adaptive_avg_pool1d(x, number(x.shape[2])) for number in NUMBERS]

    model = exported(1, sizes)
    session = onnxpool.load(model, kernels="off", threads=1)
    for n in (7, 8, 9, 10, 13, 26, 31):
        lengths = [y.shape[2] for y in session.run({"x": np.zeros((1, 3, n), np.float32)}).values()]
        assert lengths == [number(n) for number in NUMBERS]


def test_names_lent_to_the_code_are_taken_back():
    exported(2, pyramid)
    assert "int" not in globals()
    assert int(torch.tensor(3)) == 3
    assert "LIBRARIES" not in torch.SymInt.__int__.__code__.co_names


# --- functions that pool inside


def of_local_response_norm(size: int, alpha: float, beta: float, k: float) -> Callable[[Array], Array]:
    def formula(x: Array) -> Array:
        total = np.zeros_like(x)
        for c in range(x.shape[1]):
            total[:, c] = (x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1] ** 2).sum(1)
        return x / (k + alpha * total / size) ** beta

    return formula


def of_area(*sizes: Callable[[int], int]) -> Callable[[Array], Array]:
    return lambda x: adaptive_average.reference(x, [size(n) for size, n in zip(sizes, x.shape[2:], strict=True)])


AREA = nn.Upsample(size=(5, 30), mode="area")
INSIDE: list[tuple[int, Callable[..., Any], Callable[[Array], Array]]] = [
    (1, nn.LocalResponseNorm(2, 2.0, 0.5, 0.1), of_local_response_norm(2, 2.0, 0.5, 0.1)),
    (2, nn.LocalResponseNorm(3), of_local_response_norm(3, 1e-4, 0.75, 1.0)),
    (2, nn.LocalResponseNorm(2, 2.0, 0.5, 0.1), of_local_response_norm(2, 2.0, 0.5, 0.1)),
    (3, nn.LocalResponseNorm(5, 2.0, 0.5, 0.1), of_local_response_norm(5, 2.0, 0.5, 0.1)),
    (2, AREA, of_area(lambda _: 5, lambda _: 30)),
    (2, lambda x: F.interpolate(x, scale_factor=(0.5, 2.0), mode="area"), of_area(lambda n: n // 2, lambda n: 2 * n)),
    (1, lambda x: F.interpolate(x, [x.shape[2] // 3], mode="area"), of_area(lambda n: n // 3)),
    (3, lambda x: F.interpolate(x, 4, mode="area"), of_area(*[lambda _: 4] * 3)),
]


@pytest.mark.parametrize(("rank", "pool", "formula"), INSIDE)
def test_functions_that_pool_inside(rank, pool, formula):
    model = exported(rank, pool)
    for seed, shape in enumerate(OTHERS[rank]):
        x = values(shape, seed)
        np.testing.assert_allclose(run(model, x)[0], formula(x.double().numpy()), rtol=3e-6, atol=3e-6)


def test_other_interpolation_stays_pytorch_s():
    assert operators(exported(2, nn.Upsample(scale_factor=2, mode="nearest"))) == ["Resize"]


# --- what stock PyTorch does silently


def stock_is_right(rank: int, pool: Callable[..., Any]) -> bool:
    """Whether PyTorch's own exporter gives a model that is right at every size; False also where it gives none."""
    axes = {0: "batch", **dict(enumerate(SPATIAL[rank], start=2))}
    try:
        program = torch.onnx.export(
            Calls(pool).eval(), (torch.zeros(TRACED[rank]),), dynamo=True, dynamic_shapes=(axes,), verbose=False
        )
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        for seed, shape in enumerate(OTHERS[rank]):
            x = values(shape, seed)
            for y, right in zip(session.run(None, {"x": x.numpy()}), flat(pool(x)), strict=True):
                np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)
    except Exception:  # whatever PyTorch, ONNX Runtime or the comparison says
        return False
    return True


@pytest.mark.parametrize(
    ("rank", "pool"),
    [
        (1, nn.AdaptiveAvgPool1d(3)),
        (2, nn.AvgPool2d(3, 2, divisor_override=2)),
        (3, nn.AvgPool3d(2, divisor_override=3)),
        (2, nn.AdaptiveAvgPool2d((None, 1))),
        (2, nn.AdaptiveAvgPool2d(6)),
        (2, nn.AdaptiveMaxPool2d(3)),
        (2, gem),
        (2, lambda x: F.max_pool2d(x, (math.ceil(x.shape[2] / 2), math.ceil(x.shape[3] / 2)))),
        (2, same(F.max_pool2d)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_where_stock_pytorch_is_wrong(rank, pool):
    assert not stock_is_right(rank, pool), "PyTorch has learned this: docs/how-to/torch-nn.md may say so"
    assert_right(rank, pool)


# --- types, refusals, and other ways to call


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(dtype):
    texts = [
        "MaxPool2d(3, 2, 1, return_indices=True)",
        "AvgPool2d(3, 2, 1, True, False)",
        "AvgPool2d(2, None, 1, False, True, 3)",
    ]
    texts += [
        "LPPool2d(2, 3, 2, True)",
        "LPPool2d(3, 2)",
        "LPPool2d(inf, 2)",
        "LPPool2d(-inf, 2)",
        "AdaptiveAvgPool2d((3, 4))",
        "AdaptiveMaxPool2d(3, True)",
    ]
    cases = [fuzz_export.Case(2, f"nn.{text}") for text in texts]
    cases += [fuzz_export.Case(2, "Unpooled(2, True, 2)"), fuzz_export.Case(2, "Sized('avg_pool', [2, 3])")]
    tally = fuzz_export.Tally()
    faults = list(fuzz_export.check(np.random.default_rng(3), cases, dtype, True, tally))
    assert faults == []
    assert (tally.right, tally.compared) == (len(cases), 3 * len(cases))


def test_whole_numbers_are_compared_exactly():
    """float32 and float64 do not tell these numbers apart."""
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1, return_indices=True)]
    model = exported(2, *pools, dtype=torch.int64)
    x = 2**60 + torch.randint(0, 9, OTHERS[2][0], generator=torch.manual_seed(0))
    for y, right in zip(run(model, x), flat(Calls(*pools)(x)), strict=True):
        np.testing.assert_array_equal(y, right)


def test_large_and_small_magnitudes_in_lp():
    """Powers beyond float32, where PyTorch's own float32 gives infinity and 0."""
    model = exported(2, nn.LPPool2d(4, 2), nn.LPPool2d(3, 2), lambda x: F.lp_pool2d(x, 2, x.shape[2:]))
    for scale in (1e-20, 1e20):
        x = values(OTHERS[2][0], 1).abs() * scale
        right = [F.lp_pool2d(x.double(), p, k) for p, k in ((4, 2), (3, 2), (2, x.shape[2:]))]
        for y, truth in zip(run(model, x), right, strict=True):
            np.testing.assert_allclose(y, truth, rtol=3e-6)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (nn.MaxPool2d(30), "too small for 30x30"),
        (lambda x: F.avg_pool2d(x, 2, padding=2), "padding=(2, 2) is more than half"),
        (lambda x: F.max_pool1d(x, 2), "1d pooling takes (N, C, *spatial)"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(30, 3)), "output_size="),
        (nn.MaxPool2d((2, 2, 2)), "kernel_size=(2, 2, 2) must be an int or 2 ints"),
        (nn.AvgPool2d(2, divisor_override=0), "divisor_override=0 must not be 0"),
        (nn.LPPool2d(0, 2), "norm_type=0"),
    ],
)
def test_what_pytorch_refuses_is_refused(pool, words):
    with pytest.raises(Exception):  # noqa: B017, PT011 - PyTorch raises all kinds
        pool(torch.zeros(TRACED[2]))
    with pytest.raises(ExportError, match="does not run on the example"):
        exported(2, pool)
    with pytest.raises(ExportError, match=re.escape(words)):  # where nothing has run it before
        captured(Calls(pool), (torch.zeros(TRACED[2]),), None, None)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (lambda x: F.avg_pool2d(x.long(), 2), "dtype torch.int64"),
        (lambda x: F.adaptive_avg_pool2d(x, (0, 1)), "output_size=(0, 1) must be positive"),
    ],
)
def test_what_has_no_use_is_refused(pool, words):
    with pytest.raises(ExportError, match=re.escape(words)):
        exported(2, pool)


def test_poolings_that_cannot_be_seen_are_refused():
    def branching(x: torch.Tensor) -> torch.Tensor:
        branches = (lambda x: F.avg_pool2d(x, 2).sum(), lambda x: F.max_pool2d(x, 2).sum())
        return torch.cond(x.sum() > 0, *branches, (x,))

    with pytest.raises(ExportError, match=r"pool2d.* where export cannot follow it"):
        exported(2, branching)


def test_random_poolings(capsys):
    """A slice of tools/fuzz_export."""
    tally = fuzz_export.fuzz(60, 5)
    assert tally.wrong == 0, capsys.readouterr().out
    assert tally.right >= 40
    assert tally.compared >= 100
