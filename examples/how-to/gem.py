"""I have GeM: the program of docs/how-to/gem.md, to be run in a copy of examples/files."""

import torch
import onnxpool
from onnxpool import nn

network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), nn.GeM(p=3.0, flatten=True))
sizes = {0: "batch", 2: "height", 3: "width"}
onnxpool.export(network, (torch.randn(1, 3, 64, 64),), "gem.onnx", dynamic_shapes=(sizes,))

session = onnxpool.load("gem.onnx")
for height, width in ((64, 64), (97, 41)):
    image = torch.randn(2, 3, height, width).numpy()
    (descriptor,) = session.run({session.inputs[0].name: image}).values()
    print(descriptor.shape)  # (2, 16)

class GeM(torch.nn.Module):
    def __init__(self, p=3.0, eps=1e-6):
        super().__init__()
        self.p, self.eps = torch.nn.Parameter(torch.ones(1) * p), eps

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x.clamp(min=self.eps).pow(self.p), x.shape[-2:]).pow(1 / self.p)


swapped = onnxpool.swap(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), GeM()), {"official": "same"})
print(swapped.replaced[0].new)  # GeM2d(p=3, eps=1e-06)
