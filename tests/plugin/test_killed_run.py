"""A test run that is killed or interrupted leaves nothing, whatever its tests were about to do.

A run of its own is in the bodies of tests that have servers in every backend; each test says so by a FIFO. All that is
below the run then, and what has its environment, is watched by pidfd.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_udslab.fixtures import SETTINGS
from pytest_udslab.options import lacking
from udslab.backends import Backend
from udslab.errors import EngineError
from udslab.spawn import Process

WORKERS_LIMIT = 20.0
"""Seconds after a worker's death in which all of it has gone: two, and what a busy machine and its engine take."""
CONTROLLERS_LIMIT = 35.0
"""Seconds after the controller's death: execnet gives its workers ten more."""
START = 60.0
IMAGE = "udslab-base:debian-12"

SERVER = """
import os, signal, socket, sys
if "daemon" in sys.argv:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
signal.sigwait([signal.SIGTERM])
os.unlink(sys.argv[1])
"""

CONFTEST = """
import os
import pytest

CONTAINER = "container" in os.environ["UDSLAB_TEST_HOW"]

@pytest.fixture(autouse=True, scope="session")
def prepared(uds):
    uds.prepare("process")
    if CONTAINER:
        uds.prepare("container")
"""

TESTS = """
import json, os, sys, time
import pytest
from conftest import CONTAINER
from udslab.containers.labels import Owner

@pytest.fixture
def told(make_uds_server, make_uds_process, make_uds_path, make_uds_client, make_uds_obstacle):
    servers = [make_uds_server("echo", backend=backend) for backend in ("thread", "process")]
    if CONTAINER:
        servers.append(make_uds_server("echo", backend="container"))
    own = [make_uds_process([sys.executable, "-I", "-S", "server.py", "{socket}", word]) for word in ("x", "daemon")]
    make_uds_obstacle("stale")
    for server in servers:
        client = make_uds_client(server)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    while len(own[1].tree()) > 1:  # who has forked the daemon away may be slower to end than the daemon to listen
        time.sleep(0.001)
    owner = Owner.this_process()
    told = {"worker": os.getpid(), "started": owner.started, "below": [servers[1].pid, *own[0].tree(), *own[1].tree()]}
    told["paths"] = [make_uds_path(), *(one.path for one in servers), *(one.path for one in own)]
    return told

@pytest.mark.parametrize("number", range(int(os.environ["UDSLAB_TEST_COUNT"])))
def test_it(number, told):
    with open(os.environ["UDSLAB_TEST_SAYS"], "w") as fifo:
        fifo.write(json.dumps(told) + "\\n")
    with open(os.environ["UDSLAB_TEST_GOES_ON"]) as fifo:  # for ever, unless it is told to go on
        fifo.read()
"""


def descendants(pid: int) -> set[int]:
    """All processes below ``pid``, as they are now."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in map(int, children.read().split()):
                    found |= {child, *descendants(child)}
    return found


def marked(mark: str) -> dict[int, str]:
    """The processes that were started with this in their environment: their pids, and their command lines."""
    found = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and mark.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_text().replace("\0", " ")
    return found


class Watched:
    """Processes, by their pidfds."""

    def __init__(self, pids: set[int]) -> None:
        self._fds: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._fds[pid] = os.pidfd_open(pid)

    def living(self, deadline: float) -> dict[int, str]:
        """Those that have not ended, at the latest at ``deadline``."""
        living = {}
        for pid, fd in self._fds.items():
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                living[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        return living

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


@dataclass
class Run:
    """A test run whose tests are in their bodies."""

    process: Process
    tests: list[dict[str, Any]]
    """What each test has told."""
    watched: Watched
    mark: str
    directory: Path
    """Its directory for temporary files."""
    environment: dict[str, str]
    project: Path
    goes_on: Path

    def below(self, worker: int) -> Watched:
        return Watched({worker, *descendants(worker)})

    def assert_nothing_lives(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        assert self.watched.living(deadline) == {}
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.01)  # of what was started after we looked nothing tells
        assert left == {}

    def assert_nothing_on(self, engine: Any) -> None:
        from udslab.containers import find

        owners = {(str(test["worker"]), test["started"]) for test in self.tests}
        assert [one for one in find(engine) if (one.owner.pid, one.owner.started) in owners] == []

    def files(self) -> list[str]:
        """The scratch directories that are left."""
        return [name for name in os.listdir(self.directory) if name.startswith("udslab-")]

    def assert_swept_by_the_next_run(self) -> None:
        """What a killed worker cannot remove: its scratch directory, with what was bound in it."""
        (self.project / "test_next.py").write_text("def test_next(uds_server, uds_client): pass\n")
        command = [*pytest_command("timeout"), "test_next.py"]
        done = subprocess.run(command, cwd=self.project, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        self.assert_no_file_is_left()

    def assert_no_file_is_left(self) -> None:
        assert self.files() == []
        for test in self.tests:
            assert [path for path in test["paths"] if os.path.lexists(path)] == []


def pytest_command(*plugins: str) -> list[str]:
    names = {"timeout": "pytest_timeout", "xdist": "xdist.plugin"}
    words = [word for name in plugins for word in ("-p", names[name])]
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_udslab.plugin", *words]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The engine, if it answers and has the image; none for a run without containers."""
    if not request.getfixturevalue("container"):
        yield None
        return
    try:
        from udslab.containers import Engine

        engine = Engine()
    except (EngineError, ImportError) as error:
        lacking(request.config.stash[SETTINGS], Backend.CONTAINER, str(error))
    with engine:
        try:
            engine.image_machine(IMAGE)
        except EngineError as error:
            hint = "make it: script/base-images"
            lacking(request.config.stash[SETTINGS], Backend.CONTAINER, f"{error}; {hint}")
        yield engine


@pytest.fixture(params=[False, True], ids=["", "container"])
def container(request: pytest.FixtureRequest) -> bool:
    """Whether the tests have a server in a container, too."""
    return bool(request.param)


@pytest.fixture
def run(
    engine: Any, container: bool, environment: dict[str, str], directory: Path, tmp_path: Path
) -> Iterator[Callable[..., Run]]:
    """Starts a run, and waits until all its tests are in their bodies."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "server.py").write_text(SERVER)
    says, goes_on = directory / "says", directory / "goes-on"
    for fifo in (says, goes_on):
        os.mkfifo(fifo)
    mark = f"UDSLAB_TEST_RUN={uuid.uuid4().hex}"
    inner = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    inner |= dict([mark.split("=")], PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", TMPDIR=str(directory))
    inner |= {"UDSLAB_TEST_SAYS": str(says), "UDSLAB_TEST_GOES_ON": str(goes_on)}
    inner["UDSLAB_TEST_HOW"] = "container" if container else ""

    with contextlib.ExitStack() as exits:
        # Both ends are ours, too: neither opening nor reading it waits, and there is no end of file.
        heard = os.open(says, os.O_RDWR | os.O_NONBLOCK)
        exits.callback(os.close, heard)

        def start(workers: int = 0, *options: str) -> Run:
            count = max(1, workers)
            command = [*pytest_command("timeout", "xdist"), "test_them.py", *options]
            command += ["-n", str(workers), "--max-worker-restart", "0"] if workers else []
            process = exits.enter_context(
                Process(command, env={**inner, "UDSLAB_TEST_COUNT": str(count)}, cwd=tmp_path)
            )
            said, deadline = b"", time.monotonic() + START
            while said.count(b"\n") < count:
                assert process.returncode is None, process.output()
                assert time.monotonic() < deadline, process.output()
                if select.select([heard], [], [], 0.1)[0]:
                    said += os.read(heard, 1 << 16)
            tests = [json.loads(line) for line in said.splitlines()]
            everything = {process.pid, *descendants(process.pid)}
            for test in tests:
                assert {test["worker"], *test["below"]} <= everything
                assert len(test["below"]) == 3  # the server, the command, the daemon
            assert len({test["worker"] for test in tests}) == count
            watched = Watched(everything)
            exits.callback(watched.close)
            return Run(process, tests, watched, mark, directory, inner, tmp_path, goes_on)

        yield start


def signal_group(process: Process, number: int) -> None:
    os.killpg(process.pid, number)


def test_a_killed_run_leaves_nothing_but_files_and_these_the_next_one_sweeps(run, engine):
    running = run()
    running.process.send_signal(signal.SIGKILL)
    running.assert_nothing_lives(WORKERS_LIMIT)
    if engine:
        running.assert_nothing_on(engine)
    assert len(running.files()) == 1  # the lab's; that of its containers the reaper has removed
    running.assert_swept_by_the_next_run()


def test_a_killed_worker_leaves_nothing_and_the_other_one_goes_on(run, engine):
    running = run(2)
    killed, other = (test["worker"] for test in running.tests)
    below, beside = running.below(killed), running.below(other)
    with contextlib.closing(below), contextlib.closing(beside):
        before = beside.living(0)
        os.kill(killed, signal.SIGKILL)
        assert below.living(time.monotonic() + WORKERS_LIMIT) == {}
        assert beside.living(0) == before
    tests = running.tests
    if engine:
        running.tests = tests[:1]
        running.assert_nothing_on(engine)
        running.tests = tests
    with open(running.goes_on, "w"):  # the other one reads its end
        pass
    assert running.process.wait(START) == 1
    assert "1 failed, 1 passed" in running.process.output()
    assert "crashed" in running.process.output()
    running.assert_nothing_lives(WORKERS_LIMIT)
    if engine:
        running.assert_nothing_on(engine)
    running.assert_swept_by_the_next_run()


@pytest.mark.soak
def test_a_killed_controller_leaves_nothing_but_files_and_these_the_next_run_sweeps(run, engine):
    running = run(2)
    running.process.send_signal(signal.SIGKILL)
    running.assert_nothing_lives(CONTROLLERS_LIMIT)
    if engine:
        running.assert_nothing_on(engine)
    running.assert_swept_by_the_next_run()


@pytest.mark.parametrize("tell", [signal_group, Process.send_signal], ids=["the group", "pytest alone"])
def test_an_interrupted_run_leaves_nothing(run, engine, tell):
    running = run()
    tell(running.process, signal.SIGINT)
    assert running.process.wait(START) == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in running.process.output()
    running.assert_nothing_lives(0)
    if engine:
        running.assert_nothing_on(engine)
    running.assert_no_file_is_left()


@pytest.mark.soak
@pytest.mark.parametrize("tell", [signal_group, Process.send_signal], ids=["the group", "pytest alone"])
def test_an_interrupted_run_with_workers_leaves_nothing(run, engine, tell):
    running = run(2)
    tell(running.process, signal.SIGINT)
    assert running.process.wait(START) == pytest.ExitCode.INTERRUPTED
    running.assert_nothing_lives(WORKERS_LIMIT)
    if engine:
        running.assert_nothing_on(engine)
    running.assert_swept_by_the_next_run()  # execnet kills workers that take their time


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_run_whose_test_takes_too_long_leaves_nothing(run, engine, method):
    running = run(0, "--timeout", "5", "--timeout-method", method, "-o", "timeout_func_only=true")
    assert running.process.wait(START) == 1
    assert "Timeout" in running.process.output()
    running.assert_nothing_lives(WORKERS_LIMIT if method == "thread" else 0)
    if engine:
        running.assert_nothing_on(engine)
    if method == "thread":  # which ends the process as if it was killed
        running.assert_swept_by_the_next_run()
    running.assert_no_file_is_left()
