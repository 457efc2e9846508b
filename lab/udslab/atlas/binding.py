"""BND: bind, and the file that it makes."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from functools import partial

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.behaviour import LISTENING, TYPES, ByKernel, Either, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

_CLONE_NEWNS = 0x00020000
_MS_RDONLY = 1
_MS_REMOUNT = 32
_MS_REC_PRIVATE = 0x4000 | 1 << 18
_IN_ALL_EVENTS = 0xFFF
_IN_CREATE = 0x100


def _mode(path: str) -> str:
    """Of a file: "0755"."""
    return f"{stat.S_IMODE(os.lstat(path).st_mode):04o}"


def _bound(kit: Kit, type: SocketType = SocketType.STREAM, mask: int = 0o022) -> str:
    """A path that has just been bound with that umask."""
    os.umask(mask)
    path: str = kit.socket(type, bind=kit.path()).getsockname()
    return path


@behaviour(
    "BND-01",
    "bind makes a node of type socket, of mode 0777 without the umask's bits, with one link and no content",
    source="unix(7), Pathname socket ownership and permissions",
    expected={"socket": True, "mode": "0755", "links": 1, "size": 0},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = _bound(kit, type)
    status = os.lstat(path)
    return {
        "socket": stat.S_ISSOCK(status.st_mode),
        "mode": _mode(path),
        "links": status.st_nlink,
        "size": status.st_size,
    }


@behaviour(
    "BND-02",
    "bind is EADDRINUSE where anything is at the path, and leaves it as it is",
    source="unix(7), ERRORS; POSIX.1-2017 bind; Linux Test Project testcases/kernel/syscalls/bind/bind03.c",
    expected={
        "bind": dict.fromkeys(("file", "directory", "fifo", "link", "stale", "live"), "EADDRINUSE"),
        "the same": True,
        "free": "ok",
    },
    over=TYPES,
    notes="bind never replaces: not even a socket that nobody has any more. It is the caller who finds out whether "
    "somebody has.",
)
def _(kit: Kit, type: SocketType) -> object:
    paths = {what: kit.path(what) for what in ("file", "directory", "fifo", "link", "stale", "live")}
    with open(paths["file"], "w"):
        os.mkdir(paths["directory"])
    os.mkfifo(paths["fifo"])
    os.symlink("file", paths["link"])
    kit.socket(type, bind=paths["stale"]).close()
    kit.server(type, paths["live"])
    before = {what: os.lstat(path)[:3] for what, path in paths.items()}
    seen = {what: errno_of(kit.socket(type).bind, path) for what, path in paths.items()}
    same = before == {what: os.lstat(path)[:3] for what, path in paths.items()}
    return {"bind": seen, "the same": same, "free": errno_of(kit.socket(type).bind, kit.path())}


@behaviour(
    "BND-03",
    "a socket is bound once: a second bind to another path is EINVAL, and leaves no file there",
    source="Linux Test Project testcases/kernel/syscalls/bind/bind03.c; "
    "gVisor test/syscalls/linux/bind.cc, DoubleBindSocket",
    expected=ByKernel(
        {
            (0,): Either(*({"again": "EINVAL", "left": left, "name": "first"} for left in (True, False))),
            (5, 14): {"again": "EINVAL", "left": False, "name": "first"},
        }
    ),
    over=TYPES,
    notes="Before Linux 5.14 the file of the second bind stayed behind: bound to nothing.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type, bind=kit.path("first"))
    return {
        "again": errno_of(sock.bind, kit.path("second")),
        "left": os.path.lexists(kit.path("second")),
        "name": os.path.basename(sock.getsockname()),
    }


@behaviour(
    "BND-04",
    "a second bind to the path that the socket has is EADDRINUSE; to its abstract name EINVAL",
    source="gVisor test/syscalls/linux/bind.cc, DoubleBindSocket; kernel net/unix/af_unix.c, unix_bind_bsd",
    expected={"pathname": "EADDRINUSE", "abstract": "EINVAL"},
    over=TYPES,
    notes="A path is looked at before the socket, an abstract name after it. Kernels of before 4.9 look at the socket "
    "first.",
)
def _(kit: Kit, type: SocketType) -> object:
    path, name = kit.path(), kit.abstract()
    return {
        "pathname": errno_of(kit.socket(type, bind=path).bind, path),
        "abstract": errno_of(kit.socket(type, bind=name).bind, name),
    }


@behaviour(
    "BND-05",
    "the file stays when its socket is closed, and keeps the path taken until it is removed",
    source="unix(7), NOTES; POSIX.1-2017 bind, APPLICATION USAGE",
    expected={"there": True, "again": "EADDRINUSE", "after unlink": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    stale = kit.path()
    kit.socket(type, bind=stale).close()
    seen = {"there": os.path.lexists(stale), "again": errno_of(kit.socket(type).bind, stale)}
    os.unlink(stale)
    return {**seen, "after unlink": errno_of(kit.socket(type).bind, stale)}


@behaviour(
    "BND-06",
    "SO_REUSEADDR may be set, and changes nothing",
    source="socket(7), SO_REUSEADDR; measured",
    expected={"set": 1, "stale": "EADDRINUSE", "live": "EADDRINUSE", "abstract": "EADDRINUSE"},
    over=TYPES,
    notes="The TCP server's remedy for a name in use is none here. (SO_REUSEPORT is refused from Linux 6.13 on.)",
)
def _(kit: Kit, type: SocketType) -> object:
    def reusing() -> socket.socket:
        sock = kit.socket(type)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    stale, live, name = kit.path(), kit.path(), kit.abstract()
    with reusing() as sock:
        sock.bind(stale)
    reusing().bind(live)
    reusing().bind(name)
    return {
        "set": reusing().getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
        "stale": errno_of(reusing().bind, stale),
        "live": errno_of(reusing().bind, live),
        "abstract": errno_of(reusing().bind, name),
    }


@behaviour(
    "BND-07",
    "the file's mode is 0777 without the bits of the umask at bind",
    source="unix(7), Pathname socket ownership and permissions",
    expected={"0000": "0777", "0022": "0755", "0077": "0700", "0117": "0660", "0777": "0000"},
    over=TYPES,
    notes="A umask around bind keeps others out from the first instant; it belongs to the process, so other threads' "
    "files get it, too.",
)
def _(kit: Kit, type: SocketType) -> object:
    return {f"{mask:04o}": _mode(_bound(kit, type, mask)) for mask in (0, 0o022, 0o077, 0o117, 0o777)}


@behaviour(
    "BND-08",
    "fchmod on the socket before bind sets the mode that its file gets, less the umask's bits",
    source="kernel net/unix/af_unix.c, unix_bind_bsd; measured",
    expected={"0600, umask 0": "0600", "0770, umask 022": "0750", "0, umask 0": "0000"},
    over=TYPES,
    notes="A private socket without a moment in which it is not, and without a umask that other threads get. unix(7) "
    "does not say it; FreeBSD's fchmod is EINVAL.",
)
def _(kit: Kit, type: SocketType) -> object:
    def bound(mode: int, mask: int) -> str:
        os.umask(mask)
        sock = kit.socket(type)
        os.fchmod(sock.fileno(), mode)
        sock.bind(kit.path())
        return _mode(sock.getsockname())

    return {
        "0600, umask 0": bound(0o600, 0),
        "0770, umask 022": bound(0o770, 0o022),
        "0, umask 0": bound(0, 0),
    }


@behaviour(
    "BND-09",
    "fchmod on the socket after bind changes the socket's own node, not the file",
    source="measured; kernel net/unix/af_unix.c, unix_bind_bsd",
    expected={"fchmod": "ok", "descriptor": "0600", "file": "0755"},
    over=TYPES,
    notes="It looks as if it had worked, and has not: chmod by the path is what changes the file.",
)
def _(kit: Kit, type: SocketType) -> object:
    os.umask(0o022)
    sock = kit.socket(type, bind=kit.path())
    return {
        "fchmod": errno_of(os.fchmod, sock.fileno(), 0o600),
        "descriptor": f"{stat.S_IMODE(os.fstat(sock.fileno()).st_mode):04o}",
        "file": _mode(sock.getsockname()),
    }


@behaviour(
    "BND-10",
    "a socket may be bound after it was connected; its peer sees the name from then on",
    source="gVisor test/syscalls/linux/accept_bind.cc, BindAfterConnectSenderAddr and BoundConnector",
    expected={"before": "", "bind": "ok", "after": "the name", "data": "x"},
    over=[Pair(kind, type) for kind in (Kind.PATHNAME, Kind.ABSTRACT) for type in SocketType],
)
def _(kit: Kit, pair: Pair) -> object:
    def fresh() -> str | bytes:
        return kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()

    server = kit.server(pair.type, fresh())
    client = kit.socket(pair.type)
    client.connect(server.getsockname())
    accepted = kit.close_at_end(server.accept()[0]) if pair.type.connects else server

    def who() -> object:
        if pair.type.connects:
            return accepted.getpeername()
        client.send(b"who")
        return accepted.recvfrom(10)[1] or ""

    name = fresh()
    before = who()
    bound = errno_of(client.bind, name)
    after = who()
    client.send(b"x")
    return {
        "before": before,
        "bind": bound,
        "after": "the name" if after == name else repr(after),
        "data": accepted.recv(10).decode(),
    }


@behaviour(
    "BND-11",
    "an end of a socketpair may be bound; the other end sees its name",
    source="measured; unix(7) does not forbid it",
    expected={"before": "", "bind": "ok", "after": "s", "socket": True, "data": "x"},
    over=[Pair(Kind.SOCKETPAIR, type) for type in SocketType],
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    path = kit.path("s")
    before = right.getpeername()
    bound = errno_of(left.bind, path)
    left.send(b"x")
    return {
        "before": before,
        "bind": bound,
        "after": os.path.basename(right.getpeername()),
        "socket": stat.S_ISSOCK(os.lstat(path).st_mode),
        "data": right.recv(10).decode(),
    }


@behaviour(
    "BND-12",
    "bind is EACCES in a directory that may not be written, or not be searched",
    source="unix(7), Pathname socket ownership and permissions; POSIX.1-2017 bind, ERRORS",
    expected={"0777": "ok", "0333": "ok", "0555": "EACCES", "0666": "EACCES", "0000": "EACCES"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    paths = {}
    for mode in (0o777, 0o333, 0o555, 0o666, 0):
        path = paths[f"{mode:04o}"] = kit.path()
        os.mkdir(path)
        os.chmod(path, mode)
        kit.at_end(os.chmod, path, 0o700)
    return kit.unprivileged(
        lambda: {mode: errno_of(kit.socket(type).bind, path + "/s") for mode, path in paths.items()}
    )


@behaviour(
    "BND-13",
    "on a read-only file system bind is EROFS, EADDRINUSE at a name that is there; connect works",
    source="POSIX.1-2017 bind, ERRORS; measured",
    expected={"new": "EROFS", "taken": "EADDRINUSE", "connect": "ok", "chmod": "EROFS", "unlink": "EROFS"},
    over=TYPES,
    needs=(Requirement.MOUNT_NAMESPACE, Requirement.CTYPES),
    notes="A volume mounted read-only lets clients connect all the same: it protects the file, not the server.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measured() -> object:
        place = kit.directory
        libc.unshare(_CLONE_NEWNS)
        try:
            calls.mount("none", "/", flags=_MS_REC_PRIVATE)
            calls.mount("none", place, "tmpfs")
            there = kit.server(type, f"{place}/there").getsockname()
            calls.mount("none", place, "tmpfs", _MS_REMOUNT | _MS_RDONLY)
        except OSError as error:
            raise NotHere(f"no tmpfs may be mounted: {error.strerror}") from None
        return {
            "new": errno_of(kit.socket(type).bind, f"{place}/new"),
            "taken": errno_of(kit.socket(type).bind, there),
            "connect": errno_of(kit.socket(type).connect, there),
            "chmod": errno_of(os.chmod, there, 0o700),
            "unlink": errno_of(os.unlink, there),
        }

    return kit.in_child(measured)


@behaviour(
    "BND-14",
    "the file belongs to the file-system user and group of who binds; in a set-group-ID directory to that group",
    source="unix(7), Pathname socket ownership and permissions; setfsuid(2)",
    expected={
        "effective": [5001, 5002],
        "file system": [5003, 5002],
        "set-group-ID": [5003, 5004],
        "fchown before": [5003, 5002],
    },
    needs=(Requirement.OTHER_USER, Requirement.CHOWN, Requirement.CTYPES),
    notes="The owner of the socket's own node (fchown before bind) is not taken over, unlike its mode.",
)
def _(kit: Kit) -> object:
    os.chmod(kit.directory, 0o777)  # noqa: S103 - several users bind in it
    inheriting = kit.path("inheriting")
    os.mkdir(inheriting)
    os.chown(inheriting, -1, 5004)
    os.chmod(inheriting, 0o2777)  # noqa: S103
    owned = kit.socket()
    os.fchown(owned.fileno(), 5005, 5005)

    def owner(path: str, sock: socket.socket | None = None) -> list[int]:
        (sock or kit.socket()).bind(path)
        status = os.lstat(path)
        return [status.st_uid, status.st_gid]

    def measured() -> object:
        os.setegid(5002)
        os.seteuid(5001)
        effective = owner(kit.path())
        os.seteuid(0)
        calls.setfsuid(5003)
        return {
            "effective": effective,
            "file system": owner(kit.path()),
            "set-group-ID": owner(f"{inheriting}/s"),
            "fchown before": owner(kit.path(), owned),
        }

    return kit.in_child(measured)


@behaviour(
    "BND-15",
    "fstat tells of the socket's own node: of type socket, mode 0777, with a number that is not the file's",
    source="gVisor test/syscalls/linux/socket.cc, UnixSocketStat; measured",
    expected={"socket": True, "mode": "0777", "device": False, "number": True},
    over=TYPES,
    needs=Requirement.PROC,
    notes="Whether the file at a path is still this socket's is not to be learnt by comparing the two.",
)
def _(kit: Kit, type: SocketType) -> object:
    os.umask(0o022)
    sock = kit.socket(type, bind=kit.path())
    own, file = os.fstat(sock.fileno()), os.lstat(sock.getsockname())
    return {
        "socket": stat.S_ISSOCK(own.st_mode),
        "mode": f"{stat.S_IMODE(own.st_mode):04o}",
        "device": own.st_dev == file.st_dev,
        "number": os.readlink(f"/proc/self/fd/{sock.fileno()}") == f"socket:[{own.st_ino}]",
    }


_OPENINGS = {
    "O_RDONLY": os.O_RDONLY,
    "O_WRONLY": os.O_WRONLY,
    "O_RDWR": os.O_RDWR,
    "O_NONBLOCK": os.O_RDONLY | os.O_NONBLOCK,
    "O_TRUNC": os.O_WRONLY | os.O_TRUNC,
    "O_CREAT": os.O_WRONLY | os.O_CREAT,
}


def _open(path: str, flags: int) -> str:
    return errno_of(lambda: os.close(os.open(path, flags)))


@behaviour(
    "BND-16",
    "a socket's file cannot be opened: ENXIO; but for O_PATH",
    source="open(2), ERRORS; gVisor test/syscalls/linux/socket_unix_unbound_filesystem.cc, OpenSocketWithTruncate",
    expected={
        "live": {**dict.fromkeys(_OPENINGS, "ENXIO"), "O_PATH": "ok"},
        "stale": {**dict.fromkeys(_OPENINGS, "ENXIO"), "O_PATH": "ok"},
    },
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    live = kit.server(type).getsockname()
    stale = kit.path()
    kit.socket(type, bind=stale).close()
    flags = {**_OPENINGS, "O_PATH": os.O_PATH}
    return {
        what: {word: _open(path, number) for word, number in flags.items()}
        for what, path in (("live", live), ("stale", stale))
    }


@behaviour(
    "BND-17",
    "a socket's descriptor cannot be opened again through /proc: ENXIO",
    source="gVisor test/syscalls/linux/socket_unix.cc, SocketReopenFromProcfs",
    expected={
        "bound": dict.fromkeys(_OPENINGS, "ENXIO"),
        "unbound": dict.fromkeys(_OPENINGS, "ENXIO"),
        "pair": dict.fromkeys(_OPENINGS, "ENXIO"),
        "a file": "ok",
    },
    over=TYPES,
    needs=Requirement.PROC,
    notes="So /dev/stdin and /dev/stdout cannot be opened by a service whose standard input or output is a socket.",
)
def _(kit: Kit, type: SocketType) -> object:
    socks = {
        "bound": kit.server(type),
        "unbound": kit.socket(type),
        "pair": kit.pair(Pair(Kind.SOCKETPAIR, type))[0],
    }
    with open(kit.path("file"), "w") as file:
        seen: dict[str, object] = {"a file": _open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)}
    for what, sock in socks.items():
        path = f"/proc/self/fd/{sock.fileno()}"
        seen[what] = {word: _open(path, number) for word, number in _OPENINGS.items()}
    return seen


@behaviour(
    "BND-18",
    "mknod makes a socket's file that nobody is bound to: connect is ECONNREFUSED",
    source="mknod(2); measured",
    expected={"mknod": "ok", "socket": True, "connect": "ECONNREFUSED", "bind": "EADDRINUSE"},
    over=TYPES,
    notes="It takes no capability, and looks just as a stale file does.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    made = errno_of(os.mknod, path, stat.S_IFSOCK | 0o777)
    return {
        "mknod": made,
        "socket": stat.S_ISSOCK(os.lstat(path).st_mode),
        "connect": errno_of(kit.socket(type).connect, path),
        "bind": errno_of(kit.socket(type).bind, path),
    }


@behaviour(
    "BND-19",
    "inotify tells of bind at once (IN_CREATE), when connect is still refused; of listen it tells nothing",
    source="inotify(7); measured",
    expected={"bind": ["IN_CREATE s"], "connect": "ECONNREFUSED", "listen": [], "then": "ok", "close": []},
    over=LISTENING,
    needs=Requirement.CTYPES,
    notes="Who waits for a server has not waited long enough when the file is there.",
)
def _(kit: Kit, type: SocketType) -> object:
    fd = libc.inotify_open()
    if fd is None or libc.inotify_add(fd, os.fsencode(kit.directory), _IN_ALL_EVENTS) is None:
        raise NotHere("no inotify")
    kit.at_end(os.close, fd)

    def told() -> list[str]:
        try:
            data = os.read(fd, 4096)
        except BlockingIOError:
            return []
        events = []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            events.append(("IN_CREATE" if mask == _IN_CREATE else f"{mask:#x}") + f" {name}")
            data = data[16 + length :]
        return events

    sock = kit.socket(type, bind=kit.path("s"))
    seen: dict[str, object] = {"bind": told()}
    seen["connect"] = errno_of(kit.socket(type).connect, kit.path("s"))
    told()
    sock.listen(5)
    seen["listen"] = told()
    seen["then"] = errno_of(kit.socket(type).connect, kit.path("s"))
    told()
    sock.close()
    return {**seen, "close": told()}


@behaviour(
    "BND-20",
    "a socket whose bind has failed may be bound again, elsewhere",
    source="measured; POSIX.1-2017 leaves a socket unspecified after a connect that has failed, not after a bind",
    expected=["ENOENT", "EADDRINUSE", "ENOTDIR", "ok", "ok"],
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    taken = kit.server(type).getsockname()
    paths = [kit.path("missing") + "/s", taken, taken + "/s", kit.path()]
    seen = [errno_of(sock.bind, path) for path in paths]
    if type.connects:
        sock.listen()
    return [*seen, errno_of(kit.socket(type).connect, paths[-1])]


_ALWAYS_OR_NOT = ([True], [False], [False, True])


@behaviour(
    "BND-21",
    "of several threads that bind one socket just one succeeds; the others see EINVAL and leave no file",
    source="kernel net/unix/af_unix.c, unix_bind_bsd (bindlock); measured",
    expected=ByKernel(
        {
            (0,): Either(*({"winners": [1], "others": ["EINVAL"], "one file": each} for each in _ALWAYS_OR_NOT)),
            (5, 14): {"winners": [1], "others": ["EINVAL"], "one file": [True]},
        }
    ),
    over=TYPES,
    notes="Twenty rounds of four threads; what has come up in any is told. Before Linux 5.14 the others' files stayed.",
)
def _(kit: Kit, type: SocketType) -> object:
    winners, others, alone = set(), set(), set()
    for _round in range(20):
        with socket.socket(socket.AF_UNIX, type.constant) as sock:
            paths = [kit.path() for _ in range(4)]
            said = _at_once([partial(errno_of, sock.bind, path) for path in paths])
        winners.add(said.count("ok"))
        others.update(set(said) - {"ok"})
        alone.add(sum(map(os.path.lexists, paths)) == 1)
    return {"winners": sorted(winners), "others": sorted(others), "one file": sorted(alone)}


def _at_once(functions: list[Callable[[], str]]) -> list[str]:
    """What they give, each in a thread of its own."""
    barrier = threading.Barrier(len(functions))
    given: list[str] = []

    def run(function: Callable[[], str]) -> None:
        barrier.wait()
        given.append(function())

    threads = [threading.Thread(target=run, args=[function]) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given
