"""PyTorch networks: exported, and with other poolings in them.

    export.py              to ONNX, and checked         targets.py               what takes the place of a layer
    arguments.py           what people give to export   translate.py             PyTorch's exporter
    passes.py              its graph made smaller       prove.py                 ONNX Runtime beside the module
    traced.py              values inside a module       untraced.py              values between these
    lines.py               where in somebody's code
    swap.py                layers exchanged by rules    replacement_layers.py    what a pool alone cannot be
    layers.py              which poolings there are     official.py              the published pooling packages
    calls.py               what passes through, and which functions are called
    spelled_layers.py      reads spellings such as "PowerAvgPool(p=3)"

export.py and swap.py import PyTorch, and the others, when they run; spelled_layers.py never does; the others need it.
"""

KINDS = ("max", "average", "power", "adaptive", "strided-convolution", "official", "onnxpool")
"""The kinds of layers; :mod:`onnxpool.network.layers` says which layers they are."""

POOLINGS = ("max", "average", "power", "adaptive", "official")
"""The kinds that a rule for ``all`` chooses: poolings of torch.nn and of published packages."""
