"""Whatever comes, the server answers below 500 and goes on: OpenAPI's endpoints by schemathesis, and damaged bodies.

Briefly here; ``tools/load --fuzz SECONDS`` does the same for as long as it is told.
"""

import http.client
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import running, soft

pytest.importorskip("starlette")
pytest.importorskip("grpc")
pytest.importorskip("schemathesis")

ENTRY = {"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "parameters": {"binary_data_size": 16}}
HEAD = json.dumps({"inputs": [ENTRY]}).encode()
BODY = HEAD + np.array([1, 2, 3, 4], np.float32).tobytes()
INFER = "/v2/models/soft/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = soft(tmp_path_factory.mktemp("fuzz") / "soft.onnx")
    with running(path, "--no-control") as server:
        yield server


@pytest.fixture
def connection(server):
    connection = http.client.HTTPConnection(server.address, timeout=30)
    yield connection
    connection.close()


def status(connection, body, header):
    headers = {} if header is None else {"Inference-Header-Content-Length": header}
    connection.request("POST", INFER, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_the_request_that_is_damaged_below_is_sound(connection):
    assert status(connection, BODY, str(len(HEAD))) == 200


def test_schemathesis(server, tmp_path):
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = ["schemathesis.cli", "run", f"{server.rest}/openapi.json", "--max-examples", "10", "--seed", "1"]
    command += [
        "--checks",
        checks,
        "--phases",
        "examples,coverage,fuzzing",
        "--no-color",
        "--generation-database",
        "none",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"generated, (\d+) passed", done.stdout)
    assert int(passed[1]) > 100


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 300).map(str)))
def test_random_bytes(connection, body, header):
    assert 400 <= status(connection, body, header) < 500


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(BODY)),
    st.integers(-3, 3),
)
def test_damaged_bodies(connection, changes, kept, shift):
    body = bytearray(BODY)
    for place, byte in changes:
        body[place] = byte
    assert status(connection, bytes(body[:kept] if kept % 3 == 0 else body), str(len(HEAD) + shift)) < 500
