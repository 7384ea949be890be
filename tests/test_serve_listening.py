"""What a server tells its operator: where it listens, what to watch out for, and a line that asks it."""

import json
from pathlib import Path

import numpy as np
import pytest
from serving import soft, with_golden

pytest.importorskip("starlette")

from onnxpool.errors import ArgumentError
from onnxpool.serve import Options, Repository
from onnxpool.serve.listening import Listen, describe


@pytest.fixture
def path(tmp_path):
    return with_golden(soft(tmp_path / "soft.onnx"))


@pytest.mark.parametrize(
    ("host", "loopback", "netloc"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("127.1.2.3", True, "127.1.2.3"),
        ("localhost", True, "localhost"),
        ("::1", True, "[::1]"),
        ("0.0.0.0", False, "0.0.0.0"),
        ("::", False, "[::]"),
        ("10.0.0.7", False, "10.0.0.7"),
    ],
)
def test_hosts(host, loopback, netloc):
    assert (Listen(host).loopback, Listen(host).netloc) == (loopback, netloc)


def test_tls_takes_both_files():
    with pytest.raises(ArgumentError, match="tls_cert and tls_key belong together"):
        Listen(tls_cert=Path("cert.pem"))


def test_on_loopback(path):
    said = describe(Repository(path), Listen(), 8000, None)
    assert (said.rest, said.grpc, said.warnings) == ("http://127.0.0.1:8000", None, ())
    assert said.models[0].startswith("soft version 1: golden answers hold, at most ")
    assert said.text().splitlines()[-1] == said.curl
    assert json.loads(json.dumps(said.to_json()))["rest"] == said.rest


def test_the_line_asks_with_what_the_server_wants(path):
    said = describe(
        Repository(path, Options(token="0123456789abcdef")),
        Listen("::1", tls_cert=Path("cert.pem"), tls_key=Path("key.pem")),
        8000,
        8001,
    )
    assert (said.rest, said.grpc) == ("https://[::1]:8000", "[::1]:8001")
    assert "--cacert cert.pem" in said.curl
    assert '-H "Authorization: Bearer $TOKEN"' in said.curl
    assert "0123456789abcdef" not in said.text()
    assert "head -c 32 /dev/zero" in said.curl  # two rows of four


def test_warnings(path):
    with_golden(path, np.zeros((2, 1, 1, 1)))
    said = describe(Repository(path, Options(on_mismatch="warn")), Listen("0.0.0.0"), 8000, None)
    mismatch, token, tls = said.warnings
    assert mismatch.startswith("soft version 1 is served although golden case 'ordinary'")
    assert token == "other machines can reach 0.0.0.0, and no token is asked for"
    assert tls == "what comes to 0.0.0.0 is not encrypted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nix.onnx"], "models='nix.onnx': there is no such file or folder"),
        (["soft.onnx", "--max-batch", "0"], "max_batch=0 must be 1 or more"),
        (["soft.onnx", "--tls-cert", "cert.pem"], "tls_cert and tls_key belong together"),
        (["soft.onnx", "--token-file", "nix"], "token_file='nix': there is no such file"),
        (["soft.onnx", "--tls-cert", "cert.pem", "--tls-key", "k"], "tls_cert='cert.pem': there is no such file"),
        (["soft.onnx", "--require-certificate"], "there is no certificate"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_command_ends_with_one_sentence(path, monkeypatch, arguments, said):
    from typer.testing import CliRunner

    from onnxpool.cli.commands import app

    monkeypatch.chdir(path.parent)
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_taken_port_ends_with_one_sentence(path):
    import socket

    from typer.testing import CliRunner

    from onnxpool.cli.commands import app

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["serve", str(path), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 2
    assert "another program listens on 127.0.0.1:" in result.stderr
