"""The demo in two containers: it plays, ends by itself whatever dies, and leaves nothing."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images import IMAGE
from pytest_udslab.fixtures import SETTINGS
from pytest_udslab.options import lacking
from udslab.containers import Engine
from udslab.deadline import Deadline
from udslab.needs import Backend
from udslab.spawn import Process

ROOT = Path(__file__).parents[2]
ACTS = 10


class Project:
    """A compose project of its own, and what a person types."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment = {**os.environ, "COMPOSE_PROJECT_NAME": name, "UDSLAB_BASE": IMAGE}

    def __call__(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        limit = {"UDSLAB_LIMIT": str(options.pop("limit", 50))}
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env={**self.environment, **limit},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            **{"stdin": subprocess.DEVNULL, **options},
        )
        done.stdout = done.stdout.replace("\x1b[2K", "")  # compose 2.26 writes it into files, too
        return done

    def start(self, *arguments: str, limit: int) -> Process:
        command = ["docker", "compose", *arguments]
        return Process(command, env={**self.environment, "UDSLAB_LIMIT": str(limit)}, cwd=str(ROOT))

    def containers(self) -> dict[str, str]:
        """The state of each, by service."""
        lines = self("ps", "--all", "--format", "json").stdout.splitlines()
        return {one["Service"]: one["State"] for one in map(json.loads, lines)}

    def log(self, service: str) -> str:
        return self("logs", "--no-log-prefix", service).stdout


@pytest.fixture(scope="session")
def image(engine: Engine, request: pytest.FixtureRequest) -> str:
    """The demo's image, built once by each worker (the second one finds it in the cache)."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        reason = "the docker command has no compose (version 2)"
        lacking(request.config.stash[SETTINGS], Backend.CONTAINER, reason)
    built = Project("udslab-build")("build")
    assert built.returncode == 0, built.stderr
    return "udslab-demo"


@pytest.fixture
def project(image: str) -> Iterator[Project]:
    project = Project(f"udslab-test-{uuid.uuid4().hex[:8]}")
    yield project
    down = project("--profile", "serve", "down", "--volumes", "--timeout", "1")
    assert down.returncode == 0, down.stderr


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = Deadline(seconds)
    while not condition():
        assert not deadline.passed
        select.select([], [], [], 0.1)


# The acts


def test_the_script_plays_all_acts_in_containers_and_leaves_nothing(image, engine, environment):
    done = subprocess.run(
        [ROOT / "script" / "demo"], env={**os.environ, "UDSLAB_BASE": IMAGE}, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client = [line.partition("| ")[2] for line in done.stdout.splitlines() if line.startswith("client-1  |")]
    assert [line for line in client if line.startswith("Act ")][-1].startswith(f"Act {ACTS}. ")
    assert client[-1] == "All was as told."
    assert not any(line.startswith("FAILED") for line in client)
    project = "udslab-demo-" + subprocess.check_output("pwd | cksum | cut -d' ' -f1", shell=True, cwd=ROOT, text=True)
    label = {"label": f"com.docker.compose.project={project.strip()}"}
    assert engine.client.api.containers(all=True, filters=label) == []
    assert engine.client.api.volumes(filters=label)["Volumes"] in ([], None)


def test_each_line_fits_80_columns_and_says_who_speaks(project):
    done = project("--ansi", "never", "up", "--exit-code-from", "client")
    assert done.returncode == 0, done.stdout
    # The server's log is its standard error.
    spoken = [line for line in (done.stdout + done.stderr).splitlines() if "  | " in line]
    assert [line for line in spoken if len(line) > 80] == []
    assert {line.split()[0] for line in spoken} == {"client-1", "server-1"}


def test_up_ends_by_itself_and_says_what_is_different_across_containers(project):
    done = project("up")
    assert done.returncode == 0
    assert project.containers() == {"client": "exited", "server": "exited"}
    told = project.log("client")
    assert told.endswith("All was as told.\n")
    assert "= pid 0 uid 10001\n" in told
    assert "ok        who listens has no pid here: another pid namespace\n" in told
    assert "= -1 ECONNREFUSED\nok        it does not lead here: another network namespace\n" in told
    assert project("up").returncode == 0  # once more, with what the first has left in the volume
    assert project.log("client").endswith("All was as told.\n")


def test_an_act_that_is_not_as_told_is_the_clients_exit_status(project):
    # Nobody plays the server's part.
    done = project("up", "--no-deps", "--exit-code-from", "client", "client")
    assert done.returncode == 1
    said = [line for line in project.log("client").splitlines() if line]
    assert said == ["udslab: service: /run/udslab/agent.sock: still absent after 10 s (ETIMEDOUT)"]


# What dies


def test_nothing_runs_on_when_compose_is_killed(project):
    with project.start("up", limit=20) as compose:
        wait_for(lambda: "Act 1." in compose.output(), 30)
        assert compose.kill() == -9
    wait_for(lambda: set(project.containers().values()) == {"exited"}, 50)


def test_nothing_runs_on_when_the_client_hangs_and_compose_is_killed(project, engine):
    with project.start("up", "server", limit=4) as compose:
        wait_for(lambda: "waits for its driver" in compose.output(), 30)
        assert compose.kill() == -9
    wait_for(lambda: project.containers() == {"server": "exited"}, 30)


@pytest.mark.parametrize("service", ["server", "client"])
def test_when_one_is_killed_the_other_ends(project, engine, service):
    with project.start("up", limit=20) as compose:
        wait_for(lambda: "Act 1." in compose.output(), 30)
        project("kill", service)
        assert compose.wait(50) in (0, 1, 137)
    assert set(project.containers().values()) == {"exited"}


def test_the_server_ends_well_within_a_second_of_sigterm(project):
    with project.start("up", "server", limit=50) as compose:
        wait_for(lambda: "waits for its driver" in compose.output(), 30)
        deadline = Deadline(25)  # a minute, if nothing handled the signal; compose itself takes one second or more
        assert project("stop", "--timeout", "60", "server").returncode == 0
        assert not deadline.passed
        compose.wait(30)


# A kept server


def test_a_kept_server_answers_the_client(project):
    assert project("up", "--wait", "serve").returncode == 0
    assert project.containers() == {"serve": "running"}
    done = project("run", "--rm", "-T", "client", stdin=None, input="hello\nworld\n")
    assert (done.returncode, done.stdout) == (0, "HELLO\nWORLD\n")
    assert project.containers() == {"serve": "running"}
    stopped = project("--profile", "serve", "stop")
    assert stopped.returncode == 0
    assert "signal" not in project.log("serve")


def test_the_client_is_interactive_at_a_terminal(project):
    assert project("up", "--wait", "serve").returncode == 0
    ours, theirs = pty.openpty()
    command = ["docker", "compose", "run", "--rm", "client"]
    with Process(command, env=project.environment, cwd=str(ROOT), stdin=theirs, stdout=theirs) as client:
        os.close(theirs)
        os.write(ours, b"hello\n")
        said = b""
        deadline = Deadline(20)
        while b"HELLO" not in said:
            ready, _, _ = select.select([ours], [], [], deadline.left())
            assert ready
            said += os.read(ours, 1024)
        os.write(ours, b"\x04")  # end of input, as a person types it
        assert client.wait(20) == 0
    os.close(ours)


# What the containers may do

SEEN_FROM_INSIDE = """
import json, os
words = dict(line.split(":", 1) for line in open("/proc/self/status"))
def writable(path):
    try:
        os.close(os.open(path + "/probe", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        return error.strerror
    os.unlink(path + "/probe")
    return True
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "capabilities": [words[key].strip() for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": words["NoNewPrivs"].strip(),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line],
    "writable": {path: writable(path) for path in ("/", "/usr", "/opt/udslab", "/var/tmp", "/run/udslab", "/tmp")},
    "directory": [os.stat("/run/udslab").st_uid, os.stat("/run/udslab").st_gid, oct(os.stat("/run/udslab").st_mode)],
}))
"""


@pytest.mark.parametrize(("service", "uid"), [("server", 10001), ("client", 10002)])
def test_a_container_may_write_to_its_volume_and_do_nothing_else(project, service, uid):
    done = project("run", "--rm", "--no-deps", "-T", service, "python3", "-c", SEEN_FROM_INSIDE)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["uid"], seen["gid"]) == (uid, 10000)
    assert set(seen["groups"]) <= {10000}
    assert seen["capabilities"] == ["0000000000000000"] * 5
    assert seen["no_new_privs"] == "1"
    assert seen["interfaces"] == ["lo"]
    refused = "Read-only file system"
    assert seen["writable"] == {
        "/": refused,
        "/usr": refused,
        "/opt/udslab": refused,
        "/var/tmp": refused,
        "/run/udslab": True,
        "/tmp": True,
    }
    assert seen["directory"] == [10001, 10000, "0o42770"]


def test_the_image_adds_less_than_5_mb_to_its_base(image, engine):
    base, ours = (engine.client.images.get(name).attrs["Size"] for name in (IMAGE, image))
    assert 0 < ours - base <= 5_000_000


def test_the_image_holds_the_library_and_nothing_of_the_checkout(image):
    listed = subprocess.check_output(
        ["docker", "run", "--rm", "--network", "none", image, "find", "/opt/udslab", "-type", "f"], text=True
    )
    names = {Path(line).relative_to("/opt/udslab").parts[0] for line in listed.splitlines()}
    assert names == {"udslab"}
