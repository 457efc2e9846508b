"""What is on a score card: a row for each subject, a column for each probe.

What an audit says is foreign text: names, log lines, paths. It is made printable here, once, for all that show it.
"""

from __future__ import annotations

import re
import shlex
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from udslab.audit.findings import Audit, Finding
from udslab.audit.verdicts import VERDICTS, WARNING_FACTS, Verdict
from udslab.report.text import clean

__all__ = ["Cell", "Column", "Row", "Scorecard"]

_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Column:
    """A probe, and the letter that stands for it where there is no room for its name: always the same one."""

    letter: str
    probe: str


@dataclass(frozen=True)
class Cell:
    """How one probe went with one subject. ``verdict`` is None if it was not asked."""

    probe: str
    anchor: str
    verdict: Verdict | None = None
    outcome: str = ""
    why: str = ""
    evidence: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    """What the facts warn of, beside the outcome."""
    seconds: float = 0.0

    @property
    def troubling(self) -> bool:
        """Whether it fails or warns."""
        return self.verdict in (Verdict.FAIL, Verdict.WARN)

    @property
    def telling(self) -> str:
        """The one line that says most: why it was skipped, what the facts warn of, or what was seen last."""
        return next(filter(None, (self.why, *self.warnings, *reversed(self.evidence))), "")


@dataclass(frozen=True)
class Row:
    """One subject. ``about``: its command, version, user, kernel, lab and note, as far as they are known."""

    name: str
    anchor: str
    about: dict[str, str]
    cells: tuple[Cell, ...]
    why: str = ""
    """Why it could not be had, and so nothing was found."""
    counts: Counter[Verdict] = field(default_factory=Counter)

    @property
    def troubling(self) -> list[Cell]:
        """The cells that fail or warn, those that fail first."""
        return sorted(filter(lambda cell: cell.troubling, self.cells), key=lambda cell: cell.verdict is Verdict.WARN)


@dataclass(frozen=True)
class Scorecard:
    """Subjects by probes. A column is a probe that was asked of any; each row has a cell for each column."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, audits: Sequence[Audit]) -> Scorecard:
        """The score card of these audits, in their order."""
        asked = {finding.probe for audit in audits for finding in audit.findings}
        # Another release of the lab may have more probes: they come last.
        every = [*VERDICTS, *sorted(asked - set(VERDICTS))]
        probes = [probe for probe in every if probe in asked]
        columns = tuple(Column(_LETTERS[every.index(probe) % len(_LETTERS)], clean(probe)) for probe in probes)
        taken: set[str] = set()
        return cls(columns, tuple(_row(audit, probes, taken) for audit in audits))

    @property
    def counts(self) -> Counter[Verdict]:
        """How many findings have each verdict."""
        return sum((row.counts for row in self.rows), Counter())

    def shared(self, key: str) -> str:
        """What ``about`` says of all subjects alike; empty if they differ."""
        values = {row.about.get(key, "") for row in self.rows}
        return values.pop() if len(values) == 1 else ""


def _row(audit: Audit, probes: Sequence[str], taken: set[str]) -> Row:
    subject = audit.subject
    command = subject.get("command") or ()
    name = clean(subject.get("name") or next(iter(command), "?"))
    about = {key: clean(subject[key]) for key in ("version", "user", "kernel", "lab", "note") if subject.get(key)}
    if command:
        about["command"] = clean(shlex.join(map(str, command)))
    anchor = _anchor(name, taken)
    findings = {finding.probe: finding for finding in audit.findings}
    cells = tuple(_cell(probe, f"{anchor}.{_slug(probe)}", findings.get(probe)) for probe in probes)
    counts = Counter(cell.verdict for cell in cells if cell.verdict is not None)
    return Row(name, anchor, about, cells, clean(subject.get("why", "")), counts)


def _cell(probe: str, anchor: str, finding: Finding | None) -> Cell:
    if finding is None:
        return Cell(clean(probe), anchor)
    return Cell(
        clean(probe),
        anchor,
        finding.verdict,
        clean(finding.outcome),
        clean(finding.why),
        tuple(map(clean, finding.evidence)),
        tuple((clean(key), clean(value)) for key, value in finding.facts.items()),
        tuple(meaning for fact, meaning in WARNING_FACTS.items() if finding.facts.get(fact) is True),
        finding.seconds,
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _anchor(name: str, taken: set[str]) -> str:
    """A name for links that no other subject has."""
    slug = _slug(name) or "subject"
    number = 1
    anchor = slug
    while anchor in taken:
        number += 1
        anchor = f"{slug}-{number}"
    taken.add(anchor)
    return anchor
