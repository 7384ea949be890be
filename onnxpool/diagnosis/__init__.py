"""The parts of :mod:`onnxpool.diagnosis.per_node`: graphs cut at their nodes (subgraph), what each value should be
(walk, traced) and is (runs), the usual mistakes tried (suspects), and results.
"""
