"""All behaviours, by group: a module each."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from udslab.atlas.behaviour import BEHAVIOURS, Behaviour

__all__ = ["GROUPS", "Group", "load", "select"]


@dataclass(frozen=True)
class Group:
    """What its behaviours are about, and the module that has them."""

    title: str
    module: str


GROUPS = {
    "NAM": Group("Naming and sun_path", "naming"),
    "BND": Group("bind", "binding"),
    "LSN": Group("listen and backlog", "listening"),
    "CON": Group("connect", "connecting"),
    "ACC": Group("accept", "accepting"),
    "STR": Group("Stream I/O", "streams"),
    "SHU": Group("Half-close, shutdown, end of file, reset", "closing"),
    "DGR": Group("Datagrams", "datagrams"),
    "SEQ": Group("Seqpacket", "seqpackets"),
    "ABS": Group("Abstract names and autobind", "abstract"),
    "UNN": Group("Unnamed sockets", "unnamed"),
    "LIF": Group("Permissions, unlink, rename, links, stale files", "lifetime"),
    "CRD": Group("Credentials", "credentials"),
    "RTS": Group("Descriptors over a socket (SCM_RIGHTS)", "rights"),
    "FLG": Group("Flags of send and receive", "flags"),
    "BUF": Group("Buffers, ioctls, options", "buffers"),
    "POL": Group("poll, epoll, signals", "polling"),
    "DIA": Group("sock_diag and /proc/net/unix", "tables"),
    "NSC": Group("Namespaces and containers", "namespaces"),
    "FSK": Group("File systems", "filesystems"),
    "LSM": Group("Security modules", "security"),
    "ACT": Group("Socket activation", "activation"),
    "MSC": Group("Other calls", "other_calls"),
    "PYT": Group("Python", "python"),
}
"""By the letters with which their behaviours' ids begin."""


def load() -> Iterator[Behaviour]:
    """All behaviours, group after group: each module is imported when its turn comes. Where it must be compiled first,
    as in a container, the first groups can be measured meanwhile."""
    for letters, group in GROUPS.items():
        import_module(f"udslab.atlas.{group.module}")
        yield from [each for each in BEHAVIOURS.values() if each.group == letters]


def select(patterns: Sequence[str] = ()) -> list[Behaviour]:
    """The behaviours whose id matches any of these globs (in any case); all without any.

    Raises ValueError for a pattern that no id matches."""
    behaviours = {each.id: each for each in load()}
    chosen: dict[str, Behaviour] = {}
    for pattern in patterns or ["*"]:
        found = [id for id in behaviours if fnmatch.fnmatchcase(id.upper(), pattern.upper())]
        if not found:
            raise ValueError(f"no behaviour is called {pattern!r}")
        chosen.update((id, behaviours[id]) for id in found)
    return list(chosen.values())
