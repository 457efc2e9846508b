"""What a platform must have. The lab can be imported anywhere; using what is not there is one clear error."""

from __future__ import annotations

import os
import socket

from udslab.errors import Stage, Unsupported

try:
    import fcntl
    import resource
    import termios
except ImportError:  # not a Unix
    fcntl = resource = termios = None  # type: ignore[assignment]

__all__ = ["fcntl", "need_af_unix", "need_flock", "need_o_path", "resource", "termios"]


def need_af_unix() -> None:
    """Raise :class:`~udslab.errors.Unsupported` where there are no Unix sockets (Windows' Python)."""
    if not hasattr(socket, "AF_UNIX"):
        raise Unsupported("this Python has no AF_UNIX sockets", "use Linux, or WSL")


def need_o_path() -> None:
    """Raise :class:`~udslab.errors.Unsupported` where a file cannot be pinned without opening it (all but Linux)."""
    need_af_unix()
    if not hasattr(os, "O_PATH"):
        raise Unsupported("this platform has no O_PATH, by which the lab pins a file", "use Linux", Stage.STATUS)


def need_flock() -> None:
    """Raise :class:`~udslab.errors.Unsupported` where directories cannot be locked."""
    if fcntl is None:
        raise Unsupported("this platform has no flock", "use Linux", Stage.BIND)
