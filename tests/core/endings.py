"""Waiting for the end of processes that are not our children."""

from __future__ import annotations

import contextlib
import os
import select
import time


@contextlib.contextmanager
def pidfds(pids):
    fds = []
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fds.append(os.pidfd_open(pid))
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def ended(fds, seconds):
    """How many of them have ended, waiting for all at the longest for so long."""
    deadline = time.monotonic() + seconds
    return sum(bool(select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]) for fd in fds)
