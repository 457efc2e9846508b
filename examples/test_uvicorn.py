"""uvicorn: what it leaves depends on how it is ended."""

import signal
import sys
from pathlib import Path

import pytest
from udslab.testing import assert_gone

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install uvicorn")

HERE = str(Path(__file__).parent)
UVICORN = [sys.executable, "-m", "uvicorn", "--uds", "{socket}", "app:asgi"]


def test_it_answers_at_its_socket(make_uds_process, get):
    # On SIGTERM it leaves its socket file: it ends itself by the same signal before it gets to that. Without
    # expect_left that is an error at the test's teardown.
    server = make_uds_process(UVICORN, cwd=HERE, expect_left=True)
    assert get(server.path, "/here") == (200, "hello from ASGI at /here")


def test_it_tidies_up_after_ctrl_c(make_uds_process):
    server = make_uds_process(UVICORN, cwd=HERE)
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=20) == 0
    assert_gone(server.path)


def test_it_replaces_what_it_has_left(make_uds_process, get):
    server = make_uds_process(UVICORN, cwd=HERE, expect_left=True)
    server.restart()
    assert get(server.path)[0] == 200
