"""A server of one's own (server.py): its parts in this process, then the program itself, then what is in its way."""

import os
import sys
from pathlib import Path

import pytest
from udslab.ready import LogLine
from udslab.testing import assert_gone, assert_stale, assert_untouched

import server

CAREFUL = [sys.executable, str(Path(__file__).with_name("server.py")), "{socket}"]
NAIVE = [*CAREFUL[:-1], "--naive", "{socket}"]
# An obstacle may listen itself, so it is not enough that somebody listens at the path: the server has to say so.
SERVING = LogLine("serving")


# Its parts: the function that serves a client, and the client, each with the lab for its other side.


def test_the_handler(make_uds_server, make_uds_client):
    client = make_uds_client(make_uds_server(handler=server.answer))
    client.sendall(b"olleh\ndlrow\n")
    assert [client.read_line(), client.read_line()] == [b"hello\n", b"world\n"]


def test_the_client(uds_server):
    assert server.ask(uds_server.path, "hello") == "HELLO"  # the lab's server answers in capitals
    assert uds_server.received == b"hello\n"


def test_the_labs_own_client(uds_client):
    uds_client.sendall(b"hello\n")
    assert uds_client.read_line() == b"HELLO\n"


# The program.


@pytest.mark.parametrize("command", [CAREFUL, NAIVE], ids=["careful", "naive"])
def test_the_program(make_uds_process, command):
    # The naive one leaves its file at its end: a leak, unless it is expected.
    process = make_uds_process(command, expect_left=command is NAIVE)
    assert server.ask(process.path, "hello") == "olleh"


def test_its_file_goes_when_it_is_stopped(make_uds_process):
    process = make_uds_process(CAREFUL)
    assert process.stop() == 0
    assert_gone(process.path)


def test_it_replaces_what_a_crash_has_left(make_uds_process):
    process = make_uds_process(CAREFUL)
    process.kill()
    assert_stale(process.path)
    process.restart()
    assert server.ask(process.path, "hello") == "olleh"


# What is in its way: uds_obstacle is each of fifteen things in turn.


def test_it_takes_nothing_from_anybody(uds_obstacle, make_uds_process):
    if uds_obstacle.kind == "stale":
        make_uds_process(CAREFUL, uds_obstacle.path, ready=SERVING)
        return
    path = uds_obstacle.path
    if uds_obstacle.kind == "no-permission":  # neither may we look: but at its directory
        path = os.path.dirname(path)
    with assert_untouched(path), pytest.raises(OSError, match="bind: "):
        make_uds_process(CAREFUL, uds_obstacle.path, ready=SERVING)


@pytest.mark.parametrize("kind", ["listener", "bound", "regular-file", "link-to-regular-file"])
def test_the_naive_one_takes_all_from_everybody(make_uds_obstacle, make_uds_process, kind):
    obstacle = make_uds_obstacle(kind)
    before = os.lstat(obstacle.path).st_ino
    make_uds_process(NAIVE, obstacle.path, ready=SERVING, expect_left=True)
    assert os.lstat(obstacle.path).st_ino != before
    assert server.ask(obstacle.path, "hello") == "olleh"  # and whoever was there before is asked no more
