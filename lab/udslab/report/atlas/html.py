"""The atlas as one HTML page that needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from udslab.atlas.runner import Verdict
from udslab.places.survey import Survey
from udslab.report.atlas.model import SEVERITY, Atlas
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
        day=(day or datetime.date.today()).isoformat(),
        signs=_SIGNS,
        styles=_STYLES,
        verdicts=SEVERITY,
        Verdict=Verdict,
    )
