"""Blur, learned mixes, small pictures: the program of docs/how-to/other-layers.md, to be run in a copy of examples/files."""

import torch
from onnxpool import nn

layer = nn.DetailPreservingDownscale((96, 128), lambda_=1.0)
print(layer(torch.rand(1, 3, 601, 800)).shape)  # torch.Size([1, 3, 96, 128])
half = nn.DetailPreservingDownscale(scale_factor=0.5)

stem = nn.MaxBlurPool2d(3, 2, 1, filter_size=4)  # in place of MaxPool2d(3, 2, 1): the same sizes
down = nn.BlurPool2d(4, stride=2)  # before or in place of a stride
same = torch.nn.Sequential(nn.BlurPool2d(3, 1, "circular"), nn.AdaptivePolyphasePool2d(2))
