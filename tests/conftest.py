"""What holds for all test files: every test that compiles a module does so afresh; collecting garbage is quick, and so
is an export after the first.
"""

import copy
import gc
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest


def pytest_collection_finish():
    """What was imported is no garbage: a server collects it after each model, which took most of its tests' time."""
    gc.freeze()
    if "torch" in sys.modules:
        read_translations_once()


def read_translations_once():
    """PyTorch's exporter parses onnxscript's translations again for each model: half of the time of a small one."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # another release, or no onnxscript
        return
    read, made = ONNXRegistry.from_torchlib, {}

    def from_torchlib(_, opset_version=None):
        if opset_version not in made:
            made[opset_version] = read() if opset_version is None else read(opset_version)
        registry = copy.copy(made[opset_version])
        registry.functions = {target: list(known) for target, known in registry.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = classmethod(from_torchlib)


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    """The extension for OpenVINO is compiled once; what comes here is a context in which it is found, and no other.

    Skips without OpenVINO, a C++ compiler or the native library.
    """
    from onnxpool import openvino
    from onnxpool.errors import KernelError
    from onnxpool.run import native_library

    pytest.importorskip("openvino")
    if reason := native_library.why_missing():
        pytest.skip(reason)
    cache = tmp_path_factory.mktemp("cache")

    @contextmanager
    def found():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(cache))
            patch.setattr(openvino._Release, "brought_along", lambda _: Path("none"))
            yield made

    made = None
    with found():
        assert openvino.why_missing().endswith("yet: onnxpool build openvino compiles it")
        try:
            made = openvino.build_extension()
        except KernelError as error:
            if "needs a C++ compiler" in str(error):
                pytest.skip(str(error))
            raise
    return found


@pytest.fixture(autouse=True)
def compiler(request):
    """Modules share one forward, and PyTorch gives up on code that was compiled in too many ways."""
    if "compiled" in request.node.name:
        import torch

        torch.compiler.reset()
