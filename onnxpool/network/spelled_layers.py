"""Reads the spelling of a layer or network, such as ``PowerAvgPool2d(3, p=2.5)``, and runs none of it.

It is a name, with or without arguments; these are literals, layers again, and words that the caller knows. Rules of
:func:`onnxpool.swap` and sources of the command line are such spellings; the caller knows the names, and makes layers.

>>> spelling = read("SoftPool2d((2, 3), stride=None)")
>>> spelling.name, spelling.arguments(make=str)
('SoftPool2d', ([(2, 3)], {'stride': None}))
"""

import ast
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from onnxpool.errors import ArgumentError

ARGUMENTS = "numbers, tuples, True, False, None or layers"
"""What arguments may be, but for the caller's words."""

Words: TypeAlias = Mapping[str, Callable[[], Any]]
"""What gives the value of each word that may stand as an argument."""

_NO_WORDS: Words = MappingProxyType({})


class Spelling:
    """A name, and what stands in brackets after it."""

    def __init__(self, call: ast.Call, name: str) -> None:
        self.name = name
        self._call = call

    def __str__(self) -> str:
        return ast.unparse(self._call)

    def arguments(
        self, make: "Callable[[Spelling], Any]", words: Words = _NO_WORDS
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments without and with names; ``make`` gives the layers among them.

        Raises :class:`ArgumentError` for what can be no argument, and for a name that is given twice.
        """
        named: dict[str, Any] = {}
        for keyword in self._call.keywords:
            if keyword.arg is None:
                raise ArgumentError(f"**{ast.unparse(keyword.value)} {_refused(words)}")
            if keyword.arg in named:
                raise ArgumentError(f"{keyword.arg} is given twice in {self}")
            named[keyword.arg] = _value(keyword.value, make, words)
        return [_value(argument, make, words) for argument in self._call.args], named


def read(text: str) -> Spelling:
    """The spelling; raises :class:`ArgumentError`, without naming the text, for one that is none."""
    try:
        spelled = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ArgumentError("cannot be read") from error
    spelling = _spelling(ast.Call(spelled, [], []) if isinstance(spelled, ast.Name) else spelled)
    if spelling is None:
        raise ArgumentError("is not a layer")
    return spelling


def _spelling(node: ast.expr) -> Spelling | None:
    return Spelling(node, node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _value(node: ast.expr, make: Callable[[Spelling], Any], words: Words) -> Any:
    if isinstance(node, ast.Name) and node.id in words:
        return words[node.id]()
    if spelling := _spelling(node):
        return make(spelling)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{ast.unparse(node)} {_refused(words)}") from error


def _refused(words: Words) -> str:
    return f"cannot be an argument; these are {', '.join((*words, ARGUMENTS))}"
