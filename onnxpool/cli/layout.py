"""How pages stand in a terminal of any width, and in a pipe: words are never broken, and nothing is cut.

    a string, a Text   a paragraph, wrapped between words
    Facts              names, and what they are
    Columns            rows under headings; where they cannot stand side by side, each row is a block of facts

In a terminal no line is wider than it, unless a single word is (a long path). A pipe has no width: nothing is wrapped.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Cell: TypeAlias = str | Text
"""A text with one style for all of it, or none; nothing is wrapped at a no-break space, which is printed as a blank."""

NO_BREAK = "\u00a0"

_GAP = 2
_INDENT = 4
_NARROW = 20
"""A column that is wrapped to less than this is hard to read,"""

_BELOW = 40
"""and so is a sentence below it."""


@dataclass(frozen=True)
class Facts:
    """Names, and what they are: one row each, of which a value may have several lines."""

    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Row:
    """The cells of one row, and what stands below them."""

    cells: Sequence[Cell]
    below: Sequence[Cell] = ()


@dataclass(frozen=True)
class Columns:
    """Rows under ``names``, the most important ones first; numbers of the columns ``right`` stand to the right."""

    names: Sequence[str]
    rows: Sequence[Row]
    right: Sequence[str] = ()


Block: TypeAlias = Cell | Facts | Columns
Page: TypeAlias = Sequence[Block]
"""From top to bottom."""


def show(page: Page, console: Console | None = None) -> None:
    """Print a page, by default to standard output: as wide as the terminal, or as it is where there is none."""
    console = console or Console(markup=False, highlight=False, emoji=False)
    for line in _lines(page, console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True)  # rich neither wraps nor cuts it


def text(page: Page, width: int | None = None) -> str:
    """The page as a string, for a terminal of this width, or for none."""
    return "\n".join(line.plain for line in _lines(page, width))


def _lines(page: Page, width: int | None) -> Iterator[Text]:
    for block in page:
        if isinstance(block, Facts):
            yield from _facts(block, width)
        elif isinstance(block, Columns):
            yield from _columns(block, width)
        else:
            yield from _wrapped(block, width)


def _wrapped(cell: Cell, width: int | None, indent: int = 0) -> list[Text]:
    """The lines of a cell, each of which begins with ``indent`` blanks."""
    style = cell.style if isinstance(cell, Text) else ""
    lines: list[str] = []
    for line in (cell.plain if isinstance(cell, Text) else cell).split("\n"):
        room = None if width is None else max(1, width - indent)
        within = room is None or cell_len(line) <= room
        lines += [line] if within else textwrap.wrap(line, room or 1, break_long_words=False, break_on_hyphens=False)
    return [Text(" " * indent + line.replace(NO_BREAK, " "), style) for line in lines]


def _facts(facts: Facts, width: int | None, indent: int = 0) -> Iterator[Text]:
    """The values beside their names, or below them where a word of them does not fit there."""
    most = max((cell_len(name) for name, _ in facts.rows), default=0)
    start = indent + most + _GAP
    for name, value in facts.rows:
        beside = width is None or start + _longest_word(value) <= width
        lines = _wrapped(value, width, start if beside else indent + _INDENT)
        head = Text(f"{' ' * indent}{name}", "bold")
        if beside:
            first = lines[0]
            first.plain, style = first.plain[start:], first.style
            head = Text.assemble((f"{' ' * indent}{name:<{most + _GAP}}", "bold"), (first.plain, style))
            head.rstrip()
            lines = lines[1:]
        yield head
        yield from lines


def _columns(columns: Columns, width: int | None) -> Iterator[Text]:
    texts = [[_plain(cell) for cell in row.cells] for row in columns.rows]
    widths = [
        max(map(_widest, (name, *(row[i] for row in texts if i < len(row))))) for i, name in enumerate(columns.names)
    ]
    start = sum(widths[:-1]) + _GAP * (len(widths) - 1)
    if width is not None and start + widths[-1] > width:
        last = [row[-1] for row in texts if len(row) == len(widths)]
        if width - start < max([_NARROW, *map(_longest_word, last)]):
            yield from _blocks(columns, width)
            return
    head: list[Cell] = [Text(name, "bold") for name in columns.names]
    for row in [Row(head), *columns.rows]:
        yield from _beside(row, columns, widths, start, width)


def _beside(row: Row, columns: Columns, widths: list[int], start: int, width: int | None) -> Iterator[Text]:
    """One row, its cells beside each other; the last one is wrapped where it must be."""
    room = None if width is None else width - start
    cells = [_wrapped(cell, room if i == len(widths) - 1 else None) for i, cell in enumerate(row.cells)]
    for parts in zip_longest(*cells, fillvalue=Text("")):
        line = Text("")
        for i, part in enumerate(parts):
            blanks = " " * (widths[i] - cell_len(part.plain))
            right = columns.names[i] in columns.right
            line.append(blanks if right else "").append(part.plain, part.style)
            line.append("" if right else blanks).append(" " * _GAP)
        line.rstrip()
        yield line
    narrow = room is not None and room < max([_BELOW, *map(_longest_word, row.below)])
    for cell in row.below:
        yield from _wrapped(cell, width, _INDENT if narrow else start)


def _blocks(columns: Columns, width: int) -> Iterator[Text]:
    """A row after the other, the first cell over facts of the others."""
    for row in columns.rows:
        first, *others = row.cells
        yield from (Text(line.plain, line.style or "bold") for line in _wrapped(first, width))
        named = list(zip(columns.names[1:], others, strict=False))
        yield from _facts(Facts([(name, cell) for name, cell in named if _plain(cell)]), width, _GAP)
        for cell in row.below:
            yield from _wrapped(cell, width, _GAP)


def _plain(cell: Cell) -> str:
    return cell.plain if isinstance(cell, Text) else cell


def _widest(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _longest_word(cell: Cell) -> int:
    return max(map(cell_len, _plain(cell).replace("\n", " ").split(" ")), default=0)
