"""The client that copies between a connection and two descriptors: interactive at a terminal, scripted from a file.

Both directions at once, so that nothing deadlocks however long a line is, and nothing is lost however an answer is cut.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from dataclasses import dataclass

from udslab.connection import Connection
from udslab.deadline import Deadline
from udslab.errors import PeerGone, Stage, TimedOut, UdsError, failure
from udslab.socktype import SocketType

__all__ = ["OutputClosed", "Totals", "converse"]

_CHUNK = 1 << 16
_RECORD = 1 << 20


class OutputClosed(UdsError):
    """Nobody reads what the client prints."""


@dataclass
class Totals:
    """What went to and fro: bytes, and records (one for each line sent, where the socket keeps records)."""

    sent: int = 0
    received: int = 0
    records_sent: int = 0
    records_received: int = 0


def converse(
    connection: Connection, source: int, sink: int, *, timeout: float | None = 10.0, answers: bool = True
) -> Totals:
    """Send what comes from the descriptor ``source``, write what is received to ``sink``, until both sides have ended.

    On a datagram or seqpacket socket each line, with its newline, is one record. At the end of the input the sending
    side is shut down and the rest is received, until the other side closes; datagrams have no end, so as many answers
    are awaited as records were sent (``answers=False``: none). ``timeout``: how many seconds to wait for the server to
    take more, and for the next answer once the input has ended.

    Raises :class:`~udslab.errors.PeerGone` if the other side goes before the input has ended or in mid-line,
    :class:`~udslab.errors.TimedOut`, :class:`OutputClosed`, and :class:`~udslab.errors.UdsError` of stage ``send``.
    """
    return _Conversation(connection, source, sink, timeout, answers).run()


class _Conversation:
    def __init__(self, connection: Connection, source: int, sink: int, timeout: float | None, answers: bool) -> None:
        self.connection = connection
        self.source = source
        self.sink = sink
        self.timeout = timeout
        self.answers = answers
        self.type = SocketType.of(connection.type)
        self.records = self.type is not SocketType.STREAM
        self.totals = Totals()
        self.line = b""  # the beginning of a line whose end has not been read yet
        self.pending: list[bytes] = []
        self.input_ended = self.peer_ended = False
        self.last_sent = self.last_received = b""

    def run(self) -> Totals:
        self.connection.setblocking(False)
        deadline = Deadline(None)
        while not self._finished():
            poll = select.poll()
            poll.register(self.connection, select.POLLIN | (select.POLLOUT if self.pending else 0))
            if not self.input_ended and not self.pending:
                poll.register(self.source, select.POLLIN)
            left = deadline.left()
            ready = dict(poll.poll(None if left is None else left * 1000))
            if self.source in ready:
                self._read_input()
            events = ready.get(self.connection.fileno(), 0)
            if events & ~select.POLLOUT:
                self._receive()
            if self.pending and not self.peer_ended:
                self._send()
            if not self.input_ended and not self.pending:
                deadline = Deadline(None)  # it is not the server that is waited for
            elif ready or deadline.seconds is None:
                deadline = Deadline(self.timeout)
            elif deadline.passed and not self._finished():
                raise self._nothing_came()
        cut = self.last_received and not self.last_received.endswith(b"\n")
        if cut and self.last_sent.endswith(b"\n") and not self.records:
            raise PeerGone(
                Stage.RECEIVE,
                errno.ECONNRESET,
                str(self.connection_name),
                f"{self.totals.received} bytes of answers came",
                "the server has gone in mid-line",
            )
        return self.totals

    @property
    def connection_name(self) -> object:
        try:
            return self.connection.peer_address
        except OSError:
            return "(gone)"

    def _finished(self) -> bool:
        if self.type is SocketType.DGRAM:
            due = self.totals.records_sent if self.answers else 0
            return self.input_ended and not self.pending and self.totals.records_received >= due
        return self.peer_ended

    def _nothing_came(self) -> TimedOut:
        what = f"nothing more came within {self.timeout:g} s"
        if self.pending:
            what = f"the server took nothing more within {self.timeout:g} s"
        elif self.type is SocketType.DGRAM:
            totals = self.totals
            what = f"{totals.records_received} of {totals.records_sent} answers came within {self.timeout:g} s"
        return TimedOut(Stage.RECEIVE, errno.ETIMEDOUT, str(self.connection_name), "give it longer: --timeout", what)

    def _read_input(self) -> None:
        try:
            data = os.read(self.source, _CHUNK)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EIO):
                raise failure(Stage.SEND, error, "standard input", "it cannot be read") from error
            data = b""  # closed, or a terminal that has gone
        if self.records:
            *lines, self.line = (self.line + data).split(b"\n")
            self.pending = [line + b"\n" for line in lines]
            if self.line and not data:
                self.pending.append(self.line)
        elif data:
            self.pending = [data]
        if not data:
            self.input_ended = True
            if not self.pending:
                self._end_sending()

    def _send(self) -> None:
        try:
            while self.pending:
                sent = self.connection.send(self.pending[0])
                self.totals.sent += sent
                self.last_sent = self.pending[0][:sent][-1:] or self.last_sent
                if sent < len(self.pending[0]):
                    self.pending[0] = self.pending[0][sent:]
                else:
                    del self.pending[0]
                    self.totals.records_sent += 1
                    if self.records and self.pending:
                        return  # answers are read first: a datagram server cannot hold many for us
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                # What it has answered before is still to be read, and then tells that it ended too early.
                self._receive_rest()
                raise self._ended_early() from error
            raise failure(Stage.SEND, error, self.connection_name) from error
        if self.input_ended:
            self._end_sending()

    def _end_sending(self) -> None:
        if self.type.connects:
            try:
                self.connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise failure(Stage.SEND, error, self.connection_name) from error

    def _receive(self) -> None:
        try:
            data = self.connection.recv(_RECORD if self.records else _CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError as error:
            self._receive_rest()  # packets that came before it are still there
            raise self._ended_early() from error
        if not data and self.type.connects:
            self.peer_ended = True
            if not self.input_ended or self.pending:
                raise self._ended_early()
            return
        self.totals.received += len(data)
        self.totals.records_received += 1
        self.last_received = data[-1:] or self.last_received
        self._write(data)

    def _receive_rest(self) -> None:
        while not self.peer_ended:
            try:
                data = self.connection.recv(_RECORD)
            except OSError:
                return
            if not data:
                return
            self.totals.received += len(data)
            self._write(data)

    def _ended_early(self) -> PeerGone:
        before = "it had read everything" if self.input_ended and not self.pending else "the input had ended"
        return PeerGone(
            Stage.RECEIVE,
            errno.ECONNRESET,
            str(self.connection_name),
            f"{self.totals.sent} bytes were sent, {self.totals.received} bytes of answers came",
            f"the server closed the connection before {before}",
        )

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self.sink, rest) :]
                except BlockingIOError:  # somebody has made it non-blocking
                    poll = select.poll()
                    poll.register(self.sink, select.POLLOUT)
                    poll.poll()
        except OSError as error:
            raise OutputClosed(
                Stage.RECEIVE, error.errno or errno.EIO, "standard output", "nobody reads what was to be printed"
            ) from error
