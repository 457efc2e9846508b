"""status() says what is at a path, of every kind of thing and in every place."""

from __future__ import annotations

import errno
import os
import select
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from udslab import AddressError, State, Status, UdsError, diag, probe, status
from udslab import state as state_module
from udslab.socktype import SocketType
from udslab.spawn import wait_until
from udslab.state import FileKind

STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def with_owners(address):
    """Asked again where none is seen: a dump of the kernel's table can miss a socket while others come and go."""
    return wait_until(address, lambda found: found.pids, look=lambda address: status(address, owners=True))


def brief(found: Status) -> tuple[str, str | None, bool]:
    return found.state.value, found.type and found.type.value, found.certain


# Each kind of thing


@pytest.mark.parametrize("type", [STREAM, SEQPACKET])
def test_a_listening_socket_is_listening(path, make_socket, type):
    make_socket(path, type, backlog=5)
    found = status(path)
    assert brief(found) == ("listening", SocketType.of(type).value, True)
    assert found.serving
    assert found.full is False


@pytest.mark.parametrize("type", [STREAM, SEQPACKET])
def test_a_full_backlog_is_listening_and_full(path, make_socket, type):
    make_socket(path, type, backlog=0)
    make_socket(type=type).connect(str(path))
    found = status(path)
    assert brief(found) == ("listening", SocketType.of(type).value, True)
    assert found.full is True


@pytest.mark.parametrize("type", [STREAM, SEQPACKET, DGRAM])
def test_a_socket_that_does_not_listen_is_bound(path, make_socket, type):
    make_socket(path, type)
    found = status(path)
    assert brief(found) == ("bound", SocketType.of(type).value, True)
    assert found.serving is (type == DGRAM)


def test_a_listener_that_was_shut_down_is_bound(path, make_socket):
    make_socket(path, backlog=5).shutdown(socket.SHUT_RDWR)
    assert brief(status(path)) == ("bound", "stream", True)


def test_a_connected_datagram_server_is_bound(path, directory, make_socket):
    server, other = make_socket(path, DGRAM), make_socket(directory / "other", DGRAM)
    server.connect(other.getsockname())
    assert brief(status(path)) == ("bound", "dgram", True)


def test_the_own_file_of_a_connected_client_is_bound(path, directory, make_socket):
    make_socket(directory / "server", backlog=5)
    client = make_socket(path)
    client.connect(str(directory / "server"))
    assert brief(status(path)) == ("bound", "stream", True)


@pytest.mark.parametrize("type", [STREAM, SEQPACKET, DGRAM])
def test_a_file_whose_socket_was_closed_is_stale(path, make_socket, type):
    make_socket(path, type).close()
    found = status(path)
    assert brief(found) == ("stale", None, True)
    assert found.removable


def test_a_socket_node_that_never_had_a_socket_is_stale(path):
    os.mknod(path, 0o140644)
    assert brief(status(path)) == ("stale", None, True)


def test_a_listener_held_only_by_another_process_is_listening(path, make_socket):
    listener = make_socket(path, backlog=5)
    with subprocess.Popen(["sleep", "60"], pass_fds=[listener.fileno()]) as holder:
        listener.close()
        found = with_owners(path)
        holder.kill()
    assert brief(found) == ("listening", "stream", True)
    assert found.pids == (holder.pid,)


def test_a_descriptor_held_only_in_flight_keeps_the_socket_listening(path, make_socket):
    listener = make_socket(path, backlog=5)
    left, right = socket.socketpair()
    with left, right:
        socket.send_fds(left, [b"x"], [listener.fileno()])
        listener.close()
        assert brief(status(path)) == ("listening", "stream", True)
    assert brief(status(path)) == ("stale", None, True)


def test_nothing_there_is_absent(path):
    assert brief(status(path)) == ("absent", None, True)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_text("x"), FileKind.REGULAR),
        (lambda path: path.mkdir(), FileKind.DIRECTORY),
        (lambda path: os.mkfifo(path), FileKind.FIFO),
    ],
)
def test_another_kind_of_file_is_not_a_socket(path, make, kind):
    make(path)
    found = status(path)
    assert brief(found) == ("not-a-socket", None, True)
    assert found.kind is kind


def test_a_device_is_not_a_socket():
    found = status("/dev/null")
    assert (found.state, found.kind) == (State.NOT_A_SOCKET, FileKind.CHARACTER)


@pytest.mark.parametrize("target", ["missing", "missing/further", "s"])
def test_a_link_that_leads_to_nothing_is_dangling(path, target):
    path.symlink_to(target)  # "s": to itself
    found = status(path)
    assert brief(found) == ("dangling-link", None, True)
    assert found.link


@pytest.mark.parametrize(
    "path_of", [lambda d: d / "missing" / "s", lambda d: d / "file" / "s", lambda d: d / "loop" / "s"]
)
def test_a_path_that_cannot_be_walked_is_unreachable(directory, path_of):
    (directory / "file").write_text("")
    (directory / "loop").symlink_to("loop")
    assert brief(status(path_of(directory))) == ("unreachable", None, True)


def test_a_name_that_no_file_system_takes_is_unreachable(directory):
    assert status(directory / ("x" * 300)).state == "unreachable"
    assert status("/" + "x/" * 3000).state == "unreachable"


def test_addresses_that_cannot_be_are_refused():
    for wrong in ("", b"a\0b"):
        with pytest.raises(AddressError):
            status(wrong)
    with pytest.raises(TypeError):
        status(3)  # type: ignore[arg-type]


# By another name


def test_a_path_bound_relative_is_found_by_its_absolute_one(path, directory, make_socket, monkeypatch):
    monkeypatch.chdir(directory)
    make_socket("s", backlog=5)
    monkeypatch.chdir("/")
    found = with_owners(path)
    assert brief(found) == ("listening", "stream", True)
    assert found.pids == (os.getpid(),)


def test_a_renamed_socket_is_found_at_its_new_path(path, directory, make_socket):
    make_socket(path, backlog=5)
    path.rename(directory / "new")
    found = with_owners(directory / "new")
    assert brief(found) == ("listening", "stream", True)
    assert found.pids == (os.getpid(),)
    assert status(path).state == "absent"


def test_a_socket_is_found_through_a_symbolic_link(path, directory, make_socket):
    make_socket(path, backlog=5)
    (directory / "link").symlink_to("s")
    found = status(directory / "link")
    assert brief(found) == ("listening", "stream", True)
    assert found.link


def test_a_stale_socket_through_a_link_is_not_removable_by_that_path(stale, directory):
    (directory / "link").symlink_to("s")
    found = status(directory / "link")
    assert (found.state, found.link, found.removable) == (State.STALE, True, False)


def test_a_hard_link_reaches_the_same_socket(path, directory, make_socket):
    make_socket(path, backlog=5)
    os.link(path, directory / "other")
    path.unlink()
    assert brief(status(directory / "other")) == ("listening", "stream", True)


def test_a_path_longer_than_sun_path_is_found(directory, monkeypatch, make_socket):
    deep = directory / ("d" * 200)
    deep.mkdir()
    monkeypatch.chdir(deep)
    make_socket("s", backlog=5)
    assert brief(status(deep / "s")) == ("listening", "stream", True)


def test_a_name_that_is_not_utf8_is_found(directory, make_socket):
    name = os.fsencode(directory) + b"/\xff\xfe"
    make_socket(name, backlog=5)
    found = status(name)
    assert brief(found) == ("listening", "stream", True)
    assert str(found.address).endswith("\\xff\\xfe")


def test_a_new_socket_in_the_place_of_an_old_one_is_what_counts(path, make_socket):
    make_socket(path, backlog=5)
    path.unlink()
    assert status(path).state == "absent"
    make_socket(path).close()
    assert status(path).state == "stale"


# Abstract names


def test_an_abstract_name_is_listening_bound_or_absent(directory, make_socket):
    name = f"@{directory}"
    assert brief(status(name)) == ("absent", None, False)
    for type in (STREAM, SEQPACKET):
        with make_socket(f"\0{directory}", type, backlog=1):
            assert brief(status(name)) == ("listening", SocketType.of(type).value, True)
            assert with_owners(name).pids == (os.getpid(),)
    with make_socket(f"\0{directory}", DGRAM):
        found = status(name)
        assert brief(found) == ("bound", "dgram", True)
        assert found.serving


# Nobody notices


def test_a_listening_server_notices_nothing(path, make_socket):
    listener = make_socket(path, backlog=0)
    for _ in range(100):
        assert status(path).full is False
    assert not select.select([listener], [], [], 0)[0]
    make_socket().connect(str(path))  # there is still room for one


def test_a_server_that_greets_on_accept_notices_nothing(path, make_socket):
    listener = make_socket(path, backlog=5)
    accepted = []

    def greet() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                accepted.append(connection.recv(1) if connection.send(b"hello") else b"")
            if accepted[-1] == b"q":
                return

    thread = threading.Thread(target=greet)
    thread.start()
    for _ in range(1000):
        assert status(path).state == "listening"
    client = make_socket()
    client.connect(str(path))
    client.send(b"q")
    thread.join()
    assert accepted == [b"q"]


def test_a_datagram_server_notices_nothing(path, directory, make_socket):
    server = make_socket(path, DGRAM)
    for _ in range(100):
        status(path)
    with pytest.raises(OSError, match="not connected") as error:
        server.getpeername()
    assert error.value.errno == errno.ENOTCONN
    client = make_socket(directory / "client", DGRAM)
    client.sendto(b"x", str(path))
    assert server.recvfrom(1) == (b"x", str(directory / "client"))


def test_nothing_stays_open(path, make_socket):
    make_socket(path, backlog=5)
    before = os.listdir("/proc/self/fd")
    status(path, owners=True)
    assert os.listdir("/proc/self/fd") == before


# Owners


def test_owners_are_found_by_proc_net_unix_where_sock_diag_fails(path, make_socket, monkeypatch):
    make_socket(path, backlog=5)

    def no_handler(*_: object) -> None:
        raise OSError(errno.ENOENT, "no handler")

    monkeypatch.setattr(diag, "_query", no_handler)
    found = with_owners(path)
    assert brief(found) == ("listening", "stream", True)
    assert found.pids == (os.getpid(),)


def test_the_backlog_is_told_with_the_owners(path, make_socket):
    make_socket(path, backlog=7)
    make_socket().connect(str(path))
    assert status(path, owners=True).backlog == (1, 7)


def test_owners_of_a_stale_file_are_none_and_not_asked_is_none(stale):
    assert status(stale, owners=True).pids == ()
    assert status(stale).pids is None


def test_sock_diag_tells_the_name_as_it_was_bound(path, make_socket):
    """Without the NUL that the kernel ends a path with."""
    pathname, abstract = make_socket(path), make_socket(b"\0" + path.name.encode() + b"\0")
    if diag.describe(pathname) is None:
        pytest.skip("this kernel has no sock_diag for AF_UNIX")
    assert diag.describe(pathname).name == bytes(path)
    assert diag.describe(abstract).name == b"\0" + path.name.encode() + b"\0"


def test_sock_diag_describes_our_own_socket(path, make_socket):
    listener = make_socket(path, backlog=7)
    entry = diag.describe(listener)
    if entry is None:
        pytest.skip("this kernel has no sock_diag for AF_UNIX")
    assert entry.file is not None
    assert entry.file[1] == path.stat().st_ino & 0xFFFFFFFF
    assert (entry.type, entry.listening, entry.backlog) == (SocketType.STREAM, True, (0, 7))


def test_as_dict_is_plain_data(path, make_socket):
    make_socket(path, backlog=7)
    facts = status(path, owners=True).as_dict()
    assert facts["path"] == str(path)
    assert facts["state"] == "listening"
    assert facts["type"] == "stream"
    assert facts["pids"] == [os.getpid()]
    assert facts["mode"] == f"{path.stat().st_mode & 0o777:04o}"
    assert {type(value) for value in facts.values()} <= {str, bool, int, float, list, type(None)}


# Other users


def test_another_user_may_not_ask_a_closed_socket(path, directory, make_socket, as_nobody):
    make_socket(path, backlog=5)
    directory.chmod(0o755)
    directory.parent.chmod(0o755)
    path.chmod(0o700)
    source = "import sys, udslab; s = udslab.status(sys.argv[1]); print(s.state, s.certain)"
    done = as_nobody(source, path, directory=directory)
    assert (done.stdout, done.stderr) == ("unknown False\n", "")
    path.chmod(0o722)
    assert as_nobody(source, path, directory=directory).stdout == "listening True\n"
    directory.chmod(0o711)
    assert as_nobody(source, path, directory=directory).stdout == "listening True\n"


def test_another_user_cannot_reach_into_a_private_directory(directory, as_nobody):
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    source = "import sys, udslab; print(udslab.status(sys.argv[1]).state)"
    assert as_nobody(source, closed / "s", directory=directory).stdout == "unreachable\n"


# Other namespaces, mounts and file systems

ASK = """
import json, sys, udslab
found = [udslab.status(path) for path in sys.argv[1:]]
print(json.dumps([[one.state.value, one.type and one.type.value, one.certain] for one in found]))
"""


@pytest.mark.parametrize(
    "options", ["--net", "--pid --fork --mount-proc", "--mount", "--net --pid --fork --mount-proc"]
)
def test_the_same_is_said_from_other_namespaces(path, directory, make_socket, unshare, options):
    make_socket(path, backlog=5)
    make_socket(directory / "bound")
    make_socket(directory / "dgram", DGRAM)
    make_socket(directory / "stale").close()
    found = unshare(options, ASK, path, directory / "bound", directory / "dgram", directory / "stale")
    assert found == [
        ["listening", "stream", True],
        ["bound", "stream", True],
        ["bound", "dgram", True],
        ["stale", None, True],
    ]


IN_MOUNT = """
import json, os, socket, subprocess, sys, udslab
mount, *places = sys.argv[1:]
subprocess.run(mount, shell=True, check=True)
def make(path, type=socket.SOCK_STREAM, backlog=None):
    sock = socket.socket(socket.AF_UNIX, type); sock.bind(path)
    if backlog is not None: sock.listen(backlog)
    return sock
bind_in, look_in = places
kept = [make(bind_in + "/listening", backlog=1), make(bind_in + "/bound"), make(bind_in + "/dgram", socket.SOCK_DGRAM)]
make(bind_in + "/stale").close()
names = ("listening", "bound", "dgram", "stale")
found = [udslab.status(f"{look_in}/{name}", owners=True) for name in names]
print(json.dumps([[one.state.value, one.certain, one.pids == (os.getpid(),)] for one in found]))
"""

CERTAIN = [["listening", True, True], ["bound", True, True], ["bound", True, True], ["stale", True, False]]


@pytest.mark.parametrize(
    ("mount", "bind_in", "look_in"),
    [
        ("mount -t tmpfs none $D/a", "a", "a"),
        ("mkdir $D/l $D/u $D/w; mount -t overlay -o lowerdir=$D/l,upperdir=$D/u,workdir=$D/w none $D/a", "a", "a"),
        ("mount --bind $D/a $D/b", "a", "b"),
        ("mount --bind $D/a $D/b; mount -o remount,ro,bind $D/b", "a", "b"),
        (
            "mount -t tmpfs none $D/b; mkdir $D/l $D/b/u $D/b/w;"
            "mount -t overlay -o lowerdir=$D/l,upperdir=$D/b/u,workdir=$D/b/w none $D/a",
            "a",
            "a",
        ),
    ],
    ids=["tmpfs", "overlay", "bind mount", "read-only bind mount", "overlay on tmpfs and ext4"],
)
def test_it_is_right_on_other_mounts(directory, unshare, mount, bind_in, look_in):
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    script = f"D={directory}; {mount}"
    assert unshare("--mount", IN_MOUNT, script, directory / bind_in, directory / look_in) == CERTAIN


def test_a_layer_of_an_overlay_is_not_certain_when_looked_at_closely(directory, unshare):
    (directory / "a").mkdir()
    (directory / "u").mkdir()
    script = f"D={directory}; mkdir $D/l $D/w; mount -t overlay -o lowerdir=$D/l,upperdir=$D/u,workdir=$D/w none $D/a"
    found = unshare("--mount", IN_MOUNT, script, directory / "a", directory / "u")
    assert found[0] == ["stale", False, False]  # it lives, by another inode


@pytest.mark.skipif(shutil.which("bindfs") is None, reason="needs bindfs, for a FUSE file system")
def test_nothing_is_certain_on_fuse(directory, unshare):
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    found = unshare("--mount", IN_MOUNT, f"bindfs {directory}/a {directory}/b", directory / "b", directory / "b")
    assert [certain for _, certain, _ in found] == [False] * 4


# Where the probe does not calibrate


def test_without_proc_nothing_is_certain(directory, unshare):
    source = """
    import json, socket, subprocess, sys, udslab
    subprocess.run(["umount", "-l", "/proc"], check=True)
    listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
    found = udslab.status(sys.argv[1])
    print(json.dumps([found.state.value, found.certain, udslab.probe.calibrated()]))
    """
    state, certain, calibrated = unshare("--mount", source, directory / "s")
    assert not certain
    assert not calibrated
    assert state == "unknown"


def test_where_the_pair_probe_lies_a_plain_connect_is_asked_and_nothing_is_certain(
    path, directory, make_socket, monkeypatch
):
    monkeypatch.setattr(probe, "calibrated", lambda: False)
    make_socket(path, backlog=5)
    make_socket(directory / "bound")
    make_socket(directory / "dgram", DGRAM)
    make_socket(directory / "stale").close()
    found = [status(directory / name) for name in ("s", "bound", "dgram", "stale")]
    assert [brief(one) for one in found] == [
        ("listening", "stream", False),
        ("bound", "stream", False),
        ("bound", "dgram", False),
        ("stale", None, False),
    ]
    assert not any(one.removable for one in found)


def test_calibration_notices_a_kernel_that_calls_a_stale_file_connected(monkeypatch):
    monkeypatch.setattr(probe, "ask", lambda fd, path: probe.Answer(SocketType.STREAM, listening=True))
    assert probe.calibrated.__wrapped__() is False


def test_it_calibrates_here():
    assert probe.calibrated.__wrapped__() is True


def test_a_file_system_nobody_has_heard_of_is_not_certain(stale, monkeypatch):
    monkeypatch.setattr(state_module, "_LOCAL", set())
    assert brief(status(stale)) == ("stale", None, False)


def test_no_descriptor_left_is_an_error_and_no_state(path, make_socket):
    make_socket(path, backlog=5)
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    spare = [os.dup(0) for _ in range(highest)]  # fill the gaps below the limit
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
        while True:
            try:
                spare.append(os.dup(0))
            except OSError:
                break
        with pytest.raises(UdsError) as error:
            status(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in spare:
            os.close(fd)
    assert error.value.errno == errno.EMFILE
    assert Path(str(error.value.filename)) == path or error.value.filename is None


# What went wrong once


@pytest.mark.parametrize(
    "said",
    [
        [errno.EACCES],
        [errno.ECONNREFUSED, errno.EACCES],
        [errno.ECONNREFUSED, errno.ECONNREFUSED, errno.EACCES],
        [errno.EPROTOTYPE, errno.ECONNREFUSED, errno.EACCES],
    ],
)
def test_a_socket_that_is_closed_to_us_between_two_questions_is_unknown(stale, monkeypatch, said):
    probe.calibrated()  # asks, too, the first time
    answers = iter(said)
    monkeypatch.setattr(probe._Question, "connect", lambda self, _: next(answers))
    assert brief(status(stale)) == ("unknown", None, False)


def test_a_stale_file_whose_directory_cannot_be_looked_at_is_not_certain(stale, monkeypatch):
    monkeypatch.setattr(probe, "_births_are_over", lambda *_: False)
    assert brief(status(stale)) == ("stale", None, False)


def test_owners_are_told_though_somebody_holds_a_path_that_is_too_long_to_be_told(path, directory, make_socket):
    make_socket(path, backlog=5)
    fd = os.open(directory, os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("x" * 250, dir_fd=fd)
            deeper = os.open("x" * 250, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        found = with_owners(path)
    finally:
        os.close(fd)
    assert brief(found) == ("listening", "stream", True)
    assert found.pids == (os.getpid(),)


def test_short_of_descriptors_the_calibration_is_not_settled_for_ever(path, make_socket, monkeypatch):
    make_socket(path, backlog=5)

    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    probe.calibrated.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("udslab.probe._expect", no_descriptor)
        with pytest.raises(UdsError) as error:
            status(path)
    assert error.value.errno == errno.EMFILE
    assert brief(status(path)) == ("listening", "stream", True)


def test_a_layer_of_an_overlay_is_known_by_another_name(directory, unshare):
    (directory / "a").mkdir()
    (directory / "u").mkdir()
    (directory / "link").symlink_to("u")
    script = (
        f"D={directory}; mkdir $D/l $D/w; mount -t overlay -o lowerdir=$D/l,upperdir=$D/link,workdir=$D/w none $D/a"
    )
    found = unshare("--mount", IN_MOUNT, script, directory / "a", directory / "u")
    assert found[0] == ["stale", False, False]


def test_a_file_without_a_kind_is_told():
    with select.epoll() as epoll:
        assert status(f"/proc/self/fd/{epoll.fileno()}").kind is FileKind.OTHER
