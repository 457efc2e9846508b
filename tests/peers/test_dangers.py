"""What is dangerous in the classic programs, each danger shown; and that ours has not got it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from udslab import connect, status
from udslab.spawn import wait_until
from udslab.testing import assert_gone, assert_serving, assert_stale, assert_untouched


def stopped(process) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


# The name is removed before bind


def assert_held_by(path, pid):
    # Asked again where it is not seen: a dump of the kernel's table can miss a socket while others come and go.
    wait_until(path, lambda found: found.pids == (pid,), look=lambda address: status(address, owners=True))


def test_the_classic_server_steals_the_path_of_a_live_one(serve, c_server, path):
    victim = serve(path)
    victims = status(path).inode
    thief = c_server(path)
    wait_until(path, lambda found: found.serving and found.inode != victims, process=thief)
    assert_held_by(path, thief.pid)
    assert victim.returncode is None  # it lives on, and nobody can reach it
    assert victim.end() == 0
    assert_serving(path)  # and the victim, at its end, does not take it back


def test_ours_does_not(cli, c_server, path):
    server = c_server(path)
    with assert_untouched(path):
        done = cli("serve", path)
    assert done.returncode == 1
    assert b"(EADDRINUSE)" in done.stderr
    assert_held_by(path, server.pid)


def test_the_classic_server_deletes_a_users_file(c_server, path):
    path.write_text("somebody's work")
    c_server(path)
    assert path.is_socket()


def test_ours_keeps_it(cli, path):
    path.write_text("somebody's work")
    with assert_untouched(path):
        assert cli("serve", path).returncode == 1


# The file stays behind


def test_the_classic_server_leaves_its_file_when_it_is_killed(c_server, path):
    c_server(path).kill()
    assert_stale(path)


def test_the_classic_server_leaves_its_file_after_a_clean_exit(c_server, c_client, path):
    server = c_server(path)
    assert c_client(path, b"hello\n").stdout == b"HELLO\n"
    assert server.wait(10) == 0
    assert_stale(path)


def test_ours_replaces_what_it_left_and_leaves_nothing(c_server, serve, path):
    c_server(path).kill()
    server = serve(path)
    assert server.end() == 0
    assert_gone(path)


# The caller is known by a file


@pytest.fixture
def forged(directory: Path, make_socket, needs_root):
    """Connects to a path with a file of one's own, and then puts another user's socket in its place."""

    def call(path: Path) -> tuple[socket.socket, Path]:
        own, victims = directory / "own", directory / "victims"
        client = make_socket(own)
        client.connect(str(path))
        make_socket(victims, backlog=1)
        os.chown(victims, 12345, 12345)
        victims.chmod(0o700)
        victims.rename(own)
        return client, own

    return call


def test_the_classic_server_believes_a_forged_identity_and_deletes_the_victims_file(c_server, forged, path):
    server = c_server(path)
    stopped(server)  # between connect and stat, which the attacker has to hit otherwise
    client, own = forged(path)
    server.send_signal(signal.SIGCONT)
    client.sendall(b"hello\n")
    assert client.recv(100) == b"HELLO\n"
    assert server.output() == "server: a client of uid 12345\n"
    assert not own.exists()


def test_the_kernels_word_is_not_forged(serve, forged, path):
    server = serve(path, "--identify")
    stopped(server)
    client, _ = forged(path)
    server.send_signal(signal.SIGCONT)
    client.sendall(b"hello\n")
    assert client.recv(100) == b"HELLO\n"
    (line,) = [line for line in server.output().splitlines() if "client 1: " in line]
    assert line.startswith(f"udslab: client 1: pid {os.getpid()} uid 0 gid 0 bound to ")
    assert line.endswith(", by its file uid 12345")  # as the classic way says it


@pytest.mark.parametrize(("instead", "status"), [("a file", 13), ("nothing", 12)])
def test_the_classic_server_can_be_made_to_exit_by_taking_the_file_away(c_server, directory, path, instead, status):
    server = c_server(path)
    stopped(server)
    with connect(path, bind=directory / "own") as client:
        (directory / "own").unlink()
        if instead == "a file":
            (directory / "own").write_text("somebody's work")
        server.send_signal(signal.SIGCONT)
        assert server.wait(10) == status
        assert client.recv(100) == b""
    assert (directory / "own").exists() == (instead == "a file")


# A name that can be guessed, in a directory that all may write to


def test_the_classic_client_deletes_what_lies_at_the_name_that_it_will_have(serve, start_c_client, path):
    serve(path)
    # By the shell that becomes the client, for it has the client's pid.
    client = start_c_client(path, "echo precious > /var/tmp/$(printf %05d $$)")
    assert client.communicate(b"hello\n") == (b"HELLO\n", b"")
    assert Path(f"/var/tmp/{client.pid:05}").is_socket()


def test_the_classic_client_cannot_start_when_somebody_has_taken_its_name(serve, start_c_client, path):
    serve(path)
    client = start_c_client(path, "mkdir /var/tmp/$(printf %05d $$)")
    taken = Path(f"/var/tmp/{client.pid:05}")
    _, said = client.communicate()
    taken.rmdir()
    assert client.returncode == 2
    assert said == f"client: bind: {taken}: Address already in use (errno 98)\n".encode()


def test_our_clients_name_cannot_be_guessed(path, make_socket):
    listener = make_socket(path, backlog=10)
    names = set()
    for _ in range(5):
        with connect(path, bind="auto") as client:
            names.add(client.address.name)
            assert len(os.path.basename(client.address.name)) >= 16
            assert b"%d" % os.getpid() not in client.address.name
            listener.accept()[0].close()
    assert len(names) == 5


# One client after the other


def test_a_silent_client_holds_up_the_classic_server(c_server, path):
    c_server(path)
    with connect(path, bind="auto") as silent, connect(path, bind="auto") as other:
        other.sendall(b"hello\n")
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.recv(100)
        silent.sendall(b"hello\n")
        assert silent.recv(100) == b"HELLO\n"


def test_a_silent_client_does_not_hold_up_ours(serve, path):
    serve(path)
    with connect(path) as _silent, connect(path) as other:
        other.sendall(b"hello\n")
        other.settimeout(10)
        assert other.recv(100) == b"HELLO\n"


def test_behind_the_silent_client_there_is_room_for_eleven(c_server, make_socket, path):
    c_server(path)
    with connect(path, bind="auto") as served:
        served.sendall(b"a")
        assert served.recv(1) == b"A"  # it has been accepted
        waiting = 0
        with pytest.raises(BlockingIOError):
            while waiting < 100:
                client = make_socket()
                client.setblocking(False)
                client.connect(str(path))
                waiting += 1
        assert waiting == 11  # listen(10)
        assert status(path).full


def test_who_waited_behind_the_one_client_is_turned_away_unheard(c_server, path):
    server = c_server(path)
    with connect(path, bind="auto") as served, connect(path, bind="auto") as waiting:
        waiting.sendall(b"hello\n")
        served.shutdown(socket.SHUT_WR)
        assert server.wait(10) == 0
        with pytest.raises(ConnectionResetError):
            waiting.recv(100)


# SIGPIPE


@pytest.mark.parametrize(("setup", "status", "said"), [(":", -13, ""), ("trap '' PIPE", 5, "server: write: ")])
def test_a_client_that_goes_ends_the_classic_server_by_sigpipe(c_server, directory, path, setup, status, said):
    server = c_server(path, setup)
    # Process puts signals back, the shell does not: that is what setup is for.
    stopped(server)
    client = connect(path, bind=directory / "own")
    client.sendall(b"hello\n")
    os.close(client.detach())  # and its file stays, for the server to look at
    server.send_signal(signal.SIGCONT)
    assert server.wait(10) == status
    assert said in server.output()
    assert ("(errno 32)" in server.output()) == (status == 5)


@pytest.mark.parametrize(("setup", "status", "said"), [(":", -13, b""), ("trap '' PIPE", 5, b"client: write: ")])
def test_a_server_that_goes_ends_the_classic_client_by_sigpipe(start_c_client, path, make_socket, setup, status, said):
    listener = make_socket(path, backlog=1)
    client = start_c_client(path, setup)
    connection, _ = listener.accept()
    connection.close()
    _, told = client.communicate(b"hello\n")
    assert client.returncode == status
    assert told.startswith(said)
    assert (b"(errno 32)" in told) == (status == 5)


def test_a_client_that_goes_costs_our_server_nothing(serve, path):
    server = serve(path)
    stopped(server)
    for _ in range(3):
        client = connect(path)
        client.sendall(b"hello\n")
        client.close()
    server.send_signal(signal.SIGCONT)
    with connect(path) as other:
        other.sendall(b"hello\n")
        assert other.recv(100) == b"HELLO\n"
    assert server.end() == 0
