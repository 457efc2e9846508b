"""Waiting until a server really serves: not until its file is there, nor until its process lives.

An event tells where there is one: of the file, by inotify(7); of the process's end, by a descriptor; of what it says
itself, by NOTIFY_SOCKET (sd_notify(3)). None tells when a socket begins to listen (listen(2) comes after bind(2)), nor
of what a process writes, so there it is looked again and again, ever more rarely. No server notices: nobody connects.
"""

from __future__ import annotations

import errno
import os
import re
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Union, get_args

from udslab import libc
from udslab.address import Address, AddressKind, AddressLike, printable
from udslab.deadline import Deadline
from udslab.errors import Stage, TimedOut, UdsError
from udslab.listener import bind
from udslab.state import State, Status, status
from udslab.wire import encode_address

__all__ = [
    "LISTENING",
    "Activated",
    "Check",
    "Condition",
    "Followed",
    "Listening",
    "LogLine",
    "Notify",
    "Readiness",
    "Watcher",
    "file_of",
]

_FIRST_PAUSE = 0.00003
_LAST_PAUSE = 0.01
_TOLD_PAUSE = 0.1
"""As rarely is it looked where an event will tell: some are told to nobody here (another kernel has bound it, or a
directory further up was moved)."""
_LAST_LINES = 3


class Followed(Protocol):
    """A process, with all that it leaves behind: what a daemon's first process does is to exit."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def output(self) -> str:
        """What it has written so far."""

    def gone(self) -> str | None:
        """How it has ended, as in "has ended with status 1"; None while any of it lives."""

    def fileno(self) -> int | None:
        """A descriptor that can be read once it has gone; None: there is none, and it is asked in each round."""


# What is waited for


@dataclass(frozen=True)
class Listening:
    """The path is served: a socket listens there, or a datagram socket is bound."""


LISTENING = Listening()
"""What is waited for unless something else is."""


@dataclass(frozen=True)
class LogLine:
    """The process has written what matches ``pattern`` (a regular expression, searched for in all of it)."""

    pattern: str


@dataclass(frozen=True)
class Notify:
    """It has said READY=1 to NOTIFY_SOCKET (sd_notify(3)). EXTEND_TIMEOUT_USEC is heeded; STATUS stands in errors."""


@dataclass(frozen=True)
class Activated:
    """The path is served from its start on: whoever starts it listens there beforehand, and hands the socket over."""


@dataclass(frozen=True)
class Check:
    """``function`` of the path says so. An OSError that it raises means: not yet."""

    function: Callable[[str], bool]


Condition = Union[Listening, LogLine, Notify, Activated, Check]


# inotify

_MODIFIED = 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""IN_ATTRIB, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF."""
_ONLY_DIRECTORY = 0x01000000


class Watcher:
    """Watches one directory at a time: that of a path, or while that is missing the nearest above it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._watch: int | None = None

    _spare: list[Watcher] = []  # noqa: RUF012 - one for each wait that is under way; closing one costs milliseconds

    @classmethod
    @contextmanager
    def lent(cls) -> Iterator[Watcher | None]:
        """One for the time of the block, kept for the next; None where there is none to be had."""
        try:
            watcher = cls._spare.pop()
        except IndexError:  # none has been there, or another thread was quicker
            watcher = None
        if watcher is None or watcher._pid != os.getpid():  # a forked child would take its parent's events
            fd = libc.inotify_open()
            watcher = None if fd is None else cls(fd)
        try:
            yield watcher
        finally:
            if watcher is not None:
                watcher._leave()
                cls._spare.append(watcher)

    def fileno(self) -> int:
        """The descriptor, which can be read when something has happened."""
        return self._fd

    def drain(self) -> None:
        """Take in what has happened: that it has is all that counts."""
        with suppress(BlockingIOError):
            while True:
                os.read(self._fd, 1 << 16)

    def watch(self, path: bytes) -> bool:
        """Whether the directory of ``path``, or the nearest above it that is there, is watched from now on."""
        while True:
            nearest = _nearest(path)
            watch = libc.inotify_add(self._fd, nearest, _MODIFIED | _ONLY_DIRECTORY)
            if watch != self._watch:
                self._leave()
                self._watch = watch
            if nearest == _nearest(path):  # nothing was made in between
                return watch is not None

    def _leave(self) -> None:
        if self._watch is not None:
            libc.inotify_remove(self._fd, self._watch)
            self._watch = None


def _nearest(path: bytes) -> bytes:
    while True:
        path = os.path.dirname(path)
        if not path or os.path.isdir(path) or path == b"/":
            return path or b"."


# Waiting


class _Notified:
    """What a server says of itself: NOTIFY_SOCKET, at ``path``."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, f".notify-{os.urandom(4).hex()}")
        self.sock = bind(self.path)
        self.sock.setblocking(False)
        self.said: dict[str, str] = {}

    def hear(self) -> float | None:
        """Take in what has come; how many seconds more the server wants, if it wants any."""
        more = None
        with suppress(BlockingIOError):
            while True:
                text = self.sock.recv(1 << 16).decode(errors="backslashreplace")
                said = dict(line.partition("=")[::2] for line in text.splitlines())
                self.said.update(said)
                if said.get("EXTEND_TIMEOUT_USEC", "").isdecimal():
                    more = int(said["EXTEND_TIMEOUT_USEC"]) / 1e6
        return more


class Readiness:
    """Waits until all of ``conditions`` hold for the server at ``address``. A context manager.

    Made before the server is started, which must find ``env`` in its environment, and is started with ``options``
    besides (of the message that :func:`udslab.supervisor.supervise` takes). ``directory``: where the socket of
    :class:`Notify` is made, by a name of its own. ``others``: device and inode of a socket file of somebody else's that
    was there before, and does not count.
    """

    def __init__(
        self,
        address: AddressLike,
        conditions: Sequence[Condition] = (LISTENING,),
        *,
        directory: str | None = None,
        others: tuple[int, int] | None = None,
    ) -> None:
        if not all(isinstance(condition, get_args(Condition)) for condition in conditions):
            words = ", ".join(f"{kind.__name__}()" for kind in get_args(Condition))
            raise TypeError(f"ready is one of {words}, of udslab.ready, or a list of them")
        self.address = Address.parse(address)
        self.others = others
        self.conditions = tuple(conditions)
        self.env: dict[str, str] = {}
        self.options: dict[str, Any] = {}
        self._notified: _Notified | None = None
        if Activated() in self.conditions:
            self.options["listen"] = encode_address(self.address)
        if Notify() in self.conditions:
            if directory is None:
                raise TypeError("Notify needs a directory, for its socket")
            self._notified = _Notified(directory)
            self.env["NOTIFY_SOCKET"] = self._notified.path

    def close(self) -> None:
        """Remove what was made for it."""
        if self._notified is not None:
            self._notified.sock.close()

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait(
        self,
        process: Followed | None = None,
        timeout: float = 10.0,
        look: Callable[[AddressLike], Status] = status,
    ) -> Status:
        """Wait; what is at the path then. ``look``: how that is told.

        Raises :class:`~udslab.errors.UdsError` (ECHILD) at once when the process has gone before that, and
        :class:`~udslab.errors.TimedOut`; both with what is at the path, and what it has written last.
        """
        with Watcher.lent() as watcher:
            return _Wait(self, self._notified, process, timeout, look, watcher).run()


def file_of(address: Address) -> tuple[int, int] | None:
    """Device and inode of the file that a path leads to; None if there is none."""
    if address.is_pathname:
        with suppress(OSError):
            info = os.stat(address.name)
            return info.st_dev, info.st_ino
    return None


class _Wait:
    """One wait. What holds once is not asked for again."""

    def __init__(
        self,
        readiness: Readiness,
        notified: _Notified | None,
        process: Followed | None,
        timeout: float,
        look: Callable[[AddressLike], Status],
        watcher: Watcher | None,
    ) -> None:
        self._notified = notified
        self._address = readiness.address
        self._others = readiness.others
        self._process = process
        self._end = process.fileno() if process is not None else None
        self._timeout = timeout
        self._deadline = Deadline(timeout)
        self._look = look
        self._watcher = watcher if self._address.kind is AddressKind.PATHNAME else None
        self._missing = list(readiness.conditions)
        self._refused = ""
        """What a check has raised."""
        self._poll = select.poll()
        for source in (self._end, self._watcher, None if notified is None else notified.sock):
            if source is not None:
                self._poll.register(source, select.POLLIN)

    def run(self) -> Status:
        pause = _FIRST_PAUSE
        watched: bool | None = None  # not asked for before the first look: mostly it serves by then
        while True:
            # In this order: what it has done before it ended counts.
            gone = self._gone()
            self._take_in()
            found = self._look(self._address)
            self._missing = [condition for condition in self._missing if not self._holds(condition, found)]
            if not self._missing:
                return found
            if gone is not None:
                raise self._failed(found, gone)
            left = self._deadline.left() or 0.0
            if not left:
                raise self._failed(found)
            if watched is None:
                watched = self._watch()
                continue
            told = all(self._is_told(condition, found, watched) for condition in self._missing)
            ready = self._sleep(min(left, _TOLD_PAUSE if told else pause))
            pause = _FIRST_PAUSE if ready else min(2 * pause, _LAST_PAUSE)
            watched = self._watch()

    def _watch(self) -> bool:
        if self._watcher is None:
            return False
        self._watcher.drain()
        return self._watcher.watch(self._address.name)

    def _gone(self) -> str | None:
        # Also where its descriptor tells nothing: whoever has asked for something else may have taken it in.
        return None if self._process is None else self._process.gone()

    def _take_in(self) -> None:
        more = self._notified.hear() if self._notified is not None else None
        if more is not None and more > (self._deadline.left() or 0.0):
            self._deadline = Deadline(more)

    def _sleep(self, seconds: float) -> set[int]:
        """The descriptors that can be read, at the latest after so long."""
        if seconds < 0.001:  # of which poll(2) knows nothing
            select.select([], [], [], seconds)
            seconds = 0.0
        return {fd for fd, _ in self._poll.poll(seconds * 1000)}

    def _holds(self, condition: Condition, found: Status) -> bool:
        if isinstance(condition, (Listening, Activated)):
            # The file that was seen to be served, and no other: by now one may be there that is not.
            info = found.info
            return found.serving and (info is None or (info.st_dev, info.st_ino) != self._others)
        if isinstance(condition, LogLine):
            return self._process is not None and re.search(condition.pattern, self._process.output()) is not None
        if isinstance(condition, Notify):
            return self._notified is not None and self._notified.said.get("READY") == "1"
        try:
            return condition.function(os.fsdecode(self._address.name))
        except OSError as error:
            self._refused = str(error)
            return False

    @staticmethod
    def _is_told(condition: Condition, found: Status, watched: bool) -> bool:
        """Whether an event tells when it may hold."""
        if isinstance(condition, Notify):
            return True
        return isinstance(condition, Listening) and watched and not found.link and found.state in _TOLD

    def _failed(self, found: Status, gone: str | None = None) -> UdsError:
        with suppress(OSError):  # it is known already what is there, if not who holds it
            found = status(self._address, owners=True) if self._look is status else found
        hint = "; ".join(self._lack(condition) for condition in self._missing)
        if self._process is not None:
            lines = self._process.output().strip().splitlines()[-_LAST_LINES:] or ["it has written nothing"]
            hint += f": its last lines: {' | '.join(lines)}"
        hint = printable(os.fsencode(hint))  # a terminal is not to obey what a server says
        where = str(self._address)
        if gone is not None and self._process is not None:
            what = f"{self._process.name} {gone} and the path is {found.describe()}"
            return UdsError(Stage.SERVICE, errno.ECHILD, where, hint, what)
        what = f"still {found.describe()} after {self._timeout:g} s"
        return TimedOut(Stage.SERVICE, errno.ETIMEDOUT, where, hint, what)

    def _lack(self, condition: Condition) -> str:
        """In words, what is missing."""
        if isinstance(condition, (Listening, Activated)):
            return "nothing serves the path" + (" but who did before" if self._others else "")
        if isinstance(condition, LogLine):
            return f"it has written no {condition.pattern!r}"
        if isinstance(condition, Notify):
            last = self._notified and self._notified.said.get("STATUS")
            return "it has not said READY=1" + (f", but STATUS={last}" if last else "")
        name = getattr(condition.function, "__name__", repr(condition.function))
        return f"{name} does not hold" + (f" ({self._refused})" if self._refused else "")


_TOLD = {State.ABSENT, State.STALE, State.NOT_A_SOCKET, State.UNREACHABLE}
"""States that do not become served without an event in the directory."""
