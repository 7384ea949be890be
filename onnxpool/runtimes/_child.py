"""The parent's side of a runtime: a program of its own that opens models and runs them, and may die while it does.

    request   {"open": "model.onnx", "options": {...}}                  reply   {"facts": {...}}
              {"run": {"x": [dtype, shape, file]}, "to": "stem"}                {"outputs": {"y": [dtype, shape, file]}}
                                                                                {"error": "why not"}

each one line of JSON. Tensors are files of their bytes, little endian, in C order, so that a program in any language
can serve: :mod:`onnxpool.runtimes._worker` does for Python.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import BY_NAME

SIGNING_KEY = "ONNXPOOL_SIGNING_KEY"
"""Environment variable of a secret, which no child inherits: it runs what others wrote."""

Tensors = dict[str, NDArray[Any]]
"""Arrays by name."""


class Refused(Exception):  # noqa: N818 - it says what happened
    """The runtime said that it cannot open or run the model, and why."""


class Crashed(Exception):  # noqa: N818
    """The program died, or did not answer in time."""


def worker(runtime: str, python: str = sys.executable) -> list[str]:
    """The command that serves the runtime of this file, in the environment that ``python`` is of."""
    return [python, str(Path(__file__).with_name("_worker.py")), runtime]


def without_secrets() -> dict[str, str]:
    """The environment of a program that runs what others wrote."""
    return {name: value for name, value in os.environ.items() if name != SIGNING_KEY}


class Child:
    """One such program, started by the first question; after :class:`Crashed` the next question starts it anew.

    ``folder`` is where tensors pass through, ``timeout_s`` how long one answer may take.
    """

    def __init__(self, command: Sequence[str], folder: Path, timeout_s: float) -> None:
        self.command = command
        self.folder = folder
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._replies: SimpleQueue[str] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it has been started, and has not crashed since."""
        return self._process is not None

    def open(self, model: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Let the runtime open a model file; what it tells about it.

        Raises :class:`Refused` where it cannot, and :class:`Crashed`; so does :meth:`run`.
        """
        facts: dict[str, Any] = self._ask({"open": str(model), "options": dict(options)})["facts"]
        return facts

    def run(self, feeds: Tensors) -> Tensors:
        """The outputs of the model that is open."""
        entries = {}
        for i, (name, array) in enumerate(feeds.items()):
            file = self.folder / f"input.{i}"
            np.ascontiguousarray(array).tofile(file)
            entries[name] = [array.dtype.name, list(array.shape), str(file)]
        outputs = self._ask({"run": entries, "to": str(self.folder / "output")})["outputs"]
        return {name: np.fromfile(file, _dtype(dtype)).reshape(shape) for name, (dtype, shape, file) in outputs.items()}

    def close(self) -> None:
        """End the program, if it runs."""
        if self._process is None or self._errors is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._errors.close()
        self._process = self._errors = None

    def _start(self) -> "subprocess.Popen[str]":
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until close
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=without_secrets(),
            )
        except OSError as error:
            self._errors.close()
            raise Refused(f"{self.command[0]} cannot be started: {error}") from error
        self._replies = SimpleQueue()
        Thread(target=_listen, args=(self._process.stdout, self._replies), daemon=True).start()
        return self._process

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._replies.get(timeout=self.timeout_s)
        except BrokenPipeError:
            line = ""
        except Empty:
            self.close()
            raise Crashed(f"the runtime did not answer within {self.timeout_s:g} s") from None
        if not line.endswith("\n"):
            raise self._crash()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply

    def _crash(self) -> Crashed:
        """How the program died, and its last words."""
        assert self._process is not None
        assert self._errors is not None
        status = self._process.wait()
        self._errors.seek(0)
        words = [line.strip() for line in self._errors if line.strip()]
        self.close()
        how = f"signal {-status}, {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return Crashed(f"the runtime crashed ({how}){f': {words[-1][:300]}' if words else ''}")


def _listen(stream: IO[str], replies: "SimpleQueue[str]") -> None:
    """Pass on every line, and an empty one when the program has ended."""
    with stream:
        for line in stream:
            replies.put(line)
    replies.put("")


def _dtype(name: str) -> np.dtype[Any]:
    return BY_NAME[name].dtype
