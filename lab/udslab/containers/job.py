"""A container whose process 1 is a module of the in-container half, talked to line by line."""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import LogConfig, Mount

from udslab.containers import bundle
from udslab.containers.container import _Attached
from udslab.containers.engine import Engine
from udslab.deadline import Deadline
from udslab.errors import EngineError, Stage

__all__ = ["Job"]

_PATIENCE = 30.0
"""Seconds in which the module must have been taken in."""


class Job:
    """A container of any image with Python 3.9 or newer that runs ``module`` of the lab. A context manager.

    What it prints are JSON lines, :meth:`receive`; what is sent to it it reads from its standard input, which ends when
    this process does. It has a network of its own with nothing in it, and goes with the block.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        module: str,
        *arguments: str,
        labels: Mapping[str, str],
        user: str,
        mounts: Sequence[Mount] = (),
        runtime: str | None = None,
        capabilities: bool = False,
        writable: bool = False,
        namespaces: bool = False,
        network: Job | None = None,
        pid: Job | None = None,
        put: Mapping[str, bytes] | None = None,
    ) -> None:
        """``capabilities``: those that the engine gives by default, and no others; otherwise none. ``writable``: the
        container's own root. ``namespaces``: it may make namespaces, if the kernel lets it (no seccomp filter).
        ``network``, ``pid``: the job whose network or pid namespace it shares. The rest as for
        :class:`~udslab.containers.container.Container`.

        Raises :class:`~udslab.errors.EngineError`; nothing stays behind then.
        """
        self.engine = engine
        self.image = image
        self.id = f"udslab-{uuid.uuid4().hex[:12]}"
        self._lines: list[bytes] = []
        self._rest = b""
        self._closed = False
        api = engine.client.api
        security = [] if capabilities else ["no-new-privileges"]
        try:
            with engine.telling(f"no container of {image} could be started"):
                settings = api.create_host_config(
                    auto_remove=True,
                    cap_drop=None if capabilities else ["ALL"],
                    log_config=LogConfig(type="none"),
                    mounts=list(mounts),
                    network_mode=f"container:{network.id}" if network else "none",
                    pid_mode=f"container:{pid.id}" if pid else None,
                    read_only=not writable,
                    runtime=runtime,
                    security_opt=[*security, *(["seccomp=unconfined"] if namespaces else [])],
                    tmpfs={"/tmp": "rw,size=64m,mode=1777"},  # noqa: S108 - in the container
                )
                self.id = api.create_container(
                    image,
                    name=self.id,
                    entrypoint=bundle.command(*arguments, module=module),
                    command=[],
                    healthcheck={"test": ["NONE"]},
                    host_config=settings,
                    labels=dict(labels),
                    stdin_open=True,
                    user=user,
                    working_dir="/",
                )["Id"]
                for path, archive in (put or {}).items():
                    api.put_archive(self.id, path, archive)
                parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                self._channel = _Attached(api.attach_socket(self.id, parameters))
                try:
                    api.start(self.id)
                    with suppress(OSError):  # what it says at its end tells more
                        self._channel.send(bundle.contents(), _PATIENCE)
                except BaseException:
                    self._channel.close()
                    raise
        except BaseException:
            engine.remove_container(self.id)
            raise

    def fileno(self) -> int:
        """Readable when it may have said something that has not been received."""
        return self._channel.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a line. What it cannot take, as it has ended, is told by the next :meth:`receive`."""
        with suppress(OSError):
            self._channel.send(json.dumps(message).encode() + b"\n", _PATIENCE)

    def receive(self, timeout: float | None) -> dict[str, Any] | None:
        """The next line that it prints; None at its end.

        Raises :class:`~udslab.errors.EngineError`: if it says nothing in time (ETIMEDOUT), or what is no JSON.
        """
        deadline = Deadline(timeout)
        while not self._lines:
            data = self._channel.receive(deadline.left())
            if data is None:
                raise EngineError(Stage.ENGINE, errno.ETIMEDOUT, None, what=f"{self.image}: nothing for {timeout:g} s")
            if not data:
                return None
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += lines
        return self._told(self._lines.pop(0))

    @property
    def waiting(self) -> bool:
        """Whether a line has come in already."""
        return bool(self._lines)

    def _told(self, line: bytes) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(line)
        except ValueError:
            what = f"{self.image} has said {line[:80]!r}"
            raise EngineError(Stage.ENGINE, errno.EPROTO, None, what=what) from None
        return told

    def why(self) -> str:
        """The last line of its standard error."""
        return self._channel.why()

    def unfit(self) -> EngineError:
        """That it has ended before it should, and what it said."""
        said = self.why()
        what = f"the container of {self.image} has ended"
        return EngineError(Stage.ENGINE, errno.ENOEXEC, self.engine.name, said, what)

    def kill(self) -> None:
        """SIGKILL to all its processes, as the engine does it; they have ended when this returns."""
        with self.engine.telling(f"the container of {self.image} cannot be killed"):
            self.engine.client.api.kill(self.id)
            self._wait_removed(int(_PATIENCE))

    def close(self) -> None:
        """End it; it has gone when this returns."""
        if self._closed:
            return
        self._closed = True
        self._channel.close()
        self._wait_removed(3)
        self.engine.remove_container(self.id)

    def _wait_removed(self, timeout: int) -> None:
        with suppress(APIError, NotFound, OSError):  # it has gone, or is removed by force
            self.engine.client.api.wait(self.id, timeout=timeout, condition="removed")

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
