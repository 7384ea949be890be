"""Reference pages from the docstrings: every public name with its signature, what it does, and what it raises.

    pages()    {"reference/nn.md": text, ...}

Docstrings are written for editors, with ``code`` and :func:`names`; here they become Markdown with links.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = ("onnxpool", "nn", "models", "validation", "diagnosis", "serve", "deploy", "openvino", "errors")

WINDOW = """\
The arguments of `torch.nn` poolings, for every module with a window. Each is an int, or one int for each axis.

| argument | default | what it is, in positions of the input |
|---|---|---|
| `kernel_size` | | cells of the window along each axis, 1 or more |
| `stride` | `kernel_size` | from one window to the next |
| `padding` | 0 | positions added at both ends, at most half of the window's extent; they take no part in the result |
| `dilation` | 1 | from one cell of the window to the next |
| `ceil_mode` | `False` | whether a last window may reach beyond the end of the input |

From `(N, C, *spatial)`, or `(C, *spatial)` without a batch, to as many axes. An axis of length `n` becomes
`floor((n + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1` long; with `ceil_mode` that is rounded up, and the
last window dropped if it would start in the padding at the end. Values are float32, float64, float16 or bfloat16, and keep
their type."""


def module(name: str) -> ModuleType:
    """The public module of this page."""
    return import_module("onnxpool" if name == "onnxpool" else f"onnxpool.{name}")


def public(name: str) -> list[str]:
    """What it exports, but for other modules."""
    found: Any = module(name)
    return [one for one in found.__all__ if not inspect.ismodule(getattr(found, one))]


@cache
def homes() -> dict[str, str]:
    """Where each public name is described: page and anchor."""
    places = {"WindowModule": "nn.md#windows", "AdaptiveModule": "nn.md#output-sizes"}
    for name in reversed(MODULES):
        places |= {one: f"{name}.md#{one.lower()}" for one in public(name)}
    return places


# --- docstrings to Markdown


def _reference(found: re.Match[str]) -> str:
    path = found[1].lstrip("~")
    name = path.rpartition(".")[2]
    owner = path.removeprefix("onnxpool.").split(".")
    if path.startswith("onnxpool.") and len(owner) == 1 and owner[0] in MODULES:
        return f"[`{path}`]({owner[0]}.md)"
    place = homes().get(path.rpartition(".")[0] if path.split(".")[0] in homes() and "." in path else name)
    shown = path if path.split(".")[0] in homes() else name
    if path.startswith("onnxpool.") and place is None:
        shown = path
    return f"[`{shown}`]({place})" if place else f"`{shown}`"


def markdown(text: str) -> str:
    """A docstring as Markdown: references become links, examples become blocks."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.lstrip().startswith(">>>"):
            example = re.sub(r"  # doctest: .*", "", textwrap.dedent(block))
            blocks.append(f"```pycon\n{example}\n```")
        elif all(line.startswith("    ") for line in block.splitlines()):
            if block.count(".py ") <= 2:  # a list of a folder's files is for those who change them
                blocks.append(f"```text\n{textwrap.dedent(block).replace('``', '')}\n```")
        else:
            block = re.sub(r":(?:class|func|meth|mod|data|exc|attr):`([^`]+)`", _reference, block)
            blocks.append(re.sub(r"``([^`]+)``", r"`\1`", block))
    return "\n\n".join(blocks).replace("\n```\n\n```text\n", "\n\n").replace("\n```\n\n```pycon\n", "\n")


# --- what a name looks like


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    parts = []
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "_"):
            parts.append(re.sub(r": '([^']*)'", r": \1", str(parameter)))
    if keyword := [i for i, one in enumerate(signature.parameters.values()) if one.kind is one.KEYWORD_ONLY]:
        skipped = sum(one in ("self", "_") for one in signature.parameters)
        parts.insert(keyword[0] - skipped, "*")
    back = signature.return_annotation
    back = "" if back in (inspect.Signature.empty, None) or inspect.isclass(value) else f" -> {_named(back)}"
    parts = [_shortened(part) for part in parts]
    line = f"{name}({', '.join(parts)}){back}"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){back}"


def _named(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _shortened(text.strip("'"))


def _shortened(text: str) -> str:
    for package in ("onnxpool", "typing", "collections.abc", "numpy", "pathlib", "onnx_ir._core", "ml_dtypes"):
        text = re.sub(rf"\b{re.escape(package)}(?:\.\w+)*\.(?=[A-Za-z]\w*)", "", text)
    return text


def _constant(name: str) -> str:
    """The docstring after an assignment to ``name``, wherever in the package it is made."""
    for path in sorted(Path(str(import_module("onnxpool").__file__)).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not re.search(rf"^{name}\b", text, re.MULTILINE):
            continue
        body = ast.parse(text).body
        for node, after in zip(body, body[1:], strict=False):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            if any(isinstance(one, ast.Name) and one.id == name for one in targets) and isinstance(after, ast.Expr):
                return str(getattr(after.value, "value", ""))
    raise LookupError(f"{name} has no docstring")


def _members(value: type) -> Iterator[tuple[str, str, str]]:
    """Methods and properties of a class that say what they do: name, signature, text."""
    for name, member in vars(value).items():
        found = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not (inspect.isfunction(found) and found.__doc__):
            continue
        if name in ("forward", "pool", "extra_repr", "reference"):
            continue
        if isinstance(member, property):
            yield name, f"{name}: {_named(inspect.signature(found).return_annotation)}", found.__doc__
        else:
            yield name, _signature(name, getattr(value, name)), found.__doc__


def entry(name: str, value: Any, level: str = "##") -> str:
    """A public name: heading, signature, docstring, and the methods of a class."""
    is_code = inspect.isclass(value) or inspect.isfunction(value)
    lines = [f"{level} {name}", ""]
    if is_code and (signature := _signature(name, value)):
        lines += ["```python", signature, "```", ""]
    text = inspect.getdoc(value) if is_code else _constant(name)
    lines += [markdown(text or ""), ""]
    if inspect.isclass(value):
        for member, signature, told in _members(value):
            lines += [f"{level}# {name}.{member}", "", "```python", signature, "```", "", markdown(told), ""]
    return "\n".join(lines)


# --- pages


def _raises(value: type) -> str:
    """The last paragraph of its docstring: what it raises."""
    return markdown(inspect.cleandoc(value.__doc__ or "").split("\n\n")[-1])


def _nn() -> str:
    """The modules, method by method: formula and source stand in the method's file, arguments in its modules."""
    base = import_module("onnxpool.pools._torch_ops").WindowModule
    adaptive = import_module("onnxpool.pools.adaptive_average").AdaptiveModule
    nn: Any = module("nn")
    lines = ["# onnxpool.nn", "", markdown(nn.__doc__.split("\n\n")[0]), ""]
    lines += ["## Windows", "", "```python", _signature("SoftPool2d", base), "```", "", WINDOW, ""]
    lines += [_raises(base), "", "## Output sizes", "", markdown(adaptive.__doc__ or ""), ""]
    files: dict[str, list[str]] = {}
    for name in nn.__all__:
        files.setdefault(getattr(nn, name).__module__, []).append(name)
    for home, names in files.items():
        title, _, rest = inspect.cleandoc(sys.modules[home].__doc__ or "").partition(": ")
        formula = rest.partition("\n>>> ")[0]  # its example calls what is not public
        lines += [f"## {title}", "", markdown(formula[0].upper() + formula[1:]), ""]
        lines += [entry(name, getattr(nn, name), "###") for name in names]
    return "\n".join(lines)


def _page(name: str) -> str:
    found = module(name)
    title = found.__name__
    text = [f"# {title}", ""]
    if name != "onnxpool":
        text += [markdown(found.__doc__ or ""), ""]
    else:
        text += ["The functions that most programs need; [From Python](../python.md) shows them by example.", ""]
    return "\n".join([*text, *(entry(one, getattr(found, one)) for one in public(name))])


def pages() -> dict[str, str]:
    """Every page of names, by its path below docs/."""
    return {f"reference/{name}.md": _nn() if name == "nn" else _page(name) for name in MODULES}
