"""What a server in a container costs a test: in a kept container, the first one of a fresh container, and other ways.

Each row is one round: from the request for a server until a client on the host has had its first answer and the server
has ended (of a fresh container: until that answer). All ways are played in turn, so that whatever else the machine does
meets all alike. The kept container's server is the lab's own, in Python; the others start a static C server, which
flatters them.

Needs a container engine, the lab's base image (script/base-images), the docker SDK, and, for its row, testcontainers:
`$(script/environment bench)/bin/python benchmarks/containers.py`.

Exit status: 0 the limits are met, 1 they are not, 2 the benchmark could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

from common import BENCHMARKS, C_FLAGS, PEERS, BenchmarkError, positive, run, table, verdict

from udslab import connect
from udslab.containers import Container, Session, Shared
from udslab.errors import EngineError
from udslab.spawn import wait_until

LIMIT = 6.0
"""Milliseconds for a server in a kept container."""
FIRST = 150.0
"""Milliseconds that the first server of a fresh container may cost above one `docker run`."""


def benchmark() -> int:
    """Measure, print, judge; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=positive, default=200, help="in the kept container (200)")
    parser.add_argument("--others", type=positive, default=10, help="of each other way (10)")
    parser.add_argument("--image", default="udslab-base:debian-12")
    options = parser.parse_args()
    try:
        with Session() as lab:
            ways = _ways(lab, options.image)
            took: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.others):
                for name, way in ways.items():
                    for _ in range(options.rounds // options.others if name == KEPT else 1):
                        took[name].append(_timed(way))
    except EngineError as error:
        raise BenchmarkError(str(error)) from error
    print(f"one server, one answer, in ms; {options.rounds} rounds in the kept container, {options.others} else:\n")
    print(table(["way", "p50", "p90", "worst"], [_row(name, times) for name, times in took.items()]) + "\n")
    print(f"Linux {platform.release()}, Docker {lab.engine.version}, {os.cpu_count()} cores, not pinned\n")
    kept, first, plain = (median(took[name]) for name in (KEPT, FRESH, RUN))
    statuses = [
        verdict(f"{LIMIT} ms", kept <= LIMIT, f"a server in a kept container takes {kept:.1f} ms"),
        verdict(f"docker run + {FIRST:.0f} ms", first <= plain + FIRST, f"{first:.0f} ms, docker run {plain:.0f} ms"),
    ]
    return max(statuses)


KEPT = "a server in a kept container"
FRESH = "the first server of a fresh container"
RUN = "docker run of `true`, for comparison"


def _timed(way: Callable[[], Callable[[], object] | None]) -> float:
    """Milliseconds; what the way returns is done afterwards, outside the time."""
    before = time.perf_counter_ns()
    after = way()
    took = (time.perf_counter_ns() - before) / 1e6
    if after:
        after()
    return took


def _ways(lab: Session, image: str) -> dict[str, Callable[[], Callable[[], object] | None]]:
    shared = lab.directory()
    kept = lab.container(image, shared)
    program = _static_server(shared)
    path = f"{shared.path}/s"
    client = lab.engine.client
    confined: Any = {"network_mode": "none", "user": f"{lab.uid}:{lab.gid}", "mounts": [shared.mount()]}

    def answer() -> None:
        with connect(path) as connection:
            connection.sendall(b"x")
            connection.read_exactly(1)

    def foreign_answer() -> None:
        wait_until(path, lambda found: found.serving)
        answer()

    def in_kept() -> None:
        with kept.serve(path, "upper"):
            answer()

    def in_fresh() -> Callable[[], object]:
        fresh: Container = lab.container(image, shared)
        server = fresh.serve(path, "upper")
        answer()

        def end() -> None:
            server.end()
            fresh.close()

        return end

    def docker_run() -> None:
        subprocess.run(["docker", "run", "--rm", "--network", "none", image, "true"], check=True)

    def sdk() -> None:
        container = client.containers.run(image, [program, path], detach=True, **confined)
        foreign_answer()
        container.remove(force=True)
        os.unlink(path)

    def by_exec() -> None:
        process = client.api.exec_create(kept.id, [program, path])["Id"]
        client.api.exec_start(process, detach=True)
        foreign_answer()
        os.kill(client.api.exec_inspect(process)["Pid"], signal.SIGKILL)
        os.unlink(path)

    ways: dict[str, Callable[[], Callable[[], object] | None]] = {
        KEPT: in_kept,
        FRESH: in_fresh,
        RUN: docker_run,
        "docker SDK: run and remove": sdk,
        "docker exec in a kept container": by_exec,
    }
    with contextlib.suppress(ImportError):
        from testcontainers.core.config import testcontainers_config  # type: ignore[import-not-found, unused-ignore]
        from testcontainers.core.container import DockerContainer  # type: ignore[import-not-found, unused-ignore]

        testcontainers_config.ryuk_disabled = True

        def testcontainers() -> None:
            with DockerContainer(image, **confined).with_command([program, path]):
                foreign_answer()
            os.unlink(path)

        ways["testcontainers, without Ryuk"] = testcontainers
    return ways


def _static_server(shared: Shared) -> str:
    """The C server in the shared directory, linked so that it runs in any image."""
    program = f"{shared.path}/epoll_server"
    sources = [str(BENCHMARKS / "epoll_server.c"), str(PEERS / "conn.c")]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    try:
        subprocess.run([*compiler, *C_FLAGS, "-static", *sources, "-o", program], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(f"cannot build the C server: {error}") from error
    return program


def _row(name: str, times: list[float]) -> list[str]:
    return [name, f"{median(times):.1f}", f"{quantiles(times, n=10)[8]:.1f}", f"{max(times):.1f}"]


if __name__ == "__main__":
    sys.exit(run(benchmark))
