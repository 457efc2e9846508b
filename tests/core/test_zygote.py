"""A zygote starts servers as this process would, holds up nobody, and ends with its owner, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from endings import ended, pidfds

import udslab
from udslab.errors import AgentGone, ServiceError
from udslab.spawn import end_with_parent
from udslab.testing import assert_gone, assert_serving, assert_stale
from udslab.zygote import Zygote

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
SOON = 10.0
"""Seconds in which all of a zygote is gone after its owner: one, and what a busy machine takes."""
SURROUNDINGS = """
import json, os, sys
from udslab.services import per_chunk

def answer(data):
    found = {"env": dict(os.environ), "cwd": os.getcwd(), "path": sys.path, "session": os.getsid(0) == os.getpid()}
    return json.dumps(found).encode() + b"\\n"

service = per_chunk(answer)
"""


@pytest.fixture
def zygote():
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def look(path, directory, monkeypatch):
    """What a server that is started now finds around it."""
    modules = directory / "modules"
    modules.mkdir()
    (modules / "surroundings_of_mine.py").write_text(SURROUNDINGS)
    monkeypatch.syspath_prepend(str(modules))

    def found(zygote):
        service, around = "surroundings_of_mine:service", zygote.surroundings()
        with zygote.serve(path, service, surroundings=around), udslab.connect(path) as client:
            client.settimeout(LIMIT)
            client.sendall(b"?")
            return json.loads(client.read_line())

    return found


def held():
    """Descriptors: number and what it is. Not that by which they are listed, nor inotify's, which are kept."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {fd: what for fd, what in found.items() if what != "anon_inode:inotify"}


def children(pid="self"):
    pid = os.getpid() if pid == "self" else pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return set(map(int, file.read().split()))


def descendants(pid):
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in children(pid):
            found |= {child, *descendants(child)}
    return found


def command(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read().rstrip("\0").replace("\0", " ")
    return ""


# What its servers find


def test_a_server_finds_this_processs_environment_directory_and_path_as_they_were_at_the_start(zygote, look):
    found = look(zygote)
    assert found == {"env": dict(os.environ), "cwd": os.getcwd(), "path": sys.path, "session": True}


def test_a_server_finds_what_was_set_changed_and_unset_since(zygote, look, directory, monkeypatch):
    monkeypatch.setenv("UDSLAB_TEST_CHANGED", "1")
    monkeypatch.setenv("UDSLAB_TEST_UNSET", "1")
    with Zygote() as zygote:
        monkeypatch.setenv("UDSLAB_TEST_SET", "ä\udcff\n")
        monkeypatch.setenv("UDSLAB_TEST_CHANGED", "2")
        monkeypatch.delenv("UDSLAB_TEST_UNSET")
        monkeypatch.chdir(directory)
        monkeypatch.syspath_prepend("/nowhere/at-all")
        found = look(zygote)
        assert found["env"] == dict(os.environ)
        assert (found["env"]["UDSLAB_TEST_SET"], found["env"]["UDSLAB_TEST_CHANGED"]) == ("ä\udcff\n", "2")
        assert "UDSLAB_TEST_UNSET" not in found["env"]
        assert (found["cwd"], found["path"]) == (str(directory), sys.path)
        assert found["path"][0] == "/nowhere/at-all"


def test_what_was_undone_is_as_before(zygote, look, directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDSLAB_TEST_SET", "1")
        patch.chdir(directory)
        assert look(zygote)["env"]["UDSLAB_TEST_SET"] == "1"
    found = look(zygote)
    assert found["env"] == dict(os.environ)
    assert found["cwd"] == os.getcwd()


def test_a_directory_that_has_been_removed_is_no_obstacle(zygote, look, directory, monkeypatch):
    gone = directory / "gone"
    gone.mkdir()
    before = os.getcwd()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert look(zygote)["cwd"] == before


def test_a_changed_module_is_imported_anew_by_each_server(zygote, path, directory, monkeypatch):
    monkeypatch.syspath_prepend(str(directory))
    for name in ("upper", "echo"):
        source = f"from udslab.services import SERVICES\nmine = SERVICES['{name}']\n# {name}"
        (directory / "changing_module_of_mine.py").write_text(source)
        around = zygote.surroundings()
        with zygote.serve(path, "changing_module_of_mine:mine", surroundings=around), udslab.connect(path) as client:
            client.sendall(b"x")
            assert client.recv(1) == {"upper": b"X", "echo": b"x"}[name]
    assert "changing_module_of_mine" not in sys.modules


def test_a_module_that_is_not_there_is_told(zygote, path):
    with pytest.raises(ServiceError, match="no_such_module"):
        zygote.serve(path, "no_such_module:x", surroundings=zygote.surroundings())


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_a_server_has_the_umask_that_it_is_told(zygote, path, umask):
    with zygote.serve(path, umask=umask):
        assert os.stat(path).st_mode & 0o777 == 0o777 & ~umask


def test_the_agent_is_this_users_and_in_a_session_of_its_own(zygote):
    info = zygote.info()
    assert info.pid in children()
    assert os.getsid(info.pid) == info.pid != os.getsid(0)
    assert (info.uid, info.gid) == (os.geteuid(), os.getegid())


def test_it_is_started_also_where_the_package_is_not_on_the_path(tmp_path, environment):
    source = """
import sys
sys.path.insert(0, sys.argv[1])
import udslab.zygote
sys.path.remove(sys.argv[1])
with udslab.zygote.Zygote() as zygote:
    print(zygote.info().version)
"""
    root = environment["PYTHONPATH"]
    (tmp_path / "udslab.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [sys.executable, "-I", "-c", source, root], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{udslab.__version__}\n", "")


# Good manners


def test_it_has_no_thread_of_its_own():
    before = threading.enumerate()
    with Zygote() as zygote:
        zygote.info()
        assert threading.enumerate() == before
    assert threading.enumerate() == before


def test_nothing_is_left_of_it_when_it_has_been_closed(path):
    before = held(), children()
    with Zygote() as zygote:
        server = zygote.serve(path)
        sleeper = zygote.supervise(["sleep", "1000"])
        with pidfds([server.pid, sleeper.pid, *descendants(zygote.info().pid)]) as fds:
            zygote.close()
            assert (held().keys() - before[0].keys() - set(map(str, fds)), children()) == (set(), before[1])
            assert ended(fds, SOON) == len(fds) >= 2
    assert (held(), children()) == before
    assert_gone(path)


def test_one_that_is_closed_at_once_leaves_nothing():
    before = held(), children()
    for _ in range(5):
        Zygote().close()
    assert (held(), children()) == before


def test_it_may_be_closed_twice_and_is_of_no_use_then(zygote):
    zygote.close()
    zygote.close()
    assert not zygote.alive
    with pytest.raises(AgentGone, match="the agent of this machine has ended"):
        zygote.info()


def test_a_stopped_one_is_killed_at_its_end():
    before = held(), children()
    with Zygote() as zygote:
        pid = zygote.info().pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    assert (held(), children()) == before


def test_what_it_starts_holds_none_of_its_descriptors(zygote, path):
    with zygote.serve(path):
        listing = zygote.supervise(["sh", "-c", "ls /proc/self/fd"])
        assert listing.wait(LIMIT) == 0
        assert len(listing.output().split()) == 4  # the last is that of the listing


# Forks of its owner


@pytest.fixture
def forked(in_child):
    """Gives what a function says in a forked child; of an error its text."""

    def say(function):
        try:
            return function()
        except BaseException as error:  # noqa: BLE001
            return str(error)

    return lambda function: in_child(lambda: say(function))


def test_a_forked_child_neither_uses_nor_closes_it(zygote, path, forked):
    with zygote.serve(path):
        assert "it belongs to the process that this one was forked from" in forked(zygote.info)
        assert forked(zygote.close) is None
        assert zygote.alive
        assert_serving(path)
        assert zygote.info().pid in children()


def test_a_forked_child_may_have_one_of_its_own(zygote, path, forked):
    def other():
        with Zygote() as another, another.serve(path):
            return [another.info().pid, udslab.status(path).serving]

    pid, serving = forked(other)
    assert serving
    assert pid != zygote.info().pid
    assert not os.path.exists(f"/proc/{pid}")
    assert_gone(path)


# Its end


def test_one_that_was_killed_is_seen_as_gone_and_so_are_its_servers(path):
    with Zygote() as zygote:
        server = zygote.serve(path)
        assert zygote.alive
        with pidfds([zygote.info().pid, server.pid]) as fds:
            signal.pidfd_send_signal(fds[0], signal.SIGKILL)
            assert ended(fds, SOON) == 2
        assert zygote.ends_within(SOON)  # not at once: a server that it was just forking has its connection, too
        assert not zygote.alive
        with pytest.raises(AgentGone):
            server.wait(0)
        assert_stale(path)
        with Zygote() as another, another.serve(path):
            assert_serving(path)
    assert not children() & {server.pid}


OWNER = """
import json, os, sys, time
from udslab.zygote import Zygote
path, *how = sys.argv[1:]
zygote = Zygote()
child = 0
if "fork" in how:
    child = os.fork()
    if child == 0:  # holds the socket
        sys.stdin.readline()
        os._exit(0)
server = zygote.serve(path)
daemon = zygote.supervise(["sh", "-c", "setsid sh -c 'trap : TERM HUP; echo up; while :; do sleep 1000; done' & wait"])
while "up" not in daemon.output() or "sleep 1000" not in [" ".join(one["command"]) for one in daemon.tree()]:
    time.sleep(0.005)
print(json.dumps([zygote.info().pid, child]), flush=True)
sys.stdin.readline()
if "exit" in how:
    os._exit(0)
raise SystemExit
"""


@pytest.fixture
def owner(environment, path, sockets):
    """Starts a process that owns a zygote with a server and a daemon: the process, its zygote's pid, its child's."""

    def start(*how):
        process = sockets.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", OWNER, str(path), *how],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=end_with_parent(),
            )
        )
        sockets.callback(process.kill)
        line = process.stdout.readline()
        assert line, "the owner has ended"
        zygote, child = json.loads(line)
        return process, zygote, child

    return start


def test_it_ends_with_all_that_it_has_started_when_its_owner_is_killed(owner, path):
    process, zygote, _ = owner()
    assert_serving(path)
    everything = {zygote, *descendants(zygote)}
    assert "sleep 1000" in map(command, everything)  # what the daemon waits for
    with pidfds(everything) as fds:
        process.kill()
        assert ended(fds, SOON) == len(fds)
    assert_gone(path)


def test_it_ends_with_its_owner_also_while_a_forked_child_holds_the_socket(owner, path):
    process, zygote, child = owner("fork")
    sockets_of = [os.stat(f"/proc/{pid}/fd/{fd}").st_ino for pid, fd in sockets_held(process.pid)]
    assert set(sockets_of) & {os.stat(f"/proc/{pid}/fd/{fd}").st_ino for pid, fd in sockets_held(child)}
    with pidfds({zygote, *descendants(zygote)}) as fds, pidfds([child]) as (of_child,):
        process.kill()
        assert ended(fds, SOON) == len(fds)
        assert not ended([of_child], 0)
        assert_gone(path)
        process.stdin.close()
        assert ended([of_child], SOON)


def sockets_held(pid):
    return [
        (pid, fd) for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    ]


@pytest.mark.parametrize("how", ["exit", "return"])
def test_it_ends_when_its_owner_exits_without_closing_it(owner, path, how):
    process, zygote, _ = owner(how)
    everything = {zygote, *descendants(zygote)}
    assert "sleep 1000" in map(command, everything)
    with pidfds(everything) as fds:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(LIMIT) == 0
        assert ended(fds, SOON) == len(fds)
    assert_gone(path)


def test_an_interrupt_of_the_terminals_does_not_reach_it_nor_its_servers(owner, path):
    process, zygote, _ = owner()
    assert os.getpgid(zygote) != os.getpgid(process.pid)
    for pid in descendants(zygote):
        assert os.getsid(pid) not in (os.getsid(process.pid), os.getsid(0))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
