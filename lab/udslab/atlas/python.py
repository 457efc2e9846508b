"""PYT: what Python's socket module makes of it."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from udslab.atlas.behaviour import TYPES, Either, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, limit_waiting
from udslab.atlas.places import NETWORK, elsewhere
from udslab.socktype import SocketType

__all__: list[str] = []

CALLS = ("bind", "connect", "connect_ex", "sendto")


def _raised(call: Callable[..., object], *arguments: object) -> list[object]:
    """The exception's type, errno and words; or "ok"."""
    try:
        call(*arguments)
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        number = error.errno if isinstance(error, OSError) else None
        return [type(error).__name__, number, str(error)]
    return ["ok"]


def _call(sock: socket.socket, name: str) -> Callable[..., object]:
    if name == "sendto":
        return lambda address: sock.sendto(b"x", address)
    return getattr(sock, name)  # type: ignore[no-any-return]


@behaviour(
    "PYT-01",
    "Python itself refuses a path of 108 bytes and more, before the kernel is asked: an OSError without errno",
    source="CPython Modules/socketmodule.c, getsockaddrarg",
    expected={"107 bytes": "asks the kernel", "108 bytes": ["OSError", None, "AF_UNIX path too long"]},
    over=CALLS,
    notes="Who looks at errno alone sees None. The kernel itself takes 108 bytes without a NUL.",
)
def _(kit: Kit, name: str) -> object:
    def path(length: int) -> str:
        return os.path.join(kit.directory, "x" * (length - len(kit.directory) - 1))

    type = SocketType.DGRAM if name == "sendto" else SocketType.STREAM
    fits = _raised(_call(kit.socket(type), name), path(107))
    return {
        "107 bytes": "asks the kernel" if fits[:2] in (["ok"], ["FileNotFoundError", 2]) else fits,
        "108 bytes": _raised(_call(kit.socket(type), name), path(108)),
    }


@behaviour(
    "PYT-02",
    "a NUL within a path ends it, without a word: 'a', NUL, 'b' binds 'a'",
    source="CPython Modules/socketmodule.c, getsockaddrarg; unix(7), Pathname sockets",
    expected={"bind": ["ok"], "files": ["a"], "getsockname": "a"},
    over=TYPES,
    notes="os.stat and open raise ValueError of such a name: so a check of the name and its use can differ.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    bind = _raised(sock.bind, kit.path("a\0b"))
    return {
        "bind": bind,
        "files": os.listdir(kit.directory),
        "getsockname": os.path.basename(sock.getsockname()),
    }


@behaviour(
    "PYT-03",
    "an address is a str or bytes; path objects are refused (TypeError)",
    source="CPython Modules/socketmodule.c, getsockaddrarg; Python's documentation of socket, AF_UNIX",
    expected={"str": "ok", "bytes": "ok", "bytearray": "ok", "Path": "TypeError"},
    over=CALLS,
    notes="os.fspath first.",
)
def _(kit: Kit, name: str) -> object:
    type = SocketType.DGRAM if name == "sendto" else SocketType.STREAM

    def said(kind: Callable[[str], object]) -> object:
        path = kit.path()
        if name != "bind":
            kit.socket(type, bind=path, listen=1 if type.connects else None)
        return _raised(_call(kit.socket(type), name), kind(path))[0]

    return {
        "str": said(str),
        "bytes": said(os.fsencode),
        "bytearray": said(lambda path: bytearray(os.fsencode(path))),
        "Path": said(pathlib.Path),
    }


@behaviour(
    "PYT-04",
    "with settimeout, connect to a full backlog raises BlockingIOError at once; SO_SNDTIMEO on a blocking socket waits",
    source="CPython Modules/socketmodule.c, internal_connect; connect(2), EAGAIN",
    expected={
        "settimeout": ["BlockingIOError", "EAGAIN", "at once"],
        "SO_SNDTIMEO": ["BlockingIOError", "EAGAIN", "waited"],
    },
    over=(SocketType.STREAM, SocketType.SEQPACKET),
    notes="A socket with a time-out is non-blocking, and a Unix socket has no connect in progress that could be waited "
    "for.",
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    kit.socket(type, bind=path, listen=0)
    kit.socket(type).connect(path)

    def connect(limit: Callable[[socket.socket, float], object], seconds: float) -> list[object]:
        sock = kit.socket(type)
        limit(sock, seconds)
        said: list[object] = []
        began = time.monotonic()
        said.append(errno_of(lambda: said.append(_raised(sock.connect, path)[0])))
        took = time.monotonic() - began
        said[1] = errno_of(sock.connect, path)
        return [*said, "at once" if took < seconds * 0.9 else "waited"]

    return {"settimeout": connect(socket.socket.settimeout, 2), "SO_SNDTIMEO": connect(limit_waiting, 0.05)}


@behaviour(
    "PYT-05",
    "Python has sendmsg, recvmsg, recvmsg_into, CMSG_LEN and CMSG_SPACE, and neither sendmmsg nor recvmmsg",
    source="Python's documentation of socket",
    expected={
        "there": ["sendmsg", "recvmsg", "recvmsg_into", "CMSG_LEN", "CMSG_SPACE", "send_fds", "recv_fds"],
        "not there": ["sendmmsg", "recvmmsg"],
    },
)
def _(kit: Kit) -> object:
    names = ["sendmsg", "recvmsg", "recvmsg_into", "CMSG_LEN", "CMSG_SPACE", "send_fds", "recv_fds"]
    names += ["sendmmsg", "recvmmsg"]
    there = [name for name in names if hasattr(socket, name) or hasattr(socket.socket, name)]
    return {"there": there, "not there": [name for name in names if name not in there]}


_IGNORED = {
    "send_fds": {"address": "ignored", "flags": "ignored"},
    "recv_fds": {"flags": "ignored", "room for one of three": [1, "MSG_CTRUNC"]},
}
_HEEDED = {
    "send_fds": {"address": "heeded", "flags": "heeded"},
    "recv_fds": {"flags": "heeded", "room for one of three": [1, "MSG_CTRUNC"]},
}


@behaviour(
    "PYT-06",
    "send_fds ignores its address and flags, and recv_fds its flags, up to Python 3.13 at least",
    source="CPython Lib/socket.py, send_fds and recv_fds; CPython issue 107898",
    expected=Either(_IGNORED, _HEEDED),
    notes="So recv_fds cannot make what it receives close-on-exec. Where flags matter, take sendmsg and recvmsg.",
)
def _(kit: Kit) -> object:
    receiver = kit.socket(SocketType.DGRAM, bind=kit.path())
    connected = kit.socket(SocketType.DGRAM, bind=kit.path())
    for each in (receiver, connected):
        each.setblocking(False)
    sender = kit.socket(SocketType.DGRAM)
    sender.connect(connected.getsockname())
    socket.send_fds(sender, [b"x"], [0], 0, receiver.getsockname())
    arrived = errno_of(connected.recv, 1), errno_of(receiver.recv, 1)
    address = {("ok", "EAGAIN"): "ignored", ("EAGAIN", "ok"): "heeded"}.get(arrived, arrived)
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.SEQPACKET, blocking=False))
    # Seqpacket sockets know no MSG_OOB.
    out_of_band = errno_of(socket.send_fds, left, [b"x"], [0], socket.MSG_OOB)
    if out_of_band == "ok":
        right.recv(1)
    socket.send_fds(left, [b"x"], [0, 0, 0])
    _, first, told, _ = socket.recv_fds(right, 1, 1, socket.MSG_PEEK)
    peeked = errno_of(right.recv, 1)
    return {
        "send_fds": {
            "address": address,
            "flags": {"ok": "ignored", "EOPNOTSUPP": "heeded"}.get(out_of_band, out_of_band),
        },
        "recv_fds": {
            "flags": {"EAGAIN": "ignored", "ok": "heeded"}.get(peeked, peeked),
            "room for one of three": [len(first), "MSG_CTRUNC" if told & socket.MSG_CTRUNC else told],
        },
    }


@behaviour(
    "PYT-07",
    "SIGPIPE is ignored in Python and in what it forks; subprocess gives programs the default, unless told not to",
    source="Python's documentation of subprocess, restore_signals, and of signal",
    expected={
        "Python": "ignored",
        "forked": "ignored",
        "subprocess": "ended by SIGPIPE",
        "restore_signals=False": "went on",
    },
    notes="A program that is started with SIGPIPE ignored cannot be seen to; os.posix_spawn and os.exec pass it on.",
)
def _(kit: Kit) -> object:
    def disposition() -> str:
        return "ignored" if signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN else "not ignored"

    def program(restore: bool) -> str:
        code = subprocess.call(["/bin/sh", "-c", "kill -PIPE $$; exit 7"], restore_signals=restore)
        return {7: "went on", -signal.SIGPIPE: "ended by SIGPIPE"}.get(code, f"status {code}")

    return {
        "Python": disposition(),
        "forked": kit.in_child(disposition),
        "subprocess": program(True),
        "restore_signals=False": program(False),
    }


@behaviour(
    "PYT-08",
    "listen() without a number takes 128 at the most: 129 connections wait",
    source="Python's documentation of socket.listen; CPython Modules/socketmodule.c, sock_listen",
    expected=129,
    notes="min(SOMAXCONN, 128), whatever the system allows.",
)
def _(kit: Kit) -> object:
    limit = _most_that_wait()
    if limit < 200:
        raise NotHere(f"net.core.somaxconn is {limit}")
    path = kit.path()
    kit.socket(bind=path).listen()
    return _waiting(kit, path)


def _most_that_wait() -> int:
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except OSError as error:
        raise NotHere(f"no somaxconn to be had ({error.strerror})") from None


def _waiting(kit: Kit, path: str) -> int:
    """How many connections go into a backlog."""
    count = 0
    while count < 1000:
        client = kit.socket()
        client.setblocking(False)
        if errno_of(client.connect, path) != "ok":
            break
        count += 1
    return count


@behaviour(
    "PYT-09",
    "socket.SOMAXCONN is what the C library's headers say; what the system allows may be less",
    source="listen(2), Notes; CPython Modules/socketmodule.c, PyModule_AddIntMacro(SOMAXCONN)",
    expected={"constant": "larger than 7", "in another Python": "the same", "waited": 8},
    notes="4096 with the headers of newer C libraries, 128 with older ones. Measured where the system allows 7.",
)
def _(kit: Kit) -> object:
    def inside() -> object:
        try:
            with open("/proc/sys/net/core/somaxconn", "w") as file:
                file.write("7")
        except OSError as error:
            raise NotHere(f"no somaxconn of one's own ({error.strerror})") from None
        if _most_that_wait() != 7:
            raise NotHere("somaxconn is not this namespace's own")
        program = [sys.executable, "-S", "-E", "-c", "import _socket; print(_socket.SOMAXCONN)"]
        there = int(subprocess.check_output(program))
        path = kit.path()
        kit.socket(bind=path, listen=socket.SOMAXCONN)
        return {
            "constant": "larger than 7" if socket.SOMAXCONN > 7 else socket.SOMAXCONN,
            "in another Python": "the same" if there == socket.SOMAXCONN else there,
            "waited": _waiting(kit, path),
        }

    return elsewhere(kit, NETWORK, inside)


@behaviour(
    "PYT-10",
    "fromfd duplicates the descriptor, socket(fileno=…) takes it over, detach gives it away",
    source="Python's documentation of socket.fromfd and socket.detach; CPython test_socket",
    expected={
        "fromfd": {"another descriptor": True, "after close of the first": "ok"},
        "fileno=": {"another descriptor": False, "after close of the first": "EBADF"},
        "detach": {"fileno": -1, "descriptor": "open", "after close": "open"},
    },
    over=TYPES,
    notes="Two socket objects over one descriptor end in the close of somebody else's: detach the one.",
)
def _(kit: Kit, type: SocketType) -> object:
    def over(make: Callable[[socket.socket], socket.socket]) -> dict[str, object]:
        left, right = kit.pair(Pair(Kind.SOCKETPAIR, type))
        second = make(left)
        another = second.fileno() != left.fileno()
        left.close()
        said = errno_of(right.send, b"x"), errno_of(second.recv, 1)
        if not another:
            second.detach()
        return {"another descriptor": another, "after close of the first": said[1]}

    sock = kit.socket(type)
    fd = sock.detach()

    def state() -> str:
        return "open" if errno_of(os.fstat, fd) == "ok" else "closed"

    detached: dict[str, object] = {"fileno": sock.fileno(), "descriptor": state()}
    sock.close()
    detached["after close"] = state()
    return {
        "fromfd": over(lambda left: socket.fromfd(left.fileno(), left.family, left.type)),
        "fileno=": over(lambda left: socket.socket(fileno=left.fileno())),
        "detach": detached,
    }
