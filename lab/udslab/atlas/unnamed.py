"""UNN: sockets without a name, and socketpair."""

from __future__ import annotations

import os
import socket

from udslab.atlas import calls
from udslab.atlas.behaviour import CONNECTED, LISTENING, TYPES, Kind, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, outcome
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType
from udslab.support import fcntl

__all__: list[str] = []

_UNKNOWN_FAMILY = 99
_RDM = 4


@behaviour(
    "UNN-01",
    "a socket that was never bound, and each end of a socketpair, has an address of 2 bytes: the family alone",
    source="unix(7), Address format; gVisor test/syscalls/linux/bind.cc, GetLocalAddrWithoutBind; CPython "
    "Lib/test/test_socket.py, BasicSocketPairTest",
    expected={"fresh": [2, True, ""], "end": [2, True, ""], "end's peer": [2, True, ""], "bound": False},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="Nothing is written beyond the family; Python tells it as the empty str.",
)
def _(kit: Kit, type: SocketType) -> object:
    def told(sock: socket.socket) -> object:
        name, length = calls.getsockname(sock)
        return [length, name == calls.address(b"").ljust(128, b"\xff"), sock.getsockname()]

    end, _ = kit.pair(Pair(Kind.SOCKETPAIR, type))
    name, length = calls.getpeername(end)
    return {
        "fresh": told(kit.socket(type)),
        "end": told(end),
        "end's peer": [length, name == calls.address(b"").ljust(128, b"\xff"), end.getpeername()],
        "bound": calls.getsockname(kit.socket(type, bind=kit.path()))[1] == 2,
    }


@behaviour(
    "UNN-02",
    "getpeername of a socket that is not connected is ENOTCONN",
    source="getpeername(2), ERRORS; gVisor test/syscalls/linux/bind.cc, GetRemoteAddressWithoutConnect; Linux Test "
    "Project testcases/kernel/syscalls/getpeername/getpeername01.c",
    expected={"fresh": "ENOTCONN", "bound": "ENOTCONN", "refused": "ENOTCONN", "connected": "ok"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    refused = kit.socket(type)
    errno_of(refused.connect, kit.path("missing"))
    return {
        "fresh": errno_of(kit.socket(type).getpeername),
        "bound": errno_of(kit.socket(type, bind=kit.path()).getpeername),
        "refused": errno_of(refused.getpeername),
        "connected": errno_of(kit.pair(Pair(Kind.PATHNAME, type))[0].getpeername),
    }


@behaviour(
    "UNN-03",
    "getpeername tells the peer's name still when that has closed",
    source="measured; kernel net/unix/af_unix.c, unix_getname",
    expected=lambda pair: {
        "before": "unnamed" if pair.kind is Kind.SOCKETPAIR else "named",
        "same": True,
        "at its end": "",
    },
    over=CONNECTED,
    notes="That there is a peer's name says nothing of its life.",
)
def _(kit: Kit, pair: Pair) -> object:
    client, accepted = kit.pair(pair)
    before = client.getpeername()
    accepted.close()
    return {
        "before": "named" if before else "unnamed",
        "same": outcome(client.getpeername) == (before.decode("latin-1") if isinstance(before, bytes) else before),
        "at its end": outcome(client.recv, 10),
    }


@behaviour(
    "UNN-04",
    "SOCK_NONBLOCK and SOCK_CLOEXEC, added to a type, set these flags; Python always adds the latter",
    source="socket(2); socketpair(2); Linux Test Project testcases/kernel/syscalls/socketpair/socketpair02.c; PEP 446",
    expected={
        "plain": ["blocking", "inherited"],
        "SOCK_NONBLOCK": ["EAGAIN", "inherited"],
        "SOCK_CLOEXEC": ["blocking", "closed"],
        "both": ["EAGAIN", "closed"],
        "Python": ["blocking", "closed"],
        "Python non-blocking": ["EAGAIN", "closed"],
    },
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    def told(fd: int) -> object:
        closed = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        waits = os.get_blocking(fd)
        return ["blocking" if waits else errno_of(os.read, fd, 1), "closed" if closed else "inherited"]

    def pair(flags: int) -> object:
        one, other = calls.socketpair(socket.AF_UNIX, type.constant | flags)
        kit.at_end(os.close, one)
        kit.at_end(os.close, other)
        return told(one)

    ends = socket.socketpair(socket.AF_UNIX, type.constant | socket.SOCK_NONBLOCK)
    for end in ends:
        kit.close_at_end(end)
    return {
        "plain": pair(0),
        "SOCK_NONBLOCK": pair(socket.SOCK_NONBLOCK),
        "SOCK_CLOEXEC": pair(socket.SOCK_CLOEXEC),
        "both": pair(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC),
        "Python": told(kit.socket(type).fileno()),
        "Python non-blocking": told(ends[0].fileno()),
    }


@behaviour(
    "UNN-05",
    "getpeername of a listener is ENOTCONN, also while somebody waits to be accepted",
    source="getpeername(2), ERRORS; measured",
    expected={"alone": "ENOTCONN", "somebody waits": "ENOTCONN", "somebody accepted": "ENOTCONN"},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    seen = {"alone": errno_of(server.getpeername)}
    kit.socket(type).connect(server.getsockname())
    seen["somebody waits"] = errno_of(server.getpeername)
    kit.close_at_end(server.accept()[0])
    return {**seen, "somebody accepted": errno_of(server.getpeername)}


@behaviour(
    "UNN-06",
    "socketpair refuses an unknown family, families without pairs, unknown types and protocols, and bad pointers",
    source="socketpair(2), ERRORS; Linux Test Project testcases/kernel/syscalls/socketpair/socketpair01.c; gVisor "
    "test/syscalls/linux/socket.cc, UnixSocketPairProtocol",
    expected={
        "family 99": "EAFNOSUPPORT",
        "AF_INET": "EOPNOTSUPP",
        "type 999": "EINVAL",
        "SOCK_RDM": "ESOCKTNOSUPPORT",
        "protocol 1": "ok",
        "protocol 2": "EPROTONOSUPPORT",
        "pointer": "EFAULT",
        "descriptors left": 0,
    },
    needs=(Requirement.CTYPES, Requirement.PROC),
)
def _(kit: Kit) -> object:
    before = len(os.listdir("/proc/self/fd"))

    def pair(domain: int, type: int, protocol: int = 0, pointer: int = 0) -> str:
        def made() -> None:
            for fd in calls.socketpair(domain, type, protocol, pointer):
                os.close(fd)

        return errno_of(made)

    seen: dict[str, object] = {
        "family 99": pair(_UNKNOWN_FAMILY, socket.SOCK_STREAM),
        "AF_INET": pair(socket.AF_INET, socket.SOCK_STREAM),
        "type 999": pair(socket.AF_UNIX, 999),
        "SOCK_RDM": pair(socket.AF_UNIX, _RDM),
        "protocol 1": pair(socket.AF_UNIX, socket.SOCK_STREAM, 1),
        "protocol 2": pair(socket.AF_UNIX, socket.SOCK_STREAM, 2),
        "pointer": pair(socket.AF_UNIX, socket.SOCK_STREAM, 0, calls.BAD_POINTER),
    }
    return {**seen, "descriptors left": len(os.listdir("/proc/self/fd")) - before}
