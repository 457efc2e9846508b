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
    # The greeting: the end of its length, number 0, protocol 10. A refusal has 255 in the place of the 10.
    "mysql": Ping(b"", b"\x00\x00\x00\x0a"),
    "dbus": Ping(b"\0AUTH\r\n", b"REJECTED"),
    # The connection preface and an empty SETTINGS frame; the server's preface is such a frame, too.
    "http2": Ping(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\x04\x00\x00\x00\x00\x00"),
    # A request without parameters and without content; FCGI_END_REQUEST.
    "fastcgi": Ping(
        b"\x01\x01\0\x01\0\x08\0\0" + b"\0\x01\0\0\0\0\0\0" + b"\x01\x04\0\x01\0\0\0\0" + b"\x01\x05\0\x01\0\0\0\0",
        b"\x01\x03\x00\x01\x00\x08",
    ),
    # CONNECT by MQTT 3.1.1, clean and without a name; CONNACK: accepted.
    "mqtt": Ping(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", b"\x20\x02\x00\x00"),
    # SSH_AGENTC_REQUEST_IDENTITIES; SSH_AGENT_IDENTITIES_ANSWER, with none.
    "ssh-agent": Ping(b"\0\0\0\x01\x0b", b"\x00\x00\x00\x05\x0c\x00\x00\x00\x00"),
    # What GnuPG's daemons speak.
    "assuan": Ping(b"GETINFO version\n", b"\nD "),
    # A message of protocol version 0, which nobody speaks any more; the answer is MSG_VERSION, which has no content.
    "tmux": Ping(b"\x64\0\0\0\x10\0" + bytes(10), b"\x0c\x00\x00\x00\x10\x00"),
    # A client of version 11 with no authority; accepted, by the same version.
    "x11": Ping(b"l\0\x0b\0" + bytes(8), b"\x01\x00\x0b\x00"),
    "nbd": Ping(b"", b"NBDMAGIC"),
    # Its signature's ends; what stands between them is a length.
    "zmtp": Ping(b"\xff\0\0\0\0\0\0\0\x01\x7f", b"\x7f"),
}
"""By the name of what is spoken."""
