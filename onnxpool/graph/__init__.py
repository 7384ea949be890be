"""What an ONNX graph holds.

    forms.py     reading, writing, and moving between the three forms    fingerprint.py   what changed since the export
    repair.py    what others did to a file, undone when it is read       tags.py          what folds a standard form
    inlined.py   pooling nodes that another program has written out  element_types.py   what pooling nodes pool
    shapes.py    what the model declares, against what came out          subgraph.py      parts of it, as models
    quantized.py where a quantised model rounds, and what of that cannot be right
    mixed.py     some nodes in float16, the others in float32
    integers.py  the native library's operators on stored numbers, put in when a model is loaded

Models are those of ``onnx_ir``. What gives another form or a part of a model leaves the model as it is.
"""
