"""Known limits of runtimes: each is shown by the release that is installed, or has to leave the table."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxpool.runtimes import RUNTIMES
from onnxpool.validation.limits import LIMITS, kinds

onnxruntime = pytest.importorskip("onnxruntime")

SHOW = """
import json, sys
import numpy as np
import onnxruntime
from onnx import parser

told = json.load(sys.stdin)
settings = onnxruntime.SessionOptions()
settings.log_severity_level = 4
session = onnxruntime.InferenceSession(
    parser.parse_model(told["model"]).SerializeToString(), settings, providers=["CPUExecutionProvider"]
)
feeds = {name: np.array(values, dtype).reshape(shape) for name, (dtype, shape, values) in told["feeds"].items()}
print(json.dumps(session.run(None, feeds)[0].astype(float).ravel().tolist()))
"""


def feeds(limit, model: onnx.ModelProto, *, usual: bool = False) -> dict[str, np.ndarray]:
    """Inputs of the limit's kind, or of the same shape and usual."""
    rng, found = np.random.default_rng(0), {}
    for i, value in enumerate(model.graph.input):
        dims = value.type.tensor_type.shape.dim
        batch = 0 if limit.kind == "empty" and not usual else 2
        shape = [dim.dim_value if dim.HasField("dim_value") else batch for dim in dims]
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            found[value.name] = np.array([0, 2, -1] if limit.operator == "Reshape" else [1])
            continue
        x = rng.normal(size=shape).astype("float32")
        if i == 0 and not usual:
            if limit.kind == "nan":
                x.flat[
                    4 if limit.operator.startswith("Arg") else 0 :: 1 if limit.operator in ("LSTM", "GRU") else 5
                ] = np.nan  # one at least in every window
            elif limit.kind == "infinite":
                x.flat[0] = np.inf
            elif limit.kind == "subnormal":
                x *= np.float32(1e-38)
        found[value.name] = x
    return found


def ran(limit, given) -> tuple[int, np.ndarray]:
    """The exit status of a process that runs the limit's model, and its first output."""
    told = {name: [str(x.dtype), list(x.shape), x.ravel().tolist()] for name, x in given.items()}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        input=json.dumps({"model": limit.shown, "feeds": told}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, np.array(json.loads(done.stdout) if done.returncode == 0 else [])


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.operator} {limit.kind}")
def test_the_installed_release_has_this_limit(limit):
    model = parser.parse_model(limit.shown)
    given = feeds(limit, model)
    assert limit.kind in kinds(given)
    status, found = ran(limit, given)
    mended = f"{limit.sentence}: no longer; take it out of the table"
    if limit.way in ("stops", "dies"):
        assert (status < 0) == (limit.way == "dies"), mended
        assert status != 0, mended
    else:
        assert status == 0
        plain = {"drops": np.isnan, "clips": lambda y: y == np.inf, "vanishes": lambda y: np.abs(y) == 1}[limit.way]
        assert not plain(found).all(), mended
        if limit.way == "clips":
            assert np.isfinite(found).all(), mended


@pytest.mark.parametrize("limit", [one for one in LIMITS if one.way == "dies"][:1], ids=lambda limit: limit.operator)
def test_what_shows_a_limit_runs_otherwise(limit):
    status, found = ran(limit, feeds(limit, parser.parse_model(limit.shown), usual=True))
    assert status == 0
    assert np.isfinite(found).all()


def test_operators_that_drop_nan_are_those_of_the_runtime():
    table = {limit.operator for limit in LIMITS if limit.way == "drops"}
    assert table == RUNTIMES["onnxruntime"].loses_nan


def test_kinds_by_hand():
    assert kinds({"x": np.ones((0, 3), np.float32)}) == {"empty"}
    assert kinds({"x": np.float32([1, np.nan]), "i": np.array([3])}) == {"nan"}
    assert kinds({"x": np.float32([-np.inf, 1])}) == {"infinite"}
    assert kinds({"x": np.float32([1e-38, 0])}) == {"subnormal"}
    assert kinds({"x": np.zeros(3, np.float32)}) == set()
    assert kinds({"x": np.float32([1e-38, 1])}) == set()
