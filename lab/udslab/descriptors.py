"""This process's own Unix sockets, as its descriptors show them, and a cheap gate before looking at them again.

Nothing is done to a socket but asking it, by a duplicate of its descriptor. The file system is read by functions kept
when this module is imported, as attributes of a class: pyfakefs replaces those of ``os`` and those in modules.
"""

from __future__ import annotations

import _socket  # pytest-socket forbids to make a socket.socket
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from udslab.address import Address
from udslab.caller import peer_credentials
from udslab.socktype import SocketType

__all__ = ["EXACT", "OwnSocket", "Watch", "inode_of", "own_sockets"]

_FDS = "/proc/self/fd"
_S_IFMT, _S_IFSOCK = 0o170000, 0o140000  # inode(7); stat.S_ISSOCK costs as much as fstat

EXACT = 20
"""With so many open descriptors at most, :class:`Watch` misses nothing."""


class _Real:
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
    listdir = staticmethod(os.listdir)
    dup = staticmethod(os.dup)


@dataclass(frozen=True)
class OwnSocket:
    """One AF_UNIX socket of this process: the first descriptor of it, its addresses, and whether it listens.

    ``peer`` is None if it is not connected; ``peer_pid``, if it is known, who called ``connect``, ``listen`` or
    ``socketpair`` on the other side.
    """

    inode: int
    fd: int
    type: SocketType
    local: Address
    peer: Address | None
    peer_pid: int | None
    listening: bool

    def describe(self) -> str:
        """All of it, on one line."""
        words = [f"socket fd {self.fd}", str(self.type)]
        if self.listening:
            words.append(f"listening at {self.local}")
        elif self.local != Address.unnamed():
            words.append(f"bound to {self.local}")
        if self.peer is not None:
            words.append(f"connected to {self.peer}")
        if self.peer_pid is not None:
            words.append(f"pid {self.peer_pid}")
        return ", ".join(words) + f" (inode {self.inode})"


def inode_of(sock: _socket.socket) -> int | None:
    """The inode of an open socket; None of a closed one."""
    with suppress(OSError):  # closed: EBADF
        return _Real.fstat(_socket.socket.fileno(sock)).st_ino
    return None


def own_sockets(sockets: Mapping[int, int] | None = None) -> dict[int, OwnSocket]:
    """This process's AF_UNIX sockets by inode; of ``sockets`` (inode to descriptor) alone, if they are given.

    One that other threads close meanwhile is left out.
    """
    if sockets is None:
        sockets = Watch().look()
    found = {}
    for inode, fd in sockets.items():
        with suppress(OSError):
            sock = _socket.socket(fileno=_Real.dup(fd))
            try:
                if sock.family == socket.AF_UNIX and inode_of(sock) == inode:
                    found[inode] = _ask(sock, inode, fd)
            finally:
                sock.close()
    return found


def _ask(sock: _socket.socket, inode: int, fd: int) -> OwnSocket:
    peer = pid = None
    with suppress(OSError):  # ENOTCONN
        peer = Address.from_sockaddr(sock.getpeername())
        pid = peer_credentials(cast("socket.socket", sock)).pid
    return OwnSocket(
        inode,
        fd,
        SocketType.of(sock.type),
        Address.from_sockaddr(sock.getsockname()),
        peer,
        pid or None,
        bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)),
    )


class Watch:
    """The inodes of this process's sockets, listed anew only if a gate says that some descriptor has changed.

    The gate counts the descriptors (Linux 6.2 and newer tell their number by one ``stat``), and compares the inodes of
    the sockets, and that the others still are none, so that one opened does not hide behind another one closed: of all
    of them up to :data:`EXACT`; of more, those that came last and, asked to look further, some of the others in turn.
    What changes among those is seen later: when the number changes, too, or their turn comes.
    """

    def __init__(self) -> None:
        self._files: dict[int, int] = {}  # descriptor to inode, 0 for what is no socket; the last to come last
        self._known: list[tuple[int, int]] = []
        self._turn = 0
        self._sockets: dict[int, int] = {}

    def look(self, *, further: bool = False) -> Mapping[int, int]:
        """The sockets, inode to descriptor: the very object of the last call if the gate has seen no change.

        ``further``: beyond :data:`EXACT`, compare some of the older ones, too: other ones each time.
        """
        if not self._unchanged(further):
            self._list()
        return self._sockets

    def forget(self) -> None:
        """The next look lists them."""
        self._known = []

    def _unchanged(self, further: bool) -> bool:
        number = _Real.stat(_FDS).st_size or len(_Real.listdir(_FDS)) - 1  # that of listdir itself
        known = self._known
        if number != len(known):
            return False
        if number > EXACT:
            half = EXACT // 2
            known, older = known[-half:], known
            if further:
                self._turn = (self._turn + half) % number
                known += older[self._turn : self._turn + half]
        fstat = _Real.fstat
        try:
            for fd, inode in known:
                found = fstat(fd)
                # A file in the place of another file does not count: who captures output exchanges them all the time.
                if (found.st_ino if found.st_mode & _S_IFMT == _S_IFSOCK else 0) != inode:
                    return False
        except OSError:  # EBADF
            return False
        return True

    def _list(self) -> None:
        files: dict[int, int] = {}
        sockets: dict[int, int] = {}
        for name in _Real.listdir(_FDS):
            with suppress(OSError):  # that of listdir itself, or closed meanwhile
                found = _Real.fstat(int(name))
                is_socket = found.st_mode & _S_IFMT == _S_IFSOCK
                files[int(name)] = found.st_ino if is_socket else 0
                if is_socket:
                    sockets.setdefault(found.st_ino, int(name))
        kept = {fd: inode for fd, inode in self._files.items() if files.get(fd) == inode}
        self._files = {**kept, **files}
        self._known = list(self._files.items())
        self._sockets = sockets
