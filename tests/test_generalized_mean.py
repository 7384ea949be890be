"""Generalised mean pooling in PyTorch, by its reference and in ONNX Runtime: numbers, gradients, export."""

import math

import numpy as np
import pytest
import torch
from cases import inputs
from exported import TOLERANCE, assert_exports, exported, extremes, operators, ran

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.generalized_mean import generalized_mean_pool, reference
from onnxpool.window import Window

SQUARE = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
HAND = [(1.0, 2.5), (2.0, 7.5**0.5), (3.0, 25 ** (1 / 3)), (0.5, (3 + 2**0.5 + 3**0.5) ** 2 / 16), (1e6, 4)]


@pytest.mark.parametrize(("p", "y"), HAND)
def test_numbers_by_hand(p, y):
    assert reference(SQUARE, p).item() == pytest.approx(y, rel=2e-6 if p == 1e6 else 1e-14)
    assert nn.GeM(p).double()(torch.from_numpy(SQUARE)).item() == pytest.approx(y, rel=2e-6 if p == 1e6 else 1e-14)
    assert nn.GeM2d(p, learn_p=False)(torch.from_numpy(SQUARE)).item() == pytest.approx(y, rel=2e-6)


def test_what_is_below_eps_counts_as_eps():
    x = torch.tensor([[[[-5.0, -math.inf], [0.0, 0.2]]]], dtype=torch.float64)
    pool = nn.GeM2d(2.0, 0.1).double()
    assert pool(x).item() == pytest.approx(((3 * 0.01 + 0.04) / 4) ** 0.5, rel=1e-14)
    assert pool(-x.abs()).item() == pytest.approx(0.1, rel=1e-14)
    assert nn.GeM2d()(torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1e-6)
    assert nn.GeM2d(eps=0.0)(torch.zeros(1, 1, 2, 2)).item() == 0


def test_slope_of_p_by_hand():
    """dy/dp = y (sum x^p ln x / sum x^p - ln(mean x^p)) / p."""
    pool = nn.GeM2d(2.0).double()
    pool(torch.from_numpy(SQUARE)).backward()
    powers = [(x**2, math.log(x)) for x in (1, 2, 3, 4)]
    slope = 7.5**0.5 * (sum(a * log for a, log in powers) / 30 - math.log(7.5) / 2) / 2
    assert pool.p.grad.item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("p", [0.5, 3.0, 300.0])
def test_torch_agrees_with_the_reference_everywhere(p):
    for rank in (1, 2, 3):
        for name, x in inputs(Window.of(rank, 1), 1e307).items():
            with np.errstate(all="ignore"):
                expected = reference(x, p)
            got = generalized_mean_pool(torch.from_numpy(x), None, p, 1e-6)
            np.testing.assert_allclose(got, expected, rtol=4e-15 if p < 100 else 1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once_and_never_overflows(dtype):
    """60000 to the power of 3 is beyond float16 and its square root; the mean is not."""
    x = torch.tensor([[[[60000.0, 30000.0], [1.0, -7.0]]]]).to(dtype)
    y = nn.GeM2d().to(dtype)(x)
    expected = torch.from_numpy(reference(x.double().numpy())).to(dtype)
    assert y.dtype == dtype
    assert y.item() == pytest.approx(expected.item(), rel=torch.finfo(dtype).eps)
    y = nn.GeM2d(eps=1e-6, learn_p=False)(torch.zeros(1, 1, 2, 2, dtype=dtype))
    assert y.item() == torch.tensor(1e-6).to(dtype).item()


def test_gradients_are_true():
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, generator=torch.manual_seed(1)).requires_grad_()
    for pool in (nn.GeM2d(2.5), nn.GeM2d(1.5, 0.1, flatten=True), nn.GeM2d(channels=3)):
        p = pool.double().p.detach().clone().requires_grad_()
        pooled = lambda x, p, pool=pool: torch.func.functional_call(pool, {"p": p}, (x,))  # noqa: E731
        assert torch.autograd.gradcheck(pooled, (x, p))


def test_zeros_have_finite_gradients():
    for eps in (0.0, 1e-6):
        pool, x = nn.GeM2d(2.5, eps), torch.zeros(1, 1, 2, 2).requires_grad_()
        pool(x).backward()
        assert x.grad.isfinite().all()
        assert pool.p.grad.isfinite().all()


def test_modules_are_the_published_formula():
    class Published(torch.nn.Module):
        def __init__(self, p=3, eps=1e-6):
            super().__init__()
            self.p, self.eps = torch.nn.Parameter(torch.ones(1) * p), eps

        def forward(self, x):
            powers = x.clamp(min=self.eps).pow(self.p)
            return torch.nn.functional.avg_pool2d(powers, (x.size(-2), x.size(-1))).pow(1.0 / self.p)

    x = torch.randn(3, 5, 7, 6, generator=torch.manual_seed(2))
    pool = nn.GeM()
    pool.load_state_dict(Published(2.3).state_dict())
    torch.testing.assert_close(pool(x), Published(2.3)(x))
    torch.testing.assert_close(pool(x[0]), Published(2.3)(x)[0])
    assert nn.GeM is nn.GeM2d
    assert (repr(pool), repr(nn.GeM2d(2, flatten=True))) == (
        "GeM2d(p=2.3, eps=1e-06)",
        "GeM2d(p=2, eps=1e-06, flatten=True)",
    )
    flat = nn.GeM2d(channels=5, flatten=True)
    with torch.no_grad():
        flat.p.copy_(torch.arange(1.0, 6.0))
    apart = [Published(p)(x[:, p - 1 : p])[:, :, 0, 0] for p in range(1, 6)]
    torch.testing.assert_close(flat(x), torch.cat(apart, 1))
    assert repr(flat) == "GeM2d(p=1 to 5, eps=1e-06, flatten=True)"
    np.testing.assert_allclose(nn.GeM1d()(x[0]).detach(), reference(x[0].double().numpy()), rtol=1e-6)
    np.testing.assert_allclose(nn.GeM3d()(x).detach(), reference(x[None].double().numpy())[0], rtol=1e-6)


def test_compiled():
    pool = torch.compile(nn.GeM2d(flatten=True), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 7):
        x = torch.randn(2, 3, size, size)
        np.testing.assert_allclose(pool(x).detach(), reference(x.double().numpy())[:, :, 0, 0], rtol=1e-5)


# --- export

SIZES = [(2, 3, 9, 8), (1, 3, 1, 1), (3, 3, 20, 11)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("arguments", [{}, {"channels": 3, "flatten": True}, {"p": 2.5, "learn_p": False}], ids=str)
def test_export(arguments, dtype):
    made = assert_exports(nn.GeM2d(**arguments).to(dtype), dtype, SIZES)
    assert made.count("Max") == 1
    assert not {"Clip", "Abs"} & set(made)


@pytest.mark.parametrize("opset", [18, 26])
def test_export_of_other_ranks_and_opsets(opset):
    assert_exports(nn.GeM1d(), torch.float32, [(2, 3, 9), (1, 3, 4)], opset=opset)
    assert_exports(nn.GeM3d(), torch.float32, [(2, 3, 2, 3, 4)], opset=opset, dynamic=False)


@pytest.mark.parametrize("learn_p", [False, True])
def test_export_of_special_values(learn_p):
    model = exported(nn.GeM2d(learn_p=learn_p), torch.zeros(2, 3, 9, 8))
    for name, x in extremes(Window.of(2, 1), 3e38):
        with np.errstate(all="ignore"):
            expected = reference(x.double().numpy())
        np.testing.assert_allclose(ran(model, x), expected, rtol=2e-6, atol=0, err_msg=name)
    assert ran(model, torch.full((2, 3, 9, 8), math.inf)).isposinf().all(), "a Clip would make it 3.4e38"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_form_validates(tmp_path, dtype):
    x = torch.randn(1, 3, 8, 8, generator=torch.manual_seed(3)).to(dtype)
    path = tmp_path / "m.onnx"
    model = onnxpool.export(nn.GeM2d().to(dtype), (x,), path, dynamic_shapes=({0: "batch", 2: "height", 3: "width"},))
    for form in ("function", "standard", "custom"):
        assert operators(onnxpool.to_form(model, form)) == operators(model)
    assert onnxpool.validate(path).passed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.GeM2d(0), "p=0 must be a positive number"),
        (lambda: nn.GeM2d(math.inf), "p=inf must be a positive number"),
        (lambda: nn.GeM2d(eps=-1.0), "eps=-1.0 must be a number of at least 0"),
        (lambda: nn.GeM2d(flatten=1), "flatten=1 is not a bool"),
        (lambda: nn.GeM2d(learn_p=None), "learn_p=None is not a bool"),
        (lambda: nn.GeM2d(channels=0), "channels=0 must be a positive int"),
        (lambda: nn.GeM2d(channels=3, learn_p=False), "channels=3 needs learn_p=True"),
        (lambda: nn.GeM2d(channels=3)(torch.ones(1, 4, 2, 2)), "x has 4 channels; p has 3 numbers"),
        (lambda: nn.GeM2d()(torch.ones(4, 4)), "GeM2d takes 4 axes"),
        (lambda: nn.GeM2d()(torch.ones(1, 1, 4, 4).int()), "x has dtype torch.int32"),
        (lambda: nn.GeM2d()(torch.ones(1, 1, 0, 4)), "has no position to pool"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)
