"""CRD: who is at the other end: SO_PEERCRED and its kin, and credentials that come with messages."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from typing import Any

from udslab.atlas import calls
from udslab.atlas.ancillary import (
    BLOCKING,
    CREDENTIALS,
    RIGHTS,
    ask_for_credentials,
    credentials,
    descriptors,
    receive,
    send_descriptors,
)
from udslab.atlas.behaviour import CONNECTED, PAIRS, STREAMS, TYPES, ByKernel, Either, Kind, Pair, behaviour
from udslab.atlas.kit import OTHER_UID, Kit, errno_of
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType

__all__: list[str] = []

# asm-generic/socket.h; Python has not got them all.
SO_PASSCRED, SO_PEERCRED, SO_PEERSEC, SO_PASSSEC = 16, 17, 31, 34
SO_PEERGROUPS, SO_PASSPIDFD, SO_PEERPIDFD = 59, 76, 77
SCM_SECURITY, SCM_PIDFD = 3, 4

NOBODY = (0, -1, -1)
UNTOLD = [0, 65534, 65534]
MET = tuple(pair for pair in CONNECTED if pair.blocking and pair.kind is not Kind.SOCKETPAIR)
"""Connected by connect and accept."""
DATAGRAMS_MET = tuple(pair for pair in BLOCKING if pair.type is SocketType.DGRAM and pair.kind is not Kind.SOCKETPAIR)
LISTENING = (SocketType.STREAM, SocketType.SEQPACKET)

Credentials = tuple[int, int, int]


def _peer(sock: socket.socket) -> Credentials:
    """SO_PEERCRED."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, 12))
    return pid, uid, gid


def _self() -> Credentials:
    return os.getpid(), os.geteuid(), os.getegid()


def _who(seen: Credentials, **known: Credentials) -> object:
    """Which of these it is ("this process" and "nobody" are always known); the numbers if none."""
    known = {**known, "this process": _self(), "nobody": NOBODY}
    return next((name for name, each in known.items() if each == seen), list(seen))


def _pid_of(pidfd: int) -> int:
    """What /proc says of a pidfd."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def _pidfd(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)


def _has_label() -> bool:
    """Whether a security module labels this process."""
    try:
        with open("/proc/self/attr/current") as file:
            return bool(file.read().strip("\0\n"))
    except OSError:
        return False


@behaviour(
    "CRD-01",
    "both ends of a socketpair have its maker for their peer",
    source="unix(7), SO_PEERCRED; Linux Test Project, getsockopt02; gVisor socket_unix_peercred.cc, GetPeerCred",
    expected=["this process", "this process"],
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    return [_who(_peer(end)) for end in kit.pair(Pair(Kind.SOCKETPAIR, type))]


@behaviour(
    "CRD-02",
    "a socket without a peer tells of pid 0 and of user and group -1, and of no error",
    source="kernel net/core/sock.c, cred_to_ucred; gVisor socket_unix_peercred.cc, PeerCredBeforeListen",
    expected={"new": "nobody", "bound": "nobody"},
    over=TYPES,
    notes="Read as unsigned, -1 is 4294967295. A pid of 0 alone does not tell it: a peer in another pid namespace has "
    "that too.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    new = _who(_peer(sock))
    sock.bind(kit.path())
    return {"new": new, "bound": _who(_peer(sock))}


@behaviour(
    "CRD-03",
    "a listener tells of who called listen on it last, not of who made or bound it",
    source="kernel net/unix/af_unix.c, unix_listen; gVisor socket_unix_peercred.cc, PeerCredAfterListen",
    expected={"bound": "nobody", "a child called listen": "child", "this process called it again": "this process"},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type, bind=kit.path())
    bound = _who(_peer(sock))
    child = kit.child(lambda: sock.listen(1))
    child.result()
    theirs = _who(_peer(sock), child=(child.pid, os.geteuid(), os.getegid()))
    sock.listen(1)
    return {"bound": bound, "a child called listen": theirs, "this process called it again": _who(_peer(sock))}


@behaviour(
    "CRD-04",
    "a datagram socket that was connected tells of pid 0 and of user and group -1",
    source="kernel net/unix/af_unix.c, unix_dgram_connect; measured, no suite covers it",
    expected=["nobody", "nobody"],
    over=DATAGRAMS_MET,
    notes="Ask with SO_PASSCRED who sends; only a socketpair of datagram sockets has a known peer.",
)
def _(kit: Kit, pair: Pair) -> object:
    return [_who(_peer(end)) for end in kit.pair(pair)]


@behaviour(
    "CRD-05",
    "a client is told of the process that called listen, be it gone, and not of the one that accepts",
    source="unix(7), SO_PEERCRED; gVisor socket_unix_peercred.cc, AfterConnectClientPeerCred",
    expected={"client": "listened", "accepted": "this process"},
    over=MET,
    notes="With socket activation that is the manager, with a server that forks its workers the first process.",
)
def _(kit: Kit, pair: Pair) -> object:
    address = kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()
    listener = kit.socket(pair.type, bind=address)
    listened = kit.child(lambda: listener.listen(1))
    listened.result()

    def accept() -> object:
        connection, _ = listener.accept()
        connection.send(b"x")
        return _peer(connection)

    accepts = kit.child(accept)
    client = kit.socket(pair.type)
    client.connect(address)
    client.recv(1)
    ids = os.geteuid(), os.getegid()
    known = {"listened": (listened.pid, *ids), "accepts": (accepts.pid, *ids)}
    return {"client": _who(_peer(client), **known), "accepted": _who(tuple(accepts.result()), **known)}


@behaviour(
    "CRD-06",
    "a server is told the effective user and group of connect, whatever becomes of the client and of the connection",
    source="unix(7), SO_PEERCRED; gVisor socket_unix_peercred.cc, AfterConnectServerPeerCred",
    expected={
        "at connect": "effective at connect",
        "after the client's setuid": "effective at connect",
        "in a forked child": "effective at connect",
        "where it was passed to": "effective at connect",
    },
    over=LISTENING,
    needs=Requirement.OTHER_USER,
)
def _(kit: Kit, type: SocketType) -> object:
    address = kit.abstract()
    listener = kit.socket(type, bind=address, listen=1)
    near, far = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))

    def client() -> None:
        os.setegid(OTHER_UID)
        os.seteuid(OTHER_UID)
        sock = kit.socket(type)
        sock.connect(address)
        far.recv(1)
        os.seteuid(0)
        os.setresgid(1234, 1234, 1234)
        os.setresuid(1234, 1234, 1234)
        far.send(b"x")
        far.recv(1)

    child = kit.child(client)
    connection, _ = listener.accept()
    known = {"effective at connect": (child.pid, OTHER_UID, OTHER_UID), "later": (child.pid, 1234, 1234)}
    seen = {"at connect": _who(_peer(connection), **known)}
    near.send(b"x")
    near.recv(1)
    seen["after the client's setuid"] = _who(_peer(connection), **known)
    forked = kit.child(lambda: _peer(connection))
    known["who asks"] = (forked.pid, os.geteuid(), os.getegid())
    seen["in a forked child"] = _who(tuple(forked.result()), **known)
    left, right = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    receiver = kit.child(lambda: _peer(socket.socket(fileno=receive(right).descriptors[0])))
    send_descriptors(left, connection.fileno())
    known["who asks"] = (receiver.pid, os.geteuid(), os.getegid())
    seen["where it was passed to"] = _who(tuple(receiver.result()), **known)
    near.send(b"x")
    return seen


@behaviour(
    "CRD-07",
    "SO_PEERCRED tells of the peer also when it has ended and was waited for",
    source="gVisor socket_unix_peercred.cc, PeerCredSurvivesPeerExit",
    expected={"while it ran": "child", "after its end": "child", "a process": False},
    over=MET,
    notes="The number may be another process's by then: a pidfd (SO_PEERPIDFD) cannot be mistaken.",
)
def _(kit: Kit, pair: Pair) -> object:
    address = kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()
    listener = kit.socket(pair.type, bind=address, listen=1)
    end, tell = os.pipe()

    def client() -> None:
        sock = kit.socket(pair.type)
        sock.connect(address)
        os.read(end, 1)

    child = kit.child(client)
    connection, _ = listener.accept()
    known = (child.pid, os.geteuid(), os.getegid())
    ran = _who(_peer(connection), child=known)
    os.write(tell, b"x")
    child.result()
    there = errno_of(os.kill, child.pid, 0) == "ok"
    return {"while it ran": ran, "after its end": _who(_peer(connection), child=known), "a process": there}


@behaviour(
    "CRD-08",
    "credentials for a receiver that has not set SO_PASSCRED are dropped, and nothing tells of it",
    source="unix(7), SCM_CREDENTIALS; gVisor socket_unix_cmsg.cc, NoPassCred",
    expected={"without": ["a", [], False], "with": ["b", ["this process"], False]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    own = credentials(os.getpid(), os.getuid(), os.getgid())

    def exchange(data: bytes) -> object:
        left.sendmsg([data], [own])
        got = receive(right)
        return [got.data, [_who(each) for each in got.credentials], got.cut]

    without = exchange(b"a")
    ask_for_credentials(right)
    return {"without": without, "with": exchange(b"b")}


@behaviour(
    "CRD-09",
    "with SO_PASSCRED at the receiver each message tells the sender's real user and group, also plain writes",
    source="unix(7), SO_PASSCRED; gVisor socket_unix_cmsg.cc, WriteAfterSoPassCredRecvEnd",
    expected={"write": ["real"], "send": ["real"], "sendmsg": ["real"]},
    over=PAIRS,
    needs=Requirement.OTHER_USER,
    notes="SO_PEERCRED tells the effective ones: a program with set-user-ID is two users, according to how one asks.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    ask_for_credentials(right)
    real = (os.getpid(), os.getuid(), os.getgid())
    effective = (os.getpid(), OTHER_UID, OTHER_UID)
    os.setegid(OTHER_UID)
    os.seteuid(OTHER_UID)
    os.write(left.fileno(), b"a")
    left.send(b"b")
    left.sendmsg([b"c"])
    return {
        call: [_who(each, real=real, effective=effective) for each in receive(right, 1).credentials]
        for call in ("write", "send", "sendmsg")
    }


@behaviour(
    "CRD-10",
    "what was written before SO_PASSCRED was set comes with pid 0 and the overflow user and group",
    source="gVisor socket_unix_cmsg.cc, WriteBeforeSoPassCredRecvEnd; kernel net/unix/af_unix.c, unix_maybe_add_creds",
    expected={"before": UNTOLD, "after": "this process"},
    over=PAIRS,
    since=(3, 2),
    notes="Set it on the listener, from which accepted sockets inherit it, or take no such message for an answer.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    left.send(b"a")
    ask_for_credentials(right)
    left.send(b"b")
    before, after = receive(right, 1), receive(right, 1)
    return {"before": list(before.credentials[0]), "after": _who(after.credentials[0])}


@behaviour(
    "CRD-11",
    "who has no capability may not claim another process, user or group: EPERM, and nothing is sent",
    source="unix(7), SCM_CREDENTIALS; gVisor socket_unix_cmsg.cc, CredPassDifferentPIDUnprivileged",
    expected={"pid": "EPERM", "uid": "EPERM", "gid": "EPERM", "own": "ok", "arrived": "own"},
    over=BLOCKING,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def claim() -> object:
        pid, uid, gid = _self()
        claims = {
            "pid": (os.getppid(), uid, gid),
            "uid": (pid, 0 if uid else OTHER_UID, gid),
            "gid": (pid, uid, 0 if gid else OTHER_UID),
            "own": (pid, uid, gid),
        }
        return {
            name: errno_of(left.sendmsg, [name.encode()], [credentials(*claimed)]) for name, claimed in claims.items()
        }

    return {**kit.unprivileged(claim), "arrived": right.recv(100).decode()}


@behaviour(
    "CRD-12",
    "root may claim another process, but not one that is not there: ESRCH",
    source="unix(7), SCM_CREDENTIALS; gVisor socket_unix_cmsg.cc, CredPassNonexistentPID",
    expected={"another": "ok", "arrived": "parent", "nobody": "ESRCH"},
    over=BLOCKING,
    needs=(Requirement.ROOT, Requirement.SYS_ADMIN),
    notes="Credentials of a sender with CAP_SYS_ADMIN, CAP_SETUID or CAP_SETGID are its word, no proof.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    ask_for_credentials(right)
    parent = (os.getppid(), os.getuid(), os.getgid())
    another = errno_of(left.sendmsg, [b"x"], [credentials(*parent)])
    arrived = _who(receive(right).credentials[0], parent=parent)
    nobody = errno_of(left.sendmsg, [b"x"], [credentials(2**31 - 1, os.getuid(), os.getgid())])
    return {"another": another, "arrived": arrived, "nobody": nobody}


@behaviour(
    "CRD-13",
    "credentials of any other length than 12 bytes cannot be sent: EINVAL",
    source="kernel net/core/scm.c, __scm_send; gVisor socket_unix_cmsg.cc, NoDataCredPass",
    expected={"0": "EINVAL", "4": "EINVAL", "11": "EINVAL", "12": "ok", "13": "EINVAL", "24": "EINVAL"},
    over=BLOCKING,
)
def _(kit: Kit, pair: Pair) -> object:
    left, _right = kit.pair(pair)
    level, type, content = credentials(os.getpid(), os.getuid(), os.getgid())
    return {
        str(length): errno_of(left.sendmsg, [b"x"], [(level, type, (content * 2)[:length])])
        for length in (0, 4, 11, 12, 13, 24)
    }


@behaviour(
    "CRD-14",
    "one receive does not join what different processes have sent, if the receiver has set SO_PASSCRED",
    source="kernel net/unix/af_unix.c, unix_stream_read_generic; gVisor socket_unix_unbound_stream.cc, "
    "NonCoalescedDifferingCreds1",
    expected={
        "with": [["ab", "this process"], ["c", "child"], ["d", "this process"]],
        "without": [["abcd", None]],
    },
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    def exchange(ask: bool) -> object:
        left, right = kit.pair(pair)
        ask_for_credentials(right, ask)
        left.send(b"a")
        left.send(b"b")
        child = kit.child(lambda: left.send(b"c"))
        child.result()
        left.send(b"d")
        right.setblocking(False)
        known = (child.pid, os.getuid(), os.getgid())
        seen: list[list[Any]] = []
        while sum(len(data) for data, _ in seen) < 4:
            got = receive(right)
            seen.append([got.data, _who(got.credentials[0], child=known) if got.credentials else None])
        return seen

    return {"with": exchange(True), "without": exchange(False)}


@behaviour(
    "CRD-15",
    "SO_PEERPIDFD gives a pidfd of the peer, closed on exec, that tells of its end",
    source="kernel net/core/sock.c, sk_getsockopt; kernel selftests net/af_unix/scm_pidfd.c",
    expected={"pid": "child", "close-on-exec": True, "running": False, "ended": True},
    over=MET,
    since=(6, 5),
    needs=Requirement.PROC,
)
def _(kit: Kit, pair: Pair) -> object:
    address = kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()
    listener = kit.socket(pair.type, bind=address, listen=1)
    end, tell = os.pipe()

    def client() -> None:
        sock = kit.socket(pair.type)
        sock.connect(address)
        os.read(end, 1)

    child = kit.child(client)
    connection, _ = listener.accept()
    pidfd = _pidfd(connection)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    seen = {
        "pid": "child" if _pid_of(pidfd) == child.pid else _pid_of(pidfd),
        "close-on-exec": not os.get_inheritable(pidfd),
        "running": bool(poll.poll(0)),
    }
    os.write(tell, b"x")
    seen["ended"] = bool(poll.poll(2000))
    return seen


@behaviour(
    "CRD-16",
    "SO_PEERPIDFD of a peer that has ended and was waited for: a pidfd that names no process",
    source="kernel selftests net/af_unix/scm_pidfd.c; kernel net/core/sock.c, sk_getsockopt",
    expected=ByKernel({(6, 5): Either("EINVAL", "ESRCH", "ENODATA"), (6, 16): {"pid": -1}}),
    over=MET,
    since=(6, 5),
    needs=Requirement.PROC,
    notes="Before Linux 6.16 it fails, so a server that asks late must be ready for an error.",
)
def _(kit: Kit, pair: Pair) -> object:
    address = kit.path() if pair.kind is Kind.PATHNAME else kit.abstract()
    listener = kit.socket(pair.type, bind=address, listen=1)
    kit.in_child(lambda: kit.socket(pair.type).connect(address))
    connection, _ = listener.accept()
    said = errno_of(_pidfd, connection)
    return {"pid": _pid_of(_pidfd(connection))} if said == "ok" else said


@behaviour(
    "CRD-17",
    "SO_PEERPIDFD without a peer that is known: ENODATA",
    source="kernel net/core/sock.c, sk_getsockopt; measured, no suite covers it",
    expected=lambda each: {
        "new": "ENODATA",
        "connected datagrams" if each is SocketType.DGRAM else "bound": "ENODATA",
        "socketpair": "this process",
    },
    over=TYPES,
    since=(6, 5),
    needs=Requirement.PROC,
)
def _(kit: Kit, type: SocketType) -> object:
    new = kit.socket(type)
    seen = {"new": errno_of(_pidfd, new)}
    if type is SocketType.DGRAM:
        seen["connected datagrams"] = errno_of(_pidfd, kit.pair(DATAGRAMS_MET[0])[0])
    else:
        seen["bound"] = errno_of(_pidfd, kit.socket(type, bind=kit.path()))
    pid = _pid_of(_pidfd(kit.pair(Pair(Kind.SOCKETPAIR, type))[0]))
    seen["socketpair"] = "this process" if pid == os.getpid() else str(pid)
    return seen


@behaviour(
    "CRD-18",
    "with SO_PASSPIDFD each message brings a pidfd of its sender: SCM_PIDFD, 4 bytes",
    source="kernel net/core/scm.c, scm_pidfd_recv; kernel selftests net/af_unix/scm_pidfd.c",
    expected={"level": 1, "type": SCM_PIDFD, "length": 4, "pid": "child", "close-on-exec": True},
    over=BLOCKING,
    since=(6, 5),
    needs=Requirement.PROC,
    notes="Close it even if you do not want it: it is a descriptor like any other.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    right.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    end, tell = os.pipe()

    def send() -> None:
        left.send(b"x")
        os.read(end, 1)

    child = kit.child(send)
    level, type, content = receive(right).others[0]
    (pidfd,) = struct.unpack("i", content[:4])
    pid = _pid_of(pidfd)
    os.write(tell, b"x")
    return {
        "level": level,
        "type": type,
        "length": len(content),
        "pid": "child" if pid == child.pid else pid,
        "close-on-exec": not os.get_inheritable(pidfd),
    }


@behaviour(
    "CRD-19",
    "SO_PEERGROUPS lists the peer's supplementary groups; too little room: ERANGE and how much it takes",
    source="kernel net/core/sock.c, sk_getsockopt; measured, no suite covers it",
    expected={
        "groups": [1001, 1002, 1003],
        "after its setgroups": [1001, 1002, 1003],
        "too little room": ["ERANGE", 12],
        "no peer": "ENODATA",
    },
    over=LISTENING,
    since=(4, 13),
    needs=(Requirement.SETGID, Requirement.CTYPES),
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    listener = kit.socket(type, bind=path, listen=1)
    near, far = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))

    def client() -> None:
        os.setgroups([1003, 1001, 1002])
        sock = kit.socket(type)
        sock.connect(path)
        far.recv(1)
        os.setgroups([])
        far.send(b"x")
        far.recv(1)

    child = kit.child(client)
    connection, _ = listener.accept()

    def groups(sock: socket.socket) -> list[int]:
        told = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 400)
        return list(struct.unpack(f"{len(told) // 4}I", told))

    first = groups(connection)
    near.send(b"x")
    near.recv(1)
    failed, length = calls.get_option(connection.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, 4)
    seen = {
        "groups": first,
        "after its setgroups": groups(connection),
        "too little room": [errno.errorcode.get(failed, "ok"), length],
        "no peer": errno_of(groups, kit.socket(type)),
    }
    near.send(b"x")
    child.result()
    return seen


@behaviour(
    "CRD-20",
    "SO_PEERSEC gives the peer's label where a security module labels; otherwise ENOPROTOOPT",
    source="socket(7), SO_PEERSEC; kernel security/security.c, security_socket_getpeersec_stream",
    expected=Either(
        {"labelled": False, "label": "ENOPROTOOPT", "no room": "ENOPROTOOPT"},
        {"labelled": True, "label": "ok", "no room": "ERANGE"},
        {"labelled": True, "label": "ENOPROTOOPT", "no room": "ENOPROTOOPT"},
    ),
    over=tuple(pair for pair in MET if pair.type is SocketType.STREAM),
    needs=(Requirement.CTYPES, Requirement.PROC),
    notes="AppArmor before its mediation of Unix sockets labels processes and answers ENOPROTOOPT all the same.",
)
def _(kit: Kit, pair: Pair) -> object:
    _, right = kit.pair(pair)

    def ask(room: int) -> str:
        failed, _ = calls.get_option(right.fileno(), socket.SOL_SOCKET, SO_PEERSEC, room)
        return errno.errorcode.get(failed, "ok")

    return {"labelled": _has_label(), "label": ask(1000), "no room": ask(1)}


@behaviour(
    "CRD-21",
    "SO_PEERCRED cannot be set: ENOPROTOOPT, and nothing changes",
    source="unix(7), SO_PEERCRED (read-only); measured, no suite covers it",
    expected={"set": "ENOPROTOOPT", "after": "this process"},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    left, _right = kit.pair(Pair(Kind.SOCKETPAIR, type))
    claim = struct.pack("3i", 1, 1, 1)
    return {"set": errno_of(left.setsockopt, socket.SOL_SOCKET, SO_PEERCRED, claim), "after": _who(_peer(left))}


@behaviour(
    "CRD-22",
    "the pid is the process's also where one of its threads has connected or sent",
    source="kernel net/unix/af_unix.c, prepare_peercred; measured, no suite covers it",
    expected={"a thread": True, "SO_PEERCRED": "this process", "SCM_CREDENTIALS": ["this process"]},
    over=LISTENING,
)
def _(kit: Kit, type: SocketType) -> object:
    path = kit.path()
    listener = kit.socket(type, bind=path, listen=1)
    ask_for_credentials(listener)
    client = kit.socket(type)
    numbers = []

    def connect() -> None:
        numbers.append(threading.get_native_id())
        client.connect(path)
        client.send(b"x")

    thread = threading.Thread(target=connect)
    thread.start()
    connection, _ = listener.accept()
    thread.join()
    return {
        "a thread": numbers != [os.getpid()],
        "SO_PEERCRED": _who(_peer(connection)),
        "SCM_CREDENTIALS": [_who(each) for each in receive(connection).credentials],
    }


@behaviour(
    "CRD-23",
    "with SO_PASSCRED and no room for control messages the data comes with MSG_CTRUNC",
    source="gVisor socket_unix_cmsg.cc, CredPassNoSpaceMsgCtrunc",
    expected={"no room": ["a", True], "room": ["b", False], "not asked for": ["c", False], "recv": "d"},
    over=PAIRS,
    notes="A plain recv has no flags to tell it by, and loses the credentials silently.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)

    def exchange(data: bytes, ask: bool, room: int) -> object:
        ask_for_credentials(right, ask)
        left.send(data)
        got = receive(right, room=room)
        return [got.data, got.cut]

    seen: dict[str, Any] = {
        "no room": exchange(b"a", True, 0),
        "room": exchange(b"b", True, 100),
        "not asked for": exchange(b"c", False, 0),
    }
    ask_for_credentials(right)
    left.send(b"d")
    return {**seen, "recv": right.recv(9).decode()}


@behaviour(
    "CRD-24",
    "SO_PASSCRED is for Unix sockets: EOPNOTSUPP on one of another family",
    source="kernel net/core/sock.c, sk_setsockopt; measured, no suite covers it",
    expected=ByKernel({(0,): {"AF_INET": "ok", "AF_UNIX": "ok"}, (6, 16): {"AF_INET": "EOPNOTSUPP", "AF_UNIX": "ok"}}),
    notes="Before Linux 6.16 it could be set on any socket, and did nothing.",
)
def _(kit: Kit) -> object:
    inet = kit.close_at_end(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    return {
        "AF_INET": errno_of(ask_for_credentials, inet),
        "AF_UNIX": errno_of(ask_for_credentials, kit.socket()),
    }


@behaviour(
    "CRD-25",
    "in a forked child both ends of a socketpair have the parent, who made it, for their peer",
    source="gVisor socket_unix_peercred.cc, GetPeerCred; measured, no suite covers the fork",
    expected={"parent": ["this process", "this process"], "child": ["parent", "parent"]},
    over=TYPES,
    notes="So it says nothing about who holds the other end: with a pair, ask with SO_PASSCRED.",
)
def _(kit: Kit, type: SocketType) -> object:
    ends = kit.pair(Pair(Kind.SOCKETPAIR, type))
    parent = _self()
    in_child = kit.in_child(lambda: [_who(_peer(end), parent=parent) for end in ends])
    return {"parent": [_who(_peer(end)) for end in ends], "child": in_child}


@behaviour(
    "CRD-26",
    "SO_PEERCRED with little room is cut without an error; with much it is 12 bytes",
    source="kernel net/core/sock.c, sk_getsockopt; measured, no suite covers it",
    expected={"1": 1, "4": 4, "8": 8, "12": 12, "100": 12, "the first 4 are the pid": True},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    left, _right = kit.pair(Pair(Kind.SOCKETPAIR, type))

    def ask(room: int) -> bytes | str:
        try:
            return left.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, room)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    told = {str(room): ask(room) for room in (1, 4, 8, 12, 100)}
    lengths: dict[str, object] = {
        room: len(content) if isinstance(content, bytes) else content for room, content in told.items()
    }
    return {**lengths, "the first 4 are the pid": told["4"] == struct.pack("i", os.getpid())}


@behaviour(
    "CRD-27",
    "each partial read of a message brings its credentials again; none need be sent",
    source="gVisor socket_unix_unbound_stream.cc, CredPassPartialRead; gVisor socket_unix_cmsg.cc, SendNullCreds*",
    expected=[["a", ["this process"]], ["b", ["this process"]], ["c", ["this process"]]],
    over=STREAMS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    ask_for_credentials(right)
    left.sendmsg([b"abc"])
    got = [receive(right, 1) for _ in range(3)]
    return [[each.data, [_who(creds) for creds in each.credentials]] for each in got]


@behaviour(
    "CRD-28",
    "credentials and descriptors go in one message in any order, and arrive credentials first",
    source="gVisor socket_unix_cmsg.cc, CredAndFDPass, FDPassBeforeSoPassCred",
    expected={"credentials first": [["this process"], 1, [2, 1]], "descriptors first": [["this process"], 1, [2, 1]]},
    over=PAIRS,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    ask_for_credentials(right)
    messages = [credentials(os.getpid(), os.getuid(), os.getgid()), descriptors(left.fileno())]

    def exchange() -> object:
        left.sendmsg([b"x"], messages)
        got = receive(right)
        return [
            [_who(each) for each in got.credentials],
            len(got.descriptors),
            [type for type in got.types if type in (CREDENTIALS, RIGHTS)],
        ]

    first = exchange()
    messages.reverse()
    return {"credentials first": first, "descriptors first": exchange()}


@behaviour(
    "CRD-29",
    "credentials are the sender's whenever they are read, while it ends and is waited for too",
    source="gVisor socket_unix_peercred.cc, SendCredsRacesWithPeerReap",
    expected={"rounds": 10, "others": [], "before its end": True, "after": True},
    over=(Pair(Kind.SOCKETPAIR, SocketType.STREAM), Pair(Kind.SOCKETPAIR, SocketType.DGRAM)),
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    ask_for_credentials(right)
    ids = os.getuid(), os.getgid()
    others: set[Credentials] = set()
    reads = [0, 0]
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            try:
                left.send(b"x")
            finally:
                os._exit(0)
        ended = 0
        while not ended:  # it has sent, and ends, or has not been waited for yet
            others.update(set(receive(right, 1, flags=socket.MSG_PEEK).credentials) - {(pid, *ids)})
            reads[0] += 1
            ended, _ = os.waitpid(pid, os.WNOHANG)
        others.update(set(receive(right, 1).credentials) - {(pid, *ids)})
        reads[1] += 1
    return {"rounds": 10, "others": sorted(others), "before its end": reads[0] >= 10, "after": reads[1] == 10}


@behaviour(
    "CRD-30",
    "with SO_PASSSEC messages bring the sender's label where a security module labels; otherwise nothing",
    source="unix(7), SO_PASSSEC and SCM_SECURITY; kernel net/core/scm.c, scm_passec",
    expected=Either(
        {"labelled": False, "set": "ok", "types": [], "cut": False},
        {"labelled": False, "set": "EOPNOTSUPP", "types": [], "cut": False},
        {"labelled": True, "set": "ok", "types": [SCM_SECURITY], "cut": False},
    ),
    over=BLOCKING,
    since=(4, 2),
    needs=Requirement.PROC,
    notes="For datagrams since Linux 2.6.18, for streams since 4.2. EOPNOTSUPP: Linux 6.16 or newer, built without "
    "CONFIG_SECURITY_NETWORK.",
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    said = errno_of(right.setsockopt, socket.SOL_SOCKET, SO_PASSSEC, 1)
    left.send(b"x")
    got = receive(right)
    return {"labelled": _has_label(), "set": said, "types": got.types, "cut": got.cut}
