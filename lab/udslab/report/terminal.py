"""Tables and lines on a terminal: by rich where there is a terminal and rich, otherwise plain text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

__all__ = ["print_table", "printer"]

_STYLES = {
    "listening": "green",
    "bound": "cyan",
    "stale": "red",
    "not-a-socket": "yellow",
    "dangling-link": "yellow",
    "unreachable": "yellow",
    "unknown": "yellow",
    "absent": "dim",
    "ok": "bold green",
    "FAILED": "bold red",
    "server": "cyan",
    "client": "magenta",
    "disk": "yellow",
}
"""The colour of a cell that begins with this word."""


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """Print rows in columns, under headings if there are any.

    Nothing is cut or folded, so that a path can be copied from the screen: put the longest column last. What is last in
    its row makes its column no wider.
    """
    print_line = printer(out or sys.stdout, _STYLES)
    for number, cells in enumerate(_in_columns([headings, *rows] if headings else rows)):
        print_line(cells, "bold" if headings and number == 0 else "")


def _in_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of each line, up to the last that is not empty; all but that one padded to the width of the column."""
    filled = [list(row[: max((number for number, cell in enumerate(row, 1) if cell), default=1)]) for row in rows]
    widths = [0] * max(map(len, filled), default=0)
    for row in filled:
        for number, cell in enumerate(row[:-1]):
            widths[number] = max(widths[number], len(cell) + 2)
    return [[cell.ljust(width) for cell, width in zip(row[:-1], widths)] + row[-1:] for row in filled]  # noqa: B905


def printer(out: TextIO, styles: Mapping[str, str]) -> Callable[[Sequence[str], str], None]:
    """What prints the cells of a line, in a style as a whole and in the colour of each cell's first word."""
    try:
        if out.isatty():
            from rich.console import Console
            from rich.text import Text

            console = Console(file=out, soft_wrap=True)
            return lambda cells, style: console.print(
                Text.assemble(*((cell, styles.get(cell.split(" ")[0], "")) for cell in cells), style=style)
            )
    except ImportError:
        pass
    return lambda cells, style: print("".join(cells), file=out)
