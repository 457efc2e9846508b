"""Many subjects and probes, side by side: each worker has a host of its own, so that no two share anything."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Union

from udslab.audit.auditor import Auditor, Measured, about
from udslab.audit.findings import Audit, Finding
from udslab.audit.host import ProcessHost
from udslab.audit.probes import PROBES
from udslab.audit.scene import User
from udslab.audit.subject import Subject
from udslab.audit.verdicts import Verdict
from udslab.deadline import now
from udslab.errors import AgentGone

__all__ = ["Crew"]

_LONG = ("race-over-stale", "race-after-kill", "exit-deletes-foreign", "fresh-start", "error-names-path", "path-length")
"""Those that take longest are begun with, so that none is left alone at the end."""


@dataclass
class _Found:
    about: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    measured: Measured | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Of who measures it; and of who plays a probe, if not two can at the same time."""


class Crew:
    """Audits ``subjects`` by ``probes`` (names; all unless given), ``jobs`` probes at a time.

    :meth:`work` does it; :meth:`audits` is what is known, also when that was interrupted.
    """

    def __init__(
        self, subjects: Sequence[Subject], probes: Sequence[str] = (), *, jobs: int = 1, user: User | None = None
    ) -> None:
        self.subjects = list(subjects)
        self.probes = list(probes or PROBES)
        self._user = user
        self._jobs = jobs
        self._found = [_Found() for _ in subjects]
        self._tasks: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Union[tuple[int, Finding], BaseException, None]] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    @property
    def size(self) -> int:
        """How many probes there are to play."""
        return len(self.probes) * sum(not subject.missing() for subject in self.subjects)

    def work(self) -> Generator[tuple[Subject, Finding], None, None]:
        """Play all, and tell of each that is done. When it is left before its end, all that runs is ended.

        A probe in which an agent is lost is a ``skip`` with why. Raises what else a worker raises."""
        order = sorted(self.probes, key=lambda name: _LONG.index(name) if name in _LONG else len(_LONG))
        for number, subject in enumerate(self.subjects):
            for name in order if not subject.missing() else ():
                self._tasks.put((number, name))
        while not self._tasks.empty():  # again only when all workers have lost their agents
            yield from self._shift()

    def _shift(self) -> Generator[tuple[Subject, Finding], None, None]:
        """Let workers play until nothing is left, or none of them has an agent any more."""
        number_of_jobs = min(self._jobs, self._tasks.qsize())
        self._cancelled.clear()
        with ExitStack() as stack:
            # All of them before any works: a process that is about to become one has, for a moment, the descriptors of
            # this one, and a socket that has just been made stale is not stale yet.
            hosts = [stack.enter_context(ProcessHost(self._user)) for _ in range(number_of_jobs)]
            workers = [threading.Thread(target=self._run, args=(host,), name="udslab audit") for host in hosts]
            stack.callback(self._end, hosts, workers)
            for worker in workers:
                worker.start()
            running = len(workers)
            while running:
                told = self._told.get()
                if told is None:
                    running -= 1
                elif isinstance(told, BaseException):
                    raise told
                else:
                    number, finding = told
                    yield self.subjects[number], finding

    def _end(self, hosts: Sequence[ProcessHost], workers: Sequence[threading.Thread]) -> None:
        self._cancelled.set()
        for host in hosts:
            host.cancel()
        for worker in workers:
            if worker.is_alive():
                worker.join()

    def _run(self, host: ProcessHost) -> None:
        """In a worker's thread."""
        try:
            self._play(host)
        except BaseException as error:  # noqa: BLE001 - it is raised where the work was asked for
            self._told.put(error)
        finally:
            self._told.put(None)

    def _play(self, host: ProcessHost) -> None:
        auditor: Auditor | None = None
        while not self._cancelled.is_set():
            try:
                number, probe = self._tasks.get_nowait()
            except queue.Empty:
                return
            subject, found = self.subjects[number], self._found[number]
            began = now()
            try:
                if auditor is None or auditor.subject is not subject:
                    auditor = self._auditor(number, host)
                with found.turn if found.measured and found.measured.alone else nullcontext():
                    finding = auditor.audit(probe)
            except AgentGone as error:
                if self._cancelled.is_set():
                    return
                finding = Finding(probe, "", Verdict.SKIP, seconds=now() - began, why=str(error))
            found.findings[probe] = finding  # here: whoever is interrupted may not hear of it
            self._told.put((number, finding))
            if not host.alive:
                return

    def _auditor(self, number: int, host: ProcessHost) -> Auditor:
        """One for a subject, which is measured before two workers are at it."""
        subject, found = self.subjects[number], self._found[number]
        with found.turn:
            auditor = Auditor(subject, host, found.measured)
            found.about = found.about or auditor.about()
            if self._jobs > 1 and len(self.probes) > 1:
                found.measured = auditor.measure(beside=True)
        return auditor

    def audits(self) -> list[Audit]:
        """What is known of each subject: its findings in the probes' order."""
        return [
            Audit(found.about or self._about(subject), _in_order(self.probes, found.findings))
            for subject, found in zip(self.subjects, self._found)  # noqa: B905 - Python 3.9
        ]

    def _about(self, subject: Subject) -> dict[str, Any]:
        missing = subject.missing()
        why = f"{missing} is not installed" + (f": {subject.get}" if subject.get else "")
        return {**about(subject, self._user), **({"why": why} if missing else {})}


def _in_order(probes: Sequence[str], findings: dict[str, Finding]) -> tuple[Finding, ...]:
    return tuple(findings[name] for name in probes if name in findings)
