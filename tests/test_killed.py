"""A test run that is killed leaves no process, and the next one sweeps what is left of its files."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from udslab.spawn import Process

ROOT = Path(__file__).parent.parent


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, as they are now."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in map(int, children.read().split()):
                    found += [child, *descendants(child)]
    return found


def pidfds(pids: list[int]) -> dict[int, int]:
    opened = {}
    for pid in pids:
        try:
            opened[pid] = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
    return opened


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_killed_test_run_leaves_no_process(tmp_path, workers):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, "tests/core/test_race.py"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for inherited in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_TESTRUNUID", "PYTEST_ADDOPTS"):
        environment.pop(inherited, None)
    with Process([*command, "-k", "eight_over_a_stale_file"], env=environment, cwd=str(ROOT)) as run:
        end = time.monotonic() + 60
        while len(left := descendants(run.pid)) < 9:  # the program that races, and its eight starters
            assert time.monotonic() < end, run.output()
            assert run.returncode is None, run.output()
            time.sleep(0.01)
        watched = pidfds(left)
        run.kill()
        try:
            end = time.monotonic() + 20
            while watched and time.monotonic() < end:
                ended, _, _ = select.select(list(watched.values()), [], [], 1)
                for pid in [pid for pid, fd in watched.items() if fd in ended]:
                    os.close(watched.pop(pid))
            assert not watched
        finally:
            for fd in watched.values():
                os.close(fd)
    source = "from udslab.scratch import scratch_directory\nwith scratch_directory(): pass"
    subprocess.run([sys.executable, "-c", source], env=environment, check=True)
    assert [name for name in os.listdir(tmp_path) if name.startswith("udslab-")] == []
