"""What is put in a server's way is there, is in the way, and goes again; and nothing else with it."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from udslab import AddressError, AddressInUse, UdsError, listen, status
from udslab.obstacles import Obstacle, obstacle

STATES = {
    "listener": "listening",
    "bound": "bound",
    "stale": "stale",
    "regular-file": "not-a-socket",
    "directory": "not-a-socket",
    "fifo": "not-a-socket",
    "dangling-link": "dangling-link",
    "missing-parent": "unreachable",
}
ON_DISK = [kind for kind in Obstacle if kind not in (Obstacle.NO_PERMISSION, Obstacle.MISSING_PARENT)]
ANYWHERE = [kind for kind in Obstacle if kind is not Obstacle.NO_PERMISSION]


@pytest.mark.parametrize("kind", ANYWHERE, ids=str)
def test_it_is_there_and_goes_again(path, kind):
    with obstacle(kind, path) as where:
        found = status(where)
        assert found.state == STATES[kind.target or kind]
        assert found.link == ("link" in kind)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("kind", ANYWHERE, ids=str)
def test_plain_bind_fails_with_what_the_kernel_says(path, kind):
    with obstacle(kind, path) as where, pytest.raises(UdsError) as caught:
        listen(where, on_existing="refuse")
    assert caught.value.errno == (errno.ENOENT if kind is Obstacle.MISSING_PARENT else errno.EADDRINUSE)


@pytest.mark.parametrize("kind", ON_DISK, ids=str)
def test_what_comes_in_its_place_is_kept(path, kind):
    with obstacle(kind, path):
        path.rmdir() if kind is Obstacle.DIRECTORY else path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("kind", ON_DISK, ids=str)
def test_what_has_gone_meanwhile_is_no_error(path, kind):
    with obstacle(kind, path):
        path.rmdir() if kind is Obstacle.DIRECTORY else path.unlink()
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("kind", ANYWHERE, ids=str)
def test_what_is_there_already_is_left_alone(path, kind):
    path.write_text("mine")
    with pytest.raises(AddressInUse), obstacle(kind, path):
        pass
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == [path.name]


def test_a_directory_into_which_something_was_put_is_kept(path):
    with obstacle("directory", path):
        (path / "file").write_text("mine")
    assert (path / "file").read_text() == "mine"


def test_a_stale_one_can_be_replaced_and_the_server_stays(path):
    with obstacle("stale", path), listen(path):
        pass
    assert status(path).state == "absent"


def test_nothing_is_left_open_also_when_the_block_fails(path):
    before = sorted(os.listdir("/proc/self/fd"))
    for kind in ANYWHERE:
        with pytest.raises(FileExistsError), obstacle(kind, path):
            raise FileExistsError  # the block's own, which is not taken for one of the path
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert os.listdir(path.parent) == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", ON_DISK, ids=str)
def test_a_forked_child_that_leaves_the_block_takes_nothing_away(path, kind):
    placed = obstacle(kind, path)
    where = placed.__enter__()
    before = sorted(os.listdir(path.parent))
    pid = os.fork()
    if pid == 0:
        try:
            placed.__exit__(None, None, None)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert sorted(os.listdir(path.parent)) == before
    assert os.path.lexists(where)
    placed.__exit__(None, None, None)
    assert os.listdir(path.parent) == []


def test_one_with_connections_that_wait_goes_too(path):
    with obstacle("listener", path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert os.listdir(path.parent) == []


def test_without_permission_nothing_can_be_bound(directory, as_nobody):
    directory.parent.chmod(0o711)
    directory.chmod(0o777)
    source = (
        "import sys\nfrom udslab.obstacles import obstacle\nfrom udslab import listen, status\n"
        "with obstacle('no-permission', sys.argv[1]) as where:\n"
        "    print(status(where).state)\n"
        "    try: listen(where)\n"
        "    except PermissionError: print('refused')\n"
    )
    done = as_nobody(source, directory / "s", directory=directory)
    assert (done.stdout, done.stderr) == ("unreachable\nrefused\n", "")
    assert not (directory / "s").exists()


def test_for_root_there_is_no_path_without_permission(path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with pytest.raises(UdsError, match="root has every permission"), obstacle("no-permission", path):
        pass
    assert os.listdir(path.parent) == []


def test_an_abstract_name_has_nothing_in_its_way():
    with pytest.raises(AddressError), obstacle("stale", "@name"):
        pass


def test_an_unknown_kind_is_an_error(path):
    with pytest.raises(ValueError, match="volcano"), obstacle("volcano", path):
        pass
