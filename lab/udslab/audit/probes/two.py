"""Probes with a second instance of a server, at the same path, while the first serves it."""

from __future__ import annotations

from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start
from udslab.state import State

__all__ = ["first_stops_after_steal", "second_instance", "second_stops"]


@probe("second-instance")
def second_instance(scene: Scene) -> str:
    """A second one is started while the first serves."""
    first, second, start = _two(scene)
    serves = scene.who_serves([first, second])
    if start is Start.SERVES and serves is second:
        return "steals"
    if serves is first:
        return "hangs" if start is Start.HANGS else "refused"
    if first.gone:
        raise Skipped("the first has ended meanwhile by itself")
    return "path-lost"


@probe("second-stops")
def second_stops(scene: Scene) -> str:
    """A second one is started, and stopped."""
    first, second, start = _two(scene)
    if start is not Start.EXITED:
        second.stop()
    return _what_is_left(scene, first)


@probe("first-stops-after-steal")
def first_stops_after_steal(scene: Scene) -> str:
    """A second one steals the path, and the first is stopped."""
    first, second, start = _two(scene)
    if start is not Start.SERVES or scene.who_serves([first, second]) is not second:
        raise Skipped("the second does not steal the path")
    first.stop()
    return _what_is_left(scene, second)


def _two(scene: Scene) -> tuple[Run, Run, Start]:
    """Two instances, and how the second has started."""
    first = scene.first()
    second = scene.instance().start("the second")
    start = second.settle()
    scene.look()
    return first, second, start


def _what_is_left(scene: Scene, owner: Run) -> str:
    """What is at the path, when only ``owner`` should be there."""
    found = scene.look()
    if scene.who_serves([owner]) is owner:
        return "intact"
    if owner.gone:
        raise Skipped(f"{owner.name} has ended meanwhile by itself")
    return "gone" if found.state is State.ABSENT else "stale"
