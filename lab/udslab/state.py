"""What is at a path, who holds it, the evidence, and how certain it is: :func:`status`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from udslab import diag, libc, mounts, probe
from udslab.address import Address, AddressKind, AddressLike, printable
from udslab.errors import AddressError, Stage, failure
from udslab.socktype import SocketType
from udslab.support import need_o_path
from udslab.word import Word

__all__ = ["OVERLAY_NOTE", "FileKind", "State", "Status", "examine", "pin", "status"]


OVERLAY_NOTE = "it is in a layer of a mounted overlay, where another inode may live in its place"


class State(Word):
    """What is at a path, in one word."""

    ABSENT = "absent"
    """Nothing, and its directory is there."""
    NOT_A_SOCKET = "not-a-socket"
    """A file of another kind: see :attr:`Status.kind`."""
    DANGLING_LINK = "dangling-link"
    """A symbolic link that leads to nothing."""
    LISTENING = "listening"
    """A socket file, and a stream or seqpacket socket that listens is bound to it."""
    BOUND = "bound"
    """A socket file, and a socket is bound to it that does not listen: a datagram socket, a server between bind and
    listen or after shutdown, or a client with a file of its own."""
    STALE = "stale"
    """A socket file that no socket is bound to any more."""
    UNREACHABLE = "unreachable"
    """The path cannot be walked: a parent is missing, is no directory, or may not be searched."""
    UNKNOWN = "unknown"
    """A socket file that may not be asked, or about which asking proves nothing."""


class FileKind(Word):
    """The kinds of file (inode(7)), in the usual words."""

    SOCKET = "socket"
    REGULAR = "regular file"
    DIRECTORY = "directory"
    FIFO = "FIFO"
    LINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    OTHER = "file without a kind"

    @classmethod
    def of(cls, mode: int) -> FileKind:
        """The kind that ``st_mode`` tells."""
        return _KINDS.get(stat.S_IFMT(mode), FileKind.OTHER)


_KINDS = {
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFREG: FileKind.REGULAR,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFLNK: FileKind.LINK,
    stat.S_IFCHR: FileKind.CHARACTER,
    stat.S_IFBLK: FileKind.BLOCK,
}


@dataclass(frozen=True)
class Status:
    """What :func:`status` saw. What does not apply, or was not asked, is None.

    ``certain``: whether ``state`` is beyond doubt at the moment of looking. ``answer``: what the probe was told, and
    ``notes``: what else was seen; see :attr:`evidence`. ``info``: the ``lstat`` of the file. ``link``: the path
    itself is a symbolic link, and the rest speaks of what it leads to. ``pids``: the processes that hold the socket,
    as far as they can be seen from here. ``backlog``: connections that wait, and the limit.
    """

    address: Address
    state: State
    certain: bool
    notes: tuple[str, ...] = ()
    answer: probe.Answer | None = None
    info: os.stat_result | None = None
    link: bool = False
    pids: tuple[int, ...] | None = None
    backlog: tuple[int, int] | None = None

    @property
    def evidence(self) -> tuple[str, ...]:
        """What was asked and what the kernel said, in words."""
        if self.answer is None:
            return self.notes
        return (self.answer.said, *self.notes)

    @property
    def type(self) -> SocketType | None:
        """The type of the socket that is bound to it."""
        return self.answer.type if self.answer else None

    @property
    def full(self) -> bool | None:
        """Whether the backlog has no room (None: it does not listen)."""
        return self.answer.full if self.answer and self.answer.listening else None

    @property
    def kind(self) -> FileKind | None:
        """What kind of file it is."""
        return FileKind.of(self.info.st_mode) if self.info else None

    @property
    def mode(self) -> int | None:
        """The permission bits."""
        return stat.S_IMODE(self.info.st_mode) if self.info else None

    @property
    def uid(self) -> int | None:
        """The file's owner."""
        return self.info.st_uid if self.info else None

    @property
    def gid(self) -> int | None:
        """The file's group."""
        return self.info.st_gid if self.info else None

    @property
    def inode(self) -> int | None:
        """The file's inode number."""
        return self.info.st_ino if self.info else None

    @property
    def made(self) -> float | None:
        """When the file was made or last had its mode, owner or name changed: seconds since the epoch."""
        return self.info.st_ctime if self.info else None

    @property
    def serving(self) -> bool:
        """Whether it can be talked to: listening, or a bound datagram socket."""
        return self.state is State.LISTENING or (self.state is State.BOUND and self.type is SocketType.DGRAM)

    @property
    def removable(self) -> bool:
        """Whether it is a stale socket file beyond doubt, by its own path."""
        return self.state is State.STALE and self.certain and not self.link

    def describe(self) -> str:
        """State, type, holders and certainty, in a few words."""
        words = [str(self.state)]
        if self.state is State.NOT_A_SOCKET:
            words.append(f"({self.kind})")
        if self.type:
            words.append(str(self.type))
        if self.full:
            words.append("(backlog full)")
        if self.link:
            words.append("through a symbolic link")
        if self.pids:
            words.append(("pid " if len(self.pids) == 1 else "pids ") + ", ".join(map(str, self.pids)))
        if not self.certain:
            words.append("(not certain)")
        return " ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: words and numbers; ``mode`` in octal, as ``ls`` and ``chmod`` have it."""
        return {
            "path": str(self.address),
            "state": self.state.value,
            "certain": self.certain,
            "type": self.type and self.type.value,
            "kind": self.kind and self.kind.value,
            "link": self.link,
            "full": self.full,
            "inode": self.inode,
            "mode": None if self.mode is None else f"{self.mode:04o}",
            "uid": self.uid,
            "gid": self.gid,
            "made": self.made,
            "pids": None if self.pids is None else list(self.pids),
            "backlog": None if self.backlog is None else list(self.backlog),
            "evidence": list(self.evidence),
        }


def status(address: AddressLike, *, owners: bool = False) -> Status:
    """Tell what is at ``address``, without any server noticing.

    By the pair probe (:mod:`udslab.probe`): right in every network, pid and mount namespace, for sockets that were
    bound by another name, renamed or linked since, whose backlog is full, that were shut down, or whose only
    descriptor is in flight. Where the probe does not calibrate (gVisor, no /proc), or the file lies on a file system
    that another kernel may share (NFS, 9p, virtiofs, FUSE), ``certain`` is False; in the first case a plain connect is
    made, which a server does notice.

    ``owners=True`` also asks sock_diag (or /proc/net/unix) which processes hold it and how full its backlog is: some
    milliseconds, and only for this network namespace; and whether a stale file lies in a layer of a mounted overlay,
    where it may be another inode that lives: then it is not certain. Asking about an abstract name sees this network
    namespace alone.

    Raises :class:`~udslab.errors.AddressError` for an address that cannot be one,
    :class:`~udslab.errors.Unsupported` off Linux, :class:`~udslab.errors.UdsError` when the look itself fails (EMFILE).
    """
    address = Address.parse(address)
    need_o_path()
    if address.kind is AddressKind.ABSTRACT:
        return _abstract(address, owners)
    if address.kind is AddressKind.UNNAMED:
        raise AddressError(Stage.ADDRESS, errno.EINVAL, None, "give a path or an @name", "nothing has no status")
    try:
        try:
            fd = os.open(address.name, _PIN)
        except OSError as error:
            return _not_there(address, error)
        try:
            info = os.fstat(fd)
            if stat.S_ISLNK(info.st_mode):
                return _through_link(fd, info, address, owners)
            return examine(fd, address, owners=owners, info=info)
        finally:
            os.close(fd)
    except OSError as error:
        raise failure(Stage.STATUS, error, address) from error


_PIN = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def pin(name: bytes, *, dir_fd: int | None = None) -> Iterator[int]:
    """Hold the inode that is at ``name`` now, by an O_PATH descriptor: its number is not given to another file."""
    fd = os.open(name, _PIN, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _not_there(address: Address, error: OSError) -> Status:
    """The status of a path that could not be opened; raises the error if it says nothing about the path."""
    number = error.errno or 0
    said = f"open: {errno.errorcode.get(number, number)}"
    if number == errno.ENOENT:
        parent = os.path.dirname(address.name) or b"."
        try:
            os.stat(parent)
        except OSError:
            return Status(address, State.UNREACHABLE, True, (said, f"there is no directory {printable(parent)}"))
        return Status(address, State.ABSENT, True, (said,))
    if number in (errno.EACCES, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return Status(address, State.UNREACHABLE, True, (f"{said} ({os.strerror(number)})",))
    raise error


def _through_link(fd: int, info: os.stat_result, address: Address, owners: bool) -> Status:
    """The status of what the symbolic link that ``fd`` pins leads to."""
    target = os.readlink(b"", dir_fd=fd)
    try:
        # By the kernel, not by the text of the link: those in /proc lead to where their text does not.
        end = os.open(address.name, _PIN & ~os.O_NOFOLLOW)
    except OSError as error:
        number = error.errno or 0
        notes = (f"a symbolic link to {printable(target)}", f"open: {errno.errorcode.get(number, number)}")
        if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return Status(address, State.DANGLING_LINK, True, notes, info=info, link=True)
        if number in (errno.EACCES, errno.ENAMETOOLONG):
            return Status(address, State.UNREACHABLE, True, notes, info=info, link=True)
        raise
    try:
        where = os.readlink(b"/proc/self/fd/%d" % end)
        return examine(end, address, owners=owners, link=True, at=(None, where))
    finally:
        os.close(end)


def examine(
    fd: int,
    address: Address,
    *,
    at: tuple[int | None, bytes] | None = None,
    owners: bool = False,
    link: bool = False,
    info: os.stat_result | None = None,
) -> Status:
    """The status of the file that the O_PATH descriptor ``fd`` pins; ``address`` is only how it is called.

    ``at``: the directory (a descriptor) and the path in it at which it was found, if that is not the address itself.
    ``info``: its ``fstat``, if it is known already.
    """
    if info is None:
        info = os.fstat(fd)
    if not stat.S_ISSOCK(info.st_mode):
        kind = FileKind.of(info.st_mode)
        return Status(address, State.NOT_A_SOCKET, True, (f"lstat: a {kind}",), None, info, link)
    state, certain, answer, notes = _ask(fd, info, at or (None, address.name))
    pids = backlog = None
    if owners:
        pids, backlog, found = _owners(diag.sockets_bound_to(fd))
        notes.append(found)
        if state is State.STALE and mounts.is_overlay_layer(fd):
            certain = False
            notes.append(OVERLAY_NOTE)
    return Status(address, state, certain, tuple(notes), answer, info, link, pids, backlog)


def _owners(entries: list[diag.Entry]) -> tuple[tuple[int, ...], tuple[int, int] | None, str]:
    """The pids that hold these sockets, the backlog of the one that listens, and a line of evidence."""
    pids = tuple(diag.holders({entry.inode for entry in entries})) if entries else ()
    backlog = next((entry.backlog for entry in entries if entry.backlog), None)
    found = ", ".join(
        f"{entry.type} {'listening' if entry.listening else 'bound'} (socket:[{entry.inode}])" for entry in entries
    )
    return (
        pids,
        backlog,
        "the kernel's table of this network namespace: " + (found or "not there, which proves nothing"),
    )


def _ask(
    fd: int, info: os.stat_result, at: tuple[int | None, bytes]
) -> tuple[State, bool, probe.Answer | None, list[str]]:
    innocent = probe.calibrated()
    notes = [] if innocent else ["the pair probe does not tell the truth here"]
    try:
        answer = probe.ask(fd, at[1], innocent, dir_fd=at[0], info=info)
    except OSError as error:
        if error.errno in probe.TRANSIENT:
            raise
        return State.UNKNOWN, False, None, [*notes, f"connect: {error.strerror}"]
    if answer.denied:
        return State.UNKNOWN, False, answer, [*notes, "asking needs write permission on the socket file"]
    if answer.listening:
        state = State.LISTENING
    elif answer.type:
        state = State.BOUND
    else:
        state = State.STALE
    certain = innocent
    if innocent and not _is_local(fd):
        certain = False
        notes.append("it is on a file system that another kernel may share, and could be bound there")
    if state is State.STALE and not answer.settled:
        certain = False
        notes.append("whether it is just being bound cannot be told, for its directory cannot be looked at")
    return state, certain, answer, notes


# statfs(2) f_type of file systems on which a socket file can only be bound in this kernel. A list of what is known,
# not of what is foreign: about a file system that nobody here has heard of, nothing is certain.
_LOCAL = {
    0xEF53,  # ext2, ext3, ext4
    0x01021994,  # tmpfs, devtmpfs
    0x794C7630,  # overlayfs
    0x58465342,  # xfs
    0x9123683E,  # btrfs
    0x2FC12FC1,  # zfs
    0xF2F52010,  # f2fs
    0xCA451A4E,  # bcachefs
    0x858458F6,  # ramfs
    0x52654973,  # reiserfs
    0x3153464A,  # jfs
    0x3434,  # nilfs2
    0x24051905,  # ubifs
    0x72B6,  # jffs2
    0xF15F,  # ecryptfs
    0x61756673,  # aufs
    0x73717368,  # squashfs
    0xE0F5E1E2,  # erofs
}


def _is_local(fd: int) -> bool:
    """Whether the file that ``fd`` pins lies on a file system that only this kernel can bind sockets on."""
    return libc.file_system_type(fd) in _LOCAL


def _abstract(address: Address, owners: bool) -> Status:
    """The status of an abstract name. The type is part of the name (``unix_abstract_hash``), so that the probe tells
    a listening socket and no other; whether one is bound is asked of the kernel's table."""
    name = address.sun_path()
    innocent = probe.calibrated()
    answer = probe.ask_name(name, innocent)
    if answer.listening and not owners:
        return Status(address, State.LISTENING, innocent, answer=answer)
    entries = [entry for entry in diag.listing() if _named(entry, name)]
    pids, backlog, found = _owners(entries)
    if answer.listening:
        state, certain = State.LISTENING, innocent
    elif entries:
        state, certain = State.BOUND, any(entry.name == name for entry in entries)
        answer = answer._replace(type=entries[0].type)
    else:
        state, certain = State.ABSENT, False
    return Status(address, state, certain, (found,), answer, None, False, pids, backlog)


def _named(entry: diag.Entry, name: bytes) -> bool:
    # sock_diag gives the bytes as they are, /proc/net/unix gives "@" for NUL: there it could be a file of that name.
    return entry.name is not None and entry.name in (name, name.replace(b"\0", b"@"))
