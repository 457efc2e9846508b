"""Clients of a server that is audited: does it answer?"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from udslab.audit.ping import Ping
from udslab.connection import Connection, connect
from udslab.deadline import Deadline
from udslab.socktype import SocketType

__all__ = ["answers", "ask", "hurry"]

_CHUNK = 1 << 16


def answers(
    path: str, ping: Ping, type: SocketType, timeout: float, *, half_close: AbstractContextManager[Any] | None = None
) -> str:
    """Why the server does not answer, at the latest after ``timeout`` seconds; empty if it does.

    ``half_close``: a block in which the client comes, sends its request and shuts down its sending side."""
    deadline = Deadline(timeout)
    own = f"{path}-{os.urandom(4).hex()}" if type is SocketType.DGRAM else None
    try:
        with ExitStack() as ends:
            with half_close or nullcontext():
                client = ends.enter_context(connect(path, type=type, timeout=timeout, bind=own))
                if own is not None:
                    os.chmod(own, 0o777)  # noqa: S103 - who answers a datagram writes to the client's file
                ask(client, ping, deadline)
                if half_close is not None:
                    client.shutdown(socket.SHUT_WR)
            return _missing(client, ping, deadline)
    except (socket.timeout, BlockingIOError):
        return f"no answer after {timeout:.0f} s"
    except OSError as error:
        return str(error)


def ask(client: Connection, ping: Ping, deadline: Deadline) -> None:
    """Send the request."""
    client.settimeout(deadline.left())
    if ping.send:
        client.sendall(ping.send)


def _missing(client: Connection, ping: Ping, deadline: Deadline) -> str:
    come = b""
    while ping.expect not in come:
        client.settimeout(max(deadline.left() or 0.0, 0.001))
        data = client.recv(_CHUNK)
        if not data:
            return f"it closed the connection after {come[-100:]!r}"
        come += data
    return ""


def hurry(path: str, ping: Ping, type: SocketType, number: int, seconds: float) -> tuple[int, dict[str, int]]:
    """``number`` clients, one after the other, that wait for nothing: every second one sends a request first, and all
    go without reading. Only for whom the backlog has no room waits until it has: those that come after so many seconds
    do not any more. How many have come, and how many saw which errno."""
    deadline = Deadline(seconds)
    errors: dict[str, int] = {}

    def tell(error: OSError) -> None:
        word = errno.errorcode.get(error.errno or 0, str(error.errno))
        errors[word] = errors.get(word, 0) + 1

    come = 0
    for count in range(number):
        request = (ping.send or b"\n") if count % 2 else b""
        try:
            try:
                with socket.socket(socket.AF_UNIX, type.constant) as client:
                    client.setblocking(False)
                    client.connect(path)
                    if request:
                        client.send(request)
            except BlockingIOError as error:
                tell(error)
                with connect(path, type=type, timeout=deadline.left()) as client:
                    client.settimeout(max(deadline.left() or 0.0, 0.001))
                    if request:
                        client.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:  # it was turned away
            tell(error)
        except (socket.timeout, TimeoutError):
            break
        except OSError as error:
            tell(error)
            continue
        come += 1
    return come, errors
