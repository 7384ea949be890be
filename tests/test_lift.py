"""Poolings spelled out in standard operators: which are found, which are refused and why, and that none is changed."""

import io
import json
import logging
import os
import warnings
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

import onnxpool
from onnxpool import lift
from onnxpool.cli.commands import app
from onnxpool.errors import FormError
from onnxpool.pools import OPERATORS
from onnxpool.pools.power_average import reference as power_average
from onnxpool.run.native_library import why_missing
from onnxpool.window import Window

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

F = torch.nn.functional
DYNAMIC = ({0: "batch", 2: "height", 3: "width"},)


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(module, x, dynamic=False, legacy=False, opset=18):
    """By PyTorch's own exporters, which know nothing of onnxpool."""
    module = module if isinstance(module, torch.nn.Module) else Function(module)
    logger = logging.getLogger("torch.onnx")
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not legacy:
            axes = DYNAMIC if dynamic else None
            program = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, opset_version=opset, dynamic_shapes=axes
            )
            return ir.to_proto(program.model)
        file = io.BytesIO()
        axes = {"x": DYNAMIC[0]} if dynamic else None
        torch.onnx.export(module, (x,), file, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes)
        return onnx.load_from_string(file.getvalue())


def written(nodes, shape="1, 2, 9, 8", dtype="float", output="y", constants="", opset=18):
    """A model in ONNX's text format, from x to y."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        graph ({dtype}[{shape}] x) => ({dtype}[{", ".join(f"y{i}" for i in range(shape.count(",") + 1))}] {output})
        {constants} {{ {nodes} }}"""
    return onnx.parser.parse_model(text)


def run(model, x, kernels="off"):
    session = onnxpool.load(model, kernels=kernels, threads=1)
    return next(iter(session.run({session.inputs[0].name: x}).values()))


def found(lifted):
    return [(fold.op_type, fold.window) for fold in lifted.folds]


def operators(model):
    return [node.op_type for node in model.graph]


def refusals(model):
    """Why nothing is lifted; the model stays as it was."""
    lifted = lift(model)
    assert not lifted.folds
    assert [node.op_type for node in lifted.model.graph] == [node.op_type for node in model.graph.node]
    return [refused.reason for refused in lifted.refused]


# --- what PyTorch's exporters write


def soft(x, *window):
    weight = torch.exp(x)
    return F.avg_pool2d(x * weight, *window) / F.avg_pool2d(weight, *window)


def soft_summed(x):
    weight = torch.exp(x)
    return F.avg_pool2d(weight * x, 2) * 4 / (F.avg_pool2d(weight, 2) * 4)


def soft_below_maximum(x):
    weight = torch.exp(x - x.amax((2, 3), keepdim=True))
    return F.avg_pool2d(x * weight, 2) / F.avg_pool2d(weight, 2)


def soft_unfolded(x):
    n, c, h, w = x.shape
    cells = F.unfold(x, 2, stride=2).reshape(n, c, 4, -1)
    return (cells * cells.softmax(2)).sum(2).reshape(n, c, h // 2, w // 2)


def soft_of_views(x):
    cells = x.unfold(2, 3, 2).unfold(3, 3, 2)
    weights = cells.exp()
    return (cells * weights).sum((-1, -2)) / weights.sum((-1, -2))


def soft_reshaped(x):
    n, c, h, w = x.shape
    cells = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    return (cells * cells.softmax(-1)).sum(-1)


def soft_stacked(x):
    cells = torch.stack([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], -1)
    return (cells * cells.softmax(-1)).sum(-1)


def soft_sliced(x):
    cells = [x[:, :, i::2, j::2] for i in range(2) for j in range(2)]
    top = torch.maximum(torch.maximum(cells[0], cells[1]), torch.maximum(cells[2], cells[3]))
    weights = [(cell - top).exp() for cell in cells]
    return sum(cell * weight for cell, weight in zip(cells, weights, strict=True)) / sum(weights)


def soft_convolved(x):
    weight, ones = torch.exp(x), torch.ones(x.shape[1], 1, 3, 3)
    above, below = (F.conv2d(value, ones, stride=2, padding=1, groups=x.shape[1]) for value in (x * weight, weight))
    return above / below


def gem_convolved(x):
    kernel = torch.full((x.shape[1], 1, 2, 2), 0.25)
    return F.conv2d(x.clamp(min=1e-6).pow(3.0), kernel, stride=2, groups=x.shape[1]).pow(1 / 3)


def soft_everywhere(x):
    weight = x.exp()
    return (x * weight).mean((2, 3)) / weight.mean((2, 3))


def soft_flattened(x):
    flat = x.flatten(2)
    return (flat.softmax(-1) * flat).sum(-1)


def rectified(x):
    a = F.relu(x)
    return F.avg_pool2d(a * a, 3, 2, 1) / F.avg_pool2d(a, 3, 2, 1)


def guarded(x):
    a = x.clamp(min=0)
    total = F.avg_pool2d(a, 2)
    return torch.where(total > 0, F.avg_pool2d(a**2, 2) / total, torch.zeros_like(total))


def gem(x):
    return F.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(3.0), 1).pow(1 / 3)


def gem_of_windows(x):
    return F.avg_pool2d(x.clamp(min=1e-6).pow(3.0), 3, 2, 1).pow(1 / 3)


SPELLED = [
    (lambda x: soft(x, 3, 2, 1), "SoftPool", "3x3 s2 p1", False),
    (lambda x: soft(x, 3, 2, 1, True, False), "SoftPool", "3x3 s2 p1 ceil", False),
    (soft_summed, "SoftPool", "2x2", False),
    (soft_below_maximum, "SoftPool", "2x2", False),
    (soft_unfolded, "SoftPool", "2x2", True),
    (soft_of_views, "SoftPool", "3x3 s2", False),
    (soft_reshaped, "SoftPool", "2x2", False),
    (soft_stacked, "SoftPool", "2x2", True),
    (soft_sliced, "SoftPool", "2x2", False),
    (soft_convolved, "SoftPool", "3x3 s2 p1", False),
    (gem_convolved, "PowerAverage", "2x2", True),
    (soft_everywhere, "SoftPool", "8x6", False),
    (soft_flattened, "SoftPool", "8x6", False),
    (rectified, "StochasticPool", "3x3 s2 p1", False),
    (guarded, "StochasticPool", "2x2", False),
    (gem, "PowerAverage", "all", True),
    (gem_of_windows, "PowerAverage", "3x3 s2 p1", False),
    (lambda x: F.lp_pool2d(x, 2.0, 2), "PowerAverage", "2x2", False),
]


@pytest.mark.parametrize(("function", "op_type", "window", "dynamic"), SPELLED)
def test_spellings_of_pytorch(function, op_type, window, dynamic):
    x = torch.randn(2, 3, 8, 6, generator=torch.manual_seed(0))
    model = exported(function, x, dynamic)
    before = model.SerializeToString()
    lifted = lift(model)
    assert model.SerializeToString() == before
    assert found(lifted) == [(op_type, window)]
    assert not lifted.refused
    assert lifted.checked.startswith("equal to the model itself in float64")
    gone = {"Pow"} if function is guarded else {"Exp", "Softmax", "Relu", "AveragePool"}
    gone -= {"Pow"} if op_type == "PowerAverage" else set()
    gone |= {"Conv"} if function in (soft_convolved, gem_convolved) else set()
    assert not gone & set(operators(lifted.model))
    assert onnxpool.form_of(lifted.model) == ("standard" if op_type == "PowerAverage" else "function")
    y, right = run(lifted.model, x.numpy()), function(x).numpy()
    empty = np.isnan(right)  # 0 / 0 in windows of zeros
    assert (y[empty] == 0).all()
    np.testing.assert_allclose(y[~empty], right[~empty], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("opset", [11, 18])
def test_both_exporters_and_an_old_opset(legacy, opset):
    if not legacy and opset < 18:
        pytest.skip("the newer exporter starts at opset 18")
    x = torch.randn(2, 3, 8, 6, generator=torch.manual_seed(0))
    for function in (lambda x: soft(x, 2), soft_stacked, gem):
        lifted = lift(exported(function, x, legacy=legacy, opset=opset))
        assert len(lifted.folds) == 1
        assert lifted.model.opset_imports[""] >= 18
        np.testing.assert_allclose(run(lifted.model, x.numpy()), function(x).numpy(), rtol=1e-5, atol=1e-6)


class Importance(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.logit = torch.nn.Sequential(torch.nn.Conv2d(4, channels, 1), torch.nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        weight = (12 * self.logit(x)).exp()
        return F.avg_pool2d(x * weight, 3, 2, 1) / F.avg_pool2d(weight, 3, 2, 1)


@pytest.mark.parametrize(("channels", "dynamic"), [(4, False), (1, False), (1, True)])
def test_local_importance(channels, dynamic):
    module, x = Importance(channels), torch.randn(2, 3, 9, 8, generator=torch.manual_seed(1))
    lifted = lift(exported(module, x, dynamic))
    assert found(lifted) == [("LocalImportancePool", "3x3 s2 p1")]
    assert operators(lifted.model).count("Expand") == (channels == 1)
    np.testing.assert_allclose(run(lifted.model, x.numpy()), module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(why_missing() is not None, reason="no native library here")
def test_lifted_models_run_natively():
    x = torch.randn(2, 3, 9, 8, generator=torch.manual_seed(1))
    for function in (lambda x: soft(x, 3, 2, 1), Importance(4), rectified):
        (placement,) = onnxpool.load(lift(exported(function, x)).model, kernels="require").placements
        assert placement.native


# --- safe where the original is not


def test_by_hand():
    model = lift(exported(lambda x: soft(x, 2), torch.zeros(1, 1, 2, 2))).model
    assert run(model, np.array([[[[1, 2], [3, 4]]]], np.float32)).item() == pytest.approx(3.4926527346)
    model = lift(exported(lambda x: F.avg_pool2d(x.relu() ** 2, 2) / F.avg_pool2d(x.relu(), 2), torch.ones(1, 1, 2, 2)))
    assert run(model.model, np.array([[[[-1, 2], [3, -4]]]], np.float32)).item() == pytest.approx(2.6)
    assert run(model.model, np.zeros((1, 1, 2, 2), np.float32)).item() == 0  # the original gives NaN


@pytest.mark.parametrize(("dtype", "large"), [("float32", 100), ("float16", 12)])
def test_no_overflow(dtype, large):
    x = np.array([[[[large, large - 1], [0, -large]]]], dtype)
    original = exported(lambda x: soft(x, 2), torch.from_numpy(x) * 0)
    with np.errstate(all="ignore"):
        (naive,) = ReferenceEvaluator(original).run(None, {"x": x})  # ONNX Runtime computes float16 in float32
    assert not np.isfinite(naive).any()
    y = run(lift(original).model, x)
    answer = OPERATORS["SoftPool"].reference(Window.of(2, 2), x.astype(np.float64))
    np.testing.assert_allclose(y, answer, rtol=1e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("function", [gem, lambda x: F.avg_pool2d(x.clamp(min=1e-6) ** 3, 2) ** (1 / 3)])
def test_power_means_do_not_overflow(function):
    x = np.array([[[[1e20, 2e20], [1, 0]], [[1e-3, 1e-3], [2e-3, 1e-3]]]], np.float32)
    original = exported(function, torch.from_numpy(x) * 0)
    assert np.isinf(run(original, x)).any()
    y = run(lift(original).model, x)
    answer = power_average(Window.of(2, 2), np.maximum(x, 1e-6).astype(np.float64), 3.0, "mean")
    np.testing.assert_allclose(y, answer, rtol=1e-6)


# --- written by hand

SOFT = "e = Exp (x) p = Mul (x, e) a = {above} (p) b = {below} (e) y = Div (a, b)"
POOL = "AveragePool <kernel_shape = [3, 3], strides = [2, 2]{}>"


def quotient(above, below=None):
    return SOFT.format(above=above, below=below or above)


@pytest.mark.parametrize(
    ("nodes", "window"),
    [
        (quotient("AveragePool <kernel_shape = [2, 3]>"), "2x3 s1"),
        (quotient(POOL.format(', auto_pad = "VALID"')), "3x3 s2"),
        (quotient(POOL.format(", pads = [1, 1, 1, 1]")), "3x3 s2 p1"),
        (quotient(POOL.format(", ceil_mode = 1")), "3x3 s2 ceil"),
        (quotient(POOL.format(""), POOL.format(", count_include_pad = 1")), "3x3 s2"),  # nothing is padded
        (quotient(POOL.format("")).replace("Mul (x, e)", "Mul (e, x)"), "3x3 s2"),
        (quotient(POOL.format("")).replace("p =", "f = Exp (x) p =").replace("x, e", "x, f"), "3x3 s2"),
        (quotient(POOL.format("")).replace("Exp (x)", "Identity (f)").replace("e =", "f = Exp (x) e =", 1), "3x3 s2"),
    ],
)
def test_spellings_by_hand(nodes, window):
    model = written(nodes)
    lifted = lift(model)
    assert found(lifted) == [("SoftPool", window)]
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(run(lifted.model, x), run(model, x), rtol=1e-5, atol=1e-6)


def test_same_padding_of_fixed_sizes_is_settled():
    same = POOL.format(', auto_pad = "SAME_UPPER"')
    assert found(lift(written(quotient(same), "1, 2, 7, 9"))) == [("SoftPool", "3x3 s2 p1")]
    assert "pads=(0, 0, 1, 1) differ at begin and end" in refusals(written(quotient(same), "1, 2, 8, 8"))[0]
    assert "auto_pad=SAME_UPPER depends on sizes" in refusals(written(quotient(same), "N, 2, H, W"))[0]


def test_dilation():
    nodes = quotient(POOL.format(", dilations = [2, 1]"))
    assert found(lift(written(nodes, opset=19))) == [("SoftPool", "3x3 s2 d2x1")]


def test_casts_to_a_wider_type_around_a_pool_go():
    nodes = f"w = Cast <to = 1> (x) {quotient(POOL.format('')).replace('x', 'w')}".replace("y =", "q =")
    nodes = nodes.replace("AveragePool <kernel_shape = [3, 3], strides", "AveragePool <kernel_shape = [3, 3], strides")
    lifted = lift(written(f"{nodes.replace('Ewp', 'Exp')} y = Cast <to = 10> (q)", dtype="float16"))
    assert lifted.folds[0].inputs == ("x",)
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 8)).astype(np.float16) * 5
    answer = OPERATORS["SoftPool"].reference(Window.of(2, 3, 2), x.astype(np.float64))
    np.testing.assert_allclose(run(lifted.model, x), answer, rtol=1e-3)


def test_what_others_need_stays():
    model = written(f"{quotient(POOL.format('')).replace('y =', 'q =')} y = Add (q, b)")
    lifted = lift(model)
    assert operators(lifted.model) == ["Exp", "AveragePool", "SoftPool", "Add"]
    twice = written("e = Exp (x) p = Mul (x, e) a = AveragePool <kernel_shape = [2, 2]> (p) "
                    "b = AveragePool <kernel_shape = [2, 2]> (e) q = Div (a, b) r = Relu (q)"
                    "s = Mul (r, r) c = AveragePool <kernel_shape = [2, 2]> (s) d = AveragePool <kernel_shape = [2, 2]>"
                    "(r) y = Div (c, d)")  # fmt: skip
    lifted = lift(twice)
    assert operators(lifted.model) == ["SoftPool", "StochasticPool"]
    x = 1 + np.random.default_rng(0).random(size=(1, 2, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(run(lifted.model, x), run(twice, x), rtol=1e-5, atol=1e-6)


def test_names_and_values_outside():
    model = written(quotient(POOL.format("")))
    model.graph.node[-1].name = "/stage/pool/Div"
    lifted = lift(model)
    assert lifted.folds[0].node == lifted.model.graph[0].name == "/stage/pool/SoftPool"
    assert [output.name for output in lifted.model.graph.outputs] == ["y"]


def test_inside_of_a_branch():
    nodes = f"""s = ReduceSum <keepdims = 0> (x) z = Constant <value = float {{0}}> () go = Greater (s, z)
        y = If (go) <
            then_branch = one () => (float[1, 2, A, B] t) {{ {quotient(POOL.format("")).replace("y =", "t =")} }},
            else_branch = two () => (float[1, 2, A, B] u) {{ u = {POOL.format("")} (x) }}
        >"""
    model = written(nodes)
    lifted = lift(model)
    assert found(lifted) == [("SoftPool", "3x3 s2")]
    for x in (np.ones((1, 2, 9, 8), np.float32), -np.ones((1, 2, 9, 8), np.float32)):
        np.testing.assert_allclose(run(lifted.model, x), run(model, x))


def test_own_models_are_left_and_untagged_slices_found():
    from onnxpool import nn

    x = torch.zeros(1, 2, 8, 8)
    own = onnxpool.export(nn.SoftPool2d(3, 2, 1), (x,), golden=False)
    assert lift(own).model is own
    standard = onnxpool.to_form(own, "standard")
    assert not lift(standard).folds  # its tags say what it is: to_form folds it exactly
    for node in standard.graph:
        node.metadata_props.clear()
    assert found(lift(standard)) == [("SoftPool", "3x3 s2 p1")]


# --- what is not a pooling of ours

CLIPPED = "l = Constant <value = float {1e-6}> () c = Clip (x, l) k = Constant <value = float {3}> () p = Pow (c, k)"
ROOT = "r = Constant <value = float {0.33333333}> () y = Pow (m, r)"


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (quotient(POOL.format(""), POOL.format("").replace("2, 2", "2, 1")), "strides (2, 2) and (2, 1)"),
        (quotient(POOL.format(""), "GlobalAveragePool"), "AveragePool and ReduceMean"),
        (
            quotient(POOL.format(", pads = [1, 1, 1, 1]"), POOL.format(", pads = [1, 1, 1, 1], count_include_pad = 1")),
            "count_include_pad 0 and 1",
        ),
        (quotient(POOL.format(", pads = [1, 1, 0, 0]")), "differ at begin and end"),
        (
            quotient(POOL.format("")).replace("y = Div (a, b)", "k = Constant <value = float {9}> () "
                     "s = Mul (a, k) y = Div (s, b)"), "multiplied by 9, the denominator by 1",
        ),
        (
            quotient(POOL.format("")).replace("y = Div (a, b)", "k = Constant <value = float {1e-8}> () "
                     "s = Add (b, k) y = Div (a, s)"), "1e-08 is added to the denominator",
        ),
        (quotient(POOL.format("")).replace("Exp", "Sigmoid"), "the weights are 'e' (made by Sigmoid), not the exp"),
        (quotient(POOL.format("")).replace("p = Mul (x, e)", "f = Exp (e) p = Mul (x, f)"), "not a product with 'e'"),
        (f"p = Mul (x, x) a = {POOL.format('')} (p) b = {POOL.format('')} (x) y = Div (a, b)", "'x' may be negative"),
        (f"{CLIPPED} m = {POOL.format('')} (p) {ROOT.replace('0.33333333', '0.5')}", "3 and 0.5 are not"),
        (f"{CLIPPED.replace('(c, k)', '(x, k)')} m = {POOL.format('')} (p) {ROOT}", "'x' may be negative"),
        (f"{CLIPPED.replace('k = Constant <value = float {3}> ()', 'k = ReduceMax <keepdims = 0> (x)')} "
         f"m = {POOL.format('')} (p) {ROOT}", "not one number each"),
    ],
)  # fmt: skip
def test_near_misses(nodes, reason):
    (told,) = refusals(written(nodes))
    assert reason in told


def test_a_window_has_a_fixed_size():
    (told,) = refusals(written(quotient("GlobalAveragePool"), "N, C, H, W"))
    assert "it pools all of 'x', whose sizes may change" in told


def padded_with(value, mode="constant"):
    def function(x):
        cells = F.pad(x, (1, 1, 1, 1), mode, value).unfold(2, 3, 2).unfold(3, 3, 2)
        flat = cells.reshape(*cells.shape[:4], 9)
        return (flat * flat.softmax(-1)).sum(-1)

    return function


def across_channels(x):
    cells = torch.stack([x, x.flip(1)], -1)
    return (cells * cells.softmax(-1)).sum(-1)


def turned(x):
    cells = x.transpose(2, 3).unfold(2, 2, 2).unfold(3, 2, 2).reshape(2, 3, 3, 4, 4)
    return (cells * cells.softmax(-1)).sum(-1)


def other_cells(x):
    cells = x[:, :, :, :6].unfold(3, 2, 2)
    others = x.roll(1, 3)[:, :, :, :6].unfold(3, 2, 2)
    return (cells * others.softmax(-1)).sum(-1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (padded_with(0.0), "the padding takes part in it, as cells of 0"),
        (padded_with(-5.0), "the padding takes part in it, as cells of -5"),
        (padded_with(None, "reflect"), "takes a cell twice"),
        (turned, "make no window"),
        (other_cells, "different cells"),
    ],
)
def test_near_misses_among_views(function, reason):
    (told,) = refusals(exported(function, torch.randn(2, 3, 8, 6)))
    assert reason in told


def log_sum_exp(x):
    return torch.log(F.avg_pool2d(x.exp(), 2))


@pytest.mark.parametrize("function", [log_sum_exp, lambda x: 2 * (x / 2).exp().mean((2, 3)).log()])
def test_log_sum_exp_is_told(function):
    (told,) = refusals(exported(function, torch.randn(2, 3, 8, 6)))
    assert "log-sum-exp pooling is standard operators in every form" in told
    assert "onnxpool.nn.LogSumExpPool" in told
    below = Function(lambda x: (F.avg_pool2d((x - 3).exp(), 2) + 1).log())
    assert not refusals(exported(below, torch.randn(2, 3, 8, 6)))


@pytest.mark.parametrize(
    "kernel", [torch.ones(6, 1, 2, 2), torch.ones(1, 3, 2, 2), torch.arange(12.0).reshape(3, 1, 2, 2) + 1], ids=str
)
def test_other_convolutions_are_no_sums(kernel):
    def convolved(x):
        above, below = (F.conv2d(value, kernel, groups=3 // kernel.shape[1]) for value in (x * x.exp(), x.exp()))
        return above / below

    assert not lift(exported(convolved, torch.randn(2, 3, 8, 6))).folds


def test_an_input_that_callers_may_give_is_no_constant():
    nodes = quotient(POOL.format("")).replace("y = Div (a, b)", "s = Mul (a, k) t = Mul (b, k) y = Div (s, t)")
    model = written(nodes, constants="<float k = {9}>")
    assert found(lift(model)) == [("SoftPool", "3x3 s2")]
    model.graph.input.append(onnx.helper.make_tensor_value_info("k", 1, []))
    assert not lift(model).folds


@pytest.mark.parametrize("function", [across_channels, lambda x: x.softmax(1) * x / x.sum(1, keepdim=True)])
def test_other_weighted_sums_are_no_poolings(function):
    assert not lift(exported(function, torch.randn(2, 3, 8, 6))).folds


LIGHT = sorted(Path(onnx.__file__).parent.glob("backend/test/data/light/*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_well_known_networks_are_left(path):
    assert refusals(onnx.load(path)) == []


class Logits(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(pixel_values=x).logits


@pytest.mark.parametrize("legacy", [False, True])
def test_networks_of_transformers_are_left(legacy):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5}
    networks = (
        transformers.ResNetForImageClassification(transformers.ResNetConfig(embedding_size=8, **small)),
        transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_stages=2, **small)),
    )
    for network in networks:
        module = Logits(network.eval())
        assert refusals(exported(module, torch.randn(1, 3, 32, 32), legacy=legacy)) == []


# --- the comparison


def test_a_lifted_model_that_disagrees_is_not_given(monkeypatch, tmp_path):
    """The reader is made to misread the window."""
    model = written(quotient(POOL.format("")))
    monkeypatch.setattr("onnxpool.lifting.recognise.window_of", lambda _: Window.of(2, (3, 2), 2))
    with pytest.raises(FormError, match=r"could not be shown to equal the original.*'y' has shape"):
        lift(model)
    monkeypatch.setattr("onnxpool.lifting.recognise.window_of", lambda _: Window.of(2, 3, 2, dilation=(1, 1)))
    monkeypatch.setattr("onnxpool.lifting.recognise._squared", lambda _, weights: weights[0])
    with pytest.raises(FormError, match="'y' is off by"):
        lift(model)
    onnx.save(model, tmp_path / "m.onnx")
    result = CliRunner().invoke(app, ["lift", str(tmp_path / "m.onnx"), str(tmp_path / "lifted.onnx")])
    assert result.exit_code == 2
    assert not (tmp_path / "lifted.onnx").exists()


def test_large_models_are_compared_in_onnx_runtime(monkeypatch):
    monkeypatch.setattr("onnxpool.golden.from_model.MOST_WEIGHTS", 0)
    weights = "<float[2, 2, 1, 1] k = {1, 2, 3, 4}>"
    nodes = f"v = Conv (x, k) {quotient(POOL.format('')).replace('(x', '(v')}"
    lifted = lift(written(nodes, constants=weights))
    assert lifted.checked.startswith("equal to the original in ONNX Runtime in 5 cases")
    assert lifted.folds[0].inputs == ("v",)


def test_float64_is_compared_in_float64():
    lifted = lift(written(quotient(POOL.format("")), dtype="double"))
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 8))
    np.testing.assert_allclose(run(lifted.model, x), OPERATORS["SoftPool"].reference(Window.of(2, 3, 2), x), rtol=1e-14)


def test_old_opsets_that_cannot_be_converted_are_refused(monkeypatch):
    def broken(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", broken)
    with pytest.raises(FormError, match="need opset 18, the model has 11 and onnx cannot convert it"):
        lift(written(quotient(POOL.format("")), opset=11))


def test_values_before_they_are_computed():
    from onnxpool.lifting.values import nonnegative, same

    model = ir.from_proto(written("r = Relu (x) k = Constant <value = float {-1}> () m = Max (k, r) n = Mul (x, r)"
                                  "s = Mul (x, x) t = Mul (x, x) u = Clip (x, k) f = Flatten (r) a = Add (s, f)"
                                  "v = RandomNormalLike (x) w = RandomNormalLike (x) y = Identity (x)"))  # fmt: skip
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    assert {name for name, value in by_name.items() if nonnegative(value)} == {"r", "m", "s", "t", "f", "a"}
    assert same(by_name["s"], by_name["t"])
    assert same(by_name["y"], model.graph.inputs[0])
    assert not same(by_name["s"], by_name["n"])
    assert not same(by_name["v"], by_name["w"])


# --- the command


def test_command(tmp_path):
    onnx.save(written(quotient(POOL.format(""))), tmp_path / "m.onnx")
    arguments = ["lift", str(tmp_path / "m.onnx"), str(tmp_path / "lifted.onnx")]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0
    assert "SoftPool" in told.stdout
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(result.stdout)["folds"][0]["window"] == "3x3 s2"
    assert onnxpool.form_of(tmp_path / "lifted.onnx") == "function"
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 8)).astype(np.float32)
    (y,) = ReferenceEvaluator(onnx.load(tmp_path / "m.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(run(tmp_path / "lifted.onnx", x), y, rtol=1e-5)


def test_command_where_there_is_nothing(tmp_path):
    onnx.save(written(f"p = Mul (x, x) a = {POOL.format('')} (p) b = {POOL.format('')} (x) y = Div (a, b)"),
              tmp_path / "m.onnx")  # fmt: skip
    told = CliRunner().invoke(app, ["lift", str(tmp_path / "m.onnx"), str(tmp_path / "lifted.onnx")])
    assert told.exit_code == 1
    assert "may be negative" in " ".join(told.stdout.replace("│", " ").split())
    assert not (tmp_path / "lifted.onnx").exists()
    absent = CliRunner().invoke(app, ["lift", str(tmp_path / "absent.onnx"), str(tmp_path / "lifted.onnx")])
    assert absent.exit_code == 2
    assert "Example: onnxpool lift" in CliRunner().invoke(app, ["lift", "--help"]).stdout
