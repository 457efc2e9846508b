"""What sessions leave on an engine: whose it is, what is swept, and what never is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound
from docker.types import Mount

import udslab
from images import IMAGE
from udslab.containers import Engine, Leftover, Session, find, leftovers, sweep
from udslab.containers.container import _Attached
from udslab.containers.labels import Owner
from udslab.spawn import end_with_parent

TELLS_ITS_OWNER = """
import json, sys
from udslab.containers.labels import Owner
print(json.dumps(Owner.this_process().labels), flush=True)
sys.stdin.read()
"""

Make = Callable[..., str]


@contextlib.contextmanager
def process(environment: dict[str, str], source: str, *arguments: str, before: tuple[str, ...] = ()) -> Iterator:
    """Python source in a process of its own, which ends with the block."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", source, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent(),
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def told(started: subprocess.Popen[str]) -> dict:
    line = started.stdout.readline()
    assert line, "it has ended"
    return json.loads(line)


@pytest.fixture
def gone(environment) -> Owner:
    """A session whose process was killed."""
    with process(environment, TELLS_ITS_OWNER) as owner:
        labels = told(owner)
    return Owner.from_labels(labels)


@pytest.fixture
def here() -> Owner:
    """Another session of this process."""
    return Owner.this_process()


@pytest.fixture
def elsewhere() -> Owner:
    """A session in another pid namespace."""
    return dataclasses.replace(Owner.this_process(), pidns="1")


@pytest.fixture
def make(engine) -> Iterator[Make]:
    """Makes a container or volume of an owner's, in a state; its name, as `find` has it."""
    api = engine.client.api
    with contextlib.ExitStack() as made:

        def volume(owner: Owner | None, mounted: bool) -> str:
            name = f"udslab-{uuid.uuid4().hex[:12]}"
            api.create_volume(name, labels=owner.labels if owner else {})
            made.callback(remove, api.remove_volume, name)
            if mounted:
                container(None, "created", {name: {"bind": "/mnt"}})
            return name

        def container(owner: Owner | None, state: str, binds: dict) -> str:
            command = ["true"] if state == "exited" else ["sleep", "60"]
            settings = api.create_host_config(network_mode="none", binds=binds)
            labels = owner.labels if owner else {}
            id = api.create_container(IMAGE, command, labels=labels, host_config=settings)["Id"]
            made.callback(remove, api.remove_container, id, force=True)
            if state != "created":
                api.start(id)
            if state == "exited":
                api.wait(id)
            if state == "paused":
                api.pause(id)
            return id[:12]

        def remove(how: Callable[..., None], *arguments: str, **options: bool) -> None:
            with contextlib.suppress(NotFound):
                how(*arguments, **options)

        yield (
            lambda owner, state: (
                volume(owner, state == "mounted") if state in ("unused", "mounted") else container(owner, state, {})
            )
        )


@pytest.fixture
def swept(engine, monkeypatch) -> Callable[..., set[str]]:
    """Sweeps as a new session does, what is however new, of some owners' alone: other tests have theirs there."""

    def run(*owners: Owner, fresh: float = -60.0) -> set[str]:
        sessions = {owner.session for owner in owners}
        monkeypatch.setattr(leftovers, "_FRESH", fresh)
        monkeypatch.setattr(leftovers, "find", lambda on: (one for one in find(on) if one.owner.session in sessions))
        return {one.name for one in sweep(engine)}

    return run


def names(engine: Engine, owner: Owner) -> set[str]:
    return {one.name for one in find(engine, owner.session)}


# Whose it is


def test_labels_name_their_owner(here, gone):
    for owner in (here, gone):
        assert Owner.from_labels({"other": "label", **owner.labels}) == owner
        assert all(name.startswith("udslab.") for name in owner.labels)


def test_an_owner_lives_until_its_process_has_ended(environment):
    with process(environment, TELLS_ITS_OWNER) as started:
        owner = Owner.from_labels(told(started))
        assert owner.lives is True
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert owner.lives is False  # also before anybody has waited for it
    assert owner.lives is False


def test_a_later_process_with_the_same_number_is_another(here):
    assert here.lives is True
    assert dataclasses.replace(here, started=str(int(here.started) - 1)).lives is False


@pytest.mark.parametrize("name", ["machine", "boot", "pidns"])
@pytest.mark.parametrize("value", ["another", ""])
def test_an_owner_elsewhere_cannot_be_seen(here, name, value):
    assert dataclasses.replace(here, **{name: value}).lives is None


@pytest.mark.parametrize("pid", ["", "x", "-1", "²"])
def test_labels_that_somebody_has_made_up_tell_nothing(here, pid):
    assert dataclasses.replace(here, pid=pid).lives is None
    assert Owner.from_labels({}).lives is None


SEES_ITSELF = """
import json
from udslab.containers.labels import Owner
owner = Owner.this_process()
print(json.dumps([owner.lives, owner.labels]), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare(1)")
@pytest.mark.parametrize(
    ("proc", "itself"), [(("--mount-proc",), True), ((), None)], ids=["own /proc", "others' /proc"]
)
def test_an_owner_in_another_pid_namespace_is_elsewhere(environment, proc, itself):
    with process(environment, SEES_ITSELF, before=("unshare", "--pid", "--fork", *proc)) as started:
        lives, labels = told(started)
    owner = Owner.from_labels(labels)
    assert lives is itself  # number 1 of a /proc that shows another namespace is somebody else
    assert owner.pid == "1"
    assert owner.lives is None


HIDES = """
import json, os, subprocess, sys
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
from udslab.containers.labels import Owner
owner = Owner.from_labels(json.loads(sys.argv[1]))
seen = [owner.lives]
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print(json.dumps([*seen, owner.lives]))
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare(1)")
def test_an_owner_whom_proc_hides_is_not_said_to_have_gone(environment, here):
    with process(environment, HIDES, json.dumps(here.labels), before=("unshare", "--mount")) as started:
        assert told(started) == [True, None]


# What is found


@pytest.mark.parametrize("state", ["created", "exited", "running", "paused", "unused", "mounted"])
def test_what_is_found_says_what_it_is(engine, make, here, state):
    name = make(here, state)
    (found,) = find(engine, here.session)
    assert (found.name, found.state, found.owner) == (name, state, here)
    assert found.kind == ("volume" if state in ("unused", "mounted") else "container")
    assert found.image == (IMAGE if found.kind == "container" else "")
    assert -2 < found.age < 60  # the engine tells whole seconds
    assert not found.removable


def test_what_has_no_labels_is_not_found(engine, make):
    foreign = {make(None, "created"), make(None, "unused")}
    assert foreign.isdisjoint(one.name for one in find(engine))


def test_it_is_found_while_others_come_and_go(engine, make, here):
    mine = {make(here, "created"), make(here, "unused")}
    other = Owner.this_process()
    stop = threading.Event()

    def come_and_go() -> None:
        with Engine() as own:
            api = own.client.api
            while not stop.is_set():
                name = f"udslab-{uuid.uuid4().hex[:12]}"
                api.create_volume(name, labels=other.labels)
                settings = api.create_host_config(network_mode="none", binds={name: {"bind": "/mnt"}})
                id = api.create_container(IMAGE, ["true"], labels=other.labels, host_config=settings)["Id"]
                api.remove_container(id)
                api.remove_volume(name)

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            assert mine <= {one.name for one in find(engine)}
            assert names(engine, here) == mine
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert names(engine, other) == set()


# What is swept


@pytest.mark.parametrize("state", ["created", "exited", "unused"])
def test_what_a_dead_session_has_left_is_swept(engine, make, swept, gone, state):
    name = make(gone, state)
    assert swept(gone, fresh=300.0) == set()  # it is new
    assert names(engine, gone) == {name}
    assert swept(gone) == {name}
    assert names(engine, gone) == set()


@pytest.mark.parametrize("state", ["running", "paused", "mounted"])
def test_what_is_in_use_is_never_swept_nor_removable(engine, make, swept, gone, state):
    name = make(gone, state)
    assert swept(gone) == set()
    (found,) = find(engine, gone.session)
    assert (found.name, found.removable) == (name, False)


@pytest.mark.parametrize("state", ["created", "exited", "unused"])
def test_what_belongs_to_a_live_session_is_never_swept(engine, make, swept, here, state):
    name = make(here, state)
    assert swept(here) == set()
    assert names(engine, here) == {name}


def test_of_a_session_elsewhere_ended_containers_are_swept_and_volumes_never(engine, make, swept, elsewhere):
    created, volume = make(elsewhere, "created"), make(elsewhere, "unused")
    assert swept(elsewhere) == {created}
    assert names(engine, elsewhere) == {volume}


def test_a_volume_that_has_come_into_use_meanwhile_is_left(engine, make, gone):
    make(gone, "mounted")
    (found,) = find(engine, gone.session)
    with pytest.raises(udslab.UdsError, match="in use"):
        dataclasses.replace(found, state="unused").remove(engine)


def test_removing_what_has_gone_is_no_error(engine, make, gone):
    make(gone, "created"), make(gone, "unused")
    for found in list(find(engine, gone.session)):
        found.remove(engine)
        found.remove(engine)
    assert names(engine, gone) == set()


def test_a_session_sweeps_when_it_starts(engine, make, monkeypatch, gone, here):
    mine, left = make(here, "created"), make(gone, "created")
    monkeypatch.setattr(leftovers, "_FRESH", -60.0)
    everything = find

    def ours(on: Engine) -> Iterator[Leftover]:
        return (one for one in everything(on) if one.owner.session in (gone.session, here.session))

    monkeypatch.setattr(leftovers, "find", ours)
    with Session(engine):
        assert names(engine, here) == {mine}
        assert names(engine, gone) == set(), left


HAS_A_SESSION = """
import itertools, json, sys
from udslab.containers import Session, find, leftovers
with Session() as lab:
    unused, mounted = lab.volume(), lab.volume()
    container = lab.container(sys.argv[1], mounted)
    created = lab.engine.client.api.create_container(sys.argv[1], ["true"], labels=lab.owner.labels)["Id"]
    print(json.dumps(lab.owner.labels), flush=True)
    sessions = json.loads(sys.stdin.readline())
    leftovers._FRESH = -60.0
    leftovers.find = lambda on: (one for one in find(on) if one.owner.session in sessions)
    print(json.dumps([one.name for one in leftovers.sweep(lab.engine)]), flush=True)
    sys.stdin.readline()
    lab.engine.client.api.remove_container(created)
"""


def test_two_live_sessions_leave_each_other_alone(engine, environment):
    with contextlib.ExitStack() as started:
        both = [started.enter_context(process(environment, HAS_A_SESSION, IMAGE)) for _ in range(2)]
        owners = [Owner.from_labels(told(one)) for one in both]
        before = [names(engine, owner) for owner in owners]
        assert [len(theirs) for theirs in before] == [4, 4]
        for one in both:
            print(json.dumps([owner.session for owner in owners]), file=one.stdin, flush=True)
        assert [told(one) for one in both] == [[], []]
        assert [names(engine, owner) for owner in owners] == before
        for one in both:
            one.communicate("\n", timeout=30)
            assert one.returncode == 0
    assert [names(engine, owner) for owner in owners] == [set(), set()]


def test_a_session_in_a_container_and_one_outside_leave_each_other_alone(engine, make, swept):
    packages, package = Path(docker.__file__).parent.parent, Path(udslab.__file__).parent.parent
    if not engine.url.startswith(("unix:///", "http+unix:///")):
        pytest.skip("needs an engine at a socket file")
    # The SDK and what it needs is pure Python, or does without what is not: it runs on the image's, too.
    mounts = [
        Mount("/run/docker.sock", engine.url.partition("://")[2], type="bind"),
        Mount("/packages", str(packages), type="bind", read_only=True),
        Mount("/lab", str(package), type="bind", read_only=True),
    ]
    api = engine.client.api
    outside = Owner.this_process()
    volume = make(outside, "unused")
    with contextlib.ExitStack() as made:
        id = api.create_container(
            IMAGE,
            ["python3", "-B", "-c", HAS_A_SESSION, IMAGE],
            environment={"PYTHONPATH": "/lab:/packages", "DOCKER_HOST": "unix:///run/docker.sock"},
            stdin_open=True,
            host_config=api.create_host_config(mounts=mounts, network_mode="none"),
        )["Id"]
        made.callback(api.remove_container, id, force=True, v=True)
        attached = _Attached(api.attach_socket(id, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}))
        made.callback(attached.close)
        api.start(id)

        def says() -> object:
            line = b""
            while not line.endswith(b"\n"):
                data = attached.receive(30)
                assert data, (line, attached.why())
                line += data
            return json.loads(line)

        owner = Owner.from_labels(says())
        assert owner.lives is None
        before = names(engine, owner)
        assert len(before) == 4

        # Of ours it sees that the owner is elsewhere.
        attached.send(json.dumps([owner.session, outside.session]).encode() + b"\n", 30)
        assert says() == []
        assert names(engine, outside) == {volume}

        # Only what has never run could be nobody's: minutes later, in earnest.
        (created,) = swept(owner, outside)
        assert names(engine, owner) == before - {created}
        attached.send(b"\n", 30)
        api.wait(id, timeout=30)
    assert names(engine, owner) == set()


# The command


def rows(done: subprocess.CompletedProcess[bytes], owner: Owner) -> dict[str, dict]:
    assert (done.returncode, done.stderr) == (0, b"")
    return {row["name"]: row for row in json.loads(done.stdout) if row["owner"]["session"] == owner.session}


def test_ps_shows_containers_and_volumes(cli, make, gone, here):
    created, unused, paused = make(gone, "created"), make(gone, "unused"), make(here, "paused")
    shown = cli("ps", "--json")
    assert {name: (row["kind"], row["state"], row["image"]) for name, row in rows(shown, gone).items()} == {
        created: ("container", "created", IMAGE),
        unused: ("volume", "unused", ""),
    }
    assert [row["owner"]["lives"] for row in rows(shown, gone).values()] == [False, False]
    assert rows(shown, here)[paused]["owner"]["lives"] is True
    heading, *table = cli("ps").stdout.decode().splitlines()
    assert heading.split() == ["KIND", "NAME", "STATE", "OWNER", "AGE", "IMAGE"]
    (line,) = [line for line in table if created in line]
    assert line.split()[:5] == ["container", created, "created", gone.pid, "gone"]
    assert line.endswith(IMAGE)


def test_a_session_is_seen_by_ps_while_it_lives(cli, engine):
    with Session(engine) as lab:
        volume = lab.volume()
        container = lab.container(IMAGE, volume)
        seen = rows(cli("ps", "--json"), lab.owner)
        assert {name: row["state"] for name, row in seen.items()} == {
            container.id[:12]: "running",
            volume.source: "mounted",
        }
    assert rows(cli("ps", "--json"), lab.owner) == {}


@pytest.fixture
def other_name(engine, directory) -> str:
    """Another URL of the same engine."""
    if not engine.url.startswith(("unix:///", "http+unix:///")):
        pytest.skip("needs an engine at a socket file")
    (directory / "engine").symlink_to(engine.url.partition("://")[2])
    return f"unix://{directory}/engine"


def test_ps_of_several_engines_tells_them_apart(cli, engine, make, here, other_name):
    name = make(here, "unused")
    heading, *table = cli("ps", "--engine", engine.url, "--engine", other_name).stdout.decode().splitlines()
    assert heading.split() == ["ENGINE", "KIND", "NAME", "STATE", "OWNER", "AGE", "IMAGE"]
    assert [line.split()[0] for line in table if name in line] == [engine.url, other_name]


@pytest.mark.parametrize("command", [("ps",), ("clean", "--containers")])
def test_an_engine_that_is_down_does_not_hide_the_others(cli, make, here, other_name, command):
    name = make(here, "unused")
    done = cli(*command, "--engine", "unix:///nonexistent", "--engine", other_name)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("udslab: container engine: unix:///nonexistent: no engine is there (ENOENT)")
    assert len([line for line in done.stdout.decode().splitlines() if f"{other_name}  volume" in line and name in line])
    assert done.returncode == 1


def test_clean_lists_and_tells_why_it_leaves_what_it_leaves(cli, engine, make, gone, here):
    theirs = {state: make(gone, state) for state in ("created", "unused", "running", "paused", "mounted")}
    mine = make(here, "exited")
    shown = cli("clean", "--containers", "--json")
    assert {row["state"]: (row["name"], row["done"], row["failed"]) for row in rows(shown, gone).values()} == {
        "created": (theirs["created"], "would be removed", False),
        "unused": (theirs["unused"], "would be removed", False),
        "running": (theirs["running"], "left: its agent ends it in time", False),
        "paused": (theirs["paused"], "left: docker unpause lets it end", False),
        "mounted": (theirs["mounted"], "left: a container mounts it", False),
    }
    assert rows(shown, here)[mine]["done"] == "left: its owner lives"
    assert names(engine, gone) == set(theirs.values())


def test_clean_removes_when_told_to_what_is_removable_and_nothing_else(main_on, engine, make, gone, here, elsewhere):
    ended = {make(gone, "created"), make(gone, "exited"), make(gone, "unused")}
    kept = {make(gone, "running"), make(gone, "mounted")}
    mine, far, foreign = make(here, "created"), make(elsewhere, "unused"), make(None, "created")
    shown = main_on({gone.session, here.session}, "clean", "--containers", "--yes")
    assert {line.split()[1] for line in shown.splitlines() if line.endswith("  removed")} == ended
    assert shown.splitlines()[-1] == "6 of the lab's, 3 removed"
    assert names(engine, gone) == kept
    assert names(engine, here) == {mine}
    assert names(engine, elsewhere) == {far}
    assert engine.client.api.inspect_container(foreign)["State"]["Status"] == "created"


def test_clean_removes_when_told_to_what_belongs_to_an_owner_elsewhere(main_on, engine, make, elsewhere):
    name = make(elsewhere, "unused")
    shown = main_on({elsewhere.session}, "clean", "--containers")
    assert shown.splitlines()[1:] == [
        f"volume  {name}  unused  would be removed (owner elsewhere)",
        "1 of the lab's, 0 removed; remove them with --yes",
    ]
    main_on({elsewhere.session}, "clean", "--containers", "--yes")
    assert names(engine, elsewhere) == set()


@pytest.fixture
def main_on(monkeypatch, capsys) -> Callable[..., str]:
    """Runs the command in this process, where only what some sessions have left is there: it must not remove what
    another test looks at."""
    import udslab.containers
    from udslab.cli import main

    def run(sessions: set[str], *arguments: str) -> str:
        ours = lambda on: (one for one in find(on) if one.owner.session in sessions)  # noqa: E731
        monkeypatch.setattr(udslab.containers, "find", ours)
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run
