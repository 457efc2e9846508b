"""Raw calls of the system that only the atlas makes: with pointers, lengths and flags that Python would not pass on."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
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
    "eventfd",
    "get_option",
    "getpeername",
    "getpeername_at",
    "getsockname",
    "getsockname_at",
    "io_uring_setup",
    "landlock_abi",
    "landlock_restrict",
    "listen",
    "mount",
    "mount_idmapped",
    "readv_at",
    "recvfrom_nothing",
    "recvmmsg",
    "recvmsg_flags",
    "send_at",
    "send_control",
    "sendmmsg",
    "setfsuid",
    "setns",
    "socketpair",
    "splice",
    "tee",
    "umount",
]

BAD_POINTER = 1
"""Where nothing is mapped."""
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


def _system_call(number: int, *arguments: Any) -> int:
    """One that has the same number on all machines but alpha (all those from 424 on)."""
    return _call("syscall", ctypes.c_long(number), *arguments)


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


def eventfd(count: int) -> int:
    """eventfd(2), which Python has from 3.10 on: a descriptor that is closed on exec."""
    return _call("eventfd", ctypes.c_uint(count), os.O_CLOEXEC)


def get_option(fd: int, level: int, option: int, room: int) -> tuple[int, int]:
    """getsockopt(2) with so much room: the errno (0 for none), and the length that was told all the same."""
    place = Memory(max(room, 1))
    length = ctypes.c_uint(room)
    failed = _libc.getsockopt(fd, level, option, _pointer(place.address), ctypes.byref(length))
    return (ctypes.get_errno() if failed else 0), int(length.value)


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


def _into(name: str, sock: socket.socket, room: int, length: int | None) -> tuple[int, bytes, int]:
    place = Memory(b"\xff" * max(room, 1))
    told = ctypes.c_int(room if length is None else length)
    done = _call(name, sock.fileno(), _pointer(place.address), ctypes.byref(told))
    return done, bytes(place)[:room], told.value


def io_uring_setup(entries: int) -> int:
    """io_uring_setup(2): the descriptor of a ring. It has the same number on all machines but alpha."""
    parameters = Memory(120)
    return _call("syscall", ctypes.c_long(425), ctypes.c_long(entries), _pointer(parameters.address))


def landlock_abi() -> int:
    """The version of Landlock that the kernel tells of. Raises OSError: ENOSYS, EOPNOTSUPP (switched off)."""
    return _system_call(444, None, _size(0), ctypes.c_uint(1))


def landlock_restrict(handled: int = 0, scoped: int = 0) -> None:
    """Put this thread into a Landlock domain that forbids these rights to files, everywhere, and these ways out."""
    content = struct.pack("=QQQ", handled, 0, scoped)
    rules = Memory(content if scoped else content[:8])
    fd = _system_call(444, _pointer(rules.address), _size(len(bytes(rules))), ctypes.c_uint(0))
    try:
        _call("prctl", 38, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))  # no_new_privs
        _system_call(446, ctypes.c_int(fd), ctypes.c_uint(0))
    finally:
        os.close(fd)


def listen(sock: socket.socket, backlog: int) -> None:
    """listen(2), where Python takes a negative backlog for 0."""
    _call("listen", sock.fileno(), backlog)


def mount(source: str, target: str, type: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    _call("mount", source.encode(), target.encode(), type.encode(), ctypes.c_ulong(flags), options.encode() or None)


def mount_idmapped(source: str, target: str, user_namespace: int) -> None:
    """Mount a directory at another place, with its owners mapped as in that user namespace (a descriptor)."""
    at_fdcwd, clone, empty_path = ctypes.c_int(-100), 1, 0x1000
    fd = _system_call(428, at_fdcwd, source.encode(), ctypes.c_uint(clone | os.O_CLOEXEC))  # open_tree(2)
    try:
        attributes = Memory(struct.pack("=QQQQ", 0x00100000, 0, 0, user_namespace))  # MOUNT_ATTR_IDMAP
        _system_call(
            442, ctypes.c_int(fd), b"", ctypes.c_uint(empty_path), _pointer(attributes.address), _size(32)
        )  # mount_setattr(2)
        from_empty = ctypes.c_uint(0x4)
        _system_call(429, ctypes.c_int(fd), b"", at_fdcwd, target.encode(), from_empty)  # move_mount(2)
    finally:
        os.close(fd)


def _named(call: str, sock: socket.socket, name: Union[bytes, int], length: int | None) -> None:
    if isinstance(name, int):
        _call(call, sock.fileno(), _pointer(name), length)
    else:
        place = Memory(name.ljust(128, b"\0"))
        _call(call, sock.fileno(), _pointer(place.address), len(name) if length is None else length)


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


def send_control(fd: int, data: bytes, control: bytes) -> int:
    """sendmsg(2) with these bytes as control messages, whatever they say of their lengths; how much was sent."""
    content = Memory(data)
    vector = Memory(struct.pack(_VECTOR, content.address, len(data)))
    messages = Memory(control)
    header = Memory(struct.pack(_HEADER, 0, 0, vector.address, 1, messages.address, len(control), 0))
    return _call("sendmsg", fd, _pointer(header.address), 0)


def sendmmsg(fd: int, messages: Sequence[bytes], flags: int = 0) -> int:
    """How many of the messages sendmmsg(2) sends."""
    _place, _vectors, headers = _headers(messages)
    return _call("sendmmsg", fd, _pointer(headers.address), len(messages), flags)


def setfsuid(uid: int) -> None:
    """setfsuid(2), which tells of no failure."""
    _libc.setfsuid(uid)


def setns(fd: int, flags: int = 0) -> None:
    """setns(2), which Python has from 3.12 on."""
    _call("setns", fd, flags)


def socketpair(domain: int, type: int, protocol: int = 0, pointer: int = 0) -> tuple[int, int]:
    """socketpair(2), written to a pointer if one is given: two descriptors."""
    pair = (ctypes.c_int * 2)()
    _call("socketpair", domain, type, protocol, _pointer(pointer) if pointer else pair)
    return pair[0], pair[1]


def splice(source: int, target: int, length: int) -> int:
    """splice(2), one of the two being a pipe."""
    return _call("splice", source, None, target, None, _size(length), 0)


def tee(source: int, target: int, length: int) -> int:
    """tee(2), without waiting."""
    return _call("tee", source, target, _size(length), 2)


def umount(target: str) -> None:
    """umount(2)."""
    _call("umount2", target.encode(), 0)
