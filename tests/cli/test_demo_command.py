"""`udslab demo`: every act is as told, nothing stays behind, and what is not as told is said so."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from udslab.spawn import Process

TITLES = [
    "bind makes the socket file",
    "A client speaks, and is identified in two ways",
    "Both directions at once, and then one of them closed",
    "Datagrams arrive, all of them and in order",
    "An abstract name has no file",
    "A second server on the same path is refused",
    "SIGKILL leaves the file behind: stale",
    "The restart replaces the stale file",
    "A regular file at the path is refused, and kept",
    "A clean exit removes the file",
]


def test_every_act_is_as_told(cli, directory):
    done = cli("demo", set={"TMPDIR": str(directory)})
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert [line for line in lines if line.startswith("Act ")] == [
        f"Act {number}. {title}" for number, title in enumerate(TITLES, 1)
    ]
    assert lines[-1] == "All was as told."
    assert not any(line.startswith("FAILED") for line in lines)
    assert os.listdir(directory) == []


def test_without_an_engine_the_script_plays_it_by_processes_and_says_why(directory):
    script = Path(__file__).parents[2] / "script" / "demo"
    environment = {**os.environ, "DOCKER_HOST": f"unix://{directory}/docker.sock", "TMPDIR": str(directory)}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.startswith("By processes: no container engine answers (")
    assert done.stderr.endswith("); see script/engine.\n")
    assert done.stdout.splitlines()[-1] == "All was as told."
    assert os.listdir(directory) == []


def test_it_fits_80_columns(cli):
    done = cli("demo")
    assert done.returncode == 0
    assert max(map(len, done.stdout.decode().splitlines())) <= 80


def test_as_json_it_is_one_object(cli, directory):
    done = cli("demo", "--json", set={"TMPDIR": str(directory)})
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert told["passed"] is True
    assert [act["title"] for act in told["acts"]] == TITLES
    for act in told["acts"]:
        assert act["passed"] is True
        assert {"ok"} <= {line["who"] for line in act["lines"]} <= {"ok", "disk", "server", "server 2", "client"}
        assert all(set(line) == {"who", "what", "result"} for line in act["lines"])
    assert os.listdir(directory) == []


def told_in(act: dict, who: str) -> dict[str, str]:
    return {line["what"]: line["result"] for line in act["lines"] if line["who"] == who}


def test_what_the_calls_returned_and_what_is_on_the_disk_is_told(cli):
    acts = json.loads(cli("demo", "--json", setup="umask 027").stdout)["acts"]
    disk = [told_in(act, "disk") for act in acts]
    assert disk[0] == {
        "srwxr-x---   0 demo.sock": "listening stream",
        "prw-r-----   0 demo.fifo": "not-a-socket (FIFO)",
    }
    assert told_in(acts[0], "client")["write(4096 bytes), unread"] == "4096"
    assert "its mode is 0777 & ~umask = 0750" in told_in(acts[0], "ok")
    assert [line for line in disk[1] if line.startswith("srwx------   0 .udslab-")]
    assert told_in(acts[1], "server")["getsockopt(SO_PEERCRED)"].endswith(f" uid {os.geteuid()}")
    assert told_in(acts[1], "server")["stat(the client's file); unlink(it)"] == f"uid {os.geteuid()}"
    assert told_in(acts[2], "client")["write(1 MiB) and read()"] == "1048576 bytes"
    assert told_in(acts[3], "client")["4 senders: 500 x send()"] == "2000 datagrams"
    assert "nothing new is on the disk" in told_in(acts[4], "ok")
    assert told_in(acts[5], "server 2")["bind(demo.sock)"] == "-1 EADDRINUSE"
    assert disk[6] == {"srwxr-x---   0 demo.sock": "stale"}
    assert told_in(acts[6], "client")["connect(demo.sock)"] == "-1 ECONNREFUSED"
    assert disk[7] == {"srwxr-x---   0 demo.sock": "listening stream"}
    assert disk[8] == {"-rw-r-----  16 demo.sock.txt": "not-a-socket (regular file)"}
    assert disk[9] == {"no demo.sock": ""}


def test_at_its_limit_it_gives_up_whatever_is_played(cli, directory):
    done = cli("demo", "--limit", "0.1", set={"TMPDIR": str(directory)})
    assert done.returncode == 1
    said = "udslab: service: not over in 0.1 s (ETIMEDOUT): see what the last act waits for\n"
    assert done.stderr.decode() == said
    assert b"FAILED" not in done.stdout
    assert os.listdir(directory) == []


def test_two_at_the_same_time_do_not_meet(cli, variables, directory):
    with Process([sys.executable, "-m", "udslab", "demo"], env={**variables, "TMPDIR": str(directory)}) as other:
        assert cli("demo", set={"TMPDIR": str(directory)}).returncode == 0
        assert other.wait(30) == 0
    assert os.listdir(directory) == []


def failing(done) -> list[int]:
    return [number for number, act in enumerate(json.loads(done.stdout)["acts"], 1) if not act["passed"]]


def test_where_paths_are_too_long_the_acts_fail_with_status_1(cli, directory):
    home = directory / ("d" * 100)
    home.mkdir()
    done = cli("demo", set={"TMPDIR": str(home)})
    assert (done.returncode, done.stderr) == (1, b"")
    text = done.stdout.decode()
    assert "\nFAILED    the act could be played  seen: service: " in text
    assert "(ENAMETOOLONG)" in text
    assert text.endswith("Not all was as told: see FAILED.\n")
    assert os.listdir(home) == []
    done = cli("demo", "--json", set={"TMPDIR": str(home)})
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False
    assert failing(done) == list(range(1, 11))


LIES = {
    "a live server is replaced": (
        "import udslab.listener as listener\n"
        "real = listener.listen\n"
        "listener.listen = lambda address, **options: real(address, **{**options, 'on_existing': 'unlink'})\n",
        [6, 7, 9],
    ),
    "the service does not answer in upper case": (
        "import udslab.services as services\nservices.SERVICES['upper'] = services.SERVICES['echo']\n",
        [2, 3, 6, 8],
    ),
    "a clean exit leaves the file": (
        "import udslab.socketfile as socketfile\nsocketfile.SocketFile.remove = lambda *_: False\n",
        [10],
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_act_that_is_not_as_told_fails_with_status_1(cli, variables, directory, lie):
    source, acts = LIES[lie]
    (directory / "sitecustomize.py").write_text(source)
    search = os.pathsep.join([str(directory), variables["PYTHONPATH"]])
    done = cli("demo", "--json", set={"PYTHONPATH": search})
    assert (done.returncode, done.stderr) == (1, b"")
    told = json.loads(done.stdout)
    assert told["passed"] is False
    assert failing(done)[0] == acts[0]
    assert set(failing(done)) >= set(acts)
    assert any(line["who"] == "FAILED" for line in told["acts"][acts[0] - 1]["lines"])


# Killed


def children(pid: int) -> set[int]:
    """All below it."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, file.read_text().split()):
                found |= {child} | children(child)
    return found


def has_ended(pid: int) -> bool:
    """Also as a zombie, which its parent has not fetched."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def demo(variables, directory) -> Iterator[Process]:
    command = [sys.executable, "-m", "udslab", "demo"]
    environment = {**variables, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
    with Process(command, env=environment) as process:
        yield process


def wait_for(condition, seconds: float = 30.0):
    """What it was in the end."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit
        select.select([], [], [], 0.002)
    return found


@pytest.mark.parametrize("act", [1, 2, 7])
def test_killed_it_leaves_no_process_and_the_next_one_sweeps(cli, demo, directory, act):
    def stopped():
        """What is below it when it is stopped, so that no child is born between looking and killing."""
        demo.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, demo.pid, os.WSTOPPED)
        below = children(demo.pid)
        if not below:  # they have ended meanwhile
            demo.send_signal(signal.SIGCONT)
        return below

    wait_for(lambda: f"Act {act}. " in demo.output())
    below = wait_for(lambda: children(demo.pid) and stopped())
    assert os.listdir(directory) != []
    assert demo.kill() == -signal.SIGKILL
    wait_for(lambda: all(map(has_ended, below)))
    assert cli("demo", set={"TMPDIR": str(directory)}).returncode == 0
    assert os.listdir(directory) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_interrupted_it_leaves_no_process(demo, directory, number, status):
    below = wait_for(lambda: children(demo.pid))
    demo.send_signal(number)
    assert demo.wait(30) == status
    wait_for(lambda: all(map(has_ended, below)))
    assert "Traceback" not in demo.output()
    if number == signal.SIGINT:
        assert os.listdir(directory) == []
