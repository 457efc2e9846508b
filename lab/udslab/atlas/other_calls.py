"""MSC: what other calls do with a Unix socket."""

from __future__ import annotations

import array
import mmap
import os
import signal
import socket
import struct
import time

from udslab.atlas import calls
from udslab.atlas.behaviour import CONNECTED, PAIRS, STREAMS, TYPES, Kind, NotHere, Pair, behaviour
from udslab.atlas.kit import Kit, errno_of, limit_waiting
from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType
from udslab.support import fcntl, termios

__all__: list[str] = []

SIOCINQ, SIOCGIFINDEX = 0x541B, 0x8933  # linux/sockios.h
BLOCKING = tuple(pair for pair in PAIRS if pair.blocking)
STREAMS_BLOCKING = tuple(pair for pair in STREAMS if pair.blocking)


def _unread(sock: socket.socket, request: int) -> int:
    number = array.array("i", [-1])
    fcntl.ioctl(sock, request, number)
    return number[0]


@behaviour(
    "MSC-01",
    "FIONREAD is the ioctl SIOCINQ: the bytes that can be read; of datagrams, those of the first",
    source="unix(7), Ioctls; tty_ioctl(2), FIONREAD",
    expected=lambda pair: {
        "the same number": True,
        "empty": [0, 0],
        "5 and 3 bytes": [5, 5] if pair.type is SocketType.DGRAM else [8, 8],
    },
    over=PAIRS,
    notes="Of seqpacket it is the sum, too: not how long the next record is; MSG_PEEK with MSG_TRUNC tells that.",
)
def _(kit: Kit, pair: Pair) -> object:
    sender, receiver = kit.pair(pair)

    def unread() -> list[int]:
        return [_unread(receiver, request) for request in (termios.FIONREAD, SIOCINQ)]

    empty = unread()
    sender.send(b"12345")
    sender.send(b"123")
    return {"the same number": termios.FIONREAD == SIOCINQ, "empty": empty, "5 and 3 bytes": unread()}


@behaviour(
    "MSC-02",
    "with SO_SNDTIMEO a send that finds no room says EAGAIN when the time is over; after a read it goes through",
    source="socket(7), SO_RCVTIMEO and SO_SNDTIMEO; gVisor test/syscalls/linux/socket_stream_blocking.cc, SendTimeout",
    expected={"full": "EAGAIN", "waited": True, "with room": "ok"},
    over=tuple(pair for pair in CONNECTED if pair.blocking),
    notes="What has gone in part is told as a short count instead.",
)
def _(kit: Kit, pair: Pair) -> object:
    sender, receiver = kit.pair(pair)
    limit_waiting(sender, 0.06)
    message = b"x" * 4096
    while errno_of(sender.send, message, socket.MSG_DONTWAIT) == "ok":
        pass

    def send() -> tuple[str, bool]:
        began = time.monotonic()
        said = errno_of(sender.send, message)
        return said, time.monotonic() - began >= 0.05

    full, waited = send()
    receiver.setblocking(False)
    while errno_of(receiver.recv, 1 << 16) == "ok":
        pass
    limit_waiting(sender, 4)  # only so that a busy machine is not taken for a full socket
    return {"full": full, "waited": waited, "with room": send()[0]}


@behaviour(
    "MSC-03",
    "a signal whose handler returns does not end Python's recv: it is called again",
    source="PEP 475; signal(7), Interruption of system calls and library functions by signal handlers",
    expected={"handled": 1, "received": "ping"},
    over=BLOCKING,
    needs=Requirement.PROC,
    notes="The system call itself says EINTR: Python installs handlers without SA_RESTART, and calls again unless the "
    "handler raises.",
)
def _(kit: Kit, pair: Pair) -> object:
    sender, receiver = kit.pair(pair)
    near, far = kit.pair(Pair(Kind.SOCKETPAIR, SocketType.STREAM))
    limit_waiting(near, 2)

    def wait() -> object:
        seen: list[int] = []

        def handle(number: int, _: object) -> None:
            seen.append(number)
            far.send(b"x")

        signal.signal(signal.SIGUSR1, handle)
        far.send(b"x")
        received = receiver.recv(10)
        return {"handled": len(seen), "received": received.decode()}

    child = kit.child(wait)
    near.recv(1)
    if not child.sleeps():
        return child.result()
    os.kill(child.pid, signal.SIGUSR1)
    near.recv(1)
    sender.send(b"ping")
    return child.result()


@behaviour(
    "MSC-04",
    "Python ignores SIGPIPE, so a send to a closed peer raises BrokenPipeError; with the signal's default it kills",
    source="Python's documentation of signal, Note on SIGPIPE; POSIX.1-2017 send (EPIPE); send(2), MSG_NOSIGNAL",
    expected={
        "ignored": "BrokenPipeError",
        "by default": "a child has ended with SIGPIPE",
        "by default, MSG_NOSIGNAL": "BrokenPipeError",
    },
    over=STREAMS_BLOCKING,
)
def _(kit: Kit, pair: Pair) -> object:
    def send(disposition: signal.Handlers, flags: int = 0) -> object:
        sender, receiver = kit.pair(pair)
        receiver.close()

        def child() -> str:
            signal.signal(signal.SIGPIPE, disposition)
            try:
                sender.send(b"x", flags)
            except OSError as error:
                return type(error).__name__
            finally:
                signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            return "ok"

        try:
            return kit.in_child(child)
        except RuntimeError as death:
            return str(death)

    return {
        "ignored": send(signal.SIG_IGN),
        "by default": send(signal.SIG_DFL),
        "by default, MSG_NOSIGNAL": send(signal.SIG_DFL, socket.MSG_NOSIGNAL),
    }


@behaviour(
    "MSC-05",
    "a Unix socket answers questions about network interfaces (SIOCGIFINDEX)",
    source="netdevice(7); gVisor test/syscalls/linux/socket_unix.cc, NetdeviceIoctlsSucceed",
    expected={"lo": True, "no such interface": "ENODEV"},
    over=TYPES,
    notes="Programs open an AF_UNIX socket just for that where there is no IPv4.",
)
def _(kit: Kit, type: SocketType) -> object:
    if "lo" not in [name for _, name in socket.if_nameindex()]:
        raise NotHere("no interface is called lo")
    sock = kit.socket(type)
    answer = fcntl.ioctl(sock, SIOCGIFINDEX, struct.pack("16s24x", b"lo"))
    number = struct.unpack_from("16si", answer)[1]
    return {
        "lo": number == socket.if_nametoindex("lo"),
        "no such interface": errno_of(fcntl.ioctl, sock, SIOCGIFINDEX, struct.pack("16s24x", b"udslab-none")),
    }


@behaviour(
    "MSC-06",
    "fsync and ftruncate say EINVAL of a socket, mmap ENODEV, lseek and pread ESPIPE; flock locks it",
    source="fsync(2), ftruncate(2), mmap(2), lseek(2); measured, no suite covers it",
    expected={
        "fsync": "EINVAL",
        "ftruncate": "EINVAL",
        "mmap": "ENODEV",
        "lseek": "ESPIPE",
        "pread": "ESPIPE",
        "flock": ["ok", "ok"],
    },
    over=TYPES,
    notes="The lock is on the socket, which cannot be opened again: it holds nobody off. Lock the directory instead.",
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    fd = sock.fileno()
    return {
        "fsync": errno_of(os.fsync, fd),
        "ftruncate": errno_of(os.ftruncate, fd, 0),
        "mmap": errno_of(mmap.mmap, fd, 4096),
        "lseek": errno_of(os.lseek, fd, 0, os.SEEK_SET),
        "pread": errno_of(os.pread, fd, 1, 0),
        "flock": [errno_of(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB), errno_of(fcntl.flock, fd, fcntl.LOCK_UN)],
    }


@behaviour(
    "MSC-07",
    "splice moves bytes from a pipe to a socket and back; tee copies between pipes alone (EINVAL for a socket)",
    source="splice(2), tee(2); measured, no suite covers it",
    expected={
        "tee to a pipe": 4,
        "splice of the copy": 4,
        "received": "ping",
        "still in the pipe": "ping",
        "tee to the socket": "EINVAL",
        "splice from the socket": [4, "pong"],
    },
    over=STREAMS_BLOCKING,
    needs=Requirement.CTYPES,
)
def _(kit: Kit, pair: Pair) -> object:
    left, right = kit.pair(pair)
    limit_waiting(right, 1)
    (first, into_first), (second, into_second) = os.pipe(), os.pipe()
    os.write(into_first, b"ping")
    to_socket = errno_of(calls.tee, first, left.fileno(), 100)
    teed = calls.tee(first, into_second, 100)
    spliced = calls.splice(second, left.fileno(), 100)
    received = right.recv(100).decode()
    still = os.read(first, 100).decode()
    right.send(b"pong")
    back = calls.splice(left.fileno(), into_second, 100)
    return {
        "tee to a pipe": teed,
        "splice of the copy": spliced,
        "received": received,
        "still in the pipe": still,
        "tee to the socket": to_socket,
        "splice from the socket": [back, os.read(second, 100).decode()],
    }
