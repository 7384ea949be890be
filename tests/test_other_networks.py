"""Networks beside those of test_models.py: names as published, values against plain PyTorch in float64, export."""

import itertools
from functools import partial

import pytest
import torch
from test_models import State, lip, plain_block, plain_resnet, plain_soft_stem, shadow
from torch.nn import functional as F  # noqa: N812 - its usual name
from typer.testing import CliRunner

import onnxpool
from onnxpool import models
from onnxpool.cli.commands import app
from onnxpool.errors import ArgumentError
from onnxpool.models import dpp_resnet, lip_resnet, softpool_r2plus1d
from onnxpool.models.densenet import DenseNet
from onnxpool.models.resnet import ResNet, bottleneck
from onnxpool.models.softpool import soft_pool2d, soft_pool3d
from onnxpool.pools import detail_preserving

NAMES = {  # names of parameters in the authors' code, with their shapes
    "softpool_resnext50_32x4d": {
        "layer1.0.conv1.weight": (128, 64, 1, 1),
        "layer1.0.conv2.weight": (128, 4, 3, 3),
        "layer4.2.conv2.weight": (1024, 32, 3, 3),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
    },
    "softpool_wide_resnet50_2": {
        "layer1.0.conv2.weight": (128, 128, 3, 3),
        "layer4.0.conv3.weight": (2048, 1024, 1, 1),
    },
    "softpool_densenet161": {
        "features.conv0.weight": (96, 3, 7, 7),
        "features.denseblock1.denselayer1.conv2.weight": (48, 192, 3, 3),
        "features.transition3.conv.weight": (1056, 2112, 1, 1),
        "features.norm5.weight": (2208,),
        "classifier.weight": (1000, 2208),
    },
    "softpool_inception_v3": {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch3x3dbl_3.bn.weight": (96,),
        "Mixed_6a.branch3x3dbl_1.conv.weight": (64, 288, 1, 1),
        "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
        "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1000, 2048),
    },
    "softpool_r2plus1d_18": {
        "stem.0.weight": (45, 3, 1, 7, 7),
        "stem.3.weight": (64, 45, 3, 1, 1),
        "layer1.0.conv1.0.0.weight": (144, 64, 1, 3, 3),
        "layer2.0.conv1.0.3.weight": (128, 230, 3, 1, 1),
        "layer2.0.conv2.0.1.running_mean": (230,),
        "layer2.0.conv2.1.weight": (128,),
        "layer4.0.downsample.0.weight": (512, 256, 1, 1, 1),
        "fc.weight": (400, 512),
    },
    "softpool_r2plus1d_50": {
        "layer2.0.conv1.0.weight": (128, 64, 1, 1, 1),
        "layer2.0.conv2.0.0.weight": (230, 128, 1, 3, 3),
        "layer2.1.conv2.0.0.weight": (288, 128, 1, 3, 3),
        "layer4.2.conv3.1.bias": (512,),
    },
    "nin_cifar10": {
        "conv1.weight": (192, 3, 5, 5),
        "cccp2.bias": (96,),
        "conv3.weight": (192, 192, 3, 3),
        "cccp6.weight": (10, 192, 1, 1),
    },
    "lip_resnet18": {  # our own, in the manner of the others
        "layer2.0.bottleneck_shared.logit.conv1.weight": (128, 64, 1, 1),
        "layer2.0.conv2.0.postprocessing.conv.weight": (128, 128, 1, 1),
        "layer2.0.conv2.1.weight": (128, 128, 3, 3),
        "layer2.0.downsample.lip.postprocessing.bn.bias": (64,),
    },
    "dpp_resnet110": {"layer2.pool.a": (32,), "layer3.pool.l": (64,), "layer3.17.conv2.weight": (64, 64, 3, 3)},
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    state = {key: tuple(value.shape) for key, value in shadow(name).state_dict().items()}
    assert NAMES[name].items() <= state.items()


# --- windows before April 2022


def shifted(x, kernel, stride):
    """One output after the other: windows begin at p stride - kernel // 2, and there are n // stride of them."""
    y = x.new_empty(*x.shape[:2], *(n // stride for n in x.shape[2:]))
    for place in itertools.product(*map(range, y.shape[2:])):
        starts = [p * stride - kernel // 2 for p in place]
        inside = [slice(max(start, 0), start + kernel) for start in starts]
        cells = x[(..., *inside)].flatten(2)
        y[(..., *place)] = (cells * cells.softmax(2)).sum(2)
    return y


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2)])
@pytest.mark.parametrize("size", [(7, 8), (2, 9), (3, 4, 5)], ids=str)
def test_shifted_windows(kernel, stride, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.manual_seed(0))
    make = soft_pool2d if len(size) == 2 else soft_pool3d
    torch.testing.assert_close(make(kernel, stride, shifted=True)(x), shifted(x, kernel, stride), rtol=1e-13, atol=0)
    assert not torch.equal(make(2, 2, shifted=False)(x)[:, :, 0], make(2, 2, shifted=True)(x)[:, :, 0])


def test_the_option_is_a_flag_and_changes_no_name():
    plain, moved = shadow("softpool_inception_v3"), shadow("softpool_inception_v3", shifted=True)
    assert list(plain.state_dict()) == list(moved.state_dict())
    with pytest.raises(ArgumentError, match="shifted=1 is not a bool"):
        shadow("softpool_resnet18", shifted=1)


# --- values: the same networks once more, written out in plain PyTorch


def normal(state, name, x, eps=1e-5):
    given = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *given, eps=eps)


def soft(x, kernel, stride, padding=0):
    """Windows that slices make, each weighted by its softmax."""
    for axis in range(2, x.dim()):
        ends = [0, 0] * (x.dim() - 1 - axis) + [padding] * 2
        x = F.pad(x, ends, value=-torch.inf).unfold(axis, kernel, stride)
    cells = x.flatten(x.dim() // 2 + 1)
    return torch.where(cells > -torch.inf, cells * cells.softmax(-1), 0).sum(-1)


def plain_densenet(state, x):
    x = plain_soft_stem(state, normal(state, "features.norm0", state.conv("features.conv0", x, 2)).relu())
    for i in (1, 2):
        for j in (1, 2):
            layer = f"features.denseblock{i}.denselayer{j}"
            y = state.conv(f"{layer}.conv1", normal(state, f"{layer}.norm1", x).relu())
            x = torch.cat([x, state.conv(f"{layer}.conv2", normal(state, f"{layer}.norm2", y).relu())], 1)
        if i == 1:
            name = "features.transition1"
            x = F.avg_pool2d(state.conv(f"{name}.conv", normal(state, f"{name}.norm", x).relu()), 2)
    x = normal(state, "features.norm5", x).relu().mean((2, 3))
    return F.linear(x, state["classifier.weight"], state["classifier.bias"])


def plain_inception(state, x):
    def conv(name, x, stride=1, padded=True):
        weight = state[f"{name}.conv.weight"]
        padding = [n // 2 for n in weight.shape[2:]] if padded else 0
        return normal(state, f"{name}.bn", F.conv2d(x, weight, None, stride, padding), 1e-3).relu()

    def chain(stem, count, x, stride=1):
        for i in range(1, count + 1):
            last = i == count and stride == 2
            x = conv(f"{stem}_{i}", x, 2 if last else 1, not last)
        return x

    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 2, False), 1, False)
    x = conv("Conv2d_3b_1x1", soft(conv("Conv2d_2b_3x3", x), 3, 2))
    x = soft(conv("Conv2d_4a_3x3", x, 1, False), 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        ends = [chain(f"{name}.branch5x5", 2, x), chain(f"{name}.branch3x3dbl", 3, x)]
        x = torch.cat([conv(f"{name}.branch1x1", x), *ends, conv(f"{name}.branch_pool", soft(x, 3, 1, 1))], 1)
    name = "Mixed_6a"
    ends = [conv(f"{name}.branch3x3", x, 2, False), chain(f"{name}.branch3x3dbl", 3, x, 2), soft(x, 3, 2)]
    x = torch.cat(ends, 1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        ends = [chain(f"{name}.branch7x7", 3, x), chain(f"{name}.branch7x7dbl", 5, x)]
        x = torch.cat([conv(f"{name}.branch1x1", x), *ends, conv(f"{name}.branch_pool", soft(x, 3, 1, 1))], 1)
    name = "Mixed_7a"
    x = torch.cat([chain(f"{name}.branch3x3", 2, x, 2), chain(f"{name}.branch7x7x3", 4, x, 2), soft(x, 3, 2)], 1)
    for name in ("Mixed_7b", "Mixed_7c"):
        y, z = conv(f"{name}.branch3x3_1", x), chain(f"{name}.branch3x3dbl", 2, x)
        ends = [conv(f"{name}.branch3x3_2{end}", y) for end in "ab"]
        ends += [conv(f"{name}.branch3x3dbl_3{end}", z) for end in "ab"]
        x = torch.cat([conv(f"{name}.branch1x1", x), *ends, conv(f"{name}.branch_pool", soft(x, 3, 1, 1))], 1)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def plain_r2plus1d(state, x):
    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        strides = [stride if n > 1 or max(weight.shape[2:]) == 1 else 1 for n in weight.shape[2:]]
        return F.conv3d(x, weight, None, strides, [n // 2 for n in weight.shape[2:]])

    def factored(name, x, stride=1):
        return conv(f"{name}.3", normal(state, f"{name}.1", conv(f"{name}.0", x, stride)).relu(), stride)

    weight = state["stem.0.weight"]
    x = normal(state, "stem.1", F.conv3d(x, weight, None, (1, 2, 2), (0, 3, 3))).relu()
    x = soft(normal(state, "stem.4", conv("stem.3", x)).relu(), 2, 2)
    for stage in (1, 2, 3, 4):
        name, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        if f"{name}.conv3.0.weight" in state:
            y = normal(state, f"{name}.conv1.1", conv(f"{name}.conv1.0", x)).relu()
            y = normal(state, f"{name}.conv2.1", factored(f"{name}.conv2.0", y, stride)).relu()
            y = normal(state, f"{name}.conv3.1", conv(f"{name}.conv3.0", y))
        else:
            y = normal(state, f"{name}.conv1.1", factored(f"{name}.conv1.0", x, stride)).relu()
            y = normal(state, f"{name}.conv2.1", factored(f"{name}.conv2.0", y))
        if f"{name}.downsample.0.weight" in state:
            x = normal(state, f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
        x = (x + y).relu()
    return F.linear(x.mean((2, 3, 4)), state["fc.weight"], state["fc.bias"])


def plain_dpp(state, x):
    x = normal(state, "bn1", state.conv("conv1", x)).relu()
    for stage in (1, 2, 3):
        for place in (0, 1):
            name = f"layer{stage}.{place}"
            y = normal(state, f"{name}.bn1", state.conv(f"{name}.conv1", x)).relu()
            y = normal(state, f"{name}.bn2", state.conv(f"{name}.conv2", y))
            x = (torch.cat([x, torch.zeros_like(y)[:, x.shape[1] :]], 1) + y).relu()
            if stage > 1 and place == 0:
                a, power = (state[f"layer{stage}.pool.{part}"][:, None, None].exp() for part in "al")
                near = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)
                square = (x - near) ** 2 + detail_preserving.EPSILON**2
                weights = (square / F.interpolate(F.avg_pool2d(square, 2), scale_factor=2)) ** (power / 2) + a
                x = F.avg_pool2d(x * weights, 2) / F.avg_pool2d(weights, 2)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def plain_nin(state, x):
    for i, names in enumerate((("conv1", "cccp1", "cccp2"), ("conv2", "cccp3", "cccp4"), ("conv3", "cccp5", "cccp6"))):
        for name in names:
            weight = state[f"{name}.weight"]
            x = F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2).relu()
        if i < 2:
            x = (F.max_pool2d, F.avg_pool2d)[i](x, 3, 2, ceil_mode=True)
    return x.mean((2, 3))


def plain_zeiler(state, x):
    for i in (1, 2, 3):
        x = F.conv2d(x, state[f"conv{i}.weight"], state[f"conv{i}.bias"], padding=2).relu()
        padded = F.pad(x, (0, 1, 0, 1))
        x = (F.avg_pool2d(padded**2, 3, 2) / F.avg_pool2d(padded, 3, 2)).nan_to_num()  # 0 where all is 0
        around = F.pad(x**2, (0, 0, 0, 0, 4, 4))
        squares = torch.stack([around[:, j : j + 64] for j in range(9)]).sum(0)
        x = x / (1 + 0.001 / 9 * squares) ** 0.75
    return F.linear(x.flatten(1), state["fc.weight"], state["fc.bias"])


def plain_lip(state, x):
    def block(state, name, x, stride):
        if stride == 1:
            return plain_block(state, name, x, 1)
        shared = state.features(f"{name}.bottleneck_shared.logit", x)
        y = state.batch(f"{name}.bn1", state.conv(f"{name}.conv1", x)).relu()
        y = lip(y, state.gate(f"{name}.conv2.0.postprocessing", shared), 3, 2, 1)
        y = state.batch(f"{name}.bn2", state.conv(f"{name}.conv2.1", y))
        x = lip(x, state.gate(f"{name}.downsample.lip.postprocessing", shared), 3, 2, 1)
        return (state.batch(f"{name}.downsample.bn", state.conv(f"{name}.downsample.conv", x)) + y).relu()

    def stem(state, x):
        return lip(x, state.gate("maxpool.logit", x), 3, 2, 1)

    return plain_resnet(state, (1, 1, 1, 1), block, stem, x)


def plain_soft_resnet(state, x):
    return plain_resnet(state, (1, 1, 1, 1), plain_block, plain_soft_stem, x)


def soft_resnet(**more):
    return ResNet((1, 1, 1, 1), partial(bottleneck, **more), ("pool", soft_pool2d(2, 2, shifted=False)), 7)


def small_densenet():
    return DenseNet((2, 2), 7, soft_pool2d(2, 2, shifted=False), lambda _: torch.nn.AvgPool2d(2), channels=6, growth=4)


def small_lip():
    return lip_resnet._network((1, 1, 1, 1), 7, lip_resnet._basic, lip_resnet._ZERO_BASIC)


def small_video(block):
    return softpool_r2plus1d._network((1, 1, 1, 1), block, 7, False)


def small_dpp(depths=(2, 2, 2)):
    stem = {"conv1": torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), "bn1": torch.nn.BatchNorm2d(4)}
    return dpp_resnet._network(stem | {"relu": torch.nn.ReLU()}, 4, depths, dpp_resnet._basic, 7, "lite", "symmetric")


KINDS = {
    "ResNeXt": (lambda: soft_resnet(groups=32, group_width=4), plain_soft_resnet, (2, 3, 64, 50)),
    "wide": (lambda: soft_resnet(group_width=128), plain_soft_resnet, (1, 3, 48, 50)),
    "DenseNet": (small_densenet, plain_densenet, (2, 3, 64, 50)),
    "Inception": (lambda: models.softpool_inception_v3(7), plain_inception, (1, 3, 83, 76)),
    "R(2+1)D": (lambda: small_video(softpool_r2plus1d._basic), plain_r2plus1d, (1, 3, 6, 22, 26)),
    "R(2+1)D bottleneck": (lambda: small_video(softpool_r2plus1d._bottleneck), plain_r2plus1d, (1, 3, 6, 22, 26)),
    "DPP": (small_dpp, plain_dpp, (2, 3, 16, 24)),
    "NIN": (lambda: models.nin_cifar10(7), plain_nin, (1, 3, 21, 18)),
    "Zeiler": (lambda: models.zeiler_cifar10(7), plain_zeiler, (2, 3, 32, 32)),
    "LIP basic": (small_lip, plain_lip, (2, 3, 40, 35)),
}


def randomised(network):
    """In evaluation, with no parameter or buffer that hides a fault by being 0 or 1."""
    torch.manual_seed(0)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if value.dim() == 1:
            torch.nn.init.uniform_(value, 0.3, 1.0)
        elif name.endswith(("postprocessing.conv.weight", "maxpool.logit.conv.weight")):
            torch.nn.init.normal_(value, std=0.05)
    return network.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_plain_pytorch(kind):
    make, plain, size = KINDS[kind]
    network = randomised(make().double())
    x = torch.randn(size, dtype=torch.float64, generator=torch.manual_seed(1))
    with torch.no_grad():
        answer, y = plain(State(network.state_dict()), x), network(x)
    assert answer.shape == (size[0], 7)
    assert answer.std() > 1e-3
    torch.testing.assert_close(y, answer, rtol=1e-9, atol=1e-10 * answer.abs().max().item())


def test_nin_takes_any_size_with_the_same_weights():
    network = models.nin_cifar10().eval()
    for size in (32, 33, 57):
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 10)


# --- export, and checkpoints by name


@pytest.mark.parametrize("kind", ["R(2+1)D", "DPP"])
def test_networks_are_exported_for_free_sizes(kind):
    torch.manual_seed(0)
    if kind == "DPP":
        network, size, axes = small_dpp((1, 1)), (2, 3, 16, 24), {0: "batch", 2: "height", 3: "width"}
    else:  # with shifted windows of three axes
        stem = softpool_r2plus1d._conv(3, 4, (1, 3, 3), (1, 2, 2))
        network = torch.nn.Sequential(stem, torch.nn.ReLU(), soft_pool3d(2, 2, shifted=True))
        size, axes = (1, 3, 6, 22, 26), {0: "batch", 2: "frames", 3: "height", 4: "width"}
    x = torch.randn(size, generator=torch.manual_seed(1))
    model = onnxpool.export(randomised(network), (x,), dynamic_shapes=(axes,))
    assert len(model.meta["onnxpool.proof"].cases) == 3


def test_a_checkpoint_is_loaded_by_name_from_the_command_line(tmp_path):
    torch.manual_seed(3)
    network = models.zeiler_cifar10(4).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "c.pth")
    arguments = ["export", "zeiler_cifar10(num_classes=4)", str(tmp_path / "z.onnx"), "--input", "1x3x32x32"]
    done = CliRunner().invoke(app, [*arguments, "--checkpoint", str(tmp_path / "c.pth"), "--no-golden"])
    assert done.exit_code == 0, done.output
    x = torch.rand(1, 3, 32, 32)
    session = onnxpool.load(tmp_path / "z.onnx")
    (y,) = session.run({session.inputs[0].name: x.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(y), network(x).detach(), rtol=1e-4, atol=1e-5)
