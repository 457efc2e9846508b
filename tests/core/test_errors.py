"""Errors: one line each, the textbook's codes, the builtin classes that plain sockets would raise, and pickles."""

from __future__ import annotations

import copy
import errno
import os
import pickle

import pytest

import udslab
from udslab import (
    AccessDenied,
    AddressError,
    AddressInUse,
    CallerRejected,
    LockTimeout,
    NoSuchPath,
    PathLost,
    PeerGone,
    Refused,
    ServiceError,
    Stage,
    TimedOut,
    UdsError,
    Unsupported,
    WrongType,
    listen,
)
from udslab import errors as errors_module
from udslab.client import OutputClosed
from udslab.errors import failure

CLASSES = [
    UdsError,
    AccessDenied,
    AddressError,
    AddressInUse,
    CallerRejected,
    LockTimeout,
    NoSuchPath,
    OutputClosed,
    PathLost,
    PeerGone,
    Refused,
    TimedOut,
    WrongType,
]
"""Those that are made in the usual way."""
OF_THEIR_OWN = [Unsupported("cannot", "try this"), ServiceError("no such service", "see there")]


def make(cls: type[UdsError]) -> UdsError:
    return cls(Stage.BIND, errno.EADDRINUSE, "/run/a.sock", "try another", "it is in the way")


# Text


def test_it_says_stage_path_kernels_words_errno_and_hint_on_one_line():
    assert (
        str(UdsError(Stage.BIND, errno.EADDRINUSE, "/run/a", "try another"))
        == "bind: /run/a: Address already in use (EADDRINUSE): try another"
    )


def test_it_says_only_what_there_is():
    assert str(UdsError(Stage.SOCKET, errno.EMFILE)) == "socket: Too many open files (EMFILE)"
    assert str(UdsError(Stage.ACCEPT, 9999, what="strange")) == "accept: strange (9999)"


@pytest.mark.parametrize("error", [*map(make, CLASSES), *OF_THEIR_OWN], ids=lambda error: type(error).__name__)
def test_each_is_one_line_and_a_pickle_of_it_is_the_same(error):
    error.note = "kept"
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert "\n" not in str(other)
        assert (other.stage, other.errno, other.strerror, other.filename, other.hint, other.code, other.note) == (
            error.stage,
            error.errno,
            error.strerror,
            error.filename,
            error.hint,
            error.code,
            "kept",
        )
        assert other.args == error.args


def test_the_status_of_what_is_in_the_way_is_pickled_too(path):
    with listen(path), pytest.raises(AddressInUse) as caught:
        listen(path)
    other = pickle.loads(pickle.dumps(caught.value))
    assert other.status == caught.value.status
    assert other.status.state == "listening"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", b"a\xffb\n", "a\u2028b"])
def test_odd_bytes_in_a_path_stay_on_one_line(directory, name):
    with pytest.raises(NoSuchPath) as caught:
        udslab.connect(os.fsencode(directory) + b"/" + os.fsencode(name))
    assert str(caught.value).isprintable()


# Stages


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        (Stage.SOCKET, -1),
        (Stage.BIND, -2),
        (Stage.LISTEN, -3),
        (Stage.CONNECT, -4),
        (Stage.ACCEPT, -1),
        (Stage.CALLER_NAME, -2),
        (Stage.CALLER_TYPE, -3),
    ],
)
def test_codes_are_the_textbooks(stage, code):
    assert stage.code == code
    assert UdsError(stage, errno.EIO).code == code


def test_words_are_the_textbooks():
    words = [stage.word for stage in (Stage.SOCKET, Stage.BIND, Stage.LISTEN, Stage.ACCEPT, Stage.CONNECT)]
    assert words == ["socket", "bind", "listen", "accept", "connect"]
    assert (Stage.CALLER_NAME.word, Stage.CALLER_TYPE.word) == ("a bad filename", "not a socket")


def test_stages_with_the_same_code_are_different_stages():
    # Members of an Enum with equal values are one.
    assert len({stage.word for stage in Stage}) == len(Stage) == 18


def test_stages_without_a_classic_code_have_none():
    for stage in (
        Stage.ADDRESS,
        Stage.STATUS,
        Stage.SEND,
        Stage.RECEIVE,
        Stage.CLOSE,
        Stage.SERVICE,
        Stage.ENGINE,
        Stage.AGENT,
    ):
        assert stage.code is None


# Classes


@pytest.mark.parametrize(
    ("cls", "builtins"),
    [
        (UdsError, {OSError}),
        (AccessDenied, {PermissionError}),
        (AddressError, {ValueError}),
        (LockTimeout, {TimeoutError}),
        (NoSuchPath, {FileNotFoundError}),
        (PeerGone, {ConnectionError}),
        (Refused, {ConnectionRefusedError, ConnectionError}),
        (ServiceError, {ValueError}),
        (TimedOut, {TimeoutError}),
    ],
)
def test_each_is_the_builtin_that_fits(cls, builtins):
    assert issubclass(cls, UdsError)
    assert all(issubclass(cls, builtin) for builtin in builtins)


def test_every_class_is_an_oserror_with_a_docstring_and_public():
    classes = [getattr(errors_module, name) for name in errors_module.__all__]
    for cls in classes:
        if isinstance(cls, type) and cls is not Stage:
            assert issubclass(cls, UdsError)
            assert issubclass(cls, OSError)
            assert cls.__doc__
            assert getattr(udslab, cls.__name__) is cls


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.EADDRINUSE, AddressInUse),
        (errno.ECONNREFUSED, Refused),
        (errno.ENOENT, NoSuchPath),
        (errno.ENOTDIR, NoSuchPath),
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.EPROTOTYPE, WrongType),
        (errno.EPIPE, PeerGone),
        (errno.ECONNRESET, PeerGone),
        (errno.ETIMEDOUT, TimedOut),
        (errno.EMFILE, UdsError),
    ],
)
@pytest.mark.parametrize("from_number", [True, False])
def test_failure_makes_the_class_of_the_errno(number, cls, from_number):
    error = failure(Stage.CONNECT, number if from_number else OSError(number, "x"), "/run/a")
    assert type(error) is cls
    assert (error.stage, error.errno, error.filename) == (Stage.CONNECT, number, "/run/a")
    assert error.strerror == os.strerror(number)


def test_failure_has_a_hint_for_the_stage_and_errno_unless_given_one():
    assert failure(Stage.CONNECT, errno.ECONNREFUSED, "/run/a b").hint.endswith(": udslab status '/run/a b'")
    assert "gone" in failure(Stage.SEND, errno.ECONNREFUSED).hint
    assert failure(Stage.CONNECT, errno.ECONNREFUSED, hint="mine").hint == "mine"
    assert failure(Stage.CLOSE, errno.ECONNREFUSED).hint == ""


def test_failure_of_an_oserror_without_errno_is_still_an_error_with_one():
    assert failure(Stage.SEND, OSError("odd")).errno == errno.EINVAL


def test_catching_what_plain_sockets_raise_catches_the_labs(path):
    with pytest.raises(FileNotFoundError):
        udslab.connect(path)
    path.touch()
    with pytest.raises(ConnectionRefusedError):
        udslab.connect(path)
    with pytest.raises(OSError, match="EADDRINUSE") as caught:
        udslab.listen(path)
    assert caught.value.errno == errno.EADDRINUSE
