"""Starters that race for one path: processes that call listen() at the same instant, again and again.

Run as a program: ``starters.py SCENARIO PATH ROUNDS`` prints what happened as JSON. A program of its own, because it
forks and kills, which pytest's process should not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter

from udslab import connect, listen
from udslab.errors import UdsError
from udslab.spawn import end_with_parent

STARTERS = 8
DOUBLE = struct.Struct("d")


class Starter:
    """A child that calls listen() at the instant it is told, tells what came of it, and serves one client."""

    def __init__(self, path: str) -> None:
        self.orders_in, self.orders = os.pipe()
        self.answers, self.answers_out = os.pipe()
        end_with_us = end_with_parent()
        self.pid = os.fork()
        if self.pid == 0:
            end_with_us()
            os.close(self.orders)
            os.close(self.answers)
            self._run(path)
        os.close(self.orders_in)
        os.close(self.answers_out)

    def _run(self, path: str) -> None:
        while order := os.read(self.orders_in, DOUBLE.size):
            (instant,) = DOUBLE.unpack(order)
            while time.monotonic() < instant:
                pass
            try:
                listening = listen(path)
            except UdsError as error:
                os.write(self.answers_out, (error.errno_name + "\n").encode())
                continue
            os.write(self.answers_out, b"won\n")
            with listening.accept() as connection:
                connection.sendall(str(os.getpid()).encode())
            # Leave the file behind, as if killed.
            os.close(listening.socket.detach())
            os.write(self.answers_out, b"done\n")
        os._exit(0)

    def order(self, instant: float) -> None:
        os.write(self.orders, DOUBLE.pack(instant))

    def answer(self) -> str:
        return os.read(self.answers, 100).decode().strip()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        os.close(self.orders)
        os.close(self.answers)
        os.waitpid(self.pid, 0)


def make_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def race(path: str, rounds: int, prepare: str, kill_winner: bool = False) -> Counter[str]:
    """How the rounds ended: what each starter said, and who answered."""
    ended: Counter[str] = Counter()
    starters = [Starter(path) for _ in range(STARTERS)]
    for number in range(rounds):
        if prepare == "stale" and (number == 0 or not kill_winner):
            make_stale(path)
        elif prepare == "absent":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        instant = time.monotonic() + 0.001
        for starter in starters:
            starter.order(instant)
        said = [starter.answer() for starter in starters]
        winners = [starter for starter, word in zip(starters, said) if word == "won"]  # noqa: B905
        losers = Counter(word for word in said if word != "won")
        outcome = f"{len(winners)} won, {dict(losers)}"
        if len(winners) == 1:
            winner = winners[0]
            if kill_winner:
                winner.kill()
                starters[starters.index(winner)] = Starter(path)
            else:
                with connect(path, timeout=10) as client:
                    answered = client.recv(100) == str(winner.pid).encode()
                outcome += ", the winner answers" if answered else ", somebody else answers"
                winner.answer()
        ended[outcome] += 1
        if len(winners) > 1:
            break
    for starter in starters:
        starter.kill()
    return ended


def beside_a_live_server(path: str, rounds: int) -> Counter[str]:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path)
        server.listen(0)
        inode = os.stat(path).st_ino
        ended = race(path, rounds, "nothing")
        noticed = bool(select.select([server], [], [], 0)[0])
        ended["the server noticed" if noticed else "the server noticed nothing"] += 1
        ended["the path was kept" if os.stat(path).st_ino == inode else "the path was lost"] += 1
    return ended


def beside_a_foreign_server(path: str, rounds: int) -> Counter[str]:
    """A server that unlinks, binds and listens 20 ms later, in a loop; starters of ours all the while."""
    ended: Counter[str] = Counter()
    pids = []
    for _ in range(3):
        end_with_us = end_with_parent()
        pid = os.fork()
        if pid == 0:
            end_with_us()
            while True:
                with contextlib.suppress(UdsError):
                    listen(path).close()
        pids.append(pid)
    # On a busy machine ours are faster more often.
    while sum(ended.values()) < rounds or ended["kept"] < rounds // 4:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as server:
            try:
                server.bind(path)
            except OSError as error:
                # One of ours was faster than "unlink, bind": that is not a path lost.
                ended[f"not bound: {errno.errorcode[error.errno or 0]}"] += 1
                continue
            time.sleep(0.02)  # what the foreign server does
            server.listen()
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    server.settimeout(5)
                    server.accept()[0].close()
                ended["kept"] += 1
            except OSError as error:
                ended[f"lost: {error}"] += 1
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return ended


SCENARIOS = {
    "stale": lambda path, rounds: race(path, rounds, "stale"),
    "absent": lambda path, rounds: race(path, rounds, "absent"),
    "killed": lambda path, rounds: race(path, rounds, "stale", kill_winner=True),
    "in-the-way": lambda path, rounds: race(path, rounds, "nothing"),
    "live": beside_a_live_server,
    "foreign": beside_a_foreign_server,
}

if __name__ == "__main__":
    scenario, path, rounds = sys.argv[1:]
    print(json.dumps(SCENARIOS[scenario](path, int(rounds))))
