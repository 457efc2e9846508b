"""What each outcome of each probe is worth: the one table, which a project can change for itself."""

from __future__ import annotations

from collections.abc import Mapping

from udslab.word import Word

__all__ = ["VERDICTS", "WARNING_FACTS", "Verdict"]


class Verdict(Word):
    """What a finding is worth."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    INFO = "info"
    """Neither good nor bad."""
    SKIP = "skip"
    """It cannot be told, with why."""


_PASS, _WARN, _FAIL, _INFO = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.INFO

_LINK = {
    "refused-kept": _PASS,
    "link-replaced": _WARN,
    "link-removed": _WARN,
    "hangs": _WARN,
}
_ENDS = {"removed": _PASS, "left": _WARN, "ignored": _WARN}
_RACE = {"exclusive": _PASS, "refuses": _INFO, "races": _WARN}

VERDICTS: Mapping[str, Mapping[str, Verdict]] = {
    "fresh-start": {"listens": _PASS, "fails": _FAIL, "hangs": _FAIL},
    "term-cleanup": _ENDS,
    "int-cleanup": _ENDS,
    "stale-restart": {"starts": _PASS, "fails": _WARN, "hangs": _WARN},
    "kill-main": {"all-exit": _PASS, "orphans-listen": _WARN, "orphans": _WARN},
    "second-instance": {"refused": _PASS, "steals": _FAIL, "path-lost": _FAIL, "hangs": _WARN},
    "second-stops": {"intact": _PASS, "stale": _FAIL, "gone": _FAIL},
    "first-stops-after-steal": {"intact": _PASS, "gone": _FAIL, "stale": _FAIL},
    "regular-file": {"refused-kept": _PASS, "deleted-starts": _FAIL, "deleted-fails": _FAIL, "hangs": _WARN},
    "symlink-to-file": {**_LINK, "target-damaged": _FAIL},
    "symlink-dangling": {**_LINK, "target-created": _INFO},
    "symlink-to-stale": {**_LINK, "target-created": _INFO, "starts-through-link": _PASS},
    "directory": {"refused-kept": _PASS, "deleted": _FAIL, "hangs": _WARN},
    "missing-parent": {"refused": _PASS, "created": _INFO, "hangs": _WARN},
    "path-length": {"honest": _PASS, "truncates": _FAIL},
    "race-over-stale": _RACE,
    "race-after-kill": _RACE,
    "read-only-directory": {"refused": _PASS, "starts": _INFO, "hangs": _WARN},
    "foreign-stale": {"refused": _PASS, "starts": _INFO, "hangs": _WARN},
    "exit-deletes-foreign": {"kept": _PASS, "deleted": _FAIL},
    "descriptor-exhaustion": {"recovers": _PASS, "no-recovery": _FAIL, "dies": _FAIL},
    "vanishing-clients": {"survives": _PASS, "dies": _FAIL, "stops-answering": _FAIL},
    "half-close": {"answers": _PASS, "no-answer": _INFO},
    "silent-client": {"answers": _PASS, "blocked": _WARN},
    "privilege-drop": {"removed": _PASS, "left": _WARN},
    "error-names-path": {"always": _PASS, "sometimes": _INFO, "never": _WARN},
}
"""By probe and outcome. The words are a contract: other people's scripts read them."""

WARNING_FACTS: Mapping[str, str] = {
    "open_to_all": "everybody may write to the socket file whatever the umask",
    "spins": "it uses half a processor or more while it has no descriptor for a client",
}
"""Facts that make a warning of a pass when they are true, and what they mean."""
