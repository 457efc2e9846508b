"""redis-server: without a port, at a socket alone."""

import os

import pytest
from udslab.testing import assert_gone


@pytest.fixture
def redis(make_uds_process, program, tmp_path):
    """``redis()`` starts one; at a path of one's own choice with ``redis(path)``."""
    command = [program("redis-server", "apt install redis-server"), "--port", "0", "--save", "", "--dir", tmp_path]
    return lambda path=None: make_uds_process([*command, "--unixsocket", "{socket}", "--unixsocketperm", "700"], path)


def test_it_keeps_what_it_is_given(redis, make_uds_client):
    client = make_uds_client(redis().path)
    client.sendall(b"SET answer 42\r\nGET answer\r\n")
    assert [client.read_line() for _ in range(3)] == [b"+OK\r\n", b"$2\r\n", b"42\r\n"]


def test_its_clients_are_told_of_its_end(redis, make_uds_client):
    server = redis()
    client = make_uds_client(server.path)
    client.sendall(b"PING\r\n")
    assert client.read_line() == b"+PONG\r\n"
    server.stop()
    assert client.read_line() == b""
    assert_gone(server.path)


def test_it_removes_whatever_file_is_at_its_path(redis, make_uds_obstacle):
    """Before it binds, and without a word: mind what `unixsocket` is set to."""
    file = make_uds_obstacle("regular-file")
    assert os.path.isfile(file.path)
    redis(file.path)
    assert not os.path.isfile(file.path)
