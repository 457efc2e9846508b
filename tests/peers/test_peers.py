"""The C peers with ours, and with each other: byte for byte, and a thousand of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from udslab import connect
from udslab.scratch import scratch_directory
from udslab.spawn import Process, wait_until
from udslab.testing import assert_gone, assert_stale

MIB = 1 << 20
DATA = {
    "nothing": b"",
    "a line": b"hello\n",
    "empty lines": b"\n\na\n\n\n",
    "every byte": bytes(range(256)) + b"\n" + bytes(reversed(range(256))),
    "no newline at the end": b"one\ntwo",
    "lines of 1 MiB": (b"a" * (MIB - 1) + b"\n") * 2 + b"end\n",
}

data_of_all_kinds = pytest.mark.parametrize("data", DATA.values(), ids=list(DATA))


@data_of_all_kinds
def test_their_server_answers_our_client(c_server, cli, path, data):
    server = c_server(path)
    done = cli("send", "--bind", "auto", path, input=data)
    assert done.stderr == b""
    assert done.stdout == data.upper()
    assert done.returncode == 0
    assert server.wait(10) == 0
    assert server.output() == f"server: a client of uid {os.geteuid()}\nserver: the other side has been closed\n"


@pytest.fixture(scope="module", params=[(), ("--identify",)], ids=["plain", "identify"])
def our_server(request, environment) -> Iterator[str]:
    """The path of a server of ours, for all who do nothing to it."""
    with scratch_directory() as directory:
        path = f"{directory}/s"
        with Process([sys.executable, "-m", "udslab", "serve", *request.param, path], env=environment) as process:
            process.wait_serving(path)
            yield path


@data_of_all_kinds
def test_our_server_answers_their_client(our_server, c_client, data):
    done = c_client(our_server, data, "umask 077")
    assert done.stderr == b""
    assert done.stdout == data.upper()
    assert done.returncode == 0


@data_of_all_kinds
def test_their_server_answers_their_client(c_server, c_client, path, data):
    server = c_server(path)
    done = c_client(path, data)
    assert done.stderr == b""
    assert done.stdout == data.upper()
    assert done.returncode == 0
    assert server.wait(10) == 0


def test_our_server_ends_well_after_their_clients(serve, c_client, path):
    server = serve(path)
    for _ in range(3):
        assert c_client(path, b"hello\n").stdout == b"HELLO\n"
    assert server.end() == 0
    assert_gone(path)


@pytest.mark.soak
def test_a_thousand_of_their_clients_are_answered_by_our_server(serve, start_c_client, path):
    server = serve(path, "--identify")
    for batch in range(20):
        clients = [start_c_client(path, "umask 077") for _ in range(50)]
        lines = [b"client %d of batch %d\n" % (number, batch) for number in range(50)]
        for client, line in zip(clients, lines, strict=True):
            client.stdin.write(line)  # all of them are there before the first one ends
            client.stdin.flush()
        for client, line in zip(clients, lines, strict=True):
            assert client.stdout.readline() == line.upper()
        for client in clients:
            client.communicate()
            assert client.returncode == 0
    assert server.output().count(f", by its file uid {os.geteuid()}\n") == 1000
    assert server.end() == 0


# From a small process, for forking this one takes longer than all the rest.
ONE_AFTER_THE_OTHER = """
import ctypes, os, sys
times, *command = sys.argv[1:]
prctl = ctypes.CDLL(None).prctl
for _ in range(int(times)):
    pid = os.fork()
    if pid == 0:
        prctl(1, 9)  # ends with us
        os.execv(command[0], command)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"it has ended with {status}")
"""


@pytest.mark.soak
def test_a_thousand_of_their_servers_answer_our_client(peers, path):
    command = [sys.executable, "-S", "-E", "-c", ONE_AFTER_THE_OTHER, "1000", peers / "server", path]
    with Process(command) as servers:
        last = None
        for number in range(1000):
            # The last one's socket may still be open; the number of its inode may be that of the next one's.
            last = wait_until(path, lambda found, last=last: found.serving and found.made != last, process=servers).made
            with connect(path, bind="auto") as client:
                client.sendall(b"line %d\n" % number)
                assert client.read_line() == b"LINE %d\n" % number
                own = os.fsdecode(client.address.name)
                assert not os.path.lexists(own)
        assert servers.wait(10) == 0
    assert_stale(path)


# Who calls


def test_their_server_removes_our_clients_file(c_server, path):
    c_server(path)
    with connect(path, bind="auto") as client:
        own = os.fsdecode(client.address.name)
        client.sendall(b"hello\n")
        assert client.read_line() == b"HELLO\n"
        assert not os.path.lexists(own)


def test_our_server_removes_their_clients_file_when_it_identifies(serve, start_c_client, path):
    server = serve(path, "--identify")
    client = start_c_client(path, "umask 077")
    client.stdin.write(b"hello\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"HELLO\n"
    own = Path(f"/var/tmp/{client.pid:05}")
    assert not own.exists()
    credentials = f"pid {client.pid} uid {os.geteuid()} gid {os.getegid()}"
    assert f"{credentials} bound to {own}, by its file uid {os.geteuid()}\n" in server.output()


def test_their_client_leaves_its_file_where_the_server_does_not_remove_it(serve, c_client, start_c_client, path):
    serve(path)
    client = start_c_client(path)
    client.communicate(b"hello\n")
    assert_stale(f"/var/tmp/{client.pid:05}")


def test_our_server_turns_their_client_away_when_its_file_is_open_to_others(serve, c_client, path):
    server = serve(path, "--identify")
    done = c_client(path, b"hello\n", "trap '' PIPE; umask 022")
    assert done.returncode == 5
    assert done.stdout == b""
    assert "turned away: a filename that is open to others: " in server.output()
    assert "its mode is 0755 (EPERM)" in server.output()


def test_their_server_turns_away_who_has_bound_no_file(c_server, cli, path):
    server = c_server(path)
    assert cli("send", path, input=b"hello\n").returncode == 1
    assert server.wait(10) == 12
    assert server.output() == "server: a bad filename: (no name): No such file or directory (errno 2)\n"


# How they fail, stage by stage


@pytest.mark.parametrize("program", ["server", "client"])
@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_wrong_use_is_told(peers, program, arguments):
    done = subprocess.run([peers / program, *arguments], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (64, f"usage: {program} PATH\n".encode())


@pytest.mark.parametrize("name", ["missing/s", "n" * 120])
def test_their_server_tells_the_stage_bind(peers, directory, name):
    done = subprocess.run([peers / "server", directory / name], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"server: bind: {directory / name}: ".encode())


def test_a_long_path_costs_no_file_before_it_is_refused(peers, directory):
    file = directory / ("n" * 120)
    file.write_text("somebody's work")
    assert subprocess.run([peers / "server", file], capture_output=True, check=False).returncode == 2
    assert file.read_text() == "somebody's work"


@pytest.mark.parametrize("name", ["missing", "n" * 120, "stale"])
def test_their_client_tells_the_stage_connect(c_client, stale, directory, name):
    stale.rename(directory / "stale")
    done = c_client(directory / name)
    assert done.returncode == 4
    assert done.stderr.startswith(f"client: connect: {directory / name}: ".encode())


def test_their_client_tells_when_the_answer_is_cut_short(c_client, start_c_client, path, make_socket):
    listener = make_socket(path, backlog=1)
    client = start_c_client(path)
    connection, _ = listener.accept()
    with connection:
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        assert connection.recv(100) == b"hello\n"
        connection.sendall(b"HEL")
    printed, said = client.communicate()
    assert client.returncode == 5
    assert printed == b"HEL"
    assert said == f"client: read: {path}: the other side has been closed (errno 0)\n".encode()


def test_their_client_loses_nothing_of_an_answer_that_comes_in_pieces(start_c_client, path, make_socket):
    listener = make_socket(path, backlog=1)
    client = start_c_client(path)
    connection, _ = listener.accept()
    client.stdin.write(b"hello\nworld\n")
    client.stdin.flush()
    with connection:
        assert connection.recv(100) == b"hello\n"
        for byte in b"HELLO\n":
            connection.sendall(bytes([byte]))
        assert connection.recv(100) == b"world\n"
        connection.sendall(b"WORLD\n")
        assert client.communicate() == (b"HELLO\nWORLD\n", b"")
    assert client.returncode == 0
