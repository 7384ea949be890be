"""Windows whose weights a 1x1 convolution or a matrix product makes: Enformer's pooling, attention within windows.

Every lifted model runs natively where that is possible, on values at sizes of its own; what is nearly such a pooling is
left, and ordinary attention is not even spoken of.
"""

import logging
import os
import warnings

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from test_lift import exported, found, operators, refusals, run  # noqa: E402

import onnxpool  # noqa: E402
from onnxpool import lift  # noqa: E402
from onnxpool.run.native_library import why_missing  # noqa: E402

F = torch.nn.functional
KERNELS = "require" if why_missing() is None else "off"


class AttentionPool(torch.nn.Module):
    """As Enformer's, by its names; ``masked`` is how its padding is left out."""

    def __init__(self, dim, pool_size=2, masked=-3.4e38):
        super().__init__()
        torch.manual_seed(0)
        self.pool_size, self.masked = pool_size, masked
        self.to_attn_logits = torch.nn.Conv2d(dim, dim, 1, bias=False)

    def pool_fn(self, x):
        return x.reshape(x.shape[0], x.shape[1], -1, self.pool_size)

    def forward(self, x):
        rest = x.shape[-1] % self.pool_size
        if rest:
            mask = F.pad(torch.zeros((x.shape[0], 1, x.shape[-1]), dtype=torch.bool), (0, rest), value=True)
            x = F.pad(x, (0, rest), value=0)
        x = self.pool_fn(x)
        logits = self.to_attn_logits(x)
        if rest and self.masked is not None:
            logits = logits.masked_fill(self.pool_fn(mask), self.masked)
        return (x * logits.softmax(-1)).sum(-1)


def windows(x, size=2):
    """Channels last, cut into windows that do not overlap: (N, H, W, C) -> (N windows, cells, C)."""
    n, h, w, c = x.shape
    return x.view(n, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


class Scored(torch.nn.Module):
    """A score for each cell, softmax over the window: scored within the windows or before, for all channels or each."""

    def __init__(self, channels, given=1, *, first=False, before=False):
        super().__init__()
        torch.manual_seed(1)
        self.score = torch.nn.Linear(channels, given)
        self.first, self.before = first, before

    def forward(self, x):
        x = x.permute(0, 2, 3, 1) if self.first else x
        n, h, w, c = x.shape
        cells = windows(x)
        scores = windows(self.score(x)) if self.before else 2 * torch.tanh(self.score(cells))
        y = (cells * scores.softmax(1)).sum(1).view(n, h // 2, w // 2, c)
        return y.permute(0, 3, 1, 2) if self.first else y


class Tokens(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(2)
        self.score = torch.nn.Linear(channels, 1)

    def forward(self, x):
        cells = x.reshape(x.shape[0], x.shape[1] // 4, 4, x.shape[2])
        return (cells * self.score(cells).softmax(2)).sum(2)


def natively(model, x):
    session = onnxpool.load(model, kernels=KERNELS, threads=1)
    return next(iter(session.run({session.inputs[0].name: x.numpy()}).values()))


def given(*shape, seed=0):
    return torch.randn(shape, generator=torch.manual_seed(seed))


N, T, H, W = (torch.export.Dim(name) for name in "nthw")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("length", "size", "window"), [(8, 2, "2"), (9, 2, "2 ceil"), (10, 4, "4 ceil"), (9, 3, "3")])
def test_enformer(length, size, window, legacy):
    module, x = AttentionPool(5, size), given(2, 5, length)
    lifted = lift(exported(module, x, legacy=legacy))
    assert found(lifted) == [("LocalImportancePool", window)]
    assert [one for one in operators(lifted.model) if one != "Constant"] == ["Conv", "LocalImportancePool"]
    np.testing.assert_allclose(natively(lifted.model, x), module(x).detach(), rtol=1e-5, atol=1e-6)
    assert not np.isnan(natively(lifted.model, 1e4 * x)).any()


def test_enformer_by_hand():
    """Twice the values as logits, as it starts: of 1, 2 the weights are 1 and e^2; 5 has no partner."""
    module = AttentionPool(1)
    torch.nn.init.constant_(module.to_attn_logits.weight, 2.0)
    lifted = lift(exported(module, torch.tensor([[[0.0, 0.0, 0.0]]])))
    y = natively(lifted.model, torch.tensor([[[1.0, 2.0, 5.0]]]))
    np.testing.assert_allclose(y, [[[(1 + 2 * np.e**2) / (1 + np.e**2), 5.0]]], rtol=1e-6)


def shaped(module, x, axes):
    """By PyTorch's exporter, with these axes free."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), (x,), dynamo=True, verbose=False, opset_version=18, dynamic_shapes=(axes,)
        )
    return ir.to_proto(program.model)


@pytest.mark.parametrize(
    ("module", "shape", "axes", "window", "others"),
    [
        (AttentionPool(3), (2, 3, 8), {0: N, 2: 2 * T}, "2", [(1, 3, 2), (3, 3, 34)]),
        (Scored(3), (2, 8, 6, 3), {0: N, 1: 2 * H, 2: 2 * W}, "2x2", [(1, 2, 4, 3), (3, 10, 14, 3)]),
        (Scored(3, first=True), (2, 3, 8, 6), {0: N, 2: 2 * H, 3: 2 * W}, "2x2", [(1, 3, 2, 4), (3, 3, 10, 14)]),
        (Scored(3, 3, first=True), (2, 3, 8, 6), {0: N}, "2x2", [(1, 3, 8, 6), (5, 3, 8, 6)]),
        (Scored(3, before=True), (2, 8, 6, 3), {0: N}, "2x2", [(1, 8, 6, 3), (5, 8, 6, 3)]),
        (Scored(3, 3, before=True), (2, 8, 6, 3), {0: N}, "2x2", [(1, 8, 6, 3), (5, 8, 6, 3)]),
        (Tokens(3), (2, 8, 3), {0: N, 1: 4 * T}, "4", [(1, 4, 3), (3, 20, 3)]),
    ],
)
def test_at_sizes_other_than_the_traced(module, shape, axes, window, others):
    lifted = lift(shaped(module, given(*shape), axes))
    assert found(lifted) == [("LocalImportancePool", window)]
    assert not {"Softmax", "ReduceSum"} & set(operators(lifted.model))
    for seed, size in enumerate([shape, *others]):
        x = given(*size, seed=seed)
        np.testing.assert_allclose(natively(lifted.model, x), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_soft_pool_of_windows_with_channels_last():
    class Soft(torch.nn.Module):
        def forward(self, x):
            cells = windows(x)
            return (cells * cells.softmax(1)).sum(1).view(x.shape[0], x.shape[1] // 2, -1, x.shape[3])

    x = given(2, 8, 6, 3)
    lifted = lift(exported(Soft(), x))
    assert found(lifted) == [("SoftPool", "2x2")]
    np.testing.assert_allclose(natively(lifted.model, x), Soft()(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 3 * x,
        lambda x: 2 - x,
        lambda x: F.leaky_relu(x, 0.3) / 4,
        lambda x: 12 * torch.sigmoid(x),
        lambda x: torch.tanh(-x),
        lambda x: torch.maximum(x, torch.tensor(-0.5)),
    ],
)
def test_functions_of_each_cell_are_logits(function):
    def pooled(x):
        cells = x.unfold(2, 3, 2)
        return (cells * function(cells).softmax(-1)).sum(-1)

    x = given(2, 3, 9)
    lifted = lift(exported(pooled, x))
    assert found(lifted) == [("LocalImportancePool", "3 s2")]
    np.testing.assert_allclose(natively(lifted.model, x), pooled(x), rtol=1e-5, atol=1e-6)


# --- what is no pooling of ours


class Near(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(3)
        self.kind = kind
        self.mix = torch.nn.Conv2d(4, 4, 1)
        self.wide = torch.nn.Conv2d(4, 4, (1, 3), padding=(0, 1))

    def forward(self, x):
        cells = x.reshape(x.shape[0], 4, -1, 4)
        if self.kind == "a convolution over neighbours":
            return (cells * self.wide(cells).softmax(-1)).sum(-1)
        if self.kind == "a convolution over cells":
            turned = cells.permute(0, 3, 1, 2)
            return (turned * self.mix(turned).softmax(1)).sum(1)
        if self.kind == "softmax over windows":
            return (cells * self.mix(cells).softmax(2)).sum(-1)
        if self.kind == "a mask of real cells":
            mask = torch.arange(x.shape[-1]).reshape(1, 1, -1, 4) % 3 == 0
            return (cells * self.mix(cells).masked_fill(mask, -1e30).softmax(-1)).sum(-1)
        rolled = torch.roll(x, 1, -1).reshape(cells.shape)  # weights of the cell before
        return (cells * self.mix(rolled).softmax(-1)).sum(-1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("a convolution over neighbours", "different cells"),
        ("a convolution over cells", "its weights are made across other axes than that of channels"),
        ("softmax over windows", None),
        ("a mask of real cells", "its mask is for other cells than those of padding"),
        ("weights of the cell before", "different cells"),
    ],
)
def test_near_misses(kind, reason):
    told = refusals(exported(Near(kind), given(2, 4, 16)))
    assert len(told) == (reason is not None)
    assert all(str(reason) in one for one in told)


@pytest.mark.parametrize(("masked", "fill"), [(None, "0"), (-5.0, "-5")])
def test_padding_that_takes_part(masked, fill):
    (told,) = refusals(exported(AttentionPool(3, masked=masked), given(2, 3, 9)))
    assert f"the padding takes part in it, as cells of {fill};" in told


def test_weights_in_another_order_within_the_window():
    class Turned(Scored):
        def forward(self, x):
            n, h, w, c = x.shape
            scores = self.score(x).view(n, h // 2, 2, w // 2, 2, 1).permute(0, 1, 3, 4, 2, 5).reshape(-1, 4, 1)
            return (windows(x) * scores.softmax(1)).sum(1).view(n, h // 2, w // 2, c)

    (told,) = refusals(exported(Turned(3), given(2, 8, 6, 3)))
    assert told == "values and weights are taken from different cells"


def attention_in_sums(x):
    """Attention with sums in place of a matrix product."""
    key, value = torch.sin(x), torch.cos(x)
    scores = (x[:, :, None] * key[:, None]).sum(-1)
    return (scores.softmax(-1)[..., None] * value[:, None]).sum(2)


def sampled(x):
    """As in deformable attention: samples of one tensor, weighted by another."""
    x, weights = x.sin(), x[:, :, :4].mean(1, keepdim=True)
    return (x.reshape(2, 3, -1, 4) * weights.reshape(2, 1, 1, 4).softmax(-1)).sum(-1)


@pytest.mark.parametrize("function", [attention_in_sums, sampled])
def test_attention_is_not_spoken_of(function):
    assert refusals(exported(function, given(2, 3, 8))) == []


class Output(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).last_hidden_state


@pytest.mark.parametrize(("name", "legacy"), [("Bert", False), ("Bert", True), ("Swin", True)])
def test_transformers_are_left(name, legacy):
    transformers = pytest.importorskip("transformers")
    if name == "Bert":
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            attn_implementation="eager",
        )  # fmt: skip
        network, x = transformers.BertModel(config), torch.randint(0, 50, (1, 8))
    else:
        config = transformers.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4
        )
        network, x = transformers.SwinModel(config), given(1, 3, 32, 32)
    assert refusals(exported(Output(network.eval()), x, legacy=legacy)) == []


def test_a_model_that_runs_at_one_size_alone_is_told(monkeypatch):
    """Nothing tells its window then."""
    model = shaped(Scored(3, first=True), given(2, 3, 8, 6), {0: N, 2: 2 * H, 3: 2 * W})
    monkeypatch.setattr("onnxpool.lifting.tracing.resized", lambda _: [])
    (told,) = refusals(model)
    assert "its cells could be traced at one size alone, which does not tell its window" in told
    assert run(model, given(2, 3, 8, 6).numpy()).shape == (2, 3, 4, 3)
