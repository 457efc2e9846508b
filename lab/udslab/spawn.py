"""Processes of our own and of others: started so that they end with us, waited for, ended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Protocol

from udslab import libc
from udslab.address import AddressLike, printable
from udslab.deadline import Deadline
from udslab.errors import Stage, TimedOut, UdsError, failure
from udslab.signals import reset_signals
from udslab.state import Status, status

__all__ = [
    "Ending",
    "Process",
    "change_environment",
    "end_with_parent",
    "enter",
    "how_ended",
    "not_started",
    "user_name",
    "wait_until",
]

_LAST_PAUSE = 0.02


def end_with_parent() -> Callable[[], None]:
    """A function for a child to call between fork and exec (or at once, if it only forks): from then on it gets SIGKILL
    when the thread that forked it ends (PR_SET_PDEATHSIG, prctl(2); an exec of a set-user-id program clears it)."""
    parent = os.getpid()

    def in_child() -> None:
        libc.get_killed_with_parent()
        if os.getppid() not in (parent, 0):  # 0: in a pid namespace of its own
            os._exit(1)  # it has died before the line above

    return in_child


def how_ended(code: int) -> str:
    """An exit status, the negative of the signal that ended it, in words."""
    if code >= 0:
        return f"has ended with status {code}"
    with contextlib.suppress(ValueError):  # a real-time signal, which has no name
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def change_environment(changes: Mapping[str, str | None]) -> None:
    """Set these variables of this process; None: unset it."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def enter(directory: str) -> None:
    """Go to the directory that a command is to be started in. Raises :class:`~udslab.errors.UdsError`."""
    try:
        os.chdir(directory)
    except OSError as error:
        hint = f"the command's directory (cwd=) has to be there, and {_user()} to be let in"
        raise failure(Stage.AGENT, error, directory, hint) from error


def not_started(cause: OSError, program: str, env: Mapping[str, str]) -> UdsError:
    """The error for a program that this user could not start in this directory: with what is so, for the kernel's word
    for it is the same for a program that is not there and for its interpreter, for one and for a directory before it.
    """
    return failure(Stage.AGENT, cause, program, _why_not(cause.errno, program, env.get("PATH", os.defpath)))


def _why_not(number: int | None, program: str, path: str) -> str:
    files = [program] if os.sep in program else [os.path.join(where, program) for where in path.split(os.pathsep)]
    file = next(filter(os.path.exists, files), None)
    if file is None:
        closed = next(filter(None, map(_closed, files)), None) if number == errno.EACCES else None
        return "is it installed there?" if closed is None else f"{_user()} may not search {closed}, where it may be"
    mode = os.stat(file).st_mode
    if stat.S_ISDIR(mode):
        return "it is a directory"
    interpreter = _interpreter(file)
    if number == errno.ENOENT:
        missing = "what loads it (see: readelf -l)" if interpreter is None else f"its interpreter {interpreter}"
        return f"it is there, and {missing} is not"
    if number == errno.ENOEXEC:
        return "it has no #! line, and is no program of this machine"
    if number != errno.EACCES:
        return ""
    if not mode & 0o111:
        return "it is not executable: chmod +x"
    for needed in (file, interpreter):
        if needed is not None and not os.access(needed, os.X_OK):
            return f"{_user()} may not execute {'it' if needed is file else f'its interpreter {needed}'}"
    return "is its file system mounted noexec?"


def _closed(file: str) -> str | None:
    """The first directory on the way to a file, and to what it links to, that may not be searched."""
    closed = None
    above = os.path.dirname(os.path.realpath(file))
    while not os.access(above, os.X_OK):
        if os.path.exists(above):
            closed = above
        above = os.path.dirname(above)
    return closed


def _interpreter(file: str) -> str | None:
    """What the first line of a script names."""
    with contextlib.suppress(OSError), open(file, "rb") as script:
        words = script.readline(256).split()
        if words and words[0].startswith(b"#!"):
            return os.fsdecode(words[0][2:] or b" ".join(words[1:2]))
    return None


def user_name(uid: int) -> str:
    """What a user is called; the number, if that has no name here."""
    with contextlib.suppress(ImportError, KeyError, OverflowError):  # not on every platform, nor in every image
        import pwd

        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _user() -> str:
    return f"user {user_name(os.geteuid())}"


class Process:
    """A child process. As a context manager it ends with the block, by SIGTERM and then SIGKILL.

    It ends with us, too: it gets SIGKILL when the *thread* that started it ends (PR_SET_PDEATHSIG, prctl(2)); unless
    ``with_us`` is false, for one that sees for itself that nobody reads what it says. It has a session of its own, and
    every signal at its default and let through: a harness in the background hands down an ignored SIGINT.
    ``stdout`` and ``stderr`` go to one file, which :meth:`output` reads, unless given.
    """

    def __init__(
        self,
        command: Sequence[str | bytes | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        with_us: bool = True,
    ) -> None:
        self.command = [os.fsdecode(word) for word in command]
        import tempfile  # see connection

        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        end_with_us = end_with_parent()

        def in_child() -> None:
            reset_signals()
            if with_us:
                end_with_us()

        try:
            self._popen = subprocess.Popen(
                self.command,
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=self._log if stdout is None else stdout,
                stderr=self._log,
                start_new_session=True,
                preexec_fn=in_child,
            )
        except BaseException:
            self._log.close()
            raise
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative of the signal that ended it, or None while it runs."""
        return self._popen.poll()

    @property
    def name(self) -> str:
        """What it is called in messages: its command's first word."""
        return self.command[0]

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output, if that is a pipe (``stdout=subprocess.PIPE``)."""
        assert self._popen.stdout is not None
        return self._popen.stdout

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited; its exit status. Raises :class:`~udslab.errors.TimedOut`."""
        if not self.exits_within(timeout):
            raise TimedOut(
                Stage.SERVICE,
                errno.ETIMEDOUT,
                None,
                what=f"{self.command[0]} (pid {self.pid}) has not ended within {timeout:g} s",
            )
        return self._popen.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has exited."""
        self._popen.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP, and wait until it is stopped."""
        self.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def end(self, grace: float = 5.0) -> int:
        """SIGTERM; SIGKILL if it still runs after ``grace`` seconds, and to what it leaves of its process group; its
        exit status."""
        self.send_signal(signal.SIGTERM)
        self.exits_within(grace)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to its process group; its exit status (-9, if it had not ended before)."""
        if self._popen.returncode is None:  # not fetched yet, so that the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._popen.wait()

    def output(self) -> str:
        """What it has written so far."""
        # Not seek and read: the child shares the offset.
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="backslashreplace")

    def wait_serving(self, address: AddressLike, timeout: float = 10.0) -> Status:
        """Wait until a server serves ``address``; what is there then. No server notices.

        Raises :class:`~udslab.errors.UdsError` at once when the process ends before that, with the last line that it
        has written; :class:`~udslab.errors.TimedOut` after ``timeout`` seconds.
        """
        return wait_until(address, lambda found: found.serving, timeout, self)

    def exits_within(self, timeout: float | None) -> bool:
        """Whether it has exited, at the latest after ``timeout`` seconds."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.end()
        finally:
            os.close(self._pidfd)
            self._log.close()
            for pipe in (self._popen.stdin, self._popen.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class Ending(Protocol):
    """A process whose end can be waited for: :class:`Process`, or one that an agent has started."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""

    def output(self) -> str:
        """What it has written."""

    def exits_within(self, timeout: float | None) -> bool:
        """Whether it has exited, at the latest after ``timeout`` seconds."""


def wait_until(
    address: AddressLike,
    wanted: Callable[[Status], bool],
    timeout: float = 10.0,
    process: Ending | None = None,
    look: Callable[[AddressLike], Status] = status,
) -> Status:
    """Wait until what is at ``address`` is as ``wanted``; what is there then.

    Looks again and again, ever more rarely, for no event tells when a socket begins to listen; the end of ``process``
    is an event. Raises as :meth:`Process.wait_serving`.
    """
    deadline = Deadline(timeout)
    pause = 0.0005
    while True:
        # In this order: what it has done before it ended counts.
        ended = process is not None and process.returncode is not None
        found = look(address)
        if wanted(found):
            return found
        if ended and process is not None:
            lines = process.output().strip().splitlines() or ["it has written nothing"]
            raise UdsError(
                Stage.SERVICE,
                errno.ECHILD,
                str(found.address),
                f"its last line: {printable(os.fsencode(lines[-1]))}",
                f"{process.name} has ended with status {process.returncode} and the path is {found.describe()}",
            )
        left = deadline.left() or 0.0
        if not left:
            raise TimedOut(
                Stage.SERVICE, errno.ETIMEDOUT, str(found.address), what=f"still {found.describe()} after {timeout:g} s"
            )
        pause = min(pause * 1.5, _LAST_PAUSE, left)
        if process is not None:
            process.exits_within(pause)
        else:
            select.select([], [], [], pause)
