"""What was measured in one place: its cells, their form as JSON, and as the lines of a runner."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from udslab.atlas.runner import Cell, Verdict
from udslab.errors import ServiceError

__all__ = ["SCHEMA", "Reading", "Survey", "load"]

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
        """From what :meth:`as_dict` gave. Raises ValueError for another schema, and for what is no survey."""
        if not isinstance(survey, Mapping) or survey.get("schema") != SCHEMA:
            raise ValueError(f"no survey of schema {SCHEMA}")
        try:
            return cls(dict(survey["place"]), tuple(map(_cell, survey["cells"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"a survey that lacks something: {error}") from error


def _cell(told: Mapping[str, Any]) -> Cell:
    cell = Cell(**{**told, "verdict": Verdict(told["verdict"])})
    for name in ("id", "variant", "claim", "why"):
        if not isinstance(getattr(cell, name), str):
            raise ValueError(f"a cell's {name} is to be a text")
    return cell


class Reading:
    """The JSON lines of a runner (``python3 -m udslab.atlas``), as they come. Iterating gives the cells.

    Raises ValueError for what is no such line, also at the beginning; so where there is no line at all."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        head = json.loads(next(self._lines, b"") or b"null")
        if not isinstance(head, dict) or "place" not in head:
            raise ValueError("it does not begin with the place")
        self.place: dict[str, Any] = head["place"]
        self.cells: list[Cell] = []
        """Those that have come."""

    def __iter__(self) -> Iterator[Cell]:
        for line in self._lines:
            try:
                cell = _cell(json.loads(line))
            except (KeyError, TypeError) as error:
                raise ValueError(f"it says {line[:100]!r}") from error
            self.cells.append(cell)
            yield cell

    @property
    def survey(self) -> Survey:
        """What has come."""
        return Survey(self.place, tuple(self.cells))


def load(path: str | os.PathLike[str]) -> list[Survey]:
    """The surveys of a JSON file: one, or a list. Raises OSError; ServiceError for what is no such file."""
    with open(path, encoding="utf-8") as file:
        try:
            whole = json.load(file)
            return [Survey.from_dict(one) for one in (whole if isinstance(whole, list) else [whole])]
        except ValueError as error:
            hint = "it is to be what udslab atlas --json writes"
            raise ServiceError(f"{os.fspath(path)}: {error}", hint) from error
