"""What a server does with bytes: sessions that know no sockets.

A service is called with a :class:`Peer` and gives a session. The server calls the session's ``start()`` when the peer
has connected, ``feed(data)`` with what has come (a stream: as it happens to be cut; datagrams and packets: one each),
and ``eof()`` when the peer sends no more. Each gives bytes to send, or an iterator of bytes, from which the server
takes the next piece when the peer has taken the one before: it may be endless. For datagrams and packets each piece
is one record, and an empty one is none: but an empty datagram can be answered with one, by an iterator that gives it
(``iter([b""])``). A datagram is a session of its own, without ``start()``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Union, cast

from udslab.credentials import Credentials
from udslab.errors import ServiceError

__all__ = [
    "SERVICES",
    "Output",
    "Peer",
    "Service",
    "Session",
    "per_chunk",
    "per_line",
    "per_record",
    "pieces",
    "resolve",
]

Output = Union[bytes, Iterator[bytes]]


@dataclass(frozen=True)
class Peer:
    """Whom a session speaks to: the address that the peer has bound (as text), what the kernel says of its process
    (None where it says nothing), and whether bytes come in records (datagrams, packets) or as a stream."""

    address: str = "(unnamed)"
    credentials: Credentials | None = None
    records: bool = False
    greets: bool = True
    """Whether there is a connection on which to speak first."""


class Session(Protocol):
    """One conversation. See the top of this module."""

    def start(self) -> Output:
        """The peer has connected."""

    def feed(self, data: bytes) -> Output:
        """``data`` has come, at least one byte of it on a stream."""

    def eof(self) -> Output:
        """The peer sends no more; it may still read."""


Service = Callable[[Peer], Session]


def pieces(output: Output, *, empty: bool = False) -> Iterator[bytes]:
    """The pieces of what a session gave, without empty ones, unless those of an iterator are asked for. Raises
    TypeError, as it comes to it, for what is neither bytes nor an iterator of bytes."""
    for piece in (output,) if isinstance(output, bytes) else output:
        if not isinstance(piece, bytes):
            raise TypeError(f"a service gives bytes, not {type(piece).__name__}")
        if piece or (empty and piece is not output):
            yield piece


def _answer(function: Callable[[bytes], bytes], data: bytes) -> Output:
    return function(data) if data else iter([function(data)])  # an empty datagram's answer may be empty


class _Chunks:
    def __init__(self, function: Callable[[bytes], Output]) -> None:
        self.feed = function

    def start(self) -> bytes:
        return b""

    def eof(self) -> bytes:
        return b""


class _Lines:
    def __init__(self, function: Callable[[bytes], bytes]) -> None:
        self._function = function
        self._pieces: list[bytes] = []

    def start(self) -> bytes:
        return b""

    def feed(self, data: bytes) -> bytes:
        head, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._pieces.append(data)
            return b""
        whole = b"".join((*self._pieces, head, newline))
        self._pieces = [rest] if rest else []
        return b"".join(map(self._function, whole.splitlines(keepends=True) if b"\r" not in whole else _lines(whole)))

    def eof(self) -> bytes:
        rest, self._pieces = b"".join(self._pieces), []
        return self._function(rest) if rest else b""


def _lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


class _Records:
    def __init__(self, function: Callable[[bytes], bytes], peer: Peer) -> None:
        self._function = function
        self._records = peer.records
        self._pieces: list[bytes] = []

    def start(self) -> bytes:
        return b""

    def feed(self, data: bytes) -> Output:
        if self._records:
            return _answer(self._function, data)
        self._pieces.append(data)
        return b""

    def eof(self) -> bytes:
        return b"" if self._records else self._function(b"".join(self._pieces))


def per_chunk(function: Callable[[bytes], bytes]) -> Service:
    """A service that answers whatever has come with ``function`` of it, which must not care where it is cut."""
    return lambda peer: _Chunks(partial(_answer, function))


def per_line(function: Callable[[bytes], bytes]) -> Service:
    """A service that answers each line, newline included, with ``function`` of it; also a last one without newline."""
    return lambda peer: _Lines(function)


def per_record(function: Callable[[bytes], bytes]) -> Service:
    """A service that answers each datagram or packet with ``function`` of it. A stream is one record, up to its end."""
    return lambda peer: _Records(function, peer)


class _Chargen:
    """RFC 864: lines of 72 printable characters, each beginning one character later, until the peer has had enough."""

    def __init__(self, peer: Peer) -> None:
        self._greets = peer.greets

    def start(self) -> Iterator[bytes]:
        characters = bytes(range(0x20, 0x7F)) * 2
        while True:
            for first in range(95):
                yield characters[first : first + 72] + b"\r\n"

    def feed(self, data: bytes) -> bytes:
        return b"" if self._greets else next(self.start())

    def eof(self) -> bytes:
        return b""


class _Whoami:
    """Tells the peer what the kernel says of it, in one line: at once, or to each datagram."""

    def __init__(self, peer: Peer) -> None:
        self._line = f"{peer.credentials or 'no credentials'} bound to {peer.address}\n".encode()
        self._greets = peer.greets

    def start(self) -> bytes:
        return self._line

    def feed(self, data: bytes) -> bytes:
        return b"" if self._greets else self._line

    def eof(self) -> bytes:
        return b""


SERVICES: dict[str, Service] = {
    "upper": per_chunk(bytes.upper),
    "echo": per_chunk(bytes),
    "discard": lambda peer: _Chunks(lambda data: b""),
    "chargen": _Chargen,
    "whoami": _Whoami,
}
"""The services that go by a name."""


def resolve(service: str | Service) -> Service:
    """A service from a name of :data:`SERVICES`, an importable ``"module:name"``, or itself.

    Raises :class:`~udslab.errors.ServiceError`.
    """
    if callable(service):
        return service
    if service in SERVICES:
        return SERVICES[service]
    module, colon, name = service.partition(":")
    if not colon:
        raise ServiceError(f"there is no service {service!r}", f"it is one of {', '.join(SERVICES)}, or module:name")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module's own code runs
        why = " ".join(str(error).split())
        raise ServiceError(f"the service {service!r} cannot be imported: {why}", "it is module:name") from error
    if not callable(found):
        raise ServiceError(f"the service {service!r} is no service but {type(found).__name__}", "see udslab.services")
    return cast("Service", found)
