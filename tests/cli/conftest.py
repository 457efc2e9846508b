"""What the tests of the command share: the command with closed descriptors, other variables and other users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from udslab.cli import main
from udslab.spawn import Process, end_with_parent

Done = subprocess.CompletedProcess[bytes]
MODULE = (sys.executable, "-m", "udslab")


def in_shell(setup: str, redirect: str, command: tuple[str | bytes | Path, ...]) -> tuple[str | bytes | Path, ...]:
    """The command, started by a shell that takes its place."""
    if not setup and not redirect:
        return command
    return ("sh", "-c", f'{setup}\nexec "$@" {redirect}', "sh", *command)


@pytest.fixture(scope="session")
def variables(environment: dict[str, str]) -> dict[str, str]:
    """The environment, without what changes how Python prints."""
    return {key: value for key, value in environment.items() if not key.startswith(("PYTHONUNBUF", "PYTHONIO"))}


@pytest.fixture
def cli(variables: dict[str, str]) -> Callable[..., Done]:
    """Runs `udslab ARGUMENTS…` to its end; ``setup`` and ``redirect`` are for a shell, ``set`` adds variables."""

    def run(
        *arguments: str | bytes | Path,
        setup: str = "",
        redirect: str = "",
        set: dict[str, str] | None = None,
        **options: object,
    ) -> Done:
        if options.get("stdin") is None:
            options.setdefault("input", b"")
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        return subprocess.run(
            in_shell(setup, redirect, (*MODULE, *arguments)),
            env={**variables, **(set or {})},
            timeout=60,
            check=False,
            preexec_fn=end_with_parent(),
            **options,
        )

    return run


@pytest.fixture
def main_here(capfd: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `udslab ARGUMENTS…` in this process, for what touches neither signals nor descriptors."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        status = main(list(map(str, arguments)))
        printed, said = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, status, printed, said)

    return run


@pytest.fixture
def serve(variables: dict[str, str]) -> Iterator[Callable[..., Process]]:
    """Starts `udslab serve OPTIONS… PATH` and waits until it serves; ``setup``, ``redirect`` and ``set`` as for cli."""
    with contextlib.ExitStack() as processes:

        def start(
            path: str | bytes | Path,
            *options: str,
            setup: str = "",
            redirect: str = "",
            set: dict[str, str] | None = None,
            wait: bool = True,
            program: tuple[str, ...] = MODULE,
            **keywords: object,
        ) -> Process:
            command = in_shell(setup, redirect, (*program, "serve", *options, path))
            process = processes.enter_context(Process(command, env={**variables, **(set or {})}, **keywords))
            if wait:
                process.wait_serving(path)
            return process

        yield start


@pytest.fixture
def cli_as_nobody(as_nobody, directory: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `udslab ARGUMENTS…` as the user nobody, who may look into ``directory``."""
    directory.chmod(0o755)
    directory.parent.chmod(0o755)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        source = "import sys; from udslab.cli import main; sys.exit(main())"
        return as_nobody(source, *arguments, directory=directory.parent)

    return run


@pytest.fixture(scope="session")
def complaint() -> Callable[..., str]:
    """The one line with which a command has ended: nothing else was said, nothing printed unless ``printed``."""

    def check(
        done: subprocess.CompletedProcess[bytes] | subprocess.CompletedProcess[str],
        *,
        status: int = 1,
        printed: bytes | str = "",
    ) -> str:
        said = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
        lines = said.splitlines()
        assert len(lines) == 1, said
        assert lines[0].startswith("udslab: ")
        assert done.returncode == status
        assert (done.stdout or b"") == (printed if printed else type(done.stdout or b"")())
        return lines[0]

    return check


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The end of a pipe for writing whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def on_terminal(variables: dict[str, str]) -> Callable[..., str]:
    """Runs `udslab ARGUMENTS…` on a terminal of 80 columns; what is on it afterwards."""

    def run(*arguments: str | Path, set: dict[str, str] | None = None) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        coloured = {key: value for key, value in variables.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
        terminal = {**coloured, "TERM": "xterm-256color", "COLUMNS": "80", **(set or {})}
        with subprocess.Popen(
            [sys.executable, "-m", "udslab", *arguments], env=terminal, stdin=theirs, stdout=theirs, stderr=theirs
        ):
            os.close(theirs)
            shown = b""
            while True:
                try:
                    shown += os.read(ours, 1 << 16)
                except OSError:  # EIO: the last descriptor of the other end is closed
                    break
        os.close(ours)
        return shown.decode().replace("\r\n", "\n")

    return run
