"""The lab with servers in containers, without pytest's fixtures: as on this host, but for what cannot be."""

from __future__ import annotations

import os
import select
import threading

import pytest

from udslab import AddressError, Refused
from udslab.backends import Backend
from udslab.containers import Engine, find
from udslab.errors import AgentGone, EngineError
from udslab.lab import Lab, Options
from udslab.testing import assert_gone, assert_serving, assert_stale

LIMIT = 30.0


def assert_empty(path):
    """The directory of a path that was given back holds nothing; it may be kept for the next."""
    directory = os.path.dirname(path)
    assert not os.path.exists(directory) or os.listdir(directory) == []


@pytest.fixture(scope="module")
def container_lab(engine):
    with Lab(Options(Backend.CONTAINER)) as lab:
        yield lab


@pytest.fixture
def lab(container_lab):
    return container_lab


def ask(lab, server, data):
    with lab.connect(server.address, type=server.type, timeout=LIMIT) as client:
        client.sendall(data)
        return client.recv(len(data))


def mine(engine: Engine):
    """What there is of this process's: the sessions of others are not looked at."""
    return {(one.kind, one.name) for one in find(engine) if one.owner.pid == str(os.getpid()) and one.owner.lives}


@pytest.mark.parametrize("type", ["stream", "datagram", "seqpacket"])
def test_a_server_serves_in_its_block_and_has_gone_after_it(lab, type):
    with lab.server(type=type) as server:
        assert_serving(server.path)
        assert ask(lab, server, b"hello") == b"HELLO"
        assert server.received == b"hello"
        assert server.backend == "container"
    assert_gone(server.path)
    assert_empty(server.path)


def test_its_number_is_that_in_the_container(lab):
    with lab.server() as server, lab.connect(server.address) as client:
        assert client.credentials.pid != server.pid
        assert server.pid < 10000 or not os.path.exists(f"/proc/{server.pid}")


def test_a_restart_serves_anew_at_the_same_path_and_keeps_what_was_received(lab):
    with lab.server("echo") as server:
        path, pid = server.path, server.pid
        assert ask(lab, server, b"before") == b"before"
        server.restart()
        assert (server.path, server.pid != pid) == (path, True)
        assert server.received == b"before"
        assert ask(lab, server, b"after") == b"after"
        assert server.received == b"beforeafter"


def test_a_killed_server_leaves_its_file_stale_and_its_record_and_may_be_restarted(lab):
    with lab.server("echo") as server:
        ask(lab, server, b"before")
        server.kill()
        assert_stale(server.path)
        with pytest.raises(Refused), lab.connect(server.path):
            pass
        assert (server.killed, server.received) == (True, b"before")
        server.restart()
        assert ask(lab, server, b"after") == b"after"
        assert (server.killed, server.received) == (False, b"beforeafter")


def test_a_paused_server_listens_and_answers_nobody_until_it_is_resumed(lab):
    with lab.server("echo") as server:
        server.pause()
        with lab.connect(server.address, timeout=LIMIT) as client:
            client.sendall(b"x")
            assert not select.select([client], [], [], 0.05)[0]
            assert_serving(server.path)
            server.resume()
            assert client.recv(1) == b"x"


def test_a_path_of_the_labs_can_be_bound_in_the_container_and_here(lab):
    with lab.path() as path:
        for backend in ("container", "thread", "process", "container"):
            with lab.server(address=path, backend=backend) as server:
                assert ask(lab, server, b"x") == b"X"
            assert_gone(path)
    assert_empty(path)


@pytest.mark.parametrize("where", ["directory/s", "meeting/../../s", "beside"])
def test_a_path_that_the_container_does_not_see_is_refused_and_nothing_is_made(lab, directory, where):
    with lab.path() as inside:
        meeting = os.path.dirname(os.path.dirname(inside))
        path = {
            "directory/s": f"{directory}/s",
            "meeting/../../s": f"{meeting}/../../s",
            "beside": f"{meeting}-beside",
        }[where]
        with pytest.raises(AddressError) as caught, lab.server(address=path):
            pass
        assert str(caught.value) == (
            f"address: {path}: the container does not see this path (EXDEV): take a path from the lab (uds_path, "
            "make_uds_path)"
        )
        assert_gone(path)


def test_the_directory_of_a_path_is_private_to_the_containers_user(lab):
    with lab.path() as path, lab.path(mode=0o711) as other:
        info = os.stat(os.path.dirname(path))
        assert info.st_mode & 0o777 == 0o700
        assert info.st_uid != 0
        assert os.stat(os.path.dirname(other)).st_mode & 0o777 == 0o711


def test_an_obstacle_belongs_to_the_containers_user_wherever_it_is(lab):
    with lab.path() as path, lab.obstacle("link-to-stale", path), lab.obstacle("fifo") as other:
        owner = os.stat(os.path.dirname(path)).st_uid
        assert owner != 0
        assert {os.lstat(each).st_uid for each in (path, f"{path}.stale", other.path)} == {owner}
        with lab.server(address=f"{path}.stale") as server:
            assert ask(lab, server, b"x") == b"X"


def test_one_container_is_made_when_it_is_first_needed_and_kept_and_all_goes_with_the_lab(engine):
    before = mine(engine)
    with Lab() as lab:
        with lab.server():
            assert mine(engine) == before
        lab.prepare("container")
        made = mine(engine) - before
        assert [kind for kind, _ in made] == ["container"]
        with lab.server(backend="container") as one, lab.server(backend="container") as other:
            assert [ask(lab, server, b"x") for server in (one, other)] == [b"X", b"X"]
            assert mine(engine) - before == made
            directory = os.path.dirname(os.path.dirname(one.path))
    assert mine(engine) == before
    assert not os.path.exists(directory)


def test_a_kept_container_that_has_gone_is_made_anew(engine):
    before = mine(engine)
    with Lab(Options(Backend.CONTAINER)) as lab, lab.path() as path:
        with lab.server("echo", path) as server:
            (first,) = mine(engine) - before
            engine.client.api.kill(first[1])
            with pytest.raises(AgentGone):
                server.restart()
        with lab.server("echo", path) as server:
            assert ask(lab, server, b"x") == b"x"
            (second,) = mine(engine) - before
            assert second != first
            assert os.path.dirname(os.path.dirname(server.path)) == os.path.dirname(os.path.dirname(path))
    assert mine(engine) == before


def test_an_image_that_is_not_there_is_told_and_leaves_nothing(engine):
    before = mine(engine)
    with Lab(Options(image="udslab-no-such-image")) as lab:
        with pytest.raises(EngineError, match="udslab-no-such-image"), lab.server(backend="container"):
            pass
        with lab.server() as server:  # the others go on
            assert ask(lab, server, b"x") == b"X"
    assert mine(engine) == before


def test_between_two_uses_it_has_no_thread(lab):
    others = set(threading.enumerate())  # those of the session's containers that are in use, if this worker has any
    with lab.server() as server:
        ask(lab, server, b"x")
        assert [thread for thread in threading.enumerate() if thread not in others and "beats" in thread.name]
    assert set(threading.enumerate()) <= others


def test_a_forked_child_that_leaves_the_labs_block_ends_nothing(engine):
    with Lab(Options(Backend.CONTAINER)) as lab, lab.server("echo") as server:
        pid = os.fork()
        if pid == 0:
            try:
                lab.__exit__()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert ask(lab, server, b"x") == b"x"
