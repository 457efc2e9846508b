"""A small process that waits for another one's death and then calls a function: what a killed process cannot do itself.

    python -m udslab.reaper PID MODULE:FUNCTION ARGUMENT…

It holds nothing of the process that it waits for but its pidfd and one end of a pipe. ``done`` on its standard input
ends it at once, with nothing called; end of input without that, or the death of the process, is what it waits for.
It is no child that a test runner's signals reach: it has a session of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import subprocess
import sys

__all__ = ["Reaper", "main"]

_DONE = b"done\n"


class Reaper:
    """Calls ``module:function`` with ``arguments`` in a process of its own if this process dies before
    :meth:`close`. A context manager."""

    def __init__(self, function: str, *arguments: str) -> None:
        # Started where this package lies, whatever sys.path is there.
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        program = f"import sys; sys.path.insert(0, {root!r}); from udslab.reaper import main; sys.exit(main())"
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(self._owner), function, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid

    def close(self) -> None:
        """There is nothing to do when this process dies. In a forked child, and a second time: does nothing."""
        if os.getpid() == self._owner and self._process.returncode is None:
            self._process.communicate(_DONE)

    def __enter__(self) -> Reaper:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main() -> int:
    """Wait, and call."""
    pid, function, *arguments = sys.argv[1:]
    if _wait(int(pid)):
        return 0
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)
    return 0


def _wait(pid: int) -> bool:
    """Wait for the end of the process or of the input; whether it said that it was done."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(OSError):  # a kernel without them (before 5.3): there is still the pipe
        poll.register(os.pidfd_open(pid), select.POLLIN)
    if os.getppid() == pid:  # it has not died before that, with its number another's by now
        poll.poll()
    os.set_blocking(0, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(0, len(_DONE)) == _DONE
    return False


if __name__ == "__main__":
    sys.exit(main())
