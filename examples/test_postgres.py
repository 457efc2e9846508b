"""PostgreSQL: one server for all tests, which takes more than a second to make."""

import os
import signal
import subprocess

import pytest
from udslab.ready import Listening, LogLine

ADVICE = "apt install postgresql"
# It refuses to run as root: then Debian's user postgres runs it.
USER = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def postgres(uds, program):
    """A server without a port, which lets a client in as whom the kernel says that it is (``peer``)."""
    initdb, server = program("initdb", ADVICE), program("postgres", ADVICE)
    # It gives its socket file a name of its own, in a directory that its user must be able to write.
    rights = {"mode": 0o770, "group": "postgres"} if USER else {}
    with uds.path(".s.PGSQL.5432", **rights) as path:
        directory = os.path.dirname(path)
        data = os.path.join(directory, "data")
        cluster = ["--auth=peer", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run([*USER, initdb, "-D", data, *cluster], check=True, stdout=subprocess.DEVNULL, cwd="/")
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off"]
        # It listens before it lets anybody in: both must hold.
        ready = [Listening(), LogLine("ready to accept connections")]
        with uds.process([*USER, server, "-D", data, *options], path, ready=ready, cwd="/") as process:
            yield process
            process.send_signal(signal.SIGINT)  # on SIGTERM it waits until its last client has gone
            process.wait(timeout=10)


@pytest.fixture
def sql(postgres, program):
    """``sql("select 1")``: what psql prints; ``-U`` and the like behind it."""
    psql = [*USER, program("psql", ADVICE), "--no-psqlrc", "--tuples-only", "--no-align", "--dbname=postgres"]

    def ask(text, *options):
        command = [*psql, "--host", os.path.dirname(postgres.path), *options, "--command", text]
        return subprocess.run(command, capture_output=True, text=True, cwd="/", check=True).stdout.strip()

    return ask


def test_it_calculates(sql):
    assert sql("select 6 * 7") == "42"


def test_nobody_is_there_by_another_way_than_the_socket(sql):
    assert sql("show listen_addresses") == ""
    assert sql("select inet_server_addr() is null") == "t"


def test_nobody_is_let_in_as_somebody_else(sql):
    with pytest.raises(subprocess.CalledProcessError) as error:
        sql("select 1", "--username", "somebody")
    assert 'Peer authentication failed for user "somebody"' in error.value.stderr
