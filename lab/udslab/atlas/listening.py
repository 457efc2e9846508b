"""LSN: listen, and the queue of those who wait to be accepted."""

from __future__ import annotations

import os
import socket
import threading
from functools import partial

from udslab.atlas import calls
from udslab.atlas.behaviour import LISTENING, ByKernel, Either, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, events, limit_waiting, outcome
from udslab.atlas.requirement import Requirement
from udslab.deadline import now
from udslab.socktype import SocketType

__all__: list[str] = []


def _connect_till_full(server: socket.socket, at_most: int = 10) -> tuple[int, str]:
    """How many can connect without waiting, and what the next is told. They stay in the queue when they are closed."""
    type = SocketType.of(server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
    for number in range(at_most):
        with socket.socket(socket.AF_UNIX, type.constant | socket.SOCK_NONBLOCK) as client:
            said = errno_of(client.connect, server.getsockname())
        if said != "ok":
            return number, said
    return at_most, "not full"


@behaviour(
    "LSN-01",
    "listen on a socket without a name is EINVAL",
    source="kernel tools/testing/selftests/net/af_unix/unix_listen.c, unbound_is_einval; "
    "gVisor test/syscalls/linux/accept_bind.cc, ListenWithoutBind",
    expected={"unbound": "EINVAL", "pair": "EINVAL", "bound": "ok"},
    over=LISTENING,
    notes="POSIX and FreeBSD have EDESTADDRREQ. No name is taken automatically, as TCP takes a port.",
)
def _(kit: Kit, type: SocketType) -> object:
    return {
        "unbound": errno_of(kit.socket(type).listen, 1),
        "pair": errno_of(kit.pair(Pair(Kind.SOCKETPAIR, type))[0].listen, 1),
        "bound": errno_of(kit.socket(type, bind=kit.path()).listen, 1),
    }


@behaviour(
    "LSN-02",
    "a datagram socket neither listens nor accepts: EOPNOTSUPP",
    source="gVisor test/syscalls/linux/socket_unix_unbound_dgram.cc, Listen and Accept",
    expected={"unbound": ["EOPNOTSUPP", "EOPNOTSUPP"], "bound": ["EOPNOTSUPP", "EOPNOTSUPP"]},
    notes="FreeBSD's accept says EINVAL.",
)
def _(kit: Kit) -> object:
    socks = {"unbound": kit.socket(SocketType.DGRAM), "bound": kit.socket(SocketType.DGRAM, bind=kit.path())}
    return {what: [errno_of(sock.listen, 1), errno_of(sock.accept)] for what, sock in socks.items()}


@behaviour(
    "LSN-03",
    "a backlog of N lets N + 1 wait; a non-blocking connect is then EAGAIN",
    source="kernel net/unix/af_unix.c, unix_recvq_full; "
    "gVisor test/syscalls/linux/socket_unix_unbound_abstract.cc, ListenZeroBacklog",
    expected={"0": [1, "EAGAIN"], "1": [2, "EAGAIN"], "3": [4, "EAGAIN"], "accepted": [4, "EAGAIN"]},
    over=LISTENING,
    notes="Who has connected and closed again waits, too, until it is accepted.",
)
def _(kit: Kit, type: SocketType) -> object:
    seen = {}
    for backlog in (0, 1, 3):
        server = kit.socket(type, bind=kit.path(), listen=backlog)
        seen[str(backlog)] = _connect_till_full(server)
    for _accepted in range(4):
        server.accept()[0].close()
    return {**seen, "accepted": _connect_till_full(server)}


@behaviour(
    "LSN-04",
    "a blocking connect waits while the queue is full; SO_SNDTIMEO ends that with EAGAIN, an accept with success",
    source="unix(7), ERRORS; connect(2), EAGAIN; kernel net/unix/af_unix.c, unix_wait_for_peer",
    expected={"limited": "EAGAIN", "waited": True, "waits": True, "after an accept": "ok"},
    over=LISTENING,
    needs=Requirement.PROC,
    notes="Never ETIMEDOUT nor EINPROGRESS. Python's settimeout makes the socket non-blocking, so that connect "
    "does not wait at all.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type, bind=kit.path(), listen=0)
    _connect_till_full(server)
    client = kit.socket(type)
    limit_waiting(client, 0.06)
    began = now()
    limited = errno_of(client.connect, server.getsockname())
    waited = now() - began
    waiting = kit.child(lambda: errno_of(kit.socket(type).connect, server.getsockname()))
    sleeps = waiting.sleeps()
    server.accept()[0].close()
    return {
        "limited": limited,
        "waited": waited >= 0.05,
        "waits": sleeps,
        "after an accept": waiting.result(),
    }


@behaviour(
    "LSN-05",
    "listen may be called again: the new backlog holds at once, and who waits already stays",
    source="kernel tools/testing/selftests/net/af_unix/unix_listen.c, relisten_is_ok; "
    "gVisor test/syscalls/linux/accept_bind.cc, ListenIncreaseBacklog and ListenDecreaseBacklog",
    expected={
        "0": ["ok", 1, "EAGAIN"],
        "2": ["ok", 2, "EAGAIN"],
        "0 again": ["ok", 0, "EAGAIN"],
        "accepted": 3,
        "then": [1, "EAGAIN"],
    },
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type, bind=kit.path())

    def listen(backlog: int) -> object:
        return [errno_of(server.listen, backlog), *_connect_till_full(server)]

    seen: dict[str, object] = {"0": listen(0), "2": listen(2), "0 again": listen(0)}
    server.setblocking(False)
    accepted = 0
    while errno_of(lambda: server.accept()[0].close()) == "ok":
        accepted += 1
    return {**seen, "accepted": accepted, "then": _connect_till_full(server)}


@behaviour(
    "LSN-06",
    "a negative or huge backlog counts as net.core.somaxconn",
    source="listen(2), NOTES; gVisor test/syscalls/linux/accept_bind.cc, ListenBacklogSizes; kernel net/socket.c, "
    "__sys_listen",
    expected={"-1": [1, "EAGAIN"], "huge": [1, "EAGAIN"]},
    over=LISTENING,
    needs=(Requirement.PROC, Requirement.CTYPES),
    notes="The figures are how many more than somaxconn could connect. It was 128 before Linux 5.4, and is 4096 since; "
    "each network namespace has its own. POSIX takes a negative backlog for 0, and so does Python's listen.",
)
def _(kit: Kit, type: SocketType) -> object:
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            most = int(file.read())
    except OSError:
        raise NotHere("no net.core.somaxconn to be read") from None
    if most > 10_000:
        raise NotHere(f"net.core.somaxconn is {most}")
    seen = {}
    for what, backlog in (("-1", -1), ("huge", 2**31 - 1)):
        server = kit.socket(type, bind=kit.path())
        calls.listen(server, backlog)
        number, said = _connect_till_full(server, most + 10)
        seen[what] = [number - most, said]
    return seen


_REFUSED = {"bound end of a pair": "EINVAL", "bound client": "EINVAL", "accepted": "EINVAL"}
_SILENT = dict.fromkeys(_REFUSED, "ok")


@behaviour(
    "LSN-07",
    "listen on a connected socket is EINVAL, even if it has a name",
    source="kernel tools/testing/selftests/net/af_unix/unix_listen.c, connected_is_einval",
    expected=ByKernel(
        {
            (0,): _REFUSED,
            (6, 16): Either(_REFUSED, _SILENT),
            (6, 18, 44): _REFUSED,
            (6, 19): Either(_REFUSED, _SILENT),
            (7, 2): _REFUSED,
        }
    ),
    over=LISTENING,
    notes="Some kernels from 6.16 on say that it is done, and do nothing.",
)
def _(kit: Kit, type: SocketType) -> object:
    end, _ = kit.pair(Pair(Kind.SOCKETPAIR, type))
    end.bind(kit.path())
    client, accepted = kit.pair(Pair(Kind.PATHNAME, type))
    client.bind(kit.path())
    return {
        "bound end of a pair": errno_of(end.listen, 1),
        "bound client": errno_of(client.listen, 1),
        "accepted": errno_of(accepted.listen, 1),
    }


@behaviour(
    "LSN-08",
    "a larger backlog lets those in who wait in connect",
    source="kernel net/unix/af_unix.c, unix_listen; measured",
    expected={"wait": [True, True], "connect": ["ok", "ok"]},
    over=LISTENING,
    needs=Requirement.PROC,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.socket(type, bind=kit.path(), listen=0)
    _connect_till_full(server)

    def connect() -> str:
        client = kit.socket(type)
        limit_waiting(client, 3)
        return errno_of(client.connect, server.getsockname())

    children = [kit.child(connect) for _ in range(2)]
    wait = [child.sleeps() for child in children]
    server.listen(5)
    return {"wait": wait, "connect": [child.result() for child in children]}


@behaviour(
    "LSN-09",
    "SO_ACCEPTCONN tells whether a socket listens",
    source="socket(7), SO_ACCEPTCONN; gVisor test/syscalls/linux/socket_unix_stream.cc, GetSocketAcceptConn",
    expected={"unbound": 0, "bound": 0, "listening": 1, "client": 0, "accepted": 0},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    def told(sock: socket.socket) -> int:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    server = kit.socket(type)
    seen = {"unbound": told(server)}
    server.bind(kit.path())
    seen["bound"] = told(server)
    server.listen(1)
    client, accepted = kit.pair(Pair(Kind.PATHNAME, type))
    return {**seen, "listening": told(server), "client": told(client), "accepted": told(accepted)}


@behaviour(
    "LSN-10",
    "connect succeeds before accept, and what is sent then is read after it",
    source="POSIX.1-2017 listen; measured",
    expected={"connect": "ok", "send": 5, "writable": "OUT", "accepted": "early", "back": "late"},
    over=LISTENING,
    notes="That connect succeeds shows that somebody listens, not that anybody serves.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    client = kit.socket(type)
    connected = errno_of(client.connect, server.getsockname())
    sent = client.send(b"early")
    writable = events(client)
    accepted = kit.close_at_end(server.accept()[0])
    read = accepted.recv(100).decode()
    accepted.send(b"late")
    return {
        "connect": connected,
        "send": sent,
        "writable": writable,
        "accepted": read,
        "back": client.recv(100).decode(),
    }


_ENDED = {"shutdown": "ok", "connect": "ECONNREFUSED", "waiting": "ok", "accept": ["EAGAIN", "EINVAL"]}


@behaviour(
    "LSN-11",
    "shutdown of a listener's receiving side ends it: connect is ECONNREFUSED, and a blocking accept EINVAL once the "
    "queue is empty",
    source="kernel net/unix/af_unix.c, unix_accept and unix_stream_connect; measured",
    expected={
        "SHUT_WR": {"shutdown": "ok", "connect": "ok", "waiting": "ok", "accept": ["EAGAIN", "EAGAIN"]},
        "SHUT_RD": {**_ENDED, "poll": "IN|RDHUP"},
        "SHUT_RDWR": {**_ENDED, "poll": "IN|HUP|RDHUP"},
    },
    over=LISTENING,
    notes="Those who wait are still accepted. After that a non-blocking accept is EAGAIN although poll tells IN: a "
    "loop around both never rests. (Of accept the first is non-blocking, the second blocking for 50 ms.)",
)
def _(kit: Kit, type: SocketType) -> object:
    return {how: _shut(kit, type, how) for how in ("SHUT_WR", "SHUT_RD", "SHUT_RDWR")}


def _shut(kit: Kit, type: SocketType, how: str) -> object:
    server = kit.server(type)
    kit.socket(type).connect(server.getsockname())
    seen: dict[str, object] = {"shutdown": errno_of(server.shutdown, getattr(socket, how))}
    if seen["shutdown"] != "ok":
        return seen
    client = kit.socket(type)
    seen["connect"] = errno_of(client.connect, server.getsockname())
    seen["waiting"] = errno_of(lambda: server.accept()[0].close())
    if seen["connect"] == "ok":
        server.accept()[0].close()
    server.setblocking(False)
    at_once = errno_of(server.accept)
    if how != "SHUT_WR":
        seen["poll"] = events(server)
    server.setblocking(True)
    limit_waiting(server, 0.05)
    return {**seen, "accept": [at_once, errno_of(server.accept)]}


@behaviour(
    "LSN-12",
    "shutdown wakes who waits in accept: EINVAL",
    source="kernel net/unix/af_unix.c, unix_accept; measured",
    expected={"SHUT_RD": [True, "ok", "EINVAL"], "SHUT_RDWR": [True, "ok", "EINVAL"]},
    over=LISTENING,
    needs=Requirement.PROC,
    notes="close does not wake it: the call keeps the socket. So shutdown first.",
)
def _(kit: Kit, type: SocketType) -> object:
    seen = {}
    for how in ("SHUT_RD", "SHUT_RDWR"):
        server = kit.server(type)
        limit_waiting(server, 2)
        child = kit.child(partial(errno_of, server.accept))
        sleeps = child.sleeps()
        said = errno_of(server.shutdown, getattr(socket, how))
        if said != "ok":
            child.kill()
        seen[how] = [sleeps, said, child.result() if said == "ok" else "goes on"]
    return seen


@behaviour(
    "LSN-13",
    "a listener that is closed resets those who wait: poll tells it, recv is ECONNRESET once, and then at the end",
    source="kernel tools/testing/selftests/net/af_unix/unix_connreset.c, reset_closed_embryo; "
    "gVisor test/syscalls/linux/socket_unix_stream.cc",
    expected={"before": "OUT", "poll": "IN|OUT|ERR|HUP|RDHUP", "recv": ["ECONNRESET", "", ""]},
    over=LISTENING,
    notes="A client may so be told by ECONNRESET of a server that never knew of it.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    client = kit.socket(type)
    client.connect(server.getsockname())
    client.setblocking(False)
    before = events(client)
    server.close()
    return {"before": before, "poll": events(client), "recv": [outcome(client.recv, 10) for _ in range(3)]}


def _sends(type: SocketType) -> object:
    if type is SocketType.STREAM:
        return {"before": "ok", "sends": ["EPIPE", "EPIPE"], "recv": "ECONNRESET"}
    return {"before": "ok", "sends": ["ECONNRESET", "EPIPE"], "recv": ""}


@behaviour(
    "LSN-14",
    "who waits to be accepted cannot send when the listener has been closed: EPIPE, for seqpacket ECONNRESET first",
    source="measured; kernel net/unix/af_unix.c, unix_stream_sendmsg and unix_seqpacket_sendmsg",
    expected=_sends,
    over=LISTENING,
    notes="The reset is told once: on a stream by the next receive, on seqpacket by whatever comes next.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    client = kit.socket(type)
    client.connect(server.getsockname())
    client.setblocking(False)
    before = errno_of(client.send, b"x")
    server.close()
    sends = [errno_of(client.send, b"x") for _ in range(2)]
    return {"before": before, "sends": sends, "recv": outcome(client.recv, 10)}


@behaviour(
    "LSN-15",
    "the file outlives its listener: connect is then ECONNREFUSED",
    source="unix(7), ERRORS; gVisor test/syscalls/linux/accept_bind.cc, ConnectNonListening",
    expected={"before": "ok", "file": True, "after": "ECONNREFUSED"},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    path = server.getsockname()
    before = errno_of(kit.socket(type).connect, path)
    server.close()
    return {"before": before, "file": os.path.exists(path), "after": errno_of(kit.socket(type).connect, path)}


@behaviour(
    "LSN-16",
    "processes that share a listener by fork both accept; it ends with the last of them",
    source="measured; fork(2)",
    expected={"child accepts": "child", "parent accepts": "parent", "parent has closed": "ok", "all": "ECONNREFUSED"},
    over=LISTENING,
    notes="A worker that is left over keeps the path alive, and its queue: clients connect, and nobody answers.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    path = server.getsockname()
    ours, theirs = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    clients = [kit.socket(type) for _ in range(3)]

    def worker() -> None:
        ours.close()
        server.accept()[0].send(b"child")
        theirs.recv(1)  # until it is told to end

    clients[0].connect(path)
    child = kit.child(worker)
    theirs.close()
    by_child = clients[0].recv(10).decode()
    clients[1].connect(path)
    server.accept()[0].send(b"parent")
    by_parent = clients[1].recv(10).decode()
    server.close()
    left = errno_of(clients[2].connect, path)
    ours.close()
    child.result()
    return {
        "child accepts": by_child,
        "parent accepts": by_parent,
        "parent has closed": left,
        "all": errno_of(kit.socket(type).connect, path),
    }


@behaviour(
    "LSN-17",
    "hundreds of connections at the same time, opened and closed again, leave nothing behind",
    source="gVisor test/syscalls/linux/socket_generic_stress.cc, ConnectStressTest",
    expected={"served": 400, "descriptors": 0, "sockets": 1},
    over=LISTENING,
    needs=Requirement.PROC,
    notes="Four threads of a hundred connections. Of sockets with that path /proc/net/unix tells of the "
    "listener alone.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    path = server.getsockname()
    before = len(os.listdir("/proc/self/fd"))

    def connect() -> None:
        for _ in range(100):
            with socket.socket(socket.AF_UNIX, type.constant) as client:
                client.connect(path)
                client.recv(1)

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    served = 0
    for _ in range(400):
        with server.accept()[0] as accepted:
            served += accepted.send(b"x")
    for thread in threads:
        thread.join()
    try:
        with open("/proc/net/unix", "rb") as file:
            lines = sum(line.endswith(os.fsencode(f" {path}\n")) for line in file)
    except OSError:
        raise NotHere("no /proc/net/unix") from None
    return {"served": served, "descriptors": len(os.listdir("/proc/self/fd")) - before, "sockets": lines}


@behaviour(
    "LSN-18",
    "a listener whose file has been removed goes on for who holds it: nobody finds it by name",
    source="measured; unlink(2)",
    expected={"by name": "ENOENT", "waiting": "ok", "listen": "ok", "held": "ok", "accept": "ok", "name": True},
    over=LISTENING,
    needs=Requirement.PROC,
    notes="It is reached through what was opened before (O_PATH), or another link. getsockname still tells the name, "
    "where by then another's socket may be.",
)
def _(kit: Kit, type: SocketType) -> object:
    server = kit.server(type)
    path = server.getsockname()
    fd = os.open(path, os.O_PATH)
    kit.at_end(os.close, fd)
    kit.socket(type).connect(path)
    os.unlink(path)
    by_name = errno_of(kit.socket(type).connect, path)
    waiting = errno_of(lambda: server.accept()[0].close())
    listening = errno_of(server.listen, 5)
    held = errno_of(kit.socket(type).connect, f"/proc/self/fd/{fd}")
    server.setblocking(False)
    return {
        "by name": by_name,
        "waiting": waiting,
        "listen": listening,
        "held": held,
        "accept": errno_of(lambda: server.accept()[0].close()),
        "name": server.getsockname() == path,
    }
