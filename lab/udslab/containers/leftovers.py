"""What is on an engine with the lab's labels, whose it is, and what of it may go."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from docker.errors import NotFound

from udslab.containers.engine import Engine
from udslab.containers.labels import SESSION, Owner
from udslab.errors import EngineError
from udslab.scratch import remove_tree
from udslab.word import Word

__all__ = ["Kind", "Leftover", "find", "reap", "sweep"]

_FRESH = 300.0
"""Seconds for which nothing is swept, by the engine's clock: whoever has just made it may still be about to use it."""
_ENDED = ("created", "exited", "dead", "configured", "initialized", "stopped")
"""The engine's words for what does not run, Docker's and podman's."""
_WHY_LEFT = {
    "running": "its agent ends it in time",
    "restarting": "its agent ends it in time",
    "paused": "docker unpause lets it end",
    "removing": "it is being removed",
    "mounted": "a container mounts it",
}


class Kind(Word):
    """What it is."""

    CONTAINER = "container"
    VOLUME = "volume"


@dataclass(frozen=True)
class Leftover:
    """A container or volume with the lab's labels. ``age`` in seconds; ``state`` in the engine's word, for a volume
    ``mounted`` or ``unused``."""

    kind: Kind
    name: str
    state: str
    image: str
    age: float
    owner: Owner

    @property
    def removable(self) -> bool:
        """Whether it may be removed when somebody asks for that. Never what runs or is paused: its agent ends it when
        nobody drives it. Nor what belongs to a process that lives."""
        return self.state in (*_ENDED, "unused") and not self.owner.lives

    @property
    def sweepable(self) -> bool:
        """Whether it may go unasked: of a volume that nobody uses just now the owner's death must be certain."""
        certain = self.kind is Kind.CONTAINER or self.owner.lives is False
        return self.removable and certain and self.age > _FRESH

    @property
    def why_left(self) -> str:
        """Why it may not be removed, in words."""
        return _WHY_LEFT.get(self.state, "its owner lives")

    def remove(self, engine: Engine) -> None:
        """Remove it, unless somebody else already has. Raises :class:`~udslab.errors.EngineError`."""
        api = engine.client.api
        with engine.telling(f"{self.kind} {self.name} cannot be removed"), suppress(NotFound):
            if self.kind is Kind.VOLUME:
                api.remove_volume(self.name)
            else:
                api.remove_container(self.name, v=True)


def find(engine: Engine, session: str | None = None) -> Iterator[Leftover]:
    """All that has the lab's labels, or those of one session: containers first, so that their volumes are free when
    they have gone. Raises :class:`~udslab.errors.EngineError`."""
    label = SESSION if session is None else f"{SESSION}={session}"
    with engine.telling("containers and volumes cannot be listed"):
        now = _seconds(engine.now)
        containers = engine.client.api.containers(all=True, filters={"label": label})
    for one in containers:
        owner = Owner.from_labels(one["Labels"])
        age = now - float(one["Created"])
        yield Leftover(Kind.CONTAINER, one["Id"][:12], one["State"], one["Image"], age, owner)
    with engine.telling("volumes cannot be listed"):  # now: some containers may just have been removed
        mounted = {mount.get("Name") for one in engine.client.api.containers(all=True) for mount in one["Mounts"] or ()}
        volumes = engine.client.api.volumes(filters={"label": label})["Volumes"] or []
    for one in volumes:
        owner = Owner.from_labels(one["Labels"])
        age = now - _seconds(one["CreatedAt"])
        state = "mounted" if one["Name"] in mounted else "unused"
        yield Leftover(Kind.VOLUME, one["Name"], state, "", age, owner)


def sweep(engine: Engine) -> list[Leftover]:
    """Remove what dead sessions have left: what never ran or has exited, some minutes ago. What was removed."""
    swept = []
    for leftover in find(engine):
        if leftover.sweepable:
            with suppress(EngineError):  # another one sweeps, too, or it has come into use
                leftover.remove(engine)
                swept.append(leftover)
    return swept


def reap(name: str, session: str, root: str) -> None:
    """Remove all that a session has left whose process is known to have died: on the engine, and the scratch directory
    ``root``, which a forked child of that process may still hold.

    Called by its :class:`~udslab.reaper.Reaper`, and by nobody else: also what runs goes.
    """
    try:
        with Engine(name or None) as engine:
            for leftover in find(engine, session):
                with suppress(EngineError):
                    if leftover.kind is Kind.CONTAINER:
                        engine.remove_container(leftover.name)
                    else:
                        leftover.remove(engine)
    finally:  # after the containers, which write there
        remove_tree(os.path.dirname(root))


def _seconds(time: str) -> float:
    """Seconds since the epoch of an RFC 3339 time."""
    # Python 3.10 reads neither nanoseconds nor a Z.
    return datetime.fromisoformat(re.sub(r"\.\d+", "", time).replace("Z", "+00:00")).timestamp()
