"""What goes over the wire comes out as it went in: messages, bytes, addresses, errors, statuses."""

from __future__ import annotations

import errno
import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udslab import Address, AddressInUse, Credentials, UdsError, bind, errors, listen, status
from udslab.errors import Stage, failure
from udslab.wire import (
    Lines,
    decode_address,
    decode_credentials,
    decode_error,
    decode_status,
    encode_address,
    encode_credentials,
    encode_error,
    encode_status,
    line,
    pack,
    unpack,
)


def over_the_wire(value):
    """What arrives."""
    (message,) = Lines().feed(line({"value": value}))
    return message["value"]


# Messages


@given(messages=st.lists(st.dictionaries(st.text(), st.text())), cuts=st.lists(st.integers(1, 40)))
def test_messages_come_whole_however_they_are_cut(messages, cuts):
    data = b"".join(map(line, messages))
    lines, got = Lines(), []
    for size in cuts:
        got += lines.feed(data[:size])
        data = data[size:]
    assert got + list(lines.feed(data)) == messages


def test_a_long_message_in_many_pieces_takes_no_longer_for_its_length():
    data = line({"data": "x" * (1 << 24)})
    lines, got = Lines(), []
    before = time.process_time()
    for at in range(0, len(data), 1 << 12):  # a look at all of it for each piece would take minutes
        got += lines.feed(data[at : at + (1 << 12)])
    assert time.process_time() - before < 2
    assert len(got[0]["data"]) == 1 << 24


@pytest.mark.parametrize("text", [b"", b"what?", b"[]", b"1", b"\xff", b"{}x", b"[" * 100_000])
def test_a_line_that_is_no_message_is_told_as_such(text):
    with pytest.raises(UdsError, match="a line is no message") as caught:
        list(Lines().feed(text + b"\n"))
    assert (caught.value.stage, caught.value.errno) == (Stage.AGENT, errno.EPROTO)
    assert "\n" not in str(caught.value)


def test_messages_before_one_that_is_none_are_heard():
    messages = Lines().feed(line({"id": 1}) + b"what?\n")
    assert next(messages) == {"id": 1}
    with pytest.raises(UdsError):
        next(messages)


@given(st.binary())
def test_bytes_are_kept(data):
    assert unpack(over_the_wire(pack(data))) == data


# Values


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_paths_are_kept_by_their_bytes(name):
    address = Address.pathname(name)
    assert decode_address(over_the_wire(encode_address(address))) == address


@given(st.binary())
def test_abstract_names_are_kept_by_their_bytes(name):
    address = Address.abstract(name)
    assert decode_address(over_the_wire(encode_address(address))) == address


def test_no_name_is_kept_too():
    assert decode_address(over_the_wire(encode_address(Address.unnamed()))) == Address.unnamed()


def test_a_path_goes_by_its_bytes_and_not_by_this_ends_encoding():
    assert encode_address(b"/\xc3\xa9\xff") == ["pathname", "/é\udcff"]


def test_credentials_are_kept():
    assert decode_credentials(over_the_wire(encode_credentials(Credentials(1, 2, 3)))) == Credentials(1, 2, 3)


# Errors


def parts(error):
    return type(error), error.stage, error.errno, error.strerror, error.filename, error.hint, str(error)


CLASSES = [
    cls
    for cls in (getattr(errors, name) for name in errors.__all__)
    if isinstance(cls, type) and issubclass(cls, UdsError)
]
OF_THEIR_OWN = [errors.Unsupported("cannot", "try this"), errors.ServiceError("no such service", "see there")]


@pytest.mark.parametrize(
    "error",
    [
        *(
            cls(Stage.LISTEN, errno.EADDRINUSE, "/run/\udcff", "try another", "it is in the way")
            for cls in CLASSES
            if cls not in map(type, OF_THEIR_OWN)
        ),
        *OF_THEIR_OWN,
        failure(Stage.CONNECT, errno.ECONNREFUSED, "/run/a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_lab_arrive_as_themselves(error):
    assert parts(decode_error(over_the_wire(encode_error(error)))) == parts(error)


def test_what_is_in_the_way_arrives_with_the_error(path):
    with listen(path), pytest.raises(AddressInUse) as caught:
        listen(path)
    error = decode_error(over_the_wire(encode_error(caught.value)))
    assert error.status == caught.value.status
    assert error.status.state == "listening"


def test_an_oserror_of_python_arrives_as_the_one_of_the_lab_that_fits():
    error = decode_error(over_the_wire(encode_error(FileNotFoundError(errno.ENOENT, "x", "/nowhere"))))
    assert isinstance(error, FileNotFoundError)
    assert (error.stage, error.errno, error.filename) == (Stage.AGENT, errno.ENOENT, "/nowhere")


@pytest.mark.parametrize("error", [KeyError("op"), RuntimeError("two\nlines"), OSError("no errno"), SystemExit(3)])
def test_any_other_error_arrives_with_its_class_and_text_on_one_line(error):
    arrived = decode_error(over_the_wire(encode_error(error)))
    assert (type(arrived), arrived.errno) == (UdsError, errno.EPROTO)
    assert type(error).__name__ in str(arrived)
    assert str(arrived).isprintable()


@pytest.mark.parametrize("name", ["Stage", "failure", "NeverHeardOf", "__all__"])
def test_a_class_that_is_none_of_the_labs_errors_is_not_made(name):
    message = {**encode_error(errors.PeerGone(Stage.SEND, errno.EPIPE)), "class": name}
    assert type(decode_error(message)) is UdsError


# Statuses


def make_listening(path):
    return listen(path)


def make_bound(path):
    return bind(path)


def make_full(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(0)
    return sock


def make_stale(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def make_file(path):
    open(path, "w").close()


def make_link(path):
    os.symlink("nowhere", path)


@pytest.mark.parametrize(
    "make", [make_listening, make_bound, make_full, make_stale, make_file, make_link, os.mkdir, lambda path: None]
)
@pytest.mark.parametrize("owners", [False, True])
def test_a_status_arrives_whole(make, owners, directory, sockets):
    path = os.fsencode(directory) + b"/\xff"
    made = make(path)
    if made is not None:
        sockets.enter_context(made)
    found = status(path, owners=owners)
    arrived = decode_status(over_the_wire(encode_status(found)))
    assert arrived == found
    assert arrived.as_dict() == found.as_dict()
    assert arrived.describe() == found.describe()
