"""The score card on a terminal of 80 columns: a list for one subject, a matrix for several."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TextIO

from udslab.audit.findings import Audit
from udslab.audit.verdicts import Verdict
from udslab.report.scorecard.model import Cell, Row, Scorecard
from udslab.report.terminal import printer
from udslab.report.text import cut, folded

__all__ = ["print_scorecard"]

# One character of ASCII each: they tell themselves apart without colour, in any encoding and any typeface.
_SIGNS = {Verdict.PASS: ".", Verdict.WARN: "!", Verdict.FAIL: "X", Verdict.INFO: "i", Verdict.SKIP: "-", None: " "}
_COLOURS = {
    Verdict.PASS: "green",
    Verdict.WARN: "bold yellow",
    Verdict.FAIL: "bold red",
    Verdict.INFO: "cyan",
    Verdict.SKIP: "dim",
}
_STYLES = {word: style for verdict, style in _COLOURS.items() for word in (verdict.value, _SIGNS[verdict])}

_NAME = 26
_BLOCK = 5
"""How many columns of the matrix stand together, so that the eye keeps to them."""


def print_scorecard(audits: Sequence[Audit], out: TextIO | None = None) -> None:
    """Print what was found: of one subject each probe, of several a matrix. No line is longer than 80 characters."""
    out = out or sys.stdout
    print_line = printer(out, _STYLES)
    card = Scorecard.of(audits)
    if len(card.rows) == 1:
        _print_list(card.rows[0], print_line)
    else:
        # A probe's letter may be a verdict's sign, too.
        _print_matrix(card, print_line, print_letters=printer(out, {}))


Print = Callable[[Sequence[str], str], None]


def _print_list(row: Row, print_line: Print) -> None:
    for line in folded(f"{row.name}  {row.about.get('version', '')}".rstrip()):
        print_line([line], "bold")
    if "command" in row.about:
        _print_folded(row.about["command"], print_line)
    told = [f"{key} {row.about[key]}" for key in ("user", "kernel", "lab") if key in row.about]
    if told:
        _print_folded(", ".join(told), print_line)
    if "note" in row.about:
        _print_folded(row.about["note"], print_line)
    if row.why:
        _print_folded(f"not audited: {row.why}", print_line)
        return
    print_line([], "")
    for cell in row.cells:
        _print_cell(cell, print_line)
    print_line([], "")
    print_line(_counted(row.counts), "")


def _print_cell(cell: Cell, print_line: Print) -> None:
    verdict = cell.verdict.value if cell.verdict else "not asked"
    line = [_SIGNS[cell.verdict], " ", cut(cell.probe, 26).ljust(28), cut(cell.outcome, 30).ljust(32), verdict]
    print_line(line, "")
    if cell.troubling or cell.why:
        _print_folded(cell.telling, print_line, indent=6)


def _print_matrix(card: Scorecard, print_line: Print, print_letters: Print) -> None:
    letters = _blocks([column.letter for column in card.columns])
    print_letters([" " * _NAME, *letters, "  fail warn"], "bold")
    for row in card.rows:
        name = cut(row.name, _NAME - 2).ljust(_NAME)
        if row.why:
            print_line([name, "not audited: see below"], "")
            continue
        counts = "".join(f"{row.counts[verdict] or '':>5}" for verdict in (Verdict.FAIL, Verdict.WARN))
        print_line([name, *_blocks([_SIGNS[cell.verdict] for cell in row.cells]), f" {counts}".rstrip()], "")
    print_line([], "")
    legend = [f"{column.letter} {cut(column.probe, 23)}" for column in card.columns]
    height = -(-len(legend) // 3)
    for number in range(height):
        print_letters(["".join(entry.ljust(27) for entry in legend[number::height]).rstrip()], "")
    print_line([], "")
    unaudited = [row for row in card.rows if row.why]
    for row in unaudited:
        _print_folded(f"{cut(row.name, _NAME - 2)}: not audited: {row.why}", print_line, first="")
    if unaudited:
        print_line([], "")
    print_line([f"{len(card.rows)} subjects"], "")
    print_line(_counted(card.counts), "")


def _blocks(signs: Sequence[str]) -> list[str]:
    """The signs, with a space after each block of them."""
    return [
        cell
        for number, sign in enumerate(signs)
        for cell in ([" ", sign] if number % _BLOCK == 0 and number else [sign])
    ]


def _counted(counts: Counter[Verdict]) -> list[str]:
    """How many findings there are, and of each verdict, with its sign: a legend as well."""
    cells = [f"{counts.total()} findings:"]
    for verdict in (Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.INFO, Verdict.SKIP):
        cells += ["  ", _SIGNS[verdict], f" {counts[verdict]} ", verdict.value]
    return cells


def _print_folded(text: str, print_line: Print, indent: int = 2, first: str | None = None) -> None:
    for line in folded(text, " " * indent, first):
        print_line([line], "")
