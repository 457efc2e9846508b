"""Runs behaviours in this place: each variant in a child of its own, many side by side."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from udslab import libc
from udslab.atlas.behaviour import Behaviour, Either, NotHere
from udslab.atlas.kit import Kit, is_gvisor, kernel, version
from udslab.atlas.requirement import why_not
from udslab.deadline import Deadline, now
from udslab.scratch import remove_tree
from udslab.word import Word

__all__ = ["UNSAID", "Cell", "Stopped", "Verdict", "count", "matches", "place", "run", "too_old"]

UNSAID = "it has not said what it has seen"
"""Why, of a measurement that was ended, or has died."""
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a private directory is made there


class Stopped(Exception):
    """It was told to stop before all was measured."""


class Verdict(Word):
    """How what was seen stands to what was expected."""

    EXPECTED = "expected"
    KNOWN = "known"
    """Not as expected, and known to be so there."""
    UNEXPECTED = "unexpected"
    NOT_APPLICABLE = "n/a"
    """It cannot be measured there, with why."""


@dataclass(frozen=True)
class Cell:
    """A behaviour, in one variant (empty, if there is but one), in one place. ``why``: of a known divergence, of n/a,
    and where the measurement itself has failed. ``seconds``: what it took."""

    id: str
    variant: str
    claim: str
    expected: Any
    seen: Any
    verdict: Verdict
    why: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "verdict": self.verdict.value, "seconds": round(self.seconds, 4)}


def place() -> dict[str, Any]:
    """Where this is: distribution, kernel, machine, Python, C library, user; and ``gvisor``, where it is gVisor."""
    release: dict[str, str] = {}
    with suppress(OSError), open("/etc/os-release") as file:
        release = dict(line.strip().split("=", 1) for line in file if "=" in line)
    host = os.uname()
    known: dict[str, Any] = {
        "distro": " ".join(release.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID")).strip() or "unknown",
        "kernel": host.release,
        "machine": host.machine,
        "python": ".".join(map(str, sys.version_info[:3])),
        "libc": _libc(),
        "uid": os.geteuid(),
    }
    if is_gvisor():
        known["gvisor"] = True
    return known


def _libc() -> str:
    with suppress(OSError, ValueError, AttributeError):
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    return "unknown"


def _todo(behaviours: Iterable[Behaviour]) -> Iterator[tuple[Behaviour, Any]]:
    return ((each, variant) for each in behaviours for variant in (each.variants or ("",)))


def count(behaviours: Iterable[Behaviour]) -> int:
    """How many cells they have."""
    return sum(1 for _ in _todo(behaviours))


def run(
    behaviours: Iterable[Behaviour], jobs: int = 1, stops: Sequence[int] = (), directory: str = ""
) -> Generator[Cell, None, None]:
    """Measure them, ``jobs`` at a time, and give each cell when it is known. Not for a process with threads: it forks.
    ``stops``: descriptors; once one of them can be read, :class:`Stopped` is raised. ``directory``: where those of the
    measurements are made, instead of in that for temporary files; where nothing can be made in it, as its file system
    is read-only, what needs a directory is not measured.

    What a measurement leaves behind, processes and files, is removed: it has a process group and a directory of its
    own, and its orphans come to this process."""
    libc.adopt_orphans()
    todo = _todo(behaviours)  # taken one by one: some may not be loaded yet
    upcoming = next(todo, None)
    running: dict[int, _Measurement] = {}
    poll = select.poll()
    for stop in stops:
        poll.register(stop, select.POLLIN)
    with _Scratch(directory) as top:
        try:
            while upcoming or running:
                while upcoming and len(running) < jobs:
                    each, variant = upcoming
                    why = "; ".join(filter(None, map(why_not, sorted(each.needs))))
                    if why:
                        yield _cell(each, variant, None, Verdict.NOT_APPLICABLE, why)
                    else:
                        begun = _Measurement(each, variant, top)
                        running[begun.fd] = begun
                        poll.register(begun.fd, select.POLLIN)
                    upcoming = next(todo, None)
                wait = min((begun.deadline.left() or 0.0 for begun in running.values()), default=0.0)
                ready = {fd for fd, _ in poll.poll(wait * 1000 + 1)}
                if ready.intersection(stops):
                    raise Stopped
                for begun in list(running.values()):
                    if (begun.fd in ready and begun.hear()) or begun.deadline.passed:
                        poll.unregister(begun.fd)
                        del running[begun.fd]
                        yield begun.end()
        finally:
            for begun in running.values():
                begun.end()
            libc.adopt_orphans(False)


@dataclass(frozen=True)
class _Top:
    """The directory of measurements' directories; empty, with the reason, where there can be none."""

    path: str
    why: str = ""


class _Scratch:
    """A private directory with a short path, or why there is none. Not udslab.scratch's: another kernel's lock would
    mislead its sweep."""

    def __init__(self, directory: str) -> None:
        self._parents = (directory,) if directory else (tempfile.gettempdir(), *_SHORT)
        self._path = ""

    def __enter__(self) -> _Top:
        for parent in self._parents:
            try:
                if len(os.fsencode(parent)) <= len("/dev/shm"):  # noqa: S108
                    self._path = tempfile.mkdtemp(prefix="atlas-", dir=parent)
                    os.chmod(self._path, 0o711)  # noqa: S103 - other users get to their measurements' directories
                    return _Top(self._path)
            except OSError as error:
                if error.errno == errno.EROFS:
                    return _Top("", f"{parent} is read-only")
                if self._parents[1:] == ():
                    raise
        raise OSError(errno.ENOENT, "no directory for temporary files has a path that is short enough")

    def __exit__(self, *exc: object) -> None:
        if self._path:
            remove_tree(self._path)


class _Measurement:
    """One that runs in its child."""

    def __init__(self, each: Behaviour, variant: Any, top: _Top) -> None:
        self._each = each
        self._variant = variant
        self._directory = tempfile.mkdtemp(dir=top.path, prefix="") if top.path else ""
        self._began = now()
        self.deadline = Deadline(each.limit)
        self._said = b""
        self.fd, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _measure(each, variant, Kit(self._directory, top.why), write)
        os.close(write)

    def hear(self) -> bool:
        """Take in what it says; whether that is all."""
        data = os.read(self.fd, 1 << 16)
        self._said += data
        return not data or self._said.endswith(b"\n")

    def end(self) -> Cell:
        """End it with all that it has started, and clean up after it."""
        seconds = now() - self._began
        os.close(self.fd)
        for kill in (os.kill, os.killpg):  # its group may not be there yet
            with suppress(ProcessLookupError):
                kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        with suppress(ChildProcessError):  # what it has left has come to us, killed as well
            while True:
                os.waitpid(-self._pid, 0)
        if self._directory:
            remove_tree(self._directory)
        if not self._said.endswith(b"\n"):
            return _cell(
                self._each, self._variant, self._ending(os.waitstatus_to_exitcode(status)), None, UNSAID, seconds
            )
        told: Mapping[str, Any] = json.loads(self._said)
        if "not_here" in told:
            return _cell(self._each, self._variant, None, Verdict.NOT_APPLICABLE, told["not_here"], seconds)
        return _cell(self._each, self._variant, told.get("seen"), None, told.get("why", ""), seconds)

    def _ending(self, code: int) -> str:
        if self.deadline.passed:
            return f"no end within {self._each.limit:g} s"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _measure(each: Behaviour, variant: Any, kit: Kit, write: int) -> None:
    """In the child; never returns."""
    try:
        os.setpgid(0, 0)
        libc.get_killed_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        # A descriptor that measurements do not see as the next free one.
        os.dup2(write, 200)
        os.close(write)
        os.set_inheritable(200, False)
        try:
            with kit:
                seen = each.measure(kit, variant) if each.variants else each.measure(kit)
            told = json.dumps({"seen": seen})
        except NotHere as reason:
            told = json.dumps({"not_here": str(reason)})
        except BaseException as error:  # noqa: BLE001 - it is what was seen
            last = traceback.extract_tb(error.__traceback__)[-1]
            why = f"line {last.lineno} of {last.name}"
            told = json.dumps({"seen": f"{type(error).__name__}: {error}", "why": why})
        with open(200, "wb") as file:
            file.write(told.encode() + b"\n")
    finally:
        os._exit(0)


def _cell(
    each: Behaviour, variant: Any, seen: Any, verdict: Verdict | None, why: str = "", seconds: float = 0.0
) -> Cell:
    expected = each.expects(variant, max(kernel(), each.since))
    if verdict is None:
        verdict = Verdict.EXPECTED if matches(seen, expected) else Verdict.UNEXPECTED
    old = too_old(each.since, os.uname().release, is_gvisor())
    if old and verdict is not Verdict.EXPECTED:  # where it is, it was brought back to an older kernel
        seen, verdict, why = None, Verdict.NOT_APPLICABLE, old
    if isinstance(expected, Either):
        expected = {"either": list(expected.values)}
    return Cell(each.id, str(variant), each.claim, json.loads(json.dumps(expected)), seen, verdict, why, seconds)


def too_old(since: tuple[int, ...], release: str, gvisor: bool) -> str:
    """Why a kernel need not have what there is since a version; empty if it must."""
    if version(release, gvisor) >= since:
        return ""
    return f"Linux {'.'.join(map(str, since))} or newer; this is {release}"


def matches(seen: Any, expected: Any) -> bool:
    """Whether what was seen is what is expected, both as JSON has them."""
    if isinstance(expected, Either):
        return any(matches(seen, value) for value in expected.values)
    return _plain(seen) == _plain(expected)


def _plain(value: Any) -> str:
    """As JSON, in which true is not 1 as it is in Python."""
    return json.dumps(value, sort_keys=True)
