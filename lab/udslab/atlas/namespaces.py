"""NSC: sockets between namespaces, of which containers are made."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.behaviour import TYPES, ByKernel, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import OTHER_UID, Child, Kit, errno_of, limit_waiting, outcome
from udslab.atlas.places import MOUNTS, NETWORK, PIDS, USERS, bind_mount, elsewhere, enter, mount_here, read_only
from udslab.atlas.requirement import Requirement, why_not
from udslab.atlas.tables import TABLES
from udslab.limits import become
from udslab.socktype import SocketType
from udslab.support import fcntl

__all__: list[str] = []

LISTENING = (SocketType.STREAM, SocketType.SEQPACKET)
CONTAINER = NETWORK | MOUNTS | PIDS
SOMEBODY = 1234
"""A user and group that nothing here belongs to."""
# asm-generic/socket.h, linux/sockios.h
SO_PASSCRED, SO_PEERCRED, SO_PEERGROUPS, SO_NETNS_COOKIE, SO_PEERPIDFD = 16, 17, 59, 71, 77
SCM_CREDENTIALS = 2
SIOCGSKNS = 0x894C


def _peer(sock: socket.socket) -> list[int]:
    """SO_PEERCRED: pid, user, group."""
    return list(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, 12)))


def _ids() -> list[int]:
    return [os.geteuid(), os.getegid()]


def _called(seen: list[int], pid: int) -> list[object]:
    """A peer in words: its pid, and whether its user and group are this process's."""
    return [{0: 0, pid: "its pid"}.get(seen[0], "another pid"), "its user" if seen[1:] == _ids() else seen[1:]]


def _connects(kit: Kit, address: Any, type: SocketType = SocketType.STREAM) -> str:
    return errno_of(kit.socket(type).connect, address)


class _Signals:
    """Two processes that wait for each other: each holds an end."""

    def __init__(self, kit: Kit) -> None:
        self.near, self.far = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.SEQPACKET))
        for end in (self.near, self.far):
            limit_waiting(end, 4)

    @staticmethod
    def hear(end: socket.socket) -> bytes:
        """What the other says. If it has ended instead, why is in its result."""
        return end.recv(100)


def _wait_for(child: Child, end: socket.socket) -> None:
    """Wait until a child has said that it is ready; raises what it has raised, if it has ended instead."""
    if not end.recv(100):
        child.result()
        raise NotHere("a child has ended early")


@behaviour(
    "NSC-01",
    "an abstract name of another network namespace is refused (ECONNREFUSED); a path leads to its socket all the same",
    source="unix(7), Abstract sockets; kernel selftests net/af_unix/unix_connect.c; "
    "gVisor socket_unix_unbound_abstract.cc, BindConnectInSubNamespace",
    expected={"here": ["ok", "ok"], "in another network namespace": ["ECONNREFUSED", "ok"]},
    over=TYPES,
    notes="The same name can be bound there again. Between containers take a path on a shared volume.",
)
def _(kit: Kit, type: SocketType) -> object:
    abstract, path = kit.abstract(), kit.path()
    for address in (abstract, path):
        kit.socket(type, bind=address, listen=5 if type.connects else None)

    def connect() -> list[str]:
        return [_connects(kit, abstract, type), _connects(kit, path, type)]

    return {"here": connect(), "in another network namespace": elsewhere(kit, NETWORK, connect)}


@behaviour(
    "NSC-02b",
    "a socket stays in the network namespace it was made in, wherever its process goes",
    source="kernel net/unix/af_unix.c, unix_find_abstract (sock_net); measured, no suite covers it",
    expected={"made before": "ok", "made after": "ECONNREFUSED"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    abstract = kit.abstract()
    kit.socket(type, bind=abstract, listen=1 if type.connects else None)
    before = kit.socket(type)
    return elsewhere(
        kit,
        NETWORK,
        lambda: {"made before": errno_of(before.connect, abstract), "made after": _connects(kit, abstract, type)},
    )


@behaviour(
    "NSC-03",
    "SO_PEERCRED gives the pid that the peer has in the reader's pid namespace, not in its own",
    source="pid_namespaces(7); gVisor socket_unix_peercred.cc, PeerCredAcrossPIDNamespace",
    expected={"in its own": 1, "seen from the parent's": ["its pid", "its user"]},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    listener = kit.socket(type, bind=path, listen=1)
    limit_waiting(listener, 4)
    signals = _Signals(kit)

    def client() -> int:
        sock = kit.socket(type)
        sock.connect(path)
        sock.recv(1)
        return os.getpid()

    def maker() -> object:
        enter(PIDS)
        child = kit.child(client)
        signals.far.send(b"%d" % child.pid)
        return child.result()

    made = kit.child(maker)
    signals.far.close()
    said = _Signals.hear(signals.near)
    if not said:
        return made.result()
    connection = kit.close_at_end(listener.accept()[0])
    seen = _called(_peer(connection), int(said))
    connection.send(b"x")
    return {"in its own": made.result(), "seen from the parent's": seen}


@behaviour(
    "NSC-04",
    "SO_PEERCRED gives pid 0 for a peer in an outer or a sibling pid namespace; user and group are right",
    source="pid_namespaces(7); kernel kernel/pid.c, pid_vnr; measured, no suite covers it",
    expected={
        "an outer peer": [0, "its user"],
        "a sibling client": [0, "its user"],
        "a sibling server": [0, "its user"],
    },
    over=LISTENING,
    notes="So between containers a pid tells nothing: 0 is no process, and kill(0, …) signals the caller's own group.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    kit.socket(type, bind=path, listen=5)
    seen = {"an outer peer": elsewhere(kit, PIDS, lambda: _called(_client_sees(kit, path, type), -1))}
    seen["a sibling client"], seen["a sibling server"] = _siblings(kit, kit.path(), PIDS, type)
    return seen


def _client_sees(kit: Kit, address: Any, type: SocketType) -> list[int]:
    sock = kit.socket(type)
    sock.connect(address)
    return _peer(sock)


def _siblings(
    kit: Kit, path: str, flags: int, type: SocketType, server_path: str = "", prepare: Callable[[str], object] = str
) -> tuple[list[object], list[object]]:
    """What a server in namespaces of its own is told of a client in others of its own, and the client of the server.
    Each calls ``prepare`` with its path first."""
    signals = _Signals(kit)

    def server() -> object:
        prepare(server_path or path)
        listener = kit.socket(type, bind=server_path or path, listen=1)
        limit_waiting(listener, 4)
        signals.far.send(b"listening")
        connection = kit.close_at_end(listener.accept()[0])
        return _called(_peer(connection), -1)

    def client() -> object:
        prepare(path)
        return _called(_client_sees(kit, path, type), -1)

    serves = kit.child(lambda: elsewhere(kit, flags, server))
    signals.far.close()
    _wait_for(serves, signals.near)
    told = elsewhere(kit, flags, client)
    return serves.result(), told


def _told_inside(pidfd: dict[str, object]) -> dict[str, object]:
    return {"SCM_CREDENTIALS": [0, "its user"], **pidfd}


@behaviour(
    "NSC-05",
    "SCM_CREDENTIALS, too, give pid 0 for an outer sender; SO_PEERPIDFD gives a descriptor for it all the same",
    source="kernel include/net/scm.h and net/core/sock.c, SO_PEERPIDFD; measured, no suite covers it",
    expected=ByKernel(
        {
            (0,): _told_inside({"SO_PEERPIDFD": "ENOPROTOOPT"}),
            (6, 5): _told_inside({"SO_PEERPIDFD": "ok", "its pid": 0, "a signal by it": "EINVAL"}),
        }
    ),
    needs=Requirement.PROC,
    notes="The descriptor can be polled for the sender's end, but no signal may be sent by it.",
)
def _(kit: Kit) -> object:
    path = kit.path()
    listener = kit.socket(bind=path, listen=1)
    limit_waiting(listener, 4)
    signals = _Signals(kit)

    def client() -> object:
        sock = kit.socket()
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        sock.connect(path)
        signals.far.send(b"connected")
        _, ancillary, _, _ = sock.recvmsg(1, 100)
        sender = next(list(struct.unpack("3i", data[:12])) for _, kind, data in ancillary if kind == SCM_CREDENTIALS)
        pidfd = outcome(sock.getsockopt, socket.SOL_SOCKET, SO_PEERPIDFD)
        seen = {"SCM_CREDENTIALS": _called(sender, -1)}
        if not isinstance(pidfd, int):
            return {**seen, "SO_PEERPIDFD": pidfd}
        # This namespace's own /proc: an outer one would tell an outer pid.
        mount_here("proc", "/proc", "proc")
        with open(f"/proc/self/fdinfo/{pidfd}") as info:
            pid = next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
        signalled = errno_of(signal.pidfd_send_signal, pidfd, 0)
        return {**seen, "SO_PEERPIDFD": "ok", "its pid": pid, "a signal by it": signalled}

    inside = kit.child(lambda: elsewhere(kit, PIDS | MOUNTS, client))
    signals.far.close()
    _wait_for(inside, signals.near)
    kit.close_at_end(listener.accept()[0]).send(b"x")
    return inside.result()


@behaviour(
    "NSC-06",
    "users and groups without a number in the reader's user namespace are read as 65534",
    source="user_namespaces(7), Unmapped user and group IDs; measured, no suite covers it",
    expected={"mapped to 0": ["its pid", 0, 0], "not mapped": ["its pid", 65534, 65534]},
    over=LISTENING,
    needs=(Requirement.USER_NAMESPACE, Requirement.PROC),
    notes="The number is /proc/sys/kernel/overflowuid. Many strangers share it, and so does nobody: never trust it.",
)
def _(kit: Kit, type: SocketType) -> object:
    path, here = kit.path(), os.getpid()
    kit.socket(type, bind=path, listen=5)

    def client() -> list[object]:
        pid, uid, gid = _client_sees(kit, path, type)
        return ["its pid" if pid == here else "another pid", uid, gid]

    return {
        "mapped to 0": elsewhere(kit, USERS, client, inside=0),
        "not mapped": elsewhere(kit, USERS, client),
    }


def _as_somebody(function: Callable[[], Any]) -> Callable[[], Any]:
    """The same, having become somebody else if this is root and may."""

    def call() -> Any:
        if not why_not(Requirement.ROOT):
            become(SOMEBODY, SOMEBODY)
            libc.set_dumpable(True)  # otherwise /proc/self is root's
        return function()

    return call


@behaviour(
    "NSC-07",
    "outside a user namespace its root is seen with the number that it has outside",
    source="user_namespaces(7); measured, no suite covers it",
    expected={"inside": [0, 0], "outside": "as outside"},
    over=LISTENING,
    needs=(Requirement.USER_NAMESPACE, Requirement.PROC),
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    os.chmod(kit.directory, 0o755)  # noqa: S103 - somebody else connects
    listener = kit.socket(type, bind=path, listen=1)
    limit_waiting(listener, 4)
    os.chmod(path, 0o666)  # noqa: S103 - somebody else connects
    outer = _ids() if why_not(Requirement.ROOT) else [SOMEBODY, SOMEBODY]
    signals = _Signals(kit)

    def inside() -> object:
        enter(USERS, 0)
        sock = kit.socket(type)
        sock.connect(path)
        signals.far.send(b"connected")
        return _ids()

    child = kit.child(_as_somebody(inside))
    signals.far.close()
    _wait_for(child, signals.near)
    seen = _peer(kit.close_at_end(listener.accept()[0]))[1:]
    return {"inside": child.result(), "outside": "as outside" if seen == outer else seen}


@behaviour(
    "NSC-08",
    "a path that another mount namespace does not show is not there (ENOENT)",
    source="mount_namespaces(7); measured, no suite covers it",
    expected={"with the same mounts": "ok", "with another mount there": "ENOENT"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    kit.socket(type, bind=path, listen=5 if type.connects else None)

    def connect() -> object:
        before = _connects(kit, path, type)
        mount_here("none", kit.directory, "tmpfs")
        return {"with the same mounts": before, "with another mount there": _connects(kit, path, type)}

    return elsewhere(kit, MOUNTS, connect)


@behaviour(
    "NSC-09",
    "/proc/PID/root leads into another process's mounts, for those who may trace it; EACCES for others",
    source="proc(5), /proc/pid/root; measured, no suite covers it",
    expected={"by the path": "ENOENT", "by /proc/PID/root": "ok", "another user": "EACCES"},
    over=TYPES,
    needs=(Requirement.OTHER_USER, Requirement.PROC),
    notes="So root of the host can reach a socket in a container without any volume.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    signals = _Signals(kit)

    def server() -> None:
        enter(MOUNTS)
        mount_here("none", kit.directory, "tmpfs")
        kit.socket(type, bind=path, listen=5 if type.connects else None)
        os.chmod(path, 0o777)  # noqa: S103 - it is not this that keeps others out
        signals.far.send(b"listening")
        signals.far.recv(1)

    child = kit.child(server)
    signals.far.close()
    _wait_for(child, signals.near)
    way = f"/proc/{child.pid}/root{path}"
    return {
        "by the path": _connects(kit, path, type),
        "by /proc/PID/root": _connects(kit, way, type),
        "another user": kit.as_other_user(lambda: _connects(kit, way, type)),
    }


@behaviour(
    "NSC-10",
    "a passed socket stays in its network namespace and a passed directory in its mounts; so their receiver gets there",
    source="kernel selftests net/af_unix/unix_connect.c; measured, no suite covers it",
    expected={
        "abstract name": {"own socket": "ECONNREFUSED", "passed socket": "ok"},
        "path": {"own": "ENOENT", "by the passed directory": "ok"},
    },
    needs=Requirement.PROC,
)
def _(kit: Kit) -> object:
    path, abstract = kit.path(), kit.abstract()
    signals = _Signals(kit)

    def server() -> None:
        enter(NETWORK | MOUNTS)
        mount_here("none", kit.directory, "tmpfs")
        kit.socket(bind=path, listen=5)
        kit.socket(bind=abstract, listen=5)
        directory = os.open(kit.directory, os.O_PATH)
        socket.send_fds(signals.far, [b"x"], [kit.socket().fileno(), directory])
        signals.far.recv(1)

    child = kit.child(server)
    signals.far.close()
    _, fds, _, _ = socket.recv_fds(signals.near, 1, 2)
    if not fds:
        return child.result()
    passed = kit.close_at_end(socket.socket(fileno=fds[0]))
    return {
        "abstract name": {"own socket": _connects(kit, abstract), "passed socket": errno_of(passed.connect, abstract)},
        "path": {
            "own": _connects(kit, path),
            "by the passed directory": _connects(kit, f"/proc/self/fd/{fds[1]}/{os.path.basename(path)}"),
        },
    }


def _queue_limit(write: int | None = None) -> int:
    try:
        with open("/proc/sys/net/unix/max_dgram_qlen", "r" if write is None else "w") as file:
            return int(file.read()) if write is None else file.write(str(write))
    except OSError as error:
        raise NotHere(f"no max_dgram_qlen to be had ({error.strerror})") from None


@behaviour(
    "NSC-11",
    "a new network namespace begins with max_dgram_qlen 10, whatever the one has that it was made in",
    source="kernel net/unix/af_unix.c, unix_net_init; unix(7), /proc interfaces",
    expected={"new": 10, "datagrams that go in": 11, "raised there": 20, "a newer one": 10},
    notes="systemd raises the host's to 512: a syslog or notify socket bound in a container is full earlier.",
)
def _(kit: Kit) -> object:
    path = kit.path()

    def inside() -> object:
        seen = {"new": _queue_limit()}
        kit.socket(SocketType.DGRAM, bind=path)
        sender = kit.socket(SocketType.DGRAM)
        sender.setblocking(False)
        sent = 0
        while errno_of(sender.sendto, b"x", path) == "ok":
            sent += 1
        seen["datagrams that go in"] = sent
        _queue_limit(20)
        seen["raised there"] = _queue_limit()
        enter(NETWORK)
        seen["a newer one"] = _queue_limit()
        return seen

    return elsewhere(kit, NETWORK, inside)


@behaviour(
    "NSC-12",
    "a listener whose path can be connected to from another network namespace is in none of that one's tables",
    source="kernel net/unix/diag.c and af_unix.c, unix_seq_start; measured, no suite covers it",
    expected={"here": ["ok", True], "there": ["ok", False]},
    over=tuple(TABLES),
    needs=Requirement.PROC,
    notes="A path on a volume can be in use though ss shows nothing. Only a connection tells.",
)
def _(kit: Kit, table: str) -> object:
    path = kit.path()
    listener = kit.socket(bind=path, listen=5)
    name_of = TABLES[table]

    def look() -> list[object]:
        return [_connects(kit, path), name_of(listener) is not None]

    return {"here": look(), "there": elsewhere(kit, NETWORK, look)}


@behaviour(
    "NSC-13",
    "root of a user namespace may send its own numbers; one without a number there is EINVAL, another's pid EPERM",
    source="unix(7), SCM_CREDENTIALS; kernel net/core/scm.c, scm_check_creds and __scm_send",
    expected={"its own": "ok", "a user that is not mapped": "EINVAL", "another's pid": "EPERM", "seen": [0, 0]},
    over=(SocketType.STREAM, SocketType.DGRAM, SocketType.SEQPACKET),
    needs=(Requirement.USER_NAMESPACE, Requirement.PROC),
)
def _(kit: Kit, type: SocketType) -> object:
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, type))
    right.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)

    def send(pid: int, uid: int, gid: int) -> str:
        ancillary = [(socket.SOL_SOCKET, SCM_CREDENTIALS, struct.pack("3i", pid, uid, gid))]
        return errno_of(left.sendmsg, [b"x"], ancillary)

    def inside() -> dict[str, object]:
        seen: dict[str, object] = {
            "its own": send(os.getpid(), 0, 0),
            "a user that is not mapped": send(os.getpid(), SOMEBODY, 0),
            "another's pid": send(os.getppid(), 0, 0),
        }
        _, ancillary, _, _ = right.recvmsg(1, 100)
        seen["seen"] = list(struct.unpack("3i", ancillary[0][2]))[1:]
        return seen

    return elsewhere(kit, USERS, inside, inside=0)


@behaviour(
    "NSC-14",
    "SO_PEERGROUPS gives 65534 for each group that has no number in the reader's user namespace",
    source="kernel net/core/sock.c, groups_to_user; measured, no suite covers it",
    expected={"outside": [1234, 1235], "inside": [65534, 65534]},
    over=LISTENING,
    needs=(Requirement.USER_NAMESPACE, Requirement.SETGID, Requirement.PROC),
    since=(4, 13),
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    listener = kit.socket(type, bind=path)

    def listen() -> None:
        os.setgroups([1234, 1235])
        listener.listen(5)

    kit.in_child(listen)

    def groups() -> list[int]:
        sock = kit.socket(type)
        sock.connect(path)
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 100)
        return sorted(struct.unpack(f"{len(data) // 4}i", data))

    return {"outside": groups(), "inside": elsewhere(kit, USERS, groups, inside=0)}


def _join_users(pid: int) -> None:
    """Go into a process's user namespace, if that is another one: only there may one go into its others."""
    if os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
        _join(pid, "user")


def _join(pid: int, *names: str) -> None:
    """Go into a process's namespaces."""
    for name in names:
        fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        said = errno_of(calls.setns, fd)
        os.close(fd)
        if said != "ok":
            raise NotHere(f"setns to another {name} namespace says {said}")


def _abstract_server(kit: Kit, flags: int, abstract: bytes, type: SocketType) -> tuple[Child, int]:
    """A listener at that name in other namespaces: the child to be waited for, and the pid of the one that listens."""
    signals = _Signals(kit)

    def server() -> None:
        listener = kit.socket(type, bind=abstract, listen=5 if type.connects else None)
        signals.far.send(b"listening")
        signals.far.recv(1)
        listener.close()

    def maker() -> None:
        enter(flags)
        child = kit.child(server)
        signals.far.send(b"%d" % child.pid)
        child.result()

    child = kit.child(maker)
    signals.far.close()
    said = {_Signals.hear(signals.near), _Signals.hear(signals.near)} - {b"listening"}
    if b"" in said:
        child.result()
    return child, int(said.pop())


@behaviour(
    "NSC-15",
    "after setns into another network namespace only sockets made from then on see its abstract names",
    source="setns(2); measured, no suite covers it",
    expected={"before": "ECONNREFUSED", "made before": "ECONNREFUSED", "made after": "ok"},
    over=TYPES,
    needs=(Requirement.CTYPES, Requirement.PROC),
)
def _(kit: Kit, type: SocketType) -> object:
    abstract = kit.abstract()
    _, pid = _abstract_server(kit, NETWORK, abstract, type)

    def client() -> object:
        sock = kit.socket(type)
        before = errno_of(sock.connect, abstract)
        _join_users(pid)
        _join(pid, "net")
        return {
            "before": before,
            "made before": errno_of(sock.connect, abstract),
            "made after": _connects(kit, abstract, type),
        }

    return kit.in_child(client)


@behaviour(
    "NSC-17",
    "a listener that is inherited goes on serving those outside from new network, mount and user namespaces",
    source="sd_listen_fds(3); measured, no suite covers it",
    expected={"path": ["b'ping'", 1], "abstract": ["b'ping'", 1]},
    over=LISTENING,
    needs=(Requirement.USER_NAMESPACE, Requirement.PROC),
    notes="Socket activation thus serves a container that has no network and does not see the path.",
)
def _(kit: Kit, type: SocketType) -> object:
    def serve(address: Any) -> object:
        listener = kit.socket(type, bind=address, listen=1)
        limit_waiting(listener, 4)

        def inside() -> object:
            mount_here("none", kit.directory, "tmpfs")
            connection = kit.close_at_end(listener.accept()[0])
            limit_waiting(connection, 4)
            return [repr(connection.recv(10)), listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]

        server = kit.child(lambda: elsewhere(kit, NETWORK | MOUNTS | USERS, inside, inside=0))
        client = kit.socket(type)
        client.connect(address)
        client.send(b"ping")
        return server.result()

    return {"path": serve(kit.path()), "abstract": serve(kit.abstract())}


@behaviour(
    "NSC-18",
    "SIOCGSKNS opens a socket's network namespace (with CAP_NET_ADMIN, else EPERM); SO_NETNS_COOKIE names it",
    source="kernel net/socket.c, sock_ioctl and net/core/sock.c, SO_NETNS_COOKIE; measured, no suite covers it",
    expected={
        "SIOCGSKNS": "where the socket was made",
        "without the capability": "EPERM",
        "cookies here": "equal",
        "cookie there": "another",
    },
    needs=Requirement.PROC,
    since=(5, 14),
    notes="The first is there since Linux 4.10.",
)
def _(kit: Kit) -> object:
    def cookie(sock: socket.socket) -> bytes:
        return sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)

    here = kit.socket()
    denied = kit.unprivileged(lambda: errno_of(fcntl.ioctl, here, SIOCGSKNS))

    def inside() -> dict[str, object]:
        first = kit.socket()
        enter(NETWORK)
        second, third = kit.socket(), kit.socket()
        opened = os.fstat(fcntl.ioctl(second, SIOCGSKNS)).st_ino
        other = os.fstat(fcntl.ioctl(first, SIOCGSKNS)).st_ino
        own = os.stat("/proc/self/ns/net").st_ino
        return {
            "SIOCGSKNS": "where the socket was made" if opened == own != other else [opened, own, other],
            "cookies here": "equal" if cookie(second) == cookie(third) else "not equal",
            "cookie there": "another" if cookie(first) != cookie(second) else "the same",
        }

    return {**elsewhere(kit, NETWORK, inside), "without the capability": denied}


@behaviour(
    "NSC-19",
    "root of a user namespace is held by the mode of a file whose owner has no number there (EACCES)",
    source="user_namespaces(7), Capabilities; kernel fs/namei.c, generic_permission; measured, no suite covers it",
    expected={"uid": 0, "mode 0600": "EACCES", "mode 0666": "ok"},
    over=TYPES,
    needs=(Requirement.OTHER_USER, Requirement.USER_NAMESPACE, Requirement.PROC),
    notes="A daemon's socket of mode 0600 is thus kept from rootless containers that get its volume.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    os.chmod(kit.directory, 0o755)  # noqa: S103 - somebody else connects
    kit.socket(type, bind=path, listen=5 if type.connects else None)

    def inside() -> list[object]:
        enter(USERS, 0)
        return [os.geteuid(), _connects(kit, path, type)]

    seen: dict[str, object] = {}
    for mode in (0o600, 0o666):
        os.chmod(path, mode)
        seen["uid"], seen[f"mode 0{mode:o}"] = kit.in_child(_as_somebody(inside))
    return seen


@behaviour(
    "NSC-20",
    "through a directory mounted in two containers a client gets to the server; each sees pid 0 and the right user",
    source="measured between two containers of Docker 20.10; here in namespaces as of containers",
    expected={"the client, as seen": [0, "its user"], "the server, as seen": [0, "its user"]},
    over=LISTENING,
    notes="Each has its own network, mounts and pids, and the volume at a place of its own.",
)
def _(kit: Kit, type: SocketType) -> object:
    volume = kit.path("volume")
    os.mkdir(volume)

    def mount_volume(path: str) -> None:
        bind_mount(volume, os.path.dirname(path))

    client, server = kit.path("c") + "/s", kit.path("d") + "/s"
    seen, told = _siblings(kit, client, CONTAINER, type, server, mount_volume)
    return {"the client, as seen": seen, "the server, as seen": told}


@behaviour(
    "NSC-21",
    "who shares the server's network namespace gets to its abstract name, and who shares its pids is told the real pid",
    source="measured with Docker's --network container: and --pid container:; CVE-2020-15257 (containerd)",
    expected={
        "neither": "ECONNREFUSED",
        "pids alone": "ECONNREFUSED",
        "network alone": "pid 0",
        "both": "the server's pid",
    },
    over=LISTENING,
    needs=(Requirement.CTYPES, Requirement.PROC),
    notes="An abstract name has no mode: whoever is in the host's network namespace can call a daemon that checks "
    "nothing.",
)
def _(kit: Kit, type: SocketType) -> object:
    abstract = kit.abstract()
    _, pid = _abstract_server(kit, NETWORK | PIDS, abstract, type)

    def connect() -> str:
        sock = kit.socket(type)
        said = errno_of(sock.connect, abstract)
        if said != "ok":
            return said
        # The one that listens is the first of its namespace.
        return {0: "pid 0", 1: "the server's pid"}.get(_peer(sock)[0], "another pid")

    def join(*names: str) -> Any:
        def there() -> Any:
            _join_users(pid)
            enter((0 if "net" in names else NETWORK) | (0 if "pid" in names else PIDS))
            _join(pid, *names)
            return kit.in_child(connect)

        return kit.in_child(there)

    return {"neither": join(), "pids alone": join("pid"), "network alone": join("net"), "both": join("pid", "net")}


@behaviour(
    "NSC-22",
    "a read-only volume does not keep a client from connecting; bind there is EROFS",
    source="kernel fs/namei.c, sb_permission; measured, no suite covers it",
    expected={"connect": "ok", "bind": "EROFS"},
    over=TYPES,
    notes="What counts is write permission to the socket's inode. A read-only volume keeps nobody from using a daemon.",
)
def _(kit: Kit, type: SocketType) -> object:
    volume, seen = kit.path("volume"), kit.path("seen")
    os.mkdir(volume)
    os.mkdir(seen)
    os.chmod(kit.directory, 0o755)  # noqa: S103 - an ordinary user goes through it
    kit.socket(type, bind=f"{volume}/s", listen=5 if type.connects else None)
    for each in (volume, f"{volume}/s"):
        os.chmod(each, 0o777)  # noqa: S103 - it is not modes that keep the client from binding

    def client() -> object:
        bind_mount(volume, seen)
        read_only(seen)
        if os.geteuid() == 0 and errno_of(become, OTHER_UID, OTHER_UID) != "ok":
            raise NotHere("no other user has a number here")
        return {"connect": _connects(kit, f"{seen}/s", type), "bind": errno_of(kit.socket(type).bind, f"{seen}/t")}

    return elsewhere(kit, MOUNTS, client)


@behaviour(
    "NSC-23",
    "a socket in one container's private /tmp is not there in another's, which can bind the same path",
    source="mount_namespaces(7); measured with two containers",
    expected={"connect": "ENOENT", "bind": "ok", "the server's own child": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    signals = _Signals(kit)

    def server() -> object:
        enter(MOUNTS)
        mount_here("none", kit.directory, "tmpfs")
        kit.socket(type, bind=path, listen=5 if type.connects else None)
        own = kit.in_child(lambda: _connects(kit, path, type))
        signals.far.send(b"listening")
        signals.far.recv(1)
        return own

    def client() -> dict[str, object]:
        mount_here("none", kit.directory, "tmpfs")
        return {"connect": _connects(kit, path, type), "bind": errno_of(kit.socket(type).bind, path)}

    serves = kit.child(server)
    signals.far.close()
    _wait_for(serves, signals.near)
    seen = elsewhere(kit, MOUNTS, client)
    signals.near.send(b"x")
    return {**seen, "the server's own child": serves.result()}


@behaviour(
    "NSC-24",
    "through an idmapped mount a socket has the mapped owner, and its mode holds for that one; what is bound there is "
    "the unmapped one's on the disk",
    source="mount_setattr(2), ID-mapped mounts; measured, no suite covers it",
    expected={
        "seen there": 1234,
        "mode 0600": {"mapped owner": "ok", "owner on the disk": "EACCES"},
        "bound there by the mapped owner": "owner on the disk",
    },
    over=TYPES,
    needs=(
        Requirement.ROOT,
        Requirement.OTHER_USER,
        Requirement.SYS_ADMIN,
        Requirement.USER_NAMESPACE,
        Requirement.PROC,
    ),
    since=(5, 12),
    notes="Not every file system can: tmpfs since Linux 6.3.",
)
def _(kit: Kit, type: SocketType) -> object:
    volume, seen, owner = kit.path("volume"), kit.path("seen"), SOMEBODY + 1
    os.chmod(kit.directory, 0o755)  # noqa: S103 - others go through it
    signals = _Signals(kit)

    def mapping() -> None:
        if not libc.unshare(USERS):
            raise NotHere("no user namespace of one's own may be made")
        signals.far.send(b"made")
        signals.far.recv(1)

    mapped = kit.child(mapping)
    signals.far.close()
    _wait_for(mapped, signals.near)
    for file in ("gid_map", "uid_map"):
        with open(f"/proc/{mapped.pid}/{file}", "w") as lines:
            lines.write(f"{owner} {SOMEBODY} 1")
    users = os.open(f"/proc/{mapped.pid}/ns/user", os.O_RDONLY)

    def inside() -> object:
        for each in (volume, seen):
            os.mkdir(each)
        os.chown(volume, owner, owner)
        try:
            calls.mount_idmapped(volume, seen, users)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                raise NotHere(f"this file system has no idmapped mounts ({error.strerror})") from None
            raise
        sock = kit.socket(type, bind=f"{volume}/s", listen=5 if type.connects else None)
        os.chown(f"{volume}/s", owner, owner)
        os.chmod(f"{volume}/s", 0o600)

        def as_user(uid: int, call: Callable[..., Any], *arguments: Any) -> Any:
            def other() -> Any:
                become(uid, uid)
                return errno_of(call, *arguments)

            return kit.in_child(other)

        there = f"{seen}/s"
        connects = {
            "mapped owner": as_user(SOMEBODY, kit.socket(type).connect, there),
            "owner on the disk": as_user(owner, kit.socket(type).connect, there),
        }
        bound = as_user(SOMEBODY, kit.socket(type).bind, f"{seen}/t")
        uid = os.stat(f"{volume}/t").st_uid if bound == "ok" else bound
        sock.close()
        return {
            "seen there": os.stat(there).st_uid,
            "mode 0600": connects,
            "bound there by the mapped owner": "owner on the disk" if uid == owner else uid,
        }

    return elsewhere(kit, MOUNTS, inside)
