"""One tree of errors: the stage that failed, errno, the path, a hint.

Every error of the lab is a :class:`UdsError`, and every :class:`UdsError` is an :class:`OSError`, so code that
catches ``OSError``, ``ConnectionRefusedError``, ``PermissionError``, … sees what it would see from plain sockets.
"""

from __future__ import annotations

import errno
import os
import shlex
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udslab.state import Status

__all__ = [
    "AccessDenied",
    "AddressError",
    "AddressInUse",
    "AgentGone",
    "CallerRejected",
    "EngineError",
    "LockTimeout",
    "NoSuchPath",
    "PathLost",
    "PeerGone",
    "Refused",
    "ServiceError",
    "Stage",
    "TimedOut",
    "UdsError",
    "Unsupported",
    "WrongType",
    "failure",
    "restore",
]


class Stage(Enum):
    """The call at which something failed, with the word for it and the return code of the classic C functions.

    A listening server fails with -1, -2 or -3, a connecting client with -1, -2 or -4, and an accepting server with
    -1 (accept), -2 (the caller's file cannot be looked at) or -3 (what it names is no socket). ``None``: the
    classic functions have no such stage. The last two are the checks that the best-known of them makes too: others may
    connect to the caller's file, or it is too old.
    """

    ADDRESS = ("address", None)
    STATUS = ("status", None)
    SOCKET = ("socket", -1)
    BIND = ("bind", -2)
    LISTEN = ("listen", -3)
    CONNECT = ("connect", -4)
    ACCEPT = ("accept", -1)
    CALLER_NAME = ("a bad filename", -2)
    CALLER_TYPE = ("not a socket", -3)
    CALLER_MODE = ("a filename that is open to others", -4)
    CALLER_AGE = ("a filename that is too old", -5)
    SEND = ("send", None)
    RECEIVE = ("receive", None)
    CLOSE = ("close", None)
    SERVICE = ("service", None)
    ENGINE = ("container engine", None)
    AGENT = ("agent", None)
    REPORT = ("report", None)

    def __init__(self, word: str, code: int | None) -> None:
        self.word = word
        self.code = code


class UdsError(OSError):
    """Something failed: ``stage``, ``errno``, ``filename`` (the address as text, or None) and ``hint``.

    As text it is one line: the stage, the path, what the kernel says with the errno's name, and what to do.
    """

    def __init__(self, stage: Stage, number: int, filename: str | None = None, hint: str = "", what: str = "") -> None:
        super().__init__(number, what or os.strerror(number), filename)
        self.stage = stage
        self.hint = hint

    @property
    def code(self) -> int | None:
        """The return code of the classic C functions for this stage; see :class:`Stage`."""
        return self.stage.code

    @property
    def errno_name(self) -> str:
        """The symbol of the errno, such as ``EADDRINUSE``."""
        return errno.errorcode.get(self.errno or 0, str(self.errno))

    def __str__(self) -> str:
        where = f"{self.stage.word}: {self.filename}: " if self.filename else f"{self.stage.word}: "
        hint = f": {self.hint}" if self.hint else ""
        return f"{where}{self.strerror} ({self.errno_name}){hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own way calls the class with its three arguments, which are not ours.
        return restore, (type(self), self.errno, self.strerror, self.filename, self.__dict__)


def restore(cls: type[UdsError], number: int, what: str, filename: str | None, state: dict[str, Any]) -> UdsError:
    """Make an error of ``cls`` from its parts, as unpickling and the wire do."""
    error = cls.__new__(cls)
    OSError.__init__(error, number, what, filename)
    error.__dict__.update(state)
    return error


class Unsupported(UdsError):
    """This platform or this Python cannot do what was asked."""

    def __init__(self, what: str, hint: str = "", stage: Stage = Stage.SOCKET) -> None:
        super().__init__(stage, errno.EOPNOTSUPP, None, hint, what)


class AddressError(UdsError, ValueError):
    """The address cannot be handed to the kernel: empty, with a NUL inside, or too long for ``sun_path``."""


class ServiceError(UdsError, ValueError):
    """There is no such service, or it cannot be imported or used."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(Stage.SERVICE, errno.EINVAL, None, hint, what)


class AddressInUse(UdsError):
    """Something is at the address that may not be replaced. ``status`` says what, when it was looked at."""

    status: Status | None = None


class LockTimeout(UdsError, TimeoutError):
    """Another process kept the directory locked for longer than the limit."""


class PathLost(UdsError):
    """The path was ours and now names something else: another process removed, renamed or replaced it."""


class Refused(UdsError, ConnectionRefusedError):
    """Nothing listens there: the file is stale, bound and not listening, or no socket at all."""


class NoSuchPath(UdsError, FileNotFoundError):
    """There is no such path, or a directory on the way is missing."""


class AccessDenied(UdsError, PermissionError):
    """No permission on the socket file or on a directory on the way."""


class WrongType(UdsError):
    """The socket there is of another type (stream, dgram, seqpacket)."""


class TimedOut(UdsError, TimeoutError):
    """It did not happen within the limit that was given."""


class PeerGone(UdsError, ConnectionError):
    """The other side has gone: end of file where more was due, a reset, or a broken pipe."""


class CallerRejected(UdsError):
    """The file that a caller bound does not identify it."""


class EngineError(UdsError):
    """A container engine, an image or a container is not there, may not be used, or cannot do what was asked."""


class AgentGone(UdsError):
    """The agent that was asked has ended, or nothing connects to it any more."""


_CLASSES: dict[int, type[UdsError]] = {
    errno.EADDRINUSE: AddressInUse,
    errno.ECONNREFUSED: Refused,
    errno.ENOENT: NoSuchPath,
    errno.ENOTDIR: NoSuchPath,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EPROTOTYPE: WrongType,
    errno.EPIPE: PeerGone,
    errno.ECONNRESET: PeerGone,
    errno.ETIMEDOUT: TimedOut,
}

_HINTS: dict[tuple[Stage, int], str] = {
    (Stage.BIND, errno.EADDRINUSE): "something is there already; see what: udslab status {path}",
    (Stage.BIND, errno.ENOENT): "the directory is not there; make it first",
    (Stage.BIND, errno.ENOTDIR): "a part of the path before the name is not a directory",
    (Stage.BIND, errno.EACCES): "the directory may not be written or searched by this user",
    (Stage.BIND, errno.EROFS): "the file system is mounted read-only; a server needs a writable one",
    (Stage.BIND, errno.ENOSPC): "no room, or no inode, is left on the file system",
    (Stage.BIND, errno.EISDIR): "a directory is there; name a file in it",
    (Stage.CONNECT, errno.ENOENT): "no server has bound this path; is it started, and is the path right?",
    (Stage.CONNECT, errno.ENOTDIR): "a part of the path before the name is not a directory",
    (Stage.CONNECT, errno.ECONNREFUSED): "nothing listens there; see why: udslab status {path}",
    (Stage.CONNECT, errno.EACCES): "connecting needs write permission on the socket file and search permission "
    "on every directory before it",
    (Stage.CONNECT, errno.EPROTOTYPE): "the socket there is of another type; see which: udslab status {path}",
    (Stage.CONNECT, errno.ETIMEDOUT): "the server's backlog is full and it does not accept",
    (Stage.CONNECT, errno.EAGAIN): "the server's backlog is full and it does not accept",
    (Stage.SEND, errno.EPIPE): "the server has closed the connection",
    (Stage.SEND, errno.ECONNREFUSED): "the server has gone",
    (Stage.SEND, errno.EMSGSIZE): "a datagram or packet must fit in the send buffer; send shorter lines",
    (Stage.RECEIVE, errno.ECONNRESET): "the server closed with data unread",
    (Stage.SOCKET, errno.EMFILE): "no descriptor is left in this process; see ulimit -n",
    (Stage.SOCKET, errno.ENFILE): "no descriptor is left on this machine",
    (Stage.SOCKET, errno.EPROTONOSUPPORT): "this kernel has no AF_UNIX sockets of that type",
}


def failure(stage: Stage, cause: OSError | int, filename: object = None, hint: str | None = None) -> UdsError:
    """Make the error of the right class for ``cause`` (an ``OSError`` or an errno) at ``stage``.

    ``hint=None`` takes the usual one for this stage and errno.
    """
    number = cause if isinstance(cause, int) else cause.errno or errno.EINVAL
    if hint is None:
        hint = _HINTS.get((stage, number), "").format(path=shlex.quote(str(filename or "PATH")))
    cls = _CLASSES.get(number, UdsError)
    return cls(stage, number, None if filename is None else str(filename), hint)
