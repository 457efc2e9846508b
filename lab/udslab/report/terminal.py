"""Tables and lines on a terminal: by rich where there is a terminal and rich, otherwise plain text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

__all__ = ["print_cells", "print_table"]

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
"""The colour of a word, where there is one."""


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """Print rows under headings, if there are any. No cell is cut: a plain row may be wider than the terminal."""
    out = out or sys.stdout
    if not _rich_table(headings, rows, out):
        print_cells([headings, *rows] if headings else rows, out)


def print_cells(rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """Print rows in columns, the last of which is as long as it is."""
    out = out or sys.stdout
    columns = list(zip(*rows))  # noqa: B905 - all rows have the same length
    widths = [max(map(len, column)) for column in columns]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip(), file=out)  # noqa: B905


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> bool:
    """Whether it could be done with rich."""
    if not out.isatty():
        return False
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(*headings, box=None, pad_edge=False, show_header=bool(headings))
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(file=out).print(table)
    return True
