"""Puts a subject through the probes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from udslab import __version__
from udslab.audit.findings import Finding, judge
from udslab.audit.probes import PROBES, Probe
from udslab.audit.scene import LEAST_PATIENCE, Host, Scene, Skipped, Start, User
from udslab.audit.subject import Subject
from udslab.audit.verdicts import Verdict
from udslab.deadline import now
from udslab.errors import AgentGone, EngineError, Unsupported
from udslab.probe import calibrated
from udslab.spawn import user_name

__all__ = ["DOES_NOT_START", "Auditor", "Measured", "about"]

DOES_NOT_START = "it does not start: "
"""So begins why a probe is skipped for which there was no server."""

_VERSION_LIMIT = 10.0


def about(subject: Subject, user: User | None, version: str = "") -> dict[str, Any]:
    """A subject, for the report."""
    return {
        "name": subject.name,
        "command": list(subject.command),
        "version": version,
        "user": user.name if user is not None else user_name(os.geteuid()),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "lab": __version__,
        **({"note": subject.note} if subject.note else {}),
    }


@dataclass(frozen=True)
class Measured:
    """What a first start of a subject has shown."""

    patience: float = LEAST_PATIENCE
    """Seconds after which "it did not happen" may be said: ten, or five times its own start."""
    why: str = ""
    """Why it does not start."""
    alone: bool = False
    """Whether two of it cannot be played with at the same time, also in places of their own: both want something of
    which there is one on this machine, such as a port."""


class Auditor:
    """Audits one subject on one host, a probe at a time. For one thread. ``measured``: what another one has found."""

    def __init__(self, subject: Subject, host: Host, measured: Measured | None = None) -> None:
        self.subject = subject
        self.host = host
        self._measured = measured
        if not calibrated():
            raise Unsupported("what is at a path cannot be told without doubt here", "audit on Linux, outside gVisor")

    def about(self) -> dict[str, Any]:
        """The subject, for the report."""
        return about(self.subject, self.host.user, self._version())

    def audit(self, probe: Probe | str) -> Finding:
        """Play one probe. What goes wrong with it is a ``skip`` with why. Raises
        :class:`~udslab.errors.AgentGone` when what starts the servers has ended, and
        :class:`~udslab.errors.EngineError` for a container that cannot be had."""
        probe = PROBES[probe] if isinstance(probe, str) else probe
        began = now()
        first = probe.name == "fresh-start"  # is judged by itself, whatever was measured
        measured = Measured(self.subject.start_limit) if first else self.measure()
        scene = Scene(self.subject, self.host, measured.patience)
        try:
            with scene:
                if measured.why:
                    raise Skipped(measured.why)
                outcome = probe(scene)
        except Skipped as reason:
            return self._finding(probe, scene, began, "", str(reason))
        except (AgentGone, EngineError):
            raise
        except OSError as error:  # a command that is not there; or the audit itself has met with something
            return self._finding(probe, scene, began, "", str(error))
        return self._finding(probe, scene, began, outcome)

    @staticmethod
    def _finding(probe: Probe, scene: Scene, began: float, outcome: str, why: str = "") -> Finding:
        verdict = judge(probe.name, outcome, scene.facts) if outcome else Verdict.SKIP
        return Finding(probe.name, outcome, verdict, scene.facts, tuple(scene.evidence), now() - began, why)

    def measure(self, *, beside: bool = False) -> Measured:
        """Start it once, where nothing is in its way. ``beside``: and see whether two of it can run at the same time.
        Only the first call does so."""
        if self._measured is None:
            self._measured = self._start(2 if beside else 1)
            if beside and self._measured.why:
                self._measured = replace(self._start(1), alone=True)
        return self._measured

    def _start(self, number: int) -> Measured:
        """Start so many, at the same time and each in places of its own."""
        scene = Scene(self.subject, self.host, self.subject.start_limit)
        try:
            with scene:
                paths = [scene.path, scene.make_path("q")][:number]
                runs = [scene.instance(path).start("the server", path) for path in paths]
                for run in runs:
                    if run.settle() is not Start.SERVES:
                        return Measured(why=f"{DOES_NOT_START}{scene.evidence[-2]}; {scene.evidence[-1]}")
                if runs[0].gone:  # the second has ended it
                    return Measured(why=f"{DOES_NOT_START}{runs[0].name} {runs[0].how()}")
                return Measured(max(LEAST_PATIENCE, 5 * runs[0].took))
        except (AgentGone, EngineError):
            raise
        except (Skipped, OSError) as reason:
            return Measured(why=str(reason))

    def _version(self) -> str:
        """The first line of what its version command prints; empty if that cannot be had."""
        command = list(self.subject.version)
        if not command:
            return ""
        try:
            with self.host.directory() as directory:
                env = {**os.environ, "HOME": directory, "TMPDIR": directory}
                process = self.host.start(command, env=env, cwd=directory)
                try:
                    process.gone_within(_VERSION_LIMIT)
                    lines = [line.strip() for line in process.output().splitlines() if line.strip()]
                    return lines[0] if lines else ""
                finally:
                    process.__exit__()
        except (AgentGone, EngineError):
            raise
        except OSError:
            return ""
