"""One subject on one host: how long it is waited for, what it is told with, and what is no finding of a probe."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

import udslab
from udslab.audit import Subject
from udslab.audit.auditor import Auditor, Measured, about
from udslab.audit.host import ProcessHost
from udslab.audit.probes import Probe
from udslab.audit.scene import LEAST_PATIENCE, Scene, Skipped, Start
from udslab.scratch import scratch_directory

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def subject(planted):
    """A planted server."""
    return lambda traits="perfect", **fields: Subject(planted(traits), **{"name": traits, "ping": "echo", **fields})


@pytest.fixture
def open_directory():
    """A directory in which any user may write."""
    with scratch_directory() as path:
        for directory in (path, os.path.dirname(path)):
            os.chmod(directory, 0o777)
        yield path


def look(play) -> Probe:
    """A probe that gives what it sees as the reason why it is skipped."""

    def tell(scene: Scene) -> str:
        raise Skipped(str(play(scene)))

    return Probe("directory", "Looks around.", tell)


PATIENCE = look(lambda scene: scene.patience)


# Patience


def test_a_quick_server_gets_the_least_patience(host, subject):
    assert Auditor(subject(), host).audit(PATIENCE).why == str(LEAST_PATIENCE) == "10.0"


def test_a_slow_server_gets_five_times_its_own_start_and_is_measured_once(host, subject, open_directory, planted):
    start = f'mktemp -p {open_directory} > /dev/null; sleep 2.1; exec "$@"'
    auditor = Auditor(Subject(["sh", "-c", start, "sh", *planted()], ping="echo"), host)
    first, second = (float(auditor.audit(PATIENCE).why) for _ in range(2))
    assert 5 * 2.1 < first == second
    assert len(os.listdir(open_directory)) == 1


def test_the_first_start_is_measured_by_none_before_it(host, subject, open_directory, planted):
    start = f'mktemp -p {open_directory} > /dev/null; exec "$@"'
    auditor = Auditor(Subject(["sh", "-c", start, "sh", *planted()]), host)
    assert auditor.audit("fresh-start").outcome == "listens"
    assert len(os.listdir(open_directory)) == 3  # one for each umask


def test_the_first_start_is_judged_by_itself_whatever_was_measured(host):
    auditor = Auditor(Subject("cat {socket}"), host)
    assert auditor.audit("term-cleanup").why.startswith("it does not start: the server has ended with status 1; ")
    assert auditor.audit("fresh-start").outcome == "fails"


def test_whether_two_can_run_at_the_same_time_is_measured_with_two(host, subject, open_directory, planted):
    start = f'mktemp -p {open_directory} > /dev/null; exec "$@"'
    measured = Auditor(Subject(["sh", "-c", start, "sh", *planted()]), host).measure(beside=True)
    assert measured == Measured()
    assert len(os.listdir(open_directory)) == 2
    for taken in ("exit 4", f"kill $(cat {open_directory}/pid); flock 9"):  # or the second ends the first
        start = (
            f'exec 9> {open_directory}/only; flock -n 9 || {{ {taken}; }}; echo $$ > {open_directory}/pid; exec "$@"'
        )
        measured = Auditor(Subject(["sh", "-c", start, "sh", *planted()]), host).measure(beside=True)
        assert measured == Measured(alone=True)


# What it is told with


def test_it_is_told_who_was_audited_by_what(host, subject):
    told = Auditor(subject(version="echo planted 1.0"), host).about()
    assert told["name"] == "perfect"
    assert told["command"][-1] == "{socket}"
    assert told["version"] == "planted 1.0"
    assert told["user"] == ("nobody" if IS_ROOT else about(subject(), None)["user"])
    assert told["kernel"] == f"{os.uname().sysname} {os.uname().release}"
    assert told["lab"] == udslab.__version__


def test_a_user_without_a_name_is_told_by_number(subject, monkeypatch):
    monkeypatch.setenv("USER", "somebody-else")
    assert about(subject(), None)["user"] == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000_000)
    assert about(subject(), None)["user"] == "4000000000"


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("", ""),
        ("sh -c 'echo; echo \"  v 2 \"; echo more'", "v 2"),
        ("sh -c 'echo v 3 >&2; exit 1'", "v 3"),
        ("true", ""),
        ("no-such-program --version", ""),
    ],
)
def test_the_version_is_the_first_line_that_its_command_prints(host, subject, version, told):
    assert Auditor(subject(version=version), host).about()["version"] == told


def test_the_version_is_asked_in_a_directory_of_the_audit(host, subject):
    told = Auditor(subject(version="sh -c 'echo $PWD $HOME $TMPDIR'"), host).about()["version"]
    (place,) = set(told.split())
    assert re.search(r"/udslab-[^/]+/d/\d+$", place)
    assert not os.path.exists(place)


# What is no finding


def test_a_program_that_is_not_there_is_skipped_with_why(host, subject):
    auditor = Auditor(Subject("{dir}/nothing {socket}"), host)
    for probe in ("fresh-start", "term-cleanup"):
        finding = auditor.audit(probe)
        assert (finding.outcome, finding.verdict) == ("", "skip")
        assert re.fullmatch(r"agent: /.*/nothing: .*\(ENOENT\).*", finding.why)


def test_a_probe_that_the_subject_rules_out_is_skipped_with_its_reason(host, subject):
    auditor = Auditor(subject(skips={"term-cleanup": "it would judge the wrapper"}), host)
    finding = auditor.audit("term-cleanup")
    assert (finding.verdict, finding.why, finding.evidence) == ("skip", "it would judge the wrapper", ())
    assert auditor.audit("stale-restart").outcome == "starts"


def test_a_set_up_that_fails_is_skipped_with_its_last_line(host, subject):
    setup = ["true", "sh -c 'echo first; echo last >&2; exit 7'", "touch {dir}/never"]
    finding = Auditor(subject(setup=setup), host).audit("term-cleanup")
    assert finding.verdict == "skip"
    assert finding.why == "its set-up 'sh -c echo first; echo last >&2; exit 7' has ended with status 7: last"


def test_a_set_up_that_is_not_there_is_skipped_with_why(host, subject):
    finding = Auditor(subject(setup=["./nothing"]), host).audit("fresh-start")
    assert finding.verdict == "skip"
    assert re.fullmatch(r"agent: \./nothing: .*\(ENOENT\).*", finding.why)


def test_files_and_what_the_set_up_makes_are_the_servers_users(host, subject):
    def play(scene: Scene) -> list[int]:
        made = scene.instance()
        assert Path(made.dir, "config").read_text() == f"{{listen {scene.path} in {made.dir} for {{nothing}}}}"
        return sorted({os.stat(os.path.join(made.dir, name)).st_uid for name in (".", "config", "data")})

    files = {"config": "{listen {socket} in {dir} for {nothing}}"}
    finding = Auditor(subject(files=files, setup=["mkdir data"]), host).audit(look(play))
    assert finding.why == f"[{host.user.uid if host.user else os.geteuid()}]"


ONCE = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    client = listener.accept()[0]
    client.sendall(client.recv(100))
sys.exit("that was enough")
"""


def test_a_server_that_exits_when_it_has_answered_does_not_start(host, planted):
    subject = Subject([planted()[0], "{dir}/once.py", "{socket}"], files={"once.py": ONCE}, ping="echo")
    auditor = Auditor(subject, host)
    finding = auditor.audit("fresh-start")
    assert finding.outcome == "fails"
    assert finding.evidence[-1] == "the server under umask 022 has ended with status 1 soon after"
    finding = auditor.audit("term-cleanup")
    assert finding.verdict == "skip"
    assert finding.why.startswith("it does not start: ")


def test_a_server_that_fails_now_and_then_is_skipped(host, open_directory, planted):
    """It starts where its patience is measured, and never again."""
    start = f'mkdir {open_directory}/once || exit 5; exec "$@"'
    finding = Auditor(Subject(["sh", "-c", start, "sh", *planted()]), host).audit("term-cleanup")
    assert (finding.verdict, finding.why) == ("skip", "it did not serve an absent path this time")
    assert "the first has ended with status 5" in finding.evidence


@pytest.mark.parametrize("measured", [None, Measured()], ids=["measured", "known"])
def test_without_a_place_for_the_scene_it_is_skipped_with_why(host, subject, measured):
    """What has the audit's directories is gone."""
    with ProcessHost(host.user) as other:
        auditor = Auditor(subject(), other, measured)
        with other.directory() as place:
            os.rename(os.path.dirname(place), f"{os.path.dirname(place)}-away")
            finding = auditor.audit("term-cleanup")
            os.rename(f"{os.path.dirname(place)}-away", os.path.dirname(place))
    assert finding.verdict == "skip"
    assert finding.why.startswith("[Errno 2] No such file or directory: ")


def test_another_ones_mistake_is_not_hidden(host, subject):
    def play(scene: Scene) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Auditor(subject(), host).audit(Probe("directory", "Errs.", play))


# Its surroundings


def test_a_servers_environment_is_this_ones_but_for_what_belongs_to_others(host, planted, monkeypatch):
    xdg = {f"XDG_{place}" for place in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "STATE_HOME")}
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "COLOUR", "HOME", "PWD", "TMPDIR", "PLACE", *xdg):
        monkeypatch.setenv(name, f"of {name}")

    def play(scene: Scene) -> str:
        run = scene.instance().start("the server")
        assert run.settle() is Start.SERVES
        lines = Path(run.instance.dir, "env").read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines if "=" in line)
        assert env["HOME"] == env["PWD"] == env["TMPDIR"] == run.instance.dir
        assert env["PLACE"] == f"{scene.path} {run.instance.dir}"
        assert env["COLOUR"] == "of COLOUR"
        assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", *xdg} & set(env)
        if scene.host.user is not None:
            assert env["USER"] == env["LOGNAME"] == scene.host.user.name
        return "so it is"

    command = ["sh", "-c", 'env > env; exec "$@"', "sh", *planted()]
    finding = Auditor(Subject(command, env={"PLACE": "{socket} {dir}"}), host).audit(look(play))
    assert finding.why == "so it is", finding.describe()


def test_a_set_up_has_home_and_temporary_files_in_its_directory(host, subject):
    def play(scene: Scene) -> str:
        made = scene.instance()
        return Path(made.dir, "places").read_text().split() == [made.dir] * 3

    setup = ["sh -c 'echo $HOME $TMPDIR $PWD > places'"]
    assert Auditor(subject(setup=setup), host).audit(look(play)).why == "True"


# Servers that are hard to drive


@pytest.mark.parametrize("traits", ["start=flood", "fork=daemon-twice,term=ignore"])
def test_whatever_a_server_does_nothing_of_it_is_left(host, subject, marked, directory, monkeypatch, traits):
    monkeypatch.setenv("UDSLAB_TEST", str(directory))

    def play(scene: Scene) -> str:
        first = scene.first()
        assert marked(directory) == set(first.pids)
        return first.written

    finding = Auditor(subject(traits), host).audit(look(play))
    assert int(finding.why) >= (100_000_000 if "flood" in traits else 0)
    assert marked(directory) == set()
