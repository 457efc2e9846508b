"""What is in an atlas: a row for each claim of a behaviour, a column for each place.

What a survey says is foreign text: it is made printable here, once, for all that show it.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from udslab.atlas.behaviour import Behaviour
from udslab.atlas.catalogue import GROUPS, load
from udslab.atlas.runner import Cell, Verdict
from udslab.atlas.two_sided import TWO_SIDED, TwoSided, row_of
from udslab.places.survey import Survey
from udslab.report.text import clean

__all__ = ["SEVERITY", "Atlas", "Part", "Place", "Result", "Row", "label", "parts", "total"]

SEVERITY = (Verdict.UNEXPECTED, Verdict.KNOWN, Verdict.EXPECTED, Verdict.NOT_APPLICABLE)
"""From what must be looked at to what need not."""
_NAMED = ("distro", "image", "runtime", "user", "volume", "shares")
"""What a place is called by; anything else only where that does not tell places apart."""


@dataclass(frozen=True)
class Part:
    """A piece of a value, and whether it is one that differs from what it is compared with."""

    text: str
    differs: bool = False


def parts(value: Any, other: Any) -> tuple[Part, ...]:
    """A value as JSON, in pieces: of a mapping that is compared with a mapping, its items."""
    if not (isinstance(value, Mapping) and isinstance(other, Mapping)):
        return (Part(_json(value)),)
    items = [
        Part(f"{_json(key)}: {_json(each)}", key not in other or _json(other[key]) != _json(each))
        for key, each in value.items()
    ]
    between = [Part(", ")] * len(items)
    return (Part("{"), *[each for pair in zip(items, between, strict=True) for each in pair][:-1], Part("}"))


def _json(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False))


@dataclass(frozen=True)
class Result:
    """What was seen alike, in variants and places."""

    verdict: Verdict
    expected: tuple[Part, ...]
    seen: tuple[Part, ...]
    why: str
    where: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...]
    """Places, by number, and the variants there; none, if it was so in all of them."""

    @property
    def places(self) -> list[int]:
        """The numbers of the places."""
        return [number for numbers, _ in self.where for number in numbers]

    @property
    def told(self) -> dict[str, tuple[Part, ...]]:
        """What was expected, unless that is what was seen, and what was seen."""
        return (
            {"seen": self.seen} if self.verdict is Verdict.EXPECTED else {"expected": self.expected, "seen": self.seen}
        )


@dataclass(frozen=True)
class Row:
    """What a behaviour claims in one place, or between two. ``cells``: for each place how many variants have each
    verdict; None where it was not asked."""

    id: str
    anchor: str
    """A name for links."""
    claim: str
    notes: str
    facts: Mapping[str, str]
    """Of which kernels it is, what it needs, and where it is said, as far as these are known."""
    between: bool
    """Whether it is between two places."""
    cells: tuple[Counter[Verdict] | None, ...]
    results: tuple[Result, ...]
    differs: bool
    """Whether a variant was seen otherwise in one place than in another, and both as expected."""

    @property
    def group(self) -> str:
        """The letters of its id."""
        return self.id.partition("-")[0]

    def variants(self, place: int) -> int:
        """How many of its cells were measured in a place."""
        return (self.cells[place] or Counter()).total()

    @property
    def verdicts(self) -> set[Verdict]:
        """Those that it has anywhere."""
        return {verdict for cell in self.cells if cell for verdict in cell}

    @property
    def worst(self) -> Verdict:
        """The verdict that must be looked at first."""
        return self.worst_of(self.verdicts)

    @staticmethod
    def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
        """Of some verdicts that which must be looked at first."""
        return min(verdicts, key=SEVERITY.index, default=Verdict.NOT_APPLICABLE)


def total(counters: Iterable[Counter[Verdict] | None]) -> Counter[Verdict]:
    """The sum of those that are there."""
    return sum(filter(None, counters), Counter())


@dataclass(frozen=True)
class Place:
    """A place: what it is called, all that is known of it, and how many of its cells have each verdict."""

    label: str
    about: tuple[tuple[str, str], ...]
    counts: Counter[Verdict] = field(default_factory=Counter)


@dataclass(frozen=True)
class Atlas:
    """Behaviours by places."""

    places: tuple[Place, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, surveys: Sequence[Survey]) -> Atlas:
        """The atlas of these surveys, in their order; the behaviours in that of the catalogue, what they claim between
        two places behind what they claim in one."""
        found: dict[tuple[str, str], list[list[Cell]]] = {}
        for number, survey in enumerate(surveys):
            for cell in survey.cells:
                found.setdefault((cell.id, cell.claim), [[] for _ in surveys])[number].append(cell)
        groups = list(GROUPS)
        ids = [each.id for each in load()]
        claims = list(dict.fromkeys(each.claim for each in TWO_SIDED.values()))
        order = sorted(
            found,
            key=lambda key: (
                _place_in(groups, key[0].partition("-")[0]),
                _place_in(ids, key[0]),
                claims.index(key[1]) + 1 if key[1] in claims else 0,
            ),
        )
        rows = []
        anchors: Counter[str] = Counter()
        for id, claim in order:
            name = id if id in ids else "row"
            anchors[name] += 1
            rows.append(_row(name if anchors[name] == 1 else f"{name}-{anchors[name]}", found[id, claim]))
        places = tuple(
            Place(
                name,
                tuple((clean(key), clean(value)) for key, value in survey.place.items()),
                Counter(cell.verdict for cell in survey.cells),
            )
            for name, survey in zip(_labels([survey.place for survey in surveys]), surveys, strict=True)
        )
        return cls(places, tuple(rows))

    @property
    def counts(self) -> Counter[Verdict]:
        """How many cells have each verdict."""
        return sum((place.counts for place in self.places), Counter())

    def having(self, verdict: Verdict) -> list[Row]:
        """The rows whose worst verdict is this one."""
        return [row for row in self.rows if row.worst is verdict]

    @property
    def sections(self) -> list[tuple[str, str, list[Row]]]:
        """What must be looked at first, and then the groups: a name, a title and the rows of each."""
        fine = [row for row in self.rows if row.worst not in (Verdict.UNEXPECTED, Verdict.KNOWN)]
        first = [
            ("unexpected", "Not as expected", self.having(Verdict.UNEXPECTED)),
            ("known", "Known divergences", self.having(Verdict.KNOWN)),
            ("differs", "As expected, but not the same in all places", [row for row in fine if row.differs]),
        ]
        same = [row for row in fine if not row.differs]
        groups = [("same", title, [row for row in same if row.group == group]) for group, title in self.groups.items()]
        return [section for section in (*first, *groups) if section[2]]

    @property
    def groups(self) -> dict[str, str]:
        """The groups that any row is of, and what they are about."""
        groups = dict.fromkeys(row.group for row in self.rows)
        return {group: GROUPS[group].title if group in GROUPS else group for group in groups}


def _place_in(words: Sequence[str], word: str) -> int:
    return words.index(word) if word in words else len(words)


def label(place: Mapping[str, Any], besides: Sequence[str] = ()) -> str:
    """What a place is called, in a few words."""
    words = [clean(place[key]) for key in _NAMED if place.get(key)]
    words += ["gVisor"] if place.get("gvisor") is True else []
    words += [f"{key} {clean(place[key])}" for key in besides if key in place]
    return " ".join(words) or "a place"


def _labels(places: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells them apart, as briefly as that can be done."""
    besides: list[str] = []
    for key in dict.fromkeys(["uid", "kernel", "python", *(key for place in places for key in place)]):
        if len({label(place, besides) for place in places}) == len(places):
            break
        if key not in _NAMED and len({_json(place.get(key)) for place in places}) > 1:
            besides.append(key)
    labels = [label(place, besides) for place in places]
    return [
        f"{name} ({labels[: number + 1].count(name)})" if labels.count(name) > 1 else name
        for number, name in enumerate(labels)
    ]


def _row(anchor: str, cells: Sequence[Sequence[Cell]]) -> Row:
    one = next(cell for place in cells for cell in place)
    known = row_of(one.id, one.variant)
    found: dict[tuple[str, ...], tuple[Cell, dict[int, list[str]]]] = {}
    for column, place in enumerate(cells):
        for cell in place:
            wanted = "" if cell.verdict is Verdict.EXPECTED else _json(cell.expected)
            key = (cell.verdict.value, wanted, _json(cell.seen), cell.why)
            found.setdefault(key, (cell, {}))[1].setdefault(column, []).append(clean(cell.variant))
    results = [_result(cell, where, cells) for cell, where in found.values()]
    return Row(
        clean(one.id),
        anchor,
        clean(one.claim),
        known.notes if known else "",
        _facts(known) if known else {},
        isinstance(known, TwoSided),
        tuple(Counter(cell.verdict for cell in place) if place else None for place in cells),
        tuple(sorted(results, key=lambda result: SEVERITY.index(result.verdict))),
        _differ(cells),
    )


def _facts(known: Behaviour | TwoSided) -> dict[str, str]:
    kernels = [f"Linux {_dotted(known.since)} or newer"] if known.since else []
    needs: list[str] = []
    if isinstance(known, Behaviour):
        kernels += [f"changed in {', '.join(map(_dotted, known.changes))}"] if known.changes else []
        needs = sorted(map(str, known.needs))
    facts = {"kernel": "; ".join(kernels), "needs": ", ".join(needs), "source": known.source}
    return {name: fact for name, fact in facts.items() if fact}


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _differ(cells: Sequence[Sequence[Cell]]) -> bool:
    """Whether a variant was seen as expected in several places, and not in the same way."""
    seen: dict[str, set[str]] = {}
    for cell in itertools.chain(*cells):
        if cell.verdict is Verdict.EXPECTED:
            seen.setdefault(cell.variant, set()).add(json.dumps(cell.seen, sort_keys=True))
    return any(len(values) > 1 for values in seen.values())


def _result(cell: Cell, where: Mapping[int, Sequence[str]], cells: Sequence[Sequence[Cell]]) -> Result:
    alike: dict[tuple[str, ...], list[int]] = {}
    for column, variants in where.items():
        alike.setdefault(() if len(variants) == len(cells[column]) else tuple(sorted(variants)), []).append(column)
    same = cell.verdict is Verdict.EXPECTED
    return Result(
        cell.verdict,
        parts(cell.expected, None if same else cell.seen),
        parts(cell.seen, None if same else cell.expected),
        clean(cell.why),
        tuple((tuple(columns), variants) for variants, columns in alike.items()),
    )
