"""A survey on a terminal of 80 columns."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TextIO

from udslab.atlas.runner import Verdict
from udslab.places.survey import Survey
from udslab.report.atlas.model import SEVERITY, Atlas, Part, Result, Row, label, total
from udslab.report.terminal import printer
from udslab.report.text import WIDTH, clean, cut, folded

__all__ = ["print_behaviour", "print_survey"]

SIGNS = {Verdict.EXPECTED: ".", Verdict.KNOWN: "!", Verdict.UNEXPECTED: "X", Verdict.NOT_APPLICABLE: "-"}
_COLOURS = {
    Verdict.EXPECTED: "green",
    Verdict.KNOWN: "bold yellow",
    Verdict.UNEXPECTED: "bold red",
    Verdict.NOT_APPLICABLE: "dim",
}
_STYLES = {word: style for verdict, style in _COLOURS.items() for word in (verdict.value, SIGNS[verdict])}
_TITLE = 38

Print = Callable[[Sequence[str], str], None]


def print_survey(survey: Survey, out: TextIO | None = None) -> None:
    """Print what is in each group; what is not as expected, with expected, seen and source; what is known to be so, and
    what could not be measured, in short. No line is longer than 80 characters, but for a source."""
    print_line = printer(out or sys.stdout, _STYLES)
    atlas = Atlas.of([survey])
    print_line([cut(label(survey.place), WIDTH)], "bold")
    told = [key if value == "true" else f"{key} {value}" for key, value in atlas.places[0].about if key != "distro"]
    _print_all(folded(", ".join(told), "  "), print_line)
    print_line([], "")
    _print_groups(atlas, print_line)
    for row in atlas.having(Verdict.UNEXPECTED):
        print_line([], "")
        _print_row(row, print_line, (Verdict.UNEXPECTED,))
    _print_known(atlas, print_line)
    _print_reasons(survey, print_line)
    print_line([], "")
    print_line([f"{len(atlas.rows)} behaviours, {atlas.counts.total():,} cells"], "")
    print_line(_counted(atlas.counts), "")


def _print_groups(atlas: Atlas, print_line: Print) -> None:
    heads = "".join(f"{verdict.value:>11}" for verdict in (Verdict.EXPECTED, Verdict.KNOWN, Verdict.UNEXPECTED))
    print_line([" " * _TITLE, heads, f"{Verdict.NOT_APPLICABLE.value:>6}"], "bold")
    for group, about in atlas.groups.items():
        counts = total(cell for row in atlas.rows if row.group == group for cell in row.cells)
        numbers = [
            f"{counts[verdict] or '.':>{width}}"
            for verdict, width in zip(
                (Verdict.EXPECTED, Verdict.KNOWN, Verdict.UNEXPECTED, Verdict.NOT_APPLICABLE),
                (11, 11, 11, 6),
                strict=True,
            )
        ]
        print_line([f"{cut(clean(group), 5)}  {cut(clean(about), _TITLE - 6)}".ljust(_TITLE), *numbers], "")


def print_behaviour(row: Row, places: Sequence[str], out: TextIO | None = None) -> None:
    """Print one behaviour: its claim, notes, kernels, needs and source, and what each place said."""
    print_line = printer(out or sys.stdout, _STYLES)
    _print_row(row, print_line, SEVERITY, places)


def _print_row(row: Row, print_line: Print, verdicts: Sequence[Verdict], places: Sequence[str] | None = None) -> None:
    sign = f"{SIGNS[row.worst]} " if places is None else ""
    head = f"{sign}{cut(row.id, 20)}  "
    first, *others = folded(row.claim, " " * len(head), head)
    print_line([sign, first[len(sign) :]], "bold")
    _print_all(others, print_line, "bold")
    if places is not None and row.notes:
        _print_all(folded(row.notes, "  "), print_line)
    for result in row.results:
        if result.verdict in verdicts:
            _print_result(result, row, print_line, places)
    for name, fact in row.facts.items():
        _print_all(folded(fact, " " * 12, f"  {name:10}"), print_line)


def _print_result(result: Result, row: Row, print_line: Print, places: Sequence[str] | None) -> None:
    if places is not None:
        print_line(["  ", result.verdict.value, " in"], "")
    for numbers, variants in result.where:
        told = f"{len(variants)} of {row.variants(numbers[0])}: {', '.join(variants)}" if variants else ""
        if places is not None:
            named = ", ".join(clean(places[number]) for number in numbers)
            _print_all(folded(": ".join(filter(None, (named, told))), "    "), print_line)
        elif told:
            _print_all(folded(told, " " * 12, "  in        "), print_line)
    if result.verdict is not Verdict.NOT_APPLICABLE:
        for name, told in zip(result.told, _told(list(result.told.values())), strict=True):
            _print_all(folded(told, " " * 12, f"  {name:10}"), print_line)
    if result.why:
        _print_all(folded(result.why, " " * 12, "  why       "), print_line)


def _told(values: Sequence[Sequence[Part]]) -> list[str]:
    """All of the values if each is a line, otherwise what differs, if it is known what does."""
    whole = ["".join(part.text for part in value) for value in values]
    if max(map(len, whole)) <= WIDTH - 12 or not any(part.differs for value in values for part in value):
        return whole
    return [", ".join([part.text for part in value if part.differs] + ["..."]) for value in values]


def _print_known(atlas: Atlas, print_line: Print) -> None:
    reasons: dict[str, list[str]] = {}
    for row in atlas.rows:
        for why in dict.fromkeys(result.why for result in row.results if result.verdict is Verdict.KNOWN):
            reasons.setdefault(why, []).append(row.id)
    if reasons:
        print_line([], "")
        print_line(["known not to be as expected here"], "bold")
    for why, ids in reasons.items():
        _print_all(folded(f"{', '.join(ids)}: {why}", "    ", "  "), print_line)


def _print_reasons(survey: Survey, print_line: Print) -> None:
    reasons = Counter(clean(cell.why) for cell in survey.cells if cell.verdict is Verdict.NOT_APPLICABLE)
    if reasons:
        print_line([], "")
        print_line(["not applicable here"], "bold")
    for why, number in reasons.most_common():
        _print_all(folded(why, " " * 8, f"{number:6}  "), print_line)


def _counted(counts: Counter[Verdict]) -> list[str]:
    """How many cells there are of each verdict, with its sign: a legend as well."""
    return [word for verdict in SEVERITY for word in (SIGNS[verdict], f" {counts[verdict]:,} ", verdict.value, "  ")][
        :-1
    ]


def _print_all(lines: Sequence[str], print_line: Print, style: str = "") -> None:
    for line in lines:
        print_line([line], style)
