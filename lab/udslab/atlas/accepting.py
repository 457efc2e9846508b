"""ACC: accept, and what the accepted socket is."""

from __future__ import annotations

import os
import socket

from udslab.atlas import calls
from udslab.atlas.behaviour import LISTENING, TYPES, Kind, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, limit_waiting, outcome
from udslab.atlas.requirement import Requirement
from udslab.deadline import now
from udslab.socktype import SocketType
from udslab.support import resource

__all__: list[str] = []


def _waiting(kit: Kit, server: socket.socket, name: object = None) -> socket.socket:
    """A client that waits to be accepted."""
    client = kit.socket(SocketType.of(server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)), bind=name)
    client.connect(server.getsockname())
    return client


@behaviour(
    "ACC-01",
    "accept tells an address of 2 bytes, the family alone, for a client without a name",
    source="unix(7), Address format; gVisor test/syscalls/linux/accept_bind.cc, UnboundSenderAddr",
    expected={"length": 2, "family": True, "beyond": True, "Python": "", "peer": ""},
    over=LISTENING,
    needs=Requirement.CTYPES,
    notes="What follows the family is not written: who reads sun_path without the length reads what was there before.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    _waiting(kit, server)
    accepted, name, length = calls.accept_into(server, 110)
    kit.close_at_end(accepted)
    _waiting(kit, server)
    other, told = server.accept()
    kit.close_at_end(other)
    return {
        "length": length,
        "family": name[:2] == calls.address(b""),
        "beyond": name[2:] == b"\xff" * 108,
        "Python": told,
        "peer": accepted.getpeername(),
    }


@behaviour(
    "ACC-02",
    "the accepted socket has the listener's name, which is also what the client sees as its peer's",
    source="gVisor test/syscalls/linux/accept_bind.cc, BoundGetLocalAddress and GetRemoteAddress",
    expected={"accepted": "listener", "client's peer": "listener", "accept": "client", "accepted's peer": "client"},
    over=[Pair(kind, type) for kind in (Kind.PATHNAME, Kind.ABSTRACT) for type in LISTENING],
)
def _(kit: Kit, pair: Pair) -> object:
    def fresh() -> str | bytes:
        return kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()

    names = {fresh(): "listener", fresh(): "client"}
    here, there = names
    server = kit.server(pair.type, here)
    client = _waiting(kit, server, there)
    accepted, told = server.accept()
    kit.close_at_end(accepted)
    return {
        "accepted": names.get(accepted.getsockname()),
        "client's peer": names.get(client.getpeername()),
        "accept": names.get(told),
        "accepted's peer": names.get(accepted.getpeername()),
    }


@behaviour(
    "ACC-03",
    "accept on a socket that does not listen is EINVAL, on a datagram socket EOPNOTSUPP",
    source="accept(2), ERRORS; gVisor test/syscalls/linux/accept_bind.cc, AcceptWithoutListen and AcceptWithoutBind",
    expected=lambda each: dict.fromkeys(
        ("unbound", "bound", "connected", "pair"), "EOPNOTSUPP" if each is SocketType.DGRAM else "EINVAL"
    ),
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    socks = {
        "unbound": kit.socket(type),
        "bound": kit.socket(type, bind=kit.path()),
        "connected": kit.pair(Pair(Kind.PATHNAME, type))[0],
        "pair": kit.pair(Pair(Kind.SOCKETPAIR, type))[0],
    }
    return {what: errno_of(sock.accept) for what, sock in socks.items()}


@behaviour(
    "ACC-04",
    "accept is EAGAIN when nobody waits: at once if it is non-blocking, after SO_RCVTIMEO otherwise",
    source="accept(2), ERRORS; socket(7), SO_RCVTIMEO; POSIX.1-2017 accept",
    expected={"non-blocking": "EAGAIN", "limited": "EAGAIN", "waited": True, "somebody": "ok"},
    over=LISTENING,
    limit=2.5,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    server.setblocking(False)
    at_once = errno_of(server.accept)
    server.setblocking(True)
    limit_waiting(server, 0.06)
    began = now()
    limited = errno_of(server.accept)
    waited = now() - began
    _waiting(kit, server)
    return {
        "non-blocking": at_once,
        "limited": limited,
        "waited": waited >= 0.05,
        "somebody": errno_of(lambda: server.accept()[0].close()),
    }


@behaviour(
    "ACC-05",
    "a client that has closed before it is accepted is accepted all the same, with what it has sent",
    source="measured; FreeBSD tests/sys/kern, unix_stream",
    expected={"accept": "ok", "peer": "c", "recv": ["left", ""], "send": "EPIPE"},
    over=LISTENING,
    notes="Never ECONNABORTED, which POSIX has for it. A server that greets first gets EPIPE, or SIGPIPE.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    client = _waiting(kit, server, kit.path("c"))
    client.send(b"left")
    client.close()
    server.setblocking(False)
    took: list[socket.socket] = []
    said = errno_of(lambda: took.append(kit.close_at_end(server.accept()[0])))
    accepted = took[0]
    accepted.setblocking(False)
    return {
        "accept": said,
        "peer": os.path.basename(accepted.getpeername()),
        "recv": [outcome(accepted.recv, 100) for _ in range(2)],
        "send": errno_of(accepted.send, b"x"),
    }


@behaviour(
    "ACC-06",
    "the accepted socket takes SO_PASSCRED over from its listener, but neither O_NONBLOCK, buffers nor time limits",
    source="accept(2), NOTES; gVisor test/syscalls/linux/socket_unix_cmsg.cc, InheritPasscred; kernel "
    "net/unix/af_unix.c, unix_accept",
    expected={
        "SO_PASSCRED": [1, 1],
        "O_NONBLOCK": [True, False],
        "SO_SNDBUF": [True, False],
        "SO_RCVBUF": [True, False],
        "SO_RCVTIMEO": [True, False],
    },
    over=LISTENING,
    notes="The first of each is the listener's, the second the accepted socket's. BSD hands O_NONBLOCK down.",
)
def _(kit: Kit, type: SocketType) -> object:
    plain = kit.socket(type)
    usual = [plain.getsockopt(socket.SOL_SOCKET, number) for number in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
    server = kit.server(type)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    limit_waiting(server, 1)
    _waiting(kit, server)
    accepted = kit.close_at_end(server.accept()[0])
    server.setblocking(False)
    _waiting(kit, server)
    other = kit.close_at_end(server.accept()[0])

    def option(sock: socket.socket, number: int) -> int:
        return sock.getsockopt(socket.SOL_SOCKET, number)

    def limited(sock: socket.socket) -> bool:
        return any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))

    return {
        "SO_PASSCRED": [option(s, socket.SO_PASSCRED) for s in (server, accepted)],
        "O_NONBLOCK": [not os.get_blocking(s.fileno()) for s in (server, other)],
        "SO_SNDBUF": [option(s, socket.SO_SNDBUF) != usual[0] for s in (server, accepted)],
        "SO_RCVBUF": [option(s, socket.SO_RCVBUF) != usual[1] for s in (server, accepted)],
        "SO_RCVTIMEO": [limited(s) for s in (server, accepted)],
    }


@behaviour(
    "ACC-07",
    "accept with a negative room for the address is EINVAL, and the connection is lost",
    source="gVisor test/syscalls/linux/accept_bind.cc, AcceptNegativeAddrLen; measured",
    expected={"accept": "EINVAL", "client": "", "next": "EAGAIN"},
    over=LISTENING,
    needs=Requirement.CTYPES,
    notes="The kernel has accepted when it comes to the address; it then closes what it has accepted.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    client = _waiting(kit, server)
    client.setblocking(False)
    server.setblocking(False)
    said = errno_of(calls.accept_into, server, 110, -1)
    return {"accept": said, "client": outcome(client.recv, 10), "next": errno_of(server.accept)}


@behaviour(
    "ACC-08",
    "who has connected first is accepted first",
    source="measured; POSIX.1-2017 accept",
    expected=[0, 1, 2, 3, 4, 5],
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type, bind=kit.path(), listen=10)
    for number in (0, 1, 2, 3, 4, 5):
        _waiting(kit, server).send(b"%d" % number)
    return [int(kit.close_at_end(server.accept()[0]).recv(10)) for _ in range(6)]


@behaviour(
    "ACC-09",
    "accept without a free descriptor is EMFILE, and leaves the connection waiting",
    source="accept(2), ERRORS; measured",
    expected={"accept": ["EMFILE", "EMFILE"], "later": "ok", "data": "x"},
    over=LISTENING,
    notes="poll keeps telling of it: a loop that only logs the failure never rests.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    _waiting(kit, server).send(b"x")
    server.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(server.fileno())
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    said = [errno_of(server.accept) for _ in range(2)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    took: list[socket.socket] = []
    later = errno_of(lambda: took.append(kit.close_at_end(server.accept()[0])))
    return {"accept": said, "later": later, "data": "".join(each.recv(10).decode() for each in took)}


@behaviour(
    "ACC-10",
    "accept takes any room for the address, however large it is said to be, and tells the real length",
    source="gVisor test/syscalls/linux/accept_bind.cc, AcceptLargePositiveAddrLen and AcceptVeryLargePositiveAddrLen",
    expected={"110": [3, True], "200": [3, True], "2147483647": [3, True]},
    over=LISTENING,
    needs=Requirement.CTYPES,
    notes="The figures are the length less that of the client's path; beyond the NUL nothing is written.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    seen = {}
    for said in (110, 200, 2**31 - 1):
        path = os.fsencode(kit.path())
        _waiting(kit, server, path)
        accepted, name, length = calls.accept_into(server, 200, said)
        kit.close_at_end(accepted)
        whole = calls.address(path + b"\0").ljust(200, b"\xff")
        seen[str(said)] = [length - len(path), name == whole]
    return seen
