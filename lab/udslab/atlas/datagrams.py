"""DGR: datagrams."""

from __future__ import annotations

import os
import select
import socket
from functools import partial
from typing import Any

from udslab import libc
from udslab.atlas.behaviour import PAIRS, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, events, fill, limit_waiting, outcome, receive_too_short
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

_NOW = socket.MSG_DONTWAIT
_DATAGRAMS = tuple(pair for pair in PAIRS if pair.type is SocketType.DGRAM)
_NAMED = (Kind.PATHNAME, Kind.ABSTRACT)
_SOCKETPAIRS = tuple(pair for pair in _DATAGRAMS if pair.kind is Kind.SOCKETPAIR)
_MAX_QUEUE = "/proc/sys/net/unix/max_dgram_qlen"
_CLONE_NEWNET = 0x40000000


def _name(kit: Kit, kind: Kind) -> Any:
    return kit.path() if kind is Kind.PATHNAME else kit.abstract()


def _receiver(kit: Kit, kind: Kind = Kind.PATHNAME) -> socket.socket:
    return kit.socket("dgram", bind=_name(kit, kind))


def _max_queue() -> int:
    try:
        with open(_MAX_QUEUE) as file:
            return int(file.read())
    except OSError:
        raise NotHere(f"no {_MAX_QUEUE}") from None


def _stuff(kit: Kit, receiver: socket.socket) -> int:
    """Fill a receiver's queue from as many senders as it takes; how many messages that were."""
    total = 0
    while True:
        sent = len(fill(kit.socket("dgram"), address=receiver.getsockname()))
        total += sent
        if not sent:
            return total


@behaviour(
    "DGR-01",
    "datagrams are neither lost nor reordered, and keep their boundaries",
    source="unix(7), Socket types; gVisor test/syscalls/linux/socket_non_stream.cc, SplitRecv",
    expected={"sent": 40, "received": True, "then": "EAGAIN"},
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    sent, received = [], []
    for number in range(20):
        for part in range(2):
            message = b"%d.%d" % (number, part) * (number + 1)
            sent.append(message)
            left.send(message)
        received += [right.recv(1000, _NOW) for _ in range(2)]
    return {"sent": len(sent), "received": received == sent, "then": outcome(right.recv, 1, _NOW)}


@behaviour(
    "DGR-02",
    "a datagram of nothing is delivered",
    source="gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, ZeroWriteAllowed",
    expected=[0, "IN|OUT", "", "x", "EAGAIN"],
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    sent = outcome(left.send, b"")
    polled = events(right)
    left.send(b"x")
    return [sent, polled, *(outcome(right.recv, 10, _NOW) for _ in range(3))]


@behaviour(
    "DGR-03",
    "a datagram longer than SO_SNDBUF less 32 bytes is refused with EMSGSIZE",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg; "
    "gVisor test/syscalls/linux/socket_non_stream.cc, SendMsgTooLarge",
    expected={"SO_SNDBUF": 40000, "39,968": 39968, "39,969": "EMSGSIZE", "arrives": [39968, "EAGAIN"]},
    over=_DATAGRAMS,
    notes="It is refused at once, by a blocking socket as well: waiting would not help.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    if pair.blocking:
        limit_waiting(left, 0.1)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
    seen: dict[str, object] = {"SO_SNDBUF": left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)}
    for size in (39968, 39969):
        seen[f"{size:,}"] = outcome(left.send, b"m" * size)
    return {**seen, "arrives": [len(right.recv(50000, _NOW)), outcome(right.recv, 1, _NOW)]}


@behaviour(
    "DGR-04",
    "a receiver's queue takes max_dgram_qlen + 1 datagrams; then a send is EAGAIN, or waits",
    source="unix(7), /proc interfaces; kernel net/unix/af_unix.c, unix_recvq_full",
    expected={"more than max_dgram_qlen": 1, "then": "EAGAIN", "blocking": "EAGAIN"},
    over=_NAMED,
    notes="max_dgram_qlen is 10 in a bare kernel, 512 where systemd has started; each network namespace has its own.",
)
def _(kit: Kit, kind: Kind) -> object:
    limit = _max_queue()
    receiver = _receiver(kit, kind)
    sent = _stuff(kit, receiver)
    late = kit.socket("dgram")
    limit_waiting(late, 0.02)
    return {
        "more than max_dgram_qlen": sent - limit,
        "then": outcome(late.sendto, b"x", _NOW, receiver.getsockname()),
        "blocking": outcome(late.sendto, b"x", receiver.getsockname()),
    }


@behaviour(
    "DGR-05",
    "two that are connected with each other are not bound by max_dgram_qlen, but by the sender's SO_SNDBUF",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg; measured; no suite covers it",
    expected={"one way": 1, "both ways": True, "both ways, half the buffer": True},
    over=_NAMED,
    notes="One-byte messages of 768 bytes each, with the kernel's own: 278 in the default buffer of 212,992.",
)
def _(kit: Kit, kind: Kind) -> object:
    limit = _max_queue()
    counts = []
    for mutual in (False, True):
        receiver = _receiver(kit, kind)
        sender = kit.socket("dgram", bind=_name(kit, kind))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400 * (limit + 300))  # is doubled, if that may be
        sender.connect(receiver.getsockname())
        if mutual:
            receiver.connect(sender.getsockname())
        counts.append(len(fill(sender, b"x")))
    whole = sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    if counts[1] <= limit + 1 and whole // 768 <= limit + 1:
        raise NotHere("no buffer holds more datagrams than a queue")
    left, _ = kit.pair(Pair(kind, SocketType.DGRAM))
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, whole // 4)  # is doubled
    half = len(fill(left, b"x"))
    return {
        "one way": counts[0] - limit,
        "both ways": counts[1] > limit + 1,
        "both ways, half the buffer": abs(counts[1] - 2 * half) <= 2,
    }


@behaviour(
    "DGR-06",
    "a blocking sendto to a full queue waits until the receiver has taken one",
    source="gVisor test/syscalls/linux/socket_unix_non_stream.cc, SendTimeout; measured",
    expected={"waits": True, "after one is taken": 4, "and is the last": True},
    over=_NAMED,
    limit=10,
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    queued = _stuff(kit, receiver)
    sender = kit.socket("dgram")
    limit_waiting(sender, 3)
    child = kit.child(partial(outcome, sender.sendto, b"late", receiver.getsockname()))
    waits = child.sleeps()
    receiver.recv(10)
    sent = child.result()
    rest = [outcome(receiver.recv, 10, _NOW) for _ in range(queued)]
    return {"waits": waits, "after one is taken": sent, "and is the last": rest[-1] == "late"}


@behaviour(
    "DGR-07",
    "when the receiver has closed, a connected sender gets ECONNREFUSED once, and then ENOTCONN",
    source="gVisor test/syscalls/linux/socket_unix_dgram.cc, WriteOneSideClosed; "
    "kernel net/unix/af_unix.c, unix_dgram_sendmsg",
    expected={"one way": ["ECONNREFUSED", "ENOTCONN", "ENOTCONN"], "both": ["ECONNREFUSED", "ENOTCONN", "ENOTCONN"]},
    over=_NAMED,
    notes="The first send takes the peer away: a logger that wants to go on has to connect again.",
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    sender = kit.socket("dgram")
    sender.connect(receiver.getsockname())
    receiver.close()
    left, right = kit.pair(Pair(kind, SocketType.DGRAM))
    right.close()
    return {
        "one way": [errno_of(sender.send, b"x") for _ in range(3)],
        "both": [errno_of(left.send, b"x") for _ in range(3)],
    }


@behaviour(
    "DGR-08",
    "datagram socketpair, one end closed: the other reads nothing (no end of file); sends: ECONNREFUSED, then ENOTCONN",
    source="gVisor test/syscalls/linux/socket_unix_dgram.cc, WriteOneSideClosed; "
    "socket_unix_dgram_non_blocking.cc, ReadOneSideClosed",
    expected={"recv": ["EAGAIN", "EAGAIN"], "send": ["ECONNREFUSED", "ENOTCONN"], "recv after it": "EAGAIN"},
    over=_SOCKETPAIRS,
    notes="A reader that waits for end of file waits for ever.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.close()
    if pair.blocking:
        limit_waiting(left, 0.02)
    return {
        "recv": [outcome(left.recv, 1) for _ in range(2)],
        "send": [errno_of(left.send, b"x") for _ in range(2)],
        "recv after it": outcome(left.recv, 1),
    }


def _claimed(kit: Kit, kind: Kind) -> dict[str, str]:
    """What a third socket may do with a receiver that is connected with another; and what the other may."""
    receiver, friend, third = (_receiver(kit, kind) for _ in range(3))
    before = errno_of(third.sendto, b"x", receiver.getsockname())
    receiver.connect(friend.getsockname())
    return {
        "sendto before": before,
        "connect": errno_of(third.connect, receiver.getsockname()),
        "sendto": errno_of(third.sendto, b"x", receiver.getsockname()),
        "its peer": errno_of(friend.sendto, b"x", receiver.getsockname()),
    }


_CLAIMED = {"sendto before": "ok", "connect": "EPERM", "sendto": "EPERM", "its peer": "ok"}


@behaviour(
    "DGR-09",
    "a receiver that is connected with one refuses all others: connect and sendto are EPERM",
    source="kernel net/unix/af_unix.c, unix_may_send; connect(2), ERRORS; measured; no suite covers it",
    expected=_CLAIMED,
    over=_NAMED,
    notes="It has nothing to do with permissions, whatever its name says.",
)
def _(kit: Kit, kind: Kind) -> object:
    return _claimed(kit, kind)


@behaviour(
    "DGR-10",
    "connecting anew drops what is queued from the old peer; and if anything was, the old peer gets ECONNRESET",
    source="kernel net/unix/af_unix.c, unix_dgram_disconnected; measured; no suite covers it",
    expected={"queued": ["EAGAIN", "ECONNRESET", "EAGAIN"], "nothing queued": ["EAGAIN", "EAGAIN", "EAGAIN"]},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    seen = {}
    for name in ("queued", "nothing queued"):
        left, right = kit.pair(Pair(kind, SocketType.DGRAM))
        if name == "queued":
            left.send(b"x")
        right.connect(_receiver(kit, kind).getsockname())
        seen[name] = [outcome(right.recv, 1, _NOW), outcome(left.recv, 1, _NOW), outcome(left.recv, 1, _NOW)]
    return seen


@behaviour(
    "DGR-11",
    "a datagram socket can be connected with itself",
    source="gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, SelfConnect",
    expected=["ok", 2, "me"],
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    sock = _receiver(kit, kind)
    return [
        errno_of(sock.connect, sock.getsockname()),
        outcome(sock.send, b"me", _NOW),
        outcome(sock.recv, 10, _NOW),
    ]


@behaviour(
    "DGR-12",
    "sendto with an address goes there though the sender is connected elsewhere; the connection stays",
    source="POSIX.1-2017 sendto (EISCONN is allowed); measured; no suite covers it",
    expected={"first": ["EAGAIN", "to the peer"], "second": ["to the other", "EAGAIN"]},
    over=_NAMED,
    notes="FreeBSD and macOS say EISCONN.",
)
def _(kit: Kit, kind: Kind) -> object:
    peer, other = _receiver(kit, kind), _receiver(kit, kind)
    sender = kit.socket("dgram")
    sender.connect(peer.getsockname())
    sender.sendto(b"to the other", other.getsockname())
    before, got = outcome(peer.recv, 100, _NOW), outcome(other.recv, 100, _NOW)
    sender.send(b"to the peer")
    return {
        "first": [before, outcome(peer.recv, 100, _NOW)],
        "second": [got, outcome(other.recv, 100, _NOW)],
    }


@behaviour(
    "DGR-13",
    "a sender that is not bound has no address for the receiver",
    source="gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, SendtoWithoutConnect; measured",
    expected={"sendto": ["x", None], "connected": ["y", None], "bound": ["z", True]},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    sender = kit.socket("dgram")
    sender.sendto(b"x", receiver.getsockname())
    first = receiver.recvfrom(10)
    sender.connect(receiver.getsockname())
    sender.send(b"y")
    second = receiver.recvfrom(10)
    sender.bind(_name(kit, kind))
    sender.send(b"z")
    data, address = receiver.recvfrom(10)
    return {
        "sendto": [first[0].decode(), first[1]],
        "connected": [second[0].decode(), second[1]],
        "bound": [data.decode(), address == sender.getsockname()],
    }


@behaviour(
    "DGR-14",
    "a receiver can answer senders that have a name: bound, autobound, or given one by SO_PASSCRED",
    source="unix(7), Autobind feature and SO_PASSCRED; "
    "gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, SendtoWithoutConnectPassCreds",
    expected={"unbound": "no address", "bound": "answer", "autobound": "answer", "SO_PASSCRED": "answer"},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    senders = {name: kit.socket("dgram") for name in ("unbound", "bound", "autobound", "SO_PASSCRED")}
    senders["bound"].bind(_name(kit, kind))
    senders["autobound"].bind("")
    senders["SO_PASSCRED"].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    seen = {}
    for name, sender in senders.items():
        sender.sendto(b"x", receiver.getsockname())
        address = receiver.recvfrom(10)[1]
        if address is not None:
            receiver.sendto(b"answer", address)
        seen[name] = "no address" if address is None else outcome(sender.recv, 10, _NOW)
    return seen


@behaviour(
    "DGR-15",
    "a datagram without a peer and without an address is ENOTCONN, where POSIX has EDESTADDRREQ",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg; POSIX.1-2017 send",
    expected={"send": "ENOTCONN", "write": "ENOTCONN", "send when bound": "ENOTCONN"},
)
def _(kit: Kit) -> object:
    sock = kit.socket("dgram")
    return {
        "send": errno_of(sock.send, b"x"),
        "write": errno_of(os.write, sock.fileno(), b"x"),
        "send when bound": errno_of(_receiver(kit).send, b"x"),
    }


@behaviour(
    "DGR-16",
    "sendto says EACCES without permission to write, ENOENT where nothing is, ECONNREFUSED where nobody is any more",
    source="unix(7), Pathname socket ownership and permissions; POSIX.1-2017 sendto",
    expected={"allowed": "ok", "no permission": "EACCES", "missing": "ENOENT", "left behind": "ECONNREFUSED"},
)
def _(kit: Kit) -> object:
    sockets = {name: _receiver(kit) for name in ("allowed", "no permission", "left behind")}
    paths = {name: sock.getsockname() for name, sock in sockets.items()}
    for name, path in paths.items():
        os.chmod(path, 0o555 if name == "no permission" else 0o777)
    sockets["left behind"].close()
    paths["missing"] = kit.path()

    def send() -> object:
        sender = kit.socket("dgram")
        return {name: errno_of(sender.sendto, b"x", path) for name, path in paths.items()}

    return kit.unprivileged(send)


@behaviour(
    "DGR-17",
    "a receive that is too short drops the rest of the datagram; only recvmsg tells, by MSG_TRUNC",
    source="gVisor test/syscalls/linux/socket_non_stream.cc, SingleRecv, RecvmsgMsghdrFlagMsgTrunc",
    expected={"recv": "ab", "recvmsg": ["gh", True], "long enough": ["mn", False], "then": "EAGAIN"},
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    return receive_too_short(kit, pair)


@behaviour(
    "DGR-18",
    "what is queued stays when its sender closes, with the sender's address",
    source="measured; no suite covers it",
    expected={"received": ["one", "two"], "address": True, "answer": "ECONNREFUSED"},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    receiver, sender = _receiver(kit, kind), _receiver(kit, kind)
    name = sender.getsockname()
    for message in (b"one", b"two"):
        sender.sendto(message, receiver.getsockname())
    sender.close()
    got = [receiver.recvfrom(10, _NOW) for _ in range(2)]
    return {
        "received": [data.decode() for data, _ in got],
        "address": {address for _, address in got} == {name},
        "answer": errno_of(receiver.sendto, b"x", name),
    }


@behaviour(
    "DGR-19",
    "the receiver's SO_RCVBUF limits nothing; datagrams are charged to their sender's SO_SNDBUF",
    source="unix(7), Sockets API; socket(7), SO_RCVBUF; measured; no suite covers it",
    expected={"small SO_RCVBUF": "the same", "small SO_SNDBUF": "less"},
    over=_DATAGRAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    def room(option: int | None, end: int) -> int:
        ends = kit.pair(pair)
        if option is not None:
            ends[end].setsockopt(socket.SOL_SOCKET, option, 1)
        return len(fill(ends[0], b"m" * 1000))

    usual = room(None, 0)
    words = {True: "the same", False: "less"}
    return {
        "small SO_RCVBUF": words[room(socket.SO_RCVBUF, 1) == usual],
        "small SO_SNDBUF": words[room(socket.SO_SNDBUF, 0) >= usual],
    }


@behaviour(
    "DGR-20",
    "max_dgram_qlen is looked at when a socket is made, and not again",
    source="kernel net/unix/af_unix.c, unix_create1; measured; no suite covers it",
    expected={"made before": 1, "made after": 4},
    needs=Requirement.NET_NAMESPACE,
    notes="The receiver's network namespace counts. Measured in a new one, with 3.",
)
def _(kit: Kit) -> object:
    def measure() -> object:
        if not libc.unshare(_CLONE_NEWNET):
            raise NotHere("no network namespace of one's own may be made")
        early = _receiver(kit)
        before = _max_queue()
        try:
            with open(_MAX_QUEUE, "w") as file:
                file.write("3")
        except OSError:
            raise NotHere(f"{_MAX_QUEUE} cannot be written") from None
        late = _receiver(kit)
        return {"made before": _stuff(kit, early) - before, "made after": _stuff(kit, late)}

    return kit.in_child(measure)


@behaviour(
    "DGR-21",
    "a connected sender is not writable while its peer's queue is full, and epoll tells when it is again",
    source="kernel net/unix/af_unix.c, unix_dgram_poll and unix_dgram_peer_wake_relay; measured; no suite covers it",
    expected={"empty": "OUT", "full": "", "one taken": "OUT", "epoll": [0, 1], "not connected": "OUT"},
    over=_NAMED,
    notes="The peer must not be connected back. One without a peer is always writable, though its sends would wait.",
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    sender, stranger = kit.socket("dgram"), kit.socket("dgram")
    sender.connect(receiver.getsockname())
    empty = events(sender)
    _stuff(kit, receiver)
    epoll = kit.close_at_end(select.epoll())
    epoll.register(sender, select.EPOLLOUT | select.EPOLLET)
    full, before = events(sender), len(epoll.poll(0))
    without = events(stranger)
    receiver.recv(10)
    woken = len(epoll.poll(1))
    return {
        "empty": empty,
        "full": full,
        "one taken": events(sender),
        "epoll": [before, woken],
        "not connected": without,
    }


@behaviour(
    "DGR-23",
    "with SO_SNDBUF as it comes, the longest datagram has 32 bytes less: 212,960 of 212,992",
    source="kernel net/unix/af_unix.c, unix_dgram_sendmsg; measured; no suite covers it",
    expected={"less than SO_SNDBUF": 32, "arrives whole": True},
    over=_DATAGRAMS,
    notes="SO_SNDBUF is /proc/sys/net/core/wmem_default at first, which may be set to anything.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    buffer = left.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    for less in range(31, 35):
        if outcome(left.send, b"m" * (buffer - less), _NOW) == buffer - less:
            return {"less than SO_SNDBUF": less, "arrives whole": len(right.recv(buffer, _NOW)) == buffer - less}
    return {"less than SO_SNDBUF": "more than 34"}


@behaviour(
    "DGR-24",
    "a connected sender does not follow its path to a new receiver, a sendto does",
    source="measured; no suite covers it",
    expected={"connected": ["ECONNREFUSED", "ENOTCONN"], "sendto": "ok", "connected anew": "ok", "arrived": ["b", "c"]},
    notes="So a logger does not notice that its daemon has been restarted, but by the error.",
)
def _(kit: Kit) -> object:
    old = _receiver(kit)
    path = old.getsockname()
    sender = kit.socket("dgram")
    sender.connect(path)
    old.close()
    os.unlink(path)
    new = kit.socket("dgram", bind=path)
    connected = [errno_of(sender.send, b"a") for _ in range(2)]
    fresh = errno_of(kit.socket("dgram").sendto, b"b", path)
    sender.connect(path)
    again = errno_of(sender.send, b"c")
    return {
        "connected": connected,
        "sendto": fresh,
        "connected anew": again,
        "arrived": [outcome(new.recv, 10, _NOW) for _ in range(2)],
    }


@behaviour(
    "DGR-25",
    "that EPERM of a receiver which is connected elsewhere is root's, too",
    source="kernel net/unix/af_unix.c, unix_may_send; measured; no suite covers it",
    expected=_CLAIMED,
    over=_NAMED,
    needs=Requirement.ROOT,
)
def _(kit: Kit, kind: Kind) -> object:
    return _claimed(kit, kind)


@behaviour(
    "DGR-26",
    "getpeername tells the old name after the peer's death, until a send has failed",
    source="measured; no suite covers it",
    expected={"getpeername": True, "sendto": "ECONNREFUSED", "send": "ECONNREFUSED", "afterwards": "ENOTCONN"},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    left, right = kit.pair(Pair(kind, SocketType.DGRAM))
    name = right.getsockname()
    right.close()
    return {
        "getpeername": left.getpeername() == name,
        "sendto": errno_of(left.sendto, b"x", name),
        "send": errno_of(left.send, b"x"),
        "afterwards": outcome(left.getpeername),
    }


@behaviour(
    "DGR-27",
    "a connected sender that waits for a full queue becomes writable when the receiver closes; the send then fails",
    source="kernel net/unix/af_unix.c, unix_dgram_poll; measured; no suite covers it",
    expected={"full": "", "closed": "OUT", "epoll": [0, 1], "send": "ECONNREFUSED"},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    sender = kit.socket("dgram")
    sender.connect(receiver.getsockname())
    _stuff(kit, receiver)
    epoll = kit.close_at_end(select.epoll())
    epoll.register(sender, select.EPOLLOUT | select.EPOLLET)
    full, before = events(sender), len(epoll.poll(0))
    receiver.close()
    woken = len(epoll.poll(1))
    return {
        "full": full,
        "closed": events(sender),
        "epoll": [before, woken],
        "send": errno_of(sender.send, b"x", _NOW),
    }


@behaviour(
    "DGR-28",
    "SHUT_WR of one of several senders leaves the receiver to the others",
    source="gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, WriteShutdownOfOneSenderDoesNotCloseQueue",
    expected={"shut": "EPIPE", "other": "ok", "received": ["other", "EAGAIN"]},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    shut, other = kit.socket("dgram"), kit.socket("dgram")
    for sender in (shut, other):
        sender.connect(receiver.getsockname())
    shut.shutdown(socket.SHUT_WR)
    return {
        "shut": errno_of(shut.send, b"shut"),
        "other": errno_of(other.send, b"other"),
        "received": [outcome(receiver.recv, 10, _NOW) for _ in range(2)],
    }


@behaviour(
    "DGR-29",
    "raising SO_SNDBUF lets a sender go on that waits for room",
    source="gVisor test/syscalls/linux/socket_unix_dgram.cc, IncreasedSocketSendBufUnblocksWrites",
    expected={"waits": True, "sent": 4},
    over=tuple(pair for pair in _DATAGRAMS if pair.blocking),
    limit=10,
)
def _(kit: Kit, pair: Pair) -> object:
    left, _ = kit.pair(pair)
    limit_waiting(left, 3)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    fill(left)
    child = kit.child(partial(outcome, left.send, b"late"))
    waits = child.sleeps()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    return {"waits": waits, "sent": child.result()}


@behaviour(
    "DGR-30",
    "after an own SHUT_WR a datagram socket is writable while there is room, though each send fails",
    source="gVisor test/syscalls/linux/socket_unix_dgram.cc, PollOutAfterWriteShutdownIsCapacityBased",
    expected={"room": ["OUT", "EPIPE"], "full": "", "drained": "OUT"},
    over=_SOCKETPAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, _ = kit.pair(pair)
    left.shutdown(socket.SHUT_WR)
    room = [events(left), errno_of(left.send, b"x", _NOW)]
    left, right = kit.pair(pair)
    sent = len(fill(left))
    left.shutdown(socket.SHUT_WR)
    full = events(left)
    for _ in range(sent):
        right.recv(1)
    return {"room": room, "full": full, "drained": events(left)}


@behaviour(
    "DGR-31",
    "all senders share the receiver's one queue: who floods it shuts out the others",
    source="unix(7), /proc interfaces; FreeBSD tests/sys/kern/unix_dgram.c (a queue for each sender)",
    expected={"the first message of another": "EAGAIN", "after one is taken": "ok", "and then": "EAGAIN"},
    over=_NAMED,
    notes="FreeBSD lets each sender have its share.",
)
def _(kit: Kit, kind: Kind) -> object:
    receiver = _receiver(kit, kind)
    _stuff(kit, receiver)
    other = kit.socket("dgram")
    other.connect(receiver.getsockname())
    first = errno_of(other.send, b"x", _NOW)
    receiver.recv(1)
    return {
        "the first message of another": first,
        "after one is taken": errno_of(other.send, b"x", _NOW),
        "and then": errno_of(other.send, b"x", _NOW),
    }


@behaviour(
    "DGR-32",
    "a second connect replaces the peer",
    source="gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, DoubleConnect; connect(2)",
    expected={"connect": ["ok", "ok"], "getpeername": True, "first": "EAGAIN", "second": "x"},
    over=_NAMED,
)
def _(kit: Kit, kind: Kind) -> object:
    first, second = _receiver(kit, kind), _receiver(kit, kind)
    sender = kit.socket("dgram")
    connects = [errno_of(sender.connect, each.getsockname()) for each in (first, second)]
    sender.send(b"x")
    return {
        "connect": connects,
        "getpeername": sender.getpeername() == second.getsockname(),
        "first": outcome(first.recv, 10, _NOW),
        "second": outcome(second.recv, 10, _NOW),
    }
