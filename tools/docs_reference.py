"""Reference pages from the docstrings: every public name with its signature, what it does, and what it raises.

pages()    {"reference/nn.md": text, ...}
"""

import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docs_markdown import MODULES, markdown, module, public

WINDOW = """\
The arguments of `torch.nn` poolings, for every module with a window. Each is an int, or one int for each axis.

| argument | default | what it is, in positions of the input |
|---|---|---|
| `kernel_size` | | cells of the window along each axis, 1 or more |
| `stride` | as kernel_size | from one window to the next |
| `padding` | 0 | added at both ends, at most half of the window's extent; without values, but for `AvgPool2d`'s zeros |
| `dilation` | 1 | from one cell of the window to the next |
| `ceil_mode` | `False` | whether a last window may reach beyond the end of the input |

From `(N, C, *spatial)`, or `(C, *spatial)` without a batch, to as many axes. An axis of length `n` becomes
`floor((n + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1` long; with `ceil_mode` that is rounded up, and
the last window dropped if it would start in the padding at the end. Values are float32, float64, float16 or bfloat16,
and keep their type."""

HIDDEN = ("self", "_")
SPELLED_OUT = ("forward", "pool", "extra_repr", "reference")
"""Methods of modules that say what every module has."""


# --- what a name looks like


def _shortened(text: str) -> str:
    """An annotation without the modules that its names are from."""
    for package in ("onnxpool", "typing", "collections.abc", "numpy", "pathlib", "onnx_ir._core", "ml_dtypes"):
        text = re.sub(rf"\b{re.escape(package)}(?:\.\w+)*\.(?=[A-Za-z]\w*)", "", text)
    return text


def _annotation(value: Any) -> str:
    return _shortened((value if isinstance(value, str) else inspect.formatannotation(value)).strip("'"))


def signature(name: str, value: Any) -> str:
    """How it is called, on one line or a line for each argument; nothing where that is not known."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    shown = [one for one in found.parameters.values() if one.name not in HIDDEN]
    parts = [_shortened(re.sub(r": '([^']*)'", r": \1", str(one))) for one in shown]
    if keywords := [i for i, one in enumerate(shown) if one.kind is one.KEYWORD_ONLY]:
        parts.insert(keywords[0], "*")
    is_silent = found.return_annotation in (inspect.Signature.empty, None) or inspect.isclass(value)
    back = "" if is_silent else f" -> {_annotation(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){back}"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){back}"


def _constant(name: str) -> str:
    """The docstring after an assignment to ``name``, wherever in the package it is made."""
    for path in sorted(Path(str(import_module("onnxpool").__file__)).parent.rglob("*.py")):
        for node, after in itertools.pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            if any(isinstance(one, ast.Name) and one.id == name for one in targets) and isinstance(after, ast.Expr):
                return str(getattr(after.value, "value", ""))
    raise LookupError(f"{name} has no docstring")


def _members(value: type) -> Iterator[tuple[str, str, str]]:
    """Methods and properties of a class that say what they do: name, signature, text."""
    for name, member in vars(value).items():
        found = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or name in SPELLED_OUT or not (inspect.isfunction(found) and found.__doc__):
            continue
        if isinstance(member, property):
            yield name, f"{name}: {_annotation(inspect.signature(found).return_annotation)}", found.__doc__
        else:
            yield name, signature(name, getattr(value, name)), found.__doc__


def entry(name: str, value: Any, level: str = "##") -> str:
    """A public name: heading, signature, docstring, and the methods of a class."""
    is_code = inspect.isclass(value) or inspect.isfunction(value)
    lines = [f"{level} {name}", ""]
    if is_code and (called := signature(name, value)):
        lines += ["```python", called, "```", ""]
    lines += [markdown((inspect.getdoc(value) or "") if is_code else _constant(name)), ""]
    for member, called, told in _members(value) if inspect.isclass(value) else ():
        lines += [f"{level}# {name}.{member}", "", "```python", called, "```", "", markdown(told), ""]
    return "\n".join(lines)


# --- pages


def _nn() -> str:
    """The modules, method by method: formula and source stand in the method's file, arguments in its modules."""
    base = import_module("onnxpool.pools._torch_ops").WindowModule
    adaptive = import_module("onnxpool.pools.adaptive_average").AdaptiveModule
    raises = markdown(inspect.cleandoc(base.__doc__ or "").split("\n\n")[-1])
    nn: Any = module("nn")
    lines = ["# onnxpool.nn", "", markdown(nn.__doc__.split("\n\n")[0]), ""]
    lines += ["## Windows", "", "```python", signature("SoftPool2d", base), "```", "", WINDOW, "", raises, ""]
    lines += ["## Output sizes", "", markdown(adaptive.__doc__ or ""), ""]
    files: dict[str, list[str]] = {}
    for name in nn.__all__:
        files.setdefault(getattr(nn, name).__module__, []).append(name)
    for home, names in files.items():
        title, _, rest = inspect.cleandoc(sys.modules[home].__doc__ or "").partition(": ")
        formula = rest.partition("\n>>> ")[0]  # its example calls what is not public
        lines += [f"## {title.partition('.')[0]}", "", markdown(formula[0].upper() + formula[1:]), ""]
        lines += [entry(name, getattr(nn, name), "###") for name in names]
    return "\n".join(lines)


def _page(name: str) -> str:
    found = module(name)
    told = "The functions that most programs need; [From Python](../python.md) shows them by example."
    text = [f"# {found.__name__}", "", told if name == "onnxpool" else markdown(found.__doc__ or ""), ""]
    return "\n".join([*text, *(entry(one, getattr(found, one)) for one in public(name))])


def pages() -> dict[str, str]:
    """Every page of names, by its path below docs/."""
    return {f"reference/{name}.md": _nn() if name == "nn" else _page(name) for name in MODULES}
