"""Networks for the examples: onnxpool export nets.py:network network.onnx --input 1x3x64x64."""

import torch

from onnxpool import nn


def network() -> torch.nn.Module:
    """Pictures ``(N, 3, H, W)`` to ten scores: a convolution, SoftPool, and a mean over all positions."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        nn.SoftPool2d(3, stride=2, padding=1),
        nn.GlobalAvgPool2d(flatten=True),
        torch.nn.Linear(8, 10),
    )


def plain() -> torch.nn.Module:
    """The same with layers of ``torch.nn`` alone, for onnxpool swap."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, stride=2, padding=1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    )


def digits() -> torch.nn.Module:
    """Handwritten digits ``(N, 1, 8, 8)``, values from 0 to 1, to ten scores; ``digits.onnx`` is it, trained."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        nn.SoftPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        nn.SoftPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 4, 10),
    )


def resnet18() -> torch.nn.Module:
    """The network of tools/demo: ResNet-18 of transformers with SoftPool in its stem, to 1000 scores."""
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = ResNetConfig(
                depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=1000
            )
            self.network = ResNetForImageClassification(config)
            self.network.resnet.embedder.pooler = nn.SoftPool2d(3, stride=2, padding=1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(pixel_values=pixels).logits
            return logits

    return Logits()
