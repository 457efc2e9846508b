"""nginx, with a configuration that is made for each test."""

import os
import sys
from pathlib import Path

import pytest
from udslab.testing import assert_stale

CONFIGURATION = """
{user}
pid {directory}/nginx.pid;
error_log stderr info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/client_body;
    fastcgi_temp_path {directory}/fastcgi;
    proxy_temp_path {directory}/proxy;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    server {{
        listen unix:{socket};
        {rules}
    }}
}}
"""


@pytest.fixture
def nginx(make_uds_path, make_uds_process, program, tmp_path):
    """``nginx("rules")``: a server with them; at a path of one's own choice with ``path``.

    make_uds_path comes before make_uds_process: the server is to end before its path goes.
    """

    def start(rules, path=None):
        path = path or make_uds_path()
        file = tmp_path / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # its workers may enter the test's private directories
        file.write_text(CONFIGURATION.format(user=user, directory=tmp_path, socket=path, rules=rules))
        # It is a daemon, as it is by default: it is followed into the background, and ended there.
        return make_uds_process([program("nginx", "apt install nginx"), "-c", file, "-e", "stderr"], path)

    return start


def test_it_answers_at_its_socket(nginx, get):
    server = nginx("""return 200 "hello\n";""")
    assert get(server.path) == (200, "hello\n")


def test_in_front_of_gunicorn(nginx, make_uds_process, get):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed: pip install gunicorn")
    command = [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--no-control-socket", "app:wsgi"]
    application = make_uds_process(command, cwd=str(Path(__file__).parent))
    server = nginx(f"location / {{ proxy_pass http://unix:{application.path}; }}")
    assert get(server.path, "/there") == (200, "hello from WSGI at /there")
    application.stop()
    assert get(server.path, "/there")[0] == 502


def test_it_does_not_start_where_a_crash_has_left_a_file(nginx, make_uds_obstacle):
    """It tries for two seconds, as for a port; somebody has to remove the file (`udslab clean` does)."""
    stale = make_uds_obstacle("stale")
    with pytest.raises(OSError, match="98: Address already in use"):
        nginx("return 204;", stale.path)
    assert_stale(stale.path)
