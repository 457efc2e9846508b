"""POL: poll, epoll and signals."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
from functools import partial

from udslab.atlas.behaviour import CONNECTED, PAIRS, TYPES, Kind, Pair, behaviour
from udslab.atlas.kit import Child, Kit, errno_of, events, outcome
from udslab.socktype import SocketType
from udslab.support import fcntl, termios

__all__: list[str] = []

_NOW = socket.MSG_DONTWAIT
_DATAGRAMS = tuple(pair for pair in PAIRS if pair.type is SocketType.DGRAM)
_LISTENERS = tuple(
    Pair(kind, type) for kind in (Kind.PATHNAME, Kind.ABSTRACT) for type in (SocketType.STREAM, SocketType.SEQPACKET)
)
_SOCKETPAIRS = tuple(Pair(Kind.SOCKETPAIR, type) for type in TYPES)


def _fresh(kit: Kit, type: str) -> object:
    return {"fresh": events(kit.socket(type)), "bound": events(kit.socket(type, bind=kit.path()))}


@behaviour(
    "POL-01",
    "a stream that has no peer yet is writable and hung up",
    source="kernel net/unix/af_unix.c, unix_poll; measured; no suite covers it",
    expected={"fresh": "OUT|HUP", "bound": "OUT|HUP"},
    notes="Who registers a socket with an event loop before connect is woken at once. BSDs do not say writable.",
)
def _(kit: Kit) -> object:
    return _fresh(kit, "stream")


@behaviour(
    "POL-02",
    "a datagram socket without a peer is writable",
    source="kernel net/unix/af_unix.c, unix_dgram_poll; measured; no suite covers it",
    expected={"fresh": "OUT", "bound": "OUT"},
)
def _(kit: Kit) -> object:
    return _fresh(kit, "dgram")


@behaviour(
    "POL-03",
    "a seqpacket socket that has no peer yet is writable and hung up",
    source="kernel net/unix/af_unix.c, unix_dgram_poll; measured; no suite covers it",
    expected={"fresh": "OUT|HUP", "bound": "OUT|HUP"},
)
def _(kit: Kit) -> object:
    return _fresh(kit, "seqpacket")


@behaviour(
    "POL-04",
    "connected sockets between which nothing is under way are writable, and nothing else",
    source="poll(2); measured; no suite covers it",
    expected=["OUT", "OUT", "IN|OUT", "OUT"],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    idle = [events(left), events(right)]
    left.send(b"x")
    return [*idle, events(right), events(left)]


@behaviour(
    "POL-05",
    "the peer has closed: IN, OUT, HUP and RDHUP",
    source="kernel net/unix/af_unix.c, unix_poll; "
    "gVisor test/syscalls/linux/socket_unix_stream.cc, PeerShutdownWakesHangupOnlyPoller",
    expected=["IN|OUT|HUP|RDHUP", "HUP"],
    over=CONNECTED,
    notes="RDHUP is told only to those who ask for it, HUP to all.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.close()
    return [events(left), events(left, "")]


@behaviour(
    "POL-06",
    "the peer has closed with something unread: ERR as well, until the error has been taken",
    source="kernel net/unix/af_unix.c, unix_poll; measured; no suite covers it",
    expected=["IN|OUT|ERR|HUP|RDHUP", "ECONNRESET", "IN|OUT|HUP|RDHUP"],
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"x")
    right.close()
    return [events(left), outcome(left.recv, 1, _NOW), events(left)]


@behaviour(
    "POL-07",
    "the peer sends no more (SHUT_WR): IN, OUT and RDHUP, not HUP",
    source="kernel net/unix/af_unix.c, unix_poll; "
    "gVisor test/syscalls/linux/socket_unix_stream.cc, PeerWriteShutdownWakesRdHupOnlyPoller",
    expected={"peer": "IN|OUT|RDHUP", "self": "OUT"},
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.shutdown(socket.SHUT_WR)
    return {"peer": events(left), "self": events(right)}


@behaviour(
    "POL-08",
    "the peer reads no more (SHUT_RD): writable is all that poll says, and the next send is EPIPE",
    source="kernel net/unix/af_unix.c, unix_shutdown; measured; no suite covers it",
    expected={"peer": "OUT", "its send": "EPIPE", "self": "IN|OUT|RDHUP"},
    over=CONNECTED,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.shutdown(socket.SHUT_RD)
    return {"peer": events(left), "its send": errno_of(left.send, b"x", socket.MSG_NOSIGNAL), "self": events(right)}


@behaviour(
    "POL-09",
    "a listener is readable when a connection is there to be accepted, and never writable",
    source="accept(2); kernel net/unix/af_unix.c, unix_poll; measured; no suite covers it",
    expected={"idle": "", "pending": "IN", "accepted": ""},
    over=_LISTENERS,
)
def _(kit: Kit, pair: Pair) -> object:
    name = kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()
    listener = kit.socket(pair.type, bind=name, listen=1)
    seen = {"idle": events(listener)}
    kit.socket(pair.type).connect(name)
    seen["pending"] = events(listener)
    kit.close_at_end(listener.accept()[0])
    return {**seen, "accepted": events(listener)}


@behaviour(
    "POL-10",
    "the peer of a datagram socket has closed: writable, as before",
    source="kernel net/unix/af_unix.c, unix_dgram_poll; measured; no suite covers it",
    expected=["OUT", "OUT"],
    over=_DATAGRAMS,
    notes="poll never tells of the death of a datagram peer.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    before = events(left)
    right.close()
    return [before, events(left)]


@behaviour(
    "POL-11",
    "writable means that not more than a quarter of SO_SNDBUF is in use, long before a send would wait",
    source="kernel net/unix/af_unix.c, unix_writable; measured; no suite covers it",
    expected={"filling": [True, False], "as the quarter has it": True, "draining": [False, True]},
    over=tuple(pair for pair in PAIRS if not pair.blocking),
    notes="A send can succeed on a socket that poll does not call writable.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)  # room for some 30: more than a queue has
    buffer = left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    agreed = []

    def writable() -> bool:
        used = array.array("i", [-1])
        fcntl.ioctl(left.fileno(), termios.TIOCOUTQ, used)
        is_so = events(left) == "OUT"
        agreed.append(is_so == (used[0] * 4 <= buffer))
        return is_so

    filling = [writable()]
    while outcome(left.send, b"x", _NOW) == 1 and len(filling) < 1000:
        filling.append(writable())
    draining = [writable()]
    while outcome(right.recv, 1, _NOW) == "x":
        draining.append(writable())

    def turns(course: list[bool]) -> list[bool]:
        return [now for number, now in enumerate(course) if number == 0 or now is not course[number - 1]]

    return {"filling": turns(filling), "as the quarter has it": all(agreed), "draining": turns(draining)}


@behaviour(
    "POL-12",
    "after an own SHUT_RDWR: IN, OUT, HUP and RDHUP, whatever the type",
    source="gVisor test/syscalls/linux/socket_unix_non_stream.cc, PollAfterFullShutdown",
    expected=lambda pair: {
        "self": "IN|OUT|HUP|RDHUP",
        "peer": "OUT" if pair.type is SocketType.DGRAM else "IN|OUT|HUP|RDHUP",
    },
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.shutdown(socket.SHUT_RDWR)
    return {"self": events(left), "peer": events(right)}


@behaviour(
    "POL-13",
    "EPOLLET tells once of each arrival, whether what came before was read or not",
    source="epoll(7), Level-triggered and edge-triggered; gVisor test/syscalls/linux/socket_unix.cc, EpollEdgeTrigger",
    expected={"idle": 0, "arrival": [1, 0], "second arrival, first unread": [1, 0], "read": 0, "level": [1, 1]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    edge, level = kit.close_at_end(select.epoll()), kit.close_at_end(select.epoll())
    edge.register(right, select.EPOLLIN | select.EPOLLET)
    level.register(right, select.EPOLLIN)

    def told(epoll: select.epoll) -> list[int]:
        return [len(epoll.poll(0)) for _ in range(2)]

    seen: dict[str, object] = {"idle": len(edge.poll(0))}
    left.send(b"x")
    seen["arrival"] = told(edge)
    left.send(b"y")
    seen["second arrival, first unread"] = told(edge)
    seen["level"] = told(level)
    right.recv(1)
    seen["read"] = len(edge.poll(0))
    return seen


@behaviour(
    "POL-15",
    "with O_ASYNC, what arrives sends SIGIO to the owner (F_SETOWN)",
    source="fcntl(2), F_SETOWN; socket(7), Signals; measured; no suite covers it",
    expected={"without O_ASYNC": None, "arrival": "SIGIO", "nothing": None},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})

    def pending() -> str | None:
        got = signal.sigtimedwait({signal.SIGIO}, 0)
        return None if got is None else signal.Signals(got.si_signo).name

    left, right = kit.pair(pair)
    fcntl.fcntl(right.fileno(), fcntl.F_SETOWN, os.getpid())
    left.send(b"x")
    seen = {"without O_ASYNC": pending()}
    fcntl.fcntl(right.fileno(), fcntl.F_SETFL, fcntl.fcntl(right.fileno(), fcntl.F_GETFL) | os.O_ASYNC)
    pending()  # what setting it may have sent
    left.send(b"y")
    seen["arrival"] = pending()
    return {**seen, "nothing": pending()}


@behaviour(
    "POL-16",
    "a poll that asks for nothing wakes with HUP when the socket itself is shut down",
    source="gVisor test/syscalls/linux/socket_unix_stream.cc, socket_unix_non_stream.cc, ShutdownWakesHangupOnlyPoller",
    expected={"waits": True, "wakes": "HUP"},
    over=_SOCKETPAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, _ = kit.pair(pair)
    child = kit.child(partial(events, left, "", 2))
    waits = child.sleeps()
    left.shutdown(socket.SHUT_RDWR)
    return {"waits": waits, "wakes": child.result()}


@behaviour(
    "POL-17",
    "who waits for RDHUP alone wakes when the peer sends no more, and when the own side reads no more",
    source="gVisor test/syscalls/linux/socket_unix_stream.cc, PeerWriteShutdownWakesRdHupOnlyPoller, "
    "ReadShutdownWakesRdHupOnlyPoller",
    expected={"peer's SHUT_WR": [True, "RDHUP"], "own SHUT_RD": [True, "RDHUP"], "peer's SHUT_RD": "", "data": ""},
    over=tuple(pair for pair in CONNECTED if pair.blocking),
    limit=10,
)
def _(kit: Kit, pair: Pair) -> object:
    seen: dict[str, object] = {}
    for name, end, how in (("peer's SHUT_WR", 1, socket.SHUT_WR), ("own SHUT_RD", 0, socket.SHUT_RD)):
        ends = kit.pair(pair)
        child = kit.child(partial(events, ends[0], "RDHUP", 2))
        waits = child.sleeps()
        ends[end].shutdown(how)
        seen[name] = [waits, child.result()]
    left, right = kit.pair(pair)
    right.shutdown(socket.SHUT_RD)
    seen["peer's SHUT_RD"] = events(left, "RDHUP")
    right.send(b"x")
    return {**seen, "data": events(left, "RDHUP")}


@behaviour(
    "POL-18",
    "with EPOLLEXCLUSIVE one connection wakes one of those who wait for the same listener; without, all of them",
    source="epoll_ctl(2), EPOLLEXCLUSIVE; kernel fs/eventpoll.c, ep_poll_callback; measured",
    expected={"wait": True, "woken": [1, 3]},
    over=(SocketType.STREAM, SocketType.SEQPACKET),
    since=(4, 5),
    notes="The manual page promises no more than that it is at least one.",
)
def _(kit: Kit, type: SocketType) -> object:
    woken, all_wait = [], []
    for exclusive in (True, False):
        listener = kit.socket(type, bind=kit.path(), listen=5)
        ready, tell = os.pipe()
        os.set_blocking(ready, False)

        def wait(listener: socket.socket = listener, exclusive: bool = exclusive, tell: int = tell) -> None:
            epoll = select.epoll()
            epoll.register(listener, select.EPOLLIN | (select.EPOLLEXCLUSIVE if exclusive else 0))
            if epoll.poll(3):
                os.write(tell, b"!")

        children = [kit.child(wait) for _ in range(3)]
        all_wait += [child.sleeps() for child in children]
        kit.socket(type).connect(listener.getsockname())
        woken.append(_told(ready, children))
        for child in children:
            child.kill()
    return {"wait": all(all_wait), "woken": woken}


def _told(ready: int, children: list[Child]) -> int:
    """How many have been woken: all by the same call, so that those who sleep once one has told were not; or -1."""
    select.select([ready], [], [], 2)
    sleeping = [child.sleeps() for child in children].count(True)
    told = len(os.read(ready, 10))
    return told if told + sleeping == len(children) else -1
