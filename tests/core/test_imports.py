"""What importing the package takes and does: the standard library, nothing else; on any platform; without a trace."""

from __future__ import annotations

import ast
import glob
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import udslab

PACKAGE = Path(udslab.__file__).parent
HOST_HALF = {"__init__", "__main__", "cli", "containers", "places", "report", "subjects"}
IN_CONTAINER = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).with_suffix("").parts[0] not in HOST_HALF
)
"""The modules that are sent into containers."""


def file_of(name: str) -> Path:
    """The source of a module of the package."""
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.fixture
def python(environment):
    """Runs Python source in a fresh interpreter that sees the package and the standard library alone."""

    def run(source, *arguments, executable=sys.executable, path=environment["PYTHONPATH"]):
        # -S: without site-packages, and without what is imported from there at every start.
        return subprocess.run(
            [executable, "-S", "-W", "error", "-c", source, *map(str, arguments)],
            env={"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_what_is_sent_into_containers_is_the_core_and_no_report():
    assert set(IN_CONTAINER) >= {
        "address",
        "client",
        "connection",
        "errors",
        "listener",
        "server",
        "services",
        "spawn",
        "state",
        "testing",
    }
    assert not {"cli", "report", "containers", "places", "subjects"} & set(IN_CONTAINER)


# What is imported


def test_import_udslab_imports_nothing_heavy(python):
    heavy = "asyncio multiprocessing concurrent.futures docker rich jinja2 pytest udslab.cli udslab.report"
    done = python("import sys, udslab; print(sorted(set(sys.argv[1:]) & set(sys.modules)))", *heavy.split())
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_module_of_the_in_container_half_needs_the_standard_library_alone(python):
    source = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module("udslab." + name)
heavy = {"asyncio", "docker", "rich", "pytest", "multiprocessing", "udslab.cli", "udslab.report"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = python(source, *IN_CONTAINER)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_leaves_no_trace(python):
    source = """
import atexit, importlib, os, signal, sys, threading
def state():
    return (
        sorted(os.listdir("/proc/self/fd")),
        {number: signal.getsignal(number) for number in signal.valid_signals()},
        threading.enumerate(),
        dict(os.environ),
        os.umask(os.umask(0o77) or 0o77) and os.getcwd(),
        atexit._ncallbacks(),
        sys.excepthook,
    )
import ctypes, logging, random, subprocess  # these leave something themselves
before = state()
for name in sys.argv[1:]:
    importlib.import_module("udslab." + name)
assert state() == before
"""
    done = python(source, *IN_CONTAINER)
    assert (done.returncode, done.stderr) == (0, "")


# Where there is no AF_UNIX

WITHOUT_AF_UNIX = """
import sys, socket
for name in ("AF_UNIX", "SO_PEERCRED", "SO_PASSCRED", "SCM_RIGHTS", "SCM_CREDENTIALS", "MSG_CMSG_CLOEXEC"):
    delattr(socket, name)
sys.modules["fcntl"] = None
"""

AS_ON_WINDOWS = (
    WITHOUT_AF_UNIX
    + """
import os, select, signal, time
for module, names in (
    (socket, "SOCK_NONBLOCK SOCK_CLOEXEC MSG_PEEK SO_ACCEPTCONN AF_NETLINK"),
    (os, "O_PATH O_DIRECTORY O_CLOEXEC O_NOFOLLOW fchmod fork geteuid getuid pidfd_open pread set_blocking statvfs"),
    (select, "poll POLLIN POLLOUT epoll EPOLLIN"),
    (signal, "SIGHUP SIGQUIT SIGKILL SIGCHLD pidfd_send_signal"),
    (time, "clock_gettime CLOCK_MONOTONIC"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("grp", "pwd", "resource", "termios", "pty"):
    sys.modules[name] = None
"""
)


EACH_MODULE_FIRST = """
import importlib
for name in sys.argv[1:]:
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "udslab"]:
        del sys.modules[loaded]
    importlib.import_module("udslab." + name)
"""

USES = [
    "udslab.listen(path)",
    "udslab.listen(path, on_existing='refuse')",
    "udslab.listen('@name')",
    "udslab.bind(path)",
    "udslab.connect(path)",
    "udslab.connect('@name')",
    "udslab.connect(path, type='dgram', bind='auto')",
    "udslab.connect('/tmp/' + 'x' * 200)",
    "udslab.status(path)",
    "udslab.server.serve(path)",
    "udslab.server.serve(path, type='dgram')",
]

USE = """
import udslab, udslab.server
path = sys.argv[1]
for use in sys.argv[2:]:
    try:
        eval(use)
    except udslab.Unsupported as error:
        print(error)
"""


@pytest.mark.parametrize("prelude", [WITHOUT_AF_UNIX, AS_ON_WINDOWS], ids=["without AF_UNIX", "as on Windows"])
class TestWhereThereIsNoAfUnix:
    def run(self, python, prelude, source, *arguments):
        # What these take from the platform is not ours to mend.
        before = "import logging, selectors, subprocess, tempfile, threading"
        done = python("\n".join((before, prelude, source)), *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def test_importing_is_harmless(self, python, prelude):
        self.run(python, prelude, EACH_MODULE_FIRST, *IN_CONTAINER)

    def test_using_it_is_one_clear_error(self, python, prelude, stale):
        said = self.run(python, prelude, USE, stale, *USES).splitlines()
        assert len(said) == len(USES)
        for line in said:
            assert "no AF_UNIX sockets" in line
        assert stale.exists()


def test_any_module_may_be_imported_first(python):
    done = python("import sys\n" + EACH_MODULE_FIRST, *IN_CONTAINER)
    assert (done.returncode, done.stderr) == (0, "")


# Old Pythons


@pytest.mark.parametrize("name", ["__init__", "__main__", *IN_CONTAINER])
def test_the_source_is_python_3_9(name):
    ast.parse(file_of(name).read_text(), feature_version=(3, 9))


def find_python_3_9():
    """A Python 3.9 of this machine that really runs, or None."""
    candidates = [shutil.which("python3.9")]
    candidates += glob.glob(
        os.path.join(os.environ.get("PYENV_ROOT", "/nowhere"), "versions", "3.9.*", "bin", "python")
    )
    for candidate in filter(None, candidates):
        version = subprocess.run([candidate, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True)
        if version.stdout == b"3 9\n":
            return candidate
    return None


ROUND_TRIP = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module("udslab." + name)
import udslab
from udslab.server import serve
path = sys.argv[1]
for type in ("stream", "seqpacket", "dgram"):
    with serve(path, type=type):
        with udslab.connect(path, type=type, timeout=10, bind="auto") as client:
            client.send(b"hello")
            assert client.recv(100) == b"HELLO"
            assert udslab.status(path, owners=True).serving
    assert udslab.status(path).state == "absent"
print("done")
"""


def test_everything_runs_on_python_3_9(python, path):
    executable = find_python_3_9()
    if executable is None:
        pytest.skip("no Python 3.9 here (python3.9 on the PATH, or pyenv's)")
    done = python(ROUND_TRIP, path, *IN_CONTAINER, executable=executable)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_everything_runs_from_a_zip(python, path, tmp_path):
    """The in-container half is sent into containers as a zip."""
    archive = tmp_path / "udslab.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("__init__", *IN_CONTAINER):
            file.write(file_of(name), Path("udslab") / file_of(name).relative_to(PACKAGE))
    done = python(ROUND_TRIP, path, *IN_CONTAINER, path=archive)
    assert (done.stdout, done.stderr) == ("done\n", "")


# Names


@pytest.mark.parametrize("name", ["udslab", *(f"udslab.{name}" for name in IN_CONTAINER)])
def test_every_public_name_is_there_sorted_and_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        if callable(value) and hasattr(value, "__module__") and value.__module__.startswith("udslab"):
            assert value.__doc__, public


def test_the_names_that_all_need_are_public_and_typed():
    for name in ("listen", "bind", "connect", "status", "Address", "Connection", "Credentials", "SocketType", "State"):
        assert name in udslab.__all__
    assert (PACKAGE / "py.typed").exists()
