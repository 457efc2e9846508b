"""What a fixture costs a test, as pytest sees it: set-up, one round trip of 64 bytes and tear-down, over an empty test.

Each row is a small project of identical tests, made in a temporary directory and run by a pytest of its own, which
loads the row's plugin and no other. Short runs of all rows take turns, so that whatever else the machine does meets all
alike; a duration counts less the median of the empty tests of the same turn. The rows that keep an engine busy come
last, in turns of their own. Where the rows differ it flatters the others: their servers in containers are static C
programs, and nobody looks for what they leave behind.

A row that cannot be had (no engine, no package) is skipped, with the reason.
Needs pytest and, for their rows, the others: `$(script/environment bench)/bin/python benchmarks/fixtures.py`.

Exit status: 0 the limits are met, 1 one is not, 2 the benchmark could not be run, or not a row that has a limit.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common import (
    BENCHMARKS,
    C_FLAGS,
    LAB,
    PEERS,
    BenchmarkError,
    machine,
    pin_to_one_core,
    positive,
    run,
    table,
    verdict,
)

from udslab.spawn import end_with_parent

THREAD_LIMIT = 1.5
"""A test with the thread backend over one with a bare thread."""
PROCESS_LIMIT = 6.0
"""Milliseconds, with the process backend."""
CONTAINER_LIMIT = 10.0
"""Milliseconds, with the container backend, after the session's first test."""
FOREIGN_LIMIT = 1.0
"""Milliseconds that a program's start, and its end, may cost above the floor."""
LEAKS_LIMIT = 60.0
"""Microseconds for the leak check of a test that leaks nothing."""
IMPORT_LIMIT = 10.0
"""Milliseconds of CPU time to import the plugin, pytest being there."""
IMPORTS = 20
UNWANTED = ("asyncio", "docker", "rich")
"""What importing the plugin must not import."""

SOCKETS = 10_000
WARM_UP = 4
"""Tests after the first that do not count, where enough others do."""
ENOUGH = 20
RUN_SECONDS = 600.0
LABEL = "benchmark.fixtures"
"""Of the containers that rows start, so that none stays when a run is killed."""

EMPTY, BARE, FLOOR, FOREIGN = "empty", "floor-thread", "floor-process", "uds-foreign"
THREAD, PROCESS, CONTAINER = "uds-thread", "uds-process", "uds-container"
IMPORT = "import"
JUDGED = (THREAD, PROCESS, CONTAINER)


@dataclass(frozen=True)
class Row:
    """A project: `source` begins its test module, and each of its tests takes `arguments` and does `body`."""

    key: str
    title: str
    source: str = ""
    arguments: str = "server"
    body: str = "round_trip(server)"
    options: tuple[str, ...] = ()
    share: float = 1.0
    """How many of --tests it gets: few, if dear."""
    over: str = EMPTY
    """What it is measured over."""
    needs: tuple[str, ...] = ()
    """What it is judged by, besides."""
    leaks: bool = False
    """Shown among the leak checks."""
    engine: bool = False
    """Its containers keep the engine busy, even after they have ended."""


@dataclass
class Runs:
    """What a row's tests took, turn by turn, in milliseconds."""

    first: list[float] = field(default_factory=list)
    took: list[list[float]] = field(default_factory=list)
    notes: dict[str, list[list[float]]] = field(default_factory=dict)
    skipped: str = ""

    def medians(self) -> list[float]:
        """Of each turn."""
        return [median(times) for times in self.took]


class SkippedRow(Exception):
    """A row cannot be had; the reason."""


GIVEN = """
import contextlib, os, resource, socket
from udslab.spawn import wait_until

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "s")
PAYLOAD = b"7" * 64  # the same in upper case

def serving():
    wait_until(PATH, lambda found: found.serving)
    return PATH

def unlink():
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PATH)

def talk(client):
    client.sendall(PAYLOAD)
    assert client.recv(64, socket.MSG_WAITALL) == PAYLOAD

def round_trip(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        talk(client)
"""

RECORDER = """
import json, os, time
import pytest

FOUND = {"took": [], "notes": {}, "skipped": []}

def note(what, since):
    FOUND["notes"].setdefault(what, []).append((time.perf_counter_ns() - since) / 1e6)

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    before = time.perf_counter_ns()
    result = yield
    FOUND["took"].append((time.perf_counter_ns() - before) / 1e6)
    return result

def pytest_runtest_logreport(report):
    if report.skipped:
        FOUND["skipped"].append(report.longrepr[2])

def pytest_sessionfinish(session):
    with open(os.path.join(os.path.dirname(__file__), "found.json"), "w") as file:
        json.dump(FOUND, file)
"""

READY = """
/* Linked around listen(2): says on the descriptor READY_FD, if there is one, that the server listens. It ends with the
 * one that started it, unless it is a container's first process. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog);

int __wrap_listen(int fd, int backlog)
{
    int status = __real_listen(fd, backlog);
    const char *ready = getenv("READY_FD");
    if (getppid() != 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (ready && status == 0 && write(atoi(ready), "", 1) == 1)
        close(atoi(ready));
    return status;
}
"""

PYTHON_SERVER = """
import select, socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            break  # a pipe from the one that started it, who has ended
        client, _ = listener.accept()
        with client:
            while data := client.recv(4096):
                client.sendall(data)
"""

RAW = """
@pytest.fixture
def server():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(PATH)
        listener.listen()
        yield listener
    os.unlink(PATH)
"""
RAW_BODY = """
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(PATH)
        accepted, _ = server.accept()
        with accepted:
            client.sendall(PAYLOAD)
            accepted.sendall(accepted.recv(64))
            assert client.recv(64) == PAYLOAD
"""

BARE_THREAD = """
def serve(listener):
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # EINVAL: shut down
            return
        with client:
            while data := client.recv(4096):
                client.sendall(data)

@pytest.fixture
def server():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(PATH)
        listener.listen()
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        yield PATH
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    os.unlink(PATH)
"""

SIX_MORE = """
@pytest.fixture(scope="session")
def lab():
    yield

@pytest.fixture
def test(request, lab):
    yield request.node

@pytest.fixture
def backend(test):
    return "thread"

@pytest.fixture
def type():
    return "stream"

@pytest.fixture
def distro(test):
    return "debian-12"

@pytest.fixture
def client(test, server):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server)
        yield client
"""

BARE_PROCESS = """
@pytest.fixture
def server():
    before = time.perf_counter_ns()
    ready, write = os.pipe()
    pid = os.posix_spawn(
        C_SERVER, [C_SERVER, PATH], {**os.environ, "READY_FD": "3"}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 3)]
    )
    os.close(write)
    said = os.read(ready, 1)
    note("start", before)
    os.close(ready)
    assert said
    yield PATH
    before = time.perf_counter_ns()
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    note("stop", before)
    os.unlink(PATH)
"""

SOCKETSERVER = """
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)

@pytest.fixture
def server():
    with socketserver.ThreadingUnixStreamServer(PATH, Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield PATH
        server.shutdown()
        thread.join()
    os.unlink(PATH)
"""

HTTPSERVER = """
import http.client
from pytest_httpserver import HTTPServer

@pytest.fixture
def server():
    with HTTPServer(host="127.0.0.1", port=0) as server:
        server.expect_request("/").respond_with_data(PAYLOAD)
        yield server
"""
HTTPSERVER_BODY = """
    client = http.client.HTTPConnection("127.0.0.1", server.port)
    client.request("GET", "/")
    assert client.getresponse().read() == PAYLOAD
    client.close()
"""

MIRAKURU = """
from mirakuru import UnixSocketExecutor

@pytest.fixture
def server():
    with UnixSocketExecutor([{command}, PATH], socket_name=PATH, timeout=20):
        yield PATH
    os.unlink(PATH)
"""

XPROCESS = """
from xprocess import ProcessStarter

class Starter(ProcessStarter):
    args = [C_SERVER, PATH]
    timeout = 20

    def startup_check(self):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(PATH) == 0

@pytest.fixture
def server(xprocess):
    xprocess.ensure("server", Starter, persist_logs=False)
    yield PATH
    xprocess.getinfo("server").terminate()
    os.unlink(PATH)
"""

DOCKER_SDK = """
import docker

@pytest.fixture(scope="session")
def engine():
    with contextlib.closing(docker.from_env()) as engine:
        yield engine

@pytest.fixture
def server(engine):
    container = engine.containers.run(
        IMAGE, [C_SERVER, PATH], detach=True, network_mode="none", user=f"{os.getuid()}:{os.getgid()}",
        volumes=[f"{DIRECTORY}:{DIRECTORY}"], labels=LABELS,
    )
    try:
        yield serving()
    finally:
        container.remove(force=True)
        unlink()
"""

TESTCONTAINERS = """
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

testcontainers_config.ryuk_disabled = True

@pytest.fixture
def server():
    container = DockerContainer(
        IMAGE, network_mode="none", user=f"{os.getuid()}:{os.getgid()}", labels=LABELS
    ).with_command([C_SERVER, PATH]).with_volume_mapping(DIRECTORY, DIRECTORY, "rw")
    try:
        with container:
            yield serving()
    finally:
        unlink()
"""

# SIGKILL, because a first process without a handler does not notice SIGTERM, and compose would wait for 10 s.
PYTEST_DOCKER = """
@pytest.fixture(scope="session")
def docker_compose_file(tmp_path_factory):
    service = {
        "image": IMAGE, "command": [C_SERVER, PATH], "network_mode": "none", "user": f"{os.getuid()}:{os.getgid()}",
        "volumes": [f"{DIRECTORY}:{DIRECTORY}"], "labels": LABELS, "stop_signal": "SIGKILL",
    }
    file = tmp_path_factory.mktemp("compose") / "compose.yaml"
    file.write_text(json.dumps({"services": {"server": service}}))
    return str(file)

@pytest.fixture
def server(docker_services):
    yield serving()
    unlink()
"""

FOREIGN_SOURCE = """
@pytest.fixture
def server(make_uds_process):
    before = time.perf_counter_ns()
    process = make_uds_process([C_SERVER, "{socket}"], expect_left=True)  # SIGTERM ends it as it stands
    note("start", before)
    yield process.path
    before = time.perf_counter_ns()
    process.stop()
    note("stop", before)
"""

MANY_SOCKETS = """
@pytest.fixture(scope="session", autouse=True)
def many_sockets():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(SOCKETS // 2):
            for end in socket.socketpair():
                stack.enter_context(end)
        yield
"""
LOOK_TWICE = """
def look():
    {look}

@pytest.fixture(autouse=True)
def looks():
    look()
    yield
    look()
"""
READ_PROC = """with open("/proc/net/unix") as file:
        return set(file)"""
ASK_PSUTIL = """import psutil
    return psutil.Process().net_connections(kind="unix")"""

PLUGIN = ("-p", "pytest_udslab.plugin")
TALK = "talk(uds_client)"


def _backend(key: str, title: str, name: str, *options: str, needs: tuple[str, ...] = (), engine: bool = False) -> Row:
    return Row(
        key,
        title,
        arguments="uds_server, uds_client",
        body="uds_client.sendall(PAYLOAD); assert uds_client.read_exactly(64) == PAYLOAD",
        options=(*PLUGIN, "--uds-backend", name, *options),
        needs=needs,
        engine=engine,
    )


def _leak_rows() -> Iterator[Row]:
    for name, source in (("0", ""), ("many", MANY_SOCKETS)):
        nothing: dict[str, Any] = {"arguments": "", "body": "pass", "leaks": True}
        plain, off = f"leaks-plain-{name}", f"leaks-off-{name}"
        yield Row(plain, "an empty test, without the plugin", source, over=plain, **nothing)
        yield Row(
            off, "the plugin, without the check", source, options=(*PLUGIN, "--uds-leaks=off"), over=plain, **nothing
        )
        yield Row(
            f"leaks-default-{name}",
            "the leak check",
            source,
            options=(*PLUGIN, "--uds-leaks=default"),
            over=off,
            **nothing,
        )
        for key, title, look, share in (
            ("proc", "/proc/net/unix read before and after", READ_PROC, 0.1),
            ("psutil", "psutil asked before and after", ASK_PSUTIL, 0.02),
        ):
            few = share if source else 1.0
            looks = source + LOOK_TWICE.replace("{look}", look)
            yield Row(f"leaks-{key}-{name}", title, looks, share=few, over=plain, **nothing)


IN_SEVEN = BARE_THREAD.replace("def server():", "def server(test, backend, type, distro):") + SIX_MORE
ROWS = [
    Row(EMPTY, "an empty test", arguments="", body="pass"),
    Row("floor-raw", "raw system calls, one thread", RAW, body=RAW_BODY),
    Row(BARE, "bare thread, blocking accept", BARE_THREAD),
    Row("floor-seven", "bare thread, in seven fixtures", IN_SEVEN, "server, client", "talk(client)"),
    Row(FLOOR, "C server: posix_spawn, a pipe", BARE_PROCESS),
    _backend(THREAD, "udslab, thread", "thread", needs=(BARE,)),
    _backend(PROCESS, "udslab, process", "process"),
    Row(FOREIGN, "udslab, C server", FOREIGN_SOURCE, options=PLUGIN, needs=(FLOOR,)),
    _backend(CONTAINER, "udslab, container", "container", "--uds-image", "{IMAGE}", engine=True),
    Row("peer-socketserver", "ThreadingUnixStreamServer", SOCKETSERVER, share=0.025),
    Row(
        "peer-httpserver",
        "pytest-httpserver, a server a test",
        HTTPSERVER,
        body=HTTPSERVER_BODY,
        options=("-p", "pytest_httpserver.pytest_plugin"),
        share=0.025,
    ),
    Row("peer-mirakuru-c", "mirakuru, C server", MIRAKURU.replace("{command}", "C_SERVER"), share=0.05),
    Row(
        "peer-mirakuru-python",
        "mirakuru, Python server",
        MIRAKURU.replace("{command}", "sys.executable, PYTHON_SERVER"),
        share=0.05,
    ),
    # It keeps its files in pytest's cache.
    Row(
        "peer-xprocess",
        "pytest-xprocess, C server",
        XPROCESS,
        options=("-p", "cacheprovider", "-p", "xprocess.pytest_xprocess"),
        share=0.05,
    ),
    Row("peer-docker-sdk", "docker SDK, C server", DOCKER_SDK, share=0.0, engine=True),
    Row("peer-testcontainers", "testcontainers, C server", TESTCONTAINERS, share=0.0, engine=True),
    Row(
        "peer-pytest-docker",
        "pytest-docker, C server",
        PYTEST_DOCKER,
        options=("-p", "pytest_docker", "--container-scope=function"),
        share=0.0,
        engine=True,
    ),
    *_leak_rows(),
]
BY_KEY = {row.key: row for row in ROWS}


def benchmark() -> int:
    """Measure, print, judge; returns the exit status."""
    options = _options()
    keys = [key for key in [*BY_KEY, IMPORT] if any(fnmatch.fnmatchcase(key, glob) for glob in options.rows)]
    if not keys:
        raise BenchmarkError(f"no row is called {' or '.join(options.rows)}; there are {', '.join([*BY_KEY, IMPORT])}")
    rows = _with_what_they_need(keys)
    core = None if options.all_cores else pin_to_one_core()
    with _shop(options.image) as shop:
        runs = _measure(rows, shop, options.turns, options.tests)
    where = machine(core or 0)
    if core is None:
        where = f"{where.rpartition(';')[0]}; {os.cpu_count()} cores, not pinned"
    statuses: list[int] = []
    verdicts: list[tuple[str, bool, str]] = []
    for report in (_costs, _foreign, _leaks):
        verdicts += report(rows, runs, options)
    if IMPORT in keys:
        try:
            verdicts += _import_costs(_imports())
        except SkippedRow as reason:
            print(f"skipped: {IMPORT}: {reason}")
            statuses.append(2)
    for row in rows:
        if runs[row.key].skipped:
            print(f"skipped: {row.key}: {runs[row.key].skipped}")
            if row.key in (*JUDGED, FOREIGN) or row.key.startswith("leaks-default"):
                statuses.append(2)
    print(f"{where}\n")
    statuses += [verdict(*one) for one in verdicts]
    if options.plot:
        _plot(options.plot, rows, runs, where)
    return 1 if 1 in statuses else max(statuses, default=0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, epilog=f"rows: {', '.join([*BY_KEY, IMPORT])}"
    )
    parser.add_argument(
        "--tests", type=positive, default=200, help="in one run of a cheap row (200); dear rows get fewer"
    )
    parser.add_argument("--turns", type=positive, default=5, help="how often each row is run (5)")
    parser.add_argument("--rows", metavar="GLOB", action="append", help="only these, and what they are measured over")
    parser.add_argument("--image", default="udslab-base:debian-12", help="of the containers (%(default)s)")
    parser.add_argument("--all-cores", action="store_true", help="do not stay on one core")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the costs (needs matplotlib)")
    options = parser.parse_args()
    options.rows = options.rows or ["*"]
    return options


def _with_what_they_need(keys: Iterable[str]) -> list[Row]:
    wanted = {EMPTY}
    waiting = [key for key in keys if key in BY_KEY]
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += [BY_KEY[key].over, *BY_KEY[key].needs]
    return [row for row in ROWS if row.key in wanted]


@dataclass(frozen=True)
class Shop:
    """A temporary directory with the servers, and what the projects are told."""

    directory: Path
    image: str

    @property
    def told(self) -> Mapping[str, object]:
        """Names for the projects' modules."""
        return {
            "DIRECTORY": str(self.directory),
            "C_SERVER": str(self.directory / "server"),
            "PYTHON_SERVER": str(self.directory / "server.py"),
            "IMAGE": self.image,
            "LABELS": {LABEL: self.directory.name},
            "SOCKETS": SOCKETS,
        }

    def project(self, row: Row, tests: int) -> Path:
        """Write the row's project: so many tests, and an empty last one, in which the session's fixtures end."""
        project = self.directory / row.key
        if project.exists():
            return project
        project.mkdir()
        told = "".join(f"{name} = {value!r}\n" for name, value in self.told.items())
        imports = (
            "import contextlib, json, os, resource, signal, socket, socketserver, sys, threading, time\nimport pytest\n"
        )
        body = row.body if row.body.startswith("\n") else f"\n    {row.body}\n"
        each = "".join(f"\ndef test_{number}({row.arguments}):{body}" for number in range(tests))
        files = {
            "pytest.ini": "[pytest]\n",
            "conftest.py": RECORDER,
            "given.py": GIVEN + told,
            "test_it.py": f"{imports}from conftest import note\nfrom given import *\n{row.source}{each}\n"
            "def test_last():\n    pass\n",
        }
        for name, text in files.items():
            (project / name).write_text(text)
        return project


@contextmanager
def _shop(image: str) -> Iterator[Shop]:
    with tempfile.TemporaryDirectory(prefix="udslab-bench-") as directory:
        shop = Shop(Path(directory), image)
        (shop.directory / "ready.c").write_text(READY)
        (shop.directory / "server.py").write_text(PYTHON_SERVER)
        sources = [str(BENCHMARKS / "epoll_server.c"), str(PEERS / "conn.c"), f"{directory}/ready.c"]
        command = [*shlex.split(os.environ.get("CC", "cc")), *C_FLAGS, "-static", "-Wl,--wrap=listen", *sources]
        try:
            subprocess.run([*command, "-o", f"{directory}/server"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchmarkError(f"cannot build the C server: {error}") from error
        try:
            yield shop
        finally:
            _remove_containers(f"{LABEL}={shop.directory.name}")


def _remove_containers(label: str) -> None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no engine, none to remove
        listed = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", f"label={label}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        if listed:
            subprocess.run(["docker", "rm", "--force", "--volumes", *listed], check=True, capture_output=True)


def _environment() -> dict[str, str]:
    """Ours, without what would make pytest or Python behave otherwise; with the lab of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent), str(LAB)])}


def _measure(rows: Sequence[Row], shop: Shop, turns: int, tests: int) -> dict[str, Runs]:
    runs = {row.key: Runs() for row in rows}
    order = sorted((row.engine, turn, number) for turn in range(turns) for number, row in enumerate(rows))
    for _, turn, number in order:
        row = rows[number]
        mine = runs[row.key]
        mine.skipped = mine.skipped or runs[row.over].skipped
        if mine.skipped:
            continue
        if sys.stderr.isatty():
            print(f"\r\033[Kturn {turn + 1} of {turns}: {row.key}", end="", file=sys.stderr)
        try:
            _run(row, shop, max(1, round(tests * row.share)), mine)
        except SkippedRow as reason:
            if row.key.startswith((EMPTY, "floor")):
                raise BenchmarkError(f"{row.key}: {reason}") from reason
            mine.skipped = str(reason)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return runs


def _run(row: Row, shop: Shop, count: int, runs: Runs) -> None:
    """One run of one row. Raises SkippedRow."""
    dropped = 1 + (WARM_UP if count >= ENOUGH else 0)
    project = shop.project(row, dropped + count)
    found = project / "found.json"
    found.unlink(missing_ok=True)
    plugins = ["-p", "no:cacheprovider"] if "cacheprovider" not in row.options else []
    given = [option.replace("{IMAGE}", shop.image) for option in row.options]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--color=no", "--disable-plugin-autoload", *plugins, *given]
    status, output = _pytest([*command, "test_it.py"], project)
    if status != 0:
        raise SkippedRow(_reason(output))
    measured = json.loads(found.read_text())
    if measured["skipped"]:
        raise SkippedRow(measured["skipped"][0])
    runs.first.append(measured["took"][0])
    runs.took.append(measured["took"][dropped:-1])
    for what, times in measured["notes"].items():
        runs.notes.setdefault(what, []).append(times[dropped:])


def _pytest(command: list[str], project: Path) -> tuple[int, str]:
    process = subprocess.Popen(
        command,
        cwd=project,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent(),
        start_new_session=True,
    )
    with process:
        try:
            output, _ = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SkippedRow(f"not done after {RUN_SECONDS:.0f} s") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def _reason(output: str) -> str:
    """Why a pytest has failed, in a line."""
    for pattern, what in (
        (r"fixture '(\w+)' not found", "fixture not there"),
        (r"unrecognized arguments: (\S+)", "option not there"),
        (r"No module named '(.+?)'", "package not there"),
    ):
        if match := re.search(pattern, output):
            return f"{what}: {match[1]}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E  ")]
    raised = [line for line in errors if re.match(r"[\w.]+: ", line)]
    # What fails without a traceback, such as a leak: all that stands below the first headline.
    told = re.search(r"^_+ .+ _+$(.+?)^[_=]", output, re.MULTILINE | re.DOTALL)
    if told and not errors:
        return " ".join(told[1].split())[:200]
    return (raised or errors or lines or ["pytest has failed and said nothing"])[-1][:200]


def _imports() -> list[tuple[float, list[str]]]:
    """Milliseconds of CPU time, and the unwanted modules, of each import of the plugin in a fresh interpreter.

    Raises SkippedRow.
    """
    code = (
        "import json, sys, time, pytest; before = time.process_time(); import pytest_udslab.plugin;"
        "took = (time.process_time() - before) * 1000;"
        f"print(json.dumps([took, [name for name in {UNWANTED} if name in sys.modules]]))"
    )
    measured = []
    for _ in range(1 + IMPORTS):
        one = subprocess.run(
            [sys.executable, "-c", code],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if one.returncode != 0:
            raise SkippedRow(_reason(one.stderr))
        took, unwanted = json.loads(one.stdout)
        measured.append((took, unwanted))
    return measured[1:]  # The first may have compiled it.


def _over(row: Row, runs: Mapping[str, Runs]) -> list[float]:
    """Each counted test of a row, less the median of what it is measured over in the same turn."""
    bases = runs[row.over].medians() if row.over != row.key else [0.0] * len(runs[row.key].took)
    return [one - base for times, base in zip(runs[row.key].took, bases, strict=True) for one in times]


def _first(row: Row, runs: Mapping[str, Runs]) -> float:
    bases = runs[EMPTY].first if row.key != EMPTY else [0.0] * len(runs[EMPTY].first)
    return median(one - base for one, base in zip(runs[row.key].first, bases, strict=True))


def _costs(rows: Sequence[Row], runs: Mapping[str, Runs], options: argparse.Namespace) -> list[tuple[str, bool, str]]:
    """The table of what a test costs; the verdicts."""
    cells, verdicts = [], []
    for row in rows:
        if row.leaks or runs[row.key].skipped:
            continue
        times = _over(row, runs)
        p50 = median(times)
        limit, measured, unit = "", p50, "ms"
        if row.key == THREAD:
            limit, unit = f"{THREAD_LIMIT} bare threads", f"times the bare thread's, {p50:.2f} ms"
            measured = _ratio(row, BY_KEY[BARE], runs)
            met = measured <= THREAD_LIMIT
        elif row.key in (PROCESS, CONTAINER):
            bound = PROCESS_LIMIT if row.key == PROCESS else CONTAINER_LIMIT
            limit, met = f"{bound:.1f}", p50 <= bound
        if limit:
            verdicts.append(
                (f"{limit}{'' if row.key == THREAD else ' ms'}", met, f"{row.title}: {measured:.2f} {unit}")
            )
        p90 = quantiles(times, n=10, method="inclusive")[8] if len(times) > 1 else p50
        said = ("yes" if met else "no") if limit else ""
        cells.append([row.title, _ms(_first(row, runs)), _ms(p50), _ms(p90), limit, said])
    if len(cells) > 1:
        print("What a test costs over an empty one, in ms;")
        print(f"{options.turns} turns of at most {options.tests} tests that count of each row:\n")
        print(table(["way", "first", "p50", "p90", "limit", "met?"], cells) + "\n")
        print("The empty test's own figures are over nothing. First: of a session, the median of the turns.\n")
    return verdicts


def _ratio(row: Row, floor: Row, runs: Mapping[str, Runs]) -> float:
    """The median of the turns' ratios of costs."""
    mine, least, empty = (runs[key].medians() for key in (row.key, floor.key, EMPTY))
    return median((a - c) / (b - c) for a, b, c in zip(mine, least, empty, strict=True))


def _foreign(rows: Sequence[Row], runs: Mapping[str, Runs], options: argparse.Namespace) -> list[tuple[str, bool, str]]:
    """The table of a program's start and end beside the floor's; the verdicts."""
    if FOREIGN not in runs or runs[FOREIGN].skipped:
        return []
    cells, verdicts = [], []
    for what, title in (("start", "spawn to listening"), ("stop", "stop to exited")):
        floor, mine = ([median(turn) for turn in runs[key].notes[what]] for key in (FLOOR, FOREIGN))
        more = median(one - other for one, other in zip(mine, floor, strict=True))
        met = more <= FOREIGN_LIMIT
        cells.append(
            [title, _ms(median(floor)), _ms(median(mine)), _ms(more), f"{FOREIGN_LIMIT:.1f}", "yes" if met else "no"]
        )
        verdicts.append((f"floor + {FOREIGN_LIMIT:.1f} ms", met, f"a C server, {title}: {more:.2f} ms above the floor"))
    print("A static C server, started and stopped in a test, in ms:\n")
    print(table(["what", "posix_spawn, a pipe", "make_uds_process", "over", "limit", "met?"], cells) + "\n")
    return verdicts


def _leaks(rows: Sequence[Row], runs: Mapping[str, Runs], options: argparse.Namespace) -> list[tuple[str, bool, str]]:
    """The table of the leak checks; the verdicts."""
    shown: dict[str, dict[str, float]] = {}
    judged: dict[str, bool] = {}
    verdicts = []
    for row in (row for row in rows if row.leaks and row.over != row.key and not runs[row.key].skipped):
        sockets = row.key.rpartition("-")[2]
        micros = 1000 * median(
            mine - base for mine, base in zip(runs[row.key].medians(), runs[row.over].medians(), strict=True)
        )
        shown.setdefault(row.title, {})[sockets] = micros
        if row.key.startswith("leaks-default"):
            met = micros <= LEAKS_LIMIT
            judged[row.title] = judged.get(row.title, True) and met
            count = f"{SOCKETS:,}" if sockets == "many" else sockets
            verdicts.append((f"{LEAKS_LIMIT:.0f} µs", met, f"the leak check with {count} sockets: {micros:.0f} µs"))
    if not shown:
        return []
    cells = []
    for title, figures in shown.items():
        limit, said = (f"{LEAKS_LIMIT:.0f}", "yes" if judged[title] else "no") if title in judged else ("", "")
        cells.append([title, *(f"{figures[n]:,.0f}" if n in figures else "" for n in ("0", "many")), limit, said])
    print("What it costs an empty test that sockets are looked for, in µs, with so many sockets open:\n")
    print(table(["way", "0", f"{SOCKETS:,}", "limit", "met?"], cells) + "\n")
    print("The leak check: over the same test with --uds-leaks=off; else: over the test without the plugin.\n")
    return verdicts


def _import_costs(imports: Sequence[tuple[float, list[str]]]) -> list[tuple[str, bool, str]]:
    times = [took for took, _ in imports]
    unwanted = sorted({name for _, names in imports for name in names})
    p50 = median(times)
    row = ["import pytest_udslab.plugin", _ms(p50), _ms(max(times)), f"{IMPORT_LIMIT:.1f}"]
    print(f"CPU time in a fresh interpreter that has imported pytest, in ms; {len(times)} of them:\n")
    print(table(["what", "p50", "worst", "limit"], [row]) + "\n")
    return [
        (f"{IMPORT_LIMIT:.1f} ms", p50 <= IMPORT_LIMIT, f"importing the plugin takes {p50:.1f} ms of CPU time"),
        (f"no {', '.join(UNWANTED)}", not unwanted, f"imported: {', '.join(unwanted) or 'none of them'}"),
    ]


def _ms(milliseconds: float) -> str:
    """Three figures, about."""
    digits = 0 if abs(milliseconds) >= 100 else 1 if abs(milliseconds) >= 10 else 2
    return f"{milliseconds:,.{digits}f}"


COLOURS = {"uds": ("#0969da", "udslab"), "floor": ("#8c959f", "by hand: the floor"), "peer": ("#d4a72c", "others")}


def _plot(file: str, rows: Sequence[Row], runs: Mapping[str, Runs], where: str) -> None:
    """Draw the medians: horizontal bars, logarithmic, labelled."""
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
        from matplotlib.patches import Patch  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise BenchmarkError(f"--plot: {error}") from error
    shown = [
        (median(_over(row, runs)), row) for row in rows if not (row.leaks or row.key == EMPTY or runs[row.key].skipped)
    ]
    bars = sorted(((cost, row) for cost, row in shown if cost > 0), key=lambda bar: -bar[0])
    if not bars:
        raise BenchmarkError("--plot: there is nothing to draw")
    kinds = [row.key.partition("-")[0] for _, row in bars]
    matplotlib.rcParams.update({"font.size": 11, "svg.hashsalt": "udslab", "font.family": "DejaVu Sans"})
    figure = Figure(figsize=(8.2, 1.3 + 0.34 * len(bars)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xscale("log")
    least = min(cost for cost, _ in bars) / 2
    axes.set_xlim(least, max(cost for cost, _ in bars) * 6)
    drawn = axes.barh(
        [row.title for _, row in bars],
        [cost - least for cost, _ in bars],
        left=least,
        color=[COLOURS[kind][0] for kind in kinds],
    )
    axes.bar_label(drawn, [f"{_ms(cost)} ms" for cost, _ in bars], padding=4)
    axes.set_xlabel("ms a test costs over an empty one, median (logarithmic)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("A server, one round trip, and its end: what it costs a test", fontsize=12, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        handles=[Patch(color=colour, label=name) for kind, (colour, name) in COLOURS.items() if kind in kinds],
        frameon=False,
        loc="upper right",
    )
    try:
        figure.savefig(file, metadata={"Date": None, "Description": where} if file.endswith(".svg") else None)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"--plot {file}: {error}") from error


if __name__ == "__main__":
    sys.exit(run(benchmark))
