"""Probes of a server's start: on a path where nothing is, and on one that cannot be had."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence

from udslab.address import MAX_PATH
from udslab.audit.probes.in_the_way import make_file
from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start
from udslab.ready import Check
from udslab.spawn import user_name
from udslab.state import Status, status

__all__ = [
    "error_names_path",
    "fresh_start",
    "missing_parent",
    "path_length",
    "privilege_drop",
    "read_only_directory",
]

_UMASKS = (0o022, 0o077, 0o000)
_LATER = 1.0
"""Seconds from when it serves in which a server sets the mode of its file; no event tells of it."""
_LENGTHS = (107, 108, 120)
_LEAST_PREFIX = 90
"""How much of an over-long path an error must name, in bytes, for some cut what they print as well."""
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # and whatever else is a control sequence: ECMA-48, 5.4
_WRAPPED = r"(?:[ \t]*\n[ \t]*)?"
_LONGER = r"(?a:[\w~-]|[./]+\w)"
"""So goes on what names another file, such as a lock file beside it; but not a sentence in other letters."""
_AROUND = 150
"""How much of a line is kept before and behind a path that it names, in characters."""


@probe("fresh-start")
def fresh_start(scene: Scene) -> str:
    """Started where nothing is, under three umasks."""
    modes: dict[int, int] = {}
    late = True
    for umask in _UMASKS[:1] if scene.host.is_image else _UMASKS:  # whose umask is its own
        directory = scene.make_directory(f"{umask:03o}")
        path = os.path.join(directory, os.path.basename(scene.path))
        run = scene.instance(path).start(f"the server under umask {umask:03o}", umask=umask)
        start = run.settle()
        if start is not Start.SERVES:
            return "fails" if start is Start.EXITED else "hangs"
        late = late and _touches_its_file(run)  # the others do if the first one does
        found = scene.look(path)
        modes[umask] = found.mode or 0
        if not scene.facts:
            _tell_facts(scene, run, directory)
        run.stop()
    if scene.host.is_image:
        scene.facts["mode"] = f"{modes[_UMASKS[0]]:04o}"
        return "listens"
    scene.facts["modes"] = {f"{umask:03o}": f"{mode:04o}" for umask, mode in modes.items()}
    follows = all(mode == modes[0] & ~umask for umask, mode in modes.items())
    scene.facts["follows_umask"] = follows and len(set(modes.values())) > 1  # or it cannot be told
    scene.facts["open_to_all"] = all(mode & 0o002 for mode in modes.values())
    return "listens"


def _touches_its_file(run: Run) -> bool:
    """Whether a server that serves sets its file's mode yet, or does anything else to it, once it had the time."""

    def file() -> tuple[int, ...]:
        info = status(run.path).info
        return (info.st_ino, info.st_ctime_ns) if info else ()

    before = file()
    run.process.gone_within(_LATER)
    return file() != before


def _tell_facts(scene: Scene, run: Run, directory: str) -> None:
    found = status(run.path, owners=True)
    scene.facts |= {
        "owner": _owner(found),
        "type": found.type and found.type.value,
        "backlog": found.backlog and found.backlog[1],
        "sockets": len(scene.sockets(directory)) + len(scene.sockets(run.instance.dir)),
        "processes": len(run.pids),
        "seconds": round(run.took, 3),
    }


def _owner(found: Status) -> str | None:
    return None if found.uid is None else user_name(found.uid)


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
    path = scene.make_path("live")
    banner = {said for _, said in _telling(scene, path, scene.first(path=path))}
    told = {
        what: line
        for what, line in (
            ("live path", _refusal(scene, path, banner)),
            ("regular file", _refusal_at_file(scene, banner)),
            ("missing parent", _refusal(scene, _in_missing_parent(scene), banner)),
            ("over-long path", _refusal(scene, _path_of(scene, _LENGTHS[-1]), banner)),
        )
        if line is not None
    }
    if not told:
        raise Skipped("it refuses none of them")
    scene.facts |= told
    named = [bool(line) for line in told.values()]
    return "always" if all(named) else "sometimes" if any(named) else "never"


def _refusal_at_file(scene: Scene, banner: Collection[str]) -> str | None:
    path = scene.make_path("file")
    make_file(scene, path)
    return _refusal(scene, path, banner)


def _refusal(scene: Scene, path: str, banner: Collection[str]) -> str | None:
    """The line that names the path, empty if none does; None if it does not refuse. ``banner``: what a start that
    succeeds says of its path, too, and so is no error."""
    run = scene.instance(path).start("the server")
    if run.settle() is not Start.EXITED:
        run.kill()
        return None
    telling = list(_telling(scene, path, run))
    line = next((line for line, said in reversed(telling) if said not in banner), "")
    if line:
        scene.note(f"its error names the path: {line}")
    elif telling:
        scene.note(f"no line names the path but one that it writes when it starts well, too: {telling[-1][0]}")
    else:
        scene.note("no line of it names the path")
    return line


def _telling(scene: Scene, path: str, run: Run) -> Iterator[tuple[str, str]]:
    """See :func:`_lines_with`: the path, what it really is, or its directory or name, if it is told them apart."""
    lines, subject = run.lines(), scene.subject
    names = [path, os.path.realpath(path)]
    if "{socket}" not in "\0".join([*subject.command, *subject.files.values(), *subject.env.values()]):
        names += os.path.split(path)
    for name in names:
        yield from _lines_with(name, lines)


def _lines_with(path: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The lines that name a path, or a name as a word: what is around it, and, to know the line by, all that is in it
    but the path and numbers. Without colours, slashes that JSON escapes, and what wraps a line within the path."""
    text = _COLOURS.sub("", "\n".join(lines)).replace("\\/", "/")
    least = len(os.fsdecode(os.fsencode(path)[:_LEAST_PREFIX])) if len(os.fsencode(path)) > MAX_PATH else len(path)
    letters = list(map(_forms, path))
    begin, rest = _WRAPPED.join(letters[:least]), _WRAPPED.join(["", *letters[least:]])
    if not path.startswith("/"):
        begin = rf"(?a:(?<![\w~-])(?<!\w\.)){begin}"
    for found in re.finditer(f"{begin}(?:{rest}(?!{_LONGER})|(?!{rest}))", text):
        before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        behind = text[found.end() :].partition("\n")[0]
        line = re.sub(_WRAPPED, "", f"{before[-_AROUND:]}{found[0]}{behind[:_AROUND]}").strip()
        yield line, re.sub(r"\d+", "0", re.sub(f"{begin}(?:{rest})?", "", before + found[0] + behind))


def _forms(letter: str) -> str:
    """A pattern of the forms in which a letter of a path is written: itself, and, if it is none of ASCII, escaped, by
    its bytes or its number, or replaced. Bytes that are no UTF-8 are escaped when the output is decoded, too."""
    if letter.isascii():
        return re.escape(letter)
    raw = os.fsencode(letter)
    escaped = ["".join(f"\\x{byte:02x}" for byte in raw), "".join(f"\\{byte:03o}" for byte in raw)]
    escaped += [f"\\x{ord(letter):02x}", f"\\u{ord(letter):04x}", f"\\U{ord(letter):08x}", letter]
    return f"(?:(?i:{'|'.join(map(re.escape, escaped))})|[?\ufffd]+)"


# Root


@probe("privilege-drop", in_image=False)
def privilege_drop(scene: Scene) -> str:
    """Started as root, with its own option to become somebody else; then SIGTERM."""
    if not scene.subject.root_command:
        raise Skipped("it is not known to have an option for that: give its root_command")
    if os.geteuid() != 0:
        raise Skipped("only root can start it as root: run the audit as root")
    for owner in ("root", "the user"):  # those that become somebody else before they bind need a directory of his
        run = _start_as_root(scene, owner, owner.replace(" ", "-"))
        if run.settle() is Start.SERVES:
            break
        run.kill()
    else:
        raise Skipped(f"it did not start: {(run.lines() or ['it has written nothing'])[-1].strip()}")
    if _removes(scene, run, owner):
        return "removed"
    run = _start_as_root(scene, owner, "again")
    if run.settle() is not Start.SERVES:
        raise Skipped("it has left its file, and did not start again as it did before")
    run.wait_for_handlers()
    return "removed" if _removes(scene, run, owner) else "left"


def _start_as_root(scene: Scene, owner: str, name: str) -> Run:
    """Start it in a new directory of ``owner``'s."""
    path = scene.make_path(name, root=owner == "root")
    scene.note(f"in a directory that belongs to {owner}")
    return scene.instance(path).start("the server, as root,", root=True)


def _removes(scene: Scene, run: Run, owner: str) -> bool:
    """Tell what it has made, and stop it: whether its file is gone then."""
    found = scene.look(run.path)
    scene.facts |= {
        "directory": owner,
        "owner": _owner(found),
        "mode": f"{found.mode or 0:04o}",
        "users": sorted({user_name(uid) for uid in map(_uid_of, run.pids) if uid is not None}),
    }
    scene.note(f"its processes belong to {', '.join(scene.facts['users'])}")
    if not run.stop():
        raise Skipped("it does not end by SIGTERM, and was killed: it had no chance to remove its file")
    scene.look(run.path)
    return not os.path.lexists(run.path)  # its directory may have gone, too


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
