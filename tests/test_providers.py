"""Providers of ONNX Runtime: asked for only where their device is, passed over where they do not start, told by doctor.

``tools/compat gpu-1.31.1`` runs this with onnxruntime-gpu on a machine without a GPU, too.
"""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from models import model, pooled
from onnx import helper

import onnxpool
from onnxpool.about import machine
from onnxpool.about.model import describe
from onnxpool.errors import ArgumentError
from onnxpool.graph import forms
from onnxpool.run import native_library, options, session
from onnxpool.runtimes import RUNTIMES, _devices
from onnxpool.window import Window

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
X = np.array([[[[1, 2], [3, 4]]]], np.float32)
native = pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")
gpu_build = pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or not _devices.why_no_device(CUDA),
    reason="this is for onnxruntime-gpu on a machine without a GPU",
)


@pytest.fixture
def path(tmp_path):
    forms.write(onnxpool.to_form(pooled(Window.of(2, 2)), "function"), tmp_path / "pool.onnx")
    return tmp_path / "pool.onnx"


@pytest.fixture
def built_for_gpus(monkeypatch):
    """As with onnxruntime-gpu on a machine without a GPU: the providers are listed, and there is no device."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(_devices, "_library", lambda _: None)


def test_no_provider_is_asked_for_without_its_device(path, built_for_gpus, monkeypatch):
    asked = []
    opened = session._open
    monkeypatch.setattr(session, "_open", lambda *given: asked.append(given[2]) or opened(*given))
    onnxpool.load(path)
    onnxpool.load(path, providers=[TENSORRT, CUDA, CPU])
    assert asked == [[CPU], [CPU]]
    with pytest.raises(ArgumentError, match=r"providers=\['CUDA.*'\] cannot start here: no GPU: no NVIDIA driver"):
        onnxpool.load(path, providers=[CUDA])


@native
def test_kernels_are_those_of_the_provider_that_starts(path, monkeypatch):
    """CUDA is there and does not start, so that ONNX Runtime goes on with the CPU: with the CPU's kernels, then."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(options, "why_no_device", lambda _: "")
    monkeypatch.setattr(session, "why_none_for", lambda provider: None if provider == CPU else "no kernels")
    opened = session._open
    monkeypatch.setattr(session, "_open", lambda model, options, _: opened(model, options, [CPU]))
    for providers in (None, [CUDA], [CUDA, CPU]):
        loaded = onnxpool.load(path, providers=providers)
        assert [placement.provider for placement in loaded.placements] == [CPU]


def test_validation_skips_what_has_no_device(path, built_for_gpus):
    report = onnxpool.validate(path, threads=1)
    assert report.exit_status == 0
    skipped = {
        run.options["provider"]: run.reason for run in report.runs if "provider" in run.options and not run.kernels
    }
    assert skipped == dict.fromkeys((CUDA, TENSORRT), "no GPU: no NVIDIA driver is installed")
    assert {run.verdict for run in report.runs if "provider" in run.options} == {"skipped"}


def test_devices_are_counted_by_the_driver(monkeypatch):
    def driver(status: int, devices: int) -> SimpleNamespace:
        def count(place):
            place._obj.value = devices
            return 0

        return SimpleNamespace(cuInit=lambda _: status, cuDeviceGetCount=count)

    for status, devices, told in ((0, 1, ""), (100, 1, "status 100"), (0, 0, "the NVIDIA driver finds none")):
        found = {_devices._DRIVER: driver(status, devices)}
        monkeypatch.setattr(_devices, "_library", found.get)
        assert told in _devices.why_no_device(CUDA)
        assert bool(_devices.why_no_device(CUDA)) is bool(told)
    monkeypatch.setattr(_devices, "_library", {_devices._DRIVER: driver(0, 1)}.get)
    assert _devices.why_no_device(TENSORRT) == "TensorRT is not installed: there is no libnvinfer"
    assert _devices.why_no_device(CPU) == ""


def test_errors_of_onnxruntime_do_not_fill_the_screen(capfd):
    unknown = model([helper.make_node("NoSuchOperator", ["x"], ["y"])], 2)
    with pytest.raises(onnxpool.errors.SessionError):
        onnxpool.load(unknown)
    bare = pooled(Window.of(2, 2), strides=[0, 0]).SerializeToString()
    if native_library.why_missing() is None:
        with pytest.raises(onnxpool.errors.OnnxpoolError):
            onnxpool.load(bare)
    assert capfd.readouterr() == ("", "")


def test_doctor_knows_other_builds_and_plug_ins(monkeypatch):
    def package(name: str, top: str) -> SimpleNamespace:
        return SimpleNamespace(metadata={"Name": name}, version="1.24.1", read_text=lambda _: top)

    found = [
        package("onnxruntime_openvino", "onnxruntime\n"),
        package("onnxruntime-ep-webgpu", "onnxruntime_ep_webgpu"),
    ]
    found.append(package("onnxruntime-extensions", "onnxruntime_extensions"))
    monkeypatch.setattr(machine.metadata, "distributions", lambda: found)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider", TENSORRT, CPU])
    monkeypatch.setattr(_devices, "_library", lambda _: None)
    told = machine.diagnose()
    assert told.versions["onnxruntime-openvino"] == "1.24.1"
    assert "onnxruntime-extensions" not in told.versions
    (clash,) = (problem for problem in told.problems if "overwrite" in problem.what)
    assert clash.what.endswith("and onnxruntime-openvino are both installed and overwrite each other's files")
    notes = "\n".join(told.notes)
    assert "OpenVINOExecutionProvider has no native kernels" in notes
    assert f"{TENSORRT} is not used: no GPU" in notes
    assert "onnxruntime-ep-webgpu is a plug-in" in notes


# --- with the real thing


@gpu_build
@native
def test_onnxruntime_gpu_without_a_gpu_runs_natively_on_the_cpu(path):
    loaded = onnxpool.load(path)
    assert loaded.inner.get_providers() == [CPU]
    assert [placement.provider for placement in loaded.placements] == [CPU]
    description = describe(path)
    assert [description.runs(placement) for placement in description.pooling] == [f"natively on {CPU}"]
    assert machine.diagnose().healthy


@gpu_build
def test_onnxruntime_gpu_without_a_gpu_validates(path):
    report = onnxpool.validate(path, threads=1)
    assert report.exit_status == 0
    assert {run.verdict for run in report.runs} == {"passed", "skipped"}
    assert RUNTIMES["onnxruntime"].why_not({"provider": CUDA}).startswith("no GPU")


@gpu_build
def test_onnxruntime_gpu_without_a_gpu_says_nothing_on_the_screen(path):
    program = "import sys, onnxpool; onnxpool.load(sys.argv[1]); onnxpool.validate(sys.argv[1], threads=1)"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
