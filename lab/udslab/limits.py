"""Another user's rights, and another process's limits: what it takes to run a server as somebody and to press it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from udslab import procfs

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

__all__ = ["become", "fill_open_files", "limit_open_files", "room_for_files"]


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Become another user, for good. Raises OSError (EPERM) if this is not root."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def fill_open_files(pid: int) -> tuple[int, int] | None:
    """Lower a process's RLIMIT_NOFILE as far as it knows of no other errno than EMFILE by it; its limit before, soft
    and hard. None if it has ended, or may not be limited. What it can still open tells :func:`room_for_files`."""
    try:
        before = _open_files(pid)
        while True:
            limit = _lowest_limit(pid)
            if not limit_open_files(pid, limit, before[1]):
                return None
            if _lowest_limit(pid) >= limit:  # it has closed none meanwhile
                return before
    except OSError:
        return None


def _lowest_limit(pid: int) -> int:
    """The first number that is free; or the one behind the last that is not, if there are more files than poll(2)
    would take then (EINVAL): of the three standard ones it is not asked to wait for."""
    numbers = procfs.numbers(pid)
    free = min(set(range(len(numbers) + 1)) - numbers)
    return free if len(numbers - {0, 1, 2}) <= free else max(numbers) + 1


def room_for_files(pid: int) -> int:
    """How many more files a process can open. Raises OSError if that cannot be seen."""
    limit = _open_files(pid)[0]
    return int(limit) - sum(number < limit for number in procfs.numbers(pid))


def _open_files(pid: int) -> tuple[int, int]:
    """RLIMIT_NOFILE, soft and hard: prlimit(2) tells it only to whom it lets change it."""
    with open(f"/proc/{pid}/limits") as file:
        line = next(line for line in file if line.startswith("Max open files"))
    soft, hard = (resource.RLIM_INFINITY if word == "unlimited" else int(word) for word in line.split()[3:5])
    return soft, hard


def limit_open_files(pid: int, soft: int, hard: int) -> bool:
    """Set a process's RLIMIT_NOFILE; whether that could be done.

    prlimit(2) asks for that process's own user and group, or CAP_SYS_RESOURCE, which root in a container has not: so
    root does it by a child that becomes that user. Not for a process with threads: it forks."""
    if os.geteuid() != 0:
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        except OSError:
            return False
        return True
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become(*procfs.owner_of(pid))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status == 0
