"""A program of any image, as the image has it: no agent, and no Python, goes in."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import LogConfig, Mount

from udslab.containers.engine import Engine
from udslab.deadline import Deadline
from udslab.errors import Stage, TimedOut
from udslab.spawn import how_ended
from udslab.supervisor import is_deaf

__all__ = ["Program"]

_SIGNALLED = 128
"""What the engine adds to the number of the signal that has ended a process."""
_DEAF = (
    ": the kernel does not deliver its stop signal to the first process of a container that has no handler for it "
    "(pid_namespaces(7)); give it one, or start it below an init, such as tini"
)


class Program:
    """A container of the user's own image, which runs ``command`` in it; process 1 of it stands for the container.

    Not root, no capabilities, no network but loopback, no-new-privileges; its root can be written. The same methods as
    :class:`udslab.remote.SupervisedProcess`. A context manager: the container goes with the block.
    """

    killed: Sequence[dict[str, Any]] = ()
    """Process 1, if :meth:`end` had to kill it."""

    def __init__(
        self,
        engine: Engine,
        image: str,
        command: Sequence[str],
        *,
        labels: Mapping[str, str],
        user: str,
        mounts: Sequence[Mount],
        environment: Mapping[str, str],
        cwd: str | None = None,
    ) -> None:
        """Raises :class:`~udslab.errors.EngineError`; nothing stays behind then."""
        self.name = image
        self._engine = engine
        self._command = list(command)
        self._owner = os.getpid()
        self._id = f"udslab-{uuid.uuid4().hex[:12]}"
        api = engine.client.api
        try:
            with engine.telling(f"no container of {image} could be started"):
                settings = api.create_host_config(
                    cap_drop=["ALL"],
                    log_config=LogConfig(type="json-file"),
                    mounts=list(mounts),
                    network_mode="none",
                    security_opt=["no-new-privileges"],
                )
                self._id = api.create_container(
                    image,
                    self._command,
                    name=self._id,
                    environment=dict(environment),
                    healthcheck={"test": ["NONE"]},
                    host_config=settings,
                    labels=dict(labels),
                    user=user,
                    working_dir=cwd,
                )["Id"]
                api.start(self._id)
                self.pid: int = self._state()["Pid"]
        except BaseException:
            engine.remove_container(self._id)
            raise

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        with self._engine.telling(f"the container of {self.name} cannot be asked"):
            yield

    def _state(self) -> dict[str, Any]:
        with self._telling():
            state: dict[str, Any] = self._engine.client.api.inspect_container(self._id)["State"]
            return state

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative of the signal that ended it; None while it runs."""
        state = self._state()
        if state["Status"] in ("created", "running", "paused", "restarting"):
            return None
        code = int(state["ExitCode"])
        return _SIGNALLED - code if code > _SIGNALLED else code

    def gone(self) -> str | None:
        """How it has ended, in words; None while it runs."""
        code = self.returncode
        return None if code is None else how_ended(code)

    def fileno(self) -> int | None:
        """None: the engine has to be asked."""
        return None

    def output(self) -> str:
        """What it has written."""
        with self._telling():
            said: bytes = self._engine.client.api.logs(self._id)
            return said.decode(errors="backslashreplace")

    @property
    def written(self) -> int:
        """How many bytes it has written."""
        return len(self.output())

    def gone_within(self, timeout: float | None) -> bool:
        """Whether it has ended, at the latest after ``timeout`` seconds."""
        try:
            self.wait(timeout)
        except TimedOut:
            return False
        return True

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited; its exit status. Raises :class:`~udslab.errors.TimedOut`."""
        deadline = Deadline(timeout)
        while True:
            code = self.returncode
            if code is not None:
                return code
            if deadline.passed:
                what = f"{self.name} (pid {self.pid}) has not ended within {timeout:g} s"
                raise TimedOut(Stage.ENGINE, errno.ETIMEDOUT, None, what=what)
            time.sleep(0.01)  # the engine's own waiting cannot be given a limit that does not end the connection

    def send_signal(self, number: int) -> None:
        """Send a signal to process 1, unless it has exited."""
        with self._telling(), contextlib.suppress(NotFound):
            try:
                self._engine.client.api.kill(self._id, int(number))
            except APIError:
                if self.returncode is None:
                    raise

    def signal_left(self, number: int, group: bool = False) -> list[int]:
        """Send a signal to process 1, to which alone the engine sends any; its pid on the engine's machine."""
        self.send_signal(number)
        return [self.pid]

    def open_files(self, room: bool, pids: Sequence[int] = ()) -> list[int]:
        """Nobody's: the limits of a container's processes are the engine's."""
        return []

    def freeze(self) -> None:
        """Freeze all its processes."""
        with self._telling():
            self._engine.client.api.pause(self._id)

    def thaw(self) -> None:
        """Let them go on."""
        with self._telling():
            self._engine.client.api.unpause(self._id)

    def tree(self) -> list[dict[str, Any]]:
        """Its processes: ``pid`` (the engine's machine's) and ``command`` of each."""
        with self._telling():
            found = self._engine.client.api.top(self._id, "-eo pid,args")
        return [{"pid": int(pid), "command": args.split()} for pid, args in found["Processes"]]

    def end(self, grace: float = 5.0, number: int = signal.SIGTERM) -> int:
        """A signal, and SIGKILL after ``grace`` seconds; the exit status."""
        if self._state()["Status"] == "paused":
            self.thaw()
        self.send_signal(number)
        try:
            return self.wait(grace)
        except TimedOut:
            why = _DEAF if is_deaf(self.pid, number) else ""
            self.killed = [{"pid": self.pid, "command": self._command, "why": why}]
            return self.kill()

    def kill(self) -> int:
        """SIGKILL to all its processes; the exit status."""
        self.send_signal(signal.SIGKILL)
        return self.wait(30.0)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        if os.getpid() == self._owner:  # not in a forked child: it is the parent's
            self._engine.remove_container(self._id)
