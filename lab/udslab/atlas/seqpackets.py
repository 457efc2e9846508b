"""SEQ: connections of packets (SOCK_SEQPACKET)."""

from __future__ import annotations

import array
import os
import signal
import socket

from udslab.atlas import calls
from udslab.atlas.behaviour import PAIRS, TYPES, Kind, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, events, limit_waiting, outcome, receive_too_short
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType
from udslab.support import fcntl, termios

__all__: list[str] = []

_NOW = socket.MSG_DONTWAIT
_PACKETS = tuple(pair for pair in PAIRS if pair.type is SocketType.SEQPACKET)
_NAMED = (Kind.PATHNAME, Kind.ABSTRACT)
_SO_PEEK_OFF = 42


@behaviour(
    "SEQ-01",
    "packets keep their boundaries; recvmsg does not set MSG_EOR, whether the sender did or not",
    source="unix(7), Socket types; FreeBSD tests/sys/kern/unix_seqpacket_test.c (MSG_EOR); measured",
    expected=[["ab", 0], ["cd", 0], ["ef", 0], "EAGAIN"],
    over=_PACKETS,
    notes="FreeBSD and POSIX set MSG_EOR at the end of a record: portable code must not wait for it.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"ab")
    left.send(b"cd", socket.MSG_EOR)
    left.send(b"ef")
    seen: list[object] = []
    for _ in range(3):
        data, _, flags, _ = right.recvmsg(100, 0, _NOW)
        seen.append([data.decode(), flags])
    return [*seen, outcome(right.recv, 100, _NOW)]


@behaviour(
    "SEQ-02",
    "a packet of nothing is delivered; recv cannot tell it from end of file",
    source="FreeBSD tests/sys/kern/unix_seqpacket_test.c; measured",
    expected={"poll": ["OUT", "IN|OUT"], "received": ["", "x", "EAGAIN"], "end of file": ["", ""]},
    over=_PACKETS,
    notes="A reader that stops at the first empty result lets its peer end the conversation by an empty packet.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    before = events(right)
    left.send(b"")
    polled = events(right)
    left.send(b"x")
    received = [outcome(right.recv, 10, _NOW) for _ in range(3)]
    left.close()
    return {
        "poll": [before, polled],
        "received": received,
        "end of file": [outcome(right.recv, 10, _NOW) for _ in range(2)],
    }


@behaviour(
    "SEQ-03",
    "sendto ignores the address of a socket with a peer; without one it is ENOTCONN, whatever the address",
    source="gVisor test/syscalls/linux/socket_unix_unbound_seqpacket.cc, SendtoWithoutConnectIgnoresAddr; "
    "socket_unix_seqpacket.cc, Sendto",
    expected={"no peer": "ENOTCONN", "no peer, no such address": "ENOTCONN", "peer": "ok", "arrives": "to the peer"},
    over=_NAMED,
    notes="The same call is EISCONN on a stream, and goes to the address on a datagram socket.",
)
def _(kit: Kit, kind: Kind) -> object:
    def name() -> object:
        return kit.path() if kind is Kind.PATHNAME else kit.abstract()

    other = kit.socket("seqpacket", bind=name(), listen=1)
    left, right = kit.pair(Pair(kind, SocketType.SEQPACKET))
    fresh = kit.socket("seqpacket")
    return {
        "no peer": errno_of(fresh.sendto, b"x", other.getsockname()),
        "no peer, no such address": errno_of(fresh.sendto, b"x", name()),
        "peer": errno_of(left.sendto, b"to the peer", name()),
        "arrives": outcome(right.recv, 100, _NOW),
    }


@behaviour(
    "SEQ-04",
    "a packet longer than SO_SNDBUF less 32 bytes is refused with EMSGSIZE, by a blocking socket as well",
    source="FreeBSD tests/sys/kern/unix_seqpacket_test.c, emsgsize; "
    "gVisor test/syscalls/linux/socket_non_stream.cc, SendMsgTooLarge",
    expected={"longest": 39968, "longer": "EMSGSIZE", "arrives": [39968, "EAGAIN"]},
    over=_PACKETS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    if pair.blocking:
        limit_waiting(left, 0.1)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    longest = outcome(left.send, b"m" * 39968)
    longer = outcome(left.send, b"m" * 39969)
    return {
        "longest": longest,
        "longer": longer,
        "arrives": [len(right.recv(50000, _NOW)), outcome(right.recv, 1, _NOW)],
    }


@behaviour(
    "SEQ-05",
    "a receive that is too short drops the rest of the packet; only recvmsg tells, by MSG_TRUNC",
    source="gVisor test/syscalls/linux/socket_non_stream.cc, SplitRecv; recv(2), MSG_TRUNC",
    expected={"recv": "ab", "recvmsg": ["gh", True], "long enough": ["mn", False], "then": "EAGAIN"},
    over=_PACKETS,
)
def _(kit: Kit, pair: Pair) -> object:
    return receive_too_short(kit, pair)


@behaviour(
    "SEQ-06",
    "MSG_WAITALL gives one packet, and waits for no more",
    source="gVisor test/syscalls/linux/socket_non_stream_blocking.cc, RecvLessThanBufferWaitAll",
    expected=["ab", "c"],
    over=_PACKETS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"ab")
    first = outcome(right.recv, 10, socket.MSG_WAITALL)
    left.send(b"c")
    left.send(b"d")
    return [first, outcome(right.recv, 10, socket.MSG_WAITALL)]


@behaviour(
    "SEQ-07",
    "listen, connect and accept work as for streams",
    source="unix(7), Socket types; gVisor test/syscalls/linux/accept_bind.cc",
    expected=lambda kind: {
        "connect without accept": "ok",
        "second, to a full backlog": "EAGAIN",
        "client's name": True,
        "server's name": True,
        "exchange": ["to", "fro"],
        "by a stream": "EPROTOTYPE" if kind is Kind.PATHNAME else "ECONNREFUSED",
    },
    over=_NAMED,
    since=(2, 6, 4),
    notes="An abstract name of another type is another name.",
)
def _(kit: Kit, kind: Kind) -> object:
    def name() -> object:
        return kit.path() if kind is Kind.PATHNAME else kit.abstract()

    listener = kit.socket("seqpacket", bind=name(), listen=0)
    client = kit.socket("seqpacket", bind=name())
    second = kit.socket("seqpacket")
    second.setblocking(False)
    first = errno_of(client.connect, listener.getsockname())
    full = errno_of(second.connect, listener.getsockname())
    accepted, address = listener.accept()
    kit.close_at_end(accepted)
    client.send(b"to")
    accepted.send(b"fro")
    return {
        "connect without accept": first,
        "second, to a full backlog": full,
        "client's name": address == client.getsockname() == accepted.getpeername(),
        "server's name": client.getpeername() == listener.getsockname() == accepted.getsockname(),
        "exchange": [outcome(accepted.recv, 10, _NOW), outcome(client.recv, 10, _NOW)],
        "by a stream": errno_of(kit.socket().connect, listener.getsockname()),
    }


@behaviour(
    "SEQ-08",
    "SIOCINQ counts all bytes of a stream, all of all packets of seqpacket, and the first datagram alone",
    source="kernel net/unix/af_unix.c, unix_inq_len; measured; no suite covers it",
    expected=lambda each: [0, 3, 3 if each is SocketType.DGRAM else 7, 2 if each is SocketType.STREAM else 4],
    over=TYPES,
    notes="Not the length of the next packet: that is recv with MSG_PEEK and MSG_TRUNC (SEQ-11).",
)
def _(kit: Kit, type: SocketType) -> object:
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, type))

    def queued() -> int:
        number = array.array("i", [-1])
        fcntl.ioctl(right.fileno(), termios.FIONREAD, number)
        return number[0]

    seen = [queued()]
    left.send(b"abc")
    seen.append(queued())
    left.send(b"defg")
    seen.append(queued())
    right.recv(5)
    return [*seen, queued()]


@behaviour(
    "SEQ-09",
    "SO_PEEK_OFF goes on within a packet, and from one into the next; what is received moves it back",
    source="kernel net/core/datagram.c, __skb_try_recv_from_queue; socket(7), SO_PEEK_OFF; measured",
    expected={"peeks": ["ab", "cdef", "gh"], "recv": "abcdef", "peek after it": "i", "then": "EAGAIN", "rest": "ghi"},
    over=_PACKETS,
    since=(3, 4),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    left.send(b"abcdef")
    left.send(b"ghi")
    peek = socket.MSG_PEEK | _NOW
    return {
        "peeks": [outcome(right.recv, size, peek) for size in (2, 10, 2)],
        "recv": outcome(right.recv, 10, _NOW),
        "peek after it": outcome(right.recv, 10, peek),
        "then": outcome(right.recv, 10, peek),
        "rest": outcome(right.recv, 10, _NOW),
    }


@behaviour(
    "SEQ-10",
    "end of file comes again and again after the peer's close, and poll says IN, OUT, HUP and RDHUP all the while",
    source="FreeBSD tests/sys/kern/unix_seqpacket_test.c; measured",
    expected=[["", "IN|OUT|HUP|RDHUP"]] * 3,
    over=_PACKETS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.close()
    return [[outcome(left.recv, 10), events(left)] for _ in range(3)]


@behaviour(
    "SEQ-11",
    "a blocking recvfrom of nothing with MSG_TRUNC and MSG_PEEK gives the next one's length, going on after a signal",
    source="gVisor test/syscalls/linux/socket_unix_non_stream_blocking_local.cc, RecvfromTruncPeekNullBufferRestarted",
    expected={"waits": [True, True], "length": 5, "is still there": "abcde"},
    over=tuple(pair for pair in PAIRS if pair.type is not SocketType.STREAM and pair.blocking),
    needs=Requirement.CTYPES,
    notes="It goes on only if the signal's handler was set with SA_RESTART.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    signalled, woken = os.pipe()

    def receive() -> object:
        os.set_blocking(woken, False)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.siginterrupt(signal.SIGUSR1, False)
        signal.set_wakeup_fd(woken)  # written to by the handler itself
        return outcome(calls.recvfrom_nothing, right.fileno(), socket.MSG_TRUNC | socket.MSG_PEEK)

    child = kit.child(receive)
    waits = [child.sleeps()]
    os.kill(child.pid, signal.SIGUSR1)
    os.read(signalled, 1)
    waits.append(child.sleeps())
    left.send(b"abcde")
    return {"waits": waits, "length": child.result(), "is still there": outcome(right.recv, 10, _NOW)}
