"""Looks at sockets of known state while thousands of others come and go. Run as a program, because it forks.

``churn.py states DIRECTORY LOOKS`` looks at one of each state in turn. ``churn.py births DIRECTORY LOOKS`` looks at a
path that is bound again and again, and counts how often a socket was called stale and then turned out to be alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections import Counter, deque

from udslab import probe, status
from udslab.spawn import end_with_parent

SOCKETS = 3000


def churn(directory: str) -> None:
    """Keep 3,000 sockets, bound and listening ones, and let the oldest go for each new one."""
    kept: deque[tuple[str, socket.socket]] = deque()
    number = 0
    while True:
        path = f"{directory}/{number}"
        number += 1
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        kept.append((path, sock))
        if len(kept) > SOCKETS:
            path, sock = kept.popleft()
            sock.close()
            os.unlink(path)


def look_at_states(directory: str, looks: int) -> dict[str, int]:
    kept = []

    def make(name: str, type: int = socket.SOCK_STREAM, backlog: int | None = None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, type)
        sock.bind(f"{directory}/{name}")
        if backlog is not None:
            sock.listen(backlog)
        kept.append(sock)
        return sock

    make("listening", backlog=5)
    make("full", backlog=0)
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(f"{directory}/full")
    make("seqpacket", socket.SOCK_SEQPACKET, 5)
    make("bound")
    make("bound-seqpacket", socket.SOCK_SEQPACKET)
    make("dgram", socket.SOCK_DGRAM)
    make("shut", backlog=5).shutdown(socket.SHUT_RDWR)
    make("stale").close()
    os.mkfifo(f"{directory}/fifo")
    os.symlink("listening", f"{directory}/link")
    expected = {
        "listening": "listening stream",
        "full": "listening stream (backlog full)",
        "seqpacket": "listening seqpacket",
        "bound": "bound stream",
        "bound-seqpacket": "bound seqpacket",
        "dgram": "bound dgram",
        "shut": "bound stream",
        "stale": "stale",
        "fifo": "not-a-socket (FIFO)",
        "link": "listening stream through a symbolic link",
        "absent": "absent",
    }
    seen: Counter[str] = Counter()
    for number in range(looks):
        name = list(expected)[number % len(expected)]
        found = status(f"{directory}/{name}").describe()
        seen["right" if found == expected[name] else f"{name}: {found}"] += 1
    return seen


def watch(directory: str) -> list[int]:
    """Processes that watch the directory, so that the kernel has much to do between making a file and attaching its
    socket, and the moment of birth is long. Several users, because each may have 128 watches of this kind."""
    pids = []
    if os.geteuid() != 0:
        return pids
    libc = ctypes.CDLL(None)
    read, write = os.pipe()
    for uid in range(20001, 20007):
        end_with_us = end_with_parent()
        pid = os.fork()
        if pid == 0:
            os.setuid(uid)
            end_with_us()  # which changing the user undoes
            for _ in range(120):
                libc.inotify_add_watch(libc.inotify_init1(0), os.fsencode(directory), 0x100)  # IN_CREATE
            os.write(write, b"x")
            signal.pause()
        pids.append(pid)
    for _ in pids:
        os.read(read, 1)
    return pids


def look_at_births(directory: str, looks: int) -> dict[str, int]:
    path = f"{directory}/born"
    os.chmod(directory, 0o755)
    os.chmod(os.path.dirname(directory), 0o755)
    watchers = watch(directory)
    end_with_us = end_with_parent()
    pid = os.fork()
    if pid == 0:
        end_with_us()
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            # Long enough to be asked while it is there.
            end = time.monotonic() + 50e-6
            while time.monotonic() < end:
                pass
            os.unlink(path)
            sock.close()
    seen: Counter[str] = Counter()
    while sum(seen.values()) < looks:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                first = probe.ask(fd, os.fsencode(path))
                later = probe.ask(fd, os.fsencode(path)) if first.stale else first
            finally:
                os.close(fd)
            wrong = first.stale and first.settled and not later.stale
            seen["called stale, and alive" if wrong else "right"] += 1
    for child in (pid, *watchers):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return seen


if __name__ == "__main__":
    what, directory, looks = sys.argv[1:]
    pids = []
    if what == "states":
        # Two, so that there is always one that runs.
        for number in range(2):
            os.mkdir(f"{directory}/churn{number}")
            end_with_us = end_with_parent()
            pid = os.fork()
            if pid == 0:
                end_with_us()
                churn(f"{directory}/churn{number}")
            pids.append(pid)
        while len(os.listdir(f"{directory}/churn1")) < SOCKETS:
            time.sleep(0.01)
    try:
        print(json.dumps((look_at_states if what == "states" else look_at_births)(directory, int(looks))))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
