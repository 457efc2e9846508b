"""Behaviours between two places that share a directory: a server's part in the one, a client's part in the other.

    python3 -m udslab.atlas.two_sided server|client --directory DIR --look DIR

A runner in each place reads JSON lines: which part to play, and what the other side tells; it prints what its part
tells, asks and has seen. Who has started both hands the words on, so that they get there whatever the two have in
common. ``--look`` is the same directory, mounted so that it cannot be written.
"""

from __future__ import annotations

import argparse
import errno
import functools
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from udslab import diag, libc
from udslab.atlas.ancillary import ask_for_credentials, receive, send_descriptors
from udslab.atlas.behaviour import Behaviour, Kind, NotHere, Pair
from udslab.atlas.catalogue import load
from udslab.atlas.kit import Kit, errno_of, outcome
from udslab.atlas.requirement import Requirement, why_not
from udslab.atlas.runner import UNSAID, place
from udslab.deadline import Deadline
from udslab.socktype import SocketType, open_pair

__all__ = ["TWO_SIDED", "Between", "Side", "TwoSided", "main", "row_of", "two_sided"]

MOUNTED = "/f"
"""Where a client that comes late has the server's socket file mounted."""
FILE = "s"
"""The server's socket file, in the directory of the measurement."""
SO_PEERPIDFD = 77  # asm-generic/socket.h
_GRACE = 0.2
"""Seconds for what the other side has sent before it ended, and which goes another way than its words."""


class _Gone(Exception):
    """The other side has ended; why."""


@dataclass(frozen=True)
class Between:
    """Two places: the namespaces that they share ("network", "pid"); and of each its user, and whether that one is
    bound by modes."""

    shares: frozenset[str]
    uids: Mapping[str, int]
    bound: Mapping[str, bool]

    def peer(self, side: str) -> dict[str, Any]:
        """What is told of the peer on that side: the pid is known only in a pid namespace that is shared."""
        uid = self.uids["client" if side == "server" else "server"]
        return {"pid": "the other's" if "pid" in self.shares else 0, "uid": uid, "gid": uid}

    @property
    def both_peers(self) -> dict[str, Any]:
        """The same on both sides."""
        return {side: self.peer(side) for side in ("server", "client")}


@dataclass(frozen=True)
class TwoSided:
    """A behaviour, one variant of it, between two places. ``expected``: what is seen on both sides where the claim
    holds, by :class:`Between`. ``late``: the client's container is made after the server's first word, with the
    server's socket file mounted at :data:`MOUNTED`. ``last``: no server is left after it."""

    id: str
    variant: str
    claim: str
    source: str
    expected: Callable[[Between], Mapping[str, Any]]
    server: Callable[[Side], Any]
    client: Callable[[Side], Any]
    since: tuple[int, ...] = ()
    late: bool = False
    last: bool = False
    notes: str = ""
    limit: float = 5.0


TWO_SIDED: dict[tuple[str, str], TwoSided] = {}
"""By id and variant."""


def two_sided(
    id: str,
    variant: str,
    claim: str,
    *,
    source: str,
    expected: Callable[[Between], Mapping[str, Any]],
    server: Callable[[Side], Any],
    client: Callable[[Side], Any],
    **more: Any,
) -> None:
    """Register one."""
    if (id, variant) in TWO_SIDED:
        raise ValueError(f"there are two behaviours {id}, {variant}")
    TWO_SIDED[id, variant] = TwoSided(id, variant, claim, source, expected, server, client, **more)


def row_of(id: str, variant: str) -> Behaviour | TwoSided | None:
    """What a cell is of: a behaviour between two places, or in one; None for one that is not in the catalogue."""
    return TWO_SIDED.get((id, variant)) or _in_one_place().get(id)


@functools.cache
def _in_one_place() -> dict[str, Behaviour]:
    return {each.id: each for each in load()}


class Side(Kit):
    """One part of a measurement: the sockets of a :class:`~udslab.atlas.kit.Kit`, in a directory that the other side
    sees, and words to and from that. ``look``: the same directory where it cannot be written."""

    def __init__(self, directory: str, look: str, words: int) -> None:
        super().__init__(directory)
        self.look = look
        self._words = words
        self.other_pid = 0

    def at(self, name: str = FILE) -> str:
        """A path that both sides mean by that name."""
        return os.path.join(self.directory, name)

    def greet(self) -> None:
        """Learn the other side's pid in its own namespace."""
        self.other_pid = self.hear()["pid"]

    def tell(self, **facts: Any) -> None:
        """Tell the other side."""
        _say({"tell": facts})

    def ask(self, what: str) -> None:
        """Ask who has started this."""
        _say({"ask": what})

    def hear(self) -> dict[str, Any]:
        """What the other side tells next."""
        told = _read_line(self._words)
        if told is None or "gone" in told:
            raise _Gone("the other side has ended" + (f": {told['gone']}" if told and told["gone"] else ""))
        facts: dict[str, Any] = told["tell"]
        return facts

    def meet(self) -> None:
        """Wait until the other side has come to this point, too."""
        self.tell()
        self.hear()

    def wait(self, sock: socket.socket) -> socket.socket:
        """Wait until there is something to receive or to accept, unless the other side ends before."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._words, select.POLLIN)
        if sock.fileno() not in {fd for fd, _ in poll.poll()}:
            try:
                self.hear()
            except _Gone:
                poll.unregister(self._words)
                if not poll.poll(_GRACE * 1000):
                    raise
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        """The next connection."""
        sock: socket.socket = self.close_at_end(self.wait(listener).accept()[0])
        return sock

    def recv(self, sock: socket.socket) -> str:
        """What is received next; empty at the end of file."""
        return self.wait(sock).recv(100).decode("latin-1")

    def connect(self, path: Any, type: str = "stream") -> socket.socket:
        """A socket connected to that."""
        sock = self.socket(type)
        sock.connect(path)
        return sock

    def try_connect(self, path: Any, type: str = "stream") -> str:
        """ "ok", or the errno's name."""
        return errno_of(self.connect, path, type)

    def try_bind(self, path: Any, type: str = "stream") -> str:
        """The same of a bind."""
        return errno_of(self.socket, type, path)

    def peer(self, sock: socket.socket) -> dict[str, Any]:
        """SO_PEERCRED."""
        return self.called(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))

    def called(self, credentials: Sequence[int]) -> dict[str, Any]:
        """Credentials, with the pid in words where it is not 0."""
        pid, uid, gid = credentials
        word = {0: 0, self.other_pid: "the other's", os.getpid(): "this process's"}.get(pid, "another's")
        return {"pid": word, "uid": uid, "gid": gid}


def _say(line: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def _read_line(fd: int) -> dict[str, Any] | None:
    """The next line, and no byte more: what follows is for another process. None at the end of file."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(fd, 1)
        if not data:
            return None
        line += data
    told: dict[str, Any] = json.loads(line)
    return told


# The runner


def main() -> int:
    """Play the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="udslab.atlas.two_sided")
    parser.add_argument("part", choices=["server", "client"])
    parser.add_argument("--directory", required=True, help="what both sides share")
    parser.add_argument("--look", required=True, help="the same, mounted read-only")
    options = parser.parse_args()
    libc.adopt_orphans()
    os.umask(0)  # who may connect is the matter of behaviours that set modes themselves
    _say({"place": {**place(), "bound": bool(why_not(Requirement.DAC_OVERRIDE))}})
    while True:
        line = _read_line(0)
        if line is None:
            return 0
        if "measure" in line:
            each = TWO_SIDED[tuple(line["measure"])]
            directory = os.path.join(options.directory, line["name"])
            with suppress(FileExistsError):
                os.mkdir(directory, 0o777)
            _play(each, options.part, Side(directory, os.path.join(options.look, line["name"]), 0))


def _play(each: TwoSided, part: str, side: Side) -> None:
    """In a child, which talks for itself; what it has seen is told when it has ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _measure(each, getattr(each, part), side, write)
    os.close(write)
    deadline, said = Deadline(each.limit), b""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    while not said.endswith(b"\n") and poll.poll((deadline.left() or 0.0) * 1000):
        data = os.read(read, 1 << 16)
        if not data:
            break
        said += data
    os.close(read)
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
    _say(json.loads(said) if said.endswith(b"\n") else {"seen": f"no end within {each.limit:g} s", "why": UNSAID})


def _measure(each: TwoSided, part: Callable[[Side], Any], side: Side, write: int) -> None:
    """In the child; never returns."""
    try:
        os.setpgid(0, 0)
        try:
            side.tell(pid=os.getpid())
            with side:
                side.greet()
                told = {"seen": part(side)}
        except NotHere as reason:
            told = {"not_here": str(reason)}
        except _Gone as gone:
            told = {"seen": None, "why": str(gone)}
        except OSError as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            told = {"seen": name, "why": f"line {last.lineno} of {last.name}: {last.line or error}"}
        except BaseException as error:  # noqa: BLE001 - it is what was seen
            last = traceback.extract_tb(error.__traceback__)[-1]
            told = {"seen": f"{type(error).__name__}: {error}", "why": f"line {last.lineno} of {last.name}"}
        os.write(write, json.dumps(told).encode() + b"\n")
    finally:
        os._exit(0)


# Connecting


def _echo_server(type: str) -> Callable[[Side], Any]:
    def server(side: Side) -> Any:
        listener = side.server(type, side.at())
        side.tell()
        if type == "dgram":
            data, address = side.wait(listener).recvfrom(100)
            if address:
                listener.sendto(data.upper(), address)
            return {"received": data.decode(), "from": address and os.path.basename(address)}
        connection = side.accept(listener)
        data = connection.recv(100)
        connection.sendall(data.upper())
        return {"received": data.decode()}

    return server


def _echo_client(type: str) -> Callable[[Side], Any]:
    def client(side: Side) -> Any:
        side.hear()
        sock = side.socket(type, bind=side.at("c") if type == "dgram" else None)
        sock.connect(side.at())
        sock.sendall(b"hello")
        return {"received": side.recv(sock)}

    return client


for _type in map(str, SocketType):
    _answerable = {"from": "c"} if _type == "dgram" else {}
    two_sided(
        "NSC-20",
        f"{_type}, two places",
        "through a directory that two containers share a client gets to the server by path, and is answered",
        source="kernel net/unix/af_unix.c, unix_find_bsd: by inode; measured, no suite covers it",
        expected=lambda between, more=_answerable: {  # type: ignore[misc]
            "server": {"received": "hello", **more},
            "client": {"received": "HELLO"},
        },
        server=_echo_server(_type),
        client=_echo_client(_type),
    )


def _abstract_server(side: Side) -> Any:
    name = "udslab-" + os.urandom(8).hex()
    side.server("stream", "\0" + name)
    side.tell(name=name)
    side.hear()
    return "bound"


def _abstract_client(side: Side) -> Any:
    name = "\0" + side.hear()["name"]
    seen = {"connect": side.try_connect(name), "bind": side.try_bind(name)}
    side.tell()
    return seen


two_sided(
    "NSC-01",
    "two places",
    "an abstract name is known within its network namespace alone: elsewhere ECONNREFUSED, and free to bind",
    source="unix(7), Abstract sockets; kernel selftests net/af_unix/unix_connect.c",
    expected=lambda between: {
        "server": "bound",
        "client": {"connect": "ok", "bind": "EADDRINUSE"}
        if "network" in between.shares
        else {"connect": "ECONNREFUSED", "bind": "ok"},
    },
    server=_abstract_server,
    client=_abstract_client,
    notes="Containers that share a network namespace share these names, with no permissions: CVE-2020-15257.",
)


def _private_server(side: Side) -> Any:
    side.server("stream", side.at())
    os.chmod(side.at(), 0o555)  # noqa: S103 - nobody may write it
    side.tell()
    side.hear()
    return "bound"


def _permission_client(side: Side) -> Any:
    side.hear()
    seen = side.try_connect(side.at())
    side.tell()
    return seen


two_sided(
    "CON-08",
    "two places",
    "connect takes write permission on the socket's file, whichever container made it: EACCES without",
    source="unix(7), Pathname socket ownership and permissions; connect(2), EACCES",
    expected=lambda between: {"server": "bound", "client": "EACCES" if between.bound["client"] else "ok"},
    server=_private_server,
    client=_permission_client,
)


def _look_client(side: Side) -> Any:
    side.hear()
    seen = {
        "connect": side.try_connect(os.path.join(side.look, FILE)),
        "bind": side.try_bind(os.path.join(side.look, "new")),
        "bind at its path": side.try_bind(os.path.join(side.look, FILE)),
    }
    side.tell()
    return seen


def _quiet_server(side: Side) -> Any:
    side.server("stream", side.at())
    side.tell()
    side.hear()
    return "bound"


two_sided(
    "NSC-22",
    "two places",
    "through a read-only mount a client connects; bind there is EROFS, and EADDRINUSE at a path that is taken",
    source="kernel fs/namei.c, sb_permission; measured, no suite covers it",
    expected=lambda between: {
        "server": "bound",
        "client": {"connect": "ok", "bind": "EROFS", "bind at its path": "EADDRINUSE"},
    },
    server=_quiet_server,
    client=_look_client,
)


# Who is there


def _peercred_server(type: str) -> Callable[[Side], Any]:
    def server(side: Side) -> Any:
        listener = side.server(type, side.at())
        side.tell()
        seen = side.peer(side.accept(listener))
        side.meet()
        return seen

    return server


def _peercred_client(type: str) -> Callable[[Side], Any]:
    def client(side: Side) -> Any:
        side.hear()
        seen = side.peer(side.connect(side.at(), type))
        side.meet()
        return seen

    return client


for _type in ("stream", "seqpacket"):
    two_sided(
        "NSC-04",
        f"{_type}, two places",
        "SO_PEERCRED tells the user and group that the peer really has; its pid only where pids are shared, else 0",
        source="pid_namespaces(7); kernel kernel/pid.c, pid_vnr; measured, no suite covers it",
        expected=lambda between: between.both_peers,
        server=_peercred_server(_type),
        client=_peercred_client(_type),
    )


def _messages_server(side: Side) -> Any:
    listener = side.server("stream", side.at())
    side.tell()
    connection = side.accept(listener)
    ask_for_credentials(connection)
    side.tell()
    side.hear()
    connection.send(b"x")
    return side.called(receive(side.wait(connection)).credentials[0])


def _messages_client(side: Side) -> Any:
    side.hear()
    sock = side.connect(side.at())
    ask_for_credentials(sock)
    side.hear()
    side.tell()
    sock.send(b"x")
    return side.called(receive(side.wait(sock)).credentials[0])


two_sided(
    "NSC-05",
    "SCM_CREDENTIALS, two places",
    "SCM_CREDENTIALS tell the sender's real user and group; its pid only where pids are shared, else 0",
    source="unix(7), SCM_CREDENTIALS; kernel include/net/scm.h, scm_recv; measured, no suite covers it",
    expected=lambda between: between.both_peers,
    server=_messages_server,
    client=_messages_client,
)


def _pidfd(side: Side, sock: socket.socket) -> Any:
    fd = outcome(sock.getsockopt, socket.SOL_SOCKET, SO_PEERPIDFD)
    if not isinstance(fd, int):
        return fd
    with open(f"/proc/self/fdinfo/{fd}") as info:
        pid = next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
    return {
        "fd": "ok",
        "pid": side.called((pid, 0, 0))["pid"],
        "ended": bool(select.select([fd], [], [], 0)[0]),
    }


def _pidfd_server(side: Side) -> Any:
    listener = side.server("stream", side.at())
    side.tell()
    seen = _pidfd(side, side.accept(listener))
    side.meet()
    return seen


def _pidfd_client(side: Side) -> Any:
    side.hear()
    seen = _pidfd(side, side.connect(side.at()))
    side.meet()
    return seen


def _pidfds(between: Between) -> Mapping[str, Any]:
    told = {"fd": "ok", "pid": "the other's" if "pid" in between.shares else 0, "ended": False}
    return {"server": told, "client": told}


two_sided(
    "NSC-05",
    "SO_PEERPIDFD, two places",
    "SO_PEERPIDFD gives a descriptor that tells of the peer's end also where its pid is not known",
    source="kernel net/core/sock.c, SO_PEERPIDFD; measured, no suite covers it",
    expected=_pidfds,
    server=_pidfd_server,
    client=_pidfd_client,
    since=(6, 5),
)


def _tables_client(side: Side) -> Any:
    side.hear()
    why = why_not(Requirement.SOCK_DIAG)
    if why:
        raise NotHere(why)
    path = os.fsencode(side.at())
    try:
        with open("/proc/net/unix", "rb") as table:
            listed = any(line.rstrip(b"\n").endswith(b" " + path) for line in table)
        seen: dict[str, Any] = {"/proc/net/unix": listed}
    except OSError as error:
        seen = {"/proc/net/unix": errno.errorcode.get(error.errno or 0)}
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    seen["sock_diag"] = bool(diag.sockets_bound_to(fd))
    os.close(fd)
    side.tell()
    return seen


two_sided(
    "NSC-12",
    "two places",
    "/proc/net/unix and sock_diag show the sockets of their own network namespace alone, also those in shared places",
    source="kernel net/unix/diag.c and af_unix.c, unix_seq_start; measured, no suite covers it",
    expected=lambda between: {
        "server": "bound",
        "client": dict.fromkeys(("/proc/net/unix", "sock_diag"), "network" in between.shares),
    },
    server=_quiet_server,
    client=_tables_client,
    notes="Who looks there for the owner of a socket file in a volume finds none, and must not take it for stale.",
)


_FILES = {"listening": ("stream", 5), "bound": ("stream", None), "datagram": ("dgram", None)}


def _states_server(side: Side) -> Any:
    for name, (type, backlog) in _FILES.items():
        side.socket(type, bind=side.at(name), listen=backlog)
    side.socket("stream", bind=side.at("stale")).close()
    listener = side.server("stream", side.at())
    side.tell()
    side.hear()
    listener.setblocking(False)
    return {"noticed": errno_of(listener.accept)}


def _states_client(side: Side) -> Any:
    side.hear()
    seen = {}
    for name in (*_FILES, "stale"):
        answers = []
        for type in (SocketType.STREAM, SocketType.SEQPACKET):
            asking, other = open_pair(type)
            with asking, other:
                answers.append(errno_of(asking.connect, side.at(name)))
        seen[name] = answers
    asking, other = open_pair(SocketType.STREAM)
    with asking, other:
        errno_of(asking.connect, side.at())
    side.tell()
    return seen


two_sided(
    "CON-06",
    "pair probe, two places",
    "connect with an end of a socketpair tells what is bound to a file, in whatever container, and is never noticed",
    source="kernel net/unix/af_unix.c, unix_stream_connect: the other side is looked at first; measured",
    expected=lambda between: {
        "server": {"noticed": "EAGAIN"},
        "client": {
            "listening": ["EISCONN", "EPROTOTYPE"],
            "bound": ["ECONNREFUSED", "EPROTOTYPE"],
            "datagram": ["EPROTOTYPE", "EPROTOTYPE"],
            "stale": ["ECONNREFUSED", "ECONNREFUSED"],
        },
    },
    server=_states_server,
    client=_states_client,
)


# What is sent


def _file_server(side: Side) -> Any:
    listener = side.server("stream", side.at())
    fd = os.open(side.at("data"), os.O_RDWR | os.O_CREAT, 0o600)
    side.at_end(os.close, fd)
    os.write(fd, b"0123456789")
    os.lseek(fd, 3, os.SEEK_SET)
    side.tell()
    connection = side.accept(listener)
    send_descriptors(connection, fd)
    side.hear()
    return {"offset": os.lseek(fd, 0, os.SEEK_CUR)}


def _file_client(side: Side) -> Any:
    side.hear()
    received = receive(side.wait(side.connect(side.at())))
    data = [os.read(fd, 2).decode() for fd in received.descriptors]
    side.tell()
    return {"read": data}


two_sided(
    "RTS-01",
    "two places",
    "an open file that is sent to another container is the same open file there: one offset, whatever its mode",
    source="unix(7), SCM_RIGHTS; gVisor socket_unix_cmsg.cc",
    expected=lambda between: {"server": {"offset": 5}, "client": {"read": ["34"]}},
    server=_file_server,
    client=_file_client,
)


def _socket_server(side: Side) -> Any:
    listener = side.server("stream", side.at())
    near, far = side.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    side.tell()
    connection = side.accept(listener)
    send_descriptors(connection, far.fileno())
    far.close()
    near.send(b"through")
    return {"received": side.recv(near)}


def _socket_client(side: Side) -> Any:
    side.hear()
    received = receive(side.wait(side.connect(side.at())))
    if not received.descriptors:
        return {"received": "no descriptor"}
    far = side.close_at_end(socket.socket(fileno=received.descriptors[0]))
    data = side.recv(far)
    far.send(b"back")
    return {"received": data}


two_sided(
    "RTS-17",
    "two places",
    "a connected socket that is sent to another container goes on there",
    source="unix(7), SCM_RIGHTS; gVisor socket_unix_cmsg.cc",
    expected=lambda between: {"server": {"received": "back"}, "client": {"received": "through"}},
    server=_socket_server,
    client=_socket_client,
)


def _half_closed_server(side: Side) -> Any:
    listener = side.server("stream", side.at())
    side.tell()
    connection = side.accept(listener)
    seen = [side.recv(connection), side.recv(connection)]
    connection.sendall(b"later")
    connection.close()
    return seen


def _half_closed_client(side: Side) -> Any:
    side.hear()
    sock = side.connect(side.at())
    sock.sendall(b"all of it")
    sock.shutdown(socket.SHUT_WR)
    return [side.recv(sock), side.recv(sock)]


two_sided(
    "SHU-06",
    "two places",
    "after SHUT_WR the other container reads what is there and then end of file, and can still answer",
    source="shutdown(2); kernel net/unix/af_unix.c, unix_shutdown",
    expected=lambda between: {"server": ["all of it", ""], "client": ["later", ""]},
    server=_half_closed_server,
    client=_half_closed_client,
)


# What becomes of the file


def _usurped_server(side: Side) -> Any:
    listener = side.server("stream", side.at())
    side.tell()
    side.hear()
    seen = {"accept": errno_of(side.accept, listener)}
    sock = side.connect(side.at())
    seen["connects to"] = side.recv(sock)
    return seen


def _usurping_client(side: Side) -> Any:
    side.hear()
    side.connect(side.at())
    seen = {"unlink": errno_of(os.unlink, side.at())}
    listener = side.server("stream", side.at())
    side.tell()
    connection = side.accept(listener)
    connection.sendall(b"another")
    side.wait(connection)
    return seen


two_sided(
    "LIF-05",
    "two places",
    "unlink and bind in one container takes the path of a server in another, which is told nothing",
    source="unix(7), NOTES; measured, no suite covers it",
    expected=lambda between: {"server": {"accept": "ok", "connects to": "another"}, "client": {"unlink": "ok"}},
    server=_usurped_server,
    client=_usurping_client,
)


def _mounted_server(side: Side) -> Any:
    first = side.server("stream", side.at())
    side.tell()
    side.hear()
    os.unlink(side.at())
    side.server("stream", side.at())
    first.close()
    side.tell()
    side.hear()
    return "bound again"


def _mounted_client(side: Side) -> Any:
    side.hear()
    before = side.try_connect(MOUNTED)
    side.tell()
    side.hear()
    seen = {"before": before, "after": side.try_connect(MOUNTED), "in the directory": side.try_connect(side.at())}
    side.tell()
    return seen


two_sided(
    "LIF-11",
    "two places",
    "a socket file that is mounted into a container is dead there when its server binds anew: mount its directory",
    source="mount(2), MS_BIND; measured, no suite covers it (moby#21109, moby#31403 are victims)",
    expected=lambda between: {
        "server": "bound again",
        "client": {"before": "ok", "after": "ECONNREFUSED", "in the directory": "ok"},
    },
    server=_mounted_server,
    client=_mounted_client,
    late=True,
    limit=15.0,
)


def _killed_server(side: Side) -> Any:
    side.server("stream", side.at())
    side.tell()
    side.hear()
    side.ask("kill")
    return side.hear()


def _bereft_client(side: Side) -> Any:
    side.hear()
    before = side.try_connect(side.at())
    side.tell()
    side.hear()
    return {
        "before": before,
        "file": os.path.lexists(side.at()),
        "connect": side.try_connect(side.at()),
        "bind": side.try_bind(side.at()),
    }


two_sided(
    "LIF-06",
    "two places",
    "a server whose container is killed leaves its file: connect gets ECONNREFUSED, bind EADDRINUSE",
    source="unix(7), NOTES; bind(2), EADDRINUSE",
    expected=lambda between: {
        "server": "killed",
        "client": {"before": "ok", "file": True, "connect": "ECONNREFUSED", "bind": "EADDRINUSE"},
    },
    server=_killed_server,
    client=_bereft_client,
    last=True,
    limit=15.0,
)


if __name__ == "__main__":
    sys.exit(main())
