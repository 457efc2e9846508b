"""Probes of two instances that start at the same instant over what a dead one has left."""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from udslab.audit.probes.in_the_way import make_stale
from udslab.audit.probes.probe import probe
from udslab.audit.scene import Claim, Instance, Run, Scene, sockets_at
from udslab.deadline import Deadline, now
from udslab.ready import Watcher
from udslab.state import State, status
from udslab.word import Word

__all__ = ["race_after_kill", "race_over_stale"]

ROUNDS = 10
_LEAD = 0.05
"""Seconds from the order to the start, in which both are made ready for it."""
_FIRST_PAUSE = 0.01
_LAST_PAUSE = 0.1
"""Seconds between two looks at whose the path is, unless an event tells: ever more while nothing changes."""
_SETTLED = 2.0
"""Seconds for which what may yet change must stay as it is, if it has once, in an earlier round, stayed so for as long
as it is waited at the least: some find out that the path is taken when they have bound it, some bind anew, and some
wait for it."""
_FLAPS = 3
"""After so many times as long it is judged as it is."""


class _Round(Word):
    ONE = "one"
    """One of them serves the path, and the other has ended, or has not got it."""
    BOTH = "both"
    """Both serve by a socket that they have bound to the path."""
    NONE = "none"
    PATH_LOST = "path-lost"
    """One serves by such a socket, and the path does not lead to it."""


@probe("race-over-stale", in_image=False)
def race_over_stale(scene: Scene) -> str:
    """Two are started at the same instant over a bare stale file, ten times."""
    rounds: list[_Round] = []
    stayed: set[_Round] = set()
    alone = scene.first(path=scene.make_path("alone"))
    private = _private(alone)
    alone.process.kill()
    for number in range(ROUNDS):
        path = scene.make_path(f"round-{number}")
        make_stale(scene, path)
        rounds.append(_race(scene, path, [scene.instance(path), scene.instance(path)], stayed, private))
    return _outcome(scene, rounds)


@probe("race-after-kill", in_image=False)
def race_after_kill(scene: Scene) -> str:
    """The same over all that a killed instance has left, ten times: that one again, and a second one."""
    instances = [scene.instance(), scene.instance()]
    rounds: list[_Round] = []
    stayed: set[_Round] = set()
    private = 0
    for _ in range(ROUNDS):
        if status(scene.path).state is not State.STALE:  # at first, or what the last round has left is something else
            private = _leave_stale(scene, instances[0])
        rounds.append(_race(scene, scene.path, instances, stayed, private))
    return _outcome(scene, rounds)


def _private(alone: Run) -> int:
    """Of how many sockets of one that is alone it is known that they were bound by another name and are not at the
    path: such as each worker has for itself."""
    return list(alone.claims(sockets_at(alone.path)).values()).count(Claim.BY_ANOTHER_NAME)


def _leave_stale(scene: Scene, instance: Instance) -> int:
    """What one leaves that is killed; see :func:`_private`."""
    with suppress(FileNotFoundError):
        os.unlink(scene.path)
    run = scene.first(instance)
    private = _private(run)
    run.kill()
    scene.look()
    return private


def _outcome(scene: Scene, rounds: Sequence[_Round]) -> str:
    counts = Counter(rounds)
    scene.facts |= {word.value: counts[word] for word in _Round}
    told = ", ".join(f"{count} with {word}" for word, count in counts.most_common())
    scene.note(f"{len(rounds)} rounds have ended: {told}")
    if counts[_Round.ONE] == len(rounds):
        return "exclusive"
    return "refuses" if counts[_Round.NONE] == len(rounds) else "races"


def _race(scene: Scene, path: str, instances: Sequence[Instance], stayed: set[_Round], private: int) -> _Round:
    at = now() + _LEAD
    names = ("the first", "the second")
    with Watcher.lent() as watcher:
        if watcher is not None:
            watcher.watch(os.fsencode(path))
        with ThreadPoolExecutor(len(instances)) as pool:  # each start is told of when it has happened
            runs = list(pool.map(lambda instance, name: instance.start(name, path, at=at), instances, names))
        found = _watch(scene, path, runs, stayed, private, watcher)
    for run in runs:
        run.process.kill()
    scene.note(f"a round has ended with {found}")
    return found


def _watch(
    scene: Scene, path: str, runs: Sequence[Run], stayed: set[_Round], private: int, watcher: Watcher | None
) -> _Round:
    """Look until it is decided whose the path is. ``stayed``: what has once stayed so for as long as patience."""
    limit = Deadline(_FLAPS * scene.patience)
    doubt: tuple[_Round, Deadline] | None = None
    seen: set[int] = set()
    pause = _FIRST_PAUSE
    while True:
        living = [run for run in runs if not run.gone]
        if not living:
            for run in runs:
                scene.note(f"{run.name} {run.how()}")
                scene.quote(run)
            return _Round.NONE
        seen |= sockets_at(path)
        claims = {run: claim for run in living if (claim := run.claims(seen, private))}
        owner = scene.who_serves(living, path)
        one, other = (claims.get(run, {}).keys() for run in runs)
        if one - other and other - one:  # a socket that has been handed over is that of one server
            found = _Round.BOTH
        elif owner is not None:
            found = _Round.ONE
        else:
            found = _Round.PATH_LOST if claims else _Round.NONE
        if doubt is None or doubt[0] is not found:
            doubt = found, Deadline(_SETTLED if found in stayed else scene.patience)
            pause = _FIRST_PAUSE
        if doubt[1].passed and found is not _Round.NONE:  # starts take their time
            stayed.add(found)
        ended = found is _Round.ONE and len(living) < len(runs)
        if ended or doubt[1].passed or (limit.passed and found is not _Round.PATH_LOST):
            scene.note(f"still running: {', '.join(f'{run.name} (pid {run.pids})' for run in living)}")
            for run, claim in claims.items():
                how = ", ".join(sorted(set(claim.values())))
                scene.note(f"{run.name} serves by a socket that it has bound to the path ({how})")
            scene.note(f"the path leads to {owner.name}" if owner is not None else "the path leads to none of them")
            return found
        # Who is at the path may be replaced a moment later, and then nothing else tells that he was.
        events = [source for source in (watcher, living[0].process.fileno()) if source is not None]
        pause = _FIRST_PAUSE if select.select(events, [], [], pause)[0] else min(2 * pause, _LAST_PAUSE)
        if watcher is not None:
            watcher.drain()
