"""The driver of an agent: many threads, forked children, and agents that end or say nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from udslab import Address, OnExisting, SocketType, TimedOut, UdsError, remote, services, status
from udslab.errors import AgentGone, Stage
from udslab.remote import Remote, SocketChannel, drive
from udslab.spawn import Process, wait_until
from udslab.testing import assert_gone, assert_serving
from udslab.wire import line

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
SOON = 10.0
"""Seconds in which an agent ends: one, and what a busy machine takes."""


@pytest.fixture
def launch(environment, sockets):
    """Starts an agent: its process, and its driver."""

    def run(*options):
        ours, theirs = socket.socketpair()
        with theirs:
            process = sockets.enter_context(
                Process(
                    [sys.executable, "-W", "error", "-m", "udslab.agent", *options],
                    env=environment,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                )
            )
        return process, sockets.enter_context(Remote(SocketChannel(ours), "a test"))

    return run


@pytest.fixture
def fake(sockets):
    """Makes a driver, and the other end of its connection, where the test plays the agent."""

    def make():
        ours, theirs = socket.socketpair()
        sockets.enter_context(theirs)
        return sockets.enter_context(Remote(SocketChannel(ours), "a test")), theirs

    return make


class Calls:
    """Calls in threads of their own: their results, and the errors that they raised."""

    def __init__(self, *calls):
        self.results, self.errors = [], []
        self._threads = [threading.Thread(target=self._call, args=(call,)) for call in calls]
        for thread in self._threads:
            thread.start()

    def _call(self, call):
        try:
            self.results.append(call())
        except UdsError as error:
            self.errors.append(error)

    def done(self, timeout=LIMIT):
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)


# Its end


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_agents_end_every_call_says_so_at_once(launch, path, number):
    process, driver = launch()
    server = driver.serve(path, drain=0.1)
    connection = driver.connect(path)
    waiting = Calls(server.wait, lambda: server.wait(60), connection.read_line, lambda: connection.recv(1))
    driver.info()
    process.send_signal(number)
    assert waiting.done(SOON)
    if number == signal.SIGKILL:
        assert [type(error) for error in waiting.errors] == [AgentGone] * 4
    for call in (
        driver.info,
        lambda: driver.status(path),
        lambda: driver.serve(path),
        lambda: driver.start(["true"]),
        lambda: driver.connect(path),
        server.freeze,
        server.wait,
        server.end,
        server.kill,
        server.output,
        lambda: server.returncode,
        lambda: connection.sendall(b"x"),
        connection.read_to_end,
    ):
        before = time.monotonic()
        with pytest.raises(AgentGone, match="the agent of a test has ended") as caught:
            call()
        assert time.monotonic() - before < SOON
        assert (caught.value.stage, caught.value.errno) == (Stage.AGENT, errno.ESHUTDOWN)
    assert not driver.alive
    connection.close()  # there is nothing to be closed
    with server:
        pass


def test_each_call_raises_an_error_of_its_own(launch):
    process, driver = launch()
    process.kill()
    errors = []
    for _ in range(2):
        with pytest.raises(AgentGone) as caught:
            driver.info()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert str(pickle.loads(pickle.dumps(errors[0]))) == str(errors[0])


def test_closing_it_ends_the_agent_and_what_it_has_started(launch, path):
    process, driver = launch()
    driver.serve(path)
    assert driver.alive
    driver.close()
    assert process.exits_within(SOON)
    assert_gone(path)
    driver.close()
    with pytest.raises(AgentGone):
        driver.info()


def test_closing_it_tells_those_who_wait(launch, path):
    _, driver = launch()
    server = driver.serve(path)
    waiting = Calls(server.wait)
    driver.info()
    driver.close()
    assert waiting.done(SOON)
    assert [type(error) for error in waiting.errors] == [AgentGone]


def test_closing_it_while_the_agent_is_frozen_does_not_wait(launch):
    process, driver = launch()
    driver.info()
    process.freeze()
    before = time.monotonic()
    driver.close()
    assert time.monotonic() - before < SOON
    process.thaw()


def test_nothing_stays_open(launch):
    process, driver = launch()
    driver.info()
    threads, before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    driver.close()
    assert threading.active_count() == threads - 1
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert process.exits_within(SOON)


# Threads


def test_many_threads_may_ask_at_once(launch, directory):
    _, driver = launch()

    def one(number):
        path = directory / str(number)
        for _ in range(3):
            with driver.serve(path), driver.connect(path) as connection:
                text = b"%d" % number * 1000 + b"\n"
                connection.sendall(text)
                assert connection.read_line() == text
                assert driver.status(path).state == "listening"
        return number

    calls = Calls(*(lambda number=number: one(number) for number in range(6)))
    assert calls.done()
    assert calls.errors == []
    assert sorted(calls.results) == list(range(6))


def test_one_who_waits_keeps_nobody_else_waiting(launch, path):
    _, driver = launch()
    server = driver.serve(path)
    waiting = Calls(server.wait)
    assert driver.status(path).serving
    assert server.end() == 0
    assert waiting.done()
    assert waiting.results == [0]


# Patience


def test_an_agent_that_does_not_answer_is_told_as_timed_out(launch, monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE", 0.05)
    process, driver = launch()
    process.freeze()
    with pytest.raises(TimedOut, match="has not answered 'info'") as caught:
        driver.info()
    assert caught.value.stage is Stage.AGENT
    process.thaw()


def test_an_agent_that_takes_nothing_is_told_as_timed_out(launch, path, monkeypatch):
    process, agent = launch()
    with agent.serve(path, "discard"), agent.connect(path) as connection:
        connection.settimeout(0.1)
        with monkeypatch.context() as patched:
            patched.setattr(remote, "_PATIENCE", 0.2)
            process.freeze()
            try:
                with pytest.raises(TimedOut, match="paused"):
                    connection.sendall(bytes(4 << 20))
                with pytest.raises(UdsError):  # half a message has been sent: nothing can follow it
                    agent.info()
            finally:
                process.thaw()


def test_an_interrupted_receive_does_not_keep_its_connection_from_closing(launch, path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(remote, "_GRACE", LIMIT)  # after which it would be killed
    _, agent = launch()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with agent.serve(path, "discard"):
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt), agent.connect(path) as connection:
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                connection.recv(1)
            assert time.monotonic() - began < LIMIT / 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_takes_its_time_is_waited_for(launch, path, monkeypatch):
    _, driver = launch()
    with driver.serve(path, "discard") as server, driver.connect(path) as connection:
        with monkeypatch.context() as patched:
            patched.setattr(remote, "_PATIENCE", 0.05)
            waiting = Calls(server.wait, lambda: server.wait(float("inf")), connection.read_line)
            assert not waiting.done(0.1)
        server.send_signal(signal.SIGTERM)
        assert waiting.done()
        assert (sorted(waiting.results, key=str), waiting.errors) == ([0, 0, b""], [])


# The lease


def test_heartbeats_keep_the_lease(launch, monkeypatch):
    monkeypatch.setattr(remote, "_BEAT", 0.1)
    process, driver = launch("--lease", "1")
    assert not process.exits_within(1.5)
    driver.info()


def test_heartbeats_keep_the_lease_while_the_agent_speaks(fake, monkeypatch):
    monkeypatch.setattr(remote, "_BEAT", 0.1)
    driver, agent = fake()
    agent.settimeout(0.01)
    heard = b""
    end = time.monotonic() + LIMIT
    while heard.count(b"beat") < 3 and time.monotonic() < end:
        agent.sendall(line({"id": 7, "result": None}))
        with contextlib.suppress(socket.timeout):
            heard += agent.recv(1000)
    assert heard.count(b"beat") >= 3
    assert driver.alive


def test_without_heartbeats_the_lease_runs_out(launch):
    process, driver = launch("--lease", "0.5")
    assert process.exits_within(SOON)
    with pytest.raises(AgentGone):
        driver.info()


# Agents that say odd things


def test_garbage_is_the_end(fake):
    driver, agent = fake()
    asking = Calls(driver.info)
    agent.recv(1000)
    agent.sendall(b"Segmentation fault\n")
    assert asking.done(SOON)
    assert "a line is no message" in str(asking.errors[0])
    with pytest.raises(AgentGone, match="a line is no message"):
        driver.info()


def test_answers_that_nobody_waits_for_are_passed_over(fake):
    driver, agent = fake()
    asking = Calls(lambda: driver.ask("something"))
    agent.recv(1000)
    agent.sendall(line({"id": 99, "result": 1}) + line({}) + line({"id": 1, "result": 2}))
    assert asking.done()
    assert asking.results == [2]


def test_the_end_in_mid_answer_is_the_end(fake):
    driver, agent = fake()
    asking = Calls(driver.info)
    agent.recv(1000)
    agent.sendall(b'{"id": 1, "res')
    agent.close()
    assert asking.done(SOON)
    assert [type(error) for error in asking.errors] == [AgentGone]


# Forked children


FORKS = """
import os, socket, subprocess, sys, threading
from udslab.errors import AgentGone
from udslab.remote import Remote, SocketChannel
ours, theirs = socket.socketpair()
with theirs:
    agent = subprocess.Popen([sys.executable, "-m", "udslab.agent"], stdin=theirs, stdout=theirs)
driver = Remote(SocketChannel(ours), "a test")
server = driver.serve(sys.argv[1])
connection = driver.connect(sys.argv[1])
pid = os.fork()
if pid == 0:
    code = 0
    calls = (driver.info, server.wait, server.output, lambda: connection.sendall(b"x"), lambda: driver.tell("beat"))
    for call in calls:
        try:
            call()
        except AgentGone as error:
            code += "forked" in str(error)
    connection.close()
    with server:
        pass
    with driver:
        pass
    driver.close()
    os._exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
connection.sendall(b"still there\\n")
print(connection.read_line(), server.returncode)
# One that lives on holds the connection, and the agent ends all the same.
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(write)
    os.read(read, 1)
    os._exit(0)
driver.close()
print(agent.wait(10))
os.close(write)
os.waitpid(pid, 0)
"""


def test_a_forked_child_neither_uses_nor_closes_it(environment, path):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, path], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "5\nb'STILL THERE\\n' None\n0\n", done.stderr
    assert_gone(path)


# What it takes and gives


def test_a_service_of_this_process_cannot_be_served_there(fake, path):
    with pytest.raises(TypeError, match="name"):
        fake()[0].serve(path, services.SERVICES["echo"])


def test_options_may_be_given_as_here(launch, path):
    path.touch()
    _, driver = launch()
    options = {"type": SocketType.SEQPACKET, "on_existing": OnExisting.UNLINK, "mode": 0o640}
    with driver.serve(path, "echo", **options), driver.connect(path, type=SocketType.SEQPACKET) as connection:
        connection.sendall(b"x")
        assert connection.recv(10) == b"x"
        assert status(path).mode == 0o640


def test_a_server_there_is_waited_for_as_one_here(launch, path):
    _, driver = launch()
    with driver.start([sys.executable, "-m", "udslab", "serve", str(path)]) as process:
        assert wait_until(path, lambda found: found.serving, LIMIT, process, look=driver.status).type == "stream"
    with (
        driver.start(["sh", "-c", "echo no socket today; exit 4"]) as process,
        pytest.raises(UdsError, match="no socket today") as caught,
    ):
        wait_until(path, lambda found: found.serving, LIMIT, process, look=driver.status)
    assert "status 4" in str(caught.value)


def test_what_is_closed_is_forgotten(launch, path):
    _, driver = launch()
    with driver.serve(path) as server:
        connection = driver.connect(path)
        killed = driver.connect(path)
        numbers = [connection._number, killed._number, server._number]
        connection.close()
        os.kill(killed.pid, signal.SIGKILL)
        killed.close()
    for number in numbers:
        with pytest.raises(UdsError) as caught:
            for _ in range(1000):  # until it has ended
                driver.ask("output", child=number)
        assert caught.value.errno == errno.ESRCH


def test_one_is_driven_as_soon_as_it_waits(environment, path, sockets):
    late = []

    def start():
        command = [sys.executable, "-m", "udslab.agent", "--listen", str(path)]
        late.append(Process(command, env=environment))
        ready.set()
        finished.wait(LIMIT)
        late[0].__exit__()

    ready, finished = threading.Event(), threading.Event()
    starting = threading.Thread(target=start)
    starting.start()
    try:
        with drive(path, timeout=LIMIT) as driver:
            assert driver.name == str(path)
            assert driver.info().pid == late[0].pid
    finally:
        finished.set()
        starting.join()


def test_one_that_never_waits_is_timed_out(path):
    with pytest.raises(TimedOut):
        drive(path, timeout=0.05)


def test_addresses_are_taken_in_any_spelling(launch, directory):
    _, driver = launch()
    path = directory / "@s"
    for address in (path, str(path), os.fsencode(path), Address.parse(path), f"unix:{directory}/%40s"):
        with driver.serve(address), driver.connect(address) as connection:
            assert connection.peer_address == Address.parse(path)
            assert_serving(path)
