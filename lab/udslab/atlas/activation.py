"""ACT: listeners that come from somebody else: socket activation, and messages to the one that started us."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from udslab.atlas.behaviour import PAIRS, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, events, limit_waiting
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

LISTENING = (SocketType.STREAM, SocketType.SEQPACKET)
NAMED = (Kind.PATHNAME, Kind.ABSTRACT)
MET = tuple(pair for pair in PAIRS if pair.blocking and pair.kind is not Kind.SOCKETPAIR)
SO_PASSCRED, SCM_CREDENTIALS = 16, 2


def _credentials(ancillary: list[tuple[int, int, bytes]]) -> object:
    """Those that have come with a message: pid, user, group; in words, if they are this process's, or nobody's."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SCM_CREDENTIALS):
            told = struct.unpack("3i", data[:12])
            known = {(os.getpid(), os.getuid(), os.getgid()): "the sender", (0, 65534, 65534): "nobody"}
            return known.get(told, list(told))
    return "none"


@behaviour(
    "ACT-01",
    "SO_ACCEPTCONN tells a passed listener from others; a received descriptor is inherited unless one asks otherwise",
    source="sd_is_socket(3); socket(7), SO_ACCEPTCONN; PEP 446; measured, no suite covers it",
    expected={
        "SO_ACCEPTCONN": {"listener": 1, "bound": 0, "connection": 0},
        "inheritable": {"made by Python": False, "received": True, "with MSG_CMSG_CLOEXEC": False},
        "accepts": "ok",
    },
    over=LISTENING,
    notes="Python makes its own descriptors close-on-exec, and programs that it starts without close_fds still get "
    "those that it has received: give recvmsg MSG_CMSG_CLOEXEC. (recv_fds ignores its flags.)",
)
def _(kit: Kit, type: SocketType) -> object:
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    listener = kit.socket(type, bind=kit.path(), listen=1)
    connection = kit.pair(Pair(Kind.SOCKETPAIR, type))[0]
    bound = kit.socket(type, bind=kit.path())

    def passed(flags: int = 0) -> list[int]:
        socket.send_fds(left, [b"x"], [listener.fileno(), bound.fileno(), connection.fileno()])
        _, ancillary, _, _ = right.recvmsg(1, socket.CMSG_SPACE(12), flags)
        return list(struct.unpack("3i", ancillary[0][2]))

    fds = passed()
    received = [kit.close_at_end(socket.socket(fileno=os.dup(fd))) for fd in fds]
    accepting = [each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in received]
    kit.socket(type).connect(listener.getsockname())
    return {
        "SO_ACCEPTCONN": {"listener": accepting[0], "bound": accepting[1], "connection": accepting[2]},
        "inheritable": {
            "made by Python": listener.get_inheritable(),
            "received": os.get_inheritable(fds[0]),
            "with MSG_CMSG_CLOEXEC": os.get_inheritable(passed(socket.MSG_CMSG_CLOEXEC)[0]),
        },
        "accepts": errno_of(lambda: received[0].accept()[0].close()),
    }


def _with_poll(listener: socket.socket, stop: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(stop, select.POLLIN)
    return stop.fileno() not in dict(poll.poll(4000))


def _with_epoll(flags: int) -> Callable[[socket.socket, socket.socket], bool]:
    def wait(listener: socket.socket, stop: socket.socket) -> bool:
        with select.epoll() as epoll:
            epoll.register(listener, select.EPOLLIN | flags)
            epoll.register(stop, select.EPOLLIN)
            return stop.fileno() not in dict(epoll.poll(4))

    return wait


_WAITS: dict[str, Callable[[socket.socket, socket.socket], bool]] = {
    "poll": _with_poll,
    "epoll": _with_epoll(0),
    "epoll, exclusive": _with_epoll(getattr(select, "EPOLLEXCLUSIVE", 0)),
}
"""Each waits for a listener, and gives whether that came before there was something to read at ``stop``."""


@behaviour(
    "ACT-02",
    "one connection wakes all that poll a listener, and one of them gets it, the others EAGAIN; "
    "with EPOLLEXCLUSIVE one wakes",
    source="epoll_ctl(2), EPOLLEXCLUSIVE; measured, no suite covers it",
    expected=lambda wait: {"woken": 1 if "exclusive" in wait else 2, "accepted": ["EAGAIN", "ok"]},
    over=tuple(_WAITS),
    needs=Requirement.PROC,
    notes="Let a listener that processes share be non-blocking: the second one to wake waits in accept otherwise. "
    "EPOLLEXCLUSIVE is there since Linux 4.5.",
)
def _(kit: Kit, wait: str) -> object:
    path = kit.path()
    listener = kit.socket(bind=path, listen=1)
    listener.setblocking(False)
    near, far = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    limit_waiting(near, 3)

    def serve() -> list[object]:
        woken = _WAITS[wait](listener, far)
        far.send(b"x")
        far.recv(1)
        return [woken, errno_of(listener.accept)]

    children = [kit.child(serve) for _ in range(2)]
    if not all(child.sleeps() for child in children):
        raise NotHere("no telling when a process waits")
    kit.socket().connect(path)
    near.recv(1)
    # Nobody accepts before the other has had time to wake.
    limit_waiting(near, 0.1 if "exclusive" in wait else 3)
    errno_of(near.recv, 1)
    near.send(b"xx")
    seen = [child.result() for child in children]
    return {"woken": sum(woken for woken, _ in seen), "accepted": sorted(said for _, said in seen)}


@behaviour(
    "ACT-03",
    "a notification: a datagram of an unbound sender comes without an address, with its credentials if asked for",
    source="sd_notify(3); unix(7), SO_PASSCRED; measured, no suite covers it",
    expected={"message": "READY=1", "from": None, "credentials": "the sender"},
    over=NAMED,
    notes="A service manager has but the credentials to tell who sends, and the pid is gone with a short-lived sender.",
)
def _(kit: Kit, kind: Kind) -> object:
    address = kit.path() if kind is Kind.PATHNAME else kit.abstract()
    manager = kit.socket(SocketType.DGRAM, bind=address)
    limit_waiting(manager, 2)
    manager.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    kit.socket(SocketType.DGRAM).sendto(b"READY=1", address)
    message, ancillary, _, sender = manager.recvmsg(100, 100)
    return {"message": message.decode(), "from": sender or None, "credentials": _credentials(ancillary)}


_TELL = """
import json, os, socket, stat
fds = []
for fd in range(3, 3 + int(os.environ["LISTEN_FDS"])):
    sock = socket.socket(fileno=os.dup(fd))
    fds.append([sock.getsockname(), sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)])
print(json.dumps([int(os.environ["LISTEN_PID"]) == os.getpid(), os.environ.get("LISTEN_FDNAMES"), fds]))
"""


def _activate(kit: Kit, paths: list[str], *options: str) -> list[Any]:
    """What a program that systemd-socket-activate starts has been given: whether the pid is its own, names, sockets."""
    command = shutil.which("systemd-socket-activate")
    if command is None:
        raise NotHere("no systemd-socket-activate")
    listen = [f"--listen={path}" for path in paths]
    tell = [sys.executable, "-S", "-E", "-c", _TELL]
    manager = subprocess.Popen([command, *listen, *options, *tell], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert manager.stderr is not None
        for _ in paths:  # "Listening on PATH as 3."
            manager.stderr.readline()
        client = kit.socket()
        client.connect(paths[0])
        said, why = manager.communicate(timeout=4)
    finally:
        manager.kill()
        manager.wait()
    if not said:
        raise NotHere(f"the program was not started ({why.decode(errors='replace').strip()[-80:]})")
    given: list[Any] = json.loads(said)
    given[2] = [[paths.index(path) if path in paths else path, accepts] for path, accepts in given[2]]
    return given


@behaviour(
    "ACT-04",
    "a service gets its listeners from descriptor 3 on, LISTEN_FDS of them, in order; LISTEN_PID is its own pid",
    source="sd_listen_fds(3)",
    expected={"LISTEN_PID is its own": True, "listeners": [[0, 1], [1, 1]]},
    notes="Whoever starts something else in between must set LISTEN_PID anew: others leave the sockets alone.",
)
def _(kit: Kit) -> object:
    own, _, sockets = _activate(kit, [kit.path(), kit.path()])
    return {"LISTEN_PID is its own": own, "listeners": sockets}


@behaviour(
    "ACT-07",
    "shutdown of an inherited listener ends it for the one that it came from, too; close does not",
    source="sd_listen_fds(3), Notes; kernel net/unix/af_unix.c, unix_shutdown",
    expected={
        "closed": {"done": "ok", "connect": "ok", "poll": "IN", "accept": "ok"},
        "file removed": {"done": "ok", "connect": "ENOENT", "poll": "", "accept": "would wait"},
        "shut down": {"done": "ok", "connect": "ECONNREFUSED", "poll": "IN|HUP|RDHUP", "accept": "EINVAL"},
    },
    over=LISTENING,
    notes="A service that gets its listener from a manager must not shut it down at its end, nor remove the file. "
    "A non-blocking accept says EAGAIN of one that was shut down.",
)
def _(kit: Kit, type: SocketType) -> object:
    def end(how: Callable[[socket.socket], object]) -> dict[str, str]:
        path = kit.path()
        listener = kit.socket(type, bind=path, listen=1)
        done = kit.in_child(lambda: errno_of(how, listener))
        connect = errno_of(kit.socket(type).connect, path)
        ready = events(listener, "IN|RDHUP")
        accept = errno_of(listener.accept) if ready else "would wait"
        return {"done": done, "connect": connect, "poll": ready, "accept": accept}

    return {
        "closed": end(lambda listener: listener.close()),
        "file removed": end(lambda listener: os.unlink(listener.getsockname())),
        "shut down": end(lambda listener: listener.shutdown(socket.SHUT_RDWR)),
    }


@behaviour(
    "ACT-09",
    "SO_PASSCRED that is set when a message waits already comes too late for that message: it is nobody's",
    source="kernel net/unix/af_unix.c, maybe_add_creds (since Linux 3.2); systemd.socket(5), PassCredentials=",
    expected={"sent before": "nobody", "sent after": "the sender"},
    over=MET,
    notes="So a manager sets it on the socket itself before anybody can send; a connection takes it from its listener.",
)
def _(kit: Kit, pair: Pair) -> object:
    sender, receiver = kit.pair(pair)
    limit_waiting(receiver, 2)
    sender.send(b"a")
    receiver.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    before = _credentials(receiver.recvmsg(1, 100)[1])
    sender.send(b"b")
    return {"sent before": before, "sent after": _credentials(receiver.recvmsg(1, 100)[1])}


@behaviour(
    "ACT-10",
    "LISTEN_FDNAMES has the names that the manager was given for the descriptors, with colons between",
    source="sd_listen_fds_with_names(3); systemd.socket(5), FileDescriptorName=",
    expected={"named": "control:data", "LISTEN_PID is its own": True},
)
def _(kit: Kit) -> object:
    own, names, _ = _activate(kit, [kit.path(), kit.path()], "--fdname=control:data")
    return {"named": names, "LISTEN_PID is its own": own}
