"""The score card as one HTML page that needs nothing else: it loads nothing, and forbids itself to."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence

from udslab.audit.findings import Audit
from udslab.audit.verdicts import Verdict
from udslab.errors import Stage, Unsupported
from udslab.report.scorecard.model import Scorecard

__all__ = ["scorecard_html"]

_SIGNS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.INFO: "i", Verdict.SKIP: "-"}


def scorecard_html(audits: Sequence[Audit], day: datetime.date | None = None) -> str:
    """The page. ``day``: when the audits were made; today unless given.

    Raises :class:`~udslab.errors.Unsupported` if jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise Unsupported("jinja2 is not installed", "pip install 'pytest-udslab[report]'", Stage.REPORT) from error
    # Everything is escaped that is not from the templates themselves.
    loader = PackageLoader("udslab.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (loader.get_source(environment, f"scorecard.{kind}")[0] for kind in ("css", "js"))
    return environment.get_template("scorecard.html").render(
        card=Scorecard.of(audits),
        day=(day or datetime.date.today()).isoformat(),
        signs=_SIGNS,
        Verdict=Verdict,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(source: str) -> str:
    """By which a content security policy (CSP3) knows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
