"""The words of the lab's enumerations are what users type, read, and get in JSON."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import subprocess
import sys

import pytest

from udslab import AddressKind, FileKind, OnExisting, SocketType, State
from udslab.socketfile import BoundSocket
from udslab.socktype import open_as, open_pair, open_socket

ENUMERATIONS = [AddressKind, FileKind, OnExisting, SocketType, State]


@pytest.mark.parametrize("enumeration", ENUMERATIONS)
def test_a_member_is_its_word(enumeration):
    for member in enumeration:
        assert member == member.value
        assert str(member) == f"{member}" == "{}".format(member) == "%s" % member == member.value  # noqa: UP031, UP032
        assert f"{member:>20}" == member.value.rjust(20)
        assert enumeration(member.value) is member
        assert json.dumps({"state": member}) == json.dumps({"state": member.value})
        assert {member: 1}[member.value] == 1
        assert pickle.loads(pickle.dumps(member)) is member


@pytest.mark.parametrize("enumeration", ENUMERATIONS)
def test_another_word_is_refused(enumeration):
    with pytest.raises(ValueError, match="nonsense"):
        enumeration("nonsense")


def test_the_words_are_the_contracts():
    assert [member.value for member in SocketType] == ["stream", "dgram", "seqpacket"]
    assert [member.value for member in OnExisting] == ["refuse", "replace-stale", "unlink"]
    assert {member.value for member in State} == {
        "absent",
        "not-a-socket",
        "dangling-link",
        "listening",
        "bound",
        "stale",
        "unreachable",
        "unknown",
    }


# Socket types


@pytest.mark.parametrize(
    ("word", "number"),
    [("stream", socket.SOCK_STREAM), ("dgram", socket.SOCK_DGRAM), ("seqpacket", socket.SOCK_SEQPACKET)],
)
def test_a_socket_type_is_made_from_its_word_or_its_number(word, number):
    type = SocketType(word)
    assert SocketType(number) is SocketType.of(int(number)) is type
    assert type.constant == number
    assert type.connects is (word != "dgram")


def test_datagram_in_full_is_understood():
    assert SocketType("datagram") is SocketType.DGRAM


@pytest.mark.parametrize("other", [socket.SOCK_RAW, 0, -1, "STREAM", "", None])
def test_another_type_is_refused(other):
    with pytest.raises(ValueError, match="SocketType"):
        SocketType(other)


@pytest.mark.parametrize("type", list(SocketType))
def test_sockets_are_made_close_on_exec_and_of_the_type(sockets, type):
    ends = [sockets.enter_context(end) for end in open_pair(type)]
    single = sockets.enter_context(open_socket(type))
    unblocking = sockets.enter_context(open_as(BoundSocket, type, blocking=False))
    assert isinstance(unblocking, BoundSocket)
    for sock in (*ends, single, unblocking):
        assert (sock.family, sock.type, sock.get_inheritable()) == (socket.AF_UNIX, type.constant, False)
    assert [sock.getblocking() for sock in (*ends, single, unblocking)] == [False, False, True, False]
    assert [os.get_blocking(sock.fileno()) for sock in (*ends, single, unblocking)] == [False, False, True, False]
    ends[0].send(b"x")
    assert ends[1].recv(2) == b"x"


OUT_OF_DESCRIPTORS = """
import resource
from udslab.errors import UdsError
from udslab.socktype import SocketType, open_pair, open_socket
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
for make in (open_socket, open_pair):
    try:
        make(SocketType.STREAM)
    except UdsError as error:
        print(error.stage.name, error.errno, error.code, error.hint != "")
"""


def test_out_of_descriptors_is_an_error_of_the_stage_socket(environment):
    # In a process of its own, for the limit.
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"SOCKET {errno.EMFILE} -1 True\n" * 2
