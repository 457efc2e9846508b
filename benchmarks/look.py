"""What one look with status() costs, for each state, beside what it is made of.

Looks at one socket file of each state in turn, all in one process that is pinned to one core, so that whatever
else the machine does meets all alike. Judged is the median look at the dearest state.

Exit status: 0 the limit is met, 1 it is not, 2 the benchmark could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median, quantiles

from common import machine, pin_to_one_core, positive, run, table, verdict

from udslab import probe, status

LIMIT = 60
"""Microseconds for one look, the owner's pids not asked for."""


def benchmark() -> int:
    """Measure, print, judge; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--looks", type=positive, default=5000, help="at each state (5,000)")
    options = parser.parse_args()
    core = pin_to_one_core()
    with contextlib.ExitStack() as stack:
        looks = dict(_looks(stack.enter_context(tempfile.TemporaryDirectory(prefix="uds-look-")), stack))
        took: dict[str, list[float]] = {name: [] for name in looks}
        for _ in range(options.looks):
            for name, look in looks.items():
                before = time.perf_counter_ns()
                look()
                took[name].append((time.perf_counter_ns() - before) / 1000)
    print(f"{options.looks:,} looks at each, in turn, in µs:\n")
    print(table(["what", "p50", "p90", "p99"], [_row(name, times) for name, times in took.items()]) + "\n")
    print(f"{machine(core)}\n")
    worst = max(median(times) for name, times in took.items() if name.startswith("status"))
    return verdict(f"{LIMIT} µs", worst <= LIMIT, f"the dearest look takes {worst:.1f} µs")


def _looks(directory: str, stack: contextlib.ExitStack) -> list[tuple[str, Callable[[], object]]]:
    def make(name: str, type: int = socket.SOCK_STREAM, backlog: int | None = None) -> str:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, type))
        sock.bind(f"{directory}/{name}")
        if backlog is not None:
            sock.listen(backlog)
        if name == "stale":
            sock.close()
        return f"{directory}/{name}"

    paths = {
        "listening": make("listening", backlog=5),
        "bound": make("bound"),
        "bound, datagram": make("dgram", socket.SOCK_DGRAM),
        "stale": make("stale"),
        "absent": f"{directory}/absent",
    }
    fd = os.open(paths["listening"], os.O_PATH)
    stack.callback(os.close, fd)

    def pair() -> None:
        left, right = socket.socketpair()
        left.close()
        right.close()

    def plain() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect_ex(paths["stale"])

    return [
        *((f"status, {name}", lambda path=path: status(path)) for name, path in paths.items()),
        ("the pair probe alone, listening", lambda: probe.ask(fd, b"listening")),
        ("a socket pair, made and closed", pair),
        ("a plain connect, refused", plain),
    ]


def _row(name: str, times: list[float]) -> list[str]:
    cuts = quantiles(times, n=100)
    return [name, f"{median(times):.1f}", f"{cuts[89]:.1f}", f"{cuts[98]:.1f}"]


if __name__ == "__main__":
    sys.exit(run(benchmark))
