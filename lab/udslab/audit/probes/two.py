"""Probes with a second instance of a server, at the same path, while the first serves it."""

from __future__ import annotations

from collections.abc import Sequence

from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start
from udslab.deadline import Deadline
from udslab.state import State

__all__ = ["first_stops_after_steal", "second_instance", "second_stops"]

_BETWEEN = 0.1
"""Seconds between two looks at who serves."""


@probe("second-instance")
def second_instance(scene: Scene) -> str:
    """A second one is started while the first serves."""
    first, second, _ = _two(scene)
    serves = _who_serves(scene, first, [first, second])
    # Also who hands the path over, and ends when its clients have gone, is given the time for it.
    if serves is not first and first.process.gone_within(scene.patience):
        raise Skipped(f"the first {first.how()} meanwhile, by itself or because the second has told it to")
    if serves is first:
        return "refused" if second.gone else "hangs"
    return "steals" if serves is second else "path-lost"


@probe("second-stops")
def second_stops(scene: Scene) -> str:
    """A second one is started, and stopped."""
    first, second, start = _two(scene)
    ended = start is Start.EXITED or second.stop()
    return _what_is_left(scene, first, second, ended)


@probe("first-stops-after-steal")
def first_stops_after_steal(scene: Scene) -> str:
    """A second one steals the path, and the first is stopped."""
    first, second, start = _two(scene)
    if first.gone:
        raise Skipped(f"the first {first.how()} meanwhile, by itself or because the second has told it to")
    if start is not Start.SERVES or scene.who_serves([first, second]) is not second:
        raise Skipped("the second does not steal the path")
    ended = first.stop()
    return _what_is_left(scene, second, first, ended)


def _two(scene: Scene) -> tuple[Run, Run, Start]:
    """Two instances, and how the second has started. Raises Skipped if the first has given up its path by itself, or
    has handed it over."""
    first = scene.first()
    instance = scene.instance()
    if scene.who_serves([first]) is not first:
        scene.look()
        raise Skipped("the path does not lead to the first any more, before a second one is started")
    file = scene.pin(scene.path)
    second = instance.start("the second")
    start = second.settle()
    scene.look()
    if file.is_at(scene.path) and second.has_bound_to(scene.path):  # who binds makes another file
        raise Skipped("the second has the very socket that the first has bound: it was handed over")
    return first, second, start


def _who_serves(scene: Scene, owner: Run, runs: Sequence[Run]) -> Run | None:
    """Who serves the path; None is said only when it was waited as long as it is, for some bind anew."""
    deadline = Deadline(scene.patience)
    while True:
        found = scene.who_serves(runs)
        if found is not None or owner.gone:
            return found
        if deadline.passed:
            scene.note(f"nobody serves the path for {scene.patience:.0f} s")
            return None
        owner.process.gone_within(_BETWEEN)


def _what_is_left(scene: Scene, owner: Run, other: Run, ended: bool) -> str:
    """What is at the path, when only ``owner`` should be there. ``ended``: the other one has, and was not killed."""
    serves = _who_serves(scene, owner, [owner])
    found = scene.look()
    if serves is owner:
        if not ended:
            raise Skipped(f"{other.name} does not end by SIGTERM, and was killed: it had no chance to remove anything")
        return "intact"
    if owner.gone:
        raise Skipped(f"{owner.name} has ended meanwhile by itself")
    return "gone" if found.state is State.ABSENT else "stale"
