"""Docstrings as Markdown: ``code``, :func:`names` and examples become what a page of docs/reference/ shows."""

import inspect
import re
import textwrap
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

MODULES = ("onnxpool", "nn", "models", "validation", "diagnosis", "serve", "deploy", "openvino", "errors")
"""The public modules, a page each."""

ROLE = re.compile(r":(?:class|func|meth|mod|data|exc|attr):`([^`]+)`")


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


def _link(found: re.Match[str]) -> str:
    """A name as code, with a link where it is public; names of inner modules keep their path."""
    path = found[1].lstrip("~")
    if path.removeprefix("onnxpool.") in MODULES:
        return f"[`{path}`]({path.removeprefix('onnxpool.')}.md)"
    owner, _, last = path.rpartition(".")
    place = homes().get(owner) or homes().get(last)
    if place is None:
        return f"`{path}`"
    return f"[`{path if owner in homes() else last}`]({place})"


def _block(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return f"```pycon\n{re.sub(r'  # doctest: .*', '', textwrap.dedent(text))}\n```"
    if all(line.startswith("    ") for line in text.splitlines()):
        is_list_of_files = text.count(".py ") > 2  # of a folder: for those who change it
        return "" if is_list_of_files else f"```text\n{textwrap.dedent(text).replace('``', '')}\n```"
    return re.sub(r"``([^`]+)``", r"`\1`", ROLE.sub(_link, text))


def markdown(text: str) -> str:
    """A docstring as Markdown: references become links, examples and indented lines become blocks."""
    blocks = filter(None, map(_block, re.split(r"\n\s*\n", inspect.cleandoc(text))))
    return "\n\n".join(blocks).replace("\n```\n\n```text\n", "\n\n").replace("\n```\n\n```pycon\n", "\n")
