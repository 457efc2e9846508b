"""Whose a container or volume is: labels that name the session, its machine, and its owner's process."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["SESSION", "Owner"]

_PREFIX = "udslab."
SESSION = _PREFIX + "session"
"""The label that everything of the lab has."""


@dataclass(frozen=True)
class Owner:
    """A session and the process that it belongs to.

    ``pid`` has a meaning in its pid namespace alone (``pidns``: the inode of /proc/self/ns/pid), on one machine
    (``machine``: machine-id(5)) and from one boot to the next (``boot``); ``started`` (field 22 of proc_pid_stat(5))
    tells it from a later process with the same number.
    """

    session: str
    machine: str
    boot: str
    pidns: str
    pid: str
    started: str

    @classmethod
    def this_process(cls) -> Owner:
        """A new session of this process."""
        return cls(uuid.uuid4().hex[:12], *_here(), str(os.getpid()), _start_time("self"))

    @classmethod
    def from_labels(cls, labels: dict[str, str]) -> Owner:
        """The owner that labels name."""
        return cls(**{name: labels.get(_PREFIX + name, "") for name in cls.__dataclass_fields__})

    @property
    def labels(self) -> dict[str, str]:
        """For a container or volume."""
        return {_PREFIX + name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def lives(self) -> bool | None:
        """Whether its process lives; None if that cannot be seen from here."""
        if not self.pid.isdecimal() or not self.pidns or (self.machine, self.boot, self.pidns) != _here():
            return None
        started = _start_time(self.pid)
        if not started and _is_hidden(int(self.pid)):
            return None
        return started == self.started


def _here() -> tuple[str, str, str]:
    pidns = ""
    with suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):  # else it shows another namespace's processes
            pidns = str(os.stat("/proc/self/ns/pid").st_ino)
    return _read("/etc/machine-id"), _read("/proc/sys/kernel/random/boot_id"), pidns


def _start_time(pid: str) -> str:
    """When a process was started, in clock ticks since boot; empty if it has gone, also if nobody has waited for it."""
    # The command's name, in parentheses, may hold anything.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in ("Z", "X") else ""


def _is_hidden(pid: int) -> bool:
    """Whether it is there although it could not be read: /proc mounted with hidepid, and another user's."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _read(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""
