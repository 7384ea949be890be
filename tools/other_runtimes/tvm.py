"""TVM on the processor, for tools/fuzz_runtimes --other."""

from collections.abc import Callable
from typing import Any

Pairs = dict[str, tuple[str, Any]]


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """What runs the file; inputs come in the order in which the file has them."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    machine = relax.VirtualMachine(tvm.compile(from_onnx(onnx.load(path)), target="llvm"), tvm.cpu())

    def run(feeds: Pairs) -> Pairs:
        answers = machine["main"](*[tvm.runtime.tensor(array) for _, array in feeds.values()])
        arrays = [answers.numpy()] if len(options["outputs"]) == 1 else [answer.numpy() for answer in answers]
        return {name: (y.dtype.name, y) for name, y in zip(options["outputs"], arrays, strict=True)}

    return run, {"version": tvm.__version__}
