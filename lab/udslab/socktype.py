"""The three types of AF_UNIX socket, and the one place where a socket is made."""

from __future__ import annotations

import builtins
import socket
from typing import TypeVar

from udslab.errors import Stage, failure
from udslab.support import need_af_unix
from udslab.word import Word

__all__ = ["SocketType", "open_as", "open_pair", "open_socket"]

_Socket = TypeVar("_Socket", bound=socket.socket)


class SocketType(Word):
    """A socket type by its usual word: ``stream``, ``dgram`` or ``seqpacket`` (unix(7)).

    Made from the word, or from the constant of :mod:`socket`: ``SocketType(socket.SOCK_STREAM)``.
    """

    STREAM = "stream"
    DGRAM = "dgram"
    SEQPACKET = "seqpacket"

    constant: int
    """The number that socket(2) takes."""

    def __new__(cls, word: str) -> SocketType:  # noqa: D102 - an Enum's
        member = str.__new__(cls, word)
        member._value_ = word
        # SOCK_SEQPACKET is missing from Python's socket module on Windows.
        member.constant = int(getattr(socket, f"SOCK_{word.upper()}", 5))
        return member

    @classmethod
    def _missing_(cls, value: object) -> SocketType | None:
        if value == "datagram":
            return cls.DGRAM
        return next((member for member in cls if member.constant == value), None)

    @classmethod
    def of(cls, number: int) -> SocketType:
        """The type that a number of socket(2) means. Raises ValueError for another."""
        return _OF_NUMBER.get(number) or cls(number)  # type: ignore[arg-type]  # which refuses it

    @property
    def connects(self) -> bool:
        """Whether a server of this type listens and accepts (all but datagram)."""
        return self is not SocketType.DGRAM


_OF_NUMBER: dict[int, SocketType] = {type.constant: type for type in SocketType}

# Missing on Windows. Plain ints, for an IntEnum costs microseconds in status().
_AF_UNIX = int(getattr(socket, "AF_UNIX", 0))
_NONBLOCK = int(getattr(socket, "SOCK_NONBLOCK", 0))


def open_socket(type: SocketType, *, blocking: bool = True) -> socket.socket:
    """Make an AF_UNIX socket; close-on-exec, as PEP 446 has it.

    Raises :class:`~udslab.errors.Unsupported` where there is no AF_UNIX, otherwise
    :class:`~udslab.errors.UdsError` of stage ``socket`` (EMFILE, ENFILE, ENOBUFS; EPROTONOSUPPORT for
    seqpacket on macOS).
    """
    return open_as(socket.socket, type, blocking=blocking)


def open_as(kind: builtins.type[_Socket], type: SocketType, *, blocking: bool = True) -> _Socket:
    """The same, an instance of the class ``kind``."""
    need_af_unix()
    try:
        return kind(_AF_UNIX, type.constant if blocking else type.constant | _NONBLOCK)
    except OSError as error:
        raise failure(Stage.SOCKET, error) from error


def open_pair(type: SocketType) -> tuple[socket.socket, socket.socket]:
    """Make a connected pair of AF_UNIX sockets, both non-blocking. Raises as :func:`open_socket`."""
    need_af_unix()
    try:
        return socket.socketpair(_AF_UNIX, type.constant | _NONBLOCK)
    except OSError as error:
        raise failure(Stage.SOCKET, error) from error
