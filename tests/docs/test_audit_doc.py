"""docs/audit.md: its tables are those of the library, its code runs, and does what is said of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from udslab import State, status
from udslab.audit.ping import PRESETS
from udslab.audit.subject import Subject
from udslab.audit.verdicts import VERDICTS, WARNING_FACTS, Verdict
from udslab.obstacles import Obstacle, obstacle
from udslab.scratch import scratch_directory
from udslab.spawn import Process, wait_until
from udslab.subjects import load
from udslab.supervisor import stat_of
from udslab.testing import assert_gone, assert_stale, assert_untouched

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/audit.md").read_text()
RECIPE = DOCUMENT[DOCUMENT.index("## How to do it right") :]


def blocks(language, text=DOCUMENT):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# What it says of the probes


def test_the_table_of_verdicts_is_that_of_the_library():
    told = {}
    verdicts = [Verdict(word) for word in re.search(r"^\| probe \| (.*) \|$", DOCUMENT, re.MULTILINE)[1].split(" | ")]
    for probe, cells in re.findall(r"^\| \[([\w-]+)\]\(#\1\) \|(.*)\|$", DOCUMENT, re.MULTILINE):
        outcomes = zip(verdicts, cells.split("|"), strict=True)
        told[probe] = {word: verdict for verdict, cell in outcomes for word in re.findall(r"`(.*?)`", cell)}
    assert told == {probe: dict(outcomes) for probe, outcomes in VERDICTS.items()}
    assert list(told) == list(VERDICTS)


def test_every_fact_that_warns_is_told_with_its_meaning():
    text = " ".join(DOCUMENT.split())
    for fact, meaning in WARNING_FACTS.items():
        assert f"`{fact}`, {meaning}" in text


def test_every_probe_has_its_section_with_everything_in_it():
    sections = re.findall(r"^### ([\w-]+)\n(.*?)(?=^##)", DOCUMENT, re.DOTALL | re.MULTILINE)
    told = {name: text for name, text in sections if name in VERDICTS}
    assert list(told) == list(VERDICTS)
    for text in told.values():
        assert re.findall(r"^- \*(.*?):\*", text, re.MULTILINE) == ["Why", "Good", "A case", "How"]


def test_every_case_is_told_by_the_number_that_its_link_has():
    cases = re.findall(r"\[([^\]]+)#(\d+)\]\(https://github\.com/([^)]+?)/(?:issues|pull)/(\d+)\)", DOCUMENT)
    assert len(cases) >= len(VERDICTS)
    for repository, number, linked, to in cases:
        assert (repository, number) == (linked, to)
    assert DOCUMENT.count("https://github.com/") == len(cases)


def test_every_link_within_it_leads_to_a_heading():
    headings = re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCUMENT)) <= anchors


def test_every_preset_for_asking_is_named():
    (named,) = re.findall(r"a preset \((.*?)\)", DOCUMENT)
    assert set(re.findall(r"`([\w-]+)`", named)) == set(PRESETS)


def table(head):
    """The cells of the rows below this head."""
    (rows,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return [row.strip("| ").split(" | ") for row in rows.splitlines()]


def test_the_options_are_those_of_the_command():
    command = [sys.executable, "-m", "udslab", "audit", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = re.findall(r"^  (?:-\w(?: N)?, )?(--[\w-]+)", text, re.MULTILINE)  # "-j N, --jobs N" until Python 3.12
    told = re.findall(r"`(--[\w-]+)", " ".join(names for names, _ in table("option")))
    assert sorted(set(told)) == sorted(set(options) - {"--help"})


def test_the_fields_of_a_subject_are_those_of_the_library():
    assert [name.strip("`") for name, _ in table("field")] == [field.name for field in fields(Subject)]


def test_the_file_of_subjects_can_be_read(tmp_path):
    (source,) = (block for block in blocks("toml") if "command" in block)
    (tmp_path / "mine.toml").write_text(source)
    assert load(tmp_path / "mine.toml")["mine"].ping.expect == b"hello"


def test_the_outcomes_that_are_accepted_are_outcomes():
    (source,) = (block for block in blocks("toml") if "tool.udslab.audit" in block)
    accepted = dict(re.findall(r"^([\w-]+) = (.*)$", source, re.MULTILINE))
    assert accepted
    for probe, outcomes in accepted.items():
        assert set(json.loads(outcomes)) <= set(VERDICTS[probe])


def test_the_test_that_is_shown_audits_a_subject():
    (source,) = (block for block in blocks("python") if "uds_audit" in block)
    names = {}
    exec(compile(source, "audit.md", "exec"), names)
    given = []
    names["test_redis"](given.append)
    assert [type(each) for each in given] == [Subject]


# The recipe


@pytest.fixture(scope="session")
def recipes():
    """The recipe as programs: the command for each language. Any user may run them."""
    with scratch_directory() as path:
        for each in (path, os.path.dirname(path)):
            os.chmod(each, 0o755)
        yield build(Path(path))


def build(directory):
    (directory / "server.py").write_text("\n\n".join(blocks("python", RECIPE)))
    (directory / "server.c").write_text("\n".join(blocks("c", RECIPE)))
    commands = {"python": [sys.executable, str(directory / "server.py")]}
    if shutil.which("cc"):
        compile = ["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", directory / "server", directory / "server.c"]
        subprocess.run(compile, check=True)
        commands["c"] = [str(directory / "server")]
    return commands


@pytest.fixture(params=["python", "c"])
def command(recipes, request):
    return recipes.get(request.param) or pytest.skip("no C compiler here")


@pytest.fixture
def run(command):
    """Starts the server; ``setup`` is for the shell that starts it."""
    with contextlib.ExitStack() as processes:

        def start(path, *arguments, setup=":", prefix=()):
            words = ["sh", "-c", f'{setup}; exec "$@"', "sh", *prefix, *command, path, *arguments]
            return processes.enter_context(Process(words))

        yield start


@pytest.fixture
def serve(run, path):
    """Starts the server, and waits until it serves."""

    def start(where=None, *arguments, **options):
        server = run(where or path, *arguments, **options)
        server.wait_serving(where or path)
        return server

    return start


@pytest.fixture
def for_anybody(command):
    """The command as any user may run it: not every Python may be run by all."""
    if command[0] != sys.executable or os.geteuid() != 0:
        return command
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("no Python here that nobody may run")
    return ["/usr/bin/python3", *command[1:]]


@pytest.fixture
def nobody(for_anybody, directory):
    """The command to run the server as nobody, who may use the directory."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, and setpriv, to be somebody else")
    for parent in (directory, directory.parent):
        parent.chmod(0o711)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *for_anybody]


@pytest.fixture
def ask(path):
    """Asks the server, and reads to the end of its answer; ``timeout`` as of a socket."""

    def ask(where=None, timeout=20):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(where or path))
            client.settimeout(timeout)
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(100), b""))

    return ask


def refusal(server):
    """What the server says, which has refused to start."""
    assert server.wait(20) == 1
    return server.output()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_the_mode_follows_the_umask(serve, path, umask, mode):
    serve(setup=f"umask {umask:o}")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
class TestAtTheEnd:
    def test_it_removes_its_file(self, serve, path, number):
        server = serve()
        server.send_signal(number)
        assert server.wait(20) == 0
        assert_gone(path)

    def test_also_in_the_moment_in_which_the_file_comes(self, run, path, number):
        for _ in range(5):
            server = run(path)
            wait_until(path, lambda found: found.state is not State.ABSENT, process=server)
            server.send_signal(number)
            assert server.wait(20) == 0
            assert_gone(path)

    def test_it_keeps_what_somebody_else_has_put_there(self, serve, path, number, make_socket):
        for put in (lambda: path.write_text("mine"), lambda: make_socket(path, backlog=1)):
            server = serve()
            path.unlink()
            put()
            with assert_untouched(path):
                server.send_signal(number)
                assert server.wait(20) == 0
            path.unlink()


def test_it_starts_over_what_it_has_left(serve, ask, path):
    serve().kill()
    assert_stale(path)
    serve()
    assert ask() == b"HELLO"


def test_a_second_one_refuses_and_the_first_goes_on(serve, run, ask, path):
    first = serve()
    with assert_untouched(path):
        assert f"{path}: Address already in use" in refusal(run(path))
    assert ask() == b"HELLO"
    assert first.returncode is None


@pytest.mark.parametrize("kind", sorted(set(Obstacle) - {Obstacle.STALE, Obstacle.NO_PERMISSION}))
def test_it_refuses_and_touches_nothing(run, directory, kind):
    with obstacle(kind, directory / "s") as path:
        where = directory if kind is Obstacle.MISSING_PARENT else path
        with assert_untouched(where):
            assert f"{path}: " in refusal(run(path))


def test_it_does_not_follow_a_link_to_a_file(run, directory):
    (directory / "file").write_text("mine")
    (directory / "s").symlink_to("file")
    with assert_untouched(directory / "file"), assert_untouched(directory / "s"):
        refusal(run(directory / "s"))


@pytest.mark.parametrize("size", [107, 108, 120])
def test_a_path_of_up_to_107_bytes_is_served_and_a_longer_one_is_refused_by_its_name(serve, run, ask, directory, size):
    path = directory / ("x" * (size - len(str(directory)) - 1))
    if size <= 107:
        serve(path)
        assert ask(path) == b"HELLO"
    else:
        assert f"{path}: " in refusal(run(path))
        assert list(directory.iterdir()) == []


def test_it_touches_nothing_while_another_holds_the_lock(run, ask, stale):
    directory = os.open(stale.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        server = run(stale)
        with assert_untouched(stale):
            wait_until(stale, lambda found: waits_for_a_lock(server), process=server)
        assert_stale(stale)
    finally:
        os.close(directory)
    server.wait_serving(stale)
    assert ask(stale) == b"HELLO"


def waits_for_a_lock(server):
    """Whether the process is in flock, waiting (proc(5))."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> " in line]
    return str(server.pid) in [words[5] for words in waiting]


def test_of_many_that_start_over_a_stale_file_exactly_one_has_the_path(run, stale):
    for _ in range(10):
        starters = [run(stale) for _ in range(4)]
        # Asked again where it is not seen: a dump of the kernel's table can miss a socket while others come and go.
        found = wait_until(stale, lambda found: bool(found.pids), look=lambda address: status(address, owners=True))
        pids = found.pids
        losers = [starter for starter in starters if starter.pid not in pids]
        assert [starter.wait(20) for starter in losers] == [1, 1, 1]
        for starter in starters:
            starter.kill()


def test_where_it_may_not_write_it_refuses_by_name(nobody, directory):
    path = directory / "kept" / "s"
    path.parent.mkdir()
    with Process([*nobody, path]) as server:
        assert f"{path}: Permission denied" in refusal(server)


def test_it_leaves_a_stale_socket_of_another_user_in_a_sticky_directory(nobody, directory, make_socket):
    shared = directory / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    make_socket(shared / "s").close()
    with Process([*nobody, shared / "s"]) as server, assert_untouched(shared / "s"):
        assert f"{shared / 's'}: " in refusal(server)


def test_root_becomes_a_user_whose_file_it_is_and_who_removes_it(nobody, serve, directory):
    place = directory / "run"
    place.mkdir()
    os.chown(place, 65534, 65534)
    server = serve(place / "s", "65534")
    assert (place / "s").stat().st_uid == 65534
    assert {
        line.split()[1] for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "Uid:" in line
    } == {"65534"}
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0
    assert_gone(place / "s")


def test_clients_that_vanish_are_no_matter(serve, ask, path):
    server = serve()
    for number in range(200):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # without a time limit: it waits while the backlog is full
            if number % 2:
                client.sendall(b"x" * 50_000)
    assert ask() == b"HELLO"
    assert server.returncode is None


def test_silent_clients_hold_up_nobody(serve, ask, path, sockets):
    serve()
    for _ in range(20):
        sockets.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
    assert ask() == b"HELLO"


@pytest.fixture
def served(path, sockets):
    """A client that has its answer and stays."""

    def connect():
        client = sockets.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        return client

    return connect


def test_a_client_is_served_on_when_the_server_was_stopped_and_goes_on(serve, served, path):
    server = serve()
    client = served()
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    pids = [server.pid, *map(int, children)]
    wait_until(path, lambda found: all(stat_of(pid)[0] == b"S" for pid in pids))  # in read again
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        wait_until(path, lambda found, pid=pid: stat_of(pid)[0] == b"T")
        os.kill(pid, signal.SIGCONT)
    client.sendall(b"again")
    assert client.recv(100) == b"AGAIN"


def test_without_a_descriptor_it_waits_without_spinning_and_goes_on(serve, ask, path):
    server = serve()
    assert ask() == b"HELLO"
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, hard))
    before = processor_time(server)
    with pytest.raises(TimeoutError):
        for _ in range(2):  # an accept that waits already has its descriptor
            ask(timeout=1)
    assert processor_time(server) - before < 0.1
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert ask() == b"HELLO"


def processor_time(server):
    """Seconds that a process has used."""
    fields = stat_of(server.pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_processes_that_serve_clients_end_with_the_main_one(serve, ask, served, path):
    server = serve()
    client = served()
    os.kill(server.pid, signal.SIGKILL)
    assert client.recv(100) == b""
    wait_until(path, lambda found: found.state is State.STALE)  # the main one may still be closing its files
    serve()
    assert ask() == b"HELLO"


@pytest.mark.soak
def test_no_probe_of_the_audit_fails_or_warns(cli, for_anybody):
    done = cli("audit", "--fail-on", "warn", "--ping", "upper", "--json", "-", "--", *for_anybody, "{socket}")
    bad = [finding for finding in json.loads(done.stdout)["findings"] if finding["verdict"] in ("fail", "warn")]
    assert (bad, done.returncode) == ([], 0)


WORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import server

alive, ours = os.pipe()
if os.fork() == 0:
    os.close(ours)
    server.end_with_main(alive)
    print("ready", flush=True)
    signal.pause()
signal.pause()
"""


def test_a_worker_in_python_ends_with_the_main_process(recipes):
    directory = os.path.dirname(recipes["python"][1])
    with subprocess.Popen([sys.executable, "-c", WORKER, directory], stdout=subprocess.PIPE) as main:
        assert main.stdout.readline() == b"ready\n"
        main.kill()
        assert main.stdout.read() == b""  # the worker has it, too: this is the end of both
