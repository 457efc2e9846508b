"""CON: connect, who it reaches, and how it fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.behaviour import LISTENING, TYPES, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, events, outcome
from udslab.atlas.requirement import Requirement, why_not
from udslab.socktype import SocketType

__all__: list[str] = []

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC_PRIVATE = 0x4000 | 1 << 18


def _connect(kit: Kit, type: SocketType, address: object) -> str:
    """What a fresh socket is told."""
    return errno_of(kit.socket(type).connect, address)


@behaviour(
    "CON-01",
    "connect is ENOENT where nothing is at the path, also behind a symbolic link",
    source="POSIX.1-2017 connect, ERRORS; libuv test/test-pipe-connect-error.c",
    expected={"missing": "ENOENT", "dangling": "ENOENT"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    os.symlink("nowhere", kit.path("dangling"))
    return {
        "missing": _connect(kit, type, kit.path("missing")),
        "dangling": _connect(kit, type, kit.path("dangling")),
    }


@behaviour(
    "CON-02",
    "connect to what is no socket is ECONNREFUSED",
    source="gVisor test/syscalls/linux/accept_bind.cc, ConnectToFilePath; libuv test/test-pipe-connect-error.c",
    expected=dict.fromkeys(("file", "directory", "fifo", "device"), "ECONNREFUSED"),
    over=TYPES,
    notes="As for a server that has gone: the errno does not tell the two apart. BSD and macOS say ENOTSOCK.",
)
def _(kit: Kit, type: SocketType) -> object:
    with open(kit.path("file"), "w"):
        os.mkdir(kit.path("directory"))
    os.mkfifo(kit.path("fifo"))
    paths = {what: kit.path(what) for what in ("file", "directory", "fifo")}
    return {what: _connect(kit, type, path) for what, path in {**paths, "device": "/dev/null"}.items()}


@behaviour(
    "CON-03",
    "connect to a socket that is bound and does not listen is ECONNREFUSED",
    source="gVisor test/syscalls/linux/accept_bind.cc, ConnectNonListening",
    expected={"pathname": ["ECONNREFUSED", "ok"], "abstract": ["ECONNREFUSED", "ok"]},
    over=LISTENING,
    notes="The second is after listen. Between the two a starting server looks just as one that has died.",
)
def _(kit: Kit, type: SocketType) -> object:
    seen = {}
    for kind, name in (("pathname", kit.path()), ("abstract", kit.abstract())):
        server = kit.socket(type, bind=name)
        before = _connect(kit, type, name)
        server.listen(5)
        seen[kind] = [before, _connect(kit, type, name)]
    return seen


@behaviour(
    "CON-04",
    "connect to a path where a socket of another type is bound is EPROTOTYPE",
    source="unix(7), ERRORS; POSIX.1-2017 connect; gVisor test/syscalls/linux/accept_bind.cc, ConnectWithWrongType",
    expected=lambda bound: {str(type): "ok" if type is bound else "EPROTOTYPE" for type in TYPES},
    over=TYPES,
    notes="The variant is the server's type, the keys the clients'. It comes only from a socket that lives.",
)
def _(kit: Kit, bound: SocketType) -> object:
    path = kit.server(bound).getsockname()
    return {str(type): _connect(kit, type, path) for type in TYPES}


@behaviour(
    "CON-05",
    "connect to an abstract name that a socket of another type has is ECONNREFUSED",
    source="kernel net/unix/af_unix.c, unix_find_abstract; "
    "gVisor test/syscalls/linux/accept_bind.cc, ConnectWithWrongType",
    expected=lambda bound: {str(type): "ok" if type is bound else "ECONNREFUSED" for type in TYPES},
    over=TYPES,
    notes="Each type has abstract names of its own: to the others there is nobody.",
)
def _(kit: Kit, bound: SocketType) -> object:
    name = kit.server(bound, kit.abstract()).getsockname()
    return {str(type): _connect(kit, type, name) for type in TYPES}


@behaviour(
    "CON-06",
    "a connected socket cannot be connected again: EISCONN",
    source="unix(7), ERRORS; gVisor test/syscalls/linux/accept_bind.cc, DoubleConnect",
    expected={"client": "EISCONN", "accepted": "EISCONN", "pair": "EISCONN", "missing": "ENOENT", "still": "x"},
    over=LISTENING,
    notes="The path is looked up first: one that is not there is ENOENT. Datagram sockets take a new peer.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.server(type).getsockname()
    client, accepted = kit.pair(Pair(Kind.PATHNAME, type))
    end, _ = kit.pair(Pair(Kind.SOCKETPAIR, type))
    seen = {
        "client": errno_of(client.connect, path),
        "accepted": errno_of(accepted.connect, path),
        "pair": errno_of(end.connect, path),
        "missing": errno_of(client.connect, kit.path("missing")),
    }
    client.send(b"x")
    return {**seen, "still": accepted.recv(10).decode()}


@behaviour(
    "CON-07",
    "a listener cannot connect, be it to itself or to another: EINVAL",
    source="gVisor test/syscalls/linux/accept_bind.cc, SelfConnect; kernel net/unix/af_unix.c, unix_stream_connect",
    expected={"itself": "EINVAL", "another": "EINVAL", "still": "ok"},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    server, other = kit.server(type), kit.server(type)
    return {
        "itself": errno_of(server.connect, server.getsockname()),
        "another": errno_of(server.connect, other.getsockname()),
        "still": _connect(kit, type, server.getsockname()),
    }


def _with_mode(kit: Kit, type: SocketType, mode: int) -> str:
    """The path of a server whose file has that mode."""
    path: str = kit.server(type).getsockname()
    os.chmod(path, mode)
    return path


@behaviour(
    "CON-08",
    "connect takes write permission on the socket's file: EACCES without",
    source="unix(7), Pathname socket ownership and permissions; Linux Test Project "
    "testcases/kernel/syscalls/connect/connect03.c; gVisor test/syscalls/linux/socket_capability.cc, "
    "UnixConnectNeedsWritePerm",
    expected={"0777": "ok", "0555": "EACCES", "0444": "EACCES", "0000": "EACCES"},
    over=TYPES,
    notes="POSIX leaves it open whether a file's mode counts; some BSDs of old ignored it.",
)
def _(kit: Kit, type: SocketType) -> object:
    paths = {f"{mode:04o}": _with_mode(kit, type, mode) for mode in (0o777, 0o555, 0o444, 0)}
    return kit.unprivileged(lambda: {mode: _connect(kit, type, path) for mode, path in paths.items()})


@behaviour(
    "CON-09",
    "connect takes search permission on each directory of the path: EACCES without",
    source="unix(7), Pathname socket ownership and permissions; path_resolution(7)",
    expected={"0777": "ok", "0111": "ok", "0666": "EACCES", "0000": "EACCES"},
    over=TYPES,
    notes="A directory of mode 0700 around the socket is the portable protection.",
)
def _(kit: Kit, type: SocketType) -> object:
    paths = {}
    for mode in (0o777, 0o111, 0o666, 0):
        directory = kit.path()
        os.mkdir(directory)
        paths[f"{mode:04o}"] = kit.server(type, f"{directory}/s").getsockname()
        os.chmod(paths[f"{mode:04o}"], 0o777)  # noqa: S103
        os.chmod(directory, mode)
        kit.at_end(os.chmod, directory, 0o700)
    return kit.unprivileged(lambda: {mode: _connect(kit, type, path) for mode, path in paths.items()})


@behaviour(
    "CON-10",
    "write permission alone lets connect: reading and executing do not count",
    source="kernel net/unix/af_unix.c, unix_find_bsd (MAY_WRITE); unix(7)",
    expected={"0222": "ok", "0333": "ok", "0666": "ok", "0555": "EACCES"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    paths = {f"{mode:04o}": _with_mode(kit, type, mode) for mode in (0o222, 0o333, 0o666, 0o555)}
    return kit.unprivileged(lambda: {mode: _connect(kit, type, path) for mode, path in paths.items()})


@behaviour(
    "CON-11",
    "permission is asked for at connect: a mode of 0 later keeps new ones out, and cuts off none",
    source="measured; kernel net/unix/af_unix.c, unix_find_bsd",
    expected=lambda each: {
        "connected": "x",
        "new": "EACCES",
        "sendto": "EACCES" if each is SocketType.DGRAM else None,
    },
    over=TYPES,
    notes="sendto with a path asks each time.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measured() -> object:
        path = kit.path("open") + "/s"
        server = kit.server(type, path)
        client = kit.socket(type)
        client.connect(path)
        os.chmod(path, 0)
        new = _connect(kit, type, path)
        client.send(b"x")
        taken = server.accept()[0] if type.connects else server
        sendto = None if type.connects else errno_of(kit.socket(type).sendto, b"y", path)
        return {"connected": taken.recv(10).decode(), "new": new, "sendto": sendto}

    os.mkdir(kit.path("open"))
    os.chmod(kit.path("open"), 0o777)  # noqa: S103 - the server is another user's
    return kit.unprivileged(measured)


@behaviour(
    "CON-12",
    "CAP_DAC_OVERRIDE lets connect whatever the mode",
    source="unix(7); capabilities(7), CAP_DAC_OVERRIDE",
    expected={"with": "ok", "without": "EACCES"},
    over=TYPES,
    needs=(Requirement.DAC_OVERRIDE, Requirement.OTHER_USER),
    notes="Tests of permissions that run as root show nothing.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = _with_mode(kit, type, 0)
    return {
        "with": _connect(kit, type, path),
        "without": kit.as_other_user(lambda: _connect(kit, type, path)),
    }


_KEEPS = {"connect": "EINVAL", "send": "ok", "peer": "ok", "fresh": "EINVAL"}
_PARTS = {"connect": "ok", "send": "ENOTCONN", "peer": "ENOTCONN", "fresh": "ok"}


@behaviour(
    "CON-13",
    "connect to AF_UNSPEC takes a datagram socket's peer away; for the other types it is EINVAL",
    source="connect(2); kernel net/unix/af_unix.c, unix_dgram_connect",
    expected=lambda each: _PARTS if each is SocketType.DGRAM else _KEEPS,
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="connect(2) says that it dissolves connections, without regard to the type.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    client = kit.socket(type)
    client.connect(server.getsockname())
    nobody = calls.address(b"\0" * 14, socket.AF_UNSPEC)
    return {
        "connect": errno_of(calls.connect, client, nobody),
        "send": errno_of(client.send, b"x"),
        "peer": errno_of(client.getpeername),
        "fresh": errno_of(calls.connect, kit.socket(type), nobody),
    }


@behaviour(
    "CON-14",
    "a non-blocking connect is done at once, or is EAGAIN; it never goes on (EINPROGRESS)",
    source="connect(2), ERRORS; measured; POSIX.1-2017 connect has EINPROGRESS",
    expected={"room": "ok", "full": ["EAGAIN", "EAGAIN"], "poll": "OUT|HUP", "room again": "ok"},
    over=LISTENING,
    notes="poll does not tell when there is room: it calls the socket writable at once. One can but try again later, "
    "or wait in a blocking connect.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type, bind=kit.path(), listen=0)
    path = server.getsockname()
    first, second = kit.socket(type), kit.socket(type)
    first.setblocking(False)
    second.setblocking(False)
    room = errno_of(first.connect, path)
    full = [errno_of(second.connect, path) for _ in range(2)]
    poll = events(second)
    server.accept()[0].close()
    return {"room": room, "full": full, "poll": poll, "room again": errno_of(second.connect, path)}


@behaviour(
    "CON-15",
    "a socket whose connect has failed may connect again",
    source="measured; POSIX.1-2017 connect leaves it unspecified",
    expected={"missing": "ENOENT", "stale": "ECONNREFUSED", "again": "ECONNREFUSED", "server": "ok", "data": "x"},
    over=TYPES,
    notes="Portable code makes a new socket for each try.",
)
def _(kit: Kit, type: SocketType) -> object:
    stale = kit.path()
    kit.socket(type, bind=stale).close()
    client, server = kit.socket(type), kit.server(type)
    seen = {
        "missing": errno_of(client.connect, kit.path("missing")),
        "stale": errno_of(client.connect, stale),
        "again": errno_of(client.connect, stale),
        "server": errno_of(client.connect, server.getsockname()),
    }
    client.send(b"x")
    taken = kit.close_at_end(server.accept()[0]) if type.connects else server
    return {**seen, "data": taken.recv(10).decode()}


@behaviour(
    "CON-16",
    "a connect that succeeds sets the file's time of last access; one that fails does not",
    source="kernel net/unix/af_unix.c, unix_find_bsd (touch_atime); measured",
    expected={"refused": False, "wrong type": False, "connected": True, "modified": False},
    over=TYPES,
    notes="With noatime not, and with relatime once a day or after a change. What cleans up by age (tmpfiles.d) sees "
    "by it that a socket is in use; data do not count.",
)
def _(kit: Kit, type: SocketType) -> object:
    def touched(path: str, by: Callable[[], object]) -> tuple[bool, bool]:
        os.utime(path, (1_000_000, 2_000_000))
        by()
        status = os.lstat(path)
        return status.st_atime != 1_000_000, status.st_mtime != 2_000_000

    def read() -> None:
        with open(file, "rb") as opened:
            opened.read()

    file = kit.path("file")
    with open(file, "wb") as written:
        written.write(b"x")
    if not touched(file, read)[0]:
        raise NotHere("this file system keeps no times of access")
    path = kit.server(type).getsockname()
    other = SocketType.STREAM if type is SocketType.DGRAM else SocketType.DGRAM
    stale = kit.path()
    kit.socket(type, bind=stale).close()
    accessed, modified = touched(path, lambda: _connect(kit, type, path))
    return {
        "refused": touched(stale, lambda: _connect(kit, type, stale))[0],
        "wrong type": touched(path, lambda: _connect(kit, other, path))[0],
        "connected": accessed,
        "modified": modified,
    }


@behaviour(
    "CON-17",
    "permission comes first: without it a stale file is EACCES as a live one",
    source="measured; kernel net/unix/af_unix.c, unix_find_bsd",
    expected={"may not": "EACCES", "may": "ECONNREFUSED"},
    over=TYPES,
    notes="So another user cannot tell a dead server from a live one.",
)
def _(kit: Kit, type: SocketType) -> object:
    paths = {}
    for what, mode in (("may not", 0), ("may", 0o777)):
        paths[what] = kit.path()
        kit.socket(type, bind=paths[what]).close()
        os.chmod(paths[what], mode)
    return kit.unprivileged(lambda: {what: _connect(kit, type, path) for what, path in paths.items()})


@behaviour(
    "CON-18",
    "connect to the family alone, without a name, is EINVAL, though bind takes it",
    source="kernel net/unix/af_unix.c, unix_validate_addr; measured",
    expected={"connect": "EINVAL", "bind": "ok"},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="Nobody can be reached by the name that an unnamed socket has.",
)
def _(kit: Kit, type: SocketType) -> object:
    empty = calls.address(b"")
    kit.server(type)
    return {
        "connect": errno_of(calls.connect, kit.socket(type), empty),
        "bind": errno_of(calls.bind, kit.socket(type), empty),
    }


@behaviour(
    "CON-19",
    "connect to /proc/self/fd/N of a socket's file opened with O_PATH reaches it, wherever it is",
    source="measured; open(2), O_PATH; FreeBSD's connectat(2) is for the same",
    expected={"connect": "ok", "peer": "name", "renamed": "ok", "removed": "ok", "closed server": "ECONNREFUSED"},
    over=TYPES,
    needs=Requirement.PROC,
    notes="So a path too long for sun_path is reached, and what was looked at is what is connected to: renaming cannot "
    "come between.",
)
def _(kit: Kit, type: SocketType) -> object:
    deep = os.path.join(kit.directory, "d" * 120)
    os.mkdir(deep)
    fd = os.open(deep, os.O_PATH)
    kit.at_end(os.close, fd)
    os.chdir(deep)
    server = kit.server(type, "name")
    node = os.open("name", os.O_PATH, dir_fd=fd)
    kit.at_end(os.close, node)
    path = f"/proc/self/fd/{node}"
    client = kit.socket(type)
    seen = {"connect": errno_of(client.connect, path), "peer": client.getpeername()}
    os.rename("name", "other")
    seen["renamed"] = _connect(kit, type, path)
    os.unlink("other")
    seen["removed"] = _connect(kit, type, path)
    server.close()
    os.chdir("/")
    return {**seen, "closed server": _connect(kit, type, path)}


@behaviour(
    "CON-20",
    "connect to an abstract name that nobody has is ECONNREFUSED, whatever bytes it has",
    source="gVisor test/syscalls/linux/accept_bind.cc, ConnectToInvalidAbstractPath; unix(7)",
    expected={"plain": "ECONNREFUSED", "slashes": "ECONNREFUSED", "zeros": "ECONNREFUSED", "full": "ECONNREFUSED"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract()
    names = {"plain": name, "slashes": name + b"/../", "zeros": name + b"\0\0", "full": name.ljust(108, b"\n")}
    return {what: _connect(kit, type, each) for what, each in names.items()}


@behaviour(
    "CON-21",
    "a socket is found by its file's inode: by any path to it, and from another network namespace",
    source="kernel net/unix/af_unix.c, unix_find_bsd and unix_find_socket_byinode; kernel "
    "tools/testing/selftests/net/af_unix/unix_connect.c",
    expected=lambda way: {
        "connect": "ok",
        "peer": "bound",
        "abstract": "ECONNREFUSED" if way == "network namespace" else "ok",
    },
    over=("hard link", "renamed", "bind mount", "network namespace"),
    notes="So a volume in two containers joins them, though they share no network. (An abstract name, as control, is "
    "not reached from another network namespace.)",
)
def _(kit: Kit, way: str) -> object:
    server = kit.server(SocketType.STREAM, kit.path("bound"))
    name = kit.server(SocketType.STREAM, kit.abstract()).getsockname()

    def measured() -> object:
        path = _ANOTHER_WAY[way](kit, server.getsockname())
        client = kit.socket()
        return {
            "connect": errno_of(client.connect, path),
            "peer": os.path.basename(outcome(client.getpeername)),
            "abstract": _connect(kit, SocketType.STREAM, name),
        }

    return kit.in_child(measured)


def _hard_link(kit: Kit, path: str) -> str:
    os.link(path, kit.path("link"))
    return kit.path("link")


def _renamed(kit: Kit, path: str) -> str:
    os.rename(path, kit.path("renamed"))
    return kit.path("renamed")


def _bind_mount(kit: Kit, path: str) -> str:
    why = why_not(Requirement.MOUNT_NAMESPACE) or why_not(Requirement.CTYPES)
    if why:
        raise NotHere(why)
    libc.unshare(_CLONE_NEWNS)
    os.mkdir(kit.path("mounted"))
    try:
        calls.mount("none", "/", flags=_MS_REC_PRIVATE)
        calls.mount(kit.directory, kit.path("mounted"), flags=_MS_BIND)
    except OSError as error:
        raise NotHere(f"nothing may be mounted: {error.strerror}") from None
    return kit.path("mounted") + "/bound"


def _network_namespace(kit: Kit, path: str) -> str:
    why = why_not(Requirement.NET_NAMESPACE)
    if why:
        raise NotHere(why)
    libc.unshare(_CLONE_NEWNET)
    return path


_ANOTHER_WAY = {
    "hard link": _hard_link,
    "renamed": _renamed,
    "bind mount": _bind_mount,
    "network namespace": _network_namespace,
}
