"""From a model file to numbers.

    native_library.py   found and registered, or why not      session.py    a model that runs, and what ran natively
    picture.py          a picture file to an input            predict.py    pictures to classes
    optimize.py         a model in ONNX Runtime's own layout for this processor

ONNX Runtime is imported when it is needed, not with these files.
"""
