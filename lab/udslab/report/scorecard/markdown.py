"""The score card as Markdown, as GitHub shows it: a matrix, and the evidence of each fail and warning below."""

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


def scorecard_markdown(audits: Sequence[Audit], day: datetime.date | None = None) -> str:
    """A page for ``docs/``, beside ``audit.md``. ``day``: when the audits were made; today unless given."""
    card = Scorecard.of(audits)
    return "\n".join([*_head(card, day or datetime.date.today()), *_matrix(card), *_details(card)]) + "\n"


def _head(card: Scorecard, day: datetime.date) -> Iterator[str]:
    yield "# Score board"
    yield ""
    shared = [f"{key} {escape(card.shared(key))}" for key in ("kernel", "lab", "user") if card.shared(key)]
    yield f"{', '.join([day.isoformat(), *shared])}. What the probes do: [the audit](audit.md)."
    yield ""
    signs = [f"{_SIGNS[verdict]} {verdict.value} ({card.counts[verdict]})" for verdict in Verdict]
    yield f"{', '.join(signs)}; an empty cell was not asked. Each fail and each warning leads to its evidence."
    yield ""


def _matrix(card: Scorecard) -> Iterator[str]:
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
        f"[{each.probe}](audit.md#{each.probe})" if each.probe in VERDICTS else escape(each.probe)
        for each in card.columns
    ]
    yield ", ".join(f"**{each.letter}** {name}" for each, name in zip(card.columns, named, strict=True))
    yield ""


def _details(card: Scorecard) -> Iterator[str]:
    yield "## Evidence"
    for row in card.rows:
        yield ""
        yield f'### <a id="{row.anchor}"></a>{escape(row.name)}'
        yield ""
        yield from _about(row, card)
        yield ""
        if row.why:
            yield f"Not audited: {escape(row.why)}"
        for cell in row.troubling:
            yield from _finding(cell)
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


def _finding(cell: Cell) -> Iterator[str]:
    assert cell.verdict is not None
    what = f"{_SIGNS[cell.verdict]} **{escape(cell.probe)}: {escape(cell.outcome)}** ({cell.verdict.value})"
    yield f'- <a id="{cell.anchor}"></a>{what}'
    for line in (*cell.warnings, *cell.evidence):
        yield f"  - {escape(line)}"
