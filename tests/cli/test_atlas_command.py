"""udslab atlas: this place measured and shown; one behaviour shown; two files compared."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import otherwise
import pytest

from udslab.atlas.catalogue import select
from udslab.spawn import Process

CELLS = [
    {"id": "LSN-04", "variant": "stream", "seen": {"waited": False}, "verdict": "unexpected"},
    {"id": "LSN-04", "variant": "seqpacket", "seen": {"waited": True}, "verdict": "expected"},
    {"id": "BND-01", "variant": "", "seen": "ok", "verdict": "expected"},
]


def survey(cells=CELLS, **place) -> dict:
    common = {"claim": "a claim", "expected": {"waited": True}, "why": "", "seconds": 0.1}
    return {"schema": 1, "place": {"distro": "debian 12", **place}, "cells": [{**common, **cell} for cell in cells]}


@pytest.fixture
def file(tmp_path):
    """Writes surveys into a file, whose path it gives."""

    def write(name: str, *surveys: dict) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(surveys[0] if len(surveys) == 1 else surveys))
        return path

    return write


def lines(done) -> list[str]:
    return done.stdout.decode().splitlines()


def test_this_place_is_as_expected_and_shown(cli):
    done = cli("atlas", "--only", "unn-*", "NAM-0?", "-j", "2")
    assert (done.returncode, done.stderr) == (0, b"")
    printed = lines(done)
    assert f"kernel {os.uname().release}" in " ".join(printed[:4])
    assert [line[:3] for line in printed if line.startswith(("NAM  ", "UNN  "))] == ["NAM", "UNN"]
    assert printed[-1].startswith("X 0 unexpected  ! 0 known  . ")
    assert all(len(line) <= 80 for line in printed)


def test_json_is_the_contract_and_each_behaviour_is_in_it(cli):
    done = cli("atlas", "--only", "LSN-*", "--json", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    whole = json.loads(done.stdout)
    assert (whole["schema"], list(whole)) == (1, ["schema", "place", "cells"])
    assert {cell["id"] for cell in whole["cells"]} == {row.id for row in select(["LSN-*"])}


def test_files_are_written_and_the_table_is_printed_all_the_same(cli, tmp_path):
    pytest.importorskip("jinja2")
    files = {form: tmp_path / form for form in ("json", "html", "markdown")}
    options = [word for form, path in files.items() for word in (f"--{form}", path)]
    done = cli("atlas", "--only", "UNN-01", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1 behaviours" in done.stdout
    assert json.loads(files["json"].read_text())["cells"]
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert files["markdown"].read_text().startswith("# Unix socket atlas\n")


def test_an_unknown_divergence_is_shown_with_expected_seen_and_source_and_is_exit_status_1(variables):
    words = [*otherwise.command("udslab", "listen", errno.EISCONN), "atlas", "--only", "LSN-01"]
    done = subprocess.run(words, env=variables, capture_output=True, timeout=60, check=False)
    otherwise.skip_if_not_here(done.returncode)
    assert (done.returncode, done.stderr) == (1, b"")
    printed = done.stdout.decode()
    row = select(["LSN-01"])[0]
    assert f"X LSN-01  {row.claim[:40]}" in printed
    for word in ("  expected  ", "  seen      ", "  source    ", "EISCONN"):
        assert word in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "no-such"], "no behaviour is called 'no-such'"),
        (["--only", "BND-01", "--only", "x*"], "no behaviour is called 'x*'"),
        (["show", "BND"], "no behaviour is called 'BND'"),
    ],
)
def test_what_is_no_behaviour_is_wrong_use(cli, complaint, arguments, said):
    assert said in complaint(cli("atlas", *arguments), status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-j", "0"],
        ["-j", "65"],
        ["-j", "two"],
        ["--only"],
        ["--json"],
        ["show"],
        ["diff"],
        ["diff", "one"],
        ["diff", "one", "two", "three"],
        ["nonsense"],
    ],
)
def test_wrong_use_is_said_by_the_parser(cli, arguments):
    done = cli("atlas", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: udslab" in done.stderr


def test_a_file_that_cannot_be_written_is_said(cli, complaint, tmp_path):
    done = cli("atlas", "--only", "UNN-01", "--json", tmp_path / "missing" / "file")
    assert "missing/file: No such file or directory (ENOENT)" in complaint(done, status=2)


def test_what_could_not_be_written_is_said_and_the_others_are_written(cli, tmp_path):
    files = ("--json", "/dev/full", "--markdown", tmp_path / "atlas.md")
    done = cli("atlas", "--only", "UNN-01", *files)
    said = b"udslab: /dev/full: No space left on device (ENOSPC): what was to be written is lost\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert b"1 behaviours" in done.stdout
    assert (tmp_path / "atlas.md").read_text().startswith("# Unix socket atlas\n")


def test_two_forms_do_not_go_to_one_place(cli, complaint):
    done = cli("atlas", "--only", "UNN-01", "--json", "-", "--markdown", "/dev/stdout")
    assert "two forms cannot be written to the same place" in complaint(done, status=2)


def test_a_runner_that_cannot_run_is_said(cli, complaint, tmp_path, variables):
    (tmp_path / "sitecustomize.py").write_text(
        'import sys\nif "udslab.atlas" in open("/proc/self/cmdline").read(): sys.exit("no atlas today")\n'
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), variables.get("PYTHONPATH")]))
    done = cli("atlas", "--only", "UNN-01", set={"PYTHONPATH": path})
    assert "the runner of the atlas has ended with status 1" in complaint(done, status=1)


def test_when_it_is_interrupted_what_is_known_is_printed_and_nothing_is_left(variables):
    command = [sys.executable, "-m", "udslab", "atlas", "-j", "2"]
    with Process(command, env=variables, stdout=subprocess.PIPE) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        end = time.monotonic() + 20
        while not (found := children.read_text().split()) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read().decode()
        assert process.wait(20) == 130
        assert process.output() == "udslab: interrupted: the cells that had not come are missing\n"
    assert "unexpected" in printed
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]


# show


def test_show_tells_claim_notes_source_and_what_this_place_says(cli):
    done = cli("atlas", "show", "lsn-04")
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.decode()
    assert printed.startswith("LSN-04  a blocking connect waits while the queue is full;")
    for word in ("Never ETIMEDOUT", "expected in", "  seen      ", "  source    unix(7)", "where gvisor is true:"):
        assert word in printed
    assert all(len(line) <= 80 for line in lines(done))


def test_show_tells_what_the_places_of_files_said(cli, file):
    done = cli("atlas", "show", "LSN-04", "--of", file("a", survey(runtime="runsc")), file("b", survey(runtime="runc")))
    assert done.returncode == 1
    assert "debian 12 runsc, debian 12 runc: 1 of 2: stream" in done.stdout.decode()


def test_in_a_place_that_is_known_for_it_a_divergence_is_known(cli, file):
    done = cli("atlas", "show", "LSN-04", "--of", file("a", survey(gvisor=True)))
    assert done.returncode == 0
    assert "  known in\n    debian 12 gVisor: 1 of 2: stream" in done.stdout.decode()


def test_what_is_known_between_two_places_is_shown_there_alone(cli, file):
    claims = {"": "in one place", "SO_PEERPIDFD, two places": "between two"}
    cells = [
        {"id": "NSC-05", "variant": variant, "claim": claim, "seen": "ok", "verdict": "expected"}
        for variant, claim in claims.items()
    ]
    done = cli("atlas", "show", "NSC-05", "--of", file("a", survey(cells)))
    one, two = done.stdout.decode().split("\n\n")
    assert one.startswith("NSC-05  in one place\n")
    assert "where gvisor is true:" in one
    assert "pair is true" not in one
    assert two.startswith("NSC-05  between two\n")
    assert "where gvisor is true:" not in two
    assert 'where pair is true, runtime is "runsc → *":' in two
    assert "  kernel    Linux 6.5 or newer\n" in two


def test_what_differs_is_shown_first(cli, file):
    known = [{"id": "BND-01", "seen": "ok", "verdict": "expected", "variant": ""}]
    differing = [{"id": "LIF-15", "seen": seen, "verdict": "expected", "variant": ""} for seen in (True, False)]
    files = [file(name, survey([*known, cell])) for name, cell in zip("ab", differing, strict=True)]
    done = cli("atlas", "show", "BND-01", "LIF-15", "--of", *files)
    printed = done.stdout.decode()
    assert printed.index("LIF-15  ") < printed.index("BND-01  ")


def test_what_is_not_in_the_files_is_said(cli, complaint, file):
    done = cli("atlas", "show", "UNN-01", "--of", file("a", survey()))
    assert "nothing was measured of UNN-01" in complaint(done, status=2)


# diff


def test_what_is_the_same_does_not_differ(cli, file):
    one, other = file("a", survey(kernel="6.1")), file("b", survey(kernel="6.18"))
    done = cli("atlas", "diff", one, other)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0 of 3 cells differ\n", b"")


def test_what_differs_is_shown_with_what_each_has_seen(cli, file):
    other = [{**CELLS[0], "seen": {"waited": True}, "verdict": "expected"}, *CELLS[1:]]
    done = cli("atlas", "diff", file("a", survey(kernel="6.1")), file("b", survey(other, kernel="6.18")))
    assert done.returncode == 1
    printed = done.stdout.decode()
    assert printed.startswith("LSN-04  a claim\n")
    assert (
        '  unexpected in\n    debian 12 kernel 6.1\n  expected  {"waited": true}\n  seen      {"waited": false}'
        in printed
    )
    assert '  expected in\n    debian 12 kernel 6.18\n  seen      {"waited": true}\n' in printed
    assert "BND-01" not in printed
    assert printed.endswith("\n1 of 3 cells differ\n")


def test_what_only_one_has_is_a_difference(cli, file):
    one, other = file("a", survey()), file("b", survey(CELLS[:2]))
    done = cli("atlas", "diff", one, other)
    assert done.returncode == 1
    assert done.stdout.decode() == f"only in {one}:\n  BND-01\n0 of 2 cells differ\n"


@pytest.mark.parametrize("act", ["diff", "show"])
@pytest.mark.parametrize(
    ("content", "said", "status"),
    [
        (None, "No such file or directory (ENOENT)", 1),
        ("", "Expecting value", 2),
        ("{}", "no survey of schema 1", 2),
        ('{"schema": 2}', "no survey of schema 1", 2),
        ("\udcff", "codec can't decode", 2),
    ],
)
def test_a_file_that_is_none_is_said(cli, complaint, file, tmp_path, act, content, said, status):
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    arguments = ["diff", file("a", survey()), path] if act == "diff" else ["show", "BND-01", "--of", path]
    line = complaint(cli("atlas", *arguments), status=status)
    assert str(path) in line
    assert said in line


def test_a_file_of_several_surveys_is_not_for_diff(cli, complaint, file):
    one, two = file("a", survey()), file("b", survey(), survey())
    assert f"{two}: 2 surveys are in it" in complaint(cli("atlas", "diff", one, two), status=2)
