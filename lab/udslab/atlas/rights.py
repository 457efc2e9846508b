"""RTS: descriptors over a socket (SCM_RIGHTS)."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.ancillary import (
    BLOCKING,
    RIGHTS,
    Canary,
    descriptors,
    receive,
    same_file,
    send_descriptors,
)
from udslab.atlas.behaviour import PAIRS, STREAMS, ByKernel, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import OTHER_UID, Kit, errno_of
from udslab.atlas.requirement import Requirement, why_not
from udslab.limits import become
from udslab.socktype import SocketType
from udslab.support import fcntl, resource

__all__: list[str] = []

SO_PASSRIGHTS = 83  # asm-generic/socket.h
MAX_DESCRIPTORS = 253
SOON = 1.0
"""Seconds within which is closed what is closed later: by a worker of the kernel."""


def _is_stream(pair: Pair) -> bool:
    return pair.type is SocketType.STREAM


def _nothing_there(sock: socket.socket) -> str:
    """ "EAGAIN": there is nothing to be received."""
    return errno_of(sock.recv, 1, socket.MSG_DONTWAIT | socket.MSG_PEEK)


def _first_free(fd: int) -> int:
    """The lowest number that no descriptor has; ``fd``: one that there is."""
    number = os.dup(fd)
    os.close(number)
    return number


def _limit_descriptors(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@behaviour(
    "RTS-01",
    "what arrives is another descriptor of the same open file: one offset, one set of flags",
    source="unix(7), SCM_RIGHTS; gVisor socket_unix_cmsg.cc, BasicFDPass; "
    "CPython test_socket, SCMRightsTest.testFDPassSimple",
    expected={
        "another number": True,
        "same file": True,
        "offset": 3,
        "O_APPEND": True,
        "opened again": {"offset": 0, "O_APPEND": False},
    },
    over=PAIRS,
    notes="So O_NONBLOCK that the receiver sets is set for the sender too.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    path = kit.path()
    ours = os.open(path, os.O_RDWR | os.O_CREAT)
    again = os.open(path, os.O_RDWR)
    send_descriptors(left, ours)
    (theirs,) = receive(right).descriptors
    os.write(ours, b"abc")
    fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_APPEND)

    def state(fd: int) -> dict[str, object]:
        append = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
        return {"offset": os.lseek(fd, 0, os.SEEK_CUR), "O_APPEND": append}

    return {
        "another number": ours != theirs,
        "same file": same_file(ours, theirs),
        "offset": state(theirs)["offset"],
        "O_APPEND": state(ours)["O_APPEND"],
        "opened again": state(again),
    }


@behaviour(
    "RTS-02",
    "close-on-exec is not sent along: the receiver decides, by MSG_CMSG_CLOEXEC",
    source="recvmsg(2), MSG_CMSG_CLOEXEC; gVisor socket_unix_cmsg.cc, CloexecDroppedWhenFDPassed, CloexecRecvFDPass",
    expected={"sent with, received without": False, "sent without, received with": True, "sender's own": True},
    over=PAIRS,
    notes="Python's recvmsg does not set it of itself, unlike all else that opens descriptors (PEP 446).",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    closed_on_exec, inheritable = os.pipe()
    os.set_inheritable(inheritable, True)
    send_descriptors(left, closed_on_exec)
    (without,) = receive(right).descriptors
    send_descriptors(left, inheritable)
    (with_flag,) = receive(right, flags=socket.MSG_CMSG_CLOEXEC).descriptors
    return {
        "sent with, received without": not os.get_inheritable(without),
        "sent without, received with": not os.get_inheritable(with_flag),
        "sender's own": not os.get_inheritable(closed_on_exec),
    }


@behaviour(
    "RTS-03",
    "one message carries 253 descriptors; 254 are EINVAL, in one control message or in two",
    source="unix(7), SCM_RIGHTS; kernel include/net/scm.h, SCM_MAX_FD",
    expected={"253": "ok", "arrived": 253, "254": "EINVAL", "127 twice": "EINVAL", "sent": "EAGAIN"},
    over=PAIRS,
    since=(2, 6, 38),
    notes="255 before Linux 2.6.38. The same descriptor counts as often as it is given.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    _, fd = os.pipe()
    full = errno_of(lambda: send_descriptors(left, *[fd] * MAX_DESCRIPTORS))
    arrived = receive(right).descriptors if full == "ok" else []
    half = descriptors(*[fd] * 127)
    return {
        "253": full,
        "arrived": len(set(arrived)),
        "254": errno_of(lambda: send_descriptors(left, *[fd] * (MAX_DESCRIPTORS + 1))),
        "127 twice": errno_of(left.sendmsg, [b"x"], [half, half]),
        "sent": _nothing_there(right),
    }


@behaviour(
    "RTS-04",
    "a number that is no descriptor: EBADF, and nothing is sent",
    source="kernel net/core/scm.c, scm_fp_copy; gVisor socket_unix_cmsg.cc, BadFDPass",
    expected={"-1": "EBADF", "closed": "EBADF", "good and closed": "EBADF", "sent": "EAGAIN", "good": "ok"},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    good, closed = os.pipe()
    os.close(closed)

    def send(*numbers: int) -> str:
        return errno_of(lambda: send_descriptors(left, *numbers))

    return {
        "-1": send(-1),
        "closed": send(closed),
        "good and closed": send(good, closed),
        "sent": _nothing_there(right),
        "good": send(good),
    }


@behaviour(
    "RTS-05",
    "with too little room the descriptors that fit arrive, MSG_CTRUNC is set, and the others are closed",
    source="unix(7), SCM_RIGHTS; gVisor socket_unix_cmsg.cc, BasicThreeFDPassTruncationMsgCtrunc; "
    "CPython test_socket, SCMRightsTest.testCmsgTruncLen*",
    expected={"data": "x", "arrived": 2, "cut": True, "the third before": "open", "and after": "closed"},
    over=PAIRS,
    notes="Give always room for as many as a peer may send, and close what you did not ask for.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    third = Canary()
    send_descriptors(left, third.read, third.read, third.write)
    third.let_go()
    before = third.fate()
    got = receive(right, room=socket.CMSG_LEN(8))
    return {
        "data": got.data,
        "arrived": len(got.descriptors),
        "cut": got.cut,
        "the third before": before,
        "and after": third.fate(SOON),
    }


@behaviour(
    "RTS-05b",
    "CMSG_SPACE of one descriptor has room for two where a long has 8 bytes; CMSG_LEN is exact",
    source="cmsg(3); gVisor socket_unix_cmsg.cc, BasicFDPassUnalignedRecv; CPython test_socket, "
    "SCMRightsTest.testFDPassSeparateMinSpace",
    expected={
        "CMSG_LEN": {"arrived": 1, "cut": True},
        "CMSG_SPACE": {"arrived": struct.calcsize("l") // 4, "cut": struct.calcsize("l") == 4},
    },
    over=PAIRS,
    notes="A receiver that gives CMSG_SPACE(sizeof(int)) and takes one leaks the second of a peer that sends two.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()

    def exchange(room: int) -> object:
        send_descriptors(left, fd, fd)
        got = receive(right, room=room)
        return {"arrived": len(got.descriptors), "cut": got.cut}

    return {"CMSG_LEN": exchange(socket.CMSG_LEN(4)), "CMSG_SPACE": exchange(socket.CMSG_SPACE(4))}


@behaviour(
    "RTS-06",
    "a read or recv of a message with descriptors gives its data and closes them",
    source="unix(7), SCM_RIGHTS; gVisor socket_unix_cmsg.cc, FDPassNoRecv",
    expected={"recv": ["x", "open", "closed"], "read": ["x", "open", "closed"]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def exchange(receive_plainly: Callable[[], bytes]) -> object:
        canary = Canary()
        send_descriptors(left, canary.write)
        canary.let_go()
        before = canary.fate()
        return [receive_plainly().decode(), before, canary.fate(SOON)]

    return {"recv": exchange(lambda: right.recv(9)), "read": exchange(lambda: os.read(right.fileno(), 9))}


@behaviour(
    "RTS-07",
    "each MSG_PEEK gives new descriptors, and the receive after it once more",
    source="unix(7), SCM_RIGHTS and BUGS; gVisor socket_unix_cmsg.cc, FDPassPeek",
    expected={"each": [1, 1, 1], "numbers": 3, "same file": True},
    over=PAIRS,
    notes="Whoever peeks with room for control messages must close what it peeked at.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()
    send_descriptors(left, fd)
    got = [receive(right, flags=flags).descriptors for flags in (socket.MSG_PEEK, socket.MSG_PEEK, 0)]
    numbers = [number for each in got for number in each]
    return {"each": [len(each) for each in got], "numbers": len(set(numbers)), "same file": same_file(fd, *numbers)}


@behaviour(
    "RTS-08",
    "a stream's receive goes on into the data of a message with descriptors, and stops after it",
    source="kernel net/unix/af_unix.c, unix_stream_read_generic; gVisor socket_unix_unbound_stream.cc, "
    "ReadsNotCoalescedAfterFDPass; unix(7), SCM_RIGHTS",
    expected={"with": [["ab", 1], ["cd", 0]], "without": [["abcd", 0]]},
    over=STREAMS,
    notes="unix(7) calls ancillary data a barrier, and Linux 6.18.44 was seen to differ: descriptors do not stop what "
    "comes before them from joining their data, so a receiver cannot tell at which byte of a read they were sent.",
)
def _(kit: Kit, pair: Pair) -> object:
    fd, _ = os.pipe()

    def exchange(*messages: Any) -> object:
        left, right = kit.pair(pair)
        left.send(b"a")
        left.sendmsg([b"b"], messages)
        left.send(b"c")
        left.send(b"d")
        seen: list[list[Any]] = []
        while sum(len(data) for data, _ in seen) < 4:
            got = receive(right)
            seen.append([got.data, len(got.descriptors)])
        return seen

    return {"with": exchange(descriptors(fd)), "without": exchange()}


@behaviour(
    "RTS-09",
    "one receive never joins two messages with descriptors",
    source="gVisor socket_unix_unbound_stream.cc, FDPassNotCombined",
    expected=[["a", 1], ["b", 2], ["c", 1]],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()
    for data, count in ((b"a", 1), (b"b", 2), (b"c", 1)):
        send_descriptors(left, *[fd] * count, data=data)
    got = [receive(right) for _ in range(3)]
    return [[each.data, len(each.descriptors)] for each in got]


@behaviour(
    "RTS-10",
    "descriptors need a byte of data on a stream: without any, send says 0 and they are lost; a datagram takes them",
    source="unix(7), Ancillary messages; gVisor socket_unix_unbound_stream.cc, ZeroLengthMessageFDDiscarded",
    expected=lambda pair: (
        {"sent": 0, "there": "EAGAIN", "descriptor": "closed"}
        if _is_stream(pair)
        else {"sent": 0, "there": ["", 1], "descriptor": "open"}
    ),
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    canary = Canary()
    sent = send_descriptors(left, canary.write, data=b"")
    canary.let_go()
    there: object
    try:
        got = receive(right, flags=socket.MSG_DONTWAIT)
        there = [got.data, len(got.descriptors)]
    except BlockingIOError:
        there = "EAGAIN"
    return {"sent": sent, "there": there, "descriptor": canary.fate(SOON if there == "EAGAIN" else 0)}


@behaviour(
    "RTS-11",
    "several SCM_RIGHTS in one message arrive as one, in their order",
    source="kernel net/core/scm.c, scm_fp_copy; CPython test_socket, SCMRightsTest.testFDPassSeparate",
    expected={"messages": 1, "descriptors": ["first", "second", "third"]},
    over=PAIRS,
    notes="unix(7) says that Linux takes only one SCM_RIGHTS in a message.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    names = ("first", "second", "third")
    ours = {name: os.open(kit.path(name), os.O_RDWR | os.O_CREAT) for name in names}
    left.sendmsg([b"x"], [descriptors(ours["first"]), descriptors(ours["second"], ours["third"])])
    got = receive(right)
    return {
        "messages": len(got.types),
        "descriptors": [name for fd in got.descriptors for name in names if same_file(fd, ours[name])],
    }


@behaviour(
    "RTS-12",
    "a receiver without free descriptors gets the data, MSG_CTRUNC and no errno; those that do not fit are closed",
    source="unix(7), SCM_RIGHTS; kernel net/core/scm.c, scm_detach_fds",
    expected={
        "none free": {"data": "x", "arrived": 0, "cut": True, "lost": "closed"},
        "one free": {"data": "x", "arrived": 1, "cut": True, "lost": "closed"},
        "enough": {"data": "x", "arrived": 2, "cut": False, "lost": "open"},
    },
    over=PAIRS,
    notes="FreeBSD says EMSGSIZE. Always look at MSG_CTRUNC: the data came, and what it spoke of did not.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def exchange(free: int | None) -> object:
        canary = Canary()
        send_descriptors(left, canary.read, canary.write)
        canary.let_go()
        if free is not None:
            _limit_descriptors(_first_free(right.fileno()) + free)
        got = receive(right)
        _limit_descriptors(before)
        lost = len(got.descriptors) < 2
        return {
            "data": got.data,
            "arrived": len(got.descriptors),
            "cut": got.cut,
            "lost": canary.fate(SOON if lost else 0),
        }

    return {"none free": exchange(0), "one free": exchange(1), "enough": exchange(None)}


def _send_until_refused(pair: tuple[socket.socket, socket.socket], limit: int) -> dict[str, object]:
    """With this limit of open files, send 253 descriptors again and again, at most ten times more than that."""
    left, right = pair
    _limit_descriptors(limit)
    fd, _ = os.pipe()
    most = 10 * limit // MAX_DESCRIPTORS

    def send() -> str:
        return errno_of(lambda: send_descriptors(left, *[fd] * MAX_DESCRIPTORS, flags=socket.MSG_DONTWAIT))

    said: list[str] = []
    while len(said) < most and (not said or said[-1] == "ok"):
        said.append(send())
    sent = said.count("ok")
    for _ in range(sent):
        right.recv(1)  # which closes them
    return {
        "first": said[0],
        "in the end": said[-1],
        "not far beyond the limit": sent * MAX_DESCRIPTORS <= limit + MAX_DESCRIPTORS,
        "when they were received": send(),
    }


def _with_more_room(kit: Kit) -> tuple[socket.socket, socket.socket]:
    """A pair that holds many messages. (A datagram pair's backlog is too short.)"""
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.SEQPACKET))
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    return left, right


@behaviour(
    "RTS-13",
    "a user without capabilities has as many descriptors under way as RLIMIT_NOFILE says; then ETOOMANYREFS",
    source="unix(7), ETOOMANYREFS; kernel net/core/scm.c, too_many_unix_fds",
    expected={
        "first": "ok",
        "in the end": "ETOOMANYREFS",
        "not far beyond the limit": True,
        "when they were received": "ok",
    },
    since=(4, 5),
    notes="Counted for all of the user's processes together, and looked at before a message: the last may go beyond. "
    "All who run as one user share it, over containers too.",
)
def _(kit: Kit) -> object:
    pair = _with_more_room(kit)
    if os.geteuid() != 0:
        return _send_until_refused(pair, 1000)
    why = why_not(Requirement.OTHER_USER)
    if why:
        raise NotHere(why)

    def somebody() -> object:
        uid = 61_000 + os.getpid() % 4000  # with nothing else under way
        with suppress(OSError):
            become(uid, OTHER_UID)
        if os.geteuid() == 0:
            become(OTHER_UID, OTHER_UID)
        return _send_until_refused(pair, 1000)

    return kit.in_child(somebody)


@behaviour(
    "RTS-14",
    "with CAP_SYS_RESOURCE or CAP_SYS_ADMIN there is no limit to the descriptors under way",
    source="unix(7), ETOOMANYREFS; kernel net/core/scm.c, too_many_unix_fds",
    expected={
        "first": "ok",
        "in the end": "ok",
        "not far beyond the limit": False,
        "when they were received": "ok",
    },
    since=(4, 5),
    notes="Root in a container has neither, if the engine gives it no more than usual.",
)
def _(kit: Kit) -> object:
    lacking = [why_not(need) for need in (Requirement.SYS_RESOURCE, Requirement.SYS_ADMIN)]
    if all(lacking):
        raise NotHere("; ".join(lacking))
    return _send_until_refused(_with_more_room(kit), 500)


@behaviour(
    "RTS-15",
    "descriptors under way outlive the sender's close and its end",
    source="unix(7), SCM_RIGHTS; CPython test_socket, SCMRightsTest",
    expected={"file": "open", "written": "hi"},
    over=BLOCKING,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    read, tell = os.pipe()

    def send() -> None:
        canary = Canary()
        send_descriptors(left, canary.read, canary.write)
        os.write(tell, b"x")

    kit.in_child(send)
    left.close()
    os.read(read, 1)
    theirs, write = receive(right).descriptors
    os.write(write, b"hi")
    return {"file": "open", "written": os.read(theirs, 9).decode()}


def _collected(kit: Kit, canary: Canary) -> str:
    """What becomes of a canary when the kernel looks for garbage, as it does whenever a socket is released."""
    kit.socket().close()
    return canary.fate(SOON)


@behaviour(
    "RTS-16",
    "sockets that only hold each other in their queues are collected, with all else that is in these",
    source="kernel net/unix/garbage.c, unix_gc; kernel selftests net/af_unix/scm_rights.c, self_ref",
    expected={
        "in its own queue": {"before": "open", "after": "closed"},
        "in each other's": {"before": "open", "after": "closed"},
    },
    over=BLOCKING,
    notes="Their own close starts no collection, for what is under way is not released by it: the next release of any "
    "Unix socket does, or much under way. Until then files and listeners in there stay open, in no process.",
)
def _(kit: Kit, pair: Pair) -> object:
    def garbage(*sent: int) -> object:
        """Each end sends the one of this number into the other's queue."""
        ends = kit.pair(pair)
        canary = Canary()
        for sender, which in enumerate(sent):
            send_descriptors(ends[sender], ends[which].fileno(), canary.write)
        canary.let_go()
        before = canary.fate()
        for end in ends:
            end.close()
        return {"before": before, "after": _collected(kit, canary)}

    return {"in its own queue": garbage(1), "in each other's": garbage(0, 1)}


@behaviour(
    "RTS-17",
    "listeners and connections can be sent, and serve where they arrive",
    source="unix(7), SCM_RIGHTS; measured, CPython test_socket has it in part",
    expected={"accepted by": "child", "connection": "child"},
    over=BLOCKING,
    notes="So a new server can take over from an old one without a client's noticing it.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def receiver() -> None:
        listening, connected = (socket.socket(fileno=fd) for fd in receive(right).descriptors)
        connection, _ = listening.accept()
        for sock in (connection, connected):
            sock.send(str(os.getpid()).encode())

    child = kit.child(receiver)
    path = kit.path()
    listener = kit.socket(bind=path, listen=1)  # it was not there at the fork
    near, far = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    send_descriptors(left, listener.fileno(), far.fileno())
    listener.close()
    far.close()
    client = kit.socket()
    client.connect(path)
    who = {str(child.pid): "child", str(os.getpid()): "this process"}
    return {
        "accepted by": who.get(client.recv(20).decode()),
        "connection": who.get(near.recv(20).decode()),
    }


def _memfd() -> int:
    fd = os.memfd_create("atlas")
    os.write(fd, b"memory")
    return fd


def _epoll() -> int:
    read, write = os.pipe()
    os.write(write, b"x")
    poll = select.epoll()
    poll.register(read, select.EPOLLIN)
    return os.dup(poll.fileno())


def _has_come(fd: int) -> bool:
    """What is to be read from it at once."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _ended() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    fd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    return fd


KINDS: dict[str, tuple[Callable[[], int], Callable[[int], object], object]] = {
    # how one is made; what it gives where it has arrived; what that should be
    "memfd": (_memfd, lambda fd: os.pread(fd, 9, 0).decode(), "memory"),
    "pidfd": (_ended, _has_come, True),
    "eventfd": (lambda: calls.eventfd(7), lambda fd: int.from_bytes(os.read(fd, 8), sys.byteorder), 7),
    "epoll": (_epoll, lambda fd: len(select.epoll.fromfd(fd).poll(0)), 1),
    "O_PATH": (lambda: os.open("/", os.O_PATH), lambda fd: os.stat(".", dir_fd=fd).st_ino == os.stat("/").st_ino, True),
    "directory": (lambda: os.open("/", os.O_RDONLY), lambda fd: bool(os.listdir(fd)), True),
    "inotify": (lambda: libc.inotify_open() or -1, _has_come, False),
    "io_uring": (lambda: calls.io_uring_setup(1), lambda fd: os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), ""),
}


@behaviour(
    "RTS-18",
    "descriptors of every kind can be sent, and work where they arrive, but for an io_uring's: EINVAL",
    source="kernel net/core/scm.c, scm_fp_copy; measured, no suite covers it",
    expected=lambda kind: (
        ByKernel({(0,): {"sent": "ok", "works": "anon_inode:[io_uring]"}, (6, 7): {"sent": "EINVAL", "works": None}})
        if kind == "io_uring"
        else {"sent": "ok", "works": KINDS[kind][2]}
    ),
    over=tuple(KINDS),
    needs=(Requirement.CTYPES, Requirement.PROC),
    notes="Rings could be sent before Linux 6.7, where their own cycles had to be collected too.",
)
def _(kit: Kit, kind: str) -> object:
    make, use, _ = KINDS[kind]
    try:
        fd = make()
    except OSError as error:
        raise NotHere(f"no {kind} can be made here: {error.strerror}") from None
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    sent = errno_of(lambda: send_descriptors(left, fd))
    os.close(fd)
    return {"sent": sent, "works": use(receive(right).descriptors[0]) if sent == "ok" else None}


@behaviour(
    "RTS-19",
    "an SCM_RIGHTS without descriptors is as none",
    source="gVisor socket_unix_cmsg.cc, ZeroFDPass, ZeroFDPassCoalesceData",
    expected=lambda pair: [["abc", []]] if _is_stream(pair) else [["a", []], ["b", []], ["c", []]],
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"a")
    left.sendmsg([b"b"], [descriptors()])
    left.send(b"c")
    seen: list[list[Any]] = []
    while sum(len(data) for data, _ in seen) < 3:
        got = receive(right)
        seen.append([got.data, got.types])
    return seen


@behaviour(
    "RTS-20",
    "a receiver that has switched SO_PASSRIGHTS off is sent no descriptors: the sender gets EPERM",
    source="kernel net/unix/af_unix.c, unix_may_passrights; measured, no suite covers it",
    expected={"on": "ok", "off": "EPERM", "sent": "EAGAIN", "off, none": "ok", "on again": "ok", "sender's off": "ok"},
    over=PAIRS,
    since=(6, 16),
    notes="The one way to be safe from being sent descriptors that one would have to close.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()

    def send() -> str:
        return errno_of(lambda: send_descriptors(left, fd))

    seen = {"on": send()}
    receive(right)
    right.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    seen["off"] = send()
    seen["sent"] = _nothing_there(right)
    seen["off, none"] = errno_of(left.send, b"x")
    right.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
    seen["on again"] = send()
    left.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    seen["sender's off"] = send()
    return seen


@behaviour(
    "RTS-21",
    "on an Internet socket SCM_RIGHTS are ignored: the data goes, without an error",
    source="kernel net/core/sock.c, __sock_cmsg_send; measured, no suite covers it",
    expected={"tcp": {"sent": "ok", "data": "x", "arrived": 0}, "udp": {"sent": "ok", "data": "x", "arrived": 0}},
    notes="A server that listens on both kinds must not wait for them.",
)
def _(kit: Kit) -> object:
    fd, _ = os.pipe()

    def exchange(sender: socket.socket, receiver: socket.socket) -> object:
        receiver.settimeout(2)
        said = errno_of(lambda: send_descriptors(sender, fd))
        if said != "ok":
            return said
        got = receive(receiver)
        return {"sent": said, "data": got.data, "arrived": len(got.descriptors)}

    def inet(type: int) -> socket.socket:
        sock: socket.socket = kit.close_at_end(socket.socket(socket.AF_INET, type))
        return sock

    listener, client = inet(socket.SOCK_STREAM), inet(socket.SOCK_STREAM)
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.connect(listener.getsockname())
    except OSError as error:
        raise NotHere(f"no TCP by 127.0.0.1: {error.strerror}") from None
    connection: socket.socket = kit.close_at_end(listener.accept()[0])
    near, far = inet(socket.SOCK_DGRAM), inet(socket.SOCK_DGRAM)
    far.bind(("127.0.0.1", 0))
    near.connect(far.getsockname())
    return {"tcp": exchange(client, connection), "udp": exchange(near, far)}


@behaviour(
    "RTS-22",
    "scm_fds in /proc/PID/fdinfo counts the descriptors that wait in a socket's queue",
    source="kernel net/unix/af_unix.c, unix_show_fdinfo; measured, no suite covers it",
    expected={"receiver": [0, 3, 5, 2, 0], "sender": 0},
    over=BLOCKING,
    since=(5, 6),
    needs=Requirement.PROC,
    notes="The one trace of descriptors that are open in no process.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()

    def count(sock: socket.socket) -> object:
        with open(f"/proc/self/fdinfo/{sock.fileno()}") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("scm_fds:")), None)

    counts = [count(right)]
    for number in (3, 2):
        send_descriptors(left, *[fd] * number)
        counts.append(count(right))
    sender = count(left)
    for _ in range(2):
        receive(right)
        counts.append(count(right))
    return {"receiver": counts, "sender": sender}


@behaviour(
    "RTS-23",
    "an unknown control message of level SOL_SOCKET is EINVAL; one of another level is ignored",
    source="kernel net/core/scm.c, __scm_send; measured, no suite covers it",
    expected={"SOL_SOCKET": "EINVAL", "sent": "EAGAIN", "another level": "ok", "arrived": ["x", []]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    content = struct.pack("i", 0)

    def arrived() -> object:
        if _nothing_there(right) == "EAGAIN":
            return "EAGAIN"
        got = receive(right)
        return [got.data, got.types]

    return {
        "SOL_SOCKET": errno_of(left.sendmsg, [b"x"], [(socket.SOL_SOCKET, 0x63, content)]),
        "sent": _nothing_there(right),
        "another level": errno_of(left.sendmsg, [b"x"], [(socket.IPPROTO_TCP, RIGHTS, content)]),
        "arrived": arrived(),
    }


@behaviour(
    "RTS-24",
    "recvmsg without a place for control messages closes the descriptors and sets MSG_CTRUNC",
    source="gVisor socket_unix_cmsg.cc, BasicFDPassNullControlMsgCtrunc",
    expected={"data": "x", "cut": True, "before": "open", "after": "closed", "none sent": False},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    canary = Canary()
    send_descriptors(left, canary.write)
    canary.let_go()
    before = canary.fate()
    got = receive(right, room=0)
    left.send(b"x")
    return {
        "data": got.data,
        "cut": got.cut,
        "before": before,
        "after": canary.fate(SOON),
        "none sent": receive(right, room=0).cut,
    }


@behaviour(
    "RTS-25",
    "the descriptors of a long stream message come once, with its first part",
    source="gVisor socket.cc, UnixSCMRightsOnlyPassedOnce; kernel net/unix/af_unix.c, unix_stream_sendmsg",
    expected={"all came": True, "several parts": True, "with descriptors": [0]},
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    fd, _ = os.pipe()
    sent = send_descriptors(left, fd, data=b"x" * 1_000_000, flags=socket.MSG_DONTWAIT)
    parts: list[tuple[int, int]] = []
    while sum(length for length, _ in parts) < sent:
        got = receive(right, 30_000)
        parts.append((len(got.data), len(got.descriptors)))
    return {
        "all came": sent == sum(length for length, _ in parts),
        "several parts": len(parts) > 2,
        "with descriptors": [number for number, (_, count) in enumerate(parts) if count],
    }


@behaviour(
    "RTS-26",
    "descriptors for a peer that has closed are refused, and no reference is kept",
    source="send(2), EPIPE; measured, no suite covers it",
    expected=lambda pair: {
        "said": "ECONNREFUSED" if pair.type is SocketType.DGRAM else "EPIPE",
        "before": "open",
        "after": "closed",
    },
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    canary = Canary()
    right.close()
    said = errno_of(lambda: send_descriptors(left, canary.write))
    before = canary.fate()
    canary.let_go()
    return {"said": said, "before": before, "after": canary.fate(SOON)}


def _ring(kit: Kit, count: int, flags: int = 0) -> list[tuple[socket.socket, socket.socket]]:
    """Socketpairs of which each has the next one's receiver in its queue, and the last one the first's."""
    pairs = [kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM)) for _ in range(count)]
    for number, (left, _) in enumerate(pairs):
        send_descriptors(left, pairs[(number + 1) % count][1].fileno(), flags=flags)
    return pairs


def _out_of_band(kit: Kit) -> list[tuple[socket.socket, socket.socket]]:
    """A ring of urgent messages."""
    try:
        return _ring(kit, 3, socket.MSG_OOB)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise NotHere("a kernel without MSG_OOB for Unix sockets") from None
        raise


def _chords(kit: Kit) -> list[tuple[socket.socket, socket.socket]]:
    """A ring with a short cut, forth and back."""
    pairs = _ring(kit, 6)
    send_descriptors(pairs[0][0], pairs[3][1].fileno())
    send_descriptors(pairs[4][0], pairs[1][1].fileno())
    return pairs


def _two_rings(kit: Kit) -> list[tuple[socket.socket, socket.socket]]:
    """Two rings, the one of which holds the other."""
    first, second = _ring(kit, 3), _ring(kit, 3)
    send_descriptors(first[1][0], second[1][1].fileno())
    return [*second, *first]


def _not_accepted(kit: Kit) -> list[tuple[socket.socket, socket.socket]]:
    """A listener that is in the queue of a connection that it has not accepted."""
    path = kit.path()
    listener, client = kit.socket(bind=path, listen=1), kit.socket()
    client.connect(path)
    send_descriptors(client, listener.fileno())
    return [(client, listener)]


def _not_accepted_ring(kit: Kit) -> list[tuple[socket.socket, socket.socket]]:
    """Two listeners, each in the queue of a connection that the other has not accepted."""
    met = []
    for _ in range(2):
        listener = kit.socket(bind=kit.path(), listen=1)
        client = kit.socket()
        client.connect(listener.getsockname())
        met.append((client, listener))
    for number, (client, _) in enumerate(met):
        send_descriptors(client, met[1 - number][1].fileno())
    return met


GRAPHS: dict[str, Callable[[Kit], list[tuple[socket.socket, socket.socket]]]] = {
    "two": lambda kit: _ring(kit, 2),
    "triangle": lambda kit: _ring(kit, 3),
    "twenty": lambda kit: _ring(kit, 20),
    "chords": _chords,
    "two rings": _two_rings,
    "out of band": _out_of_band,
    "not accepted": _not_accepted,
    "not accepted, two": _not_accepted_ring,
}
"""Pairs of a sender and what holds its messages: all of them are garbage once they are closed."""


@behaviour(
    "RTS-27",
    "larger cycles are collected too: rings, with chords, of each other, out of band, and of what was not accepted",
    source="kernel net/unix/garbage.c, unix_gc; kernel selftests net/af_unix/scm_rights.c",
    expected={"while one is held": "open", "after": "closed"},
    over=tuple(GRAPHS),
    since=(6, 10),
    limit=10,
    notes="Linux 6.10 has a new collector, by strongly connected components; the longterm kernels got it later.",
)
def _(kit: Kit, graph: str) -> object:
    pairs = GRAPHS[graph](kit)
    canary = Canary()
    send_descriptors(pairs[0][0], canary.write)
    canary.let_go()
    held = pairs[-1][1]
    for left, right in pairs:
        left.close()
        if right is not held:
            right.close()
    # Other garbage shows that the kernel has looked for it since: this was not taken for such.
    spare = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    other = Canary()
    send_descriptors(spare[0], spare[1].fileno(), other.write)
    other.let_go()
    for end in spare:
        end.close()
    looked = _collected(kit, other) == "closed"
    meanwhile = canary.fate() if looked else "no collection"
    held.close()
    return {"while one is held": meanwhile, "after": _collected(kit, canary)}


@behaviour(
    "RTS-28",
    "many may send and receive descriptors over one pair at the same time, and each is whole",
    source="gVisor socket_unix_cmsg.cc, ConcurrentBasicFDPass",
    expected={"received": 100, "by two": True, "right": 100},
    over=tuple(pair for pair in BLOCKING if pair.kind is Kind.SOCKETPAIR),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    files = [os.open(kit.path(), os.O_RDWR | os.O_CREAT) for _ in range(4)]
    got: list[list[tuple[str, int]]] = [[], []]
    together = threading.Barrier(6)

    def send(number: int) -> None:
        together.wait()
        for _ in range(25):
            send_descriptors(left, files[number], data=str(number).encode())

    def take(mine: list[tuple[str, int]]) -> None:
        together.wait()
        for _ in range(50):
            received = receive(right, 1)
            mine.append((received.data, received.descriptors[0] if received.descriptors else -1))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=take, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    received = got[0] + got[1]
    return {
        "received": len(received),
        "by two": all(got),
        "right": sum(fd >= 0 and same_file(fd, files[int(data)]) for data, fd in received),
    }


@behaviour(
    "RTS-29",
    "a recvmsg of no bytes gives the descriptors; on a stream the data stays",
    source="gVisor socket_unix_cmsg.cc, ZeroLengthRecvReceivesFD",
    expected=lambda pair: {"arrived": 1, "data": "", "next": ["xy", 0] if _is_stream(pair) else "EAGAIN"},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()
    send_descriptors(left, fd, data=b"xy")
    got = receive(right, 0)
    following: object
    try:
        rest = receive(right, flags=socket.MSG_DONTWAIT)
        following = [rest.data, len(rest.descriptors)]
    except BlockingIOError:
        following = "EAGAIN"
    return {"arrived": len(got.descriptors), "data": got.data, "next": following}


@behaviour(
    "RTS-30",
    "descriptors come with the first byte of their message: who reads that plainly has lost them",
    source="gVisor socket_unix_unbound_stream.cc, FDPassPartialRead, FDPassCoalescedRead",
    expected={
        "recv first": {"first": "a", "then": ["bc", 0, False], "descriptor": "closed"},
        "recvmsg first": {"first": ["a", 1], "then": ["bc", 0, False]},
    },
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def rest() -> list[object]:
        got = receive(right)
        return [got.data, len(got.descriptors), got.cut]

    canary = Canary()
    send_descriptors(left, canary.write, data=b"abc")
    canary.let_go()
    plainly = {"first": right.recv(1).decode(), "then": rest(), "descriptor": canary.fate(SOON)}
    send_descriptors(left, canary.read, data=b"abc")
    got = receive(right, 1)
    return {
        "recv first": plainly,
        "recvmsg first": {"first": [got.data, len(got.descriptors)], "then": rest()},
    }


@behaviour(
    "RTS-31",
    "MSG_CTRUNC among the flags for recvmsg means nothing",
    source="gVisor socket_unix_cmsg.cc, MsgCtruncInputIsNoop",
    expected={"with a descriptor": [1, False], "without": [0, False]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()
    send_descriptors(left, fd)
    with_one = receive(right, flags=socket.MSG_CTRUNC)
    left.send(b"x")
    without = receive(right, flags=socket.MSG_CTRUNC)
    return {
        "with a descriptor": [len(with_one.descriptors), with_one.cut],
        "without": [len(without.descriptors), without.cut],
    }


@behaviour(
    "RTS-32",
    "shutdown of the receiver's reading keeps what waits, descriptors too, until it is received or the socket closed",
    source="shutdown(2); FreeBSD tests/sys/kern/unix_passfd_test.c; measured, no suite covers it on Linux",
    expected={"after SHUT_RD": "open", "received": ["x", 1], "the second": "open", "after close": "closed"},
    over=PAIRS,
    notes="FreeBSD disposes of them at shutdown.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    first, second = Canary(), Canary()
    for canary in (first, second):
        send_descriptors(left, canary.write)
        canary.let_go()
    right.shutdown(socket.SHUT_RD)
    after = first.fate(0.02)
    got = receive(right)
    seen: dict[str, object] = {
        "after SHUT_RD": after,
        "received": [got.data, len(got.descriptors)],
        "the second": second.fate(),
    }
    right.close()
    return {**seen, "after close": second.fate(SOON)}


@behaviour(
    "RTS-34",
    "a control message that says it is shorter than its header, or longer than there is, is EINVAL",
    source="kernel net/core/scm.c, __scm_send (CMSG_OK); gVisor socket_unix_cmsg.cc, ShortCmsg",
    expected={"0": "EINVAL", "header - 1": "EINVAL", "all + 1": "EINVAL", "sent": "EAGAIN", "all": "ok", "arrived": 1},
    over=BLOCKING,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    fd, _ = os.pipe()
    header = socket.CMSG_LEN(0)

    def send(length: int) -> str:
        control = struct.pack("@Nii", length, socket.SOL_SOCKET, RIGHTS) + struct.pack("i", fd)
        return errno_of(calls.send_control, left.fileno(), b"x", control)

    return {
        "0": send(0),
        "header - 1": send(header - 1),
        "all + 1": send(header + 5),
        "sent": _nothing_there(right),
        "all": send(header + 4),
        "arrived": len(receive(right).descriptors),
    }
