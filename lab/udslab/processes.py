"""Other people's servers: a command that is started outside this process, waited for until it serves, and ended."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, Union

from udslab.address import Address
from udslab.errors import AgentGone
from udslab.ready import Condition, Followed, Readiness, file_of
from udslab.state import State, Status, status

__all__ = ["Command", "RunningProcess", "split_command", "words"]

Command = Union[str, Sequence[Union[str, "os.PathLike[str]"]]]
_GRACE = 5.0


def split_command(command: Command) -> list[str]:
    """The words of a command: one text is taken apart as a shell would (:func:`shlex.split`)."""
    return shlex.split(command) if isinstance(command, str) else [os.fspath(word) for word in command]


def words(command: Command, path: str) -> list[str]:
    """The words of a command, with ``path`` for ``{socket}`` wherever that stands in them."""
    return [word.replace("{socket}", path) for word in split_command(command)]


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

    def send_signal(self, number: int) -> None:
        """Send a signal."""

    def freeze(self) -> None:
        """Stop it for a while."""

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
    ) -> None:
        self.command = command
        self.path = path
        self._ready = ready if isinstance(ready, Sequence) else (ready,)
        self._timeout = timeout
        self._stop_signal = stop_signal
        self._start = start
        self._log = ""
        self.killed = False
        """Whether it was killed since its last start, by :meth:`kill` or because it did not end, and so its socket file
        may be stale."""
        self.left: list[str] = []
        """What it left at its end, in words."""
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
            except BaseException:
                process.__exit__()
                raise
        self._process = process
        self._others = others
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
        """What it has written: the last 256 KiB of each run."""
        return self._log + (self._process.output() if self._runs else "")

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
        """Send a signal to the first process, unless it has exited."""
        self._process.send_signal(number)

    def stop(self, grace: float = _GRACE) -> int:
        """Its stop signal; SIGKILL to all that lives ``grace`` seconds later, and to what it leaves; its exit status.
        What had to be killed, and a socket file that is still there, stands in ``left``."""
        code = self._process.end(grace, self._stop_signal)
        for found in self._process.killed:
            self.left.append(f"process {found['pid']} ({shlex.join(found['command'])}), which had to be killed")
            self.killed = True
        there = self.status()
        sockets = (State.BOUND, State.LISTENING, State.STALE)
        ours = there.state in sockets and file_of(Address.parse(self.path)) != self._others
        if ours and not self.killed:
            self.left.append(f"socket file {self.path} ({there.describe()})")
        return code

    def kill(self) -> int:
        """SIGKILL to all its processes; its exit status."""
        self.killed = True
        return self._process.kill()

    def pause(self) -> None:
        """SIGSTOP to the first process: it listens, and answers nobody."""
        self._process.freeze()

    def resume(self) -> None:
        """SIGCONT."""
        self._process.thaw()

    def restart(self) -> None:
        """Stop it, if it lives, and start it anew; it serves when this returns."""
        if self._process.gone() is None:
            self.stop()
        self._log = self.log()
        self._runs = False
        self._process.__exit__()
        self._begin()

    def close(self) -> None:
        """Stop it, if it lives, and forget it."""
        if self._runs:
            self._runs = False
            with suppress(AgentGone):  # and all that it had started
                if self._process.gone() is None:
                    self.stop()
                if self.left:
                    self._log += self._process.output()
                    self.ended = self._process.gone()
            self._process.__exit__()

    def __repr__(self) -> str:
        return f"<process {self.pid}: {shlex.join(self.command)}>"
