"""The parts of :mod:`onnxpool.validation.validate`: what to run (cells, matrix), and what to make of the results.

Verdicts (compare, declared), which side is wrong (sides), and what wrong cells suggest (patterns).
"""
