"""An X server without a screen, and a real client of it."""

import re
import subprocess

import pytest
from udslab.ready import Listening, LogLine
from udslab.testing import assert_gone, assert_serving

NUMBER = LogLine(r"(?m)^(\d+)\n")


@pytest.fixture(scope="session")
def xvfb(program):
    """The command, without a display."""
    return [program("Xvfb", "apt install xvfb"), "-nolisten", "tcp", "-noreset"]


@pytest.fixture(scope="session")
def display(uds, xvfb):
    """An X server for all tests, at a display that was free.

    X servers know one place for their sockets, /tmp/.X11-unix, so a fresh path is of no use to them. Told so by
    -displayfd, the server finds a display that is free by itself, and writes its number when it serves: to descriptor
    1, standard output, which is in the log.
    """
    with uds.process([*xvfb, "-displayfd", "1"], ready=NUMBER) as server:
        yield ":" + re.search(NUMBER.pattern, server.log())[1]


def test_a_client_finds_it(display, program):
    assert_serving(f"/tmp/.X11-unix/X{display[1:]}")
    xdpyinfo = program("xdpyinfo", "apt install x11-utils")
    told = subprocess.run([xdpyinfo, "-display", display], capture_output=True, text=True, check=True).stdout
    assert "version number:    11.0" in told


def test_a_display_of_ones_own_choice(make_uds_process, xvfb):
    # Then the path is known, and can be told: it is waited for, looked at, and must have gone at the end.
    path = "/tmp/.X11-unix/X4711"
    server = make_uds_process([*xvfb, ":4711", "-displayfd", "1"], path, ready=[Listening(), LogLine("4711")])
    assert_serving(path)
    server.stop()
    assert_gone(path)


def test_a_display_is_had_only_once(display, make_uds_process, xvfb):
    path = f"/tmp/.X11-unix/X{display[1:]}"
    # Not ready=Listening(): somebody listens there already.
    with pytest.raises(OSError, match="already running"):
        make_uds_process([*xvfb, display, "-displayfd", "1"], path, ready=NUMBER)
