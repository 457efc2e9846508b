"""A reaper calls its function when its owner has died, and only then."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

import pytest

from udslab.deadline import Deadline
from udslab.reaper import Reaper
from udslab.spawn import Process

WITHIN = 20.0
"""Seconds in which it is called: a second, and what a busy machine takes."""
FUNCTION = """
import os
def call(path, word):
    file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # a FIFO; where nobody reads it, this fails
    os.write(file, (word + chr(10)).encode())
"""
OWNER = """
import os, sys
from udslab.reaper import Reaper
reaper = Reaper("reaped:call", sys.argv[1], "called")
exec(sys.argv[2])
print(reaper.pid, flush=True)
if sys.stdin.readline():
    reaper.close()
"""
CHILD = """
if os.fork() == 0:
    reaper.close()  # does nothing here
    os.read(0, 1)  # lives on, and holds the pipe
    os._exit(0)
"""


@pytest.fixture
def function(directory, environment, monkeypatch):
    """The environment in which the reaper finds its function, and the FIFO that this one writes to."""
    (directory / "reaped.py").write_text(FUNCTION)
    fifo = directory / "called"
    os.mkfifo(fifo)
    monkeypatch.setenv("PYTHONPATH", f"{directory}{os.pathsep}{environment['PYTHONPATH']}")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", environment["PYTHONPYCACHEPREFIX"])
    return fifo


@pytest.fixture
def called(function, sockets):
    """What has been called within so many seconds; nothing: b""."""
    fd = os.open(function, os.O_RDONLY | os.O_NONBLOCK)
    sockets.callback(os.close, fd)

    def wait(seconds):
        return os.read(fd, 100) if select.select([fd], [], [], seconds)[0] else b""

    return wait


@pytest.fixture
def own(function, sockets):
    """Starts an owner: its process, the write end of its standard input, and its reaper's pidfd."""

    def run(source="pass"):
        out, theirs = os.pipe()
        stdin, ours = os.pipe()
        sockets.callback(os.close, ours)
        try:
            command = [sys.executable, "-c", OWNER, function, source]
            process = sockets.enter_context(Process(command, stdin=stdin, stdout=theirs))
        finally:
            os.close(theirs)
            os.close(stdin)
        with os.fdopen(out) as said:
            reaper = os.pidfd_open(int(said.readline()))
        sockets.callback(os.close, reaper)
        return process, ours, reaper

    return run


def test_it_is_called_when_the_owner_is_killed(own, called):
    process, _, reaper = own()
    assert called(0) == b""
    process.send_signal(signal.SIGKILL)
    assert called(WITHIN) == b"called\n"
    assert select.select([reaper], [], [], WITHIN)[0], "it stays"


def test_it_is_called_when_the_owner_ends_without_closing_it(own, called):
    process, _, reaper = own("sys.stdin = open(os.devnull)")
    assert process.wait(WITHIN) == 0
    assert called(WITHIN) == b"called\n"
    assert select.select([reaper], [], [], WITHIN)[0]


def test_it_is_called_while_a_forked_child_of_the_owner_lives_on(own, called):
    process, _, _ = own(CHILD)
    os.kill(process.pid, signal.SIGKILL)  # alone: the child is left
    assert called(WITHIN) == b"called\n"


def test_a_forked_childs_end_is_not_the_owners(own, called):
    _, _, reaper = own("if os.fork() == 0: reaper.close(); os._exit(0)\nos.wait()")
    assert not select.select([reaper], [], [], 0)[0]
    assert called(0) == b""


def test_nothing_is_called_after_close(own, called):
    process, stdin, reaper = own()
    os.write(stdin, b"\n")
    assert process.wait(WITHIN) == 0
    assert select.select([reaper], [], [], 0)[0], "it stays"
    assert called(0) == b""


def test_it_is_called_for_an_owner_that_is_killed_before_the_reaper_looks(own, called):
    process, _, _ = own("os.kill(reaper.pid, 19)")  # SIGSTOP
    process.kill()
    # Its owner has been waited for, and its number could be another's by now.
    os.kill(int(_reaper_of(process)), signal.SIGCONT)
    assert called(WITHIN) == b"called\n"


def _reaper_of(process):
    # It may have begun and not yet have its command line: exec closes descriptors first, for which its owner waits.
    deadline = Deadline(WITHIN)
    while not deadline.passed:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if f"\0{process.pid}\0reaped:call\0".encode() in _command_line(pid):
                return pid
    raise AssertionError("there is no reaper")


def _command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:  # it has just ended
        return b""


def test_closing_it_twice_is_harmless_and_leaves_nothing(function, called):
    before = os.listdir("/proc/self/fd")
    reaper = Reaper("reaped:call", str(function), "called")
    reaper.close()
    reaper.close()
    assert called(0) == b""
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(reaper.pid, os.WNOHANG)


def test_as_a_context_manager_it_is_closed(function, called):
    with Reaper("reaped:call", str(function), "called") as reaper:
        assert os.path.exists(f"/proc/{reaper.pid}")
    assert not os.path.exists(f"/proc/{reaper.pid}")
    assert called(0) == b""


def test_one_that_was_killed_can_be_closed(function):
    with Reaper("reaped:call", str(function), "called") as reaper:
        os.kill(reaper.pid, signal.SIGKILL)


def test_it_holds_nothing_of_its_owners_and_is_in_a_session_of_its_own(own):
    process, _, reaper = own("shared = os.pipe(); os.set_inheritable(shared[1], True)")
    pid = _reaper_of(process)
    assert os.getsid(int(pid)) == int(pid)
    owners = set(_descriptors(process.pid).values())
    held = _descriptors(pid)
    deadline = Deadline(WITHIN)
    # It waits once it has its owner's pidfd; until then its interpreter opens and closes files.
    while not (deadline.passed or any("pidfd" in target for target in held.values())):
        held = _descriptors(pid)
    assert len(owners.intersection(held.values())) == 1, held  # the pipe
    assert not select.select([reaper], [], [], 0)[0]


def _descriptors(pid):
    """What each of its descriptors is; those that it closes meanwhile are left out."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def test_it_is_started_without_the_package_in_the_path(directory, environment):
    root = environment["PYTHONPATH"]
    source = f"import sys; sys.path.insert(0, {root!r})\nfrom udslab.reaper import Reaper\n"
    source += (
        "with Reaper('os:mkdir', sys.argv[1]): pass\nr = Reaper('os:mkdir', sys.argv[1])\nprint(r.pid, flush=True)\n"
    )
    source += "import os; os.kill(os.getpid(), 9)"
    done = subprocess.run(
        [sys.executable, "-c", source, directory / "made"], env={}, stdout=subprocess.PIPE, check=False, timeout=30
    )
    pidfd = None
    try:
        pidfd = os.pidfd_open(int(done.stdout))
        assert select.select([pidfd], [], [], WITHIN)[0], "it stays"
    except ProcessLookupError:
        pass
    finally:
        if pidfd is not None:
            os.close(pidfd)
    assert (directory / "made").is_dir()
