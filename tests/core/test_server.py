"""Servers: every type around every service, many clients, bad clients, bad services, no descriptors, and the end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from udslab import (
    Address,
    AddressError,
    Credentials,
    NoSuchPath,
    ServiceError,
    bind,
    connect,
    listen,
    status,
)
from udslab.server import ConnectionServer, DatagramServer, serve
from udslab.services import Peer, per_line, per_record
from udslab.spawn import Process
from udslab.testing import assert_gone, assert_serving, assert_stale

STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
LIMIT = 30.0
"""Seconds after which something that should happen has not."""
ME = Credentials(os.getpid(), os.geteuid(), os.getegid())


class Log(logging.Handler):
    """The server's log as a queue: what happens in its thread can be waited for."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: queue.Queue[logging.LogRecord] = queue.Queue()
        self.emit = self.records.put

    def wait_for(self, *words):
        """The next record whose message has all these words."""
        end = time.monotonic() + LIMIT
        while True:
            record = self.records.get(timeout=max(0.0, end - time.monotonic()))
            if all(word in record.getMessage() for word in words):
                return record

    def so_far(self):
        """The messages that have come."""
        records = []
        with contextlib.suppress(queue.Empty):
            while True:
                records.append(self.records.get_nowait())
        return [record.getMessage() for record in records]


@pytest.fixture
def log():
    handler, logger = Log(), logging.getLogger("udslab.server")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def start(path, sockets, log):
    """Starts a server in a thread: a service, the type, what the server's class takes, and what listen() takes."""

    def run(service="upper", type="stream", *, address=path, backlog=128, **options):
        return sockets.enter_context(make_server(address, service, type, backlog=backlog, **options))

    return run


def make_server(address, service="upper", type="stream", *, backlog=128, **options):
    if type == "dgram":
        return DatagramServer(bind(address), service, **options)
    return ConnectionServer(listen(address, type=type, backlog=backlog), service, **options)


@pytest.fixture
def client(path, sockets):
    """Connects a client, which gives up waiting after a while; datagram clients have a file of their own."""

    def make(type="stream", address=path, **options):
        if type == "dgram":
            options.setdefault("bind", "auto")
        connection = sockets.enter_context(connect(address, type=type, **options))
        connection.settimeout(LIMIT)
        return connection

    return make


def talk(connection, data):
    """The answer to one chunk or record."""
    connection.sendall(data)
    return connection.recv(1 << 20)


def read_all(connection):
    """Everything up to the end of file."""
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def read_rest(connection):
    """The same, of a server that may have closed without reading everything, which is a reset after that."""
    got = b""
    while True:
        try:
            data = connection.recv(1 << 20)
        except ConnectionResetError:  # said once; packets that came before it can still be read
            continue
        if not data:
            return got
        got += data


@contextlib.contextmanager
def sending(connection, data):
    """Sends it in a thread, for nobody can send and receive megabytes at once."""
    thread = threading.Thread(target=connection.sendall, args=(data,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def session(start=None, feed=None, eof=None):
    """A service of these functions."""

    class Session:
        def __init__(self, peer):
            self.start = start or (lambda: b"")
            self.feed = feed or (lambda data: b"")
            self.eof = eof or (lambda: b"")

    return Session


# Every type around every service


@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
@pytest.mark.parametrize(("service", "answer"), [("upper", b"HELLO\0\xff"), ("echo", b"Hello\0\xff")])
def test_simple_services(start, client, type, service, answer):
    start(service, type)
    connection = client(type)
    for _ in range(3):
        assert talk(connection, b"Hello\0\xff") == answer


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_discard_answers_nothing_up_to_the_end(start, client, type):
    start("discard", type)
    connection = client(type)
    for _ in range(100):
        connection.sendall(b"x" * 1000)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b""


@pytest.mark.parametrize("service", ["upper", "echo"])
def test_an_empty_datagram_is_answered_with_an_empty_one(start, client, service):
    start(service, "dgram")
    connection = client("dgram")
    connection.send(b"")
    connection.send(b"1")
    connection.send(b"")
    assert [connection.recv(10) for _ in range(3)] == [b"", b"1", b""]


def test_a_service_that_answers_nothing_answers_an_empty_datagram_with_nothing(start, client):
    start(session(feed=lambda data: data), "dgram")  # b"" is no answer
    connection = client("dgram")
    connection.send(b"")
    connection.send(b"1")
    assert connection.recv(10) == b"1"


def test_discard_takes_datagrams(start, client, log):
    start("discard", "dgram")
    client("dgram").sendall(b"x" * 1000)
    log.wait_for("datagram of 1000 bytes")


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_chargen_speaks_until_the_client_has_had_enough(start, client, log, type):
    start("chargen", type)
    with client(type) as connection:
        data = b"".join(connection.recv(74) for _ in range(1000))
    lines = data.split(b"\r\n")[:-1]
    characters = bytes(range(0x20, 0x7F)) * 2
    assert lines == [characters[number % 95 :][:72] for number in range(1000)]
    log.wait_for("client 1: ", "lost (")


def test_chargen_answers_each_datagram(start, client):
    start("chargen", "dgram")
    connection = client("dgram")
    assert len(talk(connection, b"x")) == 74


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_whoami_greets(start, client, type):
    start("whoami", type)
    assert client(type).recv(1000) == f"{ME} bound to (unnamed)\n".encode()
    bound = client(type, bind="auto")
    assert bound.recv(1000) == f"{ME} bound to {bound.getsockname()}\n".encode()


def test_whoami_answers_datagrams(start, client):
    start("whoami", "dgram")
    connection = client("dgram")
    assert talk(connection, b"") == f"{ME} bound to {connection.getsockname()}\n".encode()


@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
def test_an_abstract_name(start, client, type):
    name = b"@udslab test " + os.urandom(8)
    server = start("upper", type, address=name)
    assert server.address == Address.parse(name)
    assert talk(client(type, address=name), b"x") == b"X"
    assert talk(client(type, address=name, bind=name + b" client"), b"x") == b"X"


@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
def test_serve_makes_the_server_for_the_type(path, client, sockets, type):
    server = sockets.enter_context(serve(path, "echo", type=type, mode=0o600))
    assert isinstance(server, DatagramServer if type == "dgram" else ConnectionServer)
    assert path.lstat().st_mode & 0o777 == 0o600
    assert talk(client(type), b"x") == b"x"


def test_serve_with_a_service_that_is_none_leaves_nothing(path):
    with pytest.raises(ServiceError):
        serve(path, "nonsense")
    with pytest.raises(ValueError, match="raw"):
        serve(path, type="raw")
    with pytest.raises(AddressError):
        serve(path / ("x" * 200))
    assert_gone(path)


@pytest.mark.parametrize(
    ("type", "records", "greets"), [("stream", False, True), ("seqpacket", True, True), ("dgram", True, False)]
)
def test_a_service_is_told_whom_it_speaks_to(start, client, type, records, greets):
    peers = []

    def service(peer):
        peers.append(peer)
        return session(feed=bytes)(peer)

    start(service, type)
    connection = client(type, bind="auto")
    talk(connection, b"x")
    assert peers == [Peer(connection.getsockname(), ME, records, greets)]


# Framing


def test_lines_are_answered_however_they_are_cut(start, client):
    start(per_line(lambda line: line[::-1]))
    connection = client()
    for piece in (b"ab", b"c\nde", b"f\n", b"\ng"):
        connection.sendall(piece)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b"\ncba" + b"\nfed" + b"\n" + b"g"


@pytest.mark.parametrize("type", ["seqpacket", "dgram"])
def test_records_stay_apart(start, client, type):
    start(per_record(lambda data: b"[" + data + b"]"), type)
    connection = client(type)
    for number in range(5):
        connection.send(b"%d" % number)
    assert [connection.recv(100) for _ in range(5)] == [b"[%d]" % number for number in range(5)]


def test_a_half_closed_stream_is_answered(start, client):
    start(per_record(lambda data: b"%d bytes" % len(data)))
    connection = client()
    connection.sendall(b"x" * 100_000)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b"100000 bytes"


@pytest.mark.parametrize("size", [1 << 20, 5_000_000])
@pytest.mark.parametrize("service", ["upper", "echo", per_line(bytes)], ids=["upper", "echo", "per_line"])
def test_a_line_of_megabytes(start, client, size, service):
    start(service)
    data = os.urandom(size).replace(b"\n", b" ").upper() + b"\n"
    connection = client()
    with sending(connection, data):
        assert connection.read_exactly(len(data)) == data


def test_a_packet_of_200_kilobytes(start, client):
    start("echo", "seqpacket")
    data = os.urandom(200_000)
    assert talk(client("seqpacket"), data) == data


def test_an_answer_in_pieces(start, client):
    start(session(feed=lambda data: iter([b"a", b"", b"b", b"", b"", b"c"])))
    connection = client()
    connection.sendall(b"x")
    assert connection.read_exactly(3) == b"abc"


@pytest.mark.parametrize("type", ["seqpacket", "dgram"])
def test_each_piece_is_a_record_and_an_empty_one_is_none(start, client, type):
    start(session(feed=lambda data: iter([b"a", b"", b"bc", b""])), type)
    connection = client(type)
    for _ in range(2):
        connection.send(b"x")
        assert [connection.recv(10), connection.recv(10)] == [b"a", b"bc"]


def test_pieces_that_are_larger_than_all_buffers(start, client):
    start(session(feed=lambda data: (bytes([number]) * 1_000_000 for number in range(5))))
    connection = client()
    connection.sendall(b"x")
    for number in range(5):
        assert connection.read_exactly(1_000_000) == bytes([number]) * 1_000_000
    assert connection.fileno() >= 0


def test_a_greeting_and_an_answer_and_a_farewell(start, client):
    start(session(lambda: b"hello ", lambda data: iter([data, b" "]), lambda: iter([b"good", b"bye"])))
    connection = client()
    connection.sendall(b"x")
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b"hello x goodbye"


# Many clients


@pytest.fixture
def many_descriptors():
    """Room for thousands of descriptors in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip(f"needs 2500 descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_a_thousand_clients_at_once(start, client, log, many_descriptors, type):
    server = start("upper", type)
    clients = [client(type) for _ in range(1000)]
    for number, connection in enumerate(clients):
        connection.sendall(b"client %d" % number)
    assert [connection.recv(100) for connection in clients] == [b"CLIENT %d" % number for number in range(1000)]
    assert server.clients == 1000
    for connection in reversed(clients):
        assert talk(connection, b"again") == b"AGAIN"
    for connection in clients:
        connection.close()
    for _ in clients:
        log.wait_for("closed by the client")
    assert server.clients == 0


def test_a_thousand_datagram_clients(start, client, directory, many_descriptors):
    start("upper", "dgram")
    clients = [client("dgram", bind=directory / f"c{number}") for number in range(1000)]
    for number, connection in enumerate(clients):
        connection.send(b"client %d" % number)
    assert [connection.recv(100) for connection in clients] == [b"CLIENT %d" % number for number in range(1000)]


def test_silent_clients_hold_up_nobody(start, client):
    start()
    silent = [client() for _ in range(100)]
    connection = client()
    for _ in range(10):
        assert talk(connection, b"x") == b"X"
    for other in silent:
        assert talk(other, b"now") == b"NOW"


def test_a_client_that_takes_without_end_does_not_keep_others_waiting(start, client, sockets):
    start(lambda peer: session(feed=lambda data: itertools.repeat(b"x" * 1000) if data == b"all" else data)(peer))
    greedy = client()
    greedy.sendall(b"all")
    done = threading.Event()

    def take():
        while not done.is_set():
            greedy.recv(1 << 16)

    taking = threading.Thread(target=take)
    taking.start()
    try:
        other = client()
        for _ in range(10):
            assert talk(other, b"x") == b"x"
    finally:
        done.set()
        taking.join()


# Clients that do not behave


def memory(pid):
    """Resident set in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    """What the process has used, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(pid, seconds=0.5):
    """The share of a core that it uses over a while."""
    before = cpu_seconds(pid)
    select.select([], [], [], seconds)  # nothing tells that nothing happens
    return (cpu_seconds(pid) - before) / seconds


def assert_idle(pid):
    """It uses next to no time, once it has done what there was to be done."""
    end = time.monotonic() + LIMIT
    while load(pid) >= 0.2:
        assert time.monotonic() < end


def send_until_full(connection):
    """Send without reading until no more is taken; how much was."""
    connection.settimeout(0.1)
    total = 0
    with contextlib.suppress(socket.timeout):
        while total < 100_000_000:
            total += connection.send(bytes(1 << 16))
    return total


def test_clients_that_do_not_read_are_not_read_from_and_cost_no_memory(serve, client, path):
    server = serve(path, "--service", "echo")
    assert talk(client(), b"x") == b"x"
    before = memory(server.pid)
    deaf = [client() for _ in range(5)]
    assert all(0 < send_until_full(connection) < 2_000_000 for connection in deaf)
    assert memory(server.pid) - before < 10_000_000
    other = client()
    for _ in range(10):
        assert talk(other, b"x") == b"x"
    assert_idle(server.pid)


def test_clients_that_do_not_read_an_endless_answer_cost_neither_memory_nor_time(serve, client, path):
    server = serve(path, "--service", "chargen")
    client().recv(1)
    before = memory(server.pid)
    deaf = [client() for _ in range(20)]
    for connection in deaf:
        assert connection.recv(1) == b" "
    assert_idle(server.pid)
    assert memory(server.pid) - before < 10_000_000
    assert client().recv(10) == b" !\"#$%&'()"


def test_a_client_that_reads_late_gets_everything(start, client):
    start("echo")
    connection = client()
    sent = send_until_full(connection)
    assert sent > 100_000
    connection.settimeout(LIMIT)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == bytes(sent)


@pytest.mark.parametrize("service", ["upper", "chargen", "whoami", "discard"])
@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_two_hundred_clients_that_connect_and_go(start, client, log, service, type):
    server = start(service, type)
    for number in range(200):
        with client(type) as connection, contextlib.suppress(BrokenPipeError):
            if number % 2:
                connection.sendall(b"unread")
    for _ in range(200):
        log.wait_for("client", " after ")
    assert server.clients == 0
    if service == "upper":
        assert talk(client(type), b"still") == b"STILL"
    elif service == "whoami":
        assert client(type).recv(1000).startswith(b"pid")


def test_a_client_that_goes_with_an_answer_unread_is_a_warning_and_no_more(start, client, log):
    start()
    connection = client()
    connection.sendall(b"x")
    connection.recv(1, socket.MSG_PEEK)
    connection.close()  # with the answer unread: a reset for the server
    record = log.wait_for("lost (Connection reset by peer)")
    assert record.levelno == logging.WARNING
    assert "1 bytes in, 1 out" in record.getMessage()
    assert talk(client(), b"x") == b"X"


def test_a_client_that_goes_in_peace_is_no_warning(start, client, log):
    start()
    with client() as connection:
        talk(connection, b"xyz")
    record = log.wait_for("closed by the client")
    assert record.levelno == logging.DEBUG
    assert "3 bytes in, 3 out" in record.getMessage()


@pytest.mark.parametrize("type", ["stream", "seqpacket", "dgram"])
def test_descriptors_that_a_client_sends_are_not_kept(start, client, type):
    start("echo", type)
    connection = client(type)
    talk(connection, b"x")
    before = set(os.listdir("/proc/self/fd"))
    with open(os.devnull) as file:
        for _ in range(10):
            connection.send_fds(b"take these", [file.fileno()] * 5)
            assert connection.recv(100) == b"take these"
    assert set(os.listdir("/proc/self/fd")) <= before


# Out of descriptors


@pytest.fixture
def starved(path, environment, sockets):
    """`udslab serve` with room for few clients: its hard limit is low, for it raises the soft one itself."""
    command = ["sh", "-c", 'ulimit -n 24 && exec "$@"', "sh", sys.executable, "-m", "udslab", "serve", "-v", path]
    server = sockets.enter_context(Process(command, env=environment))
    server.wait_serving(path)
    return server


def starving(server):
    """How many clients it has taken in, once it has room for no more."""
    end = time.monotonic() + LIMIT
    while "clients wait in the backlog" not in (said := server.output()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return said.count("udslab: client ")


def answered(connections, count):
    """The first `count` of the connections that are answered."""
    poll = select.poll()
    waiting = {connection.fileno(): connection for connection in connections}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    found = []
    while len(found) < count:
        ready = poll.poll(LIMIT * 1000)
        assert ready
        for fd, _ in ready:
            connection = waiting.pop(fd)
            poll.unregister(fd)
            assert connection.recv(100) == b"HELLO"
            found.append(connection)
    return found


def test_without_descriptors_it_neither_spins_nor_dies_and_recovers(starved, client):
    clients = [client() for _ in range(60)]
    for connection in clients:
        connection.sendall(b"hello")
    served = answered(clients, starving(starved))
    assert 5 <= len(served) < 24
    assert_idle(starved.pid)
    assert starved.returncode is None
    waiting = [connection for connection in clients if connection not in served]
    assert not select.select(waiting, [], [], 0)[0]
    # Those who are served go on, and the others wait.
    assert talk(served[0], b"x") == b"X"
    assert starved.output().count("clients wait in the backlog") == 1

    while waiting:
        for connection in served:
            connection.close()
        served = answered(waiting, min(len(served), len(waiting)))
        waiting = [connection for connection in waiting if connection not in served]
    for connection in served:
        connection.close()
    assert talk(client(), b"x") == b"X"
    assert starved.returncode is None
    assert starved.end() == 0


def test_without_descriptors_it_still_ends_when_told_to(starved, client, path):
    clients = [client() for _ in range(40)]
    for connection in clients:
        connection.sendall(b"hello")
    assert answered(clients, starving(starved))
    assert starved.end(grace=LIMIT) == 0, starved.output()
    assert_gone(path)


# Services that fail


def fail(*arguments):
    raise RuntimeError("the service is broken")


def fail_after_one(*arguments):
    yield b"one"
    raise RuntimeError("the service is broken")


def fail_with_oserror(*arguments):
    yield b"one"
    raise BrokenPipeError("not the client's")


@pytest.mark.parametrize(
    ("service", "came"),
    [
        (fail, b""),
        (session(start=fail), b""),
        (session(feed=fail), b""),
        (session(eof=fail), b""),
        (session(feed=fail_after_one), b"one"),
        (session(feed=fail_with_oserror), b"one"),
        (session(start=fail_after_one), b"one"),
        (session(eof=fail_after_one), b"one"),
        (session(feed=lambda data: None), b""),
        (session(feed=lambda data: "text"), b""),
        (session(feed=lambda data: 3), b""),
        (session(feed=lambda data: iter([b"one", "text"])), b"one"),
        (session(start=lambda: [1, 2]), b""),
        (lambda peer: None, b""),
    ],
)
@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_a_service_that_fails_ends_that_connection_alone_and_is_logged(start, client, log, type, service, came):
    server = start(lambda peer: session(feed=bytes)(peer) if peer.address.startswith("@") else service(peer), type)
    other = client(type, bind=b"@udslab test " + os.urandom(8))
    assert talk(other, b"x") == b"x"
    victim = client(type)
    with contextlib.suppress(BrokenPipeError):
        victim.sendall(b"x")
        victim.shutdown(socket.SHUT_WR)
    assert read_rest(victim) == came
    record = log.wait_for("client 2: ", "the service failed")
    assert record.exc_info is not None
    assert log.wait_for("client 2: ", "the service failed after").levelno == logging.WARNING
    assert talk(other, b"still") == b"still"
    assert server.clients == 1


@pytest.mark.parametrize(
    "failing",
    [fail, session(feed=fail), session(eof=fail), session(feed=fail_after_one), session(feed=lambda data: None)],
)
def test_a_service_that_fails_on_a_datagram_is_logged_and_the_next_is_answered(start, client, log, failing):
    services = iter([failing, session(feed=bytes)])
    start(lambda peer: next(services)(peer), "dgram")
    connection = client("dgram")
    connection.send(b"one")
    record = log.wait_for("the service failed on a datagram from", connection.getsockname())
    assert record.exc_info is not None
    assert talk(connection, b"two") == b"two"


# Stopping


def test_it_ends_at_once_with_silent_clients_and_removes_its_file(path, client, log):
    with make_server(path, drain=LIMIT):
        silent = [client() for _ in range(20)]
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT / 3
    assert_gone(path)
    assert [read_all(connection) for connection in silent] == [b""] * 20


def test_what_has_come_before_the_stop_is_answered_for_everybody(path, client):
    """More clients than are accepted in one go, all of them still in the backlog."""
    server = make_server(path, backlog=300, drain=LIMIT)
    clients = [client() for _ in range(300)]
    for number, connection in enumerate(clients):
        connection.sendall(b"client %d" % number)
    server.stop()
    server.run()
    assert [read_all(connection) for connection in clients] == [b"CLIENT %d" % number for number in range(300)]


def test_a_client_that_comes_in_the_same_moment_as_the_stop_is_no_error(path, client):
    server = make_server(path, drain=LIMIT)
    server.stop()
    connection = client()
    connection.sendall(b"x")
    server.run()
    assert read_all(connection) == b"X"


def test_a_long_answer_is_finished(path, client):
    """Far more than the buffers hold, and the stop comes before it is read."""
    data = os.urandom(3_000_000)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, session(feed=lambda chunk: data), drain=LIMIT))
        connection = client()
        connection.sendall(b"x")
        head = connection.recv(1)
        server.stop()
        assert head + read_all(connection) == data


def test_an_answer_in_pieces_is_finished(path, client):
    pieces = [os.urandom(100_000) for _ in range(30)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, session(feed=lambda chunk: iter(pieces)), drain=LIMIT))
        connection = client()
        connection.sendall(b"x")
        head = connection.recv(1)
        server.stop()
        assert head + read_all(connection) == b"".join(pieces)


def test_a_greeting_without_end_ends(path, client):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, "chargen", drain=LIMIT))
        connection = client()
        connection.recv(1)
        began = time.monotonic()
        server.stop()
        read_all(connection)
    assert time.monotonic() - began < LIMIT / 3


def test_the_path_is_free_while_it_drains(path, client):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, session(feed=lambda data: bytes(3_000_000)), drain=LIMIT))
        connection = client()
        connection.sendall(b"x")
        connection.recv(1)
        server.stop()
        while status(path).state == "listening":
            os.sched_yield()
        assert_gone(path)
        with listen(path):  # the next one may begin
            connection.read_exactly(2_999_999)


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_a_client_that_does_not_read_is_cut_off_after_the_limit(path, client, log, type):
    answer = session(feed=lambda data: iter([bytes(100_000)] * 100))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, answer, type, drain=0.2))
        connection = client(type)
        connection.sendall(b"x")
        connection.recv(1, socket.MSG_PEEK)
        began = time.monotonic()
        server.stop()
    assert 0.19 <= time.monotonic() - began < LIMIT / 3
    log.wait_for("cut off after 0.2 s of draining: 1")
    log.wait_for("client 1: ", "cut off after")
    assert_gone(path)


def test_a_client_that_sends_without_end_is_cut_off_after_the_limit(path, client, log):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, "discard", drain=0.2))
        connection = client()

        def babble():
            with contextlib.suppress(OSError):
                while True:
                    connection.sendall(bytes(10_000))

        babbling = threading.Thread(target=babble)
        babbling.start()
        log.wait_for("client 1: ")
        began = time.monotonic()
        server.stop()
    assert time.monotonic() - began < LIMIT / 3
    babbling.join()
    assert_gone(path)


def test_a_signal_handler_may_stop_it(path, client):
    server = make_server(path)
    answers = []

    ended = threading.Event()

    def talk_and_interrupt():
        answers.append(talk(client(), b"x"))
        while True:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            if ended.wait(1):  # of one that came just before it began to wait Python's handler is not told
                break

    before = signal.signal(signal.SIGUSR1, lambda *_: server.stop())
    try:
        talking = threading.Thread(target=talk_and_interrupt)
        talking.start()
        server.run()
        ended.set()
        talking.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [b"X"]
    assert_gone(path)


def test_a_service_may_stop_it(path, client):
    server = make_server(path, lambda peer: session(feed=stop_and_answer)(peer))

    def stop_and_answer(data):
        server.stop()
        return b"bye"

    with server:
        connection = client()
        connection.sendall(b"x")
        assert read_all(connection) == b"bye"
        assert_gone(path)


def test_it_may_be_stopped_often_and_afterwards(path, client):
    with make_server(path) as server:
        assert talk(client(), b"x") == b"X"
        for _ in range(10_000):  # more than fits in the pipe that wakes it
            server.stop()
    server.stop()
    assert_gone(path)


def test_signals_do_not_disturb_it(path, client):
    """run() in the main thread, which a signal interrupts every millisecond."""
    server = make_server(path)
    seen = []

    def talk_on():
        with client() as connection:
            for number in range(300):
                data = b"%d " % number + b"x" * 10_000
                connection.sendall(data)
                seen.append(connection.read_exactly(len(data)) == data.upper())
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        server.stop()

    signals = []
    before = signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
    try:
        talking = threading.Thread(target=talk_on)
        talking.start()
        server.run()
        talking.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [True] * 300
    assert signals


def test_what_a_signal_handler_raises_ends_it_in_order(path, client):
    class Enough(Exception):
        pass

    def interrupt(number, frame):
        told.set()
        raise Enough

    server = make_server(path)
    ends = []
    told = threading.Event()

    def talk_and_interrupt():
        with client() as connection:
            talk(connection, b"x")
            while True:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                if told.wait(5):  # of one that came just before it began to wait Python's handler is not told
                    break
            ends.append(connection.recv(1))

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        talking = threading.Thread(target=talk_and_interrupt)
        talking.start()
        with pytest.raises(Enough):
            server.run()
        talking.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ends == [b""]
    assert_gone(path)


def test_what_goes_wrong_in_its_thread_is_raised_at_the_end_of_the_block(path, client):
    def leave(data):
        raise SystemExit(3)

    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(SystemExit))
        stack.enter_context(make_server(path, session(feed=leave)))
        other, connection = client(), client()
        connection.sendall(b"x")
        assert read_rest(connection) == read_rest(other) == b""
    assert_gone(path)


def replace_by_file(path):
    path.unlink()
    path.write_text("precious")


def replace_by_server(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


@pytest.mark.parametrize("type", ["stream", "dgram"])
@pytest.mark.parametrize("replace", [replace_by_file, replace_by_server])
def test_what_has_been_put_at_its_path_meanwhile_is_not_removed(path, type, replace):
    with make_server(path, "upper", type):
        replace(path)
        before = path.lstat()
    assert path.lstat() == before


def test_nothing_is_left_open(path, client):
    threads = set(threading.enumerate())
    before = set(os.listdir("/proc/self/fd"))
    for type in ("stream", "dgram"):
        with make_server(path, "upper", type), client(type) as connection:
            assert talk(connection, b"x") == b"X"
    assert set(os.listdir("/proc/self/fd")) <= before
    assert set(threading.enumerate()) <= threads


# Once


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_once_serves_one_client_and_ends(path, client, type):
    server = make_server(path, "upper", type, once=True)
    first = client(type)
    second = client(type)  # in the backlog
    running = threading.Thread(target=server.run)
    running.start()
    assert talk(first, b"one") == b"ONE"
    assert_gone(path)
    with pytest.raises(NoSuchPath):
        connect(path, type=type)
    with contextlib.suppress(OSError):
        second.sendall(b"two")
    with contextlib.suppress(ConnectionResetError):
        assert second.recv(10) == b""
    assert talk(first, b"three") == b"THREE"
    first.close()
    running.join(LIMIT)
    assert not running.is_alive()


def test_once_answers_one_datagram_and_ends(path, client, log):
    server = make_server(path, "upper", "dgram", once=True)
    connection = client("dgram")
    for data in (b"one", b"two", b"three"):
        connection.send(data)
    server.run()
    assert connection.recv(10) == b"ONE"
    connection.setblocking(False)
    with pytest.raises((BlockingIOError, ConnectionResetError)):
        connection.recv(10)
    assert_gone(path)


def test_once_can_be_stopped_before_anyone_came(path):
    for type in ("stream", "dgram"):
        with make_server(path, "upper", type, once=True):
            assert_serving(path)
        assert_gone(path)


# Who called


def test_the_log_names_the_caller_before_its_first_answer(start, client, log):
    start("whoami")
    assert client().recv(1) == b"p"
    assert log.so_far() == [f"client 1: {ME}"]
    bound = client(bind="auto")
    assert bound.recv(1) == b"p"
    assert log.so_far() == [f"client 2: {ME} bound to {bound.getsockname()}"]


def test_the_log_names_the_sender_of_a_datagram_before_its_answer(start, client, log):
    start("upper", "dgram")
    connection = client("dgram")
    assert talk(connection, b"xyz") == b"XYZ"
    assert log.so_far() == [f"datagram of 3 bytes from {ME} {connection.getsockname()}"]


def test_a_name_with_odd_bytes_is_logged_on_one_line(start, client, log, directory):
    start()
    connection = client(bind=os.fsencode(directory) + b"/\xff\n\x1b[31m")
    assert talk(connection, b"x") == b"X"
    (line,) = log.so_far()
    assert line.isprintable()
    assert line.endswith("/\\xff\\n\\x1b[31m")


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_identify_tells_the_caller_by_its_file_and_removes_it(start, client, log, type):
    start("upper", type, identify=True)
    connection = client(type, bind="auto")
    assert talk(connection, b"x") == b"X"
    assert not os.path.exists(connection.getsockname())
    log.wait_for(f"client 1: {ME} bound to {connection.getsockname()}, by its file uid {os.geteuid()}")


@pytest.mark.parametrize("service", ["upper", "whoami"])
def test_identify_turns_others_away_without_a_byte(start, client, log, directory, service):
    server = start(service, identify=True)
    assert client().recv(10) == b""
    record = log.wait_for("client 1: ", "turned away", "a bad filename")
    assert record.levelno == logging.WARNING

    own = directory / "own"
    umask = os.umask(0o022)
    try:
        assert client(bind=own).recv(10) == b""
    finally:
        os.umask(umask)
    log.wait_for("client 2: ", "turned away", "its mode is 0755")
    assert own.exists()

    assert server.clients == 0
    connection = client(bind="auto")
    connection.sendall(b"x")
    assert connection.recv(1) in (b"X", b"p")


def test_once_and_identify_end_with_whoever_is_turned_away(path, client):
    server = make_server(path, once=True, identify=True)
    connection = client()
    server.run()
    assert connection.recv(1) == b""
    assert_gone(path)


# Datagrams


def test_a_sender_without_an_address_gets_no_answer_and_does_no_harm(start, client, log, path, make_socket):
    start("upper", "dgram")
    make_socket(type=DGRAM).sendto(b"anonymous", str(path))
    assert log.wait_for("no answer to (unnamed)").levelno == logging.WARNING
    assert talk(client("dgram"), b"x") == b"X"


def test_a_sender_without_an_address_whom_nobody_answers_is_no_warning(start, log, path, make_socket):
    start("discard", "dgram")
    make_socket(type=DGRAM).sendto(b"one", str(path))
    make_socket(type=DGRAM).sendto(b"two", str(path))
    log.wait_for("datagram of 3 bytes from", "(unnamed)")
    record = log.records.get(timeout=LIMIT)
    assert "datagram of 3 bytes" in record.getMessage()


def test_a_sender_that_was_bound_by_the_kernel_is_answered(start, path, make_socket):
    start("upper", "dgram")
    sender = make_socket(type=DGRAM)
    sender.settimeout(LIMIT)
    sender.bind("")  # autobind, unix(7)
    sender.sendto(b"x", str(path))
    assert sender.recv(10) == b"X"


def test_a_sender_whose_name_leads_elsewhere_is_not_answered(start, client, log, path, directory, make_socket):
    """/proc/self/fd/N/name is looked up in the server's own descriptors: whoever is there would get the answer."""
    start("upper", "dgram")
    here = os.open(directory, os.O_PATH)
    try:
        sender = make_socket(f"/proc/self/fd/{here}/sender", DGRAM)
        # In this process the number leads there for both, so that an answer would arrive.
        sender.sendto(b"x", str(path))
        log.wait_for("no answer to /proc/self/fd/")
    finally:
        os.close(here)
    assert talk(client("dgram"), b"x") == b"X"
    sender.setblocking(False)
    with pytest.raises(BlockingIOError):
        sender.recv(10)


def test_a_sender_that_has_gone_is_logged_and_forgotten(start, client, log, path, make_socket, directory):
    start("upper", "dgram")
    gone = make_socket(directory / "gone", DGRAM)
    with_service = client("dgram")
    gone.sendto(b"x", str(path))
    gone.close()
    # It may have been answered before it went; a name that nobody has is not.
    again = make_socket(type=DGRAM)
    again.bind(str(directory / "again"))
    (directory / "again").unlink()
    again.sendto(b"x", str(path))
    log.wait_for("no answer to", "again", "No such file")
    assert talk(with_service, b"x") == b"X"


LARGE = bytes(20_000)
"""Some hundreds of these are more than a send buffer holds, whatever net.core.wmem_max may be."""


@pytest.fixture
def slow(path, directory, make_socket):
    """A datagram sender that asks, and that reads only when told to. It is bound and not connected: for it the kernel
    limits the queue (net.unix.max_dgram_qlen), and for one that is connected to the server only the server's buffer."""
    sender = make_socket(directory / "slow", DGRAM)
    sender.settimeout(LIMIT)

    def ask(count):
        for number in range(count):
            sender.sendto(b"ask %d" % number, str(path))

    return sender, ask


def test_a_sender_whose_queue_is_full_gets_all_answers_in_order_once_it_reads(start, client, slow):
    start("upper", "dgram")
    sender, ask = slow
    ask(900)
    other = client("dgram")
    for _ in range(10):
        assert talk(other, b"x") == b"X"  # nobody else waits
    assert [sender.recv(100) for _ in range(900)] == [b"ASK %d" % number for number in range(900)]


def test_a_connected_sender_that_reads_late_gets_all_answers_in_order(start, client):
    """No other socket may connect to it to wait for its queue: the kernel would refuse (EPERM)."""
    start(per_record(LARGE.__add__), "dgram")
    connection = client("dgram")
    for number in range(900):
        connection.send(b"%d" % number)
    for number in range(900):
        assert connection.recv(1 << 20) == LARGE + b"%d" % number


def test_when_the_send_buffer_is_full_whoever_asked_first_is_answered_first(start, client, many_descriptors):
    """Each reads only when the one before has: the answers of newcomers that overtake would lie there for ever."""
    start(per_record(LARGE.__add__), "dgram")
    waiting = deque()

    def ask():
        waiting.append(client("dgram"))
        waiting[-1].send(b"x")

    for _ in range(500):
        ask()
    for _ in range(500):
        assert len(waiting.popleft().recv(1 << 20)) == len(LARGE) + 1
        ask()


def test_more_answers_than_the_limit_are_dropped_and_said_so(start, client, log, slow):
    start("upper", "dgram", most=5)
    sender, ask = slow
    ask(600)
    talk(client("dgram"), b"x")  # now all have been looked at
    dropped = [line for line in log.so_far() if line.startswith(f"an answer to {sender.getsockname()} is dropped")]
    assert 0 < len(dropped) < 600
    got = [sender.recv(10) for _ in range(600 - len(dropped))]
    assert not select.select([sender], [], [], 0.3)[0]
    assert all("5 wait" in line for line in dropped)
    assert got == [b"ASK %d" % number for number in range(len(got))]


def test_a_sender_that_goes_with_answers_waiting_is_forgotten(start, client, log, slow):
    start("upper", "dgram")
    sender, ask = slow
    ask(600)
    name = sender.getsockname()
    sender.close()
    log.wait_for("no answer to", name, "Connection refused")
    assert talk(client("dgram"), b"x") == b"X"


def test_an_answer_that_does_not_fit_is_logged_and_the_next_is_sent(start, client, log):
    start(session(feed=lambda data: iter([bytes(10_000_000), b"small"])), "dgram")
    assert talk(client("dgram"), b"x") == b"small"
    log.wait_for("no answer to", "Message too long")


def test_an_empty_datagram_is_a_datagram(start, client):
    start(per_record(lambda data: b"%d bytes" % len(data)), "dgram")
    assert talk(client("dgram"), b"") == b"0 bytes"


def test_answers_that_wait_are_sent_within_the_drain_time(path, log, slow):
    sender, ask = slow
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, "upper", "dgram", drain=LIMIT))
        ask(600)
        server.stop()
        assert [sender.recv(10) for _ in range(600)] == [b"ASK %d" % number for number in range(600)]


def test_answers_that_nobody_takes_are_given_up_after_the_drain_time(path, slow):
    _, ask = slow
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(make_server(path, "upper", "dgram", drain=0.2))
        ask(600)
        began = time.monotonic()
        server.stop()
    assert 0.19 <= time.monotonic() - began < LIMIT / 3
    assert_gone(path)


LONG_QUEUE = """
import contextlib, json, sys
from udslab import bind, connect
from udslab.server import DatagramServer
from udslab.services import per_record
with open("/proc/sys/net/unix/max_dgram_qlen", "w") as limit:
    limit.write("512")
path = sys.argv[1]
seen = []
server = DatagramServer(bind(path), per_record(lambda data: seen.append(data.decode()) or b""))
with contextlib.ExitStack() as stack:
    # Several, for the send buffer of one does not hold so many.
    clients = [stack.enter_context(connect(path, type="dgram")) for _ in range(5)]
    for number in range(500):
        clients[number % 5].send(b"%d" % number)
    server.stop()
    server.run()
print(json.dumps(seen))
"""


def test_datagrams_that_have_come_before_the_stop_are_served_however_many(unshare, path):
    """In a network namespace of its own, whose queues are as long as systemd makes them."""
    assert unshare("--net", LONG_QUEUE, path) == [str(number) for number in range(500)]


# What a killed one leaves


def test_a_killed_one_leaves_a_stale_file_and_the_next_replaces_it(serve, client, path):
    assert serve(path).kill() == -signal.SIGKILL
    assert_stale(path)
    second = serve(path)
    assert talk(client(), b"x") == b"X"
    assert second.end() == 0
    assert_gone(path)
