"""What the tests share: short private directories, C programs, other users."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import udslab
from udslab.scratch import scratch_directory
from udslab.spawn import Process, end_with_parent

ROOT = Path(__file__).parent.parent
pytest_plugins = ["pytester"]

# Hypothesis' limits of time, for one example (200 ms) and for making them up, say nothing on a machine that others use.
settings.register_profile("udslab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("udslab")

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory with a path so short that any socket fits, swept by the next run if this one is killed."""
    with scratch_directory() as path:
        yield Path(path)
        for beside in Path(path).parent.iterdir():  # what a test has put there, or renamed it to
            if beside.is_dir() and beside.name != Path(path).name:
                shutil.rmtree(beside)


@pytest.fixture
def path(directory: Path) -> Path:
    """A path where nothing is yet."""
    return directory / "s"


@pytest.fixture
def public(directory: Path) -> Path:
    """A directory in which anyone may do anything."""
    directory.parent.chmod(0o711)
    directory.chmod(0o777)
    return directory


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    """Closes at the end what a test has made: ``sockets.enter_context(...)``."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def make_socket(sockets: contextlib.ExitStack) -> Callable[..., socket.socket]:
    """Makes a plain socket of ``type``, bound to ``path`` and listening with ``backlog`` if they are given."""

    def make(
        path: str | bytes | Path | None = None, type: int = socket.SOCK_STREAM, backlog: int | None = None
    ) -> socket.socket:
        sock = sockets.enter_context(socket.socket(socket.AF_UNIX, type))
        if path is not None:
            sock.bind(os.fspath(path))
        if backlog is not None:
            sock.listen(backlog)
        return sock

    return make


@pytest.fixture
def stale(path: Path) -> Path:
    """A path with a stale socket file."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `python -m udslab` is the package under test; with byte code, for a quick start."""
    root = str(Path(udslab.__file__).parent.parent)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": root, "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("pycache"))}


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    """Runs `udslab ARGUMENTS…` to its end; ``input`` and what else subprocess.run takes."""

    def run(*arguments: str | bytes | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
        options.setdefault("input", b"")
        options.setdefault("capture_output", True)
        options.setdefault("preexec_fn", end_with_parent())
        return subprocess.run(
            [sys.executable, "-m", "udslab", *arguments], env=environment, timeout=60, check=False, **options
        )

    return run


@pytest.fixture
def serve(environment: dict[str, str], sockets: contextlib.ExitStack) -> Callable[..., Process]:
    """Starts `udslab serve OPTIONS… PATH` and waits until it serves."""

    def start(path: str | bytes | Path, *options: str, **keywords: object) -> Process:
        command = [sys.executable, "-m", "udslab", "serve", *options, path]
        process = sockets.enter_context(Process(command, env=environment, **keywords))
        process.wait_serving(path)
        return process

    return start


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the C programs of lab/peers, built once by each worker."""
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("no C compiler (cc and make)")
    out = tmp_path_factory.mktemp("peers")
    subprocess.run(["make", "-s", "-C", ROOT / "lab" / "peers", f"OUT={out}"], check=True)
    return out


@pytest.fixture(scope="session")
def as_nobody() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python source as the user nobody (65534): by the system's own Python, which that user can read."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    if not os.access(python, os.X_OK):
        pytest.skip(f"needs {python}, for another user cannot read this one")

    def run(source: str, *arguments: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
        # The package may lie where nobody may not look.
        copy = directory / "package"
        if not copy.exists():
            shutil.copytree(Path(udslab.__file__).parent, copy / "udslab", ignore=shutil.ignore_patterns("__pycache__"))
        return subprocess.run(
            [python, "-B", "-c", source, *map(str, arguments)],
            env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"},
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def deepen() -> Callable[[str | os.PathLike[str], str, int], None]:
    """Makes directories of a name, each in the one before, also beyond what a path may be long."""

    def run(top: str | os.PathLike[str], name: str, depth: int) -> None:
        fd = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)

    return run


@pytest.fixture(scope="session")
def planted() -> Iterator[Callable[..., list[str]]]:
    """The command of a server with such traits: tests/audit/planted.py, where any user can read it."""
    python = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
    with scratch_directory() as top:
        for directory in (top, os.path.dirname(top)):
            os.chmod(directory, 0o711)
        script = shutil.copy(ROOT / "tests" / "audit" / "planted.py", top)
        os.chmod(script, 0o644)
        yield lambda traits="perfect", *options: [python, "-S", "-E", script, traits, "{socket}", *options]


@pytest.fixture(scope="session")
def in_child() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function in a forked child, and gives back what it returns."""

    def run(call: Callable[[], Any]) -> Any:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, json.dumps(call()).encode())
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as file:
            said = file.read()
        os.waitpid(pid, 0)
        return json.loads(said)

    return run


@pytest.fixture(scope="session")
def marked() -> Callable[[Path], set[int]]:
    """The processes that have this path as UDSLAB_TEST in their environment."""

    def find(mark: Path) -> set[int]:
        pids = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if b"UDSLAB_TEST=" + bytes(mark) in file.read().split(b"\0"):
                    pids.add(int(name))
        return pids

    return find
