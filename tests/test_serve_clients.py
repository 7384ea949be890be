"""The protocol as its own client sees it: tritonclient, over HTTP and gRPC, drives every endpoint of a real server.

The conformance table of docs/serving.md is made of these tests. Besides: faults that only a real server shows.
"""

import gzip
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import ml_dtypes
import numpy as np
import pytest
from serving import HANGS_S, average, running, soft, soft_answer, started, wait_for, with_golden

pytest.importorskip("starlette")
grpc = pytest.importorskip("grpc")
triton_http = pytest.importorskip("tritonclient.http")
triton_grpc = pytest.importorskip("tritonclient.grpc")

InferenceServerException = triton_http.InferenceServerException
X = np.array([[[[1, 2], [3, 4]]]], np.float32)
Y = 3.4926527
NEAR = pytest.approx(Y, rel=1e-6)
WAYS = ("http", "grpc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with_golden(soft(folder / "soft.onnx"))
    for dtype in ("float16", "bfloat16", "float64"):
        soft(folder / f"{dtype}.onnx", dtype)
    for version, make in (("1", soft), ("2", average)):
        (folder / "both" / version).mkdir(parents=True)
        make(folder / "both" / version / "model.onnx")
    soft(folder / "moves.onnx")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with running(folder, "--poll", "0.1", "--max-body-mb", "1") as server:
        yield server


def patient(address):
    """tritonclient over HTTP, which waits for as long as the others."""
    return triton_http.InferenceServerClient(address, connection_timeout=HANGS_S, network_timeout=HANGS_S)


@pytest.fixture
def client(request, server):
    """tritonclient by the protocol that the test names."""
    if request.param == "http":
        with patient(server.address) as client:
            yield triton_http, client
    else:
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            yield triton_grpc, client


both = pytest.mark.parametrize("client", WAYS, indirect=True)


def plain(client, given):
    """What a call gives as JSON: gRPC's messages as dictionaries."""
    if isinstance(given, list | dict):
        return given
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(given, preserving_proto_field_name=True)


def filled(triton, x, datatype="FP32", **how):
    made = triton.InferInput("x", list(x.shape), datatype)
    return made.set_data_from_numpy(x, **how)


def answer(client, x=X, model="soft", **how):
    triton, connection = client
    return connection.infer(model, [filled(triton, x)], **how).as_numpy("y")


# --- every endpoint


@both
def test_liveness_and_readiness(client):
    _, connection = client
    assert connection.is_server_live()
    assert connection.is_server_ready()
    assert connection.is_model_ready("soft")
    assert connection.is_model_ready("both", "2")


@both
def test_server_metadata(client):
    metadata = plain(client, client[1].get_server_metadata())
    assert metadata["name"] == "onnxpool"
    assert "binary_tensor_data" in metadata["extensions"]


@both
def test_model_metadata(client):
    metadata = plain(client, client[1].get_model_metadata("both"))
    assert metadata["versions"] == ["1", "2"]
    assert metadata["platform"] == "onnxruntime_onnx"
    (given,) = metadata["inputs"]
    assert (given["name"], given["datatype"], list(map(int, given["shape"]))) == ("x", "FP32", [-1, -1, -1, -1])


@both
def test_model_configuration(client):
    config = plain(client, client[1].get_model_config("soft"))
    config = config.get("config", config)
    assert config["max_batch_size"] == 8
    assert list(map(int, config["input"][0]["dims"])) == [-1, -1, -1]
    assert config["input"][0]["data_type"] in ("TYPE_FP32", 11)


@both
def test_inference(client):
    assert answer(client).tolist() == [[[[NEAR]]]]


@both
def test_versions(client):
    assert answer(client, model="both", model_version="1").item() == NEAR
    assert answer(client, model="both", model_version="2").item() == 2.5
    assert answer(client, model="both").item() == 2.5


@both
@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", "float16"), ("BF16", "bfloat16"), ("FP64", "float64")])
def test_other_types(client, datatype, dtype):
    triton, connection = client
    x = X.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    y = connection.infer(dtype, [filled(triton, x, datatype)]).as_numpy("y")
    assert y.dtype == x.dtype
    assert abs(float(y.item()) - Y) < 0.02


@pytest.mark.parametrize("client", ["http"], indirect=True)
@pytest.mark.parametrize("given", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("wanted", [True, False], ids=["binary out", "JSON out"])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_binary_json_and_compression(client, given, wanted, compression):
    triton, connection = client
    found = connection.infer(
        "soft",
        [filled(triton, X, binary_data=given)],
        outputs=[triton.InferRequestedOutput("y", binary_data=wanted)],
        request_id="42",
        request_compression_algorithm=compression,
    )
    assert found.as_numpy("y").item() == NEAR
    assert found.get_response()["id"] == "42"


@pytest.mark.parametrize("client", ["grpc"], indirect=True)
def test_typed_contents(client):
    triton, connection = client
    given = triton.InferInput("x", [1, 1, 2, 2], "FP32")
    given._get_tensor().contents.fp32_contents.extend([1, 2, 3, 4])
    found = connection.infer("soft", [given], request_id="42")
    assert found.as_numpy("y").item() == NEAR
    assert found.get_response().id == "42"


@pytest.mark.parametrize("client", ["grpc"], indirect=True)
@pytest.mark.parametrize(
    ("model", "datatype", "field", "values", "said"),
    [
        ("soft", "FP32", "fp32_contents", [1, 2, 3], "has 3 values"),
        ("soft", "FP32", "fp64_contents", [1, 2, 3, 4], "comes as fp32_contents"),
        ("float16", "FP16", "fp32_contents", [1, 2, 3, 4], "comes as raw bytes"),
        ("float16", "FP16", None, [], "has 0 values"),
    ],
)
def test_typed_contents_that_do_not_fit(client, model, datatype, field, values, said):
    triton, connection = client
    given = triton.InferInput("x", [1, 1, 2, 2], datatype)
    if field:
        getattr(given._get_tensor().contents, field).extend(values)
    with pytest.raises(InferenceServerException, match=said):
        connection.infer(model, [given])


@pytest.mark.parametrize("client", ["grpc"], indirect=True)
def test_a_stream_answers_in_order_and_goes_on_after_an_error(client):
    triton, connection = client
    came = []
    connection.start_stream(lambda result, error: came.append(error or result.as_numpy("y").item()))
    for x in (X, X[:, :, :1], X + 1):
        connection.async_stream_infer("soft", [filled(triton, x)])
    connection.stop_stream()
    assert (came[0], came[2]) == (NEAR, pytest.approx(Y + 1, rel=1e-6))
    assert isinstance(came[1], InferenceServerException)


@both
def test_statistics(client):
    answer(client)
    (stats,) = plain(client, client[1].get_inference_statistics("soft"))["model_stats"]
    assert int(stats["inference_count"]) >= int(stats["execution_count"]) >= 1
    assert int(stats["inference_stats"]["success"]["count"]) >= 1
    assert int(stats["inference_stats"]["compute_infer"]["ns"]) > 0


@both
def test_repository(client):
    _, connection = client
    index = plain(client, connection.get_model_repository_index())
    index = index.get("models", index) if isinstance(index, dict) else index
    assert {"name": "both", "version": "2", "state": "READY"} in index
    connection.unload_model("moves")
    with pytest.raises(InferenceServerException, match="not loaded"):
        answer(client, model="moves")
    connection.load_model("moves")
    assert answer(client, model="moves").item() == NEAR


# --- faults, each answered


@both
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "nix"}, "there is no model 'nix'"),
        ({"model": "../soft"}, "there is no model|nothing is served at"),
        ({"model_version": "9"}, "there is no model 'soft' version '9'"),
        ({"x": X[0]}, r"shape \[1, 2, 2\]; this model takes"),
        ({"x": X[:, :, :1]}, "could not run the model on inputs of shapes"),
        ({"sequence_id": 3}, "sequence_"),
    ],
    ids=str,
)
def test_refusals(client, arguments, said):
    with pytest.raises(InferenceServerException, match=said):
        answer(client, **arguments)
    assert answer(client).item() == NEAR


@both
def test_more_refusals(client):
    triton, connection = client
    for given, said in (
        (filled(triton, X.astype(np.float64), "FP64"), "declared 'FP64'; this model takes FP32"),
        (filled(triton, np.array([b"a"], object), "BYTES"), "declared 'BYTES'"),
    ):
        with pytest.raises(InferenceServerException, match=said):
            connection.infer("soft", [given])
    with pytest.raises(InferenceServerException, match=r"outputs .*'nix'"):
        connection.infer("soft", [filled(triton, X)], outputs=[triton.InferRequestedOutput("nix")])
    with pytest.raises(InferenceServerException, match="classification"):
        connection.infer("soft", [filled(triton, X)], outputs=[triton.InferRequestedOutput("y", class_count=2)])
    with pytest.raises(InferenceServerException, match="comes from the repository"):
        connection.load_model("soft", config="{}", files={"file:1/model.onnx": b"mine"})
    for unknown in (connection.load_model, connection.unload_model, connection.get_model_metadata):
        with pytest.raises(InferenceServerException, match="there is no model"):
            unknown("nix")


def framed(kind, payload=b"", stream=0):
    """A frame of HTTP/2 without flags."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload


def test_a_client_that_pings_without_end_is_sent_away(server):
    host, _, port = server.grpc.partition(":")
    with socket.create_connection((host, int(port)), timeout=HANGS_S) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + framed(4) + 8 * framed(6, bytes(8)))
        came = b""
        while more := connection.recv(1 << 16):
            came += more
    assert b"too_many_pings" in came


def test_metadata_that_are_too_much(server):
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", metadata=[("note", "n" * 8000)], timeout=HANGS_S)
        with pytest.raises(grpc.RpcError) as refused:
            live(b"", metadata=[("note", "n" * 60_000)], timeout=HANGS_S)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@both
def test_too_much_is_refused(client):
    with pytest.raises(InferenceServerException, match=r"larger than|[Mm]essage larger"):
        answer(client, np.zeros((1, 1, 1024, 1024), np.float32))
    assert answer(client).item() == NEAR


def test_rpc_refuses_what_is_no_message(server):
    import grpc

    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\xff\xff\xff")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def posted(server, path, body=b"", **headers):
    """Status, headers and JSON of an answer to raw bytes."""
    request = urllib.request.Request(server.url + path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=HANGS_S) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


INFER = "/v2/models/soft/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]}]}).encode()


def test_a_compressed_bomb(server):
    status, _, said = posted(server, INFER, gzip.compress(bytes(50 << 20)), Content_Encoding="gzip")
    assert (status, "when decompressed" in said["error"]) == (413, True)


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(BODY, mtime=0)[:-9], "gzip", 400),
        (gzip.compress(BODY, mtime=0) + b"more", "gzip", 400),
        (BODY, "gzip", 400),
        (BODY, "br", 415),
        (BODY, "identity", 200),
    ],
)
def test_encodings(server, body, encoding, status):
    assert posted(server, INFER, body, Content_Encoding=encoding)[0] == status


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/..%2F..%2Fetc%2Fpasswd/infer",
        "/v2/models/../../etc/passwd/infer",
        "/v2/models/soft/versions/..%2F1/infer",
    ],
)
def test_names_are_no_paths(server, path):
    assert posted(server, path, BODY)[0] == 404


def test_other_sites_and_names_are_refused(server):
    assert posted(server, INFER, BODY, Origin="http://elsewhere.example")[0] == 403
    assert posted(server, INFER, BODY, Origin=server.url)[0] == 200
    assert posted(server, INFER, BODY, Host="elsewhere.example")[0] == 421


def test_a_body_without_end_and_a_client_that_leaves(server):
    host, _, port = server.address.partition(":")
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + b"{")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.replace(b"1000", str(len(BODY)).encode()) + BODY)  # and goes before the answer
    assert posted(server, INFER, BODY)[0] == 200


def test_chunks_are_counted(server):
    connection = http.client.HTTPConnection(server.address, timeout=HANGS_S)
    connection.request(
        "POST", INFER, iter([bytes(1 << 19)] * 3), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_metrics_and_pages(server):
    posted(server, INFER, BODY)
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        text = answer.read().decode()
    for line in ('onnxpool_pooling_nodes{model="soft",version="1"} 1.0', 'onnxpool_golden_share{model="soft"'):
        assert line in text
    assert 'onnxpool_requests_total{model="soft",protocol="rest",status="200",version="1"}' in text
    for path in ("/", "/docs", "/openapi.json"):
        with urllib.request.urlopen(server.url + path) as answer:
            assert answer.status == 200


def test_the_line_that_is_announced_works(server):
    done = subprocess.run(["bash", "-c", server.said["curl"]], capture_output=True, check=True, timeout=HANGS_S)
    assert set(json.loads(done.stdout)) == {"model_name", "model_version", "outputs"}


# --- while it runs


def test_a_replaced_file_drops_no_request_and_every_answer_is_the_old_or_the_new(server, folder, tmp_path):
    stop, failures, answers = threading.Event(), [], []

    def ask(seed):
        rng = np.random.default_rng(seed)
        with patient(server.address) as client:
            while not stop.is_set():
                x = rng.normal(size=(1, 1, 2, 2)).astype(np.float32)
                try:
                    y = answer((triton_http, client), x, "moves").item()
                except Exception as error:
                    failures.append(error)
                    continue
                close = [abs(y - known) < 3e-6 for known in (float(soft_answer(x).item()), float(x.mean()))]
                answers.append(close.index(True) if any(close) else failures.append((x, y)))

    askers = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for asker in askers:
        asker.start()
    try:
        for i, make in enumerate((average, soft, average, soft)):
            seen, wanted = len(answers), int(make is average)
            make(tmp_path / f"{i}.onnx").replace(folder / "moves.onnx")
            wait_for(lambda: wanted in answers[seen:])  # noqa: B023 - it is called here
        (tmp_path / "bad.onnx").write_bytes(b"no model")
        (tmp_path / "bad.onnx").replace(folder / "moves.onnx")
        wait_for(lambda: "is refused" in reason(server, "moves"))
        seen = len(answers)
        wait_for(lambda: len(answers) >= seen + 20)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert answer((triton_http, patient(server.address)), model="moves").item() == NEAR


def reason(server, name):
    """Why the newest file of a model does not serve."""
    _, _, index = posted(server, "/v2/repository/index")
    (entry,) = (entry for entry in index if entry["name"] == name)
    return entry.get("reason", "")


def measured(server, name):
    """The sum of a metric."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"onnxpool_{name}"))


PATIENT = """
import json, sys
from onnxpool.serve import Options, Repository
from onnxpool.serve.listening import Listen
from onnxpool.serve.server import serve
options, listen = Options(max_batch=3, max_delay_s=3600, timeout_s=3600), Listen(port=0, grpc_port=0, drain_s=3600)
announce = lambda listening: print(json.dumps(listening.to_json(), indent=2), flush=True)
serve(Repository(sys.argv[1], options), listen, announce)
"""
"""A server where a request waits until there are three."""


def test_sigterm_answers_what_has_arrived(tmp_path):
    """When the signal comes, two requests wait for a third, whose body has begun; then no connection is taken."""
    answers = []

    def ask(triton, client):
        answers.append(answer((triton, client)).item())

    path = soft(tmp_path / "soft.onnx")
    with started([sys.executable, "-c", PATIENT, str(path)], "soft") as server:
        sides = [(triton_http, patient(server.address)), (triton_grpc, triton_grpc.InferenceServerClient(server.grpc))]
        askers = [threading.Thread(target=ask, args=side) for side in sides]
        for asker in askers:
            asker.start()
        wait_for(lambda: measured(server, "queue_length{") == len(askers))
        before = measured(server, "pending_bytes ")
        third = http.client.HTTPConnection(server.address, timeout=HANGS_S)
        third.putrequest("POST", INFER)
        third.putheader("Content-Length", str(len(BODY)))
        third.endheaders(BODY[:10])
        wait_for(lambda: measured(server, "pending_bytes ") == before + 10)
        server.process.terminate()
        wait_for(lambda: connection_is_refused(server))
        third.send(BODY[10:])
        with third.getresponse() as last:
            assert json.load(last)["outputs"][0]["data"] == [pytest.approx(Y)]
        third.close()
        for asker in askers:
            asker.join(HANGS_S)
        assert answers == [NEAR] * 2
        assert server.process.wait(HANGS_S) == 0
    assert connection_is_refused(server)


def connection_is_refused(server):
    host, _, port = server.address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=HANGS_S).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a token and TLS, and its certificate."""
    folder = tmp_path_factory.mktemp("guarded")
    token, key, cert = (folder / name for name in ("token", "key.pem", "cert.pem"))
    token.write_text("# the old one, and the new\n0123456789abcdef\n\nfedcba9876543210\n")
    token.chmod(0o600)
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*made, *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    options = ["--token-file", token, "--tls-cert", cert, "--tls-key", key, "--no-control"]
    with running(soft(folder / "soft.onnx"), *map(str, options)) as server:
        yield server, cert


def test_a_token_and_tls_over_http(guarded):
    server, cert = guarded
    trust = ssl.create_default_context(cafile=str(cert))

    def status(path, **headers):
        try:
            with urllib.request.urlopen(
                urllib.request.Request(server.url + path, headers=headers), context=trust
            ) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert [status(path) for path in ("/v2/health/ready", "/v2", "/metrics", "/nix")] == [200, 401, 401, 401]
    assert status("/v2", Authorization="Bearer 0123456789abcdeX") == 401
    for known in ("0123456789abcdef", "fedcba9876543210"):
        assert status("/v2", Authorization=f"Bearer {known}") == 200
    assert server.said["rest"].startswith("https://")


def test_a_token_and_tls_over_grpc(guarded):
    server, cert = guarded
    with triton_grpc.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(cert)) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="needs a token"):
            answer((triton_grpc, client))
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert answer((triton_grpc, client), headers=headers).item() == NEAR
        with pytest.raises(InferenceServerException, match="does not let clients load"):
            client.unload_model("soft", headers=headers)
