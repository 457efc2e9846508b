"""AF_UNIX addresses: pathname, abstract and unnamed; what fits in ``sun_path``.

Address arithmetic only: nothing here opens a socket or looks at a file. See unix(7), "Address format".
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from typing import Union
from urllib.parse import unquote_to_bytes

from udslab.errors import AddressError, Stage
from udslab.word import Word

__all__ = ["MAX_PATH", "SUN_PATH_OFFSET", "SUN_PATH_SIZE", "Address", "AddressKind", "AddressLike", "printable"]

SUN_PATH_SIZE = 108 if sys.platform.startswith("linux") else 104
"""Bytes of ``sun_path`` in ``struct sockaddr_un``: 108 on Linux, 104 on macOS and the BSDs."""

SUN_PATH_OFFSET = 2
"""Where ``sun_path`` begins in ``struct sockaddr_un``: behind two bytes of family (of length and family on BSD)."""

MAX_PATH = SUN_PATH_SIZE - 1
"""The longest pathname in bytes. Linux takes one more, without its terminating NUL, and then reports an address that
is longer than ``struct sockaddr_un`` (unix(7), BUGS): the lab refuses that."""

AddressLike = Union["Address", str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
"""What stands for an address: see :meth:`Address.parse`."""


class AddressKind(Word):
    """The three kinds of AF_UNIX address (unix(7))."""

    PATHNAME = "pathname"
    ABSTRACT = "abstract"
    UNNAMED = "unnamed"


def printable(name: bytes) -> str:
    """The name on one line of any terminal: control characters and bytes that are not UTF-8 as ``\\xNN``."""
    text = name.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@dataclass(frozen=True)
class Address:
    """An AF_UNIX address: its kind, and its name as exact bytes (an abstract one without the leading NUL).

    Make one with :meth:`parse`, :meth:`pathname`, :meth:`abstract`, :meth:`unnamed` or :meth:`from_sockaddr`.
    """

    kind: AddressKind
    name: bytes = b""

    @classmethod
    def parse(cls, value: AddressLike) -> Address:
        """Read an address in any of its spellings.

        ===========================================  =======================================================
        an ``os.PathLike``                           that path, whatever it looks like
        ``/run/a.sock``, ``a.sock``, bytes           that path; text is encoded as the file system does it
        ``@name``                                    the abstract name ``name`` (write ``./@name`` for a file)
        ``\\0name``                                   the same, as :mod:`socket` spells it
        ``unix:a.sock``, ``unix:///run/a.sock``      a path, percent-decoded; no host
        ``unix:@name``, ``unix-abstract:name``       an abstract name, percent-decoded
        ===========================================  =======================================================

        Raises :class:`~udslab.errors.AddressError` if it is empty, holds a NUL, or names a host. Length is not
        looked at here: see :meth:`sun_path`.
        """
        if isinstance(value, Address):
            return value
        if isinstance(value, os.PathLike):
            return cls.pathname(os.fsencode(value))
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"an address is a str, bytes, path or Address, not {type(value).__name__}")
        try:
            raw = os.fsencode(value)
        except UnicodeEncodeError as error:
            raise _refuse(repr(value).encode(), "it holds characters that no file name can hold", str(error)) from error
        if raw.startswith(b"\0"):
            return cls.abstract(raw[1:])
        scheme, colon, rest = raw.partition(b":")
        if colon and scheme == b"unix-abstract":
            return cls.abstract(unquote_to_bytes(rest))
        if colon and scheme == b"unix":
            if rest.startswith(b"//"):
                host, slash, path = rest[2:].partition(b"/")
                if host and not host.startswith(b"@"):
                    raise _refuse(
                        raw, "a unix: URL has no host", f"write unix:///{printable(rest[2:])} for an absolute path"
                    )
                rest = host + slash + path
            # Looked at before it is decoded: %40 is how a path that begins with @ is written.
            if rest.startswith(b"@"):
                return cls.abstract(unquote_to_bytes(rest[1:]))
            return cls.pathname(unquote_to_bytes(rest))
        if raw.startswith(b"@"):
            return cls.abstract(raw[1:])
        return cls.pathname(raw)

    @classmethod
    def pathname(cls, path: bytes) -> Address:
        """A path. Raises :class:`~udslab.errors.AddressError` if it is empty or holds a NUL."""
        if not path:
            raise _refuse(path, "the path is empty", "give a path, such as /run/app.sock")
        if b"\0" in path:
            raise _refuse(path, "a path cannot hold a NUL byte", "the kernel would stop reading there")
        return cls(AddressKind.PATHNAME, path)

    @classmethod
    def abstract(cls, name: bytes) -> Address:
        """An abstract name (Linux): any bytes, NULs too; every byte counts (unix(7), "Address format")."""
        return cls(AddressKind.ABSTRACT, name)

    @classmethod
    def unnamed(cls) -> Address:
        """The address of a socket that was never bound."""
        return cls(AddressKind.UNNAMED)

    @classmethod
    def from_sockaddr(cls, value: object) -> Address:
        """The address that :mod:`socket` gave: ``str``, ``bytes`` (abstract), ``''`` or ``None`` (unnamed)."""
        raw = os.fsencode(value) if isinstance(value, (str, bytes)) else b""
        if not raw:
            return cls.unnamed()
        if raw.startswith(b"\0"):
            return cls.abstract(raw[1:])
        return cls(AddressKind.PATHNAME, raw)

    @property
    def is_pathname(self) -> bool:
        """Whether it is a path on a file system."""
        return self.kind is AddressKind.PATHNAME

    @property
    def is_private(self) -> bool:
        """Whether it is a path that leads each process elsewhere. ``/proc/self/fd/N/name``, a common way round long
        paths, is one: whoever answers to it looks among its *own* descriptors."""
        return self.is_pathname and self.name.startswith((b"/proc/self/", b"/proc/thread-self/", b"/dev/fd/"))

    @property
    def raw(self) -> bytes:
        """The bytes that belong in ``sun_path``, however many they are."""
        return b"\0" + self.name if self.kind is AddressKind.ABSTRACT else self.name

    @property
    def size(self) -> int:
        """How many bytes of ``sun_path`` the name needs, without a terminating NUL."""
        return len(self.raw)

    @property
    def limit(self) -> int:
        """How many there are: 107 for a pathname on Linux (its NUL takes one), 108 for an abstract name."""
        return SUN_PATH_SIZE if self.kind is AddressKind.ABSTRACT else MAX_PATH

    @property
    def fits(self) -> bool:
        """Whether the name fits in ``sun_path``."""
        return self.size <= self.limit

    @property
    def length(self) -> int:
        """The length handed to the kernel: the offset of ``sun_path`` + the bytes of the name.

        For a pathname a terminating NUL may be counted too, and Python's socket module does; the kernel takes
        both for the same address.
        """
        return SUN_PATH_OFFSET + self.size

    def sun_path(self) -> bytes:
        """The bytes for ``socket.bind`` and ``socket.connect``.

        Raises :class:`~udslab.errors.AddressError` (ENAMETOOLONG) if they do not fit.
        """
        if not self.fits:
            what = f"the path is {self.size} bytes long and sun_path holds {self.limit}"
            hint = (
                "choose a shorter directory, connect from the lab (which goes round it), "
                "or listen with long_path='alias'"
            )
            if self.kind is AddressKind.ABSTRACT:
                what = f"the abstract name is {self.size - 1} bytes long and sun_path holds {self.limit - 1}"
                hint = "choose a shorter name"
            raise _refuse(self.name, what, hint, errno.ENAMETOOLONG)
        return self.raw

    def __str__(self) -> str:
        """The address on one line: the path, ``@name``, or ``(unnamed)``; odd bytes as ``\\xNN``."""
        if self.kind is AddressKind.UNNAMED:
            return "(unnamed)"
        return ("@" if self.kind is AddressKind.ABSTRACT else "") + printable(self.name)


def _refuse(name: bytes, what: str, hint: str, number: int = errno.EINVAL) -> AddressError:
    return AddressError(Stage.ADDRESS, number, printable(name) or None, hint, what)
