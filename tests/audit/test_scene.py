"""Where a probe is played: what is seen and noted there, of which file, and that nothing of it is left."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import stat
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from udslab.audit import Subject
from udslab.audit.ping import Ping
from udslab.audit.scene import Claim, Scene, Skipped, Start, sockets_at
from udslab.audit.subject import Places
from udslab.deadline import Deadline
from udslab.obstacles import Obstacle, obstacle
from udslab.state import State, status

PATIENCE = 10.0


@pytest.fixture
def scene(host, planted):
    """Makes a scene of a planted server."""

    def make(traits: str = "perfect", patience: float = PATIENCE, command: list[str] | None = None, **fields) -> Scene:
        return Scene(Subject(command or planted(traits), **{"ping": "echo", **fields}), host, patience)

    return make


def test_its_path_is_short_and_the_servers_user_may_write_there(scene, host):
    with scene(socket_name="its-own.sock") as made:
        assert os.path.basename(made.path) == "its-own.sock"
        assert len(made.path) < 60
        found = os.stat(os.path.dirname(made.path))
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (host.user.uid if host.user else os.geteuid(), 0o755)
    assert not os.path.exists(made.top)


def test_places_are_put_in_literally_wherever_they_stand(scene):
    with scene() as made:
        instance = made.instance()
        words = ["{socket}", "a={parent}/{name}", "{dir}{dir}", "{}", "{other}", "{0!r}", "{{socket}}"]
        path, dir = made.path, instance.dir
        filled = [path, f"a={path}", dir + dir, "{}", "{other}", "{0!r}", f"{{{path}}}"]
        assert instance.fill(words) == filled
        assert instance.fill(["{socket}"], "/elsewhere") == ["/elsewhere"]
    assert Places("/a/b", "/{socket}").fill("{dir}") == "/{socket}"


def test_each_instance_has_a_directory_of_its_own(scene):
    with scene(files={"config": "x"}) as made:
        one, two = made.instance(), made.instance()
        assert one.dir != two.dir
        assert os.path.samefile(os.path.dirname(one.dir), made.top)
        assert one.path == two.path == made.path


# Starts


def until(condition) -> None:
    """Wait for what no event tells."""
    deadline = Deadline(PATIENCE)
    while not condition():
        assert not deadline.passed
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("traits", "start", "note"),
    [
        ("perfect", Start.SERVES, r"one serves the path after \d+\.\d\d s; the path: listening stream, inode \d+, .*"),
        ("fork=daemon-twice", Start.SERVES, r"one serves the path after .*"),
        ("fork=daemon-late", Start.SERVES, r"one serves the path after .*"),
        ("start=exit-3", Start.EXITED, r"its last line: \(nothing\)"),
        ("start=never", Start.HANGS, r"its last line: waiting"),
        ("start=bound", Start.HANGS, r"its last line: waiting"),
        ("exists=elsewhere", Start.SERVES, r"one serves the path after .*"),
    ],
)
def test_how_a_start_has_gone_is_noted(scene, traits, start, note):
    with scene(traits) as made:
        run = made.instance().start("one")
        if start is Start.HANGS:
            until(run.lines)
            made.patience = 1.5
        assert run.settle() is start
        assert re.fullmatch(note, made.evidence[-1])
        assert run.gone == (start is Start.EXITED)
        if start is Start.HANGS:
            assert made.evidence[-2] == "one neither serves the path nor has ended after 2 s"
        if start is Start.EXITED:
            assert made.evidence[-2] == "one has ended with status 3"


@pytest.mark.parametrize(
    ("traits", "number", "may"),
    [
        ("perfect", signal.SIGTERM, False),
        ("int=leave", signal.SIGINT, True),
        ("term=leave", signal.SIGTERM, True),
        ("fork=daemon", signal.SIGTERM, True),  # its first process had ended before
    ],
)
def test_who_may_have_died_of_a_signal_before_its_handler_came_is_told(scene, traits, number, may):
    with scene(traits) as made:
        run = made.first()
        assert run.ends_by(number)
        assert run.may_have_died_of(number) == may


def test_a_shell_that_tells_of_the_signal_by_its_status_may_have_died_of_it(scene, planted):
    start = '"$@" & trap "kill $!; wait; exit 143" TERM; wait'
    with scene(command=["sh", "-c", start, "sh", *planted("term=leave")]) as made:
        run = made.first()
        assert run.ends_by(signal.SIGTERM)
        assert run.how() == "has ended with status 143"
        assert run.may_have_died_of(signal.SIGTERM)


def test_whose_children_orphans_are_is_told(scene, planted):
    waits = "import os, time\nif os.fork(): os._exit(0)\nprint(1, flush=True)\nwhile os.getppid() != 1: time.sleep(0.1)"
    with scene(command=[planted()[0], "-c", waits, "{socket}"], ping=None) as made:
        run = made.instance().start("one")
        until(run.lines)
        made.patience = 1.0
        assert run.settle() is Start.HANGS
        (orphan,) = run.pids
        adopter = f"the audit's supervisor (pid {parent(orphan)}), not of process 1"
        assert made.evidence[-3] == f"pid {orphan} has lost its parent; it is now the child of {adopter}"
    with scene("fork=workers") as made:
        first = made.first()
        first.tell_orphans()
        assert len(made.evidence) == 1
        first.process.signal_left(signal.SIGKILL)
        first.process.wait(PATIENCE)
        first.tell_orphans()
        assert len(made.evidence) == 3


def parent(pid) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_second_one_does_not_serve_by_the_file_of_the_first(scene):
    with scene("exists=wait") as made:
        made.first()
        made.patience = 1.5
        assert made.instance().start("the second").settle() is Start.HANGS


def test_the_last_line_is_quoted_and_not_without_end(scene):
    command = ["sh", "-c", "echo first; printf %01000d 7; exit 1", "{socket}"]
    with scene(command=command) as made:
        assert made.instance().start("one").settle() is Start.EXITED
        assert made.evidence[-1] == "its last line: " + "0" * 300


def test_logs_count_as_what_it_has_written(scene):
    command = ["sh", "-c", "echo out; echo in the log > log; exit 1", "{socket}"]
    with scene(command=command, logs=["{dir}/log", "{dir}/none"]) as made:
        run = made.instance().start("one")
        assert run.settle() is Start.EXITED
        assert run.lines() == ["out", "in the log"]
        assert run.written == len("out\nin the log\n")


def test_a_flood_of_a_log_is_no_harm(scene):
    with scene("start=flood", patience=60) as made:
        run = made.instance().start("one")
        assert run.settle() is Start.SERVES
        assert run.written >= 100_000_000


# Ends


def test_a_signal_goes_to_the_main_process_or_to_what_it_has_left(scene):
    for traits in ("perfect", "fork=daemon-twice", "fork=workers"):
        with scene(traits) as made:
            first = made.first()
            assert first.stop(signal.SIGINT)
            assert first.gone
            assert first.pids == []
            whom = (
                r"the process group of the first \(pid \d+, \d+, \d+\)"
                if "workers" in traits
                else r"the first \(pid \d+\)"
            )
            assert re.fullmatch(f"SIGINT to {whom}", made.evidence[-2])
            assert re.fullmatch(r"the first has ended .*, after \d+\.\d\d s", made.evidence[-1])
            assert made.look().state is State.ABSENT
            assert made.evidence[-1].startswith("the path: ")


def test_what_a_launcher_leaves_that_dies_of_a_signal_is_sent_it_too(scene):
    with scene("fork=daemon-launched") as made:
        first = made.first()
        (served,) = set(first.pids) - {first.process.pid}
        assert first.ends_by(signal.SIGTERM)
        assert made.evidence[-4:-1] == [
            f"SIGTERM to the first (pid {first.process.pid})",
            f"pid {first.process.pid}, which has started what serves, has died of it",
            f"SIGTERM to the first (pid {served})",
        ]
        assert made.look().state is State.ABSENT


def test_who_does_not_end_is_killed(scene):
    with scene("term=ignore") as made:
        first = made.first()
        made.patience = 1.0
        assert not first.stop()
        assert re.fullmatch(r"the first still runs after 1 s: pid \d+", made.evidence[-2])
        assert made.evidence[-1] == "SIGKILL to all of the first"
        assert first.gone


@pytest.mark.parametrize("traits", ["perfect", "fork=daemon-twice", "fork=helper", "fork=workers"])
def test_at_the_end_of_the_scene_nothing_lives(scene, marked, directory, monkeypatch, traits):
    monkeypatch.setenv("UDSLAB_TEST", str(directory))
    with scene(traits) as made:
        first = made.first()
        until(lambda: marked(directory) == set(first.pids) != set())  # who has forked a daemon away may still be ending
    assert marked(directory) == set()
    assert not os.path.exists(made.top)


def test_when_the_audit_has_no_descriptor_left_the_server_has_not_ended(scene):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with scene() as made:
        run = made.instance().start("one")
        spare = [os.dup(0) for _ in range(max(map(int, os.listdir("/proc/self/fd"))))]  # the gaps below the limit
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
            with suppress(OSError):
                while True:
                    spare.append(os.dup(0))
            with pytest.raises(OSError, match="EMFILE"):
                run.settle()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in spare:
                os.close(fd)
        assert run.settle() is Start.SERVES


# Whose the path is


NOTICES = """
import os, socket, sys, time

def serve():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    file = inode()  # before it listens: the second is started when it does
    listener.listen()
    return listener, file

def inode():
    try:
        return os.stat(sys.argv[1]).st_ino
    except FileNotFoundError:
        return None

def is_first():
    try:
        os.close(os.open(sys.argv[1] + ".first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

if is_first():
    listener, own = serve()
    while inode() in (None, own):
        time.sleep(0.01)
    os.unlink(sys.argv[1])
    again = serve()
    open(sys.argv[1] + ".again", "x").close()
else:
    os.unlink(sys.argv[1])
    kept = serve()
time.sleep(3600)
"""


def test_what_the_first_has_bound_anew_is_not_the_seconds(scene, planted):
    command = [planted()[0], "{dir}/notices.py", "{socket}"]
    with scene(command=command, files={"notices.py": NOTICES}, ping=None) as made:
        first, second = made.first(), made.instance().start("the second")
        until(lambda: os.path.exists(f"{made.path}.again"))
        made.patience = 1.0
        assert second.settle() is Start.HANGS
        assert second.file is None
        assert "the socket behind the path is none of the second" in made.evidence
        assert made.who_serves([first, second]) is first


REPUBLISHES = """
import os, select, socket, sys, time

how, path = sys.argv[1:]

def serve():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    return listener

if not os.path.lexists(path):
    listener = serve()
    os.mkfifo(path + ".seen")
    open(path + ".seen").close()  # the second is there
    listener = serve()
    time.sleep(3600)
first = os.stat(path).st_ino
while not os.path.lexists(path + ".seen"):
    time.sleep(0.01)
open(path + ".seen", "w").close()
while os.stat(path).st_ino == first:
    time.sleep(0.01)
time.sleep(2)
if how == "refuses":
    sys.exit("somebody listens there")
kept = serve()
time.sleep(3600)
"""


@pytest.mark.parametrize(("how", "start"), [("refuses", Start.EXITED), ("steals", Start.SERVES)])
def test_it_is_waited_for_the_second_when_the_first_has_put_another_file_there(scene, planted, how, start):
    command = [planted()[0], "{dir}/republishes.py", how, "{socket}"]
    with scene(command=command, files={"republishes.py": REPUBLISHES}, ping=None) as made:
        first, second = made.first(), made.instance().start("the second")
        assert second.settle() is start
        assert made.who_serves([first, second]) is (second if how == "steals" else first)


def test_it_is_known_whose_socket_the_path_leads_to(scene):
    with scene("exists=unlink") as made:
        first = made.first()
        assert made.who_serves([first]) is first
        second = made.instance().start("the second")
        assert second.settle() is Start.SERVES
        assert made.who_serves([first, second]) is second
        with pytest.raises(Skipped, match="none that they are seen to have"):
            made.who_serves([first])
        assert claims(first) == claims(second) == [Claim.BY_NAME]
        assert not first.claims().keys() & second.claims()
        second.stop()
        assert made.who_serves([first, second]) is None
        assert claims(second) == []
        with obstacle(Obstacle.LISTENER, made.path), pytest.raises(Skipped, match="none that they are seen to have"):
            made.who_serves([first, second])


@pytest.mark.parametrize(
    ("traits", "who"),
    [
        ("fork=workers", lambda run, before: before - {run.process.pid}),
        ("fork=renewed", lambda run, before: before - {run.process.pid}),
        ("fork=per-client", lambda run, before: {run.process.pid}),
    ],
)
def test_those_that_accept_are_told_from_others_that_hold_the_socket(traits, who, scene):
    """From a master, or from the children that serve."""
    with scene(traits) as made, ExitStack() as clients:
        first = made.first()
        before = first.holders()
        if len(before) > 1:
            with pytest.raises(Skipped, match=r"^it cannot be told which of its processes accept$"):
                first.accepting(before, 1)
        for _ in range(2):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(made.path)
            client.sendall(b"ping\n")
            assert client.recv(100) == b"ping\n"
        assert set(first.accepting(before, 2)) == who(first, set(before))


def test_who_alone_has_the_socket_accepts(scene):
    with scene("fork=helper") as made:
        first = made.first()
        assert first.accepting({}, 0) == [first.process.pid]


BINDS = """
import os, socket, sys, tempfile, time

how, path = sys.argv[1:]
parent, name = os.path.split(path)

def bind(name):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    return listener

def private(name):
    kept.append(bind(name))

kept = []
if how.startswith("private"):
    private(os.path.basename(path) if how == "private-of-the-same-name" else "control")
if how.startswith("beside"):
    if os.path.lexists(path + ".control"):
        os.unlink(path + ".control")
    private(path + ".control")
if how.startswith("moved"):
    made = tempfile.mkdtemp(dir=parent if how == "moved" else None)
    kept.append(bind(made + "/s"))
    os.rename(made + "/s", path)
    os.rmdir(made)
else:
    if os.path.lexists(path):
        os.unlink(path)
    if how in ("relative", "dot", "left"):
        os.chdir(parent)
    names = {"relative": name, "left": name, "dot": "./" + name, "doubled": parent + "//" + name}
    names |= {"up": parent + "/../" + os.path.basename(parent) + "/" + name, "real": os.path.realpath(path)}
    kept.append(bind(names.get(how, path)))
    if how == "left":
        os.chdir("/")
time.sleep(3600)
"""


def claims(run, seen=()) -> list[Claim]:
    return list(run.claims(seen).values())


@pytest.mark.parametrize(
    ("how", "unseen"),
    [
        *((how, [Claim.BY_NAME]) for how in ("absolute", "relative", "dot", "doubled", "up", "real")),
        *((how, [Claim.BY_NAME]) for how in ("private", "private-of-the-same-name", "beside")),
        ("moved", [Claim.BY_ANOTHER_NAME]),
        ("moved-from-elsewhere", []),
        ("left", None),  # it depends on when it is looked at first
    ],
)
def test_a_socket_counts_as_bound_to_the_path_however_it_was_named(scene, planted, how, unseen):
    command = [planted()[0], "{dir}/binds.py", how, "{socket}"]
    with scene(command=command, files={"binds.py": BINDS}, ping=None) as made:
        os.symlink("p", os.path.join(made.top, "link"))
        path = os.path.join(made.top, "link", "sock")
        first = made.first(path=path)
        seen = sockets_at(path)
        second = made.instance(path).start("the second")
        assert second.settle() is Start.SERVES
        assert made.who_serves([first, second], path) is second
        assert len(first.claims(seen)) == len(second.claims(sockets_at(path))) == 1
        assert first.claims(seen).keys() == seen
        if unseen is not None:
            assert claims(first) == unseen


def test_a_file_that_is_held_on_to_is_known_from_the_next_one(scene):
    with scene() as made:
        file = Path(made.path)
        for _ in range(20):  # file systems give a removed file's number to the next one
            file.write_text("x")
            pinned = made.pin(made.path)
            assert pinned.is_at(made.path)
            file.unlink()
            assert not pinned.is_at(made.path)
            file.write_text("x")
            assert not pinned.is_at(made.path)
            file.unlink()


def test_within_a_block_a_directory_can_only_be_read(scene, host):
    with scene() as made:
        parent = os.path.dirname(made.path)
        before = os.stat(parent)
        with pytest.raises(ZeroDivisionError), made.only_read(parent):
            if os.geteuid() != 0 or host.user is not None:
                assert made.instance().start("one").settle() is Start.EXITED
            raise ZeroDivisionError
        after = os.stat(parent)
        assert (before.st_uid, before.st_gid, before.st_mode) == (after.st_uid, after.st_gid, after.st_mode)


def test_sockets_in_a_directory_are_counted_and_nothing_else(scene):
    with scene("sockets=control") as made:
        made.first()
        parent = Path(made.path).parent
        (parent / "file").touch()
        (parent / "link").symlink_to(made.path)
        assert made.sockets(str(parent)) == ["sock", "sock.control"]


# What cannot be told


def test_what_does_not_serve_is_no_first_one(scene):
    with scene("start=exit-3") as made, pytest.raises(Skipped, match=r"^it did not serve an absent path this time$"):
        made.first()


def test_a_ping_that_is_never_answered_does_not_keep_a_server_from_starting(scene):
    with scene(ping=Ping(b"ping\n", b"pong\n")) as made:
        run = made.instance().start("one")
        until(lambda: status(made.path).serving)
        made.patience = 1.0
        assert run.settle() is Start.SERVES
