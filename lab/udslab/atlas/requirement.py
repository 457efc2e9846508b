"""What a behaviour can need of a place, and whether it is there: found by trying."""

from __future__ import annotations

import functools
import os

from udslab import libc
from udslab.word import Word

__all__ = ["Requirement", "why_not"]

_CAPABILITIES = {  # linux/capability.h
    "chown": 0,
    "dac-override": 1,
    "setgid": 6,
    "setuid": 7,
    "net-admin": 12,
    "sys-chroot": 18,
    "sys-ptrace": 19,
    "sys-admin": 21,
    "sys-resource": 24,
    "mknod": 27,
}
_NAMESPACES = {  # linux/sched.h
    "mount-namespace": 0x00020000,
    "user-namespace": 0x10000000,
    "pid-namespace": 0x20000000,
    "net-namespace": 0x40000000,
}


class Requirement(Word):
    """What a behaviour can need."""

    ROOT = "root"
    NOT_ROOT = "not-root"
    OTHER_USER = "other-user"
    """To be able to become another user: root with the capabilities for it."""
    CTYPES = "ctypes"
    """The C library, for what Python has not got."""
    PROC = "proc"
    """/proc with the descriptors of this process."""
    SOCK_DIAG = "sock-diag"
    CHOWN = "chown"
    DAC_OVERRIDE = "dac-override"
    SETUID = "setuid"
    SETGID = "setgid"
    NET_ADMIN = "net-admin"
    SYS_PTRACE = "sys-ptrace"
    SYS_ADMIN = "sys-admin"
    SYS_RESOURCE = "sys-resource"
    MKNOD = "mknod"
    MOUNT_NAMESPACE = "mount-namespace"
    """To be able to mount, in a mount namespace of one's own."""
    USER_NAMESPACE = "user-namespace"
    PID_NAMESPACE = "pid-namespace"
    NET_NAMESPACE = "net-namespace"


@functools.cache
def why_not(need: Requirement) -> str:
    """Why it is not to be had in this place; empty if it is."""
    if need.value in _CAPABILITIES:
        if not _has_capability(_CAPABILITIES[need.value]):
            return f"no capability {need}"
        # It holds for this user's own files, and for nothing that belongs to another namespace.
        return "" if need is Requirement.DAC_OVERRIDE or not _is_alone() else f"capability {need} over nobody else"
    if need.value in _NAMESPACES:
        return "" if _can_unshare(_NAMESPACES[need.value]) else f"no {need} of one's own may be made"
    return _CHECKS[need]()


def _has_capability(number: int) -> bool:
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(line.split()[1], 16) >> number & 1)


@functools.cache
def _is_alone() -> bool:
    """Whether this user is the only one in a user namespace."""
    try:
        with open("/proc/self/uid_map") as file:
            return sum(int(line.split()[2]) for line in file) == 1
    except OSError:
        return False


def _root() -> str:
    if os.geteuid():
        return "this is not root"
    return "this is root of a user namespace with no other user" if _is_alone() else ""


def _can_unshare(flag: int) -> bool:
    """In a child: this process goes on in its own."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(flag) else 1)
    return os.waitpid(pid, 0)[1] == 0


def _sock_diag() -> str:
    import socket

    from udslab import diag

    with socket.socket(socket.AF_UNIX) as sock:
        return "" if diag.describe(sock) is not None else "no sock_diag for Unix sockets"


_CHECKS = {
    Requirement.ROOT: _root,
    Requirement.NOT_ROOT: lambda: "this is root" if os.geteuid() == 0 else "",
    Requirement.OTHER_USER: lambda: why_not(Requirement.SETUID) or why_not(Requirement.SETGID),
    Requirement.CTYPES: lambda: "" if libc.is_there() else "this Python has no ctypes",
    Requirement.PROC: lambda: "" if os.path.isdir("/proc/self/fd") else "no /proc",
    Requirement.SOCK_DIAG: _sock_diag,
}
