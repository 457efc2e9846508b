"""What the tests of the plugin share: pytest inside pytest, with the plugin and those that are named and no others."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_udslab.fixtures import SETTINGS
from pytest_udslab.options import lacking
from udslab.containers import Engine  # before any run in this process, which forgets what it has imported
from udslab.errors import EngineError
from udslab.needs import Backend

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
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    def end():
        signal.sigwait([signal.SIGTERM])
        os.write(1, f"told to end: {words}\\n".encode())  # not print: it may be at just that
        if "order" in words:
            with open("order", "a") as file:
                file.write(words[words.index("order") + 1] + "\\n")
        if "leave" not in words:
            os.unlink(path)
        os._exit(0)
    threading.Thread(target=end, daemon=True).start()
if "killed" in words:
    os.kill(os.getpid(), signal.SIGKILL)
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
    os._exit(3)
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


class Inner:
    """``inner(source, *options, plugins=(), forked=False, files={})``: runs ``source`` as test_x.py, with warnings as
    errors; in this process unless it is to be ``forked``. Beside it lies server.py, somebody's own server. The methods
    are about the last run."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.result: pytest.RunResult
        self._source = ""

    def __call__(
        self,
        source: str,
        *options: Any,
        plugins: tuple[str, ...] = (),
        forked: bool = False,
        files: dict[str, str] | None = None,
    ) -> pytest.RunResult:
        self._source = (HEAD + textwrap.dedent(source)).strip()
        named = {"server": SERVER, **(files or {})}
        named = {name: textwrap.dedent(text) for name, text in named.items()}
        self.pytester.makepyfile(test_x=self._source, **named)
        words = [word for name in ("pytest_udslab.plugin", *plugins) for word in ("-p", name)]
        # pytest 8.4 complains of a plugin that this process has imported already.
        rewrite = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        words += ["-p", "no:cacheprovider", "-W", "error", "-W", rewrite, *options]
        run = self.pytester.runpytest_subprocess if forked else self.pytester.runpytest_inprocess
        self.result = run(*words)
        return self.result

    def line(self, part: str) -> int:
        """The number in test_x.py of the first line with ``part``."""
        return 1 + next(n for n, line in enumerate(self._source.splitlines()) if part in line)

    def lines_with(self, part: str) -> list[str]:
        """The lines of the output in which that stands, plain."""
        return [self.plain(line) for line in self.result.outlines if part in line]

    def errors(self) -> list[str]:
        """What stands behind the E of reports, plain."""
        return [self.plain(line[1:].strip()) for line in self.result.outlines if re.match(r"E +\S", line)]

    def logs(self) -> list[str]:
        """The titles of logs in reports, plain."""
        return [self.plain(line.strip("- ")) for line in self.result.outlines if "log of <" in line]

    @staticmethod
    def plain(text: str) -> str:
        """Text without what is different each time: where scratch directories are, and numbers."""
        text = re.sub(r"/[^ ]*/udslab-[^/ ]+/d/\d+/", "/UDS/", text)
        text = re.sub(r"/UDS/s\d*\b", "/UDS/s", text)
        return re.sub(r"\b(pids?|process|fd|inode) \d+", r"\1 N", text)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inner runs do not know of CI, where pytest does not cut its lines; the umask that they set goes."""
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    umask = os.umask(0o077)
    os.umask(umask)
    yield
    os.umask(umask)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """Runs pytest with the plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return Inner(pytester)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> None:
    """A container engine, with the lab's base image."""
    try:
        with Engine() as engine:
            engine.image_machine("udslab-base:debian-12")
    except EngineError as error:
        lacking(request.config.stash[SETTINGS], Backend.CONTAINER, str(error))


@pytest.fixture(params=[*Backend], ids=str)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend, with what it needs."""
    if request.param is Backend.CONTAINER:
        request.getfixturevalue("engine")
    return str(request.param)
