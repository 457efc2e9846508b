"""Who called, by the file that the caller has bound: every check, and how an identity is stolen in spite of them."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest

from udslab import Address, CallerRejected, Connection, Stage, connect, listen, status
from udslab.caller import FileIdentity, caller_by_file, peer_credentials
from udslab.spawn import Process


@pytest.fixture
def call(path, directory, sockets):
    """Connects with `bind` and gives back the client, the client's path, and what the server has accepted."""
    listener = sockets.enter_context(listen(path))

    def run(bind=None, mode=0o700):
        own = directory / "client" if bind is None else bind
        client = sockets.enter_context(connect(path, bind=own))
        if bind is None:
            own.chmod(mode)
        return client, own, sockets.enter_context(listener.accept())

    return run


def rejected(accepted, stage, code, **options):
    """The rejection, which must be of this stage and code."""
    with pytest.raises(CallerRejected) as caught:
        caller_by_file(accepted, **options)
    error = caught.value
    assert (error.stage, error.code) == (stage, code)
    assert error.hint
    assert "\n" not in str(error)
    return error


# The way it is meant


def test_the_owner_of_the_callers_file_is_the_caller_and_the_file_is_removed(call):
    _, own, accepted = call()
    identity = caller_by_file(accepted)
    assert identity == FileIdentity(Address.parse(own), os.geteuid(), os.getegid(), identity.age)
    assert 0 <= identity.age < 10
    assert not own.exists()


def test_it_works_for_the_labs_own_client_file(call, sockets):
    client, _, accepted = call("auto")
    assert caller_by_file(accepted).uid == os.geteuid()
    assert not os.path.exists(client.getsockname())


def test_it_works_for_a_plain_socket(path, directory, make_socket, sockets):
    server = make_socket(path, backlog=1)
    client = make_socket(directory / "client")
    (directory / "client").chmod(0o700)
    client.connect(str(path))
    accepted = sockets.enter_context(server.accept()[0])
    assert caller_by_file(accepted).uid == os.geteuid()


def test_the_file_can_be_kept(call):
    _, own, accepted = call()
    assert caller_by_file(accepted, unlink=False).uid == os.geteuid()
    assert own.exists()


def test_a_second_look_finds_nothing(call):
    _, _, accepted = call()
    caller_by_file(accepted)
    assert rejected(accepted, Stage.CALLER_NAME, -2).errno == errno.ENOENT


def test_a_name_that_is_not_utf8(call, directory):
    own = os.fsencode(directory) + b"/\xff\n"
    _, _, accepted = call(own)
    os.chmod(own, 0o700)
    assert caller_by_file(accepted).path.name == own
    assert os.listdir(os.fsencode(directory)) == [b"s"]


def test_the_longest_path(call, directory):
    own = os.fsencode(directory).ljust(106, b"/") + b"c"
    assert len(own) == 107
    _, _, accepted = call(own)
    os.chmod(own, 0o700)
    assert caller_by_file(accepted).path.name == own


# What is wrong


def test_a_caller_that_has_bound_nothing_has_a_bad_filename(path, sockets):
    with listen(path) as listener:
        sockets.enter_context(connect(path))
        accepted = sockets.enter_context(listener.accept())
        assert "(unnamed)" in str(rejected(accepted, Stage.CALLER_NAME, -2))


def test_a_caller_with_an_abstract_name_has_a_bad_filename(call):
    _, _, accepted = call(b"@udslab test " + os.urandom(8))
    rejected(accepted, Stage.CALLER_NAME, -2)


def test_a_file_that_has_gone_is_a_bad_filename(call):
    _, own, accepted = call()
    own.unlink()
    error = rejected(accepted, Stage.CALLER_NAME, -2)
    assert (error.errno, error.filename) == (errno.ENOENT, str(own))
    assert str(error).startswith("a bad filename: ")


def test_a_directory_that_has_gone_is_a_bad_filename(call, directory):
    (directory / "d").mkdir()
    _, own, accepted = call(directory / "d" / "c")
    own.unlink()
    own.parent.rmdir()
    assert rejected(accepted, Stage.CALLER_NAME, -2).errno == errno.ENOENT


def test_a_path_by_way_of_ones_own_descriptors_is_a_bad_filename_and_nothing_is_removed(call, directory):
    here = os.open(directory, os.O_PATH)
    try:
        _, _, accepted = call(f"/proc/self/fd/{here}/client")
        (directory / "client").chmod(0o700)
        assert "leads elsewhere" in str(rejected(accepted, Stage.CALLER_NAME, -2))
    finally:
        os.close(here)
    assert (directory / "client").exists()


def test_a_relative_path_is_a_bad_filename_and_nothing_is_removed(call, directory, monkeypatch):
    monkeypatch.chdir(directory)
    _, _, accepted = call("client")
    (directory / "client").chmod(0o700)
    assert "leads elsewhere" in str(rejected(accepted, Stage.CALLER_NAME, -2))
    assert (directory / "client").exists()


def regular_file(own):
    own.write_text("precious")
    own.chmod(0o700)


def directory_there(own):
    own.mkdir(0o700)


def fifo(own):
    os.mkfifo(own, 0o700)


def link_to_a_socket(own):
    (own.parent / "moved").rename(own.parent / "real")
    own.symlink_to("real")


@pytest.mark.parametrize("put", [regular_file, directory_there, fifo, link_to_a_socket])
def test_something_else_at_the_path_is_not_a_socket_and_is_kept(call, put):
    _, own, accepted = call()
    own.rename(own.parent / "moved")
    put(own)
    before = own.lstat()
    assert str(rejected(accepted, Stage.CALLER_TYPE, -3)).startswith("not a socket: ")
    assert own.lstat() == before


@pytest.mark.parametrize("mode", [0o710, 0o720, 0o740, 0o701, 0o702, 0o704, 0o777, 0o755])
def test_a_file_that_is_open_to_others_is_rejected_and_kept(call, mode):
    _, own, accepted = call(mode=mode)
    error = rejected(accepted, Stage.CALLER_MODE, -4)
    assert f"its mode is {mode:04o}" in str(error)
    assert own.exists()
    assert caller_by_file(accepted, private=False).uid == os.geteuid()


@pytest.mark.parametrize("mode", [0o700, 0o600, 0o400, 0o000])
def test_a_file_that_is_closed_to_others_is_taken(call, mode):
    _, _, accepted = call(mode=mode)
    assert caller_by_file(accepted).uid == os.geteuid()


def test_a_file_that_is_too_old_is_rejected_and_kept(call):
    _, own, accepted = call()
    error = rejected(accepted, Stage.CALLER_AGE, -5, max_age=0)
    assert "too old" in str(error)
    assert own.exists()


def test_an_old_modification_time_alone_does_not_make_it_old_for_the_change_was_now(call):
    _, own, accepted = call()
    os.utime(own, (0, 0))
    assert caller_by_file(accepted).age < 10


def test_a_directory_that_may_not_be_searched_is_a_bad_filename(directory, as_nobody):
    directory.parent.chmod(0o711)
    directory.chmod(0o777)
    source = """
import os, sys, udslab
from udslab.caller import caller_by_file
top = sys.argv[1]
os.mkdir(top + "/closed")
with udslab.listen(top + "/s") as listener, udslab.connect(top + "/s", bind=top + "/closed/c") as client:
    os.chmod(top + "/closed", 0)
    with listener.accept() as accepted:
        try:
            caller_by_file(accepted)
        except udslab.CallerRejected as error:
            print(error.stage.name, error.code, error.errno_name)
    os.chmod(top + "/closed", 0o700)
"""
    assert as_nobody(source, directory, directory=directory).stdout == "CALLER_NAME -2 EACCES\n"


def test_a_caller_that_has_gone_is_still_judged_by_its_file(call):
    client, own, accepted = call()
    client.file.close()
    client.file = None  # so that closing leaves it
    client.close()
    assert caller_by_file(accepted).uid == os.geteuid()
    assert not own.exists()


# Only what was looked at is removed, and only what can be a client's


def test_a_server_that_listens_at_the_path_is_not_the_clients_and_is_kept(call, directory, make_socket):
    _, own, accepted = call()
    own.rename(directory / "moved")
    make_socket(own, backlog=1)
    own.chmod(0o700)
    assert caller_by_file(accepted).uid == os.geteuid()
    assert status(own).state == "listening"


EXCHANGE = """
import os, socket, sys, time
own, spare = sys.argv[1:]
while True:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(spare)
        os.rename(spare, own)
    with open(spare, "w") as file:
        file.write("precious")
    os.rename(spare, own)
    # Nobody but us may take it away. It may be away for a moment, to be compared.
    limit = time.monotonic() + 5
    while True:
        try:
            os.rename(own, own + ".taken")
            break
        except FileNotFoundError:
            if time.monotonic() > limit:
                sys.exit("the precious file is lost")
    if open(own + ".taken").read() != "precious":
        sys.exit("something else is there")
"""


def test_a_file_that_is_put_there_at_any_moment_is_not_removed(path, directory, sockets):
    own = directory / "client"
    listener = sockets.enter_context(listen(path))
    sockets.enter_context(connect(path, bind=own))
    accepted = sockets.enter_context(listener.accept())
    command = [sys.executable, "-S", "-E", "-c", EXCHANGE, str(own), str(directory / "spare")]
    outcomes, wanted = Counter(), ("told", Stage.CALLER_TYPE)
    with Process(command) as other:
        end = time.monotonic() + 1
        while other.returncode is None and (time.monotonic() < end or min(outcomes[both] for both in wanted) < 10):
            try:
                caller_by_file(accepted, private=False)
                outcomes["told"] += 1
            except CallerRejected as error:
                outcomes[error.stage] += 1
        assert other.returncode is None, other.output()


# The theft


THIEF = """
import os, socket, sys
server, own, victim = sys.argv[1:]
client = socket.socket(socket.AF_UNIX)
client.bind(own)
os.chmod(own, 0o700)
client.connect(server)
# Nothing in this directory is ours but the file that we have bound; anyone may write to the directory.
os.rename(own, own + ".mine")
os.rename(victim, own)
client.sendall(b"x")
sys.stdin.read()
"""


@pytest.fixture
def stolen(path, directory, sockets):
    """What the server has accepted from a thief: the user nobody, at whose path stands a socket file of root's."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be robbed by another user")
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("needs /usr/bin/python3, for another user cannot read this one")
    directory.parent.chmod(0o711)
    directory.chmod(0o777)
    listener = sockets.enter_context(listen(path, mode=0o777))
    # Root's: any private socket file of the last half minute, such as that of another client.
    victim = sockets.enter_context(socket.socket(socket.AF_UNIX))
    victim.bind(str(directory / "victim"))
    (directory / "victim").chmod(0o700)
    thief = sockets.enter_context(
        subprocess.Popen(
            ["/usr/bin/python3", "-c", THIEF, path, directory / "c", directory / "victim"],
            user=65534,
            group=65534,
            extra_groups=[],
            stdin=subprocess.PIPE,
        )
    )
    sockets.callback(thief.kill)
    listener.socket.settimeout(30)
    accepted = sockets.enter_context(listener.accept())
    assert accepted.recv(1) == b"x"
    return accepted


def test_the_theft_of_an_identity_by_the_file_and_not_by_the_kernels_word(stolen, directory):
    """The client is uid 65534. The file at its path is root's: every check passes, and the server believes it. The
    kernel's word is true."""
    assert stolen.getpeername() == str(directory / "c")
    assert caller_by_file(stolen).uid == 0
    assert peer_credentials(stolen).uid == 65534
    assert stolen.credentials.uid == 65534


def test_a_thief_cannot_make_the_server_remove_the_victims_file(stolen, directory):
    assert caller_by_file(stolen).uid == 0
    assert status(directory / "c").state == "bound"  # the victim's socket, which lives


# The kernel's word


def test_credentials_are_those_of_the_connect_even_if_somebody_else_goes_on(path, sockets, environment):
    """A descriptor that was handed on speaks for whoever connected."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    listener = sockets.enter_context(listen(path))
    source = """
import os, sys, udslab
client = udslab.connect(sys.argv[1])
if os.fork() == 0:
    os.setgid(65534)
    os.setuid(65534)
    client.send(b"x")
    os._exit(0)
os.wait()
"""
    subprocess.run([sys.executable, "-c", source, path], env=environment, check=True)
    accepted = sockets.enter_context(listener.accept())
    assert accepted.recv(1) == b"x"
    assert accepted.credentials.uid == 0


def test_both_ends_of_a_pair_are_ours(sockets):
    for end in socket.socketpair():
        connection = sockets.enter_context(Connection.adopt(end))
        assert (connection.credentials.pid, connection.credentials.uid) == (os.getpid(), os.geteuid())
