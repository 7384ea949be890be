"""tract, for tools/fuzz_runtimes --other: files with all sizes fixed."""

from collections.abc import Callable
from typing import Any

Pairs = dict[str, tuple[str, Any]]


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """What runs the file; inputs come in the order in which the file has them."""
    import tract

    model = tract.onnx().load(path).into_model().into_runnable()

    def run(feeds: Pairs) -> Pairs:
        answers = [answer.to_numpy() for answer in model.run([array for _, array in feeds.values()])]
        return {name: (y.dtype.name, y) for name, y in zip(options["outputs"], answers, strict=True)}

    return run, {"version": tract.version()}
