"""The child's side of a runtime: opens models and runs them as :mod:`onnxpool.runtimes._child` asks, a line each way.

    python _worker.py onnxpool/runtimes/onnxruntime.py

Runs in any Python that has NumPy and the runtime itself; onnxpool need not be installed there. Standard output carries
replies and nothing else: what a runtime prints goes to standard error.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Serve requests until standard input ends."""
    here = Path(__file__).resolve().parent  # first in the path of a script; its onnxruntime.py is not ONNX Runtime
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != here]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        _serve(_runtime(Path(sys.argv[1])), replies)


def _runtime(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_runtime", path)
    assert spec is not None
    assert spec.loader is not None
    runtime = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runtime)
    return runtime


def _serve(runtime: Any, replies: TextIO) -> None:
    run: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                run = None  # two models may not fit into memory
                run, facts = runtime.open_model(request["open"], request["options"])
                reply = {"facts": facts}
            else:
                reply = {"outputs": _write(run(_read(request["run"])), request["to"])}
        except Exception as error:  # whatever a runtime raises is an answer
            reply = {"error": str(error).strip() or type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _read(entries: dict[str, Any]) -> dict[str, Any]:
    """Pairs of element type and array by name; bfloat16, which NumPy lacks, comes as its bits."""
    import numpy as np

    return {
        name: (dtype, np.fromfile(file, "uint16" if dtype == "bfloat16" else dtype).reshape(shape))
        for name, (dtype, shape, file) in entries.items()
    }


def _write(outputs: dict[str, Any], stem: str) -> dict[str, Any]:
    import numpy as np

    entries = {}
    for i, (name, (dtype, array)) in enumerate(outputs.items()):
        file = f"{stem}.{i}"
        np.ascontiguousarray(array).tofile(file)
        entries[name] = [dtype, list(array.shape), file]
    return entries


if __name__ == "__main__":
    main()
