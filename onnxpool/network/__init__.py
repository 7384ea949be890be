"""PyTorch networks: exported, and with other poolings in them.

    export.py              to ONNX                      targets.py               what takes the place of a layer
    swap.py                layers exchanged by rules    replacement_layers.py    what a pool alone cannot be
    layers.py              which poolings there are     official.py              the published pooling packages
    calls.py               what passes through, and which functions are called

All but export.py and swap.py need PyTorch at once; these two import it, and the others, when they run.
"""
