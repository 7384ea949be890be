"""Pooling of tokens: numbers by hand, masks, float64, short types, gradients, export, and a whole embedding network."""

import math

import numpy as np
import onnx
import pytest
import torch

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.golden import bounds
from onnxpool.pools.attentive_statistics import reference as statistics
from onnxpool.validation.as_text import sentences

MODES = ("mean", "max", "cls", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
HAND = {"mean": 3, "max": 7, "cls": 1, "lasttoken": 7, "weightedmean": 4, "mean_sqrt_len_tokens": 9 / 3**0.5}
MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    "holes": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
}
FREE = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"})


def pools(**more):
    return [nn.TokenPool(mode, **more) for mode in MODES]


def statistics_pool(channels=4, **more):
    torch.manual_seed(0)
    return nn.AttentiveStatisticsPool(channels, 3, **more)


def tokens(*shape, seed=0):
    return torch.randn(shape, generator=torch.manual_seed(seed))


def with_rubbish(x, mask):
    """Padding that must not be seen: NaN, infinities, and the largest numbers."""
    odd = torch.tensor([math.nan, math.inf, -math.inf, 3e38]).to(x.dtype)
    return torch.where(torch.as_tensor(mask).bool()[..., None], x, odd[torch.arange(x.shape[-1]) % 4])


# --- values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask", [[1, 1, 1, 0], [0, 1, 1, 1]], ids=["right", "left"])
def test_numbers_by_hand(mode, mask):
    x = torch.full((1, 4, 1), math.nan, dtype=torch.float64)
    x[0, torch.tensor(mask) == 1, 0] = torch.tensor([1.0, 1.0, 7.0], dtype=torch.float64)
    pool, answer = nn.TokenPool(mode), HAND[mode]
    if mode == "weightedmean" and not mask[0]:  # positions 2, 3 and 4
        answer = (2 * 1 + 3 * 1 + 4 * 7) / 9
    assert pool(x, torch.tensor([mask])).item() == pytest.approx(answer, rel=1e-15)
    assert pool.reference(x.numpy(), np.array([mask])).item() == pytest.approx(answer, rel=1e-15)
    assert pool(x[0], torch.tensor(mask)).shape == (1,)
    assert pool(x[:, torch.tensor(mask) == 1]).item() == pytest.approx(HAND[mode], rel=1e-15)


def test_weighted_means_are_those_of_positions():
    """As sentence-transformers has them: positions times the mask, whatever the mask leaves out."""
    x = tokens(3, 5, 4).double()
    for mask in map(torch.tensor, MASKS.values()):
        weights = torch.arange(1, 6)[None, :, None] * mask[:, :, None]
        usual = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        torch.testing.assert_close(nn.TokenPool("weightedmean")(x, mask), usual)


def test_statistics_by_hand():
    """Scores 0 and log 3: weights 1/4 and 3/4 of 1 and 5."""
    x = np.array([[[1.0], [5.0], [np.nan]]])
    mask, scores = np.array([[1, 1, 0]]), np.array([[0.0, math.log(3), 1e9]])
    np.testing.assert_allclose(statistics(x, scores, mask), [[4.0, 3**0.5]], rtol=1e-15)
    pool = nn.AttentiveStatisticsPool(1, 1).double()
    with torch.no_grad():
        for parameter, value in ((pool.weight, 1.0), (pool.bias, -1.0), (pool.vector, math.log(3) / math.tanh(4))):
            parameter.fill_(value)
    y = pool(torch.from_numpy(x), torch.from_numpy(mask))
    np.testing.assert_allclose(y.detach(), [[4.0, 3**0.5]], rtol=1e-14)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16], ids=str)
def test_every_mask_against_the_reference(mask, dtype):
    mask = torch.tensor(mask)
    x = with_rubbish(tokens(3, 5, 4).double(), mask)
    for empty in ("zero", "nan"):
        every = [*pools(empty=empty), *pools(empty=empty, normalize=True), statistics_pool(empty=empty).double()]
        for pool in every:
            y = pool(x, mask.to(dtype)).detach()
            np.testing.assert_allclose(y, pool.reference(x.numpy(), mask.numpy()), rtol=1e-13, atol=1e-15)
            gone = ~mask.bool().any(1)
            assert (y[gone].isnan() if empty == "nan" else y[gone] == 0).all()
            assert y[~gone].isfinite().all()


def test_float32_is_within_its_bound():
    """Also of many tokens, and of numbers that cancel."""
    for count, scale in ((1, 1.0), (9, 1e-3), (8192, 20.0)):
        x = scale * tokens(2, count, 3)
        mask = torch.ones(2, count, dtype=torch.int64)
        mask[0, count // 2 + 1 :] = 0
        top = np.abs(x.double().numpy() * mask.numpy()[..., None]).max(1)
        for pool in pools():
            answer = pool.reference(x.double().numpy(), mask.numpy())
            allowed = bounds.token_ulps(pool.mode, count) * bounds.ulp(top, "float32")
            assert bounds.measure(pool(x, mask).numpy(), answer, allowed).within, pool
        pool = statistics_pool(3)
        answer = pool.reference(x.double().numpy(), mask.numpy())
        allowed = bounds.statistics_ulps(count) * bounds.ulp(np.tile(top, 2), "float32")
        assert bounds.measure(pool(x, mask).detach().numpy(), answer, allowed).within


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_short_types_are_right_where_the_usual_spelling_is_not(dtype):
    """4096 tokens of 20 have a sum of 81920, beyond float16; a row without tokens divides by 1e-9, which is 0 there."""
    x, mask = torch.full((2, 4096, 3), 20.0, dtype=dtype), torch.tensor([[1], [0]]).expand(2, 4096)
    grown = mask.unsqueeze(-1).to(dtype)
    usual = (x * grown).sum(1) / grown.sum(1).clamp(min=1e-9)
    assert not usual.isfinite().all() or dtype == torch.bfloat16
    for mode in ("mean", "max", "cls", "lasttoken", "weightedmean"):
        y = nn.TokenPool(mode)(x, mask)
        assert y.dtype == dtype
        assert y[0].tolist() == [20.0] * 3, mode
        assert y[1].tolist() == [0.0] * 3, mode
    assert nn.TokenPool("mean_sqrt_len_tokens")(x, mask)[0].tolist() == [1280.0] * 3
    values = tokens(2, 300, 8).to(dtype)
    for pool in pools(normalize=True):
        y, answer = pool(values).double().numpy(), pool.reference(values.double().numpy())
        info = torch.finfo(dtype)
        np.testing.assert_allclose(y, answer, rtol=0.51 * info.eps, atol=1e-6)


def test_a_spread_does_not_cancel():
    """The published form gives 0, NaN or 11 for a deviation of 1 around 1e4, and infinity for 1e30."""
    x = torch.tensor([1e4 - 1, 1e4 + 1] * 8).reshape(1, 16, 1)
    pool = statistics_pool(1)
    torch.nn.init.zeros_(pool.vector)
    assert pool(x).tolist() == [[1e4, 1.0]]
    assert (x.square().mean(1) - x.mean(1) ** 2).item() != 1
    y = pool(torch.tensor([1e30, 3e30]).reshape(1, 2, 1))
    np.testing.assert_allclose(y.detach(), [[2e30, 1e30]], rtol=1e-6)
    assert pool(torch.full((1, 7, 1), 3.5)).tolist() == [[3.5, pytest.approx(1e-6)]]


def test_a_spread_of_the_largest_numbers_is_finite(tmp_path):
    """Their distance is twice what the type holds, and the deviation is not."""
    most = torch.finfo(torch.float32).max
    pool = statistics_pool(1)
    for parameter in (pool.weight, pool.bias):
        torch.nn.init.zeros_(parameter)
    largest, spread = torch.finfo(torch.float64).max, 8**0.5 / 3
    large = torch.tensor([[[largest], [largest], [-largest]]], dtype=torch.float64)
    for numbers in (pool.double()(large), pool.reference(large.numpy())):
        assert (numbers[0] / largest).tolist() == pytest.approx([1 / 3, spread])
    pool = pool.float()
    onnxpool.export(pool, (torch.ones(1, 4, 1),), tmp_path / "x.onnx", dynamic_shapes=FREE[:1], golden=False)
    session = onnxpool.load(tmp_path / "x.onnx")
    for signs, answer in (
        ([1, 1, -1], [1 / 3, spread]),
        ([1] * 3, [1, 0]),
        ([-1] * 7, [-1, 0]),
        ([1, -1] * 50, [0, 1]),
    ):
        x = most * torch.tensor(signs, dtype=torch.float32).reshape(1, -1, 1)
        (ran,) = session.run({session.inputs[0].name: x.numpy()}).values()
        for numbers in (pool(x).detach().numpy(), ran, pool.reference(x.double().numpy())):
            assert (numbers[0] / most).tolist() == pytest.approx(answer, abs=1e-6)


def test_no_channel_has_a_length_of_0():
    for mode in ("mean", "max", "cls", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"):
        x = torch.zeros(2, 3, 0).requires_grad_()
        pool = nn.TokenPool(mode, normalize=True)
        y = pool(x)
        assert y.shape == (2, 0) == pool.reference(x.detach().numpy()).shape
        y.sum().backward()


def test_lengths_of_1_for_all_that_is_not_0():
    pool = nn.TokenPool("cls", normalize=True)
    for value in (1e-45, 1e-38, 1e-20, 1.0, 1e20, 3e38):
        y = pool(torch.tensor([[[0.6, 0.8]]]) * value) if value > 1e-44 else pool(torch.tensor([[[0.0, value]]]))
        assert y.norm().item() == pytest.approx(1, abs=2e-7), value
    half = torch.full((1, 1, 100), 60000.0, dtype=torch.float16)
    assert (pool(half) == 0.1).all(), "600000 is beyond float16, and so is 60000^2"
    x = torch.zeros(1, 1, 3).requires_grad_()
    pool(x).sum().backward()
    assert not x.grad.any()
    assert pool(torch.zeros(1, 1, 3)).tolist() == [[0.0] * 3]


# --- laws


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_and_batching_change_nothing_but_rounding(side):
    """At most some ULP of float32, by the bound of each mode; a single token and the maximum not at all."""
    sizes = (3, 40, 511)
    rows = [tokens(size, 8, seed=size) for size in sizes]
    x, mask = torch.zeros(3, 511, 8), torch.zeros(3, 511, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(511 - len(row), 511)
        x[i, place], mask[i, place] = row, 1
    x = with_rubbish(x, mask)
    for pool in pools():
        if (pool.mode, side) == ("weightedmean", "left"):
            continue  # positions of padding count
        away = (pool(x, mask) - torch.stack([pool(row) for row in rows])).abs().numpy()
        most = [2 * bounds.token_ulps(pool.mode, size) for size in sizes]
        top = torch.stack([row.abs().amax(0) for row in rows]).numpy()
        assert (away <= np.array(most)[:, None] * bounds.ulp(top, "float32")).all(), pool
        if pool.mode == "mean":  # in practice much less
            assert (away <= 4 * bounds.ulp(top, "float32")).all()
    pool = statistics_pool(8)
    torch.testing.assert_close(pool(x, mask), torch.stack([pool(row) for row in rows]), rtol=0, atol=2e-6)


def test_the_order_of_tokens_is_nothing_to_some():
    x, mask = tokens(2, 9, 4).double(), torch.tensor([[1] * 9, [1, 0, 1, 1, 0, 1, 1, 1, 0]])
    order = torch.randperm(9, generator=torch.manual_seed(1))
    for pool in (nn.TokenPool(), nn.TokenPool("max"), nn.TokenPool("mean_sqrt_len_tokens"), statistics_pool().double()):
        torch.testing.assert_close(pool(x[:, order], mask[:, order]), pool(x, mask), rtol=1e-13, atol=1e-14)
    for pool in (nn.TokenPool("cls"), nn.TokenPool("lasttoken"), nn.TokenPool("weightedmean")):
        assert not torch.allclose(pool(x[:, order], mask[:, order]), pool(x, mask))


# --- gradients


def test_gradients_are_true():
    mask = torch.tensor(MASKS["holes"])
    x = with_rubbish(tokens(3, 5, 4).double(), mask).requires_grad_()
    for pool in [*pools(), *pools(normalize=True), statistics_pool().double()]:
        y = pool(x, mask)
        slopes = torch.autograd.grad(y.square().sum() + y.sum(), [x, *pool.parameters()])
        assert all(slope.isfinite().all() for slope in slopes), f"{pool}: padding is seen by a slope"
        assert not slopes[0][~mask.bool()].any()
    x = tokens(2, 4, 3).double().requires_grad_()
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    for pool in [*pools(), *pools(normalize=True)]:
        assert torch.autograd.gradcheck(lambda x, pool=pool: pool(x, mask), (x,), fast_mode=True)
    pool = statistics_pool(3).double()
    names, values = zip(*pool.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(pool, dict(zip(names, values, strict=True)), (x, mask))

    assert torch.autograd.gradcheck(call, (x, *values))
    constant = torch.full((1, 3, 3), 2.0, dtype=torch.float64, requires_grad=True)
    pool(constant).sum().backward()
    assert constant.grad.isfinite().all(), "a deviation of 0 has no slope"


# --- export


class Every(torch.nn.Module):
    """Each mode, of one input and mask: one file tries all of them."""

    def __init__(self, **more):
        super().__init__()
        self.pools = torch.nn.ModuleList(
            [*pools(**more), nn.TokenPool(normalize=True, **more), statistics_pool(**more)]
        )

    def forward(self, x, mask):
        return tuple(pool(x, mask) for pool in self.pools)


def exported(module, x, mask, path):
    onnxpool.export(module.to(x.dtype), (x, mask), path, dynamic_shapes=FREE)
    return path


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "every.onnx"
    return exported(Every(empty="nan"), tokens(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]), path)


def test_every_form_validates(every):
    onnx.checker.check_model(every, full_check=True)
    report = onnxpool.validate(every)
    assert report.passed, sentences(report)
    model = onnx.load(every)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    for form in ("standard", "custom"):
        assert len(onnxpool.to_form(every, form).graph) == len(model.graph.node)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_file_takes_every_mask(every, mask):
    mask = np.array(mask)
    x = with_rubbish(tokens(3, 5, 4), mask).numpy()
    session = onnxpool.load(every)
    names = [info.name for info in session.inputs]
    given = session.run(dict(zip(names, (x, mask), strict=True))).values()
    for pool, y in zip(Every(empty="nan").pools, given, strict=True):
        with torch.no_grad():
            answer = pool.reference(x.astype(np.float64), mask)
        np.testing.assert_allclose(y, answer, rtol=2e-6, atol=2e-6, err_msg=str(pool))


def test_float16_and_another_mask_in_onnx_runtime(tmp_path):
    x = torch.full((2, 4096, 2), 20.0, dtype=torch.float16)
    mask = torch.tensor([[True], [False]]).repeat(1, 4096)
    pool = nn.TokenPool()
    onnxpool.export(pool, (x[:, :7], mask[:, :7]), tmp_path / "half.onnx", dynamic_shapes=FREE, golden=False)
    session = onnxpool.load(tmp_path / "half.onnx")
    (y,) = session.run({"x": x.numpy(), "mask": mask.numpy()}).values()
    assert y.tolist() == [[20.0, 20.0], [0.0, 0.0]]


# --- refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.TokenPool("average"), "mode='average' is unknown; use one of mean, max, cls, lasttoken"),
        (lambda: nn.TokenPool(normalize=1), "normalize=1 is not a bool"),
        (lambda: nn.TokenPool(empty=None), "empty=None is unknown; use one of zero, nan"),
        (lambda: nn.AttentiveStatisticsPool(0), "channels=0 must be a positive int"),
        (lambda: nn.AttentiveStatisticsPool(3, 2.0), "attention_channels=2.0 must be a positive int"),
        (lambda: nn.AttentiveStatisticsPool(3, eps=-1), "eps=-1 must be a number of at least 0"),
        (lambda: statistics_pool()(tokens(1, 2, 3)), "x has 3 channels, shape (1, 2, 3); this layer has 4"),
        (lambda: nn.TokenPool()(tokens(1, 2, 3, 4)), "TokenPool takes 3 axes, (N, T, C), or 2 without a batch"),
        (lambda: nn.TokenPool()(torch.ones(1, 2, 3).int()), "x has dtype torch.int32"),
        (lambda: nn.TokenPool()(tokens(2, 0, 3)), "x has shape (2, 0, 3), which has no token to pool"),
        (lambda: nn.TokenPool()(tokens(2, 4, 3), torch.ones(4, 2)), "mask has shape (4, 2); x of shape (2, 4, 3)"),
        (lambda: nn.TokenPool()(tokens(2, 4, 3), torch.ones(2, 4, 1)), "mask has shape (2, 4, 1)"),
        (lambda: nn.TokenPool()(tokens(1, 2, 3), torch.tensor([[0.0, -1e4]])), "mask holds -10000; use 1 for a token"),
        (lambda: nn.TokenPool()(tokens(1, 2, 3), torch.tensor([[0.5, 1]])), "mask holds 0.5;"),
        (lambda: nn.TokenPool()(tokens(1, 2, 3), torch.ones(1, 2) * 1j), "mask has dtype torch.complex64"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)
