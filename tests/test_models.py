"""Ready networks: sizes and names as published, values and gradients against plain PyTorch, checkpoints, export."""

import pickle

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

import onnxpool
from onnxpool import models
from onnxpool.errors import ArgumentError
from onnxpool.models.lip_resnet import DownsamplingBottleneck, SharedImportancePool
from onnxpool.run.native_library import why_missing
from onnxpool.validation.as_text import sentences

SIZES = {  # parameters and entries of the state dict, the latter counted in the authors' code
    "lip_resnet50": (23_864_232, 359),
    "lip_resnet101": (42_856_360, 665),
    "lip_resnet152": (58_500_008, 971),
    "lip_densenet121": (8_690_920, 757),
    "softpool_resnet18": (11_689_512, 122),
    "softpool_resnet34": (21_797_672, 218),
    "softpool_resnet50": (25_557_032, 320),
    "softpool_resnet101": (44_549_160, 626),
    "softpool_resnet152": (60_192_808, 932),
    "softpool_resnext50_32x4d": (25_028_904, 320),
    "softpool_resnext101_32x4d": (44_177_704, 626),
    "softpool_wide_resnet50_2": (68_883_240, 320),
    "softpool_densenet121": (7_978_856, 727),
    "softpool_densenet161": (28_681_000, 967),
    "softpool_densenet169": (14_149_480, 1015),
    "softpool_inception_v3": (23_834_568, 566),
    "softpool_r2plus1d_18": (31_505_325, 224),
    "softpool_r2plus1d_34": (61_831_661, 416),
    "softpool_r2plus1d_50": (34_863_287, 416),
    "softpool_r2plus1d_101": (67_218_231, 824),
    "nin_cifar10": (966_986, 18),
    # no code of these has names and sizes: counted by hand, from those of plain networks
    "lip_resnet18": (12_402_472, 161),
    "lip_resnet34": (22_510_632, 257),
    "dpp_resnet50": (25_557_032 + 2 * (512 + 1024 + 2048), 326),
    "dpp_resnet101": (44_549_160 + 2 * (512 + 1024 + 2048), 632),
    "dpp_resnet110": (1_727_962 + 2 * (32 + 64), 660),
    "zeiler_cifar10": (75 * 64 + 64 + 2 * (1600 * 64 + 64) + 1024 * 10 + 10, 8),
}
NAMES = {  # names of parameters in the authors' code, with their shapes
    "lip_resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.weight": (64,),
        "bn1.running_mean": (64,),
        "bn1.num_batches_tracked": (),
        "maxpool.logit.conv.weight": (64, 64, 3, 3),
        "maxpool.logit.bn.weight": (64,),
        "maxpool.logit.bn.bias": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer1.0.bn3.weight": (256,),
        "layer1.0.downsample.conv.weight": (256, 64, 1, 1),
        "layer1.0.downsample.bn.running_var": (256,),
        "layer1.2.conv1.weight": (64, 256, 1, 1),
        "layer2.0.conv1.weight": (128, 256, 1, 1),
        "layer2.0.bottleneck_shared.logit.conv1.weight": (128, 256, 1, 1),
        "layer2.0.bottleneck_shared.logit.bn1.bias": (128,),
        "layer2.0.bottleneck_shared.logit.conv2.weight": (128, 128, 3, 3),
        "layer2.0.bottleneck_shared.logit.bn2.weight": (128,),
        "layer2.0.conv2.0.postprocessing.conv.weight": (128, 128, 1, 1),
        "layer2.0.conv2.0.postprocessing.bn.weight": (128,),
        "layer2.0.conv2.1.weight": (128, 128, 1, 1),
        "layer2.0.downsample.lip.postprocessing.conv.weight": (256, 128, 1, 1),
        "layer2.0.downsample.lip.postprocessing.bn.bias": (256,),
        "layer2.0.downsample.conv.weight": (512, 256, 1, 1),
        "layer2.0.downsample.bn.weight": (512,),
        "layer2.3.conv2.weight": (128, 128, 3, 3),
        "layer3.0.bottleneck_shared.logit.conv1.weight": (128, 512, 1, 1),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.0.conv2.0.postprocessing.conv.weight": (512, 128, 1, 1),
        "layer4.0.downsample.lip.postprocessing.conv.weight": (1024, 128, 1, 1),
        "layer4.2.bn2.running_mean": (512,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    },
    "lip_densenet121": {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.norm0.running_var": (64,),
        "features.pool0.logit.conv1.weight": (64, 64, 3, 3),
        "features.pool0.logit.bn1.weight": (64,),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1),
        "features.denseblock1.denselayer1.norm2.bias": (128,),
        "features.denseblock1.denselayer1.conv2.weight": (32, 128, 3, 3),
        "features.denseblock1.denselayer6.conv1.weight": (128, 224, 1, 1),
        "features.transition1.norm.weight": (256,),
        "features.transition1.conv.weight": (128, 256, 1, 1),
        "features.transition1.pool.logit.conv1.weight": (128, 128, 1, 1),
        "features.transition1.pool.logit.bn1.weight": (128,),
        "features.transition1.pool.logit.conv2.weight": (128, 128, 3, 3),
        "features.transition1.pool.logit.conv3.weight": (128, 128, 1, 1),
        "features.transition1.pool.logit.bn3.bias": (128,),
        "features.denseblock2.denselayer12.norm1.running_mean": (480,),
        "features.transition2.pool.logit.conv1.weight": (128, 256, 1, 1),
        "features.denseblock3.denselayer24.conv1.weight": (128, 992, 1, 1),
        "features.transition3.pool.logit.conv3.weight": (512, 128, 1, 1),
        "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
        "features.norm5.weight": (1024,),
        "classifier.weight": (1000, 1024),
        "classifier.bias": (1000,),
    },
    "softpool_resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.1.bn2.bias": (64,),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
        "fc.weight": (1000, 512),
    },
    "softpool_resnet50": {
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.0.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
    },
}


def shadow(name, **arguments):
    """The network without the memory for it."""
    with torch.device("meta"):
        return models.NETWORKS[name](**arguments)


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    """Each kind of network in float64, with no parameter or buffer that hides a fault by being 0 or 1."""
    return randomised(models.NETWORKS[request.param](num_classes=7).double().eval())


def randomised(network):
    torch.manual_seed(0)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if value.dim() == 1:
            torch.nn.init.uniform_(value, 0.3, 1.0)
        elif name.endswith(("postprocessing.conv.weight", "maxpool.logit.conv.weight")):
            torch.nn.init.normal_(value, std=0.05)
    return network


# --- sizes and names


@pytest.mark.parametrize("name", models.NETWORKS)
def test_sizes(name):
    network = shadow(name)
    assert (sum(p.numel() for p in network.parameters()), len(network.state_dict())) == SIZES[name]
    last = list(network.parameters())[-2]
    fewer = sum(p.numel() for p in shadow(name, num_classes=7).parameters())
    assert fewer == SIZES[name][0] - (len(last) - 7) * (last[0].numel() + 1)


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    state = {key: tuple(value.shape) for key, value in shadow(name).state_dict().items()}
    assert NAMES[name].items() <= state.items()
    block = "layer1.1" if "resnet" in name else "features.norm5"
    assert not any(key.startswith(f"{block}.downsample") for key in state)


def test_networks_are_what_the_package_offers():
    assert set(models.NETWORKS) == set(SIZES) == set(models.__all__) - {"NETWORKS", "load_checkpoint"}
    assert all(getattr(models, name) is make for name, make in models.NETWORKS.items())


@pytest.mark.parametrize("name", [*NAMES, "nin_cifar10"])
@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "10"])
def test_wrong_numbers_of_classes(name, wrong):
    with pytest.raises(ArgumentError, match=f"num_classes={wrong!r} must be a positive integer"):
        shadow(name, num_classes=wrong)


# --- values and gradients: the same networks once more, written out in plain PyTorch


class State(dict):
    """Layers by the names of their parameters."""

    def conv(self, name, x, stride=1):
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])

    def batch(self, name, x):
        given = (self[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *given)

    def instance(self, name, x):
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        weight, bias = (self[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def gate(self, name, x, conv="conv", bn="bn"):
        return 12 * self.instance(f"{name}.{bn}", self.conv(f"{name}.{conv}", x)).sigmoid()

    def features(self, name, x):
        for i in (1, 2):
            x = self.instance(f"{name}.bn{i}", self.conv(f"{name}.conv{i}", x)).relu()
        return x


def lip(x, logit, *window):
    return F.avg_pool2d(x * logit.exp(), *window) / F.avg_pool2d(logit.exp(), *window)


def plain_resnet(state, depths, block, pool, x):
    x = pool(state, state.batch("bn1", state.conv("conv1", x, 2)).relu())
    for stage, depth in enumerate(depths):
        for place in range(depth):
            x = block(state, f"layer{stage + 1}.{place}", x, 2 if stage and not place else 1)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def plain_lip_stem(state, x):
    return lip(x, state.gate("maxpool.logit", x), 3, 2, 1)


def plain_soft_stem(_, x):
    parts = [x[..., i : 2 * (x.shape[2] // 2) : 2, j : 2 * (x.shape[3] // 2) : 2] for i in (0, 1) for j in (0, 1)]
    cells = torch.stack(parts)
    return (cells * cells.softmax(0)).sum(0)


def plain_block(state, name, x, stride):
    """Basic blocks and bottlenecks, of either naming."""
    deep = f"{name}.conv3.weight" in state
    y = state.batch(f"{name}.bn1", state.conv(f"{name}.conv1", x, 1 if deep else stride)).relu()
    y = state.batch(f"{name}.bn2", state.conv(f"{name}.conv2", y, stride if deep else 1))
    if deep:
        y = state.batch(f"{name}.bn3", state.conv(f"{name}.conv3", y.relu()))
    for conv, bn in (("0", "1"), ("conv", "bn")):
        if f"{name}.downsample.{conv}.weight" in state:
            x = state.batch(f"{name}.downsample.{bn}", state.conv(f"{name}.downsample.{conv}", x, stride))
    return (x + y).relu()


def plain_lip_block(state, name, x, stride):
    if stride == 1:
        return plain_block(state, name, x, 1)
    shared = state.features(f"{name}.bottleneck_shared.logit", x)
    y = state.batch(f"{name}.bn1", state.conv(f"{name}.conv1", x)).relu()
    y = state.conv(f"{name}.conv2.1", lip(y, state.gate(f"{name}.conv2.0.postprocessing", shared), 3, 2, 1))
    y = state.batch(f"{name}.bn3", state.conv(f"{name}.conv3", state.batch(f"{name}.bn2", y).relu()))
    x = lip(x, state.gate(f"{name}.downsample.lip.postprocessing", shared), 3, 2, 1)
    return (state.batch(f"{name}.downsample.bn", state.conv(f"{name}.downsample.conv", x)) + y).relu()


def plain_densenet(state, x):
    x = state.batch("features.norm0", state.conv("features.conv0", x, 2)).relu()
    x = lip(x, state.gate("features.pool0.logit", x, "conv1", "bn1"), 3, 2, 1)
    for i, depth in enumerate((6, 12, 24, 16), 1):
        for j in range(1, depth + 1):
            layer = f"features.denseblock{i}.denselayer{j}"
            y = state.conv(f"{layer}.conv1", state.batch(f"{layer}.norm1", x).relu())
            x = torch.cat([x, state.conv(f"{layer}.conv2", state.batch(f"{layer}.norm2", y).relu())], 1)
        if i < 4:
            name = f"features.transition{i}"
            x = state.conv(f"{name}.conv", state.batch(f"{name}.norm", x).relu())
            logit = state.gate(f"{name}.pool.logit", state.features(f"{name}.pool.logit", x), "conv3", "bn3")
            x = lip(x, logit, 2)
    x = state.batch("features.norm5", x).relu().mean((2, 3))
    return F.linear(x, state["classifier.weight"], state["classifier.bias"])


def plain(network, state, x):
    if "classifier.weight" in state:
        return plain_densenet(state, x)
    depths = [len(list(getattr(network, f"layer{i}").children())) for i in (1, 2, 3, 4)]
    if "maxpool.logit.conv.weight" in state:
        return plain_resnet(state, depths, plain_lip_block, plain_lip_stem, x)
    return plain_resnet(state, depths, plain_block, plain_soft_stem, x)


def test_values_and_gradients_are_those_of_plain_pytorch(network):
    x = torch.randn(2, 3, 70, 61, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = dict(network.named_parameters())
    answer = plain(network, State(dict(network.named_buffers()) | leaves), x)
    y = network(x)
    assert answer.shape == (2, 7)
    assert answer.detach().std() > 1e-3
    torch.testing.assert_close(y, answer, rtol=1e-11, atol=1e-11)

    score = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(2, 7)
    slopes = (torch.autograd.grad((score * z).sum(), list(leaves.values())) for z in (y, answer))
    for name, ours, theirs in zip(leaves, *slopes, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * theirs.abs().max().item(), msg=name)


def test_the_smallest_images():
    """Norms over the positions of a map need two of them."""
    for name, smallest in (("lip_resnet50", 17), ("lip_densenet121", 29)):
        network = shadow(name).eval()
        assert network(torch.empty(1, 3, smallest, smallest, device="meta")).shape == (1, 1000)
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            network(torch.empty(1, 3, smallest - 1, smallest - 1, device="meta"))


# --- how they start


def close_to(parameter, std):
    return abs(parameter.std().item() / std - 1) < 0.05


def test_lip_resnet_starts_with_average_pools_and_shortcuts():
    torch.manual_seed(0)
    network = models.lip_resnet50(num_classes=500).double().eval()
    pools = [part for part in network.modules() if isinstance(part, SharedImportancePool)]
    assert len(pools) == 6
    for x, pool, shared in (
        (torch.randn(2, 64, 9, 12).double(), network.maxpool, ()),
        (torch.randn(2, 128, 5, 6).double(), pools[0], (torch.randn(2, 128, 5, 6).double(),)),
        (torch.randn(2, 1024, 4, 4).double(), pools[-1], (torch.randn(2, 128, 4, 4).double(),)),
    ):
        mean = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        torch.testing.assert_close(pool(x, *shared), mean, rtol=0, atol=1e-14)
    x = torch.randn(2, 256, 5, 5).double()
    torch.testing.assert_close(list(network.layer1.children())[1](x), x.relu(), rtol=0, atol=0)
    assert close_to(network.conv1.weight, (2 / (49 * 64)) ** 0.5)
    assert close_to(next(network.layer4.children()).conv1.weight, (2 / 512) ** 0.5)
    assert close_to(next(network.layer4.children()).bottleneck_shared.logit.conv1.weight, (2 / 128) ** 0.5)
    assert close_to(network.fc.weight, 0.01)
    assert not network.fc.bias.any()


def test_the_others_start_with_ordinary_layers():
    torch.manual_seed(0)
    state = models.lip_densenet121().state_dict()
    assert close_to(state["features.pool0.logit.conv1.weight"], (2 / (64 * 9)) ** 0.5)
    assert close_to(state["features.transition1.pool.logit.conv3.weight"], (2 / 128) ** 0.5)
    assert not state["classifier.bias"].any()
    state = models.softpool_resnet18().state_dict()
    assert close_to(state["layer4.1.conv2.weight"], (2 / (512 * 9)) ** 0.5)
    assert (state["layer4.1.bn2.weight"] == 1).all()


# --- checkpoints


def small(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).eval()


X = torch.linspace(-1, 1, 75).reshape(1, 3, 5, 5)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_as_training_code_saves_them(wrap, prefix, tmp_path):
    source, network = randomised(small(1)), small(2)
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    extra = {"epoch": 3, "arch": "small", "best_acc1": torch.tensor(70.0), "optimizer": {"state": {}}}
    torch.save({"state_dict": state, **extra} if wrap else state, tmp_path / "c.pth")
    models.load_checkpoint(network, tmp_path / "c.pth")
    assert torch.equal(network(X), source(X))
    assert network[1].num_batches_tracked == source[1].num_batches_tracked

    again = small(3)
    models.load_checkpoint(again, {"state_dict": state} if wrap else state)
    assert torch.equal(again(X), source(X))


def test_a_whole_network_takes_its_checkpoint_strictly(network, tmp_path):
    state = {f"module.{name}": value.float() for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    name = next(name for name, (_, entries) in SIZES.items() if entries == len(state))
    other = models.NETWORKS[name](num_classes=7)
    models.load_checkpoint(other, str(tmp_path / "c.pth"))
    mine = other.state_dict()
    assert all(torch.equal(mine[key.removeprefix("module.")], value) for key, value in state.items())
    assert mine["conv1.weight" if "conv1.weight" in mine else "classifier.weight"].dtype == torch.float32


def test_values_come_in_the_type_of_the_network_and_counters_may_be_missing():
    state = {name: value.half() for name, value in small(1).state_dict().items() if "num_batches" not in name}
    network = small(2).double()
    network[1].num_batches_tracked.fill_(5)
    models.load_checkpoint(network, state)
    assert network[0].weight.dtype == torch.float64
    assert torch.equal(network[0].weight, state["0.weight"].double())
    assert network[1].num_batches_tracked == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("0.bias"), "does not fit Sequential: 1 missing: 0.bias; make the network that it was saved"),
        (lambda s: s.update(fc=s["0.bias"]), "1 unexpected: fc;"),
        (lambda s: s.update({"0.bias": s["0.bias"][:3]}), "1 of another shape: 0.bias (3,), not (4,);"),
        (lambda s: s.update({f"a{i}": s["0.bias"] for i in range(7)}), "7 unexpected: a0, a1, a2, a3, a4 and 2 more;"),
        (lambda s: s.update({"module.x": s["0.bias"]}), "1 unexpected: module.x;"),
        (lambda s: s.update(epoch=3), "is not a mapping from names to tensors; save network.state_dict()"),
        (lambda s: s.clear(), "is not a mapping from names to tensors"),
    ],
)
def test_checkpoints_that_do_not_fit_change_nothing(change, told):
    network, state = small(2), small(1).state_dict()
    before = network(X)
    change(state)
    with pytest.raises(ArgumentError) as raised:
        models.load_checkpoint(network, state)
    assert str(raised.value).startswith("checkpoint=OrderedDict ")
    assert told in str(raised.value)
    assert torch.equal(network(X), before)


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("ran code out of a checkpoint",)


def test_files_that_are_no_checkpoints(tmp_path):
    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"0.bias": Harmful()}))
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("harmful", "pickle", "text", "empty"):
        with pytest.raises(ArgumentError, match=rf"{name}\.pth' cannot be read as tensors and plain values \("):
            models.load_checkpoint(small(), tmp_path / f"{name}.pth")
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(ArgumentError, match="there is no such file"):
            models.load_checkpoint(small(), path)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ArgumentError, match=r"list\.pth' is not a mapping"):
        models.load_checkpoint(small(), tmp_path / "list.pth")
    with pytest.raises(ArgumentError, match="checkpoint=int is not a mapping"):
        models.load_checkpoint(small(), 3)


# --- export

DYNAMIC = ({0: "batch", 2: "height", 3: "width"},)


def validated(network, x, path):
    onnxpool.export(network, (x,), path, dynamic_shapes=DYNAMIC)
    report = onnxpool.validate(path)
    assert report.passed, sentences(report)
    wanted = {"onnxruntime, function", "onnxruntime, standard"}
    wanted |= (
        set() if why_missing() else {"onnxruntime, function, native kernels", "onnxruntime, custom, native kernels"}
    )
    assert wanted <= {run.name for run in report.runs if run.verdict == "passed"}
    assert "sizes 3x" in " ".join(result.case for result in report.runs[0].results)
    told = [note for note in report.notes if note.startswith(("case ", "cases "))]  # sizes too small may be left out
    assert not told, report.notes


def test_a_block_with_pools_is_exported(tmp_path):
    block = randomised(DownsamplingBottleneck(8, 4).eval())
    validated(block, torch.randn(1, 8, 14, 14), tmp_path / "block.onnx")
    assert [node.op_type for node in onnxpool.pool_nodes(tmp_path / "block.onnx")] == ["LocalImportancePool"] * 2


@pytest.mark.slow
def test_lip_resnet50_is_exported(tmp_path):
    network = randomised(models.lip_resnet50().eval())
    validated(network, torch.randn(1, 3, 64, 64), tmp_path / "network.onnx")
    nodes = list(onnxpool.pool_nodes(tmp_path / "network.onnx"))
    assert [(node.op_type, str(node.window)) for node in nodes] == [("LocalImportancePool", "3x3 s2 p1")] * 7
