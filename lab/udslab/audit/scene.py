"""One probe's scene: a private directory, instances of a subject, what they do at the path, and the evidence of it."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from udslab import diag, procfs
from udslab.address import Address
from udslab.audit.asking import answers
from udslab.audit.ping import Ping
from udslab.audit.subject import Places, Subject
from udslab.deadline import Deadline, now
from udslab.errors import AgentGone, TimedOut, UdsError
from udslab.ready import LISTENING, Condition, Readiness, file_of
from udslab.state import State, Status, status
from udslab.supervisor import is_deaf, stat_of
from udslab.word import Word

__all__ = [
    "Claim",
    "Host",
    "Instance",
    "Pinned",
    "Run",
    "Scene",
    "Server",
    "Skipped",
    "Start",
    "User",
    "is_runnable",
    "listed",
    "sockets_at",
]

LEAST_PATIENCE = 10.0
"""Seconds after which "it did not happen" may be said, at the least."""
_SETUP_LIMIT = 120.0
_RESTLESS = 3.0
"""Seconds for which a server is waited to come to rest: some never do."""
_LAUNCHED = 1.5
"""Seconds in which the first process may end that has left serving to another one: who makes a daemon of it does."""
_TABLES = 2.0
"""Seconds for which the kernel's tables are asked: their dumps can miss a socket that lives."""
_BETWEEN = 0.1
"""Seconds between two looks at whose socket is at the path."""
_LOOK_AGAIN = 0.03
"""Seconds between two looks at whether it has."""
_HANDLERS = 2.0
"""Seconds from when it serves in which a server installs its handlers of signals; no event tells of it."""
_LONGEST_LINE = 300
"""Of a server's log in the evidence, in characters."""


class Skipped(Exception):
    """What a probe asks cannot be told; the reason."""


class Start(Word):
    """How a start has gone."""

    SERVES = "serves"
    EXITED = "exited"
    """Nothing of it lives, and it did not serve the path."""
    HANGS = "hangs"
    """It lives, and did not serve the path for as long as it was waited."""


class Claim(Word):
    """By what a socket that serves is known to have been bound to a path."""

    BY_NAME = "by-name"
    """It was bound by the very name."""
    SEEN = "seen-there"
    """It was bound by another name, and the path has led to its file."""
    BY_ANOTHER_NAME = "by-another-name"
    """It was bound by another name in the path's directory or below, or by one that ends as the path does and cannot be
    resolved any more, and no file is there by now: it was renamed into place, and then replaced."""


@dataclass(frozen=True)
class User:
    """Whom a server runs as, if that is not who audits."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Server(Protocol):
    """A process with all that it leaves behind: :class:`udslab.remote.SupervisedProcess`, or a container's."""

    pid: int
    """Of its first process."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def written(self) -> int:
        """How many bytes it has written."""

    def output(self) -> str:
        """What it has written."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until its first process has exited. Raises :class:`~udslab.errors.TimedOut`."""

    def gone(self) -> str | None:
        """How it has ended, in words; None while any of it lives."""

    def gone_within(self, timeout: float | None) -> bool:
        """Whether nothing of it lives, at the latest after so many seconds."""

    def fileno(self) -> int | None:
        """A descriptor that can be read when :meth:`gone` is to be asked."""

    def tree(self) -> Sequence[Mapping[str, Any]]:
        """What lives of it."""

    def signal_left(self, number: int, group: bool = False) -> Sequence[int]:
        """Send a signal to the first process, with ``group`` to all of its process group, or to those that it has left;
        the pids."""

    def freeze(self) -> None:
        """Stop all of it."""

    def thaw(self) -> None:
        """Let it go on."""

    def open_files(self, room: bool, pids: Sequence[int] = ()) -> Sequence[int]:
        """Take the room for another open file from these of it, or give it back to all; the pids."""

    def kill(self) -> int:
        """SIGKILL to all of it."""

    def __exit__(self, *exc: object) -> None:
        """End and forget it."""


class Host(Protocol):
    """Where the instances of a subject run: as processes of this machine, or in containers of an image."""

    user: User | None
    """Whom they run as; None: who audits."""
    is_image: bool

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        umask: int | None = None,
        at: float | None = None,
        as_root: bool = False,
    ) -> Server:
        """Start a command. ``at``: at that instant of the monotonic clock. Raises UdsError if it cannot be started."""

    def directory(self) -> Any:
        """A context manager: a fresh directory with a short path that all instances can see, and search."""


class Instance:
    """One installation of a subject, with a directory of its own."""

    def __init__(self, scene: Scene, dir: str, path: str) -> None:
        self._scene = scene
        self.dir = dir
        self.path = path

    def fill(self, words: Sequence[str], path: str | None = None) -> list[str]:
        """Words of a command with this instance's places in them."""
        places = Places(path or self.path, self.dir)
        return [places.fill(word) for word in words]

    def start(
        self,
        name: str,
        path: str | None = None,
        *,
        umask: int | None = 0o022,
        at: float | None = None,
        root: bool = False,
    ) -> Run:
        """Start it, to serve ``path`` (the scene's); it is called ``name`` in the evidence."""
        scene, subject = self._scene, self._scene.subject
        where = path or self.path
        others = file_of(Address.parse(where)) if status(where).serving else None
        own = {key: self.fill([value], where)[0] for key, value in subject.env.items()}
        env = {**scene.environment(self.dir), **own}
        command = self.fill(subject.root_command if root else subject.command, where)
        process = scene.host.start(command, env=env, cwd=self.dir, umask=umask, at=at, as_root=root)
        return scene.adopt(Run(scene, self, name, where, process, others))


class Run:
    """One run of an instance, from its start until nothing of it lives."""

    def __init__(
        self, scene: Scene, instance: Instance, name: str, path: str, process: Server, others: tuple[int, int] | None
    ) -> None:
        self._scene = scene
        self.instance = instance
        self.name = name
        self.path = path
        self.process = process
        self._others = others
        self.started = now()
        self.took = 0.0
        """Seconds from its start until it served."""
        self.file: tuple[int, int] | None = None
        """Device and inode of the file by which it was first seen to serve."""
        self._launcher_stays = False
        """Whether its first process does not serve and has not ended, when it has come to rest."""
        self._serves_by: set[int] = set()
        """The sockets by which it served when it had come to rest."""
        self._told: set[int] = set()
        """The pids to which the last signal that was to end it was sent."""
        self._bound: dict[int, bytes] = {}
        """The sockets by which it has been seen to serve, and where each was bound."""

    def settle(self, condition: Condition = LISTENING) -> Start:
        """Wait until it serves its path by another file than was served before, or nothing of it lives, or patience is
        at its end; with that in the evidence. One that serves has come to rest, too."""
        start = self._wait(condition)
        if start is Start.SERVES:
            self._settle_down()
            if self.gone:
                self._scene.note(f"{self.name} {self.how()} soon after")
                return Start.EXITED
            self._serves_by = self._own_sockets()
            if not self._serves_by and self._meets_others():
                self._scene.note(f"the socket behind the path is none of {self.name}")
                start = self._wait_for_own()
                self._serves_by = self._own_sockets()
            self.file = file_of(Address.parse(self.path)) if start is Start.SERVES else None
        return start

    def _meets_others(self) -> bool:
        """Whether it is seen that the socket behind its path is not its own."""
        bound = set() if self._scene.host.is_image else sockets_at(self.path)
        return bool(bound) and all(map(_shows_its_files, self.pids)) and not bound & self.sockets()

    def _own_sockets(self) -> set[int]:
        """Those that are bound to what its path leads to, as far as they can be seen: of an image, none."""
        return set() if self._scene.host.is_image else sockets_at(self.path) & self.sockets()

    def _wait_for_own(self) -> Start:
        """Wait until the socket behind the path is its own: another one's has come there while it was waited for it."""
        deadline = Deadline(self._scene.patience)
        while not self.process.gone_within(_BETWEEN):
            if status(self.path).serving and self._own_sockets():
                self._scene.note(f"{self.name} serves the path after {now() - self.started:.2f} s")
                return Start.SERVES
            if deadline.passed:
                return self._hangs()
        return self._exited()

    def _wait(self, condition: Condition) -> Start:
        try:
            with Readiness(self.path, (condition,), others=self._others) as readiness:
                found = readiness.wait(self.process, self._scene.patience)
        except TimedOut:
            return self._hangs()
        except UdsError as error:
            if error.errno != errno.ECHILD:  # not it has ended: the audit has met with something
                raise
            return self._exited()
        self.took = now() - self.started
        what = "the path" if found.serving else "something"
        self._scene.note(f"{self.name} serves {what} after {self.took:.2f} s; the path: {_describe(found)}")
        return Start.SERVES

    def _hangs(self) -> Start:
        self.tell_orphans()
        self._scene.note(f"{self.name} neither serves the path nor has ended after {self._scene.patience:.0f} s")
        self._scene.quote(self)
        return Start.HANGS

    def _exited(self) -> Start:
        self._scene.note(f"{self.name} {self.how()}")
        self._scene.quote(self)
        return Start.EXITED

    @property
    def has_given_up(self) -> bool:
        """Whether it lives, and has closed the sockets by which it served when it had started, and serves by no other:
        so does who has handed its path over and has clients yet."""
        closed = bool(self._serves_by) and not self.gone and not self._serves_by & self.sockets()
        return closed and not self._serving()

    @property
    def gone(self) -> bool:
        """Whether nothing of it lives."""
        return self.process.gone() is not None

    @property
    def pids(self) -> list[int]:
        """Of all that lives of it."""
        with suppress(AgentGone):  # it ends just now
            return [found["pid"] for found in self.process.tree()] if not self.gone else []
        return []

    def tell_orphans(self) -> None:
        """Put into the evidence whose children those are that have lost their parent: not those of process 1."""
        if self._scene.host.is_image:
            return
        pids = self.pids
        parents = {pid: int(fields[1]) for pid in pids if (fields := stat_of(pid))}
        for pid, parent in parents.items():
            if pid != self.process.pid and parent not in pids:
                what = f"pid {pid} has lost its parent; it is now the child of the audit's supervisor (pid {parent})"
                self._scene.note(f"{what}, not of process 1")

    def how(self) -> str:
        """How it has ended, in words."""
        return self.process.gone() or "runs"

    def _settle_down(self) -> None:
        """Wait until it answers a ping, if there is one, and then until it has come to rest. One that serves may yet
        have to install its handlers of signals, to become a daemon, or to put another socket into the place."""
        if isinstance(self._scene.subject.ping, Ping):
            answers(self.path, self._scene.subject.ping, self._scene.subject.type, _RESTLESS)
        self._outlive_launcher()
        self.rest()

    def rest(self) -> None:
        """Wait until it has come to rest, for some seconds at the most: the same processes as before, all asleep, and
        no processor time used meanwhile."""
        deadline = Deadline(_RESTLESS)
        before: object = None
        while not deadline.passed and not self.gone:
            at_rest = {pid: _sleeps(pid) for pid in self.pids}
            if at_rest and at_rest == before and None not in at_rest.values():
                return
            before = at_rest
            self.process.gone_within(_LOOK_AGAIN)

    def _outlive_launcher(self) -> None:
        """If it is not the first process that serves, wait whether that one ends."""
        pids = self.pids
        first = self.process.pid
        if len(pids) < 2 or first not in pids:
            return
        if not sockets_at(self.path) & diag.sockets_of(first):
            try:
                self.process.wait(_LAUNCHED)
            except TimedOut:
                self._launcher_stays = True

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block none of it runs. Raises Skipped if it cannot be stopped."""
        try:
            self.process.freeze()
        except UdsError as error:
            raise Skipped(f"it cannot be stopped for a moment: {error}") from None
        try:
            yield
        finally:
            self.process.thaw()

    def send(self, number: int) -> set[int]:
        """Send a signal to its main process, or if that has exited to those that it has left. SIGINT goes to all of the
        main process's group, as a terminal sends it. The pids."""
        name = signal.Signals(number).name
        with suppress(AgentGone):  # it has ended
            pids = self.process.signal_left(number, group=number == signal.SIGINT)
            whom = f"the process group of {self.name}" if len(pids) > 1 and number == signal.SIGINT else self.name
            self._scene.note(f"{name} to {whom} (pid {listed(pids)})")
            for pid in pids:
                if self._scene.host.is_image and is_deaf(pid, number):
                    what = f"pid {pid} is the first process of its container and has no handler for {name}: the kernel"
                    what += " does not deliver it (pid_namespaces(7)); with an init (docker run --init) it would end"
                    self._scene.note(what)
            return set(pids)
        return set()

    def ends_by(self, number: int) -> bool:
        """Whether nothing of it lives after a signal, before patience is at its end. Those that a first process leaves
        serving that has not served itself, and dies of the signal, are sent it, too: it may have been about to end."""
        told = self._told = self.send(number)
        if self._launcher_stays:
            with suppress(TimedOut):
                died = self.process.wait(self._scene.patience) == -number
                if died and not self.gone and not told & set(self.pids):
                    self._scene.note(f"pid {self.process.pid}, which has started what serves, has died of it")
                    self.send(number)
        return self.ends()

    def ends(self) -> bool:
        """Whether nothing of it lives before patience is at its end."""
        began = now()
        if self.process.gone_within(self._scene.patience):
            self._scene.note(f"{self.name} {self.how()}, after {now() - began:.2f} s")
            return True
        self._scene.note(f"{self.name} still runs after {self._scene.patience:.0f} s: pid {listed(self.pids)}")
        return False

    def stop(self, number: int = signal.SIGTERM) -> bool:
        """A signal, and SIGKILL to all of it if it does not end; whether it ended by itself."""
        if self.ends_by(number):
            return True
        self.kill()
        return False

    def may_have_died_of(self, number: int) -> bool:
        """Whether a signal that has ended it may have come before its handler of it, so that what it does at its end
        has not been seen: then play once more, and :meth:`wait_for_handlers`. Of a daemon nobody knows."""
        return self.process.pid not in self._told or self.process.wait(0) in (-number, 128 + number)

    def wait_for_handlers(self) -> None:
        """Wait until one that serves has had the time to install its handlers of signals."""
        self._scene.note(f"once more, {_HANDLERS:.0f} s after that: it may have had no handler of the signal yet")
        self.process.gone_within(_HANDLERS)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        with suppress(AgentGone):
            self.process.kill()
        self._scene.note(f"SIGKILL to all of {self.name}")

    @property
    def written(self) -> int:
        """How many bytes it has written, to its output and to its logs."""
        return self.process.written + sum(os.path.getsize(log) for log in self._logs())

    def _logs(self) -> list[str]:
        return [log for log in self.instance.fill(self._scene.subject.logs, self.path) if os.path.exists(log)]

    def lines(self) -> list[str]:
        """What it has written so far, to its output and to its logs."""
        lines = self.process.output().splitlines()
        for log in self._logs():
            with suppress(OSError), open(log, errors="backslashreplace") as file:
                lines += file.read().splitlines()
        return [line for line in lines if line.strip()]

    def sockets(self) -> set[int]:
        """The inode numbers of the sockets that its processes have open."""
        return set().union(*map(diag.sockets_of, self.pids))

    def has_bound_to(self, path: str) -> bool:
        """Whether it has a socket open that is bound to what a path leads to, whoever has bound it."""
        return bool(sockets_at(path) & self.sockets())

    def holders(self) -> dict[int, set[int]]:
        """The pids of those that have a socket by which it serves its path, and those sockets of clients there that
        each has. None of an image, whose processes cannot be seen from here."""
        if self._scene.host.is_image:
            return {}
        entries = _bound_to(self.path)
        serving = {entry.inode for entry in entries if entry.listening or not entry.type.connects}
        accepted = {entry.inode for entry in entries} - serving  # it has the name, and the file, of who accepted it
        sockets = {pid: diag.sockets_of(pid) for pid in self.pids}
        return {pid: held & accepted for pid, held in sockets.items() if held & serving}

    def accepting(self, before: Mapping[int, set[int]], clients: int) -> list[int]:
        """The pids of those that accept its clients, when so many have come, and are connected, since ``before``, which
        is what :meth:`holders` told then. Raises Skipped if that cannot be told.

        Having the listening socket, and clients, is not enough: a child that is forked for a client inherits it. Who
        was there before a client and has it has accepted it; where each has new processes of its own, their parent has.
        And who has the socket by the same parent as these is another of them."""
        holders = self.holders()
        if len(holders) == 1:
            return list(holders)
        known: set[int] = set().union(*before.values())
        serving = {pid for pid, accepted in holders.items() if accepted - known}
        found = serving & before.keys()
        forked = [_parent_of(pid) for pid in serving if _parent_of(pid) not in serving]
        if not found and len(forked) == clients:
            found = holders.keys() & forked
        if not found:
            raise Skipped("it cannot be told which of its processes accept")
        return self.beside(found)

    def beside(self, pids: Collection[int]) -> list[int]:
        """The pids of those that have a socket by which it serves its path and the same parent as one of these."""
        parents = set(map(_parent_of, pids))
        return [pid for pid in self.holders() if _parent_of(pid) in parents]

    def claims(self, seen: Collection[int] = (), private: int = 0) -> dict[int, Claim]:
        """The sockets by which it serves that it has bound to its path, wherever the path leads now. ``seen``: those to
        whose file it has led. ``private``: of how many it has one only knows, if no other instance is there, that they
        were bound by another name and never were at the path."""
        directory, name = os.path.split(os.fsencode(self.path))
        directory = os.path.realpath(directory)
        found, others = {}, {}
        for inode, bound in self._serving().items():
            if bound == os.path.join(directory, name):
                found[inode] = Claim.BY_NAME
            elif inode in seen:
                found[inode] = Claim.SEEN
            elif not os.path.lexists(bound) and (bound.startswith(directory + b"/") or bound.endswith(b"/" + name)):
                others[inode] = Claim.BY_ANOTHER_NAME
        return {**found, **others} if len(others) > private else found

    def _serving(self) -> dict[int, bytes]:
        """The sockets by which it serves, and where each was bound, as far as its name tells."""
        held = {inode: pid for pid in self.pids for inode in diag.sockets_of(pid)}
        for entry in diag.listing():
            serves = entry.listening or not entry.type.connects
            # What was seen once is kept: its process may change its directory, and later dumps may miss it.
            if entry.inode in held and entry.inode not in self._bound and serves and entry.name:
                self._bound[entry.inode] = _place_of(entry.name, held[entry.inode])
        return {inode: self._bound[inode] for inode in held if inode in self._bound}


def _place_of(name: bytes, pid: int) -> bytes:
    """The path that a name of a process's socket leads to, but for its last part, which bind does not follow either;
    the name itself if that cannot be told. So it would be resolved now: not as when it was bound, if the process has
    changed its directory since."""
    if name[:1] == b"\0":
        return name
    name = _OWN_FILES.sub(b"/proc/%d/fd/" % pid, name)  # that is not ours

    def resolved(process: str) -> bytes:
        root, current = (os.readlink(os.fsencode(f"{process}/{link}")) for link in ("root", "cwd"))
        directory, last = os.path.split(root.rstrip(b"/") + name if name[:1] == b"/" else name)
        return os.path.join(os.path.realpath(os.path.join(current, directory)), last)

    try:
        return procfs.look(pid, resolved)
    except OSError:
        return name


_OWN_FILES = re.compile(rb"\A(?:/proc/(?:self|thread-self)/fd|/dev/fd)/")


class Pinned:
    """A file, a directory or a link that is held on to, so that no other one gets its number. A context manager."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        self._was = os.fstat(self._fd)

    def is_at(self, path: str) -> bool:
        """Whether the path leads to it, and not to another file."""
        try:
            found = os.lstat(path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self._was.st_dev, self._was.st_ino)

    @property
    def where(self) -> str:
        """A name that it has now, wherever that is; empty if it has none any more. Of a file whose first name has gone
        the kernel tells no other one."""
        if not os.fstat(self._fd).st_nlink:
            return ""
        return os.readlink(f"/proc/self/fd/{self._fd}").replace(" (deleted)", ", under another name")

    def changed(self) -> str:
        """What has become of its mode and its owner, in words; empty if they are as before."""
        now = os.fstat(self._fd)
        pairs = (
            ("mode", f"{self._was.st_mode & 0o7777:04o}", f"{now.st_mode & 0o7777:04o}"),
            ("uid", self._was.st_uid, now.st_uid),
            ("gid", self._was.st_gid, now.st_gid),
        )
        return ", ".join(f"{what} {before} is {after} now" for what, before, after in pairs if before != after)

    def read(self) -> bytes:
        """What is in the file."""
        with open(f"/proc/self/fd/{self._fd}", "rb") as file:
            return file.read()

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


class Scene:
    """Where one probe is played. A context manager: at its end nothing of it is left."""

    def __init__(self, subject: Subject, host: Host, patience: float) -> None:
        self.subject = subject
        self.host = host
        self.patience = patience
        """Seconds after which "it did not happen" is said."""
        self.evidence: list[str] = []
        self.facts: dict[str, Any] = {}
        self.env = _environment(host.user)
        self._exits = ExitStack()
        self._instances = 0

    def __enter__(self) -> Scene:
        self.top: str = self._exits.enter_context(self.host.directory())
        self.path = os.path.join(self.make_directory("p"), self.subject.socket_name or "sock")
        return self

    def __exit__(self, *exc: object) -> None:
        self._exits.close()

    def make_directory(self, name: str, mode: int = 0o755, *, root: bool = False) -> str:
        """A directory in the scene's own, of the server's user or of root."""
        path = os.path.join(self.top, name)
        os.mkdir(path)
        os.chmod(path, mode)
        if not root:
            self.give(path)
        return path

    def make_path(self, name: str, mode: int = 0o755, *, root: bool = False) -> str:
        """A path in such a directory, with the same last part as the scene's."""
        return os.path.join(self.make_directory(name, mode, root=root), os.path.basename(self.path))

    def environment(self, directory: str) -> dict[str, str]:
        """What a command finds that is started in a directory, which is all that it gets for its own."""
        return {"TMPDIR": directory, **self.env, "HOME": directory, "PWD": directory}

    def give(self, path: str) -> None:
        """Make a file or directory the server's user's."""
        if self.host.user is not None:
            os.chown(path, self.host.user.uid, self.host.user.gid, follow_symlinks=False)

    def note(self, text: str) -> None:
        """Add a line to the evidence."""
        self.evidence.append(text)

    def quote(self, run: Run) -> None:
        """Add what a run has written last."""
        line = (run.lines() or ["(nothing)"])[-1].strip()
        self.note(f"its last line: {line[:_LONGEST_LINE]}")

    def instance(self, path: str | None = None) -> Instance:
        """A fresh installation, set up. Raises Skipped if that fails."""
        self._instances += 1
        made = Instance(self, self.make_directory(str(self._instances)), path or self.path)
        places = Places(made.path, made.dir)
        for name, text in self.subject.files.items():
            file = os.path.join(made.dir, name)
            with open(file, "x", encoding="utf-8") as out:
                out.write(places.fill(text))
            self.give(file)
        for command in self.subject.setup:
            self._set_up(made, made.fill(command))
        return made

    def _set_up(self, instance: Instance, command: list[str]) -> None:
        env = self.environment(instance.dir)
        process = self.host.start(command, env=env, cwd=instance.dir)
        try:
            ended = process.gone_within(_SETUP_LIMIT)
            if not ended or process.gone() != "has ended with status 0":
                last = (process.output().strip().splitlines() or ["it has written nothing"])[-1]
                raise Skipped(f"its set-up {' '.join(command)!r} {process.gone() or 'does not end'}: {last}")
        finally:
            process.__exit__()

    def adopt(self, run: Run) -> Run:
        """It ends with the scene."""
        self._exits.callback(run.process.__exit__)
        self._exits.callback(run.process.kill)  # it has no more to show by how it ends
        return run

    def first(self, instance: Instance | None = None, path: str | None = None) -> Run:
        """An instance that serves. Raises Skipped if it does not."""
        run = (instance or self.instance(path)).start("the first", path)
        if run.settle() is not Start.SERVES:
            raise Skipped("it did not serve an absent path this time")
        return run

    def look(self, path: str | None = None) -> Status:
        """What is at the path, with that in the evidence."""
        where = path or self.path
        found = status(where, owners=True)
        self.note(f"{'the path' if path in (None, self.path) else path}: {_describe(found)}")
        return found

    def who_serves(self, runs: Sequence[Run], path: str | None = None) -> Run | None:
        """Whose socket the path leads to; None: nobody serves it.

        Raises Skipped if that cannot be told, or it is none of these."""
        where = path or self.path
        deadline = Deadline(_TABLES)
        while status(where).serving:
            # Of an image, the processes cannot be seen from here.
            bound = set() if self.host.is_image else sockets_at(where)
            owner = next((run for run in runs if bound & run.sockets()), None) or self._known(runs, where)
            if owner is not None:
                return owner
            if deadline.passed:
                why = "it is none that they are seen to have" if bound else "the kernel's tables do not show it"
                hidden = [pid for run in runs for pid in run.pids if not _shows_its_files(pid)]
                if bound and hidden:
                    why = f"what pid {listed(hidden)} has open may not be seen from here without CAP_SYS_PTRACE"
                raise Skipped(f"whose socket serves the path cannot be told: {why}")
            select.select([], [], [], _LOOK_AGAIN)
        return None

    def _known(self, runs: Sequence[Run], path: str) -> Run | None:
        """Whose the file at a path was: its number cannot be another's as long as a socket is bound to it."""
        file = file_of(Address.parse(path))
        living = [run for run in reversed(runs) if not run.gone]
        known = next((run for run in living if run.file is not None and run.file == file), None)
        if known is None and self.host.is_image:
            return next((run for run in living if run.file is None), None)
        return known

    def pin(self, path: str) -> Pinned:
        """The file at a path, by whose number it can be known until the end of the scene."""
        return self._exits.enter_context(Pinned(path))

    def sockets(self, directory: str) -> list[str]:
        """The names of the socket files in a directory."""
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if _is_socket(entry))

    @contextmanager
    def only_read(self, directory: str) -> Iterator[None]:
        """Within the block the server's user may not write into a directory."""
        before = os.stat(directory)
        if self.host.user is not None:
            os.chown(directory, 0, 0)
        os.chmod(directory, 0o755 if self.host.user is not None else 0o555)
        try:
            yield
        finally:
            os.chown(directory, before.st_uid, before.st_gid)
            os.chmod(directory, before.st_mode & 0o7777)


def sockets_at(path: str) -> set[int]:
    """The inode numbers of the sockets that are bound to what a path leads to."""
    return {entry.inode for entry in _bound_to(path)}


def _bound_to(path: str) -> list[diag.Entry]:
    try:
        fd = os.open(path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):  # it has gone meanwhile
        return []
    try:
        return diag.sockets_bound_to(fd)
    finally:
        os.close(fd)


def _parent_of(pid: int) -> int:
    """0 if it has gone."""
    fields = stat_of(pid)
    return int(fields[1]) if fields else 0


def _shows_its_files(pid: int) -> bool:
    """Whether it can be seen what a process has open; also if it has ended. Agents of secrets do not let it be seen."""
    try:
        procfs.links(pid)
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _sleeps(pid: int) -> float | None:
    """The processor time that a process has used, in ticks, if it sleeps; None if it runs, or has ended."""
    fields = stat_of(pid)
    if fields[:1] != [b"S"] or is_runnable(pid):
        return None
    return float(fields[11]) + float(fields[12])  # the man page's 3, 14, 15


def is_runnable(pid: int) -> bool:
    """Whether any thread of a process runs, or would if a processor were free."""
    with suppress(OSError):  # it ends
        return any(stat_of(f"{pid}/task/{thread}")[:1] == [b"R"] for thread in os.listdir(f"/proc/{pid}/task"))
    return False


def _is_socket(entry: os.DirEntry[str]) -> bool:
    found = status(entry.path)
    return found.state in (State.LISTENING, State.BOUND, State.STALE) and not found.link


def _describe(found: Status) -> str:
    words = found.describe()
    if found.info is None:
        return words
    return f"{words}, inode {found.inode}, mode {found.mode:04o}, uid {found.uid}"


def listed(numbers: Sequence[int]) -> str:
    """Pids, in words."""
    return ", ".join(map(str, numbers)) or "none"


def _environment(user: User | None) -> dict[str, str]:
    """This process's, but for what speaks of this process, and of places that instances would share: without them, they
    are in HOME."""
    places = ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "STATE_HOME")
    ours = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "TMPDIR", *(f"XDG_{place}" for place in places))
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return env if user is None else {**env, "USER": user.name, "LOGNAME": user.name}
