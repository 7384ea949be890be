"""Whatever comes, the server answers below 500 and goes on: OpenAPI's endpoints by schemathesis, and damaged bodies.

Briefly here; ``tools/load --fuzz SECONDS`` does the same for as long as it is told.
"""

import http.client

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import HANGS_S, running, soft

pytest.importorskip("starlette")
pytest.importorskip("grpc")
pytest.importorskip("schemathesis")

from load_fuzz import bodies, schemathesis, status


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(soft(tmp_path_factory.mktemp("fuzz") / "soft.onnx"), "--no-control") as server:
        yield server


@pytest.fixture
def connection(server):
    connection = http.client.HTTPConnection(server.address, timeout=HANGS_S)
    yield connection
    connection.close()


def test_schemathesis(server, tmp_path):
    found = []
    assert schemathesis(server, seed=1, examples=10, folder=tmp_path, found=found) > 100, found
    assert found == []


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 300).map(str)))
def test_random_bytes(server, connection, body, header):
    assert 400 <= status(connection, server, body, header) < 500


def test_damaged_bodies(server):
    found = []
    statuses = bodies(server, seed=1, count=1000, found=found)
    assert found == []
    assert statuses[200] > 50  # some are left sound
    assert statuses[400] > 500
