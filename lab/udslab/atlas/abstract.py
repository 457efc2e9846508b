"""ABS: abstract names, and those that the kernel gives."""

from __future__ import annotations

import os
import re
import socket
import threading

from udslab.atlas import calls
from udslab.atlas.behaviour import LISTENING, TYPES, NotHere, behaviour
from udslab.atlas.kit import Kit, errno_of
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

_FAMILY_ALONE = calls.address(b"")


def _marked(kit: Kit, type: SocketType, name: bytes) -> socket.socket:
    """A client that is connected there, by its raw address; it has sent a byte."""
    client = kit.socket(type)
    calls.connect(client, calls.address(name))
    client.send(b"x")
    return client


def _reached(server: socket.socket) -> bool:
    """Whether a client has come to it, or a datagram; without waiting."""
    server.setblocking(False)
    if server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM:
        return errno_of(server.recv, 10) == "ok"
    return errno_of(lambda: server.accept()[0].close()) == "ok"


@behaviour(
    "ABS-01",
    "the length belongs to an abstract name: with zeros at its end it is another name",
    source="unix(7), Address format, abstract; gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, "
    "ShortAddressNotExtended",
    expected={"longer": "ECONNREFUSED", "bind": ["ok", "ok", "ok"], "reached": [False, True, False]},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="C programs that hand over sizeof(struct sockaddr_un) bind a name of 107 bytes that is mostly zeros: others "
    "must do the same to find it.",
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract()
    names = [name, name + b"\0", name.ljust(108, b"\0")]

    def served(each: bytes) -> tuple[socket.socket, str]:
        server = kit.socket(type)
        said = errno_of(calls.bind, server, calls.address(each))
        if type.connects:
            errno_of(server.listen, 5)
        return server, said

    servers = [served(names[0])]
    longer = errno_of(calls.connect, kit.socket(type), calls.address(names[1]))
    servers += map(served, names[1:])
    _marked(kit, type, names[1])
    return {
        "longer": longer,
        "bind": [said for _, said in servers],
        "reached": [_reached(server) for server, _ in servers],
    }


@behaviour(
    "ABS-02",
    "getsockname and getpeername tell an abstract name's very bytes, neither padded nor ended",
    source="unix(7), Address format; CPython Lib/test/test_socket.py, TestLinuxAbstractNamespace",
    expected={"bytes": [True, True], "length": [True, True], "Python": True},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="Python gives bytes for them, and str for paths.",
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract() + b"\0\n/\xff\xfe\0"
    server = kit.server(type, name)
    client = kit.socket(type)
    client.connect(name)
    told = [calls.getsockname(server), calls.getpeername(client)]
    return {
        "bytes": [seen[: 2 + len(name)] == calls.address(name) for seen, _ in told],
        "length": [length == 2 + len(name) for _, length in told],
        "Python": server.getsockname() == name,
    }


@behaviour(
    "ABS-03",
    "an abstract name is taken for its type alone: EADDRINUSE for the same, for others free",
    source="kernel net/unix/af_unix.c, unix_abstract_hash; measured",
    expected=lambda bound: {str(type): "EADDRINUSE" if type is bound else "ok" for type in TYPES},
    over=TYPES,
    notes="The variant is the type that has the name, the keys those that want it.",
)
def _(kit: Kit, bound: SocketType) -> object:
    name = kit.abstract()
    kit.socket(bound, bind=name)
    return {str(type): errno_of(kit.socket(type).bind, name) for type in TYPES}


@behaviour(
    "ABS-04",
    "an abstract name is free when its socket has been closed, by its process's end as well",
    source="unix(7), Address format",
    expected={"taken": "EADDRINUSE", "closed": "ok", "ended": "ok", "connect": "ECONNREFUSED"},
    over=TYPES,
    notes="So there are no stale names; a descriptor that a child has inherited keeps it, though.",
)
def _(kit: Kit, type: SocketType) -> object:
    name, other = kit.abstract(), kit.abstract()
    sock = kit.server(type, name)
    taken = errno_of(kit.socket(type).bind, name)
    sock.close()
    connect = errno_of(kit.socket(type).connect, name)
    closed = errno_of(kit.socket(type).bind, name)
    kit.in_child(lambda: kit.socket(type).bind(other))
    return {"taken": taken, "closed": closed, "ended": errno_of(kit.socket(type).bind, other), "connect": connect}


@behaviour(
    "ABS-05",
    "accepted sockets do not keep their listener's abstract name, though they tell it",
    source="measured; kernel net/unix/af_unix.c, unix_stream_connect",
    expected={"while it listens": "EADDRINUSE", "bind": "ok", "name": True, "data": "x", "new": True},
    over=LISTENING,
    notes="Two services may so seem to have one name: who asks a connected peer for it does not learn who has it now.",
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract()
    first = kit.server(type, name)
    client = kit.socket(type)
    client.connect(name)
    accepted = kit.close_at_end(first.accept()[0])
    taken = errno_of(kit.socket(type).bind, name)
    first.close()
    second = kit.socket(type)
    bound = errno_of(second.bind, name)
    second.listen(5)
    client.send(b"x")
    _marked(kit, type, name)
    return {
        "while it listens": taken,
        "bind": bound,
        "name": accepted.getsockname() == second.getsockname() == name,
        "data": accepted.recv(10).decode(),
        "new": _reached(second),
    }


@behaviour(
    "ABS-06",
    "an abstract name has 107 bytes at the most, after its zero; one more is EINVAL",
    source="unix(7), Address format; CPython Lib/test/test_socket.py, TestLinuxAbstractNamespace.testMaxName and "
    "testNameOverflow",
    expected={"107": ["ok", "ok"], "108": ["EINVAL", "EINVAL"]},
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    seen = {}
    for length in (107, 108):
        name = calls.address(kit.abstract().ljust(1 + length, b"x"))
        server = kit.socket(type)
        bound = errno_of(calls.bind, server, name)
        if type.connects:
            errno_of(server.listen)
        seen[str(length)] = [bound, errno_of(calls.connect, kit.socket(type), name)]
    return seen


def _automatic(name: object) -> bool:
    return isinstance(name, bytes) and re.fullmatch(rb"\0[0-9a-f]{5}", name) is not None


@behaviour(
    "ABS-07",
    "bind to the family alone takes a free abstract name of five hexadecimal digits",
    source="unix(7), Autobind feature; gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, AutoBindSuccess",
    expected={"before": 2, "bind": "ok", "length": 8, "digits": True, "connect": "ok"},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="There are 1,048,576 of them for each type and network namespace. Python's bind('') is this, too.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type)
    before = calls.getsockname(server)[1]
    bound = errno_of(calls.bind, server, _FAMILY_ALONE)
    if type.connects:
        server.listen(5)
    name = server.getsockname()
    return {
        "before": before,
        "bind": bound,
        "length": calls.getsockname(server)[1],
        "digits": _automatic(name),
        "connect": errno_of(kit.socket(type).connect, name),
    }


@behaviour(
    "ABS-08",
    "a second automatic bind is no error, and keeps the name",
    source="kernel net/unix/af_unix.c, unix_autobind; measured",
    expected={"again": "ok", "same": True, "other name": "EINVAL"},
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    calls.bind(sock, _FAMILY_ALONE)
    name = sock.getsockname()
    return {
        "again": errno_of(calls.bind, sock, _FAMILY_ALONE),
        "same": sock.getsockname() == name,
        "other name": errno_of(sock.bind, kit.abstract()),
    }


@behaviour(
    "ABS-09",
    "an automatic bind of a socket that has a name is no error, and changes nothing",
    source="kernel net/unix/af_unix.c, unix_autobind; measured",
    expected={"pathname": ["ok", True], "abstract": ["ok", True]},
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    seen = {}
    for kind, name in (("pathname", kit.path()), ("abstract", kit.abstract())):
        sock = kit.socket(type, bind=name)
        seen[kind] = [errno_of(calls.bind, sock, _FAMILY_ALONE), sock.getsockname() == name]
    return seen


@behaviour(
    "ABS-10",
    "SO_PASSCRED gives an unnamed socket an automatic name: not when it is set, but at connect or the first datagram",
    source="kernel net/unix/af_unix.c, unix_may_passcred and its callers; measured",
    expected=lambda each: {
        "set": False,
        "connect": True,
        "send": None if each.connects else True,
        "without": [False, None if each.connects else False],
    },
    over=TYPES,
    notes="unix(7) says that the option does it. Whoever logs peers by name sees five digits for such clients.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.server(type).getsockname()

    def measured(passcred: int) -> list[object]:
        first, second = kit.socket(type), kit.socket(type)
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, passcred)
        given = _automatic(first.getsockname())
        first.connect(path)
        if not type.connects:
            second.sendto(b"x", path)
        return [given, _automatic(first.getsockname()), None if type.connects else _automatic(second.getsockname())]

    given, connect, send = measured(1)
    return {"set": given, "connect": connect, "send": send, "without": measured(0)[1:]}


@behaviour(
    "ABS-11",
    "one zero byte is an abstract name, and so is a sun_path of nothing but zeros: another one",
    source="unix(7), Address format; gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, BindNothing; measured",
    expected={"1": ["ok", "EADDRINUSE", 3], "108": ["ok", "EADDRINUSE", 110], "reached": [True, False]},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="What an empty path becomes in a program that counts a NUL into the length: two such programs meet.",
)
def _(kit: Kit, type: SocketType) -> object:
    seen: dict[str, object] = {}
    servers = []
    for length in (1, 108):
        name = calls.address(b"\0" * length)
        servers.append(server := kit.socket(type))
        bound = errno_of(calls.bind, server, name)
        if bound == "EADDRINUSE":
            raise NotHere("somebody else has a name of zeros")
        again = errno_of(calls.bind, kit.socket(type), name)
        if type.connects:
            server.listen(5)
        seen[str(length)] = [bound, again, calls.getsockname(server)[1]]
    _marked(kit, type, b"\0")
    return {**seen, "reached": [_reached(server) for server in servers]}


@behaviour(
    "ABS-12",
    "to an abstract name that nobody has connect is ECONNREFUSED, never ENOENT, and so is sendto",
    source="unix(7), ERRORS; gVisor test/syscalls/linux/accept_bind.cc, ConnectToInvalidAbstractPath",
    expected=lambda each: {"connect": "ECONNREFUSED", "sendto": None if each.connects else "ECONNREFUSED"},
    over=TYPES,
    notes="Who retries on ENOENT until the server is there has to retry on this, too.",
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract()
    return {
        "connect": errno_of(kit.socket(type).connect, name),
        "sendto": None if type.connects else errno_of(kit.socket(type).sendto, b"x", name),
    }


@behaviour(
    "ABS-13",
    "abstract names know no permissions: umask, fchmod and user keep nobody out",
    source="unix(7), Abstract sockets",
    expected={"abstract": "ok", "pathname": "EACCES"},
    over=TYPES,
    needs=Requirement.OTHER_USER,
    notes="Both were bound by root with a umask of 0777 and fchmod to 0. Ask for credentials, or use a path.",
)
def _(kit: Kit, type: SocketType) -> object:
    os.umask(0o777)
    names: dict[str, str | bytes] = {"abstract": kit.abstract(), "pathname": kit.path()}
    for name in names.values():
        server = kit.socket(type)
        os.fchmod(server.fileno(), 0)
        server.bind(name)
        if type.connects:
            server.listen(5)
    return kit.as_other_user(lambda: {kind: errno_of(kit.socket(type).connect, name) for kind, name in names.items()})


@behaviour(
    "ABS-14",
    "a path and an abstract name of the same bytes are two names",
    source="measured; unix(7), Address format",
    expected={"bind": ["ok", "ok"], "by path": [True, False], "by name": [False, True]},
    over=TYPES,
    notes="Programs print the zero as @: what '@/run/x' and '/run/x' mean is then not the same.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    name = b"\0" + os.fsencode(path)
    servers = [kit.socket(type), kit.socket(type)]
    bind = [errno_of(servers[0].bind, path), errno_of(servers[1].bind, name)]
    for server in servers:
        if type.connects:
            server.listen(5)
    seen: dict[str, object] = {"bind": bind}
    for what, address in (("by path", path), ("by name", name)):
        client = kit.socket(type)
        client.connect(address)
        client.send(b"x")
        seen[what] = [_reached(server) for server in servers]
    return seen


@behaviour(
    "ABS-15",
    "/proc/net/unix prints each zero of an abstract name as @",
    source="unix(7); proc(5), /proc/net/unix; gVisor test/syscalls/linux/proc_net_unix.cc, AbstractBindAcceptConnect",
    expected={"name": ["@NAME@middle@"], "a real @": ["@NAME2@"]},
    over=TYPES,
    needs=Requirement.PROC,
    notes="So a zero and a real @ look the same there, and a name of full length with zeros has many of them.",
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract()
    kit.server(type, name + b"\0middle\0")
    kit.server(type, name + b"2@")
    try:
        with open("/proc/net/unix", "rb") as file:
            listed = [line.split(b" ")[-1].rstrip(b"\n") for line in file]
    except OSError:
        raise NotHere("no /proc/net/unix") from None
    own = [each.replace(name[1:], b"NAME").decode() for each in listed if name[1:] in each]
    return {
        "name": [each for each in own if not each.startswith("@NAME2")],
        "a real @": [each for each in own if each.startswith("@NAME2")],
    }


@behaviour(
    "ABS-16",
    "slashes and dots mean nothing in an abstract name",
    source="gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, TrailingSlash; measured",
    expected={"bind": ["ok", "ok", "ok", "ok", "ok"], "reached": [False, False, True, False, False]},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    name = kit.abstract()
    names = [name + end for end in (b"/a", b"/a/", b"//a", b"/./a", b"/b/../a")]
    servers, bind = [], []
    for each in names:
        servers.append(server := kit.socket(type))
        bind.append(errno_of(server.bind, each))
        if type.connects:
            errno_of(server.listen, 5)
    _marked(kit, type, names[2])
    return {"bind": bind, "reached": [_reached(server) for server in servers]}


@behaviour(
    "ABS-17",
    "automatic names do not collide, and are taken as any other: EADDRINUSE",
    source="gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, AutoBindAddrInUse; measured",
    expected={"names": 400, "automatic": True, "taken": "EADDRINUSE"},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="Four threads of a hundred sockets. The search starts at random, so that a name is seldom used again soon.",
)
def _(kit: Kit, type: SocketType) -> object:
    socks = [kit.socket(type) for _ in range(400)]

    def bind(some: list[socket.socket]) -> None:
        for sock in some:
            calls.bind(sock, _FAMILY_ALONE)

    threads = [threading.Thread(target=bind, args=[socks[start::4]]) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {sock.getsockname() for sock in socks}
    return {
        "names": len(names),
        "automatic": all(map(_automatic, names)),
        "taken": errno_of(kit.socket(type).bind, socks[0].getsockname()),
    }
