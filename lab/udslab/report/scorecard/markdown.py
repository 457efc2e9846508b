"""The score card as Markdown, as GitHub shows it: a matrix, and what fails and what warns below, with the evidence."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

from udslab.audit.findings import Audit
from udslab.audit.verdicts import VERDICTS, Verdict
from udslab.report.scorecard.model import Cell, Row, Scorecard
from udslab.report.text import code, escape

__all__ = ["scorecard_markdown"]

_SIGNS = {
    Verdict.PASS: "✓",
    Verdict.WARN: "**!**",
    Verdict.FAIL: "**✗**",
    Verdict.INFO: "i",
    Verdict.SKIP: "-",
    None: "",
}


_MOST = 200_000
"""Bytes up to which a page has the whole evidence. Seventy subjects have as many without that of their warnings; what
is longer than 512,000 GitHub shows as plain text."""


def scorecard_markdown(audits: Sequence[Audit], day: datetime.date | None = None, *, in_docs: bool = False) -> str:
    """A page for a repository. ``day``: when the audits were made; today unless given. ``in_docs``: it is to be
    ``scoreboard.md`` in this project's ``docs/``, beside ``audit.md`` and ``scoreboard.html``, and leads there.

    A page that gets too long has one line for each warning in place of its evidence, which is in the other forms."""
    card = Scorecard.of(audits)
    day = day or datetime.date.today()
    page = _page(card, day, in_docs, whole=True)
    return page if len(page.encode()) <= _MOST else _page(card, day, in_docs, whole=False)


def _page(card: Scorecard, day: datetime.date, in_docs: bool, whole: bool) -> str:
    lines = [*_head(card, day, in_docs), *_matrix(card, in_docs), *_evidence(card, in_docs, whole)]
    return "\n".join(lines) + "\n"


def _head(card: Scorecard, day: datetime.date, in_docs: bool) -> Iterator[str]:
    yield "# Score board"
    yield ""
    shared = [f"{key} {escape(card.shared(key))}" for key in ("kernel", "lab", "user") if card.shared(key)]
    explained = "[the audit](audit.md)" if in_docs else "`udslab audit --list`"
    yield f"{', '.join([day.isoformat(), *shared])}. What the probes do: {explained}."
    yield ""
    signs = [f"{_SIGNS[verdict]} {verdict.value} ({card.counts[verdict]})" for verdict in Verdict]
    yield f"{', '.join(signs)}; an empty cell was not asked. Each fail and each warning leads to what was seen."
    yield ""


def _matrix(card: Scorecard, in_docs: bool) -> Iterator[str]:
    yield "| subject | " + " | ".join(column.letter for column in card.columns) + " |"
    yield "|---" + "|:-:" * len(card.columns) + "|"
    for row in card.rows:
        cells = [
            f"[{_SIGNS[cell.verdict]}](#{cell.anchor})" if cell.troubling else _SIGNS[cell.verdict]
            for cell in row.cells
        ]
        name = f"[{escape(row.name)}](#{row.anchor})" + (" (not audited)" if row.why else "")
        yield "| " + " | ".join([name, *cells]) + " |"
    yield ""
    # Only the probes of this release are explained there.
    named = [
        f"[{each.probe}](audit.md#{each.probe})" if in_docs and each.probe in VERDICTS else escape(each.probe)
        for each in card.columns
    ]
    yield ", ".join(f"**{each.letter}** {name}" for each, name in zip(card.columns, named, strict=True))
    yield ""


def _evidence(card: Scorecard, in_docs: bool, whole: bool) -> Iterator[str]:
    yield "## Evidence"
    if not whole:
        form = "[the page as HTML](scoreboard.html)" if in_docs else "what `udslab audit --html` writes"
        yield ""
        yield f"All of it where something fails, the line that says most where something warns. The rest is in {form}."
    for row in card.rows:
        yield ""
        yield f'### <a id="{row.anchor}"></a>{escape(row.name)}'
        yield ""
        yield from _about(row, card)
        yield ""
        if row.why:
            yield f"Not audited: {escape(row.why)}"
        for cell in row.troubling:
            yield from _finding(cell, whole or cell.verdict is Verdict.FAIL)
        if not row.why and not row.troubling:
            yield "Nothing fails, nothing warns."


def _about(row: Row, card: Scorecard) -> Iterator[str]:
    told = [f"{key} {escape(row.about[key])}" for key in ("version", "user", "kernel", "lab") if key in row.about]
    told = [each for each in told if not card.shared(each.partition(" ")[0])] if len(card.rows) > 1 else told
    if "command" in row.about:
        told.append(code(row.about["command"]))
    if "note" in row.about:
        told.append(escape(row.about["note"]))
    yield ", ".join(told)


def _finding(cell: Cell, whole: bool) -> Iterator[str]:
    assert cell.verdict is not None
    what = f"{_SIGNS[cell.verdict]} **{escape(cell.probe)}: {escape(cell.outcome)}** ({cell.verdict.value})"
    yield f'- <a id="{cell.anchor}"></a>{what}'
    for line in (*cell.warnings, *cell.evidence) if whole else filter(None, [cell.telling]):
        yield f"  - {escape(line)}"
