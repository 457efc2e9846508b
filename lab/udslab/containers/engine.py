"""Container engines: which one is meant, whether it answers, and its errors in one line each."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import docker
import requests.exceptions
from docker.context import ContextAPI
from docker.errors import APIError, BuildError, DockerException, ImageNotFound, NotFound
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from udslab.connection import connect
from udslab.deadline import Deadline
from udslab.errors import EngineError, Stage

__all__ = ["Engine"]

_TIMEOUT = 60
"""Seconds for one request."""

_HINTS = {
    errno.ENOENT: "is it started? Name another by DOCKER_HOST or a Docker context",
    errno.ECONNREFUSED: "is it started? Name another by DOCKER_HOST or a Docker context",
    errno.EACCES: "this user may not use its socket: join its group (docker), or use a rootless engine",
    errno.EPERM: "this user may not use its socket: join its group (docker), or use a rootless engine",
    errno.ETIMEDOUT: "it is there, and does not answer in time",
}


class Engine:
    """A container engine that speaks Docker's API: Docker, or podman at its socket. A context manager.

    ``name``: as it was asked for; ``url``: where it is; ``version`` and ``machine``: of the engine, in its own words.
    ``again``: the name by which another process of this user's finds it, also when the current context has changed.
    """

    def __init__(self, name: str | None = None, *, timeout: float = _TIMEOUT) -> None:
        """``name``: a Docker context, or a URL such as ``unix:///run/podman/podman.sock``; unless given, what the
        docker command would use: ``DOCKER_HOST``, ``DOCKER_CONTEXT``, the current context. ``timeout``: seconds for
        one request.

        Raises :class:`~udslab.errors.EngineError` if there is none or it does not answer.
        """
        self.url, tls = _where(name)
        self.name = name or self.url
        self.again = name or "" if tls else self.url
        with self.telling("it does not answer as a container engine"):
            if self.url.startswith("unix:///"):
                # For the SDK leaves a socket open that it could not connect.
                connect(self.url.removeprefix("unix://"), timeout=timeout).close()
            # A fraction of a second is fine, whatever the stub of its type says.
            options: dict[str, Any] = {"base_url": self.url, "tls": tls or False, "timeout": timeout}
            self.client = docker.DockerClient(**options)
            facts = self.client.version()
        self.version: str = facts.get("Version", "unknown")
        self.machine: str = facts.get("Arch", "unknown")

    def close(self) -> None:
        """Close the connections to it."""
        self.client.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.name} {self.version}>"

    @property
    def now(self) -> str:
        """The engine's own time (RFC 3339): its machine's clock may differ from ours."""
        with self.telling("it does not tell its time"):
            return str(self.client.info()["SystemTime"])

    def image_machine(self, image: str) -> str:
        """The machine that an image is made for, in the engine's words (``amd64``).

        Raises :class:`~udslab.errors.EngineError` (ENOENT) if the engine has no such image.
        """
        with self.telling(f"the image {image} cannot be looked at"):
            return str(self.client.images.get(image).attrs["Architecture"])

    def image_id(self, image: str) -> str:
        """The id of an image, which is another one for another content; empty if the engine has no such image.

        Raises :class:`~udslab.errors.EngineError`.
        """
        with self.telling(f"the image {image} cannot be looked at"), suppress(ImageNotFound):
            return str(self.client.images.get(image).id)
        return ""

    def pull(self, image: str) -> None:
        """Get an image from its registry. Raises :class:`~udslab.errors.EngineError`."""
        with self.telling(f"the image {image} cannot be pulled"):
            self.client.images.pull(image)

    def build(self, image: str, dockerfile: str) -> None:
        """Make an image of nothing but a Dockerfile. Raises :class:`~udslab.errors.EngineError`."""
        try:
            with self.telling(f"the image {image} cannot be made"):
                self.client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=image, rm=True, forcerm=True)
        except BuildError as error:
            what = f"the image {image} cannot be made: {_line(error)}"
            raise EngineError(Stage.ENGINE, errno.EREMOTEIO, self.name, "", what) from error

    def remove_container(self, id: str) -> None:
        """Remove a container, also one that runs, with its anonymous volumes; it has gone when this returns.

        Raises :class:`~udslab.errors.EngineError`.
        """
        deadline = Deadline(_PATIENCE)
        with self.telling(f"the container {id} cannot be removed"), suppress(NotFound):
            while True:
                try:
                    self.client.api.remove_container(id, force=True, v=True)
                    return
                except APIError as error:
                    # It is being removed already, as Docker says it; podman says so also of one that is just ending.
                    busy = error.status_code in (HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR)
                    if not busy or deadline.passed:
                        raise
                with suppress(APIError, OSError):
                    self.client.api.wait(id, timeout=1, condition="removed")
                time.sleep(0.02)  # podman does not always wait

    @contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Raise what goes wrong inside as :class:`~udslab.errors.EngineError`: one line, with what to do."""
        try:
            yield
        except ImageNotFound as error:
            hint = "pull or build it first; script/base-images makes the lab's own"
            raise EngineError(Stage.ENGINE, errno.ENOENT, self.name, hint, _line(error)) from error
        except APIError as error:
            raise EngineError(Stage.ENGINE, errno.EREMOTEIO, self.name, "", f"{what}: {_line(error)}") from error
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            if isinstance(error, EngineError):
                raise
            number = _number(error)
            hint = _HINTS.get(number, "" if number else _line(error))
            raise EngineError(
                Stage.ENGINE, number or errno.EREMOTEIO, self.name, hint, _SAID.get(number, what)
            ) from error


_PATIENCE = 30.0
"""Seconds in which a container that is being removed has gone."""
_LONG = 300
"""How many characters of what others say are kept."""
_DEFAULT = "unix:///var/run/docker.sock"
_SAID = {
    errno.ENOENT: "no engine is there",
    errno.ECONNREFUSED: "no engine answers there",
    errno.EACCES: os.strerror(errno.EACCES),
    errno.EPERM: os.strerror(errno.EPERM),
}


def _where(name: str | None) -> tuple[str, TLSConfig | None]:
    if name and "://" in name:
        return name, None
    try:
        if not name and os.environ.get("DOCKER_HOST"):
            settings = kwargs_from_env()
            return settings["base_url"], settings.get("tls") or None
        context = ContextAPI.get_context(name or os.environ.get("DOCKER_CONTEXT"))
        if context is None:
            raise _no_context(name or os.environ.get("DOCKER_CONTEXT"))
        return context.Host or _DEFAULT, context.TLSConfig
    except (DockerException, ValueError, KeyError) as error:
        raise EngineError(Stage.ENGINE, errno.EINVAL, name, "see: docker context ls", _line(error)) from error


def _no_context(name: str | None) -> EngineError:
    hint = "see: docker context ls"
    config = os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")
    if not os.path.exists(config):
        hint += f"; the SDK sees contexts only beside a config.json: echo '{{}}' >{config}"
    return EngineError(Stage.ENGINE, errno.ENOENT, name, hint, "there is no Docker context of that name")


def _line(error: BaseException) -> str:
    text = getattr(error, "explanation", None) or str(error)
    line = " ".join(str(text).split()).rstrip(".")
    return line if len(line) <= _LONG else line[: _LONG - 1] + "…"


def _number(error: BaseException | None) -> int:
    """The errno that lies under the layers of libraries; 0 if there is none."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, requests.exceptions.Timeout):
            return errno.ETIMEDOUT
        # A negative one is getaddrinfo's.
        if (
            isinstance(one, OSError)
            and one.errno
            and one.errno > 0
            and not isinstance(one, requests.exceptions.RequestException)
        ):
            return one.errno
        waiting += [*one.args, one.__cause__, one.__context__]
        waiting.append(getattr(one, "reason", None))
    return 0
