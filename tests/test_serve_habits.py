"""What clients send beyond the protocol, out of habit: it is ignored unless it would change the answer.

tritonclient as it is; KServe's clients by the requests that they make, since the package brings a web framework, pandas
and Kubernetes; gRPC's own protocols of health and reflection.
"""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from serving import HANGS_S, running, soft

pytest.importorskip("starlette")
grpc = pytest.importorskip("grpc")
triton_http = pytest.importorskip("tritonclient.http")
triton_grpc = pytest.importorskip("tritonclient.grpc")

X = np.array([[[[1, 2], [3, 4]]]], np.float32)
NEAR = pytest.approx(3.4926527, rel=1e-6)
INFER = "/v2/models/soft/infer"
INPUT = {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(soft(tmp_path_factory.mktemp("habits") / "soft.onnx")) as server:
        yield server


def posted(server, message, path=INFER, raw=b"", **headers):
    """Status and JSON of the answer to a message, and the bytes that follow it."""
    head = json.dumps(message).encode()
    if raw:
        headers["inference-header-content-length"] = str(len(head))
    request = urllib.request.Request(server.url + path, head + raw, headers)
    try:
        with urllib.request.urlopen(request, timeout=HANGS_S) as answer:
            length, body = answer.headers.get("inference-header-content-length"), answer.read()
            end = int(length) if length else len(body)
            return answer.status, json.loads(body[:end]), body[end:]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), b""


# --- REST


@pytest.mark.parametrize(
    "message",
    [
        {"id": "a", "model_name": "soft", "inputs": [INPUT]},
        {"id": None, "parameters": None, "outputs": None, "inputs": [INPUT | {"parameters": None}]},
        {"inputs": [INPUT | {"parameters": {"content_type": "np", "headers": {}}}], "outputs": []},
        {"inputs": [INPUT], "outputs": [{"name": "y", "parameters": {"content_type": "np", "classification": 0}}]},
        {"inputs": [INPUT], "parameters": {"priority": 1, "sequence_id": 0, "sequence_start": False, "mine": [1]}},
        {"inputs": [INPUT], "parameters": {"sequence_id": "", "binary_data_output": False, "timeout": None}},
    ],
    ids=["model_name", "null", "content_type", "of an output", "priority and no sequence", "an empty sequence"],
)
def test_what_changes_nothing_is_ignored(server, message):
    status, answered, _ = posted(server, message)
    assert (status, answered.get("outputs", answered)[0]["data"]) == (200, [NEAR])


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"inputs": [INPUT], "parameters": {"sequence_id": 7}}, "'sequence_id'"),
        ({"inputs": [INPUT], "parameters": {"sequence_id": "s"}}, "'sequence_id'"),
        ({"inputs": [INPUT | {"parameters": {"shared_memory_region": "r"}}]}, "'shared_memory_region'"),
        ({"inputs": [INPUT], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, "shared_memory"),
        ({"inputs": [INPUT], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "'classification'"),
    ],
)
def test_what_would_change_the_answer_is_refused(server, message, said):
    status, answered, _ = posted(server, message)
    assert (status, said in answered["error"]) == (400, True)


def test_infinity_comes_back_to_a_client_that_names_no_outputs(server):
    """tritonclient asks for binary outputs then, which hold what JSON cannot."""
    x = np.full((1, 1, 2, 2), np.inf, np.float32)
    given = triton_http.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x)
    with triton_http.InferenceServerClient(server.address, network_timeout=HANGS_S) as client:
        y = client.infer("soft", [given], priority=2, parameters={"mine": "1", "other": 2}).as_numpy("y")
    assert not np.isfinite(y).any()


def test_the_requests_of_kserve_over_rest(server):
    """kserve 0.21: InferRequest.to_rest, once with raw data and once with a list."""
    head = {"id": "7", "model_name": "soft", "inputs": [INPUT | {"parameters": {"binary_data_size": 16}}]}
    del head["inputs"][0]["data"]
    asked = {
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"binary_data_output": True},
    }
    headers = {"content-type": "application/octet-stream"}
    for more in ({}, asked):
        status, answered, raw = posted(server, head | more, raw=X.tobytes(), **headers)
        assert (status, answered["id"], answered["model_name"]) == (200, "7", "soft")
        values = np.frombuffer(raw, np.float32).tolist() if more else answered["outputs"][0]["data"]
        assert values == [NEAR]
    for path, said in (("health/live", "live"), ("health/ready", "ready"), ("models/soft/ready", "ready")):
        with urllib.request.urlopen(f"{server.url}/v2/{path}", timeout=HANGS_S) as answer:
            assert json.load(answer)[said] is True


def test_a_repository_takes_fields_that_it_does_not_know(server):
    status, answered, _ = posted(server, {"ready": None, "mine": 1}, "/v2/repository/index")
    assert (status, answered[0]["name"]) == (200, "soft")


# --- gRPC


@pytest.fixture
def client(server):
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        yield client


def given(**parameters):
    """An input as kserve's client makes it, with parameters."""
    made = triton_grpc.InferInput("x", [1, 1, 2, 2], "FP32").set_data_from_numpy(X)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(made._get_tensor().parameters[name], kind, value)
    return made


def test_parameters_over_grpc(client):
    inputs = [given(binary_data_size=16, content_type="np")]
    found = client.infer("soft", inputs, priority=3, parameters={"mine": 1, "other": "2"})
    assert found.as_numpy("y").item() == NEAR
    for inputs, more in (([given(shared_memory_region="r")], {}), ([given()], {"sequence_id": 5})):
        with pytest.raises(triton_grpc.InferenceServerException, match=r"shared_memory_region|sequence_id"):
            client.infer("soft", inputs, **more)


def test_an_unknown_model_is_not_ready(client):
    assert client.is_model_ready("soft")
    assert not client.is_model_ready("nix")
    assert not client.is_model_ready("soft", "9")


def test_statistics_have_every_field_that_perf_analyzer_reads(server, client):
    bad = triton_grpc.InferInput("x", [1, 1, 1, 2], "FP32").set_data_from_numpy(X[:, :, :1])
    with pytest.raises(triton_grpc.InferenceServerException, match="could not run"):
        client.infer("soft", [bad])
    client.infer("soft", [given()])
    (stats,) = client.get_inference_statistics("soft", as_json=True)["model_stats"]
    with triton_http.InferenceServerClient(server.address, network_timeout=HANGS_S) as rest:
        (same,) = rest.get_inference_statistics("soft")["model_stats"]
    fields = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert same["inference_stats"].keys() == fields
    assert same["batch_stats"] == []
    assert stats["inference_stats"].keys() == fields
    assert int(stats["last_inference"]) == same["last_inference"] > 1.7e12  # milliseconds since 1970
    count = same["inference_stats"]["success"]["count"]
    assert [same["inference_stats"][f"compute_{part}"]["count"] for part in ("input", "infer", "output")] == [
        count + 1  # the run that failed
    ] * 3
    assert same["inference_stats"]["fail"]["count"] >= 1
    assert same["inference_stats"]["fail"]["ns"] > 0


def test_health_as_kubernetes_and_load_balancers_ask_it(server):
    """grpc.health.v1, by its bytes: a request is a name as field 1, an answer a state as field 1; 1 is serving."""
    with grpc.insecure_channel(server.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=HANGS_S) == b"\x08\x01"
        assert check(b"\x0a\x04soft", timeout=HANGS_S) == b"\x08\x01"
        assert check(b"\x0a\x1einference.GRPCInferenceService", timeout=HANGS_S) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as error:
            check(b"\x0a\x03nix", timeout=HANGS_S)
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x03nix", timeout=HANGS_S)
        assert next(watched) == b"\x08\x03"  # unknown, and the stream goes on
        watched.cancel()


def test_reflection_describes_the_service(server):
    reflection = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    from google.protobuf.descriptor_pool import DescriptorPool

    with grpc.insecure_channel(server.grpc) as channel:
        database = reflection.ProtoReflectionDescriptorDatabase(channel)
        names = {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
        assert names <= set(database.get_services())
        pool = DescriptorPool(database)
        infer = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
        assert infer.input_type.fields_by_name["raw_input_contents"].number == 7
        assert pool.FindMessageTypeByName("inference.ModelMetadataResponse").fields_by_name["inputs"].number == 4
        with pytest.raises(KeyError):
            pool.FindMessageTypeByName("inference.Nix")
