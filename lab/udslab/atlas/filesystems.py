"""FSK: socket files on kinds of file systems and mounts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.behaviour import PAIRS, TYPES, ByKernel, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import OTHER_UID, Kit, errno_of, outcome
from udslab.atlas.places import MOUNTS, bind_mount, elsewhere, mount_here, read_only
from udslab.atlas.requirement import Requirement, why_not
from udslab.socktype import SocketType

__all__: list[str] = []

_NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT = 2, 4, 8, 32
SOCKFS_MAGIC = 0x534F434B
BOUND = tuple(pair for pair in PAIRS if pair.kind is Kind.PATHNAME and pair.blocking)


def _server(kit: Kit, path: str, type: SocketType) -> socket.socket:
    return kit.socket(type, bind=path, listen=9 if type.connects else None)


def _connects(kit: Kit, path: str, type: SocketType = SocketType.STREAM) -> str:
    return errno_of(kit.socket(type).connect, path)


def _on_tmpfs(kit: Kit, function: Callable[[str], Any], flags: int = 0, options: str = "") -> Any:
    """What a function gives of a directory on a tmpfs of its own."""
    directory = kit.path("m")

    def inside() -> Any:
        os.mkdir(directory)
        mount_here("none", directory, "tmpfs", flags, options)
        return function(directory)

    return elsewhere(kit, MOUNTS, inside)


class _Overlay:
    """An overlay: what is below, what is written, both merged. On a tmpfs, for it may not lie on another overlay."""

    def __init__(self, top: str) -> None:
        self._top = top
        self.lower, self.upper, self.merged, work = (f"{top}/{name}" for name in ("l", "u", "m", "w"))
        for each in (self.lower, self.upper, self.merged, work):
            os.mkdir(each)
        self._options = f"lowerdir={self.lower},upperdir={self.upper},workdir={work}"

    def mount(self) -> None:
        """See what is there as merged."""
        try:
            calls.mount("none", self.merged, "overlay", 0, self._options)
        except OSError:  # in a user namespace it takes other attributes
            mount_here("none", self.merged, "overlay", 0, f"{self._options},userxattr")

    def evict(self) -> None:
        """Let the kernel forget what it remembers of it and nobody holds: a remount does that."""
        mount_here("none", self.merged, "overlay", _REMOUNT)


def _overlay(kit: Kit, function: Callable[[_Overlay], Any]) -> Any:
    """What a function gives of an overlay that it has still to mount."""
    return _on_tmpfs(kit, lambda directory: function(_Overlay(directory)))


@behaviour(
    "FSK-01",
    "on tmpfs a socket can be bound and connected to",
    source="measured; no suite covers it",
    expected={"file system": "tmpfs", "bind": "ok", "connect": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(directory: str) -> object:
        fd = os.open(directory, os.O_RDONLY)
        kind = "tmpfs" if libc.file_system_type(fd) == 0x01021994 else "another"
        sock = kit.socket(type)
        bind = errno_of(sock.bind, f"{directory}/s")
        if type.connects:
            sock.listen(1)
        return {"file system": kind, "bind": bind, "connect": _connects(kit, f"{directory}/s", type)}

    return _on_tmpfs(kit, measure)


@behaviour(
    "FSK-02",
    "in an overlay a socket can be bound and connected to by the merged path",
    source="measured; moby issue 12080 tells of kernels that could not",
    expected={"bind": "ok", "connect": "ok", "on the upper layer": True},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        overlay.mount()
        sock = kit.socket(type)
        bind = errno_of(sock.bind, f"{overlay.merged}/s")
        if type.connects:
            sock.listen(1)
        connect = _connects(kit, f"{overlay.merged}/s", type)
        return {"bind": bind, "connect": connect, "on the upper layer": os.path.exists(f"{overlay.upper}/s")}

    return _overlay(kit, measure)


@behaviour(
    "FSK-03",
    "a socket that is bound in an overlay is refused by the path on the upper layer: that file has another inode",
    source="kernel fs/overlayfs, ovl_new_inode; net/unix/af_unix.c, unix_find_socket_byinode",
    expected={"merged": "ok", "upper": "ECONNREFUSED"},
    over=TYPES,
    notes="So from the host a container's live socket looks stale under /var/lib/docker/overlay2.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        overlay.mount()
        _server(kit, f"{overlay.merged}/s", type)
        return {
            "merged": _connects(kit, f"{overlay.merged}/s", type),
            "upper": _connects(kit, f"{overlay.upper}/s", type),
        }

    return _overlay(kit, measure)


@behaviour(
    "FSK-04",
    "a socket that is bound on the lower layer is refused by the merged path",
    source="kernel fs/overlayfs, ovl_get_inode; net/unix/af_unix.c, unix_find_socket_byinode",
    expected={"lower": "ok", "merged": "ECONNREFUSED", "seen there": True},
    over=TYPES,
    notes="A path of the image in which the host has a socket leads nowhere; mount a volume.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        _server(kit, f"{overlay.lower}/s", type)
        overlay.mount()
        return {
            "lower": _connects(kit, f"{overlay.lower}/s", type),
            "merged": _connects(kit, f"{overlay.merged}/s", type),
            "seen there": os.path.exists(f"{overlay.merged}/s"),
        }

    return _overlay(kit, measure)


@behaviour(
    "FSK-05",
    "chmod and chown of a socket in an overlay leave it connectable",
    source="measured; no suite covers it",
    expected={"chmod": ["ok", "ok"], "chown": ["ok", "ok"], "mode": "0600"},
    over=TYPES,
    notes="It lies on the upper layer already, so nothing is copied up, and its inode in the overlay stays.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        overlay.mount()
        path = f"{overlay.merged}/s"
        _server(kit, path, type)
        chmod = [errno_of(os.chmod, path, 0o600), _connects(kit, path, type)]
        theirs = os.stat("/proc/self/ns/user").st_ino != users or why_not(Requirement.CHOWN)
        owner = os.geteuid() if theirs else OTHER_UID
        chown = [errno_of(os.chown, path, owner, -1), _connects(kit, path, type)]
        return {"chmod": chmod, "chown": chown, "mode": f"{os.stat(path).st_mode & 0o7777:04o}"}

    users = os.stat("/proc/self/ns/user").st_ino
    return _overlay(kit, measure)


@behaviour(
    "FSK-06",
    "in an overlay a hard link to a socket connects",
    source="measured; no suite covers it",
    expected=["ok", "ok"],
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        overlay.mount()
        path, link = f"{overlay.merged}/s", f"{overlay.merged}/t"
        _server(kit, path, type)
        return [errno_of(os.link, path, link), _connects(kit, link, type)]

    return _overlay(kit, measure)


@behaviour(
    "FSK-07",
    "in an overlay a renamed socket connects by its new path alone",
    source="measured; no suite covers it",
    expected={"new path": "ok", "old path": "ENOENT"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        overlay.mount()
        old, new = f"{overlay.merged}/s", f"{overlay.merged}/t"
        _server(kit, old, type)
        os.rename(old, new)
        return {"new path": _connects(kit, new, type), "old path": _connects(kit, old, type)}

    return _overlay(kit, measure)


@behaviour(
    "FSK-09",
    "a bound socket in an overlay is found after the kernel has forgotten what it remembered of the directory",
    source="kernel fs/overlayfs, ovl_get_inode (an inode that is in use is found again); measured, no suite covers it",
    expected={"forgotten": True, "connect": "ok"},
    over=TYPES,
    notes="Seen by another file, put straight onto the upper layer: it is not there as long as its absence is "
    "remembered.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(overlay: _Overlay) -> object:
        overlay.mount()
        _server(kit, f"{overlay.merged}/s", type)
        os.path.exists(f"{overlay.merged}/other")
        with open(f"{overlay.upper}/other", "w"):
            pass
        if os.path.exists(f"{overlay.merged}/other"):
            raise NotHere("nothing is remembered of this directory that could be forgotten")
        overlay.evict()
        return {
            "forgotten": os.path.exists(f"{overlay.merged}/other"),
            "connect": _connects(kit, f"{overlay.merged}/s", type),
        }

    return _overlay(kit, measure)


@behaviour(
    "FSK-10",
    "a directory that is mounted at two places: a socket bound by the one path is connected to by either",
    source="measured; no suite covers it",
    expected={"bound by the first": ["ok", "ok"], "bound by the second": ["ok", "ok"]},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(directory: str) -> object:
        other = kit.path("n")
        bind_mount(directory, other)

        def connect(name: str) -> list[str]:
            return [_connects(kit, f"{place}/{name}", type) for place in (directory, other)]

        _server(kit, f"{directory}/s", type)
        _server(kit, f"{other}/t", type)
        return {"bound by the first": connect("s"), "bound by the second": connect("t")}

    return _on_tmpfs(kit, measure)


@behaviour(
    "FSK-11",
    "on a read-only mount a socket can be connected to, and none bound (EROFS)",
    source="POSIX.1-2017 bind (EROFS); measured, no suite covers it",
    expected={
        "read-only mount": {"connect": "ok", "bind": "EROFS", "bind at its path": "EADDRINUSE"},
        "writable one of it": {"connect": "ok", "bind": "ok", "bind at its path": "EADDRINUSE"},
    },
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(directory: str) -> object:
        other = kit.path("n")
        _server(kit, f"{directory}/s", type)
        bind_mount(directory, other)
        read_only(other)

        def look(place: str) -> object:
            return {
                "connect": _connects(kit, f"{place}/s", type),
                "bind": errno_of(kit.socket(type).bind, f"{place}/t"),
                "bind at its path": errno_of(kit.socket(type).bind, f"{place}/s"),
            }

        return {"read-only mount": look(other), "writable one of it": look(directory)}

    return _on_tmpfs(kit, measure)


@behaviour(
    "FSK-12",
    "nodev, nosuid and noexec do not matter to sockets: bind and connect do",
    source="mount(2); measured, no suite covers it",
    expected={"flags": 14, "bind": "ok", "connect": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    flags = _NO_SUID | _NO_DEVICES | _NO_EXEC

    def measure(directory: str) -> object:
        sock = kit.socket(type)
        bind = errno_of(sock.bind, f"{directory}/s")
        if type.connects:
            sock.listen(1)
        kept = os.statvfs(directory).f_flag & flags
        return {"flags": kept, "bind": bind, "connect": _connects(kit, f"{directory}/s", type)}

    return _on_tmpfs(kit, measure, flags)


@behaviour(
    "FSK-13",
    "none can be bound in procfs (ENOENT), sysfs and devpts (EPERM)",
    source="measured; no suite covers it",
    expected={"proc": "ENOENT", "sysfs": "EPERM", "devpts": "EPERM"},
    needs=(Requirement.ROOT, Requirement.MOUNT_NAMESPACE),
)
def _(kit: Kit) -> object:
    def measure() -> object:
        said = {}
        for kind in ("proc", "sysfs", "devpts"):
            directory = kit.path(kind)
            os.mkdir(directory)
            mount_here("none", directory, kind)
            said[kind] = errno_of(kit.socket().bind, f"{directory}/udslab-{os.getpid()}")
        return said

    return elsewhere(kit, MOUNTS, measure)


@behaviour(
    "FSK-14",
    "in /dev/shm and on devtmpfs a socket can be bound and connected to",
    source="measured; no suite covers it",
    expected={"bind": "ok", "connect": "ok"},
    over=("/dev/shm", "devtmpfs"),  # noqa: S108
)
def _(kit: Kit, place: str) -> object:
    def measure(directory: str) -> object:
        path = f"{directory}/udslab-{os.urandom(8).hex()}"
        sock = kit.socket()
        bind = errno_of(sock.bind, path)
        if bind in ("EACCES", "ENOENT", "EROFS"):
            raise NotHere(f"bind in {place} says {bind}")
        try:
            sock.listen(1)
            return {"bind": bind, "connect": _connects(kit, path)}
        finally:
            os.unlink(path)

    def inside() -> object:
        directory = kit.path()
        os.mkdir(directory)
        mount_here("none", directory, "devtmpfs")
        return measure(directory)

    return measure(place) if place == "/dev/shm" else elsewhere(kit, MOUNTS, inside)  # noqa: S108


@behaviour(
    "FSK-15",
    "bind says ENOSPC where no inode is left; the socket can be bound when there is one again",
    source="POSIX.1-2017 bind; measured, no suite covers it",
    expected={"last inode": "ok", "none left": "ENOSPC", "no file": True, "one again": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(directory: str) -> object:
        left = os.statvfs(directory).f_ffree
        if not 0 < left < 10:
            raise NotHere("a tmpfs here has no limit of inodes")
        for number in range(left - 1):
            with open(f"{directory}/{number}", "w"):
                pass
        said: dict[str, object] = {"last inode": errno_of(kit.socket(type).bind, f"{directory}/s")}
        sock = kit.socket(type)
        said["none left"] = errno_of(sock.bind, f"{directory}/t")
        said["no file"] = not os.path.exists(f"{directory}/t")
        os.unlink(f"{directory}/0")
        said["one again"] = errno_of(sock.bind, f"{directory}/t")
        return said

    return _on_tmpfs(kit, measure, options="nr_inodes=4")


def _attributes(type: SocketType) -> ByKernel:
    def seen(protocol: str) -> dict[str, str]:
        refused = {"regular file": "ok", "socket file": "EPERM", "descriptor": "EPERM"}
        return {**refused, "system.sockprotoname": protocol + "\0"}

    return ByKernel({(0,): seen("UNIX"), (5, 15): seen("UNIX-STREAM" if type is SocketType.STREAM else "UNIX")})


@behaviour(
    "FSK-16",
    "a socket file takes no user.* attribute (EPERM), as little as the descriptor; that one has system.sockprotoname",
    source="xattr(7), Extended user attributes; kernel net/socket.c, sockfs_xattr_get; "
    "kernel selftests filesystems/xattr",
    expected=_attributes,
    over=TYPES,
    notes="The regular file beside it says that the file system has such attributes. Newer kernels than those measured "
    "are to allow them on sockets.",
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(directory: str) -> object:
        sock = _server(kit, f"{directory}/s", type)
        with open(f"{directory}/f", "w"):
            pass
        regular = errno_of(os.setxattr, f"{directory}/f", "user.a", b"b")
        if regular in ("EOPNOTSUPP", "ENOTSUP"):
            raise NotHere("this file system has no user attributes")
        name = outcome(os.getxattr, sock.fileno(), "system.sockprotoname")
        return {
            "regular file": regular,
            "socket file": errno_of(os.setxattr, f"{directory}/s", "user.a", b"b"),
            "descriptor": errno_of(os.setxattr, sock.fileno(), "user.a", b"b"),
            "system.sockprotoname": name,
        }

    return measure(kit.directory)


@behaviour(
    "FSK-17",
    "a bound socket keeps its file system from being unmounted (EBUSY), also when the file is removed",
    source="umount(2); measured, no suite covers it",
    expected={"bound": "EBUSY", "file removed": "EBUSY", "closed": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def measure(directory: str) -> object:
        sock = kit.socket(type, bind=f"{directory}/s")
        bound = errno_of(calls.umount, directory)
        if bound == "ok":
            return {"bound": bound}
        os.unlink(f"{directory}/s")
        removed = errno_of(calls.umount, directory)
        sock.close()
        return {"bound": bound, "file removed": removed, "closed": errno_of(calls.umount, directory)}

    return _on_tmpfs(kit, measure)


@behaviour(
    "FSK-18",
    "a socket file has size 0; connect counts as an access, what is sent changes neither size nor times",
    source="kernel net/unix/af_unix.c, unix_find_bsd (touch_atime); measured, no suite covers it",
    expected={
        "bound": ["size 0"],
        "connected": ["size 0", "accessed"],
        "sent and received": ["size 0"],
    },
    over=BOUND,
    notes="How long a server has had nothing to do cannot be told from the time of change. The time of access goes by "
    "the mount's options, noatime and relatime, as for any file.",
)
def _(kit: Kit, pair: Pair) -> object:
    path = kit.path()
    server = _server(kit, path, pair.type)
    if os.statvfs(path).f_flag & os.ST_NOATIME:
        raise NotHere("this file system keeps no time of access")
    client = kit.socket(pair.type)

    def look(what: Callable[[], object]) -> list[str]:
        os.utime(path, (1, 1))  # so old that relatime does count an access
        before = os.stat(path)
        what()
        after = os.stat(path)
        changed = {
            f"size {after.st_size}": True,
            "accessed": before.st_atime != after.st_atime,
            "modified": before.st_mtime != after.st_mtime or before.st_ctime_ns != after.st_ctime_ns,
        }
        return [word for word, held in changed.items() if held]

    def traffic() -> None:
        client.send(b"x" * 100)
        receiver = kit.close_at_end(server.accept()[0]) if pair.type.connects else server
        receiver.recv(100)

    return {
        "bound": look(lambda: None),
        "connected": look(lambda: client.connect(path)),
        "sent and received": look(traffic),
    }


@behaviour(
    "FSK-19",
    "fstatfs of a socket's descriptor tells of sockfs, wherever it is bound",
    source="gVisor test/syscalls/linux/socket.cc, UnixSocketStatFS",
    expected=["sockfs", "sockfs"],
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def kind(sock: socket.socket) -> object:
        number = libc.file_system_type(sock.fileno())
        return "sockfs" if number == SOCKFS_MAGIC else number

    return [kind(kit.socket(type)), kind(kit.socket(type, bind=kit.path()))]
