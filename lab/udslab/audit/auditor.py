"""Puts a subject through the probes."""

from __future__ import annotations

import getpass
import os
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

__all__ = ["Auditor", "about"]

_VERSION_LIMIT = 10.0


def about(subject: Subject, user: User | None, version: str = "") -> dict[str, Any]:
    """A subject, for the report."""
    return {
        "name": subject.name,
        "command": list(subject.command),
        "version": version,
        "user": user.name if user is not None else getpass.getuser(),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "lab": __version__,
        **({"note": subject.note} if subject.note else {}),
    }


class Auditor:
    """Audits one subject on one host, a probe at a time. For one thread."""

    def __init__(self, subject: Subject, host: Host) -> None:
        self.subject = subject
        self.host = host
        self._patience: float | None = None
        self._why = ""
        """Why it does not start."""
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
        limit = self.subject.start_limit if probe.name == "fresh-start" else self._measured()
        scene = Scene(self.subject, self.host, limit)
        try:
            with scene:
                if self._why:
                    raise Skipped(self._why)
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

    def _measured(self) -> float:
        """Seconds after which "it did not happen" may be said: ten, or five times its own start, measured once."""
        if self._patience is None:
            scene = Scene(self.subject, self.host, self.subject.start_limit)
            try:
                with scene:
                    run = scene.instance().start("the server")
                    start = run.settle()
            except Skipped as reason:
                self._why = str(reason)
            except (AgentGone, EngineError):
                raise
            except OSError as error:
                self._why = str(error)
            else:
                if start is Start.SERVES:
                    self._patience = max(LEAST_PATIENCE, 5 * run.took)
                else:
                    self._why = f"it does not start: {scene.evidence[-2]}; {scene.evidence[-1]}"
            self._patience = self._patience or LEAST_PATIENCE
        return self._patience

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
