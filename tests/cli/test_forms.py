"""Files that a report is written to: what is there before, meanwhile and afterwards."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from udslab.cli.forms import try_out, write

IS_ROOT = os.geteuid() == 0
LONG = "long\n" * 10_000


@pytest.fixture
def report(directory: Path) -> Path:
    """A report that is there already."""
    file = directory / "report"
    file.write_text("old")
    return file


@contextmanager
def no_room() -> Iterator[None]:
    """Within the block no file may have more than 1,000 bytes (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_new_one_has_the_mode_of_any_new_file(directory):
    write(str(directory / "new"), "new")
    (directory / "touched").touch()
    assert (directory / "new").read_text() == "new"
    assert (directory / "new").stat().st_mode == (directory / "touched").stat().st_mode


def test_one_that_is_there_is_replaced_at_once_and_keeps_its_mode_and_its_owner(report):
    report.chmod(0o640)
    if IS_ROOT:
        os.chown(report, 12, 34)
    before = report.stat()
    with report.open() as reader:
        write(str(report), "new")
        assert reader.read() == "old"
    after = report.stat()
    assert report.read_text() == "new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.listdir(report.parent) == ["report"]


def test_one_that_cannot_be_written_whole_is_left_as_it_is(report):
    with no_room(), pytest.raises(OSError, match="File too large") as caught:
        write(str(report), LONG)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(report))
    with no_room(), pytest.raises(OSError, match="File too large"):
        write(str(report.parent / "new"), LONG)
    assert report.read_text() == "old"
    assert os.listdir(report.parent) == ["report"]


def test_links_stay_and_what_they_lead_to_is_written(report):
    link, second = report.parent / "link", report.parent / "second"
    link.symlink_to("report")
    write(str(link), "by the link")
    assert os.readlink(link) == "report"
    assert report.read_text() == "by the link"
    os.link(report, second)
    write(str(report), "by one of two names")
    assert second.read_text() == "by one of two names"


def test_in_a_directory_that_may_not_be_written_a_file_that_may_is(report, as_nobody):
    report.chmod(0o666)
    for outer in (report.parent, report.parent.parent):
        outer.chmod(0o755)
    source = "import sys; from udslab.cli.forms import write; write(sys.argv[1], 'new')"
    assert as_nobody(source, report, directory=report.parent.parent).stderr == ""
    assert report.read_text() == "new"


def test_a_fifo_is_written_into_and_trying_out_does_not_end_its_reader(directory):
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    try_out(str(fifo))
    write(str(fifo), "new")
    reader.join(10)
    assert read == ["new"]
    assert fifo.is_fifo()


def test_trying_out_leaves_all_as_it_is(report):
    link = report.parent / "link"
    link.symlink_to("new")
    for file in (report, link, report.parent / "other"):
        try_out(str(file))
    assert sorted(os.listdir(report.parent)) == ["link", "report"]
    assert report.read_text() == "old"
    for file, number in (("missing/report", errno.ENOENT), (".", errno.EISDIR), ("report/below", errno.ENOTDIR)):
        with pytest.raises(OSError, match=os.strerror(number)):
            try_out(f"{report.parent}/{file}")
