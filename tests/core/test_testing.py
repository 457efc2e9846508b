"""The assertions pass on what they claim, and their failures say what is there, who holds it, and since when."""

from __future__ import annotations

import os
import re
import socket

import pytest

from udslab import listen
from udslab.testing import assert_gone, assert_in_use, assert_serving, assert_stale, assert_untouched

ASSERTIONS = {"serving": assert_serving, "in use": assert_in_use, "stale": assert_stale, "gone": assert_gone}

HOLDS = {
    "listening": {"serving", "in use"},
    "bound": {"in use"},
    "bound datagram": {"serving", "in use"},
    "stale": {"stale"},
    "absent": {"gone"},
    "unreachable": {"gone"},
    "regular file": set(),
}


@pytest.fixture
def make(path, make_socket):
    def make(what):
        if what == "listening":
            make_socket(path, backlog=1)
        elif what == "bound":
            make_socket(path)
        elif what == "bound datagram":
            make_socket(path, socket.SOCK_DGRAM)
        elif what == "stale":
            make_socket(path).close()
        elif what == "regular file":
            path.write_text("x")
        return path / "missing" / "s" if what == "unreachable" else path

    return make


@pytest.mark.parametrize("what", HOLDS)
@pytest.mark.parametrize("claim", ASSERTIONS)
def test_each_holds_of_what_it_claims_and_of_nothing_else(make, what, claim):
    target = make(what)
    if claim in HOLDS[what]:
        ASSERTIONS[claim](target)
    else:
        with pytest.raises(AssertionError, match=f"expected: {claim}"):
            ASSERTIONS[claim](target)


def test_a_failure_says_what_is_there_who_holds_it_and_since_when(path):
    with listen(path), pytest.raises(AssertionError) as error:
        assert_gone(path)
    text = str(error.value)
    assert text.startswith(f"{path} is listening stream pid {os.getpid()}; made 20")
    assert re.search(r"made \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC by uid \d+", text)
    assert "pair probe: stream: EISCONN" in text
    assert text.endswith("expected: gone")


def test_untouched_holds_when_nothing_changes(path, make_socket):
    path.write_text("x")
    with assert_untouched(path):
        path.read_text()
    with assert_untouched(path.with_name("absent")):
        pass
    make_socket(path.with_name("t"), backlog=1)
    with assert_untouched(path.with_name("t")):
        pass


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda path: path.write_text("y"), "content"),
        (lambda path: path.chmod(0o600), "mode"),
        (lambda path: path.unlink(), "there"),
        (lambda path: (path.rename(path.with_name("z")), path.write_text("x")), "inode"),
    ],
)
def test_untouched_says_what_has_changed(path, change, word):
    path.write_text("x")
    path.chmod(0o644)
    with pytest.raises(AssertionError, match=f"touched: .*{word}"), assert_untouched(path):
        change(path)


def test_untouched_notices_that_a_link_leads_elsewhere(path):
    path.symlink_to("a")
    with pytest.raises(AssertionError, match="target"), assert_untouched(path):
        path.unlink()
        path.symlink_to("b")


def test_untouched_notices_what_comes_into_a_directory(directory):
    with pytest.raises(AssertionError, match="changed"), assert_untouched(directory):
        (directory / "new").touch()


def test_what_may_not_be_looked_at_is_neither_gone_nor_untouched(public, make_socket, as_nobody):
    closed = public / "closed"
    closed.mkdir(0o700)
    (closed / "file").touch()
    make_socket(closed / "s", backlog=1)
    unreadable = public / "unreadable"
    unreadable.touch(0o600)
    source = """
import sys
from udslab.testing import assert_gone, assert_untouched
closed, unreadable = sys.argv[1:]
for claim in (lambda: assert_gone(closed + "/s"), assert_untouched(closed + "/file").__enter__):
    try:
        claim()
    except AssertionError as error:
        print(error)
with assert_untouched(unreadable):
    pass
"""
    assert as_nobody(source, closed, unreadable, directory=public).stdout.splitlines() == [
        f"{closed}/s is unreachable; open: EACCES (Permission denied); expected: gone",
        f"{closed}/file is unreachable; open: EACCES (Permission denied); whether it is touched cannot be told",
    ]


def test_untouched_notices_that_a_socket_was_closed(path, make_socket):
    sock = make_socket(path, backlog=1)
    with pytest.raises(AssertionError, match="listening before, stale after"), assert_untouched(path):
        sock.close()
