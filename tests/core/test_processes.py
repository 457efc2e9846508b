"""Somebody's server, started by an agent and followed through its forks: what it does is told, and nothing escapes."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import sys
import threading
import time

import pytest
from endings import ended, pidfds

import udslab
from udslab import NoSuchPath, TimedOut, UdsError
from udslab.agent import SPARES
from udslab.errors import AgentGone, ServiceError
from udslab.lab import Lab
from udslab.processes import words
from udslab.ready import Activated, Check, LogLine
from udslab.supervisor import stat_of
from udslab.testing import assert_gone, assert_serving, assert_stale
from udslab.wire import encode_address
from udslab.zygote import Zygote

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
SOON = 10.0
"""Seconds in which all ends that should within one: that, and what a busy machine takes."""
SERVER = """
import _thread, os, signal, socket, sys
path, *how = sys.argv[1:]
if "daemon" in how:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
handled = {signal.SIGHUP, signal.SIGTERM}
if "stubborn" in how:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handled.remove(signal.SIGTERM)  # waited for it would come
signal.pthread_sigmask(signal.SIG_BLOCK, handled)
def bind():
    made = socket.socket(socket.AF_UNIX)
    if "over" in how and os.path.exists(path):
        os.unlink(path)
    made.bind(path)
    made.listen()
    return made
listeners = [bind() if "LISTEN_FDS" not in os.environ else socket.socket(fileno=3)]
def serve():
    while True:
        client = listeners[0].accept()[0]
        client.sendall(b"%d %d\\n" % (os.getpid(), os.getppid()))
        client.close()
workers = []
while "workers" in how and len(workers) < 3:
    workers.append(os.fork())
    if not workers[-1]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        serve()
print("up", os.getpid(), flush=True)
_thread.start_new_thread(serve, ())
while signal.sigwait(handled) == signal.SIGHUP:
    how.append("over")
    listeners.append(bind())
for worker in workers:
    os.kill(worker, signal.SIGTERM)
    os.waitpid(worker, 0)
if "leaves" not in how:
    os.unlink(path)
os._exit(int(how[how.index("code") + 1]) if "code" in how else 0)
"""
"""Tells each client its pid and its parent's.

Signals are waited for: Python runs its handlers between two steps of the interpreter, and that of a signal which comes
just before a call that waits, only when something else has ended the call.
"""


def server(*how):
    return [sys.executable, "-I", "-S", "-c", SERVER, "{socket}", *map(str, how)]


def ask(path):
    with udslab.connect(path) as client:
        client.settimeout(LIMIT)
        return tuple(map(int, client.read_line().split()))


def until(condition):
    """Wait for what no event tells; what it was in the end."""
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.005)
    return found


def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def kept():
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def supervise(kept, sockets):
    """Starts a command; it ends with the test."""
    return lambda *command, **options: sockets.enter_context(kept.supervise(command, **options))


@pytest.fixture
def zygote():
    """One that may be killed."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture
def lab():
    with Lab() as lab:
        yield lab


def served(zygote, path, *how):
    """A server that serves, by a zygote."""
    process = zygote.supervise([word.replace("{socket}", str(path)) for word in server(*how)])
    until(lambda: udslab.status(path).serving)
    if "daemon" in how:
        alone(process)
    return process


def alone(process):
    """Wait until those that have forked a daemon away have ended: they may be slower than it is to listen."""
    assert process.wait(LIMIT) == 0
    until(lambda: len(process.tree()) == 1)


# The words of a command


@pytest.mark.parametrize(
    ("command", "split"),
    [
        ("server -p {socket}", ["server", "-p", "/a b"]),
        ("server --path='{socket}' \"x y\"", ["server", "--path=/a b", "x y"]),
        ("server unix:{socket},fork {socket}.lock", ["server", "unix:/a b,fork", "/a b.lock"]),
        (["server", "{socket}", "{other}"], ["server", "/a b", "{other}"]),
        (["x y", "$HOME", "'"], ["x y", "$HOME", "'"]),
    ],
)
def test_a_commands_words_have_the_path_for_socket_and_no_shell_reads_them(command, split):
    assert words(command, "/a b") == split


@pytest.mark.parametrize(
    ("command", "options", "error", "told"),
    [
        ([], {}, ServiceError, r"service: the command \[\] names no program"),
        ("", {}, ServiceError, r"service: the command \[\] names no program"),
        (["", "{socket}"], {}, ServiceError, r"service: the command \['', .* names no program"),
        (["true", "a\0b"], {}, ServiceError, r"the word 'a\\x00b' of the command holds a NUL"),
        (["true"], {"env": {"PORT": 1}}, TypeError, r"the variable 'PORT' in env= is 1, and not a text"),
        (["true"], {"env": {"PORT": "1\0"}}, ServiceError, r"no environment can hold the variable 'PORT' with '1"),
        (["true"], {"env": {"A=B": "1"}}, ServiceError, r"no environment can hold the variable 'A=B' with '1'"),
        (["true"], {"timeout": None}, TypeError, r"timeout= is a number of seconds, not None"),
        (["true"], {"stop_signal": "SIGINT"}, ValueError, r"stop_signal= is a signal, such as .*, not 'SIGINT'"),
        (["true"], {"stop_signal": 0}, ValueError, r"stop_signal= is a signal, such as .*, not 0"),
    ],
)
def test_what_nothing_can_be_started_with_or_ended_by_is_refused_before(lab, command, options, error, told):
    with pytest.raises(error, match=told) as caught:
        lab.process(command, **options).__enter__()
    assert "\n" not in str(caught.value)


# By the agent


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -USR1 $$", -10)]
)
def test_the_exit_status_is_that_of_the_main_process(supervise, command, code):
    process = supervise("sh", "-c", command)
    assert process.wait(LIMIT) == code
    assert process.returncode == code
    assert process.end() == code
    assert process.killed == []


def test_how_it_has_ended_is_told_in_words_when_nothing_of_it_lives(supervise):
    process = supervise("sh", "-c", "echo out; echo err >&2; exit 3")
    assert until(process.gone) == "has ended with status 3"
    assert process.output() == "out\nerr\n"
    assert until(supervise("sh", "-c", "kill -37 $$").gone) == "was ended by signal 37"  # it has no name
    assert until(supervise("sh", "-c", "kill -9 $$").gone) == "was ended by SIGKILL"


def test_it_is_not_gone_as_long_as_a_daemon_of_it_lives(supervise):
    process = supervise("sh", "-c", "setsid sleep 1000 & exit 4")
    assert process.wait(LIMIT) == 4
    until(lambda: [one["command"] for one in process.tree()] == [["sleep", "1000"]])
    (daemon,) = process.tree()
    assert (process.returncode, process.gone()) == (4, None)
    with pidfds([daemon["pid"]]) as fds:
        assert process.end(LIMIT) == 4
        assert ended(fds, 0) == 1
    assert process.killed == []  # SIGTERM was enough
    assert process.gone() == "has ended with status 4"


def test_a_command_that_is_not_there_is_told_at_once(supervise):
    with pytest.raises(NoSuchPath) as caught:
        supervise("/nowhere/at-all")
    assert caught.value.filename == "/nowhere/at-all"


@pytest.mark.parametrize("how", ["start", "supervise"])
def test_what_is_not_there_is_told_apart_from_its_directory(kept, directory, how):
    start = getattr(kept, how)
    (directory / "script").touch()
    for command, cwd, told in (
        (["true"], "/no/such", "/no/such: No such file or directory (ENOENT): the command's directory (cwd=) has to"),
        (["no-such"], str(directory), "no-such: No such file or directory (ENOENT): is it installed there?"),
        (["./script"], str(directory), "./script: Permission denied (EACCES): it is not executable: chmod +x"),
    ):
        with pytest.raises(UdsError, match="^agent: " + re.escape(told)):
            start(command, cwd=cwd)


def test_the_tree_is_all_that_lives_below(supervise):
    process = supervise("sh", "-c", "sleep 1000 & setsid sleep 1001 & wait")
    wanted = [["sleep", "1000"], ["sleep", "1001"]]
    until(lambda: sorted(one["command"] for one in process.tree())[1:] == wanted)
    tree = process.tree()
    assert process.pid in [one["pid"] for one in tree]
    with pidfds([one["pid"] for one in tree]) as fds:
        process.kill()
        assert ended(fds, 0) == 3


def test_a_signal_reaches_the_main_process_alone(supervise):
    source = "trap 'echo usr1; exit 7' USR1; sleep 1000 & echo up; wait"
    process = supervise("sh", "-c", source)
    until(lambda: "up" in process.output())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(LIMIT) == 7
    assert process.output() == "up\nusr1\n"
    until(lambda: [one["command"] for one in process.tree()] == [["sleep", "1000"]])
    process.send_signal(signal.SIGUSR1)  # it has exited: does nothing
    assert [one["command"] for one in process.tree()] == [["sleep", "1000"]]


def test_what_does_not_end_is_killed_after_the_grace_and_told(supervise):
    process = supervise("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done")
    until(lambda: "up" in process.output() and len(process.tree()) == 2)
    started = time.monotonic()
    assert process.end(0.2) == -9
    assert 0.2 <= time.monotonic() - started < LIMIT
    assert process.pid in [one["pid"] for one in process.killed]
    assert all(set(one) == {"pid", "command"} for one in process.killed)
    assert until(process.gone) == "was ended by SIGKILL"


def test_with_no_grace_all_is_killed_at_once(supervise):
    process = supervise("sh", "-c", "trap '' TERM; setsid sleep 1000 & echo up; sleep 1001")
    until(lambda: "up" in process.output() and len(process.tree()) == 3)
    with pidfds([one["pid"] for one in process.tree()]) as fds:
        assert process.end(0) == -9
        assert ended(fds, 0) == 3
    assert {one["pid"] for one in process.killed} >= {process.pid}


def test_a_supervisor_that_is_late_still_tells_what_it_had_to_kill(zygote):
    with zygote.supervise(["sh", "-c", "trap '' TERM; echo up; sleep 1000"]) as process:
        until(lambda: "up" in process.output())
        supervisor = parent(process.pid)
        os.kill(supervisor, signal.SIGSTOP)
        going_on = threading.Timer(0.6, os.kill, (supervisor, signal.SIGCONT))
        going_on.start()
        assert process.end(0.05) == -9
        going_on.join()
        assert process.pid in [one["pid"] for one in process.killed]


def test_one_that_has_ended_may_be_ended_again(supervise):
    process = supervise("sh", "-c", "trap 'exit 5' TERM; echo up; sleep 1000 & wait")
    until(lambda: "up" in process.output())
    assert [process.end(LIMIT), process.end(LIMIT), process.kill(), process.wait(0)] == [5, 5, 5, 5]


def test_a_stopped_one_is_ended_by_its_signal(supervise, path):
    process = supervise("sh", "-c", "trap 'exit 5' TERM; echo up; sleep 1000 & wait")
    until(lambda: "up" in process.output())
    process.freeze()
    with open(f"/proc/{process.pid}/stat") as file:
        assert file.read().rpartition(")")[2].split()[0] == "T"
    assert process.end(LIMIT) == 5


def test_waiting_for_one_that_does_not_end_times_out(supervise):
    process = supervise("sleep", "1000")
    with pytest.raises(TimedOut):
        process.wait(0.01)
    assert process.returncode is None


def test_its_surroundings_are_those_that_are_given(supervise, directory):
    given = {"env": {"PATH": os.defpath, "A": "x"}, "cwd": str(directory), "umask": 0o027}
    process = supervise("sh", "-c", 'echo "$A" "$HOME" "$PWD"; umask', **given)
    assert process.wait(LIMIT) == 0
    assert process.output() == f"x  {directory}\n0027\n"


# One after another

LOOKS = "echo $PPID; pwd; umask; echo ${COLOUR-none} ${LISTEN_FDS-none} $PATH; trap"


def looks(zygote, **options):
    """Its supervisor, and all else that a command finds."""
    with zygote.supervise(["/bin/sh", "-c", LOOKS], **options) as process:
        assert process.wait(LIMIT) == 0
        supervisor, _, found = process.output().partition("\n")
        return int(supervisor), found.splitlines()


def test_a_supervisor_takes_one_command_after_another_and_each_finds_it_as_the_first_did(zygote, directory):
    supervisor, found = looks(zygote)
    changed = {"cwd": str(directory), "umask": 0o027, "changes": {"COLOUR": "red", "PATH": "/bin"}}
    assert looks(zygote, **changed) == (supervisor, [str(directory), "0027", "red none /bin"])
    assert looks(zygote, env={"COLOUR": "blue"}, cwd="/")[1][:2] == ["/", found[1]]
    assert looks(zygote) == (supervisor, found)


def test_a_supervisor_that_has_handed_over_a_socket_takes_another_command(zygote, path):
    supervisor, found = looks(zygote)
    assert looks(zygote, listen=encode_address(path))[1][2].split()[1] == "1"
    assert_gone(path)
    assert looks(zygote) == (supervisor, found)


def test_at_the_same_time_each_has_a_supervisor_of_its_own(zygote):
    with zygote.supervise(["sleep", "1000"]) as one, zygote.supervise(["sleep", "1001"]) as other:
        assert parent(one.pid) != parent(other.pid)
        supervisors = {parent(one.pid), parent(other.pid)}
    with zygote.supervise(["sleep", "1000"]) as one, zygote.supervise(["sleep", "1001"]) as other:
        assert {parent(one.pid), parent(other.pid)} == supervisors


@pytest.mark.parametrize(
    "command",
    [
        "exit 3",
        "trap '' TERM; sleep 1000",
        "setsid sleep 1000 & exit 0",
        "kill -9 $$",
        "kill -STOP $$",
        "head -c 3000000 /dev/zero; sleep 1000",
    ],
)
def test_however_one_ends_the_next_has_its_supervisor_and_nothing_else_of_it(zygote, command):
    supervisor, found = looks(zygote)
    with zygote.supervise(["sh", "-c", command]) as process:
        process.end(0.1)
        assert looks(zygote) == (supervisor, found)
        with pytest.raises(AgentGone):
            process.tree()
        assert process.end() == process.returncode


def test_what_is_asked_of_one_that_has_ended_does_not_reach_the_next(zygote):
    with zygote.supervise(["sleep", "1000"]) as ended, zygote.supervise(["sleep", "1000"]) as other:
        ended.end()
        with zygote.supervise(["sleep", "1001"]) as process:
            for ask in (ended.tree, lambda: ended.send_signal(signal.SIGKILL), lambda: ended.signal_left(9)):
                with pytest.raises(AgentGone, match="has ended"):
                    ask()
            assert (ended.end(), ended.kill(), ended.wait(), ended.output()) == (-15, -15, -15, "")
            assert [one["command"] for one in process.tree()] == [["sleep", "1001"]]
            assert [one["command"] for one in other.tree()] == [["sleep", "1000"]]


def test_a_request_that_is_on_its_way_when_one_has_ended_is_nobodys(zygote):
    agent = zygote.info().pid
    with zygote.supervise(["sleep", "1000"]) as process:
        supervisor = parent(process.pid)
        os.kill(supervisor, signal.SIGSTOP)
        zygote._send({"id": -1, "op": "end", "child": process._number})
        zygote.info()  # which it answers when it has passed that on
        os.kill(agent, signal.SIGSTOP)
        os.kill(supervisor, signal.SIGCONT)
        until(lambda: not os.path.exists(f"/proc/{process.pid}"))
        select.select([], [], [], 0.1)  # in which its end is told, of which the agent does not know yet
        for op in ({"op": "supervise", "command": ["sleep", "1001"]}, {"op": "no-such"}, {}):
            zygote._send({"id": -1, "to": process._number, **op})
        os.kill(agent, signal.SIGCONT)
        assert process.wait(LIMIT) == process.end() == -9
        assert looks(zygote)[0] == supervisor


def test_half_a_request_is_no_harm_to_the_next(zygote):
    """The supervisor has read 64 KiB, the end of one and the beginning of another."""
    with zygote.supervise(["sleep", "1000"]) as process:
        supervisor = parent(process.pid)
        os.kill(supervisor, signal.SIGSTOP)
        zygote._send({"id": -1, "op": "end", "child": process._number})
        zygote._send({"id": -1, "to": process._number, "op": "tree", "more": "x" * 70_000})
        zygote.info()
        os.kill(supervisor, signal.SIGCONT)
        assert process.end() == -9
        for _ in range(SPARES):
            assert looks(zygote)


def test_the_next_finds_its_output_as_the_first_did(zygote):
    source = "import os\nprint(os.get_blocking(1), os.get_blocking(2))\nos.set_blocking(1, False)"
    for _ in range(2):
        with zygote.supervise([sys.executable, "-c", source]) as process:
            assert process.wait(LIMIT) == 0
            assert process.output() == "True True\n"


def test_one_is_started_elsewhere_though_the_agents_directory_cannot_be_passed_through(as_nobody, directory):
    source = """
import os, sys
from udslab.zygote import Zygote
os.chdir(sys.argv[1])
os.chmod(sys.argv[1], 0)
with Zygote() as zygote:
    for options in ({}, {"cwd": "/"}, {}):
        with zygote.supervise(["sh", "-c", "pwd"], **options) as process:
            process.wait(30)
            print(process.output().splitlines()[-1])
"""
    closed = directory / "closed"
    closed.mkdir()
    os.chown(closed, 65534, 65534)
    for above in (directory, directory.parent):
        above.chmod(0o755)
    done = as_nobody(source, closed, directory=directory)
    assert done.stdout.splitlines() == [str(closed), "/", str(closed)], done.stderr


def test_where_one_could_not_be_started_the_next_is(zygote):
    for _ in range(SPARES + 1):
        with pytest.raises(NoSuchPath):
            zygote.supervise(["/nowhere/at-all"])
    assert looks(zygote)


def test_a_supervisor_may_be_killed_between_two_commands(zygote):
    supervisor, found = looks(zygote)
    with pidfds([supervisor]) as fds:
        os.kill(supervisor, signal.SIGKILL)
        assert ended(fds, SOON) == 1
    other, again = looks(zygote)
    assert (other != supervisor, again) == (True, found)


def test_a_supervisor_between_two_commands_ends_with_the_agent(zygote):
    supervisor, _ = looks(zygote)
    with pidfds([supervisor]) as fds:
        zygote._process.kill()
        assert ended(fds, SOON) == 1


# What is killed


@pytest.mark.parametrize("how", [(), ("daemon",), ("stubborn",), ("daemon", "stubborn")])
def test_when_its_supervisor_is_killed_the_agent_kills_its_command(zygote, path, how):
    process = served(zygote, path, *how)
    pid, above = ask(path)
    supervisor = above if "daemon" in how else parent(pid)
    assert parent(supervisor) == zygote.info().pid
    with pidfds([supervisor, pid]) as fds:
        signal.pidfd_send_signal(fds[0], signal.SIGKILL)
        assert ended(fds, SOON) == 2
    assert_stale(path)
    assert process.gone_within(SOON)
    assert process.gone() == ("has ended with status 0" if "daemon" in how else "was ended by SIGKILL")
    assert zygote.alive
    with zygote.serve(path):
        assert_serving(path)


def test_when_the_agent_ends_a_killed_supervisors_command_has_gone_with_all_its_children(zygote):
    command = "(sleep 1000; :) & (sleep 1000 & sleep 1000 & wait; :) & wait"
    with zygote.supervise(["sh", "-c", command]) as process:
        pids = until(lambda: len(found := [one["pid"] for one in process.tree()]) == 6 and found)
        supervisor = parent(process.pid)
        with pidfds([zygote.info().pid, supervisor, *pids]) as fds:
            os.kill(supervisor, signal.SIGSTOP)  # so that the agent must kill it
            signal.pidfd_send_signal(fds[0], signal.SIGTERM)
            assert ended(fds[:1], SOON) == 1
            assert ended(fds, 0) == len(fds) == 8


@pytest.mark.parametrize("how", [(), ("daemon",), ("stubborn",), ("daemon", "stubborn")])
def test_when_the_agent_is_killed_everything_is_gone(zygote, path, how):
    process = served(zygote, path, *how)
    pid, above = ask(path)
    with pidfds([zygote.info().pid, above, pid]) as fds:
        signal.pidfd_send_signal(fds[0], signal.SIGKILL)
        assert ended(fds, SOON) == len(fds) == 3
    assert_stale(path)
    with pytest.raises(AgentGone):
        process.end()


@pytest.mark.parametrize("how", [(), ("daemon",), ("stubborn",), ("daemon", "stubborn")])
@pytest.mark.parametrize("stopped", [False, True])
def test_when_the_agent_is_told_to_end_everything_is_gone_soon(zygote, path, how, stopped):
    process = served(zygote, path, *how)
    pid, above = ask(path)
    if stopped:
        process.freeze() if "daemon" not in how else os.kill(pid, signal.SIGSTOP)
    with pidfds([zygote.info().pid, above, pid]) as fds:
        signal.pidfd_send_signal(fds[0], signal.SIGTERM)
        assert ended(fds, SOON) == len(fds) == 3
    (assert_stale if "stubborn" in how else assert_gone)(path)


# By the lab


def test_it_serves_in_its_block_and_has_gone_after_it(lab):
    with lab.process(server()) as process:
        assert_serving(process.path)
        assert ask(process.path)[0] == process.pid == process.tree()[0]
        assert process.returncode is None
        assert process.status().serving
        assert os.getcwd() == os.readlink(f"/proc/{process.pid}/cwd")
    assert (process.left, process.killed) == ([], False)
    assert_gone(process.path)
    assert not os.path.exists(f"/proc/{process.pid}")


def test_a_daemon_is_followed_and_ended(lab):
    with lab.process(server("daemon")) as process:
        pid, _ = ask(process.path)
        alone(process)
        assert (process.returncode, process.tree()) == (0, [pid])
        with pidfds([pid]) as fds:
            assert process.stop() == 0
            assert ended(fds, 0) == 1
    assert process.left == []


def test_it_may_be_at_a_path_of_ones_own(lab, path):
    with lab.process(server(), str(path)) as process:
        assert process.path == str(path)
        ask(path)
    assert_gone(path)
    assert path.parent.exists()


def test_what_it_leaves_at_its_end_is_told(lab):
    with lab.process(server("leaves", "code", 3)) as process:
        assert process.stop() == 3
        assert process.left == [f"socket file {process.path} (stale)"]
        assert not process.killed


def test_a_file_that_has_gone_when_its_block_ends_was_not_left(lab):
    with lab.process(server("leaves")) as process:
        process.stop()
        os.unlink(process.path)
    assert process.left == []


def put(make_socket, path):
    """Another one's stale file. On some file systems it gets the same inode; so it gets the time of a later bind at the
    least: those of one tick of the kernel's clock, some milliseconds, are alike."""
    coarse = 5  # CLOCK_REALTIME_COARSE, which Python has no name for: clock_gettime(2), by which files are stamped
    tick = time.clock_gettime_ns(coarse)
    until(lambda: time.clock_gettime_ns(coarse) > tick)
    make_socket(path).close()


def test_a_file_that_another_has_been_put_in_the_place_of_was_not_left(lab, make_socket):
    with lab.process(server("leaves")) as process:
        process.stop()
        os.unlink(process.path)
        put(make_socket, process.path)
    assert process.left == []


def test_a_file_that_is_there_when_its_block_ends_was_left(lab):
    with lab.process(server("leaves")) as process:
        process.stop()
    assert process.left == [f"socket file {process.path} (stale)"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("ends", [lambda process, number: process.send_signal(number), lambda p, n: os.kill(p.pid, n)])
def test_what_one_leaves_that_has_ended_before_its_block_is_told_unless_it_was_killed(lab, ends, number):
    with lab.process(server("leaves")) as process:
        ends(process, number)
        process.wait(LIMIT)
        until(process._process.gone)
    killed = number == signal.SIGKILL
    assert process.killed == killed
    assert process.left == ([] if killed else [f"socket file {process.path} (stale)"])


def test_a_file_that_another_has_put_in_the_place_of_one_that_ended_by_itself_was_not_left(lab, make_socket):
    with lab.process(server()) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)
        until(process._process.gone)
        put(make_socket, process.path)
    assert (process.left, process.killed) == ([], False)


@pytest.mark.parametrize(("how", "what"), [("leaves", "socket file"), ("stubborn", "process")])
def test_what_is_left_by_one_that_is_stopped_twice_is_told_once(lab, how, what):
    with lab.process(server(how)) as process:
        for _ in range(2):
            process.stop(0.05 if how == "stubborn" else LIMIT)
    (left,) = process.left
    assert left.startswith(what)


@pytest.mark.parametrize("again", [False, True])
def test_a_file_over_which_it_starts_anew_was_not_left_but_the_one_at_its_end(lab, again):
    with lab.process(server("leaves", "over")) as process:
        process.restart()
        assert process.left == []
        if not again:
            process.kill()
    assert process.left == ([f"socket file {process.path} (stale)"] if again else [])


@pytest.mark.parametrize("how", [(), ("leaves",)])
@pytest.mark.parametrize("first", ["old", "new"])
def test_of_two_at_one_path_who_has_bound_the_file_that_is_left_is_told_and_no_other(lab, how, first):
    with lab.process(server("leaves")) as old, lab.process(server("over", *how), old.path) as new:
        (old if first == "old" else new).stop()
        if first == "old":
            assert_serving(new.path)
        (new if first == "old" else old).stop()
        assert old.left == []
        assert new.left == ([f"socket file {new.path} (stale)"] if how else [])


@pytest.mark.parametrize("how", [(), ("daemon",)])
def test_a_file_that_it_has_bound_anew_and_leaves_is_told(lab, how):
    with lab.process(server("leaves", *how)) as process:
        before = os.stat(process.path).st_ino
        pid, _ = ask(process.path)
        os.kill(pid, signal.SIGHUP)
        until(lambda: process.status().inode not in (None, before) and process.status().serving)
        process.stop()
        assert process.left == [f"socket file {process.path} (stale)"]


def test_a_file_that_it_binds_after_it_was_ready_and_leaves_is_told(lab):
    source = SERVER.replace("listeners = ", 'print("ready", flush=True)\nlisteners = ', 1)
    command = [sys.executable, "-I", "-S", "-c", source, "{socket}", "leaves"]
    with lab.process(command, ready=LogLine("ready")) as process:
        until(lambda: process.status().serving)
        process.stop()
        assert process.left == [f"socket file {process.path} (stale)"]


def test_a_socket_that_it_has_handed_over_to_another_one_is_not_told(lab):
    source = "import socket, sys; s = socket.socket(1); s.bind(sys.argv[1]); s.listen(); c = s.accept()[0]; "
    source += "socket.send_fds(c, [b'x'], [s.fileno()]); c.recv(1)"
    with lab.process([sys.executable, "-c", source, "{socket}"]) as process:
        with lab.connect(process.path, timeout=LIMIT) as client:
            (listener,) = socket.recv_fds(client, 1, 1)[1]
            process.stop()
        try:
            assert_serving(process.path)
            assert process.left == []
        finally:
            os.close(listener)


def test_a_socket_that_another_one_has_bound_at_its_path_is_not_told(lab, make_socket):
    with lab.process(server("leaves")) as process:
        os.unlink(process.path)
        make_socket(process.path)  # bound, and does not listen yet
        process.stop()
        assert process.left == []


def test_what_had_to_be_killed_is_told(lab):
    with lab.process(server("stubborn")) as process:
        assert process.stop(0.05) == -9
        assert process.killed
        (left,) = process.left
        assert left.startswith(f"process {process.pid} ({sys.executable} -I -S -c ")
        assert left.endswith("), which had to be killed")
        assert_stale(process.path)


def test_a_killed_one_is_gone_with_all_of_it_and_leaves_its_file_stale(lab):
    with lab.process(server("daemon")) as process:
        pid, _ = ask(process.path)
        alone(process)
        with pidfds([pid]) as fds:
            assert process.kill() == 0  # its first process had ended well
            assert ended(fds, 0) == 1
        assert process.killed
        assert_stale(process.path)
    assert process.left == []  # it was the test that killed it


def test_a_restart_ends_it_and_starts_it_anew_at_the_same_path_and_keeps_its_log(lab):
    with lab.process(server()) as process:
        first, path = process.pid, process.path
        ask(path)  # it says that it is up after it has begun to listen
        process.restart()
        assert process.path == path
        assert ask(path)[0] == process.pid != first
        assert not os.path.exists(f"/proc/{first}")
        assert process.log() == f"up {first}\nup {process.pid}\n"
        assert (process.left, process.killed) == ([], False)


def test_after_a_restart_it_counts_as_killed_no_more_and_what_it_leaves_is_told(lab):
    with lab.process(server("leaves")) as process:
        process.kill()
        os.unlink(process.path)
        process.restart()
        assert not process.killed
        process.stop()
        assert process.left == [f"socket file {process.path} (stale)"]


def test_one_that_has_ended_by_itself_may_be_restarted(lab):
    with lab.process(server()) as process:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        process.restart()
        ask(process.path)


def test_a_paused_one_listens_and_answers_nobody_until_it_is_resumed(lab):
    with lab.process(server()) as process, lab.connect(process.path, timeout=LIMIT) as first:
        assert first.read_line()
        process.pause()
        with lab.connect(process.path, timeout=LIMIT) as client:
            assert not select.select([client], [], [], 0.05)[0]
            assert_serving(process.path)
            process.resume()
            assert client.read_line().split()[0] == b"%d" % process.pid
        process.pause()
    assert process.left == []
    assert_gone(process.path)


@pytest.mark.parametrize("how", ["daemon", "workers"])
def test_all_of_it_is_paused_and_resumed_and_ended(lab, how):
    with lab.process(server(how)) as process:
        if how == "daemon":
            alone(process._process)
        pids = until(lambda: len(found := process.tree()) == (1 if how == "daemon" else 4) and found)
        for _ in range(3):
            process.pause()
            assert {stat_of(pid)[0] for pid in pids} == {b"T"}
            with lab.connect(process.path, timeout=LIMIT) as client:
                assert_serving(process.path)
                process.resume()
                assert int(client.read_line().split()[0]) in pids
        process.pause()
    assert process.left == []
    assert_gone(process.path)


def test_a_signal_reaches_a_daemon(lab):
    with lab.process(server("daemon")) as process:
        alone(process._process)
        before = os.stat(process.path).st_ino
        process.send_signal(signal.SIGHUP)
        until(lambda: process.status().inode not in (None, before))
        process.send_signal(signal.SIGTERM)
        until(lambda: process.tree() == [])
        assert_gone(process.path)


def test_it_is_told_by_its_own_pid_when_it_does_not_end_or_has_ended(lab):
    with lab.process(server("code", 4)) as process:
        with pytest.raises(TimedOut, match=rf"pid {process.pid} has not ended within 0\.01 s"):
            process.wait(0.01)
        process.stop()
        told = f"pid {process.pid} has ended: exit status 4 .* last line: up {process.pid}$"
        for late in (process.pause, process.resume, lambda: process.send_signal(signal.SIGHUP)):
            with pytest.raises(AgentGone, match=told):
                late()


def test_it_has_this_processs_surroundings_as_they_are_now_and_what_is_given(lab, directory, monkeypatch):
    monkeypatch.setenv("UDSLAB_TEST_GONE", "x")
    lab.prepare("process")
    monkeypatch.delenv("UDSLAB_TEST_GONE")
    monkeypatch.setenv("UDSLAB_TEST_A", "a")
    monkeypatch.setenv("UDSLAB_TEST_B", "b")
    monkeypatch.chdir(directory)
    before = os.umask(0o027)
    source = 'echo "$UDSLAB_TEST_A${UDSLAB_TEST_GONE-}" "$UDSLAB_TEST_B" "$PWD" $(umask); exec sleep 1000'
    try:
        with lab.process(["sh", "-c", source], env={"UDSLAB_TEST_B": "c"}, ready=LogLine("\n")) as process:
            assert process.log() == f"a c {directory} 0027\n"
        with lab.process(["sh", "-c", source], cwd="/", umask=0o002, ready=LogLine("\n")) as process:
            assert process.log() == "a b / 0002\n"
    finally:
        os.umask(before)


def test_a_socket_can_be_handed_over_to_it(lab):
    with lab.process(server(), ready=Activated()) as process:
        assert process.status().serving
        assert ask(process.path)[0] == process.pid


def test_one_that_ends_before_it_serves_is_told_at_once_with_its_last_lines(lab):
    started = time.monotonic()
    with pytest.raises(UdsError) as caught, lab.process(["sh", "-c", "echo no configuration; exit 3"], timeout=LIMIT):
        pass
    assert time.monotonic() - started < LIMIT / 2
    text = str(caught.value)
    assert "sh has ended with status 3 and the path is absent" in text
    assert text.endswith("its last lines: no configuration")


HINT = "no word of the command names the path: write {socket} where it belongs"


@pytest.mark.parametrize(("command", "kind"), [(["sleep", "1000"], TimedOut), (["false"], UdsError)])
def test_one_that_is_not_told_its_path_is_told_so_when_it_does_not_serve(lab, command, kind):
    with pytest.raises(kind, match=re.escape(f": {HINT}: nothing serves the path: its last lines: ")):
        lab.process(command, timeout=0.1 if kind is TimedOut else LIMIT).__enter__()


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (["false", "{socket}"], {}),
        (["false", "--at=unix:{socket}"], {}),
        (["false", "s"], {"path": "s", "cwd": "/"}),
        (["false"], {"path": "/nowhere/s", "env": {"AT": "/nowhere/s"}}),
        (["false"], {"ready": [Activated(), LogLine("up")]}),
    ],
)
def test_one_that_gets_its_path_in_any_way_is_not_told_to_be_given_it(lab, command, given):
    with pytest.raises(UdsError) as caught:
        lab.process(command, timeout=LIMIT, **given).__enter__()
    assert HINT not in str(caught.value)


def test_one_that_finds_its_path_elsewhere_serves(lab, directory):
    (directory / "where").write_text(str(directory / "s"))
    source = SERVER.replace("path, *how = sys.argv[1:]", "path, how = open('where').read(), []")
    with lab.process([sys.executable, "-c", source], directory / "s", cwd=directory) as process:
        assert ask(process.path)[0] == process.pid


def test_one_that_never_serves_is_timed_out_and_ended(lab, marked, directory):
    looked = []

    def never(path):
        looked.append(marked(directory))
        return False

    with (
        pytest.raises(TimedOut),
        lab.process(["sleep", "1000"], env={"UDSLAB_TEST": str(directory)}, ready=Check(never), timeout=0.1),
    ):
        pass
    assert len(looked[-1]) == 1
    assert marked(directory) == set()


def test_a_command_that_is_not_there_leaves_nothing(lab):
    with pytest.raises(NoSuchPath), lab.process("/nowhere/at-all {socket}"):
        pass
    with lab.path() as path:
        assert os.listdir(os.path.dirname(os.path.dirname(path))) == [os.path.basename(os.path.dirname(path))]


def test_it_is_ended_also_when_its_block_is_left_by_an_error(lab):
    with pytest.raises(KeyError), lab.process(server()) as process:
        raise KeyError
    assert_gone(process.path)
    assert not os.path.exists(f"/proc/{process.pid}")


def test_at_the_labs_end_all_of_it_has_gone():
    with Lab() as lab:
        block = lab.process(server("daemon", "stubborn"))
        process = block.__enter__()  # which is left too late
        pid, _ = ask(process.path)
        with pidfds([pid]) as fds:
            lab.__exit__()
            assert ended(fds, SOON) == 1
        assert_gone(process.path)
        block.__exit__(None, None, None)


@pytest.mark.parametrize("how", [(), ("daemon",)])
def test_a_forked_child_that_leaves_its_block_ends_nothing_and_takes_nothing_of_what_comes(lab, how, in_child):
    block = lab.process(server(*how))
    process = block.__enter__()

    def leave():
        log = process.log()
        block.__exit__(None, None, None)
        return [log, *process.left]

    assert in_child(leave) == [""]
    assert ask(process.path)[0] in process.tree()
    os.kill(process.tree()[-1], signal.SIGTERM)

    def late():
        with pytest.raises(AgentGone, match="was forked from"):
            process._process.gone()

    assert in_child(late) is None
    assert process._process.gone_within(LIMIT)
    block.__exit__(None, None, None)
    assert process.left == []


def test_who_listened_there_before_does_not_count(lab, make_socket):
    with lab.path() as path:
        make_socket(path, backlog=1)
        with (
            pytest.raises(UdsError, match="has ended with status 1 and the path is listening") as caught,
            lab.process(["sh", "-c", "exit 1"], path),
        ):
            pass
        assert caught.value.errno == errno.ECHILD
        assert_serving(path)


@pytest.mark.parametrize("number", range(5))
def test_one_that_has_ended_before_it_is_waited_for_is_told_at_once(lab, number):
    with pytest.raises(UdsError, match="has ended with status 1") as caught, lab.process(["false"], timeout=LIMIT):
        pass
    assert not isinstance(caught.value, TimedOut)


def test_paths_may_be_path_objects(lab, directory):
    with lab.process(server(), directory / "s", cwd=directory) as process:
        assert process.path == str(directory / "s")
        assert_serving(directory / "s")


def test_a_relative_path_is_one_in_this_processs_directory_also_when_that_is_another_later(lab, directory, monkeypatch):
    monkeypatch.chdir(directory)
    with lab.process(server("leaves"), "s") as process:
        monkeypatch.chdir("/")
        assert process.path == str(directory / "s")
        assert ask(process.path)[0] == process.pid
    assert process.left == [f"socket file {process.path} (stale)"]


def test_a_relative_path_is_one_in_the_servers_directory(lab, directory, monkeypatch):
    (directory / "inner").mkdir()
    monkeypatch.chdir(directory)
    for cwd in (directory / "inner", "inner"):
        with lab.process(server(), "s", cwd=cwd) as process:
            assert process.path == str(directory / "inner" / "s")
            assert ask(process.path)[0] == process.pid


def test_a_relative_path_may_be_one_in_a_directory_that_is_too_deep_for_a_socket(lab, directory, monkeypatch):
    deep = directory / ("d" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    for given in ({}, {"cwd": deep}):
        with lab.process(server(), "s", **given) as process:
            assert ask(process.path)[0] == process.pid


def test_where_this_processs_directory_has_been_removed_that_is_told_and_another_one_does(lab, directory, monkeypatch):
    lab.prepare("process")
    (directory / "gone").mkdir()
    monkeypatch.chdir(directory / "gone")
    (directory / "gone").rmdir()
    with pytest.raises(NoSuchPath, match=r"/gone \(deleted\): No such file .* is not there any more; give cwd="):
        lab.process(server()).__enter__()
    with lab.process(server(), cwd=directory) as process:
        assert ask(process.path)[0] == process.pid


def test_an_abstract_name_is_no_path_in_a_directory(lab):
    source = "import socket, sys; s = socket.socket(1); s.bind(chr(0) + sys.argv[1][1:]); s.listen(); s.accept()"
    name = f"@udslab-test-{os.urandom(4).hex()}"
    with lab.process([sys.executable, "-c", source, "{socket}"], name) as process:
        assert process.path == name
        assert_serving(name)


def test_its_stop_signal_may_be_another(lab):
    source = "import signal, socket, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]); "
    source += "s = socket.socket(1); s.bind(sys.argv[1]); s.listen(); signal.sigwait([signal.SIGINT]); sys.exit(7)"
    with lab.process([sys.executable, "-c", source, "{socket}"], stop_signal=signal.SIGINT) as process:
        assert process.stop() == 7
