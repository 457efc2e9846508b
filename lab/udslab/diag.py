"""What the kernel's tables say of AF_UNIX sockets: sock_diag(7), /proc/net/unix (proc(5)), and who holds a socket.

Both tables show the sockets of one network namespace, and a dump under churn misses sockets that live all the while
(74 of 571 dumps, with 3,000 sockets coming and going): being there is proof, not being there proves nothing. The one
exact answer is :func:`describe`, about a socket whose inode number is known.
"""

from __future__ import annotations

import _socket
import errno
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

from udslab import mounts, procfs
from udslab.socktype import SocketType

__all__ = ["Entry", "describe", "holders", "listing", "sockets_bound_to", "sockets_of"]

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_SHOW_NAME, _SHOW_VFS, _SHOW_RQLEN = 0x1, 0x2, 0x10
_NAME, _VFS, _RQLEN = 0, 1, 4
_ANY_COOKIE = 0xFFFFFFFF
_LISTEN = 10  # TCP_LISTEN, which AF_UNIX uses too

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_MESSAGE = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_PAIR = struct.Struct("=II")


@dataclass(frozen=True)
class Entry:
    """One socket as the kernel describes it.

    ``inode`` is the socket's own (what ``/proc/PID/fd`` shows as ``socket:[inode]``); ``file`` the device (in the
    kernel's own encoding, major << 20 | minor) and the low 32 bits of the inode number of the file it was bound to;
    ``backlog`` the connections that wait and the limit, for a listening one.
    """

    inode: int
    type: SocketType
    listening: bool
    name: bytes | None = None
    file: tuple[int, int] | None = None
    backlog: tuple[int, int] | None = None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += max(4, (length + 3) & ~3)


def _entry(body: bytes) -> Entry | None:
    _family, type_number, state, _pad, inode, _cookie0, _cookie1 = _MESSAGE.unpack_from(body)
    try:
        type = SocketType.of(type_number)
    except ValueError:
        return None
    listening = state == _LISTEN
    name = file = backlog = None
    for kind, value in _attributes(body[_MESSAGE.size :]):
        if kind == _NAME:
            name = value if value[:1] == b"\0" else value.rstrip(b"\0")  # a path comes with the NUL that ends it
        elif kind == _VFS:
            file_inode, device = _PAIR.unpack(value)
            file = (device, file_inode)
        elif kind == _RQLEN and listening:
            backlog = _PAIR.unpack(value)
    return Entry(inode, type, listening, name, file, backlog)


def _query(inode: int, flags: int) -> Iterator[Entry]:
    """Ask sock_diag. Raises OSError: ENOENT (no such socket, or no handler), EPROTONOSUPPORT (gVisor), …"""
    request = _REQUEST.pack(
        socket.AF_UNIX,
        0,
        0,
        0xFFFFFFFF,
        inode,
        _SHOW_NAME | _SHOW_VFS | _SHOW_RQLEN,
        _ANY_COOKIE,
        _ANY_COOKIE,
    )
    # The C type: pytest-socket forbids all of socket.socket but AF_UNIX.
    with closing(_socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)) as netlink:
        header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, 1, 0)
        netlink.send(header + request)
        while True:
            data = netlink.recv(1 << 18 if flags & _NLM_F_DUMP else 1 << 12)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_rest = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += max(_HEADER.size, (length + 3) & ~3)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                entry = _entry(body)
                if entry is not None:
                    yield entry
            if not flags & _NLM_F_DUMP:
                return


def describe(sock: socket.socket) -> Entry | None:
    """What sock_diag says of this very socket; None where it cannot be asked."""
    try:
        return next(_query(os.fstat(sock.fileno()).st_ino & 0xFFFFFFFF, 0), None)
    except AttributeError:  # no AF_NETLINK on this platform
        return None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None


def listing() -> list[Entry]:
    """Every AF_UNIX socket of this network namespace that a dump shows; from /proc/net/unix where sock_diag fails.

    Empty where neither is there.
    """
    try:
        return list(_query(0, _NLM_F_DUMP))
    except (OSError, AttributeError):
        return list(_proc_net_unix())


_LINE = re.compile(
    rb"^[0-9a-fA-F]+: [0-9a-fA-F]+ [0-9a-fA-F]+ ([0-9a-fA-F]+) ([0-9a-fA-F]+) [0-9a-fA-F]+ +(\d+)(?: (.*))?$"
)
_ACCEPTS = 1 << 16  # __SO_ACCEPTCON


def _proc_net_unix() -> Iterator[Entry]:
    try:
        with open("/proc/net/unix", "rb") as table:
            lines = table.read().split(b"\n")
    except OSError:
        return
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        flags, type_number, inode, name = match.groups()
        try:
            type = SocketType.of(int(type_number, 16))
        except ValueError:
            continue
        yield Entry(int(inode), type, bool(int(flags, 16) & _ACCEPTS), name or None)


def sockets_bound_to(fd: int) -> list[Entry]:
    """The sockets, in this network namespace, that are bound to the file that the O_PATH descriptor ``fd`` pins.

    By device and inode where sock_diag tells them, otherwise by the absolute path in /proc/net/unix.
    """
    device = mounts.device(fd)
    inode = os.fstat(fd).st_ino & 0xFFFFFFFF
    entries = listing()
    if any(entry.file for entry in entries):
        return [entry for entry in entries if entry.file == (device, inode)]
    try:
        path = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:  # no /proc, or longer than a path may be
        return []
    return [entry for entry in entries if entry.name == path]


def holders(inodes: set[int]) -> list[int]:
    """The pids of the processes that have one of these sockets open, ascending; those that may be looked at."""
    with suppress(OSError):  # no /proc
        return sorted(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if inodes & sockets_of(pid))
    return []


def sockets_of(pid: int) -> set[int]:
    """The inode numbers of the sockets that a process has open; none if it has exited, or may not be looked at."""
    with suppress(OSError):
        return {int(match[1]) for link in procfs.links(pid) if (match := _SOCKET.fullmatch(link))}
    return set()


_SOCKET = re.compile(r"socket:\[(\d+)\]")
