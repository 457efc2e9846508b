"""DIA: what the kernel's tables tell of Unix sockets: sock_diag and /proc/net/unix."""

from __future__ import annotations

import _socket
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from udslab import libc, mounts
from udslab.atlas.behaviour import TYPES, ByKernel, NotHere, behaviour
from udslab.atlas.kit import Kit, errno_of
from udslab.atlas.requirement import Requirement, why_not
from udslab.socktype import SocketType

__all__ = ["TABLES"]

LISTENING = (SocketType.STREAM, SocketType.SEQPACKET)
_NEW_NET, _NEW_USER = 0x40000000, 0x10000000
# linux/unix_diag.h, by the order of their bits in udiag_show.
_ATTRIBUTES = ("name", "file", "peer", "pending", "queue", "memory", "shutdown", "uid")
_SHOW_ALL = 0x7F


def _ask(request: bytes, flags: int) -> list[dict[str, Any]]:
    """The kernel's answers to a request of sock_diag(7): each a mapping. Raises OSError as it says."""
    with closing(_socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(request), 20, 1 | flags, 1, 0) + request)
        answers: list[dict[str, Any]] = []
        while True:
            data = netlink.recv(1 << 18)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                body, data = data[16:length], data[(length + 3) & ~3 :]
                if kind == 2:  # NLMSG_ERROR
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                if kind == 3:  # NLMSG_DONE
                    return answers
                answers.append(_answer(body))
            if not flags:
                return answers


def _answer(body: bytes) -> dict[str, Any]:
    _, type, state, _, inode = struct.unpack_from("=BBBBI", body)
    answer: dict[str, Any] = {"type": type, "state": state, "inode": inode}
    body = body[16:]
    while len(body) >= 4:
        length, kind = struct.unpack_from("=HH", body)
        if kind < len(_ATTRIBUTES):
            answer[_ATTRIBUTES[kind]] = body[4:length]
        body = body[(length + 3) & ~3 :]
    return answer


def _in_sock_diag(inode: int) -> dict[str, Any]:
    """What sock_diag says of the socket of this inode. Raises OSError: ENOENT, if it knows none."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_ALL, 0xFFFFFFFF, 0xFFFFFFFF)
    return _ask(request, 0)[0]


def _dump() -> list[dict[str, Any]]:
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_ALL, 0xFFFFFFFF, 0xFFFFFFFF)
    return _ask(request, 0x300)


@dataclass(frozen=True)
class _Line:
    flags: str
    type: int
    state: str
    inode: int
    name: bytes


def _proc() -> list[_Line]:
    """The lines of /proc/net/unix."""
    try:
        with open("/proc/net/unix", "rb") as table:
            lines = table.read().split(b"\n")[1:-1]
    except OSError as error:
        raise NotHere(f"no /proc/net/unix ({error.strerror})") from None
    found = []
    for line in lines:
        fields = line.split(None, 7)
        if len(fields) >= 7 and fields[0].endswith(b":"):
            flags, type, state, inode = fields[3:7]
            name = fields[7] if len(fields) > 7 else b""
            found.append(_Line(flags.decode(), int(type, 16), state.decode(), int(inode), name))
    return found


def _in_proc(inode: int) -> _Line | None:
    """The line of the socket of this inode; None if there is none. Read again and again: a reading can miss a socket
    while others come and go."""
    for _ in range(20):
        for line in _proc():
            if line.inode == inode:
                return line
    return None


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _name_in_sock_diag(sock: socket.socket) -> str | None:
    """The name of a bound socket there; None if it is not there. Raises :class:`NotHere` without that table."""
    try:
        return str(_in_sock_diag(_inode(sock)).get("name", b"").rstrip(b"\0").decode())
    except OSError as error:
        if error.errno == errno.ENOENT and not why_not(Requirement.SOCK_DIAG):
            return None
        raise NotHere("no sock_diag for Unix sockets") from None


def _name_in_proc(sock: socket.socket) -> str | None:
    line = _in_proc(_inode(sock))
    return None if line is None else line.name.decode()


TABLES: dict[str, Callable[[socket.socket], str | None]] = {
    "sock_diag": _name_in_sock_diag,
    "/proc/net/unix": _name_in_proc,
}
"""What each tells of a bound socket's name; None if it does not know the socket."""


def _alone(kit: Kit, function: Callable[[], Any]) -> Any:
    """What a function gives in a network namespace in which there is no socket yet."""

    def inside() -> Any:
        if not libc.unshare(_NEW_NET) and not libc.unshare(_NEW_USER | _NEW_NET):
            raise NotHere("no network namespace of one's own may be made")
        return function()

    return kit.in_child(inside)


@behaviour(
    "DIA-01",
    "a dump of sock_diag lists sockets without a name, too",
    source="measured; no suite covers it. sock_diag(7) speaks of named sockets",
    expected={"new": True, "pair": [True, True], "closed": False, "names": [False, False, False]},
    over=TYPES,
    needs=Requirement.SOCK_DIAG,
    since=(3, 3),
    notes="A leak check by sock_diag sees sockets that never met an address.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measure() -> object:
        new = kit.socket(type)
        left, right = socket.socketpair(socket.AF_UNIX, type.constant)
        closed = kit.socket(type)
        gone = _inode(closed)
        closed.close()
        seen = {each["inode"]: each for each in _dump()}
        ours = [_inode(sock) for sock in (new, left, right)]
        there = [inode in seen for inode in ours]
        names = ["name" in seen[inode] for inode in ours if inode in seen]
        return {"new": there[0], "pair": there[1:], "closed": gone in seen, "names": names}

    return _alone(kit, measure)


def _attributes(uid: bool) -> dict[str, object]:
    seen = {
        "name": "the path",
        "file": "the file",
        "peer": "the client",
        "unread": 3,
        "memory": 36,
        "shutdown": [0, 2],
    }
    return {**seen, "uid": "ours"} if uid else seen


@behaviour(
    "DIA-02",
    "sock_diag tells a socket's name, file, peer, unread bytes, memory, shut-down halves, and user",
    source="sock_diag(7), UNIX domain sockets; kernel selftests net/af_unix/diag_uid.c",
    expected=ByKernel({(3, 3): _attributes(uid=False), (5, 3): _attributes(uid=True)}),
    over=LISTENING,
    needs=Requirement.SOCK_DIAG,
    since=(3, 3),
    notes="The user is told since Linux 5.3. The file's device is the kernel's own number: not st_dev on btrfs and "
    "overlayfs.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    listener = kit.socket(type, bind=path, listen=1)
    client = kit.socket(type)
    client.connect(path)
    accepted = kit.close_at_end(listener.accept()[0])
    client.send(b"abc")
    told = _in_sock_diag(_inode(accepted))
    accepted.shutdown(socket.SHUT_WR)
    later = _in_sock_diag(_inode(accepted))
    pin = os.open(path, os.O_PATH)
    file = struct.pack("=II", os.fstat(pin).st_ino & 0xFFFFFFFF, mounts.device(pin))
    seen: dict[str, object] = {
        "name": "the path" if told.get("name") == path.encode() + b"\0" else str(told.get("name")),
        "file": "the file" if told.get("file") == file else str(told.get("file")),
        "peer": "the client" if told.get("peer") == struct.pack("=I", _inode(client)) else str(told.get("peer")),
        "unread": struct.unpack("=II", told["queue"])[0],
        "memory": len(told.get("memory", b"")),
        "shutdown": [told["shutdown"][0], later["shutdown"][0]],
    }
    if "uid" in told:
        seen["uid"] = "ours" if told["uid"] == struct.pack("=I", os.geteuid()) else str(told["uid"])
    return seen


@behaviour(
    "DIA-03",
    "of a listener sock_diag tells how many wait and how many may, and the inodes of those that wait",
    source="sock_diag(7), UNIX_DIAG_RQLEN and UNIX_DIAG_ICONS",
    expected={"none": [0, 3, "none"], "two": [2, 3, "both"], "one accepted": [1, 3, "the second"]},
    over=LISTENING,
    needs=Requirement.SOCK_DIAG,
    since=(3, 3),
    notes="One more than the second number may wait.",
)
def _(kit: Kit, type: SocketType) -> object:
    listener = kit.socket(type, bind=kit.path(), listen=3)
    clients = [kit.socket(type) for _ in range(2)]
    inodes = [_inode(client) for client in clients]
    words = {frozenset(): "none", frozenset(inodes): "both", frozenset(inodes[1:]): "the second"}

    def look() -> list[object]:
        told = _in_sock_diag(_inode(listener))
        waiting = told.get("pending", b"")
        who = frozenset(struct.unpack(f"={len(waiting) // 4}I", waiting))
        return [*struct.unpack("=II", told["queue"]), words.get(who, sorted(who))]

    none = look()
    for client in clients:
        client.connect(listener.getsockname())
    two = look()
    kit.close_at_end(listener.accept()[0])
    return {"none": none, "two": two, "one accepted": look()}


@behaviour(
    "DIA-04",
    "sock_diag leaves out the server's end of a connection until it is accepted",
    source="kernel net/unix/diag.c, unix_diag_dump",
    expected={"waiting": ["client", "listener"], "accepted": ["accepted", "client", "listener"]},
    over=LISTENING,
    needs=Requirement.SOCK_DIAG,
    since=(3, 3),
    notes="It has no inode before; /proc/net/unix shows it with inode 0.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()

    def measure() -> object:
        listener = kit.socket(type, bind=path, listen=1)
        client = kit.socket(type)
        client.connect(path)
        names = {_inode(listener): "listener", _inode(client): "client"}
        waiting = sorted(names.get(each["inode"], "another") for each in _dump())
        accepted = kit.close_at_end(listener.accept()[0])
        names[_inode(accepted)] = "accepted"
        return {"waiting": waiting, "accepted": sorted(names.get(each["inode"], "another") for each in _dump())}

    return _alone(kit, measure)


@behaviour(
    "DIA-05",
    "/proc/net/unix: state 01 is not connected, 03 connected, 02 not accepted yet; flag 00010000 is listening",
    source="gVisor test/syscalls/linux/proc_net_unix.cc, StreamSocketStateStateListening and its kin; "
    "kernel net/unix/af_unix.c, unix_seq_show",
    expected={
        "new": ["01", "00000000"],
        "bound": ["01", "00000000"],
        "listening": ["01", "00010000"],
        "client": ["03", "00000000"],
        "not accepted": [["02", "00000000"]],
        "accepted": ["03", "00000000"],
        "not accepted any more": [],
    },
    over=LISTENING,
    needs=Requirement.PROC,
    notes="What is not accepted yet has inode 0, and the listener's name.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()

    def embryos() -> object:
        return [[line.state, line.flags] for line in _proc() if not line.inode and line.name == path.encode()]

    def look(sock: socket.socket) -> object:
        line = _in_proc(_inode(sock))
        return line and [line.state, line.flags]

    listener = kit.socket(type)
    seen = {"new": look(listener)}
    listener.bind(path)
    seen["bound"] = look(listener)
    listener.listen(1)
    seen["listening"] = look(listener)
    client = kit.socket(type)
    client.connect(path)
    seen["client"] = look(client)
    # In a busy table a reading can miss it.
    seen["not accepted"] = next(filter(None, (embryos() for _ in range(20))), [])
    seen["accepted"] = look(kit.close_at_end(listener.accept()[0]))
    seen["not accepted any more"] = embryos()
    return seen


@behaviour(
    "DIA-06",
    "both tables show a relative name as it was given to bind",
    source="measured; no suite covers it",
    expected="rel",
    over=tuple(TABLES),
    needs=Requirement.PROC,
    notes="Whoever looks for a path there must compare the file's device and inode, which sock_diag tells.",
)
def _(kit: Kit, table: str) -> object:
    os.chdir(kit.directory)
    sock = kit.socket(bind="rel")
    os.chdir("/")
    return TABLES[table](sock)


@behaviour(
    "DIA-07",
    "neither table knows a socket that is gone or one of another network namespace; sock_diag says ENOENT when asked",
    source="kernel net/unix/diag.c, unix_lookup_by_ino; measured, no suite covers it",
    expected={"here": True, "in another namespace": False, "here after close": False},
    over=tuple(TABLES),
    needs=Requirement.PROC,
    notes="So 'not in the tables' is no proof that nobody holds a path that several containers see. Where there is no "
    "module for it, sock_diag says ENOENT of every socket.",
)
def _(kit: Kit, table: str) -> object:
    sock = kit.socket(bind=kit.path(), listen=1)
    name_of = TABLES[table]
    here = name_of(sock) is not None
    there = _alone(kit, lambda: name_of(sock) is not None)
    inode = _inode(sock)
    sock.close()
    if table == "sock_diag":
        after = errno_of(_in_sock_diag, inode) != "ENOENT"
    else:
        after = any(line.inode == inode for line in _proc())
    return {"here": here, "in another namespace": there, "here after close": after}


@behaviour(
    "DIA-08",
    "both tables still show the path of a socket whose file was removed",
    source="measured; no suite covers it",
    expected={"before": "PATH", "after": "PATH"},
    over=tuple(TABLES),
    needs=Requirement.PROC,
    notes="A name in a table does not say that one can connect to it.",
)
def _(kit: Kit, table: str) -> object:
    path = kit.path()
    sock = kit.socket(bind=path)

    def look() -> object:
        return str(TABLES[table](sock)).replace(path, "PATH")

    before = look()
    os.unlink(path)
    return {"before": before, "after": look()}


@behaviour(
    "DIA-09",
    "a newline in a path goes as it is into /proc/net/unix and breaks its line; sock_diag gives the whole name",
    source="measured; no suite covers it. proc(5), /proc/net/unix",
    expected={"its line": "before", "the next": True, "sock_diag": True},
    needs=(Requirement.SOCK_DIAG, Requirement.PROC),
    notes="A program that reads the table can be told of sockets that are not there.",
)
def _(kit: Kit) -> object:
    path = kit.path("before\nafter-" + os.path.basename(kit.directory))
    sock = kit.socket(bind=path)
    line = _in_proc(_inode(sock))
    with open("/proc/net/unix", "rb") as table:
        lines = table.read().split(b"\n")
    return {
        "its line": line and os.path.basename(line.name).decode(),
        "the next": path.encode().partition(b"\n")[2] in lines,
        "sock_diag": _in_sock_diag(_inode(sock))["name"] == path.encode() + b"\0",
    }


@behaviour(
    "DIA-10",
    "sock_diag gives a path with the NUL that ends it, and an abstract name with just the one that begins it",
    source="kernel net/unix/diag.c, sk_diag_dump_name; measured, no suite covers it",
    expected={"path": "PATH|", "abstract": "|NAME", "unnamed": None},
    over=TYPES,
    needs=Requirement.SOCK_DIAG,
)
def _(kit: Kit, type: SocketType) -> object:
    path, abstract = kit.path(), kit.abstract()

    def name(sock: socket.socket) -> object:
        told = _in_sock_diag(_inode(sock)).get("name")
        if told is None:
            return None
        return told.replace(path.encode(), b"PATH").replace(abstract[1:], b"NAME").replace(b"\0", b"|").decode()

    return {
        "path": name(kit.socket(type, bind=path)),
        "abstract": name(kit.socket(type, bind=abstract)),
        "unnamed": name(kit.socket(type)),
    }


@behaviour(
    "DIA-11",
    "a socket's inode number is the same in fstat, in the link in /proc/PID/fd, and in both tables",
    source="proc(5), /proc/pid/fd; measured, no suite covers it",
    expected={"link": "socket:[INODE]", "name": "PATH"},
    over=tuple(TABLES),
    needs=Requirement.PROC,
    notes="That is how to find the processes that hold a socket.",
)
def _(kit: Kit, table: str) -> object:
    path = kit.path()
    sock = kit.socket(bind=path)
    link = os.readlink(f"/proc/self/fd/{sock.fileno()}")
    return {
        "link": link.replace(str(_inode(sock)), "INODE"),
        "name": str(TABLES[table](sock)).replace(path, "PATH"),
    }


@behaviour(
    "DIA-12",
    "/proc/net/unix of a new network namespace has but its heading; each socket adds a line, a bound one its path",
    source="gVisor test/syscalls/linux/proc_net_unix.cc, Exists, FilesystemBindAcceptConnect and SocketPair",
    expected={
        "heading": "Num RefCount Protocol Flags Type St Inode Path",
        "at first": [],
        "pair": ["", ""],
        "bound": ["", "", "PATH"],
        "accepted": ["", "", "", "PATH", "PATH"],
    },
    over=LISTENING,
    needs=(Requirement.PROC,),
    notes="An accepted socket is shown with its listener's path: two lines with a path do not mean two listeners.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()

    def names() -> list[str]:
        return sorted(line.name.decode().replace(path, "PATH") for line in _proc())

    def measure() -> object:
        with open("/proc/net/unix") as table:
            heading = " ".join(table.readline().split())
        seen: dict[str, object] = {"heading": heading, "at first": names()}
        pair = socket.socketpair(socket.AF_UNIX, type.constant)
        seen["pair"] = names()
        listener = kit.socket(type, bind=path, listen=1)
        seen["bound"] = names()
        client = kit.socket(type)
        client.connect(path)
        accepted = listener.accept()
        seen["accepted"] = names()
        del pair, accepted
        return seen

    return _alone(kit, measure)
