"""Probes with something in the way that is not the server's: what becomes of it."""

from __future__ import annotations

import os

from udslab.audit.probes.probe import probe
from udslab.audit.scene import Pinned, Scene, Skipped, Start
from udslab.socktype import open_socket

__all__ = [
    "directory",
    "foreign_stale",
    "make_file",
    "make_stale",
    "regular_file",
    "symlink_dangling",
    "symlink_to_file",
    "symlink_to_stale",
]

_CONTENT = b"somebody's work\n"


@probe("regular-file")
def regular_file(scene: Scene) -> str:
    """Somebody's file with content is at the path."""
    file = make_file(scene, scene.path)
    start = scene.instance().start("the server").settle()
    scene.look()
    if _is_untouched(scene.path, file):
        return "hangs" if start is Start.HANGS else "refused-kept"
    scene.note("the file, or what was in it, is lost")
    return "deleted-starts" if start is Start.SERVES else "deleted-fails"


@probe("symlink-to-file")
def symlink_to_file(scene: Scene) -> str:
    """A symbolic link to somebody's file is at the path."""
    target = f"{scene.path}.target"
    file = make_file(scene, target)
    start = _start_at_link(scene, target)
    if not _is_untouched(target, file):
        scene.note("what the link led to is lost")
        return "target-damaged"
    return _what_of_link(scene, target, start)


@probe("symlink-dangling")
def symlink_dangling(scene: Scene) -> str:
    """A symbolic link to nothing is at the path."""
    target = f"{scene.path}.target"
    start = _start_at_link(scene, target)
    if os.path.lexists(target):
        return "target-created"
    return _what_of_link(scene, target, start)


@probe("symlink-to-stale")
def symlink_to_stale(scene: Scene) -> str:
    """A symbolic link to a stale socket is at the path."""
    target = f"{scene.path}.target"
    make_stale(scene, target)
    stale = scene.pin(target)
    start = _start_at_link(scene, target)
    if os.path.islink(scene.path) and start is Start.SERVES:
        return "starts-through-link"
    if os.path.lexists(target) and not stale.is_at(target):
        scene.note("what the link leads to is another file than before")
        return "target-created"
    return _what_of_link(scene, target, start)


def make_file(scene: Scene, path: str) -> Pinned:
    """A file of the server's user, with content."""
    with open(path, "xb") as file:
        file.write(_CONTENT)
    os.chmod(path, 0o600)
    scene.give(path)
    return scene.pin(path)


def _is_untouched(path: str, file: Pinned) -> bool:
    if not file.is_at(path):
        return False
    with open(path, "rb") as now:
        return now.read() == _CONTENT


def make_stale(scene: Scene, path: str) -> None:
    """A stale socket of the subject's type, bare, as its user would have made it."""
    with open_socket(scene.subject.type) as sock:
        sock.bind(path)
    os.chmod(path, 0o755)  # noqa: S103 - as under umask 022
    scene.give(path)


def _start_at_link(scene: Scene, target: str) -> Start:
    os.symlink(target, scene.path)
    scene.give(scene.path)
    scene.look()
    start = scene.instance().start("the server").settle()
    if os.path.lexists(target):
        scene.look(target)
    scene.look()
    return start


def _what_of_link(scene: Scene, target: str, start: Start) -> str:
    if os.path.islink(scene.path):
        if os.readlink(scene.path) != target:
            return "link-replaced"
        return "refused-kept" if start is Start.EXITED else "hangs"
    return "link-replaced" if os.path.lexists(scene.path) else "link-removed"


@probe("directory")
def directory(scene: Scene) -> str:
    """An empty directory is at the path; one with a file in it."""
    outcomes = [_starts_at_directory(scene, filled) for filled in (False, True)]
    return next((word for word in ("deleted", "hangs") if word in outcomes), "refused-kept")


def _starts_at_directory(scene: Scene, filled: bool) -> str:
    what = "with a file in it" if filled else "empty"
    path = os.path.join(scene.make_directory("full" if filled else "empty"), os.path.basename(scene.path))
    os.mkdir(path)
    scene.give(path)
    kept_directory = scene.pin(path)
    inside = os.path.join(path, "file")
    kept_file = make_file(scene, inside) if filled else None
    scene.note(f"at the path is a directory, {what}")
    start = scene.instance(path).start("the server").settle()
    scene.look(path)
    kept = kept_directory.is_at(path) and (kept_file is None or _is_untouched(inside, kept_file))
    outcome = "deleted" if not kept else "refused-kept" if start is Start.EXITED else "hangs"
    scene.facts[what] = outcome
    return outcome


@probe("foreign-stale", in_image=False)
def foreign_stale(scene: Scene) -> str:
    """Another user's stale socket is at the path, in a sticky directory."""
    user = scene.host.user
    if os.geteuid() != 0 or user is None:
        raise Skipped("only root can make another user's file, and run the server as a third: run the audit as root")
    path = os.path.join(scene.make_directory("sticky", 0o1777, root=True), os.path.basename(scene.path))
    make_stale(scene, path)
    os.chown(path, user.uid - 1 or 1, user.gid - 1 or 1)
    scene.look(path)
    foreign = scene.pin(path)
    start = scene.instance(path).start("the server", path).settle()
    scene.look(path)
    if start is Start.SERVES:
        scene.facts["replaced"] = not foreign.is_at(path)
        return "starts"
    if not foreign.is_at(path):
        raise Skipped("the other user's file is gone, and it does not serve: that is neither to refuse nor to start")
    return "refused" if start is Start.EXITED else "hangs"
