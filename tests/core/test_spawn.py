"""Processes are waited for, ended, and end with whoever started them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from udslab import TimedOut, UdsError, listen
from udslab.spawn import Process, wait_until
from udslab.testing import assert_serving

SERVER = """
import socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
print("bound", flush=True)
time.sleep(float(sys.argv[2]))
sock.listen()
sock.accept()
"""


def python(source: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", source, *map(str, arguments)]


def has_ended(pid: int) -> bool:
    """Whether it has: a zombie, which nobody has fetched yet, has."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_serving_is_waited_for_beyond_the_bind(path):
    with Process(python(SERVER, path, 0.05)) as process:
        assert process.wait_serving(path).state == "listening"
        assert process.returncode is None
        assert process.output() == "bound\n"
    assert process.returncode == -signal.SIGTERM


def test_a_process_that_ends_instead_of_serving_is_said_so_at_once(path):
    with Process(python("import sys; sys.exit('no socket today')")) as process:
        before = time.monotonic()
        with pytest.raises(UdsError, match="no socket today") as error:
            process.wait_serving(path, timeout=30)
        assert time.monotonic() - before < 10
    assert "status 1" in str(error.value)
    assert "absent" in str(error.value)


def test_a_process_that_never_serves_is_timed_out_with_what_is_there(path):
    with Process(python(SERVER, path, 60)) as process:
        wait_until(path, lambda found: found.state == "bound", 30, process)
        with pytest.raises(TimedOut, match="still bound stream"):
            process.wait_serving(path, timeout=0.1)


def test_a_server_of_somebody_elses_is_waited_for(path):
    def later() -> None:
        with listen(path) as listener:
            listener.accept().close()

    thread = threading.Thread(target=later)
    thread.start()
    assert wait_until(path, lambda found: found.serving).state == "listening"
    from udslab import connect

    connect(path).close()
    thread.join()


def test_one_that_ignores_sigterm_is_killed_after_the_grace(path):
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    with Process(python(source), stdout=subprocess.PIPE) as process:
        assert process._popen.stdout is not None
        assert process._popen.stdout.readline() == b"ready\n"
        assert process.end(grace=0.05) == -signal.SIGKILL


def test_waiting_has_a_limit():
    with Process(["sleep", "60"]) as process:
        with pytest.raises(TimedOut, match="sleep"):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_signals_are_back_at_their_defaults():
    source = "import signal; print([signal.getsignal(n) == signal.SIG_IGN for n in (1, 2, 3)])"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Process(python(source)) as process:
            process.wait(10)
            assert process.output() == "[False, False, False]\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_that_is_not_there_is_said_so_and_leaks_nothing():
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        Process(["no-such-command"])
    assert os.listdir("/proc/self/fd") == before


def test_nothing_stays_open():
    before = os.listdir("/proc/self/fd")
    with Process(["true"]) as process:
        process.wait(10)
    assert os.listdir("/proc/self/fd") == before


def test_it_ends_when_its_starter_is_killed(environment):
    source = """
import sys
from udslab.spawn import Process
with Process(["sleep", "60"]) as process:
    print(process.pid, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        python(source), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        pidfd = os.pidfd_open(child)
        starter.kill()
        assert select.select([pidfd], [], [], 10)[0], "it lives on"
        os.close(pidfd)
    assert has_ended(child)


def test_assertions_hold_while_it_serves(path):
    with Process(python(SERVER, path, 0)) as process:
        process.wait_serving(path)
        assert assert_serving(path).state == "listening"


def test_what_it_has_started_ends_with_it(tmp_path):
    with Process(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as process:
        assert process._popen.stdout is not None
        pidfd = os.pidfd_open(int(process._popen.stdout.readline()))
    assert select.select([pidfd], [], [], 10)[0], "it lives on"
    os.close(pidfd)


def test_signals_are_let_through():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with Process(["sleep", "60"]) as process:
            assert process.end(grace=10) == -signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
