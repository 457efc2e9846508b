"""Probes with a second instance of a server, at the same path, while the first serves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start
from udslab.deadline import Deadline

__all__ = ["first_stops_after_steal", "second_instance", "second_stops"]

_BETWEEN = 0.1
"""Seconds between two looks at who serves."""


@probe("second-instance")
def second_instance(scene: Scene) -> str:
    """A second one is started while the first serves."""
    first, second, _ = _two(scene, scene.path)
    serves = _who_serves(scene, first, [first, second])
    # Also who hands the path over, and ends when its clients have gone, is given the time for it.
    if serves is not first:
        first.process.gone_within(scene.patience)
        _still_claims(first)
    if serves is first:
        return "refused" if second.gone else "hangs"
    return "steals" if serves is second else "path-lost"


@probe("second-stops")
def second_stops(scene: Scene) -> str:
    """A second one is started, and stopped."""
    return _with_handlers(scene, _second_stops)


def _second_stops(scene: Scene, path: str, late: bool) -> tuple[str, bool]:
    first, second, start = _two(scene, path)
    if start is Start.EXITED:
        return _what_is_left(scene, first, second, True), False
    ended = _stop(second, late)
    return _what_is_left(scene, first, second, ended), ended and second.may_have_died_of(signal.SIGTERM)


@probe("first-stops-after-steal")
def first_stops_after_steal(scene: Scene) -> str:
    """A second one steals the path, and the first is stopped."""
    return _with_handlers(scene, _first_stops)


def _first_stops(scene: Scene, path: str, late: bool) -> tuple[str, bool]:
    first, second, start = _two(scene, path)
    _still_claims(first)
    if start is not Start.SERVES or scene.who_serves([first, second], path) is not second:
        raise Skipped("the second does not steal the path")
    ended = _stop(first, late)
    return _what_is_left(scene, second, first, ended), ended and first.may_have_died_of(signal.SIGTERM)


def _with_handlers(scene: Scene, play: Callable[[Scene, str, bool], tuple[str, bool]]) -> str:
    """The word of a play in which one is stopped: of one more at another path, later after its start, if it has died of
    the signal and so has removed nothing."""
    word, died = play(scene, scene.path, False)
    if died and word != "gone":
        word, _ = play(scene, scene.make_path("again"), True)
    return word


def _stop(run: Run, late: bool) -> bool:
    if late:
        run.wait_for_handlers()
    return run.stop()


def _two(scene: Scene, path: str) -> tuple[Run, Run, Start]:
    """Two instances, and how the second has started. Raises Skipped if the first has given up its path by itself, or
    has handed it over."""
    first = scene.first(path=path)
    instance = scene.instance(path)
    if scene.who_serves([first], path) is not first:
        scene.look(path)
        raise Skipped("the path does not lead to the first any more, before a second one is started")
    file = scene.pin(path)
    second = instance.start("the second")
    start = second.settle()
    scene.look(path)
    if file.is_at(path) and second.has_bound_to(path):  # who binds makes another file
        raise Skipped("the second has the very socket that the first has bound: it was handed over")
    return first, second, start


def _still_claims(first: Run) -> None:
    """Raises Skipped if the first has ended or closed its socket: it may have been asked to, and that is no theft."""
    why = "by itself, or because the second has told it to, or has taken its path"
    if first.gone:
        raise Skipped(f"the first {first.how()} meanwhile: {why}")
    if first.has_given_up:
        raise Skipped(f"the first lives on and has closed the socket by which it served: {why}")


def _who_serves(scene: Scene, owner: Run, runs: Sequence[Run]) -> Run | None:
    """Who serves the path; None is said only when it was waited as long as it is, for some bind anew."""
    deadline = Deadline(scene.patience)
    while True:
        found = scene.who_serves(runs, owner.path)
        if found is not None or owner.gone:
            return found
        if deadline.passed:
            scene.note(f"nobody serves the path for {scene.patience:.0f} s")
            return None
        owner.process.gone_within(_BETWEEN)


def _what_is_left(scene: Scene, owner: Run, other: Run, ended: bool) -> str:
    """What is at the path, when only ``owner`` should be there. ``ended``: the other one has, and was not killed."""
    serves = _who_serves(scene, owner, [owner])
    scene.look(owner.path)
    if serves is owner:
        if not ended:
            raise Skipped(f"{other.name} does not end by SIGTERM, and was killed: it had no chance to remove anything")
        return "intact"
    if owner.gone:
        raise Skipped(f"{owner.name} {owner.how()} meanwhile: by itself, or because its path was taken")
    if owner.has_given_up:
        raise Skipped(f"{owner.name} lives on and has closed the socket by which it served")
    return "stale" if os.path.lexists(owner.path) else "gone"  # its directory may have gone, too
