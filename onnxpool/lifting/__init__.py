"""What :func:`onnxpool.lift` works with: values of a graph, sums over windows, views of cells, and what they add up to.

Imports go one way: ``values -> sums -> recognise -> views``.
"""
