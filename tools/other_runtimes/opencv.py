"""OpenCV's module for networks, for tools/fuzz_runtimes --other: float32."""

from collections.abc import Callable
from typing import Any

Pairs = dict[str, tuple[str, Any]]


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """What runs the file in the engine of release 5."""
    import cv2

    network = cv2.dnn.readNetFromONNX(path, cv2.dnn.ENGINE_NEW)

    def run(feeds: Pairs) -> Pairs:
        for name, (_, array) in feeds.items():
            network.setInput(array, name)
        answers = network.forward(options["outputs"])
        return {name: (y.dtype.name, y) for name, y in zip(options["outputs"], answers, strict=True)}

    return run, {"version": cv2.__version__}
