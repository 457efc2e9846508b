"""Where servers run: in a thread of this process, in a process of their own, in a container."""

from __future__ import annotations

import logging
import os
import traceback
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, Union

from udslab.address import Address
from udslab.errors import Stage, Unsupported
from udslab.handlers import Handler, HandlerServer
from udslab.listener import listen
from udslab.needs import Backend, Need, why_not
from udslab.recording import Recorded, Recorder
from udslab.server import Server, serve
from udslab.services import Service, resolve

if TYPE_CHECKING:
    from udslab.remote import Remote, RemoteProcess

__all__ = ["AgentRun", "Run", "ThreadRun", "refuse"]


def refuse(backend: Backend, need: Need) -> Unsupported:
    """The error for what ``backend`` cannot do."""
    where = "in a thread" if backend is Backend.THREAD else f"in a {backend}"
    others = " or ".join(other.value for other in Backend if why_not(other, need) is None)
    what = f"{need} is not to be had {where}: {why_not(backend, need)}"
    return Unsupported(what, f"use the backend {others}", Stage.SERVICE)


class Run(Protocol):
    """A server from its start to its end."""

    pid: int
    """Of the process that serves; in a container its number there."""

    @property
    def failures(self) -> list[BaseException]:
        """What a handler has raised."""

    def record(self) -> list[Recorded]:
        """Whom it has served, and what it has received."""

    def log(self) -> str:
        """What it has written."""

    def stop(self) -> None:
        """Take no new clients, end, remove the socket file. One that has ended: does nothing."""

    def kill(self) -> None:
        """SIGKILL."""

    def pause(self) -> None:
        """SIGSTOP; it is stopped when this returns."""

    def resume(self) -> None:
        """SIGCONT."""

    def close(self) -> None:
        """Stop it, and forget what it has written and received."""


class _Log(logging.Logger):
    """What a server says: kept, for the log of the process is its owner's, who has not asked for this."""

    def __init__(self) -> None:
        super().__init__("udslab.server", logging.INFO)
        self.lines: deque[str] = deque(maxlen=1000)

    def handle(self, record: logging.LogRecord) -> None:
        self.lines.append(_FORMAT.format(record))


_FORMAT = logging.Formatter("udslab: %(message)s")


class ThreadRun:
    """A server in a thread of this process."""

    def __init__(
        self,
        address: Address,
        service: Union[str, Service],
        handler: Handler | None,
        since: float,
        **options: Any,
    ) -> None:
        self.pid = os.getpid()
        self._server: Server | HandlerServer
        self._log = _Log()
        if handler is not None:
            self._recorder = Recorder()
            drain = options.pop("drain")
            self._server = HandlerServer(listen(address, **options), handler, recorder=self._recorder, drain=drain)
        else:
            self._recorder = Recorder(resolve(service))
            self._server = serve(address, self._recorder, log=self._log, **options)
        self._server.since = since
        self._exits = ExitStack()
        self._exits.enter_context(self._server)

    @property
    def failures(self) -> list[BaseException]:
        """See :class:`Run`."""
        return self._server.failures if isinstance(self._server, HandlerServer) else []

    def record(self) -> list[Recorded]:
        """See :class:`Run`."""
        return self._recorder.record()

    def log(self) -> str:
        """See :class:`Run`."""
        raised = (
            "".join(traceback.format_exception(type(error), error, error.__traceback__)) for error in self.failures
        )
        return "".join([*(f"{line}\n" for line in self._log.lines), *raised])

    def stop(self) -> None:
        """See :class:`Run`."""
        self._exits.close()

    def kill(self) -> None:
        """See :class:`Run`."""
        __tracebackhide__ = True
        raise refuse(Backend.THREAD, Need.KILL)

    def pause(self) -> None:
        """See :class:`Run`."""
        __tracebackhide__ = True
        raise refuse(Backend.THREAD, Need.PAUSE)

    def resume(self) -> None:
        """See :class:`Run`."""
        __tracebackhide__ = True
        raise refuse(Backend.THREAD, Need.PAUSE)

    def close(self) -> None:
        """See :class:`Run`."""
        self.stop()


_GRACE = 5.0
"""Seconds that a server gets to end besides those that its clients get."""


class AgentRun:
    """A server that an agent has forked, beside this process or in a container."""

    failures: list[BaseException] = []  # noqa: RUF012 - it has no handler, and so never any

    def __init__(
        self, remote: Remote, address: Address, service: str, surroundings: dict[str, Any], **options: Any
    ) -> None:
        self._process: RemoteProcess = remote.serve(address, service, record=True, surroundings=surroundings, **options)
        self.pid = self._process.pid
        self._drain = options.get("drain", 0.0)

    def record(self) -> list[Recorded]:
        """See :class:`Run`."""
        return self._process.record()

    def log(self) -> str:
        """See :class:`Run`."""
        return self._process.output()

    def stop(self) -> None:
        """See :class:`Run`."""
        self._process.end(self._drain + _GRACE)

    def kill(self) -> None:
        """See :class:`Run`."""
        self._process.kill()

    def pause(self) -> None:
        """See :class:`Run`."""
        self._process.freeze()

    def resume(self) -> None:
        """See :class:`Run`."""
        self._process.thaw()

    def close(self) -> None:
        """See :class:`Run`."""
        if self._drain:
            self.stop()
        self._process.__exit__()
