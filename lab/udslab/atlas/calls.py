"""Raw calls of the system that only the atlas makes: with pointers, lengths and flags that Python would not pass on."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Any, Union

_libc: Any = None
with suppress(ImportError, OSError, TypeError):  # a Python without ctypes; not a Unix
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)

__all__ = [
    "BAD_POINTER",
    "Memory",
    "accept_into",
    "address",
    "bind",
    "connect",
    "getpeername",
    "getpeername_at",
    "getsockname",
    "getsockname_at",
    "listen",
    "mount",
    "setfsuid",
    "socketpair",
]

BAD_POINTER = 1
"""Where nothing is mapped."""


class Memory:
    """Some bytes at a fixed address; kept as long as this object is."""

    def __init__(self, content: Union[int, bytes]) -> None:
        self._buffer = ctypes.create_string_buffer(content, content if isinstance(content, int) else len(content))
        self.address = ctypes.addressof(self._buffer)

    def __bytes__(self) -> bytes:
        return self._buffer.raw


def _call(name: str, *arguments: Any) -> int:
    """Raises OSError as the call has failed."""
    done = int(getattr(_libc, name)(*arguments))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def _pointer(address: int) -> Any:
    return ctypes.c_void_p(address)


def accept_into(sock: socket.socket, room: int, length: int | None = None) -> tuple[socket.socket, bytes, int]:
    """accept(2) with so much room for the address, said to be ``length``: the new socket; the room, in which what was
    not written is 0xFF; and the length that was told."""
    fd, seen, told = _into("accept", sock, room, length)
    return socket.socket(fileno=fd), seen, told


def address(path: bytes, family: int = 1) -> bytes:
    """A ``sockaddr_un`` with just these bytes for its ``sun_path``."""
    return struct.pack("H", family) + path


def bind(sock: socket.socket, name: Union[bytes, int], length: int | None = None) -> None:
    """bind(2) to an address, or to what a pointer points to, said to be of this length."""
    _named("bind", sock, name, length)


def connect(sock: socket.socket, name: Union[bytes, int], length: int | None = None) -> None:
    """connect(2), as :func:`bind`."""
    _named("connect", sock, name, length)


def getpeername(sock: socket.socket, room: int = 128, length: int | None = None) -> tuple[bytes, int]:
    """getpeername(2) with so much room: as :func:`accept_into`."""
    return _into("getpeername", sock, room, length)[1:]


def getpeername_at(sock: socket.socket, address: int) -> None:
    """getpeername(2), written to an address."""
    _call("getpeername", sock.fileno(), _pointer(address), ctypes.byref(ctypes.c_int(110)))


def getsockname(sock: socket.socket, room: int = 128, length: int | None = None) -> tuple[bytes, int]:
    """getsockname(2) with so much room: as :func:`accept_into`."""
    return _into("getsockname", sock, room, length)[1:]


def getsockname_at(sock: socket.socket, address: int) -> None:
    """getsockname(2), written to an address."""
    _call("getsockname", sock.fileno(), _pointer(address), ctypes.byref(ctypes.c_int(110)))


def _into(name: str, sock: socket.socket, room: int, length: int | None) -> tuple[int, bytes, int]:
    place = Memory(b"\xff" * max(room, 1))
    told = ctypes.c_int(room if length is None else length)
    done = _call(name, sock.fileno(), _pointer(place.address), ctypes.byref(told))
    return done, bytes(place)[:room], told.value


def _named(call: str, sock: socket.socket, name: Union[bytes, int], length: int | None) -> None:
    if isinstance(name, int):
        _call(call, sock.fileno(), _pointer(name), length)
    else:
        place = Memory(name.ljust(128, b"\0"))
        _call(call, sock.fileno(), _pointer(place.address), len(name) if length is None else length)


def listen(sock: socket.socket, backlog: int) -> None:
    """listen(2), where Python takes a negative backlog for 0."""
    _call("listen", sock.fileno(), backlog)


def mount(source: str, target: str, type: str = "", flags: int = 0) -> None:
    """mount(2)."""
    _call("mount", source.encode(), target.encode(), type.encode(), ctypes.c_ulong(flags), None)


def setfsuid(uid: int) -> None:
    """setfsuid(2), which tells of no failure."""
    _libc.setfsuid(uid)


def socketpair(domain: int, type: int, protocol: int = 0, pointer: int = 0) -> tuple[int, int]:
    """socketpair(2), written to a pointer if one is given: two descriptors."""
    pair = (ctypes.c_int * 2)()
    _call("socketpair", domain, type, protocol, _pointer(pointer) if pointer else pair)
    return pair[0], pair[1]
