"""A network of Hugging Face with SoftPool in it, from PyTorch to ONNX Runtime: exported, proven equal, timed.

Takes transformers' ResNet-18 with random weights (nothing is downloaded: this shows equality and speed, not accuracy),
puts SoftPool in place of its max-pooling, and runs scikit-learn's two photographs through every form of it. Leaves in
out/: the model with its golden answers, the validation as a web page, and a photograph pooled in three ways.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from sklearn.datasets import load_sample_image
from transformers import ResNetConfig, ResNetForImageClassification

import onnxpool
from onnxpool import nn
from onnxpool.cli import layout, tables
from onnxpool.domain import Form
from onnxpool.errors import KernelError
from onnxpool.run.session import Kernels
from onnxpool.validation import html_page

Images = NDArray[np.float32]

OUT = Path("out")
DYNAMIC = ({0: "batch", 2: "height", 3: "width"},)
ROUNDS = 11
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's, which ResNets expect


class SoftPoolResNet18(torch.nn.Module):
    """transformers' ResNet-18 with SoftPool where it had its max-pooling: images to logits."""

    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 256, 512]
        self.network = ResNetForImageClassification(
            ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=widths, layer_type="basic", num_labels=1000)
        )
        self.network.resnet.embedder.pooler = nn.SoftPool2d(3, stride=2, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # noqa: D102
        logits: torch.Tensor = self.network(pixel_values=pixels).logits
        return logits


def photographs(size: tuple[int, int]) -> Images:
    """Both photographs, (2, 3, height, width), normalised as the network expects."""
    images = [Image.fromarray(load_sample_image(name)).resize(size) for name in ("china.jpg", "flower.jpg")]
    pixels = np.stack([np.asarray(image) for image in images]) / 255
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 3, 1, 2), np.float32)


Way = Callable[[Images], NDArray[Any]]


def ways(module: torch.nn.Module, path: Path) -> dict[str, Way]:
    """Every way to run ``module``, exported at ``path``, that there is on this machine."""

    def pytorch(x: Images) -> NDArray[Any]:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    def onnxruntime(form: Form, kernels: Kernels) -> Way:
        session = onnxpool.load(onnxpool.to_form(path, form), kernels=kernels, threads=1)
        (taken,), (given,) = session.inputs, session.outputs
        return lambda x: session.run({taken.name: x})[given.name]

    found = {
        "PyTorch": pytorch,
        "standard form": onnxruntime("standard", "off"),
        "function form": onnxruntime("function", "off"),
    }
    try:
        found["native"] = onnxruntime("function", "require")
    except KernelError as error:
        console.print(f"Without native kernels: {error}", style="yellow")
    return found


def measure(ways: dict[str, Way], x: Images) -> dict[str, list[float]]:
    """Times in seconds, taken in turns so that whatever else the machine does meets all alike."""
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run(x)
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.perf_counter()
            run(x)
            times_s[name].append(time.perf_counter() - start)
    return times_s


def told(times_s: list[float]) -> str:
    """Median and quartiles in milliseconds."""
    low, middle, high = (1000 * quartile for quartile in statistics.quantiles(times_s, n=4))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def compare(network: SoftPoolResNet18, model: Path, x: Images) -> layout.Page:
    """Answers and times of the network, and times of its pooling layer alone."""
    layer = nn.SoftPool2d(3, stride=2, padding=1)
    onnxpool.export(layer, (torch.zeros(1, 64, 56, 56),), OUT / "softpool.onnx", dynamic_shapes=DYNAMIC)
    with torch.inference_mode():
        features = network.network.resnet.embedder.embedder(torch.from_numpy(x)).numpy()
    network_ways, layer_ways = ways(network, model), ways(layer, OUT / "softpool.onnx")
    network_times_s, layer_times_s = measure(network_ways, x), measure(layer_ways, features)

    right = network_ways["PyTorch"](x)
    rows = []
    for name, run in network_ways.items():
        logits = run(x)
        agree = int((logits.argmax(1) == right.argmax(1)).sum())
        error = "" if name == "PyTorch" else f"{np.abs(logits - right).max():.1e}"
        times = told(network_times_s[name]), told(layer_times_s[name])
        rows.append(layout.Row((*times, error, f"{agree}/2", name)))
    names = ("network, ms", "SoftPool alone, ms", "max error", "top-1", "way")
    return [
        "",
        f"two photographs, input {x.shape}, one thread; times are medians and quartiles",
        layout.Columns(names, rows, right=names[:4]),
        "Errors are against PyTorch in float32. The weights are random: no accuracy.",
        "",
    ]


def picture(path: Path) -> None:
    """The flower pooled 2x2 three times: by maximum, average and SoftPool."""
    x = torch.from_numpy(photographs((640, 427))[1:, :, 40:360, 120:560])
    pooled = {"the photograph": x}
    for label, pool in {
        "maximum": torch.nn.MaxPool2d(2),
        "average": torch.nn.AvgPool2d(2),
        "SoftPool": nn.SoftPool2d(2),
    }.items():
        pooled[label] = pool(pool(pool(x)))

    width, height, margin, head = *reversed(x.shape[2:]), 12, 44
    sheet = Image.new("RGB", (4 * (width + margin) + margin, head + height + margin), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=24)
    for i, (label, tensor) in enumerate(pooled.items()):
        values = np.clip(tensor[0].permute(1, 2, 0).numpy() * STD + MEAN, 0, 1)
        image = Image.fromarray((255 * values).round().astype(np.uint8))
        left = margin + i * (width + margin)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, head))
        draw.text((left, 8), f"{label}, {image.width} x {image.height}", "black", font)
    sheet.save(path)


def main() -> None:
    """Everything, one step after the other."""
    OUT.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # and so do the sessions: idle threads of one would disturb the next
    model = OUT / "resnet18-softpool.onnx"
    with console.status("Exporting ResNet-18 with SoftPool ..."):
        torch.manual_seed(0)
        network = SoftPoolResNet18().eval()
        onnxpool.export(network, (torch.randn(1, 3, 224, 224),), model, dynamic_shapes=DYNAMIC)
    with console.status("Validating every form of it ..."):
        report = onnxpool.validate(model)
        (OUT / "report.html").write_text(html_page(report), encoding="utf-8")
    layout.show(tables.report(report))
    with console.status("Timing it ..."):
        table = compare(network, model, photographs((384, 256)))
    layout.show(table)
    picture(OUT / "demo.png")
    console.print(
        f"{OUT}/demo.png     a photograph pooled by maximum, average and SoftPool\n"
        f"{OUT}/report.html  the validation, to open in a browser\n"
        f"{model}\n\n"
        f"Next: .venv/bin/onnxpool inspect {model}\n"
        "      .venv/bin/onnxpool export --help"
    )


console = Console()

if __name__ == "__main__":
    main()
