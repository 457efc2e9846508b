"""What the benchmarks share: one core for all, the C programs, servers that end with us, tables."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
LAB = BENCHMARKS.parent / "lab"
PEERS = LAB / "peers"

C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O3", "-D_GNU_SOURCE", f"-I{PEERS}"]

READY_SECONDS = 10.0
"""How long a server may take until it answers, and how long to end after SIGTERM."""

CLIENT_SECONDS = 600.0
"""How long one run of the C client may take. It notices a silent server by itself, sooner."""

PR_SET_PDEATHSIG = 1
"""prctl(2); Python has no name for it."""


class BenchmarkError(Exception):
    """The benchmark could not be run: one line that says what failed, and no verdict."""


@dataclass(frozen=True)
class Percentiles:
    """Round trips of one run: percentiles in microseconds; round trips a second, of all clients together."""

    p50: float
    p90: float
    p99: float
    per_second: float


@dataclass(frozen=True)
class Workshop:
    """A temporary directory with the C programs. Sockets go there too, so that nothing is in their way."""

    directory: Path

    @property
    def c_server(self) -> list[str]:
        """The start command of the C server, without the path."""
        return [str(self.directory / "epoll_server")]

    def socket_path(self, name: str) -> str:
        """A path for a server's socket."""
        return str(self.directory / f"{name}.sock")

    def ping_pong(self, path: str, *, clients: int, size: int, round_trips: int) -> Percentiles:
        """Run the C client: `round_trips` of `size` bytes, of all clients; it checks every answer."""
        command = [str(self.directory / "ping_pong"), path, str(clients), str(size), str(round_trips)]
        try:
            client = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CLIENT_SECONDS,
                preexec_fn=_dies_with(os.getpid()),
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"ping_pong: {path}: not done after {CLIENT_SECONDS:.0f} s") from error
        if client.returncode != 0:
            reason = client.stderr.strip() or f"ping_pong: {path}: exit status {client.returncode}"
            raise BenchmarkError(reason)
        figures = json.loads(client.stdout)
        return Percentiles(
            p50=figures["p50_us"],
            p90=figures["p90_us"],
            p99=figures["p99_us"],
            per_second=figures["round_trips"] / figures["seconds"],
        )


def pin_to_one_core() -> int:
    """Put this process, and so every process that it starts from now on, on one core; returns its number.

    Client and server on one core: to wake a process on another core can cost more than the whole round trip,
    and varies more. The last core that we may use, because interrupts mostly go to the first.
    """
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Build the C programs in a temporary directory (with $CC, or cc), which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="udslab-bench-") as directory:
        for program in ("epoll_server", "ping_pong"):
            sources = [str(BENCHMARKS / f"{program}.c"), str(PEERS / "conn.c")]
            compiler = shlex.split(os.environ.get("CC", "cc"))
            command = [*compiler, *C_FLAGS, *sources, "-o", f"{directory}/{program}"]
            try:
                subprocess.run(command, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise BenchmarkError(f"cannot build {program}: {error}") from error
        yield Workshop(Path(directory))


def lab_server(path: str) -> list[str]:
    """The start command of the lab's own server."""
    return [sys.executable, "-m", "udslab", "serve", path, "--service", "upper", "--quiet"]


@contextmanager
def serving(command: Sequence[str], path: str) -> Iterator[int]:
    """Start an upper-casing server on `path`, wait until it answers, give its pid, and end it.

    The lab that is measured is the one of this checkout. The kernel kills the server when this process ends,
    however that happens.
    """
    python_path = os.pathsep.join(filter(None, [str(LAB), os.environ.get("PYTHONPATH")]))
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": python_path},
            preexec_fn=_dies_with(os.getpid()),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchmarkError(f"cannot start {shlex.join(command)}: {error}") from error
    try:
        _wait_until_it_answers(server, path)
        yield server.pid
    finally:
        server.terminate()
        try:
            server.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _dies_with(parent: int) -> Callable[[], None]:
    """What a child runs before exec, so that it never outlives us: prctl(2), PR_SET_PDEATHSIG."""
    libc = ctypes.CDLL(None, use_errno=True)  # Not in the child: between fork and exec little is safe.

    def ask_the_kernel() -> None:
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # It had ended before we asked.
            os._exit(1)

    return ask_the_kernel


def _wait_until_it_answers(server: subprocess.Popen[bytes], path: str) -> None:
    """A whole round trip, not a connect alone: a server can listen before it serves."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if server.poll() is not None:
            raise BenchmarkError(f"{path}: the server ended, status {server.returncode}, before it answered")
        if _answers(path):
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{path}: no answer after {READY_SECONDS:.0f} s")
        time.sleep(0.001)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(READY_SECONDS)
        try:
            client.connect(path)
            client.sendall(b"ready")
            return client.recv(5, socket.MSG_WAITALL) == b"READY"
        except OSError:
            return False


def machine(core: int) -> str:
    """One line of facts without which the figures mean nothing."""
    return (
        f"Linux {platform.release()} {platform.machine()}, {_processor()}, "
        f"{platform.python_implementation()} {platform.python_version()}; "
        f"clients and servers on core {core} of {os.cpu_count()}"
    )


def _processor() -> str:
    """The processor's name where the kernel tells it (x86 does, ARM often does not)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unnamed processor"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned for the terminal too: the first column to the left, figures to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        figures = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f"| {' | '.join([cells[0].ljust(widths[0]), *figures])} |"

    return "\n".join(line(cells) for cells in (header, rule, *rows))


def positive(text: str) -> int:
    """The type of an option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def verdict(limit: str, met: bool, measured: str) -> int:
    """Print the verdict line; returns the exit status: 0 met, 1 not met."""
    print(f"limit {limit}: {'met' if met else 'not met'} ({measured})")
    return 0 if met else 1


def run(benchmark: Callable[[], int]) -> int:
    """The exit status of a benchmark: its own, or 2 with one line where it could not be run."""
    try:
        return benchmark()
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
