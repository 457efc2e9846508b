"""Starts a command and follows it through its forks: nothing that it leaves behind escapes.

It runs in a child that an agent (:mod:`udslab.agent`) has forked, and talks with it over their channel, in the words of
:mod:`udslab.wire`. What was asked for has started: ``{"result": {"main": pid}}``, the pid of the *main* process. Then
it tells, each once and in this order::

    {"event": "exited", "code": code, "left": [pid, …]}     the main process has exited; these live on
    {"event": "gone"}                                       so has all that it has left
    {"event": "ended", "code": code, "killed": [{"pid": pid, "command": [word, …]}, …]}     what it was told to end has
                                                            ended, and these had to be killed for it

``code`` is the exit status, or the negative of the signal. It takes these requests; those with an ``id`` are answered::

    {"id": id, "op": "signal", "signal": number, "left": bool, "group": bool}
                                                    to the main process, if ``group`` with all of its process group; or,
                                                    if ``left`` and that has exited, to the topmost of those that it has
                                                    left: to whom. After SIGSTOP the main process is stopped
    {"id": id, "op": "freeze"}                      SIGSTOP to all that lives below, which is stopped then: their pids
    {"id": id, "op": "thaw"}                        SIGCONT to all that lives below: their pids
    {"id": id, "op": "tree"}                        all that lives below: [{"pid": pid, "command": [word, …]}, …]
    {"id": id, "op": "open_files", "room": bool, "pids": [pid, …]}
                                                    take from these, of all that lives below, the room for another open
                                                    file; or give it back to all that have been without, or were forked
                                                    meanwhile. To whom: their pids
    {"op": "end", "grace": seconds, "signal": number}
                                                    that signal, or SIGTERM, to the main process, or if that has exited
                                                    to the topmost of those that it has left. Once they have exited, or
                                                    after the grace, SIGKILL to all that is left
    {"op": "kill"}                                  SIGKILL to all at once

After ``ended`` its process is as it was, and may supervise another command: to fork one costs milliseconds. At the end
of the channel, which is the agent's, it kills everything.

Whoever daemonises (forks twice, makes a session of its own) becomes a child of the supervisor, which is a subreaper
(prctl(2)). If the supervisor itself is killed, all that is below it goes to the next subreaper above, so that the agent
should be one, too.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from udslab import libc
from udslab.deadline import Deadline, now
from udslab.errors import UdsError
from udslab.limits import become, fill_open_files, limit_open_files
from udslab.listener import Listener, bind, listen
from udslab.signals import reset_signals, told_of
from udslab.socketfile import BoundSocket
from udslab.socktype import SocketType, open_pair
from udslab.spawn import change_environment, enter, not_started
from udslab.support import fcntl
from udslab.wire import Lines, Message, decode_address, decode_error, encode_error, line

__all__ = ["children_of", "is_deaf", "rehearse", "stat_of", "supervise"]

_CHUNK = 1 << 16
_STOPPING = 1.0
"""Seconds in which what gets SIGSTOP is stopped, unless it waits for a disk."""
_LAUNCHED = 1.0
"""Seconds in which the first process of a daemon has ended, once the daemon serves."""
_LISTEN_FD = 3
"""SD_LISTEN_FDS_START: where what was listened on beforehand is handed over (sd_listen_fds(3))."""


def supervise(channel: socket.socket, message: Message, lines: Lines) -> None:
    """Start ``message["command"]``, and follow it until it has ended as it was told to, or the channel has.

    ``lines``: what has been read from the channel, ``message`` with it: requests, or half of one, may have come in the
    same piece, and half of one may be left for whoever reads next.

    ``message`` may have ``env``, or ``changes`` to this process's (None: not set), and ``cwd``; ``user``, whose
    ``uid``, ``gid`` and ``groups`` the command gets; ``at``, the instant of the monotonic clock at which it is started,
    so that two can be at the same; and ``listen``, an address at which it is listened on beforehand, with ``options``
    as of :func:`udslab.listener.listen` or, for ``type`` dgram, :func:`udslab.listener.bind`: the command finds it as a
    service manager would hand it over (LISTEN_FDS). Its file is removed when all has ended.

    Raises :class:`~udslab.errors.UdsError` if it cannot be started.
    """
    with _adopting():
        listener = _listen(message)
        try:
            if message.get("at") is not None:
                time.sleep(max(0.0, message["at"] - now()))
            supervisor = _Supervisor(channel, _start(message, listener), lines)
            try:
                supervisor.run()
            finally:
                supervisor.kill()
        finally:
            if listener is not None:
                listener.close()
    supervisor.tell_end()


@contextmanager
def _adopting() -> Iterator[None]:
    """Within the block what loses its parent below comes to this process. All is as before afterwards."""
    libc.adopt_orphans()
    output = fcntl.fcntl(1, fcntl.F_GETFL)
    libc.outlive_parent()  # or what is below would outlive both; the end of the channel tells as well
    try:
        yield
    finally:
        libc.get_killed_with_parent()  # it may have ended already: then the channel has, too
        libc.adopt_orphans(False)
        fcntl.fcntl(1, fcntl.F_SETFL, output)  # O_NONBLOCK is the open file's, which the next command is given, too


def rehearse() -> None:
    """Start nothing, and follow it: what a forked child touches for the first time the kernel must copy, and it is
    better done while nobody waits."""
    ours, theirs = open_pair(SocketType.STREAM)
    with ours:
        with theirs, suppress(OSError):
            _start({"command": [os.sep]}, None)  # a directory
        nothing = _Supervisor(ours, 0, Lines())
        nothing.alone = True
        nothing.run()


def _listen(message: Message) -> Listener | BoundSocket | None:
    if message.get("listen") is None:
        return None
    options = message.get("options", {})
    make = bind if options.get("type") == SocketType.DGRAM else listen
    return make(decode_address(message["listen"]), **options)


# Starting it


def _start(message: Message, listener: Listener | BoundSocket | None) -> int:
    """The pid of the command: in a session of its own, with all signals at their defaults and let through."""
    command: list[str] = message["command"]
    env: Mapping[str, str] = _environment() if message.get("env") is None else message["env"]
    if message.get("changes"):
        env = {name: value for name, value in {**env, **message["changes"]}.items() if value is not None}
    cwd, user = message.get("cwd"), message.get("user")
    if listener is not None:
        return _fork(command, {**env, "LISTEN_FDS": "1"}, cwd, user, listener.fileno())
    return _spawn(command, env, cwd) if user is None else _fork(command, env, cwd, user)


@functools.cache
def _environment() -> dict[str, str]:
    """This process's own, which no command changes."""
    return dict(os.environ)


def _spawn(command: list[str], env: Mapping[str, str], cwd: str | None) -> int:
    try:
        home = -1 if cwd is None else os.open(os.curdir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # who leaves ours cannot come back
        return _fork(command, env, cwd)
    path, ours = env.get("PATH", os.defpath), _environment().get("PATH")
    if path != ours:
        change_environment({"PATH": path})  # posix_spawn looks in ours, not in the command's
    try:
        if cwd is not None:
            enter(cwd)  # posix_spawn starts it in ours
        return os.posix_spawnp(  # several times as fast as fork: no page table is copied
            command[0], command, env, setsid=True, setsigmask=[], setsigdef=_signals()
        )
    except NotImplementedError:  # a Python that was built for an old C library has no setsid there
        return _fork(command, env)
    except UdsError:
        raise
    except OSError as error:
        raise not_started(error, command[0], env) from error
    finally:
        if path != ours:
            change_environment({"PATH": ours})
        if home >= 0:
            os.fchdir(home)
            os.close(home)


@functools.cache
def _signals() -> set[signal.Signals]:
    """All that may be put back to their defaults."""
    return signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def _fork(
    command: list[str],
    env: Mapping[str, str],
    cwd: str | None = None,
    user: Message | None = None,
    listener: int | None = None,
) -> int:
    """What posix_spawn cannot do: LISTEN_PID is the command's own pid, and it is another user's. No shell is needed for
    it, whose words would be in the command's environment, and whose exit status would stand for the errno."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            reset_signals()
            if cwd is not None:
                enter(cwd)
            if listener is not None:
                env = {**env, "LISTEN_PID": str(os.getpid())}
                # The pipe may be there; it must not be where it is written over, and is closed by exec wherever it is.
                write = _above(write, _LISTEN_FD)
                os.dup2(_above(listener, _LISTEN_FD), _LISTEN_FD)
            if user is not None:
                become(user["uid"], user["gid"], user["groups"])
            try:
                os.execvpe(command[0], command, env)  # noqa: S606 - no shell is wanted
            except OSError as error:
                raise not_started(error, command[0], env) from error
        except BaseException as error:  # noqa: BLE001 - it is told to whoever asked
            os.write(write, line(encode_error(error)))
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as file:
        said = file.read()
    for message in Lines().feed(said):
        os.waitpid(pid, 0)
        raise decode_error(message)
    return pid


def _above(fd: int, limit: int) -> int:
    """The same file by a descriptor above ``limit``."""
    while fd <= limit:
        fd = os.dup(fd)
    return fd


# Following it


class _Supervisor:
    def __init__(self, channel: socket.socket, main: int, lines: Lines) -> None:
        self._channel = channel
        self._main = main
        self._lines = lines
        self._code: int | None = None
        """The main process's exit status, when it has exited."""
        self.alone = False
        """Whether nothing is below us any more."""
        self._leaving: set[int] | None = None
        """Those of our children that were told to end and have not yet; None: none were."""
        self._grace = Deadline(None)
        self._limits: dict[int, tuple[int, int] | None] = {}
        """RLIMIT_NOFILE, before it was lowered, of those that have no room for another file; None: it was not."""
        self._killed: dict[int, list[str]] = {}
        self._frozen = False
        self._unsaid = bytearray()
        """What is told all at once, when there is nothing else to be done."""

    def run(self) -> None:
        self._say({"result": {"main": self._main}})
        self._flush()
        with told_of(signal.SIGCHLD) as wakened:
            self._reap()  # what has ended before that
            self._heed(b"")  # what has come with the command
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            poll.register(wakened, select.POLLIN)
            while self._leaving is None or not self.alone:
                if self._leaving is not None and (not self._leaving or self._grace.passed):
                    self.kill()
                    break
                self._flush()
                left = self._grace.left()
                ready = dict(poll.poll(None if left is None else left * 1000))
                if wakened.fileno() in ready:
                    wakened.recv(_CHUNK)
                    self._reap()
                if self._channel.fileno() in ready:
                    self._hear()

    def tell_end(self) -> None:
        self._say({"event": "ended", "code": self._code, "killed": _told(self._killed.items())})
        self._flush()

    def _say(self, message: Message) -> None:
        self._unsaid += line(message)

    def _flush(self) -> None:
        if self._unsaid:
            with suppress(OSError):  # the agent has gone, which is read, too
                self._channel.sendall(self._unsaid)
            self._unsaid.clear()

    def _hear(self) -> None:
        try:
            data = self._channel.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            self._leaving = set()
        self._heed(data)

    def _heed(self, data: bytes) -> None:
        for message in self._lines.feed(data):
            try:
                answer = {"result": _OPERATIONS[message["op"]](self, message)}
            except Exception as error:  # noqa: BLE001 - it is told to whoever asked
                answer = {"error": encode_error(error)}
            if "id" in message:
                self._say({"id": message["id"], **answer})

    # Requests

    def _signal(self, message: Message) -> list[int]:
        if self._code is not None:
            left = children_of(os.getpid()) if message.get("left") else []
            for pid in left:
                _send(pid, message["signal"])
            return left
        if message.get("group"):  # nobody else is in it, for the main process has begun the session
            group = [pid for pid in _below() if stat_of(pid)[2:3] == [b"%d" % self._main]]
            os.killpg(self._main, message["signal"])
            return group
        os.kill(self._main, message["signal"])
        if message["signal"] == signal.SIGSTOP:  # a request that comes next finds it stopped
            os.waitid(os.P_PID, self._main, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return [self._main]

    def _freeze(self, message: Message) -> list[int]:
        self._frozen = True
        deadline = Deadline(_STOPPING)
        while True:
            pids = _stop_all()
            while not all(map(_is_stopped, pids)) and not deadline.passed:
                time.sleep(0.001)
            if deadline.passed or set(_below()) <= set(pids):  # who was just forking has done so
                return pids

    def _thaw(self, message: Message) -> list[int]:
        self._frozen = False
        pids = list(_below())
        for pid in reversed(pids):  # children first: no parent sees one that is stopped
            _send(pid, signal.SIGCONT)
        return pids

    def _open_files(self, message: Message) -> list[int]:
        if not message["room"]:
            for pid in _below():
                limit = fill_open_files(pid) if pid in message["pids"] else None
                if self._limits.get(pid) is None:
                    self._limits[pid] = limit
            return [pid for pid, limit in self._limits.items() if limit is not None]
        widest = max((limit for limit in self._limits.values() if limit is not None), default=None)
        given = []
        # The children of each come after it: whoever is forked now has room, or is found.
        for pid in _below():
            limit = self._limits.get(pid, widest)
            if limit is not None and limit_open_files(pid, *limit):
                given.append(pid)
        self._limits.clear()
        return given

    def _tree(self, message: Message) -> list[Message]:
        return _told(_living())

    def _end(self, message: Message) -> None:
        """Once is enough: another one changes the grace alone."""
        self._let_launcher_go()
        self._grace = Deadline(message["grace"])
        if self._leaving is None:
            self._leaving = {self._main} if self._code is None else set(children_of(os.getpid()))
            for pid in self._leaving:
                _send(pid, message.get("signal", signal.SIGTERM))
                _send(pid, signal.SIGCONT)  # a stopped one could not end
            if self._frozen:  # nor one that waits for its children
                self._thaw(message)

    def _let_launcher_go(self) -> None:
        """A daemon serves before its first process has ended, which the signal would reach in its place. Whoever is
        about to end runs; a master of workers sleeps."""
        deadline = Deadline(_LAUNCHED)
        while self._code is None and not deadline.passed:
            if not children_of(self._main) or stat_of(self._main)[:1] in ([b"S"], [b"T"]):
                break
            time.sleep(0.001)  # nothing tells that it sleeps
            self._reap()
        self._reap()  # who has no children any more may have left them just now

    def _end_at_once(self, message: Message) -> None:
        self._leaving = set()

    # What is below

    def _reap(self) -> None:
        """Fetch all of our children that have ended, adopted ones too, and tell of it."""
        if self.alone:
            return
        running = self._code is None
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if self._leaving is not None:
                    self._leaving.discard(pid)
                if self._code is None and pid == self._main:
                    self._code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            self.alone = True
        if running and self._code is not None:
            left = [] if self.alone else [pid for pid, _ in _living()]
            self._say({"event": "exited", "code": self._code, "left": left})
        if self.alone:
            self._say({"event": "gone"})

    def kill(self) -> None:
        """SIGKILL to all below us, until nothing is: a look can miss what is forked, or adopted, meanwhile."""
        self._reap()
        while not self.alone:
            self._flush()
            # Children before their parents: those that a parent leaves stopped in a group the kernel would continue.
            for pid in reversed(_stop_all()):
                command = _command(pid)
                if command is not None:
                    self._killed[pid] = command
                _send(pid, signal.SIGKILL)
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            self._reap()


def _told(processes: Iterable[tuple[int, list[str]]]) -> list[Message]:
    return [{"pid": pid, "command": command} for pid, command in processes]


_OPERATIONS: dict[str, Callable[[_Supervisor, Message], object]] = {
    "signal": _Supervisor._signal,
    "freeze": _Supervisor._freeze,
    "thaw": _Supervisor._thaw,
    "open_files": _Supervisor._open_files,
    "tree": _Supervisor._tree,
    "end": _Supervisor._end,
    "kill": _Supervisor._end_at_once,
}


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has become another user
        os.kill(pid, number)


def _stop_all() -> list[int]:
    """SIGSTOP to all below us until there is nothing new; parents before children.

    What is stopped does not see the others die, does not fork, and fetches no children, so that their numbers stay
    their own."""
    stopped: dict[int, None] = {}
    before = -1
    while before < len(stopped):
        before = len(stopped)
        for pid in _below():
            if pid not in stopped:
                stopped[pid] = None
                _send(pid, signal.SIGSTOP)
    return list(stopped)


def _is_stopped(pid: int) -> bool:
    """Whether none of its threads runs any more."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has gone
        return True
    return all(stat_of(f"{pid}/task/{thread}")[:1] in _AT_REST for thread in threads)


_AT_REST: tuple[list[bytes], ...] = ([], [b"T"], [b"t"], [b"Z"], [b"X"])


def _living() -> list[tuple[int, list[str]]]:
    """All below us that has not ended: pid and command line."""
    found = ((pid, _command(pid)) for pid in _below())
    return [(pid, command) for pid, command in found if command is not None]


def _below() -> Iterator[int]:
    """All below us; the children of each are looked for when it has been dealt with."""
    rest = children_of(os.getpid())
    while rest:
        pid = rest.pop()
        yield pid
        rest += children_of(pid)


def children_of(pid: int) -> list[int]:
    """The children of a process, of all its threads; none if it has ended."""
    if not _HAS_CHILDREN:
        return [
            int(entry) for entry in os.listdir("/proc") if entry.isdigit() and stat_of(int(entry))[1:2] == [b"%d" % pid]
        ]
    found: list[int] = []
    with suppress(OSError):  # it, or a thread of it, has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""A kernel may be built without (CONFIG_PROC_CHILDREN)."""


def _command(pid: int) -> list[str] | None:
    """Its command line, or its name if that is empty; None if it has ended."""
    state = stat_of(pid)[:1]
    words = _read(f"/proc/{pid}/cmdline").rstrip(b"\0") or _read(f"/proc/{pid}/comm").strip()
    return None if state in ([], [b"Z"], [b"X"]) else os.fsdecode(words).split("\0")


def stat_of(pid: int | str) -> list[bytes]:
    """From its state on, the fields of proc_pid_stat(5): state, parent, …; none if it has gone."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def is_deaf(pid: int, number: int) -> bool:
    """Whether a process is the first of a pid namespace below ours and leaves a signal at its default, which then does
    nothing to it, unless it is SIGKILL or SIGSTOP."""
    try:
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.partition(":")[::2] for line in file)
    except OSError:  # it has gone, or is another machine's
        return False
    set_by_itself = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)
    return status["NSpid"].split()[1:][-1:] == ["1"] and not set_by_itself >> (number - 1) & 1


def _read(path: str) -> bytes:
    """What is there; nothing if it has gone."""
    with suppress(OSError), open(path, "rb", 0) as file:
        return file.read()
    return b""
