"""uvicorn."""

import signal
import sys
from pathlib import Path

import pytest
from udslab.testing import assert_gone

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install uvicorn")

HERE = str(Path(__file__).parent)
UVICORN = [sys.executable, "-m", "uvicorn", "--uds", "{socket}", "app:asgi"]


def test_it_answers_at_its_socket(make_uds_process, get):
    server = make_uds_process(UVICORN, cwd=HERE)
    assert get(server.path, "/here") == (200, "hello from ASGI at /here")


def test_ctrl_c(make_uds_process):
    server = make_uds_process(UVICORN, cwd=HERE)
    server.send_signal(signal.SIGINT)
    print(server.wait(5), server.log())
    assert_gone(server.path)
