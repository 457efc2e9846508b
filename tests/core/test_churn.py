"""status() is right while thousands of sockets come and go, and at the moment at which one is born."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from udslab.spawn import end_with_parent

pytestmark = pytest.mark.soak


@pytest.fixture
def look(environment, directory):
    def run(what: str, looks: int) -> dict[str, int]:
        program = Path(__file__).with_name("churn.py")
        done = subprocess.run(
            [sys.executable, program, what, directory, str(looks)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            preexec_fn=end_with_parent(),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_hundred_thousand_looks_under_churn_are_all_right(look):
    assert look("states", 100_000) == {"right": 100_000}


def test_a_socket_that_is_just_being_bound_is_never_called_stale(look):
    assert look("births", 20_000) == {"right": 20_000}
