"""LSM: what is forbidden besides: by Landlock, which any process may put itself under, and by filters of calls."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from udslab.atlas import calls
from udslab.atlas.ancillary import receive, send_descriptors
from udslab.atlas.behaviour import TYPES, ByKernel, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, outcome
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

# linux/landlock.h
_MAKE_REGULAR, _MAKE_SOCKET, _RESOLVE_UNIX = 1 << 8, 1 << 9, 1 << 16
_SCOPE_ABSTRACT = 1


def _need_landlock(version: int) -> int:
    """The version that is here. Raises :class:`NotHere` for an older one, or none."""
    here = outcome(calls.landlock_abi)
    if not isinstance(here, int):
        raise NotHere(f"no Landlock ({here})")
    if here < version:
        raise NotHere(f"version {version} of Landlock or newer; this is {here}")
    return here


def _restricted(kit: Kit, function: Callable[[], Any], handled: int = 0, scoped: int = 0) -> Any:
    """What a function gives in a child in a Landlock domain."""

    def inside() -> Any:
        calls.landlock_restrict(handled, scoped)
        return function()

    return kit.in_child(inside)


def _server(kit: Kit, address: Any, type: SocketType) -> None:
    kit.socket(type, bind=address, listen=9 if type.connects else None)


def _reach(kit: Kit, type: SocketType, address: Any) -> str:
    """What connect says; for datagram sockets both connect and sendto, if these differ."""
    connect = errno_of(kit.socket(type).connect, address)
    if type.connects:
        return connect
    sent = errno_of(kit.socket(type).sendto, b"x", address)
    return connect if connect == sent else f"{connect}, {sent}"


@behaviour(
    "LSM-01",
    "under Landlock's scope for abstract names those of sockets outside of the domain say EPERM; paths lead out of it",
    source="landlock(7), Scope flags; kernel selftests landlock/scoped_abstract_unix_test.c",
    expected={
        "without it": ["ok", "ok"],
        "abstract, outside": "EPERM",
        "abstract, in the domain": "ok",
        "path, outside": "ok",
    },
    over=TYPES,
    needs=Requirement.CTYPES,
    since=(6, 12),
    notes="EPERM of connect, where missing rights to a file would be EACCES: a sign of Landlock.",
)
def _(kit: Kit, type: SocketType) -> object:
    _need_landlock(6)
    abstract, path, own = kit.abstract(), kit.path(), kit.abstract()
    _server(kit, abstract, type)
    _server(kit, path, type)
    without = [_reach(kit, type, abstract), _reach(kit, type, path)]

    def inside() -> dict[str, object]:
        _server(kit, own, type)
        return {
            "abstract, outside": _reach(kit, type, abstract),
            "abstract, in the domain": _reach(kit, type, own),
            "path, outside": _reach(kit, type, path),
        }

    return {"without it": without, **_restricted(kit, inside, scoped=_SCOPE_ABSTRACT)}


@behaviour(
    "LSM-02",
    "without Landlock's right to make sockets bind says EACCES at a path; abstract names and connect are free",
    source="landlock(7), Filesystem actions, LANDLOCK_ACCESS_FS_MAKE_SOCK",
    expected={
        "may not make sockets": {"path": "EACCES", "left behind": False, "abstract": "ok", "connect": "ok"},
        "may not make regular files": {"path": "ok", "left behind": True, "abstract": "ok", "connect": "ok"},
    },
    over=TYPES,
    needs=Requirement.CTYPES,
    since=(5, 13),
)
def _(kit: Kit, type: SocketType) -> object:
    _need_landlock(1)
    server = kit.path()
    _server(kit, server, type)

    def inside() -> object:
        path = kit.path(f"own-{os.getpid()}")
        return {
            "path": errno_of(kit.socket(type).bind, path),
            "left behind": os.path.exists(path),
            "abstract": errno_of(kit.socket(type).bind, kit.abstract()),
            "connect": _reach(kit, type, server),
        }

    return {
        "may not make sockets": _restricted(kit, inside, _MAKE_SOCKET),
        "may not make regular files": _restricted(kit, inside, _MAKE_REGULAR),
    }


@behaviour(
    "LSM-03",
    "the kernel tells which version of Landlock it has; 6 is the first with a scope for abstract names",
    source="landlock(7), Versions; landlock_create_ruleset(2)",
    expected=ByKernel(
        {(5, 13): 1, (5, 19): 2, (6, 2): 3, (6, 7): 4, (6, 10): 5, (6, 12): 6, (6, 15): 7, (7, 0): 8, (7, 1): 9}
    ),
    needs=Requirement.CTYPES,
    since=(5, 13),
    notes="Ask for this number, not for the kernel's version: Landlock can be left out or switched off. From 7.0 on as "
    "documented, not measured.",
)
def _(kit: Kit) -> object:
    return _need_landlock(1)


@behaviour(
    "LSM-04",
    "without Landlock's right to resolve sockets connect and sendto say EACCES at a path outside of the domain",
    source="kernel selftests landlock/fs_test.c, scoped_domains; LANDLOCK_ACCESS_FS_RESOLVE_UNIX of version 9",
    expected={"without it": "ok", "path, outside": "EACCES", "path, in the domain": "ok", "abstract, outside": "ok"},
    over=TYPES,
    needs=Requirement.CTYPES,
    since=(7, 1),
    notes="From its source; no kernel at hand has had it.",
)
def _(kit: Kit, type: SocketType) -> object:
    _need_landlock(9)
    abstract, path, own = kit.abstract(), kit.path(), kit.path()
    _server(kit, abstract, type)
    _server(kit, path, type)
    without = _reach(kit, type, path)

    def inside() -> dict[str, object]:
        _server(kit, own, type)
        return {
            "path, outside": _reach(kit, type, path),
            "path, in the domain": _reach(kit, type, own),
            "abstract, outside": _reach(kit, type, abstract),
        }

    return {"without it": without, **_restricted(kit, inside, _RESOLVE_UNIX)}


_CALLS = (
    "socketpair",
    "bind",
    "getsockname",
    "listen",
    "connect",
    "accept",
    "getpeername",
    "setsockopt",
    "getsockopt",
    "send",
    "recv",
    "sendmsg",
    "recvmsg",
    "shutdown",
)


def _expected_calls(type: SocketType) -> dict[str, str]:
    return {call: "ok" for call in _CALLS if type.connects or call not in ("listen", "accept")}


@behaviour(
    "LSM-06",
    "a seccomp filter, as container engines set it, refuses no call on a Unix socket",
    source="seccomp(2); Docker, profiles/seccomp/default.json; measured, no suite covers it",
    expected=_expected_calls,
    over=TYPES,
    needs=Requirement.PROC,
    notes="Containers differ in what capabilities they have. A filter of another kind, RestrictAddressFamilies= of "
    "systemd.exec(5), can refuse the socket itself.",
)
def _(kit: Kit, type: SocketType) -> object:
    with open("/proc/self/status") as file:
        if "Seccomp:\t2\n" not in file:
            raise NotHere("no seccomp filter")
    server, client, path = kit.socket(type), kit.socket(type), kit.path()
    ends = [server]
    seen = {
        "socketpair": errno_of(kit.pair, Pair(Kind.SOCKETPAIR, type)),
        "bind": errno_of(server.bind, path),
        "getsockname": errno_of(server.getsockname),
    }
    if type.connects:
        seen["listen"] = errno_of(server.listen)
    seen["connect"] = errno_of(client.connect, path)
    if type.connects:
        seen["accept"] = errno_of(lambda: ends.append(kit.close_at_end(server.accept()[0])))
    others = {
        "getpeername": client.getpeername,
        "setsockopt": lambda: ends[-1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1),
        "getsockopt": lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12),
        "send": lambda: client.send(b"x"),
        "recv": lambda: ends[-1].recv(1),
        "sendmsg": lambda: send_descriptors(client, client.fileno()),
        "recvmsg": lambda: receive(ends[-1]),
        "shutdown": lambda: client.shutdown(socket.SHUT_RDWR),
    }
    return {**seen, **{name: errno_of(call) for name, call in others.items()}}
