"""Servers around a function of the test's own: in threads, on an event loop, recorded, failing, stuck, and the end."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import functools
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import pytest

import udslab.handlers
from udslab import Credentials, Refused, ServiceError, TimedOut, UdsError, connect, listen
from udslab.errors import Stage, failure
from udslab.handlers import HandlerServer
from udslab.listener import Listener
from udslab.recording import Recorded, Recorder
from udslab.testing import assert_gone, assert_serving

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
ME = Credentials(os.getpid(), os.geteuid(), os.getegid())


def echo(connection):
    while data := connection.recv(1 << 16):
        connection.sendall(data)


async def echo_stream(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


both = pytest.mark.parametrize("handler", [echo, echo_stream], ids=["function", "coroutine"])


def open_descriptors():
    """The descriptors of this process, and what they are; without the files into which pytest captures."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {name: what for name, what in found.items() if not what.endswith(" (deleted)")}


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """What ends by itself may take its time: the machine may be busy."""
    monkeypatch.setattr(udslab.handlers, "_GRACE", LIMIT)
    monkeypatch.setattr(udslab.handlers, "_BLOCKED", LIMIT)


@pytest.fixture(autouse=True)
def nothing_is_left(sockets, path, capfd):
    """No thread and no descriptor, and nothing printed (for unraisable errors and threads' errors fail a test)."""
    before = set(threading.enumerate()), open_descriptors()
    yield
    sockets.close()
    assert set(threading.enumerate()) <= before[0]
    assert open_descriptors().items() <= before[1].items()
    assert_gone(path)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def start(path, sockets):
    """Starts a server; it is stopped at the end, after the clients."""

    def run(handler=echo, type="stream", *, drain=LIMIT, backlog=128, **options):
        return sockets.enter_context(
            HandlerServer(listen(path, type=type, backlog=backlog), handler, drain=drain, **options)
        )

    return run


@pytest.fixture
def client(path, sockets):
    """Connects a client, which gives up waiting after a while."""

    def make(type="stream", **options):
        connection = sockets.enter_context(connect(path, type=type, **options))
        connection.settimeout(LIMIT)
        return connection

    return make


def talk(connection, data):
    connection.sendall(data)
    return connection.recv(1 << 20)


def read_all(connection):
    """Everything up to the end of file."""
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


# Handlers


@pytest.mark.parametrize(("handler", "type"), [(echo, "stream"), (echo, "seqpacket"), (echo_stream, "stream")])
def test_clients_are_handled_one_after_the_other_and_at_once(start, client, type, handler):
    server = start(handler, type)
    for number in range(20):
        with client(type) as connection:
            assert talk(connection, b"%d" % number) == b"%d" % number
    clients = [client(type) for _ in range(30)]
    for connection in reversed(clients):
        assert talk(connection, b"x") == b"x"
    assert server.failures == []


@both
def test_it_says_where_it_serves_and_how(start, path, handler):
    server = start(handler)
    assert (str(server.address), server.type) == (str(path), "stream")
    assert_serving(path)


@both
def test_an_abstract_name(sockets, handler):
    name = b"@udslab test " + os.urandom(8)
    sockets.enter_context(HandlerServer(listen(name), handler))
    with connect(name) as connection:
        connection.settimeout(LIMIT)
        assert talk(connection, b"x") == b"x"


def test_a_function_knows_whom_it_handles(start, client):
    start(lambda connection: connection.sendall(str(connection.credentials).encode()))
    assert read_all(client()) == str(ME).encode()


def test_a_function_gets_a_blocking_connection_whatever_the_default_is(start, client):
    start(lambda connection: connection.sendall(str(connection.gettimeout()).encode()))
    connection = client()
    assert read_all(connection) == b"None"
    socket.setdefaulttimeout(0.001)
    try:
        assert read_all(client()) == b"None"
    finally:
        socket.setdefaulttimeout(None)


def test_packets_stay_apart(start, client):
    start(lambda connection: [connection.send(b"[" + connection.recv(10) + b"]") for _ in range(3)], "seqpacket")
    connection = client("seqpacket")
    for data in (b"a", b"bc", b"d"):
        connection.send(data)
    assert [connection.recv(10) for _ in range(3)] == [b"[a]", b"[bc]", b"[d]"]


def test_descriptors_can_be_received(start, client):
    def read_file(connection):
        data, (fd,) = connection.recv_fds(10, 1)
        with open(fd, "rb") as file:
            connection.sendall(data + file.read())

    recorder = Recorder()
    start(read_file, recorder=recorder)
    connection = client()
    with open(__file__, "rb") as file:
        connection.send_fds(b"x", [file.fileno()])
        assert read_all(connection) == b"x" + Path(__file__).read_bytes()
    assert recorder.record()[0].received == b"x"


class Handler:
    def function(self, connection):
        echo(connection)

    async def coroutine(self, reader, writer):
        await echo_stream(reader, writer)


class Called(Handler):
    __call__ = Handler.function


class CalledOnLoop(Handler):
    __call__ = Handler.coroutine


@pytest.mark.parametrize(
    "handler",
    [
        Handler().function,
        Handler().coroutine,
        Called(),
        CalledOnLoop(),
        functools.partial(echo),
        functools.partial(echo_stream),
        lambda connection: echo(connection),
    ],
    ids=["method", "coroutine method", "object", "coroutine object", "partial", "coroutine partial", "lambda"],
)
def test_what_is_called_like_a_function_is_a_handler(start, client, handler):
    start(handler)
    assert talk(client(), b"x") == b"x"


@both
def test_a_long_answer_is_sent_whole_before_the_connection_is_closed(start, client, handler):
    data = os.urandom(3_000_000)

    async def send_stream(reader, writer):
        writer.write(data)

    server = start(send_stream if handler is echo_stream else lambda connection: connection.sendall(data))
    assert read_all(client()) == data
    server.__exit__()
    assert server.failures == []


@both
def test_a_half_closed_client_is_answered(start, client, handler):
    def count(connection):
        connection.sendall(b"%d" % len(read_all(connection)))

    async def count_stream(reader, writer):
        writer.write(b"%d" % len(await reader.read()))

    start(count_stream if handler is echo_stream else count)
    connection = client()
    connection.sendall(b"x" * 100_000)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b"100000"


def test_the_connection_is_closed_when_the_function_returns_whoever_has_a_file_of_it(start, client):
    kept = []

    def keep(connection):
        kept.extend([connection, connection.makefile("rb"), connection.makefile("wb", 0)])
        connection.sendall(b"x")

    start(keep)
    assert read_all(client()) == b"x"
    assert kept[0].fileno() == -1
    for file in kept[1:]:
        file.close()


def test_what_a_function_has_written_to_a_file_is_sent_even_if_it_fails(start, client):
    def write(connection):
        connection.makefile("w").write("text")
        raise ValueError("too late")

    server = start(write)
    assert read_all(client()) == b"text"
    assert len(server.failures) == 1


@pytest.mark.parametrize("recorded", [False, True])
def test_a_function_may_close_its_connection_or_give_it_away(start, client, recorded):
    given = []
    enders = iter([lambda connection: connection.close(), lambda connection: given.append(connection.detach())])
    server = start(lambda connection: next(enders)(connection), recorder=Recorder() if recorded else None)
    assert read_all(client()) == b""
    connection = client()
    server.stop()
    server.__exit__()
    with socket.socket(fileno=given[0]) as mine:
        mine.sendall(b"still there")
    assert read_all(connection) == b"still there"
    assert server.failures == []


def test_a_coroutine_may_close_its_writer_and_wait_for_it(start, client):
    async def close(reader, writer):
        writer.write(b"x")
        writer.close()
        await writer.wait_closed()

    server = start(close)
    assert read_all(client()) == b"x"
    server.__exit__()
    assert server.failures == []


def test_a_coroutine_may_use_threads_generators_and_tasks(start, client):
    async def numbers():
        for number in range(10):
            yield number

    async def busy(reader, writer):
        async for number in numbers():
            writer.write(b"%d" % await asyncio.get_running_loop().run_in_executor(None, lambda n=number: n))
            break  # which leaves the generator open
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        reader.left = asyncio.get_running_loop().create_task(asyncio.sleep(1000))

    server = start(busy)
    assert read_all(client()) == b"0"
    server.__exit__()
    assert server.failures == []


# What is no handler


@pytest.mark.parametrize("handler", [None, 3, "upper", b"", [], object()])
def test_what_cannot_be_called_is_refused(path, handler):
    with pytest.raises(TypeError, match=f"a handler is a function .*not {type(handler).__name__}"):
        HandlerServer(listen(path), handler)


@pytest.mark.parametrize("handler", [echo_stream, Handler().coroutine, CalledOnLoop(), functools.partial(echo_stream)])
def test_a_coroutine_function_is_refused_for_packets(path, handler):
    with pytest.raises(ServiceError, match="cannot handle seqpacket: asyncio's streams know no records") as caught:
        HandlerServer(listen(path, type="seqpacket"), handler)
    assert caught.value.hint == "handle it by a plain function of the connection"


async def no_reader(connection):
    raise AssertionError("it cannot be called")


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (lambda: None, "0 positional arguments"),
        (lambda reader, writer: None, "missing 1 required positional argument"),
        (no_reader, "takes 1 positional argument"),
        (lambda connection: echo_stream(connection, connection), "a coroutine, which nothing runs"),
        (lambda connection: (yield), "a generator, which nothing runs"),
    ],
)
def test_a_function_of_something_else_fails_with_each_client(start, client, handler, said):
    server = start(handler)
    for number in range(2):
        assert read_all(client()) == b""
        assert len(server.failures) == number + 1
        assert isinstance(server.failures[number], TypeError)
        assert said in str(server.failures[number])


# Recording


@both
def test_what_a_client_has_sent_is_recorded_before_it_has_its_answer(start, client, handler):
    recorder = Recorder()
    start(handler, recorder=recorder)
    connection = client(bind="auto")
    sent = b""
    for number in range(100):
        data = b"%d," % number * number + b"."
        sent += data
        assert talk(connection, data) == data
        assert recorder.record() == [Recorded(1, ME, connection.getsockname(), sent, 0, True)]


@both
def test_the_end_is_recorded_before_the_answer_to_it(start, client, handler):
    def farewell(connection):
        read_all(connection)
        connection.sendall(b"bye")
        connection.recv_into(bytearray(1))

    async def farewell_stream(reader, writer):
        await reader.read()
        writer.write(b"bye")
        await writer.drain()

    recorder = Recorder()
    start(farewell_stream if handler is echo_stream else farewell, recorder=recorder)
    connection = client()
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(10) == b"bye"
    assert [client.open for client in recorder.record()] == [False]


@both
def test_clients_are_numbered_as_they_come(start, client, handler):
    recorder = Recorder()
    start(handler, recorder=recorder)
    clients = [client() for _ in range(10)]
    for number, connection in enumerate(clients):
        assert talk(connection, b"%d" % number) == b"%d" % number
    assert [client.received for client in recorder.record()] == [b"%d" % number for number in range(10)]


@both
def test_who_is_left_by_its_handler_sends_no_more(start, client, handler):
    async def leave_stream(reader, writer):
        if await reader.read(1) == b"f":
            raise ValueError

    def leave(connection):
        if connection.recv(1) == b"f":
            raise ValueError

    recorder = Recorder()
    start(leave_stream if handler is echo_stream else leave, recorder=recorder)
    for data in (b"f", b"x"):
        connection = client()
        connection.sendall(data)
        assert read_all(connection) == b""
        assert recorder.record()[-1] == Recorded(len(recorder.record()), ME, "(unnamed)", data, 0, False)


def into(size, name, *arguments):
    """Reads with a method that takes a buffer."""

    def read(connection):
        buffer = array.array("H", bytes(size))
        got = getattr(connection, name)(buffer, *arguments)
        return buffer.tobytes()[: got if isinstance(got, int) else got[0]]

    return read


def into_many(connection):
    buffers = [bytearray(2), bytearray(0), bytearray(20)]
    size = connection.recvmsg_into(iter(buffers), 100)[0]
    return b"".join(buffers)[:size]


READS = {
    "recv": lambda connection: connection.recv(10),
    "recvfrom": lambda connection: connection.recvfrom(10)[0],
    "recvmsg": lambda connection: connection.recvmsg(10, 100)[0],
    "recv_into": into(10, "recv_into"),
    "recv_into a part": into(20, "recv_into", 6),
    "recvfrom_into": into(10, "recvfrom_into"),
    "recvmsg_into": into_many,
    "recv_fds": lambda connection: connection.recv_fds(10, 1)[0],
    "read_exactly": lambda connection: connection.read_exactly(6),
    "read_line": lambda connection: connection.read_line(),
    "makefile": lambda connection: connection.makefile("rb").readline(),
    "makefile unbuffered": lambda connection: connection.makefile("rb", 0).read(6),
    "peek": lambda connection: connection.recv(3, socket.MSG_PEEK) + connection.recv(6)[3:],
    "recv nothing": lambda connection: connection.recv(0) + connection.recv(6),
    "recv_into nothing": lambda connection: b"x"[connection.recv_into(bytearray()) + 1 :] + connection.recv(6),
}


# The others take a part of a packet, and the rest is lost.
OF_PACKETS = READS.keys() - {"read_line", "recv nothing", "recv_into nothing"}


@pytest.mark.parametrize(
    ("read", "type"), [*((read, "stream") for read in READS), *((read, "seqpacket") for read in sorted(OF_PACKETS))]
)
def test_whatever_method_reads_is_recorded_once(start, client, read, type):
    recorder = Recorder()

    def handler(connection):
        connection.sendall(READS[read](connection))
        connection.sendall(b"%d" % recorder.record()[0].open)

    server = start(handler, type, recorder=recorder)
    connection = client(type)
    connection.sendall(b"hello\n")
    assert read_all(connection) == b"hello\n1"
    assert recorder.record() == [Recorded(1, ME, "(unnamed)", b"hello\n", 0, False)]
    assert server.failures == []


@pytest.mark.parametrize("read", [read for read in READS if "nothing" not in read and read != "read_exactly"])
def test_whatever_method_finds_the_end_it_is_recorded(start, client, read):
    recorder = Recorder()

    def handler(connection):
        assert READS[read](connection) == b""
        connection.sendall(b"bye %d" % recorder.record()[0].open)

    server = start(handler, recorder=recorder)
    connection = client()
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b"bye 0"
    assert server.failures == []


def test_of_a_copy_of_the_connection_nothing_is_recorded(start, client):
    recorder = Recorder()

    def handler(connection):
        with connection.dup() as copy:
            copy.sendall(copy.recv(10))

    start(handler, recorder=recorder)
    assert talk(client(), b"x") == b"x"
    assert recorder.record()[0].received == b""


def broken_recorder(when):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = Recorder()
    setattr(recorder, when, fail)
    return recorder


@both
@pytest.mark.parametrize("when", ["received", "ended"])
def test_a_recorder_that_fails_fails_the_handler(start, client, handler, when):
    server = start(handler, recorder=broken_recorder(when))
    connection = client()
    connection.sendall(b"x")
    connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):
        read_all(connection)
    server.__exit__()
    assert "No space left" in str(server.failures[0])


@both
def test_a_recorder_that_takes_no_clients_ends_the_server(path, client, handler):
    with pytest.raises(OSError, match="No space left"):  # noqa: SIM117
        with HandlerServer(listen(path), handler, recorder=broken_recorder("connected")):
            with contextlib.suppress(ConnectionResetError):
                assert read_all(client()) == b""
    assert_gone(path)


# Handlers that fail

ERRORS = [
    ValueError("broken"),
    ConnectionResetError("its own"),
    EOFError(),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    GeneratorExit(),
    pytest.fail.Exception("said by the test"),
]


@both
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_handler_raises_is_kept_with_its_traceback_and_others_go_on(start, client, handler, error):
    def fail(connection):
        if connection.recv(10) == b"fail":
            raise error
        connection.sendall(b"fine")

    async def fail_stream(reader, writer):
        if await reader.read(10) == b"fail":
            raise error
        writer.write(b"fine")

    server = start(fail_stream if handler is echo_stream else fail)
    other, victim = client(), client()
    victim.sendall(b"fail")
    assert read_all(victim) == b""
    assert server.failures == [error]
    assert traceback.extract_tb(error.__traceback__)[-1].line == "raise error"
    assert talk(other, b"x") == b"fine"
    assert talk(client(), b"x") == b"fine"
    assert server.failures == [error]
    error.__traceback__ = None


@both
def test_a_handler_may_call_exit(start, client, handler):
    async def exit_stream(reader, writer):
        sys.exit("enough")

    server = start(exit_stream if handler is echo_stream else lambda connection: sys.exit("enough"))
    for number in range(1, 4):
        assert read_all(client()) == b""
        assert [str(error) for error in server.failures] == ["enough"] * number


def test_what_a_failed_function_has_left_open_is_closed(start, client, path):
    def leave(connection):
        file = open(__file__)  # noqa: SIM115
        copy = connection.dup()
        file.read(), copy.send(b"x"), 1 / 0

    server = start(leave)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert read_all(client()) == b"x"
    assert isinstance(server.failures[0], ZeroDivisionError)


@pytest.mark.parametrize("error", [ValueError("in the background"), SystemExit("in the background")])
def test_a_task_that_a_coroutine_leaves_behind_and_that_fails_is_a_failure(start, client, error):
    async def fail():
        raise error

    async def leave(reader, writer):
        writer.task = asyncio.get_running_loop().create_task(fail())
        await reader.read(1)
        writer.write(b"x")

    server = start(leave)
    assert talk(client(), b"x") == b"x"
    assert talk(client(), b"x") == b"x"
    server.__exit__()
    assert error in server.failures


def test_a_callback_that_fails_is_a_failure(start, client):
    async def leave(reader, writer):
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await reader.read(1)
        writer.write(b"x")

    server = start(leave)
    assert talk(client(), b"x") == b"x"
    assert isinstance(server.failures[0], ZeroDivisionError)


@both
def test_a_client_that_has_gone_is_the_handlers_to_see(start, client, handler):
    went = threading.Event()

    def send(connection):
        connection.sendall(b"x")
        went.wait(LIMIT)
        connection.sendall(b"x")

    async def send_stream(reader, writer):
        writer.write(b"x")
        await asyncio.get_running_loop().run_in_executor(None, went.wait, LIMIT)
        while True:
            writer.write(b"x")
            await writer.drain()

    server = start(send_stream if handler is echo_stream else send)
    with client() as connection:
        connection.recv(1)
    went.set()
    server.__exit__()
    assert [isinstance(error, ConnectionError) for error in server.failures] == [True]


# Stopping


@both
def test_the_file_is_removed_and_nobody_can_connect_any_more(path, handler):
    with HandlerServer(listen(path), handler) as server:
        pass
    assert_gone(path)
    server.stop()
    server.stop()


@both
def test_it_may_be_stopped_before_it_is_started(path, handler):
    server = HandlerServer(listen(path), handler)
    server.stop()
    with server:
        pass
    assert_gone(path)


@both
@pytest.mark.parametrize("recorded", [False, True])
def test_whoever_has_connected_before_the_stop_is_served(path, client, handler, recorded):
    server = HandlerServer(listen(path, backlog=100), handler, recorder=Recorder() if recorded else None)
    clients = [client() for _ in range(100)]
    for number, connection in enumerate(clients):
        connection.sendall(b"client %d" % number)
        connection.shutdown(socket.SHUT_WR)
    server.stop()
    with server:
        pass
    assert [read_all(connection) for connection in clients] == [b"client %d" % number for number in range(100)]
    assert server.failures == []


@both
def test_after_the_stop_connected_clients_go_on_and_new_ones_are_refused(path, start, client, handler):
    server = start(handler)
    connection = client()
    assert talk(connection, b"x") == b"x"
    server.stop()
    with pytest.raises((Refused, FileNotFoundError)):
        while True:  # it takes a moment
            with client() as other:
                assert talk(other, b"x") == b"x"
    for _ in range(3):
        assert talk(connection, b"x") == b"x"
    connection.close()
    server.__exit__()
    assert_gone(path)


@both
def test_a_handler_may_stop_the_server(path, handler):
    def end(connection):
        server.stop()
        connection.sendall(b"last")

    async def end_stream(reader, writer):
        server.stop()
        writer.write(b"last")

    with HandlerServer(listen(path), end_stream if handler is echo_stream else end) as server:
        with connect(path) as connection:
            assert read_all(connection) == b"last"
        assert_gone_soon(path)


def assert_gone_soon(path):
    """Nothing tells when a server has removed its file but the file."""
    end = time.monotonic() + LIMIT
    while path.exists() and time.monotonic() < end:
        os.sched_yield()
    assert_gone(path)


@both
@pytest.mark.parametrize("drain", [0, 0.05, -1])
def test_after_the_drain_time_handlers_that_wait_for_a_client_see_the_end(path, client, handler, drain):
    ended = []

    def note(connection):
        echo(connection)
        ended.append("after the end")

    async def note_stream(reader, writer):
        await echo_stream(reader, writer)
        ended.append("after the end")

    recorder = Recorder()
    with HandlerServer(
        listen(path), note_stream if handler is echo_stream else note, drain=drain, recorder=recorder
    ) as server:
        clients = [client() for _ in range(5)]
        for connection in clients:
            assert talk(connection, b"x") == b"x"
    assert ended == ["after the end"] * 5
    assert [read_all(connection) for connection in clients] == [b""] * 5
    assert [client.open for client in recorder.record()] == [False] * 5
    assert server.failures == []


@both
@pytest.mark.parametrize("how", ["reads exactly", "sends"])
def test_what_comes_of_being_cut_off_is_no_failure(path, client, handler, how):
    def wait(connection):
        connection.sendall(b"x")
        if how == "sends":
            connection.sendall(bytes(10_000_000))
        else:
            connection.read_exactly(10)

    async def wait_stream(reader, writer):
        writer.write(b"x")
        if how == "sends":
            writer.write(bytes(10_000_000))
            await writer.drain()
        else:
            await reader.readexactly(10)

    with HandlerServer(listen(path), wait_stream if handler is echo_stream else wait, drain=0) as server:
        connection = client()
        connection.recv(1)
    assert server.failures == []


@both
def test_what_a_handler_gets_wrong_after_it_was_cut_off_is_a_failure(path, client, handler):
    def wait(connection):
        connection.sendall(b"x")
        os.stat(path.parent / connection.recv(10).decode() / "nothing")

    async def wait_stream(reader, writer):
        writer.write(b"x")
        os.stat(path.parent / (await reader.read(10)).decode() / "nothing")

    with HandlerServer(listen(path), wait_stream if handler is echo_stream else wait, drain=0) as server:
        connection = client()
        connection.recv(1)
    assert [type(error) for error in server.failures] == [FileNotFoundError]


def test_a_coroutine_that_waits_for_something_else_is_cancelled(path, client):
    ended = []

    async def wait(reader, writer):
        writer.write(b"x")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    with HandlerServer(listen(path), wait, drain=0) as server:
        connection = client()
        connection.recv(1)
    assert (ended, server.failures) == ([True], [])
    assert read_all(connection) == b""


def test_a_coroutine_whose_client_does_not_read_ends_all_the_same(path, client):
    returned = threading.Event()

    async def send(reader, writer):
        writer.write(bytes(10_000_000))
        returned.set()

    with HandlerServer(listen(path), send, drain=0) as server:
        connection = client()
        assert returned.wait(LIMIT)
    assert server.failures == []
    assert connection.fileno() >= 0


@both
def test_clients_that_come_and_go_while_it_ends_are_no_error(path, handler):
    done = threading.Event()

    def come():
        while not done.is_set():
            with contextlib.suppress(OSError), connect(path) as connection:
                connection.settimeout(LIMIT)
                talk(connection, b"x")

    threads = [threading.Thread(target=come) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with HandlerServer(listen(path), handler, drain=0) as server, connect(path) as connection:
                connection.settimeout(LIMIT)
                talk(connection, b"x")
            assert server.failures == []
    finally:
        done.set()
        for thread in threads:
            thread.join()


@both
def test_the_bodys_own_error_comes_out(path, handler):
    with pytest.raises(ZeroDivisionError), HandlerServer(listen(path), handler):
        1 / 0  # noqa: B018
    assert_gone(path)


@both
def test_the_file_of_somebody_else_is_left_alone(path, handler):
    with HandlerServer(listen(path), handler):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"
    path.unlink()


@both
def test_the_socket_of_a_service_manager_serves_on(path, sockets, handler):
    manager = sockets.enter_context(socket.socket(socket.AF_UNIX))
    manager.bind(str(path))
    manager.listen()
    sockets.callback(path.unlink)
    for _ in range(2):
        listener = Listener(udslab.socketfile.BoundSocket.adopt(manager.dup()), inherited=True)
        with HandlerServer(listener, handler), connect(path) as connection:
            connection.settimeout(LIMIT)
            assert talk(connection, b"x") == b"x"
    assert_serving(path)


# Handlers that do not end


@pytest.fixture
def short_grace(monkeypatch, patient):
    monkeypatch.setattr(udslab.handlers, "_GRACE", 0.1)


@pytest.fixture
def blocked_at_once(monkeypatch, patient):
    monkeypatch.setattr(udslab.handlers, "_BLOCKED", 0.1)


@pytest.fixture
def release(sockets, path):
    """What a stuck handler waits for. It must have ended before threads are counted."""
    event = threading.Event()

    def end():
        event.set()
        for thread in threading.enumerate():
            if thread.name.startswith(f"udslab {path}"):  # not of what the whole session keeps
                thread.join(LIMIT)

    sockets.callback(end)
    return event


def until_stuck(release, count=1):
    """Wait until so many handlers do."""
    end = time.monotonic() + LIMIT
    while len(release._cond._waiters) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def line_of(function, text):
    """file:line of the line of a function of this module that contains text."""
    with open(__file__) as file:
        lines = list(file)
    first = function.__code__.co_firstlineno
    return f"{__file__}:{next(n for n in range(first + 1, len(lines)) if text in lines[n - 1])}"


@both
def test_a_handler_that_does_not_end_is_named_with_the_place_where_it_stands(
    path, client, handler, short_grace, blocked_at_once, release
):
    def stuck(connection):
        connection.sendall(b"x")
        release.wait(LIMIT)  # it stands here

    async def stuck_stream(reader, writer):
        writer.write(b"x")
        await asyncio.sleep(0)
        release.wait(LIMIT)  # it stands here

    stuck = stuck_stream if handler is echo_stream else stuck
    with pytest.raises(TimedOut) as caught:  # noqa: SIM117
        with HandlerServer(listen(path), stuck, drain=0):
            client().recv(1)
            until_stuck(release)
    text = str(caught.value)
    assert isinstance(caught.value, UdsError)
    assert caught.value.stage is Stage.SERVICE
    assert f"{stuck.__qualname__} still runs, at {line_of(stuck, 'it stands here')}, in {threading.__file__}:" in text
    assert_gone(path)


def test_of_many_that_do_not_end_one_is_shown(path, client, short_grace, release):
    def stuck(connection):
        connection.sendall(b"x")
        release.wait(LIMIT)

    with pytest.raises(TimedOut, match=r"\(and 2 more\)"):  # noqa: SIM117
        with HandlerServer(listen(path), stuck, drain=0):
            for _ in range(3):
                client().recv(1)
            until_stuck(release, 3)


@pytest.mark.parametrize("closes", [False, True])
def test_a_coroutine_that_refuses_to_be_cancelled_is_named(path, client, short_grace, closes):
    async def deeper():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()  # it stands here

    async def stuck(reader, writer):
        writer.write(b"x")
        if closes:
            writer.close()
            await writer.wait_closed()
        await deeper()  # its own line

    with pytest.raises(TimedOut) as caught:  # noqa: SIM117
        with HandlerServer(listen(path), stuck, drain=0) as server:
            client().recv(1)
    assert server.failures == []
    where = f"at {line_of(stuck, 'its own line')}, in {line_of(deeper, 'it stands here')}"
    assert f"stuck still runs, {where} (ETIMEDOUT)" in str(caught.value)
    assert_gone(path)


# Accepting that fails


def failing_accept(listener, number, times):
    """Makes the first calls of accept() fail."""
    really, left = listener.accept, [failure(Stage.ACCEPT, number, listener.address)] * times

    def accept():
        if left:
            raise left.pop()
        return really()

    listener.accept = accept
    return left


@both
def test_without_descriptors_clients_wait_until_some_come_back(path, client, handler):
    listener = listen(path)
    left = failing_accept(listener, errno.EMFILE, 3)
    with HandlerServer(listener, handler, drain=LIMIT), client() as connection:
        assert talk(connection, b"x") == b"x"
    assert left == []


@both
def test_without_descriptors_it_still_ends_when_told_to(path, client, handler):
    listener = listen(path)
    failing_accept(listener, errno.EMFILE, 1000)
    with HandlerServer(listener, handler, drain=LIMIT):
        connection = client()
        connection.sendall(b"x")
    assert_gone(path)


@both
def test_any_other_error_ends_the_server_and_comes_out(path, client, handler):
    listener = listen(path)
    failing_accept(listener, errno.EPERM, 1)
    with pytest.raises(PermissionError), HandlerServer(listener, handler, drain=0):
        connection = client()
        with contextlib.suppress(ConnectionResetError):
            read_all(connection)
    assert_gone(path)


@both
def test_an_error_of_removing_the_file_comes_out_after_handlers_have_ended(path, client, handler, monkeypatch):
    listener = listen(path)

    def remove(lock_timeout):
        path.unlink()
        raise failure(Stage.CLOSE, errno.EROFS, listener.address)

    monkeypatch.setattr(listener.file, "remove", remove)
    with pytest.raises(UdsError, match="EROFS"), HandlerServer(listener, handler, drain=0):
        assert talk(client(), b"x") == b"x"


def test_without_threads_a_client_is_a_failure(start, client, monkeypatch):
    server = start()

    def start_thread(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(udslab.handlers._Handling, "start", start_thread)
        assert read_all(client()) == b""
    assert [str(error) for error in server.failures] == ["can't start new thread"]
    assert talk(client(), b"x") == b"x"


# What it costs


def test_threads_that_have_ended_are_not_kept(start, client):
    server = start()
    for _ in range(50):
        with client() as connection:
            talk(connection, b"x")
    for handling in list(server._threads):
        handling.join(LIMIT)
    talk(client(), b"x")
    assert len(server._threads) < 20


def test_without_a_coroutine_asyncio_is_not_imported(path, environment):
    source = """
import sys
from udslab import connect, listen
from udslab.handlers import HandlerServer
with HandlerServer(listen(sys.argv[1]), lambda connection: connection.sendall(b"x")):
    with connect(sys.argv[1]) as client:
        assert client.recv(10) == b"x"
assert "asyncio" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", source, path], env=environment, check=True, timeout=60)
