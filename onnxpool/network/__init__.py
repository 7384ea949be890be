"""What :func:`onnxpool.swap` works with: layers, official packages, what passes through a network, stand-ins.

These files need PyTorch; :mod:`onnxpool.network.swap` imports them when it runs.
"""
