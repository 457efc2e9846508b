"""Namespaces of one's own, in children: other networks, other mounts, other users, other pids; and mounts in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from udslab import libc
from udslab.atlas import calls
from udslab.atlas.behaviour import NotHere
from udslab.atlas.kit import Kit

__all__ = [
    "BIND",
    "MOUNTS",
    "NETWORK",
    "PIDS",
    "USERS",
    "bind_mount",
    "elsewhere",
    "enter",
    "map_user",
    "mount_here",
    "read_only",
]

# linux/sched.h
MOUNTS, USERS, PIDS, NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000
# linux/mount.h
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT, _NO_ATIME = 1, 2, 4, 8, 32, 1024
BIND, _RECURSIVE, _PRIVATE, _RELATIVE_ATIME = 4096, 16384, 1 << 18, 1 << 21


def enter(flags: int, inside: int | None = None) -> None:
    """Bring this process into new namespaces. Raises :class:`NotHere` where that may not be.

    With ``USERS``, its user becomes ``inside`` there (if not None), and nobody else has a number there. Where only
    users in a namespace of their own may make the others, such a one is made first, in which this user keeps its
    number. In a new mount namespace, no mount goes to or comes from others."""
    own = os.geteuid(), os.getegid()
    if not libc.unshare(flags):
        if flags & USERS or not libc.unshare(flags | USERS):
            raise NotHere("no namespaces of one's own may be made")
        map_user(*own, *own)
    elif flags & USERS and inside is not None:
        map_user(inside, inside, *own)
    if flags & MOUNTS:
        mount_here("none", "/", flags=_RECURSIVE | _PRIVATE)


def map_user(uid: int, gid: int, outer_uid: int, outer_gid: int) -> None:
    """Give an outer user and group these numbers in the user namespace that this process has made."""
    with suppress(OSError), open("/proc/self/setgroups", "w") as file:  # before Linux 3.19 there is none
        file.write("deny")
    try:
        for name, line in ("gid_map", f"{gid} {outer_gid} 1"), ("uid_map", f"{uid} {outer_uid} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    except OSError as error:
        raise NotHere(f"no user may be mapped ({error.strerror})") from None


def elsewhere(kit: Kit, flags: int, function: Callable[[], Any], inside: int | None = None) -> Any:
    """What a function gives in a child in new namespaces; with ``PIDS``, in that child's child, which has pid 1."""

    def there() -> Any:
        enter(flags, inside)
        return kit.in_child(function) if flags & PIDS else function()

    return kit.in_child(there)


def mount_here(source: str, target: str, type: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2), in a mount namespace of one's own. Raises :class:`NotHere` where it may not be done."""
    try:
        calls.mount(source, target, type, flags, options)
    except OSError as error:
        raise NotHere(f"{type or 'this'} cannot be mounted ({error.strerror})") from None


def bind_mount(source: str, target: str) -> None:
    """Let a directory be seen at another place, too."""
    with suppress(FileExistsError):
        os.mkdir(target)
    mount_here(source, target, flags=BIND)


def read_only(target: str, more: int = 0) -> None:
    """Make a bind mount read-only. What else holds for it stays: nobody in a user namespace may take that away."""
    now = os.statvfs(target).f_flag
    kept = now & (_NO_SUID | _NO_DEVICES | _NO_EXEC | _NO_ATIME) | (_RELATIVE_ATIME if now & 4096 else 0)
    mount_here("none", target, flags=BIND | _REMOUNT | _READ_ONLY | kept | more)
