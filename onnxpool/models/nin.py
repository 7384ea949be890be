"""Network in Network: three small networks slid over the image, and the mean of each class' map as its score.

    conv1 5x5, cccp1, cccp2 -> max 3x3 s2 -> conv2 5x5, cccp3, cccp4 -> mean 3x3 s2 -> conv3 3x3, cccp5, cccp6 -> mean

Source: Lin, Chen, Yan, "Network in network", ICLR 2014; layers, sizes and names are those of its first author's Caffe
model for CIFAR-10 (gist.github.com/mavenlin/e56253735ef32c3c296d): ReLU after each convolution, the last one too, and
output sizes rounded up. ``cccp`` are convolutions of 1x1. Global average pooling has no weights and takes any size, so
images need not be of 32x32; the maps before it show where a class is seen.

>>> sum(parameter.numel() for parameter in nin_cifar10().parameters())
966986
"""

from onnxpool.models.layers import Network, check_classes
from onnxpool.pools._torch_ops import torch
from onnxpool.pools.global_average import GlobalAvgPool2d

__all__ = ["nin_cifar10"]


def nin_cifar10(num_classes: int = 10) -> Network:
    """Nine convolutions; ``(N, 3, H, W) -> (N, num_classes)``."""
    check_classes(num_classes)
    layers: dict[str, torch.nn.Module] = {}
    channels = 3
    for name, outputs, size in (
        ("conv1", 192, 5), ("cccp1", 160, 1), ("cccp2", 96, 1),
        ("conv2", 192, 5), ("cccp3", 192, 1), ("cccp4", 192, 1),
        ("conv3", 192, 3), ("cccp5", 192, 1), ("cccp6", num_classes, 1),
    ):  # fmt: skip
        layers[name] = torch.nn.Conv2d(channels, outputs, size, padding=size // 2)
        layers[f"relu_{name}"] = torch.nn.ReLU()
        channels = outputs
        if name == "cccp2":
            layers |= {"pool1": torch.nn.MaxPool2d(3, 2, ceil_mode=True), "drop3": torch.nn.Dropout()}
        elif name == "cccp4":
            layers |= {"pool2": torch.nn.AvgPool2d(3, 2, ceil_mode=True), "drop6": torch.nn.Dropout()}
    network = Network(**layers, pool3=GlobalAvgPool2d(flatten=True))
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.05)
            torch.nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    return network
