"""Known divergences: where a place does otherwise than Linux, and why, as data (known.toml).

Each is a table ``[[divergence]]``: ``place``, a glob for each key of a survey's place that it looks at; ``ids``, and
``variants`` if not all of them, as globs; ``seen``, globs of what is seen as compact JSON, without which all is known
but a measurement that itself has failed; ``reason``, what is done there instead, in a line; ``issue``, where its makers
speak of it, if they do.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from udslab.atlas.runner import Cell, Verdict
from udslab.errors import ServiceError
from udslab.places.survey import Survey

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]  # pytest brings it

__all__ = ["KNOWN", "Divergence", "judge", "known", "load", "stale"]

KNOWN = os.path.join(os.path.dirname(__file__), "known.toml")


@dataclass(frozen=True)
class Divergence:
    """Behaviours that are not as expected in some places, and why."""

    place: Mapping[str, str | bool]
    ids: tuple[str, ...]
    reason: str
    issue: str = ""
    variants: tuple[str, ...] = ("*",)
    seen: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Any) -> Divergence:
        """From a table of a TOML file. Raises ValueError for what is no such table."""
        names = [field.name for field in fields(cls)]
        if not isinstance(table, Mapping) or not table.keys() <= set(names):
            raise ValueError(f"a divergence has the keys {', '.join(names)}")
        for name, kind in (("place", dict), ("ids", list), ("reason", str)):
            if not isinstance(table.get(name), kind) or not table[name]:
                raise ValueError(f"a divergence needs {name}")
        if not all(isinstance(value, (str, bool)) for value in table["place"].values()):
            raise ValueError("a divergence's place has texts and truths")
        if not isinstance(table.get("issue", ""), str):
            raise ValueError("a divergence's issue is a text")
        lists = {name: table[name] for name in ("ids", "variants", "seen") if name in table}
        for name, value in lists.items():
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ValueError(f"a divergence's {name}: a list of texts")
        return cls(**{**table, **{name: tuple(value) for name, value in lists.items()}})

    @property
    def why(self) -> str:
        """The reason, and the issue if there is one."""
        return f"{self.reason} ({self.issue})" if self.issue else self.reason

    def is_of(self, place: Mapping[str, Any]) -> bool:
        """Whether it is about such a place."""
        return all(key in place and _fits(place[key], wanted) for key, wanted in self.place.items())

    @property
    def is_of_pairs(self) -> bool:
        """Whether it is between two places."""
        return self.place.get("pair") is True

    def is_about(self, id: str) -> bool:
        """Whether it is about that behaviour."""
        return any(fnmatchcase(id, glob) for glob in self.ids)

    def holds(self, cell: Cell) -> bool:
        """Whether it is about that cell, in its places."""
        return self.is_about(cell.id) and any(fnmatchcase(cell.variant, glob) for glob in self.variants)

    def explains(self, cell: Cell) -> bool:
        """Whether it is about that cell, and what was seen there. A measurement that has failed, which has a why, is
        what it must name."""
        if not self.seen:
            return self.holds(cell) and not cell.why
        seen = json.dumps(cell.seen, separators=(",", ":"))
        return self.holds(cell) and any(fnmatchcase(seen, glob) for glob in self.seen)


def _fits(value: Any, wanted: str | bool) -> bool:
    return value is wanted if isinstance(wanted, bool) else fnmatchcase(str(value), str(wanted))


def load(path: str | os.PathLike[str]) -> tuple[Divergence, ...]:
    """The divergences of a TOML file. Raises OSError; ServiceError for what is no such file."""
    with open(path, "rb") as file:
        try:
            return tuple(map(Divergence.from_table, tomllib.load(file).get("divergence", [])))
        except (ValueError, TypeError, AttributeError) as error:
            hint = "it is to be a TOML file of [[divergence]] tables, each with place, ids and reason"
            raise ServiceError(f"{os.fspath(path)}: {error}", hint) from error


@functools.cache
def known() -> tuple[Divergence, ...]:
    """Those that come with the lab."""
    return load(KNOWN)


def judge(survey: Survey, divergences: Sequence[Divergence] | None = None) -> Survey:
    """The survey, in which what is unexpected, and known to be so there, is known, with why. With those that come with
    the lab unless others are given."""
    here = _of(survey, divergences)
    return replace(survey, cells=tuple(_judged(cell, here) for cell in survey.cells))


def _of(survey: Survey, divergences: Sequence[Divergence] | None) -> list[Divergence]:
    return [each for each in (known() if divergences is None else divergences) if each.is_of(survey.place)]


def _judged(cell: Cell, here: Iterable[Divergence]) -> Cell:
    if cell.verdict is not Verdict.UNEXPECTED:
        return cell
    for each in here:
        if each.explains(cell):
            return replace(cell, verdict=Verdict.KNOWN, why="; ".join(filter(None, (each.why, cell.why))))
    return cell


def stale(survey: Survey, divergences: Sequence[Divergence] | None = None) -> Iterator[tuple[str, str]]:
    """Known divergences that are none any more: the glob of ids, and the reason, of those that were measured and have
    only been as expected."""
    for each in _of(survey, divergences):
        for id in each.ids:
            one = replace(each, ids=(id,))
            verdicts = {cell.verdict for cell in survey.cells if one.holds(cell)} - {Verdict.NOT_APPLICABLE}
            if verdicts == {Verdict.EXPECTED}:
                yield id, each.reason
