"""The record of what a server has received: what is in it, when, how much, and after a server was killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udslab import Credentials, bind, connect, listen
from udslab.recording import Recorded, Recorder, read_record
from udslab.server import ConnectionServer, DatagramServer
from udslab.services import SERVICES, Peer, pieces
from udslab.spawn import end_with_parent

LIMIT = 30.0
ME = Credentials(os.getpid(), os.geteuid(), os.getegid())


@pytest.fixture
def memfd(sockets):
    fd = os.memfd_create("record")
    sockets.callback(os.close, fd)
    return fd


@pytest.fixture(params=["memory", "file"])
def make(request):
    """Makes a recorder, in memory and in a file."""
    if request.param == "memory":
        return Recorder
    fd = request.getfixturevalue("memfd")
    return lambda *arguments, **options: Recorder(*arguments, fd=fd, **options)


# What is in it


def test_nothing_has_come(make):
    assert make().record() == []


def test_who_came_and_what(make):
    recorder = make()
    one = recorder.connected(ME, "/run/a b\n")
    two = recorder.connected(None, "(unnamed)")
    recorder.received(one, b"first\n\0\xff")
    recorder.received(two, b"x")
    recorder.received(one, b"second")
    recorder.ended(one)
    assert (one, two) == (1, 2)
    assert recorder.record() == [
        Recorded(1, ME, "/run/a b\n", b"first\n\0\xffsecond", 0, False),
        Recorded(2, None, "(unnamed)", b"x", 0, True),
    ]


def test_an_address_of_any_text_comes_back_as_it_is(make):
    recorder = make()
    addresses = ["", '"\\', "ü\u2028", "\udcff", "x" * 10_000]
    for address in addresses:
        recorder.connected(ME, address)
    assert [client.address for client in recorder.record()] == addresses


def test_an_empty_datagram_is_recorded_as_one(make):
    recorder = make()
    recorder.received(recorder.connected(ME, "a"), b"")
    assert recorder.record() == [Recorded(1, ME, "a", b"", 0, True)]


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40))), st.integers(0, 100))
def test_the_first_bytes_are_kept_and_all_others_counted(chunks, limit):
    fd = os.memfd_create("record")
    try:
        recorders = [Recorder(limit=limit), Recorder(limit=limit, fd=fd)]
        for recorder in recorders:
            numbers = [recorder.connected(ME, "a") for _ in range(3)]
            for who, data in chunks:
                recorder.received(numbers[who], data)
        records = [recorder.record() for recorder in recorders]
    finally:
        os.close(fd)
    assert records[0] == records[1]
    assert sum(len(client.received) for client in records[0]) == min(limit, sum(len(data) for _, data in chunks))
    for who, client in enumerate(records[0]):
        sent = b"".join(data for number, data in chunks if number == who)
        assert sent.startswith(client.received)
        assert client.dropped == len(sent) - len(client.received)


def test_beyond_the_limit_the_record_does_not_grow(memfd):
    recorder = Recorder(fd=memfd, limit=10)
    numbers = [recorder.connected(ME, "a") for _ in range(3)]
    for number in numbers:
        recorder.received(number, b"x" * 11)
    before = os.fstat(memfd).st_size
    for _ in range(1000):
        for number in numbers:
            recorder.received(number, b"yy")
    assert os.fstat(memfd).st_size == before
    assert [client.dropped for client in recorder.record()] == [2001, 2011, 2011]


def test_a_client_that_comes_after_the_limit_is_still_told(make):
    recorder = make(limit=0)
    recorder.received(recorder.connected(ME, "a"), b"xyz")
    recorder.ended(recorder.connected(ME, "b"))
    assert recorder.record() == [Recorded(1, ME, "a", b"", 3, True), Recorded(2, ME, "b", b"", 0, False)]


# What is handed to it


@pytest.mark.parametrize("limit", [-1, -(1 << 40)])
def test_a_limit_below_zero_is_refused(limit):
    with pytest.raises(ValueError, match="limit is 0 or more"):
        Recorder(limit=limit)


def test_a_descriptor_that_cannot_be_written_at_a_position_is_refused_at_once(path, sockets):
    read, write = os.pipe()
    sockets.callback(os.close, read)
    sockets.callback(os.close, write)
    path.touch()
    only_read = os.open(path, os.O_RDONLY)
    sockets.callback(os.close, only_read)
    for fd in (write, only_read, -1):
        with pytest.raises(OSError, match=r"seek|descriptor"):
            Recorder(fd=fd)


@pytest.fixture
def full(path, sockets, monkeypatch):
    """A recorder whose file takes only half of a line, once."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    sockets.callback(os.close, fd)
    recorder = Recorder(fd=fd)
    recorder.connected(ME, "a")
    really, left = os.pwrite, [20, 0]

    def write(fd, data, at):
        if not left:
            return really(fd, data, at)
        room = left.pop(0)
        if not room:
            raise OSError(28, "No space left on device")
        return really(fd, data[:room], at)

    monkeypatch.setattr(os, "pwrite", write)
    return recorder


def test_what_a_full_file_took_of_a_line_is_left_out_and_written_over(full):
    with pytest.raises(OSError, match="No space"):
        full.received(1, b"lost")
    assert full.record() == [Recorded(1, ME, "a", b"", 0, True)]
    full.ended(1)
    assert full.record() == [Recorded(1, ME, "a", b"", 0, False)]
    full.received(1, b"later")
    assert full.record() == [Recorded(1, ME, "a", b"later", 0, False)]


def test_a_write_in_parts_is_finished(memfd, monkeypatch):
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: really(fd, data[:7], at))
    recorder = Recorder(fd=memfd)
    recorder.received(recorder.connected(ME, "a"), b"x" * 100)
    assert recorder.record() == [Recorded(1, ME, "a", b"x" * 100, 0, True)]


def test_a_record_cut_anywhere_is_what_came_before(memfd):
    recorder = Recorder(fd=memfd, limit=3)
    number = recorder.connected(ME, "a")
    recorder.received(number, b"ab")
    recorder.received(number, b"cde")
    recorder.ended(number)
    lines = os.pread(memfd, 10_000, 0)
    seen = [read_record(lines[:end]) for end in range(len(lines) + 1)]
    whole = Recorded(1, ME, "a", b"", 0, True)
    steps = [[], [whole]]
    for change in ({"received": b"ab"}, {"received": b"abc"}, {"dropped": 2}, {"open": False}):
        steps.append([Recorded(**{**vars(steps[-1][0]), **change})])
    assert [record for at, record in enumerate(seen) if at == 0 or record != seen[at - 1]] == steps


# Around a service


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_what_a_client_has_sent_is_recorded_before_it_has_its_answer(path, make, type):
    recorder = make(SERVICES["upper"])
    with ConnectionServer(listen(path, type=type), recorder, drain=0), connect(path, type=type, bind="auto") as client:
        client.settimeout(LIMIT)
        sent = b""
        for number in range(100):
            data = b"%d " % number + b"x" * random.randrange(1000)
            client.sendall(data)
            sent += data
            assert client.recv(10_000) == data.upper()
            assert recorder.record() == [Recorded(1, ME, client.getsockname(), sent, 0, True)]


def test_the_end_is_recorded_before_the_answer_to_it(path, make):
    class Farewell:
        def __init__(self, peer):
            pass

        start = staticmethod(lambda: b"")
        feed = staticmethod(lambda data: b"")
        eof = staticmethod(lambda: b"bye")

    recorder = make(Farewell)
    with ConnectionServer(listen(path), recorder, drain=0), connect(path) as client:
        client.settimeout(LIMIT)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"bye"
        assert [client.open for client in recorder.record()] == [False]


def test_each_datagram_is_a_client_of_its_own(path, make):
    recorder = make(SERVICES["echo"])
    with DatagramServer(bind(path), recorder), connect(path, type="dgram", bind="auto") as client:
        client.settimeout(LIMIT)
        for data in (b"one", b"two"):
            client.sendall(data)
            assert client.recv(10) == data
        # The answer goes out after the session has seen its end.
        assert recorder.record() == [
            Recorded(1, ME, client.getsockname(), b"one", 0, False),
            Recorded(2, ME, client.getsockname(), b"two", 0, False),
        ]


def test_the_service_answers_as_without_it():
    session = Recorder(SERVICES["chargen"])(Peer(greets=False))
    assert list(pieces(session.feed(b"x"))) == list(pieces(SERVICES["chargen"](Peer(greets=False)).feed(b"x")))
    assert session.eof() == b""
    greeting = Recorder(SERVICES["whoami"])(Peer(credentials=ME)).start()
    assert greeting == f"{ME} bound to (unnamed)\n".encode()


def test_a_service_that_fails_has_its_data_recorded(make):
    class Failing:
        def __init__(self, peer):
            pass

        def feed(self, data):
            raise RuntimeError("broken")

    recorder = make(Failing)
    with pytest.raises(RuntimeError, match="broken"):
        recorder(Peer()).feed(b"x")
    assert [client.received for client in recorder.record()] == [b"x"]


def test_threads_write_while_others_read(make):
    recorder = make()
    numbers = [recorder.connected(ME, str(number)) for number in range(4)]
    threads = [
        threading.Thread(target=lambda number=number: [recorder.received(number, b"%d" % number) for _ in range(300)])
        for number in numbers
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert [client.number for client in recorder.record()] == numbers
    for thread in threads:
        thread.join()
    assert [client.received for client in recorder.record()] == [b"%d" % number * 300 for number in numbers]


SERVER = """
import sys
from udslab import listen
from udslab.recording import Recorder
from udslab.server import ConnectionServer
from udslab.services import SERVICES
listener = listen(sys.argv[1])
print(flush=True)
ConnectionServer(listener, Recorder(SERVICES["upper"], int(sys.argv[2]))).run()
"""


def test_the_record_outlives_a_server_that_is_killed(path, memfd, environment):
    command = [sys.executable, "-c", SERVER, str(path), str(memfd)]
    with subprocess.Popen(
        command, env=environment, pass_fds=[memfd], stdout=subprocess.PIPE, preexec_fn=end_with_parent()
    ) as server:
        try:
            assert server.stdout.read(1) == b"\n"
            with connect(path, timeout=LIMIT) as client:
                client.settimeout(LIMIT)
                client.sendall(b"hello")
                assert client.recv(10) == b"HELLO"
                server.send_signal(signal.SIGKILL)
                assert server.wait(LIMIT) == -signal.SIGKILL
        finally:
            server.kill()
    lines = os.pread(memfd, os.fstat(memfd).st_size, 0)
    assert read_record(lines) == [Recorded(1, ME, "(unnamed)", b"hello", 0, True)]
