"""A container with an agent as its process 1, driven over the attach connection."""

from __future__ import annotations

import errno
import os
import struct
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from docker.errors import APIError
from docker.types import LogConfig, Mount

from udslab.containers import bundle
from udslab.containers.engine import Engine
from udslab.errors import AgentGone, EngineError, Stage
from udslab.remote import Remote, SocketChannel

__all__ = ["Container"]

LEASE = 30.0
"""Seconds for which an agent goes on when it hears nothing; see :mod:`udslab.remote` for the heartbeat."""
_STDOUT = 1
_HEADER = struct.Struct(">BxxxL")
_KEPT = 50
"""How many pieces of an agent's standard error are kept."""


class Container(Remote):
    """A container of any image with Python 3.9 or newer, whose process 1 is an agent.

    :class:`~udslab.remote.Remote` says what it can be asked.

    Not root, no capabilities, no network but loopback, a read-only root with an empty /tmp, no-new-privileges. It goes
    when it is closed, when the process that made it dies, and when that has not been heard of for half a minute.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        labels: Mapping[str, str],
        user: str,
        mounts: Sequence[Mount] = (),
        runtime: str | None = None,
        network: Container | None = None,
        pid: Container | None = None,
        userns: str | None = None,
        environment: Mapping[str, str] | None = None,
        put: Mapping[str, bytes] | None = None,
        lease: float | None = None,
    ) -> None:
        """``put``: tar archives to unpack into mounted volumes before it starts. ``network``, ``pid``: the container
        whose network or pid namespace it shares. ``userns``: ``"host"`` for no user namespace of its own, where the
        engine remaps. ``lease``: it ends when it has not been asked for anything for so many seconds, and there are no
        heartbeats of its own but within :meth:`~udslab.remote.Remote.beating`. The rest as the engine takes it.

        Raises :class:`~udslab.errors.EngineError`; nothing stays behind then.
        """
        self.engine = engine
        self.image = image
        name = f"udslab-{uuid.uuid4().hex[:12]}"
        self.id = name  # until the engine has told us its own: it can be removed whatever happens in between
        api = engine.client.api
        try:
            with engine.telling(f"no container could be made of {image}"):
                settings = api.create_host_config(
                    auto_remove=True,
                    cap_drop=["ALL"],
                    log_config=LogConfig(type="none"),  # what an agent says is kept by whom it says it to
                    mounts=list(mounts),
                    network_mode=f"container:{network.id}" if network else "none",
                    pid_mode=f"container:{pid.id}" if pid else None,
                    read_only=True,
                    runtime=runtime,
                    security_opt=["no-new-privileges"],
                    tmpfs={"/tmp": "rw,size=64m,mode=1777"},  # noqa: S108 - in the container
                    userns_mode=userns,
                )
                self.id = api.create_container(
                    image,
                    name=name,
                    entrypoint=bundle.command("--lease", str(lease or LEASE)),
                    command=[],
                    environment=dict(environment or {}),
                    healthcheck={"test": ["NONE"]},
                    host_config=settings,
                    labels=dict(labels),
                    stdin_open=True,
                    user=user,
                    working_dir="/",
                )["Id"]
            if runtime:
                self._check_runtime(runtime)
            with engine.telling(f"no container of {image} could be started"):
                for path, archive in (put or {}).items():
                    api.put_archive(self.id, path, archive)
                parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                attached = _Attached(api.attach_socket(self.id, parameters))
                try:
                    self._start(api)
                except BaseException:
                    attached.close()
                    raise
        except BaseException:
            engine.remove_container(self.id)
            raise
        super().__init__(attached, f"{image} ({name})", beats=lease is None)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _check_runtime(self, runtime: str) -> None:
        """podman takes any name, and then its own."""
        with self.engine.telling(f"the container of {self.image} cannot be looked at"):
            settings = self.engine.client.api.inspect_container(self.id)["HostConfig"]
        if settings["Runtime"] != runtime:
            hint = "podman's is set in its containers.conf"
            what = f"the runtime {runtime} cannot be chosen for a container here"
            raise EngineError(Stage.ENGINE, errno.EOPNOTSUPP, self.engine.name, hint, what)

    def _start(self, api: Any) -> None:
        try:
            api.start(self.id)
        except APIError as error:
            if "python3" in str(error.explanation) and "not found" in str(error.explanation):
                raise self._unfit(f"{self.image} has no python3", "an agent needs Python 3.9 or newer") from error
            raise

    def _greet(self) -> None:
        """Send the agent, and see that it is there."""
        try:
            with suppress(OSError):  # what it says at its end tells more
                self._channel.send(bundle.contents(), LEASE)
            self.started = self.info()
        except AgentGone as error:
            said = self._channel.why()
            made_for = self.engine.image_machine(self.image)
            if "exec format error" in said.lower():
                machine = self.engine.machine
                what = f"{self.image} is made for {made_for}"
                if made_for == machine:
                    what = f"the python3 of {self.image} is no program for {machine}"
                raise self._unfit(what, f"the engine runs on {machine}") from error
            raise self._unfit(f"no agent could be started in {self.image}", said or str(error)) from error

    def _unfit(self, what: str, hint: str) -> EngineError:
        return EngineError(Stage.ENGINE, errno.ENOEXEC, self.engine.name, hint, what)

    def log(self) -> str:
        """What its process 1 has written to standard error: nothing, unless something is wrong."""
        _ = self.alive  # takes in what has come
        return self._channel.why()

    def pause(self) -> None:
        """Freeze all its processes."""
        with self.engine.telling(f"{self.name} cannot be paused"):
            self.engine.client.api.pause(self.id)

    def unpause(self) -> None:
        """Let them go on."""
        with self.engine.telling(f"{self.name} cannot be unpaused"):
            self.engine.client.api.unpause(self.id)

    def kill(self) -> None:
        """SIGKILL to all its processes, as the engine does it: what they had bound becomes stale."""
        with self.engine.telling(f"{self.name} cannot be killed"):
            self.engine.client.api.kill(self.id)
        self.ends_within(None)

    def close(self) -> None:
        """End it: its servers by SIGTERM, half a second later by SIGKILL. It has gone when this returns."""
        if os.getpid() != self._pid:
            return
        super().close()
        self._wait_removed()
        self.engine.remove_container(self.id)

    def __enter__(self) -> Container:
        return self

    def _wait_removed(self) -> None:
        """Wait until it has removed itself, for as long as its agent may take."""
        api = self.engine.client.api
        with suppress(APIError, OSError):  # it has gone, or is removed by force
            if api.inspect_container(self.id)["State"]["Status"] == "running":
                api.wait(self.id, timeout=3, condition="removed")


class _Attached(SocketChannel):
    """The attach connection: the agent's standard input and output, with its standard error between them (the engine's
    frames)."""

    def __init__(self, attached: Any) -> None:
        super().__init__(getattr(attached, "_sock", attached))
        self._attached = attached  # closing it closes the connection
        self._sock.settimeout(None)
        self._data = bytearray()
        self._errors: deque[bytes] = deque(maxlen=_KEPT)

    def receive(self, timeout: float | None) -> bytes | None:
        while True:
            said = self._frames()
            if said:
                return said
            data = super().receive(timeout)
            if not data:
                return data
            self._data += data

    def _frames(self) -> bytes:
        """What of standard output has come whole."""
        said = bytearray()
        while len(self._data) >= _HEADER.size:
            stream, size = _HEADER.unpack_from(self._data)
            end = _HEADER.size + size
            if len(self._data) < end:
                break
            piece = bytes(self._data[_HEADER.size : end])
            del self._data[:end]
            if stream == _STDOUT:
                said += piece
            else:
                self._errors.append(piece)
        return bytes(said)

    def _release(self) -> None:
        # From the outermost layer inwards: Python 3.13 complains of a response whose socket was closed before it.
        response = getattr(self._attached, "_response", None)
        if response is not None:
            response.close()
        self._attached.close()
        super()._release()

    def why(self) -> str:
        lines = b"".join(self._errors).decode(errors="backslashreplace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
