"""Fingerprints of a model's nodes, so that a failing comparison can name what changed since the export.

A fingerprint is a tree of short strings: the operator and attributes of each node, SHA-256 digests of each initializer
that it takes and of each function, the axes of each input. Names of values do not enter, so that fingerprints survive
saving, loading and changes of form.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import BLOCKS_DOMAIN, DOMAIN
from onnxpool.errors import FormError
from onnxpool.graph.blocks import BLOCK_SIZE
from onnxpool.graph.forms import Model, form_of, read, to_form

Fingerprints: TypeAlias = dict[str, dict[str, Any]]
"""``nodes``: by name, each with ``op``, ``attributes`` (a digest), ``settings`` (the short ones among them, in words),
``inputs`` and ``weights`` (pairs of initializer and digest); ``functions``: a digest by name; ``axes``: by input, a
size or name per axis; ``interface``: the names of inputs and outputs, in order; ``parameters``: of a PyTorch module
alone, a digest by name. Plain values that survive JSON."""

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
    converted = model = read(model)
    if form_of(model) != "function":
        with suppress(FormError):  # where another program has rewritten it, its nodes as they are still tell something
            converted = to_form(model, "function")
    return of_converted(model, converted)


def of_converted(model: ir.Model, converted: ir.Model) -> Fingerprints:
    """The same of a model whose function form is there already; ``converted`` is ``model`` where it has none."""
    digests: Digests = {}
    return {
        "nodes": {name: _node(node, digests) for name, node in _named(converted.graph).items()},
        "functions": {f"{domain}::{name}": _function(body) for (domain, name, _), body in model.functions.items()},
        "axes": {str(value.name): _axes(value) for value in converted.graph.inputs if value.shape is not None},
        "interface": interface(model),
    }


def interface(model: ir.Model) -> dict[str, list[str]]:
    """The names of a model's inputs and outputs, in order; an initializer that a caller may replace is none."""
    return {
        "inputs": [str(value.name) for value in model.graph.inputs if not value.is_initializer()],
        "outputs": [str(value.name) for value in model.graph.outputs],
    }


def of_parameters(arrays: Mapping[str, NDArray[Any]], model: Model) -> Fingerprints:
    """What can be known of an export when only the module is there: its parameters, in the element types of ``model``.

    Those that the model holds under the same name should be equal, unless the exporter folded others into them.
    """
    found, digests = {}, Digests()
    for name, value in read(model).graph.initializers.items():
        folded = any(_FOLDED in user.metadata_props for user in value.consumers())
        if name in arrays and value.dtype is not None and not folded:
            found[name] = _tensor(ir.tensor(arrays[name].astype(value.dtype.numpy())), digests)
    return {"nodes": {}, "functions": {}, "parameters": found}


_FOLDED = "pkg.onnxscript.rewriter.rule_name"
"""What PyTorch's exporter notes beside a node that took in another one, such as batch norm."""


def changes(before: Fingerprints, after: Fingerprints) -> list[Change]:
    """What differs, as sentences that name nodes.

    Any difference is a fault while the model still has the nodes that were exported. Where nodes came or went, a
    program has rewritten the model: it may, as long as the answers are right and pooling nodes are what they were.
    """
    found = list(_interface_changes(before.get("interface", {}), after.get("interface", {})))
    found += _axis_changes(before.get("axes", {}), after["axes"])
    then, now = before["nodes"], after["nodes"]
    if not then:
        return found + list(_parameter_changes(before.get("parameters", {}), now)) + list(_modes(now))
    gone = [f"node {name!r} ({then[name]['op']}) is not in this model" for name in then if name not in now]
    new = [f"node {name!r} ({now[name]['op']}) was not in the exported model" for name in now if name not in then]
    rewritten = bool(gone or new)
    if len(gone) > max(MOST_NAMED, len(then) // 2):
        text = (
            f"{len(gone)} of the {len(then)} nodes that were exported are not in this model, and {len(new)} others "
            "are: these are the answers of another network, or a program has rewritten all of this one"
        )
        found.append(Change(text, fault=False))
    else:
        found += [Change(text, fault=False) for text in (*_some(gone, "nodes"), *_some(new, "nodes"))]
    weights = list(_weight_changes(then, now))
    if len(weights) > MOST_WEIGHTS:
        found.append(Change(f"weights of {len(weights)} nodes differ: another checkpoint?", not rewritten))
    unlike: list[Change] = []
    for name in then:
        if name in now:
            fault = not rewritten or then[name]["op"].startswith(f"{DOMAIN}::")
            unlike += [Change(text, fault) for text in _contents(name, then[name], now[name])]
            if then[name]["inputs"] != now[name]["inputs"] and not rewritten:
                unlike.append(Change(_moved(name, then[name], now[name]), fault=True))
    found += _first(sorted(unlike, key=lambda change: not change.fault))
    found += [Change(text, not rewritten) for text in weights[:MOST_WEIGHTS]]
    found += [
        Change(f"the function body of {name} differs from the exported one", fault=True)
        for name, digest in before["functions"].items()
        if after["functions"].get(name, digest) != digest
    ]
    return found


MOST_NAMED = 4
"""Lines of one kind that are told; beyond that a number says more."""


def _some(lines: list[str], what: str) -> list[str]:
    """The first of these lines, and how many more there are."""
    left = len(lines) - MOST_NAMED
    return lines if left <= 1 else [*lines[:MOST_NAMED], f"and {left} more {what} like the last one"]


def _first(changes: list[Change]) -> list[Change]:
    """The same of changes, of which faults come first."""
    left = changes[MOST_NAMED:]
    if len(left) <= 1:
        return changes
    text = f"and {len(left)} more differences of nodes: are these the answers of another network?"
    return [*changes[:MOST_NAMED], Change(text, any(change.fault for change in left))]


MOST_WEIGHTS = 2
"""Changed weights are named for so many nodes; beyond that a number says more."""


def _contents(name: str, then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs in the operator and attributes of one node."""
    node = f"node {name!r} ({then['op']})"
    if then["op"] != now["op"]:
        return [f"{node} has become {now['op']}"]
    if then["attributes"] == now["attributes"]:
        return []
    old, new = then.get("settings", {}), now["settings"]
    told = [
        f"{key} was {old.get(key, 'not there')}, is {new.get(key, 'not there')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and old
    ]
    return [f"attributes of {node} changed since export{': ' if told else ''}{'; '.join(told)}"]


def _weight_changes(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """One sentence for each node whose weights differ."""
    for name in then:
        pairs = zip(then[name]["weights"], now.get(name, {"weights": []})["weights"], strict=False)
        changed = [initializer for (initializer, digest), (_, other) in pairs if digest != other]
        if changed:
            node = f"node {name!r} ({then[name]['op']})"
            yield f"weights of {node} (initializer {changed[0]!r}) differ from the exported ones"


def _moved(name: str, then: dict[str, Any], now: dict[str, Any]) -> str:
    node = f"node {name!r} ({then['op']})"
    if sorted(then["inputs"]) == sorted(now["inputs"]):
        return f"{node} takes its inputs in another order: they are swapped"
    return f"{node} takes its inputs from other nodes"


def _interface_changes(then: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Inputs and outputs that came, went, or stand in another order."""
    for part in set(then) & set(now):
        old, new = list(then[part]), list(now[part])
        if sorted(old) == sorted(new):
            if old != new:
                yield Change(f"its {part} were in the order {', '.join(old)}, and are {', '.join(new)} now", fault=True)
            continue
        gone, more = [name for name in old if name not in new], [name for name in new if name not in old]
        told = [
            f"{', '.join(map(repr, names[:MOST_NAMED]))} {state}"
            for names, state in ((gone, "went"), (more, "came"))
            if names
        ]
        yield Change(f"it had {len(old)} {part}, and has {len(new)} now: {', '.join(told)}", fault=True)


def _axis_changes(then: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Axes that could change and are fixed now, or have another size."""
    for name in set(then) & set(now):
        for axis, (old, new) in enumerate(zip(then[name], now[name], strict=False)):
            if isinstance(new, int) and old != new:
                state = "of any size" if isinstance(old, str) else f"of size {old}"
                yield Change(f"axis {axis} of input {name!r} was {state} and is fixed at {new} now", fault=True)


def _parameter_changes(parameters: dict[str, str], nodes: dict[str, Any]) -> Iterator[Change]:
    held = dict(pair for node in nodes.values() for pair in node["weights"])
    changed = [name for name, digest in parameters.items() if held.get(name, digest) != digest]
    if changed:
        named = ", ".join(map(repr, changed[:MOST_WEIGHTS]))
        text = f"{len(changed)} parameters differ from the module's, such as {named}: another checkpoint?"
        yield Change(text, fault=False)  # another exporter may have folded something into them


def _modes(nodes: dict[str, Any]) -> Iterator[Change]:
    for name, node in nodes.items():
        if node["settings"].get("training_mode") == "1":
            yield Change(
                f"node {name!r} ({node['op']}) is in training mode, so that it takes statistics of each batch: export "
                "in evaluation mode",
                fault=True,
            )


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
    domain = DOMAIN if node.domain == BLOCKS_DOMAIN else node.domain  # the same pooling, in another layout
    attributes = [(name, one) for name, one in sorted(node.attributes.items()) if name != BLOCK_SIZE]
    return {
        "op": f"{domain}::{node.op_type}" if domain else node.op_type,
        "attributes": _digest(*(f"{name}={_attribute(one, digests)}" for name, one in attributes)),
        "settings": dict(_settings(attributes)),
        "inputs": [_source(value) for value in inputs],
        "weights": [[name, _tensor(tensor, digests)] for name, tensor in constants if tensor is not None],
    }


def _settings(attributes: Iterable[tuple[str, ir.Attr]]) -> Iterator[tuple[str, str]]:
    """The attributes that are numbers, or a few of them, in words."""
    for name, attribute in attributes:
        value = attribute.value
        if not attribute.is_ref() and isinstance(value, int | float | str | list | tuple):
            text = str([_word(one) for one in value] if isinstance(value, list | tuple) else _word(value))
            if len(text) < MOST_CHARACTERS:
                yield name, text


def _word(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


MOST_CHARACTERS = 60
"""Longer attributes are known by the digest alone."""


def _axes(value: ir.Value) -> list[int | str]:
    return [dim if isinstance(dim, int) else str(dim.value or "") for dim in value.shape or ()]


def _function(function: ir.Function) -> str:
    """Of what it computes: names, order, copies and what nobody takes do not count, so that tools may tidy it up."""
    known: dict[ir.Value, str] = {value: f"formal {i}" for i, value in enumerate(function.inputs)}
    outputs = [_computed(value, known, Digests()) for value in function.outputs]
    return _digest(*outputs, sorted(function.attributes), sorted(function.opset_imports.items()))


def _computed(value: ir.Value | None, known: dict[ir.Value, str], digests: Digests) -> str:
    """Of a value within a function: of its node, and of what that takes."""
    value = _origin(value)
    if value is None:
        return "none"
    if value not in known:
        node = value.producer()
        constant = ir.convenience.get_const_tensor(value)
        if constant is not None:
            known[value] = _tensor(constant, digests)
        elif node is None:
            known[value] = f"outside {value.name}"
        else:
            told = [f"{name}={_inner(one, known, digests)}" for name, one in sorted(node.attributes.items())]
            taken = [_computed(one, known, digests) for one in node.inputs]
            known[value] = _digest(node.domain, node.op_type, value.index(), *told, *taken)
    return known[value]


def _inner(attribute: ir.Attr, known: dict[ir.Value, str], digests: Digests) -> str:
    """Of an attribute within a function, which may be a branch or the body of a loop."""
    if attribute.is_ref() or attribute.type != ir.AttributeType.GRAPH:
        return _attribute(attribute, digests)
    graph = attribute.value
    known |= {value: f"inner {attribute.name} {i}" for i, value in enumerate(graph.inputs)}
    return _digest(*(_computed(value, known, digests) for value in graph.outputs))


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
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
