"""The lab on this host, without pytest: what it makes is there, does as it is told, and goes with its block."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import socket
import stat
import sys
import threading

import pytest

import udslab
from udslab import AddressError, AddressInUse, Refused, TimedOut, Unsupported
from udslab.backends import Backend
from udslab.errors import AgentGone, Stage
from udslab.lab import Lab, Options
from udslab.obstacles import Obstacle
from udslab.services import per_chunk
from udslab.socktype import SocketType
from udslab.testing import assert_gone, assert_serving, assert_stale

LIMIT = 30.0
HERE = ["thread", "process"]
TYPES = ["stream", "datagram", "seqpacket"]


def assert_empty(path):
    """The directory of a path that was given back holds nothing; it may be kept for the next."""
    directory = os.path.dirname(path)
    assert not os.path.exists(directory) or os.listdir(directory) == []


@pytest.fixture
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture(params=HERE)
def backend(request):
    return request.param


def ask(lab, server, data, size=None):
    """What a new client is answered, and the client's pid as the server's record has it is this one's."""
    with lab.connect(server.address, type=server.type, timeout=LIMIT) as client:
        client.sendall(data)
        return client.recv(size or len(data))


def record(server):
    return [(one.number, one.received, one.open) for one in server.connections]


def seen(server, wanted):
    """What is recorded, once that is as wanted: a thread of the server's takes in the end of a client."""
    for _ in range(2000):
        if record(server) == wanted:
            break
        select.select([], [], [], 0.005)  # nothing tells
    return record(server)


# Servers


@pytest.mark.parametrize("type", TYPES)
def test_a_server_serves_in_its_block_and_has_gone_after_it(lab, backend, type):
    with lab.server(backend=backend, type=type) as server:
        assert_serving(server.path)
        assert ask(lab, server, b"hello") == b"HELLO"
        assert (server.backend, server.type, server.status().serving) == (backend, SocketType(type), True)
    assert_gone(server.path)
    assert_empty(server.path)


def test_a_server_in_a_thread_is_of_this_process_and_one_in_a_process_is_not(lab):
    with lab.server(backend="thread") as here, lab.server(backend="process") as there:
        assert here.pid == os.getpid() != there.pid
        assert os.path.exists(f"/proc/{there.pid}")
        for server in (here, there):
            with lab.connect(server.address) as client:
                assert client.credentials.pid == server.pid


def test_the_backend_is_that_of_the_options_unless_one_is_given():
    with Lab(Options(Backend.PROCESS)) as lab:
        with lab.server() as server:
            assert server.backend == "process"
        with lab.server(backend="thread") as server:
            assert server.backend == "thread"


def test_a_server_is_told_whom_it_has_served_and_what_it_has_received(lab, backend):
    with lab.server("echo", backend=backend) as server:
        assert (server.connections, server.received) == ([], b"")
        with lab.connect(server.address) as first, lab.connect(server.address) as second:
            second.sendall(b"second")
            assert second.recv(6) == b"second"
            first.sendall(b"first")
            assert first.recv(5) == b"first"
            assert {one.credentials.pid for one in server.connections} == {os.getpid()}
            assert record(server) == [(1, b"first", True), (2, b"second", True)]
            assert server.received == b"firstsecond"
        ended = [(1, b"first", False), (2, b"second", False)]
        assert seen(server, ended) == ended


def test_what_is_not_answered_is_received_too(lab, backend):
    with lab.server("discard", backend=backend) as server, lab.connect(server.address) as client:
        client.sendall(b"never answered")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert record(server) == [(1, b"never answered", False)]


def test_each_datagram_is_one_of_its_connections(lab, backend):
    with lab.server("echo", type="datagram", backend=backend) as server:
        assert [ask(lab, server, data) for data in (b"a", b"bc")] == [b"a", b"bc"]
        assert [one.received for one in server.connections] == [b"a", b"bc"]


@pytest.mark.parametrize("type", TYPES)
def test_a_restart_serves_anew_at_the_same_path_and_keeps_what_was_received(lab, backend, type):
    with lab.server("echo", backend=backend, type=type, mode=0o640) as server:
        path, pid = server.path, server.pid
        assert ask(lab, server, b"before") == b"before"
        server.restart()
        assert (server.path, server.pid == pid) == (path, backend == "thread")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        assert server.received == b"before"
        assert ask(lab, server, b"after") == b"after"
        assert server.received == b"beforeafter"
        server.restart()
        assert [one.received for one in server.connections] == [b"before", b"after"]
    assert_gone(path)


def test_a_restart_ends_the_connections(lab, backend):
    with lab.server("echo", backend=backend) as server, lab.connect(server.address) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        server.restart()
        assert client.recv(1) == b""
        assert [one.received for one in server.connections] == [b"x"]


def test_after_a_stop_its_file_is_gone_and_its_record_is_not_and_it_may_be_stopped_again(lab, backend):
    with lab.server("echo", backend=backend) as server:
        ask(lab, server, b"x")
        server.stop()
        assert_gone(server.path)
        server.stop()
        assert server.received == b"x"
        server.restart()
        assert ask(lab, server, b"y") == b"y"
        assert server.received == b"xy"


def _fail(data):
    raise RuntimeError("no answer")


fails = per_chunk(_fail)


@pytest.mark.parametrize("type", TYPES)
def test_what_a_server_says_is_in_its_log_and_in_no_other(lab, backend, type, caplog):
    caplog.set_level(logging.DEBUG)
    with lab.server(f"{__name__}:fails", backend=backend, type=type) as server, lab.connect(server) as client:
        client.send(b"x")
        for _ in range(2000):
            if "RuntimeError: no answer" in server.log():
                break
            select.select([], [], [], 0.005)  # nothing tells
        lines = server.log().splitlines()
    assert re.fullmatch(r"udslab: (client 1: |datagram of 1 bytes from )pid \d+ uid \d+ gid \d+.*", lines[0])
    assert re.fullmatch("udslab: .*the service failed.*", lines[1])
    assert caplog.messages == []


def test_a_relative_path_is_one_in_the_directory_in_which_the_server_was_made(lab, backend, directory, monkeypatch):
    monkeypatch.chdir(directory)
    with lab.server("echo", "here", backend=backend) as server:
        monkeypatch.chdir("/")
        assert server.path == str(directory / "here")
        assert server.status().serving
        server.restart()
        assert ask(lab, server, b"x") == b"x"
        assert_serving(directory / "here")


def test_a_relative_path_of_which_the_whole_does_not_fit_is_left_as_it_is(lab, backend, directory, monkeypatch):
    deep = directory / ("d" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    with lab.server("echo", "here", backend=backend) as server:
        assert server.path == "here"
        assert ask(lab, server, b"x") == b"x"


def test_a_restart_that_fails_leaves_what_was_received_and_nothing_to_end(lab, backend):
    with lab.server("echo", backend=backend) as server:
        ask(lab, server, b"x")
        server.stop()
        with lab.obstacle("regular-file", server.path):
            with pytest.raises(AddressInUse):
                server.restart()
            assert server.received == b"x"
            assert server.log().count("client 1") == 1
            assert server.failures == []
        assert_gone(server.path)


def test_a_killed_server_leaves_its_file_stale_and_its_record_and_may_be_restarted(lab):
    with lab.server("echo", backend="process") as server:
        assert ask(lab, server, b"before") == b"before"
        assert not server.killed
        pid = server.pid
        server.kill()
        assert server.killed
        assert not os.path.exists(f"/proc/{pid}")
        assert_stale(server.path)
        assert server.received == b"before"
        with pytest.raises(Refused), lab.connect(server.path):
            pass
        server.restart()
        assert not server.killed
        assert ask(lab, server, b"after") == b"after"
        assert server.received == b"beforeafter"


def test_what_a_client_has_sent_to_a_server_before_its_death_is_recorded(lab):
    with lab.server("echo", backend="process") as server, lab.connect(server.address) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        server.kill()
        assert client.recv(1) == b""
        assert record(server) == [(1, b"x", True)]  # nobody has seen its end


def test_a_paused_server_listens_and_answers_nobody_until_it_is_resumed(lab):
    with lab.server("echo", backend="process") as server:
        server.pause()
        with lab.connect(server.address, timeout=LIMIT) as client:
            client.sendall(b"x")
            assert not select.select([client], [], [], 0.05)[0]
            assert_serving(server.path)
            assert server.received == b""
            server.resume()
            assert client.recv(1) == b"x"
            assert server.received == b"x"


def test_a_paused_server_can_be_restarted_and_ends_with_its_block(lab):
    with lab.server("echo", backend="process") as server:
        server.pause()
        server.restart()
        assert ask(lab, server, b"x") == b"x"
        server.pause()
        pid = server.pid
    assert not os.path.exists(f"/proc/{pid}")
    assert_gone(server.path)


def test_a_server_is_ended_also_when_its_block_is_left_by_an_error(lab, backend):
    with pytest.raises(KeyError), lab.server(backend=backend) as server:
        raise KeyError
    assert_gone(server.path)


def test_a_server_may_be_at_a_path_of_ones_own(lab, backend, path):
    with lab.server(address=path, backend=backend) as server:
        assert server.path == str(path)
        assert_serving(path)
    assert_gone(path)
    assert path.parent.exists()


def test_an_abstract_server_has_a_name_of_its_own(lab, backend):
    with lab.server(abstract=True, backend=backend) as one, lab.server(abstract=True, backend=backend) as other:
        assert one.path.startswith("@udslab-")
        assert one.path != other.path
        assert ask(lab, one, b"x") == b"X"
    assert_gone(one.path)


@pytest.mark.parametrize("drain", [LIMIT, 0.0])
def test_clients_get_their_answers_at_its_end_if_it_is_drained(lab, backend, drain):
    with contextlib.ExitStack() as exits:
        server = exits.enter_context(lab.server("echo", backend=backend, drain=drain))
        with lab.connect(server.address, timeout=LIMIT) as client:
            sent = 0
            # Until the server takes no more, for nobody reads: more than fits into one buffer, or it is only slow.
            while (room := select.select([], [client], [], 0.05)[1]) or sent <= 1 << 18:
                sent += client.send(bytes(1 << 16), socket.MSG_DONTWAIT) if room else 0
            ending = threading.Thread(target=exits.close)
            ending.start()
            if not drain:
                ending.join(LIMIT)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(1 << 16):
                    received += len(data)
            ending.join(LIMIT)
            assert not ending.is_alive()
            assert (received == sent) == bool(drain)
    assert_gone(server.path)


# Handlers


def test_a_handler_serves_in_a_thread_and_what_it_raises_is_kept_also_after_a_restart(lab):
    def handler(connection):
        data = connection.recv(10)
        connection.sendall(data[::-1])
        if data == b"bad":
            raise RuntimeError("a bad word")

    with lab.server(handler=handler) as server:
        assert ask(lab, server, b"abc") == b"cba"
        assert server.failures == []
        with lab.connect(server.address) as client:
            client.sendall(b"bad")
            assert client.recv(10) == b"dab"
            assert client.recv(10) == b""
        server.restart()
        assert [str(error) for error in server.failures] == ["a bad word"]
        assert ask(lab, server, b"abc") == b"cba"
        assert [str(error) for error in server.failures] == ["a bad word"]
        assert server.log().count("RuntimeError: a bad word") == 1
        assert server.received == b"abcbadabc"


# What is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"backend": "process", "handler": print},
            "service: handler is not to be had in a process: a handler is a function of this process (ENOTSUP): use "
            "the backend thread",
        ),
        (
            {"backend": "container", "handler": print},
            "service: handler is not to be had in a container: a handler is a function of this process (ENOTSUP): use "
            "the backend thread",
        ),
        (
            {"backend": "process", "service": lambda peer: None},
            "service: handler is not to be had in a process: a handler is a function of this process (ENOTSUP): use "
            "the backend thread",
        ),
        (
            {"backend": "container", "abstract": True},
            "service: abstract is not to be had in a container: a container's network namespace has abstract names of "
            "its own (ENOTSUP): use the backend thread or process",
        ),
        (
            {"backend": "container", "address": "@udslab-x"},
            "service: abstract is not to be had in a container: a container's network namespace has abstract names of "
            "its own (ENOTSUP): use the backend thread or process",
        ),
    ],
)
def test_what_a_backend_cannot_do_is_refused_with_what_can(lab, options, text):
    with pytest.raises(Unsupported) as caught, lab.server(**options):
        pass
    assert str(caught.value) == text
    assert caught.value.stage is Stage.SERVICE


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("kill", "kill is not to be had in a thread: a thread cannot be killed"),
        ("pause", "pause is not to be had in a thread: a thread cannot be stopped for a while"),
        ("resume", "pause is not to be had in a thread: a thread cannot be stopped for a while"),
    ],
)
def test_a_server_in_a_thread_is_neither_killed_nor_paused_and_serves_on(lab, method, text):
    with lab.server() as server:
        with pytest.raises(Unsupported) as caught:
            getattr(server, method)()
        assert str(caught.value) == f"service: {text} (ENOTSUP): use the backend process or container"
        assert not server.killed
        assert ask(lab, server, b"x") == b"X"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"handler": print, "service": "echo"}, "a server has a service or a handler, not both"),
        ({"handler": print, "type": "datagram"}, "a handler has a connection, and datagrams have none; give a service"),
    ],
)
def test_what_makes_no_sense_is_a_type_error(lab, options, text):
    with pytest.raises(TypeError) as caught, lab.server(**options):
        pass
    assert str(caught.value) == text


@pytest.mark.parametrize("backend", ["kernel", "Thread"])
def test_a_backend_that_there_is_not_is_an_error(lab, backend):
    with pytest.raises(ValueError, match=backend), lab.server(backend=backend):
        pass
    with pytest.raises(ValueError, match=backend), lab.path(backend=backend):
        pass


def test_a_service_that_there_is_not_is_the_same_error_in_each_backend(lab):
    texts = []
    for backend in HERE:
        with pytest.raises(udslab.ServiceError) as caught, lab.server("no-such", backend=backend):
            pass
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_what_is_in_the_way_is_told_and_is_left(lab, backend):
    with lab.path() as path, lab.obstacle("regular-file", path):
        with pytest.raises(AddressInUse), lab.server(address=path, backend=backend):
            pass
        with open(path) as file:
            assert file.read() == "somebody's work\n"


# Paths


def test_a_path_is_one_where_nothing_is_in_a_private_directory_that_goes_with_all_in_it(lab, backend):
    with lab.path("name.sock", backend=backend) as path:
        assert os.path.basename(path) == "name.sock"
        assert os.listdir(os.path.dirname(path)) == []
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        os.makedirs(path + "/deep/er")
        with lab.path("name.sock", backend=backend) as other:
            assert os.path.dirname(other) != os.path.dirname(path)
    assert_empty(path)


def test_a_path_is_in_an_empty_directory_though_somebody_writes_late_into_the_one_before(lab, backend):
    with lab.path(backend=backend) as before:
        pass
    with open(before + ".log", "w"):
        pass
    with lab.path(backend=backend) as path:
        assert os.listdir(os.path.dirname(path)) == []
    assert_empty(path)


def test_the_directory_has_the_mode_and_group_that_are_asked_for_whatever_the_umask(lab):
    before = os.umask(0o077)
    try:
        with lab.path(mode=0o2751, group=os.getegid()) as path:
            info = os.stat(os.path.dirname(path))
    finally:
        os.umask(before)
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o2751, os.getegid())


def test_another_user_gets_through_to_a_path_that_is_open_to_others(lab, as_nobody, directory):
    source = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(s.recv(4))"
    package = directory / "for-nobody"
    package.mkdir()
    for above in (package, directory, directory.parent):
        above.chmod(0o755)
    with lab.path() as closed, lab.path(mode=0o711) as open_:
        said = {}
        for path in (closed, open_):
            with lab.server(handler=lambda connection: connection.sendall(b"seen"), address=path, mode=0o666):
                said[path] = as_nobody(source, path, directory=package)
        assert said[open_].stdout == "b'seen'\n"
        assert "PermissionError" in said[closed].stderr


@pytest.mark.parametrize("name", ["", "a/b", "/etc/x", ".", "..", "a\0b", "x" * 200])
def test_what_is_no_name_for_a_file_or_too_long_is_refused_and_leaves_nothing(lab, name):
    with lab.path() as path:
        top = os.path.dirname(os.path.dirname(path))
        before = os.listdir(top)
        with pytest.raises(AddressError, match="no path can be made of this name") as caught, lab.path(name):
            pass
        assert caught.value.errno_name == ("ENAMETOOLONG" if len(name) == 200 else "EINVAL")
        assert str(caught.value).isprintable()
        assert os.listdir(top) == before


def test_the_longest_name_that_the_hint_allows_is_taken_and_can_be_served(lab, backend):
    with pytest.raises(AddressError) as caught, lab.path("x" * 200, backend=backend):
        pass
    room = int(caught.value.hint.split()[-2])
    with lab.path("x" * room, backend=backend) as path:
        assert len(path) == 103
        with lab.server(address=path, backend=backend) as server:
            assert ask(lab, server, b"x") == b"X"
    with pytest.raises(AddressError), lab.path("x" * (room + 1), backend=backend):
        pass


def test_a_path_is_short_whatever_the_directory_for_temporary_files(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with Lab() as lab, lab.path() as path, lab.server(address=path) as server:
        assert not path.startswith(str(deep))
        assert ask(lab, server, b"x") == b"X"
    assert not os.path.exists(path)


# Clients


@pytest.mark.parametrize("type", TYPES)
def test_a_client_is_connected_in_its_block_and_closed_after_it(lab, type):
    with lab.server("echo", type=type) as server:
        with lab.connect(server.path, type=type) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert client.fileno() == -1
        assert os.listdir(os.path.dirname(server.path)) == [
            os.path.basename(server.path)
        ]  # the file of a datagram client's own has gone


def test_a_clients_timeout_is_that_of_each_call(lab):
    with lab.server("discard") as server, lab.connect(server.path, timeout=0.01) as client:
        assert client.gettimeout() == 0.01
        with pytest.raises(socket.timeout):
            client.recv(1)
    with lab.server("discard") as server, lab.connect(server.path, timeout=None) as client:
        assert client.gettimeout() is None


@pytest.mark.parametrize("type", TYPES)
def test_a_client_is_connected_to_a_server_by_the_server(lab, type):
    with lab.server("echo", type=type) as server, lab.connect(server) as client:
        client.send(b"x")
        assert client.recv(10) == b"x"


def test_a_client_is_connected_to_a_process_and_to_an_obstacle_by_them(lab):
    source = "import socket, sys; s = socket.socket(1); s.bind(sys.argv[1]); s.listen(); s.accept()[0].send(b'x')"
    mine = [sys.executable, "-c", source, "{socket}"]
    with lab.process(mine, expect_left=True) as process, lab.connect(process) as client:
        assert client.recv(10) == b"x"
    with lab.obstacle("stale") as obstacle, pytest.raises(Refused), lab.connect(obstacle):
        pass


def test_connecting_to_a_full_backlog_ends_after_the_timeout(lab, path):
    with (
        udslab.listen(path, backlog=0),
        lab.connect(path),
        pytest.raises(TimedOut),
        lab.connect(path, timeout=0.01),
    ):
        pass


def test_a_client_may_have_a_name_of_its_own(lab, backend, directory):
    with lab.server("echo", backend=backend) as server, lab.connect(server.path, bind=directory / "me") as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert [one.address for one in server.connections] == [str(directory / "me")]
    assert not (directory / "me").exists()


# Obstacles


@pytest.mark.parametrize("kind", list(Obstacle), ids=str)
def test_an_obstacle_is_in_the_way_in_its_block_and_has_gone_after_it(lab, kind):
    if kind is Obstacle.NO_PERMISSION and os.geteuid() == 0:
        with pytest.raises(Unsupported, match="root has every permission"), lab.obstacle(kind):
            pass
        return
    with lab.obstacle(kind) as placed:
        assert placed.kind is kind
        assert os.path.lexists(placed.path) == (kind not in (Obstacle.MISSING_PARENT, Obstacle.NO_PERMISSION))
        if kind is Obstacle.STALE:
            assert_stale(placed.path)
        with pytest.raises(OSError), lab.connect(placed.path, timeout=0.01) as client:
            client.sendall(b"x")
            client.recv(1)  # of the listener, which accepts nobody
    assert not os.path.lexists(placed.path)


# The lab itself


def test_nothing_is_started_that_is_not_asked_for(lab):
    before = threads(), children(), held()
    with lab.path() as path, lab.server(address=path) as server:
        ask(lab, server, b"x")
        assert children() == before[1]
    with lab.obstacle("stale"):
        pass
    assert (threads() - before[0], children()) == (set(), before[1])


def threads():
    return {thread.name for thread in threading.enumerate()}


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def held():
    """Its descriptors but the one by which they are listed, and those of inotify, which are kept."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:inotify":
                found.add(fd)
    return found


def test_after_its_end_nothing_of_it_is_left():
    before = threads(), children(), held()
    with Lab() as lab:
        lab.prepare("process")
        with lab.server(backend="process") as server, lab.server() as other, lab.connect(server.path) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"X"
            assert ask(lab, other, b"x") == b"X"
            directory = os.path.dirname(os.path.dirname(server.path))
        assert len(children()) == len(before[1]) + 1
        assert os.path.isdir(directory)
    assert (threads() - before[0], children(), held() - before[2]) == (set(), before[1], set())
    assert not os.path.exists(os.path.dirname(directory))


def test_prepare_starts_one_zygote_and_keeps_it(lab):
    before = children()
    lab.prepare("thread")
    assert children() == before
    lab.prepare("process")
    (zygote,) = set(children()) - set(before)
    lab.prepare(Backend.PROCESS)
    with lab.server(backend="process"):
        assert set(children()) - set(before) == {zygote}


def test_a_killed_zygote_is_replaced_at_the_next_use_and_its_servers_are_gone(lab):
    before = set(children())
    with lab.server("echo", backend="process") as server:
        (zygote,) = map(int, set(children()) - before)
        pidfds = [os.pidfd_open(pid) for pid in (zygote, server.pid)]
        signal.pidfd_send_signal(pidfds[0], signal.SIGKILL)
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], LIMIT)[0]
            os.close(pidfd)
        assert_stale(server.path)
        with pytest.raises(AgentGone):
            server.stop()
        with lab.server("echo", backend="process") as another:
            assert another.pid != server.pid
            assert ask(lab, another, b"x") == b"x"


@pytest.mark.parametrize("mode", ["500", "000"])
def test_what_was_locked_by_an_ordinary_user_goes_at_the_end_of_its_path(as_nobody, directory, mode):
    directory.chmod(0o777)
    directory.parent.chmod(0o755)
    source = (
        "import os, sys, tempfile\nfrom udslab.lab import Lab\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with Lab() as lab:\n"
        "    with lab.path() as one, lab.path() as two:\n"
        "        os.mkdir(two + 'inner')\n"
        "        for path in (one, two + 'inner/file'): open(path, 'w').close()\n"
        "        for path in (one, two + 'inner/file'): os.chmod(os.path.dirname(path), int(sys.argv[2], 8))\n"
        "    print([os.path.exists(path) for path in (one, two + 'inner')])\n"
        "print(os.listdir(sys.argv[1]))\n"
    )
    done = as_nobody(source, directory, mode, directory=directory.parent)
    assert (done.stdout, done.stderr) == ("[False, False]\n[]\n", "")


def test_socket_files_that_are_left_at_a_path_are_noted(lab):
    with lab.path() as one, lab.path("two") as two, lab.path(whose=None) as three:
        inner = os.path.join(os.path.dirname(two), "inner")
        os.mkdir(inner)
        for path in (one, os.path.join(inner, "s"), three):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(path)
        os.mkfifo(two)
    try:
        assert lab.left == [
            f"socket file {inner}/s (stale), in the directory made by Lab.path()",
            f"socket file {one} (stale), in the directory made by Lab.path()",
        ]
    finally:
        lab.left.clear()


def test_those_of_servers_that_were_killed_or_may_leave_theirs_are_not(lab):
    source = "import socket; s = socket.socket(1); s.bind(__import__('sys').argv[1]); s.listen(); s.accept()"
    leaving = [sys.executable, "-c", source, "{socket}"]
    with lab.path() as one, lab.server(address=one, backend="process") as server:
        server.kill()
    with lab.path() as two, lab.process(leaving, two, expect_left=True):
        pass
    with lab.path() as three, lab.process(leaving, three):
        pass
    assert [line.partition(",")[0] for line in lab.left] == [f"socket file {three} (stale)"]  # by whom it is left
    lab.left.clear()


def test_a_forked_child_that_leaves_the_labs_block_ends_nothing():
    with Lab() as lab, lab.server("echo", backend="process") as server:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                lab.__exit__(None, None, None)
                os.write(write, b"done")
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as file:
            assert file.read() == b"done"
        os.waitpid(pid, 0)
        assert ask(lab, server, b"x") == b"x"
        assert os.path.exists(server.path)


def test_a_server_in_a_process_finds_modules_where_this_process_finds_them(directory, monkeypatch):
    (directory / "service_of_mine.py").write_text("from udslab.services import SERVICES\nmine = SERVICES['upper']\n")
    # Before the zygote is started: sys.path is not what a program finds without a script, as pytest's never is.
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setattr(sys, "path", [directory, *sys.path])  # what is no text import passes over
    with Lab() as lab, lab.server("service_of_mine:mine", backend="process") as server:
        assert ask(lab, server, b"x") == b"X"


def test_the_file_of_a_server_has_the_mode_that_the_umask_leaves(lab, backend):
    lab.prepare(backend)
    modes = []
    for umask in (0o077, 0o007):
        before = os.umask(umask)
        try:
            with lab.server(backend=backend) as server:
                modes.append(stat.S_IMODE(os.stat(server.path).st_mode))
        finally:
            os.umask(before)
    assert modes == [0o700, 0o770]
