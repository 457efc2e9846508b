"""The three backends, what some can do and others cannot, and what a lab uses where it is not told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from udslab.word import Word

__all__ = ["Backend", "Need", "Options", "why_not"]


class Backend(Word):
    """The three of them, the cheapest first."""

    THREAD = "thread"
    PROCESS = "process"
    CONTAINER = "container"


class Need(Word):
    """What some backends can do and others cannot."""

    HANDLER = "handler"
    """Run a function of the test's own."""
    ABSTRACT = "abstract"
    """Serve an abstract name that a client here can reach."""
    KILL = "kill"
    """SIGKILL to the server alone."""
    PAUSE = "pause"
    """SIGSTOP to the server alone."""


_WHY_NOT = {
    (Backend.THREAD, Need.KILL): "a thread cannot be killed",
    (Backend.THREAD, Need.PAUSE): "a thread cannot be stopped for a while",
    (Backend.PROCESS, Need.HANDLER): "a handler is a function of this process",
    (Backend.CONTAINER, Need.HANDLER): "a handler is a function of this process",
    (Backend.CONTAINER, Need.ABSTRACT): "a container's network namespace has abstract names of its own",
}


def why_not(backend: Backend, need: Need) -> str | None:
    """Why ``backend`` cannot do it; None if it can."""
    return _WHY_NOT.get((backend, need))


@dataclass(frozen=True)
class Options:
    """What a lab uses where it is not told otherwise."""

    backend: Backend = Backend.THREAD
    image: str | None = None
    """Of containers: any with Python 3.9 or newer. None: the lab's base image of ``distro``."""
    distro: str = "debian-12"
    engine: str | None = None
    """A Docker context or a URL; None: what the docker command would use."""
