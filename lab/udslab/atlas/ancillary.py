"""What the groups about credentials and descriptors share: control messages, and whether any copy of one is left."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from udslab.atlas.behaviour import PAIRS

__all__ = [
    "BLOCKING",
    "CREDENTIALS",
    "RIGHTS",
    "Canary",
    "Received",
    "ask_for_credentials",
    "credentials",
    "descriptors",
    "receive",
    "send_descriptors",
]

# asm-generic/socket.h and linux/socket.h; Python has not got them all.
RIGHTS, CREDENTIALS = 1, 2
SO_PASSCRED = 16
ROOM = 4096
"""For control messages: more than 253 descriptors take."""

BLOCKING = tuple(pair for pair in PAIRS if pair.blocking)
"""The kinds of pair of blocking sockets."""

Message = tuple[int, int, bytes]


def credentials(pid: int, uid: int, gid: int) -> Message:
    """A control message that claims to come from these."""
    return socket.SOL_SOCKET, CREDENTIALS, struct.pack("3i", pid, uid, gid)


def descriptors(*numbers: int) -> Message:
    """A control message with descriptors."""
    return socket.SOL_SOCKET, RIGHTS, struct.pack(f"{len(numbers)}i", *numbers)


def send_descriptors(sock: socket.socket, *numbers: int, data: bytes = b"x", flags: int = 0) -> int:
    """Send data and descriptors; how much of the data has gone."""
    return sock.sendmsg([data], [descriptors(*numbers)], flags)


def ask_for_credentials(sock: socket.socket, ask: bool = True) -> None:
    """SO_PASSCRED: from now on what it receives tells who sent it."""
    sock.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, ask)


@dataclass
class Received:
    """What recvmsg has given."""

    data: str
    cut: bool
    """MSG_CTRUNC."""
    types: list[int] = field(default_factory=list)
    """Of the control messages."""
    credentials: list[tuple[int, int, int]] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    others: list[Message] = field(default_factory=list)


def receive(sock: socket.socket, size: int = 1000, room: int = ROOM, flags: int = 0) -> Received:
    """recvmsg, with room for any control message unless it is said how much."""
    data, messages, told, _ = sock.recvmsg(size, room, flags)
    received = Received(data.decode("latin-1"), bool(told & socket.MSG_CTRUNC))
    for level, type, content in messages:
        received.types.append(type)
        if (level, type) == (socket.SOL_SOCKET, RIGHTS):
            usable = content[: len(content) // 4 * 4]
            received.descriptors += struct.unpack(f"{len(usable) // 4}i", usable)
        elif (level, type) == (socket.SOL_SOCKET, CREDENTIALS):
            received.credentials.append(struct.unpack("3i", content[:12].ljust(12, b"\xff")))
        else:
            received.others.append((level, type, content))
    return received


class Canary:
    """A pipe whose write end is sent away: it tells whether a copy of that is left anywhere."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    def let_go(self) -> None:
        """Close this process's own copy."""
        os.close(self.write)

    def fate(self, seconds: float = 0.0) -> str:
        """Whether a copy is open: "closed" as soon as none is, "open" if one still is after so long."""
        poll = select.poll()
        poll.register(self.read, 0)
        return "closed" if poll.poll(seconds * 1000) else "open"


def same_file(*numbers: int) -> bool:
    """Whether all these descriptors are of one file."""
    files: Sequence[Any] = [os.fstat(number) for number in numbers]
    return len({(each.st_dev, each.st_ino) for each in files}) == 1
