"""What operators need: lines for requests, ids and traces, tokens in files, headers for browsers, and manifests."""

import configparser
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import model
from onnx import helper, numpy_helper
from serving import HANGS_S, running, soft

pytest.importorskip("starlette")
httpx = pytest.importorskip("httpx")

import asyncio  # noqa: E402

from onnxpool.errors import ArgumentError  # noqa: E402
from onnxpool.serve import Options, Repository, application  # noqa: E402
from onnxpool.serve.access import AccessLog  # noqa: E402
from onnxpool.serve.guard import read_tokens  # noqa: E402
from onnxpool.serve.listening import Listen, describe  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples" / "server"
INFER = "/v2/models/soft/infer"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]}]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return soft(tmp_path_factory.mktemp("operations") / "soft.onnx")


def asked(app, *requests):
    """Answers to requests, one after the other."""

    async def scene():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.request(method, path, **how) for method, path, how in requests]

    return asyncio.run(scene())


def logged(path, form, *requests):
    """What the access log says of these requests, and their answers."""
    app, stream = application(Repository(path, Options(access_log=form))), io.StringIO()
    access = app.state.service.access
    access._stream = stream
    answers = asked(app, *requests)
    access.flush()
    return stream.getvalue(), answers


REQUESTS = [
    ("POST", INFER, {"json": BODY, "headers": {"X-Request-Id": "mine-7", "traceparent": f"00-{TRACE}-{'1' * 16}-01"}}),
    ("GET", "/v2/health/live", {}),
    ("GET", "/v2/models/a%0ab", {"headers": {"X-Request-Id": "two\nlines", "traceparent": "00-nonsense"}}),
]


def test_a_line_of_json_for_each_request(path):
    text, answers = logged(path, "json", *REQUESTS)
    first, last = map(json.loads, text.splitlines())  # health is not worth a line
    assert (first["protocol"], first["method"], first["path"], first["status"]) == ("rest", "POST", INFER, 200)
    assert (first["request_id"], first["trace_id"]) == ("mine-7", TRACE)
    assert first["size_bytes"] == len(answers[0].content)
    assert first["seconds"] > 0
    assert (last["path"], last["status"], last["trace_id"]) == ("/v2/models/a%0ab", 404, "")
    assert [answer.headers["x-request-id"] for answer in answers[::2]] == [first["request_id"], last["request_id"]]
    assert len(last["request_id"]) == 16  # a new one, since what came is not an id


def test_a_line_of_text_for_each_request(path):
    first, last = logged(path, "text", *REQUESTS)[0].splitlines()
    assert f"rest 127.0.0.1 POST {INFER} 200 " in first
    assert first.endswith(f"id=mine-7 trace={TRACE}")
    assert "GET /v2/models/a%0ab 404 " in last


def test_what_is_not_there_is_told_with_what_is(path):
    """Also by what inference answers before requests are routed."""
    wrong = [("GET", "/v2/models"), ("GET", INFER), ("DELETE", "/v2/models/soft"), ("POST", "/v1/models/soft:predict")]
    wrong += [("GET", "/v2/"), ("POST", f"{INFER}/")]
    answers = asked(application(Repository(path)), *((method, path, {}) for method, path in wrong))
    assert [(answer.status_code, answer.json()["error"]) for answer in answers] == [
        (404, "nothing is served at '/v2/models'; /docs says what is"),
        (405, "'/v2/models/soft/infer' is not for GET; use POST"),
        (405, "'/v2/models/soft' is not for DELETE; use GET, HEAD"),
        (404, "nothing is served at '/v1/models/soft:predict'; /docs says what is"),
        (404, "nothing is served at '/v2/'; /docs says what is"),
        (404, "nothing is served at '/v2/models/soft/infer/'; /docs says what is"),
    ]


def test_a_log_that_nobody_writes_ends(monkeypatch):
    monkeypatch.setattr("onnxpool.serve.access._HELD", 2)
    monkeypatch.setattr("onnxpool.serve.access._EVERY_S", HANGS_S)
    stream = io.StringIO()
    access = AccessLog("text", stream)
    for _ in range(5):
        with access.line("rest", "c", "GET", "/v2", "", "") as line:
            line.status = 200
    access.flush()
    assert stream.getvalue().splitlines()[2:] == ["3 lines were left out"]


def test_grpc_has_lines_too(path, tmp_path):
    triton_grpc = pytest.importorskip("tritonclient.grpc")
    x = triton_grpc.InferInput("x", [1, 1, 2, 2], "FP32").set_data_from_numpy(np.ones((1, 1, 2, 2), np.float32))
    command = ["--access-log", "json", "--allowed-host", "pools.example"]
    log = tmp_path / "log"
    with log.open("w") as stderr, pytest.MonkeyPatch.context() as patch:
        popen = subprocess.Popen
        patch.setattr(subprocess, "Popen", lambda *given, **how: popen(*given, **how, stderr=stderr))
        with running(path, *command) as server:
            with triton_grpc.InferenceServerClient(server.grpc) as client:
                client.infer("soft", [x], headers={"x-request-id": "mine-8"})
                with pytest.raises(triton_grpc.InferenceServerException):
                    client.infer("nix", [x])
            with httpx.Client(base_url=server.url) as client:
                assert client.get("/v2").status_code == 421
                assert client.get("/v2", headers={"Host": "pools.example"}).status_code == 200
                assert client.get("/v2/health/ready").status_code == 200  # as Kubernetes asks it
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    told = [(line["protocol"], line["path"], line["status"]) for line in lines]
    infer = [("grpc", "ModelInfer", "OK"), ("grpc", "ModelInfer", "NOT_FOUND")]
    assert told == [*infer, ("rest", "/v2", 421), ("rest", "/v2", 200)]
    assert lines[0]["request_id"] == "mine-8"


def test_browsers_may_do_little(path):
    page, docs, health = asked(
        application(Repository(path)), ("GET", "/", {}), ("GET", "/docs", {}), ("GET", "/v2/health/live", {})
    )
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "script-src" not in docs.headers["content-security-policy"]
    assert {one.headers["x-content-type-options"] for one in (page, docs, health)} == {"nosniff"}


def test_token_files(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# two\n0123456789abcdef\n\n  fedcba9876543210\n")
    file.chmod(0o644)
    with pytest.raises(ArgumentError, match="chmod o-r"):
        read_tokens(file)
    file.chmod(0o640)
    assert read_tokens(file) == ("0123456789abcdef", "fedcba9876543210")
    file.write_text("# none\n")
    with pytest.raises(ArgumentError, match="holds no token"):
        read_tokens(file)
    with pytest.raises(ArgumentError, match="shorter than 16"):
        Options(tokens=("0123456789abcdef", "short"))


def test_a_model_that_does_not_run_at_invented_sizes_is_served(tmp_path):
    """It takes rows of 5, and does not say so."""
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], 2)
    for value in (made.graph.input[0], made.graph.output[0]):
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["N", None]))
    made.graph.initializer.append(numpy_helper.from_array(np.ones((5, 1), np.float32), "w"))
    onnx.save(made, tmp_path / "m.onnx")
    repository = Repository(tmp_path / "m.onnx")
    served = repository.get("m")
    assert served.joined_rows == 0
    (warning,) = describe(repository, Listen(), 8000, None).warnings
    assert "invented inputs do not run" in warning
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 5], "data": [1, 2, 3, 4, 5]}
    (answer,) = asked(application(repository), ("POST", "/v2/models/m/infer", {"json": {"inputs": [tensor]}}))
    assert answer.json()["outputs"][0]["data"] == [15]


# --- examples/server


def test_manifests():
    yaml = pytest.importorskip("yaml")
    deployment, service = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    arguments = container["args"]
    drains = sum(float(arguments[arguments.index(name) + 1]) for name in ("--drain", "--drain-delay"))
    assert pod["terminationGracePeriodSeconds"] > drains + 1
    compose = yaml.safe_load((EXAMPLES / "compose.yaml").read_text(encoding="utf-8"))["services"]["onnxpool"]
    assert compose["read_only"] is True
    assert compose["cap_drop"] == ["ALL"]
    for command in (arguments, compose["command"]):
        understood(command)


def understood(command):
    """The command line knows every option."""
    from typer.testing import CliRunner

    from onnxpool.cli.commands import app

    assert command[0] == "serve"
    result = CliRunner().invoke(app, ["serve", "/nix.onnx", *[part for part in command[2:] if part != "--token-file"]])
    assert "No such option" not in result.stderr
    assert "there is no such file or folder" in result.stderr, result.stderr


def test_the_unit_of_systemd(tmp_path):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string((EXAMPLES / "onnxpool.service").read_text(encoding="utf-8"))
    assert parser["Service"]["DynamicUser"] == "yes"
    program, *command = parser["Service"]["ExecStart"].split()
    assert program.endswith("/onnxpool")
    understood(command)
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "onnxpool.service"
        unit.write_text((EXAMPLES / "onnxpool.service").read_text(encoding="utf-8").replace(program, "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert "onnxpool.service" not in done.stderr, done.stderr


def test_the_image():
    lines = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    assert {word[0] for word in words} <= {"FROM", "RUN", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD", "HEALTHCHECK"}
    assert [word for word in words if word[0] == "USER"][-1] == ["USER", "65532:65532"]
    command = next(line for line in lines if line.startswith("CMD"))
    understood(json.loads(command.removeprefix("CMD ")))
