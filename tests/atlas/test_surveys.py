"""Surveys: as JSON and back; from the lines of a runner; of this place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from udslab.atlas.runner import Cell, Verdict
from udslab.errors import ServiceError, UdsError
from udslab.places.here import Here
from udslab.places.survey import SCHEMA, Reading, Survey, load
from udslab.spawn import Process

CELLS = (
    Cell("BND-01", "stream", "claim", {"a": [1]}, {"a": [2]}, Verdict.UNEXPECTED, "why", 0.25),
    Cell("BND-02", "", "claim", {"either": ["ok", 1]}, None, Verdict.NOT_APPLICABLE, "no root", 0.0),
)
SURVEY = Survey({"kernel": "6.18", "gvisor": True}, CELLS)


def test_the_json_is_a_contract():
    whole = SURVEY.as_dict()
    assert list(whole) == ["schema", "place", "cells"]
    assert whole["schema"] == SCHEMA == 1
    assert whole["cells"][0] == {
        "id": "BND-01",
        "variant": "stream",
        "claim": "claim",
        "expected": {"a": [1]},
        "seen": {"a": [2]},
        "verdict": "unexpected",
        "why": "why",
        "seconds": 0.25,
    }
    assert Survey.from_dict(json.loads(json.dumps(whole))) == SURVEY


def test_a_file_has_one_survey_or_a_list(tmp_path):
    (tmp_path / "one").write_text(json.dumps(SURVEY.as_dict()))
    (tmp_path / "two").write_text(json.dumps([SURVEY.as_dict()] * 2))
    assert load(tmp_path / "one") == [SURVEY]
    assert load(tmp_path / "two") == [SURVEY, SURVEY]


WHOLE = SURVEY.as_dict()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("3", "no survey of schema 1"),
        ("null", "no survey of schema 1"),
        ('"text"', "no survey of schema 1"),
        ("[3]", "no survey of schema 1"),
        ("{}", "no survey of schema 1"),
        (json.dumps({**WHOLE, "schema": 2}), "no survey of schema 1"),
        (json.dumps({"schema": 1, "place": {}}), "lacks something: 'cells'"),
        (json.dumps({**WHOLE, "place": 3}), "lacks something"),
        (json.dumps({**WHOLE, "cells": [3]}), "lacks something"),
        (json.dumps({**WHOLE, "cells": [{"id": "BND-01"}]}), "lacks something: 'verdict'"),
        (json.dumps({**WHOLE, "cells": [{**WHOLE["cells"][0], "verdict": "odd"}]}), "odd"),
        (json.dumps({**WHOLE, "cells": [{**WHOLE["cells"][0], "more": 1}]}), "more"),
        (json.dumps({**WHOLE, "cells": [{**WHOLE["cells"][0], "id": 3}]}), "id is to be a text"),
        (json.dumps({**WHOLE, "cells": [{**WHOLE["cells"][0], "why": None}]}), "why is to be a text"),
    ],
)
def test_what_is_no_survey_is_said_with_the_file(tmp_path, content, said):
    (tmp_path / "bad").write_text(content)
    with pytest.raises(ServiceError) as error:
        load(tmp_path / "bad")
    assert f"{tmp_path}/bad" in str(error.value)
    assert said in str(error.value)


def line(cell: Cell) -> bytes:
    return json.dumps(cell.as_dict()).encode() + b"\n"


HEAD = json.dumps({"place": {"kernel": "6.18"}}).encode() + b"\n"


def test_lines_are_read_as_they_come():
    told = iter([HEAD, *map(line, CELLS)])
    reading = Reading(told)
    assert (reading.place, reading.cells) == ({"kernel": "6.18"}, [])
    cells = iter(reading)
    assert next(cells) == CELLS[0]
    assert reading.survey == Survey(reading.place, CELLS[:1])
    assert list(cells) == [CELLS[1]]


@pytest.mark.parametrize("lines", [[], [b"\n"], [b"Traceback\n"], [b"3\n"], [b"{}\n"], [line(CELLS[0])]])
def test_what_does_not_begin_with_a_place_is_no_runner(lines):
    with pytest.raises(ValueError):
        Reading(lines)


@pytest.mark.parametrize("last", [b"Segmentation fault\n", b"{}\n", b"3\n", line(CELLS[0])[:20]])
def test_what_is_no_cell_is_said(last):
    reading = Reading([HEAD, line(CELLS[0]), last])
    with pytest.raises(ValueError):
        list(reading)
    assert reading.cells == [CELLS[0]]


# This place.


def test_this_place_is_measured():
    with Here(["unn-01", "LSN-0[12]"], jobs=2) as here:
        cells = list(here)
        assert here.count == len(cells)
    assert {cell.id for cell in cells} == {"UNN-01", "LSN-01", "LSN-02"}
    assert here.survey.place["kernel"] == os.uname().release
    assert here.survey.cells == tuple(cells)


def children() -> set[int]:
    return set(map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()))


def test_leaving_early_ends_it():
    before = children()
    with Here(jobs=2) as here:
        for _ in here:
            break
        assert children() - before
    assert len(here.survey.cells) < here.count
    assert not children() - before


def test_a_runner_that_cannot_begin_says_why(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # has no encodings
    with pytest.raises(UdsError, match=r"the runner of the atlas has ended with status 1 .*its last line: .*no Python"):
        Here(["UNN-01"]).__enter__()


def test_a_pattern_without_a_behaviour_is_said():
    with pytest.raises(ValueError, match="no behaviour is called 'x'"):
        Here(["x"])


def test_a_runner_that_is_killed_says_so():
    before = children()
    with pytest.raises(UdsError, match=r"has ended with status -9 .*it has said nothing"), Here(jobs=2) as here:
        for _ in here:
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)
    assert len(here.survey.cells) < here.count


def runs(pid: int) -> bool:
    """Whether it has not ended; this process may have adopted it, and not waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_when_the_caller_is_killed_the_runner_ends_too(environment, tmp_path):
    source = (
        "import sys, pathlib\n"
        "from udslab.places.here import Here\n"
        "with Here(jobs=2) as here:\n"
        "    for cell in here:\n"
        "        print(here._runner.pid, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    with Process([sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as it:
        runner = int(it.stdout.readline())
        it.kill()
    end = time.monotonic() + 20
    while runs(runner) and time.monotonic() < end:
        time.sleep(0.05)
    assert not runs(runner)
