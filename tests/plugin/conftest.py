"""What the tests of the plugin share: pytest inside pytest, with the plugin and those that are named and no others."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

Inner = Callable[..., pytest.RunResult]

HEAD = """
import os, signal, socket, stat, subprocess, sys, threading, time
import pytest

"""

SERVER = '''
"""A server of somebody's own: `python server.py PATH [WORD…]`. Says its pid and what it is told; echoes lines."""
import os, signal, socket, sys, threading, time

path, words = sys.argv[1], sys.argv[2:]
if "daemon" in words:
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    def end(*_):
        print("told to end:", words, flush=True)
        if "order" in words:
            with open("order", "a") as file:
                file.write(words[words.index("order") + 1] + "\\n")
        if "leave" not in words:
            os.unlink(path)
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
if "dies" in words:
    sys.exit("no configuration\\nI give up")
print("pid", os.getpid(), flush=True)
print("at", path, os.getcwd(), os.environ.get("COLOUR"), flush=True)
if "never" in words:
    signal.pause()
if "LISTEN_FDS" in os.environ:
    listener = socket.socket(fileno=3)
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text, os.environ["NOTIFY_SOCKET"])
if "notify" in words:
    notify(b"READY=1")
if "status" in words:
    notify(b"STATUS=reading the data base")
if "log" in words:
    print("ready to serve", flush=True)
if "check" in words:
    open(path + ".up", "w").close()
while True:
    connection = listener.accept()[0]
    with connection, connection.makefile("rwb") as file:
        for line in file:
            file.write(line)
            file.flush()
'''

ASYNC = ("pytest_asyncio.plugin", "anyio")


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """``inner(source, *options, plugins=(), forked=False, files={})``: runs ``source`` as test_x.py, with warnings as
    errors; in this process unless it is to be ``forked``. Beside it lies server.py, somebody's own server."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(
        source: str,
        *options: Any,
        plugins: tuple[str, ...] = (),
        forked: bool = False,
        files: dict[str, str] | None = None,
    ) -> pytest.RunResult:
        named = {"test_x": HEAD + textwrap.dedent(source), "server": SERVER, **(files or {})}
        pytester.makepyfile(**{name: textwrap.dedent(text) for name, text in named.items()})
        words = [word for name in ("pytest_udslab.plugin", *plugins) for word in ("-p", name)]
        words += ["-p", "no:cacheprovider", "-W", "error", *options]
        return pytester.runpytest_subprocess(*words) if forked else pytester.runpytest_inprocess(*words)

    return run


def lines_with(result: pytest.RunResult, part: str) -> list[str]:
    """The lines of the output in which that stands; numbers of processes and scratch directories are N."""
    return [plain(line) for line in result.outlines if part in line]


def plain(text: str) -> str:
    """Text without what is different each time."""
    text = re.sub(r"/[^ ]*/udslab-[^/ ]+/d/", "/UDS/", text)
    return re.sub(r"\b(pids?|process|fd|inode) \d+", r"\1 N", text)


def line_of(source: str, part: str) -> int:
    """The number in test_x.py of the first line of ``source`` with ``part``."""
    return 1 + next(n for n, line in enumerate((HEAD + textwrap.dedent(source)).lstrip("\n").splitlines()) if part in line)
