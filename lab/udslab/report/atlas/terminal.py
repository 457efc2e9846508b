"""A survey on a terminal of 80 columns."""

from __future__ import annotations

from typing import TextIO

from udslab.places.survey import Survey

__all__ = ["print_survey"]


def print_survey(survey: Survey, out: TextIO | None = None) -> None:
    """Print how many there are of each verdict, and what is not as expected."""
    raise NotImplementedError
