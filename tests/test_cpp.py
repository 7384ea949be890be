"""The C++ example: built against the official header and the wheel's library, run with and without native kernels."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from models import pooled

import onnxpool
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run.native_library import library_path, why_missing
from onnxpool.window import Window

ROOT = Path(__file__).parent.parent
HEADER = "onnxruntime_cxx_api.h"
USUAL_PLACES = (ROOT / "build/onnxruntime_headers", Path("/usr/include/onnxruntime"), Path("/usr/local/include"))
WINDOW = Window.of(2, 3, 2, 1)


def headers():
    given = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    folders = [Path(given)] if given else USUAL_PLACES
    found = next((folder for folder in folders if (folder / HEADER).is_file()), None)
    if found is None and given:
        pytest.fail(f"ONNXRUNTIME_INCLUDE_DIR={given} holds no {HEADER}; unset it, or give the header's folder")
    if found is None:
        pytest.skip(f"no {HEADER} here: run tools/onnxruntime_headers, or set ONNXRUNTIME_INCLUDE_DIR to its folder")
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    include = headers()
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime holds no libonnxruntime.so: the example is built on Linux only")
    if not shutil.which("cmake") or not (os.environ.get("CXX") or shutil.which("c++")):
        pytest.skip("no cmake or no C++ compiler on this machine")
    (folder / "libonnxruntime.so.1").symlink_to(libraries[0])  # the name that the library goes by
    settings = [f"-DONNXRUNTIME_INCLUDE_DIR={include}", f"-DONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so.1'}"]
    for command in (["-S", ROOT / "examples/cpp", "-B", folder, *settings], ["--build", folder]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return folder / "pool"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    forms.write(onnxpool.to_form(pooled(WINDOW), "function"), path)
    return path


def run(program, *arguments, folder):
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def told(done):
    assert done.returncode == 0, done.stderr
    numbers, operators = done.stdout.splitlines()
    return np.array(numbers.split(), float), set(operators.removeprefix("ran:").split())


ANSWER = OPERATORS["SoftPool"].reference(WINDOW, np.arange(1.0, 4**4 + 1).reshape(4, 4, 4, 4)).ravel()


def test_without_the_library_the_function_runs(program, model, tmp_path):
    y, operators = told(run(program, model, folder=tmp_path))
    np.testing.assert_allclose(y, ANSWER, rtol=1e-5)  # six digits are printed
    assert "SoftPool" not in operators
    assert "If" in operators


@pytest.mark.skipif(why_missing() is not None, reason="onnxpool was installed without its native library")
def test_with_the_library_the_kernel_runs(program, model, tmp_path):
    y, operators = told(run(program, model, library_path(), folder=tmp_path))
    np.testing.assert_allclose(y, ANSWER, rtol=1e-5)
    assert operators == {"SoftPool"}


def test_what_cannot_be_run_is_said(program, model, tmp_path):
    done = run(program, tmp_path / "none.onnx", folder=tmp_path)
    assert done.returncode == 1
    assert "none.onnx" in done.stderr
    done = run(program, model, tmp_path / "none.so", folder=tmp_path)
    assert done.returncode == 1
    assert "none.so" in done.stderr
    assert run(program, folder=tmp_path).returncode == 2
