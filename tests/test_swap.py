"""Exchanging poolings in networks: what is replaced and by what, that geometry and weights stay, what is refused."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import onnxpool  # noqa: E402
from onnxpool import nn  # noqa: E402
from onnxpool.cli.commands import app  # noqa: E402
from onnxpool.errors import ArgumentError, ExportError  # noqa: E402
from onnxpool.network import KINDS, layers, official  # noqa: E402
from onnxpool.network.swap import swap  # noqa: E402
from onnxpool.validation.as_text import sentences  # noqa: E402
from onnxpool.window import Window  # noqa: E402

SOFT = 3.4926527346  # SoftPool of 1, 2, 3, 4
SQUARE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
DYNAMIC = ({0: "batch", 2: "height", 3: "width"},)


def small():
    """A network with a layer of every kind in torch.nn: 16x16 in, 1x1 out."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        OrderedDict(
            stem=torch.nn.Conv2d(2, 4, 3, stride=2, padding=1),
            relu=torch.nn.ReLU(),
            first=torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            block=torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.AvgPool2d(2)),
            last=torch.nn.AdaptiveAvgPool2d(1),
        )
    )


def paths(report):
    return [path for one in report for path in one.paths]


def reasons(swapped):
    return {one.paths[0]: one.reason for one in swapped.kept}


# --- what it computes


def test_numbers_by_hand():
    assert swap(torch.nn.MaxPool2d(2), {"max": "SoftPool"}).network(SQUARE).item() == pytest.approx(SOFT)
    assert swap(torch.nn.AvgPool2d(2), {"average": "MaxPool"}).network(SQUARE).item() == 4
    assert swap(torch.nn.LPPool2d(2, 2), {"power": "SoftPool"}).network(SQUARE).item() == pytest.approx(SOFT)
    pool = swap(torch.nn.AdaptiveMaxPool2d(1), {"adaptive": "SoftPool"}, example=SQUARE).network
    assert pool(SQUARE).item() == pytest.approx(SOFT)
    assert swap(torch.nn.AdaptiveMaxPool2d(1), {"adaptive": "GlobalAvgPool"}).network(SQUARE).item() == 2.5


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("MaxPool", 4),
        ("AvgPool", 2.5),
        ("MixedPool", 4),  # untrained
        ("StochasticPool", 30 / 10),
        ("PowerAvgPool", 30**0.5),
        ("PowerAvgPool(p=3)", 100 ** (1 / 3)),
        ("PowerAvgPool(p=3, norm='mean', learn_p=True, per_channel=True, channels=channels)", 25 ** (1 / 3)),
        ("LogSumExpPool", math.log(sum(map(math.exp, (1, 2, 3, 4))) / 4)),
        ("SoftPool", SOFT),
        ("LocalImportancePool", 2.5),
    ],
)
def test_every_method_by_hand(target, answer):
    pool = swap(torch.nn.MaxPool2d(2).eval(), {"max": target}, example=SQUARE, strict=True).network
    assert str(pool.window) == "2x2"
    assert pool(SQUARE).item() == pytest.approx(answer, rel=1e-6)


def test_a_strided_convolution_by_hand():
    """Twice each cell, then the soft mean of 2, 4, 6, 8."""
    convolution = torch.nn.Conv2d(1, 1, 1, stride=2, bias=False)
    torch.nn.init.constant_(convolution.weight, 2.0)
    assert convolution(SQUARE).item() == 2
    weights = [math.exp(cell - 8) for cell in (2, 4, 6, 8)]
    answer = sum(w * cell for w, cell in zip(weights, (2, 4, 6, 8), strict=True)) / sum(weights)
    pooled = swap(convolution, {"strided-convolution": "SoftPool"}).network
    assert pooled(SQUARE).item() == pytest.approx(answer)
    assert pooled.stride == (1, 1)


@pytest.mark.parametrize(
    ("layer", "rule", "window"),
    [
        (torch.nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), "max", Window.of(1, 3, 2, 1, 2, True)),
        (torch.nn.MaxPool2d((3, 2), (1, 2), (1, 0), (1, 2)), "max", Window.of(2, (3, 2), (1, 2), (1, 0), (1, 2))),
        (torch.nn.MaxPool3d(2), "max", Window.of(3, 2)),
        (torch.nn.AvgPool1d(3, 2, 1), "average", Window.of(1, 3, 2, 1)),
        (torch.nn.AvgPool2d(3, (2, 1), 1, ceil_mode=True), "average", Window.of(2, 3, (2, 1), 1, 1, True)),
        (torch.nn.AvgPool3d((1, 2, 3)), "average", Window.of(3, (1, 2, 3))),
        (torch.nn.LPPool1d(2.0, 3), "power", Window.of(1, 3)),
        (torch.nn.LPPool2d(2.0, 3, 2, ceil_mode=True), "power", Window.of(2, 3, 2, ceil_mode=True)),
        (nn.SoftPool2d(3, 2, 1), "onnxpool", Window.of(2, 3, 2, 1)),
    ],
    ids=repr,
)
def test_rank_and_window_are_the_old_layers(layer, rule, window):
    x = torch.randn(2, 3, *(9, 8, 7)[: window.rank], generator=torch.manual_seed(1))
    pool = swap(layer, {rule: "SoftPool"}).network
    assert type(pool).__name__ == f"SoftPool{window.rank}d"
    assert pool.window == window
    assert pool(x).shape == layer(x).shape


def test_a_convolutions_size_stays_for_every_geometry():
    every = itertools.product((1, 2, 3, 4), (2, 3, 4), (0, 1, 2), (1, 2))
    for kernel, stride, padding, dilation in every:
        convolution = torch.nn.Conv1d(1, 2, kernel, stride, padding, dilation)
        blocks = swap(convolution, {"strided-convolution": "SoftPool"}).network
        centred = "SoftPool(kernel_size=3, padding=1, ceil_mode=False)"
        around = swap(convolution, {"strided-convolution": centred}).network
        for length in range(7, 16):
            x = torch.randn(1, 1, length)
            assert blocks(x).shape == around(x).shape == convolution(x).shape, (kernel, stride, padding, dilation)


def test_a_convolution_keeps_all_it_is():
    torch.manual_seed(0)
    old = torch.nn.Conv2d(4, 6, 3, stride=(2, 1), padding=1, dilation=2, groups=2, padding_mode="reflect")
    new = swap(old, {"strided-convolution": "MaxPool(kernel_size=1, ceil_mode=False)"}).network
    assert list(new.state_dict()) == ["weight", "bias"]
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(new(x), old(x))  # a 1x1 window with the stride leaves out what the stride left out


# --- what stays


def test_the_old_network_and_all_weights_stay():
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rules = {"max": "SoftPool", "average": "SoftPool", "strided-convolution": "SoftPool", "adaptive": "GlobalAvgPool"}
    swapped = swap(network, rules, strict=True)
    assert paths(swapped.replaced) == ["stem", "first", "block.1", "last"]
    assert isinstance(network.first, torch.nn.MaxPool2d)
    after = swapped.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert swapped.network.stem.weight is not network.stem.weight, "a copy"
    assert all(one.parameters == 0 for one in swapped.replaced)
    x = torch.randn(2, 2, 16, 16)
    assert swapped.network.eval()(x).shape == network.eval()(x).shape == (2, 4, 1, 1)


def test_a_shared_layer_is_replaced_once_and_shared_again():
    pool = torch.nn.MaxPool2d(2)
    network = torch.nn.Sequential(pool, torch.nn.ReLU(), torch.nn.Sequential(pool))
    swapped = swap(network, {"max": "SoftPool"})
    assert [one.paths for one in swapped.replaced] == [("0", "2.0")]
    assert swapped.network[0] is swapped.network[2][0]
    assert isinstance(swapped.network[0], nn.SoftPool2d)


def test_lists_and_dictionaries_of_modules():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pools = torch.nn.ModuleList([torch.nn.MaxPool2d(2), torch.nn.Identity()])
            self.named = torch.nn.ModuleDict({"pool": torch.nn.MaxPool2d(2)})
            self.missing = None

    swapped = swap(Network(), {"max": "SoftPool"})
    assert paths(swapped.replaced) == ["pools.0", "named.pool"]
    assert isinstance(swapped.network.named["pool"], nn.SoftPool2d)


def test_mode_dtype_and_new_weights():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 3), torch.nn.MaxPool2d(3, 2, 1)).double().train()
    network[1].eval()
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    swapped = swap(network, {"max": "LocalImportancePool"}, example=x)
    pool = swapped.network[1]
    assert pool.logit.conv.weight.shape == (5, 5, 3, 3)
    assert pool.logit.conv.weight.dtype == torch.float64
    assert (swapped.network.training, pool.training, pool.logit.training) == (True, False, False)
    assert swapped.replaced[0].parameters == 5 * 5 * 9 + 2 * 5
    mean = torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False)(network[0](x))
    torch.testing.assert_close(swapped.network(x), mean)  # untrained local importance is the mean


def test_an_example_changes_nothing():
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Dropout(), torch.nn.MaxPool2d(2)).train()
    x = torch.randn(4, 2, 6, 6)
    swapped = swap(network, {"max": "SoftPool"}, example=x)
    assert swapped.network[0].num_batches_tracked.item() == 0
    assert [module.training for module in swapped.network] == [True] * 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in swapped.network.modules())


def test_examples_of_several_arguments():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = torch.nn.MaxPool1d(2)

        def forward(self, left, right):
            return self.pool(left * right)

    left, right = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    for example in ((left, right), {"left": left, "right": right}):
        swapped = swap(Network(), {"max": "LocalImportancePool"}, example=example)
        assert swapped.network.pool.logit.conv.in_channels == 3


def test_a_layer_called_by_keyword_is_seen():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = torch.nn.MaxPool1d(2)

        def forward(self, x):
            return self.pool(input=x)

    seen = []
    swap(Network(), {"max": lambda *arguments: seen.append(arguments[1]) or torch.nn.AvgPool1d(2)}, example=SQUARE[0])
    assert seen == [2]


# --- rules


def test_the_first_rule_that_chooses_a_layer_decides():
    rules = {"block.*": "keep", torch.nn.MaxPool2d: "StochasticPool", "max": "SoftPool", "average": "SoftPool"}
    swapped = swap(small(), rules, strict=True)
    assert [(one.paths[0], one.new, one.rule) for one in swapped.replaced] == [
        ("first", "StochasticPool2d(3x3 s2 p1 ceil)", "MaxPool2d")
    ]
    assert [(one.paths[0], one.layer, one.reason) for one in swapped.kept] == [
        ("block.1", "AvgPool2d(2x2)", "the rule says so")
    ]


def test_a_path_chooses_every_kind_and_one_in_full_any_layer():
    swapped = swap(small(), {"*": "SoftPool"}, example=torch.randn(1, 2, 16, 16))
    assert paths(swapped.replaced) == ["stem", "first", "block.1", "last"]
    swapped = swap(small(), {"relu": lambda *_: torch.nn.Tanh()})
    assert isinstance(swapped.network.relu, torch.nn.Tanh)
    assert reasons(swap(small(), {"relu": "SoftPool"})) == {"relu": "it has no window that a pool could take over"}


def test_a_kind_is_no_path():
    network = torch.nn.Sequential(OrderedDict(max=torch.nn.Sequential(torch.nn.MaxPool2d(2))))
    assert paths(swap(network, {"max": "SoftPool"}).replaced) == ["max.0"]


def test_a_function_makes_what_it_likes():
    seen = []

    def make(layer, channels, window):
        seen.append((type(layer).__name__, channels, str(window)))
        return torch.nn.Sequential(torch.nn.AvgPool2d(window.kernel, window.stride, window.pad, window.ceil))

    x = torch.randn(1, 2, 16, 16)
    swapped = swap(small(), {"max": make, "strided-convolution": make}, example=x)
    assert seen == [("Conv2d", 4, "2x2 ceil"), ("MaxPool2d", 4, "3x3 s2 p1 ceil")]
    assert paths(swapped.replaced) == ["stem", "first"]
    swap(small(), {"max": make})
    assert seen[-1] == ("MaxPool2d", None, "3x3 s2 p1 ceil")
    with pytest.raises(ArgumentError, match=r"gives .*7.* at 'first', where MaxPool2d.* gave .*5"):
        swap(small(), {"max": lambda *_: torch.nn.MaxPool2d(2, 1)}, example=x)
    assert reasons(swap(small(), {"max": lambda *_: 3})) == {
        "first": "the rule's function gave a int, no torch.nn.Module"
    }


def test_arguments_of_the_target():
    x = torch.randn(1, 6, 8, 8)
    target = "LocalImportancePool(BottleneckLogit(channels, width=5, coefficient=None), kernel_size=4)"
    swapped = swap(torch.nn.MaxPool2d(2), {"max": target}, example=x)
    assert reasons(swapped) == {"": "a window 4x4 s2 gives other sizes than 2x2"}
    swapped = swap(torch.nn.MaxPool2d(2), {"max": target.replace("=4", "=4, padding=1")}, example=x)
    assert str(swapped.network.window) == "4x4 s2 p1"
    assert swapped.network.logit.conv3.weight.shape == (6, 5, 1, 1)
    assert swapped.network(x).shape == (1, 6, 4, 4)


def test_detail_preserving_takes_channels_and_refuses_overlap():
    network = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.MaxPool2d(3, 2, 1))
    swapped = swap(network, {"max": "DetailPreservingPool"}, example=torch.randn(1, 7, 16, 16))
    assert paths(swapped.replaced) == ["0"]
    assert swapped.replaced[0].parameters >= 2 * 7
    assert reasons(swapped) == {"1": "DetailPreservingPool2d has no stride, and this layer's is (2, 2)"}


# --- adaptive pooling


def test_adaptive_pooling_gets_the_window_of_the_example():
    x = torch.randn(2, 3, 8, 6, generator=torch.manual_seed(0))
    for size in (1, 2, (4, 3), (None, 1)):
        old = torch.nn.AdaptiveAvgPool2d(size)
        new = swap(old, {"adaptive": "AvgPool"}, example=x).network
        torch.testing.assert_close(new(x), old(x))
    with pytest.raises(ArgumentError, match=r"spatial size \(8, 6\) only: swap again with an example"):
        new(torch.randn(2, 3, 16, 6))
    with pytest.raises(ExportError):
        onnxpool.export(new, (x,), dynamic_shapes=DYNAMIC)


def test_adaptive_pooling_by_adaptive_pooling_needs_no_example():
    swapped = swap(torch.nn.AdaptiveMaxPool2d((3, None)), {"adaptive": "AdaptiveAvgPool"})
    x = torch.randn(1, 2, 8, 5)
    torch.testing.assert_close(swapped.network(x), torch.nn.AdaptiveAvgPool2d((3, None))(x))
    again = swap(swapped.network, {"adaptive": "AdaptiveMaxPool"})
    torch.testing.assert_close(again.network(x), torch.nn.AdaptiveMaxPool2d((3, None))(x))
    kept = reasons(swap(torch.nn.Sequential(torch.nn.MaxPool2d(2)), {"max": "AdaptiveAvgPool"}))
    assert kept == {"0": "AdaptiveAvgPool2d has no window, and this layer's is 2x2"}


def test_adaptive_pooling_that_no_window_divides():
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(3))
    swapped = swap(network, {"adaptive": "SoftPool"}, example=torch.randn(1, 2, 8, 9))
    assert reasons(swapped) == {"0": "(8, 9) inputs do not divide into (3, 3) equal windows"}


def test_global_pooling_takes_the_place_of_global_pooling_only():
    network = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.AdaptiveAvgPool2d(2), torch.nn.AdaptiveAvgPool2d(1))
    swapped = swap(network, {"max": "GlobalAvgPool", "adaptive": "GlobalAvgPool"}, example=torch.randn(1, 2, 8, 8))
    assert paths(swapped.replaced) == ["2"]
    assert reasons(swapped) == {
        "0": "GlobalAvgPool2d has no window, and this layer's is 2x2",
        "1": "GlobalAvgPool2d has no window, and this layer's is 2x2",
    }


def test_a_layer_called_with_several_sizes():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = torch.nn.AdaptiveMaxPool2d(2)
            self.never = torch.nn.AdaptiveMaxPool2d(2)

        def forward(self, x):
            return self.pool(x) + self.pool(x[..., ::2])

    swapped = swap(Network(), {"adaptive": "SoftPool"}, example=torch.randn(1, 2, 8, 8))
    assert reasons(swapped) == {
        "pool": "it is given inputs of more than one spatial size",
        "never": "the example does not reach it",
    }


# --- what is kept


class Same(torch.nn.MaxPool2d):
    """A subclass that is not a max-pooling any more."""

    def forward(self, x):
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class Renamed(torch.nn.MaxPool2d):
    pass


@pytest.mark.parametrize(
    ("layer", "rules", "reason"),
    [
        (torch.nn.MaxPool2d(2, return_indices=True), {"max": "SoftPool"}, "return_indices=True: another layer uses"),
        (torch.nn.AvgPool2d(2, divisor_override=3), {"average": "SoftPool"}, "divisor_override=3: "),
        (torch.nn.MaxPool2d(3, padding=2), {"max": "SoftPool"}, "padding=(2, 2) is more than half"),
        (torch.nn.MaxPool1d(3), {"max": "DetailPreservingPool"}, "onnxpool.nn has no DetailPreservingPool1d"),
        (torch.nn.Conv2d(1, 1, 2, 2), {"strided-convolution": "same"}, "only poolings of torch.nn and of official"),
        (nn.SoftPool2d(2), {"onnxpool": "same"}, "it is a layer of onnxpool.nn already"),
        (nn.AdaptiveAvgPool2d(2), {"all": "same"}, "it is a layer of onnxpool.nn already"),
        (torch.nn.MaxPool2d(2, return_indices=True), {"all": "same"}, "return_indices=True: another layer uses"),
        (torch.nn.LPPool2d(3, 2), {"power": "same"}, "norm_type=3: torch.nn adds up signed powers"),
        (torch.nn.LPPool2d(2, 2, ceil_mode=True), {"power": "same"}, "ceil_mode=True: torch.nn scales the sums"),
        (torch.nn.AvgPool2d(2, divisor_override=-3), {"all": "same"}, "divisor_override=-3 must be a positive int"),
        (torch.nn.MaxPool2d(2), {"max": "SoftPool(size=3)"}, "got an unexpected keyword argument 'size'"),
        (torch.nn.MaxPool2d(2), {"max": "SoftPool(kernel_size=0)"}, "kernel_size=(0, 0): each number must be at least"),
        (torch.nn.MaxPool2d(2), {"max": "SoftPool(stride=1)"}, "a window 2x2 s1 gives other sizes than 2x2"),
        (
            torch.nn.MaxPool2d(2),
            {"max": "SoftPool(kernel_size=__import__)"},
            "__import__ cannot be an argument; these are",
        ),
    ],
)
def test_layers_that_are_kept_and_why(layer, rules, reason):
    swapped = swap(torch.nn.Sequential(layer), rules)
    assert swapped.replaced == ()
    (kept,) = swapped.kept
    assert reason in kept.reason
    assert type(swapped.network[0]) is type(layer)
    with pytest.raises(ArgumentError, match=r"at '0' cannot become ") as caught:
        swap(torch.nn.Sequential(layer), rules, strict=True)
    assert reason in str(caught.value)


def test_hooks_keep_a_layer():
    network = torch.nn.Sequential(torch.nn.MaxPool2d(2))
    network[0].register_forward_hook(lambda *_: None)
    assert "forward hooks" in reasons(swap(network, {"max": "SoftPool"}))["0"]


def test_subclasses_count_while_they_compute_the_same():
    assert layers.kind(Renamed(2)) == ("max", 2)
    assert layers.kind(Same(2)) == (None, 0)
    assert layers.kind(torch.nn.Conv2d(1, 1, 2)) == (None, 0)
    assert layers.kind(torch.nn.Conv2d(1, 1, 2, stride=(1, 2))) == ("strided-convolution", 2)
    assert layers.kind(torch.nn.ConvTranspose2d(1, 1, 2, stride=2)) == (None, 0)


def test_a_convolution_whose_weight_is_computed_is_kept():
    network = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 2, 2)))
    kept = reasons(swap(network, {"strided-convolution": "SoftPool"}))
    assert kept == {"0": "ParametrizedConv2d may be more than a convolution"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "rules={}: give a mapping"),
        ("max", "rules='max': give a mapping"),
        ({3: "SoftPool"}, "rule 3: choose layers by a kind"),
        ({int: "SoftPool"}, "choose layers by a kind"),
        ({"max": "Softpool"}, "target 'Softpool': use one of "),
        ({"max": "SoftPool2d"}, "target 'SoftPool2d': use one of "),
        ({"max": "SoftPool("}, "target 'SoftPool(' cannot be read"),
        ({"max": "nn.SoftPool"}, "target 'nn.SoftPool' is not a layer"),
        ({"max": 3}, "target 3 is neither a spelling"),
        ({"maxpool": "SoftPool"}, "rule 'maxpool' (did you mean 'max'?) is not a kind"),
        ({"avg_pool": "SoftPool"}, "rule 'avg_pool' (did you mean 'average'?) is not a kind"),
        ({torch.nn.MaxPool3d: "SoftPool"}, "rule 'MaxPool3d' is not a kind"),
        ({"max": "PowerAvgPool(p=3, p=2)"}, "p is given twice in PowerAvgPool(p=3, p=2)"),
        ({"max": "PowerAvgPool(p=small)"}, "small cannot be an argument; these are channels, numbers,"),
        ({"max": "PowerAvgPool(p=math.pi)"}, "math.pi cannot be an argument"),
        ({"max": "LocalImportancePool(Gate(3))"}, "onnxpool.nn has no Gate2d"),
        ({"max": "LocalImportancePool"}, "number of channels of its input must be known: give an example"),
        ({"adaptive": "SoftPool"}, "spatial size of its input must be known: give an example"),
    ],
)
def test_wrong_rules(rules, message):
    with pytest.raises(ArgumentError) as caught:
        swap(small(), rules, strict=True)
    assert message in str(caught.value)


def test_wrong_modules_and_examples():
    with pytest.raises(ArgumentError, match=r"is not a torch\.nn\.Module"):
        swap(torch.relu, {"max": "SoftPool"})
    with pytest.raises(ArgumentError, match="the network cannot run on example: "):
        swap(small(), {"max": "SoftPool"}, example=torch.randn(1, 3, 16, 16))

    class Asks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = torch.nn.MaxPool2d(2)

        def forward(self, x):
            return self.pool(x) * self.pool.kernel_size

    with pytest.raises(ArgumentError, match=r"the swapped network cannot run on example: .*kernel_size"):
        swap(Asks(), {"max": "SoftPool"}, example=torch.randn(1, 3, 16, 16))


# --- the same by onnxpool.nn


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (torch.nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), "MaxPool1d(3 s2 p1 d2 ceil)"),
        (torch.nn.MaxPool2d((3, 2), (1, 2), (1, 0), (1, 2)), "MaxPool2d(3x2 s1x2 p1x0 d1x2)"),
        (torch.nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False), None),
        (torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False), "AvgPool2d(3x3 s2 p1, count_include_pad=False)"),
        (torch.nn.AvgPool2d(3, 2, 1, divisor_override=2), "AvgPool2d(3x3 s2 p1, divisor_override=2)"),
        (torch.nn.AvgPool3d(2, ceil_mode=True, divisor_override=5), None),
        (torch.nn.LPPool2d(4, 3, 2), "PowerAvgPool2d(3x3 s2, p=4, norm='sum')"),
        (torch.nn.AdaptiveAvgPool1d(3), "AdaptiveAvgPool1d(3)"),
        (torch.nn.AdaptiveAvgPool2d((None, 2)), "AdaptiveAvgPool2d(samex2)"),
        (torch.nn.AdaptiveMaxPool2d(5), "AdaptiveMaxPool2d(5x5)"),
        (torch.nn.AdaptiveMaxPool3d((2, None, 1)), "AdaptiveMaxPool3d(2xsamex1)"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("by", ["all", "kind"])
def test_the_same_by_onnxpool(old, new, by):
    kind, rank = layers.kind(old)
    swapped = swap(torch.nn.Sequential(torch.nn.ReLU(), old), {"all" if by == "all" else kind: "same"}, strict=True)
    pool = swapped.network[1]
    assert type(pool).__module__.startswith("onnxpool.pools.")
    assert new is None or swapped.replaced[0].new == new
    for size in ((9, 8, 7), (12, 13, 11)):
        x = torch.randn(2, 3, *size[:rank], generator=torch.manual_seed(7), dtype=torch.float64)
        torch.testing.assert_close(pool(x), old(x))
    assert swapped.sentences() == []


def test_all_chooses_poolings_and_no_convolutions():
    network = small()
    network.add_module("own", nn.SoftPool2d(1))
    network.add_module("gem", GeM(3.0))
    swapped = swap(network, {"all": "same"}, strict=True)
    assert paths(swapped.replaced) == ["first", "block.1", "last", "gem"]
    x = torch.randn(2, 2, 16, 16, generator=torch.manual_seed(1))
    torch.testing.assert_close(swapped.network.eval()(x), network.eval()(x))
    assert paths(swap(network, {"stem": "keep", "all": "keep"}).kept) == ["stem", "first", "block.1", "last", "gem"]


# --- functional poolings


class Functional(torch.nn.Module):
    """One layer that rules can reach, and three calls that they cannot."""

    def __init__(self, branches=False):
        super().__init__()
        self.pool, self.branches = torch.nn.MaxPool2d(2), branches

    def forward(self, x):
        if self.branches and x.sum() > 1e9:
            return x
        x = functional.avg_pool2d(functional.avg_pool2d(self.pool(x), 1), 1)
        return functional.adaptive_max_pool2d(x, 1)


@pytest.mark.parametrize("example", [None, torch.randn(1, 1, 8, 8)], ids=["traced", "run"])
def test_functional_poolings_are_reported(example):
    network = torch.nn.Sequential(torch.nn.MaxPool2d(1), Functional())
    swapped = swap(network, {"max": "SoftPool"}, example=example)
    assert [(call.path, call.layer, call.function, call.calls) for call in swapped.functional] == [
        ("1", "Functional", "avg_pool2d", 2),
        ("1", "Functional", "adaptive_max_pool2d", 1),
    ]
    assert "not swapped: forward of Functional (1) calls avg_pool2d 2 times" in swapped.sentences()
    told = "onnxpool.export translates the functions of torch.nn.functional itself: they need no swap"
    assert swapped.sentences()[-1] == told
    assert swap(torch.nn.MaxPool2d(2), {"max": "SoftPool"}).sentences() == []


def test_functional_poolings_of_what_cannot_be_traced():
    swapped = swap(Functional(branches=True), {"max": "SoftPool"})
    assert swapped.functional is None
    assert swapped.sentences() == ["Functional cannot be traced: give an example to find the poolings it calls"]
    swapped = swap(Functional(branches=True), {"max": "SoftPool"}, example=torch.randn(1, 1, 8, 8))
    assert len(swapped.functional) == 2
    assert swap(torch.nn.MaxPool2d(2), {"average": "SoftPool"}).functional == ()


# --- official packages: stand-ins with their names, attributes and arithmetic


def lip2d(x, logit, kernel, stride, padding):
    weight = logit.exp()
    return functional.avg_pool2d(x * weight, kernel, stride, padding) / functional.avg_pool2d(
        weight, kernel, stride, padding
    )


class Gate(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(x) * 12


def logits(taken, given, size=3):
    return torch.nn.Sequential(
        OrderedDict(
            conv=torch.nn.Conv2d(taken, given, size, padding=size // 2, bias=False),
            bn=torch.nn.InstanceNorm2d(given, affine=True),
            gate=Gate(),
        )
    )


class SimplifiedLIP(torch.nn.Module):
    def __init__(self, channels, window=(3, 2, 1)):
        super().__init__()
        self.logit, self.geometry = logits(channels, channels), window

    def forward(self, x):
        return lip2d(x, self.logit(x), *self.geometry)


class BottleneckLIP(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.postprocessing = logits(128, channels, 1)

    def forward_with_shared(self, x, shared):
        return lip2d(x, self.postprocessing(shared), 3, 2, 1)


class SoftPool2d(torch.nn.Module):
    """Without its extension, as on a machine without CUDA."""

    def __init__(self, kernel_size=2, stride=None, force_inplace=False):
        super().__init__()
        self.kernel_size, self.stride, self.force_inplace = kernel_size, stride, force_inplace

    def forward(self, x):
        raise NameError(f"softpool_cuda, for {x.shape}")


class GeM(torch.nn.Module):
    def __init__(self, p=3.0, eps=1e-6, flat=False, count=1):
        super().__init__()
        self.p, self.eps, self.flat = torch.nn.Parameter(torch.ones(count) * p), eps, flat

    def forward(self, x):
        p = self.p if len(self.p) == 1 else self.p[:, None, None]
        y = functional.avg_pool2d(x.clamp(min=self.eps).pow(p), x.shape[-2:]).pow(1 / p)
        return y[:, :, 0, 0] if self.flat else y


def test_official_softpool():
    swapped = swap(torch.nn.Sequential(SoftPool2d(2), SoftPool2d(3, stride=2)), {"official": "same"}, strict=True)
    assert [one.new for one in swapped.replaced] == ["SoftPool2d(2x2)", "SoftPool2d(3x3 s2)"]
    assert swapped.network[0](SQUARE).item() == pytest.approx(SOFT)
    assert swap(SoftPool2d(3, 2), {"official": "MaxPool"}).replaced[0].new == "MaxPool2d(3x3 s2)"


class RunningSoftPool2d(torch.nn.Module):
    """The formula of the published package, in the ways that its code for the CPU and copies of it have it."""

    def __init__(self, together=False, limited=False, scaled=1.0):
        super().__init__()
        self.kernel_size, self.stride = 2, None
        self.together, self.limited, self.scaled = together, limited, scaled

    def forward(self, x):
        e = x.exp().sum(1, keepdim=True) if self.together else x.exp()
        y = functional.avg_pool2d(x * e, 2) / functional.avg_pool2d(e, 2)
        y = torch.where(y < 0, y * self.scaled, y)
        return y.clamp(min=0) if self.limited else y


RunningSoftPool2d.__name__ = "SoftPool2d"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "its own code gives the same on 3 channels of values from -4.0 to 4.0"),
        ({"together": True}, "its own code sums exponentials over channels, and differs by up to "),
        ({"limited": True}, "its own code lets no result fall below 0, and differs by up to "),
        (
            {"together": True, "limited": True},
            "its own code sums exponentials over channels, and lets no result fall below 0, and differs by up to ",
        ),
    ],
)
def test_which_softpool_it_was_taken_for(options, told):
    old = RunningSoftPool2d(**options)
    swapped = swap(torch.nn.Sequential(old), {"official": "same"}, strict=True)
    (sentence,) = swapped.sentences()
    taken = "taken for SoftPool of each channel by itself, which its CUDA code computes since 2022"
    assert sentence.startswith(f"SoftPool2d() (0): {taken}; {told}")
    assert swapped.to_json()["replaced"][0]["remark"] in sentence
    if options:
        x = official._signed(2)
        off = (swapped.network(x) - old(x)).abs().max().item()
        assert f"differs by up to {off:.2g} on 3 channels of values from -4.0 to 4.0" in sentence
        assert off > 0.1


def test_a_softpool_that_cannot_run_is_taken_unseen():
    (sentence,) = swap(torch.nn.Sequential(SoftPool2d(2)), {"official": "same"}).sentences()
    assert "nothing was compared, since its own code does not run here" in sentence
    assert swap(torch.nn.Sequential(SoftPool2d(2)), {"official": "MaxPool"}).sentences() == []


def test_a_softpool_that_differs_below_0_alone():
    kept = reasons(swap(torch.nn.Sequential(RunningSoftPool2d(scaled=0.5)), {"official": "same"}))
    told = "its results on several channels of both signs are those of no published code"
    assert kept == {"0": f"it is not the official SoftPool2d: {told}"}


def test_a_softpool_that_is_none():
    class Learned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel_size, self.stride = 2, 2

        def forward(self, x):
            return functional.avg_pool2d(x, 2)

    Learned.__name__ = "SoftPool2d"
    kept = reasons(swap(torch.nn.Sequential(Learned()), {"official": "same"}))
    assert kept["0"].startswith("it is not the official SoftPool2d: its results differ from ours by ")
    module = torch.nn.Sequential(type("SoftPool2d", (torch.nn.Module,), {})())
    kept = reasons(swap(module, {"official": "same"}))
    assert kept == {"0": "it is not the official SoftPool2d: its attributes are others"}


@pytest.mark.parametrize("window", [(3, 2, 1), (2, 2, 0)])
def test_official_lip_keeps_its_weights_and_results(window):
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), SimplifiedLIP(5, window))
    swapped = swap(network, {"official": "same"}, strict=True)
    new = swapped.network[1]
    assert isinstance(new, nn.LocalImportancePool2d)
    assert str(new.window) == str(Window.of(2, *window))
    assert swapped.network.state_dict().keys() == network.state_dict().keys()
    assert swapped.replaced[0].parameters == 0
    x = torch.randn(2, 3, 13, 12)
    torch.testing.assert_close(swapped.network(x), network(x))


def test_a_lip_with_another_window_is_kept():
    kept = reasons(swap(torch.nn.Sequential(SimplifiedLIP(5, (4, 4, 0))), {"official": "same"}))
    assert kept["0"].startswith("it is not the official SimplifiedLIP: of (1, 5, 9, 9) it makes (1, 5, 2, 2), ours")


def test_official_lip_with_shared_features():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = torch.nn.Conv2d(3, 128, 1)
            self.pools = torch.nn.Sequential(BottleneckLIP(3))

        def forward(self, x):
            return self.pools[0].forward_with_shared(x, self.shared(x))

    torch.manual_seed(4)
    x = torch.randn(2, 3, 9, 8)
    network = Block()
    assert swap(network, {"max": "SoftPool"}, example=x).functional[0].calls == 2
    swapped = swap(network, {"official": "same"}, example=x, strict=True)
    assert swapped.functional == ()
    assert swapped.network.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(swapped.network(x), network(x))


@pytest.mark.parametrize(("flat", "count"), [(False, 1), (True, 1), (False, 5)])
def test_official_gem(flat, count):
    old = GeM(2.5, flat=flat, count=count)
    swapped = swap(torch.nn.Sequential(old), {"official": "same"}, strict=True)
    new = swapped.network[0]
    assert list(new.state_dict()) == ["p"]
    x = torch.randn(2, 5, 7, 6, generator=torch.manual_seed(0))
    torch.testing.assert_close(new(x), old(x))
    wide = x[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(new.double(), (wide,))


class GeneralizedMeanPooling(torch.nn.Module):
    """Of person re-identification: p is a number, or a buffer."""

    def __init__(self, p, output_size=(1, 1), eps=1e-6, buffer=False):
        super().__init__()
        self.output_size, self.eps = output_size, eps
        if buffer:
            self.register_buffer("p", torch.tensor([p]))
        else:
            self.p = p

    def forward(self, x):
        return functional.adaptive_avg_pool2d(x.clamp(min=self.eps).pow(self.p), self.output_size).pow(1.0 / self.p)


@pytest.mark.parametrize("buffer", [False, True])
def test_official_gem_with_a_p_that_is_not_learned(buffer):
    old = GeneralizedMeanPooling(2.5, buffer=buffer)
    swapped = swap(torch.nn.Sequential(old), {"official": "same"}, strict=True)
    new = swapped.network[0]
    assert type(new) is nn.GeM2d
    assert list(new.state_dict()) == ["p"] * buffer
    assert not list(new.parameters())
    x = torch.randn(2, 5, 7, 6, generator=torch.manual_seed(0))
    torch.testing.assert_close(new(x), old(x))
    kept = reasons(swap(torch.nn.Sequential(GeneralizedMeanPooling(2.5, (2, 2))), {"official": "same"}))
    assert kept["0"].startswith("it is not the official GeneralizedMeanPooling: of (1, 1, 9, 9) it makes (1, 1, 2, 2)")


def test_gem_by_hand_and_far_out():
    pool = official.same(GeM(3.0))
    assert pool(SQUARE).item() == pytest.approx(25 ** (1 / 3))  # (1 + 8 + 27 + 64) / 4
    assert pool(-SQUARE).item() == pytest.approx(1e-6)
    assert pool(SQUARE * 1e30).item() == pytest.approx(25 ** (1 / 3) * 1e30), "1e90 is beyond float32"
    assert pool.half()(SQUARE.half() * 1000).item() == pytest.approx(25 ** (1 / 3) * 1000, rel=1e-3)
    pool.float()
    assert pool(torch.tensor([[[[1.0, math.inf]]]])).item() == math.inf
    assert math.isnan(pool(torch.tensor([[[[1.0, math.nan]]]])).item())
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        pool.p[0] = 1
    torch.testing.assert_close(pool(x), x.clamp(min=1e-6).mean((2, 3), keepdim=True))


class AttentionPool(torch.nn.Module):
    """As Enformer's; ``leaves_out`` is False in its first code, in which padding takes part."""

    def __init__(self, dim, pool_size=2, leaves_out=True, scale=1.0):
        super().__init__()
        self.pool_size, self.leaves_out, self.scale = pool_size, leaves_out, scale
        self.to_attn_logits = torch.nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x):
        rest = x.shape[-1] % self.pool_size
        cells = functional.pad(x, (0, rest)).reshape(*x.shape[:2], -1, self.pool_size)
        logits = self.to_attn_logits(cells)
        if rest and self.leaves_out:
            place = torch.arange(x.shape[-1] + rest).reshape(-1, self.pool_size)
            logits = logits.masked_fill(place >= x.shape[-1], -torch.finfo(logits.dtype).max)
        return (cells * (self.scale * logits).softmax(-1)).sum(-1)


@pytest.mark.parametrize(("size", "lengths"), [(2, (8, 9)), (3, (9, 12)), (4, (8, 10))])
def test_official_attention_pool(size, lengths):
    old = AttentionPool(5, size)
    swapped = swap(torch.nn.Sequential(old), {"official": "same"}, strict=True)
    new = swapped.network[0]
    assert str(new).startswith("LocalImportancePool1d(")
    assert str(new.window) == f"{size} ceil"
    assert swapped.replaced[0].parameters == 0
    for length in lengths:
        x = torch.randn(2, 5, length, generator=torch.manual_seed(length))
        torch.testing.assert_close(new(x), old(x))
        assert new(1e4 * x).isfinite().all()


@pytest.mark.parametrize(
    ("old", "told"),
    [
        (AttentionPool(5, leaves_out=False), "its results differ from ours on (1, 5, 9)"),
        (AttentionPool(5, scale=2.0), "its results differ from ours by "),
        (AttentionPool(5, pool_size=1), "its attributes are others"),
    ],
)
def test_an_attention_pool_that_is_another(old, told):
    kept = reasons(swap(torch.nn.Sequential(old), {"official": "same"}))
    assert kept["0"].startswith(f"it is not the official AttentionPool: {told}")


def test_an_attention_pool_of_others_is_no_layer_of_ours():
    class Other(torch.nn.Module):
        pass

    Other.__name__ = "AttentionPool"
    assert official.rank(Other()) == 0
    assert official.rank(AttentionPool(3)) == 1


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_weights_that_hooks_compute_are_copied():
    """copy.deepcopy alone refuses what weight_norm has left in a layer."""
    network = torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Conv2d(2, 3, 3)), torch.nn.MaxPool2d(2))
    x = torch.randn(1, 2, 6, 6)
    network(x)  # leaves a weight with a gradient
    swapped = swap(network, {"max": "AvgPool"}).network
    torch.testing.assert_close(swapped[0](x), network[0](x))
    with torch.no_grad():
        swapped[0].weight_g.mul_(2)
    assert not torch.allclose(swapped[0](x), network[0](x))


# --- on to ONNX


def test_a_swapped_network_exports_and_validates(tmp_path):
    torch.manual_seed(5)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),
        torch.nn.MaxPool2d(2),
        SimplifiedLIP(4),
        GeM(flat=True),
        torch.nn.Linear(4, 2),
    ).eval()
    rules = {"max": "SoftPool", "strided-convolution": "SoftPool", "official": "same"}
    x = torch.randn(2, 3, 33, 31)
    swapped = swap(network, rules, example=x, strict=True)
    onnxpool.export(swapped.network, (x,), tmp_path / "m.onnx", dynamic_shapes=DYNAMIC)
    nodes = onnxpool.pool_nodes(tmp_path / "m.onnx")
    assert [(node.op_type, str(node.window)) for node in nodes] == [
        ("SoftPool", "2x2 ceil"),
        ("SoftPool", "2x2"),
        ("LocalImportancePool", "3x3 s2 p1"),
    ]
    report = onnxpool.validate(tmp_path / "m.onnx")
    assert report.passed, sentences(report)
    y = onnxpool.load(tmp_path / "m.onnx", kernels="off").run({"input": x[:1, :, :20, :25].numpy()})
    np.testing.assert_allclose(
        next(iter(y.values())), swapped.network(x[:1, :, :20, :25]).detach(), rtol=1e-4, atol=1e-5
    )


def test_a_resnet_of_transformers(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        depths=[1, 1], hidden_sizes=[4, 8], embedding_size=4, layer_type="basic", num_labels=3
    )
    network = transformers.ResNetForImageClassification(config).eval()
    x = torch.randn(1, 3, 32, 32)
    swapped = swap(network, {"max": "SoftPool", "*.stages.*": "SoftPool"}, example=x, strict=True)
    assert [one.paths[0].removeprefix("resnet.") for one in swapped.replaced] == [
        "embedder.pooler",
        "encoder.stages.1.layers.0.shortcut.convolution",
        "encoder.stages.1.layers.0.layer.0.convolution",
    ]
    assert swapped.network.state_dict().keys() == network.state_dict().keys()
    assert swapped.functional == ()
    assert not torch.allclose(swapped.network(x).logits, network(x).logits)

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = swapped.network

        def forward(self, pixels):
            return self.network(pixel_values=pixels).logits

    onnxpool.export(Logits().eval(), (x,), tmp_path / "m.onnx")
    assert len(onnxpool.pool_nodes(tmp_path / "m.onnx")) == 3
    assert onnxpool.validate(tmp_path / "m.onnx").passed


# --- the report and the command


def test_the_report_is_plain_values():
    swapped = swap(small(), {"max": "SoftPool", "average": "keep"})
    assert json.loads(json.dumps(swapped.to_json())) == {
        "replaced": [
            {
                "paths": ["first"],
                "old": "MaxPool2d(3x3 s2 p1 ceil)",
                "new": "SoftPool2d(3x3 s2 p1 ceil)",
                "rule": "max",
                "parameters": 0,
                "remark": "",
            }
        ],
        "kept": [{"paths": ["block.1"], "layer": "AvgPool2d(2x2)", "rule": "average", "reason": "the rule says so"}],
        "functional": [],
    }


def test_kinds_are_those_that_layers_have():
    assert set(KINDS) == {kind for kind, _ in layers._CLASSES.values()} | {"official", "onnxpool"}


NETS = """
import torch
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(3, 2, 1), torch.nn.AvgPool2d(2, 1))
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_swaps_exports_and_tells(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    arguments = ["swap", f"{tmp_path}/nets.py:network", tmp_path / "m.onnx", "--input", "1x3x16x16"]
    arguments += ["--rule", "max=LocalImportancePool(SimplifiedLogit(channels, zero=False))"]
    result = run(*arguments, "--rule", "average=SoftPool", "--dynamic", "batch", "--json")
    assert result.exit_code == 0, result.output
    assert [one["new"] for one in json.loads(result.stdout)["replaced"]] == [
        "LocalImportancePool2d(3x3 s2 p1)",
        "SoftPool2d(2x2 s1)",
    ]
    assert [node.op_type for node in onnxpool.pool_nodes(tmp_path / "m.onnx")] == ["LocalImportancePool", "SoftPool"]
    assert (tmp_path / "m.golden.npz").exists()
    text = run(*arguments[:-2], "--rule", "max=SoftPool").stdout
    assert "MaxPool2d(3x3 s2 p1)" in text
    assert "SoftPool2d(3x3 s2 p1)" in text


def test_commands_take_a_checkpoint(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    torch.manual_seed(11)
    trained = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(3, 2, 1), torch.nn.AvgPool2d(2, 1))
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "trained.pth")
    network, model, file = f"{tmp_path}/nets.py:network", tmp_path / "m.onnx", tmp_path / "trained.pth"
    made = run("swap", network, model, "--input", "1x3x16x16", "--rule", "all=same", "--checkpoint", file)
    assert made.exit_code == 0, made.output
    x = torch.randn(1, 3, 16, 16, generator=torch.manual_seed(2))
    (y,) = onnxpool.load(model, kernels="off").run({"input": x.numpy()}).values()
    np.testing.assert_allclose(y, trained(x).detach(), rtol=1e-4, atol=1e-5)
    assert run("validate", model, "--reference", network, "--checkpoint", file).exit_code == 0
    assert run("validate", model, "--reference", network).exit_code == 1, "the weights of nets.py are others"
    refused = run("validate", model, "--checkpoint", file)
    assert refused.exit_code == 2
    assert "is for a network: name it by --reference" in " ".join(refused.stderr.split())
    (tmp_path / "other.pth").write_bytes(b"")
    assert (
        run(
            "swap",
            network,
            model,
            "--input",
            "1x3x16x16",
            "--rule",
            "all=same",
            "--checkpoint",
            file.with_name("other.pth"),
        ).exit_code
        == 2
    )


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (["power=SoftPool"], "was replaced by power=SoftPool"),
        (["max=SoftPool(stride=1)"], "was replaced by max=SoftPool(stride=1); MaxPool2d(3x3 s2 p1) is kept: a window"),
        (["maxSoftPool"], "rule='maxSoftPool': write LAYERS=POOLING"),
        (["max="], "rule='max=': write LAYERS=POOLING"),
        (["max=SoftPool", "max=MaxPool"], "rule='max=MaxPool': write LAYERS=POOLING, such as max=SoftPool, once"),
        (["max=SoftPool", "--strict", "average=SoftPool(stride=3)"], "AvgPool2d(2x2 s1) at '2' cannot become"),
    ],
)
def test_wrong_questions(tmp_path, rules, told):
    (tmp_path / "nets.py").write_text(NETS)
    options = [part for rule in rules for part in ([rule] if rule == "--strict" else ["--rule", rule])]
    result = run("swap", f"{tmp_path}/nets.py:network", tmp_path / "m.onnx", "--input", "1x3x16x16", *options)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert not (tmp_path / "m.onnx").exists()


def test_it_imports_without_torch():
    program = """
import sys
sys.modules["torch"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else real(name, *rest)
import onnxpool
try:
    onnxpool.swap(None, {"max": "SoftPool"})
except onnxpool.errors.MissingExtra as error:
    assert "pip install 'onnxpool[export]'" in str(error), error
else:
    raise AssertionError("should have said that torch is missing")
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
