"""Which line of somebody's own code a node, an error or a traceback comes from."""

import ast
import re
from pathlib import Path
from types import TracebackType

import onnx_ir as ir

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of onnxpool, whose code is not the user's."""

_SCOPES = "pkg.torch.onnx.name_scopes"
_STACK = "pkg.torch.onnx.stack_trace"
"""Where PyTorch's exporter notes the layers, and the lines of code, that a node came from."""

_FRAME = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)(?:\n\s*(?!File )(?P<code>\S.*))?'
)


def line_of(node: ir.Node) -> tuple[str, str]:
    """The line of the network's own code that a node came from, ``file:line``, and the code; "" if not noted."""
    return line_in(node.metadata_props.get(_STACK, ""))


def layer_of(node: ir.Node) -> str:
    """The path of the layer that a node came from; "" for the network itself, or if not noted."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if len(scopes) > 1 else ""


def line_in(text: str) -> tuple[str, str]:
    """The innermost line of somebody's own code in a traceback's text, ``file:line``, and the code; "" for none."""
    frames = [frame for frame in _FRAME.finditer(text) if not _library(frame["file"])]
    return (f"{frames[-1]['file']}:{frames[-1]['line']}", frames[-1]["code"] or "") if frames else ("", "")


def line_where(traceback: TracebackType | None, entry: str) -> str:
    """The innermost line of somebody's own code below a call made in the file ``entry``, ``file:line``; "" for none."""
    found, below = "", False
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        below = below or file == entry
        if below and not _library(file):
            found = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _library(file: str) -> bool:
    folders = {"site-packages/torch", "site-packages\\torch", str(PACKAGE)}
    return any(folder in file for folder in folders) or file.startswith(("torch/", "<"))
