"""A server in a process of its own, as tools/load measures it and tests ask it: ``onnxpool serve``, or a peer."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxpool.run.native_library import library_path, why_missing

HANGS_S = 600
"""A process or an answer that takes so long will not come, on the busiest machine."""


@dataclass(frozen=True)
class Figures:
    """What a server has done since it started."""

    cpu_s: float
    runs: float
    rows: float
    run_s: float


class Served:
    """A server that runs; what it says of itself, and what the system says of its process."""

    def __init__(self, process: "subprocess.Popen[Any]", said: dict[str, Any], model: str) -> None:
        self.process = process
        self.pid = process.pid
        self.said = said
        self.url: str = said["rest"]
        self.address = self.url.partition("//")[2]
        self.grpc: str = said["grpc"]
        self.model = model

    def figures(self) -> Figures:
        """Processor time, runs and rows so far."""
        runs, rows, run_s = map(self.total, ("batch_rows_count", "batch_rows_sum", "run_seconds_sum"))
        return Figures(self.cpu_s(), runs, rows, run_s)

    def total(self, name: str) -> float:
        """The sum of a metric over all of its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"onnxpool_{name}{{"))

    def cpu_s(self) -> float:
        """Processor time of the process so far, of user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextmanager
    def watched(self, every_s: float = 1.0) -> Iterator[list[float]]:
        """Its memory in MiB, once in a while."""
        sizes: list[float] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(every_s):
                lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
                sizes.extend(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield sizes
        finally:
            over.set()
            watching.join()


def serve(path: Path, *options: str, model: str | None = None) -> AbstractContextManager[Served]:
    """``onnxpool serve`` on free ports of loopback; must end with status 0 on SIGTERM."""
    command = [sys.executable, "-m", "onnxpool", "serve", str(path), "--port", "0", "--grpc-port", "0", "--json"]
    return started([*command, *options], model or path.stem)


@contextmanager
def started(command: Sequence[str], model: str) -> Iterator[Served]:
    """A program that serves ``model``, and prints what it says of itself as JSON when it does."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(HANGS_S, process.kill)
        guard.start()
        try:
            text = "".join(iter(lambda: _line(process), "}\n")) + "}"
            guard.cancel()
            yield Served(process, json.loads(text), model)
            process.terminate()
            if process.wait(HANGS_S):
                raise RuntimeError(f"the server ended with status {process.returncode}")
        finally:
            guard.cancel()
            process.kill()


class Peer(Served):
    """Another server, of which only the processor time is known."""

    def figures(self) -> Figures:
        """Processor time so far."""
        return Figures(self.cpu_s(), 0.0, 0.0, 0.0)


@contextmanager
def serve_peer(python: Path, path: Path) -> Iterator[Peer]:
    """KServe's server in a Python of its own: see tools/load_peer.py."""
    ports = [_free_port(), _free_port()]
    command = [python, Path(__file__).with_name("load_peer.py"), "--model", path, "--name", path.stem]
    command += ["--port", str(ports[0]), "--grpc-port", str(ports[1])]
    if why_missing() is None:
        command += ["--library", library_path()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for port in ports:
                _wait_for(port)
            said = {"rest": f"http://127.0.0.1:{ports[0]}", "grpc": f"127.0.0.1:{ports[1]}"}
            yield Peer(process, said, path.stem)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    end_s = time.monotonic() + HANGS_S
    while time.monotonic() < end_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("the peer did not start; run tools/load_peer.py by hand to see why")


def _line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError("the server did not start; its reason stands above")
    return line
