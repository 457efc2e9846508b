"""connect(), and what a connection can do: who is there, whole lines, exact reads, descriptors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import pytest

from udslab import (
    Address,
    AddressError,
    AddressInUse,
    Connection,
    Credentials,
    NoSuchPath,
    PeerGone,
    Refused,
    SocketType,
    Stage,
    TimedOut,
    UdsError,
    Unsupported,
    WrongType,
    connect,
    listen,
)
from udslab.spawn import Process

STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
KERNEL = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


@pytest.fixture
def pair(sockets):
    """A connection, and a plain socket at its other end."""
    one, other = socket.socketpair()
    return sockets.enter_context(Connection.adopt(one)), sockets.enter_context(other)


@pytest.fixture
def temporary(directory, monkeypatch):
    """The directory for temporary files, for this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def open_fds():
    return len(os.listdir("/proc/self/fd"))


def long_path(directory, size=200):
    """A path in `directory` with `size` bytes."""
    while size - len(os.fsencode(directory)) > 60:
        directory /= "d" * 50
        directory.mkdir()
    return directory / ("s" * (size - len(os.fsencode(directory)) - 1))


# Connecting


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_a_connection_is_a_blocking_socket_that_is_not_inherited(path, sockets, type):
    listener = sockets.enter_context(listen(path, type=type))
    client = sockets.enter_context(connect(path, type=type))
    server = sockets.enter_context(listener.accept())
    for connection in (client, server):
        assert isinstance(connection, socket.socket)
        assert isinstance(connection, Connection)
        assert (connection.family, connection.type) == (socket.AF_UNIX, SocketType(type).constant)
        assert connection.gettimeout() is None
        assert os.get_blocking(connection.fileno())
        assert not connection.get_inheritable()
    client.sendall(b"there")
    assert server.recv(100) == b"there"
    server.sendall(b"back")
    assert client.recv(100) == b"back"
    assert client.peer_address == Address.pathname(os.fsencode(path))
    assert server.peer_address == Address.unnamed()


@pytest.mark.parametrize("spell", [str, os.fsencode, Path, lambda path: f"unix://{path}", Address.parse])
def test_every_spelling_of_an_address_is_taken(path, make_socket, spell):
    make_socket(path, backlog=1)
    with connect(spell(path)) as connection:
        assert connection.getpeername() == str(path)


def test_an_abstract_name(make_socket):
    name = b"udslab test " + os.urandom(8) + b"\0"
    make_socket(b"\0" + name, backlog=1)
    with connect(Address.abstract(name)) as connection:
        assert connection.peer_address == Address.abstract(name)
    with pytest.raises(Refused):
        connect(b"@" + name[:-1])


def test_a_datagram_socket(path, make_socket):
    server = make_socket(path, DGRAM)
    with connect(path, type="dgram", timeout=1) as connection:
        connection.send(b"hello")
    assert server.recv(10) == b"hello"


def nothing(path, make_socket):
    pass


def regular_file(path, make_socket):
    path.touch(0o777)


def directory_there(path, make_socket):
    path.mkdir()


def fifo(path, make_socket):
    os.mkfifo(path)


def dangling_link(path, make_socket):
    path.symlink_to("nowhere")


def stale_file(path, make_socket):
    make_socket(path).close()


def bound(path, make_socket):
    make_socket(path)


def shut_down(path, make_socket):
    make_socket(path, backlog=5).shutdown(socket.SHUT_RDWR)


def datagram(path, make_socket):
    make_socket(path, DGRAM)


def seqpacket(path, make_socket):
    make_socket(path, SEQPACKET, backlog=5)


@pytest.mark.parametrize(
    ("there", "error", "number"),
    [
        (nothing, NoSuchPath, errno.ENOENT),
        (dangling_link, NoSuchPath, errno.ENOENT),
        (regular_file, Refused, errno.ECONNREFUSED),
        (directory_there, Refused, errno.ECONNREFUSED),
        (fifo, Refused, errno.ECONNREFUSED),
        (stale_file, Refused, errno.ECONNREFUSED),
        (bound, Refused, errno.ECONNREFUSED),
        (shut_down, Refused, errno.ECONNREFUSED),
        (datagram, WrongType, errno.EPROTOTYPE),
        (seqpacket, WrongType, errno.EPROTOTYPE),
    ],
)
@pytest.mark.parametrize("options", [{}, {"timeout": 1.0}, {"bind": "auto"}])
def test_what_does_not_listen_is_an_error_of_its_own_and_leaves_nothing(
    path, make_socket, temporary, there, error, number, options
):
    there(path, make_socket)
    files, fds = sorted(os.listdir(temporary)), open_fds()
    with pytest.raises(error) as caught:
        connect(path, **options)
    assert (caught.value.stage, caught.value.errno, caught.value.code) == (Stage.CONNECT, number, -4)
    assert caught.value.filename == str(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert (sorted(os.listdir(temporary)), open_fds()) == (files, fds)


@pytest.mark.parametrize("where", [lambda directory: directory / "s", lambda directory: long_path(directory)])
@pytest.mark.parametrize(
    ("there", "hint"),
    [
        (regular_file, "a regular file is there, and no socket; is the path right?"),
        (directory_there, "a directory is there, and no socket; is the path right?"),
        (fifo, "a FIFO is there, and no socket; is the path right?"),
    ],
)
def test_what_is_no_socket_is_said_to_be_none(directory, make_socket, where, there, hint):
    path = where(directory)
    there(path, make_socket)
    link = directory / "link"
    link.symlink_to(path)
    for each in (path, link):
        with pytest.raises(Refused) as caught:
            connect(each)
        assert caught.value.hint == hint


def test_a_stale_one_is_shown_by_the_command_in_the_hint(stale):
    with pytest.raises(Refused) as caught:
        connect(stale)
    assert caught.value.hint == f"nothing listens there; see why: udslab status {stale}"


def test_a_missing_directory_is_no_such_path(path):
    with pytest.raises(NoSuchPath) as caught:
        connect(path / "missing" / "s")
    assert (caught.value.stage, caught.value.errno) == (Stage.CONNECT, errno.ENOENT)


def test_a_file_on_the_way_is_no_such_path(path):
    path.touch()
    with pytest.raises(NoSuchPath) as caught:
        connect(path / "s")
    assert caught.value.errno == errno.ENOTDIR


@pytest.mark.parametrize(
    ("server", "client"), [(STREAM, "seqpacket"), (STREAM, "dgram"), (SEQPACKET, "dgram"), (DGRAM, "seqpacket")]
)
def test_another_type_at_the_other_end_is_the_wrong_type(path, make_socket, server, client):
    make_socket(path, server, backlog=None if server == DGRAM else 1)
    with pytest.raises(WrongType, match="of another type"):
        connect(path, type=client)


def test_an_unknown_type_is_refused(path):
    with pytest.raises(ValueError, match="raw"):
        connect(path, type="raw")


def test_a_socket_that_may_not_be_written_is_denied(public, path, make_socket, as_nobody):
    make_socket(path, backlog=5)
    path.chmod(0o755)
    source = """
import sys, udslab
try:
    udslab.connect(sys.argv[1])
except udslab.AccessDenied as error:
    print(error)
"""
    done = as_nobody(source, path, directory=public)
    assert done.stdout.startswith(f"connect: {path}: Permission denied (EACCES): ")
    assert "write permission on the socket file" in done.stdout
    path.chmod(0o722)
    assert as_nobody("import sys, udslab; udslab.connect(sys.argv[1]).close()", path, directory=public).returncode == 0


def test_a_directory_that_may_not_be_searched_is_denied(public, make_socket, as_nobody):
    closed = public / "closed"
    closed.mkdir(0o700)
    make_socket(closed / "s", backlog=5)
    (closed / "s").chmod(0o777)
    done = as_nobody("import sys, udslab; udslab.connect(sys.argv[1])", closed / "s", directory=public)
    assert "AccessDenied: connect: " in done.stderr


def test_a_symbolic_link_is_followed(path, directory, make_socket):
    make_socket(path, backlog=5)
    (directory / "link").symlink_to("s")
    with connect(directory / "link") as connection:
        assert connection.getpeername() == str(path)


def test_connecting_to_nothing_at_all_is_an_error(path):
    with pytest.raises(UdsError) as caught:
        connect(Address.unnamed())
    assert (caught.value.stage, caught.value.errno) == (Stage.CONNECT, errno.EINVAL)


# Paths that do not fit


@pytest.mark.parametrize("size", [108, 109, 200, 2000])
def test_a_path_of_any_length_is_connected_to(directory, sockets, size):
    path = long_path(directory, size)
    assert len(os.fsencode(path)) == size
    listener = sockets.enter_context(listen(path, long_path="alias"))
    client = sockets.enter_context(connect(path, timeout=1))
    server = sockets.enter_context(listener.accept())
    client.sendall(b"x")
    assert server.recv(2) == b"x"


def test_an_over_long_path_of_a_foreign_server_and_through_a_link(directory, make_socket):
    path = long_path(directory)
    here = os.open(path.parent, os.O_PATH)
    try:
        make_socket(f"/proc/self/fd/{here}/{path.name}", backlog=5)
    finally:
        os.close(here)
    fds = open_fds()
    connect(path).close()
    link = path.parent / ("l" * 60)
    link.symlink_to(path)
    connect(link).close()
    assert open_fds() == fds


@pytest.mark.parametrize(
    ("there", "error"),
    [
        (nothing, NoSuchPath),
        (regular_file, Refused),
        (directory_there, Refused),
        (dangling_link, NoSuchPath),
    ],
)
def test_what_does_not_listen_at_an_over_long_path_is_the_same_error(directory, make_socket, there, error):
    path = long_path(directory)
    there(path, make_socket)
    fds = open_fds()
    with pytest.raises(error) as caught:
        connect(path)
    assert (caught.value.stage, caught.value.filename) == (Stage.CONNECT, str(path))
    assert open_fds() == fds


def test_a_path_that_is_too_long_for_any_file_is_an_error():
    with pytest.raises(UdsError) as caught:
        connect("/tmp/" + "d/" * 2500)
    assert (caught.value.stage, caught.value.errno) == (Stage.CONNECT, errno.ENAMETOOLONG)


def test_an_abstract_name_that_does_not_fit_is_an_address_error():
    with pytest.raises(AddressError, match="108 bytes"):
        connect("@" + "x" * 108)


# Waiting for a full backlog


@pytest.fixture
def full(path, make_socket):
    """A server whose backlog is full."""
    server = make_socket(path, backlog=0)
    make_socket().connect(str(path))
    return server


@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_a_full_backlog_times_out_at_the_limit_and_not_at_once(path, full, limit):
    fds = open_fds()
    began = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        connect(path, timeout=limit)
    assert limit * 0.95 <= time.monotonic() - began < limit + 20
    assert (caught.value.stage, caught.value.errno) == (Stage.CONNECT, errno.ETIMEDOUT)
    assert caught.value.filename == str(path)
    assert "backlog is full" in str(caught.value)
    assert f"within {limit:g} s" in str(caught.value)
    assert open_fds() == fds


def test_a_limit_of_nothing_is_a_single_try(path, full):
    began = time.monotonic()
    with pytest.raises(TimedOut):
        connect(path, timeout=0)
    assert time.monotonic() - began < 10


def test_with_room_a_limit_of_nothing_suffices(path, make_socket):
    make_socket(path, backlog=1)
    connect(path, timeout=0).close()


@pytest.mark.parametrize("limit", [None, 30.0, float("inf")])
def test_a_full_backlog_is_waited_for(path, full, sockets, limit):
    connected = []
    waiting = threading.Thread(target=lambda: connected.append(connect(path, timeout=limit)))
    waiting.start()
    sockets.enter_context(full.accept()[0])
    waiting.join()
    client = sockets.enter_context(connected[0])
    server = sockets.enter_context(full.accept()[0])
    client.sendall(b"x")
    assert server.recv(2) == b"x"


def test_the_limit_is_for_connecting_alone(path, make_socket, sockets):
    server = make_socket(path, backlog=1)
    client = sockets.enter_context(connect(path, timeout=0.05))
    accepted = sockets.enter_context(server.accept()[0])
    assert client.gettimeout() is None
    timeouts = [client.getsockopt(socket.SOL_SOCKET, option, 16) for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO)]
    assert timeouts == [bytes(16)] * 2

    # A write that has to wait for longer than the limit.
    size = 1 << 20
    sending = threading.Thread(target=client.sendall, args=(bytes(size),))
    sending.start()
    sending.join(0.15)
    assert sending.is_alive()
    received = 0
    while received < size:
        received += len(accepted.recv(1 << 16))
    sending.join()


def test_the_default_timeout_of_the_socket_module_does_not_matter(path, full, sockets):
    socket.setdefaulttimeout(10.0)
    try:
        with pytest.raises(TimedOut):  # by settimeout() it would be EAGAIN, and at once
            connect(path, timeout=0.1)
        sockets.enter_context(full.accept()[0])
        assert sockets.enter_context(connect(path)).gettimeout() is None
    finally:
        socket.setdefaulttimeout(None)


class Signals:
    """Interrupts the main thread by a signal again and again."""

    def __init__(self) -> None:
        self.count = 0
        self.many = threading.Event()
        self._stop = threading.Event()
        self._main = threading.main_thread().ident

    def _handle(self, number, frame):
        self.count += 1
        if self.count >= 20:
            self.many.set()

    def _run(self):
        while not self._stop.wait(0.0005):
            signal.pthread_kill(self._main, signal.SIGUSR1)

    def __enter__(self):
        self._before = signal.signal(signal.SIGUSR1, self._handle)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._before)


@pytest.mark.parametrize("limit", [None, 30.0])
def test_a_connect_that_signals_interrupt_really_connects_once_there_is_room(path, full, sockets, limit):
    accepted = []

    def make_room():
        assert signals.many.wait(30)
        accepted.extend(full.accept()[0] for _ in range(2))

    with Signals() as signals:
        room = threading.Thread(target=make_room)
        room.start()
        client = sockets.enter_context(connect(path, timeout=limit))
        assert signals.many.is_set()  # it was interrupted before there was room
        room.join()
    for connection in accepted:
        sockets.enter_context(connection)
    client.sendall(b"really")
    assert accepted[1].recv(10) == b"really"


def test_signals_do_not_make_the_limit_longer(path, full):
    began = time.monotonic()
    with Signals() as signals, pytest.raises(TimedOut):
        connect(path, timeout=0.3)
    assert signals.count > 2  # hundreds; but the machine may be busy
    assert 0.28 <= time.monotonic() - began < 20


def test_what_a_signal_handler_raises_ends_the_waiting_and_leaves_nothing(path, full, temporary):
    class Enough(Exception):
        pass

    def interrupt(number, frame):
        told.set()
        raise Enough

    def send():
        told.wait(0.05)
        while True:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            if told.wait(5):  # of one that came just before it began to wait Python's handler is not told
                break

    told = threading.Event()
    files, fds = os.listdir(temporary), open_fds()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        sender = threading.Thread(target=send)
        with pytest.raises(Enough):
            sender.start()
            connect(path, bind="auto")
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (os.listdir(temporary), open_fds()) == (files, fds)


# A file of one's own


def test_bind_auto_makes_a_private_unguessable_file_and_removes_it(path, temporary, sockets):
    listener = sockets.enter_context(listen(path))
    before = os.umask(0)
    try:
        clients = [connect(path, bind="auto") for _ in range(2)]
    finally:
        os.umask(before)
    names = set(os.listdir(temporary)) - {path.name}
    assert len(names) == 2
    for client in clients:
        accepted = sockets.enter_context(listener.accept())
        own = Path(client.getsockname())
        assert accepted.getpeername() == str(own)
        assert own.parent == temporary
        assert re.fullmatch(r"\.udslab-[0-9a-f]{16}", own.name)
        info = own.lstat()
        assert stat.S_ISSOCK(info.st_mode)
        assert stat.S_IMODE(info.st_mode) == 0o700
        client.close()
        assert not own.exists()
    assert os.listdir(temporary) == [path.name]


def test_bind_auto_goes_elsewhere_where_the_directory_for_temporary_files_is_too_long(path, temporary, make_socket):
    make_socket(path, backlog=1)
    deep = long_path(temporary, 150).parent
    tempfile.tempdir = str(deep)  # put back by the fixture
    with connect(path, bind="auto") as client:
        own = Path(client.getsockname())
        assert own.parent == Path("/tmp")
        assert stat.S_IMODE(own.lstat().st_mode) == 0o700
    assert not own.exists()


def test_bind_to_a_path(path, directory, sockets):
    own = directory / "client"
    listener = sockets.enter_context(listen(path))
    with connect(path, bind=own) as client:
        assert sockets.enter_context(listener.accept()).peer_address == Address.parse(own)
        assert client.file is not None
        assert client.file.present
    assert not own.exists()


def test_a_path_called_auto_is_a_path(path, directory, make_socket, monkeypatch):
    make_socket(path, backlog=1)
    monkeypatch.chdir(directory)
    with connect(path, bind=Path("auto")):
        assert stat.S_ISSOCK(os.lstat("auto").st_mode)
    assert not os.path.lexists("auto")


def test_bind_to_an_abstract_name(path, sockets):
    listener = sockets.enter_context(listen(path))
    name = b"@udslab test " + os.urandom(8)
    sockets.enter_context(connect(path, bind=name))
    assert sockets.enter_context(listener.accept()).peer_address == Address.parse(name)


@pytest.mark.parametrize("there", [regular_file, stale_file, bound, directory_there, dangling_link])
def test_what_is_at_the_clients_own_path_is_kept(path, directory, make_socket, there):
    make_socket(path, backlog=1)
    own = directory / "client"
    there(own, make_socket)
    before = own.lstat()
    with pytest.raises(AddressInUse) as caught:
        connect(path, bind=own)
    assert (caught.value.stage, caught.value.code, caught.value.filename) == (Stage.BIND, -2, str(own))
    assert own.lstat() == before


def test_a_clients_own_path_that_does_not_fit_is_an_address_error(path, directory, make_socket):
    make_socket(path, backlog=1)
    fds = open_fds()
    with pytest.raises(AddressError, match="bytes long"):
        connect(path, bind=long_path(directory))
    assert open_fds() == fds


def test_a_clients_own_path_in_no_directory_is_an_error_of_the_stage_bind(path, directory, make_socket):
    make_socket(path, backlog=1)
    with pytest.raises(NoSuchPath) as caught:
        connect(path, bind=directory / "missing" / "client")
    assert caught.value.stage is Stage.BIND


def replace_by_file(own, directory):
    own.unlink()
    own.write_text("precious")


def replace_by_socket(own, directory):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "other"))
    (directory / "other").rename(own)


def replace_by_link(own, directory):
    own.rename(directory / "moved")
    own.symlink_to("moved")


@pytest.mark.parametrize("replace", [replace_by_file, replace_by_socket, replace_by_link])
def test_what_has_been_put_at_the_clients_path_meanwhile_is_not_removed(path, directory, make_socket, replace):
    make_socket(path, backlog=1)
    own = directory / "client"
    client = connect(path, bind=own)
    replace(own, directory)
    before = own.lstat()
    client.close()
    assert own.lstat() == before


def test_a_client_whose_file_was_removed_closes_in_peace(path, directory, make_socket):
    make_socket(path, backlog=1)
    client = connect(path, bind=directory / "client")
    (directory / "client").unlink()
    client.close()
    assert client.fileno() == -1


def test_a_forked_child_does_not_remove_the_file(path, directory, environment):
    source = """
import os, sys, udslab
with udslab.listen(sys.argv[1]), udslab.connect(sys.argv[1], bind=sys.argv[2]) as client:
    if os.fork() == 0:
        client.close()
        os._exit(0)
    os.wait()
    print(os.path.exists(sys.argv[2]))
print(os.path.exists(sys.argv[2]))
"""
    done = subprocess.run(
        [sys.executable, "-c", source, path, directory / "client"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True\nFalse\n", done.stderr


def test_detaching_leaves_the_file_to_the_new_owner(path, directory, make_socket):
    make_socket(path, backlog=1)
    own = directory / "client"
    client = connect(path, bind=own)
    with socket.socket(fileno=client.detach()) as plain:
        assert plain.getsockname() == str(own)
    assert own.exists()


# Whole lines and exact reads


@pytest.fixture
def trickle(pair, sockets):
    """Sends bytes to the connection one at a time, each when the one before has been taken."""

    def start(data, then=None):
        def run():
            for number in range(len(data)):
                other.send(data[number : number + 1])
                while not done.is_set() and fcntl.ioctl(other, termios.TIOCOUTQ, bytes(4)) != bytes(4):
                    os.sched_yield()
            if then is not None:
                then(other)

        thread = threading.Thread(target=run)
        thread.start()
        sockets.callback(thread.join)
        sockets.callback(done.set)

    done = threading.Event()
    connection, other = pair
    return connection, start


def end(sock):
    sock.shutdown(socket.SHUT_WR)


def test_lines_that_arrive_byte_by_byte(trickle):
    connection, start = trickle
    start(b"one\n\ntwo\r\n\xff\0\n", then=end)
    lines = []
    while not lines or lines[-1]:
        lines.append(connection.read_line())
    assert lines == [b"one\n", b"\n", b"two\r\n", b"\xff\0\n", b""]


def test_an_exact_read_of_what_arrives_byte_by_byte(trickle):
    connection, start = trickle
    start(b"0123456789", then=end)
    assert [connection.read_exactly(size) for size in (3, 0, 7)] == [b"012", b"", b"3456789"]
    with pytest.raises(PeerGone):
        connection.read_exactly(1)


def test_nothing_behind_the_newline_is_taken(pair):
    connection, other = pair
    other.sendall(b"one\ntwo\nrest")
    assert connection.read_line() == b"one\n"
    assert connection.recv(4) == b"two\n"
    assert connection.recv(100) == b"rest"


def test_descriptors_behind_the_newline_are_still_there(pair, sockets):
    connection, other = pair
    other.sendall(b"take this\n")
    with open(os.devnull) as file:
        socket.send_fds(other, [b"x"], [file.fileno()])
    assert connection.read_line() == b"take this\n"
    data, fds = connection.recv_fds(1, 1)
    assert (data, len(fds)) == (b"x", 1)
    os.close(fds[0])


def test_a_line_of_five_megabytes(pair, sockets):
    connection, other = pair
    line = os.urandom(5_000_000).replace(b"\n", b" ") + b"\n"
    sending = threading.Thread(target=other.sendall, args=(line + b"next\n",))
    sending.start()
    assert connection.read_line() == line
    assert connection.read_line() == b"next\n"
    sending.join()


def test_the_end_of_file_between_lines_is_no_line(pair):
    connection, other = pair
    other.close()
    assert connection.read_line() == b""
    assert connection.read_line() == b""


def test_the_end_of_file_in_mid_line_is_an_error_with_what_had_come(pair):
    connection, other = pair
    other.sendall(b"half")
    other.close()
    with pytest.raises(PeerGone, match="mid-line, after 4 bytes") as caught:
        connection.read_line()
    assert (caught.value.stage, caught.value.errno) == (Stage.RECEIVE, errno.ECONNRESET)


def test_the_end_of_file_in_an_exact_read_is_an_error_with_what_had_come(pair):
    connection, other = pair
    other.sendall(b"half")
    other.close()
    with pytest.raises(PeerGone, match="after 4 of 5 bytes"):
        connection.read_exactly(5)


def test_a_line_past_the_limit_is_an_error(pair):
    connection, other = pair
    other.sendall(b"1234\n12345\n")
    assert connection.read_line(limit=5) == b"1234\n"
    with pytest.raises(UdsError, match="longer than 5 bytes") as caught:
        connection.read_line(limit=5)
    assert caught.value.errno == errno.EMSGSIZE


def test_an_endless_line_is_an_error_at_the_limit(pair):
    connection, other = pair

    def babble():
        with contextlib.suppress(OSError):
            while True:
                other.send(b"x" * 10_000)

    babbling = threading.Thread(target=babble)
    babbling.start()
    with pytest.raises(UdsError, match="longer than 100000 bytes"):
        connection.read_line(limit=100_000)
    connection.close()
    babbling.join()


# Descriptors


def test_descriptors_arrive_close_on_exec_and_are_the_same_files(pair):
    connection, other = pair
    with Connection.adopt(other) as sender, open(os.devnull) as null, open("/dev/zero") as zero:
        assert sender.send_fds(b"take", [null.fileno(), zero.fileno()]) == 4
        data, fds = connection.recv_fds(100, 2)
        assert data == b"take"
        assert [os.fstat(fd).st_rdev for fd in fds] == [os.fstat(file.fileno()).st_rdev for file in (null, zero)]
        assert not any(map(os.get_inheritable, fds))
        assert not {null.fileno(), zero.fileno()} & set(fds)
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize(("sent", "most"), [(1, 0), (2, 1), (3, 1), (3, 2), (4, 2), (253, 10)])
def test_too_many_descriptors_are_an_error_and_none_is_left_open(pair, sent, most):
    connection, other = pair
    with open(os.devnull) as file:
        socket.send_fds(other, [b"x"], [file.fileno()] * sent)
    fds = open_fds()
    with pytest.raises(UdsError, match=f"more than {most} descriptors") as caught:
        connection.recv_fds(10, most)
    assert (caught.value.stage, caught.value.errno) == (Stage.RECEIVE, errno.EMSGSIZE)
    assert open_fds() == fds


@pytest.mark.parametrize(("sent", "most"), [(0, 0), (0, 5), (1, 5), (5, 5), (253, 253)])
def test_as_many_descriptors_as_are_expected_or_fewer(pair, sent, most):
    connection, other = pair
    fds = open_fds()
    with Connection.adopt(other) as sender, open(os.devnull) as file:
        sender.send_fds(b"x", [file.fileno()] * sent)
    data, received = connection.recv_fds(10, most)
    assert (data, len(received)) == (b"x", sent)
    for fd in received:
        os.close(fd)
    # The other end was closed above.
    assert open_fds() == fds - 1
    assert connection.recv_fds(10, most) == (b"", [])


# Who is there


CONNECT_AND_SAY = "import sys, udslab; c = udslab.connect(sys.argv[1]); c.send(b'x'); sys.stdin.read()"


@pytest.fixture
def caller(path, sockets, environment):
    """A connection from another process, and that process."""
    listener = sockets.enter_context(listen(path))
    process = subprocess.Popen([sys.executable, "-c", CONNECT_AND_SAY, path], env=environment, stdin=subprocess.PIPE)
    sockets.enter_context(process)
    sockets.callback(process.kill)
    connection = sockets.enter_context(listener.accept())
    assert connection.recv(1) == b"x"
    return connection, process


def test_credentials_are_the_other_processes(caller):
    connection, process = caller
    assert connection.credentials == Credentials(process.pid, os.geteuid(), os.getegid())
    assert not connection.credentials.foreign


def test_credentials_of_a_process_that_has_exited_are_what_they_were(caller):
    connection, process = caller
    process.communicate(b"")
    assert connection.credentials == Credentials(process.pid, os.geteuid(), os.getegid())


def test_a_client_sees_who_listened(path, make_socket):
    make_socket(path, backlog=1)
    with connect(path) as client:
        assert client.credentials == Credentials(os.getpid(), os.geteuid(), os.getegid())


def test_a_socket_that_was_never_connected_has_no_credentials(make_socket, path):
    make_socket(path, DGRAM)
    with connect(path, type="dgram") as client, pytest.raises(Unsupported, match="no peer"):
        client.credentials  # noqa: B018 - a property


def test_credentials_of_another_user(public, path, sockets, as_nobody):
    listener = sockets.enter_context(listen(path, mode=0o777))
    as_nobody("import sys, udslab; udslab.connect(sys.argv[1])", path, directory=public)
    credentials = sockets.enter_context(listener.accept()).credentials
    assert (credentials.uid, credentials.gid) == (65534, 65534)
    assert credentials.unmapped
    assert "nobody, or of another user namespace" in str(credentials)


def wait_ready(fd, timeout):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


@pytest.mark.skipif(KERNEL < (6, 5), reason=f"SO_PEERPIDFD came with Linux 6.5, and this is {platform.release()}")
def test_a_pidfd_is_the_processes_itself_and_tells_when_it_ends(caller):
    connection, process = caller
    pidfd = connection.pidfd()
    assert pidfd is not None
    try:
        assert not os.get_inheritable(pidfd)
        with open(f"/proc/self/fdinfo/{pidfd}") as info:
            assert f"Pid:\t{process.pid}\n" in info.read()
        assert not wait_ready(pidfd, 0)
        process.kill()
        assert wait_ready(pidfd, 30)
    finally:
        os.close(pidfd)


def test_a_pidfd_of_a_process_that_has_gone_is_none_or_has_ended(caller):
    connection, process = caller
    process.communicate(b"")
    pidfd = connection.pidfd()
    if pidfd is not None:  # Linux 6.16
        assert wait_ready(pidfd, 0)
        os.close(pidfd)


@pytest.mark.skipif(KERNEL >= (6, 5), reason=f"Linux {platform.release()} has SO_PEERPIDFD")
def test_without_the_kernels_help_there_is_no_pidfd(caller):
    connection, _ = caller
    assert connection.pidfd() is None


@pytest.fixture
def serve_in(path, environment, sockets):
    """Starts `udslab serve --service whoami` in namespaces (`unshare` options)."""

    def start(*options):
        if subprocess.run(["unshare", *options, "true"], capture_output=True).returncode != 0:
            pytest.skip(f"needs permission for unshare {' '.join(options)}")
        command = ["unshare", *options, sys.executable, "-m", "udslab", "serve", "--service", "whoami", path]
        process = sockets.enter_context(Process(command, env=environment))
        sockets.callback(process.kill)  # unshare --fork does not pass SIGTERM on
        process.wait_serving(path)

    return start


def test_a_client_outside_the_pid_namespace_has_pid_0_and_it_is_said_what_that_means(path, serve_in):
    serve_in("--pid", "--fork", "--kill-child")
    with connect(path) as client:
        answer = client.read_line().decode()
        # The other way the kernel has a number.
        assert client.credentials.pid > 1
    assert answer.startswith(f"pid 0 (in another pid namespace) uid {os.geteuid()} ")


def test_a_client_outside_the_user_namespace_has_uid_65534_and_it_is_said_what_that_means(path, serve_in):
    serve_in("--user")
    with connect(path) as client:
        answer = client.read_line().decode()
        assert client.credentials.uid == os.geteuid()
    assert answer.startswith(f"pid {os.getpid()} uid 65534 (nobody, or of another user namespace) gid 65534 ")


@pytest.mark.parametrize(
    ("credentials", "text"),
    [
        (Credentials(7, 1000, 100), "pid 7 uid 1000 gid 100"),
        (Credentials(0, 1000, 100), "pid 0 (in another pid namespace) uid 1000 gid 100"),
        (Credentials(7, 65534, 65534), "pid 7 uid 65534 (nobody, or of another user namespace) gid 65534"),
    ],
)
def test_credentials_as_text(credentials, text):
    assert str(credentials) == text
    assert credentials.foreign is (credentials.pid == 0)
    assert credentials.unmapped is (credentials.uid == 65534)
