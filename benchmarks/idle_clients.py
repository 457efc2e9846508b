"""What 10,000 idle clients cost the lab's own server: memory, accept rate, one more client's round trip.

Exit status: 0 the limit is met, 1 it is not, 2 the benchmark could not be run.
"""

from __future__ import annotations

import argparse
import errno
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import (
    READY_SECONDS,
    BenchmarkError,
    Percentiles,
    lab_server,
    machine,
    pin_to_one_core,
    positive,
    run,
    serving,
    table,
    verdict,
    workshop,
)

LIMIT_MB = 150
"""Of the server's peak resident memory, in units of 1,000,000 bytes."""

SPARE_DESCRIPTORS = 64
"""What a process of ours has open besides the connections."""


def benchmark() -> int:
    """Measure, print, judge; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=positive, default=10_000, help="idle connections (10,000)")
    parser.add_argument("--round-trips", type=positive, default=20_000, help="of one more client (20,000)")
    parser.add_argument("--size", type=positive, default=64, help="bytes of its request (64)")
    options = parser.parse_args()

    core = pin_to_one_core()
    _raise_descriptor_limit(options.clients + SPARE_DESCRIPTORS)

    with workshop() as shop:
        path = shop.socket_path("lab")

        def one_more_client() -> Percentiles:
            return shop.ping_pong(path, clients=1, size=options.size, round_trips=options.round_trips)

        with serving(lab_server(path), path) as pid:
            one_more_client()  # Thrown away: the first requests of a process are its slowest.
            alone = one_more_client()
            rss_before = _memory(pid, "VmRSS")
            with _idle_clients(path, options.clients) as seconds:
                among_idle = one_more_client()
                rss, peak = _memory(pid, "VmRSS"), _memory(pid, "VmHWM")

    print(f"The lab's server with {options.clients:,} idle clients, and one more that makes")
    print(f"{options.round_trips:,} round trips of {options.size} bytes.\n")
    rows = [
        ["round trip p50, µs", f"{alone.p50:.1f}", f"{among_idle.p50:.1f}"],
        ["round trip p90, µs", f"{alone.p90:.1f}", f"{among_idle.p90:.1f}"],
        ["round trip p99, µs", f"{alone.p99:.1f}", f"{among_idle.p99:.1f}"],
        ["server's memory (VmRSS), MB", f"{rss_before / 1e6:.1f}", f"{rss / 1e6:.1f}"],
        ["server's peak memory (VmHWM), MB", "", f"{peak / 1e6:.1f}"],
        ["memory for each idle client, kB", "", f"{(rss - rss_before) / options.clients / 1e3:.2f}"],
        ["connections accepted a second", "", f"{options.clients / seconds:,.0f}"],
    ]
    print(table(["", "none idle", f"{options.clients:,} idle"], rows))
    print("\nMB: 1,000,000 bytes. The accept rate is that of server and client together, on their one core.")
    print(f"{machine(core)}\n")
    return verdict(f"{LIMIT_MB} MB", peak <= LIMIT_MB * 1e6, f"the server's peak is {peak / 1e6:.1f} MB")


def _raise_descriptor_limit(needed: int) -> None:
    """Raise the soft limit to the hard one, for us and for the server, which inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(f"RLIMIT_NOFILE: {needed} descriptors are needed, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _idle_clients(path: str, count: int) -> Iterator[float]:
    """Hold `count` connections open; gives the seconds from the first connect until all were accepted.

    A connect is done before the server has accepted. But it accepts in the order of the connects, so when the
    last one is answered, all are accepted.
    """
    with ExitStack() as connections:
        start = time.perf_counter()
        try:
            for _ in range(count):
                client = connections.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                client.connect(path)  # Blocking: it waits while the backlog is full.
            client.settimeout(READY_SECONDS)
            client.sendall(b"last")
            if client.recv(4, socket.MSG_WAITALL) != b"LAST":
                raise OSError(errno.EBADMSG, "the last client got no right answer")
        except OSError as error:
            raise BenchmarkError(f"{path}: cannot open {count:,} idle connections: {error}") from error
        yield time.perf_counter() - start


def _memory(pid: int, field: str) -> int:
    """Bytes, of a field of /proc/PID/status that is in kB (proc(5): units of 1,024 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise BenchmarkError(f"/proc/{pid}/status has no {field}")


if __name__ == "__main__":
    sys.exit(run(benchmark))
