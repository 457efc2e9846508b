"""An agent does what it is told, tells what came of it, and leaves nothing when it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace

import pytest

import udslab
from udslab import Address, AddressError, AddressInUse, NoSuchPath, Refused, ServiceError, TimedOut, UdsError
from udslab.agent import SPARES
from udslab.errors import AccessDenied, AgentGone, PeerGone, Stage
from udslab.remote import Remote, RemoteConnection, SocketChannel, drive
from udslab.server import serve
from udslab.spawn import Process
from udslab.testing import assert_gone, assert_serving, assert_stale
from udslab.wire import Lines, decode_error, encode_address, line

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
SOON = 10.0
"""Seconds in which an agent ends: one, and what a busy machine takes."""
PATIENT = "import sys\nfrom udslab import agent\nagent._GRACE, agent._LAST = 20.0, 25.0\nsys.exit(agent.main())"
"""An agent that gives its children more time at its end, where all of them end by themselves."""
IGNORES_SIGTERM = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


def python(source, *arguments):
    return [sys.executable, "-c", source, *map(str, arguments)]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def descriptors(pid):
    """Those of a process: number and what it is."""
    found = {}
    fds = []
    with contextlib.suppress(FileNotFoundError):  # it has just ended
        fds = os.listdir(f"/proc/{pid}/fd")
    for fd in fds:
        with contextlib.suppress(FileNotFoundError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def employed(pid):
    """Its children but the spare ones, which hold their standard streams and a channel to it and nothing else."""
    return [child for child in children(pid) if len(descriptors(child)) != 4]


def held(pid):
    """How many descriptors it holds but those of its children, if all are spare: a channel and a pipe of each."""
    return len(descriptors(pid)) - 2 * len(children(pid))


def settled(pid):
    """What it holds when that changes no more: a child that has just failed is half closed for a moment."""
    found = None
    while found is None or employed(pid) or held(pid) != found:
        found = held(pid)
        time.sleep(0.2)
    return found


def until(condition, *arguments):
    """Wait for what no event tells; what it was in the end."""
    end = time.monotonic() + LIMIT
    while not (found := condition(*arguments)):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def parts(error):
    return type(error), error.stage, error.errno, error.strerror, error.filename, error.hint


class Ended:
    """Waits for the end of processes that are not our children."""

    def __init__(self, *pids):
        self._fds = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._fds.append(os.pidfd_open(pid))

    def within(self, seconds):
        end = time.monotonic() + seconds
        try:
            return all(select.select([fd], [], [], max(0.0, end - time.monotonic()))[0] for fd in self._fds)
        finally:
            for fd in self._fds:
                os.close(fd)


@contextlib.contextmanager
def running_agent(environment, *options, command=(), program=("-m", "udslab.agent"), **settings):
    """An agent over a socket pair: its process, and the driver's end. It must have nothing to complain about."""
    ours, theirs = socket.socketpair()
    with ours:
        try:
            process = Process(
                [*command, sys.executable, "-W", "error", *program, *options],
                env=environment,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                **settings,
            )
        finally:
            theirs.close()
        with process:
            yield process, ours
            ours.close()
            process.end()
            assert process.output() == ""


@pytest.fixture
def launch(environment, sockets):
    """Starts an agent: its process, and the driver's end of its connection."""
    return lambda *options, **settings: sockets.enter_context(running_agent(environment, *options, **settings))


@pytest.fixture(scope="module")
def shared(environment):
    """An agent for all tests that leave it as it was: its process and its driver."""
    with running_agent(environment, "--lease", "120") as (process, ours), Remote(SocketChannel(ours), "here") as remote:
        yield process, remote


@pytest.fixture
def agent(shared):
    process, remote = shared
    yield remote
    until(lambda: not employed(process.pid))


@pytest.fixture
def server(agent, path, sockets):
    """Starts a server at ``path``."""
    return lambda *arguments, at=path, **options: sockets.enter_context(agent.serve(at, *arguments, **options))


@pytest.fixture
def client(agent, path, sockets):
    """Connects to ``path`` by the agent."""

    def make(at=path, **options):
        connection = sockets.enter_context(agent.connect(at, timeout=LIMIT, **options))
        connection.settimeout(LIMIT)
        return connection

    return make


class Raw:
    """A driver that says anything."""

    def __init__(self, sock):
        self._sock = sock
        self._lines = Lines()
        self._answers = []
        sock.settimeout(LIMIT)

    def send(self, *messages):
        self._sock.sendall(b"".join(map(line, messages)))

    def answer(self):
        while not self._answers:
            data = self._sock.recv(1 << 16)
            assert data, "the agent has gone"
            self._answers += self._lines.feed(data)
        return self._answers.pop(0)

    def ask(self, **message):
        self.send(message)
        return self.answer()


# Who it is, what it sees


def test_it_says_who_and_where_it_is(shared):
    process, remote = shared
    info = remote.info()
    umask = os.umask(0o022)
    os.umask(umask)
    assert (info.pid, info.uid, info.gid, info.umask) == (process.pid, os.geteuid(), os.getegid(), umask)
    assert (info.version, info.python) == (udslab.__version__, platform.python_version())
    assert (info.kernel, info.machine, info.host) == (platform.release(), platform.machine(), platform.node())


@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("name", [b"s", b"\xff\n"])
@pytest.mark.parametrize("state", ["absent", "listening", "bound", "stale", "not-a-socket", "unreachable"])
def test_it_sees_what_is_seen_here(agent, directory, make_socket, state, name, owners):
    path = os.fsencode(directory) + b"/" + name
    if state in ("listening", "bound"):
        make_socket(path, backlog=7 if state == "listening" else None)
    elif state == "stale":
        make_socket(path).close()
    elif state == "not-a-socket":
        open(path, "w").close()
    elif state == "unreachable":
        path += b"/s"
    found, here = agent.status(path, owners=owners), udslab.status(path, owners=owners)
    assert replace(found, info=None) == replace(here, info=None)  # a look can change st_atime
    assert found.as_dict() == here.as_dict()
    assert found.state == state


def test_it_sees_abstract_names(agent, make_socket):
    name = Address.abstract(b"udslab \0\xff %d" % os.getpid())
    make_socket(name.sun_path(), backlog=1)
    assert agent.status(name) == udslab.status(name)
    assert agent.status(name).state == "listening"


# Errors arrive as they are raised here


def address_in_use(lab, path):
    with udslab.listen(path):
        lab.serve(path)


def no_such_service(lab, path):
    lab.serve(path, "no-such")


def no_such_module(lab, path):
    lab.serve(path, "no_such_module:service")


def no_directory(lab, path):
    lab.serve(path / "nowhere" / "s")


def too_long(lab, path):
    lab.serve(str(path) + "x" * 108)


def nobody_there(lab, path):
    lab.connect(path)


def stale_there(lab, path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    try:
        lab.connect(path)
    finally:
        path.unlink()


def wrong_type(lab, path):
    with udslab.listen(path):
        lab.connect(path, type="dgram")


def full_backlog(lab, path):
    with udslab.listen(path, backlog=0), udslab.connect(path):
        lab.connect(path, timeout=0.01)


def own_address_taken(lab, path):
    with udslab.listen(path):
        lab.connect(path, bind=path)


def unnamed(lab, path):
    lab.status(Address.unnamed())


@pytest.mark.parametrize(
    ("fail", "cls"),
    [
        (address_in_use, AddressInUse),
        (no_such_service, ServiceError),
        (no_such_module, ServiceError),
        (no_directory, NoSuchPath),
        (too_long, AddressError),
        (nobody_there, NoSuchPath),
        (stale_there, Refused),
        (wrong_type, udslab.WrongType),
        (full_backlog, TimedOut),
        (own_address_taken, UdsError),
        (unnamed, AddressError),
    ],
)
def test_an_error_arrives_as_it_is_raised_here(agent, path, fail, cls):
    class Here:
        serve = staticmethod(serve)
        connect = staticmethod(udslab.connect)
        status = staticmethod(udslab.status)

    with pytest.raises(cls) as here:
        fail(Here, path)
    with pytest.raises(cls) as there:
        fail(agent, path)
    assert parts(there.value) == parts(here.value)
    assert type(there.value) is type(here.value)


def test_what_is_in_the_way_arrives_with_the_error(agent, path):
    with udslab.listen(path), pytest.raises(AddressInUse) as caught:
        agent.serve(path)
    with udslab.listen(path):
        here = udslab.status(path)
    assert (caught.value.status.state, caught.value.status.type) == (here.state, here.type)


def test_options_that_there_are_not_are_an_error(agent, path):
    with pytest.raises(UdsError, match="unknown_option"):
        agent.serve(path, unknown_option=1)
    assert_gone(path)


# Servers


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_a_server_serves(server, client, type):
    process = server(type=type)
    connection = client(type=type)
    connection.sendall(b"hello\n")
    assert connection.recv(100) == b"HELLO\n"
    assert connection.credentials.pid == process.pid


def test_a_datagram_server_serves(server, client):
    server("echo", type="dgram")
    connection = client(type="dgram", bind="auto")
    connection.sendall(b"hello")
    assert connection.recv(100) == b"hello"
    assert connection.credentials is None


@pytest.mark.parametrize("name", [b"\xff", b"@", b"unix:x"])
def test_a_path_of_any_bytes_is_served(agent, directory, name):
    path = Address.pathname(os.fsencode(directory) + b"/" + name)
    with agent.serve(path), agent.connect(path) as connection:
        assert connection.peer_address == path
    assert_gone(path)


def test_an_abstract_name_is_served(agent):
    name = Address.abstract(b"udslab-agent-\xff%d" % os.getpid())
    with agent.serve(name), agent.connect(name) as connection:
        assert connection.peer_address == name


def test_sigterm_removes_the_file(server, path):
    process = server()
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 0
    assert_gone(path)


def test_sigkill_leaves_it_stale(server, path):
    process = server()
    assert process.kill() == -signal.SIGKILL
    assert_stale(path)


def test_one_after_another_at_a_path(server, path):
    server().kill()
    server()
    assert_serving(path)


def test_a_frozen_server_answers_when_it_is_thawed(server, client):
    process = server("echo")
    process.freeze()
    with open(f"/proc/{process.pid}/stat") as file:
        assert file.read().rpartition(")")[2].split()[0] == "T"
    connection = client()
    connection.sendall(b"x")
    connection.settimeout(0.05)
    with pytest.raises(TimedOut):
        connection.recv(1)
    process.thaw()
    connection.settimeout(LIMIT)
    assert connection.recv(1) == b"x"


def test_waiting_has_a_limit(server):
    process = server()
    with pytest.raises(TimedOut, match=f"pid {process.pid} has not ended within"):
        process.wait(0.01)
    assert process.returncode is None
    assert not process.exits_within(0)
    process.end()
    assert process.wait() == process.wait(0) == process.returncode == 0


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
def test_waiting_may_have_a_limit_of_any_size(agent, timeout):
    with agent.start(["sleep", "60"]) as process:
        waiting = threading.Thread(target=process.wait, args=(timeout,))
        if timeout == float("inf"):
            waiting.start()
        else:
            agent.tell("wait", child=process._number, timeout=timeout)
        agent.info()
        process.kill()
        if timeout == float("inf"):
            waiting.join(LIMIT)


@pytest.mark.soak
def test_however_it_comes_a_signal_to_end_is_noticed_at_once(agent, path):
    # One that came just before the loop began to wait was noticed when something else ended the waiting.
    for _ in range(600):
        with agent.serve(path, "discard") as process:
            assert process.end(LIMIT) == 0


def test_several_may_wait_for_the_same(server):
    process = server()
    got = []
    threads = [threading.Thread(target=lambda: got.append(process.wait(LIMIT))) for _ in range(5)]
    for thread in threads:
        thread.start()
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert got == [0] * 5


def test_the_servers_umask_is_its_own(agent, server, path):
    before = agent.info().umask
    server(umask=0o077)
    assert udslab.status(path).mode == 0o700
    assert agent.info().umask == before


def test_a_servers_log_is_its_output(server, client):
    process = server()
    client()
    assert "client 1: pid " in until(process.output)
    assert process.output().startswith("udslab: ")


SERVICES = """
import os, signal, sys
from udslab.services import per_line

def says(text):
    print(text.decode().strip(), end=" ")
    return text

def says_a_line(text):
    print(text.decode().strip())
    return text

def dies(peer):
    os._exit(3)

silent, lines = per_line(says), per_line(says_a_line)
"""


@pytest.fixture
def with_services(environment, directory, launch, sockets):
    """An agent that finds services of a module's."""
    (directory / "services_of_a_test.py").write_text(SERVICES)
    (directory / "dies_at_import.py").write_text("import os\nprint('no more', flush=True)\nos._exit(3)")
    environment["PYTHONPATH"] += f"{os.pathsep}{directory}"
    sockets.callback(environment.update, PYTHONPATH=environment["PYTHONPATH"].rpartition(os.pathsep)[0])
    return sockets.enter_context(Remote(SocketChannel(launch()[1]), "here"))


def test_what_a_service_prints_is_its_output(with_services, path):
    with with_services.serve(path, "services_of_a_test:lines") as process, with_services.connect(path) as connection:
        connection.sendall(b"one\n")
        assert connection.read_line() == b"one\n"
        assert until(lambda: "\none\n" in process.output())
    with with_services.serve(path, "services_of_a_test:silent") as process:
        with with_services.connect(path) as connection:
            connection.sendall(b"two\n")
            assert connection.read_line() == b"two\n"
        process.end()
        assert process.output().endswith("two ")


def test_a_server_that_dies_before_it_serves_is_told_with_status_and_last_line(with_services, path):
    with pytest.raises(AgentGone, match=r"exit status 3.*no more"):
        with_services.serve(path, "dies_at_import:service")
    assert with_services.alive


@pytest.mark.parametrize("service", ["chargen", "echo"])
def test_a_client_that_goes_away_does_not_end_the_server(server, path, service):
    process = server(service)
    for _ in range(20):
        with udslab.connect(path) as connection:
            connection.sendall(b"x" * 10000)
            connection.recv(1)
    assert_serving(path)
    assert process.returncode is None


# Commands


def test_a_command_has_its_own_environment_directory_and_umask(agent, directory):
    source = "import os; u = os.umask(0); print(os.getcwd(), ascii(os.environ['A']), 'HOME' in os.environ, oct(u))"
    with agent.start(python(source), env={"A": "b"}, cwd=str(directory), umask=0o027) as process:
        assert process.wait(LIMIT) == 0
        assert process.output() == f"{os.path.realpath(directory)} 'b' False 0o27\n"


def test_a_commands_words_are_kept_by_their_bytes(agent):
    with agent.start([sys.executable, b"-c", "import os, sys; print(os.fsencode(sys.argv[1]))", b"\xff"]) as process:
        process.wait(LIMIT)
        assert process.output() == "b'\\xff'\n"


def test_a_command_has_the_agents_environment_unless_told_otherwise(agent, environment):
    with agent.start(python("import os; print(os.environ['PYTHONPYCACHEPREFIX'])")) as process:
        process.wait(LIMIT)
        assert process.output().strip() == environment["PYTHONPYCACHEPREFIX"]


def test_a_commands_signals_are_at_their_defaults_and_let_through(agent):
    with agent.start(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]) as process:
        process.wait(LIMIT)
        # The C library keeps two for itself, and lets nobody change them.
        ours = ~(1 << 31 | 1 << 32)
        assert [int(word, 16) & ours for word in process.output().split()[1::2]] == [0, 0]


@pytest.mark.parametrize(
    ("command", "options", "cls", "filename"),
    [
        (["/no/such/command"], {}, NoSuchPath, "/no/such/command"),
        (["no-such-command"], {}, NoSuchPath, "no-such-command"),
        (["/etc/passwd"], {}, AccessDenied, "/etc/passwd"),
        (["true"], {"cwd": "/no/such/directory"}, NoSuchPath, "/no/such/directory"),
    ],
)
def test_a_command_that_cannot_be_started_is_told(agent, command, options, cls, filename):
    with pytest.raises(cls) as caught:
        agent.start(command, **options)
    assert (caught.value.stage, caught.value.filename) == (Stage.AGENT, filename)


def test_no_command_at_all_is_an_error(agent):
    with pytest.raises(UdsError):
        agent.ask("start", command=[])
    with pytest.raises(UdsError):
        agent.ask("start", command=[1])


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_that_ends_at_once_has_its_status_and_output(agent, status):
    with agent.start(["sh", "-c", f"echo said; echo so >&2; exit {status}"]) as process:
        assert process.wait(LIMIT) == status
        assert process.output() == "said\nso\n"
        assert process.end() == process.kill() == status
        process.send_signal(signal.SIGTERM)  # nothing happens


def test_one_that_ignores_sigterm_is_killed_after_the_grace(agent):
    with agent.start(python(IGNORES_SIGTERM)) as process:
        until(process.output)
        assert process.end(grace=0.05) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGRTMIN, signal.SIGRTMIN + 1])
def test_any_signal_may_be_sent_and_may_end_it(agent, number):
    with agent.start(["sleep", "60"]) as process:
        process.send_signal(number)
        assert process.wait(LIMIT) == -number
    agent.info()


def test_a_signal_that_there_is_not_is_an_error(agent):
    with agent.start(["sleep", "60"]) as process:
        for number in (9999, -1):
            with pytest.raises(UdsError):
                process.send_signal(number)


def test_what_a_child_has_started_ends_with_it(agent):
    with agent.start(["sh", "-c", "sleep 60 & echo $!; wait"]) as process:
        ended = Ended(int(until(process.output)))
        process.kill()
        assert ended.within(LIMIT)
    with agent.start(["sh", "-c", "sleep 60 & echo $!; read x"]) as process:  # it ends by itself
        process.wait(LIMIT)
        assert Ended(int(process.output())).within(LIMIT)


ESCAPES = """
import os, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.write(write, b"%d" % os.getpid())
    while True:
        os.write(1, b"x" * 100)
with open(sys.argv[1], "wb") as file:
    file.write(os.read(read, 100))
"""


def test_one_that_escapes_with_the_output_keeps_nobody_from_ending(agent, path):
    with agent.start(python(ESCAPES, path)) as process:
        assert process.wait(LIMIT) == 0
        ended = Ended(int(path.read_text()))
    assert ended.within(LIMIT), "its output has nobody who reads it, which ends it"
    agent.info()


ORPHAN = """
import os, time
parent = os.getpid()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    os.write(write, b"x")
    while os.getppid() == parent:
        time.sleep(0.001)
    os._exit(3)
os.read(read, 1)
"""


def test_as_process_1_it_fetches_orphans(launch):
    if os.geteuid() != 0:
        pytest.skip("needs root, for a pid namespace")
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    _, ours = launch(command=unshare)
    with Remote(SocketChannel(ours), "a namespace") as remote:
        assert remote.info().pid == 1
        with remote.start(python(ORPHAN)) as process:
            process.wait(LIMIT)
            pid = process.output().strip()

        def has_gone():
            with remote.start(["ls", "/proc"]) as look:
                look.wait(LIMIT)
                return "1" in look.output().split() and pid not in look.output().split()

        until(has_gone)


# Output


def test_the_last_of_much_output_is_kept_and_the_rest_told(agent):
    with agent.start(python("print('a' * 1000000, end='b')")) as process:
        process.wait(LIMIT)
        said = process.output()
    assert said == f"[{1000001 - (1 << 18)} bytes before this were dropped]\n" + "a" * ((1 << 18) - 1) + "b"


def test_one_that_writes_without_end_does_not_keep_the_others_waiting(agent):
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(agent.start(["yes"])) for _ in range(3)]
        for _ in range(10):
            agent.info()
        assert [writer.kill() for writer in writers] == [-signal.SIGKILL] * 3


def test_output_that_is_no_text_is_still_told(agent):
    with agent.start(["printf", "\\377\\n"]) as process:
        process.wait(LIMIT)
        assert process.output() == "\\xff\n"


# Connections


def test_a_connection_does_what_a_connection_does(path, client, sockets):
    listener = sockets.enter_context(udslab.listen(path))
    mine = sockets.enter_context(contextlib.closing(client()))
    theirs = sockets.enter_context(listener.accept())
    assert (mine.peer_address, mine.address) == (Address.parse(path), Address.unnamed())
    assert (mine.credentials.pid, theirs.credentials.pid) == (os.getpid(), mine.pid)
    mine.sendall(b"\xff\0")
    assert theirs.read_exactly(2) == b"\xff\0"
    theirs.sendall(b"one\ntwo\nthree")
    assert mine.read_line() == b"one\n"
    assert mine.read_exactly(4) == b"two\n"
    assert mine.recv(100) == b"three"
    mine.shutdown(socket.SHUT_WR)
    assert theirs.recv(1) == b""
    theirs.sendall(b"the rest")
    theirs.close()
    assert mine.read_to_end() == b"the rest"
    assert mine.recv(1) == mine.read_line() == b""
    with pytest.raises(PeerGone):
        mine.read_exactly(1)


def test_much_goes_both_ways(server, client):
    server("echo")
    connection = client()
    data = os.urandom(1 << 20)
    with pytest.raises(TimedOut) as caught:  # nobody reads what is echoed
        connection.settimeout(0.2)
        connection.sendall(data)
    assert caught.value.stage is Stage.SEND
    connection.settimeout(LIMIT)
    got = connection.recv(1 << 20)
    assert data.startswith(got)
    assert got


def test_megabytes_arrive(path, client, sockets):
    listener = sockets.enter_context(udslab.listen(path))
    mine, data = client(), os.urandom(5 << 20)
    theirs = sockets.enter_context(listener.accept())
    sender = threading.Thread(target=mine.sendall, args=(data,))
    sender.start()
    assert theirs.read_exactly(len(data)) == data
    sender.join()
    sender = threading.Thread(target=lambda: (theirs.sendall(data), theirs.shutdown(socket.SHUT_WR)))
    sender.start()
    assert mine.read_to_end() == data
    sender.join()


def test_requests_to_a_busy_connection_keep_nobody_waiting(agent, path, client, sockets):
    listener = sockets.enter_context(udslab.listen(path))
    mine = client()
    theirs = sockets.enter_context(listener.accept())
    reading = threading.Thread(target=mine.recv, args=(1,))
    reading.start()
    sending = threading.Thread(target=mine.sendall, args=(b"x" * (1 << 20),))  # more than its channel holds
    sending.start()
    for _ in range(10):
        agent.info()
    theirs.sendall(b"x")
    assert theirs.read_exactly(1 << 20) == b"x" * (1 << 20)
    reading.join()
    sending.join()


@pytest.mark.parametrize("call", ["recv", "read_exactly", "read_line", "read_to_end"])
def test_a_call_past_its_limit_is_told_as_timed_out(path, client, sockets, call):
    sockets.enter_context(udslab.listen(path))
    connection = client()
    connection.settimeout(0.02)
    with pytest.raises(TimedOut) as caught:
        getattr(connection, call)(*([10] if call in ("recv", "read_exactly") else []))
    assert (caught.value.stage, caught.value.filename) == (Stage.RECEIVE, str(path))


def test_sending_to_one_who_has_gone_is_peer_gone(path, client, sockets):
    listener = sockets.enter_context(udslab.listen(path))
    connection = client()
    listener.accept().close()
    with pytest.raises(PeerGone) as caught:
        connection.sendall(b"x")
    assert (caught.value.stage, caught.value.errno) == (Stage.SEND, errno.EPIPE)
    assert connection.recv(1) == b""  # it lives on


@pytest.mark.parametrize("bind", ["auto", "path"])
def test_a_connections_own_file_has_gone_when_it_is_closed(agent, path, server, directory, bind):
    server("whoami")
    own = "auto" if bind == "auto" else Address.pathname(os.fsencode(directory) + b"/\xff")
    connection = agent.connect(path, bind=own, umask=0o077)
    assert udslab.status(connection.address).state == "bound"
    connection.close()
    assert_gone(connection.address)


def test_closing_it_twice_is_harmless_and_using_it_after_that_an_error(path, server, client):
    server()
    connection = client()
    connection.close()
    connection.close()
    with pytest.raises(UdsError):
        connection.recv(1)


def test_the_death_of_its_process_is_told_to_whoever_waits(agent, path, client, sockets):
    listener = sockets.enter_context(udslab.listen(path))
    connection = client()
    theirs = sockets.enter_context(listener.accept())
    theirs.sendall(b"x")
    caught = []

    def read():
        with pytest.raises(AgentGone, match=f"pid {connection.pid} has ended: SIGKILL") as error:
            connection.read_exactly(2)
        caught.append(error.value)

    reading = threading.Thread(target=read)
    reading.start()
    until(lambda: not any(fcntl.ioctl(theirs, termios.TIOCOUTQ, bytes(4))))  # it has taken the first
    os.kill(connection.pid, signal.SIGKILL)
    reading.join(LIMIT)
    assert caught[0].errno == errno.ECHILD
    with pytest.raises(AgentGone):
        connection.sendall(b"x")
    connection.close()
    agent.info()


# Odd requests


def test_odd_requests_are_answered_with_an_error_and_it_goes_on(launch, path):
    process, ours = launch("--lease", "60")
    driver = Raw(ours)
    for message in (
        {"op": "no-such"},
        {},
        {"op": None},
        {"op": ["info"]},
        {"op": "status"},
        {"op": "status", "address": 5},
        {"op": "status", "address": ["no-such-kind", "x"]},
        {"op": "serve"},
        {"op": "serve", "address": encode_address(path)},
        {"op": "serve", "address": encode_address(path), "options": {"type": "no-such"}},
        {"op": "start"},
        {"op": "start", "command": "no-such-command"},
        {"op": "connect"},
        {"op": "wait"},
        {"op": "wait", "child": 99},
        {"op": "wait", "child": []},
        {"op": "signal", "child": 99, "signal": 15},
        {"op": "output", "child": -1},
        {"op": "forget", "child": None},
        {"to": 99, "op": "recv"},
    ):
        answer = driver.ask(id=1, **message)
        assert answer["id"] == 1
        assert isinstance(decode_error(answer["error"]), UdsError), message
    # Nobody would hear of these, so they do nothing.
    driver.send({"op": "serve", "address": encode_address(path), "options": {}}, {"op": "start", "command": ["sleep"]})
    assert driver.ask(id=2, op="info")["result"]["pid"] == process.pid
    until(lambda: not employed(process.pid))
    assert_gone(path)


def test_odd_requests_to_a_connection_leave_it_as_it_is(launch, path):
    driver = Raw(launch("--lease", "60")[1])
    with udslab.listen(path) as listener:
        number = driver.ask(id=1, op="connect", address=encode_address(path), options={})["result"]["child"]
        driver.send({"to": number, "op": "recv", "size": 1})
        for message in ({}, {"op": "no-such"}, {"op": "recv"}, {"op": "sendall", "data": 5}):
            assert "error" in driver.ask(id=2, to=number, **message)
        with listener.accept() as connection:
            connection.sendall(b"x")
            assert driver.ask(id=3, to=number, op="recv", size=1)["result"] == "eA=="


def test_a_server_takes_no_requests(launch, path):
    driver = Raw(launch("--lease", "60")[1])
    number = driver.ask(id=1, op="serve", address=encode_address(path), options={})["result"]["child"]
    error = decode_error(driver.ask(id=2, to=number, op="recv", size=1)["error"])
    assert "None" not in str(error)
    assert_serving(path)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0\xff\n", b"[1]\n", b"[" * 100_000 + b"\n"])
def test_garbage_ends_it(launch, path, garbage):
    process, ours = launch()
    driver = Raw(ours)
    driver.ask(id=1, op="serve", address=encode_address(path), options={})
    ours.sendall(garbage)
    assert process.exits_within(SOON)
    assert_gone(path)


# Its end


@pytest.fixture
def busy(launch, directory):
    """An agent with a server, a frozen server, a connection with a file of its own, and commands that do not want to
    end; and what ends it, what must be gone by then, and where nothing may be left."""

    def make(*options):
        process, ours = launch(*options)
        driver = Raw(ours)
        pids = []
        for name in ("a", "b", "c"):
            address = encode_address(directory / name)
            options = {"service": "chargen", "drain": 60}  # the agent does not wait for that
            answer = driver.ask(id=1, op="serve", address=address, options=options)["result"]
            pids.append(answer["pid"])
        assert driver.ask(id=1, op="signal", child=answer["child"], signal=signal.SIGSTOP)["result"] is True
        own = encode_address(directory / "own")
        answer = driver.ask(id=1, op="connect", address=encode_address(directory / "a"), options={"bind": own})
        pids.append(answer["result"]["pid"])
        driver.send({"id": 99, "to": answer["result"]["child"], "op": "read_to_end"})
        for command in (python(IGNORES_SIGTERM), ["sh", "-c", "trap '' TERM; sleep 60"], ["yes"], ["sleep", "60"]):
            pids.append(driver.ask(id=1, op="start", command=command)["result"]["pid"])
        assert set(children(process.pid)) >= set(pids)
        return process, ours, Ended(*pids)

    return make


def hang_up(process, ours):
    ours.close()


def half_hang_up(process, ours):
    ours.shutdown(socket.SHUT_WR)


def send_sigterm(process, ours):
    process.send_signal(signal.SIGTERM)


def send_sigint(process, ours):
    process.send_signal(signal.SIGINT)


def do_not_read(process, ours):
    ours.sendall(line({"id": 1, "op": "info"}) * 20_000)  # whose answers no socket's buffer holds
    process.send_signal(signal.SIGTERM)


def be_silent(process, ours):
    pass


@pytest.mark.parametrize("how", [hang_up, half_hang_up, send_sigterm, send_sigint, do_not_read, be_silent])
def test_at_its_end_nothing_is_left(busy, directory, how):
    lease = () if how is not be_silent else ("--lease", "1.5")
    process, ours, ended = busy(*lease)
    how(process, ours)
    assert process.exits_within(SOON + (1.5 if lease else 0))
    assert process.returncode == 0
    assert ended.within(SOON)
    assert os.listdir(directory) == []


def test_a_server_that_is_being_started_leaves_nothing_either(launch, directory):
    for _ in range(3):
        process, ours = launch(program=("-c", PATIENT))
        driver = Raw(ours)
        driver.ask(id=1, op="info")
        names = [directory / str(number) for number in range(10)]
        driver.send(*({"id": 1, "op": "serve", "address": encode_address(name), "options": {}} for name in names))
        process.send_signal(signal.SIGTERM)
        assert process.exits_within(SOON)
        assert os.listdir(directory) == []


def test_its_children_end_with_it_when_it_is_killed(busy):
    process, _, ended = busy()
    process.kill()
    assert ended.within(SOON)


def test_a_driver_that_speaks_keeps_the_lease(launch):
    process, ours = launch("--lease", "1.5")
    driver = Raw(ours)
    driver.ask(id=1, op="info")
    for _ in range(20):
        assert not process.exits_within(0.1)
        before = time.monotonic()
        driver.send({"op": "beat"})
    assert process.exits_within(SOON)
    assert time.monotonic() - before > 1.2


def test_a_child_that_writes_all_the_time_does_not_keep_the_lease(launch):
    process, ours = launch("--lease", "0.5")
    Raw(ours).ask(id=1, op="start", command=["yes"])
    assert process.exits_within(SOON)


def test_a_pause_that_is_longer_than_the_lease_does_not_end_it(launch):
    process, ours = launch("--lease", "1")
    driver = Raw(ours)
    driver.ask(id=1, op="info")
    process.freeze()
    driver.send({"op": "beat"}, {"id": 2, "op": "info"})
    assert not process.exits_within(1.2)  # it is the time that must pass
    process.thaw()
    assert driver.answer()["id"] == 2


def test_it_ends_when_nobody_reads_its_answers_any_more(environment):
    """Also if it finds out when it has no spare child left, and is about to fork some."""
    source, ours = os.pipe()
    theirs, sink = os.pipe()
    with open(ours, "wb", 0) as requests, open(theirs, "rb", 0) as answers:
        try:
            process = Process([sys.executable, "-m", "udslab.agent"], env=environment, stdin=source, stdout=sink)
        finally:
            os.close(source)
            os.close(sink)
        with process:
            requests.write(line({"id": 1, "op": "info"}))
            assert answers.readline()
            answers.close()
            starts = [{"id": 2 + number, "op": "start", "command": ["sleep", "60"]} for number in range(SPARES)]
            requests.write(b"".join(map(line, starts)))
            assert process.exits_within(SOON)
            assert process.returncode == 0


def test_input_may_be_a_file(environment):
    command = [sys.executable, "-W", "error", "-m", "udslab.agent"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# Waiting for its driver at a path


@pytest.fixture
def listening(environment, path, sockets):
    """Starts an agent, and waits until it waits for its driver."""

    def run(*options, wait=True):
        command = [sys.executable, "-W", "error", "-m", "udslab.agent", "--listen", path, *options]
        process = sockets.enter_context(Process(command, env=environment))
        if wait:
            process.wait_serving(path)
        return process

    return run


def test_it_may_be_driven_at_a_path(listening, path, directory):
    process = listening()
    with drive(path) as remote:
        remote.info()
        assert_gone(path)  # it is there for one driver
        with remote.serve(directory / "other"):
            assert_serving(directory / "other")
    assert process.wait(SOON) == 0
    assert "Traceback" not in process.output()
    assert "ends: its driver has gone" in process.output()


def test_its_time_is_limited(listening, path, directory):
    process = listening("--limit", "2")
    with drive(path) as remote:
        server = remote.serve(directory / "other")
        ended = Ended(server.pid)
        assert process.wait(2 + SOON) == 0
        assert ended.within(0)
    assert_gone(directory / "other")


def test_its_time_is_limited_while_nobody_comes(listening, path):
    process = listening("--limit", "0.5", wait=False)  # it may have ended before we look
    assert process.wait(SOON) == 0
    assert "waits for its driver" in process.output()
    assert "Traceback" not in process.output()
    assert_gone(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_may_be_ended_while_nobody_comes(listening, path, number):
    process = listening()
    process.send_signal(number)
    assert process.wait(SOON) == 0
    assert "Traceback" not in process.output()
    assert_gone(path)


# What children have of it


def test_children_have_none_of_its_descriptors(shared, directory, agent):
    process, _ = shared
    agent.status(directory, owners=True)
    made = [agent.serve(directory / "a"), agent.start(["sleep", "60"]), agent.connect(directory / "a")]
    made.append(agent.serve(directory / "b"))
    its = set(descriptors(process.pid).values()) - {"/dev/null"}
    for child in made:
        held = descriptors(child.pid)
        assert held[0] == "/dev/null"
        assert held[1] == held[2]
        # What leads to the agent is the other end of a pipe; both have the same name.
        assert its & set(held.values()) == {held[1]}, held
        assert sorted(held.values()).count(held[1]) == 2, "it does not hold the end that is read"
    assert sorted(descriptors(made[1].pid)) == [0, 1, 2]
    for child in made:
        child.close() if isinstance(child, RemoteConnection) else child.__exit__()


LOOKS = """
import os, sys
from udslab.remote import Remote, SocketChannel
import socket, subprocess
ours, theirs = socket.socketpair()
with theirs:
    process = subprocess.Popen([sys.executable, "-B", "-m", "udslab.agent"], stdin=theirs, stdout=theirs)
path = sys.argv[1]
with Remote(SocketChannel(ours), "here") as remote:
    with remote.serve(path) as server:
        try:
            print(os.listdir(f"/proc/{process.pid}/fd"))
        except PermissionError:
            print("denied")
        found = remote.status(path, owners=True)
        print(found.describe() == f"listening stream pid {server.pid}", found.certain)
        with remote.connect(path) as connection:
            connection.sendall(b"x\\n")
            print(connection.read_line())
        long = os.path.join(os.path.dirname(path), "x" * 100, "s")
        os.mkdir(os.path.dirname(long))
        print(remote.status(long).state)
    print(remote.status(path).state)
process.wait()
"""


def test_another_process_of_its_user_cannot_open_its_descriptors(as_nobody, directory, path):
    directory.parent.chmod(0o711)
    directory.chmod(0o777)
    done = as_nobody(LOOKS, path, directory=directory)
    assert done.stdout.split("\n") == ["denied", "True True", "b'X\\n'", "absent", "absent", ""], done.stderr


# Many


def test_two_hundred_servers(launch, directory):
    process, ours = launch(program=("-c", PATIENT))
    with Remote(SocketChannel(ours), "here") as remote:
        servers = [remote.serve(directory / str(number)) for number in range(200)]
        assert len({server.pid for server in servers}) == 200
        until(lambda: len(employed(process.pid)) == 200)  # a spare one may still rehearse
        servers[7].kill()
        assert_stale(directory / "7")
        with remote.connect(directory / "199") as connection:
            connection.sendall(b"x\n")
            assert connection.read_line() == b"X\n"
    assert process.exits_within(LIMIT)
    assert os.listdir(directory) == ["7"]


@pytest.mark.parametrize("rounds", [40, pytest.param(300, marks=pytest.mark.soak)])
def test_round_after_round_leaves_it_as_it_was(launch, path, rounds):
    process, ours = launch()
    with Remote(SocketChannel(ours), "here") as remote:

        def once():
            with remote.serve(path), remote.connect(path) as connection:
                connection.sendall(b"x\n")
                assert connection.read_line() == b"X\n"
            with pytest.raises(NoSuchPath):
                remote.start(["/no/such/command"])

        once()
        until(lambda: not employed(process.pid))
        remote.info()  # which it answers when it is done with what came before
        before = settled(process.pid)
        for _ in range(rounds):
            once()
        until(lambda: not employed(process.pid))
        until(lambda: held(process.pid) == before)


def test_those_that_nobody_has_forgotten_hold_no_descriptor(launch):
    process, ours = launch()
    with Remote(SocketChannel(ours), "here") as remote:
        remote.info()
        until(lambda: not employed(process.pid))
        before = settled(process.pid)
        ended = [remote.start(["echo", str(number)]) for number in range(100)]
        assert [other.wait(LIMIT) for other in ended] == [0] * 100
        assert [other.output() for other in ended] == [f"{number}\n" for number in range(100)]
        until(lambda: held(process.pid) == before)


def test_without_descriptors_it_tells_so_and_goes_on(environment, launch, directory):
    _, ours = launch(command=("prlimit", "--nofile=40"))
    with Remote(SocketChannel(ours), "here") as remote:
        servers = []
        with pytest.raises(UdsError) as caught:
            for number in range(100):
                servers.append(remote.serve(directory / str(number)))
        assert caught.value.errno == errno.EMFILE
        assert len(servers) > 5
        for server in servers:
            with server:
                pass
        with remote.serve(directory / "again"):
            pass


def test_what_it_says_is_json_on_lines(launch):
    _, ours = launch()
    ours.sendall(b'{"id":1,"op":"info"}\n')
    assert json.loads(ours.recv(1 << 16))["id"] == 1
