"""Short private directories that do not outlive their owner for long.

One stands directly in the directory for temporary files, so that paths in it are short. Its owner holds a ``flock``
on the directory around it (``listen`` takes one on the directory of a path itself), which the kernel lets go when the
owner dies, however it dies: whoever makes the next one sweeps those that nobody holds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from udslab.support import fcntl, need_flock

__all__ = ["scratch_directory", "sweep"]

_PREFIX = "udslab-"
_MARK = "owner"
"""The file that tells a scratch directory from a user's directory with such a name; it holds the owner's pid."""


@contextmanager
def scratch_directory(parent: str | None = None) -> Iterator[str]:
    """A fresh directory, mode 0700, with a short path; removed at the end with all that is in it.

    ``parent``: where, instead of the directory for temporary files. Sweeps that of what dead owners have left.
    """
    need_flock()
    parent = parent or tempfile.gettempdir()
    sweep(parent)
    path, fd = _make(parent)
    owner = os.getpid()
    try:
        with open(os.path.join(path, _MARK), "w") as mark:
            mark.write(f"{owner}\n")
        inner = os.path.join(path, "d")
        os.mkdir(inner, 0o700)
        yield inner
    finally:
        if os.getpid() == owner:
            shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _make(parent: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # swept before it was locked
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return path, fd
        except (BlockingIOError, FileNotFoundError):
            pass  # a sweeper has it, and takes it for an orphan
        os.close(fd)


def sweep(parent: str) -> list[str]:
    """Remove this user's scratch directories whose owners have died; their paths."""
    swept = []
    with os.scandir(parent) as entries:
        candidates = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in candidates:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isfile(os.path.join(path, _MARK)):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rmdir(path)  # its owner died at once; fails if there is anything in it
            swept.append(path)
        except OSError:
            continue  # its owner lives, or it is no scratch directory
        finally:
            os.close(fd)
    return swept
