"""What there is, as plain values.

    model.py     in a model file          methods.py    of pooling methods and their kernels
    machine.py   on this machine: versions, providers, and what stands in the way

The command line makes tables of them.
"""
