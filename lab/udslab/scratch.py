"""Short private directories that do not outlive their owner for long.

One stands directly in the directory for temporary files, so that paths in it are short. Its owner holds a ``flock``
on the directory around it (``listen`` takes one on the directory of a path itself), which the kernel lets go when the
owner dies, however it dies: whoever makes the next one sweeps those that nobody holds.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from udslab.support import fcntl, need_flock

__all__ = ["ROOM", "remove_tree", "scratch_directory", "short_parent", "sweep", "unlocked"]

ROOM = 48
"""How many bytes of ``sun_path`` are left at least below a scratch directory, on every system: it has 104 on macOS."""
_LONGEST = 103 - ROOM - len("/udslab-12345678/d/")
_OTHERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - each gets a directory of our own
_PREFIX = "udslab-"
_MARK = ".udslab-scratch"
_MARK_TEXT = b"A scratch directory of udslab, which is removed when its owner has gone: pid "
"""What the file ``_MARK`` holds, with the pid behind it: tells a scratch directory from a user's own."""


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
        with open(os.path.join(path, _MARK), "wb") as mark:
            mark.write(_MARK_TEXT + b"%d\n" % owner)
        inner = os.path.join(path, "d")
        os.mkdir(inner, 0o700)
        yield inner
    finally:
        if os.getpid() == owner:
            _remove(path)
        os.close(fd)


def short_parent() -> str:
    """The directory for temporary files, or, if its path is too long for sockets in a scratch directory, another one
    for such files, if there is any."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) <= _LONGEST:
        return parent
    return next((other for other in _OTHERS if os.access(other, os.W_OK | os.X_OK)), parent)


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it, whatever a server or a test has made of it, as far as it can be
    removed. No link is followed."""
    with suppress(RecursionError):  # a tree that is deeper than rmtree gets before Python 3.13
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            for _ in unlocked(path):
                pass
            shutil.rmtree(path, ignore_errors=True)


def unlocked(
    path: str, failed: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk(path, onerror=failed)`` through directories that are made readable and writable on the way."""
    _unlock(path)
    for directory, inner, names in os.walk(path, onerror=failed):
        for name in inner:  # before it is looked into
            _unlock(os.path.join(directory, name))
        yield directory, inner, names


def _unlock(path: str) -> None:
    """Let its owner, who is not root, read and write a directory."""
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
            os.chmod(path, 0o700)


def _remove(path: str) -> bool:
    """Remove all, and the mark last, so that what cannot be removed now is swept later; whether it has gone."""
    remove_tree(os.path.join(path, "d"))
    with suppress(OSError):
        if os.listdir(path) == [_MARK]:
            os.unlink(os.path.join(path, _MARK))
        os.rmdir(path)
        return True
    return False


def _is_marked(path: str) -> bool:
    with suppress(OSError):
        fd = os.open(os.path.join(path, _MARK), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(fd, len(_MARK_TEXT)) == _MARK_TEXT
        finally:
            os.close(fd)
    return False


def _make(parent: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return path, fd
        except OSError as error:
            os.close(fd)
            os.rmdir(path)
            if not isinstance(error, BlockingIOError):  # somebody looks at it just now
                raise


def sweep(parent: str) -> list[str]:
    """Remove this user's scratch directories whose owners have died; their paths. Nothing else is touched."""
    swept = []
    try:
        with os.scandir(parent) as entries:
            candidates = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    except PermissionError:
        return []
    for path in candidates:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_uid == os.geteuid() and _is_marked(path):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _remove(path):
                    swept.append(path)
        except OSError:
            continue  # its owner lives
        finally:
            os.close(fd)
    return swept
