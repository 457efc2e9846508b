"""What a server has received, as a record that is bounded, and that has everything before the client has its answer.

The record is lines of JSON, in memory or in a file (``memfd_create(2)``) which another process reads with ``pread``,
also after this one was killed.
"""

from __future__ import annotations

import json
import os
import threading
from binascii import a2b_base64, b2a_base64
from collections import defaultdict
from dataclasses import dataclass, replace

from udslab.credentials import Credentials
from udslab.services import SERVICES, Output, Peer, Service, Session

__all__ = ["Recorded", "Recorder", "read_record"]


@dataclass(frozen=True)
class Recorded:
    """What one connection, or one datagram, has brought."""

    number: int
    """Connections and datagrams are counted together, from 1, in the order in which they came."""
    credentials: Credentials | None
    """What the kernel says of the client's process; None where it says nothing."""
    address: str
    """The address that the client has bound, as text; ``(unnamed)`` for most."""
    received: bytes
    """All that came, in order; packets one after the other. Up to the recorder's limit."""
    dropped: int
    """How many bytes came beyond that limit."""
    open: bool
    """Whether neither the client's end of file has been seen nor its handler has returned."""


class Recorder:
    """A service around ``service`` (that of no name: one which answers nothing) that records what is received.

    At most ``limit`` bytes are kept of all clients together, and what is beyond is counted. The clients themselves are
    not limited: each takes some 200 bytes. ``fd``: an empty file to write to, which may be written at any position
    (no pipe, no ``O_APPEND``); it stays the caller's. Raises OSError if it cannot be written.
    """

    def __init__(self, service: Service = SERVICES["discard"], fd: int | None = None, limit: int = 1 << 20) -> None:
        if limit < 0:
            raise ValueError(f"a limit is 0 or more bytes, not {limit}")
        if fd is not None:
            os.pwrite(fd, b"", 0)  # fails now rather than with the first client
        self._service = service
        self._fd = fd
        self._room = limit
        self._lock = threading.Lock()
        self._lines = bytearray()
        self._end = 0
        self._last = 0
        self._dropped: dict[int, tuple[int, int]] = {}
        """How many bytes of whom, and where the line stands that says so."""

    def __call__(self, peer: Peer) -> Session:
        """A session of the service whose data and end are recorded."""
        return _RecordedSession(self, self.connected(peer.credentials, peer.address), self._service(peer))

    def connected(self, credentials: Credentials | None, address: str) -> int:
        """A client has come; its number."""
        ids = "null" if credentials is None else f"[{credentials.pid},{credentials.uid},{credentials.gid}]"
        client = f'"credentials":{ids},"address":{json.dumps(address)}'.encode()
        with self._lock:
            number = self._last + 1
            self._append(b'{"number":%d,%b}\n' % (number, client))
            self._last = number
        return number

    def received(self, number: int, data: bytes) -> None:
        """Client ``number`` has sent ``data``."""
        with self._lock:
            kept = data[: self._room]
            if kept:
                self._append(b'{"number":%d,"received":"%b"}\n' % (number, b2a_base64(kept, newline=False)))
                self._room -= len(kept)
            if len(kept) < len(data):
                # One line of fixed width for each client, written over, or the record grew without end.
                before, at = self._dropped.get(number, (0, self._end))
                total = before + len(data) - len(kept)
                self._write(b'{"number":%d,"dropped":%20d}\n' % (number, total), at)
                self._dropped[number] = total, at

    def ended(self, number: int) -> None:
        """Client ``number`` sends no more."""
        with self._lock:
            self._append(b'{"number":%d,"ended":true}\n' % number)

    def record(self) -> list[Recorded]:
        """What has been received so far, by number. From any thread."""
        if self._fd is not None:
            return read_record(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        with self._lock:
            lines = bytes(self._lines)
        return read_record(lines)

    def _append(self, line: bytes) -> None:
        self._write(line, self._end)

    def _write(self, line: bytes, at: int) -> None:
        end = at + len(line)
        if self._fd is None:
            self._lines[at:end] = line
        else:
            while at < end:
                at += os.pwrite(self._fd, line[at - end :], at)
        # Not before all is written: what a failure has left half-written, the next line covers.
        self._end = max(self._end, end)


class _RecordedSession:
    __slots__ = ("_number", "_recorder", "_session")

    def __init__(self, recorder: Recorder, number: int, session: Session) -> None:
        self._recorder = recorder
        self._number = number
        self._session = session

    def start(self) -> Output:
        return self._session.start()

    def feed(self, data: bytes) -> Output:
        self._recorder.received(self._number, data)
        return self._session.feed(data)

    def eof(self) -> Output:
        self._recorder.ended(self._number)
        return self._session.eof()

    def closed(self) -> None:
        """The server has closed the connection, also without an end of file: a reset, or a service that failed."""
        self._recorder.ended(self._number)


def read_record(lines: bytes) -> list[Recorded]:
    """What a :class:`Recorder` has written, by number. A last line that is half-written is left out."""
    clients: dict[int, Recorded] = {}
    pieces: defaultdict[int, list[bytes]] = defaultdict(list)
    for line in lines.split(b"\n")[:-1]:
        event = json.loads(line)
        number = event["number"]
        if "address" in event:
            ids = event["credentials"]
            clients[number] = Recorded(number, ids and Credentials(*ids), event["address"], b"", 0, True)
        elif "received" in event:
            pieces[number].append(a2b_base64(event["received"]))
        elif "dropped" in event:
            clients[number] = replace(clients[number], dropped=event["dropped"])
        else:
            clients[number] = replace(clients[number], open=False)
    return [replace(client, received=b"".join(pieces[client.number])) for client in clients.values()]
