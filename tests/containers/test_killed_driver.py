"""A driver that is killed leaves nothing behind; nor does a session whose containers or servers are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from docker.errors import NotFound

import udslab
from images import IMAGE
from udslab.containers import Engine, Session, find
from udslab.deadline import Deadline
from udslab.errors import AgentGone
from udslab.spawn import end_with_parent

LIMIT = 30.0
"""Seconds in which everything goes: one or two, and what a busy engine takes."""

DRIVER = """
import json, os, sys
from udslab.containers import Session
with Session() as lab:
    directory, volume = lab.directory(), lab.volume()
    container = lab.container(sys.argv[1], directory, volume)
    container.serve(directory.path + "/s", mode=0o666)
    container.serve(volume.path + "/s")
    child = 0
    if "fork" in sys.argv:
        child = os.fork()
        if child == 0:
            sys.stdin.readline()  # until the test ends
            os._exit(0)
    if "pause" in sys.argv:
        container.pause()
    print(json.dumps([lab.owner.session, container.id, directory.path, child]), flush=True)
    sys.stdin.readline()
"""


@dataclass
class Driver:
    """A driver process that has a session."""

    process: subprocess.Popen[str]
    session: str
    container: str
    directory: str
    child: int
    reaper: int
    """The pidfd of its reaper."""

    def kill(self) -> Deadline:
        """SIGKILL; the time until which everything must have gone."""
        self.process.kill()
        return Deadline(LIMIT)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:  # a thread may have ended
            found += map(int, file.read().split())
    return found


def reaper_of(pid: int) -> int:
    def is_reaper(child: int) -> bool:
        try:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                return b"udslab.reaper" in file.read()
        except OSError:  # it has just ended
            return False

    (reaper,) = filter(is_reaper, children(pid))
    return os.pidfd_open(reaper)


def ended(pidfd: int, deadline: Deadline) -> bool:
    return bool(select.select([pidfd], [], [], deadline.left())[0])


@pytest.fixture
def drive(engine, environment) -> Iterator[Callable[..., Driver]]:
    """Starts a driver, and waits until its servers serve."""
    with contextlib.ExitStack() as exits:

        def start(*how: str, source: str = DRIVER) -> Driver:
            process = exits.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", source, IMAGE, *how],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    preexec_fn=end_with_parent(),
                )
            )
            exits.callback(process.kill)
            line = process.stdout.readline()
            assert line, "the driver has ended"
            session, container, directory, child = json.loads(line)
            reaper = reaper_of(process.pid)
            exits.callback(os.close, reaper)
            if container:
                exits.callback(remove, engine, session)
            return Driver(process, session, container, directory, child, reaper)

        yield start


def remove(engine: Engine, session: str) -> None:
    """What a test that fails would leave."""
    for left in find(engine, session):
        if left.kind == "container":
            with contextlib.suppress(NotFound):
                engine.client.api.remove_container(left.name, force=True)
        else:
            left.remove(engine)


def assert_nothing_left(engine: Engine, driver: Driver) -> None:
    assert list(find(engine, driver.session)) == []
    assert not os.path.exists(os.path.dirname(os.path.dirname(driver.directory)))


def assert_lives(driver: Driver) -> None:
    with udslab.connect(driver.directory + "/s") as client:
        client.sendall(b"hello\n")
        assert client.read_line() == b"HELLO\n"


def test_a_killed_driver_leaves_nothing(engine, drive):
    driver = drive()
    assert_lives(driver)
    assert {one.kind for one in find(engine, driver.session)} == {"container", "volume"}
    deadline = driver.kill()
    assert ended(driver.reaper, deadline)
    assert_nothing_left(engine, driver)


def test_a_driver_that_ends_well_leaves_nothing(engine, drive):
    driver = drive()
    driver.process.communicate("\n", timeout=30)
    assert driver.process.returncode == 0
    assert ended(driver.reaper, Deadline(0))
    assert_nothing_left(engine, driver)


def test_a_killed_driver_whose_forked_child_lives_on_leaves_nothing(engine, drive):
    driver = drive("fork")
    child = os.pidfd_open(driver.child)
    try:
        assert_lives(driver)
        assert ended(driver.reaper, driver.kill())
        assert_nothing_left(engine, driver)
        assert not ended(child, Deadline(0))
        driver.process.stdin.close()
        assert ended(child, Deadline(LIMIT))
    finally:
        os.close(child)


def test_a_killed_driver_whose_container_is_paused_leaves_nothing(engine, drive):
    driver = drive("pause")
    assert [one.state for one in find(engine, driver.session)] == ["paused", "mounted"]
    assert ended(driver.reaper, driver.kill())
    assert_nothing_left(engine, driver)


def test_after_the_reaper_and_the_driver_are_killed_containers_go_by_themselves(engine, drive):
    driver = drive()
    signal.pidfd_send_signal(driver.reaper, signal.SIGKILL)
    deadline = driver.kill()
    removed(engine, driver.container, deadline)
    (volume,) = find(engine, driver.session)
    assert (volume.kind, volume.state, volume.removable) == ("volume", "unused", True)
    # The kernel has let go the directory: whoever makes the next one sweeps it.
    with udslab.scratch.scratch_directory():
        assert not os.path.exists(driver.directory)


def removed(engine: Engine, container: str, deadline: Deadline) -> None:
    with contextlib.suppress(NotFound):
        engine.client.api.wait(container, timeout=deadline.left(), condition="removed")


def test_a_killed_reaper_is_no_matter_to_a_driver_that_ends_well(engine, drive):
    driver = drive()
    signal.pidfd_send_signal(driver.reaper, signal.SIGKILL)
    driver.process.communicate("\n", timeout=30)
    assert driver.process.returncode == 0
    assert_nothing_left(engine, driver)


BUSY = """
import json, os, sys
from udslab.containers import Session
with Session() as lab:
    root = lab.directory()
    print(json.dumps([lab.owner.session, "", root.path, 0]), flush=True)
    while True:
        lab.container(sys.argv[1], lab.directory(), lab.volume())
"""


@pytest.mark.parametrize("moment", range(6))
def test_a_driver_may_be_killed_while_it_makes_them(engine, drive, moment):
    driver = drive(source=BUSY)
    select.select([], [], [], random.random() * 0.5)  # at any moment
    assert ended(driver.reaper, driver.kill())
    try:
        assert_nothing_left(engine, driver)
    finally:
        remove(engine, driver.session)


FORKS = """
import json, os, sys
from udslab.containers import Session
lab = Session()
with lab:
    directory, volume, unused = lab.directory(), lab.volume(), lab.volume()
    container = lab.container(sys.argv[1], directory, volume)
    container.serve(directory.path + "/s", mode=0o666)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(json.dumps([lab.owner.session, container.id, directory.path, 0]), flush=True)
        sys.stdin.readline()
"""


def test_a_forked_child_that_leaves_the_block_ends_nothing(engine, drive):
    driver = drive(source=FORKS)
    assert_lives(driver)
    assert sorted(one.state for one in find(engine, driver.session)) == ["mounted", "running", "unused"]
    driver.process.communicate("\n", timeout=30)
    assert_nothing_left(engine, driver)


def test_a_container_that_the_engine_has_killed_is_gone_and_its_session_goes_on(engine):
    with Session(engine) as lab:
        directory, volume = lab.directory(), lab.volume()
        container = lab.container(IMAGE, directory, volume)
        server = container.serve(directory.path + "/s")
        engine.client.api.kill(container.id)
        deadline = Deadline(LIMIT)
        for call in (container.info, lambda: container.status(directory.path + "/s"), server.wait):
            with pytest.raises(AgentGone):
                call()
        removed(engine, container.id, deadline)
        assert not deadline.passed
        assert udslab.status(directory.path + "/s").state == "stale"
        another = lab.container(IMAGE, directory, volume)
        with another.serve(directory.path + "/s"):
            assert udslab.status(directory.path + "/s").serving
    assert list(find(engine, lab.owner.session)) == []
    assert not os.path.exists(directory.path)


def test_a_killed_server_leaves_its_file_stale_and_its_session_nothing(engine):
    with Session(engine) as lab:
        directory = lab.directory()
        container = lab.container(IMAGE, directory)
        server = container.serve(directory.path + "/s")
        assert server.kill() == -9
        assert udslab.status(directory.path + "/s").state == "stale"
        assert container.status(directory.path + "/s").state == "stale"
    assert list(find(engine, lab.owner.session)) == []
    assert not os.path.exists(directory.path)


def test_a_paused_container_goes_with_its_session(engine):
    with Session(engine) as lab:
        lab.container(IMAGE).pause()
    assert list(find(engine, lab.owner.session)) == []
