"""Probes of a server's start: on a path where nothing is, and on one that cannot be had."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from udslab.address import MAX_PATH
from udslab.audit.probes.in_the_way import make_file
from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start
from udslab.ready import Check
from udslab.state import State, status

__all__ = [
    "error_names_path",
    "fresh_start",
    "missing_parent",
    "path_length",
    "privilege_drop",
    "read_only_directory",
]

_UMASKS = (0o022, 0o077, 0o000)
_LENGTHS = (107, 108, 120)
_LEAST_PREFIX = 90
"""How much of an over-long path an error must name, in bytes, for some cut what they print as well."""
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # and whatever else is a control sequence: ECMA-48, 5.4
_WRAPPED = r"(?:[ \t]*\n[ \t]*)?"
_LONGER = r"(?:[\w~-]|[./]\w)"
"""So goes on what names another file, such as a lock file beside it."""


@probe("fresh-start")
def fresh_start(scene: Scene) -> str:
    """Started where nothing is, under three umasks."""
    modes: dict[int, int] = {}
    for umask in _UMASKS[:1] if scene.host.is_image else _UMASKS:  # whose umask is its own
        directory = scene.make_directory(f"{umask:03o}")
        path = os.path.join(directory, os.path.basename(scene.path))
        run = scene.instance(path).start(f"the server under umask {umask:03o}", umask=umask)
        start = run.settle()
        if start is not Start.SERVES:
            return "fails" if start is Start.EXITED else "hangs"
        found = scene.look(path)
        modes[umask] = found.mode or 0
        if not scene.facts:
            _tell_facts(scene, run, directory)
        run.stop()
    if scene.host.is_image:
        scene.facts["mode"] = f"{modes[_UMASKS[0]]:04o}"
        return "listens"
    scene.facts["modes"] = {f"{umask:03o}": f"{mode:04o}" for umask, mode in modes.items()}
    scene.facts["follows_umask"] = all(mode == 0o777 & ~umask for umask, mode in modes.items())
    scene.facts["open_to_all"] = all(mode & 0o002 for mode in modes.values())
    return "listens"


def _tell_facts(scene: Scene, run: Run, directory: str) -> None:
    found = status(run.path, owners=True)
    scene.facts |= {
        "owner": _user_name(found.uid),
        "type": found.type and found.type.value,
        "backlog": found.backlog and found.backlog[1],
        "sockets": len(scene.sockets(directory)) + len(scene.sockets(run.instance.dir)),
        "processes": len(run.pids),
        "seconds": round(run.took, 3),
    }


def _user_name(uid: int | None) -> str:
    import pwd  # not on every platform

    try:
        return pwd.getpwuid(-1 if uid is None else uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@probe("missing-parent")
def missing_parent(scene: Scene) -> str:
    """Started at a path whose directory is not there."""
    path = _in_missing_parent(scene)
    start = scene.instance(path).start("the server").settle()
    if os.path.isdir(os.path.dirname(path)):
        scene.look(path)
        return "created"
    return "hangs" if start is Start.HANGS else "refused"


def _in_missing_parent(scene: Scene) -> str:
    directory, name = os.path.split(scene.path)
    return os.path.join(directory, "missing", name)


@probe("read-only-directory")
def read_only_directory(scene: Scene) -> str:
    """Started in a directory that it may not write."""
    if os.geteuid() == 0 and scene.host.user is None:
        raise Skipped("root may write everywhere: audit it as another user")
    instance = scene.instance()
    with scene.only_read(os.path.dirname(scene.path)):
        start = instance.start("the server").settle()
        scene.look()
    return {Start.SERVES: "starts", Start.EXITED: "refused", Start.HANGS: "hangs"}[start]


# Long paths


@probe("path-length")
def path_length(scene: Scene) -> str:
    """Started at paths of 107, 108 and 120 bytes, of which sun_path takes 107."""
    words = {length: _starts_at_length(scene, length) for length in _LENGTHS}
    scene.facts |= {str(length): word for length, word in words.items()}
    longest = [length for length, word in words.items() if word == "listens"]
    scene.facts["max_ok"] = max(longest, default=0) or _longest(scene)
    if "truncated" in words.values():
        return "truncates"
    if "hangs" in words.values():
        raise Skipped("it neither works nor says no: it hangs")
    return "honest"


def _longest(scene: Scene) -> int:
    """The longest path that works, where 107 bytes do not."""
    works, fails = len(os.fsencode(scene.path)), _LENGTHS[0]
    while fails - works > 1:
        middle = (works + fails) // 2
        if _starts_at_length(scene, middle) == "listens":
            works = middle
        else:
            fails = middle
    return works


def _starts_at_length(scene: Scene, length: int) -> str:
    path = _path_of(scene, length)

    def bound_elsewhere() -> list[str]:
        """The sockets at what the path begins with."""
        parts = (path[:size] for size in range(len(scene.top) + 1, len(path)))
        return [part for part in parts if _is_socket(part)]

    def serves_somewhere(path: str) -> bool:
        return any(status(place).serving for place in (path, *bound_elsewhere()))

    scene.note(f"a path of {length} bytes")
    run = scene.instance(path).start("the server")
    start = run.settle(Check(serves_somewhere))
    cut = bound_elsewhere()
    if cut:
        scene.note(f"it has bound the first {len(os.fsencode(cut[0]))} bytes of the path instead")
        word = "truncated"
    else:
        word = {Start.SERVES: "listens", Start.EXITED: "refused", Start.HANGS: "hangs"}[start]
    run.kill()
    return word


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _path_of(scene: Scene, length: int) -> str:
    """A fresh path of so many bytes. What fills it up is no run of one letter, so that a part of it is known as one."""
    directory = scene.make_directory(f"{length}")
    fixed = scene.subject.socket_name
    room = length - len(os.fsencode(directory)) - 1 - (len(fixed) + 1 if fixed else 0)
    filler = ("".join(f"{number:03d}." for number in range(MAX_PATH)))[:room].replace(".", "-")
    if not fixed:
        return os.path.join(directory, filler)
    scene.make_directory(os.path.join(f"{length}", filler))
    return os.path.join(directory, filler, fixed)


# Errors


@probe("error-names-path")
def error_names_path(scene: Scene) -> str:
    """Refusals of its own: at a live path, at a file, without a directory, at a path that is too long."""
    told = {
        what: line
        for what, line in (
            ("live path", _refusal_at_live_path(scene)),
            ("regular file", _refusal_at_file(scene)),
            ("missing parent", _refusal(scene, _in_missing_parent(scene))),
            ("over-long path", _refusal(scene, _path_of(scene, _LENGTHS[-1]))),
        )
        if line is not None
    }
    if not told:
        raise Skipped("it refuses none of them")
    scene.facts |= told
    named = [bool(line) for line in told.values()]
    return "always" if all(named) else "sometimes" if any(named) else "never"


def _refusal_at_live_path(scene: Scene) -> str | None:
    path = os.path.join(scene.make_directory("live"), os.path.basename(scene.path))
    scene.first(path=path)
    return _refusal(scene, path)


def _refusal_at_file(scene: Scene) -> str | None:
    path = os.path.join(scene.make_directory("file"), os.path.basename(scene.path))
    make_file(scene, path)
    return _refusal(scene, path)


def _refusal(scene: Scene, path: str) -> str | None:
    """The line that names the path, empty if none does; None if it does not refuse."""
    run = scene.instance(path).start("the server")
    if run.settle() is not Start.EXITED:
        run.kill()
        return None
    lines = run.lines()
    line = _line_with(path, lines) or _line_with(os.path.realpath(path), lines)
    scene.note(f"its error names the path: {line[:300]}" if line else "no line of it names the path")
    return line


def _line_with(path: str, lines: Sequence[str]) -> str:
    """The last line that names a path; empty if none does. Without colours, slashes that JSON escapes, and what wraps a
    line within the path."""
    text = _COLOURS.sub("", "\n".join(lines)).replace("\\/", "/")
    least = _LEAST_PREFIX if len(os.fsencode(path)) > MAX_PATH else len(path)
    letters = list(map(re.escape, path))
    rest = _WRAPPED.join(["", *letters[least:]])
    line = ""
    for found in re.finditer(f"{_WRAPPED.join(letters[:least])}(?!{rest}{_LONGER})", text):
        line = text[text.rfind("\n", 0, found.start()) + 1 : found.end()] + text[found.end() :].partition("\n")[0]
    return re.sub(_WRAPPED, "", line).strip()


# Root


@probe("privilege-drop", in_image=False)
def privilege_drop(scene: Scene) -> str:
    """Started as root, with its own option to become somebody else; then SIGTERM."""
    if not scene.subject.root_command:
        raise Skipped("it is not known to have an option for that: give its root_command")
    if os.geteuid() != 0:
        raise Skipped("only root can start it as root: run the audit as root")
    for owner in ("root", "the user"):  # those that become somebody else before they bind need a directory of his
        directory = scene.make_directory(owner.replace(" ", "-"), root=owner == "root")
        path = os.path.join(directory, os.path.basename(scene.path))
        scene.note(f"in a directory that belongs to {owner}")
        run = scene.instance(path).start("the server, as root,", root=True)
        if run.settle() is Start.SERVES:
            break
        run.kill()
    else:
        raise Skipped(f"it did not start: {(run.lines() or ['it has written nothing'])[-1].strip()}")
    found = scene.look(path)
    scene.facts |= {
        "directory": owner,
        "owner": _user_name(found.uid),
        "mode": f"{found.mode or 0:04o}",
        "users": sorted({_user_name(uid) for uid in map(_uid_of, run.pids) if uid is not None}),
    }
    scene.note(f"its processes belong to {', '.join(scene.facts['users'])}")
    if not run.stop():
        raise Skipped("it does not end by SIGTERM, and was killed: it had no chance to remove its file")
    return "removed" if scene.look(path).state is State.ABSENT else "left"


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
