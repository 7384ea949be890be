"""Diagnosis: why a model is wrong, node by node, and folders that show it to anybody.

    per_node.py           which node introduces an error      bisect.py       the smallest part that still fails
    runs.py               the two runs that tell              bundle.py       a model and a case, in a folder
    reference_values.py   what each value should be           reproduce.py    the script that goes into it
    traced.py             what PyTorch computes there         results.py      what was found, as plain values
    usual_mistakes.py     which change makes a node right          in_between.py   which node was put in front of it

Whether a model is wrong is for :mod:`onnxpool.validation` to say; this is what to do next.
"""

from typing import TYPE_CHECKING

from onnxpool._lazy import on_demand

if TYPE_CHECKING:
    from onnxpool.diagnosis.bisect import Bisection, bisect_model
    from onnxpool.diagnosis.bundle import Bundle, write_bundle
    from onnxpool.diagnosis.per_node import compare_nodes, compare_nodes_of_report
    from onnxpool.diagnosis.results import NodeResult, Nodes, NodesOfReport

__all__ = [
    "Bisection",
    "Bundle",
    "NodeResult",
    "Nodes",
    "NodesOfReport",
    "bisect_model",
    "compare_nodes",
    "compare_nodes_of_report",
    "write_bundle",
]

_HOMES = {
    "Bisection": "diagnosis.bisect",
    "Bundle": "diagnosis.bundle",
    "NodeResult": "diagnosis.results",
    "Nodes": "diagnosis.results",
    "NodesOfReport": "diagnosis.results",
    "bisect_model": "diagnosis.bisect",
    "compare_nodes": "diagnosis.per_node",
    "compare_nodes_of_report": "diagnosis.per_node",
    "write_bundle": "diagnosis.bundle",
}
"""The module that each name is in."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = on_demand(__name__, __all__, _HOMES)
