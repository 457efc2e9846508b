"""SHU: half-close, shutdown, end of file, reset."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable
from functools import partial
from time import monotonic

from udslab.atlas.behaviour import CONNECTED, PAIRS, STREAMS, TYPES, Kind, Pair, behaviour
from udslab.atlas.kit import Kit, count_signals, errno_of, events, fill, outcome
from udslab.socktype import SocketType

__all__: list[str] = []

_NOW = socket.MSG_DONTWAIT
_DATAGRAMS = tuple(pair for pair in PAIRS if pair.type is SocketType.DGRAM)
_PACKETS = tuple(pair for pair in PAIRS if pair.type is SocketType.SEQPACKET)


def _receive(sock: socket.socket, times: int, flags: int = 0) -> list[object]:
    """What so many receives give, one after the other."""
    return [outcome(sock.recv, 100, flags) for _ in range(times)]


@behaviour(
    "SHU-01",
    "once the peer has closed, recv gives end of file, as often as it is called",
    source="gVisor test/syscalls/linux/socket_unix_stream.cc, ReadOneSideClosed; "
    "kernel selftest net/af_unix/unix_connreset.c, eof",
    expected={"before": "EAGAIN", "after": ["", "", ""]},
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    before = outcome(left.recv, 1, _NOW)
    right.close()
    return {"before": before, "after": _receive(left, 3)}


@behaviour(
    "SHU-02",
    "if the peer closes with something unread, recv says ECONNRESET once, and then gives end of file",
    source="kernel selftest net/af_unix/unix_connreset.c, reset_unread_behavior; "
    "gVisor test/syscalls/linux/socket_unix_stream.cc, ReadOneSideClosedWithUnreadData",
    expected={"unread": ["ECONNRESET", "", ""], "all read": ["", "", ""]},
    over=CONNECTED,
    notes="A server that closes without reading the last of a request resets its client.",
)
def _(kit: Kit, pair: Pair) -> object:
    seen = {}
    for name in ("unread", "all read"):
        left, right = kit.pair(pair)
        left.send(b"x")
        if name == "all read":
            right.recv(1)
        right.close()
        seen[name] = _receive(left, 3)
    return seen


@behaviour(
    "SHU-03",
    "what the peer sent before it closed with something unread: a stream gives it before ECONNRESET, seqpacket after",
    source="kernel net/unix/af_unix.c, unix_stream_read_generic; net/core/datagram.c, __skb_try_recv_datagram; "
    "measured; no suite covers it",
    expected=lambda pair: ["data", "ECONNRESET", ""] if pair.type is SocketType.STREAM else ["ECONNRESET", "data", ""],
    over=CONNECTED,
    notes="A client of a seqpacket server that gives up at ECONNRESET loses answers that are there.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    right.send(b"data")
    right.close()
    return _receive(left, 3)


@behaviour(
    "SHU-04",
    "a send on a stream whose peer has closed fails with EPIPE and raises SIGPIPE; MSG_NOSIGNAL spares the signal",
    source="POSIX.1-2017 send; gVisor test/syscalls/linux/socket_unix_stream.cc, WriteOneSideClosed; LTP sendmsg01",
    expected={"send": ["EPIPE", 1], "write": ["EPIPE", 1], "MSG_NOSIGNAL": ["EPIPE", 0]},
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    pipes = count_signals(signal.SIGPIPE)
    left, right = kit.pair(pair)
    right.close()
    seen = {}
    for name, call in (
        ("send", partial(left.send, b"x")),
        ("write", partial(os.write, left.fileno(), b"x")),
        ("MSG_NOSIGNAL", partial(left.send, b"x", socket.MSG_NOSIGNAL)),
    ):
        said = errno_of(call)
        seen[name] = [said, len(pipes)]
        pipes.clear()
    return seen


@behaviour(
    "SHU-05",
    "with SIGPIPE's default action such a send ends the process",
    source="signal(7), Standard signals; measured; no suite covers it",
    expected={"send": "SIGPIPE", "write": "SIGPIPE", "MSG_NOSIGNAL": "status 0"},
    notes="Python ignores SIGPIPE from its start: what it starts gets the default back by restore_signals alone.",
)
def _(kit: Kit) -> object:
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    right.close()

    def with_default(call: Callable[[], object]) -> object:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        said = outcome(call)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # what it tells goes into a pipe that nobody reads
        return said

    calls: dict[str, Callable[[], object]] = {
        "send": partial(left.send, b"x"),
        "write": partial(os.write, left.fileno(), b"x"),
        "MSG_NOSIGNAL": partial(left.send, b"x", socket.MSG_NOSIGNAL),
    }
    return {name: kit.child(partial(with_default, call)).wait() for name, call in calls.items()}


@behaviour(
    "SHU-06",
    "after SHUT_WR the peer reads what is there and then end of file, the other direction works, an own send is EPIPE",
    source="POSIX.1-2017 shutdown; gVisor test/syscalls/linux/socket_unix.cc, ShutdownWrite",
    expected={"peer": ["last", "", ""], "other direction": "back", "own send": "EPIPE"},
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"last")
    left.shutdown(socket.SHUT_WR)
    peer = _receive(right, 3)
    right.send(b"back")
    return {"peer": peer, "other direction": outcome(left.recv, 10), "own send": errno_of(left.send, b"x")}


@behaviour(
    "SHU-07",
    "after SHUT_RD a send of the peer's is EPIPE; the own side reads what is there, then end of file, and sends",
    source="gVisor test/syscalls/linux/socket_unix.cc, ShutdownRead; kernel net/unix/af_unix.c, unix_shutdown",
    expected={"peer's send": "EPIPE", "own": ["queued", "", ""], "other direction": "on"},
    over=CONNECTED,
    notes="TCP's peer would not be told.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.send(b"queued")
    left.shutdown(socket.SHUT_RD)
    said = errno_of(right.send, b"x")
    own = _receive(left, 3)
    left.send(b"on")
    return {"peer's send": said, "own": own, "other direction": outcome(right.recv, 10)}


@behaviour(
    "SHU-08",
    "a socket without a peer can be shut down, which POSIX refuses with ENOTCONN",
    source="POSIX.1-2017 shutdown; measured; no suite covers it",
    expected=lambda each: {"fresh": "ok", "bound": "ok", **({} if each is SocketType.DGRAM else {"listening": "ok"})},
    over=TYPES,
    notes="FreeBSD and macOS say ENOTCONN.",
)
def _(kit: Kit, type: SocketType) -> object:
    socks = {"fresh": kit.socket(type), "bound": kit.socket(type, bind=kit.path())}
    if type is not SocketType.DGRAM:
        socks["listening"] = kit.socket(type, bind=kit.path(), listen=1)
    return {name: errno_of(sock.shutdown, socket.SHUT_RDWR) for name, sock in socks.items()}


@behaviour(
    "SHU-09",
    "a direction that shutdown does not know is EINVAL, and nothing is shut down",
    source="POSIX.1-2017 shutdown; measured; no suite covers it",
    expected={"3": "EINVAL", "-1": "EINVAL", "afterwards": "x"},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    said = {str(how): errno_of(left.shutdown, how) for how in (3, -1)}
    left.send(b"x")
    return {**said, "afterwards": outcome(right.recv, 10)}


@behaviour(
    "SHU-10",
    "after SHUT_WR a datagram socket's own send is EPIPE; its peer is told nothing",
    source="gVisor test/syscalls/linux/socket_unix_non_stream.cc, PeerWriteShutdown; measured",
    expected={"own send": "EPIPE", "peer": ["last", "EAGAIN"], "poll": "OUT", "other direction": "back"},
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"last")
    left.shutdown(socket.SHUT_WR)
    said = errno_of(left.send, b"x")
    peer = _receive(right, 2, _NOW)
    polled = events(right)
    right.send(b"back")
    return {"own send": said, "peer": peer, "poll": polled, "other direction": outcome(left.recv, 10)}


@behaviour(
    "SHU-11",
    "after SHUT_WR on seqpacket the peer gets the packets that are there, then end of file, and is told by poll",
    source="gVisor test/syscalls/linux/socket_unix_non_stream.cc, PeerWriteShutdown",
    expected={"peer": ["one", "two", "", ""], "poll": "IN|OUT|RDHUP"},
    over=_PACKETS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"one")
    left.send(b"two")
    left.shutdown(socket.SHUT_WR)
    return {"peer": _receive(right, 4), "poll": events(right)}


@behaviour(
    "SHU-12",
    "seqpacket: ECONNRESET when the peer closes with packets unread, and EPIPE for a send after its close",
    source="kernel selftest net/af_unix/unix_connreset.c; "
    "gVisor test/syscalls/linux/socket_unix_seqpacket.cc, WriteOneSideClosed",
    expected={"recv": ["ECONNRESET", "", ""], "send": "EPIPE", "send after a plain close": "EPIPE"},
    over=_PACKETS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    left.send(b"y")
    right.recv(1)
    right.close()
    other, gone = kit.pair(pair)
    gone.close()
    return {
        "recv": _receive(left, 3),
        "send": errno_of(left.send, b"x"),
        "send after a plain close": errno_of(other.send, b"x"),
    }


@behaviour(
    "SHU-13",
    "EPIPE comes with SIGPIPE on a stream alone",
    source="kernel net/unix/af_unix.c, unix_stream_sendmsg; POSIX.1-2017 send (SIGPIPE for all that are connected)",
    expected=lambda pair: ["EPIPE", 1 if pair.type is SocketType.STREAM else 0],
    over=PAIRS,
    notes="FreeBSD raises it for seqpacket, too: portable code passes MSG_NOSIGNAL.",
)
def _(kit: Kit, pair: Pair) -> object:
    pipes = count_signals(signal.SIGPIPE)
    left, _ = kit.pair(pair)
    left.shutdown(socket.SHUT_WR)
    said = errno_of(left.send, b"x")
    return [said, len(pipes)]


@behaviour(
    "SHU-14",
    "a blocked sender wakes when its peer stops reading: with a short count if a stream has taken a part, then EPIPE",
    source="gVisor test/syscalls/linux/socket_stream_blocking.cc, BlockPartialWriteClosed; measured",
    expected=lambda pair: [True, "a part" if pair.type is SocketType.STREAM else "EPIPE", "EPIPE"],
    over=tuple(pair for pair in CONNECTED if pair.blocking),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    message = b"m" * (4 << 20)
    if pair.type is SocketType.SEQPACKET:
        fill(left)
        message = b"x"

    def send() -> object:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        sent = outcome(left.send, message)
        if isinstance(sent, int):
            sent = "a part" if 0 < sent < len(message) else "all"
        return [sent, errno_of(left.send, b"x")]

    child = kit.child(send)
    waits = child.sleeps()
    right.shutdown(socket.SHUT_RD)
    return [waits, *child.result()]


@behaviour(
    "SHU-15",
    "a duplicate of a descriptor keeps the connection: there is no end of file before the last one is closed",
    source="close(2); measured; no suite covers it",
    expected={"one closed": "EAGAIN", "a child has one": "EAGAIN", "all closed": ""},
    over=CONNECTED,
    notes="A forked child that has a server's connection by accident keeps the client waiting; shutdown ends it.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    copy = right.dup()
    right.close()
    seen = {"one closed": outcome(left.recv, 1, _NOW)}
    child = kit.child(signal.pause)
    copy.close()
    seen["a child has one"] = outcome(left.recv, 1, _NOW)
    child.kill()
    return {**seen, "all closed": outcome(left.recv, 1, _NOW)}


@behaviour(
    "SHU-16",
    "SO_ERROR tells of the reset, once; recv does not tell of it any more",
    source="gVisor test/syscalls/linux/socket_unix_stream_listener_close.cc, SOErrorReturnsECONNRESET; socket(7)",
    expected={"SO_ERROR": ["ECONNRESET", "0"], "recv": ""},
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    import errno

    left, right = kit.pair(pair)
    left.send(b"x")
    right.close()
    numbers = [left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for _ in range(2)]
    return {"SO_ERROR": [errno.errorcode.get(number, str(number)) for number in numbers], "recv": outcome(left.recv, 1)}


@behaviour(
    "SHU-17",
    "after a reset a stream's send says EPIPE, and ECONNRESET waits for recv; seqpacket's first send takes ECONNRESET",
    source="kernel net/unix/af_unix.c, unix_stream_sendmsg; net/core/sock.c, sock_alloc_send_pskb; measured; "
    "no suite covers it",
    expected=lambda pair: (
        ["EPIPE", "EPIPE", "ECONNRESET", "", "EPIPE"]
        if pair.type is SocketType.STREAM
        else ["ECONNRESET", "EPIPE", "", "", "EPIPE"]
    ),
    over=CONNECTED,
    notes="A stream looks at its peer before it looks at the error that is pending. On TCP the send says ECONNRESET.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    right.close()
    sends = [errno_of(left.send, b"y") for _ in range(2)]
    return [*sends, *_receive(left, 2), errno_of(left.send, b"z")]


@behaviour(
    "SHU-18",
    "SO_LINGER is kept and does nothing: close resets nothing, and waits for nothing",
    source="gVisor test/syscalls/linux/socket_unix_stream.cc, SetAndGetSocketLinger; measured",
    expected={"1, 0": [[1, 0], ["data", "", ""], True], "1, 5": [[1, 5], ["data", "", ""], True]},
    over=CONNECTED,
    limit=7,
)
def _(kit: Kit, pair: Pair) -> object:
    seen = {}
    for seconds in (0, 5):
        left, right = kit.pair(pair)
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, seconds))
        kept = struct.unpack("@ii", right.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
        right.send(b"data")
        began = monotonic()
        right.close()
        at_once = monotonic() - began < 4
        seen[f"1, {seconds}"] = [list(kept), _receive(left, 3), at_once]
    return seen


@behaviour(
    "SHU-19",
    "once the peer has closed, MSG_DONTWAIT gives end of file or ECONNRESET, never EAGAIN",
    source="kernel net/unix/af_unix.c, unix_stream_read_generic; measured; no suite covers it",
    expected={"open": ["EAGAIN"], "closed": ["", ""], "reset": ["ECONNRESET", "", ""]},
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = {"open": _receive(left, 1, _NOW)}
    right.close()
    seen["closed"] = _receive(left, 2, _NOW)
    left, right = kit.pair(pair)
    left.send(b"x")
    right.close()
    return {**seen, "reset": _receive(left, 3, _NOW)}


@behaviour(
    "SHU-20",
    "a datagram socket's reader is never told that its peer has closed: no end of file, no ECONNRESET",
    source="gVisor test/syscalls/linux/socket_unix_dgram_non_blocking.cc, ReadOneSideClosed; "
    "kernel selftest net/af_unix/unix_connreset.c",
    expected={"all read": ["EAGAIN", 0], "unread": ["EAGAIN", 0]},
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    seen = {}
    for name in ("all read", "unread"):
        left, right = kit.pair(pair)
        if name == "unread":
            left.send(b"x")
        right.close()
        seen[name] = [outcome(left.recv, 1, _NOW), left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
    return seen
