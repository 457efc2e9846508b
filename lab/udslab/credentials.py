"""What the kernel says of a peer's process."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OVERFLOW_ID", "Credentials"]

OVERFLOW_ID = 65534
"""The uid and gid that stand for "not mapped into this user namespace" (user_namespaces(7)); also ``nobody``."""


@dataclass(frozen=True)
class Credentials:
    """Process id, user id and group id of a peer, as this process's namespaces show them."""

    pid: int
    uid: int
    gid: int

    @property
    def foreign(self) -> bool:
        """Whether the peer's process has no number in this pid namespace: it lives in another one (pid 0)."""
        return self.pid == 0

    @property
    def unmapped(self) -> bool:
        """Whether the user has no number here: one of another user namespace, or ``nobody`` (uid 65534)."""
        return self.uid == OVERFLOW_ID

    def __str__(self) -> str:
        pid = "pid 0 (in another pid namespace)" if self.foreign else f"pid {self.pid}"
        uid = "uid 65534 (nobody, or of another user namespace)" if self.unmapped else f"uid {self.uid}"
        return f"{pid} {uid} gid {self.gid}"
