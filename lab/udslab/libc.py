"""The calls of the C library that Python has not got.

Loaded at import, not at first use: by then the process may have changed its root or its user, and could not any more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_libc: Any = None
with suppress(ImportError, OSError, TypeError):  # a Python without ctypes; not a Unix
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)

__all__ = [
    "adopt_orphans",
    "file_system_type",
    "file_system_user",
    "get_killed_with_parent",
    "inotify_add",
    "inotify_open",
    "inotify_remove",
    "is_there",
    "outlive_parent",
    "rename_noreplace",
    "set_dumpable",
    "unshare",
]

_RENAME_NOREPLACE = 1
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = 9


def file_system_type(fd: int) -> int | None:
    """``f_type`` of statfs(2), which Python's statvfs has not; None if it cannot be told."""
    if _libc is None:
        return None
    buffer = (ctypes.c_uint32 * 64)()
    return int(buffer[0]) if _libc.fstatfs(fd, buffer) == 0 else None


@contextmanager
def file_system_user(uid: int, gid: int) -> Iterator[None]:
    """Within the block this thread has the rights to files of this user and group, if it is root (setfsuid(2))."""
    if not hasattr(_libc, "setfsuid"):
        yield
        return
    group, user = _libc.setfsgid(gid), _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)


def rename_noreplace(dir_fd: int, old: bytes, new: bytes) -> bool:
    """Rename within a directory by renameat2(2), replacing nothing; False where that cannot be done.

    Raises FileExistsError if ``new`` is there.
    """
    if not hasattr(_libc, "renameat2"):
        return False
    if _libc.renameat2(dir_fd, old, dir_fd, new, _RENAME_NOREPLACE) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(new))
    return False


def get_killed_with_parent() -> None:
    """From now on this process gets SIGKILL when the thread that made it ends (PR_SET_PDEATHSIG, prctl(2))."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def outlive_parent() -> None:
    """Undo :func:`get_killed_with_parent`."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans(adopt: bool = True) -> None:
    """From now on, or no more, those below this process whose parents end become its own children
    (PR_SET_CHILD_SUBREAPER, prctl(2)). No forked child inherits it."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def inotify_open() -> int | None:
    """A non-blocking inotify(7) descriptor, closed on exec; None where there is none to be had."""
    if not hasattr(_libc, "inotify_init1"):
        return None
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    return None if fd < 0 else fd


def inotify_add(fd: int, path: bytes, mask: int) -> int | None:
    """Watch ``path``; the number of the watch, which is that of before if it is watched already. None if it cannot be
    watched."""
    number = int(_libc.inotify_add_watch(fd, path, mask))
    return None if number < 0 else number


def inotify_remove(fd: int, number: int) -> None:
    """Watch it no more; harmless if it is not watched."""
    _libc.inotify_rm_watch(fd, number)


def set_dumpable(dumpable: bool) -> None:
    """Whether others of this user may trace this process, and open its descriptors by /proc (PR_SET_DUMPABLE,
    prctl(2)). Forked children inherit it; after exec a process is dumpable again."""
    if _libc is not None:
        _libc.prctl(_PR_SET_DUMPABLE, int(dumpable))


def unshare(flags: int) -> bool:
    """Go into new namespaces, as unshare(2); whether that could be done."""
    return _libc is not None and bool(_libc.unshare(flags) == 0)


def is_there() -> bool:
    """Whether the C library can be called."""
    return _libc is not None
