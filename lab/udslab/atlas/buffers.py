"""BUF: buffers, ioctls and options."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from udslab.atlas import calls
from udslab.atlas.behaviour import CONNECTED, PAIRS, STREAMS, TYPES, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, fill, outcome
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType
from udslab.support import fcntl, termios

__all__: list[str] = []

_NOW = socket.MSG_DONTWAIT
_SOL = socket.SOL_SOCKET
_SO_SNDBUFFORCE = 32
_SO_ATTACH_FILTER = 26
_SO_PROTOCOL = 38
_SO_DOMAIN = 39
_SO_MEMINFO = 55
_SO_COOKIE = 57
_SIOCATMARK = 0x8905
_SIOCUNIXFILE = 0x89E0
_SIOCGIFINDEX = 0x8933
_DATAGRAMS = tuple(pair for pair in PAIRS if pair.type is SocketType.DGRAM)
_SOCKETPAIRS = tuple(Pair(Kind.SOCKETPAIR, type) for type in TYPES)
_DEFAULT = 212_992
"""What the kernel sets where nothing else is said."""


def _setting(name: str) -> int:
    try:
        with open(f"/proc/sys/net/core/{name}") as file:
            return int(file.read())
    except OSError:
        raise NotHere(f"no /proc/sys/net/core/{name}") from None


def _number(sock: socket.socket, request: int) -> int:
    number = array.array("i", [-1])
    fcntl.ioctl(sock.fileno(), request, number)
    return number[0]


def _queued(sock: socket.socket) -> int:
    """SIOCINQ."""
    return _number(sock, termios.FIONREAD)


def _charged(sock: socket.socket) -> int:
    """SIOCOUTQ."""
    return _number(sock, termios.TIOCOUTQ)


def _default_buffer(sock: socket.socket) -> None:
    """Give a socket the buffer that the kernel has as its default, whatever is set in this place."""
    sock.setsockopt(_SOL, socket.SO_SNDBUF, _DEFAULT // 2)
    if sock.getsockopt(_SOL, socket.SO_SNDBUF) != _DEFAULT:
        raise NotHere(f"SO_SNDBUF cannot be set to {_DEFAULT:,}")


@behaviour(
    "BUF-01",
    "SO_SNDBUF is net.core.wmem_default at first, and twice what it is set to",
    source="socket(7), SO_SNDBUF; gVisor test/syscalls/linux/socket_unix_stream.cc, SetSocketSendBuf",
    expected={"as the setting has it": True, "20,000": 40_000},
    over=TYPES,
    notes="The double is for the kernel's own use. Only few systems set wmem_default: mostly it is 212,992.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    try:
        setting = _setting("wmem_default")
    except NotHere:  # it is shown in the first network namespace alone, by older kernels
        setting = _DEFAULT
    seen = {"as the setting has it": sock.getsockopt(_SOL, socket.SO_SNDBUF) == setting}
    sock.setsockopt(_SOL, socket.SO_SNDBUF, 20_000)
    return {**seen, "20,000": sock.getsockopt(_SOL, socket.SO_SNDBUF)}


@behaviour(
    "BUF-02",
    "the buffers cannot be smaller than 4,608 (SO_SNDBUF) and 2,304 (SO_RCVBUF)",
    source="kernel include/net/sock.h, SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF; measured",
    expected={"SO_SNDBUF": [4608, 4608, 4610], "SO_RCVBUF": [2304, 2304, 4610]},
    over=TYPES,
    notes="socket(7) gives 2,048 and 256, doubled. They follow from the size of the kernel's own structures.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    seen = {}
    for name, option in (("SO_SNDBUF", socket.SO_SNDBUF), ("SO_RCVBUF", socket.SO_RCVBUF)):
        sizes = []
        for size in (0, 1, 2305):
            sock.setsockopt(_SOL, option, size)
            sizes.append(sock.getsockopt(_SOL, option))
        seen[name] = sizes
    return seen


@behaviour(
    "BUF-03",
    "SO_SNDBUF is cut to twice net.core.wmem_max without a word; SO_SNDBUFFORCE goes beyond, with CAP_NET_ADMIN alone",
    source="socket(7), SO_SNDBUF and SO_SNDBUFFORCE; "
    "gVisor test/syscalls/linux/socket_generic_test_cases.cc, SetSocketRecvBufForceAboveMax",
    expected={"set": "ok", "got": 2.0, "force": "EPERM", "after it": 2.0},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    try:
        most = _setting("wmem_max")
    except NotHere:
        most = _DEFAULT

    def measure() -> object:
        sock = kit.socket(type)
        said = errno_of(sock.setsockopt, _SOL, socket.SO_SNDBUF, 1 << 30)
        got = sock.getsockopt(_SOL, socket.SO_SNDBUF) / most
        force = errno_of(sock.setsockopt, _SOL, _SO_SNDBUFFORCE, 1 << 29)
        return {"set": said, "got": got, "force": force, "after it": sock.getsockopt(_SOL, socket.SO_SNDBUF) / most}

    return kit.unprivileged(measure)


@behaviour(
    "BUF-04",
    "the receiver's SO_RCVBUF has no effect: how much can be under way is the sender's SO_SNDBUF",
    source="unix(7), Sockets API; measured; no suite covers it",
    expected={"receiver's SO_RCVBUF": "the same", "receiver's SO_SNDBUF": "the same", "sender's SO_SNDBUF": "less"},
    over=CONNECTED,
    limit=10,
)
def _(kit: Kit, pair: Pair) -> object:
    def room(end: int = 0, option: int | None = None) -> int:
        ends = kit.pair(pair)
        if option is not None:
            ends[end].setsockopt(_SOL, option, 1)
        return sum(fill(ends[0], b"m" * 100))

    usual = room()
    words = {True: "the same", False: "less"}
    return {
        "receiver's SO_RCVBUF": words[room(1, socket.SO_RCVBUF) == usual],
        "receiver's SO_SNDBUF": words[room(1, socket.SO_SNDBUF) == usual],
        "sender's SO_SNDBUF": words[room(0, socket.SO_SNDBUF) >= usual],
    }


@behaviour(
    "BUF-05",
    "what fits is counted with the kernel's own memory: 278 single bytes, 180,224 in pieces of 4 KiB, 219,264 in one",
    source="kernel net/core/sock.c, sock_alloc_send_pskb and skb_set_owner_w; measured; no suite covers it",
    expected={"1 byte": 278, "4 KiB": 180_224, "1 MiB": 219_264},
    over=STREAMS,
    limit=10,
    notes="Of Linux 6.18.44, with pages of 4 KiB and SO_SNDBUF at 212,992. They follow from the size of its "
    "structures, and other kernels can differ: do not count on them.",
)
def _(kit: Kit, pair: Pair) -> object:
    seen = {}
    for name, size in (("1 byte", 1), ("4 KiB", 4096), ("1 MiB", 1 << 20)):
        left, _ = kit.pair(pair)
        _default_buffer(left)
        seen[name] = sum(fill(left, b"m" * size))
    return seen


@behaviour(
    "BUF-06",
    "SIOCOUTQ tells what the peer has not read, with the kernel's own memory: 768 for three bytes; 0 when it is read",
    source="kernel net/unix/af_unix.c, unix_outq_len; gVisor test/syscalls/linux/socket_unix.cc, TIOCOUTQSucceeds",
    expected=[0, 768, 768, 0],
    over=PAIRS,
    notes="So it tells a sender whether all has been read. TCP counts bytes.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = [_charged(left)]
    left.send(b"abc")
    seen.append(_charged(left))
    if pair.type is SocketType.STREAM:
        right.recv(1)
    else:
        right.recv(1, socket.MSG_PEEK)
    seen.append(_charged(left))
    right.recv(10)
    return [*seen, _charged(left)]


@behaviour(
    "BUF-07",
    "SIOCINQ of a listener is EINVAL",
    source="unix(7), Ioctls; kernel net/unix/af_unix.c, unix_inq_len; measured",
    expected={"listening": "EINVAL", "bound": 0, "accepted": 1},
    over=(SocketType.STREAM, SocketType.SEQPACKET),
)
def _(kit: Kit, type: SocketType) -> object:
    listener = kit.socket(type, bind=kit.path(), listen=1)
    left, right = kit.pair(Pair(Kind.PATHNAME, type))
    left.send(b"x")
    return {
        "listening": outcome(_queued, listener),
        "bound": outcome(_queued, kit.socket(type, bind=kit.path())),
        "accepted": outcome(_queued, right),
    }


@behaviour(
    "BUF-08",
    "SIOCATMARK is for streams: EOPNOTSUPP for other types",
    source="kernel net/unix/af_unix.c, unix_ioctl; measured; no suite covers it",
    expected=lambda each: 0 if each is SocketType.STREAM else "EOPNOTSUPP",
    over=TYPES,
    since=(5, 15),
)
def _(kit: Kit, type: SocketType) -> object:
    return outcome(_number, kit.pair(Pair(Kind.SOCKETPAIR, type))[0], _SIOCATMARK)


@behaviour(
    "BUF-09",
    "SIOCUNIXFILE opens the file that a socket is bound to, as O_PATH has it; without such a file it is ENOENT",
    source="kernel net/unix/af_unix.c, unix_open_file; measured; no suite covers it",
    expected={
        "bound": True,
        "O_PATH": True,
        "after rename": True,
        "abstract": "ENOENT",
        "unnamed": "ENOENT",
        "without the capability": "EPERM",
    },
    over=TYPES,
    needs=(Requirement.NET_ADMIN, Requirement.OTHER_USER),
    since=(4, 12),
    notes="It finds the file wherever it has been moved to.",
)
def _(kit: Kit, type: SocketType) -> object:
    def open_file(sock: socket.socket) -> int:
        return fcntl.ioctl(sock.fileno(), _SIOCUNIXFILE)

    path = kit.path()
    sock = kit.socket(type, bind=path)
    fd = open_file(sock)
    is_it = os.path.samestat(os.fstat(fd), os.lstat(path))
    os.rename(path, path + "2")
    moved = open_file(sock)
    return {
        "bound": is_it,
        "O_PATH": bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH),
        "after rename": os.path.samestat(os.fstat(moved), os.lstat(path + "2")),
        "abstract": outcome(open_file, kit.socket(type, bind=kit.abstract())),
        "unnamed": outcome(open_file, kit.socket(type)),
        "without the capability": kit.as_other_user(lambda: outcome(open_file, sock)),
    }


@behaviour(
    "BUF-10",
    "datagrams are charged to their sender until the receiver has taken them: 2,304 for three, and 768 less with each",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg; measured; no suite covers it",
    expected={"sent": 2304, "receives": [1536, 768, 0], "after the receiver's close": 0},
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    for _ in range(3):
        left.send(b"abc")
    seen: dict[str, object] = {"sent": _charged(left)}
    receives = []
    for _ in range(3):
        right.recv(10)
        receives.append(_charged(left))
    left.send(b"abc")
    right.close()
    return {**seen, "receives": receives, "after the receiver's close": _charged(left)}


@behaviour(
    "BUF-11",
    "SO_MEMINFO gives nine numbers; the second half of them has the buffers and what is used of them",
    source="kernel net/core/sock.c, sk_get_meminfo; measured; no suite covers it",
    expected={"bytes": 36, "buffers": [True, True], "charged": [0, 768]},
    over=_SOCKETPAIRS,
    since=(4, 12),
)
def _(kit: Kit, pair: Pair) -> object:
    left, _ = kit.pair(pair)

    def numbers() -> tuple[int, ...]:
        return struct.unpack("@9I", left.getsockopt(_SOL, _SO_MEMINFO, 100))

    before = numbers()
    left.send(b"abc")
    after = numbers()
    return {
        "bytes": len(left.getsockopt(_SOL, _SO_MEMINFO, 100)),
        "buffers": [
            before[1] == left.getsockopt(_SOL, socket.SO_RCVBUF),
            before[3] == left.getsockopt(_SOL, socket.SO_SNDBUF),
        ],
        "charged": [before[2], after[2]],
    }


@behaviour(
    "BUF-12",
    "SO_COOKIE gives each socket a number of 64 bits of its own, which does not change",
    source="kernel net/core/sock_diag.c, __sock_gen_cookie; measured; no suite covers it",
    expected={"bytes": 8, "different": True, "same again": True, "same for a duplicate": True},
    over=_SOCKETPAIRS,
    since=(4, 12),
)
def _(kit: Kit, pair: Pair) -> object:
    socks = [end for _ in range(10) for end in kit.pair(pair)]

    def cookie(sock: socket.socket) -> bytes:
        return sock.getsockopt(_SOL, _SO_COOKIE, 16)

    cookies = [cookie(sock) for sock in socks]
    return {
        "bytes": len(cookies[0]),
        "different": len(set(cookies)) == len(socks),
        "same again": [cookie(sock) for sock in socks] == cookies,
        "same for a duplicate": cookie(kit.close_at_end(socks[0].dup())) == cookies[0],
    }


@behaviour(
    "BUF-13",
    "an option of SOL_SOCKET that is not known is ENOPROTOOPT; any other level is EOPNOTSUPP",
    source="gVisor test/syscalls/linux/socket_unix.cc, "
    "InvalidGetSockOpt, InvalidGetSockOptLevel, InvalidSetSockOptLevel",
    expected={"get": ["ENOPROTOOPT", "EOPNOTSUPP", "EOPNOTSUPP"], "set": ["ENOPROTOOPT", "EOPNOTSUPP", "EOPNOTSUPP"]},
    over=TYPES,
    notes="The levels are TCP's and one that does not exist. gVisor says yes to options that it does not know.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    asked = ((_SOL, 9999), (socket.IPPROTO_TCP, 1), (12345, 1))
    return {
        "get": [errno_of(sock.getsockopt, level, option) for level, option in asked],
        "set": [errno_of(sock.setsockopt, level, option, 1) for level, option in asked],
    }


@behaviour(
    "BUF-14",
    "SO_DOMAIN, SO_TYPE and SO_PROTOCOL tell what a socket is: 1, its type, 0",
    source="socket(7), SO_DOMAIN; gVisor test/syscalls/linux/socket_generic_test_cases.cc, "
    "GetSockoptDomain, GetSockoptType, GetSockoptProtocol",
    expected=lambda each: {"get": [1, each.constant, 0], "set": ["ENOPROTOOPT"] * 3},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    options = (_SO_DOMAIN, socket.SO_TYPE, _SO_PROTOCOL)
    return {
        "get": [sock.getsockopt(_SOL, option) for option in options],
        "set": [errno_of(sock.setsockopt, _SOL, option, 1) for option in options],
    }


@behaviour(
    "BUF-15",
    "a filter on a datagram socket drops messages; their send has succeeded",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg (sk_filter); measured; no suite covers it",
    expected={"all": [5, "abcde"], "none": [5, "EAGAIN"], "two bytes": [5, "ab"]},
    over=_DATAGRAMS,
    needs=Requirement.CTYPES,
    notes="A filter's result is how much it leaves: it can cut messages, too.",
)
def _(kit: Kit, pair: Pair) -> object:
    seen = {}
    for name, keep in (("all", 0xFFFF), ("none", 0), ("two bytes", 2)):
        left, right = kit.pair(pair)
        program = calls.Memory(struct.pack("@HBBI", 6, 0, 0, keep))  # "ret keep"
        right.setsockopt(_SOL, _SO_ATTACH_FILTER, struct.pack("@HP", 1, program.address))
        seen[name] = [outcome(left.send, b"abcde"), outcome(right.recv, 10, _NOW)]
    return seen


@behaviour(
    "BUF-16",
    "raising SO_SNDBUF lets a full non-blocking sender go on at once",
    source="gVisor test/syscalls/linux/socket_unix_stream.cc, socket_unix_dgram.cc, socket_unix_seqpacket.cc, "
    "IncreasedSocketSendBufUnblocksWrites",
    expected={"full": "EAGAIN", "raised": 1, "lowered again": "EAGAIN"},
    over=tuple(pair for pair in PAIRS if not pair.blocking),
)
def _(kit: Kit, pair: Pair) -> object:
    left, _ = kit.pair(pair)
    seen = {}
    left.setsockopt(_SOL, socket.SO_SNDBUF, 1)
    fill(left)
    seen["full"] = outcome(left.send, b"x")
    left.setsockopt(_SOL, socket.SO_SNDBUF, 50_000)
    seen["raised"] = outcome(left.send, b"x")
    left.setsockopt(_SOL, socket.SO_SNDBUF, 1)
    return {**seen, "lowered again": outcome(left.send, b"x")}


@behaviour(
    "BUF-18",
    "a send on a stream may be longer than the buffer: it is split, never refused with EMSGSIZE",
    source="gVisor test/syscalls/linux/socket_stream_blocking.cc, SendMsgTooLarge",
    expected={"non-blocking": "a part", "blocking": "all", "arrived": 500_000, "as a packet": "EMSGSIZE"},
    over=tuple(pair for pair in STREAMS if pair.blocking),
)
def _(kit: Kit, pair: Pair) -> object:
    message = b"m" * 500_000

    def small() -> tuple[socket.socket, socket.socket]:
        left, right = kit.pair(pair)
        left.setsockopt(_SOL, socket.SO_SNDBUF, 10_000)
        return left, right

    def said(send: Callable[[], Any]) -> object:
        sent = outcome(send)
        return sent if isinstance(sent, str) else "all" if sent == len(message) else "a part"

    now = said(lambda: small()[0].send(message, _NOW))
    left, right = small()
    child = kit.child(lambda: said(lambda: left.send(message)))
    arrived = 0
    while arrived < len(message):
        arrived += len(right.recv(len(message)))
    packets, _ = kit.pair(Pair(pair.kind, SocketType.SEQPACKET))
    packets.setsockopt(_SOL, socket.SO_SNDBUF, 10_000)
    return {
        "non-blocking": now,
        "blocking": child.result(),
        "arrived": arrived,
        "as a packet": outcome(packets.send, message),
    }


@behaviour(
    "BUF-19",
    "SIOCINQ (FIONREAD) counts what is left of a stream after a part was read; a peek changes nothing",
    source="unix(7), Ioctls; gVisor test/syscalls/linux/socket_unix.cc, TIOCINQSucceeds",
    expected={"empty": 0, "two sends": 10, "peeked": 10, "three read": 7, "all read": 0},
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = {"empty": _queued(right)}
    left.send(b"abcdef")
    left.send(b"ghij")
    seen["two sends"] = _queued(right)
    right.recv(10, socket.MSG_PEEK)
    seen["peeked"] = _queued(right)
    right.recv(3)
    seen["three read"] = _queued(right)
    right.recv(10)
    return {**seen, "all read": _queued(right)}


@behaviour(
    "BUF-20",
    "the ioctls of network interfaces work on a Unix socket",
    source="gVisor test/syscalls/linux/socket_unix.cc, NetdeviceIoctlsSucceed; netdevice(7)",
    expected={"lo": "lo", "none of that name": "ENODEV"},
    over=TYPES,
    notes="They are about the socket's network namespace.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)

    def name_of(interface: bytes) -> str:
        request = fcntl.ioctl(sock.fileno(), _SIOCGIFINDEX, struct.pack("@16si20x", interface, 0))
        return socket.if_indextoname(struct.unpack("@16si20x", request)[1])

    return {"lo": outcome(name_of, b"lo"), "none of that name": outcome(name_of, b"no-such")}
