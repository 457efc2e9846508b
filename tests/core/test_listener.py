"""listen() and bind(): what happens to what is in the way, modes and groups, and what closing removes."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from udslab import (
    AccessDenied,
    AddressError,
    AddressInUse,
    NoSuchPath,
    PathLost,
    SocketType,
    TimedOut,
    UdsError,
    bind,
    connect,
    inherited,
    libc,
    listen,
    socketfile,
    status,
)
from udslab.errors import Stage
from udslab.socketfile import open_directory, remove_pinned, rename_noreplace
from udslab.testing import assert_gone, assert_in_use, assert_serving, assert_stale, assert_untouched


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# Listening and closing


@pytest.mark.parametrize("type", ["stream", "seqpacket"])
def test_it_listens_accepts_and_removes_its_file_at_close(path, type):
    with listen(path, type=type) as listener:
        assert assert_serving(path).type == type
        with connect(path, type=type) as client, listener.accept() as connection:
            client.send(b"hello")
            assert connection.recv(10) == b"hello"
            assert connection.credentials.pid == os.getpid()
    assert os.listdir(path.parent) == []


def test_bind_gives_a_datagram_socket_and_removes_its_file_at_close(path):
    with bind(path) as sock:
        assert isinstance(sock, socket.socket)
        assert assert_serving(path).type == "dgram"
        with connect(path, type="dgram") as client:
            client.send(b"hello")
        assert sock.recv(10) == b"hello"
    assert os.listdir(path.parent) == []


def test_bind_takes_any_type_and_does_not_listen(path):
    with bind(path, type="stream"):
        assert assert_in_use(path).state == "bound"
    assert_gone(path)


def test_listening_is_for_stream_and_seqpacket(path):
    with pytest.raises(AddressError) as error:
        listen(path, type="dgram")
    assert error.value.errno == errno.EOPNOTSUPP
    assert_gone(path)


def test_closing_twice_is_harmless(path):
    listener = listen(path)
    listener.close()
    with listen(path):
        listener.close()
        assert_serving(path)


def test_the_backlog_admits_one_more_than_its_number(path):
    with listen(path, backlog=2):
        clients = [connect(path, timeout=1) for _ in range(3)]
        with pytest.raises(TimedOut):
            connect(path, timeout=0.05)
        for client in clients:
            client.close()


def test_nobody_connects_in_time_is_timed_out_at_accept(path):
    with listen(path) as listener:
        listener.socket.settimeout(0.02)
        with pytest.raises(TimedOut) as error:
            listener.accept()
        assert error.value.stage is Stage.ACCEPT
        listener.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_relative_path_is_bound_as_it_is_given(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with listen("s") as listener:
        assert str(listener.address) == "s"
        monkeypatch.chdir("/")
    assert_gone(path)


def test_a_file_descriptor_is_not_leaked(path):
    before = os.listdir("/proc/self/fd")
    listen(path).close()
    bind(path).close()
    with pytest.raises(AddressInUse), listen(path):
        listen(path)
    with pytest.raises(NoSuchPath):
        listen(path / "missing" / "s")
    assert os.listdir("/proc/self/fd") == before


# What is in the way


@pytest.mark.parametrize("make", [listen, bind])
def test_a_stale_file_is_replaced(stale, make):
    with make(stale):
        assert_in_use(stale)
        assert os.listdir(stale.parent) == ["s"]
    assert_gone(stale)


@pytest.mark.parametrize("type", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_stale_file_of_another_type_is_replaced(path, make_socket, type):
    make_socket(path, type).close()
    with listen(path):
        assert_serving(path)


OBSTACLES = {
    "a live listener": lambda path, make: make(path, backlog=1),
    "a full listener": lambda path, make: (make(path, backlog=0), make().connect(str(path))),
    "a bound socket": lambda path, make: make(path),
    "a datagram socket": lambda path, make: make(path, socket.SOCK_DGRAM),
    "a listener that was shut down": lambda path, make: make(path, backlog=1).shutdown(socket.SHUT_RDWR),
    "a regular file": lambda path, make: path.write_text("somebody's work"),
    "an empty directory": lambda path, make: path.mkdir(),
    "a FIFO": lambda path, make: os.mkfifo(path),
    "a dangling link": lambda path, make: path.symlink_to("nowhere"),
    "a link to a stale socket": lambda path, make: (make(path.with_name("t")).close(), path.symlink_to("t")),
    "a link to a file": lambda path, make: (path.with_name("t").write_text("work"), path.symlink_to("t")),
}


@pytest.mark.parametrize("policy", ["replace-stale", "refuse"])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_not_stale_is_refused_and_kept(path, make_socket, obstacle, policy):
    kept = OBSTACLES[obstacle](path, make_socket)
    before = sorted(os.listdir(path.parent))
    with assert_untouched(path), pytest.raises(AddressInUse) as error:
        listen(path, on_existing=policy)
    assert error.value.errno == errno.EADDRINUSE
    assert error.value.stage is Stage.BIND
    assert str(path) in str(error.value)
    assert sorted(os.listdir(path.parent)) == before
    del kept


def test_the_error_says_what_is_in_the_way(path, make_socket):
    make_socket(path, backlog=1)
    with pytest.raises(AddressInUse, match="a stream server listens there") as error:
        listen(path)
    assert error.value.status is not None
    assert error.value.status.state == "listening"


def test_refuse_refuses_a_stale_file_too(stale):
    with pytest.raises(AddressInUse):
        listen(stale, on_existing="refuse")
    assert_stale(stale)


def test_what_is_not_certainly_stale_is_kept(stale, monkeypatch):
    monkeypatch.setattr("udslab.probe.calibrated", lambda: False)
    with pytest.raises(AddressInUse, match="not certain"):
        listen(stale)
    assert stale.exists()


def test_unlink_takes_a_live_servers_path_from_it(path, make_socket):
    victim = make_socket(path, backlog=1)
    with listen(path, on_existing="unlink") as thief:
        with connect(path):
            thief.accept().close()
        victim.setblocking(False)
        with pytest.raises(BlockingIOError):
            victim.accept()


def test_unlink_deletes_a_users_file(path):
    path.write_text("somebody's work")
    with listen(path, on_existing="unlink"):
        assert_serving(path)
    assert_gone(path)


def test_unlink_does_not_delete_a_directory(path):
    path.mkdir()
    with pytest.raises(UdsError) as error:
        listen(path, on_existing="unlink")
    assert error.value.errno == errno.EISDIR
    assert path.is_dir()


def test_an_unknown_policy_is_refused(path):
    with pytest.raises(ValueError, match="perhaps"):
        listen(path, on_existing="perhaps")


def test_a_stale_file_that_may_not_be_removed_is_said_so(path, directory, make_socket, as_nobody):
    make_socket(path).close()
    path.chmod(0o777)
    directory.parent.chmod(0o755)
    directory.chmod(0o1777)  # sticky, as /tmp: others' files stay
    source = "import sys, udslab; udslab.listen(sys.argv[1])"
    done = as_nobody(source, path, directory=directory)
    assert "AddressInUse" in done.stderr
    assert "stale, and this user may not remove it" in done.stderr
    assert_stale(path)


def test_a_directory_that_may_be_searched_and_not_read_can_be_bound_in(path, directory, as_nobody):
    source = "import sys, udslab; udslab.listen(sys.argv[1]).close(); print('listened')"
    directory.parent.chmod(0o755)
    (directory / "package").mkdir()
    (directory / "package").rmdir()
    drop = directory / "drop"
    drop.mkdir()
    directory.chmod(0o755)
    drop.chmod(0o333)
    done = as_nobody(source, drop / "s", directory=directory)
    assert done.stdout == "listened\n", done.stderr


@pytest.mark.parametrize("name", ["missing/s", "file/s"])
def test_a_missing_parent_is_said_so(directory, name):
    (directory / "file").write_text("")
    with pytest.raises(NoSuchPath) as error:
        listen(directory / name)
    assert error.value.stage is Stage.BIND


def test_no_permission_is_said_so(directory, as_nobody):
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    done = as_nobody("import sys, udslab; udslab.listen(sys.argv[1])", directory / "s", directory=directory)
    assert "AccessDenied: bind: " in done.stderr


def test_a_read_only_mount_is_said_so(directory, unshare):
    source = """
    import json, subprocess, sys, udslab
    subprocess.run(f"mount --bind {sys.argv[1]} {sys.argv[1]}; mount -o remount,ro,bind {sys.argv[1]}", shell=True)
    try:
        udslab.listen(sys.argv[1] + "/s")
    except udslab.UdsError as error:
        print(json.dumps([error.errno_name, error.stage.code]))
    """
    assert unshare("--mount", source, directory) == ["EROFS", -2]


# Removing nothing but what was looked at


def test_what_has_come_instead_of_the_pinned_file_is_kept(path, make_socket):
    make_socket(path).close()
    with open_directory(os.fsencode(path.parent)) as dir_fd:
        fd = os.open(path, os.O_PATH)
        path.unlink()
        make_socket(path, backlog=1)
        assert remove_pinned(dir_fd, b"s", os.fstat(fd)) is False
        os.close(fd)
    assert_serving(path)


def test_what_comes_at_the_last_moment_is_put_back(path, make_socket, monkeypatch):
    make_socket(path).close()
    rename = os.rename

    def bind_first(old, new, **directories):
        path.unlink()
        make_socket(path, backlog=1)
        rename(old, new, **directories)

    with open_directory(os.fsencode(path.parent)) as dir_fd:
        fd = os.open(path, os.O_PATH)
        monkeypatch.setattr(os, "rename", bind_first)
        assert remove_pinned(dir_fd, b"s", os.fstat(fd)) is False
        os.close(fd)
    assert_serving(path)
    assert os.listdir(path.parent) == ["s"]


def test_what_cannot_be_put_back_is_kept_and_named(path, make_socket, monkeypatch):
    make_socket(path).close()
    rename = os.rename

    def two_come(old, new, **directories):
        path.unlink()
        make_socket(path, backlog=1)
        rename(old, new, **directories)
        make_socket(path, backlog=1)

    with open_directory(os.fsencode(path.parent)) as dir_fd:
        fd = os.open(path, os.O_PATH)
        monkeypatch.setattr(os, "rename", two_come)
        with pytest.raises(PathLost) as error:
            remove_pinned(dir_fd, b"s", os.fstat(fd))
        os.close(fd)
    assert_serving(path)
    (aside,) = (name for name in os.listdir(path.parent) if name != "s")
    assert aside in str(error.value)
    assert_serving(path.with_name(aside))


@pytest.mark.parametrize("native", [True, False], ids=["renameat2", "link"])
def test_rename_noreplace_replaces_nothing(directory, make_socket, monkeypatch, native):
    if not native:
        monkeypatch.setattr(libc, "rename_noreplace", lambda *_: False)
    make_socket(directory / "a").close()
    make_socket(directory / "b").close()
    with open_directory(os.fsencode(directory)) as dir_fd:
        with pytest.raises(FileExistsError):
            rename_noreplace(dir_fd, b"a", b"b")
        rename_noreplace(dir_fd, b"a", b"c")
    assert sorted(os.listdir(directory)) == ["b", "c"]


def test_closing_keeps_what_another_has_put_there(path, make_socket):
    with listen(path):
        path.unlink()
        make_socket(path, backlog=1)
    assert_serving(path)


def test_closing_keeps_a_regular_file_that_has_come_instead(path):
    with listen(path):
        path.unlink()
        path.write_text("somebody's work")
    assert path.read_text() == "somebody's work"


def test_closing_after_the_file_has_gone_is_harmless(path):
    with listen(path):
        path.unlink()


def test_closing_follows_the_directory_and_not_its_name(path):
    moved = path.parent.with_name("moved")
    with listen(path):
        path.parent.rename(moved)
        path.parent.mkdir()
        path.write_text("somebody's work")
    assert os.listdir(moved) == []
    assert path.read_text() == "somebody's work"


def test_a_renamed_file_is_not_removed(path):
    with listen(path):
        path.rename(path.with_name("t"))
    assert_stale(path.with_name("t"))


def test_a_forked_child_does_not_remove_it(path):
    source = """
import os, sys, udslab
listener = udslab.listen(sys.argv[1])
if os.fork() == 0:
    listener.close()
    os._exit(0)
os.wait()
print(udslab.status(sys.argv[1]).state, flush=True)
listener.close()
print(udslab.status(sys.argv[1]).state)
"""
    done = subprocess.run([sys.executable, "-c", source, path], capture_output=True, text=True, check=True)
    assert done.stdout == "listening\nabsent\n"


def test_a_detached_socket_leaves_its_file_to_its_new_owner(path):
    listener = listen(path)
    with socket.socket(fileno=listener.socket.detach()):
        assert_serving(path)
    assert_stale(path)


def test_a_file_that_cannot_be_removed_any_more_is_said_so_and_the_socket_closed(path, directory, as_nobody):
    directory.parent.chmod(0o755)
    home = directory / "home"
    home.mkdir()
    directory.chmod(0o755)
    os.chown(home, 65534, 65534)
    source = """
import os, sys, udslab
listener = udslab.listen(sys.argv[1] + "/s")
os.chmod(sys.argv[1], 0o555)
try:
    listener.close()
except udslab.UdsError as error:
    print(error.stage.word, error.errno_name, listener.fileno())
"""
    assert as_nobody(source, home, directory=directory).stdout == "close EACCES -1\n"


def test_a_path_taken_while_it_is_bound_is_noticed(path, make_socket, monkeypatch):
    make = socketfile.SocketFile.__init__

    def taken(self, sock, address, dir_fd, name, info):
        path.unlink()
        make_socket(path, backlog=1)
        make(self, sock, address, dir_fd, name, path.stat())

    monkeypatch.setattr(socketfile.SocketFile, "__init__", taken)
    with pytest.raises(PathLost):
        listen(path)
    assert_serving(path)


def test_a_directory_replaced_while_it_is_bound_is_noticed_and_nothing_stays_behind(path, monkeypatch):
    moved = path.parent.with_name("moved")

    @contextmanager
    def replace_directory(*_):
        path.parent.rename(moved)
        path.parent.mkdir()
        yield

    monkeypatch.setattr("udslab.listener.lock", replace_directory)
    with pytest.raises(PathLost):
        listen(path)
    assert os.listdir(path.parent) == os.listdir(moved) == []


# Mode and group


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
@pytest.mark.parametrize("make", [listen, bind])
def test_the_mode_is_exact_whatever_the_umask(path, umask, mask, mode, make):
    umask(mask)
    with make(path, mode=mode):
        assert mode_of(path) == mode


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_without_a_mode_the_umask_decides(path, umask, mask):
    umask(mask)
    with listen(path):
        assert mode_of(path) == 0o777 & ~mask


def test_the_file_is_never_more_open_than_its_mode(path, umask, monkeypatch):
    umask(0)
    seen = []
    make = socketfile.SocketFile.__init__

    def look(self, sock, address, dir_fd, name, info):
        seen.append((stat.S_IMODE(info.st_mode), info.st_gid))
        make(self, sock, address, dir_fd, name, info)

    monkeypatch.setattr(socketfile.SocketFile, "__init__", look)
    listen(path, mode=0o600).close()
    assert seen == [(0o600, os.getgid())]  # from bind on


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to a group")
@pytest.mark.parametrize("group", [65534, "nogroup"])
def test_the_group_is_set_and_the_wrong_group_never_gets_in(path, umask, monkeypatch, group):
    umask(0)
    seen = []
    chown = os.chown

    def look(target, uid, gid):
        seen.append(stat.S_IMODE(os.stat(target).st_mode))
        chown(target, uid, gid)

    monkeypatch.setattr(os, "chown", look)
    with listen(path, group=group):
        assert (mode_of(path), path.stat().st_gid) == (0o660, 65534)
    assert seen == [0o600]


def test_an_unknown_group_is_refused_before_anything_is_made(path):
    with pytest.raises(UdsError, match="there is no group 'no-such-group'"):
        listen(path, group="no-such-group")
    assert_gone(path)


def test_a_group_that_may_not_be_given_leaves_nothing_behind(path, directory, as_nobody):
    directory.parent.chmod(0o755)
    directory.chmod(0o777)
    done = as_nobody("import sys, udslab; udslab.listen(sys.argv[1], group=0)", path, directory=directory)
    assert "EPERM" in done.stderr
    assert_gone(path)


@pytest.mark.parametrize("mode", [-1, 0o1000])
def test_a_mode_that_is_none_is_refused(path, mode):
    with pytest.raises(ValueError, match="mode"):
        listen(path, mode=mode)


@pytest.mark.parametrize("group", [-1, 0xFFFFFFFF, "4294967295", 1 << 40])
def test_a_group_id_that_is_none_is_refused(path, group):
    with pytest.raises(ValueError, match="group"):
        listen(path, group=group)
    assert_gone(path)


@pytest.mark.parametrize("backlog", [-1, 1 << 31])
def test_a_backlog_that_is_none_is_refused(path, backlog):
    with pytest.raises(ValueError, match="backlog"):
        listen(path, backlog=backlog)
    assert_gone(path)


# Abstract names and long paths


def test_an_abstract_name_is_listened_on_and_leaves_no_file(directory):
    with listen(f"@{directory}") as listener:
        assert listener.file is None
        with connect(f"@{directory}"):
            listener.accept().close()
        with pytest.raises(AddressInUse):
            listen(f"@{directory}")
    assert os.listdir(directory) == []


@pytest.mark.parametrize("length", [108, 109, 5000])
def test_an_over_long_path_is_refused_with_its_length_and_the_limit(length):
    with pytest.raises(AddressError) as error:
        listen("/" + "x" * (length - 1))
    assert error.value.errno == errno.ENAMETOOLONG
    assert f"{length} bytes" in str(error.value)
    assert "107" in str(error.value)


@pytest.fixture
def long_path(directory):
    deep = directory / ("d" * 120)
    deep.mkdir()
    return deep / ("s" * 120)


def test_an_alias_serves_a_path_that_does_not_fit(long_path):
    with listen(long_path, long_path="alias") as listener:
        assert os.listdir(long_path.parent) == [long_path.name]
        with connect(long_path) as client, listener.accept() as connection:
            client.send(b"x")
            assert connection.recv(1) == b"x"
    assert os.listdir(long_path.parent) == []


def test_an_alias_replaces_what_is_stale_and_nothing_else(long_path):
    listener = listen(long_path, long_path="alias")
    os.close(listener.socket.detach())
    assert_stale(long_path)
    with listen(long_path, long_path="alias"):
        with assert_untouched(long_path), pytest.raises(AddressInUse):
            listen(long_path, long_path="alias")
        assert os.listdir(long_path.parent) == [long_path.name]
    long_path.write_text("somebody's work")
    with assert_untouched(long_path), pytest.raises(AddressInUse):
        listen(long_path, long_path="alias")
    assert os.listdir(long_path.parent) == [long_path.name]


def test_a_path_that_fits_has_no_alias(path):
    with listen(path, long_path="alias") as listener:
        assert str(listener.address) == str(path)


def test_an_unknown_way_with_long_paths_is_refused(path):
    with pytest.raises(ValueError, match="long_path"):
        listen(path, long_path="shorten")


def test_a_107_byte_path_is_listened_on(directory):
    path = directory / ("x" * (107 - len(str(directory)) - 1))
    assert len(str(path)) == 107
    with listen(path), connect(path):
        assert_serving(path)


# Inherited sockets

TAKE_OVER = """
import os, sys, udslab
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"] or str(os.getpid())
for one in udslab.inherited():
    inheritable = os.get_inheritable(one.fileno())
    print(type(one).__name__, one.address, getattr(one, "inherited", "-"), inheritable)
    one.close()
print(sorted(key for key in os.environ if key.startswith("LISTEN_")), udslab.inherited())
"""


def take_over(*sockets: socket.socket, pid: str = "", count: str | None = None) -> subprocess.CompletedProcess[str]:
    """A process that has these sockets as descriptors 3, 4, …, as a service manager hands them over."""
    environment = {**os.environ, "LISTEN_PID": pid, "LISTEN_FDS": count or str(len(sockets))}
    fds = [sock.fileno() for sock in sockets]
    # Away from the numbers that they are to have, then there.
    source = """
import os, sys
for number, fd in enumerate(sys.argv[2:]):
    os.dup2(int(fd), 100 + number)
for number in range(len(sys.argv) - 2):
    os.dup2(100 + number, 3 + number)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
    return subprocess.run(
        [sys.executable, "-c", source, TAKE_OVER, *map(str, fds)],
        env=environment,
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_inherited_sockets_are_taken_over_once_and_their_files_left_alone(path, directory, make_socket):
    listener, receiver = make_socket(path, backlog=1), make_socket(directory / "d", socket.SOCK_DGRAM)
    done = take_over(listener, receiver)
    assert done.stdout.splitlines() == [
        f"Listener {path} True False",
        f"BoundSocket {directory / 'd'} - False",
        "[] []",
    ], done.stderr
    assert_serving(path)
    assert_serving(directory / "d")


def test_sockets_for_another_process_are_not_taken(path, make_socket):
    done = take_over(make_socket(path, backlog=1), pid="1")
    assert done.stdout == "['LISTEN_FDS', 'LISTEN_PID'] []\n"


def test_a_descriptor_that_is_no_socket_is_said_so():
    with open(os.devnull) as file:
        done = take_over(file)  # type: ignore[arg-type]
    assert "UdsError: socket: descriptor 3: " in done.stderr
    assert "ENOTSOCK" in done.stderr


def test_a_socket_of_another_family_is_said_so():
    with socket.socket(socket.AF_INET) as sock:
        done = take_over(sock)
    assert "EAFNOSUPPORT" in done.stderr


def test_listen_fds_that_is_no_number_is_said_so(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    with pytest.raises(UdsError, match="LISTEN_FDS"):
        inherited()


def test_socket_types_have_the_usual_words():
    assert SocketType("datagram") is SocketType.DGRAM
    assert SocketType.of(socket.SOCK_SEQPACKET) is SocketType.SEQPACKET
    with pytest.raises(ValueError, match="raw"):
        SocketType("raw")


def test_access_denied_is_a_permission_error():
    assert issubclass(AccessDenied, PermissionError)
    assert status("/").state == "not-a-socket"


# What went wrong once


def test_a_stale_file_is_replaced_though_there_is_no_time_to_wait(stale):
    with listen(stale, lock_timeout=0):
        assert_serving(stale)


def test_an_alias_is_known_by_the_address_that_was_asked_for(long_path):
    with listen(long_path, long_path="alias") as listener, connect(listener.address):
        assert str(listener.address) == str(long_path)


@pytest.mark.parametrize("name", ["n" * 256, "name/"])
def test_an_alias_that_cannot_be_put_into_place_leaves_nothing(directory, name):
    with pytest.raises(UdsError):
        listen(f"{directory}/{'./' * 60}{name}", long_path="alias")
    assert os.listdir(directory) == []


def test_an_abstract_name_has_no_mode(directory):
    with pytest.raises(AddressError, match="no mode"):
        listen(f"@{directory}", mode=0o600)


def test_a_failure_after_bind_leaves_nothing_behind(path, monkeypatch):
    def no_descriptor(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("udslab.listener.SocketFile", no_descriptor)
    with pytest.raises(UdsError) as error:
        listen(path)
    assert error.value.errno == errno.EMFILE
    assert os.listdir(path.parent) == []


def test_a_listener_is_closed_without_a_spare_descriptor(path, monkeypatch):
    listener = listen(path)

    def no_descriptor(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", no_descriptor)
    listener.close()
    monkeypatch.undo()
    assert os.listdir(path.parent) == []


def test_what_cannot_be_renamed_back_for_any_reason_is_named(path, make_socket, monkeypatch):
    make_socket(path).close()
    pinned = path.stat()
    rename = os.rename

    def bind_first(old, new, **directories):
        path.unlink()
        make_socket(path, backlog=1)
        rename(old, new, **directories)

    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with open_directory(os.fsencode(path.parent)) as dir_fd:
        hold = os.open(path, os.O_PATH)
        monkeypatch.setattr(os, "rename", bind_first)
        monkeypatch.setattr(libc, "rename_noreplace", lambda *_: False)
        monkeypatch.setattr(os, "link", refused)
        with pytest.raises(PathLost, match=r"is kept in the same directory as \.udslab-"):
            remove_pinned(dir_fd, b"s", pinned)
        os.close(hold)


def test_one_bad_descriptor_does_not_close_the_others(path, make_socket, monkeypatch):
    listener = make_socket(path, backlog=1)
    good, bad = 200, 201
    os.dup2(listener.fileno(), good)
    os.dup2(os.open(os.devnull, os.O_RDONLY), bad)
    monkeypatch.setattr("udslab.listener._FIRST_INHERITED", good)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(UdsError, match=f"descriptor {bad}"):
        inherited()
    listener.close()
    assert_serving(path)
    os.close(good)
    os.close(bad)


def test_a_datagram_that_comes_at_once_tells_who_sent_it(path):
    with bind(path, pass_credentials=True) as sock, connect(path, type="dgram") as client:
        client.send(b"x")
        _, ancillary, _, _ = sock.recvmsg(10, socket.CMSG_SPACE(12))
        assert int.from_bytes(ancillary[0][2][:4], sys.byteorder) == os.getpid()
