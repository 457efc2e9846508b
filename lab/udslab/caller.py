"""Who called: by the kernel's word, and by the file that the caller bound.

The kernel's word is ``SO_PEERCRED`` (unix(7)): the pid, uid and gid that the other side had when it called
``connect`` (or ``listen``, or ``socketpair``). It is recorded by the kernel and cannot be forged or exchanged
afterwards: trust it.

The other way is older: the caller binds a path before it connects, the server asks ``accept`` for that path, and takes
the owner of the file for the caller. Whoever may write to the directory can put a file of somebody else's in its place
between ``connect`` and ``stat``, and then *is* somebody else; and a server that removes the path afterwards removes
what was put there. The lab has it to speak with programs that work so, with every check that can be made, and never
decides anything by it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from dataclasses import dataclass

from udslab import probe
from udslab.address import Address
from udslab.credentials import Credentials
from udslab.errors import CallerRejected, Stage, Unsupported, failure
from udslab.socketfile import open_directory, remove_pinned, split

__all__ = ["FileIdentity", "caller_by_file", "peer_credentials", "peer_pidfd"]

_SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5; not in Python's socket module before 3.14
_UCRED = struct.Struct("=iII")
_NOBODY_CALLED = 0xFFFFFFFF  # uid -1


def peer_credentials(sock: socket.socket) -> Credentials:
    """The credentials of the other side of a connected stream or seqpacket socket (``SO_PEERCRED``, unix(7)).

    Of a client's connection: who called ``listen``, not who accepts. Raises
    :class:`~udslab.errors.Unsupported` off Linux, and for a socket that was never connected so.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        raise Unsupported("this platform has no SO_PEERCRED")
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    if uid == _NOBODY_CALLED:
        raise Unsupported("the kernel knows no peer of this socket", "ask a connected stream or seqpacket socket")
    return Credentials(pid, uid, gid)


def peer_pidfd(sock: socket.socket) -> int | None:
    """A new close-on-exec pidfd of the other side's process (``SO_PEERPIDFD``, Linux 6.5): unlike a pid, it is never
    given to another process. None where the kernel has it not, or no longer knows the process. The caller closes it.
    """
    try:
        fd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.ENODATA, errno.ESRCH, errno.EINVAL):
            return None
        raise
    return fd


@dataclass(frozen=True)
class FileIdentity:
    """What a caller's file says: its path, its owner, and its age in seconds."""

    path: Address
    uid: int
    gid: int
    age: float


def caller_by_file(
    connection: socket.socket, *, max_age: float = 30.0, private: bool = True, unlink: bool = True
) -> FileIdentity:
    """Who called, by the file that the caller has bound. **Do not trust it**: see the top of this module.

    The file must be there, be a socket (a symbolic link to one is not), be closed to group and others (``private``),
    and have been changed within ``max_age`` seconds. Then it is removed (``unlink``): only if it is still the one
    that was looked at, and only if it could be the caller's (its owner is who the kernel says called, and nothing
    listens on it), for whoever can make a mount namespace can give any path for its own.

    Raises :class:`~udslab.errors.CallerRejected` with the stage and the code of what is wrong.
    """
    address = Address.from_sockaddr(connection.getpeername())
    if not address.is_pathname:
        raise CallerRejected(
            Stage.CALLER_NAME, errno.ENOENT, str(address), "only a path has an owner", "the caller has bound no file"
        )
    if address.is_private or not address.name.startswith(b"/"):
        raise CallerRejected(
            Stage.CALLER_NAME,
            errno.ENOENT,
            str(address),
            "bind it by its absolute path",
            "it leads elsewhere from here",
        )
    directory, name = split(address)
    try:
        with open_directory(directory) as dir_fd:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                info = os.fstat(fd)
                identity = _identify(address, info, max_age, private)
                could_be = info.st_uid == peer_credentials(connection).uid
                if unlink and could_be and not probe.ask(fd, name, dir_fd=dir_fd).listening:
                    remove_pinned(dir_fd, name, info)
            finally:
                os.close(fd)
    except CallerRejected:
        raise
    except OSError as error:
        rejected = failure(Stage.CALLER_NAME, error, address, "the caller's file cannot be looked at or removed")
        raise CallerRejected(rejected.stage, error.errno or 0, rejected.filename, rejected.hint) from error
    return identity


def _identify(address: Address, info: os.stat_result, max_age: float, private: bool) -> FileIdentity:
    age = time.time() - max(info.st_mtime, info.st_ctime)
    if not stat.S_ISSOCK(info.st_mode):
        raise CallerRejected(
            Stage.CALLER_TYPE, errno.ENOTSOCK, str(address), "something else has been put at the caller's path"
        )
    if private and info.st_mode & 0o077:
        raise CallerRejected(
            Stage.CALLER_MODE,
            errno.EPERM,
            str(address),
            "the caller must make its file with mode 0700",
            f"its mode is {stat.S_IMODE(info.st_mode):04o}",
        )
    if age > max_age:
        raise CallerRejected(
            Stage.CALLER_AGE,
            errno.ESTALE,
            str(address),
            "the caller must bind its file just before it connects",
            f"it is {age:.0f} s old, and the limit is {max_age:.0f} s",
        )
    return FileIdentity(address, info.st_uid, info.st_gid, age)
