"""The agent: a small process that starts, kills and looks at servers when it is told to.

It is process 1 of a lab container, driven over the container's standard input and output, or any process with a socket
at which one driver may connect. :mod:`udslab.remote` drives it, in the words of :mod:`udslab.wire`: a request has an
``id``, ``op`` and the operation's arguments; its answer the same ``id`` and ``result`` or ``error``.

Servers and connections are children, forked, and each has a number of its own that is never used again. Every child
leads a process group, has its signals at their defaults (Python's, if it is one), and cannot reach the agent's
descriptors.

The end of the input means that the driver has gone. Where no end of input comes (the engine was killed, a forked child
of the driver's holds the connection) a lease does: no input for that long. Then, as at SIGTERM, it ends what it has
started and exits, within a second.
"""

from __future__ import annotations

import argparse
import errno
import gc
import heapq
import itertools
import logging
import os
import select
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from udslab import __version__, libc
from udslab.address import Address
from udslab.connection import Connection, connect
from udslab.deadline import now
from udslab.errors import AgentGone, Stage, UdsError, failure
from udslab.listener import listen
from udslab.probe import calibrated
from udslab.recording import Recorder
from udslab.server import Server, run_until_signal, serve
from udslab.services import resolve
from udslab.signals import reset_signals, told_of
from udslab.socktype import SocketType, open_pair
from udslab.spawn import change_environment, end_with_parent, enter, not_started
from udslab.state import status
from udslab.supervisor import children_of, rehearse, supervise
from udslab.wire import (
    Lines,
    Message,
    decode_address,
    encode_address,
    encode_credentials,
    encode_error,
    encode_status,
    line,
    pack,
    unpack,
)

__all__ = ["Agent", "main"]

_GRACE = 0.5
"""Seconds that children get at the agent's own end, which must not take more than one."""
_SUPERVISORS_GRACE = 0.3
"""Seconds more, at the agent's own end, in which a supervisor kills what has not ended."""
_SUPERVISORS_PATIENCE = 5.0
"""The same where it is asked for and nobody is in a hurry: a supervisor that is killed tells nothing of what it had to
kill, and the machine may be busy."""
_LAST = 0.95
"""Seconds after which the agent ends though what a killed supervisor has left cannot be killed."""
SPARES = 4
"""How many children are forked ahead."""
_OUTPUT = 1 << 18
"""How many bytes of a child's output are kept: the last ones."""
_CHUNK = 1 << 16
_ROUNDS = 16
"""How many chunks of a child's output are read in a row: as much as a pipe can be made to hold."""
_LONGEST = 3600.0
"""Seconds after which the loop goes round if nothing happens: poll(2) does not take every number."""


@dataclass
class _Child:
    number: int
    pid: int
    channel: socket.socket | None
    output: int
    op: str = ""
    """The operation that it was given; empty while it waits for one."""
    starting: int | None = None
    """The id of the request that is answered when it has started."""
    code: int | None = None
    unsent: bytearray = field(default_factory=bytearray)
    """What is passed on to it, as soon as it takes it."""
    pushing: bool = False
    """Whether it is waited until it takes more."""
    written: bytearray = field(default_factory=bytearray)
    dropped: int = 0
    waiting: set[int] = field(default_factory=set)
    """The ids of the requests that are answered when it has ended."""
    asked: set[int] = field(default_factory=set)
    """The ids of the requests that were passed on to it."""
    lines: Lines = field(default_factory=Lines)
    forgotten: bool = False
    record: int = -1
    """The file that it writes its record into (:mod:`udslab.recording`)."""
    first: int | None = None
    """Of a supervisor: the pid of the command that it follows, by which its driver knows it."""
    main: int | None = None
    """Of a supervisor: how the command that it follows has ended."""
    watching: set[int] = field(default_factory=set)
    """The ids of the requests that are answered when that has."""
    stop_signal: int = signal.SIGTERM
    """Of a supervisor: what its command is told to end by."""
    killed: list[Message] | None = None
    """Of a supervisor that has ended: what had to be killed."""

    @property
    def end(self) -> object:
        """What is told of its end: the exit status; of a supervisor that of its command, and what had to be killed."""
        return self.code if self.op != "supervise" else {"code": self.main, "killed": self.killed or []}

    def kill(self, number: int) -> None:
        """A signal to its process group, and so to what it leaves of it when it ends."""
        if self.code is None:  # not fetched yet, so that the number is still its own
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


class Agent:
    """An agent that reads requests from the descriptor ``source`` and writes answers to ``sink``.

    ``lease``: for how many seconds without input it goes on. ``owner``: the pid of a process with which it ends.
    ``until``: when, on the monotonic clock, it ends whatever happens. ``tell``: is called with a line about each thing
    that it does."""

    def __init__(
        self,
        source: int,
        sink: int,
        *,
        lease: float | None = None,
        owner: int | None = None,
        until: float | None = None,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._source = source
        self._sink = sink
        self._lease = lease
        self._heard = now()
        self._tell = tell
        self._lines = Lines()
        self._pending = bytearray()
        self._writing = False
        """Whether it is waited until the driver takes more."""
        self._children: dict[int, _Child] = {}
        self._spares: list[_Child] = []
        """Forked before they are asked for: that, and to put off what is the agent's, is most of the time that a server
        takes to start."""
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ending = False
        self._last = 0.0
        """When, at its end, no orphans are waited for any more."""
        self._lost: list[_Child] = []
        """Supervisors that have ended before what they followed: all that comes to us is theirs, until nothing does."""
        self._selector = selectors.PollSelector()  # takes any file, and is none that children would inherit
        self._wakened, self._waker = open_pair(SocketType.STREAM)
        for fd in {source, sink}:
            os.set_blocking(fd, False)
        self._selector.register(source, selectors.EVENT_READ, self._read)
        self._selector.register(self._wakened, selectors.EVENT_READ, self._signalled)
        self._owner = -1
        if owner is not None:
            self._watch_owner(owner)
        if until is not None:
            self._at(until, lambda: self._end("its time is up"))

    def run(self) -> None:
        """Do what is asked until the input ends, the lease has run out, or SIGTERM or SIGINT comes."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        reset_signals()  # once, for all children
        for number in _PYTHON_IGNORES:
            signal.signal(number, signal.SIG_IGN)
        for number in _OURS:
            signal.signal(number, lambda *_: None)  # it only wakes the loop
        libc.adopt_orphans()  # of a supervisor that was killed
        libc.set_dumpable(False)  # no child of the same user opens our descriptors by /proc
        with suppress(OSError):
            calibrated()  # once, for all children
        # Made once: what a child makes itself are pages that the kernel must copy for it.
        self._theirs = os.fdopen(1, "w", 1, errors="backslashreplace", closefd=False)
        logging.basicConfig(format="udslab: %(message)s", stream=self._theirs)
        gc.freeze()  # what is here now stays: children need not copy it to find that out
        self._have_spares()
        while not (self._ending and self._nothing_lives()):
            for key, mask in self._selector.select(self._pause()):
                key.data(mask)  # harmless where one before it has closed it
            while self._timers and self._timers[0][0] <= now():
                heapq.heappop(self._timers)[2]()
            if self._lease is not None and now() >= self._heard + self._lease:
                self._read(selectors.EVENT_READ)  # after a pause of the container there is something, and it is late
                if now() >= self._heard + self._lease:
                    self._end(f"nothing was heard for {self._lease:g} s")
            if self._pending:
                self._write()
        signal.set_wakeup_fd(-1)
        self._wakened.close()
        self._waker.close()
        if self._owner >= 0:
            os.close(self._owner)

    def _nothing_lives(self) -> bool:
        if any(child.code is None for child in self._children.values()):
            return False
        # Each orphan that is killed may leave us more. Those that are another user's now nobody here can kill.
        return not self._lost or now() >= self._last or not children_of(os.getpid())

    def _watch_owner(self, pid: int) -> None:
        """End with it: a child that it has forked may hold its end of the connection for longer."""
        try:
            self._owner = os.pidfd_open(pid)
        except ProcessLookupError:
            self._at(now(), lambda: self._end("its owner has gone"))
            return
        self._selector.register(self._owner, selectors.EVENT_READ, lambda mask: self._end("its owner has gone"))

    # Input and output

    def _pause(self) -> float | None:
        due = [self._timers[0][0]] if self._timers else []
        if self._lease is not None and not self._ending:
            due.append(self._heard + self._lease)
        return max(0.0, min(_LONGEST, min(due) - now())) if due else None

    def _at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._numbers), call))

    def _read(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write()
        if not mask & selectors.EVENT_READ or self._ending:
            return
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end("its driver has gone")
            return
        self._heard = now()
        try:
            for message in self._lines.feed(data):
                self._handle(message)
        except UdsError as error:
            self._tell(str(error))
            self._end("it was told what it does not understand")

    def _answer(self, id: int | None, result: object = None) -> None:
        if id is not None:
            self._send({"id": id, "result": result})

    def _refuse(self, id: int | None, error: BaseException) -> None:
        if id is not None:
            self._send({"id": id, "error": encode_error(error)})

    def _send(self, message: Message) -> None:
        """Tell the driver, when all that has come has been dealt with."""
        self._pending += line(message)

    def _write(self) -> None:
        """Write what can be written now. Never waits: a driver that does not read must not keep us from ending."""
        try:
            while self._pending:
                del self._pending[: os.write(self._sink, self._pending)]
        except BlockingIOError:
            pass
        except OSError:
            self._pending.clear()
            self._end("its driver has gone")
        if bool(self._pending) is not self._writing:
            self._watch_sink()

    def _watch_sink(self) -> None:
        if self._ending:
            return
        self._writing = not self._writing
        read = selectors.EVENT_READ
        write = selectors.EVENT_WRITE if self._pending else 0
        if self._sink == self._source:
            self._selector.modify(self._source, read | write, self._read)
        elif self._sink in self._selector.get_map() and not write:
            self._selector.unregister(self._sink)
        elif write and self._sink not in self._selector.get_map():
            self._selector.register(self._sink, write, self._read)

    def _signalled(self, mask: int) -> None:
        numbers = self._wakened.recv(_CHUNK)
        self._reap()
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in numbers:
                self._end(signal.Signals(number).name)

    def _end(self, why: str) -> None:
        if self._ending:
            return
        self._tell(f"ends: {why}")
        for fd in {self._source, self._sink, self._owner} - {-1}:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        self._ending = True
        self._last = now() + _LAST
        self._at(self._last, lambda: None)
        for child in self._children.values():
            self._terminate(child, _GRACE, _SUPERVISORS_GRACE)

    # Requests

    def _handle(self, message: Message) -> None:
        id = message.get("id")
        try:
            if "to" in message:
                self._pass_on(message)
            else:
                _OPERATIONS[message["op"]](self, message)
        except Exception as error:  # noqa: BLE001 - it is told to whoever asked
            self._refuse(id, error)

    def _child(self, message: Message, key: str = "child") -> _Child:
        child = self._children.get(message[key])
        if child is None:
            raise failure(Stage.AGENT, errno.ESRCH, None)
        return child

    def _info(self, message: Message) -> None:
        host = os.uname()
        umask = os.umask(0o077)
        os.umask(umask)
        self._answer(
            message["id"],
            {
                "version": __version__,
                "python": sys.version.split()[0],
                "kernel": host.release,
                "machine": host.machine,
                "host": host.nodename,
                "pid": os.getpid(),
                "uid": os.geteuid(),
                "gid": os.getegid(),
                "umask": umask,
            },
        )

    def _status(self, message: Message) -> None:
        found = status(decode_address(message["address"]), owners=message.get("owners", False))
        self._answer(message["id"], encode_status(found))

    def _serve(self, message: Message) -> None:
        address = decode_address(message["address"])
        record = _open_record() if message.get("record") else -1
        self._tell_of(self._employ(message, record), f"serves {address}")

    def _start(self, message: Message) -> None:
        words = " ".join(message["command"])  # before anybody is employed: it may have none
        self._tell_of(self._employ(message), words)

    def _connect(self, message: Message) -> None:
        self._employ(message)

    def _signal_child(self, message: Message) -> None:
        child = self._child(message)
        number = message["signal"]
        if child.code is None:
            self._signal(child, number)
            if number == signal.SIGSTOP:  # a request that comes next finds it stopped
                os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._answer(message["id"], child.code is None)

    def _signal(self, child: _Child, number: int) -> None:
        if child.code is None:  # not fetched yet, so that the number is still its own
            self._tell_of(child, f"gets {_name(number)}")
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)

    def _wait(self, message: Message) -> None:
        child = self._child(message)
        code = child.code if child.main is None else child.main
        if code is not None:
            self._answer(message["id"], code)
            return
        waiting = child.watching if child.op == "supervise" else child.waiting
        waiting.add(message["id"])
        timeout = message.get("timeout")
        if timeout is not None:
            self._at(now() + timeout, lambda: self._give_up(child, waiting, message["id"], timeout))

    def _give_up(self, child: _Child, waiting: set[int], id: int, timeout: float) -> None:
        if id in waiting:
            waiting.remove(id)
            text = f"pid {child.first or child.pid} has not ended within {timeout:g} s"
            self._refuse(id, failure(Stage.AGENT, errno.ETIMEDOUT, None, text))

    def _end_child(self, message: Message) -> None:
        """SIGTERM, and after the grace SIGKILL, also to what it leaves of its process group.

        ``forget``: nobody asks for it any more.
        """
        child = self._child(message)
        grace = message.get("grace", 0.0)
        child.forgotten = message.get("forget", False)
        child.stop_signal = message.get("signal", child.stop_signal)
        if child.code is not None:
            self._answer(message["id"], child.end)
            if child.forgotten:
                self._close(child)
            return
        child.waiting.add(message["id"])
        if grace or child.op == "supervise":
            self._terminate(child, grace, _SUPERVISORS_PATIENCE)
        else:
            self._kill_if_alive(child)

    def _terminate(self, child: _Child, grace: float, more: float) -> None:
        """``more``: seconds beyond the grace that a supervisor gets for killing what has not ended."""
        if child.op == "connect" and child.channel is not None:
            # One that just begins to wait for a question does not notice a signal until it comes.
            with suppress(OSError):
                child.channel.shutdown(socket.SHUT_WR)
        if child.op == "supervise":
            end = {"op": "end", "grace": grace, "signal": child.stop_signal}
            child.unsent += line(end if grace else {"op": "kill"})
            self._push(child)
            self._at(now() + grace + more, lambda: self._kill_if_alive(child))
            return
        with suppress(PermissionError):  # it has become another user
            self._signal(child, signal.SIGTERM)
            child.kill(signal.SIGCONT)  # a stopped one could not end
        self._at(now() + grace, lambda: self._kill_if_alive(child))

    def _tell_of(self, child: _Child, what: str) -> None:
        if child.op not in ("", "connect"):  # servers come and go; clients are whoever asks
            self._tell(f"pid {child.pid}: {what}")

    def _kill_if_alive(self, child: _Child) -> None:
        if child.code is None:
            self._tell_of(child, "gets SIGKILL")
            child.kill(signal.SIGKILL)

    def _output(self, message: Message) -> None:
        child = self._child(message)
        self._drain(child)
        self._answer(message["id"], {"data": pack(bytes(child.written)), "dropped": child.dropped})

    def _record(self, message: Message) -> None:
        child = self._child(message)
        data = b"" if child.record < 0 else os.pread(child.record, os.fstat(child.record).st_size, 0)
        self._answer(message["id"], pack(data))

    def _beat(self, message: Message) -> None:
        """Only to be heard."""

    # Children

    def _employ(self, message: Message, record: int = -1) -> _Child:
        """Give a child what it has to do, and the file for its record."""
        try:
            self._reap()  # somebody may just have killed a spare one
            if self._ending:
                raise AgentGone(Stage.AGENT, errno.ESHUTDOWN, None, what="the agent is about to end")
            child = self._spares.pop(0) if self._spares else self._fork()
        except BaseException:
            if record >= 0:
                os.close(record)
            raise
        child.starting, child.op = message["id"], message["op"]
        child.record = record
        data = line(message)
        if record >= 0 and child.channel is not None:
            data = data[socket.send_fds(child.channel, [data], [record]) :]  # an empty channel takes something at once
        child.unsent += data
        self._push(child)
        return child

    def _have_spares(self) -> None:
        """Several at a time: after a fork the kernel must copy also what the agent touches, once for all of them."""
        if self._spares:
            return
        self._write()  # nobody shall wait for what follows
        if self._ending:  # perhaps only since then
            return
        with suppress(OSError):  # then the next one is forked, or fails, when it is asked for
            for _ in range(SPARES):
                self._spares.append(self._fork())

    def _fork(self) -> _Child:
        ours, theirs = open_pair(SocketType.STREAM)
        with theirs:
            try:
                pid, read = self._fork_with(ours, theirs)
            except OSError:
                ours.close()
                raise
        child = _Child(next(self._numbers), pid, ours, read)
        self._take_on(child, self._selector.register)
        return child

    def _take_on(self, child: _Child, listen_to: Callable[[Any, int, Callable[[int], None]], object]) -> None:
        self._children[child.number] = child
        listen_to(child.channel, selectors.EVENT_READ, lambda mask: self._attend(child, mask))
        listen_to(child.output, selectors.EVENT_READ, lambda mask: self._drain(child))

    def _fork_with(self, ours: socket.socket, theirs: socket.socket) -> tuple[int, int]:
        """The child's pid, and the end of the pipe at which its output is read."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        theirs.setblocking(True)
        die_with_us = end_with_parent()
        # Until the child has put off what is the agent's, its signals would wake the agent, and be lost to itself.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.setsid()
                    die_with_us()
                    ours.close()
                    os.close(read)
                    self._leave(write)
                    code = _work(theirs)
                except BaseException as error:  # noqa: BLE001 - it is told to whoever asked, or stands in the output
                    _say(theirs, {"error": encode_error(error)}) or os.write(2, f"udslab: {error}\n".encode())
                finally:
                    try:
                        sys.stdout.flush()
                    finally:
                        os._exit(code)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid, read

    def _leave(self, output: int) -> None:
        """In the child: put off all that is the agent's."""
        signal.set_wakeup_fd(-1)
        for fd in {self._source, self._sink}:
            os.close(fd)
        self._wakened.close()
        self._waker.close()
        for child in self._children.values():
            if child.channel is not None:
                child.channel.close()
            for fd in (child.output, child.record):
                if fd >= 0:
                    os.close(fd)
        if self._owner >= 0:
            os.close(self._owner)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, target)
        os.close(null)
        os.close(output)
        sys.stdout = sys.stderr = self._theirs
        for number in _OURS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _attend(self, child: _Child, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._push(child)
        if mask & selectors.EVENT_READ:
            self._hear(child)

    def _push(self, child: _Child) -> None:
        """Pass on what it takes now. Never waits: one that is busy, or stopped, must not keep the others waiting."""
        if child.channel is None:
            return
        try:
            while child.unsent:
                del child.unsent[: child.channel.send(child.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            child.unsent.clear()  # it has ended, or is about to
        if bool(child.unsent) is not child.pushing:
            child.pushing = not child.pushing
            write = selectors.EVENT_WRITE if child.pushing else 0
            key = self._selector.get_key(child.channel)
            self._selector.modify(child.channel, selectors.EVENT_READ | write, key.data)

    def _hear(self, child: _Child) -> None:
        """What a child says on its channel: that it has started, then answers to what was passed on to it."""
        while child.channel is not None:
            try:
                data = child.channel.recv(_CHUNK)
                messages = list(child.lines.feed(data))
            except BlockingIOError:
                return
            except OSError:
                data, messages = b"", []
            for message in messages:
                if "event" in message:
                    self._supervised(child, message)
                elif child.starting is None:
                    if message.get("id") in child.asked:
                        child.asked.remove(message["id"])
                        self._send(message)
                elif "error" in message:
                    id, child.starting = child.starting, None
                    child.forgotten = True  # nobody is told its number
                    self._send({**message, "id": id})
                    self._have_spares()
                else:
                    self._started(child, message["result"])
            if not data:
                self._close_channel(child)
                if child.op == "start" and child.starting is not None:
                    self._started(child, {})  # exec has closed it

    def _supervised(self, child: _Child, message: Message) -> None:
        """What a supervisor tells of itself; see :mod:`udslab.supervisor`."""
        if message["event"] == "exited":
            self._main_ended(child, message["code"])
        elif message["event"] == "gone":
            self._send({"event": "gone", "child": child.number, "code": child.main})
        else:
            child.killed = message["killed"]
            self._release(child)

    def _release(self, child: _Child) -> None:
        """What it has supervised has ended, so that it may be given another command."""
        self._drain(child)
        if self._ending or child.channel is None or child.output < 0 or child.unsent:  # half a request on its way
            self._close_channel(child)  # and so it exits
        else:
            spare = _Child(next(self._numbers), child.pid, child.channel, child.output)
            child.channel, child.output, child.code = None, -1, 0
            self._take_on(spare, self._selector.modify)
            self._spares.insert(0, spare)
            self._tell_of(child, f"ended, {_how(child.main or 0)}")
            self._refuse_asked(child)
        self._answer_waiting(child)
        if child.forgotten and child.code is not None:
            self._close(child)

    def _main_ended(self, child: _Child, code: int) -> None:
        child.main = code
        for id in child.watching:
            self._answer(id, code)
        child.watching.clear()

    def _started(self, child: _Child, result: Message) -> None:
        if child.op not in ("connect", "supervise"):  # nobody asks a server anything by its channel
            self._close_channel(child)
        child.first = result.get("main")
        id, child.starting = child.starting, None
        self._answer(id, {**result, "child": child.number, "pid": child.pid})
        self._have_spares()

    def _died(self, child: _Child) -> UdsError:
        said = bytes(child.written).decode(errors="backslashreplace").strip().splitlines() or ["it has written nothing"]
        code = child.code if child.main is None else child.main
        what = f"pid {child.first or child.pid} " + ("answers no more" if code is None else f"has ended: {_how(code)}")
        return AgentGone(Stage.AGENT, errno.ECHILD, None, f"its last line: {said[-1]}", what)

    def _pass_on(self, message: Message) -> None:
        child = self._child(message, "to")
        if child.channel is None:
            raise self._died(child)
        child.asked.add(message["id"])
        child.unsent += line(message)
        self._push(child)

    def _drain(self, child: _Child) -> None:
        """Take what it has written, but not for ever: some write faster than we read."""
        for _ in range(_ROUNDS):
            if child.output < 0:
                return
            try:
                data = os.read(child.output, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self._close_output(child)
                return
            child.written += data
            if len(child.written) > _OUTPUT:
                child.dropped += len(child.written) - _OUTPUT
                del child.written[:-_OUTPUT]

    def _reap(self) -> None:
        """Fetch the exit status of all that have ended: of orphans, too, which are killed if their supervisor was."""
        self._fetch()
        if self._lost:
            known = {child.pid for child in self._children.values() if child.code is None}
            orphans = set(children_of(os.getpid())) - known
            for pid in orphans:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not orphans:
                self._tell_lost()

    def _tell_lost(self) -> None:
        for child in self._lost:
            if not child.forgotten:
                self._send({"event": "gone", "child": child.number, "code": child.main})
        self._lost.clear()

    def _fetch(self) -> None:
        with suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    return
                living = (child for child in self._children.values() if child.code is None)
                child = next((child for child in living if child.pid == found.si_pid), None)
                if child is not None:
                    child.kill(signal.SIGKILL)  # what it leaves behind; as long as its number is still its own
                _, status = os.waitpid(found.si_pid, 0)
                if child is not None:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        child.code = code
        self._tell_of(child, f"ended, {_how(code)}")
        self._drain(child)
        self._hear(child)
        if child.op == "supervise" and child.main is None:
            self._main_ended(child, code)
        if child.op == "supervise" and child.killed is None:
            self._lost.append(child)
        if child.starting is not None:
            child.asked.add(child.starting)
            child.starting, child.forgotten = None, True  # nobody is told its number
        self._refuse_asked(child)
        self._answer_waiting(child)
        if child.forgotten or child in self._spares:
            self._close(child)

    def _refuse_asked(self, child: _Child) -> None:
        for id in child.asked:
            self._refuse(id, self._died(child))
        child.asked.clear()

    def _answer_waiting(self, child: _Child) -> None:
        for id in child.waiting:
            self._answer(id, child.end)
        child.waiting.clear()

    def _close(self, child: _Child) -> None:
        if child in self._spares:
            self._spares.remove(child)
        del self._children[child.number]
        self._close_channel(child)
        self._close_output(child)
        if child.record >= 0:
            os.close(child.record)

    def _close_channel(self, child: _Child) -> None:
        if child.channel is not None:
            self._selector.unregister(child.channel)
            child.channel.close()
            child.channel = None

    def _close_output(self, child: _Child) -> None:
        if child.output >= 0:
            self._selector.unregister(child.output)
            os.close(child.output)
            child.output = -1


_OPERATIONS: dict[str, Callable[[Agent, Message], None]] = {
    "info": Agent._info,
    "status": Agent._status,
    "serve": Agent._serve,
    "start": Agent._start,
    "supervise": Agent._start,
    "connect": Agent._connect,
    "signal": Agent._signal_child,
    "wait": Agent._wait,
    "end": Agent._end_child,
    "output": Agent._output,
    "record": Agent._record,
    "beat": Agent._beat,
}


def _signals(*names: str) -> list[int]:
    return [getattr(signal, name) for name in names if hasattr(signal, name)]  # not all are on every platform


_OURS = _signals("SIGTERM", "SIGINT", "SIGCHLD")
_PYTHON_IGNORES = _signals("SIGPIPE", "SIGXFSZ")
"""So that writing raises BrokenPipeError, or OSError (EFBIG), instead."""


def _how(code: int) -> str:
    return _name(-code) if code < 0 else f"exit status {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"


def _say(channel: socket.socket, message: Message) -> bool:
    """Tell the agent; whether that was possible."""
    try:
        channel.sendall(line(message))
    except OSError:
        return False
    return True


# What children do


def _work(channel: socket.socket) -> int:
    """Wait for what there is to do, and do it; the exit status."""
    _rehearse()
    record: list[int] = []

    def receive() -> bytes:
        data, fds, _, _ = socket.recv_fds(channel, _CHUNK, 1)
        record.extend(fds)
        return data

    lines = Lines()
    for message in _messages(receive, lines):
        if "to" in message or message["op"] in ("end", "kill"):  # for what was supervised, and has ended meanwhile
            continue
        umask = None if message.get("umask") is None else os.umask(message["umask"])
        libc.set_dumpable(True)
        if message["op"] != "supervise":
            return _WORK[message["op"]](channel, {**message, "record": record[0] if record else None})
        supervise(channel, message, lines)
        libc.set_dumpable(False)
        if umask is not None:
            os.umask(umask)
    return 0


def _messages(receive: Callable[[], bytes], lines: Lines) -> Iterator[Message]:
    """What the agent says, until it has no more to say."""
    for data in iter(receive, b""):
        yield from lines.feed(data)


def _rehearse() -> None:
    """Serve once, for nobody: what a forked child touches for the first time the kernel must copy, and it is better
    done while nobody waits. The name is abstract, so that nothing is left wherever it ends."""
    rehearse()
    with suppress(OSError):
        server = serve(Address.abstract(b"udslab-rehearsal-" + os.urandom(8)))
        with connect(server.address) as client:
            client.sendall(b"?")
            server.stop()
            server.run()


def _serve(channel: socket.socket, message: Message) -> int:
    logging.getLogger().setLevel(logging.INFO)  # not before: nobody wants to read of the rehearsal

    def ready(server: Server) -> None:
        _say(channel, {"result": {}})
        channel.close()

    change_environment(message.get("env", {}))
    if message.get("cwd") is not None:
        os.chdir(message["cwd"])
    if message.get("path") is not None:
        sys.path[:] = message["path"]
    options = message["options"]
    service = resolve(options.pop("service", "upper"))
    if message["record"] is not None:
        service = Recorder(service, message["record"])
    run_until_signal(lambda: serve(decode_address(message["address"]), service, **options), ready)
    return 0


def _open_record() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("udslab-record")
    import tempfile  # see connection

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _execute(channel: socket.socket, message: Message) -> int:
    command, env, cwd = message["command"], message.get("env"), message.get("cwd")
    if cwd is not None:
        enter(cwd)
    reset_signals()  # those that Python ignores, too
    env = os.environ if env is None else env
    try:
        os.execvpe(command[0], command, env)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise not_started(error, command[0], env) from error


def _converse(channel: socket.socket, message: Message) -> int:
    """A client: its connection, and what it is asked to do with it, until the agent closes the channel."""
    options = message["options"]
    bind = options.pop("bind", None)
    if isinstance(bind, list):
        bind = decode_address(bind)
    address = decode_address(message["address"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a file of its own is removed then
    with connect(address, bind=bind, **options) as connection:
        try:
            return _answer_questions(connection, channel, address)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is closed, and its file removed, without interruption


def _answer_questions(connection: Connection, channel: socket.socket, address: Address) -> int:
    _say(
        channel,
        {
            "result": {
                "credentials": encode_credentials(connection.credentials)
                if SocketType.of(connection.type).connects
                else None,
                "name": encode_address(connection.address),
                "peer": encode_address(connection.peer_address),
            }
        },
    )
    for request in _messages(lambda: channel.recv(_CHUNK), Lines()):
        try:
            answer = {"result": _QUESTIONS[request["op"]](connection, request)}
        except Exception as error:  # noqa: BLE001 - it is told to whoever asked
            if isinstance(error, OSError) and not isinstance(error, UdsError):
                stage = _STAGES.get(request.get("op", ""), Stage.RECEIVE)
                cause = errno.ETIMEDOUT if isinstance(error, socket.timeout) else error
                error = failure(stage, cause, address)
            answer = {"error": encode_error(error)}
        _say(channel, {"id": request["id"], **answer})
    return 0


_WORK: dict[str, Callable[[socket.socket, Message], int]] = {
    "serve": _serve,
    "start": _execute,
    "connect": _converse,
}


def _receive(read: Callable[[Connection, Message], bytes]) -> Callable[[Connection, Message], object]:
    def received(connection: Connection, request: Message) -> str:
        connection.settimeout(request.get("timeout"))
        return pack(read(connection, request))

    return received


def _sendall(connection: Connection, request: Message) -> None:
    connection.settimeout(request.get("timeout"))
    connection.sendall(unpack(request["data"]))


def _read_to_end(connection: Connection, request: Message) -> bytes:
    return b"".join(iter(lambda: connection.recv(_CHUNK), b""))


_QUESTIONS: dict[str, Callable[[Connection, Message], object]] = {
    "sendall": _sendall,
    "recv": _receive(lambda connection, request: connection.recv(request["size"])),
    "read_exactly": _receive(lambda connection, request: connection.read_exactly(request["size"])),
    "read_line": _receive(lambda connection, request: connection.read_line()),
    "read_to_end": _receive(_read_to_end),
    "shutdown": lambda connection, request: connection.shutdown(request["how"]),
}
_STAGES = {"sendall": Stage.SEND, "shutdown": Stage.CLOSE}


# As a process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an agent on standard input and output, or for the one driver that connects to a path."""
    parser = argparse.ArgumentParser(prog="udslab.agent", description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", metavar="PATH", help="wait for the driver there, instead of standard input")
    parser.add_argument("--lease", type=float, metavar="SECONDS", help="end when nothing was heard for so long")
    parser.add_argument("--owner", type=int, metavar="PID", help="end when that process has ended")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="end after so long, whatever happens")
    options = parser.parse_args(arguments)
    until = None if options.limit is None else now() + options.limit
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until the agent has its own handlers
    if options.listen is None:
        source, sink = _take_standard_streams()
        Agent(source, sink, lease=options.lease, owner=options.owner, until=until).run()
        return 0
    with told_of(signal.SIGTERM, signal.SIGINT) as told, listen(options.listen, mode=0o660) as listener:
        _print(f"waits for its driver at {listener.address}")
        ready, _, _ = select.select([listener.socket, told], [], [], options.limit)
        if listener.socket not in ready:
            _print("ends: " + ("it was told to" if ready else f"nobody connected in {options.limit:g} s"))
            return 0
        driver = listener.accept().detach()
    Agent(driver, driver, lease=options.lease, owner=options.owner, until=until, tell=_print).run()
    return 0


def _print(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


def _take_standard_streams() -> tuple[int, int]:
    """Move the protocol to descriptors that are closed on exec: what is printed by mistake must not become part of
    it."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return source, sink


if __name__ == "__main__":
    sys.exit(main())
