"""Raw calls of the system that only the atlas makes: with pointers, lengths and flags that Python would not pass on."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Any, Union

_libc: Any = None
with suppress(ImportError, OSError, TypeError):  # a Python without ctypes; not a Unix
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)

__all__ = [
    "Memory",
    "eventfd",
    "get_option",
    "io_uring_setup",
    "mount",
    "send_control",
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


def _pointer(address: int) -> Any:
    return ctypes.c_void_p(address)


def eventfd(count: int) -> int:
    """eventfd(2), which Python has from 3.10 on: a descriptor that is closed on exec."""
    return _call("eventfd", ctypes.c_uint(count), os.O_CLOEXEC)


def get_option(fd: int, level: int, option: int, room: int) -> tuple[int, int]:
    """getsockopt(2) with so much room: the errno (0 for none), and the length that was told all the same."""
    place = Memory(max(room, 1))
    length = ctypes.c_uint(room)
    failed = _libc.getsockopt(fd, level, option, _pointer(place.address), ctypes.byref(length))
    return (ctypes.get_errno() if failed else 0), int(length.value)


def io_uring_setup(entries: int) -> int:
    """io_uring_setup(2): the descriptor of a ring. It has the same number on all machines but alpha."""
    parameters = Memory(120)
    return _call("syscall", ctypes.c_long(425), ctypes.c_long(entries), _pointer(parameters.address))


def mount(source: str, target: str, type: str = "", flags: int = 0) -> None:
    """mount(2)."""
    _call("mount", source.encode(), target.encode(), type.encode(), ctypes.c_ulong(flags), None)


def send_control(fd: int, data: bytes, control: bytes) -> int:
    """sendmsg(2) with these bytes as control messages, whatever they say of their lengths; how much was sent."""
    content = Memory(data)
    vector = Memory(struct.pack(_VECTOR, content.address, len(data)))
    messages = Memory(control)
    header = Memory(struct.pack(_HEADER, 0, 0, vector.address, 1, messages.address, len(control), 0))
    return _call("sendmsg", fd, _pointer(header.address), 0)
