"""From a model in float32 to one that computes in float16, or in whole numbers of 8 bits, where that is safe.

    quantize.py      to 8 bits: calibrated, quantised by ONNX Runtime, judged, and only then written
    precision.py     which nodes are safe in float16 or 8 bits, and the model that has these so
    ranges.py        how large values become on samples
    verdicts.py      what is said of each node
    narrowed.py      the model that is written
    switched.py      what a node in a narrower type does to the outputs
    inside.py        how large the sums inside of a node become
    saturation.py    whether ONNX Runtime adds products of 8 bits rightly on this processor
    calibration.py   the inputs to calibrate with: a folder, an npz file, or the golden file

What a mixed model is made of is in :mod:`onnxpool.graph.mixed`, what a quantised model holds in
:mod:`onnxpool.graph.quantized`; what it is judged by, in
:mod:`onnxpool.golden.from_quantized` and :mod:`onnxpool.validation.quantized`.
"""
