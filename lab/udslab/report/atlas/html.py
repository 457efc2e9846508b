"""The atlas as one HTML page that needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from udslab.atlas.runner import Verdict
from udslab.places.survey import Survey
from udslab.report.atlas.model import SEVERITY, Atlas, Row
from udslab.report.page import page

__all__ = ["atlas_html"]

_SIGNS = {Verdict.EXPECTED: "✓", Verdict.KNOWN: "!", Verdict.UNEXPECTED: "✗", Verdict.NOT_APPLICABLE: "-"}
# In the style of all pages.
_STYLES = {
    Verdict.EXPECTED: "pass",
    Verdict.KNOWN: "warn",
    Verdict.UNEXPECTED: "fail",
    Verdict.NOT_APPLICABLE: "skip",
}


def atlas_html(surveys: Sequence[Survey], day: datetime.date | None = None) -> str:
    """The page. ``day``: when the surveys were made; today unless given.

    Raises :class:`~udslab.errors.Unsupported` if jinja2 is not installed.
    """
    atlas = Atlas.of(surveys)
    return page(
        "atlas",
        atlas=atlas,
        sections=_sections(atlas),
        day=(day or datetime.date.today()).isoformat(),
        signs=_SIGNS,
        styles=_STYLES,
        verdicts=SEVERITY,
        Verdict=Verdict,
    )


def _sections(atlas: Atlas) -> list[tuple[str, str, list[Row]]]:
    """What must be looked at first, and then the groups: a name, a title and the rows of each."""
    first = [
        ("unexpected", "Not as expected", atlas.having(Verdict.UNEXPECTED)),
        ("known", "Known divergences", atlas.having(Verdict.KNOWN)),
    ]
    rest = [row for row in atlas.rows if row.worst not in (Verdict.UNEXPECTED, Verdict.KNOWN)]
    groups = [("same", title, [row for row in rest if row.group == group]) for group, title in atlas.groups.items()]
    return [section for section in (*first, *groups) if section[2]]
