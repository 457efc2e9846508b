"""A command is followed through its forks, and nothing of it is left when it has been ended."""

from __future__ import annotations

import errno
import os
import pwd
import select
import signal
import socket
import sys
import time

import pytest

from udslab import NoSuchPath, UdsError
from udslab.errors import AccessDenied, AddressInUse
from udslab.spawn import Process
from udslab.testing import assert_gone, assert_serving
from udslab.wire import Lines, decode_error, encode_address, line

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
DRIVER = """
import os, socket, sys
from udslab.supervisor import rehearse, supervise
from udslab.wire import Lines, encode_error, line
channel = socket.socket(fileno=os.dup(0))
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
os.close(null)
rehearse()  # as an agent's children do
channel.sendall(b"{}\\n")
lines = Lines()
message = next(lines.feed(channel.recv(1 << 16)))
try:
    supervise(channel, message, lines)
    code = 0
except OSError as error:
    channel.sendall(line({"error": encode_error(error)}))
    code = 1
channel.close()
sys.exit(code)
"""
WAITS = "import signal\nwhile True: signal.pause()\n"
SAYS = "print(f'{os.getpid()}\\n', end='', flush=True)  # in one piece, also where Python does not buffer\n"
IGNORES_SIGTERM = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SAYS + WAITS
DAEMON = """
import os, sys
if os.fork():
    os.wait()
    sys.exit(0)
os.setsid()
if os.fork():
    os._exit(0)
"""
"""Forks twice, with a session of its own between; its main process exits when that is done."""


def python(source, *arguments):
    return [sys.executable, "-c", source, *map(str, arguments)]


class Driver:
    """What an agent is to a supervisor."""

    def __init__(self, process, channel):
        self.process = process
        self._channel = channel
        self._lines = Lines()
        self._heard = []
        channel.settimeout(LIMIT)
        assert self.hear() == {}

    def tell(self, **message):
        self._channel.sendall(line(message))

    def hear(self):
        while not self._heard:
            data = self._channel.recv(1 << 16)
            if not data:
                return None
            self._heard += self._lines.feed(data)
        return self._heard.pop(0)

    def ask(self, **message):
        self.tell(id=7, **message)
        answer = self.hear()
        assert answer.pop("id") == 7
        if "error" in answer:
            raise decode_error(answer["error"])
        return answer["result"]

    def start(self, *command, **message):
        """Give it the command; the main process's pid."""
        self.tell(op="start", command=command, **message)
        answer = self.hear()
        if "error" in answer:
            raise decode_error(answer["error"])
        return answer["result"]["main"]

    def said(self, count):
        """The numbers that the command has written, when there are so many."""
        end = time.monotonic() + LIMIT
        while len(numbers := self.process.output().split()) < count:
            assert time.monotonic() < end
            time.sleep(0.002)  # nothing tells
        return list(map(int, numbers))

    def until_below(self, *commands):
        """What lives below when all of these do: a shell forks before it becomes what it starts."""
        end = time.monotonic() + LIMIT
        while True:
            found = self.ask(op="tree")
            if all(command in [process["command"] for process in found] for command in commands):
                return found
            assert time.monotonic() < end

    def finish(self):
        """What it tells until its end; it then exits with 0."""
        told = list(iter(self.hear, None))
        assert self.process.wait(LIMIT) == 0
        return told

    def close(self):
        self._channel.close()


@pytest.fixture
def drive(environment, sockets):
    """Starts a supervisor. At the end nothing is below it, and it has ended with nothing to complain about."""

    def start(*prefix):
        ours, theirs = socket.socketpair()
        sockets.enter_context(ours)
        with theirs:
            command = [*prefix, sys.executable, "-W", "error", "-c", DRIVER]
            process = sockets.enter_context(Process(command, env=environment, stdin=theirs.fileno()))
        # By the end of its channel, before the signal that Process sends: that would orphan what it has started.
        sockets.callback(process.exits_within, LIMIT)
        sockets.callback(ours.close)
        return Driver(process, ours)

    return start


@pytest.fixture
def driver(drive):
    return drive()


def assert_gone_all(pids):
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}"), pid


def field(pid, name):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))


# Starting


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -2 $$", -2)])
def test_it_tells_the_exit_code(driver, command, code):
    driver.start("sh", "-c", command)
    assert driver.hear() == {"event": "exited", "code": code, "left": []}
    assert driver.hear() == {"event": "gone"}
    driver.tell(op="end", grace=LIMIT)
    assert driver.finish() == [{"event": "ended", "code": code, "killed": []}]


def test_the_command_finds_what_it_was_given(driver, directory):
    source = "import os\nprint(os.environ['A'], os.getcwd(), os.getsid(0) == os.getpgrp() == os.getpid())"
    driver.start(*python(source), env={"A": "x"}, cwd=str(directory))
    assert driver.hear()["code"] == 0
    assert driver.process.output() == f"x {directory} True\n"


def test_it_is_looked_for_in_the_commands_own_path(driver, directory):
    script = directory / "only-here"
    script.write_text("#!/bin/sh\nexit 5\n")
    script.chmod(0o755)
    driver.start("only-here", env={"PATH": str(directory)})
    assert driver.hear()["code"] == 5


def test_it_has_all_signals_at_their_defaults_and_let_through(drive):
    driver = drive("sh", "-c", 'trap "" INT QUIT HUP PIPE USR1; exec "$@"', "sh")
    main = driver.start(*python("print(1, flush=True)\n" + WAITS))
    driver.said(1)
    ignored, blocked = (int(field(main, name), 16) for name in ("SigIgn", "SigBlk"))
    # Python ignores two of its own accord; and posix_spawn has 32 and 33, the C library's own, ignored.
    ours = sum(1 << number - 1 for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ})
    assert (ignored & ours, blocked) == (0, 0)
    driver.tell(op="kill")


def test_it_holds_no_descriptor_of_the_supervisors(driver):
    driver.start(*python("import os\nprint(os.listdir('/proc/self/fd'))"))
    assert driver.hear()["code"] == 0
    assert driver.process.output() == "['0', '1', '2', '3']\n"  # the last is that of the listing


HERE = "the command's directory (cwd=) has to be there, and user {user} to be let in"


@pytest.mark.parametrize(
    ("name", "cwd", "number", "file", "hint"),
    [
        ("no-such-command", None, errno.ENOENT, "no-such-command", "is it installed there?"),
        ("/no/such/command", None, errno.ENOENT, "/no/such/command", "is it installed there?"),
        ("{here}/plain/s", None, errno.ENOTDIR, "{here}/plain/s", "is it installed there?"),
        ("{here}", None, errno.EACCES, "{here}", "it is a directory"),
        ("{here}/plain", None, errno.EACCES, "{here}/plain", "it is not executable: chmod +x"),
        ("./plain", "{here}", errno.EACCES, "./plain", "it is not executable: chmod +x"),
        ("plain", None, errno.EACCES, "plain", "it is not executable: chmod +x"),
        ("{here}/bare", None, errno.ENOEXEC, "{here}/bare", "it has no #! line, and is no program of this machine"),
        ("{here}/lost", None, errno.ENOENT, "{here}/lost", "it is there, and its interpreter /no/such is not"),
        ("{here}/spaced", None, errno.ENOENT, "{here}/spaced", "it is there, and its interpreter /no/such is not"),
        (
            "{here}/barred",
            None,
            errno.EACCES,
            "{here}/barred",
            "user {user} may not execute its interpreter {here}/plain",
        ),
        ("true", "/no/such/directory", errno.ENOENT, "/no/such/directory", HERE),
        ("true", "{here}/plain", errno.ENOTDIR, "{here}/plain", HERE),
    ],
)
@pytest.mark.parametrize("activated", [False, True])
def test_what_cannot_be_started_is_told_with_what_is_so(
    driver, directory, scripts, name, cwd, number, file, hint, activated
):
    places = {"here": scripts, "user": pwd.getpwuid(os.geteuid()).pw_name}
    message = {"changes": {"PATH": f"{os.defpath}:{scripts}"}}
    if cwd is not None:
        message["cwd"] = cwd.format(**places)
    if activated:
        message["listen"] = encode_address(directory / "s")
    with pytest.raises(UdsError) as caught:
        driver.start(name.format(**places), **message)
    error = caught.value
    assert (error.errno, error.filename, error.hint) == (number, file.format(**places), hint.format(**places))
    assert isinstance(error, {errno.EACCES: AccessDenied, errno.ENOEXEC: UdsError}.get(number, NoSuchPath))
    assert driver.hear() is None
    assert driver.process.wait(LIMIT) == 1
    assert_gone(directory / "s")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start it as another user")
@pytest.mark.parametrize(
    ("name", "mode", "hint"),
    [
        ("{here}/own", 0o755, "user nobody may not execute it"),
        ("own", 0o755, "user nobody may not execute it"),
        ("{here}/own", 0o700, "user nobody may not search {here}, where it may be"),
        ("own", 0o700, "user nobody may not search {here}, where it may be"),
        ("{here}/inner/deeper/program", 0o700, "user nobody may not search {here}, where it may be"),
        ("{here}/inner/deeper/program", 0o755, "user nobody may not search {here}/inner, where it may be"),
        ("{here}/link", 0o755, "user nobody may not search {here}/inner, where it may be"),
    ],
)
def test_what_its_user_may_not_start_is_told_with_that_user(driver, scripts, name, mode, hint):
    for above in (scripts.parent, scripts.parent.parent):
        above.chmod(0o711)
    scripts.chmod(mode)
    user = pwd.getpwnam("nobody")
    who = {"uid": user.pw_uid, "gid": user.pw_gid, "groups": []}
    with pytest.raises(AccessDenied) as caught:
        driver.start(name.format(here=scripts), changes={"PATH": f"{os.defpath}:{scripts}"}, user=who)
    assert caught.value.hint == hint.format(here=scripts)


@pytest.fixture
def scripts(directory):
    """A directory of what cannot be started."""
    here = directory / "scripts"
    here.mkdir()
    for name, text, mode in (
        ("plain", "#!/bin/sh\n", 0o644),
        ("bare", "echo no shebang\n", 0o755),
        ("lost", "#!/no/such -x\n", 0o755),
        ("spaced", "#! /no/such\n", 0o755),
        ("barred", f"#!{here}/plain\n", 0o755),
        ("own", "#!/bin/sh\n", 0o700),
    ):
        (here / name).write_text(text)
        (here / name).chmod(mode)
    (here / "link").symlink_to("inner/deeper/program")
    (here / "inner" / "deeper").mkdir(parents=True)
    (here / "inner").chmod(0o700)
    return here


# Requests


def test_signals_go_to_the_main_process(driver):
    source = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
    main = driver.start(*python(source + "print(1, flush=True)\nsignal.sigwait([signal.SIGUSR1])\nexit(4)\n"))
    driver.said(1)
    assert driver.ask(op="signal", signal=signal.SIGUSR1) == [main]
    assert driver.hear()["code"] == 4
    assert driver.hear() == {"event": "gone"}
    assert driver.ask(op="signal", signal=signal.SIGUSR1) == []


def test_a_signal_may_go_to_the_process_group_of_the_main_process(driver):
    source = f"""
import os
if not os.fork():
    os.setpgid(0, 0)
if not os.fork():
    os.setsid()
os.fork()
{SAYS}{WAITS}"""
    main = driver.start(*python(source))
    said = driver.said(8)
    group = {pid for pid in said if os.getpgid(pid) == main}
    assert len(group) == 2
    assert set(driver.ask(op="signal", signal=signal.SIGUSR1, left=True, group=True)) == group
    exited = driver.hear()
    assert exited["code"] == -signal.SIGUSR1
    assert set(exited["left"]) >= set(said) - group  # the rest of the group may still be ending
    driver.tell(op="kill")
    driver.finish()


def test_it_is_stopped_when_sigstop_is_answered(driver):
    main = driver.start("sleep", "60")
    for _ in range(20):
        assert driver.ask(op="signal", signal=signal.SIGSTOP) == [main]
        assert field(main, "State") == "T"
        assert driver.ask(op="signal", signal=signal.SIGCONT) == [main]
    driver.tell(op="kill")
    assert driver.finish()[-1]["code"] == -9


def test_all_is_stopped_when_freeze_is_answered_and_goes_on_after_thaw(driver):
    main = driver.start("sh", "-c", "sleep 60 & setsid sh -c 'sleep 60 & echo 1; wait' & wait")
    driver.said(1)
    pids = {one["pid"] for one in driver.ask(op="tree")}
    assert main in pids
    for _ in range(20):
        assert set(driver.ask(op="freeze")) == pids
        assert {field(pid, "State") for pid in pids} == {"T"}
        assert set(driver.ask(op="thaw")) == pids
        assert not {field(pid, "State") for pid in pids} & {"T"}
    driver.tell(op="kill")
    driver.finish()


def test_who_is_just_forking_is_stopped_with_its_children(driver):
    source = """
import os, time
print(1, flush=True)
while True:
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(0.002)
            os._exit(0)
    for _ in range(4):
        os.wait()
"""
    driver.start(*python(source))
    driver.said(1)
    for _ in range(200):
        stopped = driver.ask(op="freeze")
        living = [one["pid"] for one in driver.ask(op="tree")]
        assert set(living) <= set(stopped)
        assert {field(pid, "State") for pid in living} == {"T"}
        driver.ask(op="thaw")
    driver.tell(op="kill")
    driver.finish()


def test_one_that_waits_for_its_frozen_children_ends(driver):
    source = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.pause()
print(child, flush=True)
signal.sigwait({signal.SIGTERM})
os.kill(child, signal.SIGTERM)
os.waitpid(child, 0)
os._exit(4)
"""
    driver.start(*python(source))
    driver.said(1)
    driver.ask(op="freeze")
    driver.tell(op="end", grace=LIMIT)
    told = driver.finish()
    assert (told[-1]["code"], told[-1]["killed"]) == (4, [])


def test_what_cannot_be_done_is_told(driver):
    driver.start("sleep", "60")
    with pytest.raises(UdsError, match="EINVAL"):
        driver.ask(op="signal", signal=1000)
    with pytest.raises(UdsError, match="no-such"):
        driver.ask(op="no-such")
    driver.tell(op="kill")
    driver.finish()


def test_it_tells_all_that_lives_below(driver):
    main = driver.start("sh", "-c", "(sleep 61 & sleep 62 & wait) & wait")
    found = driver.until_below(["sleep", "61"], ["sleep", "62"])
    assert len(found) == 4
    assert main in [process["pid"] for process in found]
    driver.tell(op="kill")
    assert len(driver.finish()[-1]["killed"]) == 4
    assert_gone_all(process["pid"] for process in found)


# Ending


def test_it_is_ended_by_sigterm(driver):
    driver.start("sleep", "60")
    driver.tell(op="end", grace=LIMIT)
    assert driver.finish() == [
        {"event": "exited", "code": -15, "left": []},
        {"event": "gone"},
        {"event": "ended", "code": -15, "killed": []},
    ]


def test_one_that_ignores_sigterm_is_killed_after_the_grace(driver):
    command = python(IGNORES_SIGTERM)
    main = driver.start(*command)
    driver.said(1)
    driver.tell(op="end", grace=0.05)
    assert driver.finish()[-1] == {"event": "ended", "code": -9, "killed": [{"pid": main, "command": command}]}


def test_a_stopped_one_ends_by_sigterm(driver):
    driver.start("sleep", "60")
    driver.ask(op="signal", signal=signal.SIGSTOP)
    driver.tell(op="end", grace=LIMIT)
    assert driver.finish()[-1] == {"event": "ended", "code": -15, "killed": []}


def test_kill_does_not_wait_for_a_grace(driver):
    driver.start(*python(IGNORES_SIGTERM))
    driver.said(1)
    driver.tell(op="end", grace=1000)
    driver.tell(op="kill")
    assert driver.finish()[-1]["code"] == -9


def test_a_request_that_comes_in_one_piece_with_the_command_is_heeded(driver):
    driver._channel.sendall(line({"op": "start", "command": ["sleep", "60"]}) + line({"op": "kill"}))
    assert "main" in driver.hear()["result"]
    assert driver.finish()[-1]["code"] == -9


# What forks


def test_a_daemon_is_followed_and_gets_sigterm(driver):
    source = DAEMON + "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n" + SAYS
    driver.start(*python(source + "signal.sigwait([signal.SIGTERM])\n"))
    exited = driver.hear()
    assert (exited["code"], len(exited["left"])) == (0, 1)
    (daemon,) = driver.said(1)
    assert exited["left"] == [daemon]
    assert field(daemon, "PPid") == str(driver.process.pid)
    assert driver.ask(op="signal", signal=signal.SIGTERM) == []
    driver.tell(op="end", grace=LIMIT)
    assert driver.finish() == [{"event": "gone"}, {"event": "ended", "code": 0, "killed": []}]
    assert_gone_all([daemon])


def test_a_daemon_gets_sigterm_also_when_its_first_process_is_just_about_to_end(driver):
    launcher = "import os, sys, time\nif os.fork():\n    end = time.monotonic() + 0.3\n"
    launcher += "    while time.monotonic() < end: pass\n    os._exit(0)\n"
    driver.start(*python(launcher + SAYS + WAITS))
    (daemon,) = driver.said(1)
    driver.tell(op="end", grace=LIMIT)
    assert driver.hear() == {"event": "exited", "code": 0, "left": [daemon]}
    assert driver.hear() == {"event": "gone"}
    assert driver.hear() == {"event": "ended", "code": 0, "killed": []}
    driver.finish()


def test_a_signal_may_go_to_the_daemon_that_the_main_process_has_left(driver):
    driver.start(*python(DAEMON + SAYS + WAITS))
    (daemon,) = driver.hear()["left"]
    assert driver.ask(op="signal", signal=signal.SIGUSR1, left=True) == [daemon]
    assert driver.hear() == {"event": "gone"}
    driver.tell(op="end", grace=LIMIT)
    driver.finish()
    assert_gone_all([daemon])


def test_two_that_are_told_one_after_the_other_start_at_the_same_instant(drive):
    drivers = [drive(), drive()]
    at = time.monotonic() + 1.0
    earliest = time.time() + 1.0
    for driver in drivers:
        driver.tell(op="start", command=["sh", "-c", "date +%s%N"], at=at)
    assert time.monotonic() < at
    for driver in drivers:
        assert "result" in driver.hear()
    for driver in drivers:
        (start,) = driver.said(1)
        assert earliest - 0.01 < start / 1e9 < earliest + LIMIT  # two clocks; and a busy machine


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_it_runs_as_another_user(driver, directory):
    user = {"uid": 65534, "gid": 65533, "groups": [65532]}
    driver.start("sh", "-c", "id -u; id -ru; id -g; id -rg; id -G", user=user, cwd="/")
    assert driver.said(5) == [65534, 65534, 65533, 65533, 65533, 65532]


def test_it_has_no_room_for_another_file_until_it_is_given_back(driver, directory):
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    source = "import os, sys\nprint(1, flush=True)\nfor _ in open(sys.argv[1]):\n"
    source += (
        "    try: os.close(os.dup(0)); print(2, flush=True)\n    except OSError as e: print(e.errno, flush=True)\n"
    )
    main = driver.start(*python(source, fifo))
    with open(fifo, "w", buffering=1) as teller:
        driver.said(1)
        assert driver.ask(op="open_files", room=False, pids=[main]) == [main]
        teller.write("try\n")
        assert driver.said(2)[-1] == errno.EMFILE
        assert driver.ask(op="open_files", room=True) == [main]
        teller.write("try\n")
        assert driver.said(3)[-1] == 2
        assert driver.ask(op="open_files", room=True) == []


def test_who_is_forked_without_room_gets_it_too_and_others_are_left_alone(driver, directory):
    """The main process keeps its limit, its child has none, and the child's child is forked then."""
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    source = f"""
import os, signal, sys, time
print(os.getpid(), flush=True)
if os.fork():
    os.wait()
print(os.getpid(), flush=True)
open(sys.argv[1]).read()
if os.fork():
    os.wait()
{SAYS}{WAITS}
"""
    main = driver.start(*python(source, fifo))
    child = driver.said(2)[1]

    def limits(pid):
        with open(f"/proc/{pid}/limits") as file:
            return next(found for found in file if found.startswith("Max open files"))

    before = limits(main)
    fd = os.open(fifo, os.O_WRONLY)
    try:
        assert driver.ask(op="open_files", room=False, pids=[child]) == [child]
        assert limits(main) == before != limits(child)
    finally:
        os.close(fd)
    grandchild = driver.said(3)[2]
    assert limits(grandchild) == limits(child)
    assert sorted(driver.ask(op="open_files", room=True)) == sorted([child, grandchild])
    assert limits(main) == limits(child) == limits(grandchild) == before


def test_the_end_of_a_daemon_is_told(driver):
    driver.start(*python(DAEMON + SAYS + WAITS))
    assert driver.hear()["left"] == driver.said(1)
    os.kill(driver.said(1)[0], signal.SIGKILL)
    assert driver.hear() == {"event": "gone"}


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "sleep 60 & echo $!"],
        ["sh", "-c", "setsid sleep 60 & sleep 0.05; echo $!"],
        python(DAEMON + IGNORES_SIGTERM),
        python("import os\nif os.fork():\n    os._exit(0)\nos.setpgid(0, 0)\n" + IGNORES_SIGTERM),
    ],
    ids=["in the background", "setsid", "a daemon that ignores SIGTERM", "a process group of its own"],
)
@pytest.mark.parametrize("how", ["end", "kill", "close"])
def test_what_the_main_process_leaves_is_ended(driver, command, how):
    driver.start(*command)
    left = driver.hear()["left"]
    pids = driver.said(1)
    assert left == pids
    if how == "close":
        driver.close()
        assert driver.process.wait(LIMIT) == 0
    else:
        driver.tell(op=how, **({"grace": 0.05} if how == "end" else {}))
        assert driver.finish()[-1]["code"] == 0
    assert_gone_all(pids)


def test_what_lives_when_the_main_process_has_ended_is_told_and_killed_at_once(driver):
    driver.start("sh", "-c", "sleep 60 & echo $!; wait")
    (left,) = driver.said(1)
    driver.until_below(["sleep", "60"])
    driver.tell(op="end", grace=1000)
    exited, gone, ended = driver.finish()
    assert exited == {"event": "exited", "code": -15, "left": [left]}
    assert gone == {"event": "gone"}
    assert ended == {"event": "ended", "code": -15, "killed": [{"pid": left, "command": ["sleep", "60"]}]}


FORKS_CHILDREN = "import os, signal\nwhile True:\n    if not os.fork():\n        signal.pause()\n    SAYS\n"
FORKS_SUCCESSORS = "import os\nfor number in range(100000):\n    if os.fork():\n        os._exit(0)\n    SAYS\n"
FORKS_TREES = "import os, signal\nfor number in range(9):\n    os.fork()\nSAYS\nsignal.pause()\n"


@pytest.mark.parametrize("source", [FORKS_CHILDREN, FORKS_SUCCESSORS, FORKS_TREES])
@pytest.mark.parametrize("how", ["kill", "close"])
def test_what_forks_without_end_loses(driver, source, how):
    driver.start(*python(source.replace("SAYS\n", SAYS)))
    driver.said(20)
    if how == "close":
        driver.close()
    else:
        driver.tell(op="kill")
    assert driver.process.wait(3 * LIMIT) == 0  # thousands have been made meanwhile, if the machine is busy
    assert_gone_all(driver.said(20))


def test_all_is_ended_though_one_is_nested_deep(driver):
    driver.start(*python("import os, signal\nfor _ in range(60):\n    if os.fork():\n        break\n" + SAYS + WAITS))
    pids = driver.said(60)
    driver.tell(op="kill")
    assert len(driver.finish()[-1]["killed"]) >= 60
    assert_gone_all(pids)


def test_what_is_below_goes_up_when_the_supervisor_is_killed(drive, environment):
    """To whoever is the next subreaper, as an agent is."""
    main = (driver := drive()).start("sleep", "60")
    pidfd = os.pidfd_open(main)
    try:
        os.kill(driver.process.pid, signal.SIGKILL)
        assert driver.process.wait(LIMIT) == -9
        assert field(main, "PPid") != str(driver.process.pid)
        os.kill(main, signal.SIGKILL)
        assert select.select([pidfd], [], [], LIMIT)[0]
    finally:
        os.close(pidfd)


# Handed-over sockets

ACTIVATED = """
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
sock = socket.socket(fileno=3)
print(1, flush=True)
peer = sock.accept()[0]
peer.sendall(peer.recv(100).upper())
"""


def test_a_listening_socket_is_handed_over(driver, path):
    driver.start(*python(ACTIVATED), listen=encode_address(path))
    assert_serving(path)  # from its start on
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT)
        client.connect(str(path))
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    assert driver.hear()["code"] == 0
    driver.tell(op="end", grace=LIMIT)
    driver.finish()
    assert_gone(path)


def test_a_datagram_socket_is_handed_over(driver, path):
    source = "import socket\nprint(socket.socket(fileno=3).recv(100))"
    driver.start(*python(source), listen=encode_address(path), options={"type": "dgram", "mode": 0o600})
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", str(path))
    assert driver.hear()["code"] == 0
    assert driver.process.output() == "b'hello'\n"


def test_a_path_in_use_is_told(driver, path, make_socket):
    make_socket(path, backlog=1)
    with pytest.raises(AddressInUse):
        driver.start("true", listen=encode_address(path))
    assert_serving(path)
