"""A point in time by which something must have happened."""

from __future__ import annotations

import time

__all__ = ["Deadline", "now"]


def now() -> float:
    """Seconds on the monotonic clock. Read by ``clock_gettime``, which libraries that freeze time leave alone."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class Deadline:
    """``seconds`` from now; ``None`` for never."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else now() + seconds

    def left(self) -> float | None:
        """Seconds that are left, never below zero; None for ever."""
        return None if self._end is None else max(0.0, self._end - now())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self._end is not None and now() >= self._end
