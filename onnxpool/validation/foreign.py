"""Operators that other libraries bring: nodes of any domain, run by the library that registers them with ONNX Runtime.

>>> with Foreign(["their.so"]).known(model):  # doctest: +SKIP
...     golden = answers_for(held, reference)

Nobody here knows what such an operator computes. Where a reference tells, the library is judged like any kernel. Where
a value in between must be known, the library itself computes it, in the element type that the model has there, while
everything around it is computed in float64. It runs in a process of its own, so that it may crash: then the case, or
the node, has no answer.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx.reference.op_run import OpRun
from onnx_ir.passes import common as passes

from onnxpool.domain import DOMAIN, IR_VERSION, is_foreign
from onnxpool.dtypes import BY_NAME
from onnxpool.errors import ArgumentError, GoldenError, SessionError
from onnxpool.golden import bounds, from_model
from onnxpool.graph import forms
from onnxpool.run.native_library import library_path
from onnxpool.runtimes import RUNTIMES
from onnxpool.runtimes._child import Child, Crashed, Refused, Tensors, worker

Kernels = Literal["auto", "require", "off"]


_BUILT_IN = ("com.microsoft", "com.ms.internal.nhwc", "org.pytorch.aten")
"""Domains of operators that ONNX Runtime itself may bring."""


def unknown_domains(model: ir.Model) -> list[str]:
    """The domains of operators in a model that a library must bring."""
    local = {(domain, op_type) for domain, op_type, _ in model.functions}
    nodes = [*model.graph.all_nodes()]
    found = {node.domain for node in nodes if (node.domain, node.op_type) not in local}
    return sorted(domain for domain in found if is_foreign(domain) and not domain.startswith(_BUILT_IN))


class Foreign:
    """Libraries of custom operators, in a process that has ONNX Runtime. ``crashes`` says of which nodes it died.

    Raises :class:`ArgumentError` for what is not a file.
    """

    def __init__(self, libraries: Sequence[str | os.PathLike[str]], timeout_s: float = 600) -> None:
        self.libraries: list[str] = [str(Path(library).resolve()) for library in libraries]
        self._timeout_s = timeout_s
        self._stack = ExitStack()
        self._opened: Path | None = None
        self.crashes: list[str] = []
        for library in self.libraries:
            if not Path(library).is_file():
                raise ArgumentError(f"library={library!r} is not a file; give a library of custom operators")

    def __enter__(self) -> Self:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="onnxpool-")))
        command = worker(RUNTIMES["onnxruntime"].file)
        self._child = self._stack.enter_context(Child(command, self._folder, self._timeout_s))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, model: ir.Model, feeds: Tensors, kernels: Kernels = "off") -> tuple[Tensors, frozenset[str]]:
        """What a model gives, and the nodes of ours that ran natively. Raises :class:`SessionError`."""
        path = self._folder / "whole.onnx"
        forms.write(model.clone(), path)
        own = None if kernels == "off" else str(library_path())
        names = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
        try:
            facts = self._open(path, own)
            outputs = self._child.run({name: feeds[name] for name in names})
        except (Crashed, Refused) as error:
            raise SessionError(f"ONNX Runtime with {', '.join(self.libraries)}: {error}") from error
        finally:
            self._opened = None
        nodes = facts["nodes"] or ()
        return outputs, frozenset(name for name, domain, *_ in nodes if domain == DOMAIN)

    @contextmanager
    def known(self, model: ir.Model) -> Iterator[Self]:
        """Let the evaluator in float64 run the nodes of ``model`` that these libraries bring."""
        if not self.libraries:
            yield self
            return
        with self:
            token = from_model.FURTHER.set(_Theirs(self, model).operators())
            try:
                yield self
            finally:
                from_model.FURTHER.reset(token)

    def one_node(self, proto: onnx.ModelProto, feeds: Tensors) -> Tensors:
        """What a model of one node gives. Raises :class:`GoldenError`."""
        text = proto.SerializeToString()
        path = self._folder / f"{hash(text):x}.onnx"
        try:
            if not path.exists():
                path.write_bytes(text)
            if self._opened != path or not self._child.alive:
                self._open(path, None)
                self._opened = path
            return self._child.run(feeds)
        except (Crashed, Refused) as error:
            self._opened = None
            node = proto.graph.node[0]
            told = f"node {node.name!r} ({node.domain}::{node.op_type}): {error}"
            if isinstance(error, Crashed):
                self.crashes.append(told)
            raise GoldenError(told) from error

    def _open(self, path: Path, own: str | None) -> dict[str, Any]:
        return self._child.open(path, {"libraries": self.libraries, "library": own})


class _Theirs:
    """The foreign operators of one model, for the evaluator."""

    def __init__(self, foreign: Foreign, model: ir.Model) -> None:
        self.foreign = foreign
        self.model = model
        typed = model.clone()
        passes.ShapeInferencePass(strict_mode=False)(typed)
        values = [*typed.graph.inputs, *typed.graph.initializers.values()]
        values += [value for node in typed.graph.all_nodes() for value in node.outputs]
        self.types: dict[str, np.dtype[Any]] = {
            str(value.name): np.dtype(value.dtype.numpy()) for value in values if value.dtype is not None
        }
        floating = [self.types[str(one.name)] for one in typed.graph.inputs if str(one.name) in self.types]
        self.usual = next((dtype for dtype in floating if bounds.is_floating(dtype)), np.dtype(np.float32))

    def operators(self) -> tuple[type[OpRun], ...]:
        """A class for each operator that is neither standard nor a function of the model."""
        nodes = [*self.model.graph.all_nodes()]
        for function in self.model.functions.values():
            nodes += function.all_nodes()
        found = {(node.domain, node.op_type) for node in nodes if is_foreign(node.domain)}
        local = {identifier[:2] for identifier in self.model.functions}
        return tuple(self._operator(*one) for one in sorted(found - local))

    def _operator(self, domain: str, op_type: str) -> type[OpRun]:
        def run(self: OpRun, *inputs: NDArray[Any], **_: Any) -> tuple[NDArray[Any], ...]:
            return theirs._ran(self.onnx_node, inputs)

        theirs = self
        return type(op_type, (OpRun,), {"op_domain": domain, "op_schema": None, "_run": run})

    def _ran(self, node: onnx.NodeProto, inputs: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        """The node in its own types; what is floating comes back in the type that the evaluator computes in."""
        given = {name: array for name, array in zip(node.input, inputs, strict=False) if name and array is not None}
        wide = [array.dtype for array in given.values() if bounds.is_floating(array.dtype)]
        with np.errstate(over="ignore"):
            feeds = {name: self._own(name, array) for name, array in given.items()}
        outputs = self.foreign.one_node(self._proto(node, feeds), feeds)
        found = (outputs[name] for name in node.output if name)
        return tuple(array.astype(wide[0]) if wide and bounds.is_floating(array.dtype) else array for array in found)

    def _own(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        wanted = self.types.get(name, self.usual)
        return array.astype(wanted) if bounds.is_floating(array.dtype) and bounds.is_floating(wanted) else array

    def _proto(self, node: onnx.NodeProto, feeds: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(name, BY_NAME[array.dtype.name].code, [None] * array.ndim)
            for name, array in feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.model.opset_imports.items()]
        return helper.make_model(
            helper.make_graph([node], "one", inputs, outputs), opset_imports=opsets, ir_version=IR_VERSION
        )
