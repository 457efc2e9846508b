"""The atlas as html."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from udslab.places.survey import Survey

__all__ = ["atlas_html"]


def atlas_html(surveys: Sequence[Survey], day: datetime.date | None = None) -> str:
    """The page. ``day``: when the surveys were made; today unless given."""
    raise NotImplementedError
