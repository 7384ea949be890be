"""Writes the files of this folder again: python make.py, with scikit-learn and Pillow installed."""

from pathlib import Path

import onnx
import torch
from nets import digits, network
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

import onnxpool

HERE = Path(__file__).parent


def photographs() -> None:
    """Scaled copies of scikit-learn's two photographs, and a part of one."""
    (HERE / "photos").mkdir(exist_ok=True)
    pictures = {name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}
    pictures["detail"] = pictures["flower"].crop((200, 100, 520, 314))
    for name, picture in pictures.items():
        picture.resize((320, 214)).save(HERE / f"photos/{name}.jpg", quality=85)
    pictures["flower"].resize((320, 214)).save(HERE / "photo.jpg", quality=85)


def untrained() -> None:
    """network.onnx."""
    torch.manual_seed(0)
    sizes = {0: "batch", 2: "height", 3: "width"}
    onnxpool.export(network(), (torch.randn(1, 3, 64, 64),), HERE / "network.onnx", dynamic_shapes=(sizes,))


def trained() -> None:
    """digits.onnx: the tutorial's training, in short."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    model = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(10):
        for batch in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    onnxpool.export(model.eval(), (x[:1],), HERE / "digits.onnx", dynamic_shapes=({0: "batch"},))


def naive() -> None:
    """theirs.onnx: sum x exp(x) / sum exp(x) as two averages, which overflows above 84."""
    average = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], "exp"),
        helper.make_node("Mul", ["x", "e"], ["xe"], "mul"),
        helper.make_node("AveragePool", ["xe"], ["above"], "above", **average),
        helper.make_node("AveragePool", ["e"], ["below"], "below", **average),
        helper.make_node("Div", ["above", "below"], ["y"], "div"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = helper.make_graph(nodes, "theirs", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, HERE / "theirs.onnx")


if __name__ == "__main__":
    photographs()
    untrained()
    trained()
    naive()
