"""Bind and listen safely: what happens to what is in the way, and unlink only what is ours."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from udslab import diag, mounts
from udslab.address import Address, AddressLike
from udslab.connection import Connection
from udslab.deadline import Deadline
from udslab.errors import (
    AddressError,
    AddressInUse,
    PathLost,
    Stage,
    TimedOut,
    UdsError,
    Unsupported,
    failure,
)
from udslab.socketfile import (
    BoundSocket,
    SocketFile,
    lock,
    open_directory,
    private_name,
    remove_pinned,
    rename_noreplace,
    split,
)
from udslab.socktype import SocketType, open_as
from udslab.state import OVERLAY_NOTE, State, Status, examine, pin
from udslab.word import Word

__all__ = ["Listener", "OnExisting", "bind", "inherited", "listen"]

_MOST_BACKLOG = 0x7FFFFFFF


class OnExisting(Word):
    """What to do when something is at the path already."""

    REFUSE = "refuse"
    """Nothing: ``bind`` fails with EADDRINUSE, as the kernel says it."""
    REPLACE_STALE = "replace-stale"
    """Replace what is certainly a stale socket file. What is live, bound, foreign, a link or unknown is never touched,
    and of any number that start at once exactly one wins."""
    UNLINK = "unlink"
    """Remove whatever file is there. It takes a live server's path from it, and deletes a user's file: kept because
    most programs do it, and to show what is wrong with it."""


class Listener:
    """A listening stream or seqpacket socket: ``socket``, ``address``, ``type``; closing it removes its file.

    ``inherited``: it was handed over by a service manager; its file is the manager's and is never removed.
    """

    def __init__(self, sock: BoundSocket, address: Address | None = None, *, inherited: bool = False) -> None:
        """``address``: as it was asked for, if that is not what the kernel says (a path that does not fit)."""
        self.socket = sock
        self.type = SocketType.of(sock.type)
        self.address = address or sock.address
        self.inherited = inherited

    @property
    def file(self) -> SocketFile | None:
        """The file that closing will remove; None for abstract names and inherited sockets."""
        return self.socket.file

    def accept(self) -> Connection:
        """Wait for the next connection; limited by ``self.socket.settimeout()``.

        Raises :class:`~udslab.errors.TimedOut` after that limit, BlockingIOError if the socket is non-blocking and
        nobody waits, and :class:`~udslab.errors.UdsError` of stage ``accept`` (EMFILE: the connection stays queued).
        """
        try:
            accepted, _ = self.socket.accept()
        except BlockingIOError:
            raise
        except socket.timeout as error:  # TimeoutError from Python 3.10 on
            raise TimedOut(Stage.ACCEPT, errno.ETIMEDOUT, str(self.address), what="nobody connected in time") from error
        except OSError as error:
            raise failure(Stage.ACCEPT, error, self.address) from error
        return Connection(accepted.family, self.type.constant, 0, fileno=accepted.detach())

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self.socket.fileno()

    def close(self) -> None:
        """Remove the file if it is still ours, then close. See :meth:`udslab.socketfile.BoundSocket.close`."""
        self.socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.type} {self.address}>"


def listen(
    address: AddressLike,
    *,
    type: SocketType | str = SocketType.STREAM,
    on_existing: OnExisting | str = OnExisting.REPLACE_STALE,
    backlog: int = 128,
    mode: int | None = None,
    group: int | str | None = None,
    long_path: str = "refuse",
    lock_timeout: float = 5.0,
) -> Listener:
    """Bind a stream or seqpacket socket to ``address`` and listen.

    ``on_existing`` is one of :class:`OnExisting`. ``backlog`` lets ``backlog + 1`` connections wait, up to
    net.core.somaxconn (listen(2)). ``mode`` and ``group`` (an id or a name; with it the mode is 0660 unless given) are
    the file's from its first moment on: never open to more than that. ``long_path="alias"`` serves a path that does not
    fit in ``sun_path``: under a short temporary name that is renamed into place; peers see that name as the
    server's address. ``lock_timeout``: how many seconds to wait for other starters in the same directory.

    Raises :class:`~udslab.errors.AddressInUse` (with ``status``), :class:`~udslab.errors.LockTimeout`,
    :class:`~udslab.errors.AddressError`, :class:`~udslab.errors.NoSuchPath`, :class:`~udslab.errors.AccessDenied`,
    :class:`~udslab.errors.PathLost`; all :class:`~udslab.errors.UdsError` with the stage. Nothing stays behind then.
    """
    type = SocketType(type)
    if not type.connects:
        raise AddressError(
            Stage.LISTEN, errno.EOPNOTSUPP, str(Address.parse(address)), "use bind() for datagram sockets"
        )
    if not 0 <= backlog <= _MOST_BACKLOG:
        raise ValueError(f"a backlog is from 0 to {_MOST_BACKLOG}, not {backlog}")
    if long_path not in ("refuse", "alias"):
        raise ValueError(f"long_path is 'refuse' or 'alias', not {long_path!r}")

    where = Address.parse(address)

    def start_listening(sock: BoundSocket) -> None:
        try:
            sock.listen(backlog)
        except OSError as error:
            raise failure(Stage.LISTEN, error, where) from error

    maker = _Maker(where, type, mode, group, long_path == "alias", start_listening)
    return Listener(maker.make(OnExisting(on_existing), lock_timeout), maker.address if maker.alias else None)


def bind(
    address: AddressLike,
    *,
    type: SocketType | str = SocketType.DGRAM,
    on_existing: OnExisting | str = OnExisting.REPLACE_STALE,
    mode: int | None = None,
    group: int | str | None = None,
    lock_timeout: float = 5.0,
    pass_credentials: bool = False,
) -> BoundSocket:
    """Bind a socket, of datagrams unless told otherwise; everything as with :func:`listen`, but for the listening.

    ``pass_credentials`` sets ``SO_PASSCRED`` before anybody can send (unix(7)): who sends a datagram is told with it.

    An over-long path is always refused: a peer that answers to the alias would resolve it among its own descriptors.
    """
    maker = _Maker(Address.parse(address), SocketType(type), mode, group, False, lambda sock: None)
    maker.pass_credentials = pass_credentials
    return maker.make(OnExisting(on_existing), lock_timeout)


class _Maker:
    """Makes a bound socket by one of the policies. ``finish`` is called with it while the directory is locked."""

    def __init__(
        self,
        address: Address,
        type: SocketType,
        mode: int | None,
        group: int | str | None,
        alias: bool,
        finish: Callable[[BoundSocket], None],
    ) -> None:
        if not address.is_pathname and (mode is not None or group is not None):
            raise AddressError(
                Stage.ADDRESS,
                errno.EINVAL,
                str(address),
                "anybody may connect to it (unix(7))",
                "it has no file, and so no mode and no group",
            )
        if mode is not None and not 0 <= mode <= 0o777:
            raise ValueError(f"a mode is from 0 to 0o777, not {mode:#o}")
        self.address = address
        self.type = type
        self.gid = None if group is None else _group_id(group, address)
        self.mode = 0o660 if mode is None and group is not None else mode
        self.alias = alias and address.is_pathname and not address.fits
        self.finish = finish
        self.pass_credentials = False

    def make(self, policy: OnExisting, lock_timeout: float) -> BoundSocket:
        if not self.alias:
            self.address.sun_path()  # too long is said before anything is touched
        try:
            if not self.address.is_pathname:
                return self._attempt(-1, b"")
            directory, name = split(self.address)
            with open_directory(directory) as dir_fd:
                if policy is OnExisting.REPLACE_STALE:
                    deadline = Deadline(lock_timeout)
                    with lock(dir_fd, deadline, self.address):
                        return self._replacing(dir_fd, name, deadline)
                if policy is OnExisting.UNLINK:
                    with suppress(FileNotFoundError):
                        os.unlink(self.address.name)
                return self._attempt(dir_fd, name)
        except UdsError:
            raise
        except OSError as error:
            raise failure(Stage.BIND, error, self.address) from error

    def _replacing(self, dir_fd: int, name: bytes, deadline: Deadline) -> BoundSocket:
        while True:
            try:
                return self._attempt(dir_fd, name)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            try:
                with pin(name or b".", dir_fd=dir_fd) as fd:
                    found = examine(fd, self.address, at=(dir_fd, name))
                    if found.removable and mounts.is_overlay_layer(fd):
                        found = replace(found, certain=False, notes=(*found.notes, OVERLAY_NOTE))
                    if not found.removable:
                        raise _in_use(found)
                    try:
                        # Whoever binds first now has it: if that is not us, we look again.
                        if remove_pinned(dir_fd, name, os.fstat(fd)):
                            continue
                    except PermissionError as error:
                        raise _in_use(
                            found, f"it is stale, and this user may not remove it ({error.strerror})"
                        ) from error
            except FileNotFoundError:
                pass  # it has just gone
            if deadline.passed:
                raise AddressInUse(
                    Stage.BIND,
                    errno.EADDRINUSE,
                    str(self.address),
                    f"others bind and remove it all the time; given up after {deadline.seconds:g} s",
                )

    def _attempt(self, dir_fd: int, name: bytes) -> BoundSocket:
        """A socket that is bound, set up and finished; OSError of the bind itself, with nothing left behind."""
        sock = open_as(BoundSocket, self.type)
        try:
            if self.mode is not None and self.address.is_pathname:
                # The file gets the socket's own mode & ~umask (unix_bind_bsd), so that it is never too open. The
                # group is wrong until it is changed, so that it must wait.
                os.fchmod(sock.fileno(), self.mode if self.gid is None else self.mode & 0o700)
            if self.pass_credentials:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            if self.alias:
                self._bind_alias(sock, dir_fd, name)
            else:
                sock.bind(self.address.sun_path())
            if self.address.is_pathname:
                self._take(sock, dir_fd, name)
            self.finish(sock)
        except BaseException:
            if sock.file is None and self.address.is_pathname and self._is_bound(sock):
                self._remove_stray(sock, name)
            sock.close()
            raise
        return sock

    @staticmethod
    def _is_bound(sock: socket.socket) -> bool:
        with suppress(OSError):
            return bool(sock.getsockname())
        return False

    def _bind_alias(self, sock: socket.socket, dir_fd: int, name: bytes) -> None:
        short = private_name()
        try:
            sock.bind(b"/proc/self/fd/%d/%s" % (dir_fd, short))
            rename_noreplace(dir_fd, short, name)
        except BaseException as error:
            with suppress(FileNotFoundError):
                os.unlink(short, dir_fd=dir_fd)
            if isinstance(error, FileExistsError):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error
            raise

    def _take(self, sock: BoundSocket, dir_fd: int, name: bytes) -> None:
        """Note which file the socket has, and give it its group and its whole mode."""
        try:
            with pin(name, dir_fd=dir_fd) as fd:
                sock.file = SocketFile(sock, self.address, dir_fd, name, os.fstat(fd))
                if self.mode is not None:
                    self._open_to_mode(f"/proc/self/fd/{fd}", self.mode)
        except FileNotFoundError as error:
            raise PathLost(
                Stage.BIND,
                errno.ESTALE,
                str(self.address),
                "another process removes it, or has replaced its directory",
                "the file has gone as soon as it was bound",
            ) from error

    def _remove_stray(self, sock: BoundSocket, name: bytes) -> None:
        """Remove the file if it was made in a directory that has come in the place of ours."""
        entry = diag.describe(sock)
        if entry is None or entry.file is None:
            return
        with (
            suppress(OSError),
            open_directory(split(self.address)[0]) as dir_fd,
            pin(name, dir_fd=dir_fd) as fd,
        ):
            if os.fstat(fd).st_ino & 0xFFFFFFFF == entry.file[1]:
                remove_pinned(dir_fd, name, os.fstat(fd))

    def _open_to_mode(self, path: str, mode: int) -> None:
        if not os.path.exists(path):
            raise Unsupported("there is no /proc, which setting the mode takes", "mount /proc", Stage.BIND)
        if self.gid is not None:
            os.chown(path, -1, self.gid)
        if stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)


def _group_id(group: int | str, address: Address) -> int:
    if isinstance(group, int) or group.isdecimal():
        number = int(group)
        if not 0 <= number < 0xFFFFFFFF:  # which chown(2) takes for "leave it"
            raise ValueError(f"a group id is from 0 to 4294967294, not {number}")
        return number
    import grp  # not on every platform

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UdsError(
            Stage.BIND, errno.EINVAL, str(address), "see: getent group", f"there is no group {group!r}"
        ) from None


_IN_USE = {
    State.LISTENING: "a {type} server listens there; stop it first, or choose another path",
    State.BOUND: "a {type} socket is bound there; stop its process first, or choose another path",
    State.STALE: "it seems to be stale, which is not certain here; remove it by hand if you know better",
    State.UNKNOWN: "the socket there may not be asked whether it lives; look as its owner: udslab status {path}",
    State.NOT_A_SOCKET: "a {kind} is there, which is not the lab's to remove",
}


def _in_use(found: Status, hint: str | None = None) -> AddressInUse:
    if hint is None:
        hint = _IN_USE[found.state].format(type=found.type, kind=found.kind, path=shlex.quote(str(found.address)))
    error = AddressInUse(Stage.BIND, errno.EADDRINUSE, str(found.address), hint)
    error.status = found
    return error


_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START


def inherited() -> list[Listener | BoundSocket]:
    """Take over the AF_UNIX sockets that a service manager has handed to this process (sd_listen_fds(3)).

    Listening ones as :class:`Listener`, others as :class:`~udslab.socketfile.BoundSocket`; empty if none were handed
    over, or not to this process (``LISTEN_PID``). Their files are the manager's: closing never removes them. They are
    made close-on-exec and the variables are removed, so that they are taken once.

    Raises :class:`~udslab.errors.UdsError` (stage ``socket``) if a descriptor is no AF_UNIX socket.
    """
    environment = {key: os.environ.get(key, "") for key in ("LISTEN_PID", "LISTEN_FDS")}
    if environment["LISTEN_PID"] != str(os.getpid()):
        return []
    for key in (*environment, "LISTEN_FDNAMES"):
        os.environ.pop(key, None)
    if not environment["LISTEN_FDS"].isdecimal():
        raise UdsError(Stage.SOCKET, errno.EINVAL, None, "it is a number", f"LISTEN_FDS={environment['LISTEN_FDS']!r}")
    fds = range(_FIRST_INHERITED, _FIRST_INHERITED + int(environment["LISTEN_FDS"]))
    for fd in fds:
        _check_inherited(fd)  # all before any is taken, so that one bad one does not close the others
    return [_take_over(fd) for fd in fds]


def _check_inherited(fd: int) -> None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise failure(
            Stage.SOCKET, error, f"descriptor {fd}", "LISTEN_FDS names a descriptor that is no socket"
        ) from error
    family = sock.family
    sock.detach()
    if family != socket.AF_UNIX:
        raise failure(
            Stage.SOCKET, errno.EAFNOSUPPORT, f"descriptor {fd}", "LISTEN_FDS holds a socket of another family"
        )


def _take_over(fd: int) -> Listener | BoundSocket:
    os.set_inheritable(fd, False)
    sock = BoundSocket(fileno=fd)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return Listener(sock, inherited=True)
    return sock
