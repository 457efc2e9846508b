"""All behaviours, by group: importing this registers them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from udslab.atlas import (
    abstract,
    accepting,
    activation,
    binding,
    buffers,
    closing,
    connecting,
    credentials,
    datagrams,
    filesystems,
    flags,
    lifetime,
    listening,
    namespaces,
    naming,
    other_calls,
    polling,
    python,
    rights,
    security,
    seqpackets,
    streams,
    tables,
    unnamed,
)
from udslab.atlas.behaviour import BEHAVIOURS, Behaviour

__all__ = [
    "GROUPS",
    "abstract",
    "accepting",
    "activation",
    "binding",
    "buffers",
    "closing",
    "connecting",
    "credentials",
    "datagrams",
    "filesystems",
    "flags",
    "lifetime",
    "listening",
    "namespaces",
    "naming",
    "other_calls",
    "polling",
    "python",
    "rights",
    "security",
    "select",
    "seqpackets",
    "streams",
    "tables",
    "unnamed",
]

GROUPS = {
    "NAM": "Naming and sun_path",
    "BND": "bind",
    "LSN": "listen and backlog",
    "CON": "connect",
    "ACC": "accept",
    "STR": "Stream I/O",
    "SHU": "Half-close, shutdown, end of file, reset",
    "DGR": "Datagrams",
    "SEQ": "Seqpacket",
    "ABS": "Abstract names and autobind",
    "UNN": "Unnamed sockets",
    "LIF": "Permissions, unlink, rename, links, stale files",
    "CRD": "Credentials",
    "RTS": "Descriptors over a socket (SCM_RIGHTS)",
    "FLG": "Flags of send and receive",
    "BUF": "Buffers, ioctls, options",
    "POL": "poll, epoll, signals",
    "DIA": "sock_diag and /proc/net/unix",
    "NSC": "Namespaces and containers",
    "FSK": "File systems",
    "LSM": "Security modules",
    "ACT": "Socket activation",
    "MSC": "Other calls",
    "PYT": "Python",
}
"""The groups' letters, and what they are about."""


def select(patterns: Sequence[str] = ()) -> list[Behaviour]:
    """The behaviours whose id matches any of these globs (in any case); all without any.

    Raises ValueError for a pattern that no id matches."""
    chosen: dict[str, Behaviour] = {}
    for pattern in patterns or ["*"]:
        found = [id for id in BEHAVIOURS if fnmatch.fnmatchcase(id.upper(), pattern.upper())]
        if not found:
            raise ValueError(f"no behaviour is called {pattern!r}")
        chosen.update((id, BEHAVIOURS[id]) for id in found)
    return list(chosen.values())
