"""What /proc shows of another process only to who may look into it (proc(5)): its open files, its directories.

That is its own user, and CAP_SYS_PTRACE (ptrace(2), "Ptrace access mode checking"), which root has not in a container.
Such a root looks with the file-system rights of the process's user (setfsuid(2)), for that is whose rights are checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from udslab import libc

__all__ = ["links", "look", "numbers", "owner_of"]

_Seen = TypeVar("_Seen")


def look(pid: int, at: Callable[[str], _Seen]) -> _Seen:
    """What ``at`` of a process's directory in /proc tells. Raises OSError if it has exited, and PermissionError if
    it may not be looked into."""
    directory = f"/proc/{pid}"
    try:
        return at(directory)
    except PermissionError:
        if os.geteuid() != 0:
            raise
        with libc.file_system_user(*owner_of(pid)):
            return at(directory)


def owner_of(pid: int) -> tuple[int, int]:
    """Its real user and group: what owns its directory in /proc is root, once it has changed its user (proc(5))."""
    with open(f"/proc/{pid}/status") as file:
        told = dict(line.split(":", 1) for line in file)
    return int(told["Uid"].split()[0]), int(told["Gid"].split()[0])


def numbers(pid: int) -> set[int]:
    """The numbers of its open files. Raises what :func:`look` does."""
    return look(pid, lambda directory: set(map(int, os.listdir(f"{directory}/fd"))))


def links(pid: int) -> list[str]:
    """What each of its descriptors leads to, as readlink(2) tells it. Raises what :func:`look` does."""
    return look(pid, _links)


def _links(directory: str) -> list[str]:
    found = []
    for number in os.listdir(f"{directory}/fd"):
        try:
            found.append(os.readlink(f"{directory}/fd/{number}"))
        except PermissionError:  # root may list them all the same
            raise
        except OSError:  # closed meanwhile; or a file whose path is longer than readlink can tell
            continue
    return found
