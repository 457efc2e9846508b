"""Hundreds of tests with all fixtures in all backends, several at a time and in any order, are in nobody's way."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from pytest_udslab.fixtures import SETTINGS
from pytest_udslab.options import lacking
from udslab.backends import Backend
from udslab.errors import EngineError

IMAGE = "udslab-base:debian-12"
COUNTS = {"thread": 170, "process": 170, "container": 60}
ROUNDS = 3

CONFTEST = """
import json, os
import pytest
from udslab.containers.labels import Owner

@pytest.fixture(autouse=True, scope="session")
def told():
    owner = Owner.this_process()
    with open(os.path.join(os.environ["UDSLAB_TEST_TOLD"], owner.pid), "w") as file:
        json.dump([owner.pid, owner.started], file)

@pytest.fixture
def used():
    \"\"\"Claims a path for the time of a test: another test that has it, in whatever worker, is a collision.\"\"\"
    claims = []
    def claim(path):
        name = os.path.join(os.environ["UDSLAB_TEST_CLAIMS"], path.replace("/", "_"))
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        claims.append(name)
        return path
    yield claim
    for name in claims:
        os.unlink(name)
"""

TESTS = """
import json, os
import pytest

COUNTS = json.loads(os.environ["UDSLAB_TEST_COUNTS"])
SERVER = os.environ["UDSLAB_TEST_SERVER"]
CASES = [pytest.param(word, number, id=f"{word}-{number}") for word in COUNTS for number in range(COUNTS[word])]

@pytest.fixture
def uds_backend(request):
    return request.getfixturevalue("backend")

@pytest.mark.parametrize(("backend", "number"), CASES)
def test_it(backend, number, used, uds_server, uds_client, make_uds_server, make_uds_client, make_uds_path,
            make_uds_process, make_uds_obstacle):
    assert uds_server.backend == backend
    used(uds_server.path)
    path = used(make_uds_path())
    assert not os.path.lexists(path)
    text = f"{backend} {number} {os.getpid()}".encode()
    uds_client.sendall(text)
    assert uds_client.read_exactly(len(text)) == text.upper()
    assert uds_server.received == text  # and nobody else's
    match number % 10:
        case 1:
            server = make_uds_server("echo", path, type="datagram")
            client = make_uds_client(server)
            client.sendall(text)
            assert client.recv(1000) == text
        case 2 | 3:
            process = make_uds_process([SERVER, "{socket}"], expect_left=True)
            client = make_uds_client(used(process.path), bind=process.path + ".me")
            client.sendall(text)
            assert client.read_exactly(len(text)) == text.upper()
            assert client.credentials.pid == process.pid
            if number % 10 == 3:
                client.close()
                assert process.wait(30) == 0
        case 4:
            placed = make_uds_obstacle(["stale", "regular-file", "fifo", "link-to-bound"][number // 10 % 4], path)
            assert used(placed.path + "?")
        case 5:
            make_uds_server("echo", path).restart()
            client = make_uds_client(path)
            client.sendall(text)
            assert client.read_exactly(len(text)) == text
        case 6 if backend != "thread":
            uds_server.kill()
            assert uds_server.status().state == "stale"
            assert uds_server.received == text
            uds_server.restart()
            assert make_uds_client(uds_server).fileno() >= 0
        case 7 if backend != "container":
            server = make_uds_server("echo", abstract=True)
            client = make_uds_client(server)
            client.sendall(text)
            assert client.read_exactly(len(text)) == text
            assert server.received == text
"""


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Any:
    """The engine, if it answers and has the image."""
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


def marked(mark: str) -> dict[int, str]:
    """The processes that were started with this in their environment: their pids, and their command lines."""
    found = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and mark.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_text().replace("\0", " ")
    return found


def shared_memory() -> set[str]:
    """Its files, and System V's segments by the pid that made them."""
    with open("/proc/sysvipc/shm") as file:
        segments = {f"made by {line.split()[4]}" for line in list(file)[1:]}
    return segments | set(os.listdir("/dev/shm"))


def run(tmp_path: Path, directory: Path, environment: dict[str, str], peers: Path, counts: dict[str, int]) -> None:
    """Three rounds of a project with so many tests in each backend; afterwards nothing of them is left here."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "told").mkdir()
    (tmp_path / "claims").mkdir()
    mark = f"UDSLAB_TEST_RUN={uuid.uuid4().hex}"
    inner = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    inner |= dict([mark.split("=")], PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", TMPDIR=str(directory))
    inner |= {"UDSLAB_TEST_TOLD": str(tmp_path / "told"), "UDSLAB_TEST_CLAIMS": str(tmp_path / "claims")}
    inner |= {"UDSLAB_TEST_COUNTS": json.dumps(counts), "UDSLAB_TEST_SERVER": str(peers / "server")}
    plugins = [word for name in ("pytest_udslab.plugin", "xdist", "pytest_randomly") for word in ("-p", name)]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "--uds-leaks", "all", *plugins]
    if "container" in counts:
        command += ["--uds-require", "container"]
    before = shared_memory()
    for _ in range(ROUNDS):
        seed = str(uuid.uuid4().int % 2**32)
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", f"--randomly-seed={seed}"],
            cwd=tmp_path,
            env=inner,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{sum(counts.values())} passed" in done.stdout.splitlines()[-1]
        assert marked(mark) == {}
        assert [name for name in os.listdir(directory) if name.startswith("udslab-")] == []
        assert os.listdir(tmp_path / "claims") == []
    pids = {f"made by {name}" for name in os.listdir(tmp_path / "told")}
    assert len(pids) == 4 * ROUNDS
    new = shared_memory() - before
    assert new & pids == set()
    assert [name for name in new if "udslab" in name] == []


def owners(tmp_path: Path) -> set[tuple[str, str]]:
    """The workers of the runs: pid, and when it was started."""
    return {tuple(json.loads(file.read_text())) for file in (tmp_path / "told").iterdir()}


@pytest.mark.soak
def test_tests_in_threads_and_processes_leave_nothing(tmp_path, directory, environment, peers):
    run(tmp_path, directory, environment, peers, {"thread": 20, "process": 20})


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_hundreds_of_tests_in_all_backends_leave_nothing(engine, tmp_path, directory, environment, peers):
    from udslab.containers import find

    run(tmp_path, directory, environment, peers, COUNTS)
    mine = owners(tmp_path)
    assert len(mine) == 4 * ROUNDS
    assert [one for one in find(engine) if (one.owner.pid, one.owner.started) in mine] == []
