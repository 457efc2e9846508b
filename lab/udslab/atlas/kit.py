"""What behaviours are measured with: sockets, paths, children, and the names of errnos."""

from __future__ import annotations

import errno
import functools
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Union

from udslab.atlas.behaviour import Kind, NotHere, Pair
from udslab.atlas.requirement import Requirement, why_not
from udslab.limits import become
from udslab.socktype import SocketType

__all__ = [
    "OTHER_UID",
    "Child",
    "Kit",
    "count_signals",
    "errno_of",
    "events",
    "fill",
    "is_gvisor",
    "kernel",
    "limit_waiting",
    "outcome",
    "receive_too_short",
    "version",
]

Socket = socket.socket
"""For annotations in :class:`Kit`, where ``socket`` is a method."""
OTHER_UID = 65534
"""The user that a child becomes: nobody, on most systems; and its group."""


_NAMES = {**errno.errorcode, errno.EAGAIN: "EAGAIN", errno.EOPNOTSUPP: "EOPNOTSUPP"}
"""Where a number has two names, that of the manual pages."""


def errno_of(call: Callable[..., Any], *arguments: Any) -> str:
    """ "ok", or the name of the errno with which a call fails ("SIGPIPE is not waited for": Python ignores it)."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno is None:
            return type(error).__name__
        return _NAMES.get(error.errno, str(error.errno))
    return "ok"


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives (bytes as text), or the name of the errno with which it fails."""
    given: list[Any] = []
    said = errno_of(lambda: given.append(call(*arguments)))
    if said != "ok":
        return said
    return given[0].decode("latin-1") if isinstance(given[0], bytes) else given[0]


_MANY = 10_000


def fill(sock: socket.socket, *messages: bytes, address: Any = None) -> list[int]:
    """Send until that would block: the first message again and again, and then the next one. How much each has sent.

    Without any: of 4 KiB first, then single bytes, so that nothing at all fits any more."""
    sent: list[int] = []
    for message in messages or (b"m" * 4096, b"m"):
        with suppress(BlockingIOError):
            while len(sent) < _MANY:
                if address is None:
                    sent.append(sock.send(message, socket.MSG_DONTWAIT))
                else:
                    sent.append(sock.sendto(message, socket.MSG_DONTWAIT, address))
    if len(sent) >= _MANY:
        raise RuntimeError(f"not full after {_MANY:,} messages")
    return sent


def limit_waiting(sock: socket.socket, seconds: float) -> None:
    """Let a blocking socket's sends and receives fail with EAGAIN after this time."""
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


_EVENTS = {"IN": 0x1, "PRI": 0x2, "OUT": 0x4, "ERR": 0x8, "HUP": 0x10, "RDHUP": 0x2000}


def events(sock: socket.socket, asked: str = "IN|PRI|OUT|RDHUP", seconds: float = 0) -> str:
    """What poll(2) says of a socket at once, or within a time: "IN|OUT"."""
    poll = select.poll()
    poll.register(sock, sum(_EVENTS[word] for word in asked.split("|") if word))
    bits = sum(bits for _, bits in poll.poll(seconds * 1000))
    return "|".join(word for word, bit in _EVENTS.items() if bits & bit)


def count_signals(number: int) -> list[int]:
    """A list that gets an item for every such signal from now on."""
    seen: list[int] = []
    signal.signal(number, lambda number, _: seen.append(number))
    return seen


class Child:
    """A forked child that runs a function; what that gives comes back as JSON."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _run_and_tell(function, write)
        os.close(write)

    def result(self) -> Any:
        """What the function has given, when the child has ended. Raises what it raised: OSError, NotHere; RuntimeError
        for anything else, also for a death by a signal."""
        with open(self._read, "rb") as file:
            said = file.read()
        _, status = os.waitpid(self.pid, 0)
        if not said:
            code = os.waitstatus_to_exitcode(status)
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            raise RuntimeError(f"a child has ended with {how}")
        told = json.loads(said)
        if "errno" in told:
            raise OSError(told["errno"], os.strerror(told["errno"]))
        if "not_here" in told:
            raise NotHere(told["not_here"])
        if "error" in told:
            raise RuntimeError(told["error"])
        return told["result"]

    def sleeps(self) -> bool:
        """Whether it comes to wait in a call of the system (or ends); what is to wake it must not have happened yet."""
        end = time.monotonic() + 2
        while time.monotonic() < end:
            state = self._state()
            if state in "SZX":
                return state == "S"
            time.sleep(0.001)
        return False

    def _state(self) -> str:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0].decode()
        except FileNotFoundError:
            raise NotHere("no /proc that tells what a process does") from None

    def wait(self) -> str:
        """How it ends: "status 0", or the name of a signal. Instead of :meth:`result`."""
        os.close(self._read)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return signal.Signals(-code).name if code < 0 else f"status {code}"

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


def _run_and_tell(function: Callable[[], Any], write: int) -> None:
    """In the child; never returns."""
    try:
        try:
            told = {"result": function()}
        except OSError as error:
            told = {"errno": error.errno or errno.EIO}
        except NotHere as reason:
            told = {"not_here": str(reason)}
        except BaseException as error:  # noqa: BLE001 - it is told to the parent
            told = {"error": repr(error)}
        os.write(write, json.dumps(told).encode())
    finally:
        os._exit(0)


class Kit:
    """What one measurement works with. What it makes is closed at the end."""

    def __init__(self, directory: str, why_none: str = "") -> None:
        self._directory = directory
        self._why_none = why_none
        self._exits = ExitStack()
        self._numbers = 0

    def __enter__(self) -> Kit:
        return self

    def __exit__(self, *exc: object) -> None:
        self._exits.close()

    @property
    def directory(self) -> str:
        """Empty, private, and of so short a path that any socket fits; what is left in it is removed. Raises NotHere
        where there can be none."""
        if not self._directory:
            raise NotHere(self._why_none)
        return self._directory

    def close_at_end(self, thing: Any) -> Any:
        """``thing``, whose ``close()`` is called at the end."""
        self._exits.callback(thing.close)
        return thing

    def at_end(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call it at the end."""
        self._exits.callback(call, *arguments)

    def path(self, name: str = "") -> str:
        """A fresh path in the directory."""
        self._numbers += 1
        return os.path.join(self.directory, name or f"s{self._numbers}")

    def abstract(self) -> bytes:
        """A fresh abstract name, with its NUL."""
        return b"\0udslab-atlas-" + os.urandom(8).hex().encode()

    def socket(
        self, type: Union[SocketType, str] = SocketType.STREAM, bind: Any = None, listen: int | None = None
    ) -> Socket:
        """A blocking socket: bound, and listening with that backlog, if these are given."""
        sock: Socket = self.close_at_end(socket.socket(socket.AF_UNIX, SocketType(type).constant))
        if bind is not None:
            sock.bind(bind)
        if listen is not None:
            sock.listen(listen)
        return sock

    def server(self, type: Union[SocketType, str] = SocketType.STREAM, address: Any = None) -> Socket:
        """A socket bound there, or at a fresh path; it listens if it is of a type that does."""
        backlog = 5 if SocketType(type).connects else None
        return self.socket(type, bind=self.path() if address is None else address, listen=backlog)

    def pair(self, pair: Pair) -> tuple[Socket, Socket]:
        """Two sockets that are connected with each other, of this kind. The first has connected (or sends), the second
        was accepted (or bound); a pair of datagram sockets is connected both ways."""
        if pair.kind is Kind.SOCKETPAIR:
            left, right = socket.socketpair(socket.AF_UNIX, pair.type.constant)
            self.close_at_end(left)
            self.close_at_end(right)
        else:
            left, right = self._meet(pair)
        for end in (left, right):
            end.setblocking(pair.blocking)
        return left, right

    def _address(self, kind: Kind) -> Any:
        return self.path() if kind is Kind.PATHNAME else self.abstract()

    def _meet(self, pair: Pair) -> tuple[Socket, Socket]:
        right = self.socket(pair.type, bind=self._address(pair.kind))
        left = self.socket(pair.type)
        if pair.type is SocketType.DGRAM:
            left.bind(self._address(pair.kind))
            left.connect(right.getsockname())
            right.connect(left.getsockname())
            return left, right
        right.listen(1)
        left.connect(right.getsockname())
        accepted = self.close_at_end(right.accept()[0])
        right.close()
        return left, accepted

    def child(self, function: Callable[[], Any]) -> Child:
        """A forked child that runs a function; it is killed at the end if it still runs."""
        child = Child(function)
        self._exits.callback(_kill_if_there, child.pid)
        return child

    def in_child(self, function: Callable[[], Any]) -> Any:
        """What a function gives in a forked child: for what changes the process for good."""
        return self.child(function).result()

    def as_other_user(self, function: Callable[[], Any]) -> Any:
        """The same as another user, without any capability. The directory may be searched by that user from now on."""
        os.chmod(self.directory, 0o755)  # noqa: S103 - the other user is to get to what is in it

        def other() -> Any:
            become(OTHER_UID, OTHER_UID)
            return function()

        return self.in_child(other)

    def unprivileged(self, function: Callable[[], Any]) -> Any:
        """The same as somebody who is bound by modes: as another user if this one is not, else in a child of this user.
        So let modes give all users the same."""
        if why_not(Requirement.DAC_OVERRIDE):
            return self.in_child(function)
        why = why_not(Requirement.OTHER_USER)
        if why:
            raise NotHere(why)
        return self.as_other_user(function)


def _kill_if_there(pid: int) -> None:
    with suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


_NEWEST = (sys.maxsize,)


@functools.cache
def is_gvisor() -> bool:
    """gVisor calls itself Linux 4.4.0; but its /proc has its name in the command line, and a file of its own."""
    with suppress(OSError), open("/proc/cmdline") as file:
        if "gvisor" in file.read():
            return True
    return os.path.exists("/proc/sentry-meminfo")


def version(release: str, gvisor: bool) -> tuple[int, ...]:
    """The version of Linux that a kernel is compared with: its own, (6, 18, 44). gVisor, whatever it calls itself, is
    compared with the newest one."""
    if gvisor:
        return _NEWEST
    return tuple(int(number) for number in release.split("-")[0].split(".") if number.isdecimal())


def kernel() -> tuple[int, ...]:
    """That of the running kernel."""
    return version(os.uname().release, is_gvisor())


def python() -> tuple[int, int]:
    """The version of Python: (3, 11)."""
    return sys.version_info[:2]


def receive_too_short(kit: Kit, pair: Pair) -> dict[str, Any]:
    """What becomes of records for which a receive has no room, and what tells of it."""
    left, right = kit.pair(pair)
    for message in (b"abcdef", b"ghijkl", b"mn"):
        left.send(message)
    seen: dict[str, Any] = {"recv": outcome(right.recv, 2)}
    for name in ("recvmsg", "long enough"):
        data, _, flags, _ = right.recvmsg(2)
        seen[name] = [data.decode(), bool(flags & socket.MSG_TRUNC)]
    return {**seen, "then": outcome(right.recv, 10, socket.MSG_DONTWAIT)}
