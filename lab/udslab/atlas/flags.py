"""FLG: the flags of send and receive, and the options that go with them."""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from udslab.atlas.behaviour import CONNECTED, PAIRS, RECORDS, STREAMS, TYPES, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, events, outcome
from udslab.socktype import SocketType
from udslab.support import fcntl

__all__: list[str] = []

# linux/socket.h; other platforms' Pythons, where this can be imported at least, lack some of them.
_OOB = 0x01
_PEEK = 0x02
_NOW = 0x40
_CMSG_CLOEXEC = 0x40000000
_ERRQUEUE = 0x2000
_SO_PEEK_OFF = 42
_SO_INQ = 84
_SO_TIMESTAMP = 29
_SIOCATMARK = 0x8905
_SOCKETPAIRS = tuple(Pair(Kind.SOCKETPAIR, type) for type in TYPES)
_BLOCKING_STREAMS = tuple(pair for pair in STREAMS if pair.blocking)


def _ioctl(sock: socket.socket, request: int) -> int:
    number = array.array("i", [-1])
    fcntl.ioctl(sock.fileno(), request, number)
    return number[0]


def _urgent_pair(kit: Kit, pair: Pair | None = None) -> tuple[socket.socket, socket.socket]:
    """A pair of streams that can send out of band."""
    left, _ = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    if errno_of(left.send, b"x", _OOB) == "EOPNOTSUPP":
        raise NotHere("streams without MSG_OOB: a kernel without CONFIG_AF_UNIX_OOB")
    return kit.pair(pair or Pair(Kind.SOCKETPAIR, SocketType.STREAM))


@behaviour(
    "FLG-01",
    "MSG_PEEK leaves what it gives",
    source="POSIX.1-2017 recv; gVisor test/syscalls/linux/socket_generic_test_cases.cc, MsgPeek",
    expected=["abc", "abc", "abc", "EAGAIN"],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"abc")
    flags = (_PEEK | _NOW, _PEEK | _NOW, _NOW, _NOW)
    return [outcome(right.recv, 10, each) for each in flags]


@behaviour(
    "FLG-02",
    "MSG_PEEK on a stream gives what several sends have brought; of datagrams and packets, the first",
    source="kernel net/unix/af_unix.c, unix_stream_read_generic; "
    "gVisor test/syscalls/linux/socket_unix_unbound_stream.cc, SinglePeek",
    expected=lambda pair: ["abcd", "abcd"] if pair.type is SocketType.STREAM else ["ab", "ab"],
    over=PAIRS,
    notes="Before Linux 4.4 a stream gave the first send alone.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"ab")
    left.send(b"cd")
    return [outcome(right.recv, 10, _PEEK | _NOW), outcome(right.recv, 10, _NOW)]


@behaviour(
    "FLG-03",
    "SO_PEEK_OFF is -1 at first; set, it goes forward with each peek and back with each receive",
    source="socket(7), SO_PEEK_OFF; kernel selftest net/af_unix/so_peek_off.c",
    expected=lambda pair: {
        "at first": -1,
        "peeks": ["ab", "cd"],
        "offset": 4,
        "recv": "abc" if pair.type is SocketType.STREAM else "abcdef",
        "offset after it": 1 if pair.type is SocketType.STREAM else 0,
        "peek": "e" if pair.type is SocketType.STREAM else "EAGAIN",
    },
    over=PAIRS,
    since=(3, 4),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def offset() -> object:
        return outcome(right.getsockopt, socket.SOL_SOCKET, _SO_PEEK_OFF)

    seen: dict[str, object] = {"at first": offset()}
    right.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    left.send(b"abcdef")
    seen["peeks"] = [outcome(right.recv, 2, _PEEK | _NOW) for _ in range(2)]
    seen["offset"] = offset()
    seen["recv"] = outcome(right.recv, 3 if pair.type is SocketType.STREAM else 10, _NOW)
    seen["offset after it"] = offset()
    seen["peek"] = outcome(right.recv, 1, _PEEK | _NOW)
    return seen


@behaviour(
    "FLG-04",
    "a peek beyond what is there is EAGAIN with MSG_DONTWAIT, and waits without",
    source="kernel selftest net/af_unix/so_peek_off.c, two_chunks_blocking",
    expected={"peek": "abc", "not waiting": "EAGAIN", "waits": True, "gets": "de"},
    over=_SOCKETPAIRS,
    since=(3, 4),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    left.send(b"abc")
    seen = {"peek": outcome(right.recv, 10, _PEEK), "not waiting": outcome(right.recv, 10, _PEEK | _NOW)}
    child = kit.child(partial(outcome, right.recv, 10, _PEEK))
    waits = child.sleeps()
    left.send(b"de")
    return {**seen, "waits": waits, "gets": child.result()}


@behaviour(
    "FLG-05",
    "MSG_TRUNC makes a receive tell the real length of a datagram or packet; a stream ignores it",
    source="recv(2), MSG_TRUNC; gVisor test/syscalls/linux/socket_non_stream.cc, MsgTruncTruncation; "
    "socket_stream.cc, MsgTrunc",
    expected=lambda pair: [2, "ab", "cde"] if pair.type is SocketType.STREAM else [5, "ab", "EAGAIN"],
    over=PAIRS,
    since=(3, 4),
    notes="Not with Python's recv: its result would be longer than what was copied. TCP would discard data.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"abcde")
    buffer = bytearray(2)
    length = outcome(right.recv_into, buffer, 2, socket.MSG_TRUNC | _NOW)
    return [length, buffer.decode(), outcome(right.recv, 10, _NOW)]


@behaviour(
    "FLG-06",
    "MSG_PEEK with MSG_TRUNC into nothing gives the length of the next datagram or packet, and leaves it",
    source="gVisor test/syscalls/linux/socket_non_stream.cc, RecvmsgMsgTruncMsgPeekZeroLen",
    expected=["EAGAIN", 5, 5, "abcde"],
    over=RECORDS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def length() -> int:
        return int(right.recvmsg_into([bytearray(0)], 0, _PEEK | socket.MSG_TRUNC | _NOW)[0])

    empty = outcome(length)
    left.send(b"abcde")
    return [empty, outcome(length), outcome(length), outcome(right.recv, 10, _NOW)]


@behaviour(
    "FLG-07",
    "MSG_WAITALL waits until the buffer of a stream is full; with datagrams and packets it gives one",
    source="recv(2), MSG_WAITALL; gVisor test/syscalls/linux/socket_generic_test_cases.cc, RecvWaitAll; "
    "socket_stream_blocking.cc, RecvLessThanBufferWaitAll",
    expected=lambda pair: {
        "without": [False, "ab"],
        "with": [True, "abcd"] if pair.type is SocketType.STREAM else [False, "ab"],
        "at the end": "ef",
    },
    over=tuple(pair for pair in PAIRS if pair.blocking),
)
def _(kit: Kit, pair: Pair) -> object:
    seen: dict[str, object] = {}
    for name, flags in (("without", 0), ("with", socket.MSG_WAITALL)):
        left, right = kit.pair(pair)
        left.send(b"ab")
        child = kit.child(partial(outcome, right.recv, 4, flags))
        waits = child.sleeps()
        left.send(b"cd")
        seen[name] = [waits, child.result()]
    left, right = kit.pair(pair)
    left.send(b"ef")
    left.close()
    return {**seen, "at the end": outcome(right.recv, 4, socket.MSG_WAITALL)}


@behaviour(
    "FLG-08",
    "MSG_DONTWAIT makes one call not wait: EAGAIN when nothing is there",
    source="recv(2), MSG_DONTWAIT; gVisor test/syscalls/linux/socket_non_blocking.cc, RecvNothingAvailable",
    expected=["EAGAIN", "x", "EAGAIN"],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    empty = outcome(right.recv, 1, _NOW)
    left.send(b"x")
    return [empty, outcome(right.recv, 1, _NOW), outcome(right.recv, 1, _NOW)]


@behaviour(
    "FLG-09",
    "streams take MSG_OOB: the last byte is urgent, poll says PRI, SIOCATMARK tells when it is next",
    source="kernel selftest net/af_unix/msg_oob.c, oob, oob_ahead; unix(7), Socket types (which says no)",
    expected={
        "before": ["OUT", 0],
        "sent": 3,
        "poll": "IN|PRI|OUT",
        "mark": [0, 1],
        "ordinary": "ab",
        "urgent": "c",
        "after it": ["IN|OUT", "EAGAIN"],
    },
    over=STREAMS,
    since=(5, 15),
    notes="When the byte is taken poll still says IN, with nothing to receive. CONFIG_AF_UNIX_OOB can be off.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = _urgent_pair(kit, pair)
    seen: dict[str, object] = {"before": [events(right), _ioctl(right, _SIOCATMARK)]}
    seen["sent"] = left.send(b"abc", _OOB)
    seen["poll"] = events(right)
    marks = [_ioctl(right, _SIOCATMARK)]
    seen["ordinary"] = outcome(right.recv, 10, _NOW)
    marks.append(_ioctl(right, _SIOCATMARK))
    seen["mark"] = marks
    seen["urgent"] = outcome(right.recv, 10, _OOB)
    seen["after it"] = [events(right), outcome(right.recv, 10, _NOW)]
    return seen


@behaviour(
    "FLG-10",
    "datagrams and packets cannot be urgent: MSG_OOB is EOPNOTSUPP, in sends and in receives",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg and __unix_dgram_recvmsg; unix(7), Socket types",
    expected={"send": "EOPNOTSUPP", "recv": "EOPNOTSUPP", "recv with one queued": "EOPNOTSUPP", "queued": "x"},
    over=RECORDS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = {"send": outcome(left.send, b"x", _OOB), "recv": outcome(right.recv, 1, _OOB)}
    left.send(b"x")
    return {
        **seen,
        "recv with one queued": outcome(right.recv, 1, _OOB),
        "queued": outcome(right.recv, 1, _NOW),
    }


@behaviour(
    "FLG-11",
    "an ordinary receive stops before the urgent byte; the next one passes over it, and it is lost",
    source="kernel selftest net/af_unix/msg_oob.c, oob_break, oob_break_drop",
    expected=["ab", "de", "EINVAL", "EAGAIN"],
    over=STREAMS,
    since=(5, 15),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = _urgent_pair(kit, pair)
    left.send(b"abc", _OOB)
    left.send(b"de")
    return [outcome(right.recv, 10, flags) for flags in (_NOW, _NOW, _OOB | _NOW, _NOW)]


@behaviour(
    "FLG-12",
    "an urgent byte sends SIGURG to the receiving socket's owner (F_SETOWN), an ordinary one does not",
    source="kernel selftest net/af_unix/msg_oob.c (its checks of SIGURG); fcntl(2), F_SETOWN; measured",
    expected={"ordinary": None, "urgent": "SIGURG", "without owner": None},
    over=STREAMS,
    since=(5, 15),
)
def _(kit: Kit, pair: Pair) -> object:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})

    def pending() -> str | None:
        got = signal.sigtimedwait({signal.SIGURG}, 0)
        return None if got is None else signal.Signals(got.si_signo).name

    left, right = _urgent_pair(kit, pair)
    left.send(b"x", _OOB)
    without = pending()
    left, right = kit.pair(pair)
    fcntl.fcntl(right.fileno(), fcntl.F_SETOWN, os.getpid())
    left.send(b"x")
    ordinary = pending()
    left.send(b"y", _OOB)
    return {"ordinary": ordinary, "urgent": pending(), "without owner": without}


@behaviour(
    "FLG-13",
    "recv with MSG_OOB is EINVAL where nothing urgent is, and with SO_OOBINLINE, which leaves the byte in its place",
    source="kernel selftest net/af_unix/msg_oob.c, non_oob, inline_oob",
    expected={"nothing": "EINVAL", "ordinary": "EINVAL", "inline": ["EINVAL", "ab", "c", "EAGAIN"], "mark": 1},
    over=STREAMS,
    since=(5, 15),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = _urgent_pair(kit, pair)
    seen: dict[str, object] = {"nothing": outcome(right.recv, 1, _OOB)}
    left.send(b"x")
    seen["ordinary"] = outcome(right.recv, 1, _OOB)
    right.recv(1)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    left.send(b"abc", _OOB)
    got = [outcome(right.recv, 10, _OOB), outcome(right.recv, 10, _NOW)]
    seen["mark"] = _ioctl(right, _SIOCATMARK)
    seen["inline"] = [*got, outcome(right.recv, 10, _NOW), outcome(right.recv, 10, _NOW)]
    return seen


@behaviour(
    "FLG-14",
    "nothing cannot be urgent: MSG_OOB without a byte is EOPNOTSUPP",
    source="kernel net/unix/af_unix.c, unix_stream_sendmsg; measured; no suite covers it",
    expected=["EOPNOTSUPP", 1, "x"],
    over=STREAMS,
    since=(5, 15),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = _urgent_pair(kit, pair)
    return [outcome(left.send, b"", _OOB), outcome(left.send, b"x", _OOB), outcome(right.recv, 1, _OOB)]


@behaviour(
    "FLG-15",
    "there is no error queue: MSG_ERRQUEUE is ignored, and gives what is there",
    source="measured; no suite covers it",
    expected=["x", "EAGAIN"],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    return [outcome(right.recv, 10, _ERRQUEUE | _NOW), outcome(right.recv, 10, _ERRQUEUE | _NOW)]


@behaviour(
    "FLG-16",
    "msg_flags of recvmsg repeats MSG_CMSG_CLOEXEC if the caller has set it",
    source="kernel net/socket.c, ____sys_recvmsg; measured; no suite covers it",
    expected={"set": _CMSG_CLOEXEC, "not set": 0},
    over=PAIRS,
    notes="Compare single flags, never msg_flags with 0.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = {}
    for name, flags in (("set", _CMSG_CLOEXEC), ("not set", 0)):
        left.send(b"x")
        seen[name] = right.recvmsg(10, 100, flags | _NOW)[2]
    return seen


@behaviour(
    "FLG-17",
    "SO_TIMESTAMP brings the time of a datagram or packet; a stream takes the option and brings nothing",
    source="kernel net/core/datagram.c and net/unix/af_unix.c; socket(7), SO_TIMESTAMP; measured; no suite covers it",
    expected=lambda pair: {"without": [], "with": [] if pair.type is SocketType.STREAM else [_SO_TIMESTAMP]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    seen = {}
    for name in ("without", "with"):
        left.send(b"x")
        seen[name] = [type for _, type, _ in right.recvmsg(10, 1000, _NOW)[1]]
        right.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return seen


@behaviour(
    "FLG-18",
    "SO_INQ on a stream lets each recvmsg tell how many bytes are left; other types refuse it",
    source="kernel selftest net/af_unix/scm_inq.c; kernel net/unix/af_unix.c, unix_setsockopt",
    expected=lambda pair: ["ok", [], [[_SO_INQ, 4]]] if pair.type is SocketType.STREAM else "ENOPROTOOPT",
    over=PAIRS,
    since=(6, 17),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"abcdefgh")
    without = [] if pair.type is not SocketType.STREAM else right.recvmsg(2, 100, _NOW)[1]
    said = errno_of(right.setsockopt, socket.SOL_SOCKET, _SO_INQ, 1)
    if said != "ok":
        return said
    left_over = right.recvmsg(2, 100, _NOW)[1]
    return [said, without, [[type, struct.unpack("@i", data)[0]] for _, type, data in left_over]]


@behaviour(
    "FLG-19",
    "a peek at a connection that was reset takes ECONNRESET away: the receive after it gives end of file",
    source="kernel net/core/sock.h, sock_error; measured; no suite covers it",
    expected=["ECONNRESET", "", ""],
    over=CONNECTED,
    notes="Who looks whether the peer is still there by MSG_PEEK must not forget what it said.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    right.close()
    return [outcome(left.recv, 10, flags) for flags in (_PEEK | _NOW, _NOW, _NOW)]


@dataclass(frozen=True)
class _Course:
    """What is done with urgent bytes, one step after the other, and what each gives.

    A step: ``send``, ``urgent`` (their last byte is), ``recv`` or ``take`` (the urgent byte) with what is sent, or how
    much there is room for."""

    name: str
    steps: tuple[tuple[str, Any, Any], ...]

    def __str__(self) -> str:
        return self.name


_COURSES = (
    _Course("taken ahead", (("urgent", "abc", 3), ("take", 1, "c"), ("recv", 9, "ab"), ("recv", 9, "EAGAIN"))),
    _Course(
        "a taken one still breaks",
        (("urgent", "abc", 3), ("send", "de", 2), ("take", 1, "c"), ("recv", 9, "ab"), ("recv", 9, "de")),
    ),
    _Course("dropped alone", (("urgent", "x", 1), ("recv", 9, "EAGAIN"), ("take", 1, "EINVAL"))),
    _Course("taken once", (("urgent", "x", 1), ("take", 1, "x"), ("take", 1, "EINVAL"), ("recv", 9, "EAGAIN"))),
    _Course(
        "a second makes the first ordinary",
        (("urgent", "abc", 3), ("urgent", "de", 2), ("recv", 9, "abcd"), ("take", 1, "e"), ("recv", 9, "EAGAIN")),
    ),
    _Course(
        "the second taken first",
        (("urgent", "x", 1), ("urgent", "y", 1), ("take", 1, "y"), ("recv", 9, "x"), ("recv", 9, "EAGAIN")),
    ),
    _Course(
        "a third after one was taken",
        (
            ("urgent", "abc", 3),
            ("urgent", "de", 2),
            ("take", 1, "e"),
            ("urgent", "fg", 2),
            ("recv", 9, "abcdf"),
            ("take", 1, "g"),
        ),
    ),
    _Course(
        "two taken, then an ordinary",
        (
            ("urgent", "x", 1),
            ("take", 1, "x"),
            ("urgent", "y", 1),
            ("take", 1, "y"),
            ("send", "z", 1),
            ("recv", 9, "z"),
        ),
    ),
)


@behaviour(
    "FLG-20",
    "urgent bytes in a row: a new one makes the last one ordinary, one taken leaves a mark that stops receives",
    source="kernel selftest net/af_unix/msg_oob.c (oob_ahead_break, ex_oob_drop, ex_oob_ahead_break and others); "
    "LTP cve-2025-38236",
    expected=lambda course: [wanted for _, _, wanted in course.steps],
    over=_COURSES,
    since=(6, 16),
    notes="Older kernels go other ways in some of these. TCP drops what was urgent, where this keeps it as ordinary.",
)
def _(kit: Kit, course: _Course) -> object:
    left, right = _urgent_pair(kit)
    do: dict[str, Callable[[Any], Any]] = {
        "send": lambda text: outcome(left.send, text.encode(), _NOW),
        "urgent": lambda text: outcome(left.send, text.encode(), _NOW | _OOB),
        "recv": lambda room: outcome(right.recv, room, _NOW),
        "take": lambda room: outcome(right.recv, room, _NOW | _OOB),
    }
    return [do[word](what) for word, what, _ in course.steps]
