"""The atlas as Markdown, as GitHub shows it: what differs, and what stands behind it; the rest as numbers."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

from udslab.atlas.runner import Verdict
from udslab.places.survey import Survey
from udslab.report.atlas.model import SEVERITY, Atlas, Result, Row, total
from udslab.report.text import code, escape

__all__ = ["atlas_markdown"]

_SIGNS = {
    Verdict.EXPECTED: "✓",
    Verdict.KNOWN: "**!**",
    Verdict.UNEXPECTED: "**✗**",
    Verdict.NOT_APPLICABLE: "-",
}


def atlas_markdown(surveys: Sequence[Survey], day: datetime.date | None = None) -> str:
    """A page for ``docs/``. ``day``: when the surveys were made; today unless given."""
    atlas = Atlas.of(surveys)
    lines = [*_head(atlas, day or datetime.date.today()), *_places(atlas), *_groups(atlas)]
    for name, title, rows in atlas.sections:
        if name != "same":
            lines += ["", f"## {title}", "", *_matrix(atlas, rows), *_details(atlas, rows)]
    return "\n".join(lines) + "\n"


def _head(atlas: Atlas, day: datetime.date) -> Iterator[str]:
    yield "# Unix socket atlas"
    yield ""
    signs = [f"{_SIGNS[verdict]} {verdict.value} ({atlas.counts[verdict]:,})" for verdict in SEVERITY]
    yield f"{day.isoformat()}: what AF\\_UNIX does, {len(atlas.rows)} behaviours. {', '.join(signs)}."


def _places(atlas: Atlas) -> Iterator[str]:
    yield ""
    yield "| | place | about | " + " | ".join(verdict.value for verdict in SEVERITY) + " |"
    yield "|-:|---|---" + "|-:" * len(SEVERITY) + "|"
    for number, place in enumerate(atlas.places, 1):
        about = escape(", ".join(key if value == "true" else f"{key} {value}" for key, value in place.about))
        counts = " | ".join(f"{place.counts[verdict]:,}" for verdict in SEVERITY)
        yield f"| {number} | {escape(place.label)} | {about} | {counts} |"


def _groups(atlas: Atlas) -> Iterator[str]:
    """How many cells of each group are as expected in each place, of those that could be measured."""
    yield ""
    yield "Cells that are as expected, of those that could be measured:"
    yield ""
    yield "| | group | " + " | ".join(str(number) for number in range(1, len(atlas.places) + 1)) + " |"
    yield "|---|---" + "|-:" * len(atlas.places) + "|"
    for group, about in atlas.groups.items():
        rows = [row for row in atlas.rows if row.group == group]
        shares = []
        for number in range(len(atlas.places)):
            counts = total(row.cells[number] for row in rows)
            measured = counts.total() - counts[Verdict.NOT_APPLICABLE]
            shares.append(f"{counts[Verdict.EXPECTED]}/{measured}" if measured else "")
        yield f"| {escape(group)} | {escape(about)} | {' | '.join(shares)} |"


def _matrix(atlas: Atlas, rows: Sequence[Row]) -> Iterator[str]:
    yield "| | behaviour | " + " | ".join(str(number) for number in range(1, len(atlas.places) + 1)) + " |"
    yield "|---|---" + "|:-:" * len(atlas.places) + "|"
    for row in rows:
        signs = " | ".join(_SIGNS[row.worst_of(cell)] if cell else "" for cell in row.cells)
        yield f"| [{escape(row.id)}](#{row.anchor.lower()}) | {escape(row.claim)} | {signs} |"


def _details(atlas: Atlas, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield ""
        yield f'<a id="{row.anchor.lower()}"></a>**{escape(row.id)}** {escape(row.claim)}'
        yield ""
        for result in row.results:
            if result.verdict in (Verdict.UNEXPECTED, Verdict.KNOWN) or result.verdict is row.worst:
                yield from _result(result, atlas)
        for name, fact in row.facts.items():
            yield f"- {name.capitalize()}: {escape(fact)}"


def _result(result: Result, atlas: Atlas) -> Iterator[str]:
    places = []
    for numbers, variants in result.where:
        # With one place, it goes without saying.
        named = ", ".join(escape(atlas.places[number].label) for number in numbers) if len(atlas.places) > 1 else ""
        places.append(": ".join(filter(None, (named, escape(", ".join(variants))))))
    told = [f"{name} {code(''.join(part.text for part in value))}" for name, value in result.told.items()]
    yield f"- {_SIGNS[result.verdict]} " + ": ".join(filter(None, ("; ".join(filter(None, places)), ", ".join(told))))
    if result.why:
        yield f"  - {escape(result.why)}"
