"""Driving an agent (:mod:`udslab.agent`) from elsewhere: its servers, connections and looks, as if they were here."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from udslab.address import Address, AddressLike
from udslab.connection import connect
from udslab.credentials import Credentials
from udslab.deadline import Deadline
from udslab.errors import AgentGone, Stage, TimedOut, UdsError
from udslab.recording import Recorded, read_record
from udslab.spawn import how_ended, wait_until
from udslab.state import Status
from udslab.wire import (
    Lines,
    Message,
    decode_address,
    decode_credentials,
    decode_error,
    decode_status,
    encode_address,
    line,
    pack,
    unpack,
)

__all__ = [
    "Channel",
    "Info",
    "Remote",
    "RemoteConnection",
    "RemoteProcess",
    "SocketChannel",
    "SupervisedProcess",
    "drive",
]
_FORKED = "it belongs to the process that this one was forked from"
_BEAT = 10.0
"""Seconds between heartbeats; an agent's lease is thrice as long."""
_GRACE = 5.0
"""Seconds that a process gets to end by itself."""
_PATIENCE = 30.0
"""Seconds in which an agent answers whatever takes no time of its own."""


class Channel(Protocol):
    """A connection to an agent. ``send`` and ``receive`` may be called by different threads."""

    def send(self, data: bytes, timeout: float) -> None:
        """Send all of it. Raises OSError; :class:`~udslab.errors.TimedOut` after ``timeout`` seconds in which the agent
        did not take it: if it has taken a part, the channel is of no use any more."""

    def receive(self, timeout: float | None) -> bytes | None:
        """What has come; None after ``timeout`` seconds without any, b"" at the end. Raises OSError."""

    def close(self) -> None:
        """End it: the agent reads end of input, and ``receive`` returns in whatever thread it waits."""

    def why(self) -> str:
        """What is known about why it has ended, in words."""

    def fileno(self) -> int:
        """The descriptor that it receives from."""


def _timed_out(what: str) -> TimedOut:
    return TimedOut(Stage.AGENT, errno.ETIMEDOUT, None, "is it paused, or its machine too busy?", what)


class SocketChannel:
    """A channel over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes, timeout: float) -> None:
        """See :class:`Channel`."""
        if type(self._sock) is not socket.socket:  # TLS takes no flags
            self._sock.sendall(data)
            return
        deadline = Deadline(timeout)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                if deadline.passed:
                    if len(rest) < len(data):
                        self._sock.shutdown(socket.SHUT_RDWR)
                    raise _timed_out("the agent takes nothing") from None
                poll = select.poll()
                poll.register(self._sock, select.POLLOUT)
                poll.poll((deadline.left() or 0.0) * 1000)

    def receive(self, timeout: float | None) -> bytes | None:
        """See :class:`Channel`."""
        if timeout == 0 and type(self._sock) is socket.socket:
            try:
                return self._sock.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return self._sock.recv(1 << 16) if poll.poll(None if timeout is None else timeout * 1000) else None

    def close(self) -> None:
        """See :class:`Channel`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that receives
        self._release()

    def _release(self) -> None:
        self._sock.close()

    def why(self) -> str:
        """See :class:`Channel`."""
        return ""

    def fileno(self) -> int:
        """See :class:`Channel`."""
        return self._sock.fileno()


@dataclass(frozen=True)
class Info:
    """What an agent is: its version of the lab, Python, kernel and machine (as ``uname -r`` and ``-m`` tell them), host
    name, and its own pid, uid, gid and umask there."""

    version: str
    python: str
    kernel: str
    machine: str
    host: str
    pid: int
    uid: int
    gid: int
    umask: int


class Remote:
    """An agent, as its driver sees it. As a context manager its end is the agent's.

    Any thread may ask; there is none that listens all the time: of those that wait for an answer, one takes in what
    comes for all. ``beats``: :meth:`beating` as long as it is open, for an agent with a lease. A forked child must not
    use it.
    """

    def __init__(self, channel: Channel, name: str, *, beats: bool = True) -> None:
        self.name = name
        self._channel = channel
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        """Of the five below."""
        self._awaited: set[int] = set()
        self._answers: dict[int, Message] = {}
        self._gone_children: dict[int, int] = {}
        """The exit status of the supervised processes of which nothing lives any more."""
        self._receiving = False
        """Whether a thread takes in what comes."""
        self._gone: str | None = None
        """Why it has ended."""
        self._lines = Lines()
        self._pid = os.getpid()
        self._exits = contextlib.ExitStack()
        if beats:
            self._exits.enter_context(self.beating())

    # What can be asked

    def info(self) -> Info:
        """Who and where it is."""
        return Info(**self.ask("info"))

    def status(self, address: AddressLike, *, owners: bool = False) -> Status:
        """What is at ``address`` there, as :func:`udslab.state.status` sees it there."""
        return decode_status(self.ask("status", address=encode_address(address), owners=owners))

    def serve(
        self,
        address: AddressLike,
        service: str = "upper",
        *,
        umask: int | None = None,
        surroundings: Mapping[str, Any] | None = None,
        record: bool = False,
        **options: Any,
    ) -> RemoteProcess:
        """Start a server in a process of its own there; it serves when this returns. ``options``: those of
        :func:`udslab.server.serve`. Raises as that, the error having happened there.

        ``surroundings``: ``cwd``, ``path`` (sys.path) and ``env`` (names and values, None for those that are not set),
        where they are not the agent's. ``record``: keep for :meth:`RemoteProcess.record` what it receives.
        """
        if not isinstance(service, str):
            raise TypeError(f"a service in another process goes by its name or module:name, not as {service!r}")
        words = {key: getattr(value, "value", value) for key, value in options.items()}
        answer = self.ask(
            "serve",
            address=encode_address(address),
            umask=umask,
            record=record,
            options={"service": service, **words},
            **(surroundings or {}),
        )
        return RemoteProcess(self, f"server on {Address.parse(address)}", answer)

    def start(
        self,
        command: Sequence[str | bytes | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        umask: int | None = None,
    ) -> RemoteProcess:
        """Start a command there, with the agent's environment unless ``env`` is given."""
        answer = self.ask(
            "start",
            command=[os.fsdecode(word) for word in command],
            env=None if env is None else dict(env),
            cwd=cwd,
            umask=umask,
        )
        return RemoteProcess(self, os.fsdecode(command[0]), answer)

    def supervise(
        self,
        command: Sequence[str | bytes | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        umask: int | None = None,
        **options: Any,
    ) -> SupervisedProcess:
        """Start a command there as :meth:`start` does, and follow it through its forks: nothing of it escapes.
        ``options``: the rest of what :func:`udslab.supervisor.supervise` takes."""
        answer = self.ask(
            "supervise",
            command=[os.fsdecode(word) for word in command],
            env=None if env is None else dict(env),
            cwd=cwd,
            umask=umask,
            **options,
        )
        return SupervisedProcess(self, os.fsdecode(command[0]), {**answer, "pid": answer["main"]})

    def connect(
        self,
        address: AddressLike,
        *,
        type: str = "stream",
        timeout: float | None = None,
        bind: AddressLike | None = None,
        umask: int | None = None,
    ) -> RemoteConnection:
        """Connect there, in a process of its own. Raises as :func:`udslab.connection.connect`."""
        own = bind if bind is None or bind == "auto" else encode_address(bind)
        options = {"type": str(type), "timeout": timeout, "bind": own}
        answer = self.ask("connect", timeout, address=encode_address(address), umask=umask, options=options)
        return RemoteConnection(self, answer)

    def ask(self, op: str, needs: float | None = 0.0, /, **arguments: Any) -> Any:
        """Ask the agent for an operation that ``needs`` up to so many seconds (None: who knows), and wait for its
        answer.

        Raises what it raised there, :class:`~udslab.errors.AgentGone`, :class:`~udslab.errors.TimedOut`.
        """
        id = next(self._numbers)
        self._awaited.add(id)
        try:
            self._send({"id": id, "op": op, **arguments})
            answer = self._wait_for(id, Deadline(None if needs in (None, math.inf) else _PATIENCE + (needs or 0.0)))
        finally:
            with self._changed:
                self._awaited.remove(id)
                self._answers.pop(id, None)
        if answer is None:
            raise _timed_out(f"the agent of {self.name} has not answered {op!r}")
        if "error" in answer:
            raise decode_error(answer["error"])
        return answer["result"]

    def gone(self, child: int) -> int | None:
        """The exit status of a supervised child if nothing of it lives any more, as far as has been told.

        Raises :class:`~udslab.errors.AgentGone` if that is not known and will never be."""
        alive = self.alive  # takes in what has come
        if not alive and child not in self._gone_children:
            raise self._ended(self._gone or "")
        return self._gone_children.get(child)

    def gone_within(self, child: int, timeout: float | None) -> bool:
        """Whether nothing of a supervised child lives any more, at the latest after ``timeout`` seconds.

        Raises :class:`~udslab.errors.AgentGone`."""
        deadline = Deadline(timeout)
        with self._changed:
            while child not in self._gone_children:
                if self._gone is not None:
                    raise self._ended(self._gone)
                if deadline.passed:
                    return False
                self._await(deadline)
            return True

    def fileno(self) -> int:
        """A descriptor that can be read when something has come that nobody has taken in yet."""
        return self._channel.fileno()

    def tell(self, op: str, **arguments: Any) -> None:
        """Ask for an operation that is not answered."""
        self._send({"op": op, **arguments})

    def discard(self, child: int) -> None:
        """End a child of the agent's, if that lives itself, and forget it."""
        with contextlib.suppress(AgentGone):
            self.ask("end", _GRACE, child=child, grace=_GRACE, forget=True)

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as can be seen from here."""
        with self._changed:
            while self._take_in(Deadline(0)):
                pass
            return self._gone is None

    def ends_within(self, timeout: float | None) -> bool:
        """Whether it has ended, at the latest after ``timeout`` seconds."""
        deadline = Deadline(timeout)
        with self._changed:
            while self._gone is None and not deadline.passed:
                self._await(deadline)
            return self._gone is not None

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Within the block a thread sends heartbeats, without which a lease runs out."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(_BEAT):
                with contextlib.suppress(UdsError):  # whoever asks for something is told
                    self.tell("beat")

        thread = threading.Thread(target=beat, name=f"udslab beats {self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        """End the connection, and with it the agent and all that it has started. In a forked child: does nothing."""
        if os.getpid() != self._pid:
            return
        self._exits.close()
        self._channel.close()
        with self._changed:
            if self._gone is None:
                self._gone = "it was closed"
            self._changed.notify_all()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # The wire

    def _send(self, message: Message) -> None:
        if os.getpid() != self._pid:
            raise self._ended(_FORKED)
        data = line(message)
        if not self._sending.acquire(timeout=_PATIENCE):
            raise _timed_out("the agent takes nothing")
        try:
            if self._gone is not None:
                raise self._ended(self._gone)
            self._channel.send(data, _PATIENCE)
        except UdsError:
            raise
        except OSError as error:
            with self._changed:
                while self._take_in(Deadline(1)):  # what it has said at its end tells more
                    pass
                if self._gone is None:
                    self._gone = str(error)
            raise self._ended(self._gone) from error
        finally:
            self._sending.release()

    def _wait_for(self, id: int, deadline: Deadline) -> Message | None:
        """The answer to a request; None if it has not come in time."""
        with self._changed:
            while id not in self._answers:
                if self._gone is not None:
                    raise self._ended(self._gone)
                if deadline.passed:
                    return None
                self._await(deadline)
            return self._answers[id]

    def _await(self, deadline: Deadline) -> None:
        """Wait until something has come, taken in by this thread or another."""
        if self._receiving:
            self._changed.wait(deadline.left())
        else:
            self._take_in(deadline)

    def _take_in(self, deadline: Deadline) -> bool:
        """Take in what comes next, unless another thread does; whether there was anything."""
        if os.getpid() != self._pid:  # what comes is for the process that has asked
            self._gone = _FORKED
        if self._receiving or self._gone is not None:
            return False
        self._receiving = True
        self._changed.release()
        why = data = None
        try:
            data = self._channel.receive(deadline.left())
            messages = list(self._lines.feed(data or b""))
        except (OSError, ValueError) as error:  # ValueError: the descriptor has been closed
            why, messages = str(error), []
        finally:
            self._changed.acquire()
            self._receiving = False
            self._changed.notify_all()
        for message in messages:
            if message.get("id") in self._awaited:
                self._answers[message["id"]] = message
            elif message.get("event") == "gone":
                self._gone_children[message["child"]] = message["code"]
        if data == b"" or why is not None:
            self._gone = self._channel.why() or why or ""
        return bool(data)

    def _ended(self, why: str) -> AgentGone:
        return AgentGone(Stage.AGENT, errno.ESHUTDOWN, None, why, f"the agent of {self.name} has ended")


class RemoteProcess:
    """A process that an agent has started. As a context manager it ends with the block."""

    def __init__(self, remote: Remote, name: str, answer: Message) -> None:
        self.name = name
        self.pid: int = answer["pid"]
        """Its number in the agent's pid namespace."""
        self._remote = remote
        self._number: int = answer["child"]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has exited. After SIGSTOP it is stopped when this returns."""
        self._remote.ask("signal", child=self._number, signal=int(number))

    def freeze(self) -> None:
        """SIGSTOP, and wait until it is stopped."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited; its exit status, the negative of the signal that ended it.

        Raises :class:`~udslab.errors.TimedOut`.
        """
        return int(self._remote.ask("wait", timeout, child=self._number, timeout=timeout))

    @property
    def returncode(self) -> int | None:
        """Its exit status, as with :meth:`wait`; None while it runs."""
        try:
            return self.wait(0)
        except TimedOut:
            return None

    def exits_within(self, timeout: float | None) -> bool:
        """Whether it has exited, at the latest after ``timeout`` seconds."""
        try:
            self.wait(timeout)
        except TimedOut:
            return False
        return True

    def end(self, grace: float = _GRACE) -> int:
        """SIGTERM; SIGKILL if it still runs after ``grace`` seconds; its exit status."""
        return int(self._remote.ask("end", grace, child=self._number, grace=grace))

    def kill(self) -> int:
        """SIGKILL to its process group; its exit status (-9, if it had not ended before)."""
        return int(self._remote.ask("end", child=self._number))

    def output(self) -> str:
        """What it has written so far: the last 256 KiB."""
        answer = self._remote.ask("output", child=self._number)
        dropped = f"[{answer['dropped']} bytes before this were dropped]\n" if answer["dropped"] else ""
        return dropped + unpack(answer["data"]).decode(errors="backslashreplace")

    @property
    def written(self) -> int:
        """How many bytes it has written so far."""
        answer = self._remote.ask("output", child=self._number)
        return int(answer["dropped"]) + len(unpack(answer["data"]))

    def record(self) -> list[Recorded]:
        """Whom it has served, and what it has received, if it was told to keep that; also after it was killed."""
        return read_record(unpack(self._remote.ask("record", child=self._number)))

    def __enter__(self) -> RemoteProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self._remote.discard(self._number)


class SupervisedProcess(RemoteProcess):
    """A command that is followed through its forks. ``pid`` is that of its first process, whose exit status it has."""

    killed: Sequence[Message] = ()
    """What :meth:`end` had to kill: ``pid`` and ``command`` of each."""

    def send_signal(self, number: int) -> None:
        """Send a signal to the first process, unless it has exited. After SIGSTOP it is stopped when this returns."""
        self._remote.ask("signal", to=self._number, signal=int(number))

    def signal_left(self, number: int, group: bool = False) -> list[int]:
        """Send a signal to the first process, or if that has exited to the topmost of those that it has left, as when
        it has become a daemon; the pids of whom it was sent to. ``group``: to all of the first process's group, as a
        terminal does."""
        return list(self._remote.ask("signal", to=self._number, signal=int(number), left=True, group=group))

    def freeze(self) -> None:
        """SIGSTOP to all of it, and wait until it is stopped."""
        self._remote.ask("freeze", to=self._number)

    def thaw(self) -> None:
        """SIGCONT to all of it."""
        self._remote.ask("thaw", to=self._number)

    def open_files(self, room: bool, pids: Sequence[int] = ()) -> list[int]:
        """Take the room for another open file from these of its processes (RLIMIT_NOFILE); or give it back to all that
        have been without, or were forked meanwhile. The pids of those for whom that could be done.

        Raises :class:`~udslab.errors.AgentGone` when none lives."""
        return list(self._remote.ask("open_files", to=self._number, room=room, pids=list(pids)))

    def gone_within(self, timeout: float | None) -> bool:
        """Whether nothing of it lives any more, at the latest after ``timeout`` seconds."""
        return self._remote.gone_within(self._number, timeout)

    def end(self, grace: float = _GRACE, number: int = signal.SIGTERM) -> int:
        """A signal to the first process, or if that has exited to those that it has left; SIGKILL to all that still
        runs after ``grace`` seconds, or when those have exited; the first one's exit status."""
        answer = self._remote.ask("end", grace, child=self._number, grace=grace, signal=int(number))
        self.killed = answer["killed"]
        return int(answer["code"])

    def kill(self) -> int:
        """SIGKILL to all of it; the exit status."""
        return self.end(0.0)

    def tree(self) -> list[Message]:
        """All that lives of it: ``pid`` and ``command`` of each."""
        found: list[Message] = self._remote.ask("tree", to=self._number)
        return found

    def gone(self) -> str | None:
        """How it has ended, in words; None while any of it lives."""
        code = self._remote.gone(self._number)
        return None if code is None else how_ended(code)

    def fileno(self) -> int | None:
        """A descriptor that can be read once :meth:`gone` is to be asked."""
        return self._remote.fileno()


class RemoteConnection:
    """A connection that a process of an agent's holds. As a context manager it is closed with the block.

    ``credentials``: of the other side, as the kernel tells them there (None for datagrams); ``address`` and
    ``peer_address``: its own end's, and the other's.
    """

    def __init__(self, remote: Remote, answer: Message) -> None:
        self.credentials: Credentials | None = answer["credentials"] and decode_credentials(answer["credentials"])
        self.address = decode_address(answer["name"])
        self.peer_address = decode_address(answer["peer"])
        self.pid: int = answer["pid"]
        self._remote = remote
        self._number: int = answer["child"]
        self._timeout: float | None = None

    def settimeout(self, timeout: float | None) -> None:
        """Limit each call from now on, in seconds."""
        self._timeout = timeout

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._ask("sendall", data=pack(data))

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes, as soon as there are any; b"" at end of file."""
        return unpack(self._ask("recv", size=size))

    def read_exactly(self, size: int) -> bytes:
        """``size`` bytes. Raises :class:`~udslab.errors.PeerGone`."""
        return unpack(self._ask("read_exactly", size=size))

    def read_line(self) -> bytes:
        """Up to and with the next newline; b"" at end of file. Raises :class:`~udslab.errors.PeerGone`."""
        return unpack(self._ask("read_line"))

    def read_to_end(self) -> bytes:
        """All until the other side closes."""
        return unpack(self._ask("read_to_end"))

    def shutdown(self, how: int) -> None:
        """As ``socket.shutdown``."""
        self._ask("shutdown", how=int(how))

    def close(self) -> None:
        """Close it; a file of its own is removed. A second time: does nothing."""
        if self._number < 0:
            return
        number, self._number = self._number, -1
        self._remote.discard(number)  # not asked of itself, which answers one question after another

    def _ask(self, op: str, **arguments: Any) -> Any:
        timeout = self._timeout
        return self._remote.ask(op, timeout, to=self._number, timeout=timeout, **arguments)

    def __enter__(self) -> RemoteConnection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def drive(address: AddressLike, *, timeout: float = 10.0) -> Remote:
    """Drive the agent that waits at ``address`` (``python3 -m udslab.agent --listen PATH``), once it does.

    Raises as :func:`udslab.connection.connect`, and :class:`~udslab.errors.TimedOut` after ``timeout`` seconds.
    """
    deadline = Deadline(timeout)
    wait_until(address, lambda found: found.serving, timeout)
    return Remote(SocketChannel(connect(address, timeout=deadline.left())), str(Address.parse(address)))
