"""I use the SoftPool package: the program of docs/how-to/softpool-package.md, to be run in a copy of examples/files."""

import torch
import onnxpool


class SoftPool2d(torch.nn.Module):  # stands in for: from SoftPool import SoftPool2d
    def __init__(self, kernel_size=2, stride=None, force_inplace=False):
        super().__init__()
        self.kernel_size, self.stride, self.force_inplace = kernel_size, stride, force_inplace

    def forward(self, x):
        average = torch.nn.functional.avg_pool2d
        return average(x * x.exp(), self.kernel_size, self.stride) / average(x.exp(), self.kernel_size, self.stride)


network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), SoftPool2d(2))  # your network, as it is
swapped = onnxpool.swap(network, {"official": "same"})
print(swapped.replaced[0].new)  # SoftPool2d(2x2)
print("its own code gives the same" in swapped.replaced[0].remark)  # True

sizes = {0: "batch", 2: "height", 3: "width"}
onnxpool.export(swapped.network, (torch.randn(1, 3, 32, 32),), "softpool.onnx", dynamic_shapes=(sizes,))
