"""Asking a server whether it still answers: what is sent, and what its answer has in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PRESETS", "Ping"]


@dataclass(frozen=True)
class Ping:
    """``send`` is sent on a fresh connection, and ``expect`` is somewhere in what comes back. Where ``send`` is empty
    the server speaks first."""

    send: bytes
    expect: bytes


PRESETS: Mapping[str, Ping] = {
    "echo": Ping(b"ping\n", b"ping\n"),
    "upper": Ping(b"ping\n", b"PING\n"),
    "http": Ping(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"HTTP/1."),
    "redis": Ping(b"PING\r\n", b"+PONG\r\n"),
    "memcached": Ping(b"version\r\n", b"VERSION "),
    # SSLRequest: length 8, code 80877103; the answer is S or N.
    "postgres": Ping(b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"N"),
    "mysql": Ping(b"", b"\x00"),
    "dbus": Ping(b"\0AUTH\r\n", b"REJECTED"),
}
"""By the name of what is spoken."""
