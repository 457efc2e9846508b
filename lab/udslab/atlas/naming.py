"""NAM: naming, and what fits in sun_path."""

from __future__ import annotations

import os
import socket
import stat

from udslab.atlas import calls
from udslab.atlas.behaviour import LISTENING, TYPES, behaviour
from udslab.atlas.kit import Kit, errno_of
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

_RDM = 4
_DCCP = 6
_BEYOND = 11  # SOCK_MAX


def _long_path(kit: Kit, length: int) -> bytes:
    """A path in the directory of exactly so many bytes."""
    return os.fsencode(kit.directory) + b"/" + b"x" * (length - len(os.fsencode(kit.directory)) - 1)


@behaviour(
    "NAM-01",
    "a path of 107 bytes can be bound, and getsockname tells all of it",
    source="unix(7), Address format",
    expected={"bind": "ok", "length": 107},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    path = os.path.join(kit.directory, "x" * (107 - len(kit.directory) - 1))
    return {"bind": errno_of(sock.bind, path), "length": len(sock.getsockname())}


@behaviour(
    "NAM-02",
    "a path may fill all 108 bytes of sun_path without a NUL; getsockname then tells a length of 111",
    source="unix(7), BUGS; kernel net/unix/af_unix.c, unix_mkname_bsd",
    expected={"bind": "ok", "length": 111, "name": True, "file": True, "connect": "ok"},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="The length counts a NUL that the kernel adds: one more than sizeof(struct sockaddr_un). Who reads the name "
    "needs a larger buffer, or the length, to find its end; portable paths stay below 104 bytes.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = _long_path(kit, 108)
    sock = kit.socket(type)
    bound = errno_of(calls.bind, sock, calls.address(path))
    if type.connects:
        sock.listen()
    name, length = calls.getsockname(sock)
    return {
        "bind": bound,
        "length": length,
        "name": name[2:length] == path + b"\0",
        "file": os.path.exists(path),
        "connect": errno_of(calls.connect, kit.socket(type), calls.address(path)),
    }


@behaviour(
    "NAM-03",
    "an address longer than 110 bytes is EINVAL, even if only a NUL is too much",
    source="kernel net/unix/af_unix.c, unix_validate_addr; gVisor test/syscalls/linux/bind.cc, BindTooLong",
    expected={"109 bytes": ["EINVAL", "EINVAL"], "108 and NUL": ["EINVAL", "EINVAL"], "file": False},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="Python refuses such a path before the kernel sees it.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = _long_path(kit, 108)
    seen: dict[str, object] = {}
    for what, end in (("109 bytes", b"x"), ("108 and NUL", b"\0")):
        name = calls.address(path + end)
        seen[what] = [errno_of(calls.bind, kit.socket(type), name), errno_of(calls.connect, kit.socket(type), name)]
    return {**seen, "file": bool(os.listdir(kit.directory))}


@behaviour(
    "NAM-04",
    "bind and connect with the address of another family are EINVAL",
    source="unix(7), ERRORS; gVisor test/syscalls/linux/socket_unix.cc, BindToBadFamily",
    expected={"AF_INET": ["EINVAL", "EINVAL"], "AF_INET6": ["EINVAL", "EINVAL"], "AF_UNSPEC": "EINVAL"},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="POSIX has EAFNOSUPPORT for it. To connect to AF_UNSPEC is something else: it disconnects.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type, kit.path())
    there = os.fsencode(server.getsockname())

    def both(family: int) -> list[str]:
        free = calls.address(os.fsencode(kit.path()), family)
        taken = calls.address(there, family)
        return [errno_of(calls.bind, kit.socket(type), free), errno_of(calls.connect, kit.socket(type), taken)]

    return {
        "AF_INET": both(socket.AF_INET),
        "AF_INET6": both(socket.AF_INET6),
        "AF_UNSPEC": both(socket.AF_UNSPEC)[0],
    }


@behaviour(
    "NAM-05",
    "an address too short for its family is EINVAL; for connect also the family alone",
    source="kernel net/unix/af_unix.c, unix_validate_addr",
    expected={"bind": ["EINVAL", "EINVAL", "EINVAL"], "connect": ["EINVAL", "EINVAL", "EINVAL", "EINVAL"]},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="Lengths -1, 0, 1, and 2 for connect. To bind to the family alone takes an automatic name.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type, kit.path())
    name = calls.address(os.fsencode(kit.path()))
    there = calls.address(os.fsencode(server.getsockname()))
    return {
        "bind": [errno_of(calls.bind, kit.socket(type), name, length) for length in (-1, 0, 1)],
        "connect": [errno_of(calls.connect, kit.socket(type), there, length) for length in (-1, 0, 1, 2)],
    }


@behaviour(
    "NAM-06",
    "what follows the first NUL of a path is ignored",
    source="unix(7), Address format; gVisor test/syscalls/linux/socket_unix_unbound_filesystem.cc, AddressAfterNull",
    expected={"bind": "ok", "again": "EADDRINUSE", "connect": "ok", "told": True, "listing": ["name"]},
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = os.fsencode(kit.path("name"))
    sock = kit.socket(type)
    bound = errno_of(calls.bind, sock, calls.address(path + b"\0one"))
    if type.connects:
        sock.listen()
    name, length = calls.getsockname(sock)
    return {
        "bind": bound,
        "again": errno_of(calls.bind, kit.socket(type), calls.address(path + b"\0two")),
        "connect": errno_of(calls.connect, kit.socket(type), calls.address(path + b"\0three")),
        "told": name[2:length] == path + b"\0",
        "listing": os.listdir(kit.directory),
    }


@behaviour(
    "NAM-07",
    "getsockname tells the path and one NUL, however long the address was that was bound",
    source="unix(7), Address format; gVisor test/syscalls/linux/socket_unix_unbound_filesystem.cc, GetSockNameLength",
    expected={"without NUL": 3, "with NUL": 3, "all of sun_path": 3},
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="The figures are the length less that of the path: 2 for the family, 1 for the NUL.",
)
def _(kit: Kit, type: SocketType) -> object:
    seen = {}
    for what, room in (("without NUL", 0), ("with NUL", 1), ("all of sun_path", 108)):
        path = os.fsencode(kit.path())
        sock = kit.socket(type)
        calls.bind(sock, calls.address(path), 110 if room == 108 else 2 + len(path) + room)
        seen[what] = calls.getsockname(sock)[1] - len(path)
    return seen


@behaviour(
    "NAM-08",
    "a relative path is kept as it was bound: after chdir it names something else, or nothing",
    source="measured; no suite covers it",
    expected={"bound": "s", "after": "s", "by it": "ENOENT", "by path": "ok", "peer": "s"},
    over=TYPES,
    notes="Who removes its own socket by what getsockname tells has to be where it was bound.",
)
def _(kit: Kit, type: SocketType) -> object:
    os.chdir(kit.directory)
    os.mkdir("elsewhere")
    server = kit.server(type, "s")
    bound = server.getsockname()
    os.chdir("elsewhere")
    client = kit.socket(type)
    seen = {
        "bound": bound,
        "after": server.getsockname(),
        "by it": errno_of(client.connect, "s"),
        "by path": errno_of(client.connect, "../s"),
        "peer": client.getpeername(),
    }
    os.chdir("/")
    return seen


@behaviour(
    "NAM-09",
    "a socket in a directory whose path is too long is bound and reached through a symbolic link to it, or its "
    "descriptor in /proc",
    source="measured; path_resolution(7); proc(5), /proc/pid/fd",
    expected={
        "directly": "EINVAL",
        "link": ["ok", "ok"],
        "/proc": ["ok", "ok"],
        "crossed": "ok",
        "listing": ["a", "b"],
    },
    over=TYPES,
    needs=(Requirement.PROC, Requirement.CTYPES),
    notes="getsockname tells the short path as it was used: through /proc/self/fd it says nothing to others, and "
    "something else when the descriptor's number has been used again.",
)
def _(kit: Kit, type: SocketType) -> object:
    deep = os.path.join(kit.directory, "d" * 120)
    os.mkdir(deep)
    link = kit.path("link")
    os.symlink(deep, link)
    fd = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    kit.at_end(os.close, fd)
    proc = f"/proc/self/fd/{fd}"

    def bound_and_reached(path: str) -> list[str]:
        sock = kit.socket(type)
        bound = errno_of(sock.bind, path)
        if type.connects:
            sock.listen()
        return [bound, errno_of(kit.socket(type).connect, path)]

    return {
        "directly": errno_of(calls.bind, kit.socket(type), calls.address(os.fsencode(deep) + b"/s")),
        "link": bound_and_reached(f"{link}/a"),
        "/proc": bound_and_reached(f"{proc}/b"),
        "crossed": errno_of(kit.socket(type).connect, f"{proc}/a"),
        "listing": sorted(os.listdir(deep)),
    }


@behaviour(
    "NAM-10",
    "a path that ends in a slash cannot be bound: ENOENT",
    source="measured; kernel fs/namei.c, filename_create",
    expected={"nothing there": "ENOENT", "a socket there": "EADDRINUSE", "connect": "ENOTDIR", "listing": ["here"]},
    over=TYPES,
    notes="The kernel makes no node but a directory with such a name. A socket that is there is no directory, which "
    "connect says.",
)
def _(kit: Kit, type: SocketType) -> object:
    kit.server(type, kit.path("here"))
    return {
        "nothing there": errno_of(kit.socket(type).bind, kit.path("new") + "/"),
        "a socket there": errno_of(kit.socket(type).bind, kit.path("here") + "/"),
        "connect": errno_of(kit.socket(type).connect, kit.path("here") + "/"),
        "listing": os.listdir(kit.directory),
    }


@behaviour(
    "NAM-11",
    "bind to a directory, by whatever name, is EADDRINUSE",
    source="POSIX.1-2017 bind, ERRORS (which has EISDIR, too); measured",
    expected=dict.fromkeys(("name", "name/", ".", "..", "/"), "EADDRINUSE"),
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path("name")
    os.mkdir(path)
    names = {"name": path, "name/": path + "/", ".": path + "/.", "..": path + "/..", "/": "/"}
    return {what: errno_of(kit.socket(type).bind, name) for what, name in names.items()}


@behaviour(
    "NAM-12",
    "bind and connect below a regular file are ENOTDIR, below a socket as well",
    source="POSIX.1-2017 bind and connect; Linux Test Project testcases/kernel/syscalls/bind/bind01.c",
    expected={"file": ["ENOTDIR", "ENOTDIR"], "socket": ["ENOTDIR", "ENOTDIR"]},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    file, sock = kit.path("file"), kit.path("sock")
    with open(file, "w"):
        kit.server(type, sock)
    return {
        what: [errno_of(kit.socket(type).bind, path + "/s"), errno_of(kit.socket(type).connect, path + "/s")]
        for what, path in (("file", file), ("socket", sock))
    }


@behaviour(
    "NAM-13",
    "bind and connect say ENOENT where the directory is not there",
    source="bind(2), ERRORS; POSIX.1-2017 bind",
    expected=["ENOENT", "ENOENT"],
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = os.path.join(kit.directory, "missing", "s")
    return [errno_of(kit.socket(type).bind, path), errno_of(kit.socket(type).connect, path)]


@behaviour(
    "NAM-14",
    "a loop of symbolic links on the way is ELOOP; one in the last place is ELOOP for connect, EADDRINUSE for bind",
    source="POSIX.1-2017 bind and connect, ERRORS",
    expected={"on the way": ["ELOOP", "ELOOP"], "last": ["EADDRINUSE", "ELOOP"]},
    over=TYPES,
    notes="bind never follows a link in the last place: that name is taken.",
)
def _(kit: Kit, type: SocketType) -> object:
    loop = kit.path("loop")
    os.symlink("loop", loop)
    return {
        what: [errno_of(kit.socket(type).bind, path), errno_of(kit.socket(type).connect, path)]
        for what, path in (("on the way", loop + "/s"), ("last", loop))
    }


@behaviour(
    "NAM-15",
    "into a buffer too short for it an address is cut off, and its true length told",
    source="accept(2); getsockname(2); unix(7); "
    "gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, GetSockNamePartialLength",
    expected={
        f"{call}, {room}": {"told": True, "start": True, "beyond": True}
        for room in (0, 1, 9)
        for call in ("accept", "getsockname", "getpeername")
    },
    over=LISTENING,
    needs=Requirement.CTYPES,
    notes="No call fails: compare the length with what was given. Each was given 9 more bytes than it was told of.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type, bind=kit.path(), listen=5)
    there = calls.address(os.fsencode(server.getsockname()) + b"\0")
    seen = {}
    for room in (0, 1, 9):
        client = kit.socket(type, bind=kit.path())
        here = calls.address(os.fsencode(client.getsockname()) + b"\0")
        client.connect(server.getsockname())
        accepted, name, length = calls.accept_into(server, room + 9, room)
        kit.close_at_end(accepted)
        told = {"accept": (here, name, length)}
        told["getsockname"] = (here, *calls.getsockname(client, room + 9, room))
        told["getpeername"] = (there, *calls.getpeername(client, room + 9, room))
        for call, (wanted, name, length) in told.items():
            seen[f"{call}, {room}"] = {
                "told": length == len(wanted),
                "start": name[:room] == wanted[:room],
                "beyond": name[room:] == b"\xff" * 9,
            }
    return seen


@behaviour(
    "NAM-16",
    "any byte but NUL and the slash may stand in a name, and comes back as it was",
    source="unix(7), Address format; CPython Lib/test/test_socket.py, TestUnixDomain.testSurrogateescapeBind",
    expected={"bound": 254, "told": 254, "listed": 254},
    notes="Python gives a path as str, bytes that are not UTF-8 as surrogates: os.fsencode gives the bytes back. "
    "Some file systems take less.",
)
def _(kit: Kit) -> object:
    names = [b"x" + bytes([byte]) for byte in range(256) if byte not in b"\0/"]
    directory = os.fsencode(kit.directory) + b"/"
    bound = told = 0
    for name in names:
        with socket.socket(socket.AF_UNIX) as sock:
            bound += errno_of(sock.bind, directory + name) == "ok"
            told += os.fsencode(sock.getsockname()) == directory + name
    return {"bound": bound, "told": told, "listed": len(set(names) & set(os.listdir(directory)))}


@behaviour(
    "NAM-17",
    "bind to a dangling symbolic link is EADDRINUSE, and makes nothing at its target",
    source="POSIX.1-2017 bind, ERRORS (EADDRINUSE for a symbolic link); measured",
    expected={"bind": "EADDRINUSE", "connect": "ENOENT", "listing": ["link"]},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    os.symlink("target", kit.path("link"))
    return {
        "bind": errno_of(kit.socket(type).bind, kit.path("link")),
        "connect": errno_of(kit.socket(type).connect, kit.path("link")),
        "listing": os.listdir(kit.directory),
    }


@behaviour(
    "NAM-18",
    "connect follows symbolic links; getpeername tells the name that was bound",
    source="measured; path_resolution(7)",
    expected={"connect": "ok", "peer": True, "is a link": True},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type, kit.path("bound"))
    os.symlink("bound", kit.path("link"))
    client = kit.socket(type)
    return {
        "connect": errno_of(client.connect, kit.path("link")),
        "peer": client.getpeername() == server.getsockname(),
        "is a link": stat.S_ISLNK(os.lstat(kit.path("link")).st_mode),
    }


@behaviour(
    "NAM-19",
    "SOCK_RAW gives a datagram socket; other types, and protocols but 0 and 1, are refused",
    source="kernel net/unix/af_unix.c, unix_create; gVisor test/syscalls/linux/socket.cc, UnixSocketPairProtocol; "
    "Linux Test Project testcases/kernel/syscalls/socketpair/socketpair01.c",
    expected={
        "raw": "dgram",
        "datagram": "to a raw one",
        "types": ["ESOCKTNOSUPPORT", "ESOCKTNOSUPPORT", "EINVAL"],
        "protocols": ["ok", "ok", "EPROTONOSUPPORT", "EPROTONOSUPPORT"],
    },
    notes="The types are SOCK_RDM, SOCK_DCCP and the first that nothing has; the protocols 0, 1 (PF_UNIX), 2 and 17.",
)
def _(kit: Kit) -> object:
    raw = kit.close_at_end(socket.socket(socket.AF_UNIX, socket.SOCK_RAW))
    raw.bind(kit.path("raw"))
    kit.socket(SocketType.DGRAM).sendto(b"to a raw one", kit.path("raw"))

    def made(type: int, protocol: int = 0) -> str:
        return errno_of(lambda: socket.socket(socket.AF_UNIX, type, protocol).close())

    return {
        "raw": str(SocketType.of(raw.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))),
        "datagram": raw.recv(100).decode(),
        "types": [made(_RDM), made(_DCCP), made(_BEYOND)],
        "protocols": [made(socket.SOCK_STREAM, protocol) for protocol in (0, 1, 2, 17)],
    }


@behaviour(
    "NAM-20",
    "a pointer to nowhere instead of an address is EFAULT",
    source="bind(2), connect(2) and getsockname(2), ERRORS",
    expected=dict.fromkeys(("bind", "connect", "getsockname", "getpeername"), "EFAULT"),
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    one, _ = socket.socketpair(socket.AF_UNIX, type.constant)
    return {
        "bind": errno_of(calls.bind, kit.socket(type), calls.BAD_POINTER, 110),
        "connect": errno_of(calls.connect, kit.socket(type), calls.BAD_POINTER, 110),
        "getsockname": errno_of(calls.getsockname_at, one, calls.BAD_POINTER),
        "getpeername": errno_of(calls.getpeername_at, one, calls.BAD_POINTER),
    }


@behaviour(
    "NAM-21",
    "an abstract name may fill all of sun_path, and getsockname tells its 110 bytes",
    source="unix(7), Address format; gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, GetSockNameFullLength",
    expected={"bind": "ok", "length": 110, "name": True, "connect": "ok"},
    over=TYPES,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    name = calls.address(kit.abstract().ljust(108, b"x"))
    sock = kit.socket(type)
    bound = errno_of(calls.bind, sock, name)
    if type.connects:
        sock.listen()
    told, length = calls.getsockname(sock)
    return {
        "bind": bound,
        "length": length,
        "name": told[:length] == name,
        "connect": errno_of(calls.connect, kit.socket(type), name),
    }
