"""Other people's servers: a command that is started outside this process, waited for until it serves, and ended."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, Union

from udslab.address import Address
from udslab.errors import AgentGone, ServiceError, UdsError
from udslab.ready import Condition, Followed, Readiness, file_of
from udslab.state import State, Status, status

__all__ = ["Command", "RunningProcess", "check", "split_command", "words"]

Command = Union[str, Sequence[Union[str, "os.PathLike[str]"]]]
_GRACE = 5.0


def split_command(command: Command) -> list[str]:
    """The words of a command: one text is taken apart as a shell would (:func:`shlex.split`)."""
    return shlex.split(command) if isinstance(command, str) else [os.fspath(word) for word in command]


def words(command: Command, path: str) -> list[str]:
    """The words of a command, with ``path`` for ``{socket}`` wherever that stands in them."""
    return [word.replace("{socket}", path) for word in split_command(command)]


def check(command: Sequence[str], env: Mapping[str, str], timeout: float, stop_signal: int) -> None:
    """Refuse what no program can be started with, waited for, or ended by.

    Raises TypeError, ValueError, and :class:`~udslab.errors.ServiceError`, with the word or the variable."""
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout= is a number of seconds, not {timeout!r}")
    if stop_signal not in signal.valid_signals():
        raise ValueError(f"stop_signal= is a signal, such as signal.SIGINT, not {stop_signal!r}")
    if not command or not command[0]:
        raise ServiceError(f"the command {list(command)} names no program", "its first word is to be one")
    for word in command:
        if "\0" in word:
            raise ServiceError(f"the word {word!r} of the command holds a NUL", "a program's words end there")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"the variable {name!r} in env= is {value!r}, and not a text: write str(…)")
        if not name or "=" in name or "\0" in name + value:
            hint = "a name is not empty and holds no =, and neither it nor its value holds a NUL"
            raise ServiceError(f"no environment can hold the variable {name!r} with {value!r}", hint)


class Started(Followed, Protocol):
    """A process that was started, as :class:`udslab.remote.SupervisedProcess` and
    :class:`udslab.containers.program.Program` are."""

    pid: int
    killed: Sequence[dict[str, Any]]

    @property
    def returncode(self) -> int | None:
        """None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited."""

    def signal_left(self, number: int) -> list[int]:
        """Send a signal to it, or if it has exited to those that it has left."""

    def freeze(self) -> None:
        """Stop all of it for a while."""

    def thaw(self) -> None:
        """Let it go on."""

    def tree(self) -> list[dict[str, Any]]:
        """All that lives of it."""

    def end(self, grace: float = ..., number: int = ...) -> int:
        """End it."""

    def kill(self) -> int:
        """Kill it."""

    def __exit__(self, *exc: object) -> None:
        """End and forget it."""


class RunningProcess:
    """Somebody's server that the lab has started. :meth:`udslab.lab.Lab.process` makes and ends it."""

    def __init__(
        self,
        command: list[str],
        path: str,
        ready: Condition | Sequence[Condition],
        timeout: float,
        stop_signal: int,
        start: Callable[[Readiness], Started],
        hint: str = "",
    ) -> None:
        """``hint``: what may be why, if it does not serve."""
        self.command = command
        self.path = path
        self._ready = ready if isinstance(ready, Sequence) else (ready,)
        self._timeout = timeout
        self._stop_signal = stop_signal
        self._start = start
        self._hint = hint
        self._owner = os.getpid()
        self._log = ""
        self.killed = False
        """Whether it was killed since its last start, by :meth:`kill`, by somebody else's SIGKILL, or because it did
        not end, and so its socket file may be stale."""
        self.left: list[str] = []
        """What it left at its end, in words; :meth:`close` takes back what has gone since."""
        self._file: tuple[str, tuple[int, ...] | None] | None = None
        """The line of ``left`` that tells of a socket file, and which one that is."""
        self.ended: str | None = None
        """How it had ended when it was closed, if it had left something: then its log is kept, too."""
        self._begin()

    def _begin(self) -> None:
        # A socket that is served now is somebody else's; as long as it is, no other file gets its inode.
        others = file_of(Address.parse(self.path))
        if others is not None and not self.status().serving:
            others = None
        directory = os.path.dirname(self.path)
        with Readiness(self.path, self._ready, directory=directory, others=others) as readiness:
            process = self._start(readiness)
            try:
                readiness.wait(process, self._timeout)
            except BaseException as error:
                process.__exit__()
                if isinstance(error, UdsError) and self._hint:
                    error.hint = f"{self._hint}: {error.hint}"
                raise
            own = _file_at(self.path)
        self._process = process
        self._others, self._own = others, None if own is None or own[:2] == others else own
        self._runs, self.killed = True, False

    @property
    def pid(self) -> int:
        """Of the process that was started first."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """That one's exit status, the negative of the signal that ended it; None while it runs."""
        return self._process.returncode

    def log(self) -> str:
        """What it has written: the last 256 KiB of each run. A forked child is told of runs before a restart alone."""
        return self._log + (self._process.output() if self._runs and os.getpid() == self._owner else "")

    def status(self) -> Status:
        """What is at its path."""
        return status(self.path)

    def tree(self) -> list[int]:
        """The pids of all its processes that live."""
        return [found["pid"] for found in self._process.tree()] if self._process.gone() is None else []

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited; its exit status. Raises :class:`~udslab.errors.TimedOut`."""
        return self._process.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to the first process, or if that has exited, as a daemon's does, to those that it has left:
        of these to the topmost."""
        self._process.signal_left(number)
        self.killed = self.killed or number == signal.SIGKILL

    def stop(self, grace: float = _GRACE) -> int:
        """Its stop signal; SIGKILL to all that lives ``grace`` seconds later, and to what it leaves; its exit status.
        What had to be killed, and a socket file that is still there, stands in ``left``."""
        file = _file_at(self.path)
        served = file if file != self._own and self.status().serving else None
        code = self._process.end(grace, self._stop_signal)
        for found in self._process.killed:
            what = f"process {found['pid']} ({shlex.join(found['command'])}), which had to be killed"
            line = what + found.get("why", "")
            self.left += [line] if line not in self.left else []  # it is told again when it is stopped again
            self.killed = True
        self._note_end(code, served)
        return code

    def _note_end(self, code: int, served: tuple[int, ...] | None = None) -> None:
        """Note its end, with this status, and whether its file is still there. ``served``: see :meth:`_has_left`."""
        self.killed = self.killed or code == -signal.SIGKILL
        self._forget_file()
        there, file = self.status(), _file_at(self.path)
        if not self.killed and self._has_left(there, file, served):
            self._file = f"socket file {self.path} ({there.describe()})", file
            self.left.append(self._file[0])

    def _forget_file(self) -> None:
        if self._file is not None:
            self.left.remove(self._file[0])
            self._file = None

    def _has_left(self, there: Status, file: tuple[int, ...] | None, served: tuple[int, ...] | None) -> bool:
        """Whether the ``file`` that is there after its end is its own. ``served``: another one that was served there
        just before."""
        # None of it lives: a socket that does is another's.
        if there.state is not State.STALE or (file is not None and file[:2] == self._others):
            return False
        # What it has bound since it was ready was served until its end; what a successor had left was not.
        return self._own is None or file in (self._own, served)

    def kill(self) -> int:
        """SIGKILL to all its processes; its exit status."""
        self.killed = True
        return self._process.kill()

    def pause(self) -> None:
        """SIGSTOP to all its processes: it listens, and answers nobody."""
        self._process.freeze()

    def resume(self) -> None:
        """SIGCONT to all of them."""
        self._process.thaw()

    def restart(self) -> None:
        """Stop it, if it lives, and start it anew; it serves when this returns."""
        if self._process.gone() is None:
            self.stop()
        self._log = self.log()
        self._runs = False
        self._process.__exit__()
        self._begin()
        self._forget_file()  # over which it has started, or will be told to have left at its next end

    def close(self) -> None:
        """Stop it, if it lives, and forget it. In a forked child: does nothing, for it is the parent's."""
        if os.getpid() != self._owner:
            return
        if self._runs:
            self._runs = False
            with suppress(AgentGone):  # and all that it had started
                if self._process.gone() is None:
                    self.stop()
                elif self._file is None and self._own is not None:  # it has ended by itself, or has left nothing
                    self._note_end(self._process.wait())
                if self.left:
                    self._log += self._process.output()
                    self.ended = self._process.gone()
            self._process.__exit__()
        if self._file is not None and _file_at(self.path) != self._file[1]:
            self._forget_file()

    def __repr__(self) -> str:
        return f"<process {self.pid}: {shlex.join(self.command)}>"


def _file_at(path: str) -> tuple[int, ...] | None:
    """What the file at a path is known by, also when it has gone and another has got its inode: device, inode, and the
    time of its bind, for nobody writes into a socket file. None if there is none."""
    address = Address.parse(path)
    if address.is_pathname:
        with suppress(OSError):
            info = os.stat(address.name)
            return info.st_dev, info.st_ino, info.st_mtime_ns
    return None
