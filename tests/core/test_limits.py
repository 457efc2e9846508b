"""Room for another open file is taken from other processes, and given back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from udslab.limits import fill_open_files, limit_open_files, room_for_files
from udslab.spawn import end_with_parent

OPENS = """
import os, sys
print("here", flush=True)
for line in sys.stdin:
    try:
        os.close(os.open("/dev/null", os.O_RDONLY))
        print("opened", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
WHO = [{}, {"user": 65534, "group": 65534, "extra_groups": []}]


@pytest.fixture(params=WHO, ids=["ours", "another user's"])
def opener(request):
    """A process that opens a file whenever it is told to; gives what it says."""
    if request.param and os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    python = "/usr/bin/python3" if request.param else sys.executable
    with subprocess.Popen(
        [python, "-S", "-E", "-c", OPENS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd="/",
        preexec_fn=end_with_parent(),
        **request.param,
    ) as process:
        assert process.stdout.readline() == "here\n"

        def opens():
            process.stdin.write("open\n")
            return process.stdout.readline().strip()

        process.opens = opens
        yield process
        process.stdin.close()


def limits(pid):
    with open(f"/proc/{pid}/limits") as file:
        return next(line for line in file if line.startswith("Max open files")).split()[3:5]


def test_it_can_open_no_other_file_until_it_has_room_again(opener):
    before = limits(opener.pid)
    assert opener.opens() == "opened"
    taken = fill_open_files(opener.pid)
    assert opener.opens() == "Too many open files"
    assert [str(number) for number in taken] == before
    assert limit_open_files(opener.pid, *taken)
    assert opener.opens() == "opened"
    assert limits(opener.pid) == before


def test_the_lowest_free_number_counts(opener):
    """A limit above a hole in the numbers would leave room."""
    with contextlib.ExitStack() as files:
        for _ in range(5):
            files.enter_context(open(os.devnull))
        assert fill_open_files(opener.pid) is not None
    assert opener.opens() == "Too many open files"


POLLS = """
import os, select, sys
fds = [os.dup(0) for _ in range(20)]
for fd in fds[:5]:
    os.close(fd)
print("here", flush=True)
sys.stdin.readline()
poll = select.poll()
for fd in fds[5:]:
    poll.register(fd)
poll.poll(0)
opened = 0
try:
    while True:
        os.dup(0)
        opened += 1
except OSError as error:
    print(opened, error.strerror, flush=True)
"""


def test_who_polls_more_files_than_the_lowest_free_number_is_told_nothing_wrong():
    """poll(2) fails with EINVAL if it is asked about more files than the limit, which nobody without room sees."""
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", POLLS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "here\n"
        assert fill_open_files(process.pid) is not None
        assert room_for_files(process.pid) == 5
        assert process.communicate("go\n")[0] == "5 Too many open files\n"


def test_a_process_that_has_ended_has_no_limit():
    process = subprocess.Popen(["true"])
    process.wait()
    assert fill_open_files(process.pid) is None
    assert not limit_open_files(process.pid, 10, 10)


def test_somebody_else_may_not_be_limited_by_an_ordinary_user(as_nobody, directory):
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    source = "import sys; from udslab.limits import *; print(fill_open_files(int(sys.argv[1])))"
    done = as_nobody(source, str(os.getpid()), directory=directory)
    assert (done.stdout.strip(), done.stderr) == ("None", "")


def test_only_root_becomes_another_user(as_nobody, directory):
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    source = "from udslab.limits import become\ntry: become(1, 1)\nexcept PermissionError as error: print(error.errno)"
    assert as_nobody(source, directory=directory).stdout.strip() == "1"
