"""What the audit has found: words, facts and evidence, and their form as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from udslab.audit.verdicts import VERDICTS, WARNING_FACTS, Verdict

__all__ = ["SCHEMA", "Audit", "Finding", "judge"]

SCHEMA = 1


@dataclass(frozen=True)
class Finding:
    """How one probe went.

    ``outcome``: one of the probe's words in :data:`~udslab.audit.verdicts.VERDICTS`; empty if the verdict is ``skip``,
    and then ``why`` says why. ``facts``: what was measured, for programs; ``evidence``: what was done and seen, in
    words, one line each; ``seconds``: how long it took.
    """

    probe: str
    outcome: str
    verdict: Verdict
    facts: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    seconds: float = 0.0
    why: str = ""

    def describe(self) -> str:
        """Probe, outcome and verdict in a line, and the evidence below."""
        head = f"{self.probe}: {self.outcome or self.why} ({self.verdict})"
        return "\n  ".join([head, *self.evidence])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "probe": self.probe,
            "outcome": self.outcome,
            "verdict": self.verdict.value,
            "facts": dict(self.facts),
            "evidence": list(self.evidence),
            "seconds": round(self.seconds, 3),
        }
        return {**found, "why": self.why} if self.why else found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Finding:
        """From what :meth:`as_dict` gave."""
        verdict = Verdict(found["verdict"])
        evidence = tuple(found["evidence"])
        seconds = float(found["seconds"])
        return cls(
            found["probe"], found["outcome"], verdict, dict(found["facts"]), evidence, seconds, found.get("why", "")
        )


@dataclass(frozen=True)
class Audit:
    """What was found about one subject. ``subject``: ``name``, ``command``, ``version``, ``user``, ``kernel``, ``lab``,
    ``note`` if it has one; and ``why``, if it could not be had, and so nothing was found."""

    subject: Mapping[str, Any]
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": SCHEMA,
            "subject": dict(self.subject),
            "findings": [finding.as_dict() for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, audit: Mapping[str, Any]) -> Audit:
        """From what :meth:`as_dict` gave. Raises ValueError for another schema."""
        if audit.get("schema") != SCHEMA:
            raise ValueError(f"an audit of schema {SCHEMA} is wanted, not {audit.get('schema')!r}")
        return cls(dict(audit["subject"]), tuple(Finding.from_dict(found) for found in audit["findings"]))

    def worst(self, *verdicts: Verdict) -> bool:
        """Whether any finding has one of these verdicts."""
        return any(finding.verdict in verdicts for finding in self.findings)


def judge(probe: str, outcome: str, facts: Mapping[str, Any]) -> Verdict:
    """The verdict on an outcome, with the facts beside it."""
    verdict = VERDICTS[probe][outcome]
    if verdict is Verdict.PASS and any(facts.get(name) is True for name in WARNING_FACTS):
        return Verdict.WARN
    return verdict
