"""The score card as one HTML page that needs nothing else: it loads nothing, and forbids itself to."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from udslab.audit.findings import Audit
from udslab.audit.verdicts import Verdict
from udslab.report.page import page
from udslab.report.scorecard.model import Scorecard

__all__ = ["scorecard_html"]

_SIGNS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.INFO: "i", Verdict.SKIP: "-"}


def scorecard_html(audits: Sequence[Audit], day: datetime.date | None = None) -> str:
    """The page. ``day``: when the audits were made; today unless given.

    Raises :class:`~udslab.errors.Unsupported` if jinja2 is not installed.
    """
    return page(
        "scorecard",
        card=Scorecard.of(audits),
        day=(day or datetime.date.today()).isoformat(),
        signs=_SIGNS,
        Verdict=Verdict,
    )
