"""The mutation run: what is measured otherwise is noticed, for every row; so is a kernel that answers otherwise."""

from __future__ import annotations

import dataclasses
import errno
import json
import random
import subprocess
from typing import Any

import otherwise
import pytest
from mutants import mutants

from udslab.atlas.behaviour import Behaviour, Either
from udslab.atlas.catalogue import select
from udslab.atlas.kit import kernel
from udslab.atlas.runner import Verdict, matches, run


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def allowed(row: Behaviour, variant: Any) -> list[Any]:
    """All that is expected of a variant here, as JSON has it."""
    expected = row.expects(variant, kernel())
    return [plain(value) for value in (expected.values if isinstance(expected, Either) else [expected])]


@pytest.mark.parametrize("row", select(), ids=lambda row: row.id)
def test_every_change_of_what_is_expected_is_noticed(row: Behaviour):
    for variant in row.variants or ("",):
        values = allowed(row, variant)
        texts = {json.dumps(value, sort_keys=True) for value in values}
        for value in values:
            changed = [each for each in mutants(value) if json.dumps(each, sort_keys=True) not in texts]
            assert changed
            expected = row.expects(variant, kernel())
            assert [each for each in changed if matches(each, expected)] == []


def flipped(row: Behaviour) -> Behaviour:
    """The row, in whose measurement one thing is changed after it was made."""

    def measure(kit: Any, *variant: Any) -> Any:
        seen = plain(row.measure(kit, *variant))
        values = allowed(row, *(variant or ("",)))
        choice = random.Random(f"{row.id} {variant}")
        return choice.choice([each for each in mutants(seen) if each not in values])

    return dataclasses.replace(row, measure=measure)


@pytest.mark.soak
@pytest.mark.timeout(600)  # more than a thousand forks of this process, which is large when all tests are collected
def test_the_runner_notices_every_measurement_that_is_flipped():
    rows = [flipped(row) for row in select()]
    cells = [cell for cell in run(rows, jobs=2) if cell.verdict is not Verdict.NOT_APPLICABLE]
    assert [cell for cell in cells if cell.verdict is not Verdict.UNEXPECTED] == []
    assert len(cells) > 1000


@pytest.mark.parametrize(
    ("call", "number", "ids"),
    [
        ("bind", errno.ENOTDIR, ["BND-0*", "NAM-0*"]),
        ("listen", errno.EISCONN, ["LSN-0*"]),
        ("shutdown", errno.ENOTCONN, ["SHU-08", "SHU-09", "SHU-1[0134]", "LSM-06"]),
        ("getsockname", errno.ENOTSOCK, ["UNN-0[1-5]", "ABS-02", "ABS-05"]),
        ("getpeername", errno.ENOTSOCK, ["UNN-0[1-3]", "UNN-05"]),
        ("socketpair", errno.EMFILE, ["UNN-01", "UNN-04", "UNN-06", "LSM-06"]),
    ],
)
def test_a_call_that_fails_is_noticed_by_every_row_that_makes_it(environment, call, number, ids):
    words = [*otherwise.command("udslab.atlas", call, number), "--jobs", "2", *ids]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100, check=False)
    otherwise.skip_if_not_here(done.returncode)
    assert (done.returncode, done.stderr) == (0, "")
    cells = [json.loads(line) for line in done.stdout.splitlines()][1:]
    measured = [cell for cell in cells if cell["verdict"] != "n/a"]
    assert measured
    assert {cell["id"] for cell in cells} == {row.id for row in select(ids)}
    assert {cell["id"] for cell in measured if cell["verdict"] == "expected"} == set()
