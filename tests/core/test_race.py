"""Of any number of starters exactly one wins, and nobody loses what is his."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from udslab import LockTimeout, listen, status
from udslab.spawn import end_with_parent
from udslab.testing import assert_untouched

ONE_WINNER = "1 won, {'EADDRINUSE': 7}, the winner answers"


@pytest.fixture
def race(environment, path):
    def run(scenario: str, rounds: int) -> dict[str, int]:
        program = Path(__file__).with_name("starters.py")
        done = subprocess.run(
            [sys.executable, program, scenario, path, str(rounds)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            preexec_fn=end_with_parent(),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def only_the_path_is_left(path: Path) -> bool:
    return [entry for entry in os.listdir(path.parent) if entry != path.name] == []


@pytest.mark.soak
def test_of_eight_over_a_stale_file_exactly_one_listens_and_answers(race, path):
    assert race("stale", 500) == {ONE_WINNER: 500}
    assert only_the_path_is_left(path)


def test_of_eight_on_a_free_path_exactly_one_listens_and_answers(race, path):
    assert race("absent", 200) == {ONE_WINNER: 200}
    assert only_the_path_is_left(path)


@pytest.mark.soak
def test_where_the_winner_is_killed_the_eight_start_again_and_exactly_one_listens(race, path):
    assert race("killed", 100) == {"1 won, {'EADDRINUSE': 7}": 100}
    assert only_the_path_is_left(path)


def test_none_of_eight_listens_over_a_regular_file_and_the_file_is_untouched(race, path):
    path.write_text("somebody's work")
    with assert_untouched(path):
        assert race("in-the-way", 100) == {"0 won, {'EADDRINUSE': 8}": 100}
    assert only_the_path_is_left(path)


def test_none_of_eight_listens_beside_a_live_server_which_notices_nothing(race, path):
    assert race("live", 100) == {
        "0 won, {'EADDRINUSE': 8}": 100,
        "the server noticed nothing": 1,
        "the path was kept": 1,
    }


@pytest.mark.soak
def test_a_foreign_server_that_unlinks_and_binds_never_loses_a_path_to_us(race):
    ended = race("foreign", 200)
    assert {outcome for outcome in ended if outcome.startswith("lost")} == set()
    assert ended["kept"] >= 50


@pytest.mark.parametrize("prepare", ["absent", "stale"])
def test_a_directory_that_is_locked_for_ever_is_a_clear_error_after_the_limit(path, prepare, make_socket):
    if prepare == "stale":
        make_socket(path).close()
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = time.monotonic()
        with pytest.raises(LockTimeout) as error:
            listen(path, lock_timeout=0.3)
        assert 0.3 <= time.monotonic() - before < 4  # five, unless it is told otherwise
        assert str(path) in str(error.value)
        assert f"pid {os.getpid()} has kept {path.parent} locked" in str(error.value)
    finally:
        os.close(fd)
    assert status(path).state == prepare


def test_a_listener_is_closed_and_its_file_removed_though_the_directory_is_locked(path):
    listener = listen(path)
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        listener.close()
    finally:
        os.close(fd)
    assert os.listdir(path.parent) == []
