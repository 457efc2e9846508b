"""An agent (:mod:`udslab.agent`) as a small process beside this one: it forks servers, so that this one need not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from udslab.remote import Remote, SocketChannel

__all__ = ["Zygote"]

_GRACE = 2.0
"""Seconds that it gets to end; it takes one at most."""


class Zygote(Remote):
    """An agent as a child of this process, with which it ends, however that ends, and all that it has started.

    It has a session of its own, so that a terminal's signals do not reach it, and this process's environment and user.
    No thread belongs to it. A context manager.
    """

    def __init__(self) -> None:
        # Started where this package lies, whatever sys.path is there.
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        program = f"import sys; sys.path.insert(0, {root!r}); from udslab.agent import main; sys.exit(main())"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-B", "-c", program, "--owner", str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._log,
                    env=os.environ,  # not what C has set besides: readline, which pytest imports, sets COLUMNS
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                self._log.close()
                raise
        super().__init__(_Channel(ours, self._log), "this machine", beats=False)
        self._found = {**_surroundings(), "path": None}  # sys.path it has of its own, as a program without a script

    def __enter__(self) -> Zygote:
        return self

    def surroundings(self) -> dict[str, Any]:
        """What :meth:`~udslab.remote.Remote.serve` has to be told so that a server has this process's environment,
        directory and sys.path as they are now, and not as they were when the zygote was started."""
        now = _surroundings()
        told = {key: value for key, value in now.items() if value != self._found[key] and key != "env"}
        if changes := self.changes(now["env"]):
            told["env"] = changes
        return told

    def changes(self, env: Mapping[str, str]) -> dict[str, str | None]:
        """What makes ``env`` of the environment that it was started with; None: it is not set."""
        before = self._found["env"]
        if env == before:
            return {}
        return {name: env.get(name) for name in env.keys() | before.keys() if env.get(name) != before.get(name)}

    def cancel(self) -> None:
        """Tell it to end: who waits for an answer gets :class:`~udslab.errors.AgentGone`. Any thread may do so."""
        self._process.terminate()

    def close(self) -> None:
        """End it, and wait until it has ended. In a forked child: does nothing."""
        if os.getpid() != self._pid or self._log.closed:
            return
        super().close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class _Channel(SocketChannel):
    def __init__(self, sock: socket.socket, log: Any) -> None:
        super().__init__(sock)
        self._log = log

    def why(self) -> str:
        """Its last words."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="backslashreplace").strip().splitlines()
        return lines[-1] if lines else ""


def _surroundings() -> dict[str, Any]:
    try:
        cwd: str | None = os.getcwd()
    except FileNotFoundError:  # it has been removed; the zygote's own will do
        cwd = None
    path = [entry for entry in sys.path if isinstance(entry, str)]  # what else is there, import passes over
    return {"cwd": cwd, "path": path, "env": dict(os.environ)}
