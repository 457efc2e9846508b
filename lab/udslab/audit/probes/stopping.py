"""Probes of a server's end, and of the start after it."""

from __future__ import annotations

import os
import signal

from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start
from udslab.obstacles import Obstacle, obstacle
from udslab.state import State

__all__ = ["exit_deletes_foreign", "int_cleanup", "kill_main", "stale_restart", "term_cleanup"]


_LATER = 2.0
"""Seconds from when it serves in which a server installs its handlers of signals; no event tells of it."""


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
    path = os.path.join(scene.make_directory("again"), os.path.basename(scene.path))
    first = scene.first(path=path)
    scene.note(f"once more, {_LATER:.0f} s after that: it may have had no handler of the signal yet")
    first.process.gone_within(_LATER)
    return _end(scene, first, number)


def _end(scene: Scene, run: Run, number: int) -> str:
    if not run.ends_by(number):
        return "ignored"
    scene.facts["exit"] = run.how()
    return "removed" if scene.look(run.path).state is State.ABSENT else "left"


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
        scene.note(f"its processes: pid {', '.join(map(str, first.pids))}")
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
    words = [
        _ends_over(scene, number, kind)
        for number in (signal.SIGTERM, signal.SIGINT)
        for kind in (Obstacle.REGULAR_FILE, Obstacle.LISTENER)
    ]
    if "deleted" in words:
        return "deleted"
    if "kept" not in words:
        raise Skipped("it ends by neither signal, and was killed: it had no chance to remove anything at its end")
    return "kept"


def _ends_over(scene: Scene, number: int, kind: Obstacle) -> str:
    """Whether a server that ends by this signal removes what is not its own: "deleted", "kept", or "killed"."""
    directory = scene.make_directory(f"{signal.Signals(number).name}-{kind}")
    path = os.path.join(directory, os.path.basename(scene.path))
    first = scene.first(path=path)
    with obstacle(kind, f"{path}.foreign"):
        scene.give(f"{path}.foreign")
        os.rename(f"{path}.foreign", path)
        foreign = scene.pin(path)
        scene.note(f"a {kind} of somebody else's is put at the path in its place: inode {os.lstat(path).st_ino}")
        ended = first.stop(number)
        scene.look(path)
        word = "deleted" if not foreign.is_at(path) else "kept" if ended else "killed"
    scene.facts[f"{signal.Signals(number).name} {kind}"] = word
    return word
