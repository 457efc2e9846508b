"""What must have become of a server's path, told from system calls alone.

:class:`Replay` replays what :mod:`calls` has read on a small model of names and sockets. Where calls overlap, it tries
every order that agrees with their results (as linearizability is checked), so that there can be more than one state;
if there is none, log and model contradict each other. :func:`expect` says by which of a probe's words the audit may
call what the model has come to.

Nothing here knows the library: it is what the audit is checked against.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from posixpath import dirname, join, normpath

from calls import Log, Operation, Process

Node = tuple[str, ...]
"""What a name leads to: its kind, and its number; for a link the text in it. A socket file's number is its socket's."""


@dataclass(frozen=True)
class State:
    """A moment: what the names lead to, and which sockets serve."""

    names: frozenset[tuple[str, Node]] = frozenset()
    serving: frozenset[str] = frozenset()
    damaged: frozenset[Node] = frozenset()
    """Files that were cut short."""
    modes: frozenset[tuple[Node, int]] = frozenset()
    """Those that were set."""

    def at(self, path: str) -> Node | None:
        """What is at a path, links not followed."""
        return next((node for name, node in self.names if name == path), None)

    def behind(self, path: str) -> str:
        """The path that a path leads to when a link is followed."""
        for _ in range(40):
            node = self.at(path)
            if node is None or node[0] != "link":
                break
            path = normpath(join(dirname(path), node[2]))
        return path

    def server(self, path: str) -> str | None:
        """The serving socket that a path leads to."""
        node = self.at(self.behind(path))
        return node[1] if node and node[0] == "socket" and node[1] in self.serving else None

    def put(self, path: str, node: Node | None) -> State:
        """With something else at a path, or nothing."""
        rest = {pair for pair in self.names if pair[0] != path}
        return replace(self, names=frozenset(rest | ({(path, node)} if node else set())))

    def move(self, old: str, new: str) -> State:
        """With what is at ``old``, and below it, at ``new``."""
        moved = {(new + name[len(old) :], node) for name, node in self.names if (name + "/").startswith(old + "/")}
        rest = {pair for pair in self.names if pair[0] != new and not (pair[0] + "/").startswith(old + "/")}
        return replace(self, names=frozenset(rest | moved))


def after(state: State, operation: Operation) -> State | None:
    """The state after an operation; None if it could not have had its result in this one."""
    paths, error = operation.paths, operation.error
    there = state.at(paths[-1]) if paths else None
    new = (operation.name, str(operation.first))
    if operation.name in ("bind", "symlink", "mkdir", "link"):
        if error in ("EADDRINUSE", "EEXIST"):
            return state if there else None
        if error:
            return state
        if there:
            return None
    match operation.name:
        case "bind":
            bound = state.put(paths[0], ("socket", operation.socket))
            datagrams = {operation.socket} if operation.detail == "dgram" else set()
            return replace(bound, serving=bound.serving | datagrams)
        case "symlink":
            return state.put(paths[0], ("link", new[1], operation.detail))
        case "mkdir":
            return state.put(paths[0], ("directory", new[1]))
        case "link":
            return state.put(paths[1], state.at(paths[0]) or new)
        case "listen":
            return state if error else replace(state, serving=state.serving | {operation.socket})
        case "release":
            return replace(state, serving=state.serving - {operation.socket})
        case "unlink" if error == "ENOENT":
            return None if there else state
        case "unlink" if not error:
            return state.put(paths[0], None) if there else None
        case "rename" if not error:
            return _renamed(state, operation, new)
        case "chmod" if not error and (node := state.at(state.behind(paths[0]))):
            others = {pair for pair in state.modes if pair[0] != node}
            return replace(state, modes=frozenset(others | {(node, operation.mode)}))
        case "open" if not error:
            return _opened(state, operation, new)
        case "connect":
            served = state.server(paths[0]) is not None
            if error in ("", "EISCONN", "EAGAIN", "EINPROGRESS"):
                return state if served else None
            if error == "ECONNREFUSED":
                return None if served else state
    return state


def _renamed(state: State, operation: Operation, new: Node) -> State | None:
    old, target = operation.paths
    if "RENAME_EXCHANGE" in operation.detail:
        one, other = state.at(old), state.at(target)
        return state.put(old, other).put(target, one)
    if "RENAME_NOREPLACE" in operation.detail and state.at(target):
        return None
    if state.at(old) == state.at(target) is not None:  # two names of one file: nothing is done
        return state
    return state.move(old, target) if state.at(old) else state.put(target, new)


def _opened(state: State, operation: Operation, new: Node) -> State | None:
    flags = operation.detail
    path = operation.paths[0] if "O_EXCL" in flags or "O_NOFOLLOW" in flags else state.behind(operation.paths[0])
    there = state.at(path)
    if there is None:
        return state.put(path, ("file", new[1])) if "O_CREAT" in flags else state
    if "O_EXCL" in flags:
        return None
    return replace(state, damaged=state.damaged | {there}) if "O_TRUNC" in flags else state


class Contradiction(AssertionError):
    """No order of the calls explains their results."""


_Reached = set[tuple[State, frozenset[Operation]]]
"""States, each with those under way that have taken effect in it already."""


class Replay:
    """What was below a directory, moment by moment.

    ``own``: directories below it, those of the servers themselves. Of the files there, which with a database are
    thousands, only those count that are also bound, linked or renamed.
    """

    def __init__(self, log: Log, top: str, own: Sequence[str] = ()) -> None:
        self.log = log
        within = [
            each for each in log.operations if not each.paths or any(path.startswith(top + "/") for path in each.paths)
        ]
        more = {path for each in within if each.name in ("bind", "link", "rename", "symlink") for path in _leads(each)}

        def counts(operation: Operation) -> bool:
            if operation.name not in ("open", "unlink", "chmod"):
                return True
            (path,) = operation.paths
            home = next((each for each in own if path.startswith(each + "/")), None)
            while home is not None and path not in more:
                path = dirname(path)
                if path == home:
                    return False
            return True

        operations = [each for each in within if counts(each)]
        moments = [(each.first, 0, each) for each in operations] + [(each.last, 1, each) for each in operations]
        self._moments = sorted(moments, key=lambda moment: moment[:2])
        self._lines = [line for line, _, _ in self._moments]
        self._known: dict[int, tuple[_Reached, frozenset[Operation]]] = {0: ({(State(), frozenset())}, frozenset())}
        """After so many moments: what can be reached, and what is under way."""

    def at(self, line: int) -> set[State]:
        """The states that may have been there before a line of the log."""
        count = bisect_left(self._lines, line)
        before = max(each for each in self._known if each <= count)
        reached, under_way = self._known[before]
        for number, ends, operation in self._moments[before:count]:
            if not ends:
                under_way |= {operation}
                continue
            reached = {(state, done - {operation}) for state, done in _orders(reached, under_way) if operation in done}
            under_way -= {operation}
            if not reached:
                raise Contradiction(f"line {number + 1}: {operation}")
        self._known[count] = reached, under_way
        return {state for state, _ in _orders(reached, under_way)}


def _leads(operation: Operation) -> list[str]:
    """The paths that it names, also as what a link leads to."""
    paths = list(operation.paths)
    if operation.name == "symlink":
        paths.append(normpath(join(dirname(paths[0]), operation.detail)))
    return paths


def _orders(reached: _Reached, under_way: frozenset[Operation]) -> _Reached:
    """All that can be reached when those under way take effect in any order, or not yet."""
    found = set(reached)
    new = list(reached)
    while new:
        state, done = new.pop()
        for operation in under_way - done:
            following = after(state, operation)
            if following is not None and (each := (following, done | {operation})) not in found:
                found.add(each)
                new.append(each)
    return found


# Scenes


class Start:
    """A server that was started: a process, from its exec on, and all that comes from it."""

    def __init__(self, log: Log, process: Process, line: int, argv: list[str], cwd: str) -> None:
        self._log = log
        self.process = process
        self.line = line
        self.argv = argv
        self.cwd = cwd

    def owns(self, process: Process | None) -> bool:
        """Whether a process is one of it."""
        while process is not None and process is not self.process:
            process = process.parent
        return process is not None

    @property
    def processes(self) -> list[Process]:
        """All that it was."""
        return [process for process in self._log.processes if self.owns(process)]

    def living(self, line: int) -> list[Process]:
        """Those of its processes that lived before a line."""
        return [each for each in self.processes if each.began < line and (each.ended is None or each.ended >= line)]

    def signals(self) -> list[tuple[int, str]]:
        """Line and name of each signal that others have sent to it, in order."""
        return sorted(
            (line, name)
            for process in self.processes
            for line, name, sender in process.signals
            if line >= self.line and not self.owns(sender)
        )

    def signals_before(self, line: int) -> bool:
        """Whether others had sent it one before a line."""
        return any(number < line for number, _ in self.signals())

    def told_again(self) -> bool:
        """Whether one of its processes had to be told to end more than once."""
        for process in self.processes:
            told = [name for _, name, by in process.signals if not self.owns(by) and name not in ("SIGSTOP", "SIGCONT")]
            if "SIGKILL" in told or len(told) > 1:
                return True
        return False

    @property
    def end(self) -> int:
        """The line after which nothing of it lived."""
        return max(self._log.length if each.ended is None else each.ended for each in self.processes) + 1


def starts(log: Log, is_server: Callable[[list[str], str], bool]) -> list[Start]:
    """The servers that were started: those programs whose words and current directory say so, but not what they
    themselves have started."""
    found: list[Start] = []
    execs = ((line, argv, cwd, process) for process in log.processes for line, argv, cwd in process.execs)
    for line, argv, cwd, process in sorted(execs, key=lambda each: each[0]):
        if is_server(argv, cwd) and not any(start.owns(process) for start in found):
            found.append(Start(log, process, line, argv, cwd))
    return found


class Scene:
    """What one or more servers did at one path."""

    def __init__(self, replay: Replay, path: str, starts: Sequence[Start]) -> None:
        self.replay = replay
        self.path = path
        self.starts = list(starts)

    def calm(self, start: Start) -> int:
        """The line of the first thing that others did after a start: until there it was left to itself."""
        directory = dirname(self.path)
        lines = [line for each in self.starts for line, _ in each.signals()]
        lines += [each.line for each in self.starts]
        lines += [
            each.first
            for each in self.replay.log.operations
            if each.name not in ("connect", "chmod")
            and not any(server.owns(each.by) for server in self.starts)
            and any((path + "/").startswith(directory + "/") for path in each.paths)
        ]
        return min((line for line in lines if line > start.line), default=self.replay.log.length)

    def server(self, state: State, path: str = "") -> Start | None:
        """Whose socket the path leads to."""
        maker = self.replay.log.makers.get(state.server(path or self.path) or "")
        return next((start for start in self.starts if start.owns(maker)), None)

    def words(self, line: int, word: Callable[[State], str]) -> set[str]:
        """What is to be said of the states at a line."""
        return {word(state) for state in self.replay.at(line)}


def _how_started(scene: Scene, start: Start, serves: str, ended: str, lives: str) -> set[str]:
    line = scene.calm(start)
    otherwise = lives if start.living(line) else ended
    return scene.words(line, lambda state: serves if scene.server(state) is start else otherwise)


def _first(*words: str) -> Callable[[Sequence[str]], str]:
    """Of the words of some scenes, the one that counts."""
    return lambda found: next((word for word in words if word in found), found[0])


def _fresh_start(scene: Scene) -> set[str]:
    return _how_started(scene, scene.starts[0], "listens", "fails", "hangs")


def _restart(scene: Scene) -> set[str]:
    return _how_started(scene, scene.starts[1], "starts", "fails", "hangs")


def _start(scene: Scene) -> set[str]:
    return _how_started(scene, scene.starts[0], "starts", "refused", "hangs")


def _cleanup(scene: Scene) -> set[str]:
    start = scene.starts[0]
    if start.told_again():
        return {"ignored"}
    return scene.words(start.end, lambda state: "left" if state.at(scene.path) else "removed")


def _kill_main(scene: Scene) -> set[str]:
    first, second = scene.starts
    if not first.living(second.line):
        return {"all-exit"}
    return scene.words(second.line, lambda state: "orphans-listen" if state.server(scene.path) else "orphans")


def _second_instance(scene: Scene) -> set[str]:
    first, second = scene.starts
    line = scene.calm(second)

    def word(state: State) -> str:
        server = scene.server(state)
        if server is first:
            return "hangs" if second.living(line) else "refused"
        return "steals" if server is second else "path-lost" if first.living(line) else ""

    return scene.words(line, word)


def _left_for(scene: Scene, owner: Start, line: int) -> set[str]:
    if not owner.living(line):
        return {""}
    return scene.words(
        line,
        lambda state: "intact" if scene.server(state) is owner else "stale" if state.at(scene.path) else "gone",
    )


def _second_stops(scene: Scene) -> set[str]:
    first, second = scene.starts
    return _left_for(scene, first, second.end)


def _first_stops_after_steal(scene: Scene) -> set[str]:
    first, second = scene.starts
    if "steals" not in _second_instance(scene):
        return {""}
    return _left_for(scene, second, first.end)


def _kept(scene: Scene, path: str) -> Callable[[State], bool]:
    """Whether what was at a path when the server was started is there, and whole."""
    (before,) = scene.replay.at(scene.starts[0].line)
    there = before.at(path)
    return lambda state: state.at(path) == there and there not in state.damaged - before.damaged


def _mode(state: State, path: str) -> int | None:
    """The mode that was set of what is at a path."""
    return next((mode for node, mode in state.modes if node == state.at(path)), None)


def _refused(scene: Scene, refused: str = "refused-kept") -> str:
    start = scene.starts[0]
    return "hangs" if start.living(scene.calm(start)) else refused


def _regular_file(scene: Scene) -> set[str]:
    kept, start = _kept(scene, scene.path), scene.starts[0]
    (before,) = scene.replay.at(start.line)

    def word(state: State) -> str:
        if kept(state):
            return _refused(scene) if _mode(state, scene.path) == _mode(before, scene.path) else ""
        return "deleted-starts" if scene.server(state) is start else "deleted-fails"

    return scene.words(scene.calm(start), word)


def _symlink(scene: Scene) -> set[str]:
    start = scene.starts[0]
    (before,) = scene.replay.at(start.line)
    target = before.behind(scene.path)
    kind = (before.at(target) or ("",))[0]
    link_kept, target_kept = _kept(scene, scene.path), _kept(scene, target)

    def word(state: State) -> str:
        if kind == "file" and not (target_kept(state) and _mode(state, target) == _mode(before, target)):
            return "target-damaged"
        if kind == "socket" and link_kept(state) and scene.server(state) is start:
            return "starts-through-link"
        if not link_kept(state):
            return "link-replaced" if state.at(scene.path) else "link-removed"
        hangs = _refused(scene) == "hangs" and scene.server(state) is not start
        if kind != "file" and not target_kept(state) and not hangs:
            return "target-created" if state.at(target) else ""
        return _refused(scene)

    return scene.words(scene.calm(start), word)


def _directory(scene: Scene) -> set[str]:
    kept = [_kept(scene, path) for path in (scene.path, join(scene.path, "file"))]
    return scene.words(
        scene.calm(scene.starts[0]),
        lambda state: _refused(scene) if all(each(state) for each in kept) else "deleted",
    )


def _missing_parent(scene: Scene) -> set[str]:
    return scene.words(
        scene.calm(scene.starts[0]),
        lambda state: "created" if state.at(dirname(scene.path)) else _refused(scene, "refused"),
    )


def path_length(scene: Scene) -> set[str]:
    """The word for one length."""
    start = scene.starts[0]
    line = scene.calm(start)

    def word(state: State) -> str:
        cut = [
            name
            for name, node in state.names
            if node[0] == "socket" and name != scene.path and scene.path.startswith(name)
        ]
        if cut:
            return "truncated"
        served = scene.server(state) is start
        return "listens" if served else "hangs" if start.living(line) else "refused"

    return scene.words(line, word)


def _path_length(scene: Scene) -> set[str]:
    return {"truncates" if word == "truncated" else "honest" for word in path_length(scene)}


def _exit_deletes_foreign(scene: Scene) -> set[str]:
    start = scene.starts[0]
    (put,) = [
        each
        for each in scene.replay.log.operations
        if each.name == "rename" and each.paths[-1] == scene.path and not start.owns(each.by)
    ]
    (before,) = {state.at(scene.path) for state in scene.replay.at(put.last + 1)}
    return scene.words(start.end, lambda state: "kept" if state.at(scene.path) == before else "deleted")


def _names(scene: Scene) -> set[str]:
    """A path, and those from which something was moved there."""
    moved = (each.paths for each in scene.replay.log.operations if each.name in ("rename", "link"))
    return {scene.path} | {old for old, new in moved if new == scene.path}


def mode_of_file(scene: Scene) -> int | None:
    """The mode that the file at a path has got: as it was bound, or as it was set since."""
    line, names = scene.calm(scene.starts[0]), _names(scene)
    told = [
        each.mode
        for each in sorted(scene.replay.log.operations, key=lambda each: each.last)
        if each.name in ("bind", "chmod") and not each.error and each.paths[0] in names and each.first < line
    ]
    return told[-1] if told else None


def race_round(scene: Scene) -> set[str]:
    """The word for one round."""
    line = scene.calm(scene.starts[-1])
    names, operations = _names(scene), scene.replay.log.operations
    bound = {each.socket: each.by for each in operations if each.name == "bind" and each.paths[0] in names}

    def word(state: State) -> str:
        claims = {start for start in scene.starts for name in state.serving if start.owns(bound.get(name))}
        if len(claims) == len(scene.starts):
            return "both"
        return "one" if scene.server(state) else "path-lost" if claims else "none"

    return scene.words(line, word)


def _race(scene: Scene) -> set[str]:
    return {{"one": "exclusive", "none": "refuses"}.get(word, "races") for word in race_round(scene)}


_same = _first("")
_PROBES: dict[str, tuple[Callable[[Scene], set[str]], Callable[[Sequence[str]], str]]] = {
    "fresh-start": (_fresh_start, _first("fails", "hangs")),
    "term-cleanup": (_cleanup, lambda found: found[-1]),  # once more, if a file was left
    "int-cleanup": (_cleanup, lambda found: found[-1]),
    "privilege-drop": (_cleanup, lambda found: found[-1]),  # in root's directory, or else in the user's
    "stale-restart": (_restart, _same),
    "kill-main": (_kill_main, _same),
    "second-instance": (_second_instance, _same),
    "second-stops": (_second_stops, lambda found: found[-1]),  # once more, if one has died of the signal
    "first-stops-after-steal": (_first_stops_after_steal, lambda found: found[-1]),
    "regular-file": (_regular_file, _same),
    "symlink-to-file": (_symlink, _same),
    "symlink-dangling": (_symlink, _same),
    "symlink-to-stale": (_symlink, _same),
    "directory": (_directory, _first("deleted", "hangs")),
    "missing-parent": (_missing_parent, _same),
    "read-only-directory": (_start, _same),
    "foreign-stale": (_start, _same),
    "path-length": (_path_length, _first("truncates")),
    "exit-deletes-foreign": (_exit_deletes_foreign, _first("deleted")),
    "race-over-stale": (_race, lambda found: found[0] if len(set(found)) == 1 else "races"),
    "race-after-kill": (_race, lambda found: found[0] if len(set(found)) == 1 else "races"),
}
PROBES = tuple(_PROBES)
"""Those that can be told from system calls."""


def expect(probe: str, scenes: Iterable[Scene]) -> set[str]:
    """The words by which the probe may call what happened in its scenes; an empty one is for none of them."""
    one, all_of = _PROBES[probe]
    return {all_of(words) for words in itertools.product(*map(one, scenes))}
