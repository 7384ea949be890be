"""From a model in float32 to one that computes in whole numbers of 8 bits.

    quantize.py      the whole: calibrated, quantised by ONNX Runtime, judged, and only then written
    calibration.py   the inputs to calibrate with: a folder, an npz file, or the golden file

What a quantised model holds is in :mod:`onnxpool.graph.quantized`; what it is judged by, in
:mod:`onnxpool.golden.from_quantized` and :mod:`onnxpool.validation.quantized`.
"""
