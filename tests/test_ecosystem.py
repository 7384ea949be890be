"""Our modules in PyTorch's own tools, with no call of ours: exporters, tracers, torch.func, compilers, training."""

import copy
import os
import time
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from exported import first_axis, shape_for
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import onnxpool
from onnxpool import models, nn
from onnxpool.errors import ArgumentError, FormError
from onnxpool.pools import METHODS

MODULES = [module for method in METHODS.values() for module in method.modules]
SIZES = {1: (11,), 2: (11, 13), 3: (7, 8, 9)}
DYNAMIC = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)

NETWORKS = {
    "soft": lambda: [nn.SoftPool2d(3, 2, 1), torch.nn.Conv2d(8, 4, 1), nn.SoftPool2d(2)],
    "local importance": lambda: [
        nn.LocalImportancePool2d(nn.SimplifiedLogit2d(8, zero=False)),
        nn.LocalImportancePool2d(nn.ProjectionLogit2d(8, zero=False), 2, 2, 0),
    ],
    "others": lambda: [
        nn.StochasticPool2d(3, 2, 1),
        nn.PowerAvgPool2d(2, 1, p=2.5, learn_p=True),
        nn.DetailPreservingPool2d(8),
        nn.AdaptiveAvgPool2d(3),
    ],
}
NODES = {"soft": ["SoftPool"] * 2, "local importance": ["LocalImportancePool"] * 2, "others": ["StochasticPool"]}


def network(name):
    """The network, an example that its tests export, and other sizes."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), *NETWORKS[name]()).eval()
    return net, torch.randn(2, 3, 24, 24), torch.randn(3, 3, 36, 36)


def layer(text):
    """A module of ``METHODS`` in evaluation mode, and a batch for it."""
    torch.manual_seed(0)
    pool = eval(text, vars(nn)).eval()
    return pool, torch.randn(shape_for(pool, 2, SIZES[pool.rank]))


def assert_right(y, net, x):
    """``y`` is what the network gives in float64, to float32's rounding."""
    with torch.no_grad():
        wanted = copy.deepcopy(net).double()(x.double())
    torch.testing.assert_close(torch.as_tensor(y).double(), wanted, rtol=0, atol=4e-6 * wanted.abs().max().item())


def in_onnxruntime(path, x):
    """The file's answer in plain ONNX Runtime, without a library of ours."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


class Plain(TorchDispatchMode):
    """While it is open, modules are PyTorch's own operators, as for every mode that watches these."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.fixture
def said():
    """The warnings of a test, none of which may be about us."""
    with warnings.catch_warnings(record=True) as every:
        warnings.simplefilter("always")
        yield
    ours = [one for one in every if "onnxpool" in f"{one.message} {one.filename}".replace("test_ecosystem", "")]
    assert not [str(one.message) for one in ours if "onnxpool/" in one.filename or "onnxpool" in str(one.message)]


# --- torch.onnx.export


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_export_writes_standard_operators(name, tmp_path, said):
    net, x, other = network(name)
    axes = ({0: "batch", 2: "height", 3: "width"},)
    path = tmp_path / "plain.onnx"
    program = torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=axes, verbose=False)
    assert {node.domain for node in program.model.graph} == {""}
    for example in (x, other):
        assert_right(in_onnxruntime(path, example), net, example)


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", NETWORKS)
def test_our_translations_give_our_nodes_and_finish_their_functions(name, opset, tmp_path, said):
    net, x, other = network(name)
    program = torch.onnx.export(
        net,
        (x,),
        dynamo=True,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        custom_translation_table=onnxpool.translations(),
        opset_version=opset,
        verbose=False,
    )
    assert [node.op_type for node in program.model.graph if node.domain == "onnxpool"] == NODES[name]
    assert not program.model.functions
    assert onnxpool.finish(program) is program
    program.save(tmp_path / "ours.onnx")
    for example in (x, other):
        assert_right(in_onnxruntime(tmp_path / "ours.onnx", example), net, example)
    assert onnxpool.form_of(tmp_path / "ours.onnx") == "function"
    functions = list(program.model.functions)
    assert list(onnxpool.finish(program).model.functions) == functions


def test_finish_refuses_what_is_not_a_program():
    with pytest.raises(ArgumentError, match=r"program=None is not a torch\.onnx\.ONNXProgram"):
        onnxpool.finish(None)


def test_finish_refuses_a_pooling_node_that_it_does_not_know(said):
    net, x, _ = network("soft")
    table = onnxpool.translations()
    program = torch.onnx.export(net, (x,), dynamo=True, custom_translation_table=table, verbose=False)
    next(node for node in program.model.graph if node.domain == "onnxpool").op_type = "HardPool"
    with pytest.raises(FormError, match="HardPool"):
        onnxpool.finish(program)


def test_every_call_gives_a_table_of_its_own():
    table = onnxpool.translations()
    table.clear()
    assert onnxpool.translations()


# --- torch.export


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_program_holds_one_call_for_each_pooling(name, tmp_path, said):
    net, x, other = network(name)
    program = torch.export.export(net, (x,), dynamic_shapes=DYNAMIC)
    torch.export.save(program, tmp_path / "network.pt2")
    loaded = torch.export.load(tmp_path / "network.pt2")
    calls = [node.target.name() for node in loaded.graph.nodes if str(node.target).startswith("onnxpool")]
    expected = {"soft": 2, "local importance": 2, "others": 3}[name]  # detail-preserving pooling is plain operators
    assert len(calls) == expected, calls
    for example in (x, other):
        assert_right(loaded.module()(example).detach(), net, example)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_programs_that_are_taken_apart_keep_sizes_free(name, strict, said):
    net, x, other = network(name)
    program = torch.export.export(net, (x,), dynamic_shapes=DYNAMIC, strict=strict).run_decompositions()
    assert not [node for node in program.graph.nodes if "onnxpool" in str(node.target)]
    for example in (x, other):
        assert_right(program.module()(example).detach(), net, example)


@pytest.mark.parametrize("method", METHODS)
def test_every_module_is_taken_apart_for_other_sizes(method):
    """All spellings of a method in one program: most of the time goes into making it."""
    pools, xs = zip(*map(layer, METHODS[method].modules), strict=True)
    whole = torch.nn.Module()
    whole.pools = torch.nn.ModuleList(pools)
    whole.forward = lambda *xs: tuple(pool(x) for pool, x in zip(pools, xs, strict=True))
    axes = tuple(
        dict.fromkeys((0, *range(first_axis(pool), first_axis(pool) + pool.rank)), torch.export.Dim.DYNAMIC)
        for pool in pools
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(whole, xs, dynamic_shapes=(axes,)).run_decompositions()
    assert not [node for node in program.graph.nodes if "onnxpool" in str(node.target)]
    torch.testing.assert_close(program.module()(*xs), whole.forward(*xs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_program_trains_as_the_network_does(name):
    net, x, _ = network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (x,)).module()
    program(x).square().sum().backward()
    net(x).square().sum().backward()
    wanted = dict(net.named_parameters())
    for key, parameter in program.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[key].grad)


# --- tracers


@pytest.mark.parametrize("text", MODULES)
def test_torch_jit_traces_every_module_for_other_sizes(text):
    pool, x = layer(text)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if "Logit" in text:  # torch.nn.InstanceNorm looks at sizes
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(pool, x)
    assert "onnxpool::" not in str(traced.inlined_graph)
    other = torch.randn(shape_for(pool, 3, (length + 3 for length in SIZES[pool.rank])))
    with Plain():
        wanted = pool(other)
    torch.testing.assert_close(traced(other), wanted, rtol=0, atol=0)
    torch.testing.assert_close(traced(other), pool(other), rtol=2e-6, atol=2e-6)


def test_torch_jit_script_is_refused_in_words():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        with pytest.raises(ArgumentError, match=r"cannot compile SoftPool2d; use torch\.export"):
            torch.jit.script(torch.nn.Sequential(nn.SoftPool2d(2)))


@pytest.mark.parametrize("text", MODULES)
def test_torch_fx_takes_every_module_as_a_leaf(text):
    pool, x = layer(text)
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Tanh(), pool))
    assert [(node.op, node.target) for node in traced.graph.nodes][1:3] == [("call_module", "0"), ("call_module", "1")]
    assert traced.get_submodule("1") is pool
    torch.testing.assert_close(traced(x), pool(x.tanh()), rtol=0, atol=0)
    torch.testing.assert_close(traced(x[0]), pool(x[0].tanh()), rtol=0, atol=0)
    with pytest.raises(ArgumentError, match="a leaf; trace a network that holds it"):
        torch.fx.symbolic_trace(pool)


# --- torch.func


@pytest.mark.parametrize("text", MODULES)
def test_gradients_of_each_sample_are_those_of_it_alone(text):
    pool, x = layer(text)
    x, net = x.double(), torch.nn.Sequential(torch.nn.Tanh(), pool.double())
    parameters = {key: parameter.detach() for key, parameter in net.named_parameters()}

    def loss(parameters, x):
        return functional_call(net, parameters, (x.unsqueeze(0),)).square().sum()

    slopes, inputs = vmap(grad(loss, (0, 1)), (None, 0))(parameters, x)
    for i in range(len(x)):
        sample = x[i].clone().requires_grad_()
        wanted = torch.autograd.grad(net(sample.unsqueeze(0)).square().sum(), [sample, *net.parameters()])
        torch.testing.assert_close(inputs[i], wanted[0], rtol=1e-9, atol=1e-11)
        for key, slope in zip(parameters, wanted[1:], strict=True):
            torch.testing.assert_close(slopes[key][i], slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("text", MODULES)
def test_vmap_and_jvp(text):
    pool, x = layer(text)
    x = x.double()
    pool.double()
    torch.testing.assert_close(vmap(pool)(torch.stack([x, 2 * x])), torch.stack([pool(x), pool(2 * x)]))
    direction = torch.randn_like(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # PyTorch scripts some derivatives itself
        slope = torch.func.jvp(pool, (x,), (direction,))[1]
    step = 1e-6 * direction
    torch.testing.assert_close(slope, (pool(x + step) - pool(x - step)) / 2e-6, rtol=1e-4, atol=1e-5)


# --- memory, files, training


@pytest.mark.parametrize(
    "text",
    [
        *(text for text in MODULES if "2d" in text and "flatten" not in text and "Logit" not in text),
        "LocalImportancePool2d(SoftGate())",  # the instance norm of other logits gives its own layout
    ],
)
def test_channels_last_is_kept(text):
    pool, x = layer(text)
    if "AdaptiveMax" in text or text == "AdaptiveAvgPool2d(1)":
        pytest.skip("PyTorch's own kernel decides")
    y = pool(x.to(memory_format=torch.channels_last))
    assert y.numel() == 6 or y.is_contiguous(memory_format=torch.channels_last), y.stride()
    torch.testing.assert_close(y, pool(x), rtol=1e-6, atol=1e-6)


def test_safetensors(tmp_path):
    from safetensors.torch import load_model, save_model

    net, x, _ = network("others")
    with torch.no_grad():
        net[2].exponent += 0.25
        net[3].a += torch.arange(8) / 8
    save_model(net, tmp_path / "network.safetensors")
    torch.manual_seed(5)
    again = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), *NETWORKS["others"]()).eval()
    assert not torch.equal(again(x), net(x))
    load_model(again, tmp_path / "network.safetensors")
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)


def _train(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net, x, _ = network("others")
    net.train()[1].eval()  # which draws at random in training
    parallel = torch.nn.parallel.DistributedDataParallel(net)
    parallel(x[rank : rank + 1]).square().sum().backward()
    torch.save([parameter.grad for parameter in net.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # where PyTorch takes down what the processes share, it waits for itself now and then, for ever


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    training = torch.multiprocessing.spawn(_train, (port, str(tmp_path)), nprocs=2, join=False)
    ends = time.monotonic() + 300
    try:
        while not training.join(timeout=5):
            assert time.monotonic() < ends, "the processes do not end"
    finally:
        for process in training.processes:
            process.kill()
    net, x, _ = network("others")
    (net(x).square().sum() / 2).backward()
    for rank in (0, 1):
        for gradient, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), net.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


# --- compilers


@pytest.mark.slow
def test_inductor_compiles_ahead_of_time(tmp_path):
    net, x, other = network("soft")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (x,), dynamic_shapes=DYNAMIC)
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "network.pt2"))
        compiled = torch._inductor.aoti_load_package(path)
        for example in (x, other):
            assert_right(compiled(example), net, example)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_converts_modules_and_programs(name):
    openvino = pytest.importorskip("openvino")
    net, x, other = network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (x,), dynamic_shapes=DYNAMIC)
        given = [openvino.convert_model(program.run_decompositions()), openvino.convert_model(net, example_input=x)]
    for model in given:
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for example in (x, other):
            assert_right(compiled(example.numpy())[0], net, example)


@pytest.mark.slow
def test_a_whole_network_through_the_plain_exporter(tmp_path, said):
    torch.manual_seed(0)
    net = models.softpool_resnet18(10).eval()
    x = torch.randn(2, 3, 64, 64)
    axes = ({0: "batch", 2: "height", 3: "width"},)
    torch.onnx.export(net, (x,), tmp_path / "resnet.onnx", dynamo=True, dynamic_shapes=axes, verbose=False)
    for example in (x, torch.randn(3, 3, 96, 80)):
        assert np.isfinite(in_onnxruntime(tmp_path / "resnet.onnx", example)).all()
        assert_right(in_onnxruntime(tmp_path / "resnet.onnx", example), net, example)
