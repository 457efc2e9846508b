"""Plays one scene with a server by plain means, and prints by which word what is there in the end is to be called.

by_hand.py SCENE PATH COMMAND…
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

_LIMIT = 20.0
scene, path, *command = sys.argv[1:]
servers: list[subprocess.Popen[bytes]] = []


def start(number: int) -> subprocess.Popen[bytes]:
    """A server, in a directory and a session of its own."""
    directory = f"{os.path.dirname(path)}-{number}"
    os.makedirs(directory, exist_ok=True)
    words = [word.replace("{socket}", path).replace("{dir}", directory) for word in command]
    servers.append(subprocess.Popen(words, cwd=directory, start_new_session=True, stdout=sys.stderr))
    return servers[-1]


def listener() -> int | None:
    """The session of the process that listens at the path."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return None
        pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            return os.getsid(pid)
        except ProcessLookupError:  # it has ended, and those that it has left listen
            return 0


def until(true: Callable[[], bool]) -> None:
    """No event tells when a socket begins to listen."""
    limit = time.monotonic() + _LIMIT
    while not true():
        if time.monotonic() > limit:
            sys.exit("it does not happen")
        time.sleep(0.01)


def settled(server: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, or has the path; which it is to be for more than a moment."""
    return server.poll() is not None or listener() == server.pid


def lives(server: subprocess.Popen[bytes]) -> bool:
    """Whether any of it does."""
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(server: subprocess.Popen[bytes]) -> None:
    """All of it."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def term_cleanup() -> str:
    server = start(1)
    until(lambda: listener() == server.pid)
    server.terminate()
    server.wait()
    until(lambda: not lives(server))
    return "left" if os.path.lexists(path) else "removed"


def stale_restart() -> str:
    server = start(1)
    until(lambda: listener() == server.pid)
    kill(server)
    until(lambda: listener() is None)
    again = start(1)
    until(lambda: settled(again))
    return "starts" if listener() == again.pid else "fails"


def second_instance() -> str:
    first = start(1)
    until(lambda: listener() == first.pid)
    second = start(2)
    until(lambda: settled(second))
    return {first.pid: "refused", second.pid: "steals"}.get(listener() or 0, "path-lost")


def regular_file() -> str:
    with open(path, "x") as file:
        file.write("work")
    server = start(1)
    until(lambda: settled(server))
    if os.path.isfile(path):
        with open(path) as file:
            if file.read() == "work":
                return "refused-kept"
    return "deleted-starts" if listener() == server.pid else "deleted-fails"


def symlink_dangling() -> str:
    os.symlink("target", path)
    server = start(1)
    until(lambda: settled(server))
    if os.path.lexists(os.path.join(os.path.dirname(path), "target")):
        return "target-created"
    if os.path.islink(path):
        return "refused-kept"
    return "link-replaced" if os.path.lexists(path) else "link-removed"


os.mkdir(os.path.dirname(path))
try:
    print(json.dumps(globals()[scene]()), flush=True)
finally:
    for each in servers:
        try:
            kill(each)
        except ProcessLookupError:
            each.wait()
