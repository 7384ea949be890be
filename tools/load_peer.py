"""A peer for tools/load: KServe's own model server over the same ONNX Runtime session, for its own Python.

    python -m venv .venvs/kserve && .venvs/kserve/bin/pip install kserve onnxruntime
    tools/load --peer .venvs/kserve/bin/python

KServe listens on all interfaces and offers no choice; here both of its listeners are kept on loopback.
"""

import argparse
from typing import Any

import grpc.aio
import kserve
import onnxruntime
import uvicorn


class Peer(kserve.Model):
    """One session; with the native library where one is given."""

    def __init__(self, name: str, path: str, library: str | None) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if library:
            options.register_custom_ops_library(library)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: kserve.InferRequest, *_: Any, **__: Any) -> kserve.InferResponse:
        """The first output for the first input, in binary."""
        given = payload.inputs[0]
        output = self.session.get_outputs()[0].name
        (answer,) = self.session.run([output], {given.name: given.as_numpy()})
        entry = kserve.InferOutput(output, list(answer.shape), "FP32")
        entry.set_data_from_numpy(answer, binary_data=True)
        return kserve.InferResponse(payload.id or "", self.name, [entry])


def _on_loopback() -> None:
    configure, make = uvicorn.Config.__init__, grpc.aio.server

    def configured(self: uvicorn.Config, *given: Any, **named: Any) -> None:
        configure(self, *given, **{**named, "host": "127.0.0.1"})

    def made(*given: Any, **named: Any) -> grpc.aio.Server:
        server = make(*given, **named)
        add_port = server.add_insecure_port
        server.add_insecure_port = lambda address: add_port(address.replace("[::]", "127.0.0.1"))
        return server

    uvicorn.Config.__init__ = configured
    grpc.aio.server = made


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    for name in ("model", "name", "library"):
        parser.add_argument(f"--{name}")
    for name in ("port", "grpc-port"):
        parser.add_argument(f"--{name}", type=int)
    asked = parser.parse_args()
    _on_loopback()
    peer = Peer(asked.name, asked.model, asked.library)
    kserve.ModelServer(http_port=asked.port, grpc_port=asked.grpc_port, workers=1).start([peer])


if __name__ == "__main__":
    main()
