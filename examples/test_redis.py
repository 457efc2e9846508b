"""redis-server: without a port, at a socket alone."""

import pytest
from udslab.testing import assert_gone


@pytest.fixture
def redis(make_uds_process, program, tmp_path):
    command = [program("redis-server", "apt install redis-server"), "--port", "0", "--save", "", "--dir", tmp_path]
    return make_uds_process([*command, "--unixsocket", "{socket}", "--unixsocketperm", "700"])


def test_it_keeps_what_it_is_given(redis, make_uds_client):
    client = make_uds_client(redis.path)
    client.sendall(b"SET answer 42\r\nGET answer\r\n")
    assert [client.read_line() for _ in range(3)] == [b"+OK\r\n", b"$2\r\n", b"42\r\n"]


def test_a_client_that_waits_is_told_of_its_end(redis, make_uds_client):
    client = make_uds_client(redis.path)
    client.sendall(b"BLPOP queue 0\r\n")
    redis.stop()
    assert client.read_line() == b""
    assert_gone(redis.path)
