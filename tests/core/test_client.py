"""converse(): everything to and fro, however it is cut, and a clear error when the other side misbehaves."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import select
import socket
import tempfile
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udslab import PeerGone, Refused, Stage, TimedOut, UdsError, connect
from udslab.client import OutputClosed, Totals, converse
from udslab.connection import Connection
from udslab.server import serve
from udslab.services import per_line

STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


@contextlib.contextmanager
def pipe():
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as reader, open(write, "wb", buffering=0) as writer:
        yield reader, writer


@pytest.fixture
def typed():
    """Where converse() reads, and where somebody types."""
    with pipe() as (source, keyboard):
        yield source, keyboard


@pytest.fixture
def printed():
    """Where somebody reads what is printed, and where converse() writes."""
    with pipe() as (output, sink):
        yield output, sink


@pytest.fixture
def scripted():
    """Runs converse() with `data` as its whole input; what it has put out, and its totals."""

    def run(connection, data, **options):
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
            source.write(data)
            source.seek(0)
            totals = converse(connection, source.fileno(), sink.fileno(), **options)
            sink.seek(0)
            return sink.read(), totals

    return run


@pytest.fixture
def ends(sockets):
    """Makes a connection and the plain socket at its other end."""

    def make(type=STREAM):
        one, other = socket.socketpair(type=type)
        return sockets.enter_context(Connection.adopt(one)), sockets.enter_context(other)

    return make


@contextlib.contextmanager
def running(function, *arguments):
    """Runs it in a thread, which has ended at the end of the block."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


# Streams

BINARY = bytes(range(256)) * 3 + b"\n\n\0\n\r\n"


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"hello\nworld\n", b"no newline at the end", b"\n\n\n", BINARY, b"x" * (1 << 20) + b"\n"],
    ids=["nothing", "empty line", "lines", "no newline", "empty lines", "binary", "1 MiB"],
)
@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
def test_everything_comes_back(path, scripted, sockets, type, data):
    if type != "stream" and len(data) > 200_000:
        data = data[:100_000] + b"\n"  # a record must fit in the send buffer
    sockets.enter_context(serve(path, type=type))
    own = "auto" if type == "dgram" else None
    with connect(path, type=type, bind=own) as connection:
        output, totals = scripted(connection, data)
    assert output == data.upper()
    assert (totals.sent, totals.received) == (len(data), len(data))


def test_a_line_of_five_megabytes(path, scripted, sockets):
    data = os.urandom(5_000_000).replace(b"\n", b" ") + b"\n"
    sockets.enter_context(serve(path, "echo"))
    with connect(path) as connection:
        output, _ = scripted(connection, data)
    assert output == data


def test_an_answer_that_is_larger_than_all_buffers_while_the_input_goes_on(path, scripted, sockets):
    """Each side sends before it has read: neither may wait for the other."""
    sockets.enter_context(serve(path, per_line(lambda line: line * 1000)))
    with connect(path) as connection:
        output, _ = scripted(connection, b"0123456789\n" * 1000)
    assert output == b"0123456789\n" * 1_000_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
@given(st.lists(st.binary(max_size=50).map(lambda line: line.replace(b"\n", b"\r")), max_size=10), st.booleans())
@pytest.mark.parametrize("type", [SEQPACKET, DGRAM])
def test_each_line_is_one_record_whatever_is_in_it(scripted, type, lines, newline_at_end):
    data = b"\n".join(lines) + (b"\n" if newline_at_end else b"")
    one, other = socket.socketpair(type=type)
    wanted = [line + b"\n" for line in data.split(b"\n")]
    wanted[-1] = wanted[-1][:-1]
    wanted = [record for record in wanted if record]
    with Connection.adopt(one) as connection, other:

        def answer():
            received.extend(other.recv(1000) for _ in wanted)
            if type == DGRAM:
                for record in received:
                    other.send(record)
            else:
                other.shutdown(socket.SHUT_RDWR)

        received = []
        with running(answer):
            output, totals = scripted(connection, data)
        assert received == wanted
        assert totals.records_sent == len(wanted)
        if type == DGRAM:
            assert output == data
            assert totals.records_received == len(wanted)


def test_the_totals_are_told(path, scripted, sockets):
    sockets.enter_context(serve(path, per_line(lambda line: line[:2]), type="seqpacket"))
    with connect(path, type="seqpacket") as connection:
        _, totals = scripted(connection, b"one\ntwo\nthree\n")
    assert totals == Totals(sent=14, received=6, records_sent=3, records_received=3)


# Interactive


def test_each_answer_is_there_before_the_next_line_is_typed(path, sockets, typed, printed):
    sockets.enter_context(serve(path))
    output, sink = printed
    source, keyboard = typed
    connection = sockets.enter_context(connect(path))
    with running(converse, connection, source.fileno(), sink.fileno()):
        try:
            for line in (b"one\n", b"two\n"):
                keyboard.write(line)
                assert output.read(100) == line.upper()
        finally:
            keyboard.close()


def test_what_the_server_says_by_itself_is_printed_at_once(ends, typed, printed):
    connection, server = ends()
    output, sink = printed
    source, keyboard = typed
    with running(converse, connection, source.fileno(), sink.fileno()):
        try:
            server.sendall(b"welcome\n")
            assert output.read(100) == b"welcome\n"
        finally:
            keyboard.close()
            server.close()


def test_a_terminal_ends_with_control_d_and_may_go_away(path, printed, sockets):
    sockets.enter_context(serve(path))
    output, sink = printed
    for end in (b"\x04", None):
        master, slave = pty.openpty()
        try:
            with connect(path) as connection, running(converse, connection, slave, sink.fileno()):
                os.write(master, b"hello\n")
                assert output.read(100) == b"HELLO\n"
                if end:
                    os.write(master, end)
                else:
                    os.close(master)
                    master = None
        finally:
            os.close(slave)
            if master is not None:
                os.close(master)


def test_the_limit_is_not_for_whoever_types(path, sockets, typed, printed):
    sockets.enter_context(serve(path))
    output, sink = printed
    source, keyboard = typed
    connection = sockets.enter_context(connect(path))

    def talk():
        with contextlib.suppress(TimedOut):  # at its end, for which the limit is, the server may be late
            converse(connection, source.fileno(), sink.fileno(), timeout=0.05)

    conversation = threading.Thread(target=talk)
    conversation.start()
    conversation.join(0.2)
    assert conversation.is_alive()
    keyboard.write(b"late\n")
    assert output.read(100) == b"LATE\n"
    keyboard.close()
    conversation.join()


def test_the_limit_ends_when_the_server_has_taken_what_it_kept_waiting(ends, typed, printed):
    connection, server = ends()
    source, keyboard = typed
    _, sink = printed
    size = 1_000_000  # more than all buffers hold

    def type_it():
        left = memoryview(bytes(size))
        while left:
            left = left[keyboard.write(left) :]

    conversation = threading.Thread(
        target=converse, args=(connection, source.fileno(), sink.fileno()), kwargs={"timeout": 1.0}
    )
    conversation.start()
    with running(type_it) as typing:
        typing.join(0.05)
        assert typing.is_alive()  # the server does not read yet
        received = 0
        while received < size:
            received += len(server.recv(1 << 20))
    before = time.process_time()
    conversation.join(1.2)
    assert conversation.is_alive()
    assert time.process_time() - before < 0.25  # nor does it spin
    keyboard.close()
    server.close()
    conversation.join()


def test_a_source_that_is_closed_is_at_its_end(path, printed, sockets):
    sockets.enter_context(serve(path))
    with connect(path) as connection:
        nowhere = 1_000_000  # not a number that another thread may get meanwhile
        assert converse(connection, nowhere, printed[1].fileno()) == Totals()


def test_a_source_that_cannot_be_read_is_an_error(path, directory, printed, sockets):
    sockets.enter_context(serve(path))
    fd = os.open(directory, os.O_RDONLY)
    sockets.callback(os.close, fd)
    with connect(path) as connection, pytest.raises(UdsError, match="standard input") as caught:
        converse(connection, fd, printed[1].fileno())
    assert (caught.value.stage, caught.value.errno) == (Stage.SEND, errno.EISDIR)


# Where it is printed


def test_output_that_nobody_reads_is_an_error_of_its_own(path, scripted, sockets):
    sockets.enter_context(serve(path))
    read, write = os.pipe()
    os.close(read)
    sockets.callback(os.close, write)
    with connect(path) as connection, tempfile.TemporaryFile() as source, pytest.raises(OutputClosed) as caught:
        source.write(b"x\n")
        source.seek(0)
        converse(connection, source.fileno(), write)
    assert caught.value.errno == errno.EPIPE
    assert "standard output" in str(caught.value)


def test_output_that_was_made_non_blocking_is_waited_for(path, printed, sockets):
    sockets.enter_context(serve(path, "echo"))
    output, sink = printed
    os.set_blocking(sink.fileno(), False)
    data = os.urandom(1_000_000)
    received = []

    def talk():
        with connect(path) as connection, tempfile.TemporaryFile() as source:
            source.write(data)
            source.seek(0)
            converse(connection, source.fileno(), sink.fileno())
        sink.close()

    with running(talk):
        while chunk := output.read(1 << 16):
            received.append(chunk)
    assert b"".join(received) == data


# When the other side is not as it should be


def test_a_server_that_closes_before_the_input_has_ended_is_noticed_at_once(ends, typed, printed):
    connection, server = ends()
    output, sink = printed
    source, keyboard = typed
    keyboard.write(b"hello\n")

    def serve_one():
        assert server.recv(100) == b"hello\n"
        server.sendall(b"bye\n")
        server.close()

    with running(serve_one), pytest.raises(PeerGone, match="before the input had ended") as caught:
        converse(connection, source.fileno(), sink.fileno(), timeout=None)
    assert output.read(100) == b"bye\n"
    assert (caught.value.stage, caught.value.errno) == (Stage.RECEIVE, errno.ECONNRESET)
    assert "6 bytes were sent, 4 bytes of answers came" in str(caught.value)


def test_a_server_that_closes_with_input_on_its_way_has_all_its_answers_printed_before_the_error(ends, typed):
    connection, server = ends()
    source, keyboard = typed
    answers = os.urandom(100_000)  # more than is received at a time
    server.sendall(answers)
    server.close()
    keyboard.write(b"hello\n")
    with tempfile.TemporaryFile() as sink:
        with pytest.raises(PeerGone):
            converse(connection, source.fileno(), sink.fileno())
        sink.seek(0)
        assert sink.read() == answers


def test_packets_that_came_before_a_reset_are_printed(ends, printed, typed):
    connection, server = ends(SEQPACKET)
    source, _ = typed
    output, sink = printed
    connection.send(b"unread")  # closing with it unread is a reset, which the kernel tells before the packets
    server.send(b"one ")
    server.send(b"two")
    server.close()
    with pytest.raises(PeerGone):
        converse(connection, source.fileno(), sink.fileno())
    assert output.read(100) == b"one two"


def test_a_server_that_closes_without_having_read_everything_is_said_so(ends, scripted):
    connection, server = ends()

    def serve_one():
        poll = select.poll()
        poll.register(server, select.POLLRDHUP)
        poll.poll()  # until the other side has ended its input
        assert server.recv(1) == b"h"  # of more: closing now is a reset
        server.close()

    with running(serve_one), pytest.raises(PeerGone, match="before it had read everything"):
        scripted(connection, b"hello\n")


def test_a_server_that_goes_in_mid_line_is_an_error(ends, scripted):
    connection, server = ends()

    def serve_one():
        assert server.recv(100) == b"hello\n"
        server.sendall(b"HEL")
        assert server.recv(100) == b""
        server.close()

    with running(serve_one), pytest.raises(PeerGone, match="mid-line"):
        scripted(connection, b"hello\n")


def test_an_answer_without_newline_to_input_without_newline_is_none(ends, scripted):
    connection, server = ends()

    def serve_one():
        assert server.recv(100) == b"hello"
        server.sendall(b"HEL")
        server.close()

    with running(serve_one):
        assert scripted(connection, b"hello")[0] == b"HEL"


def test_a_server_that_reads_and_does_not_answer_or_close_times_out(ends, scripted):
    connection, _server = ends()
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"nothing more came within 0\.1 s"):
        scripted(connection, b"hello\n", timeout=0.1)
    assert 0.09 < time.monotonic() - began < 5


def test_a_server_that_does_not_read_times_out(ends, scripted):
    connection, _server = ends()
    with pytest.raises(TimedOut, match=r"took nothing more within 0\.1 s") as caught:
        scripted(connection, bytes(1 << 20), timeout=0.1)
    assert caught.value.hint


def test_a_server_that_answers_slowly_does_not_time_out(ends, scripted):
    connection, server = ends()
    pause = threading.Event()

    def serve_one():
        assert server.recv(100) == b"hello\n"
        for byte in b"HELLO\n":
            pause.wait(0.2)
            server.send(bytes([byte]))
        server.close()

    with running(serve_one):
        assert scripted(connection, b"hello\n", timeout=1.0)[0] == b"HELLO\n"


def test_datagrams_that_are_not_answered_are_counted(path, scripted, make_socket, sockets):
    server = make_socket(path, DGRAM)

    connection = sockets.enter_context(connect(path, type="dgram", bind="auto"))
    server.sendto(b"1\n", connection.getsockname())  # before it is asked: a thread might be late
    with pytest.raises(TimedOut, match=r"1 of 3 answers came within 0\.2 s"):
        scripted(connection, b"1\n2\n3\n", timeout=0.2)


def test_datagrams_without_answers_are_not_waited_for(path, scripted, make_socket):
    server = make_socket(path, DGRAM)
    with connect(path, type="dgram") as connection:
        output, totals = scripted(connection, b"1\n2\n3", answers=False, timeout=None)
    assert (output, totals.records_sent, totals.records_received) == (b"", 3, 0)
    assert [server.recv(10) for _ in range(3)] == [b"1\n", b"2\n", b"3"]


def test_datagrams_wait_for_a_server_whose_queue_is_full_and_keep_their_order(path, scripted, make_socket, sockets):
    server = make_socket(path, DGRAM)
    count = 2000
    received = []
    connection = sockets.enter_context(connect(path, type="dgram"))
    with running(lambda: received.extend(server.recv(100) for _ in range(count))):
        scripted(connection, b"".join(b"%d\n" % number for number in range(count)), answers=False)
    assert received == [b"%d\n" % number for number in range(count)]


def test_an_empty_datagram_is_an_answer(path, scripted, make_socket):
    server = make_socket(path, DGRAM)

    def answer_one():
        server.sendto(b"", server.recvfrom(100)[1])

    with running(answer_one), connect(path, type="dgram", bind="auto") as connection:
        assert scripted(connection, b"x\n")[1] == Totals(sent=2, received=0, records_sent=1, records_received=1)


@pytest.mark.parametrize("type", ["dgram", "seqpacket"])
def test_a_record_that_does_not_fit_is_an_error_with_a_hint(path, scripted, sockets, type):
    sockets.enter_context(serve(path, type=type))
    with connect(path, type=type, bind="auto") as connection, pytest.raises(UdsError) as caught:
        scripted(connection, b"x" * 10_000_000 + b"\n")
    assert (caught.value.stage, caught.value.errno) == (Stage.SEND, errno.EMSGSIZE)
    assert "shorter lines" in caught.value.hint


def test_a_datagram_server_that_has_gone_is_refused(path, scripted, make_socket):
    server = make_socket(path, DGRAM)
    with connect(path, type="dgram", bind="auto") as connection:
        server.close()
        with pytest.raises(Refused) as caught:
            scripted(connection, b"x\n")
    assert (caught.value.stage, caught.value.errno) == (Stage.SEND, errno.ECONNREFUSED)
    assert "gone" in caught.value.hint
