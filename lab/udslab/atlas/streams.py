"""STR: stream input and output, and what all types have in common in it."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
from functools import partial
from time import monotonic

from udslab.atlas import calls
from udslab.atlas.behaviour import PAIRS, STREAMS, TYPES, Kind, Pair, behaviour
from udslab.atlas.kit import Kit, count_signals, errno_of, events, fill, limit_waiting, outcome
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

_NOW = socket.MSG_DONTWAIT
_MUCH = b"m" * (4 << 20)
_BLOCKING = tuple(pair for pair in PAIRS if pair.blocking)
_SOCKETPAIRS = tuple(pair for pair in PAIRS if pair.kind is Kind.SOCKETPAIR and pair.blocking)
_EMPTY = bytearray(0)


@behaviour(
    "STR-01",
    "a stream keeps no boundaries: sends are joined, and what is left of one is received by the next call",
    source="gVisor test/syscalls/linux/socket_stream.cc, CoalescedRecv, SplitRecv",
    expected=["abc", "d"],
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"ab")
    left.send(b"cd")
    return [outcome(right.recv, 3), outcome(right.recv, 10)]


@behaviour(
    "STR-02",
    "a send of nothing on a stream does nothing: the peer cannot tell that it was",
    source="kernel net/unix/af_unix.c, unix_stream_sendmsg; measured; no suite covers it",
    expected={"send": 0, "poll": "OUT", "recv": "EAGAIN", "recv after a real send": "x"},
    over=STREAMS,
    notes="A datagram or a packet of nothing is delivered: see DGR-02 and SEQ-02.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    return {
        "send": outcome(left.send, b""),
        "poll": events(right),
        "recv": outcome(right.recv, 10, _NOW),
        "recv after a real send": (left.send(b"x"), outcome(right.recv, 10, _NOW))[1],
    }


@behaviour(
    "STR-03",
    "a non-blocking send of more than fits takes a part, and the next one says EAGAIN",
    source="gVisor test/syscalls/linux/socket_stream_nonblock.cc, SendMsgTooLarge; POSIX.1-2017 send",
    expected={"first takes a part": True, "second": "EAGAIN", "all of the part arrives": True},
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    sent = left.send(_MUCH, _NOW)
    again = errno_of(left.send, b"x", _NOW)
    arrived = 0
    while arrived < sent:
        arrived += len(right.recv(1 << 20, _NOW))
    return {
        "first takes a part": 0 < sent < len(_MUCH),
        "second": again,
        "all of the part arrives": outcome(right.recv, 1, _NOW) == "EAGAIN" and arrived == sent,
    }


@behaviour(
    "STR-04",
    "sends on a stream without a peer fail without SIGPIPE; a stream takes no address, with a peer or without",
    source="gVisor test/syscalls/linux/socket_unix_unbound_stream.cc, SendtoWithoutConnect; "
    "socket_unix_stream.cc, Sendto",
    expected={"send": "ENOTCONN", "sendto": "EOPNOTSUPP", "sendto with a peer": "EISCONN", "SIGPIPE": 0},
    notes="POSIX lets the address be ignored, or EISCONN.",
)
def _(kit: Kit) -> object:
    pipes = count_signals(signal.SIGPIPE)
    listener = kit.socket(bind=kit.path(), listen=1)
    client = kit.socket()
    seen: dict[str, object] = {
        "send": errno_of(client.send, b"x"),
        "sendto": errno_of(client.sendto, b"x", listener.getsockname()),
    }
    client.connect(listener.getsockname())
    seen["sendto with a peer"] = errno_of(client.sendto, b"x", listener.getsockname())
    return {**seen, "SIGPIPE": len(pipes)}


@behaviour(
    "STR-05",
    "recv on a stream that has never been connected says EINVAL, not ENOTCONN",
    source="kernel net/unix/af_unix.c, unix_stream_read_generic; POSIX.1-2017 recv (ENOTCONN)",
    expected={"fresh": "EINVAL", "bound": "EINVAL", "listening": "EINVAL"},
)
def _(kit: Kit) -> object:
    bound = kit.socket(bind=kit.path())
    listening = kit.socket(bind=kit.path(), listen=1)
    return {
        "fresh": outcome(kit.socket().recv, 1),
        "bound": outcome(bound.recv, 1),
        "listening": outcome(listening.recv, 1),
    }


@behaviour(
    "STR-06",
    "recv without a peer: ENOTCONN for seqpacket; a datagram socket waits",
    source="kernel net/unix/af_unix.c, unix_seqpacket_recvmsg; measured; no suite covers it",
    expected=lambda each: ["EAGAIN"] * 2 if each is SocketType.DGRAM else ["ENOTCONN"] * 2,
    over=(SocketType.DGRAM, SocketType.SEQPACKET),
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    limit_waiting(sock, 0.02)
    return [outcome(sock.recv, 1, _NOW), outcome(sock.recv, 1)]


@behaviour(
    "STR-07",
    "recvfrom on a stream tells the name that the sender is bound to",
    source="gVisor test/syscalls/linux/accept_bind.cc, BoundSenderAddr; unix(7), Address format",
    expected=["x", True],
    over=(Kind.PATHNAME, Kind.ABSTRACT),
    notes="Other systems give no address on a stream.",
)
def _(kit: Kit, kind: Kind) -> object:
    listener = kit.socket(bind=kit.path(), listen=1)
    name = kit.path() if kind is Kind.PATHNAME else kit.abstract()
    client = kit.socket(bind=name)
    client.connect(listener.getsockname())
    client.send(b"x")
    data, address = kit.close_at_end(listener.accept()[0]).recvfrom(10)
    return [data.decode(), address == name]


@behaviour(
    "STR-08",
    "recvfrom on a stream tells no address of a sender that is not bound",
    source="gVisor test/syscalls/linux/accept_bind.cc, UnboundSenderAddr",
    expected=lambda pair: {"unbound": None, "the other way has one": pair.kind is not Kind.SOCKETPAIR},
    over=STREAMS,
    notes="The length of the address is 0, which Python gives as None. What was accepted has the listener's name.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    right.send(b"x")
    return {"unbound": right.recvfrom(10)[1], "the other way has one": left.recvfrom(10)[1] is not None}


@behaviour(
    "STR-09",
    "MSG_EOR and MSG_MORE change nothing on a stream",
    source="unix(7), Socket types; measured; no suite covers it",
    expected=[2, 2, 2, "abcdef", 0],
    over=STREAMS,
    notes="MSG_MORE holds nothing back, as it would on TCP.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    sent = [left.send(b"ab", socket.MSG_EOR), left.send(b"cd", 0x8000), left.send(b"ef")]
    data, _, flags, _ = right.recvmsg(100, 0, _NOW)
    return [*sent, data.decode(), flags]


@behaviour(
    "STR-11",
    "sendfile into a stream, and splice into and out of it, work",
    source="kernel net/unix/af_unix.c, unix_stream_splice_read; measured; no suite covers it",
    expected={"sendfile": "abc", "splice in": "def", "splice out": "ghi"},
    over=STREAMS,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    source, sink = os.pipe()
    with open(kit.path(), "w+b") as file:
        file.write(b"abc")
        file.flush()
        os.sendfile(left.fileno(), file.fileno(), 0, 3)
    seen = {"sendfile": outcome(right.recv, 10, _NOW)}
    os.write(sink, b"def")
    calls.splice(source, left.fileno(), 3)
    seen["splice in"] = outcome(right.recv, 10, _NOW)
    left.send(b"ghi")
    calls.splice(right.fileno(), sink, 3)
    seen["splice out"] = os.read(source, 10).decode()
    return seen


@behaviour(
    "STR-12",
    "SO_RCVLOWAT makes recv wait for that many bytes; poll wakes for one all the same",
    source="measured; socket(7), SO_RCVLOWAT (which says that poll heeds it, too); "
    "gVisor test/syscalls/linux/socket_generic_test_cases.cc, GetSetSocketRcvlowatOption",
    expected={"1": [False, "ab"], "4": [True, "abcd"], "poll": "IN|OUT", "without waiting": "ab"},
    notes="So a program that polls and then calls recv on a blocking socket may hang in recv.",
)
def _(kit: Kit) -> object:
    seen: dict[str, object] = {}
    for low in (1, 4):
        left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
        right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
        left.send(b"ab")
        child = kit.child(partial(outcome, right.recv, 10))
        waits = child.sleeps()
        left.send(b"cd")
        seen[str(low)] = [waits, child.result()]
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    left.send(b"ab")
    return {**seen, "poll": events(right), "without waiting": outcome(right.recv, 10, _NOW)}


@behaviour(
    "STR-13",
    "when SO_RCVTIMEO or SO_SNDTIMEO has passed, the call fails with EAGAIN",
    source="socket(7), SO_RCVTIMEO and SO_SNDTIMEO; "
    "gVisor test/syscalls/linux/socket_generic_test_cases.cc, RecvTimeoutRecvSucceeds",
    expected={"recv": ["EAGAIN", True], "send": ["EAGAIN", True]},
    over=_BLOCKING,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    for end in (left, right):
        limit_waiting(end, 0.02)
    fill(left)
    seen = {}
    for name, call in (("recv", partial(left.recv, 1)), ("send", partial(left.send, b"x"))):
        began = monotonic()
        seen[name] = [outcome(call), monotonic() - began > 0.015]
    return seen


@behaviour(
    "STR-14",
    "a socket has no position: lseek, pread and pwrite say ESPIPE",
    source="POSIX.1-2017 lseek; measured; no suite covers it",
    expected=["ESPIPE", "ESPIPE", "ESPIPE"],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.send(b"x")
    fd = left.fileno()
    return [errno_of(os.lseek, fd, 0, os.SEEK_SET), errno_of(os.pread, fd, 1, 0), errno_of(os.pwrite, fd, b"x", 0)]


@behaviour(
    "STR-15",
    "one recvfrom takes what was sent before and after the sender's bind, with the name as address",
    source="gVisor test/syscalls/linux/accept_bind_stream.cc, BoundSenderAddrCoalesced",
    expected=["ab", True],
)
def _(kit: Kit) -> object:
    listener = kit.socket(bind=kit.path(), listen=1)
    client = kit.socket()
    client.connect(listener.getsockname())
    accepted = kit.close_at_end(listener.accept()[0])
    client.send(b"a")
    client.bind(kit.path())
    client.send(b"b")
    data, address = accepted.recvfrom(10)
    return [data.decode(), address == client.getsockname()]


@behaviour(
    "STR-16",
    "a send of mapped memory that lies beyond the end of its file says EFAULT, and nothing arrives",
    source="gVisor test/syscalls/linux/socket_unix.cc, SendFromMmapBeyondEof",
    expected={"within": 8, "beyond": "EFAULT", "arrived": 8, "then": "EAGAIN"},
    over=_SOCKETPAIRS,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, pair: Pair) -> object:
    import ctypes

    left, right = kit.pair(pair)
    with open(kit.path(), "w+b") as file:
        file.truncate(2 * mmap.PAGESIZE)
        mapping = mmap.mmap(file.fileno(), 2 * mmap.PAGESIZE)
        file.truncate(mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        seen = {
            "within": outcome(calls.send_at, left.fileno(), address, 8, _NOW),
            "beyond": outcome(calls.send_at, left.fileno(), address + mmap.PAGESIZE, 8, _NOW),
        }
    data = right.recv(100, _NOW)
    return {**seen, "arrived": len(data), "then": outcome(right.recv, 100, _NOW)}


@behaviour(
    "STR-17",
    "sendmmsg takes 1,024 messages at the most; recvmmsg looks at its timeout after a message, and refuses a false one",
    source="gVisor test/syscalls/linux/socket_generic_test_cases.cc, "
    "SendmmsgIsLimitedByMAXIOV, RecvmmsgInvalidTimeout; socket_unix.cc, RecvmmsgTimeoutAfterRecv",
    expected={
        "sendmmsg of 1,025": 1024,
        "recvmmsg of 3": 3,
        "within a nanosecond": 1,
        "false timeout": "EINVAL",
        "left": "yz",
    },
    needs=Requirement.CTYPES,
)
def _(kit: Kit) -> object:
    stream, _ = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.DGRAM))
    seen = {"sendmmsg of 1,025": outcome(calls.sendmmsg, stream.fileno(), [b""] * 1025)}
    calls.sendmmsg(left.fileno(), [b"1", b"2", b"3"])
    seen["recvmmsg of 3"] = outcome(calls.recvmmsg, right.fileno(), 3)
    calls.sendmmsg(left.fileno(), [b"x", b"y", b"z"])
    seen["within a nanosecond"] = outcome(calls.recvmmsg, right.fileno(), 3, 0, (0, 1))
    seen["false timeout"] = outcome(calls.recvmmsg, right.fileno(), 3, 0, (0, 1_000_000_000))
    return {**seen, "left": outcome(right.recv, 10, _NOW) + outcome(right.recv, 10, _NOW)}


@behaviour(
    "STR-18",
    "recvmsg overwrites msg_flags when it succeeds and leaves it when it fails; it never writes to the iovec",
    source="gVisor test/syscalls/linux/socket_generic_test_cases.cc, "
    "RecvmsgMsghdrFlagsCleared, RecvmsgMsghdrFlagsNotClearedOnFailure, RecvmsgIovNotUpdated",
    expected={"failed": ["EAGAIN", 0x12345678, True], "succeeded": [3, 0, True]},
    over=_SOCKETPAIRS,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = {}
    for name in ("failed", "succeeded"):
        said, flags, same = calls.recvmsg_flags(right.fileno(), 10, _NOW, 0x12345678)
        seen[name] = [_name(said), flags, same]
        left.send(b"abc")
    return seen


def _name(said: object) -> object:
    def fail() -> object:
        if isinstance(said, OSError):
            raise said
        return said

    return outcome(fail)


@behaviour(
    "STR-19",
    "time-outs with a million microseconds or negative ones are refused with EDOM; negative seconds mean not to wait",
    source="kernel net/core/sock.c, sock_set_timeout; gVisor test/syscalls/linux/socket_generic_test_cases.cc, "
    "RecvTimeoutUsecTooLarge, SendTimeoutUsecNeg, RecvTimeoutNegSecRead",
    expected={
        "receive": {"1,000,000 us": "EDOM", "-1 us": "EDOM", "-1 s": "ok", "999,999 us": "ok"},
        "send": {"1,000,000 us": "EDOM", "-1 us": "EDOM", "-1 s": "ok", "999,999 us": "ok"},
        "recv": "EAGAIN",
        "send when full": "EAGAIN",
    },
    over=_SOCKETPAIRS,
    notes="0 seconds means to wait for ever.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, _ = kit.pair(pair)
    times = {"999,999 us": (0, 999_999), "1,000,000 us": (0, 1_000_000), "-1 us": (0, -1), "-1 s": (-1, 0)}
    seen: dict[str, object] = {}
    for option, word in ((socket.SO_RCVTIMEO, "receive"), (socket.SO_SNDTIMEO, "send")):
        seen[word] = {
            name: errno_of(left.setsockopt, socket.SOL_SOCKET, option, struct.pack("@ll", *time))
            for name, time in times.items()
        }
    fill(left)
    return {**seen, "recv": outcome(left.recv, 1), "send when full": outcome(left.send, b"x")}


@behaviour(
    "STR-20",
    "a blocked send that has taken a part gives the short count when the peer closes; the next one fails with EPIPE",
    source="gVisor test/syscalls/linux/socket_stream_blocking.cc, BlockPartialWriteClosed",
    expected={"waited": True, "a part": True, "next": "EPIPE", "SIGPIPE": 1},
    over=tuple(pair for pair in STREAMS if pair.blocking),
    notes="A short count is all that tells of the loss: not what the peer has read.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def send() -> object:
        right.close()
        pipes = count_signals(signal.SIGPIPE)
        sent = left.send(_MUCH)
        again = errno_of(left.send, b"x")
        return {"a part": 0 < sent < len(_MUCH), "next": again, "SIGPIPE": len(pipes)}

    child = kit.child(send)
    waited = child.sleeps()
    right.close()
    return {"waited": waited, **child.result()}


@behaviour(
    "STR-21",
    "readv into memory that is not there says EFAULT, and with no vectors gives 0",
    source="gVisor test/syscalls/linux/readv_socket.cc, BadIovecBase, ZeroIovecs",
    expected=lambda each: {
        "no vectors": 0,
        "bad base": "EFAULT",
        "then": "EAGAIN" if each is not SocketType.STREAM else "abc",
    },
    over=TYPES,
    needs=Requirement.CTYPES,
    notes="A stream keeps what could not be copied; a datagram or a packet is lost.",
)
def _(kit: Kit, type: SocketType) -> object:
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, type, blocking=False))
    left.send(b"abc")
    return {
        "no vectors": outcome(os.readv, right.fileno(), []),
        "bad base": outcome(calls.readv_at, right.fileno(), [(1, 10)]),
        "then": outcome(right.recv, 10),
    }


@behaviour(
    "STR-22",
    "a receive of no length: EAGAIN if nothing is there, otherwise 0; it takes a datagram or packet, no stream data",
    source="gVisor test/syscalls/linux/socket_unix_stream.cc, ZeroLengthRecvEmptyQueue, ZeroLengthRecvPendingData; "
    "socket_unix_non_stream.cc, ZeroLengthRecvPendingMessage",
    expected=lambda pair: ["EAGAIN", 0, "ab" if pair.type is SocketType.STREAM else "EAGAIN"],
    over=PAIRS,
    notes="Python's recv(0) makes no call at all: the measurement is recvmsg's.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def receive_nothing() -> int:
        return int(right.recvmsg_into([_EMPTY], 0, _NOW)[0])

    empty = outcome(receive_nothing)
    left.send(b"ab")
    return [empty, outcome(receive_nothing), outcome(right.recv, 10, _NOW)]
