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

settings = onnxruntime.SessionOptions()
settings.log_severity_level = 4
for told in json.load(sys.stdin):
    feeds = {name: np.array(values, dtype).reshape(shape) for name, (dtype, shape, values) in told["feeds"].items()}
    try:
        model = parser.parse_model(told["model"]).SerializeToString()
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        print(json.dumps(session.run(None, feeds)[0].astype(float).ravel().tolist()), flush=True)
    except Exception as error:
        print(json.dumps(str(error)), flush=True)
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


def ran(*asked) -> tuple[int, list]:
    """The exit status of a process that runs these models on these inputs, and what it printed of each."""
    every = [
        {
            "model": limit.shown,
            "feeds": {name: [str(x.dtype), list(x.shape), x.ravel().tolist()] for name, x in given.items()},
        }
        for limit, given in asked
    ]
    done = subprocess.run(
        [sys.executable, "-c", SHOW], input=json.dumps(every), capture_output=True, text=True, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


STAYING = [limit for limit in LIMITS if limit.way != "dies"]


@pytest.fixture(scope="module")
def shown():
    """What the models of limits give that leave the process alive."""
    status, found = ran(*((limit, feeds(limit, parser.parse_model(limit.shown))) for limit in STAYING))
    assert (status, len(found)) == (0, len(STAYING))
    return found


PLAIN = {"drops": np.isnan, "clips": lambda y: y == np.inf, "vanishes": lambda y: np.abs(y) == 1}
"""What every element would be, or some, without the limit."""


@pytest.mark.parametrize("place", range(len(STAYING)), ids=lambda i: f"{STAYING[i].operator} {STAYING[i].kind}")
def test_the_installed_release_has_this_limit(shown, place):
    limit, found = STAYING[place], shown[place]
    assert limit.kind in kinds(feeds(limit, parser.parse_model(limit.shown)))
    mended = f"{limit.sentence}: no longer; take it out of the table"
    if limit.way == "stops":
        assert isinstance(found, str), mended
        return
    found = np.array(found)
    assert not PLAIN[limit.way](found).all(), mended
    if limit.way == "clips":
        assert np.isfinite(found).all(), mended


@pytest.mark.parametrize("limit", [one for one in LIMITS if one.way == "dies"], ids=lambda limit: limit.operator)
def test_the_installed_release_dies_of_this(limit):
    model = parser.parse_model(limit.shown)
    status, found = ran((limit, feeds(limit, model, usual=True)), (limit, feeds(limit, model)))
    assert status < 0, f"{limit.sentence}: no longer; take it out of the table"
    assert np.isfinite(found[0]).all(), "what it gives for a usual batch"


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
