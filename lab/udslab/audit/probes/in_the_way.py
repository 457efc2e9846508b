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
_NEITHER = "that is neither to keep nor to delete it"


@probe("regular-file")
def regular_file(scene: Scene) -> str:
    """Somebody's file with content is at the path."""
    file = make_file(scene, scene.path)
    start = scene.instance().start("the server").settle()
    scene.look()
    if _is_kept(scene.path, file):
        return "hangs" if start is Start.HANGS else _unchanged(file)
    _must_be_lost(file)
    scene.note("the file, or what was in it, is lost")
    return "deleted-starts" if start is Start.SERVES else "deleted-fails"


@probe("symlink-to-file")
def symlink_to_file(scene: Scene) -> str:
    """A symbolic link to somebody's file is at the path."""
    target = f"{scene.path}.target"
    file = make_file(scene, target)
    link, start = _start_at_link(scene, target)
    if not _is_kept(target, file):
        _must_be_lost(file)
        scene.note("what the link led to is lost")
        return "target-damaged"
    if file.changed():
        scene.note(f"of what the link leads to, the {file.changed()}")
        return "target-damaged"
    return _what_of_link(scene, link, start)


@probe("symlink-dangling")
def symlink_dangling(scene: Scene) -> str:
    """A symbolic link to nothing is at the path."""
    target = f"{scene.path}.target"
    link, start = _start_at_link(scene, target)
    return _what_of_link(scene, link, start, created=os.path.lexists(target))


@probe("symlink-to-stale")
def symlink_to_stale(scene: Scene) -> str:
    """A symbolic link to a stale socket is at the path."""
    target = f"{scene.path}.target"
    make_stale(scene, target)
    stale = scene.pin(target)
    link, start = _start_at_link(scene, target)
    if link.is_at(scene.path) and start is Start.SERVES:
        return "starts-through-link"
    word = _what_of_link(scene, link, start, created=os.path.lexists(target) and not stale.is_at(target))
    if word == "refused-kept" and not stale.is_at(target):
        raise Skipped(f"the link is kept, and the stale socket that it led to is gone: {_NEITHER}")
    return word


def make_file(scene: Scene, path: str) -> Pinned:
    """A file of the server's user, with content."""
    with open(path, "xb") as file:
        file.write(_CONTENT)
    os.chmod(path, 0o600)
    scene.give(path)
    return scene.pin(path)


def _is_kept(path: str, file: Pinned) -> bool:
    """Whether the file is at its path, and what was in it."""
    return file.is_at(path) and file.read() == _CONTENT


def _must_be_lost(file: Pinned | None, directory: Pinned | None = None) -> None:
    """Raises Skipped for what is not where it was, but is whole elsewhere."""
    places = [found.where for found in (directory, file) if found is not None]
    if all(places) and (file is None or file.read() == _CONTENT):
        raise Skipped(f"it is whole, and was moved to {places[0]}: {_NEITHER}")


def _unchanged(*kept: Pinned) -> str:
    """The word for what is kept. Raises Skipped if its mode or its owner is another one."""
    changed = next(filter(None, (found.changed() for found in kept)), "")
    if changed:
        raise Skipped(f"it is kept, but its {changed}: {_NEITHER}")
    return "refused-kept"


def make_stale(scene: Scene, path: str) -> None:
    """A stale socket of the subject's type, bare, as its user would have made it."""
    with open_socket(scene.subject.type) as sock:
        sock.bind(path)
    os.chmod(path, 0o755)  # noqa: S103 - as under umask 022
    scene.give(path)


def _start_at_link(scene: Scene, target: str) -> tuple[Pinned, Start]:
    os.symlink(target, scene.path)
    scene.give(scene.path)
    link = scene.pin(scene.path)
    scene.look()
    start = scene.instance().start("the server").settle()
    if os.path.lexists(target):
        scene.look(target)
    scene.look()
    return link, start


def _what_of_link(scene: Scene, link: Pinned, start: Start, *, created: bool = False) -> str:
    """``created``: what the link leads to is a file that was not there before. What is worse than that counts."""
    if created:
        scene.note("a new file is where the link leads")
    if link.is_at(scene.path):
        if created and start is not Start.HANGS:
            return "target-created"
        return "refused-kept" if start is Start.EXITED else "hangs"
    if os.path.islink(scene.path):
        scene.note(f"at the path is another link, to {os.readlink(scene.path)}")
    return "link-replaced" if os.path.lexists(scene.path) else "link-removed"


@probe("directory")
def directory(scene: Scene) -> str:
    """An empty directory is at the path; one with a file in it."""
    outcomes = [_starts_at_directory(scene, filled) for filled in (False, True)]
    return next((word for word in ("deleted", "hangs") if word in outcomes), "refused-kept")


def _starts_at_directory(scene: Scene, filled: bool) -> str:
    what = "with a file in it" if filled else "empty"
    path = scene.make_path("full" if filled else "empty")
    os.mkdir(path)
    scene.give(path)
    at = scene.pin(path)
    inside = os.path.join(path, "file")
    file = make_file(scene, inside) if filled else None
    scene.note(f"at the path is a directory, {what}")
    start = scene.instance(path).start("the server").settle()
    scene.look(path)
    if not at.is_at(path) or (file is not None and not _is_kept(inside, file)):
        _must_be_lost(file, at)
        outcome = "deleted"
    else:
        outcome = _unchanged(at, *([file] if file else [])) if start is Start.EXITED else "hangs"
    scene.facts[what] = outcome
    return outcome


@probe("foreign-stale", in_image=False)
def foreign_stale(scene: Scene) -> str:
    """Another user's stale socket is at the path, in a sticky directory."""
    user = scene.host.user
    if os.geteuid() != 0 or user is None:
        how = "without --user root" if os.geteuid() == 0 else "as root"
        raise Skipped(f"only root can make another user's file, and run the server as a third: run the audit {how}")
    path = scene.make_path("sticky", 0o1777, root=True)
    make_stale(scene, path)
    os.chown(path, *(next(id for id in (1, 2) if id != own) for own in (user.uid, user.gid)))
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
