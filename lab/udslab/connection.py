"""Connections: connect, who is on the other side, whole lines and exact reads, descriptors over a socket."""

from __future__ import annotations

import array
import errno
import math
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from udslab.address import Address, AddressLike
from udslab.caller import peer_credentials, peer_pidfd
from udslab.credentials import Credentials
from udslab.deadline import Deadline
from udslab.errors import PeerGone, Stage, TimedOut, UdsError, failure
from udslab.socketfile import BoundSocket, SocketFile, open_directory, private_name, split
from udslab.socktype import SocketType, open_as
from udslab.state import FileKind
from udslab.support import need_af_unix

__all__ = ["Connection", "connect"]


class Connection(BoundSocket):
    """A connected ``socket.socket`` that also knows who is on the other side, and reads whole lines."""

    @property
    def credentials(self) -> Credentials:
        """Pid, uid and gid of the other side when it called connect (or listen): ``SO_PEERCRED``."""
        return peer_credentials(self)

    @property
    def peer_address(self) -> Address:
        """The address that the other side has bound; unnamed for most clients."""
        return Address.from_sockaddr(self.getpeername())

    def pidfd(self) -> int | None:
        """See :func:`udslab.caller.peer_pidfd`."""
        return peer_pidfd(self)

    def read_exactly(self, size: int) -> bytes:
        """Read ``size`` bytes, in as many pieces as they come.

        Raises :class:`~udslab.errors.PeerGone` at end of file before that.
        """
        pieces = []
        missing = size
        while missing:
            piece = self.recv(missing)
            if not piece:
                raise _cut_short(f"end of file after {size - missing} of {size} bytes")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def read_line(self, limit: int = 1 << 24) -> bytes:
        """Read up to and with the next newline, and nothing behind it; b"" at end of file.

        Raises :class:`~udslab.errors.PeerGone` at end of file in mid-line, :class:`~udslab.errors.UdsError` (EMSGSIZE)
        past ``limit`` bytes. For streams.
        """
        line = bytearray()
        while not line.endswith(b"\n"):
            # Looked at first, so that nothing behind the newline is taken.
            ahead = self.recv(1 << 16, socket.MSG_PEEK)
            if not ahead:
                if line:
                    raise _cut_short(f"end of file in mid-line, after {len(line)} bytes")
                return b""
            line += self.recv(ahead.find(b"\n") + 1 or len(ahead))
            if len(line) > limit:
                raise UdsError(Stage.RECEIVE, errno.EMSGSIZE, None, what=f"the line is longer than {limit} bytes")
        return bytes(line)

    def send_fds(self, data: bytes, fds: Sequence[int]) -> int:
        """Send descriptors along with at least one byte of ``data`` (``SCM_RIGHTS``, unix(7)); the bytes sent."""
        return self.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])

    def recv_fds(self, size: int, most: int) -> tuple[bytes, list[int]]:
        """Receive up to ``size`` bytes and up to ``most`` descriptors, which are close-on-exec and the caller's.

        Raises :class:`~udslab.errors.UdsError` (EMSGSIZE), with none left open, if more were sent: the kernel has
        closed the rest.
        """
        room = array.array("i")
        data, ancillary, flags, _ = self.recvmsg(
            size, socket.CMSG_SPACE(most * room.itemsize), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                room.frombytes(value[: len(value) - len(value) % room.itemsize])
        if flags & socket.MSG_CTRUNC or len(room) > most:
            for fd in room:
                os.close(fd)
            raise UdsError(
                Stage.RECEIVE, errno.EMSGSIZE, None, what=f"more than {most} descriptors were sent, and some are lost"
            )
        return data, list(room)


def _cut_short(what: str) -> PeerGone:
    return PeerGone(Stage.RECEIVE, errno.ECONNRESET, None, "the other side has gone", what)


def connect(
    address: AddressLike,
    *,
    type: SocketType | str = SocketType.STREAM,
    timeout: float | None = None,
    bind: AddressLike | None = None,
) -> Connection:
    """Connect to ``address``; a path of any length (on Linux over-long ones go through the inode).

    ``timeout`` limits the connecting, in seconds: a connect waits while the server's backlog is full (connect(2)). The
    connection itself is blocking. ``bind`` binds the client's own end first: to an address, or with ``"auto"`` to a
    file of its own, mode 0700 with an unguessable name, which is removed when the connection is closed.

    Raises :class:`~udslab.errors.NoSuchPath`, :class:`~udslab.errors.Refused`, :class:`~udslab.errors.AccessDenied`,
    :class:`~udslab.errors.WrongType`, :class:`~udslab.errors.TimedOut`: all :class:`~udslab.errors.UdsError`, with
    stage ``connect``; stage ``bind`` where the client's own address fails.
    """
    need_af_unix()
    address = Address.parse(address)
    if address.is_pathname and not address.fits and hasattr(os, "O_PATH"):
        return _connect_through_inode(address, SocketType(type), timeout, bind)
    return _connect(address, address.sun_path(), SocketType(type), timeout, bind)


def _connect_through_inode(
    address: Address, type: SocketType, timeout: float | None, bind: AddressLike | None
) -> Connection:
    try:
        fd = os.open(address.name, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise failure(Stage.CONNECT, error, address) from error
    try:
        return _connect(address, b"/proc/self/fd/%d" % fd, type, timeout, bind)
    finally:
        os.close(fd)


def _connect(
    address: Address, target: bytes, type: SocketType, timeout: float | None, bind: AddressLike | None
) -> Connection:
    connection = open_as(Connection, type)
    try:
        if bind is not None:
            _bind_own(connection, bind)
        _finish_connect(connection, target, Deadline(None if timeout == math.inf else timeout))
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError) and not isinstance(error, UdsError):
            raise failure(Stage.CONNECT, error, address, _no_socket(error, target)) from error
        if isinstance(error, TimedOut):
            error.filename = str(address)
        raise
    return connection


def _no_socket(error: OSError, target: bytes) -> str | None:
    """The hint where it was refused by what is no socket."""
    if error.errno == errno.ECONNREFUSED and not target.startswith(b"\0"):
        with suppress(OSError):  # it has gone meanwhile
            kind = FileKind.of(os.stat(target).st_mode)
            if kind is not FileKind.SOCKET:
                return f"a {kind} is there, and no socket; is the path right?"
    return None


def _finish_connect(connection: Connection, target: bytes, deadline: Deadline) -> None:
    # Where there is room nobody waits, and so no signal interrupts it.
    connection.setblocking(False)
    try:
        connection.connect(target)
        return
    except BlockingIOError:
        pass
    finally:
        # Not settimeout(), nor what setdefaulttimeout() has set: with that, too, a full backlog is EAGAIN at once.
        connection.setblocking(True)
    try:
        while True:
            left = deadline.left()
            if left is not None:
                _send_timeout(connection, max(left, 1e-6))
            try:
                connection.connect(target)
            except BlockingIOError:
                pass  # the limit has passed
            else:
                if _is_connected(connection):
                    return
                # Interrupted. Signals that come faster than the kernel's clock ticks would go on for ever.
                if not deadline.passed:
                    continue
            raise TimedOut(
                Stage.CONNECT,
                errno.ETIMEDOUT,
                None,
                "the server's backlog is full and it does not accept",
                f"not connected within {deadline.seconds or 0:g} s",
            )
    finally:
        if deadline.seconds is not None:
            _send_timeout(connection, 0)


def _is_connected(connection: Connection) -> bool:
    """Whether the connect really took place: interrupted by a signal, Python waits until the socket is writable,
    which an unconnected AF_UNIX socket always is, and reports success."""
    try:
        connection.getpeername()
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return False
        raise
    return True


def _send_timeout(sock: socket.socket, seconds: float) -> None:
    whole = int(seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", whole, int((seconds - whole) * 1e6)))


def _bind_own(connection: Connection, bind: AddressLike) -> None:
    own = Address.parse(bind)
    if isinstance(bind, (str, bytes)) and own.name == b"auto":
        import tempfile  # not at the top: with it come modules that make each fork dearer (random reseeds itself)

        name = private_name()
        own = Address.pathname(os.path.join(os.fsencode(tempfile.gettempdir()), name))
        if not own.fits:  # TMPDIR is too long
            own = Address.pathname(b"/tmp/" + name)
        # The directory may be shared: from the first moment on nobody else may connect (mode & ~umask).
        os.fchmod(connection.fileno(), 0o700)
        connection.lock_timeout = 0.0  # nobody else wants a name that nobody can guess
    try:
        if not own.is_pathname:
            connection.bind(own.sun_path())
            return
        directory, name = split(own)
        with open_directory(directory) as dir_fd:
            connection.bind(own.sun_path())
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            connection.file = SocketFile(connection, own, dir_fd, name, info)
    except UdsError:
        raise
    except OSError as error:
        raise failure(Stage.BIND, error, own) from error
