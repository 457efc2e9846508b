"""What processes have done to names and sockets, read from the system calls that ``strace`` has logged.

One tracer around a whole scenario, harness, servers and all, gives one log, in which every call has a first and a last
line: it took effect in between. :class:`Log` makes processes and operations of it. Descriptors that are passed over a
socket (SCM_RIGHTS) are not followed.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from posixpath import join, normpath


def trace(log: str | os.PathLike[str]) -> list[str]:
    """What to put before a command to have it and all its children traced into ``log``.

    The tracer is outermost, so that it is in nobody's process tree, dies of nobody's signals, and sees harness and
    servers on one clock. A filter in the kernel stops those of :data:`CALLS` alone."""
    # "?": a call that this architecture has not got is no error.
    calls = ",".join(f"?{call}" for call in CALLS)
    options = ["-f", "--seccomp-bpf", "-ttt", "-y", "-s", "4096", "-e", f"trace={calls}"]
    return ["strace", *options, "-o", os.fspath(log), "--"]


# Lines


@dataclass
class Call:
    """A system call. ``first`` and ``last`` are numbers of lines: it took effect in between."""

    pid: int
    name: str
    first: int
    last: int
    arguments: list[str]
    result: str
    error: str
    """The errno's name; empty if it succeeded."""


@dataclass
class Death:
    """The end of a process or thread."""

    pid: int
    last: int
    status: int
    """The exit status, or the negative of a signal's number."""


_LINE = re.compile(r"(\d+) +\d+\.\d+ (.*)")
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (\S+)(?: ([A-Z]+)\b)?.*")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_DEATH = re.compile(r"\+\+\+ (exited with|killed by) (\w+).*\+\+\+")
_UNFINISHED = " <unfinished ...>"


def parse(text: str) -> list[Call | Death]:
    """The calls and deaths of a log, in the order of their last lines."""
    found: list[Call | Death] = []
    begun: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines()):
        matched = _LINE.fullmatch(line)
        if not matched:
            continue
        pid, what = int(matched[1]), matched[2]
        first = number
        if what.endswith(_UNFINISHED):
            begun[pid] = number, what[: -len(_UNFINISHED)]
            continue
        if resumed := _RESUMED.fullmatch(what):
            first, start = begun.pop(pid)
            what = start + resumed[2]
        if call := _CALL.fullmatch(what):
            result, error = call[3], call[4] or ""
            found.append(Call(pid, call[1], first, number, split(call[2]), result, error if result in "-1?" else ""))
        elif death := _DEATH.fullmatch(what):
            code = int(death[2]) if death[1] == "exited with" else -signal.Signals[death[2]]
            found.append(Death(pid, number, code))
    return found


def split(arguments: str) -> list[str]:
    """The arguments of a call: what stands between commas that are in no quotes and no brackets."""
    found, depth, quoted, begin = [], 0, False, 0
    skip = False
    for place, letter in enumerate(arguments):
        if skip:
            skip = False
        elif letter == "\\":
            skip = True
        elif letter == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif letter in "([{<" and arguments[place : place + 2] != "<<":
            depth += 1
        elif letter in ")]}>" and not arguments.endswith(" =", 0, place):  # "=>" is no bracket
            depth -= 1
        elif letter == "," and not depth:
            found.append(arguments[begin:place].strip())
            begin = place + 1
    return [*found, arguments[begin:].strip()] if arguments.strip() else []


_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f", b"a": b"\a", b"b": b"\b"}


def unescape(text: str) -> str:
    """A string as strace prints it, without its quotes."""

    def letter(found: re.Match[bytes]) -> bytes:
        octal, hexadecimal, other = found.groups()
        if octal or hexadecimal:
            return bytes([int(octal, 8) if octal else int(hexadecimal, 16)])
        return _LETTERS.get(other, other)

    return os.fsdecode(_ESCAPE.sub(letter, os.fsencode(text)))


def string(argument: str) -> str:
    """The string that an argument is."""
    return unescape(argument[argument.index('"') + 1 : argument.rindex('"')])


_SUN_PATH = re.compile(r'sun_path=(@?)"((?:[^"\\]|\\.)*)"')


def sun_path(argument: str) -> str | None:
    """The pathname in a socket address; None if it is abstract, unnamed or no Unix address."""
    found = _SUN_PATH.search(argument)
    return unescape(found[2]) if found and not found[1] else None


def descriptor(argument: str) -> tuple[str, str]:
    """A descriptor's number (or AT_FDCWD), and what it leads to."""
    number, _, what = argument.partition("<")
    return number, unescape(what.removesuffix("(deleted)").removesuffix(">"))


# Processes


@dataclass
class _Place:
    """What threads share by CLONE_FS."""

    cwd: str
    umask: int


class _Files(dict[int, tuple[str, bool]]):
    """What threads share by CLONE_FILES: what each descriptor leads to, and whether exec closes it."""


@dataclass(eq=False)
class Process:
    """A process, with its threads."""

    pid: int
    parent: Process | None
    began: int
    place: _Place
    files: _Files
    tasks: set[int]
    ended: int | None = None
    """The number of the line that tells that its last thread has ended."""
    status: int | None = None
    signals: list[tuple[int, str, Process]] = field(default_factory=list)
    """Line, name and sender of those that were sent to it."""
    execs: list[tuple[int, list[str], str]] = field(default_factory=list)
    """Line, words and current directory of each program that it has run."""

    def descends(self, pid: int) -> bool:
        """Whether it is a process or comes from it. For a process group, that is near enough."""
        return self.pid == pid or (self.parent is not None and self.parent.descends(pid))


@dataclass(frozen=True)
class Operation:
    """What changes names or sockets, or tells of them. ``error`` is the errno's name."""

    first: int
    last: int
    by: Process
    name: str
    paths: tuple[str, ...] = ()
    socket: str = ""
    error: str = ""
    detail: str = ""
    mode: int = 0
    """The permission bits that a file gets by it."""


class Log:
    """What a log tells."""

    def __init__(self, text: str) -> None:
        self.processes: list[Process] = []
        self.operations: list[Operation] = []
        self.makers: dict[str, Process] = {}
        """By socket, the process that made it."""
        self._types: dict[str, str] = {}
        self._modes: dict[str, int] = {}
        """Of sockets whose own mode was set: the file gets it, less the umask."""
        self._living: list[Process] = []
        self._tasks: dict[int, Process] = {}
        """By the number of each thread that lives."""
        self._deadly: dict[int, int] = {}
        """By pid, the line where the last SIGKILL for it began."""
        records = parse(text)
        os.umask(umask := os.umask(0))
        self.length = text.count("\n")
        # A child may be seen before the call that makes it has returned.
        records.sort(key=lambda each: each.first if isinstance(each, Call) and each.name in _FORKS else each.last)
        self._last_line: dict[int, int] = {}
        self._unnamed = _unnamed(records)
        for record in records:
            if record.pid not in self._tasks:
                self._add(record.pid, None, record.last, _Place(os.getcwd(), umask), _Files())
            if isinstance(record, Death):
                self._die(record)
            elif record.result != "?" or record.name in _FORKS:  # "?": its process was killed in it
                _HANDLERS[record.name](self, record, self._tasks[record.pid])
            self._last_line[record.pid] = record.last
        self.operations.sort(key=lambda operation: operation.first)

    # Processes and descriptors

    def _add(self, pid: int, parent: Process | None, line: int, place: _Place, files: _Files) -> Process:
        made = Process(pid, parent, line, place, files, {pid})
        self.processes.append(made)
        self._living.append(made)
        self._tasks[pid] = made
        return made

    def _fork(self, call: Call, process: Process) -> None:
        pid = self._child(call)
        if pid is None:
            return
        self._last_line[pid] = call.first
        flags = " ".join(call.arguments)
        if "CLONE_THREAD" in flags:
            process.tasks.add(pid)
            self._tasks[pid] = process
            return
        place = process.place if "CLONE_FS" in flags else replace(process.place)
        files = process.files if "CLONE_FILES" in flags else _Files(process.files)
        self._add(pid, process, call.first, place, files)

    def _child(self, call: Call) -> int | None:
        """Whom a fork has made.

        Who is killed in it may have made a child all the same, of which no result tells: one that comes later and that
        no other call names. Of two that are killed at once each gets some child."""
        if call.result != "?":
            return None if call.error else int(call.result)
        pid = None if call.error else next((pid for pid, line in self._unnamed.items() if line > call.first), None)
        if pid is not None:
            del self._unnamed[pid]
        return pid

    def _execve(self, call: Call, process: Process) -> None:
        if call.error:
            return
        words = split(call.arguments[1][1:-1])
        process.execs.append((call.first, [string(word) for word in words], process.place.cwd))
        self._close([fd for fd, (_, closes) in process.files.items() if closes], call, process)

    def _die(self, death: Death) -> None:
        process = self._tasks.pop(death.pid)
        process.tasks.discard(death.pid)
        if death.pid == process.pid:
            process.status = death.status
        if process.tasks:
            return
        process.ended = death.last
        first = max(self._last_line.get(death.pid, 0), self._deadly.get(process.pid, 0)) + 1
        self._living.remove(process)
        if not any(other.files is process.files for other in self._living):
            self._close(list(process.files), Call(death.pid, "exit", first, death.last, [], "0", ""), process)

    def _execveat(self, call: Call, process: Process) -> None:
        self._execve(replace(call, arguments=call.arguments[1:]), process)

    def _close(self, numbers: Iterable[int], call: Call, process: Process) -> None:
        gone = {process.files.pop(number, ("", False))[0] for number in numbers}
        for what in gone & self.makers.keys():
            if not any(what == other for each in self._living for other, _ in each.files.values()):
                self._tell(call, process, "release", socket=what)

    def _open(self, call: Call, process: Process, closes: bool) -> None:
        if call.error or "<" not in call.result:
            return
        number, what = descriptor(call.result)
        if int(number) in process.files and call.name in ("dup2", "dup3"):
            self._close([int(number)], call, process)
        process.files[int(number)] = what, closes

    def _socket(self, call: Call, process: Process) -> None:
        self._open(call, process, "SOCK_CLOEXEC" in call.arguments[1])
        if not call.error and call.arguments[0] == "AF_UNIX":
            what = descriptor(call.result)[1]
            self.makers[what] = process
            self._types[what] = call.arguments[1]

    def _dup(self, call: Call, process: Process) -> None:
        self._open(call, process, "O_CLOEXEC" in " ".join(call.arguments))

    def _fcntl(self, call: Call, process: Process) -> None:
        number = int(descriptor(call.arguments[0])[0])
        if call.arguments[1] in ("F_DUPFD", "F_DUPFD_CLOEXEC"):
            self._open(call, process, call.arguments[1] == "F_DUPFD_CLOEXEC")
        elif call.arguments[1] == "F_SETFD" and number in process.files:
            process.files[number] = process.files[number][0], "FD_CLOEXEC" in call.arguments[2]

    def _ioctl(self, call: Call, process: Process) -> None:
        number = int(descriptor(call.arguments[0])[0])
        if call.arguments[1] in ("FIOCLEX", "FIONCLEX") and number in process.files:
            process.files[number] = process.files[number][0], call.arguments[1] == "FIOCLEX"

    def _close_range(self, call: Call, process: Process) -> None:
        first, last = (int(argument, 0) for argument in call.arguments[:2])
        numbers = [number for number in process.files if first <= number <= last]
        if "CLOEXEC" in call.arguments[2]:
            process.files.update({number: (process.files[number][0], True) for number in numbers})
        else:
            self._close(numbers, call, process)

    def _kill(self, call: Call, process: Process) -> None:
        number, name = int(call.arguments[0]), call.arguments[-1]
        if call.error or name == "0":
            return
        told = [each for each in self._living if each.pid == number or (number < 0 and each.descends(-number))]
        for each in told:
            each.signals.append((call.first, name, process))
            if name == "SIGKILL":
                self._deadly[each.pid] = call.first

    def _tgkill(self, call: Call, process: Process) -> None:
        self._kill(replace(call, arguments=call.arguments[1:]), process)

    def _chdir(self, call: Call, process: Process) -> None:
        if not call.error:
            process.place.cwd = normpath(join(process.place.cwd, string(call.arguments[0])))

    def _fchdir(self, call: Call, process: Process) -> None:
        if not call.error:
            process.place.cwd = descriptor(call.arguments[0])[1]

    # Names and sockets

    def _tell(
        self,
        call: Call,
        process: Process,
        name: str,
        *paths: str,
        socket: str = "",
        detail: str = "",
        mode: int = 0,
    ) -> None:
        self.operations.append(Operation(call.first, call.last, process, name, paths, socket, call.error, detail, mode))

    def _absolute(self, process: Process, path: str, beside: str = "") -> str:
        if found := re.fullmatch(r"/proc/(?:self|thread-self|\d+)/fd/(\d+)(/.*)?", path):
            opened = process.files.get(int(found[1]), ("", False))[0]
            # Without anything behind it, it is an inode and no name.
            return normpath(opened + found[2]) if found[2] else ""
        return normpath(join(beside or process.place.cwd, path))

    def _named(self, call: Call, process: Process, *places: int) -> list[str]:
        """The paths that are the arguments at these places; a descriptor of a directory stands before one."""
        paths = []
        for place in places:
            before = call.arguments[place - 1] if place else ""
            beside = descriptor(before)[1] if "<" in before and '"' not in before else ""
            paths.append(self._absolute(process, string(call.arguments[place]), beside))
        return paths

    def _bind(self, call: Call, process: Process) -> None:
        path, what = sun_path(call.arguments[1]), descriptor(call.arguments[0])[1]
        if path is not None:
            dgram = "dgram" if "SOCK_DGRAM" in self._types.get(what, "") else ""
            mode = self._modes.get(what, 0o777) & ~process.place.umask
            self._tell(call, process, "bind", self._absolute(process, path), socket=what, detail=dgram, mode=mode)

    def _connect(self, call: Call, process: Process) -> None:
        path = sun_path(call.arguments[1])
        if path is not None:
            self._tell(call, process, "connect", self._absolute(process, path))

    def _listen(self, call: Call, process: Process) -> None:
        self._tell(call, process, "listen", socket=descriptor(call.arguments[0])[1], detail=call.arguments[1])

    def _shutdown(self, call: Call, process: Process) -> None:
        if call.arguments[1] != "SHUT_WR" and not call.error:
            self._tell(call, process, "release", socket=descriptor(call.arguments[0])[1])

    def _close_one(self, call: Call, process: Process) -> None:
        self._close([int(descriptor(call.arguments[0])[0])], call, process)

    def _unlink(self, call: Call, process: Process) -> None:
        place = 1 if call.name == "unlinkat" else 0
        self._tell(call, process, "unlink", *self._named(call, process, place))

    def _rename(self, call: Call, process: Process) -> None:
        places = (0, 1) if call.name in ("rename", "link") else (1, 3)
        name = "link" if call.name.startswith("link") else "rename"
        detail = call.arguments[4] if len(call.arguments) > 4 else ""
        self._tell(call, process, name, *self._named(call, process, *places), detail=detail)

    def _symlink(self, call: Call, process: Process) -> None:
        place = 2 if call.name == "symlinkat" else 1
        self._tell(call, process, "symlink", *self._named(call, process, place), detail=string(call.arguments[0]))

    def _mkdir(self, call: Call, process: Process) -> None:
        self._tell(call, process, "mkdir", *self._named(call, process, 1 if call.name == "mkdirat" else 0))

    def _opens(self, call: Call, process: Process) -> None:
        place = 1 if call.name in ("openat", "openat2") else 0
        flags = "O_CREAT|O_TRUNC" if call.name == "creat" else " ".join(call.arguments[place + 1 :])
        self._open(call, process, "O_CLOEXEC" in flags)
        if "O_CREAT" in flags or "O_TRUNC" in flags:
            self._tell(call, process, "open", *self._named(call, process, place), detail=flags)

    def _umask(self, call: Call, process: Process) -> None:
        process.place.umask = int(call.arguments[0], 8)

    def _chmod(self, call: Call, process: Process) -> None:
        place = 0 if call.name == "chmod" else 1
        mode = int(call.arguments[place + 1], 8)
        self._tell(call, process, "chmod", *self._named(call, process, place), mode=mode & 0o7777)

    def _fchmod(self, call: Call, process: Process) -> None:
        if not call.error:
            self._modes[descriptor(call.arguments[0])[1]] = int(call.arguments[1], 8) & 0o7777

    def _truncate(self, call: Call, process: Process) -> None:
        self._tell(call, process, "open", *self._named(call, process, 0), detail="O_TRUNC")

    def _ftruncate(self, call: Call, process: Process) -> None:
        self._tell(call, process, "open", descriptor(call.arguments[0])[1], detail="O_TRUNC")


def _unnamed(records: Iterable[Call | Death]) -> dict[int, int]:
    """Those that are the result of no fork, and the line where each is first seen, in that order."""
    forks = [each for each in records if isinstance(each, Call) and each.name in _FORKS]
    named = {int(each.result) for each in forks if each.result.isdigit()}
    seen: dict[int, int] = {}
    for each in records:
        line = each.first if isinstance(each, Call) else each.last
        seen[each.pid] = min(line, seen.get(each.pid, line))
    return dict(sorted(((pid, line) for pid, line in seen.items() if pid not in named), key=lambda pair: pair[1]))


_FORKS = ("clone", "clone3", "fork", "vfork")
_HANDLERS: dict[str, Callable[[Log, Call, Process], None]] = {
    **dict.fromkeys(_FORKS, Log._fork),
    **dict.fromkeys(("dup", "dup2", "dup3"), Log._dup),
    **dict.fromkeys(("kill", "tkill"), Log._kill),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), Log._unlink),
    **dict.fromkeys(("rename", "renameat", "renameat2", "link", "linkat"), Log._rename),
    **dict.fromkeys(("symlink", "symlinkat"), Log._symlink),
    **dict.fromkeys(("mkdir", "mkdirat"), Log._mkdir),
    **dict.fromkeys(("open", "openat", "openat2", "creat"), Log._opens),
    **dict.fromkeys(("chmod", "fchmodat", "fchmodat2"), Log._chmod),
    "bind": Log._bind,
    "chdir": Log._chdir,
    "close": Log._close_one,
    "close_range": Log._close_range,
    "connect": Log._connect,
    "execve": Log._execve,
    "execveat": Log._execveat,
    "fchdir": Log._fchdir,
    "fchmod": Log._fchmod,
    "fcntl": Log._fcntl,
    "ftruncate": Log._ftruncate,
    "ioctl": Log._ioctl,
    "listen": Log._listen,
    "shutdown": Log._shutdown,
    "socket": Log._socket,
    "tgkill": Log._tgkill,
    "truncate": Log._truncate,
    "umask": Log._umask,
}
CALLS = tuple(_HANDLERS)
