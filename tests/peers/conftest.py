"""What the tests with the C peers share: the peers, started and swept up behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from udslab.spawn import Process


def own_file(pid: int) -> Path:
    """The file that a C client of this pid binds."""
    return Path(f"/var/tmp/{pid:05}")


@pytest.fixture
def c_server(peers: Path) -> Iterator[Callable[..., Process]]:
    """Starts the C server at a path, and waits until it listens; ``setup`` is for the shell that starts it."""
    with contextlib.ExitStack() as processes:

        def start(path: str | Path, setup: str = ":") -> Process:
            process = processes.enter_context(
                Process(["sh", "-c", f'{setup}; exec "$@"', "sh", peers / "server", path])
            )
            process.wait_serving(path)
            return process

        yield start


@pytest.fixture
def start_c_client(peers: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a C client; at the end its file is removed, which it leaves where the server does not remove it."""
    started = []

    def start(path: str | Path, setup: str = ":") -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = ["sh", "-c", f'{setup}; exec "$@"', "sh", peers / "client", path]
        started.append(subprocess.Popen(command, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
        with contextlib.suppress(FileNotFoundError):
            own_file(process.pid).unlink()


@pytest.fixture
def c_client(start_c_client) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs a C client to its end."""

    def run(path: str | Path, data: bytes = b"", setup: str = ":") -> subprocess.CompletedProcess[bytes]:
        process = start_c_client(path, setup)
        printed, said = process.communicate(data, timeout=30)
        return subprocess.CompletedProcess(process.args, process.returncode, printed, said)

    return run


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to have files of several users")
