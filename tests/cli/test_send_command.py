"""`udslab send`: what goes in comes out, on every type of socket, and how it fails."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from udslab.scratch import scratch_directory
from udslab.spawn import Process

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(variables) -> Iterator[str]:
    """The path of a server for all who do nothing to it."""
    with scratch_directory() as directory:
        path = f"{directory}/s"
        with Process([sys.executable, "-m", "udslab", "serve", path], env=variables) as process:
            process.wait_serving(path)
            yield path


@pytest.mark.parametrize(
    "data",
    [
        b"hello\n",
        b"",
        b"\n",
        b"\n\n\n",
        b"a\n\nb\n",
        b"no newline at the end",
        b"a\nno newline at the end",
        bytes(range(256)) + b"\n",
        b"\0" * 1000,
        b"\r\n\r\n\x85\x0b\n",
        "größer\n".encode(),
        b"x" * MIB + b"\n",
        b"x" * (3 * MIB),
        (b"a" * MIB + b"\n") * 3 + b"end",
        b"line\n" * 100_000,
    ],
    ids=lambda data: f"{data[:8]!r}-{len(data)}",
)
def test_what_goes_in_comes_out(server, cli, data):
    done = cli("send", server, input=data)
    assert done.stderr == b""
    assert done.stdout == data.upper()
    assert done.returncode == 0


def test_random_bytes_come_back_as_they_are(serve, cli, path):
    serve(path, "--service", "echo")
    data = random.randbytes(5 * MIB)
    assert cli("send", path, input=data).stdout == data


@pytest.mark.parametrize("type", ["dgram", "seqpacket"])
def test_each_line_is_one_record(serve, cli, path, type):
    (path.parent / "lengths.py").write_text(
        "from udslab.services import per_record\nservice = per_record(lambda data: b'%r\\n' % data)\n"
    )
    serve(path, "--type", type, "--service", "lengths:service", cwd=str(path.parent))
    done = cli("send", "--type", type, path, input=b"one\n\nthree \r\x0b\0\xff\nlast")
    assert done.stdout == b"b'one\\n'\nb'\\n'\nb'three \\r\\x0b\\x00\\xff\\n'\nb'last'\n"
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("type", ["dgram", "seqpacket"])
def test_records_come_back_all_and_in_order(serve, cli, path, type):
    serve(path, "--type", type, "--service", "echo", "--quiet")
    data = b"".join(b"%d\n" % number for number in range(5000))
    done = cli("send", "--type", type, path, input=data)
    assert done.stdout == data
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("type", ["dgram", "seqpacket"])
def test_a_line_that_is_too_long_for_a_record_is_said_so(serve, cli, complaint, path, type):
    serve(path, "--type", type)
    line = complaint(cli("send", "--type", type, path, input=b"x" * (2 * MIB) + b"\n"))
    assert f"send: {path}: " in line
    assert "(EMSGSIZE)" in line


def test_an_answer_comes_before_the_next_line_is_typed(serve, variables, path):
    serve(path)
    command = [sys.executable, "-m", "udslab", "send", path]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        for line in (b"one\n", b"two\n", b"in two", b" pieces\n"):
            process.stdin.write(line)
            answer = b""
            while len(answer) < len(line):
                answer += process.stdout.read(100)
            assert answer == line.upper()
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_greeting_is_printed(serve, cli, path):
    serve(path, "--service", "whoami")
    done = cli("send", path)
    assert b"uid %d gid %d bound to (unnamed)\n" % (os.getuid(), os.getgid()) in done.stdout
    assert done.returncode == 0


# The client's own file


@pytest.mark.parametrize("type", ["stream", "dgram", "seqpacket"])
def test_bind_auto_shows_the_server_a_file_of_its_own_and_leaves_none(serve, cli, path, type):
    home = path.parent / "tmp"
    home.mkdir()
    serve(path, "--service", "whoami", "--type", type)
    done = cli("send", "--type", type, "--bind", "auto", path, input=b"x\n", set={"TMPDIR": str(home)})
    assert f" bound to {home}/.udslab-".encode() in done.stdout
    assert done.returncode == 0
    assert os.listdir(home) == []


def test_bind_auto_leaves_no_file_when_it_fails(cli, path):
    home = path.parent / "tmp"
    home.mkdir()
    assert cli("send", "--bind", "auto", path, set={"TMPDIR": str(home)}).returncode == 1
    assert os.listdir(home) == []


@pytest.mark.parametrize("type", ["stream", "dgram", "seqpacket"])
def test_bind_shows_the_server_the_path_and_removes_it(serve, cli, path, type):
    own = path.parent / "client"
    serve(path, "--service", "whoami", "--type", type)
    done = cli("send", "--type", type, "--bind", own, path, input=b"x\n")
    assert done.stdout.endswith(f" bound to {own}\n".encode())
    assert not own.exists()


def test_bind_takes_an_abstract_name(serve, cli, path):
    serve(path, "--service", "whoami", "--type", "dgram")
    own = f"@udslab-test/{path}"
    assert cli("send", "--type", "dgram", "--bind", own, path, input=b"x\n").stdout.endswith(f" {own}\n".encode())


def test_datagrams_are_answered_without_being_told_to_bind(serve, cli, path):
    home = path.parent / "tmp"
    home.mkdir()
    serve(path, "--type", "dgram")
    assert cli("send", "--type", "dgram", path, input=b"x\n", set={"TMPDIR": str(home)}).stdout == b"X\n"
    assert os.listdir(home) == []


def test_without_answers_a_datagram_client_binds_nothing(serve, cli, path):
    process = serve(path, "--service", "discard", "--type", "dgram")
    assert cli("send", "--type", "dgram", "--no-answers", path, input=b"a\nb\n").returncode == 0
    assert process.end() == 0
    assert process.output().count("datagram of 2 bytes from ") == 2
    assert process.output().count("(unnamed)") == 2


# Waiting


def test_the_timeout_limits_the_waiting_for_an_answer(cli, complaint, path, make_socket):
    make_socket(path, backlog=5)
    before = time.monotonic()
    line = complaint(cli("send", "--timeout", "0.2", path, input=b"hello\n"))
    assert 0.2 <= time.monotonic() - before < 10
    assert f" {path}: " in line
    assert "within 0.2 s (ETIMEDOUT)" in line


def test_the_timeout_limits_the_connecting(cli, complaint, path, make_socket):
    make_socket(path, backlog=0)
    make_socket().connect(str(path))
    line = complaint(cli("send", "--timeout", "0.2", path, input=b"hello\n"))
    assert line.startswith(f"udslab: connect: {path}: ")
    assert "within 0.2 s (ETIMEDOUT): the server's backlog is full" in line


def test_the_timeout_limits_the_waiting_for_a_server_that_reads_nothing(cli, complaint, path, make_socket):
    make_socket(path, backlog=5)
    line = complaint(cli("send", "--timeout", "0.2", path, input=b"x" * 4 * MIB))
    assert "took nothing more within 0.2 s (ETIMEDOUT)" in line


def test_datagrams_that_are_not_answered_are_counted(serve, cli, complaint, path):
    serve(path, "--service", "discard", "--type", "dgram")
    line = complaint(cli("send", "--type", "dgram", "--timeout", "0.2", path, input=b"a\nb\n"))
    assert "0 of 2 answers came within 0.2 s (ETIMEDOUT)" in line


def test_no_timeout_while_the_input_has_not_ended(serve, variables, path):
    serve(path)
    command = [sys.executable, "-m", "udslab", "send", "--timeout", "0.5", path]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.9)
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"STILL HERE\n"
        assert process.communicate() == (b"", None)
        assert process.returncode == 0


# A server that goes

SERVER = """
import os, signal, socket, sys
path, answer, how = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
connection, _ = listener.accept()
connection.recv(1 << 16)
connection.sendall(answer.encode())
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
connection.close()
"""


@pytest.fixture
def faulty_server(path, sockets):
    """Accepts one client, reads once, answers that, and goes: killed, or closing."""

    def start(answer: str, how: str) -> Process:
        process = sockets.enter_context(Process([sys.executable, "-S", "-E", "-c", SERVER, path, answer, how]))
        process.wait_serving(path)
        return process

    return start


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_server_that_goes_in_mid_line_is_said_so(cli, complaint, path, faulty_server, how):
    faulty_server("HEL", how)
    line = complaint(cli("send", path, input=b"hello\n"), printed=b"HEL")
    assert f" {path}: " in line
    assert "in mid-line (ECONNRESET): 3 bytes of answers came" in line


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_server_that_goes_while_it_is_sent_to_is_said_so(cli, complaint, path, faulty_server, how):
    faulty_server("HEL", how)
    done = cli("send", path, input=b"hello\n" * MIB)
    assert done.stdout in (b"", b"HEL")  # a reset discards what has not been read
    line = complaint(done, printed=done.stdout)
    assert f" {path}: " in line
    assert "(ECONNRESET)" in line


def test_a_server_that_goes_while_the_user_types_is_said_so(variables, path, faulty_server):
    faulty_server("HELLO\n", "kill")
    command = [sys.executable, "-m", "udslab", "send", path]
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        process.stdin.write(b"hello\n")
        assert process.wait(10) == 1  # with its input still open
        assert process.stdout.read() == b"HELLO\n"
        (line,) = process.stderr.read().decode().splitlines()
    assert "the server closed the connection before the input had ended (ECONNRESET)" in line


def test_a_complete_last_answer_without_newline_is_no_failure(serve, cli, path):
    (path.parent / "bare.py").write_text("from udslab.services import per_record\nservice = per_record(bytes.strip)\n")
    serve(path, "--service", "bare:service", cwd=str(path.parent))
    done = cli("send", path, input=b"no newline")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"no newline", b"")


def test_a_datagram_server_that_goes_is_said_so(cli, complaint, path, serve, variables):
    server = serve(path, "--type", "dgram")
    command = [sys.executable, "-m", "udslab", "send", "--type", "dgram", path]
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        process.stdin.write(b"hello\n")
        assert process.stdout.read(100) == b"HELLO\n"
        server.kill()
        process.stdin.write(b"anybody there?\n")
        assert process.wait(10) == 1
        (line,) = process.stderr.read().decode().splitlines()
    assert f" {path}: " in line or "(gone)" in line
    assert "(ECONNREFUSED)" in line


def test_a_path_beyond_sun_path_is_reached_through_its_inode(cli, directory, serve):
    (directory / ("d" * 200)).mkdir()
    path = directory / ("d" * 200) / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
        listener.listen()
        process_input = b"hello\n"
        done = cli("send", "--timeout", "0.1", path, input=process_input)
        connection, _ = listener.accept()
        assert connection.recv(100) == process_input
        connection.close()
    assert done.returncode == 1  # nobody answered
