"""The mutation run: whatever is measured otherwise is noticed, for every row; and so is a kernel that answers otherwise."""

from __future__ import annotations

import dataclasses
import errno
import json
import platform
import random
import struct
import subprocess
import sys
from typing import Any

import pytest
from mutants import mutants

from udslab.atlas.behaviour import BEHAVIOURS, Behaviour, Either
from udslab.atlas.catalogue import select
from udslab.atlas.kit import kernel
from udslab.atlas.runner import Verdict, matches, run


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def allowed(row: Behaviour, variant: Any) -> list[Any]:
    """All that is expected of a variant here, as JSON has it."""
    expected = row.expects(variant, kernel())
    return [plain(value) for value in (expected.values if isinstance(expected, Either) else [expected])]


@pytest.mark.parametrize("row", BEHAVIOURS.values(), ids=list(BEHAVIOURS))
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
        choice = random.Random(f"{row.id} {variant}")  # noqa: S311
        return choice.choice([each for each in mutants(seen) if each not in values])

    return dataclasses.replace(row, measure=measure)


@pytest.mark.soak
def test_the_runner_notices_every_measurement_that_is_flipped():
    rows = [flipped(row) for row in BEHAVIOURS.values()]
    cells = [cell for cell in run(rows, jobs=2) if cell.verdict is not Verdict.NOT_APPLICABLE]
    assert [cell for cell in cells if cell.verdict is not Verdict.UNEXPECTED] == []
    assert len(cells) > 1000


# A kernel that answers otherwise: a seccomp filter lets a system call fail before it is looked at.

_CALLS = {  # asm/unistd.h
    "x86_64": {"bind": 49, "listen": 50, "getsockname": 51, "getpeername": 52, "socketpair": 53, "shutdown": 48},
    "aarch64": {"bind": 200, "listen": 201, "getsockname": 204, "getpeername": 205, "socketpair": 199, "shutdown": 210},
}
_SOURCE = """
import ctypes, runpy, sys
filter, length = bytes.fromhex(sys.argv.pop(1)), int(sys.argv.pop(1))
libc = ctypes.CDLL(None, use_errno=True)
held = ctypes.create_string_buffer(filter)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(length, ctypes.addressof(held))
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
):
    sys.exit(77)
sys.argv[0] = "udslab.atlas"
runpy.run_module("udslab.atlas", run_name="__main__", alter_sys=True)
"""


def failing(call: int, number: int) -> tuple[str, int]:
    """The filter (linux/filter.h, linux/seccomp.h), and its length in instructions."""
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    allow, fail = 0x7FFF0000, 0x00050000
    lines = [(load, 0, 0, 0), (jump_if_equal, 0, 1, call), (give, 0, 0, fail | number), (give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines).hex(), len(lines)


@pytest.mark.skipif(platform.machine() not in _CALLS, reason="the numbers of this machine's calls are not known")
@pytest.mark.parametrize(
    ("call", "number", "ids"),
    [
        ("bind", errno.ENOTDIR, ["BND-0*", "NAM-0*"]),
        ("listen", errno.EISCONN, ["LSN-0*"]),
        ("shutdown", errno.ENOTCONN, ["SHU-08", "SHU-09", "SHU-1[0134]"]),
        ("getsockname", errno.ENOTSOCK, ["UNN-0[1-5]", "ABS-02", "ABS-05"]),
        ("getpeername", errno.ENOTSOCK, ["UNN-0[1-3]", "UNN-05"]),
        ("socketpair", errno.EMFILE, ["UNN-01", "UNN-04", "UNN-06"]),
    ],
)
def test_a_call_that_fails_is_noticed_by_every_row_that_makes_it(environment, call, number, ids):
    code, length = failing(_CALLS[platform.machine()][call], number)
    command = [sys.executable, "-c", _SOURCE, code, str(length), "--jobs", "2", *ids]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == 77:
        pytest.skip("no seccomp filters here")
    assert (done.returncode, done.stderr) == (0, "")
    cells = [json.loads(line) for line in done.stdout.splitlines()][1:]
    measured = [cell for cell in cells if cell["verdict"] != "n/a"]
    assert measured
    assert {cell["id"] for cell in cells} == {row.id for row in select(ids)}
    assert {cell["id"] for cell in measured if cell["verdict"] == "expected"} == set()
