"""Probes of a server's end, and of the start after it."""

from __future__ import annotations

import os
import signal

from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start, listed
from udslab.obstacles import Obstacle, obstacle

__all__ = ["exit_deletes_foreign", "int_cleanup", "kill_main", "stale_restart", "term_cleanup"]


@probe("term-cleanup")
def term_cleanup(scene: Scene) -> str:
    """SIGTERM."""
    return _cleanup(scene, signal.SIGTERM)


@probe("int-cleanup")
def int_cleanup(scene: Scene) -> str:
    """SIGINT."""
    return _cleanup(scene, signal.SIGINT)


def _cleanup(scene: Scene, number: int) -> str:
    word = _end(scene, scene.first(), number)
    if word != "left":
        return word
    path = scene.make_path("again")
    first = scene.first(path=path)
    first.wait_for_handlers()
    return _end(scene, first, number)


def _end(scene: Scene, run: Run, number: int) -> str:
    if not run.ends_by(number):
        return "ignored"
    scene.facts["exit"] = run.how()
    scene.look(run.path)
    return "left" if os.path.lexists(run.path) else "removed"  # its directory may have gone, too


@probe("stale-restart")
def stale_restart(scene: Scene) -> str:
    """SIGKILL to all of it, and a second start of the same instance."""
    first = scene.first()
    first.kill()
    scene.look()
    return _WORDS[first.instance.start("the restarted one").settle()]


_WORDS = {Start.SERVES: "starts", Start.EXITED: "fails", Start.HANGS: "hangs"}


@probe("kill-main", in_image=False)
def kill_main(scene: Scene) -> str:
    """SIGKILL to the main process alone."""
    first = scene.first()
    if len(first.pids) > 1:
        scene.note(f"its processes: pid {listed(first.pids)}")
    first.send(signal.SIGKILL)
    if first.ends():
        outcome = "all-exit"
    else:
        scene.facts["survivors"] = len(first.pids)
        first.tell_orphans()
        outcome = "orphans-listen" if scene.look().serving else "orphans"
    again = first.instance.start("the restarted one")
    scene.facts["restart"] = _WORDS[again.settle()]
    return outcome


@probe("exit-deletes-foreign")
def exit_deletes_foreign(scene: Scene) -> str:
    """Something else is put at the path while it runs; then SIGTERM, or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        _ends_over_each(scene, number)
    words = scene.facts.values()
    if "deleted" in words:
        return "deleted"
    if "kept" not in words:
        raise Skipped("it ends by neither signal, and was killed: it had no chance to remove anything at its end")
    return "kept"


def _ends_over_each(scene: Scene, number: int) -> None:
    """Put into the facts whether a server that ends by this signal removes what is not its own: "deleted", "kept", or
    "killed". Where it dies of the signal also when it has had the time to install a handler, it never has one."""
    late = False
    for kind in (Obstacle.REGULAR_FILE, Obstacle.LISTENER):
        word, died = _ends_over(scene, number, kind, late)
        if died and kind is Obstacle.REGULAR_FILE:
            word, died = _ends_over(scene, number, kind, True)
            late = not died
        scene.facts[f"{signal.Signals(number).name} {kind}"] = word


def _ends_over(scene: Scene, number: int, kind: Obstacle, late: bool) -> tuple[str, bool]:
    """The word for it, and whether what was there is kept because it has died of the signal."""
    path = scene.make_path(f"{signal.Signals(number).name}-{kind}{'-again' * late}")
    first = scene.first(path=path)
    if late:
        first.wait_for_handlers()
    with obstacle(kind, f"{path}.foreign"):
        scene.give(f"{path}.foreign")
        os.rename(f"{path}.foreign", path)
        foreign = scene.pin(path)
        scene.note(f"a {kind} of somebody else's is put at the path in its place: inode {os.lstat(path).st_ino}")
        ended = first.stop(number)
        scene.look(path)
        if not foreign.is_at(path):
            return "deleted", False
    return "kept" if ended else "killed", ended and first.may_have_died_of(number)
