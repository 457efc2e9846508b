"""A process's own Unix sockets, and the gate before they are listed."""

from __future__ import annotations

import gc
import os
import re
import socket
import warnings

import pytest

from udslab import descriptors
from udslab.address import Address
from udslab.descriptors import EXACT, Watch, own_sockets


def own(sock):
    return own_sockets()[os.fstat(sock.fileno()).st_ino]


def described(sock):
    return re.sub(r"\d+\)$", "N)", own(sock).describe().replace(f"fd {sock.fileno()},", "fd N,"))


@pytest.mark.parametrize(
    ("type", "word"),
    [(socket.SOCK_STREAM, "stream"), (socket.SOCK_SEQPACKET, "seqpacket"), (socket.SOCK_DGRAM, "dgram")],
)
def test_a_bound_socket(make_socket, path, type, word):
    sock = make_socket(path, type)
    found = own(sock)
    assert (found.fd, found.type, found.local, found.listening) == (sock.fileno(), word, Address.parse(path), False)
    assert (found.peer, found.peer_pid) == (None, None)
    assert described(sock) == f"socket fd N, {word}, bound to {path} (inode N)"


def test_a_listening_one_and_both_sides_of_a_connection(make_socket, path, sockets):
    server, client = make_socket(path, backlog=1), make_socket()
    assert described(server) == f"socket fd N, stream, listening at {path} (inode N)"
    client.connect(str(path))
    accepted = sockets.enter_context(server.accept()[0])
    pid = os.getpid()
    assert described(client) == f"socket fd N, stream, connected to {path}, pid {pid} (inode N)"
    assert described(accepted) == f"socket fd N, stream, bound to {path}, connected to (unnamed), pid {pid} (inode N)"
    assert own(client).peer == Address.parse(path)


def test_a_pair_an_abstract_one_and_a_fresh_one(make_socket, sockets):
    one, other = map(sockets.enter_context, socket.socketpair())
    other.close()
    assert described(one) == f"socket fd N, stream, connected to (unnamed), pid {os.getpid()} (inode N)"
    name = f"udslab-test-{os.getpid()}"
    assert described(make_socket(b"\0" + name.encode())) == f"socket fd N, stream, bound to @{name} (inode N)"
    assert described(make_socket()) == "socket fd N, stream (inode N)"


def test_a_connected_datagram_socket_has_no_known_pid(make_socket, path):
    make_socket(path, socket.SOCK_DGRAM)
    client = make_socket(type=socket.SOCK_DGRAM)
    client.connect(str(path))
    assert described(client) == f"socket fd N, dgram, connected to {path} (inode N)"


def test_two_descriptors_of_one_socket_are_one(make_socket):
    sock = make_socket()
    other = os.dup(sock.fileno())
    try:
        assert own(sock).fd == sock.fileno()
    finally:
        os.close(other)


def test_sockets_of_other_families_are_none(sockets):
    tcp = sockets.enter_context(socket.socket(socket.AF_INET))
    assert os.fstat(tcp.fileno()).st_ino not in own_sockets()


def test_looking_disturbs_nothing(make_socket, sockets):
    one, other = map(sockets.enter_context, socket.socketpair())
    one.settimeout(5)
    other.send(b"x")
    before = os.listdir("/proc/self/fd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own_sockets()
        gc.collect()
    assert os.listdir("/proc/self/fd") == before
    assert (one.recv(1), one.gettimeout()) == (b"x", 5)


def test_what_is_closed_meanwhile_is_left_out(make_socket):
    sock = make_socket()
    inode = os.fstat(sock.fileno()).st_ino
    assert own_sockets({inode: sock.fileno(), inode + 1: sock.fileno(), 1: 19999}).keys() == {inode}


# The gate


@pytest.fixture(params=[0, 1000], ids=["few", "many"])
def others(request, sockets, monkeypatch):
    """Other sockets that are open all the while; few count as few also where a run holds many descriptors itself."""
    if not request.param:
        monkeypatch.setattr(descriptors, "EXACT", 1000)
    return [sockets.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(request.param)]


def test_nothing_changed_is_the_very_same_answer(others, path):
    watch = Watch()
    first = watch.look()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert watch.look() is first


def test_one_more_and_one_less_are_seen(others):
    watch = Watch()
    first = watch.look()
    with socket.socket(socket.AF_UNIX) as sock:
        inode = os.fstat(sock.fileno()).st_ino
        assert watch.look() == {**first, inode: sock.fileno()}
    assert watch.look() == first


def test_one_that_takes_the_descriptor_of_another_is_seen(others, sockets):
    old = socket.socket(socket.AF_UNIX)
    watch = Watch()
    watch.look()
    number = old.fileno()
    old.close()
    new = sockets.enter_context(socket.socket(socket.AF_UNIX))
    assert new.fileno() == number
    assert watch.look()[os.fstat(number).st_ino] == number


def test_one_that_comes_while_another_closes_is_seen(others, sockets):
    old = socket.socket(socket.AF_UNIX)
    watch = Watch()
    watch.look()
    new = sockets.enter_context(socket.socket(socket.AF_UNIX))
    old.close()
    assert os.fstat(new.fileno()).st_ino in watch.look()


def test_one_that_hides_behind_a_file_is_seen(others, sockets):
    file = os.open("/", os.O_RDONLY)
    watch = Watch()
    watch.look()
    os.close(file)
    new = sockets.enter_context(socket.socket(socket.AF_UNIX))
    assert os.fstat(new.fileno()).st_ino in watch.look()


def test_a_file_in_the_place_of_another_file_is_no_change(others):
    file, other = os.open("/", os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)
    try:
        watch = Watch()
        first = watch.look()
        os.dup2(other, file)
        assert watch.look() is first
    finally:
        os.close(file)
        os.close(other)


def test_among_many_an_old_one_that_closes_is_seen_in_its_turn(sockets):
    many = [sockets.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(300)]
    watch = Watch()
    first = watch.look()
    many[150].close()
    sockets.enter_context(socket.socket(socket.AF_UNIX))
    looks = next(number for number in range(100) if watch.look(further=True) is not first)
    assert looks <= 310 // (EXACT // 2) + 1
    assert watch.look() != first


def test_forgotten_is_listed_anew():
    watch = Watch()
    first = watch.look()
    watch.forget()
    again = watch.look()
    assert again == first
    assert again is not first


def test_kernels_that_do_not_tell_the_number_are_asked_for_a_list(monkeypatch, others, sockets):
    monkeypatch.setattr(descriptors._Real, "stat", staticmethod(lambda path: os.stat("/dev/null")))
    watch = Watch()
    first = watch.look()
    assert watch.look() is first
    new = sockets.enter_context(socket.socket(socket.AF_UNIX))
    assert os.fstat(new.fileno()).st_ino in watch.look()
