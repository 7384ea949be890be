"""The page of commands: every argument and option with its type and default, from the application itself."""

import inspect
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

INTRODUCTION = """# Commands and options

Written from the program itself: `onnxpool COMMAND --help` prints the same. `--json` prints the result as JSON, for
programs, and nothing else on standard output. What each command ends with: [Exit statuses](exit-statuses.md).

<style>.md-typeset td code { white-space: nowrap }</style>
"""


def _commands(group: Any, path: str = "onnxpool") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        inner = _commands(command, f"{path} {name}") if hasattr(command, "commands") else [(f"{path} {name}", command)]
        found += inner
    return found


def commands() -> dict[str, Any]:
    """Every command by how it is called, such as ``onnxpool deploy ray``."""
    from onnxpool.cli.commands import app

    return dict(_commands(typer.main.get_command(app)))


def _kind(hint: Any) -> str:
    """An option's type in a sentence, where its help needs one: the choices, a number, that it may be repeated."""
    if get_origin(hint) is Literal:
        return f"One of {', '.join(f'`{one}`' for one in get_args(hint))}."
    if get_origin(hint) is list:
        return f"{_kind(get_args(hint)[0])} May be repeated.".strip()
    if types := [one for one in get_args(hint) if one is not type(None)]:
        return _kind(types[0])
    return {int: "A whole number.", float: "A number."}.get(hint, "")


def _default(parameter: Any) -> str:
    if parameter.required or parameter.default in (None, [], ()):
        return ""
    if isinstance(parameter.default, bool):
        names = parameter.opts if parameter.default else parameter.secondary_opts
        return f"Default: `{names[0]}`." if parameter.secondary_opts else ""
    return f"Default: `{parameter.default}`."


def _row(parameter: Any, hints: dict[str, Any]) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = "<br>".join(f"`{name.upper() if not name.startswith('-') else name}`" for name in names)
    told = re.sub(r"\s+", " ", getattr(parameter, "help", None) or "").replace("|", "\\|")
    is_option = parameter.opts[0].startswith("-")
    facts = [
        _kind(hints.get(parameter.name, str)),
        "Needed." if parameter.required and is_option else _default(parameter),
    ]
    return f"| {shown} | {told} {' '.join(fact for fact in facts if fact)} |".replace("  ", " ")


def page() -> str:
    """reference/commands.md."""
    lines = [INTRODUCTION]
    for name, command in commands().items():
        hints = get_type_hints(inspect.unwrap(command.callback))
        arguments = " ".join(p.name.upper() for p in command.params if not p.opts[0].startswith("-"))
        first, *rest = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
        lines += [f"## {name}", "", re.sub(r"\s+", " ", first), ""]
        for paragraph in rest:
            example = paragraph.removeprefix("Example: ")
            text = re.sub(r"\s+", " ", example)
            lines += ["```sh", text, "```", ""] if example != paragraph else [text, ""]
        lines += [f"`{name} {arguments} [OPTIONS]`".replace("  ", " "), ""]
        lines += ["| argument or option | what it is |", "|---|---|"]
        lines += [_row(one, hints) for one in command.params if one.name != "help"]
        lines += [""]
    return "\n".join(lines)
