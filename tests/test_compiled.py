"""The native operators where PyTorch transforms programs: torch.compile, torch.func, batched gradients, autocast."""

import copy

import pytest
import torch
from cases import WINDOWS, shape
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, hessian, jacrev, vmap

from onnxpool import nn
from onnxpool.pools import _native
from onnxpool.pools._schema import fields
from onnxpool.pools.local_importance import local_importance_pool
from onnxpool.pools.soft import soft_pool
from onnxpool.pools.stochastic import stochastic_pool
from onnxpool.window import Window

pytestmark = pytest.mark.skipif(_native.why_not() is not None, reason="without the native library")

CALLS = {"soft_pool": soft_pool, "local_importance_pool": local_importance_pool, "stochastic_pool": stochastic_pool}
EACH = pytest.mark.parametrize("name", CALLS)
WINDOW = Window.of(2, 3, 2, 1)
CHANNELS_LAST = torch.channels_last


def pooled(name, window=WINDOW):
    """A function of one tensor."""
    if name == "local_importance_pool":
        return lambda x: local_importance_pool(window, x, 2 * x.flip(-1))
    return lambda x: CALLS[name](window, x)


def operator(name):
    return getattr(torch.ops.onnxpool, f"native_{name}").default


def targets(graphs):
    return [str(node.target) for graph in graphs for node in graph.graph.nodes]


@pytest.fixture
def without(monkeypatch):
    """As where there is no native library."""
    monkeypatch.setenv(_native.SWITCH, "off")
    _native._library.cache_clear()
    yield
    monkeypatch.undo()
    _native._library.cache_clear()


# --- torch.compile


@EACH
def test_what_is_compiled_is_one_graph_for_all_sizes_with_the_bits_of_eager(name):
    torch.manual_seed(1)
    pool, backend = pooled(name), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pool, backend=backend, fullgraph=True, dynamic=True)
    for size in ((2, 3, 9, 8), (3, 4, 12, 13), (2, 5, 6, 6)):
        x = torch.randn(size, requires_grad=True)
        y, wanted = compiled(x), pool(x)
        slope = torch.randn(y.shape)
        assert torch.equal(y, wanted)
        assert torch.equal(*(torch.autograd.grad(each, x, slope)[0] for each in (y, wanted)))
    assert backend.frame_count == 1
    assert f"onnxpool.native_{name}.default" in targets(backend.graphs)


@EACH
def test_compiled_memory_formats_are_those_of_eager(name):
    torch.manual_seed(2)
    compiled = torch.compile(pooled(name), backend="aot_eager", fullgraph=True)
    for x in (
        torch.randn(2, 3, 8, 6).contiguous(memory_format=CHANNELS_LAST),
        torch.randn(8, 6, 2, 3).permute(2, 3, 0, 1),
        torch.randn(2, 1, 8, 6).contiguous(memory_format=CHANNELS_LAST),
        torch.randn(2, 6, 8, 6)[:, ::2],
    ):
        leaf = x.requires_grad_()
        pairs = []
        for call in (compiled, pooled(name)):
            y = call(leaf)
            pairs.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
        for found, wanted in zip(*pairs, strict=True):
            assert torch.equal(found, wanted)
            assert found.stride() == wanted.stride()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, for itself
def test_a_compiled_network_trains_as_the_eager_one(backend):
    torch.manual_seed(3)
    logit = nn.ProjectionLogit2d(4, zero=False)
    first = torch.nn.Conv2d(3, 4, 3, padding=1)
    net = torch.nn.Sequential(first, nn.SoftPool2d(3, 2, 1), nn.LocalImportancePool2d(logit), nn.StochasticPool2d(2))
    net[-1].eval()
    twin = copy.deepcopy(net)
    x = torch.randn(2, 3, 16, 12)
    for module, call in ((net, torch.compile(net, backend=backend, fullgraph=True)), (twin, twin)):
        steps = torch.optim.SGD(module.parameters(), 0.05)
        for _ in range(2):
            steps.zero_grad()
            call(x).square().sum().backward()
            steps.step()
    for found, wanted in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert not torch.equal(net[0].weight, torch.nn.Conv2d(3, 4, 3).weight)


@pytest.mark.parametrize("strict", [False, True])
@EACH
def test_programs_that_travel_hold_no_native_operator(name, strict):
    class Net(torch.nn.Module):
        def forward(self, x):
            return pooled(name)(x)

    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(Net(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=(sizes,), strict=strict)
    assert f"onnxpool.{name}.default" in targets([program.graph_module])
    for each in (program, program.run_decompositions()):
        assert not [target for target in targets([each.graph_module]) if "native" in target]


@EACH
def test_compiled_without_the_library(name, without):
    torch.manual_seed(4)
    x = torch.randn(2, 3, 7, 7)
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pooled(name), backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), pooled(name)(x))
    assert f"onnxpool.{name}.default" in targets(backend.graphs)


@EACH
def test_an_operator_that_was_compiled_elsewhere_needs_no_library(name, monkeypatch):
    torch.manual_seed(5)
    x = torch.randn(2, 3, 7, 7, requires_grad=True)
    tensors = (x, 2 * x.flip(-1)) if name == "local_importance_pool" else (x,)
    wanted = operator(name)(*tensors, *fields(WINDOW))
    slope = torch.autograd.grad(wanted.square().sum(), x, retain_graph=True)[0]
    monkeypatch.setattr(_native, "_library", lambda: (None, "there is none"))
    found = operator(name)(*tensors, *fields(WINDOW))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], slope)


@EACH
def test_operators_keep_what_pytorch_expects_of_them(name):
    torch.manual_seed(6)
    window = [list(each) if isinstance(each, tuple) else each for each in fields(WINDOW)]
    for dtype, memory_format in ((torch.float64, torch.contiguous_format), (torch.float16, CHANNELS_LAST)):
        count = 2 if name == "local_importance_pool" else 1
        given = [torch.randn(2, 3, 7, 6).to(dtype, memory_format=memory_format) for _ in range(count)]
        tensors = [tensor.requires_grad_() for tensor in given]
        tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        torch.library.opcheck(operator(name), (*tensors, *window), test_utils=tests)
        slope = torch.randn(2, 3, 4, 3).to(dtype)
        backward = getattr(torch.ops.onnxpool, f"native_{name}_backward").default
        torch.library.opcheck(backward, (slope, *tensors, *window), test_utils=tests)


# --- torch.func and batched gradients


@EACH
def test_batched_gradients_are_those_of_each(name):
    torch.manual_seed(7)
    for window in WINDOWS[1::3]:
        x = torch.randn(shape(window), dtype=torch.float64, requires_grad=True)
        y = pooled(name, window)(x)
        slopes = torch.randn(4, *y.shape, dtype=torch.float64)
        slopes[1].view(-1)[0] = torch.nan
        slopes[2].view(-1)[-1] = torch.inf
        kept = {"retain_graph": True}
        found = torch.autograd.grad(y, x, slopes, is_grads_batched=True, **kept)[0]
        wanted = torch.stack([torch.autograd.grad(y, x, slope, **kept)[0] for slope in slopes])
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
        assert wanted[1].isfinite().any()
        again = torch.autograd.grad(y, x, slopes, is_grads_batched=True, create_graph=True)[0]
        torch.testing.assert_close(again, wanted, rtol=1e-9, atol=1e-11, equal_nan=True)


@EACH
def test_batches_of_batches_are_pooled_natively(name):
    torch.manual_seed(8)
    x = torch.randn(2, 3, 9, 4, 8, requires_grad=True)
    for place in (0, 2, 4):
        batched = x.movedim(2, place)
        y = vmap(pooled(name), in_dims=place)(batched)
        assert torch.equal(y, torch.stack([pooled(name)(x[:, :, i]) for i in range(9)]))
        assert "native" in str(y.grad_fn.next_functions) + str(y.grad_fn)
        direct = torch.stack([pooled(name)(x[:, :, i]) for i in range(9)]).square().sum()
        assert torch.equal(*(torch.autograd.grad(each, x)[0] for each in (y.square().sum(), direct)))
    if name == "local_importance_pool":  # one of two is batched
        logit = torch.randn(5, 2, 3, 4, 8)
        found = vmap(lambda own: local_importance_pool(WINDOW, x[:, :, 0], own))(logit)
        assert torch.equal(found[3], local_importance_pool(WINDOW, x[:, :, 0], logit[3]))


@EACH
def test_jacobians_and_hessians(name):
    torch.manual_seed(9)
    pool, x = pooled(name), torch.randn(1, 2, 4, 3, dtype=torch.float64)
    direct = torch.autograd.functional.jacobian(pool, x)
    for found in (jacrev(pool)(x), torch.autograd.functional.jacobian(pool, x, vectorize=True)):
        torch.testing.assert_close(found, direct)

    def loss(x):
        return pool(x).pow(3).sum()

    direct = torch.autograd.functional.hessian(loss, x)
    for found in (hessian(loss)(x), jacrev(jacrev(loss))(x)):
        torch.testing.assert_close(found, direct)
    assert direct.abs().max() > 0.1


@EACH
def test_compiled_transforms(name):
    torch.manual_seed(10)
    pool, x = pooled(name), torch.randn(2, 2, 1, 4, 3, dtype=torch.float64)
    for transformed in (vmap(pool), vmap(grad(lambda x: pool(x).square().sum()))):
        compiled = torch.compile(transformed, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), transformed(x))


# --- modes


@EACH
def test_autocast_keeps_the_type_of_the_input(name):
    torch.manual_seed(11)
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 1, 1)
    leaf = x.clone().requires_grad_()
    net = lambda x: pooled(name)(torch.nn.functional.conv2d(x, weight))  # noqa: E731
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = torch.nn.functional.conv2d(x, weight)
        ys = net(leaf), compiled(leaf)
        assert pooled(name)(x).dtype == torch.float32
    wide = pooled(name)(hidden.double())
    for y in ys:
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), wide, rtol=2**-8, atol=2**-8 * hidden.abs().max().item())
        assert torch.autograd.grad(y.float().sum(), leaf)[0].dtype == torch.float32


@EACH
def test_deterministic_mode(name, monkeypatch):
    torch.manual_seed(12)
    x = torch.randn(2, 3, 9, 9, requires_grad=True)

    def run():
        y = pooled(name)(x)
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    natively = run()
    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, run(), natively))
        monkeypatch.setattr(_native, "_library", lambda: (None, "there is none"))
        composed = run()
        assert all(map(torch.equal, run(), composed))
    finally:
        torch.use_deterministic_algorithms(False)


def test_only_what_asks_for_a_gradient_gets_one():
    torch.manual_seed(13)
    x, logit = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    assert not local_importance_pool(WINDOW, x, logit).requires_grad
    both = [tensor.clone().requires_grad_() for tensor in (x, logit)]
    wanted = torch.autograd.grad(local_importance_pool(WINDOW, *both).square().sum(), both)
    for place in (0, 1):
        tensors = [x, logit]
        tensors[place] = both[place]
        local_importance_pool(WINDOW, *tensors).square().sum().backward()
        assert torch.equal(both[place].grad, wanted[place])
    with torch.no_grad():
        assert not local_importance_pool(WINDOW, *both).requires_grad
