"""A server is waited for until it really serves, whatever way it takes there."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from udslab import Address, TimedOut, UdsError
from udslab.obstacles import Obstacle, obstacle
from udslab.ready import Activated, Check, Listening, LogLine, Notify, Readiness, Watcher
from udslab.spawn import Process
from udslab.state import status
from udslab.wire import decode_address

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
BIND = "import os, socket, sys, time\npath = sys.argv[1]\nsock = socket.socket(socket.AF_UNIX)\n"
WAIT = "\nprint('waits', flush=True)\ntime.sleep(60)\n"
SERVERS = {
    "at once": "sock.bind(path); sock.listen()",
    "listens later": "sock.bind(path); time.sleep(0.05); sock.listen()",
    "temporary name": "sock.bind(path + '~'); sock.listen(); time.sleep(0.02); os.rename(path + '~', path)",
    "link": "sock.bind(path + '~'); sock.listen(); time.sleep(0.02); os.link(path + '~', path)",
    "over a file": "open(path, 'w'); sock.bind(path + '~'); sock.listen(); os.rename(path + '~', path)",
    "binds again": "sock.bind(path); sock.close(); os.unlink(path)\n"
    "sock = socket.socket(socket.AF_UNIX); sock.bind(path); sock.listen()",
    "symbolic link": "os.symlink(path + '~', path); time.sleep(0.02); sock.bind(path + '~'); sock.listen()",
    "datagram": "sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); time.sleep(0.02); sock.bind(path)",
    "seqpacket": "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); sock.bind(path); sock.listen()",
}


class Server(Process):
    """What is waited for, with all that it leaves behind: here nothing."""

    def gone(self):
        return None if self.returncode is None else f"has ended with status {self.returncode}"

    def fileno(self):
        return self._pidfd


def says(process, word):
    """Wait until it has written that."""
    end = time.monotonic() + LIMIT
    while word not in process.output():
        assert time.monotonic() < end
        time.sleep(0.002)


class Polled(Server):
    def fileno(self):
        return None


@pytest.fixture
def start(sockets):
    """Starts a server: Python source, which finds ``sock`` and ``path``."""

    def run(source, path, *, kind=Server, env=None):
        command = [sys.executable, "-S", "-c", BIND + source + WAIT, str(path)]
        return sockets.enter_context(kind(command, env=None if env is None else {**os.environ, **env}))

    return run


# The path


@pytest.mark.parametrize("name", SERVERS)
def test_it_serves(start, path, name):
    process = start(SERVERS[name], path)
    found = Readiness(path).wait(process, LIMIT)
    assert found.serving
    assert process.returncode is None
    if not found.link:  # nobody has connected
        with socket.socket(socket.AF_UNIX, found.type.constant) as client:
            client.connect(str(path))


def test_over_a_stale_file(start, stale):
    process = start("time.sleep(0.02); os.unlink(path); sock.bind(path); sock.listen()", stale)
    assert Readiness(stale).wait(process, LIMIT).state == "listening"


def test_in_a_directory_that_is_made_late(start, directory):
    path = directory / "a" / "b" / "s"
    make = (
        "for name in (os.path.dirname(os.path.dirname(path)), os.path.dirname(path)): time.sleep(0.02); os.mkdir(name)"
    )
    process = start(make + "\nsock.bind(path); sock.listen()", path)
    assert Readiness(path).wait(process, LIMIT).state == "listening"


def test_in_a_directory_that_is_replaced(start, directory):
    (directory / "a").mkdir()
    source = "d = os.path.dirname(path); os.rename(d, d + '~'); os.mkdir(d); sock.bind(path); sock.listen()"
    process = start("time.sleep(0.02); " + source, directory / "a" / "s")
    assert Readiness(directory / "a" / "s").wait(process, LIMIT).state == "listening"


def test_a_relative_path(start, directory, monkeypatch):
    monkeypatch.chdir(directory)
    assert Readiness("s").wait(start("time.sleep(0.02); sock.bind(path); sock.listen()", "s"), LIMIT).serving


def test_an_abstract_name(start):
    name = f"udslab-ready-{os.getpid()}"
    process = start("time.sleep(0.02); sock.bind(chr(0) + path); sock.listen()", name)
    assert Readiness(Address.abstract(name.encode())).wait(process, LIMIT).state == "listening"


def test_without_inotify(start, path, monkeypatch):
    monkeypatch.setattr("udslab.libc.inotify_open", lambda: None)
    monkeypatch.setattr(Watcher, "_spare", [])
    process = start(SERVERS["listens later"], path)
    assert Readiness(path).wait(process, LIMIT).state == "listening"


def test_without_a_process(path):
    def later():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            ready.wait(LIMIT)

    ready = threading.Event()
    thread = threading.Thread(target=later)
    thread.start()
    try:
        assert Readiness(path).wait(timeout=LIMIT).state == "listening"
    finally:
        ready.set()
        thread.join()


def test_waiting_leaves_one_descriptor_for_good(directory, make_socket):
    make_socket(directory / "s", backlog=1)
    Readiness(directory / "s").wait()
    before = os.listdir("/proc/self/fd")
    for number in range(50):
        make_socket(directory / str(number), backlog=1).close()
        with contextlib.suppress(TimedOut):
            Readiness(directory / str(number)).wait(timeout=0)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_many_at_a_time(start, directory):
    found = {}

    def wait(number):
        found[number] = Readiness(directory / str(number)).wait(timeout=LIMIT)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    make = "socks = [socket.socket(1) for _ in range(8)]\nfor number in range(8): time.sleep(0.01)"
    start(make + "; socks[number].bind(path + str(number)); socks[number].listen()", f"{directory}/")
    for thread in threads:
        thread.join()
    assert all(found[number].state == "listening" for number in range(8))


# What fails


@pytest.mark.parametrize("kind", [Server, Polled])
def test_a_process_that_dies_is_told_at_once(start, path, kind):
    process = start("print('a\\nb', flush=True); sys.exit('no socket today')", path, kind=kind)
    before = time.monotonic()
    with pytest.raises(UdsError) as caught:
        Readiness(path).wait(process, LIMIT)
    assert time.monotonic() - before < LIMIT / 2
    assert caught.value.errno == errno.ECHILD
    assert str(caught.value) == (
        f"service: {path}: {sys.executable} has ended with status 1 and the path is absent (ECHILD): "
        "nothing serves the path: its last lines: a | b | no socket today"
    )


def test_no_terminal_obeys_what_a_process_has_written(start, path):
    process = start("sys.exit('\x1b[2J\x1b]0;title\x07')", path)
    with pytest.raises(UdsError, match=r"its last lines: \\x1b\[2J\\x1b\]0;title\\x07$"):
        Readiness(path).wait(process, LIMIT)
    with pytest.raises(UdsError, match=r"its last line: \\x1b\[2J\\x1b\]0;title\\x07$"):
        process.wait_serving(path)


def test_one_that_is_killed_leaves_what_it_was(start, path):
    process = start("sock.bind(path); os.kill(os.getpid(), 9)", path)
    with pytest.raises(UdsError, match=r"status -9 and the path is stale .*it has written nothing"):
        Readiness(path).wait(process, LIMIT)


def test_what_it_has_done_before_it_ended_counts(start, path):
    process = start("sys.exit(0)", path)
    process.wait(LIMIT)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        assert Readiness(path).wait(process, LIMIT).serving


def test_one_that_never_listens_is_told_with_what_is_there(start, path):
    process = start("sock.bind(path)", path)
    says(process, "waits")
    with pytest.raises(TimedOut) as caught:
        Readiness(path).wait(process, 0.5)
    assert f"still bound stream pid {process.pid} after 0.5 s" in str(caught.value)
    assert str(caught.value).endswith("its last lines: waits")


# Other conditions


def test_a_line_of_the_log(start, path):
    process = start("time.sleep(0.05); print('ready at last')", path)
    with Readiness(path, [LogLine(r"(?m)^ready \w+ last$")]) as readiness:
        assert readiness.wait(process, LIMIT).state == "absent"
    with pytest.raises(TimedOut, match="it has written no 'never'"):
        Readiness(path, [LogLine("never")]).wait(process, 0.05)


NOTIFY = """
say = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
say.connect(os.environ["NOTIFY_SOCKET"])
"""


def test_what_it_says_itself(start, path, directory):
    with Readiness(path, [Notify(), Listening()], directory=str(directory)) as readiness:
        assert os.listdir(directory) == [os.path.basename(readiness.env["NOTIFY_SOCKET"])]
        source = NOTIFY + "say.send(b'STATUS=x'); sock.bind(path); sock.listen(); time.sleep(0.05)\n"
        source += "print('ready', flush=True); say.send(b'READY=1\\n')"
        process = start(source, path, env=readiness.env)
        assert readiness.wait(process, LIMIT).state == "listening"
        assert process.output().startswith("ready\n")
    assert os.listdir(directory) == ["s"]


def test_what_it_says_stands_in_the_error_and_more_time_is_given(start, path, directory):
    with Readiness(path, [Notify()], directory=str(directory)) as readiness:
        source = NOTIFY + "say.send(b'STATUS=loading\\nEXTEND_TIMEOUT_USEC=800000')"
        process = start(source, path, env=readiness.env)
        says(process, "waits")
        assert select.select([process], [], [], 0)[0] == []
        before = time.monotonic()
        with pytest.raises(TimedOut, match="it has not said READY=1, but STATUS=loading"):
            readiness.wait(process, 0.5)
        assert time.monotonic() - before > 0.8


def test_one_that_ends_without_having_said_so(start, path, directory):
    with Readiness(path, [Notify()], directory=str(directory)) as readiness:
        process = start(NOTIFY + "say.send(b'STATUS=gives up'); sys.exit(3)", path, env=readiness.env)
        with pytest.raises(UdsError, match=r"status 3 .*STATUS=gives up"):
            readiness.wait(process, LIMIT)


def test_notify_needs_a_directory(path):
    with pytest.raises(TypeError, match="directory"):
        Readiness(path, [Notify()])


def test_a_check_of_ones_own(start, path):
    asked = []

    def answers(at):
        asked.append(at)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(at)
        return len(asked) > 3

    process = start("time.sleep(0.02); sock.bind(path); sock.listen()", path)
    assert Readiness(path, [Check(answers)]).wait(process, LIMIT).state == "listening"
    assert set(asked) == {str(path)}

    def never(at):
        raise ConnectionRefusedError("not for you")

    with pytest.raises(TimedOut, match=r"never does not hold \(not for you\)"):
        Readiness(path, [Check(never)]).wait(process, 0.05)


def test_activation_is_asked_for(path):
    readiness = Readiness(path, [Activated()])
    assert decode_address(readiness.options["listen"]) == Address.parse(path)
    assert Readiness(path).options == {}


def test_an_activated_server(environment, path, sockets):
    from test_supervisor import ACTIVATED, DRIVER, Driver, python

    readiness = Readiness(path, [Activated(), LogLine("^1$")])
    ours, theirs = socket.socketpair()
    sockets.enter_context(ours)
    with theirs:
        process = sockets.enter_context(Server([sys.executable, "-c", DRIVER], env=environment, stdin=theirs.fileno()))
    driver = Driver(process, ours)
    driver.start(*python(ACTIVATED), **readiness.options)
    assert readiness.wait(process, LIMIT).state == "listening"
    driver.tell(op="kill")
    driver.finish()


# In time

C_SERVER = r"""
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **words)
{
    struct sockaddr_un address = {AF_UNIX};
    struct timespec now;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path, words[1]);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 10))
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &now);
    dprintf(1, "%ld.%09ld\n", (long)now.tv_sec, now.tv_nsec);
    pause();
}
"""


@pytest.mark.soak
def test_it_is_noticed_in_time(tmp_path, directory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc)")
    program = tmp_path / "server"
    subprocess.run(["cc", "-O1", "-static", "-x", "c", "-o", program, "-"], input=C_SERVER.encode(), check=True)
    late, slow = [], []
    for number in range(50):
        with Server([program, str(directory / str(number))]) as process:
            Readiness(directory / str(number)).wait(process, LIMIT)
            noticed = time.clock_gettime(time.CLOCK_MONOTONIC)
            while not process.output():
                assert process.returncode is None
            late.append(noticed - float(process.output()))
        before = time.monotonic()
        select.select([], [], [], 0.001)
        slow.append(time.monotonic() - before - 0.001)  # how late anybody is woken here
    late.sort()
    slow.sort()
    print(f"noticed late by {late[25] * 1e3:.2f} ms (p50), {late[45] * 1e3:.2f} ms (p90)")
    assert late[25] < 0.005 + 5 * slow[25]  # 1 ms, and what a busy machine takes


def test_a_file_that_was_looked_at_and_has_gone_since_is_not_taken_for_a_new_one(directory):
    path = str(directory / "s")

    def look(address):
        found = status(address)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return found

    with obstacle(Obstacle.LISTENER, path):
        info = os.stat(path)
        with Readiness(path, others=(info.st_dev, info.st_ino)) as readiness, pytest.raises(TimedOut):
            readiness.wait(timeout=0.2, look=look)
