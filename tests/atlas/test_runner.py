"""The runner: what it makes of measurements that go wrong, that it leaves nothing, and how it is told to end."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from udslab.atlas.behaviour import Behaviour, ByKernel, Either, NotHere
from udslab.atlas.catalogue import select
from udslab.atlas.kit import kernel, version
from udslab.atlas.requirement import Requirement, why_not
from udslab.atlas.runner import UNSAID, Verdict, count, matches, place, run
from udslab.spawn import Process


def made(measure, expected: Any = "ok", **fields: Any) -> Behaviour:
    return Behaviour("TST-01", "it is ok", "measured", expected, measure, **fields)


def cell_of(measure, expected: Any = "ok", **fields: Any):
    (cell,) = run([made(measure, expected, **fields)])
    return cell


def not_here(kit) -> None:
    raise NotHere("no such thing")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("seen", "expected", "verdict"),
    [
        ("ok", "ok", Verdict.EXPECTED),
        ("ok", "EPERM", Verdict.UNEXPECTED),
        (1, True, Verdict.UNEXPECTED),
        (1, 1.0, Verdict.UNEXPECTED),
        (["a", "b"], ("a", "b"), Verdict.EXPECTED),
        (["b", "a"], ["a", "b"], Verdict.UNEXPECTED),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, Verdict.EXPECTED),
        ({"a": 2}, {"a": 2, "b": 1}, Verdict.UNEXPECTED),
        ("EPERM", Either("ok", "EPERM"), Verdict.EXPECTED),
        ("EACCES", Either("ok", "EPERM"), Verdict.UNEXPECTED),
        ("ok", ByKernel({(2, 0): "EPERM", (3, 0): "ok", (99,): "EINVAL"}), Verdict.EXPECTED),
        ("new", ByKernel({(2, 0): "old", (3, 0): Either("new", "newer")}), Verdict.EXPECTED),
        ("ok", ByKernel({(99,): "ok"}), Verdict.UNEXPECTED),
        ("EPERM", lambda variant: "EPERM" if variant == "" else "ok", Verdict.EXPECTED),
    ],
)
def test_what_was_seen_is_compared_with_what_is_expected(seen, expected, verdict):
    cell = cell_of(lambda kit: seen, expected)
    assert (cell.verdict, cell.seen, cell.why) == (verdict, json.loads(json.dumps(seen)), "")
    json.dumps(cell.as_dict())


def test_either_is_told_as_such():
    assert cell_of(lambda kit: "ok", Either("ok", "EPERM")).expected == {"either": ["ok", "EPERM"]}


def test_each_variant_is_a_cell_and_they_are_counted():
    each = made(lambda kit, variant: variant * 2, lambda variant: variant * 2, variants=("a", "b"))
    cells = list(run([each], jobs=2))
    assert {cell.variant: cell.seen for cell in cells} == {"a": "aa", "b": "bb"}
    assert {cell.verdict for cell in cells} == {Verdict.EXPECTED}
    assert count([each, each]) == 4


def test_what_takes_too_long_is_ended_with_all_that_it_has_started(directory):
    def hangs(kit):
        (directory / "child").write_text(str(kit.child(lambda: time.sleep(60)).pid))
        (Path(kit.directory) / "left").touch()
        (directory / "where").write_text(kit.directory)
        time.sleep(60)

    began = time.monotonic()
    cell = cell_of(hangs, limit=1)
    assert time.monotonic() - began < 30
    assert (cell.seen, cell.verdict, cell.why) == ("no end within 1 s", Verdict.UNEXPECTED, UNSAID)
    assert gone(int((directory / "child").read_text()))
    assert not Path((directory / "where").read_text()).parent.exists()


@pytest.mark.parametrize(
    ("dies", "seen"),
    [
        (lambda kit: os.kill(os.getpid(), signal.SIGSEGV), "ended by SIGSEGV"),
        (lambda kit: os.kill(os.getpid(), signal.SIGKILL), "ended by SIGKILL"),
        (lambda kit: os.kill(os.getpid(), signal.SIGTERM), "ended by SIGTERM"),
        (lambda kit: os._exit(3), "ended with status 3"),
        (lambda kit: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda kit: sys.exit("no"), "SystemExit: no"),
        (lambda kit: b"bytes", "TypeError: Object of type bytes is not JSON serializable"),
    ],
    ids=["segfault", "kill", "terminate", "exit", "exception", "sys.exit", "no JSON"],
)
def test_what_dies_says_how_and_is_unexpected(dies, seen):
    cell = cell_of(dies)
    assert (cell.seen, cell.verdict) == (seen, Verdict.UNEXPECTED)
    assert cell.why  # without it a known divergence would cover it


def test_an_exception_says_where():
    def fails(kit):
        raise OSError(1, "no")

    assert cell_of(fails).why.endswith("of fails")


def test_orphans_are_ended(directory):
    def leaves(kit):
        if os.fork() == 0:
            if os.fork() == 0:
                (directory / "orphan").write_text(str(os.getpid()))
                time.sleep(60)
            os._exit(0)
        os.wait()
        while not (directory / "orphan").exists() or not (directory / "orphan").read_text():
            time.sleep(0.001)
        return "ok"

    assert cell_of(leaves).verdict is Verdict.EXPECTED
    assert gone(int((directory / "orphan").read_text()))


def test_a_measurement_has_an_empty_directory_of_its_own_with_room_for_any_name():
    def looks(kit):
        (Path(kit.directory) / "file").touch()
        return [os.listdir(kit.directory), len(kit.directory) < 60, kit.directory]

    one, other = run([made(looks), made(looks)], jobs=2)
    for cell in (one, other):
        assert cell.seen[:2] == [["file"], True]
        assert not Path(cell.seen[2]).exists()
    assert one.seen[2] != other.seen[2]


def test_much_is_read_whole():
    text = "x\n" * 200_000
    assert cell_of(lambda kit: text, text).verdict is Verdict.EXPECTED


def test_what_cannot_be_measured_says_why():
    cell = cell_of(not_here)
    assert (cell.verdict, cell.why, cell.seen) == (Verdict.NOT_APPLICABLE, "no such thing", None)
    cell = cell_of(lambda kit: kit.in_child(lambda: not_here(kit)))
    assert (cell.verdict, cell.why) == (Verdict.NOT_APPLICABLE, "no such thing")


@pytest.mark.parametrize("measure", [lambda kit: 1 / 0, lambda kit: "ENOPROTOOPT", not_here])
def test_what_an_old_kernel_does_otherwise_is_not_applicable(measure):
    cell = cell_of(measure, since=(99, 1))
    assert (cell.verdict, cell.seen) == (Verdict.NOT_APPLICABLE, None)
    assert cell.why == f"Linux 99.1 or newer; this is {os.uname().release}"


def test_what_was_brought_back_to_an_old_kernel_is_as_expected():
    cell = cell_of(lambda kit: "ok", ByKernel({(99, 1): "ok", (99, 2): "EPERM"}), since=(99, 1))
    assert (cell.verdict, cell.expected, cell.why) == (Verdict.EXPECTED, "ok", "")


def test_what_lacks_a_need_is_not_tried_whatever_the_kernel_is(tmp_path):
    lacking = next(need for need in (Requirement.ROOT, Requirement.NOT_ROOT) if why_not(need))
    tried = tmp_path / "tried"
    cell = cell_of(lambda kit: tried.touch(), None, since=(99, 1), needs=frozenset([lacking]))
    assert cell.verdict is Verdict.NOT_APPLICABLE
    assert not tried.exists()


def test_gvisor_is_compared_with_the_newest_linux(monkeypatch):
    assert version("6.18.44-fc", False) == (6, 18, 44)
    assert version("4.4.0", False) < (6, 5)
    monkeypatch.setattr("udslab.atlas.kit.is_gvisor", lambda: True)
    assert all(kernel() > each.since for each in select())
    monkeypatch.setattr("udslab.atlas.runner.is_gvisor", lambda: True)
    changed = ByKernel({(0,): "EPERM", (99, 1): "ok"})
    assert cell_of(lambda kit: "EPERM", changed, since=(99, 1)).verdict is Verdict.UNEXPECTED
    assert cell_of(lambda kit: "ok", changed, since=(99, 1)).verdict is Verdict.EXPECTED


@pytest.mark.parametrize("need", Requirement)
def test_every_requirement_is_looked_at_and_what_lacks_it_is_not_measured(need):
    why = why_not(need)
    assert isinstance(why, str)
    cell = cell_of(lambda kit: "ok", needs=frozenset([need]))
    assert (cell.verdict, cell.why) == ((Verdict.NOT_APPLICABLE, why) if why else (Verdict.EXPECTED, ""))


def test_root_and_not_root_exclude_each_other():
    assert bool(why_not(Requirement.ROOT)) != bool(why_not(Requirement.NOT_ROOT))
    cell = cell_of(lambda kit: "ok", needs=frozenset([Requirement.ROOT, Requirement.NOT_ROOT]))
    assert cell.why == ("this is root" if os.geteuid() == 0 else "this is not root")


def test_another_user_has_no_capability_and_says_so(as_nobody, directory):
    for each in (directory, directory.parent):
        each.chmod(0o755)
    source = (
        "from udslab.atlas.requirement import Requirement, why_not\n"
        "print([why_not(Requirement(need)) for need in ('root', 'not-root', 'chown', 'sys-admin')])"
    )
    done = as_nobody(source, directory=directory)
    assert done.stdout.strip() == "['this is not root', '', 'no capability chown', 'no capability sys-admin']"


def test_signals_are_as_a_program_gets_them():
    def asks(kit):
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        return [signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler) for number in numbers]

    assert cell_of(asks, [True] * 3).verdict is Verdict.EXPECTED


def test_matches_is_about_json():
    assert matches({"a": (1, 2)}, {"a": [1, 2]})
    assert not matches(None, 0)
    assert not matches(False, 0)


def test_the_place_says_where_it_is():
    assert place().keys() - {"gvisor"} == {"distro", "kernel", "machine", "python", "libc", "uid"}
    assert place()["kernel"] == os.uname().release


# As a program.


@pytest.fixture
def runner(environment):
    """Starts `python -m udslab.atlas ARGUMENTS…`."""

    def start(*arguments: str, executable: str = sys.executable) -> Process:
        command = [executable, "-m", "udslab.atlas", *arguments]
        return Process(command, env=environment, stdout=subprocess.PIPE, with_us=False)

    return start


def test_lines_tell_the_place_and_then_each_cell(runner):
    with runner("--jobs", "2", "unn-*", "LSN-01") as process:
        head, *cells = map(json.loads, process.stdout)
    assert len(cells) == count(select(["unn-*", "LSN-01"])) > 10
    assert head["place"]["kernel"] == os.uname().release
    assert {cell["id"][:3] for cell in cells} == {"UNN", "LSN"}
    for cell in cells:
        assert list(cell) == ["id", "variant", "claim", "expected", "seen", "verdict", "why", "seconds"]


def tops() -> set[Path]:
    """Directories of this user's runners: also of others that run meanwhile, which come and go."""
    found = set()
    for path in Path("/tmp").glob("atlas-*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid == os.geteuid():
                found.add(path)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(runner, number):
    before = tops()
    with runner("--jobs", "2") as process:
        process.stdout.readline()
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        mine = tops() - before
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(30) == 130
        assert process.output() == ""
    assert mine
    assert all(gone(int(child)) for child in children)
    deadline = time.monotonic() + 30
    while not [path for path in mine if not path.exists()] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [path for path in mine if not path.exists()]


def test_it_ends_when_nobody_reads_what_it_says(runner):
    with runner("--jobs", "2") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.output() == ""


def test_a_pattern_without_a_behaviour_is_said(runner):
    with runner("no-such") as process:
        assert process.wait(30) == 1
        assert "no behaviour is called 'no-such'" in process.output()


def test_python_3_9_runs_it(runner):
    """With what there is in Debian 11 and RHEL 9."""
    found = [shutil.which("python3.9"), *glob.glob(os.path.expanduser("~/.pyenv/versions/3.9.*/bin/python"))]
    for python in filter(None, found):
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("there is no Python 3.9")
    patterns = ["NAM-*", "CRD-*", "RTS-0*"]
    with runner("--jobs", "2", *patterns, executable=python) as process:
        head, *cells = map(json.loads, process.stdout)
    assert head["place"]["python"].startswith("3.9.")
    assert len(cells) == count(select(patterns))
    assert not [cell for cell in cells if cell["verdict"] == "unexpected"]
