"""Fingerprints of a model's nodes, so that a failing comparison can name what changed since the export.

A fingerprint is a tree of short strings: SHA-256 digests of the operator and attributes of each node, of each
initializer that it takes, and of each function. Names of values do not enter, so that fingerprints survive saving,
loading and changes of form.
"""

import hashlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxpool.errors import FormError
from onnxpool.forms import Model, form_of, read, to_form
from onnxpool.pool import DOMAIN

Fingerprints: TypeAlias = dict[str, dict[str, Any]]
"""``nodes``: by name, each with ``op``, ``attributes``, ``inputs`` and ``weights`` (pairs of initializer and digest);
``functions``: a digest by name. Plain values that survive JSON."""

Digests: TypeAlias = dict[int, tuple[Any, str]]
"""Tensors read so far by ``id``, kept so that no other tensor gets that ``id``, and their digests."""


@dataclass(frozen=True)
class Change:
    """One difference between a model and what was exported, in a sentence, and whether it can only be a fault."""

    text: str
    fault: bool


def fingerprints(model: Model) -> Fingerprints:
    """The fingerprints of a model in any form: nodes as of its function form, functions as they are in the file.

    Raises :class:`FormError` where ``model`` cannot be read.
    """
    model = read(model)
    functions = dict(model.functions)
    if form_of(model) != "function":
        with suppress(FormError):  # where another program has rewritten it, its nodes as they are still tell something
            model = to_form(model, "function")
    digests: Digests = {}
    return {
        "nodes": {name: _node(node, digests) for name, node in _named(model.graph).items()},
        "functions": {f"{domain}::{name}": _function(body) for (domain, name, _), body in functions.items()},
    }


def changes(before: Fingerprints, after: Fingerprints) -> list[Change]:
    """What differs, as sentences that name nodes.

    Any difference is a fault while the model still has the nodes that were exported. Where nodes came or went, a
    program has rewritten the model: it may, as long as the answers are right and pooling nodes are what they were.
    """
    then, now = before["nodes"], after["nodes"]
    gone = [f"node {name!r} ({then[name]['op']}) is not in this model" for name in then if name not in now]
    new = [f"node {name!r} ({now[name]['op']}) was not in the exported model" for name in now if name not in then]
    rewritten = bool(gone or new)
    found = [Change(text, fault=False) for text in (*gone, *new)]
    for name in then:
        if name in now:
            fault = not rewritten or then[name]["op"].startswith(f"{DOMAIN}::")
            found += [Change(text, fault) for text in _contents(name, then[name], now[name])]
            if then[name]["inputs"] != now[name]["inputs"] and not rewritten:
                found.append(
                    Change(f"node {name!r} ({then[name]['op']}) takes its inputs from other nodes", fault=True)
                )
    found += [
        Change(f"the function body of {name} differs from the exported one", fault=True)
        for name, digest in before["functions"].items()
        if after["functions"].get(name, digest) != digest
    ]
    return found


def _contents(name: str, then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs inside of one node."""
    node = f"node {name!r} ({then['op']})"
    if then["op"] != now["op"]:
        return [f"{node} has become {now['op']}"]
    changed = [f"attributes of {node} changed since export"] if then["attributes"] != now["attributes"] else []
    return changed + [
        f"weights of {node} (initializer {initializer!r}) differ from the exported ones"
        for (initializer, digest), (_, other) in zip(then["weights"], now["weights"], strict=False)
        if digest != other
    ]


# --- how they are made


def _named(graph: ir.Graph) -> dict[str, ir.Node]:
    """Every node that computes something, by name; one without a name by its operator and a count."""
    counts: Counter[str] = Counter()
    named = {}
    for node in graph:
        if node.op_type not in ("Constant", "Identity"):  # a change of form makes initializers of one, drops the other
            counts[node.op_type] += 1
            named[node.name or f"{node.op_type} number {counts[node.op_type]}"] = node
    return named


def _node(node: ir.Node, digests: Digests) -> dict[str, Any]:
    inputs = [_origin(value) for value in node.inputs]
    constants = [(str(value.name), ir.convenience.get_const_tensor(value)) for value in inputs if value is not None]
    return {
        "op": f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
        "attributes": _digest(*(f"{name}={_attribute(a, digests)}" for name, a in sorted(node.attributes.items()))),
        "inputs": [_source(value) for value in inputs],
        "weights": [[name, _tensor(tensor, digests)] for name, tensor in constants if tensor is not None],
    }


def _function(function: ir.Function) -> str:
    proto = ir.to_proto(function)
    for comment in ("doc_string", "metadata_props", "value_info"):
        proto.ClearField(comment)
    return _digest(proto.SerializeToString(deterministic=True))


def _origin(value: ir.Value | None) -> ir.Value | None:
    """The value that an input is a copy of."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type == "Identity":
        value = producer.inputs[0]
    return value


def _source(value: ir.Value | None) -> str:
    """Where an input comes from, without the name of the value."""
    if value is None:
        return ""
    if ir.convenience.get_const_tensor(value) is not None:
        return "constant"
    producer = value.producer()
    return f"input {value.name}" if producer is None else f"{producer.op_type} {producer.name} {value.index()}"


def _attribute(attribute: ir.Attr, digests: Digests) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor(value, digests)
    if attribute.type == ir.AttributeType.GRAPH:
        return _digest(*(_node(node, digests) for node in value))
    if attribute.type == ir.AttributeType.GRAPHS:
        return _digest(*(_node(node, digests) for graph in value for node in graph))
    if attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        value = np.asarray(value, np.float32).tolist()  # what a file holds, whatever the exporter had in memory
    return repr(list(value) if isinstance(value, list | tuple) else value)


def _tensor(tensor: Any, digests: Digests) -> str:
    """Of the element type, shape and contents; each tensor is read once."""
    if id(tensor) not in digests:
        contents = np.array(tensor.string_data()).tobytes() if tensor.dtype == ir.DataType.STRING else tensor.tobytes()
        digests[id(tensor)] = tensor, _digest(tensor.dtype.name, tuple(tensor.shape.numpy()), contents)
    return digests[id(tensor)][1]


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
