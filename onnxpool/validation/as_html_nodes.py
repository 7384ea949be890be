"""The part of the web page that shows a comparison node by node, and what that must have to be shown.

:class:`onnxpool.diagnosis.results.Nodes` has it; diagnosis stands above validation, so that it is not imported here.
"""

from collections.abc import Sequence
from html import escape
from typing import Protocol

from onnxpool.validation.as_text import percent


class Node(Protocol):
    """One node: its part in the error, and the shares of its budget that it used by itself and in all."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def op_type(self) -> str: ...  # noqa: D102
    @property
    def part(self) -> str: ...  # noqa: D102
    @property
    def share(self) -> float: ...  # noqa: D102
    @property
    def total(self) -> float: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def line(self) -> str: ...  # noqa: D102


class Nodes(Protocol):
    """Every node on one case, and where the reference values come from."""

    @property
    def case(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def results(self) -> Sequence[Node]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102


_CLASS = {"introduces": "failed", "propagates": "noted", "agrees": "passed"}
_MARK = {"introduces": "✗", "propagates": "!", "agrees": "✓"}


def section(nodes: Nodes) -> str:
    """A heading, a row for each node in the order of execution, and what the columns say."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in nodes.notes)
    agree = sum(node.part == "agrees" for node in nodes.results)
    columns = ("node", "operator", "verdict", "own share", "total share", "in the code", "why")
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return (
        f"<h2>Node by node, case {escape(nodes.case)}</h2>"
        f"<p>{agree} of {len(nodes.results)} nodes agree with {escape(nodes.source)}. Own share: of the allowed error, "
        "when the node is given right inputs. Total share: when it is given what the nodes before it give. A node that "
        "is above 100% on right inputs introduces an error; one that is above 100% only in total hands one on.</p>"
        f"{f'<ul>{notes}</ul>' if notes else ''}"
        f'<div class="wide"><table class="details nodes"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_row, nodes.results))}</tbody></table></div>"
    )


def _row(node: Node) -> str:
    shares = "".join(f"<td>{percent(one)}</td>" for one in (node.share, node.total))
    return (
        f'<tr><th scope="row">{escape(node.name)}</th><td>{escape(node.op_type)}</td>'
        f'<td><span class="{_CLASS[node.part]}">{_MARK[node.part]} {node.part}</span></td>{shares}'
        f"<td>{escape(node.line)}</td><td>{escape(node.reason if node.part != 'agrees' else '')}</td></tr>"
    )
