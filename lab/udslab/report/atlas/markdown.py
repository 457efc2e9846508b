"""The atlas as markdown."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from udslab.places.survey import Survey

__all__ = ["atlas_markdown"]


def atlas_markdown(surveys: Sequence[Survey], day: datetime.date | None = None) -> str:
    """The page. ``day``: when the surveys were made; today unless given."""
    raise NotImplementedError
