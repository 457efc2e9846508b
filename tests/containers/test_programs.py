"""Programs of a user's own image: no agent goes in."""

from __future__ import annotations

import errno
import os
import re
import time

import pytest

from images import IMAGE
from udslab.deadline import Deadline
from udslab.errors import EngineError, TimedOut, UdsError, Unsupported
from udslab.lab import Lab
from udslab.ready import Activated, LogLine
from udslab.state import State

SERVER = """
import os, signal, socket, sys, threading
stubborn = len(sys.argv) > 2
if not stubborn:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("uid", os.getuid(), os.environ.get("WORD"), flush=True)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
def serve():
    while True:
        sock.accept()[0].sendall(b"hello")
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve()
threading.Thread(target=serve, daemon=True).start()
signal.sigwait([signal.SIGTERM])
os.unlink(sys.argv[1])
"""
COMMAND = ["python3", "-c", SERVER, "{socket}"]


def says(server, text):
    """Wait until that is its log: the engine takes its time with what it has written."""
    deadline = Deadline(30)
    while server.log() != text:
        assert not deadline.passed, server.log()
        time.sleep(0.05)


@pytest.fixture
def here(engine):
    with Lab() as lab:
        yield lab


def test_it_serves_a_client_here_and_leaves_nothing(here, lab):
    with here.process(COMMAND, image=IMAGE, env={"WORD": "so"}) as server, here.connect(server.path) as client:
        assert client.read_exactly(5) == b"hello"
        says(server, f"uid {lab.uid} so\n")
        assert len(server.tree()) == 1
        assert server.returncode is None
        id = server._process._id
    assert server.left == []
    assert id not in {one.id for one in lab.engine.client.containers.list(all=True)}


def test_it_is_restarted_and_paused_and_killed(here, lab):
    line = f"uid {lab.uid} None\n"
    with here.process(COMMAND, image=IMAGE) as server:
        says(server, line)
        server.restart()
        says(server, line * 2)
        server.pause()
        assert server.status().state is State.LISTENING
        server.resume()
        assert server.kill() == -9
        assert server.status().state is State.STALE
        assert server.returncode == -9


def test_a_forked_child_that_leaves_its_block_ends_nothing(here, in_child):
    block = here.process(COMMAND, image=IMAGE)
    server = block.__enter__()

    def leave():
        block.__exit__(None, None, None)
        server._process.__exit__()
        return server.log()

    assert in_child(leave) == ""
    with here.connect(server.path) as client:
        assert client.read_exactly(5) == b"hello"
    block.__exit__(None, None, None)
    assert server.left == []


def test_one_that_ignores_sigterm_is_killed_and_that_is_told(here):
    with here.process([*COMMAND, "stay"], image=IMAGE) as server:
        assert server.stop(grace=0.1) == -9
        (left,) = server.left
        assert left.startswith(f"process {server.pid} (python3 -c ")
        assert left.endswith(", which had to be killed")


def test_one_that_has_no_handler_for_sigterm_is_told_why_it_had_to_be_killed(here):
    command = [*COMMAND[:2], SERVER.replace("SIG_IGN", "SIG_DFL"), "{socket}", "stay"]
    with here.process(command, image=IMAGE) as server:
        if not os.path.exists(f"/proc/{server.pid}"):
            pytest.skip("the engine's processes cannot be seen from here")
        assert server.stop(grace=0.1) == -9
    (left,) = server.left
    assert ", which had to be killed: the kernel does not deliver its stop signal to the first process " in left


def test_its_end_before_it_serves_is_told_with_its_status_and_last_lines(here):
    command = ["python3", "-c", "print('no config'); raise SystemExit(3)"]
    with (
        pytest.raises(UdsError, match=r"has ended with status 3 .* no config") as caught,
        here.process(command, image=IMAGE),
    ):
        pass
    assert caught.value.errno == errno.ECHILD


def test_one_that_does_not_serve_is_given_up(here):
    with (
        pytest.raises(TimedOut, match="it has written no 'ready'"),
        here.process(COMMAND, image=IMAGE, ready=LogLine("ready"), timeout=0.5),
    ):
        pass


def test_an_image_that_is_not_there_is_told(here):
    with pytest.raises(EngineError, match="No such image: nosuch:image"), here.process(["x"], image="nosuch:image"):
        pass


def test_a_socket_cannot_be_handed_over(here):
    with (
        pytest.raises(Unsupported, match="a container is handed over no socket"),
        here.process(COMMAND, image=IMAGE, ready=Activated()),
    ):
        pass


@pytest.mark.parametrize("given", [{"cwd": "/tmp"}, {"umask": 0o077}])
def test_its_directory_and_umask_cannot_be_given(here, given):
    with (
        pytest.raises(Unsupported, match=r"has the directory and umask of its image .*: leave out cwd= and umask="),
        here.process(COMMAND, image=IMAGE, **given),
    ):
        pass


def test_it_serves_a_path_of_the_labs(here):
    with here.path() as path, here.process(COMMAND, path, image=IMAGE), here.connect(path) as client:
        assert client.read_exactly(5) == b"hello"


def test_it_serves_a_path_of_the_labs_that_no_word_of_its_command_names(here):
    source = SERVER.replace("len(sys.argv) == 2", "True").replace("sys.argv[1]", "os.path.join(*sys.argv[1:])")
    command = ["python3", "-c", source]
    with (
        here.path() as path,
        here.process([*command, *os.path.split(path)], path, image=IMAGE),
        here.connect(path) as client,
    ):
        assert client.read_exactly(5) == b"hello"


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user it runs as that")
def test_in_a_directory_where_it_may_not_bind_that_is_told_unless_it_may(here, lab, directory):
    told = f": in the container uid {lab.uid} may not bind in {directory}: chown it, or leave out the path: "
    with pytest.raises(UdsError, match=re.escape(told)):
        here.process(COMMAND, directory / "s", image=IMAGE).__enter__()
    for change in (lambda: directory.chmod(0o703), lambda: (directory.chmod(0o700), os.chown(directory, lab.uid, 0))):
        change()
        with here.process(COMMAND, directory / "s", image=IMAGE), here.connect(directory / "s") as client:
            assert client.read_exactly(5) == b"hello"


def test_as_a_fixture_it_is_no_leak_unless_it_leaves_something(pytester, engine):
    pytester.makepyfile(
        f"""
        import pytest
        COMMAND = {COMMAND!r}
        def test_good(make_uds_process, make_uds_client):
            server = make_uds_process(COMMAND, image={IMAGE!r})
            assert make_uds_client(server.path).read_exactly(5) == b"hello"
            server.restart()
        def test_bad(make_uds_process):
            command = [*COMMAND[:2], COMMAND[2].replace("os.unlink", "print"), *COMMAND[3:]]
            make_uds_process(command, image={IMAGE!r})
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:randomly")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*::test_bad left behind:", "  socket file */s (stale), made by make_uds_process at *"]
    )
