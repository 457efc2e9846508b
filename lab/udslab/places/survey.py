"""What was measured in one place: its cells, and their form as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from udslab.atlas.runner import Cell, Verdict

__all__ = ["SCHEMA", "Survey"]

SCHEMA = 1


@dataclass(frozen=True)
class Survey:
    """The cells of one place. ``place``: what :func:`udslab.atlas.runner.place` tells, and whatever whoever made the
    place knows besides (``runtime``, ``image``, ``volume``, ``user``, …)."""

    place: Mapping[str, Any]
    cells: tuple[Cell, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": SCHEMA, "place": dict(self.place), "cells": [cell.as_dict() for cell in self.cells]}

    @classmethod
    def from_dict(cls, survey: Mapping[str, Any]) -> Survey:
        """From what :meth:`as_dict` gave. Raises ValueError for another schema."""
        if survey.get("schema") != SCHEMA:
            raise ValueError(f"a survey of schema {SCHEMA} is wanted, not {survey.get('schema')!r}")
        cells = tuple(Cell(**{**cell, "verdict": Verdict(cell["verdict"])}) for cell in survey["cells"])
        return cls(dict(survey["place"]), cells)
