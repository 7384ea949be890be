"""Connections of strangers: silent, slow, endless, or too many; the server's health is answered beside all of them."""

import json
import re
import resource
import select
import socket
import ssl
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from serving import HANGS_S, soft, started, wait_for

pytest.importorskip("starlette")
grpc = pytest.importorskip("grpc")

SERVE = """
import json, pathlib, sys
from onnxpool.serve import Options, Repository, connections
from onnxpool.serve.listening import Listen
from onnxpool.serve.server import serve
given = json.loads(sys.argv[2])
connections._HALF_S = given.pop("half_s", 600)
given |= {name: pathlib.Path(given[name]) for name in given if name.startswith("tls")}
listen = Listen(port=0, grpc_port=0, **given)
announce = lambda listening: print(json.dumps(listening.to_json(), indent=2), flush=True)
serve(Repository(sys.argv[1], Options(timeout_s=600, max_body_bytes=64 << 20)), listen, announce)
"""
INFER = "/v2/models/soft/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]}]}).encode()


def serving(path, files=1024, **listen):
    """A server that may open so many files; what it logs is beside the model."""
    limited = f'ulimit -n {files}; exec "$@" 2>>{path.with_name("log")}'
    program = ["bash", "-c", limited, "bash", sys.executable, "-c", SERVE, str(path)]
    return started([*program, json.dumps(listen)], "soft")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return soft(tmp_path_factory.mktemp("connections") / "soft.onnx")


@pytest.fixture(scope="module")
def server(path):
    """A server without patience."""
    with serving(path, head_s=0.5, idle_s=0.5) as server:
        yield server


def connected(server):
    host, _, port = server.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=HANGS_S)


def said(connection):
    """All that the server says until it closes the connection."""
    found = b""
    while chunk := connection.recv(1 << 16):
        found += chunk
    return found


def test_health_answers_beside_more_silent_connections_than_files(path):
    """Silent ones are closed for new ones; here they would have minutes otherwise. One with a request stays."""
    soft_limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft_limit, 2500), hard))
    try:
        with serving(path, head_s=600, idle_s=600) as server, ExitStack() as silent:
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
            slow = silent.enter_context(connected(server))
            slow.sendall(head + BODY[:10])
            wait_for(lambda: b'onnxpool_connections{state="busy"} 2.0' in read(server, "/metrics"))
            for _ in range(1100):
                silent.enter_context(connected(server))
            host, _, port = server.grpc.partition(":")
            for _ in range(300):
                silent.enter_context(socket.create_connection((host, int(port)), timeout=HANGS_S))
            for _ in range(5):
                with urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=60) as answer:
                    assert json.load(answer) == {"ready": True}
            with urllib.request.urlopen(server.url + INFER, BODY, timeout=60) as answer:
                assert json.load(answer)["outputs"][0]["data"] == [pytest.approx(3.4926527)]
            assert b'onnxpool_connections{state="busy"} 2.0' in read(server, "/metrics")
            slow.sendall(BODY[10:])
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard))


def read(server, path):
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        return answer.read()


def test_a_client_that_does_not_read_its_answer_is_not_waited_for(server):
    """The answer is larger than what the system holds for either side."""
    shape = [1, 1, 4096, 2048]
    size = 4 * 4096 * 2048
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    message = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(message) + size}\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(HANGS_S)
        host, _, port = server.address.partition(":")
        connection.connect((host, int(port)))
        connection.sendall(head.encode() + f"Inference-Header-Content-Length: {len(message)}\r\n\r\n".encode())
        connection.sendall(message)
        connection.sendall(bytes(size))
        wait_for(lambda: b'onnxpool_connections{state="idle"} 1.0' in read(server, "/metrics"))
        wait_for(lambda: b'onnxpool_connections{state="idle"} 0.0' in read(server, "/metrics"))


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (b"", b""),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: loc", b"HTTP/1.1 408"),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200"),
        (b"POST /nix HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{", b"HTTP/1.1 404"),
    ],
    ids=["silent", "half a head", "kept alive", "a body that nobody reads"],
)
def test_connections_are_closed(server, first, answer):
    with connected(server) as connection:
        connection.sendall(first)
        assert said(connection).startswith(answer)


def test_answers_without_a_body_and_requests_that_wait_or_follow_each_other(server):
    """The head of an answer is sent with its body, and where nothing follows, too."""
    live = b"/v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(b"HEAD " + live)
        head = said(connection)
        assert head.startswith(b"HTTP/1.1 200")
        assert head.endswith(b"\r\n\r\n")
    with connected(server) as connection:
        connection.sendall(b"HEAD " + live + b"GET " + live + b"HEAD " + live + b"GET " + live)
        answers = said(connection)
        bodies = [answer.partition(b"\r\n\r\n")[2] for answer in answers.split(b"HTTP/1.1 200 ")[1:]]
        assert bodies == [b"", b'{"live":true}'] * 2
    with connected(server) as connection:
        head = (
            f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        answer = said(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"}")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (f"GET {INFER} HTTP/1.1\r\nHost: localhost", b"405"),
        ("POST /v2/models//infer HTTP/1.1\r\nHost: localhost", b"404"),
        ("POST /v2/models/soft/versions/infer HTTP/1.1\r\nHost: localhost", b"405"),
        ("POST /v2/models/soft/versions/2/infer HTTP/1.1\r\nHost: localhost", b"404"),
        ("POST /v2/models/soft/other/1/infer HTTP/1.1\r\nHost: localhost", b"404"),
        (f"POST {INFER} HTTP/1.1\r\nHost: elsewhere.example", b"421"),
        (f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://elsewhere.example", b"403"),
        (f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: br", b"415"),
        ("POST /v2/models/soft/versions/1/infer?a=b HTTP/1.1\r\nHost: localhost", b"400"),
        (f"POST {INFER} HTTP/1.1\r\nHost: localhost", b"400"),
    ],
)
def test_inference_is_guarded_and_routed_as_everything_else(server, request_, status):
    with connected(server) as connection:
        connection.sendall(request_.encode() + b"\r\nX-Request-Id: mine\r\nContent-Length: 0\r\n\r\n")
        head = said(connection)
    assert head.split()[1] == status, head
    assert b"x-request-id: mine\r\n" in head
    assert b"x-content-type-options: nosniff\r\n" in head


def test_half_a_second_head_is_not_waited_for(server):
    def late():
        with connected(server) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"live":true}'):
                answer += connection.recv(1 << 16)
            try:
                connection.sendall(b"G")
                return said(connection).startswith(b"HTTP/1.1 408")
            except ConnectionError:  # it was idle for too long before that
                return False

    wait_for(late)


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(server):
    with connected(server) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nX: ")

        def closed():
            if select.select([connection], [], [], 0)[0]:
                return True
            connection.sendall(b"a")
            return False

        wait_for(closed)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def made_certificate(cert, key):
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*made, *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)


def test_tls_is_agreed_upon_in_time_asks_clients_and_is_renewed(path, tmp_path):
    key, cert, client_key, client_cert = (tmp_path / name for name in ("key", "cert", "client_key", "client_cert"))
    made_certificate(cert, key)
    made_certificate(client_cert, client_key)
    files = {"tls_cert": str(cert), "tls_key": str(key), "tls_client_ca": str(client_cert)}
    with serving(path, head_s=0.5, renew_s=0.1, **files) as server:
        with connected(server) as silent:
            silent.settimeout(30)  # asyncio's own limit is twice that
            assert said(silent) == b""

        def asked(context):
            with urllib.request.urlopen(f"{server.url}/v2/health/live", timeout=HANGS_S, context=context) as answer:
                return json.load(answer)

        trusting = ssl.create_default_context(cafile=str(cert))
        with pytest.raises(OSError, match=r"certificate required|onnection|EOF occurred"):
            asked(trusting)
        trusting.load_cert_chain(client_cert, client_key)
        assert asked(trusting) == {"live": True}
        with grpc.secure_channel(
            server.grpc,
            grpc.ssl_channel_credentials(cert.read_bytes(), client_key.read_bytes(), client_cert.read_bytes()),
        ) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=HANGS_S) == b"\x08\x01"
        made_certificate(tmp_path / "new_cert", tmp_path / "new_key")
        renewed = ssl.create_default_context(cafile=str(tmp_path / "new_cert"))
        renewed.load_cert_chain(client_cert, client_key)
        (tmp_path / "new_key").replace(key)
        (tmp_path / "new_cert").replace(cert)

        def is_renewed():
            try:
                return asked(renewed)
            except OSError:
                return False

        wait_for(is_renewed)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("X", "a" * (60 << 10))], b"200"),
        ([("X", "a" * (65 << 10))], b"431"),
        ([(f"X-{i}", "a" * 1000) for i in range(70)], b"431"),
        ([(f"X-{i}", "a") for i in range(7000)], b"431"),
    ],
    ids=["60 KiB", "one of 65 KiB", "70 of 1 KiB", "7000"],
)
def test_headers_end(server, headers, status):
    head = "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    with connected(server) as connection:
        connection.sendall(head.encode() + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 " + status


HEALTH = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


UPGRADE = {
    "curl and Java": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
    "a browser": b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: keep-alive, Upgrade\r\n",
    "two": b"Connection: keep-alive\r\nUpgrade: TLS/1.0\r\nUpgrade: h2c\r\nConnection: UPGRADE\r\n",
}
LAST = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"


def asked(body, headers, chunked=False):
    """A request for inference, with its body as it is or in two chunks."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode() + headers
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:], b""))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


@pytest.mark.parametrize("chunked", [False, True], ids=["of a length", "in chunks"])
@pytest.mark.parametrize("upgrade", UPGRADE.values(), ids=UPGRADE)
def test_an_upgrade_with_a_body_is_not_heeded(server, upgrade, chunked):
    """The body is read, whole or byte by byte, and so is what follows on the connection."""
    request = asked(BODY, upgrade, chunked)
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request + request)
        for byte in request:
            connection.sendall(bytes([byte]))
        connection.sendall(HEALTH)
        answers = said(connection)
    assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"HTTP/1.1") == 4, answers
    assert answers.count(b'"data":[3.49265') == 3
    assert answers.endswith(b'{"live":true}')


@pytest.mark.parametrize("chunked", [False, True], ids=["of a length", "in chunks"])
def test_a_body_after_an_upgrade_is_no_request(server, chunked):
    with connected(server) as connection:
        connection.sendall(asked(HEALTH, UPGRADE["curl and Java"], chunked))
        answers = said(connection)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1") == 1
    assert b"is not JSON" in answers


@pytest.mark.parametrize("chunked", [False, True], ids=["of a length", "in chunks"])
@pytest.mark.parametrize("before", [b"", asked(BODY, b"")], ids=["first", "second"])
def test_an_upgrade_in_the_last_request_is_not_heeded(server, before, chunked):
    """A parser that has seen such a head takes nothing more."""
    with connected(server) as connection:
        connection.sendall(before + asked(BODY, LAST, chunked))
        answers = said(connection)
    assert answers.count(b"HTTP/1.1 200 ") == answers.count(b'"data":[3.49265') == 1 + bool(before), answers


def half_closed(server, request):
    """What a client reads that says by closing its side that its request is whole, as ``nc -N`` does."""
    with connected(server) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return said(connection)


@pytest.mark.parametrize("requests", [1, 3, 40])
def test_a_client_that_only_reads_any_more_is_answered(server, requests):
    answers = half_closed(server, asked(BODY, b"") * requests)
    assert answers.count(b"HTTP/1.1 200 ") == answers.count(b'"data":[3.49265') == requests


def test_of_a_client_that_only_reads_any_more_what_is_whole_is_answered(server):
    cut = asked(BODY, b"")[:-1]
    found = re.findall(b"HTTP/1.1 ([0-9]+) ", half_closed(server, asked(BODY, b"") + cut))
    assert found in ([b"200"], [b"200", b"400"])  # as the first is answered after the end came, or before
    assert re.findall(b"HTTP/1.1 ([0-9]+) ", half_closed(server, cut)) == [b"400"]
    assert half_closed(server, cut[:20]) == b""


def test_many_requests_at_once_are_answered_each_and_are_not_held_all(server):
    """A client that reads nothing fills what the system holds, and no memory with requests that wait."""
    request = asked(BODY, b"")
    size = 24 << 20
    with connected(server) as connection, suppress(TimeoutError):
        connection.settimeout(1)
        before = resident(server)
        connection.sendall(HEALTH.replace(b"Connection: close\r\n", b"") * (size // len(HEALTH)))
    assert resident(server) - before < 64 << 20
    with connected(server) as connection:
        connection.sendall(request * 500 + HEALTH)
        assert said(connection).count(b"HTTP/1.1 200 ") == 501


def resident(server):
    """Bytes of memory that the process has."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_client_that_reads_none_of_several_answers_is_not_waited_for(server):
    """The second one waits for room, which never comes."""
    large = read(server, "/docs")
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.sendall(b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n" * ((32 << 20) // len(large)))
        wait_for(lambda: b'onnxpool_connections{state="busy"} 2.0' in read(server, "/metrics"))
        wait_for(lambda: b'onnxpool_connections{state="busy"} 1.0' in read(server, "/metrics"))


def test_a_body_is_asked_for_beside_an_upgrade(server):
    with connected(server) as connection:
        head, _, _ = asked(BODY, UPGRADE["curl and Java"] + b"Expect: 100-continue\r\n").partition(BODY)
        connection.sendall(head)
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert said(connection).startswith(b"HTTP/1.1 200 ")


def test_what_follows_an_upgrade_without_a_body_is_answered(server):
    first = HEALTH.replace(b"Connection: close\r\n", UPGRADE["curl and Java"])
    with connected(server) as connection:
        connection.sendall(first + first + HEALTH)
        assert said(connection).count(b'{"live":true}') == 3


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"CONNECT localhost:80 HTTP/1.1", b""),
        (b"CONNECT localhost:80 HTTP/1.1", HEALTH),
        (b"PRI * HTTP/2.0", b"SM\r\n\r\n"),
        (b"POST /v2/models/soft/infer HTTP/1.1\r\nTransfer-Encoding: chunked", HEALTH),
    ],
    ids=["a tunnel", "a tunnel with a body", "HTTP/2", "a length and chunks"],
)
def test_what_means_two_things_is_refused(server, head, body):
    with connected(server) as connection:
        connection.sendall(head + b"\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with suppress(ConnectionError):
            answers = said(connection)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1") == 1


def test_what_follows_a_body_in_chunks_is_no_header(server):
    """A trailer neither names the server nor says how the body is encoded."""
    request = asked(BODY, b"", chunked=True).removesuffix(b"\r\n")
    with connected(server) as connection:
        connection.sendall(request + b"Host: elsewhere\r\nContent-Encoding: br\r\nUpgrade: h2c\r\n\r\n" + HEALTH)
        answers = said(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 2, answers


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (asked(BODY, b"").replace(b"Length: %d" % len(BODY), b"Length: 5"), [b"400"]),
        (asked(BODY, b"") + b"not HTTP\r\n\r\n" + HEALTH, [b"200"]),
        (asked(BODY, b"") * 3 + b"\0" + HEALTH, [b"200"] * 3),
        (asked(BODY, b"", chunked=True).replace(b"\r\n7\r\n", b"\r\nx\r\n"), [b"400"]),
        (asked(BODY, b"") + asked(BODY, b"", chunked=True).replace(b"\r\n7\r\n", b"\r\nx\r\n"), [b"200"]),
    ],
    ids=["too short a length", "no HTTP", "no HTTP after three", "a broken chunk", "a broken chunk after another"],
)
def test_what_came_before_nonsense_is_answered_and_nothing_after_it(server, sent, answers):
    with connected(server) as connection:
        connection.sendall(sent)
        came = said(connection)
    assert re.findall(rb"HTTP/1.1 ([0-9]+) ", came) == answers
    assert came.lower().count(b"\r\nconnection: close\r\n") == 1


def test_clients_that_leave_while_several_requests_wait_fill_no_log(server, path):
    log = path.with_name("log")
    before = log.read_text()
    for _ in range(5):
        with connected(server) as connection:
            connection.sendall(asked(BODY, b"") * 3)
    wait_for(lambda: b'onnxpool_connections{state="busy"} 1.0' in read(server, "/metrics"))
    with connected(server) as connection:
        connection.sendall(asked(BODY, b"") * 2 + HEALTH)
        assert said(connection).count(b"HTTP/1.1 200 ") == 3
    assert "Traceback" not in log.read_text().removeprefix(before)


def test_a_server_with_two_names_is_not_asked(server):
    with connected(server) as connection:
        connection.sendall(HEALTH.replace(b"Connection", b"HOST: other\r\nConnection"))
        assert said(connection).startswith(b"HTTP/1.1 400 ")


def test_an_endless_header_ends(server):
    with connected(server) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nX: " + b"a" * (70 << 10))
        assert connection.recv(12) == b"HTTP/1.1 431"
