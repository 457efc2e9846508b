"""Places in containers: a distribution × a runtime × a user × a kind of volume."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from udslab.atlas.catalogue import select
from udslab.atlas.runner import Cell, Verdict, count
from udslab.containers import Engine, Job, Mount, Session, Shared
from udslab.errors import Stage, Unsupported
from udslab.places.images import image_of
from udslab.places.survey import Survey

__all__ = [
    "USERS",
    "VOLUMES",
    "Place",
    "User",
    "about",
    "check_runtime",
    "first_word",
    "shared_on",
    "survey",
]

_STARTED = 30.0
"""Seconds in which a runner tells where it is."""
_SILENT = 60.0
"""Seconds in which it tells the next cell; no measurement may take as long."""
_MOUNTED = "/v"


@dataclass(frozen=True)
class User:
    """Who measures. ``capabilities``: the engine's usual ones, for root; ``mapped``: in a user namespace of its own, as
    its root."""

    uid: int
    capabilities: bool = False
    mapped: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """For a :class:`~udslab.containers.job.Job`."""
        return {"user": f"{self.uid}:{self.uid}", "capabilities": self.capabilities, "namespaces": self.mapped}

    @property
    def arguments(self) -> list[str]:
        """For the runner."""
        return ["--mapped"] if self.mapped else []


USERS = {
    "root": User(0, capabilities=True),
    "bare-root": User(0),
    "nobody": User(65534),
    "user": User(10001),
    "other": User(10002),
    "userns": User(10001, mapped=True),
}
"""Root as the engine makes it and without any capability, ordinary users, and an ordinary one who is root in a user
namespace of its own."""
VOLUMES = ("overlay", "named", "bind", "tmpfs", "read-only")
"""The container's own root, a named volume of the engine's, a directory of this machine's, memory, and a named volume
that is mounted so that it cannot be written."""


@dataclass(frozen=True)
class Place:
    """Where behaviours are measured: of each of these, what it is called."""

    distro: str
    runtime: str = "runc"
    user: str = "root"
    volume: str = "overlay"

    @property
    def image(self) -> str:
        """See :func:`~udslab.places.images.image_of`."""
        return image_of(self.distro)

    def __str__(self) -> str:
        return "/".join(dataclasses.astuple(self))


def survey(
    session: Session,
    place: Place,
    patterns: Sequence[str] = (),
    *,
    jobs: int = 1,
    advance: Callable[[Cell], object] = lambda cell: None,
) -> Survey:
    """Measure the behaviours whose ids match ``patterns`` (all without any) there; ``advance`` is told of each cell.

    Raises :class:`~udslab.errors.Unsupported` where there can be no such place on this engine,
    :class:`~udslab.errors.EngineError` for what else goes wrong, and ValueError for a pattern that no id matches.
    """
    user = USERS[place.user]
    check_runtime(session.engine, place.runtime)
    arguments = [*user.arguments, "--owned", "--jobs", str(jobs), "--directory"]
    with (
        _mounted(session, place.volume) as (directory, mounts),
        session.job(
            place.image,
            "udslab.atlas.__main__",
            *arguments,
            directory,
            "--",
            *patterns,
            mounts=mounts,
            runtime=place.runtime,
            writable=place.volume == "overlay",
            **user.options,
        ) as job,
    ):
        told = first_word(job, user)
        cells = []
        for cell in _cells(job, count(select(patterns))):
            cells.append(cell)
            advance(cell)
    return Survey({**about(told["place"], place), "engine": session.engine.version}, tuple(cells))


def about(told: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """What a runner tells of its place, and what that is called here; ``release`` is its own word for its distro."""
    return {**told, "release": told["distro"], **dataclasses.asdict(place)}


def _cells(job: Job, number: int) -> Iterator[Cell]:
    for _ in range(number):
        line = job.receive(_SILENT)
        if line is None:
            raise job.unfit()
        yield Cell(**{**line, "verdict": Verdict(line["verdict"])})


def first_word(job: Job, user: User) -> dict[str, Any]:
    """What a runner tells of its place."""
    told = job.receive(_STARTED)
    if told is not None:
        return told
    if user.mapped and "user namespace" in job.why():
        raise Unsupported(job.why(), "", Stage.ENGINE)
    raise job.unfit()


def check_runtime(engine: Engine, runtime: str) -> None:
    """Raises :class:`~udslab.errors.Unsupported` if the engine has no such runtime."""
    with engine.telling("it does not tell its runtimes"):
        runtimes = engine.client.info().get("Runtimes") or {}
    if runtime not in runtimes:
        hint = f"there are {', '.join(sorted(runtimes))}" if runtimes else ""
        raise Unsupported(f"the engine has no runtime {runtime}", hint, Stage.ENGINE)


def shared_on(session: Session, volume: str) -> Shared:
    """A volume of that kind, fresh, mounted at a short path, which all users may write."""
    if volume == "bind":
        shared = session.directory()
        os.chmod(shared.path, 0o1777)  # noqa: S103 - as /tmp; those above it are private
        return dataclasses.replace(shared, mountpoint=_MOUNTED, path=_MOUNTED)
    return session.volume(_MOUNTED, tmpfs=volume == "tmpfs", mode=0o1777)


@contextmanager
def _mounted(session: Session, volume: str) -> Iterator[tuple[str, list[Shared | Mount]]]:
    """The directory, and what is mounted."""
    if volume == "overlay":
        yield "/var/tmp", []  # noqa: S108 - in the container
        return
    shared = shared_on(session, volume)
    try:
        yield (_MOUNTED, [shared.read_only]) if volume == "read-only" else (shared.path, [shared])
    finally:
        session.discard(shared)
