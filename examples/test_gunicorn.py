"""gunicorn: a master and its workers, which are followed and ended together."""

import stat
import sys
from pathlib import Path

import pytest
from udslab.ready import LogLine
from udslab.testing import assert_gone, assert_stale, assert_untouched

pytest.importorskip("gunicorn", reason="gunicorn is not installed: pip install gunicorn")

HERE = str(Path(__file__).parent)
# {socket} is a fresh, short path for each test. gunicorn's second socket, in the user's home, would be one for all.
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--no-control-socket", "app:wsgi"]


def test_it_answers_at_its_socket(make_uds_process, get):
    server = make_uds_process(GUNICORN, cwd=HERE)  # it listens when this returns, and is ended after the test
    assert get(server.path, "/here") == (200, "hello from WSGI at /here")


def test_it_tidies_up_when_it_is_stopped(make_uds_process, get):
    # It listens before its workers have come up, and one that is about to misses the signal to end: not for long.
    options = ["--workers", "2", "--graceful-timeout", "1", "--umask", "007"]
    server = make_uds_process([*GUNICORN, *options], cwd=HERE)
    assert get(server.path)[0] == 200
    assert stat.filemode(Path(server.path).stat().st_mode) == "srwxrwx---"
    server.stop()
    assert server.tree() == []  # no worker is left
    assert_gone(server.path)


def test_it_starts_again_after_a_crash(make_uds_process, get):
    server = make_uds_process(GUNICORN, cwd=HERE)
    server.kill()  # master and workers
    assert_stale(server.path)
    server.restart()
    assert get(server.path)[0] == 200


def test_it_takes_the_path_of_a_live_server(make_uds_obstacle, make_uds_process, get):
    taken = make_uds_obstacle("listener")
    # The obstacle listens, too: "somebody listens there" would not tell that it is gunicorn.
    make_uds_process(GUNICORN, taken.path, cwd=HERE, ready=LogLine("Booting worker"))
    assert get(taken.path) == (200, "hello from WSGI at /")


def test_it_does_not_take_the_path_of_a_file(make_uds_obstacle, make_uds_process):
    file = make_uds_obstacle("regular-file")
    with assert_untouched(file.path), pytest.raises(OSError, match="is not a socket"):
        make_uds_process(GUNICORN, file.path, cwd=HERE)
