"""The file that a socket of ours is bound to: whose it is, and how to remove it and nothing else.

Two rules. Nothing is done twice by path: everything goes through a descriptor of the directory, so that nobody can
exchange the directory between two steps. And nothing is removed by name: what is at the name is moved aside under a
private name, compared with the inode that was looked at, and only then removed, or put back. So a foreign server that
binds in between loses nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from udslab import diag, libc
from udslab.address import Address, printable
from udslab.deadline import Deadline
from udslab.errors import LockTimeout, PathLost, Stage, UdsError, failure
from udslab.support import fcntl, need_flock, need_o_path

__all__ = [
    "BoundSocket",
    "SocketFile",
    "lock",
    "open_directory",
    "private_name",
    "remove_pinned",
    "rename_noreplace",
    "split",
]


def split(address: Address) -> tuple[bytes, bytes]:
    """The directory and the name of a pathname address."""
    directory, name = os.path.split(address.name)
    return directory or b".", name


def private_name() -> bytes:
    """A short file name that nobody can guess."""
    return b".udslab-" + os.urandom(8).hex().encode()


@contextmanager
def open_directory(path: bytes) -> Iterator[int]:
    """A descriptor of a directory, also of one that may be searched and not read."""
    need_o_path()
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def lock(dir_fd: int, deadline: Deadline, address: Address) -> Iterator[None]:
    """Hold ``flock`` on a directory, so that of all who take it one at a time decides about a path in it.

    No lock file stays behind, and the lock goes when its process dies. Where it cannot be had (a directory that may
    not be read, a file system without it) nothing is locked, and of many who start within the same microseconds over
    a stale file more than one could believe to have won: see :func:`remove_pinned`.

    Raises :class:`~udslab.errors.LockTimeout` after the deadline: whoever may read a directory can lock it for ever.
    """
    need_flock()
    try:
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    except PermissionError:
        yield
        return
    try:
        locked = _flock(fd, deadline, address)
        try:
            yield
        finally:
            if locked:
                # Not left to close: a child forked meanwhile shares the lock.
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _flock(fd: int, deadline: Deadline, address: Address) -> bool:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            # flock(2) has no time limit, and interrupting it takes a signal, which a library may not use.
            left = deadline.left()
            if left == 0:
                directory = printable(split(address)[0])
                raise LockTimeout(
                    Stage.BIND,
                    errno.ETIMEDOUT,
                    str(address),
                    "end that process, or use a directory that others may not read",
                    f"{_lock_holder(fd)} has kept {directory} locked (flock) for {deadline.seconds:g} s",
                ) from None
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 2, 0.02)
        except OSError:
            return False  # not on this file system, or not allowed


def _lock_holder(fd: int) -> str:
    """Which process holds the flock, from /proc/locks (proc(5)), as far as it can be seen from here."""
    info = os.fstat(fd)
    file = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    try:
        with open("/proc/locks") as locks:
            for _, kind, _, _, pid, where, *_ in map(str.split, locks):
                if kind == "FLOCK" and where == file and pid not in ("0", "-1"):
                    return f"pid {pid}"
    except (OSError, ValueError):
        pass
    return "another process"


def rename_noreplace(dir_fd: int, old: bytes, new: bytes) -> None:
    """Rename within a directory, or raise FileExistsError if ``new`` is there.

    By renameat2(2), because link(2) refuses a socket of another user's (fs.protected_hardlinks); by link and unlink
    where the C library, the file system or a seccomp filter refuses that.
    """
    if not libc.rename_noreplace(dir_fd, old, new):
        os.link(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        os.unlink(old, dir_fd=dir_fd)


def remove_pinned(dir_fd: int, name: bytes, pinned: os.stat_result) -> bool:
    """Remove ``name`` if it is the file that ``pinned`` tells of; whether it was.

    That file must be held (by a descriptor, or by a socket that is bound to it), so that no other has its number.
    Anything else keeps its place. What comes there just now, between looking and moving, is away from its name for
    the time of three system calls; if it cannot be put back, because a third party has taken the place in that time:
    raises :class:`~udslab.errors.PathLost`, with the name under which it is kept. Raises OSError if the directory may
    not be written.
    """
    aside = private_name()
    try:
        if not os.path.samestat(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), pinned):
            return False
        os.rename(name, aside, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    if os.path.samestat(os.stat(aside, dir_fd=dir_fd, follow_symlinks=False), pinned):
        os.unlink(aside, dir_fd=dir_fd)
        return True
    try:
        rename_noreplace(dir_fd, aside, name)
    except OSError as error:
        raise PathLost(
            Stage.BIND,
            error.errno or errno.EEXIST,
            printable(name),
            f"what another process has just put there is kept in the same directory as {printable(aside)}",
            f"it was moved aside and cannot be put back ({error.strerror})",
        ) from error
    return False


class SocketFile:
    """The file on the disk that a socket of this process is bound to.

    While the socket is open the kernel holds the inode, so device and inode number name this file and no other.
    """

    def __init__(self, sock: socket.socket, address: Address, dir_fd: int, name: bytes, info: os.stat_result) -> None:
        """``name`` in ``dir_fd`` was just bound to ``sock``, and ``info`` is what is there now.

        Raises :class:`~udslab.errors.PathLost` if that is not the file that the kernel has bound ``sock`` to.
        """
        self._dir_fd = -1
        entry = diag.describe(sock)
        if entry is not None and entry.file is not None and entry.file[1] != info.st_ino & 0xFFFFFFFF:
            raise PathLost(
                Stage.BIND,
                errno.ESTALE,
                str(address),
                "it removes the path before it binds; stop it, or choose another path",
                "another process has replaced the file as soon as it was bound",
            )
        self.address = address
        self._name = name
        self._info = info
        self._pid = os.getpid()
        self._dir_fd = os.dup(dir_fd)

    @property
    def present(self) -> bool:
        """Whether the path still names this file."""
        try:
            return os.path.samestat(os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False), self._info)
        except OSError:
            return False

    def remove(self, lock_timeout: float = 1.0) -> bool:
        """Remove the file if the path still names it, in the process that bound it; whether it did.

        To be called before the socket is closed, for then the number may go to the next file at once. Where the
        directory's lock cannot be had in time it is removed without, which is as safe. Raises
        :class:`~udslab.errors.UdsError` of stage ``close`` if the directory may not be written any more.
        """
        if os.getpid() != self._pid or not self.present:
            return False
        try:
            with ExitStack() as locked:
                with suppress(OSError):  # kept for ever by somebody, or no descriptor is left
                    locked.enter_context(lock(self._dir_fd, Deadline(lock_timeout), self.address))
                return remove_pinned(self._dir_fd, self._name, self._info)
        except OSError as error:
            raise failure(
                Stage.CLOSE, error, self.address, "the socket file could not be removed and stays behind"
            ) from error

    def close(self) -> None:
        """Let go of the directory. The file is left as it is."""
        fd, self._dir_fd = self._dir_fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class BoundSocket(socket.socket):
    """A ``socket.socket`` that knows the file it is bound to (``file``; None if it has none), and removes it when it
    is closed, if it is still there and still its own."""

    file: SocketFile | None = None
    lock_timeout = 1.0
    """How many seconds closing waits for the directory's lock before it goes on without."""

    @classmethod
    def adopt(cls, sock: socket.socket, file: SocketFile | None = None) -> BoundSocket:
        """Take over a plain socket."""
        taken = cls(sock.family, sock.type, sock.proto, fileno=sock.detach())
        taken.file = file
        return taken

    @property
    def address(self) -> Address:
        """The address that it is bound to, as the kernel has it."""
        return Address.from_sockaddr(self.getsockname())

    def close(self) -> None:
        """Remove the file, then close. Raises :class:`~udslab.errors.UdsError` of stage ``close`` after closing, if the
        file could not be removed."""
        try:
            if self.file is not None:
                self.file.remove(self.lock_timeout)
        except UdsError:
            self._let_go()
            raise
        self._let_go()

    def _let_go(self) -> None:
        # Last, so that a close that was interrupted can be made again.
        file, self.file = self.file, None
        if file is not None:
            file.close()
        super().close()

    def detach(self) -> int:
        """Give the descriptor away; the file is its new owner's."""
        file, self.file = self.file, None
        if file is not None:
            file.close()
        return super().detach()
