"""gunicorn: a master and its workers, which are ended together."""

import stat
import sys
from pathlib import Path

import pytest
from udslab.testing import assert_gone, assert_stale

pytest.importorskip("gunicorn", reason="gunicorn is not installed: pip install gunicorn")

HERE = str(Path(__file__).parent)
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "app:wsgi"]


def test_it_answers_at_its_socket(make_uds_process, get):
    server = make_uds_process(GUNICORN, cwd=HERE)  # it listens when this returns
    assert get(server.path, "/here") == (200, "hello from WSGI at /here")


def test_its_workers_are_its_own(make_uds_process, get):
    server = make_uds_process([*GUNICORN, "--workers", "2", "--umask", "007"], cwd=HERE)
    assert get(server.path)[0] == 200
    assert stat.filemode(Path(server.path).stat().st_mode) == "srwxrwx---"
    server.stop()
    assert server.tree() == []
    assert_gone(server.path)


def test_it_starts_again_after_a_crash(make_uds_process, get):
    server = make_uds_process(GUNICORN, cwd=HERE)
    server.kill()  # master and workers
    assert_stale(server.path)
    server.restart()
    assert get(server.path)[0] == 200


@pytest.mark.parametrize("kind", ["listener", "regular-file"])
def test_what_it_does_with_a_path_that_is_taken(make_uds_process, make_uds_obstacle, get, kind):
    taken = make_uds_obstacle(kind)
    print(make_uds_process(GUNICORN, taken.path, cwd=HERE).log())
    assert get(taken.path)[0] == 200
