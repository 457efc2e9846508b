"""The lab on this host: paths, servers, clients and obstacles as context managers, in any of the three backends.

    with Lab(Options(backend=Backend.PROCESS)) as lab, lab.server("echo") as server, lab.connect(server.path) as client:
        ...

What the pytest plugin's fixtures are made of; needs no pytest.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from udslab.address import MAX_PATH, Address, AddressLike
from udslab.backends import AgentRun, Run, ThreadRun, refuse
from udslab.connection import Connection, connect
from udslab.deadline import now
from udslab.errors import AddressError, AgentGone, Stage, Unsupported, failure
from udslab.handlers import Handler
from udslab.needs import Backend, Need, Options, why_not
from udslab.ready import LISTENING, Activated, Condition, Readiness
from udslab.recording import Recorded
from udslab.scratch import remove_tree, scratch_directory, short_parent, unlocked
from udslab.services import Service
from udslab.socktype import SocketType
from udslab.state import Status, status

# What not every test needs is imported when it is asked for.
if TYPE_CHECKING:
    from udslab.containers import Container, Program, Session, Shared
    from udslab.obstacles import Obstacle
    from udslab.processes import Command, RunningProcess
    from udslab.remote import SupervisedProcess
    from udslab.zygote import Zygote

__all__ = ["Lab", "Options", "PlacedObstacle", "RunningServer"]

_LEASE = 120.0
"""Seconds after which a container ends that nothing uses: the next that is asked for is then made anew."""
_TIMEOUT = 30.0
_LONGEST = min(MAX_PATH, 103)
"""The longest path that is given out, in bytes: what fits on macOS, too, so that a test is the same everywhere."""

_NO_PATH = "no path can be made of this name"


@dataclass(frozen=True)
class PlacedObstacle:
    """What is in the way, and where."""

    kind: Obstacle
    path: str


@dataclass(frozen=True)
class _Kept:
    """A container that is kept, and the directory in which one meets it."""

    container: Container
    shared: Shared


class Lab:
    """The lab, with what it has started: a zygote, and a container for each image, each when it is first asked for.

    A context manager; nothing of it is left after its end, but an inotify descriptor for the next one's use, or after
    that of its process. It has no thread between two uses. For one thread at a time.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._exits = ExitStack()
        self._numbers = itertools.count(1)
        self._spare: dict[str, list[str]] = {}
        """Private directories, empty and as they were made, by the directory that they are in."""
        self._zygote: Zygote | None = None
        self._session: Session | None = None
        self._kept: dict[str, _Kept] = {}
        self._pid = os.getpid()
        self.left: list[str] = []
        """What servers of :meth:`process` have left behind at their end, and what is left in directories of
        :meth:`path` at theirs, in words."""
        self._may_stay: set[str] = set()
        """Socket files that are told of elsewhere, or expected."""
        self.failures: list[BaseException] = []
        """What handlers of servers of :meth:`server` had raised at their end."""
        self.opening: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered while something is opened that stays to the lab's end: by this, who counts sockets knows of it."""

    def __enter__(self) -> Lab:
        self._scratch = self._exits.enter_context(scratch_directory(short_parent()))
        return self

    def __exit__(self, *exc: object) -> None:
        if os.getpid() == self._pid:  # in a forked child all is the parent's
            self._exits.close()

    def is_prepared(self, backend: Backend | str, distro: str | None = None) -> bool:
        """Whether what servers of this backend need has been started, and lives."""
        if backend == Backend.PROCESS:
            return self._zygote is not None and self._zygote.alive
        if backend == Backend.CONTAINER:
            kept = self._kept.get(self._image(distro))
            return kept is not None and kept.container.alive
        return True

    def prepare(self, backend: Backend | str, distro: str | None = None) -> None:
        """Start what servers of this backend need and is kept: a zygote, or a container.

        Raises :class:`~udslab.errors.EngineError`, :class:`~udslab.errors.Unsupported`.
        """
        if backend == Backend.PROCESS:
            self._have_zygote()
        elif backend == Backend.CONTAINER:
            self._keep(distro)

    # Paths

    @contextmanager
    def path(
        self,
        name: str | None = None,
        *,
        mode: int = 0o700,
        group: int | str | None = None,
        backend: Backend | str | None = None,
        distro: str | None = None,
        whose: str | None = "made by Lab.path()",
    ) -> Iterator[str]:
        """A path where nothing is and never was, in a private directory with this ``mode`` and ``group``; whatever is
        in that at the end is removed. It fits in ``sun_path`` on every system, and a server in ``backend`` can bind it.

        ``name``: of the file, if that matters; ``mode``, ``group``: of the directory. ``whose``: what ``left`` calls
        that at the end, if there are socket files in it; None: they are not noted. Raises
        :class:`~udslab.errors.AddressError` if the name is too long for that, or none.
        """
        backend = Backend(backend or self.options.backend)
        top = self._meeting_place(distro) if backend is Backend.CONTAINER else self._scratch
        number = next(self._numbers)
        plain = name is None and mode == 0o700 and group is None
        spare = self._spare.setdefault(top, [])
        directory = os.path.join(top, str(number))
        # A new name in an old one: to make and remove a directory costs as much as all the rest.
        while plain and spare:
            if _emptied(kept := spare.pop()):  # whoever was left behind may have written there since
                directory = kept
                break
        name = f"s{number}" if name is None else name
        path = os.path.join(directory, name)
        if os.path.basename(name) != name or name in ("", os.curdir, os.pardir) or "\0" in name:
            hint = "give the name of a file, without a slash or a NUL"
            raise AddressError(Stage.ADDRESS, errno.EINVAL, repr(name), hint, _NO_PATH)
        if len(os.fsencode(path)) > _LONGEST:
            room = _LONGEST - len(os.fsencode(directory)) - 1
            hint = f"give a file name of at most {room} bytes"
            raise AddressError(Stage.ADDRESS, errno.ENAMETOOLONG, path, hint, _NO_PATH)
        made = _facts(directory)
        if made is None:
            self._make_directory(directory, mode, group, backend)
            made = _facts(directory)
        try:
            yield path
        finally:
            if os.getpid() == self._pid:
                empty = _is_empty(directory)
                if not empty and whose is not None:
                    self.left += self._sockets_in(directory, whose)
                if plain and _facts(directory) == made and (empty or _emptied(directory)):
                    spare.append(directory)
                else:
                    remove_tree(directory)

    def _sockets_in(self, directory: str, whose: str) -> Iterator[str]:
        """The socket files in it that nobody has told of, at any depth, a line each."""
        failed: list[OSError] = []
        for where, _, names in unlocked(directory, failed.append):
            for path in (os.path.join(where, name) for name in names):
                try:
                    if stat.S_ISSOCK(os.lstat(path).st_mode) and path not in self._may_stay:
                        yield f"socket file {path} ({status(path, owners=True).describe()}), in the directory {whose}"
                except OSError as error:
                    failed.append(error)
        for why in failed:
            if not isinstance(why, FileNotFoundError):  # whoever has bound it may be at its end
                yield f"directory {directory} that cannot be looked at: {why.strerror}, {whose}"

    def _make_directory(self, directory: str, mode: int, group: int | str | None, backend: Backend) -> None:
        try:
            os.mkdir(directory, 0o700)
        except FileNotFoundError as error:
            hint = "is it removed by a test? with pyfakefs, make all paths before fs"
            raise failure(Stage.ADDRESS, error, os.path.dirname(directory), hint) from error
        owner = self._owner(backend)
        if owner is not None:
            os.chown(directory, *owner)
        if group is not None:
            shutil.chown(directory, group=group)
        if mode & 0o077:
            above = os.path.dirname(directory)
            for outer in (above, os.path.dirname(above)):
                os.chmod(outer, os.stat(outer).st_mode & 0o777 | 0o011)  # noqa: S103 - to be passed through
        os.chmod(directory, mode)

    def _owner(self, backend: Backend) -> tuple[int, int] | None:
        """Whom the files of servers in this backend belong to, if not to this process's user."""
        if backend is not Backend.CONTAINER or os.geteuid() != 0:
            return None
        session = self.session()
        return session.uid, session.gid

    # Servers

    def server(
        self,
        service: str | Service | None = None,
        address: AddressLike | None = None,
        *,
        handler: Handler | None = None,
        type: SocketType | str = SocketType.STREAM,
        abstract: bool = False,
        backend: Backend | str | None = None,
        distro: str | None = None,
        drain: float = 0.0,
        expect_failures: bool = False,
        **options: Any,
    ) -> AbstractContextManager[RunningServer]:
        """A server of ``service`` (its name, ``"module:name"``, or, in a thread, itself) or of ``handler``; it serves
        when this is entered.

        ``address``: where, instead of a fresh path, or, if it shall be ``abstract``, a fresh name; a relative path is
        one in the directory of now. ``drain``: how many seconds its clients get at its end. ``expect_failures``: what
        its handler raises, which is in its ``failures``, is not noted in the lab's. ``options``: those of
        :func:`udslab.listener.listen`. Raises as ``listen``; :class:`~udslab.errors.Unsupported` for what the backend
        cannot do, :class:`~udslab.errors.EngineError` where there is no container.
        """
        __tracebackhide__ = True  # for pytest: what is refused here is shown where it was asked for
        backend = Backend(backend or self.options.backend)
        if handler is not None or (service is not None and not isinstance(service, str)):
            if handler is not None and service is not None:
                raise TypeError("a server has a service or a handler, not both")
            if why_not(backend, Need.HANDLER):
                raise refuse(backend, Need.HANDLER)
        options |= {"type": SocketType(type), "drain": drain}
        if handler is not None and options["type"] is SocketType.DGRAM:
            raise TypeError("a handler has a connection, and datagrams have none; give a service")
        if address is None and abstract:
            address = Address.abstract(b"udslab-" + uuid.uuid4().hex.encode())
        where = None if address is None else _fixed(Address.parse(address))
        if where is not None and not where.is_pathname and why_not(backend, Need.ABSTRACT):
            raise refuse(backend, Need.ABSTRACT)
        return self._server(backend, where, service, handler, distro, expect_failures, options)

    @contextmanager
    def _server(
        self,
        backend: Backend,
        where: Address | None,
        service: str | Service | None,
        handler: Handler | None,
        distro: str | None,
        expect_failures: bool,
        options: dict[str, Any],
    ) -> Iterator[RunningServer]:
        with ExitStack() as exits:
            if where is None:
                path = exits.enter_context(self.path(backend=backend, distro=distro, whose=None))
                where = Address.parse(path)
            start = self._starter(backend, where, service or "upper", handler, distro, exits)
            server = RunningServer(backend, where, options["type"], lambda: start(options))
            if not expect_failures:
                exits.callback(lambda: self.failures.extend(server.failures))
            exits.callback(self._end_server, server)
            yield server

    def _end_server(self, server: RunningServer) -> None:
        server._close()
        if server.killed:
            self._may_stay.add(server.path)

    def _starter(
        self,
        backend: Backend,
        address: Address,
        service: str | Service,
        handler: Handler | None,
        distro: str | None,
        exits: ExitStack,
    ) -> Callable[[dict[str, Any]], Run]:
        """What starts one run of a server with its options."""
        if backend is Backend.THREAD:
            since = now()  # also of one that is restarted
            return lambda options: ThreadRun(address, service, handler, since, **options)
        assert isinstance(service, str)
        if backend is Backend.PROCESS:

            def start(options: dict[str, Any]) -> Run:
                zygote = self._have_zygote()
                return AgentRun(zygote, address, service, zygote.surroundings(), umask=_umask(), **options)

            return start
        kept = self._keep(distro)
        top = os.fsencode(kept.shared.path)
        if os.path.commonpath([top, os.path.abspath(address.name)]) != top:
            hint = "take a path from the lab (uds_path, make_uds_path)"
            what = "the container does not see this path"
            raise AddressError(Stage.ADDRESS, errno.EXDEV, str(address), hint, what)
        exits.enter_context(kept.container.beating())
        return lambda options: AgentRun(kept.container, address, service, {}, **options)

    def _have_zygote(self) -> Zygote:
        from udslab.zygote import Zygote

        if not self.is_prepared(Backend.PROCESS):
            with self.opening():
                self._zygote = self._exits.enter_context(Zygote())
        assert self._zygote is not None
        return self._zygote

    @contextmanager
    def process(
        self,
        command: Command,
        path: str | os.PathLike[str] | None = None,
        *,
        image: str | None = None,
        ready: Condition | Sequence[Condition] = LISTENING,
        timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        umask: int | None = None,
        stop_signal: int = signal.SIGTERM,
        expect_left: bool = False,
    ) -> Iterator[RunningProcess]:
        """Somebody's server: ``command``, with ``path`` (or a fresh one) for ``{socket}`` in its words. It is started
        by the zygote, followed through its forks, and serves when this is entered: what ``ready`` says holds. SIGTERM
        at the end, and SIGKILL for what has not ended five seconds later.

        ``image``: it is the command of a container of this image, which sees the path's directory, and that alone, at
        the same place; it runs as this user, or, if that is root, as another one; ``cwd`` and ``umask`` are the
        image's, and not to be given. ``timeout``: how many seconds it gets to serve. ``env``: what its environment has
        besides this process's. ``cwd``, ``umask``: this process's, unless given; a relative ``path`` is one in ``cwd``.
        ``expect_left``: what it leaves at its end, a socket file or a process that had to be killed, is not noted in
        ``left``.

        Raises :class:`~udslab.errors.UdsError` with its exit status and last lines, at once, if it ends before it
        serves; :class:`~udslab.errors.TimedOut`; :class:`~udslab.errors.NoSuchPath` for a command that is not there;
        :class:`~udslab.errors.ServiceError` for one that cannot be started.
        """
        from udslab.processes import RunningProcess, check, words

        if image is not None and (cwd is not None or umask is not None):
            what = "a container has the directory and umask of its image"
            raise Unsupported(what, "leave out cwd= and umask=", Stage.ENGINE)
        with ExitStack() as exits:
            if path is None:
                path = exits.enter_context(
                    self.path(backend=Backend.PROCESS, whose=None) if image is None else self._path_for_programs()
                )
            cwd = _absolute(os.fspath(cwd or "")) if image is None else ""
            where, given = Address.parse(path), os.fspath(path)
            path = _absolute(os.path.join(cwd, os.fsdecode(where.name))) if where.is_pathname else given
            # In a directory too deep for sun_path the short one may do, where the whole one does not.
            line = words(command, given if image is None else path)
            check(line, env or {}, timeout, stop_signal)
            hint = ""
            if Activated() not in (list(ready) if isinstance(ready, Sequence) else [ready]) and not any(
                name in text for text in (*line, *(env or {}).values()) for name in (path, given)
            ):
                hint = "no word of the command names the path: write {socket} where it belongs"
            if image is not None:
                begin = self._program_starter(image, line, path, env or {})
                hint = self._let_programs_write(os.path.dirname(path)) or hint
                process = RunningProcess(line, path, ready, timeout, stop_signal, begin, hint)
                exits.callback(self._end, process, expect_left)
                yield process
                return
            zygote = self._have_zygote()
            umask = _umask() if umask is None else umask

            def start(readiness: Readiness) -> SupervisedProcess:
                whole = {**os.environ, **(env or {}), **readiness.env}
                changes = zygote.changes(whole)  # all of it would be read and written four times on its way
                return zygote.supervise(line, changes=changes, cwd=cwd, umask=umask, **readiness.options)

            process = RunningProcess(line, path, ready, timeout, stop_signal, start, hint)
            exits.callback(self._end, process, expect_left)
            yield process

    def _end(self, process: RunningProcess, expect_left: bool) -> None:
        process.close()
        if expect_left or process.killed or process.left:
            self._may_stay.add(process.path)
        if not expect_left:
            self.left += [f"{what}, left by {process!r}" for what in process.left]

    # Containers

    def _image(self, distro: str | None) -> str:
        return self.options.image or f"udslab-base:{distro or self.options.distro}"

    def _meeting_place(self, distro: str | None) -> str:
        return self._keep(distro).shared.path

    @contextmanager
    def _path_for_programs(self) -> Iterator[str]:
        """A path in a directory of its own that containers of any image can see."""
        directory = self.session().directory().path
        try:
            yield os.path.join(directory, "s")
        finally:
            if os.getpid() == self._pid:
                remove_tree(directory)

    def _program_starter(
        self, image: str, line: list[str], path: str, env: Mapping[str, str]
    ) -> Callable[[Readiness], Program]:
        from udslab.containers import Shared

        session = self.session()
        directory = os.path.dirname(path)
        shared = Shared("bind", directory, directory, directory)

        def start(readiness: Readiness) -> Program:
            if readiness.options:
                raise Unsupported("a container is handed over no socket", "leave out Activated()", Stage.ENGINE)
            return session.program(image, line, shared, environment={**env, **readiness.env})

        return start

    def _let_programs_write(self, directory: str) -> str:
        """If that is ours, see to it that containers of programs can bind there; a hint if they cannot."""
        if os.geteuid() != 0:  # they run as this user
            return ""
        session = self.session()
        if os.path.dirname(directory) == self._scratch:
            os.chown(directory, session.uid, -1)
        facts = _facts(directory)
        if facts is None:
            return ""  # which the engine tells
        _, mode, uid, gid = facts
        shift = 6 if uid == session.uid else 3 if gid == session.gid else 0
        if mode >> shift & 0o3 == 0o3:
            return ""
        return f"in the container uid {session.uid} may not bind in {directory}: chown it, or leave out the path"

    def session(self) -> Session:
        """The lab's session on the container engine, begun when it is first asked for.

        Raises :class:`~udslab.errors.EngineError`, :class:`~udslab.errors.Unsupported`.
        """
        from udslab.containers import Session  # the docker SDK, for those who have asked for containers

        if self._session is None:
            with self.opening():
                self._session = self._exits.enter_context(Session(self.options.engine))
        return self._session

    def _keep(self, distro: str | None) -> _Kept:
        from udslab.containers import try_reach

        image = self._image(distro)
        kept = self._kept.get(image)
        if kept is not None and kept.container.alive:
            return kept
        session = self.session()
        shared = kept.shared if kept is not None else session.directory()
        with self.opening():
            container = session.container(image, shared, lease=_LEASE)
        reach = try_reach(container, shared, session.uid)
        why = reach.directory or reach.inward
        if why is not None:
            container.close()
            what = f"no client here reaches a server in a container: {why}"
            raise Unsupported(what, "use the backend process", Stage.ENGINE)
        kept = self._kept[image] = _Kept(container, shared)
        return kept

    # Clients and obstacles

    @contextmanager
    def connect(
        self,
        address: AddressLike | RunningServer | RunningProcess | PlacedObstacle,
        *,
        type: SocketType | str | None = None,
        timeout: float | None = _TIMEOUT,
        bind: AddressLike | None = None,
    ) -> Iterator[Connection]:
        """A client of this process, connected to ``address``, or to where that is; closed at the end.

        ``type``: stream, unless it is a server that has another. ``timeout``: of the connecting and of each call on it,
        in seconds; None: for ever. A datagram client binds a file of its own, so that it can be answered. Raises as
        :func:`udslab.connection.connect`.
        """
        if isinstance(address, RunningServer):
            type, address = type or address.type, address.address
        type = SocketType(type or SocketType.STREAM)
        where: Any = address
        own = Address.parse(getattr(where, "path", where))
        with ExitStack() as exits:
            if bind is None and type is SocketType.DGRAM:
                # Beside the server: one in a container sees no other directory of ours.
                bind = own.name + b".%d" % next(self._numbers) if own.is_pathname else "auto"
            connection = exits.enter_context(connect(own, type=type, timeout=timeout, bind=bind))
            if isinstance(bind, bytes):
                os.chmod(bind, 0o777)  # noqa: S103 - for a server of another user; it is the directory that protects it
            connection.settimeout(timeout)
            yield connection

    @contextmanager
    def obstacle(
        self,
        kind: Obstacle | str,
        path: AddressLike | None = None,
        *,
        backend: Backend | str | None = None,
        distro: str | None = None,
    ) -> Iterator[PlacedObstacle]:
        """Something in the way of a server in ``backend``, at ``path`` or at a fresh one: see
        :func:`udslab.obstacles.obstacle`. It belongs to the user whom such a server runs as: a stale one can be
        replaced, a live one asked."""
        from udslab.obstacles import Obstacle, obstacle

        backend = Backend(backend or self.options.backend)
        with ExitStack() as exits:
            if path is None:
                path = exits.enter_context(self.path(backend=backend, distro=distro, whose=None))
            where = exits.enter_context(obstacle(kind, path, self._owner(backend)))
            yield PlacedObstacle(Obstacle(kind), where)


def _facts(directory: str) -> tuple[int, ...] | None:
    """Whether it is the same, of the same owner and mode; None if it has gone."""
    try:
        info = os.lstat(directory)
    except OSError:
        return None
    return info.st_ino, info.st_mode, info.st_uid, info.st_gid


def _is_empty(directory: str) -> bool:
    try:
        return not os.listdir(directory)
    except OSError:
        return False


def _emptied(directory: str) -> bool:
    """Remove the files in a directory; whether it is empty then. What holds directories is left."""
    try:
        names = os.listdir(directory)
        for name in names:
            os.unlink(os.path.join(directory, name))  # not a directory
        return not names or not os.listdir(directory)  # somebody may still be writing there
    except OSError:
        return False


def _absolute(path: str) -> str:
    """The same also when this process has gone to another directory."""
    if os.path.isabs(path):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except FileNotFoundError as error:
        gone = os.readlink("/proc/self/cwd")
        hint = "this process's directory is not there any more; give cwd="
        raise failure(Stage.SERVICE, error, gone, hint) from error


def _fixed(address: Address) -> Address:
    """The same address wherever this process goes, unless it is a path of which only the relative spelling fits."""
    if not address.is_pathname:
        return address
    whole = Address.pathname(os.fsencode(_absolute(os.fsdecode(address.name))))
    return whole if whole.fits else address


def _umask() -> int:
    """This process's, read without setting it (proc_pid_status(5), Linux 4.7)."""
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = re.search(rb"^Umask:\s*([0-7]+)$", os.read(fd, 256), re.MULTILINE)  # behind the name
    finally:
        os.close(fd)
    return int(found[1], 8) if found else 0o022


class RunningServer:
    """A server that the lab has started. :meth:`Lab.server` makes and ends it."""

    def __init__(self, backend: Backend, address: Address, type: SocketType, start: Callable[[], Run]) -> None:
        self.backend = backend
        self.address = address
        self.type = type
        self._start = start
        self._before: list[Recorded] = []
        self._failures: list[BaseException] = []
        self._log = ""
        self._run = start()
        self._runs = True
        self.killed = False
        """Whether :meth:`kill` was called since its last start, and so its socket file may be stale."""

    @property
    def path(self) -> str:
        """The address as it is given to programs; an abstract one as ``@name``."""
        return os.fsdecode(self.address.name) if self.address.is_pathname else str(self.address)

    @property
    def pid(self) -> int:
        """Of the process that serves: this one's in a thread; in a container its number there."""
        return self._run.pid

    @property
    def connections(self) -> list[Recorded]:
        """Whom it has served, in the order in which they came, and what each has sent: also what it has not been
        answered yet, and also of runs before a restart. For datagrams each is one."""
        now = self._run.record() if self._runs else []
        return self._before + now

    @property
    def received(self) -> bytes:
        """All that it has received, connection after connection; at most 1 MiB a run."""
        return b"".join(connection.received for connection in self.connections)

    @property
    def failures(self) -> list[BaseException]:
        """What its handler has raised since it was started, also in runs before a restart."""
        return self._failures + self._run.failures

    def log(self) -> str:
        """What it has written, and what its handler has raised."""
        return self._log + (self._run.log() if self._runs else "")

    def status(self) -> Status:
        """What is at its address, seen from here."""
        return status(self.address)

    def stop(self) -> None:
        """End it as SIGTERM does: its socket file goes, too. One that has ended: does nothing."""
        self._run.stop()

    def kill(self) -> None:
        """SIGKILL: what it had bound is stale. Raises :class:`~udslab.errors.Unsupported` for a thread."""
        __tracebackhide__ = True
        self._run.kill()
        self.killed = True

    def pause(self) -> None:
        """SIGSTOP: it listens, and answers nobody. Raises :class:`~udslab.errors.Unsupported` for a thread."""
        __tracebackhide__ = True
        self._run.pause()

    def resume(self) -> None:
        """SIGCONT."""
        __tracebackhide__ = True
        self._run.resume()

    def restart(self) -> None:
        """End it, if it has not ended, and start it anew at the same address with the same options."""
        with suppress(AgentGone):  # it has gone with its zygote, and its record, too
            self._run.stop()
            self._before, self._log = self.connections, self.log()
        failures = self.failures
        self._close()
        self._run = self._start()
        self._failures = failures
        self._runs, self.killed = True, False

    def _close(self) -> None:
        if self._runs:
            self._runs = False
            self._run.close()

    def __repr__(self) -> str:
        return f"<{self.type} server on {self.address} in a {self.backend}, pid {self.pid}>"
