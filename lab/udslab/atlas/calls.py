"""Raw calls of the system that only the atlas makes: with pointers, lengths and flags that Python would not pass on."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Union

_libc: Any = None
with suppress(ImportError, OSError, TypeError):  # a Python without ctypes; not a Unix
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)

__all__ = [
    "Memory",
    "readv_at",
    "recvfrom_nothing",
    "recvmmsg",
    "recvmsg_flags",
    "send_at",
    "sendmmsg",
    "splice",
]

_HEADER = "@PIPNPNi0P"  # struct msghdr
_VECTOR = "@PN"  # struct iovec


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


def _size(number: int) -> Any:
    return ctypes.c_size_t(number)


def _pointer(address: int) -> Any:
    return ctypes.c_void_p(address)


def readv_at(fd: int, vectors: Sequence[tuple[int, int]]) -> int:
    """readv(2) into these addresses and lengths."""
    memory = Memory(b"".join(struct.pack(_VECTOR, *each) for each in vectors))
    return _call("readv", fd, _pointer(memory.address), len(vectors))


def recvfrom_nothing(fd: int, flags: int) -> int:
    """recvfrom(2) into a null pointer of length 0."""
    return _call("recvfrom", fd, None, _size(0), flags, None, None)


def recvmmsg(fd: int, count: int, flags: int = 0, timeout: tuple[int, int] | None = None) -> int:
    """How many messages, of ``count`` at the most, recvmmsg(2) receives into one byte each."""
    _place, _vector, headers = _headers([b"x"] * count)
    limit = None if timeout is None else Memory(struct.pack("@ll", *timeout))
    pointer = None if limit is None else _pointer(limit.address)
    return _call("recvmmsg", fd, _pointer(headers.address), count, flags, pointer)


def recvmsg_flags(fd: int, room: int, flags: int, before: int) -> tuple[Any, int, bool]:
    """recvmsg(2) with ``msg_flags`` of ``before``: the OSError or the number of bytes; ``msg_flags`` after it; and
    whether the iovec is as it was."""
    place = Memory(max(room, 1))
    given = struct.pack(_VECTOR, place.address, room)
    vector = Memory(given)
    header = Memory(struct.pack(_HEADER, 0, 0, vector.address, 1, 0, 0, before))
    said: Any
    try:
        said = _call("recvmsg", fd, _pointer(header.address), flags)
    except OSError as error:
        said = error
    return said, struct.unpack(_HEADER, bytes(header))[6], bytes(vector) == given


def send_at(fd: int, address: int, length: int, flags: int = 0) -> int:
    """send(2) of what is at an address."""
    return _call("send", fd, _pointer(address), _size(length), flags)


def sendmmsg(fd: int, messages: Sequence[bytes], flags: int = 0) -> int:
    """How many of the messages sendmmsg(2) sends."""
    _place, _vectors, headers = _headers(messages)
    return _call("sendmmsg", fd, _pointer(headers.address), len(messages), flags)


def _headers(messages: Sequence[bytes]) -> tuple[Memory, Memory, Memory]:
    """struct mmsghdr for each, and what these point to."""
    place = Memory(b"".join(messages) or 1)
    vectors = b""
    at = place.address
    for each in messages:
        vectors += struct.pack(_VECTOR, at, len(each))
        at += len(each)
    vector = Memory(vectors)
    step = struct.calcsize(_VECTOR)
    header = b"".join(
        struct.pack(_HEADER, 0, 0, vector.address + step * number, 1, 0, 0, 0) + struct.pack("@I0P", 0)
        for number in range(len(messages))
    )
    return place, vector, Memory(header)


def splice(source: int, target: int, length: int) -> int:
    """splice(2), one of the two being a pipe."""
    return _call("splice", source, None, target, None, _size(length), 0)
