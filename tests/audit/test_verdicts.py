"""The audit names what each planted server does, which is so by construction."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plants import PLANTED, PLANTS, PYTHON, Plant, make_capable

import udslab
from udslab.audit import Subject
from udslab.audit.asking import ask
from udslab.audit.auditor import Auditor
from udslab.audit.host import ProcessHost, user_named
from udslab.audit.probes.clients import _Use
from udslab.audit.probes.starting import _lines_with
from udslab.audit.verdicts import VERDICTS
from udslab.scratch import scratch_directory

ROOT = os.geteuid() == 0
NEITHER = "that is neither to keep nor to delete it"
GIVEN_UP = "the path does not lead to the first any more, before a second one is started"
HANDED_OVER = "the second has the very socket that the first has bound: it was handed over"
KILLED = "{} does not end by SIGTERM, and was killed: it had no chance to remove anything"


def subject_of(plant, python=PYTHON):
    """The planted server as a subject; its program is put where its user can read it."""
    command = [python, "-S", "-E", "{dir}/planted.py", plant.traits, "{socket}"]
    return Subject(
        command,
        name=plant.name,
        files={"planted.py": PLANTED.read_text()},
        ping="echo",
        type=plant.type,
        root_command=[*command, "--user", "65534"] if plant.as_root else (),
    )


@pytest.fixture(scope="session")
def readable():
    """A directory that an ordinary user can read."""
    with scratch_directory() as top:
        for directory in (top, os.path.dirname(top)):
            os.chmod(directory, 0o755)
        yield Path(top)


@pytest.fixture(scope="session")
def package(readable):
    """The package, with byte code, where an ordinary user can read it."""
    shutil.copytree(Path(udslab.__file__).parent, readable / "udslab", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([PYTHON, "-m", "compileall", "-q", readable], check=True)
    return readable


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_planted_server_is_named_rightly(plant, audit, readable):
    python = PYTHON
    if not ROOT and (plant.capable or plant.as_root or plant.probe == "foreign-stale"):
        pytest.skip("needs root, for another user's files and servers")
    if plant.capable:
        python = make_capable(readable)
    finding = audit(subject_of(plant, python), plant.probe)
    told = finding.describe()
    assert (finding.outcome, finding.verdict) == (plant.outcome, plant.verdict), told
    assert {name: finding.facts.get(name) for name in plant.facts} == dict(plant.facts), told
    assert finding.evidence
    assert all(re.search(r"\S", line) for line in finding.evidence)


def test_a_server_that_takes_no_other_name_is_asked_about_the_path_that_it_has(audit):
    """It names its own."""
    command = [PYTHON, "-S", "-E", "{dir}/planted.py", "perfect", "{parent}/its-own"]
    subject = Subject(command, files={"planted.py": PLANTED.read_text()}, socket_name="its-own")
    finding = audit(subject, "error-names-path")
    assert finding.outcome == "always", finding.describe()
    assert "/missing/its-own: " in finding.facts["missing parent"]


def test_a_path_may_be_named_as_what_it_really_is(audit, monkeypatch):
    """Where the directory for temporary files is a link."""
    subject = subject_of(Plant("error-names-path", "", "", "errors=real"))
    with scratch_directory() as top:
        for directory in (top, os.path.dirname(top)):
            os.chmod(directory, 0o755)
        os.mkdir(real := f"{top}/real")
        os.symlink(real, link := f"{top}/link")
        monkeypatch.setattr("tempfile.tempdir", link)
        with ProcessHost(user_named(None)) as host:
            finding = Auditor(subject, host).audit("error-names-path")
    assert finding.outcome == "always", finding.describe()
    assert f"{real}/" in finding.facts["regular file"]


@pytest.mark.parametrize(
    ("path", "line", "is_named"),
    [
        ("/a/sock", "unix:/a/sock.", True),
        ("/a/sock", "/a/sock.lock is there", False),
        ("/a/sock", "/a/sock/../other", False),
        ("/a", "no /a/", True),
        ("/a", "no /a/.s.lock", False),
        ("sock", "sock: Address already in use", True),
        ("sock", "'./sock' is in use", True),
        ("sock", "my.sock is in use", False),
        ("sock", "the websock", False),
        *(("/é", f"/{form}", True) for form in ("é", r"\xc3\xa9", r"\303\251", r"\xE9", r"\u00e9", "\ufffd", "??")),
        ("/é", "/è", False),
        ("/" + "é" * 60, "/" + "é" * 45, True),  # of 121 bytes
        ("/" + "é" * 60, "/" + "é" * 40, False),
    ],
)
def test_by_what_a_path_is_named(path, line, is_named):
    assert bool([*_lines_with(path, ["before", line, "behind"])]) == is_named


@pytest.mark.parametrize("errors", ["named", "ascii"])
def test_a_path_that_is_not_utf_8_is_named_as_it_can_be_written(errors, audit, monkeypatch):
    subject = subject_of(Plant("error-names-path", "", "", f"errors={errors}"))
    with scratch_directory() as top:
        os.mkdir(odd := os.fsdecode(top.encode() + b"/\xff\xc3\xa9"))
        for directory in (top, os.path.dirname(top)):
            os.chmod(directory, 0o755)
        monkeypatch.setattr("tempfile.tempdir", odd)
        with ProcessHost(user_named(None)) as host:
            finding = Auditor(subject, host).audit("error-names-path")
    assert finding.outcome == "always", finding.describe()


def test_a_line_that_names_a_path_is_told_by_what_is_around_that(audit):
    finding = audit(subject_of(Plant("error-names-path", "", "", "errors=behind")), "error-names-path")
    assert finding.outcome == "always"
    for line in finding.facts.values():
        assert re.fullmatch(r"x{150}/\S+: .*", line)


@pytest.mark.parametrize(
    ("told", "errors", "outcome"),
    [
        ("cd {parent} && exec {server} ./{name}", "name", "always"),
        ("cd {parent} && exec {server} ./{name}", "beside", "sometimes"),  # but for cd, which names the directory
        ("exec {server} {socket}", "name", "never"),
    ],
)
def test_who_is_told_directory_and_name_apart_need_name_no_more(told, errors, outcome, audit):
    server = f"{PYTHON} -S -E {{dir}}/planted.py errors={errors}"
    subject = Subject(["sh", "-c", told.replace("{server}", server)], files={"planted.py": PLANTED.read_text()})
    finding = audit(subject, "error-names-path")
    assert finding.outcome == outcome, finding.describe()


@pytest.mark.parametrize("probe", ["term-cleanup", "int-cleanup"])
def test_a_file_that_is_gone_with_its_directory_is_removed(probe):
    """The server may do so if it is as who audits."""
    with ProcessHost(None) as host:
        finding = Auditor(subject_of(Plant(probe, "", "", "parent=removed")), host).audit(probe)
    assert finding.outcome == "removed", finding.describe()
    assert "unreachable" in finding.evidence[-1]


@pytest.mark.parametrize("cut", [90, 95, 107])
def test_a_path_that_is_cut_in_its_directories_is_truncated(cut, audit):
    """At 95, the directory of the path of 108 bytes is left, which is no place for a socket; but not of that of 120."""
    command = [PYTHON, "-S", "-E", "{dir}/planted.py", f"long=cut-{cut}", "{parent}/its-own-sock"]
    subject = Subject(command, files={"planted.py": PLANTED.read_text()}, socket_name="its-own-sock")
    finding = audit(subject, "path-length")
    assert finding.outcome == "truncates", finding.describe()
    word = "refused" if cut == 95 else "truncated"
    assert (finding.facts["108"], finding.facts["120"]) == (word, "refused" if cut == 107 else "truncated")


@pytest.mark.parametrize(
    ("probe", "traits", "found"),
    [
        ("second-instance", "exists=take-over", r"the first has ended with status 0 meanwhile: .*"),
        ("second-instance", "exists=take-over-late", r"the first has ended with status 0 meanwhile: .*"),
        ("first-stops-after-steal", "exists=take-over", r"the first has ended with status 0 meanwhile: .*"),
        ("second-instance", "exists=give-up,lost=bound-anew", "refused"),
        ("second-stops", "refused=unlink,lost=bound-anew", "intact"),
        pytest.param("race-over-stale", "refused=unlink,lost=bound-anew", "exclusive", marks=pytest.mark.soak),
    ],
)
def test_no_path_is_called_lost_that_was_handed_over_or_is_bound_anew(probe, traits, found, audit):
    finding = audit(subject_of(Plant(probe, "", "", traits)), probe)
    assert re.fullmatch(found, finding.outcome or finding.why), finding.describe()


def test_a_round_that_none_wins_tells_how_each_has_ended(audit):
    finding = audit(subject_of(Plant("race-over-stale", "", "", "exists=unlooked")), "race-over-stale")
    told = [
        line
        for name in ("the first", "the second")
        for line in (f"{name} has ended with status 1", r"its last line: planted: .*Address already in use")
    ]
    lines = [*[*told, "a round has ended with none"] * 10, "10 rounds have ended: 10 with none"]
    for said, line in zip(finding.evidence[-len(lines) :], lines, strict=True):
        assert re.fullmatch(line, said), finding.describe()


HANDS_OVER = """
import fcntl, os, socket, sys, time

path = sys.argv[1]
beside = path + ".heir"
lock = os.open(os.path.dirname(path), os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(beside)
        listener = socket.socket(fileno=socket.recv_fds(sock, 1, 1)[1][0])
    except FileNotFoundError:
        if os.path.lexists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
    else:
        os.unlink(beside)
heir = socket.socket(socket.AF_UNIX)
heir.bind(beside)
heir.listen()
os.close(lock)
client = heir.accept()[0]
heir.close()
socket.send_fds(client, [b"!"], [listener.fileno()])
time.sleep(0.2)
listener.close()
time.sleep(0.5)  # for its clients' answers
"""


def test_who_hands_its_listener_over_is_no_second_owner(audit):
    """Under a lock the later one asks for the earlier one's: one socket is bound, once."""
    subject = Subject([PYTHON, "-S", "-E", "{dir}/hands-over.py", "{socket}"], files={"hands-over.py": HANDS_OVER})
    finding = audit(subject, "race-over-stale")
    assert (finding.outcome, finding.facts["one"]) == ("exclusive", 10), finding.describe()


DRAINS = """
import os, signal, socket, sys, time

path = sys.argv[1]
by = path + ".pid"

if os.path.lexists(by):
    os.kill(int(open(by).read()), signal.SIGUSR1)
    while os.path.lexists(path):
        time.sleep(0.01)
listener = socket.socket(socket.AF_UNIX)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
listener.bind(path)
listener.listen()
with open(by + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(by + ".new", by)
signal.sigwait([signal.SIGUSR1])
os.unlink(path)
listener.close()
while True:
    time.sleep(3600)
"""


@pytest.mark.parametrize("probe", ["second-instance", "second-stops", "first-stops-after-steal"])
def test_who_is_asked_to_give_its_path_up_and_lives_on_is_not_stolen_from(probe, audit):
    subject = Subject([PYTHON, "-S", "-E", "{dir}/drains.py", "{socket}"], files={"drains.py": DRAINS})
    finding = audit(subject, probe)
    assert re.match("the first lives on and has closed the socket by which it served", finding.why), finding.describe()


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root, and setpriv")
@pytest.mark.parametrize(
    ("probe", "traits", "word"),
    [
        ("second-instance", "exists=unlink", "steals"),
        ("descriptor-exhaustion", "perfect", "recovers"),
        ("race-over-stale", "exists=unlink,place=dot", "races"),
    ],
)
def test_a_root_that_may_not_look_into_others_sees_what_the_servers_user_does(probe, traits, word):
    """As in a container, which has no CAP_SYS_PTRACE, nor CAP_SYS_RESOURCE."""
    lacks = "-sys_ptrace,-sys_resource"
    audit = [sys.executable, Path(__file__).with_name("audit_one.py"), probe]
    done = subprocess.run(
        ["setpriv", f"--bounding-set={lacks}", f"--inh-caps={lacks}", *audit],
        input=pickle.dumps(subject_of(Plant(probe, "", "", traits))),
        capture_output=True,
        check=True,
    )
    finding = json.loads(done.stdout)
    assert finding["outcome"] == word, finding


@pytest.mark.parametrize(
    ("probe", "traits", "why"),
    [
        ("half-close", "stopped=quits", r"once it was stopped .* and has gone on, it does not answer any more: .*"),
        ("descriptor-exhaustion", "retires=after-6", "it has ended meanwhile by itself"),
        ("path-length", "long=wait", "it neither works nor says no: it hangs"),
        ("vanishing-clients", "vanished=ends", "it has ended meanwhile by itself"),
        ("regular-file", "exists=move-aside", f"it is whole, and was moved to .*/p/sock.old: {NEITHER}"),
        ("symlink-to-stale", "links=cleared", f"the link is kept, and the stale socket .* is gone: {NEITHER}"),
        ("symlink-to-file", "exists=move-aside,links=followed", f"it is whole, .*/p/sock.target.old: {NEITHER}"),
        ("directory", "exists=move-aside", f"it is whole, and was moved to .*/empty/sock.old: {NEITHER}"),
        ("regular-file", "refused=chmod", f"it is kept, but its mode 0600 is 0666 now: {NEITHER}"),
        ("directory", "refused=chmod", f"it is kept, but its mode 0755 is 0666 now: {NEITHER}"),
        ("second-instance", "unlinked=by-client", GIVEN_UP),
        ("second-stops", "unlinked=by-client", GIVEN_UP),
        ("second-instance", "exists=hand-over", HANDED_OVER),
        ("second-stops", "exists=hand-over", HANDED_OVER),
        ("second-stops", "exists=wait-stubbornly", KILLED.format("the second")),
        ("first-stops-after-steal", "exists=unlink,term=ignore", KILLED.format("the first")),
        pytest.param(
            *("exit-deletes-foreign", "term=ignore,int=ignore"),
            "it ends by neither signal, and was killed: it had no chance to remove anything at its end",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_what_cannot_be_told_is_skipped(probe, traits, why, audit):
    finding = audit(subject_of(Plant(probe, "", "", traits)), probe)
    assert finding.verdict == "skip", finding.describe()
    assert re.fullmatch(why, finding.why), finding.describe()
    assert "spins" not in finding.facts


@pytest.mark.skipif(not ROOT, reason="needs root, for another user's files and servers")
@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (
            Plant("foreign-stale", "", "", "exists=give-up", capable=True),
            "the other user's file is gone, and it does not serve: that is neither to refuse nor to start",
        ),
        (
            Plant("privilege-drop", "", "", "drop=after-bind,term=ignore", as_root=True),
            "it does not end by SIGTERM, and was killed: it had no chance to remove its file",
        ),
    ],
    ids=lambda each: getattr(each, "probe", ""),
)
def test_what_only_root_cannot_tell_is_skipped(plant, why, audit, readable):
    finding = audit(subject_of(plant, make_capable(readable) if plant.capable else PYTHON), plant.probe)
    assert (finding.verdict, finding.why) == ("skip", why), finding.describe()


@pytest.mark.skipif(not ROOT, reason="needs root, for another user's files and servers")
def test_another_users_file_is_another_ones_also_for_the_user_with_uid_1():
    plant = Plant("foreign-stale", "", "", "exists=unlink")
    with ProcessHost(user_named("daemon")) as host:  # its uid is 1
        finding = Auditor(subject_of(plant), host).audit(plant.probe)
    assert finding.outcome == "refused", finding.describe()


@pytest.mark.parametrize(
    ("threads", "spins"),
    [
        ([(1.9, 0.0)], True),
        ([(0.6, 0.0), (0.6, 0.0)], True),
        ([(0.3, 1.6)], True),  # it gets no more of a busy machine
        ([(0.01, 0.06)] * 30, False),
        ([(0.1, 1.9)], False),
    ],
)
def test_of_many_threads_that_wait_a_little_none_spins(threads, spins):
    assert _Use(2.0, {str(number): times for number, times in enumerate(threads)}, 0).spins == spins


def test_who_always_uses_a_processor_is_not_told_to_spin_without_descriptors(audit):
    plant = Plant("descriptor-exhaustion", "", "", "rest=busy")
    finding = audit(subject_of(plant), plant.probe)
    assert (finding.outcome, finding.verdict) == ("recovers", "pass"), finding.describe()
    assert finding.facts["cpu_percent"] > 0
    assert "spins" not in finding.facts


def test_who_serves_200_clients_one_after_the_other_is_given_the_time_for_it(audit):
    plant = Plant("vanishing-clients", "", "", "clients=one-by-one,vanished=lingers")
    finding = audit(subject_of(plant), plant.probe)
    assert finding.outcome == "survives", finding.describe()


def test_workers_that_retire_do_not_die_of_the_descriptors_that_they_have_not(audit):
    plant = Plant("descriptor-exhaustion", "", "", "fork=renewed,retires=after-6")
    finding = audit(subject_of(plant), plant.probe)
    assert finding.verdict in ("pass", "skip"), finding.describe()
    assert any(re.fullmatch("another one has as many .*: pid .* of it ends as well", line) for line in finding.evidence)


def test_it_is_told_for_how_many_silent_clients_there_was_room(audit):
    """One is served, and of those that wait there is always one more than the backlog says."""
    plant = Plant("silent-client", "", "", "backlog=5,clients=one-by-one")
    finding = audit(subject_of(plant), plant.probe)
    assert finding.outcome == "blocked", finding.describe()
    told = "7 clients are connected and say nothing, of 8 that come: the backlog has no room for the others"
    assert told in finding.evidence


def test_a_half_closed_client_is_one_also_where_it_is_slow(audit, monkeypatch):
    """No server answers it before it has shut down its sending side."""

    def ask_slowly(*arguments):
        ask(*arguments)
        time.sleep(0.2)

    monkeypatch.setattr("udslab.audit.asking.ask", ask_slowly)
    plant = Plant("half-close", "no-answer", "info", "half-close=hasty")
    finding = audit(subject_of(plant), plant.probe)
    assert finding.outcome == "no-answer", finding.describe()


@pytest.mark.parametrize("type", ["stream", "dgram", "seqpacket"])
@pytest.mark.parametrize("probe", VERDICTS)
def test_udslab_serve_is_a_good_server(probe, type, audit, package):
    """Neither a fail nor a warning."""
    subject = Subject(
        [PYTHON, "-m", "udslab", "serve", "--service", "echo", "--type", type, "{socket}"],
        name="udslab serve",
        ping="echo",
        type=type,
        env={"PYTHONPATH": str(package)},
    )
    finding = audit(subject, probe)
    assert finding.verdict in ("pass", "info", "skip"), finding.describe()
    expected_skips = {"first-stops-after-steal", "privilege-drop", *(() if ROOT else ("foreign-stale",))}
    if type == "dgram":  # nobody connects to it
        expected_skips |= {"descriptor-exhaustion", "half-close", "silent-client"}
    assert (finding.verdict == "skip") == (probe in expected_skips), finding.describe()
