"""What a model file holds: its tensors, form, operators, and each pooling node with how it would run here.

>>> print(describe("network.onnx").form)  # doctest: +SKIP
function
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxpool.domain import Form
from onnxpool.errors import ArgumentError, KernelError, MissingExtra, SessionError
from onnxpool.golden import file as golden_file
from onnxpool.graph.forms import form_of, pool_nodes, read
from onnxpool.graph.inlined import inlined
from onnxpool.run.session import Placement, load


@dataclass(frozen=True)
class Tensor:
    """An input or output: a number per fixed axis, a name or None per axis that may change."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        """Short form, for example ``x: float32 (batch, 3, 224, 224)``."""
        axes = "unknown shape" if self.shape is None else f"({', '.join(str(size or '?') for size in self.shape)})"
        return f"{self.name}: {self.dtype} {axes}"


@dataclass(frozen=True)
class Description:
    """What a model file holds. ``operators`` counts nodes, without those inside of functions.

    ``pooling`` says where each pooling node runs; ``failure`` why the model does not load here, or is empty.
    ``inlined`` names the nodes where pooling nodes stood before another program wrote out their functions.
    """

    model: str
    size_bytes: int
    golden: str | None
    form: Form
    opset: int
    ir_version: int
    producer: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: dict[str, int]
    pooling: tuple[Placement, ...]
    failure: str = ""
    inlined: tuple[str, ...] = ()

    @property
    def lost(self) -> str:
        """What became of pooling nodes that another program wrote out, and how they come back; or nothing."""
        if not self.inlined:
            return ""
        return f"these were ours, until another program wrote them out: {', '.join(self.inlined)}; run: onnxpool lift"

    def runs(self, placement: Placement) -> str:
        """How a pooling node would run here: ``"natively on CPUExecutionProvider"``, say."""
        if self.failure:
            return f"not here: {self.failure}"
        if placement.native:
            return f"natively on {placement.provider}"
        return "as standard operators" if self.form == "standard" else "as its function body"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        values = asdict(self) | {
            "pooling": [
                {
                    "node": placement.node,
                    "op_type": placement.op_type,
                    "window": str(placement.window),
                    "runs": self.runs(placement),
                }
                for placement in self.pooling
            ]
        }
        del values["failure"]  # each node says it
        if not self.inlined:
            del values["inlined"]
        return values


def describe(path: str | os.PathLike[str]) -> Description:
    """Read the model file and load it, to see where its pooling nodes run.

    Raises :class:`onnxpool.errors.FormError` for a missing file, and for one that is not an ONNX model.
    """
    model = read(path)
    answers = golden_file.path_for(path)
    pooling, failure = _placements(path, model)
    operators = Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph.all_nodes())
    return Description(
        model=os.fspath(path),
        size_bytes=Path(path).stat().st_size + sum(file.stat().st_size for file in _weight_files(model)),
        golden=str(answers) if answers.exists() else None,
        form=form_of(model),
        opset=model.opset_imports.get("", 0),
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))) or "an unknown program",
        inputs=_tensors(model.graph.inputs),
        outputs=_tensors(model.graph.outputs),
        operators=dict(operators.most_common()),
        pooling=pooling,
        failure=failure,
        inlined=tuple(one.name for one in inlined(model)),
    )


def _placements(path: str | os.PathLike[str], model: ir.Model) -> tuple[tuple[Placement, ...], str]:
    """Where each pooling node runs, and why the model does not load here, where it does not."""
    nodes = pool_nodes(model)
    if not nodes:
        return (), ""
    try:
        return load(path).placements, ""
    except (ArgumentError, KernelError, MissingExtra, SessionError) as error:
        return tuple(Placement(node, None) for node in nodes), str(error)


def _tensors(values: Sequence[ir.Value]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=str(value.name),
            dtype="unknown" if value.dtype is None else value.dtype.numpy().name,
            shape=None
            if value.shape is None
            else tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape),
        )
        for value in values
    )


def _weight_files(model: ir.Model) -> set[Path]:
    weights = (value.const_value for value in model.graph.initializers.values())
    return {Path(weight.path) for weight in weights if isinstance(weight, ir.ExternalTensor)}
