"""NAM: naming, and what fits in sun_path."""

from __future__ import annotations

import os

from udslab.atlas.behaviour import TYPES, behaviour
from udslab.atlas.kit import Kit, errno_of
from udslab.socktype import SocketType

__all__: list[str] = []


@behaviour(
    "NAM-01",
    "a path of 107 bytes can be bound, and getsockname tells all of it",
    source="unix(7), Address format",
    expected={"bind": "ok", "length": 107},
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    sock = kit.socket(type)
    path = os.path.join(kit.directory, "x" * (107 - len(kit.directory) - 1))
    return {"bind": errno_of(sock.bind, path), "length": len(sock.getsockname())}


@behaviour(
    "NAM-13",
    "bind and connect say ENOENT where the directory is not there",
    source="bind(2), ERRORS; POSIX.1-2017 bind",
    expected=["ENOENT", "ENOENT"],
    over=TYPES,
)
def _(kit: Kit, type: SocketType) -> object:
    path = os.path.join(kit.directory, "missing", "s")
    return [errno_of(kit.socket(type).bind, path), errno_of(kit.socket(type).connect, path)]
