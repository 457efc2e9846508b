"""Many subjects and probes side by side: all is told once, in order, and all ends with whoever asked for it."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from udslab.audit import Subject
from udslab.audit.crew import Crew
from udslab.audit.host import user_named
from udslab.audit.probes import PROBES, Probe
from udslab.probe import calibrated
from udslab.scratch import scratch_directory
from udslab.supervisor import stat_of

FEW = ["term-cleanup", "stale-restart", "missing-parent"]
LIMIT = 30.0


def ancestors(pid):
    """Its parent, that one's parent, and so on (proc_pid_stat(5))."""
    while pid > 1:
        pid = int(stat_of(pid)[1])
        yield pid


@pytest.fixture
def subject(planted):
    """A planted server."""
    return lambda traits="perfect", **fields: Subject(planted(traits), **{"name": traits, "ping": "echo", **fields})


@pytest.fixture
def crew():
    """A crew whose servers are an ordinary user's."""
    return lambda subjects, probes=(), **options: Crew(subjects, probes, user=user_named(None), **options)


@pytest.fixture
def scratch(directory, monkeypatch) -> Path:
    """Where the audit makes its directories; its processes are ``marked(scratch)``."""
    for outer in (directory, directory.parent):
        outer.chmod(0o711)
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    monkeypatch.setenv("UDSLAB_TEST", str(directory))
    return directory


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("udslab audit")]


def command_of(pid) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def wait_for(condition) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        select.select([], [], [], 0.01)


@pytest.mark.parametrize("jobs", [1, 3, 64])
def test_each_subject_is_put_through_each_probe_once(crew, subject, scratch, marked, jobs):
    subjects = [subject(), subject("term=leave"), subject("parent=made")]
    made = crew(subjects, FEW, jobs=jobs)
    assert made.size == 9
    told = [(one.name, finding.probe, finding.outcome) for one, finding in made.work()]
    good = {"term-cleanup": "removed", "stale-restart": "starts", "missing-parent": "refused"}
    expected = {
        "perfect": good,
        "term=leave": {**good, "term-cleanup": "left"},
        "parent=made": {**good, "missing-parent": "created"},
    }
    assert sorted(told) == sorted((name, *found) for name, findings in expected.items() for found in findings.items())
    for audit, (name, findings) in zip(made.audits(), expected.items(), strict=True):
        assert audit.subject["name"] == name
        assert [(finding.probe, finding.outcome) for finding in audit.findings] == list(findings.items())
    assert workers() == []
    assert marked(scratch) == set()
    assert os.listdir(scratch) == []


def test_of_a_server_that_wants_what_there_is_one_of_a_probe_is_played_at_a_time(crew, subject):
    with scratch_directory() as top:
        for directory in (top, os.path.dirname(top)):
            os.chmod(directory, 0o777)
        start = f'exec 9> {top}/only; flock -n 9 || exit 4; exec "$@"'
        only = Subject(["sh", "-c", start, "sh", *subject().command], name="only")
        probes = ["fresh-start", "path-length", *FEW]
        made = crew([only, subject()], probes, jobs=3)
        found = {(one.name, finding.probe): finding for one, finding in made.work()}
    assert len(found) == 2 * len(probes)
    outcomes = {probe: finding.outcome for (name, probe), finding in found.items() if name == "only"}
    assert outcomes == {probe: finding.outcome for (name, probe), finding in found.items() if name == "perfect"}
    assert outcomes["fresh-start"] == "listens"
    assert found["only", "path-length"].facts["max_ok"] == 107


def test_all_probes_are_played_unless_some_are_named(crew, subject):
    assert crew([subject()]).probes == list(PROBES)


def test_the_findings_are_in_the_order_of_the_probes_that_were_named(crew, subject):
    made = crew([subject()], FEW[::-1], jobs=2)
    assert len(list(made.work())) == 3
    assert [finding.probe for finding in made.audits()[0].findings] == FEW[::-1]


def test_what_is_not_installed_is_told_and_does_not_count(crew, subject):
    missing = Subject("no-such-program {socket}", get="ask its maker")
    unknown = Subject("no-such-program {socket}")
    made = crew([missing, subject(), unknown], ["term-cleanup"], jobs=2)
    assert made.size == 1
    assert [one.name for one, _ in made.work()] == ["perfect"]
    first, there, last = made.audits()
    assert first.subject["why"] == "no-such-program is not installed: ask its maker"
    assert last.subject["why"] == "no-such-program is not installed"
    assert "why" not in there.subject
    assert first.findings == last.findings == ()
    assert set(first.subject) - {"why"} == set(there.subject)


def test_without_work_there_is_none(crew):
    made = crew([], jobs=2)
    assert (list(made.work()), made.audits()) == ([], [])
    assert list(crew([Subject("no-such-program {socket}")]).work()) == []


def test_before_and_without_work_it_is_known_who_would_have_been_audited(crew, subject):
    (audit,) = crew([subject()]).audits()
    assert audit.findings == ()
    assert set(audit.subject) == {"name", "command", "version", "user", "kernel", "lab"}


def test_when_it_is_left_all_that_runs_is_ended_and_what_is_known_stays(crew, subject, scratch, marked):
    """The server waits for ever in the second probe."""
    made = crew([subject("exists=wait,fork=daemon-twice")], ["path-length", "regular-file"], jobs=1)
    work = made.work()
    _, finding = next(work)
    assert finding.probe == "path-length"
    wait_for(lambda: any(file.is_file() for file in scratch.glob("udslab-*/d/*/p/sock")))
    began = time.monotonic()
    work.close()
    assert time.monotonic() - began < LIMIT
    assert workers() == []
    assert marked(scratch) == set()
    assert os.listdir(scratch) == []
    assert [finding.probe for finding in made.audits()[0].findings] == ["path-length"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_probe_whose_agent_is_lost_is_skipped_and_all_others_are_played(crew, subject, scratch, marked, jobs):
    made = crew([subject("exists=wait")], ["regular-file", "term-cleanup", "int-cleanup"], jobs=jobs)

    def kill_one() -> None:
        wait_for(lambda: any(file.is_file() for file in scratch.glob("udslab-*/d/*/p/sock")))
        ours = {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
        (place,) = (file for file in scratch.glob("udslab-*/d/*/p/sock") if file.is_file())
        wait_for(lambda: any(str(place) in command_of(pid) for pid in marked(scratch)))
        waiting = next(pid for pid in marked(scratch) if str(place) in command_of(pid))
        os.kill(next(pid for pid in ancestors(waiting) if str(pid) in ours), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    told = {finding.probe: finding for _, finding in made.work()}
    killer.join()
    assert told["regular-file"].verdict == "skip"
    assert told["regular-file"].why.startswith("agent: the agent of this machine has ended")
    assert told["term-cleanup"].outcome == told["int-cleanup"].outcome == "removed"
    assert len(made.audits()[0].findings) == 3
    assert workers() == []
    wait_for(lambda: not marked(scratch))
    assert os.listdir(scratch) == []


def test_what_goes_wrong_in_a_worker_is_raised_once_and_ends_the_others(crew, subject, scratch, marked, monkeypatch):
    def play(scene) -> str:
        raise ZeroDivisionError

    monkeypatch.setitem(PROBES, "missing-parent", Probe("missing-parent", "Errs.", play))
    made = crew([subject("exists=wait")], ["regular-file", "missing-parent"], jobs=2)
    work = made.work()
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(work)
    assert time.monotonic() - began < LIMIT
    assert next(work, None) is None
    assert workers() == []
    wait_for(lambda: not marked(scratch))
    assert os.listdir(scratch) == []


def test_no_worker_sees_what_another_ones_start_holds_on_to(crew):
    """A process that is about to be the agent of one has, for a moment, the sockets of the others."""
    for _ in range(5):
        calibrated.cache_clear()  # it is asked by sockets of known state, which it must not misjudge
        found = [
            finding.outcome for _, finding in crew([Subject("false {socket}")] * 6, ["fresh-start"], jobs=6).work()
        ]
        assert found == ["fails"] * 6
