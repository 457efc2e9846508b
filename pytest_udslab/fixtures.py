"""The fixtures. Each is a few lines around a context manager of :class:`udslab.lab.Lab`.

A noun is one instance, ready; ``make_…`` is its factory. What is made is undone after the test in reverse order.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_udslab.leaks import LeakCheck, left_behind, mode_of
from pytest_udslab.made import Made, made_for, where_called
from pytest_udslab.options import Settings, backend_of, check_needs, lacking, service_of
from udslab.errors import EngineError, UdsError, Unsupported
from udslab.needs import Backend

if TYPE_CHECKING:
    from udslab.address import AddressLike
    from udslab.connection import Connection
    from udslab.lab import Lab, PlacedObstacle, RunningServer
    from udslab.obstacles import Obstacle
    from udslab.processes import Command, RunningProcess

SETTINGS = pytest.StashKey[Settings]()
FACTORY = pytest.StashKey[pytest.TempPathFactory]()


@pytest.fixture(scope="session")
def uds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with this run's options: ``uds.path()``, ``uds.server()``, ``uds.process()``, … are context managers, for
    fixtures of your own of any scope."""
    from udslab.lab import Lab  # not before a test asks for it: importing a plugin costs every run

    request.config.stash[FACTORY] = tmp_path_factory
    with Lab(request.config.stash[SETTINGS].lab) as lab:
        yield lab


@pytest.fixture
def uds_backend(request: pytest.FixtureRequest) -> str:
    """Where the servers of a test run: ``thread``, ``process`` or ``container``. Parametrise or override it."""
    return str(backend_of(request.node, request.config.stash[SETTINGS]))


@pytest.fixture
def uds_type() -> str:
    """The socket type of a test: ``stream``, ``datagram`` or ``seqpacket``. Parametrise or override it."""
    return "stream"


@pytest.fixture
def uds_distro(request: pytest.FixtureRequest) -> str:
    """The distribution whose base image the containers of a test are of. Parametrise or override it."""
    return str(request.config.stash[SETTINGS].lab.distro)


class _FailingThere:
    """An error of the lab's is shown where it was asked for something: it says all that there is to be said."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        __tracebackhide__ = True
        if isinstance(error, UdsError):
            raise error.with_traceback(None) from None


class _Maker:
    """What the factories of one test have in common: they undo what they have made, and tell what stays behind."""

    def __init__(self, request: pytest.FixtureRequest, lab: Lab, backend: str, distro: str) -> None:
        self.lab = lab
        self.node: pytest.Item = request.node
        self.settings = request.config.stash[SETTINGS]
        self.backend = Backend(backend)
        self.distro = distro
        check_needs(self.node, self.backend, self.settings)
        try:
            with granted(request.config):
                lab.prepare(self.backend, distro)
        except (EngineError, Unsupported) as error:
            lacking(self.settings, self.backend, str(error))

    def made(self, fixture: str, thing: Any = None, directory: str | None = None) -> None:
        made_for(self.node).append(Made(fixture, where_called(), thing, directory))


def granted(config: pytest.Config) -> AbstractContextManager[None]:
    """What the lab opens within the block for the rest of the run is no leak of a test's."""
    leaks = config.pluginmanager.get_plugin("udslab-leaks")
    assert isinstance(leaks, LeakCheck)
    return leaks.granted()


def _tell_left(node: pytest.Item, line: str) -> None:
    if mode_of(node) != "off":
        node.stash.setdefault(left_behind, []).append(line)


@pytest.fixture
def _uds_last(uds: Lab) -> Iterator[ExitStack]:
    """What is undone when all servers, processes and clients of the test have ended, in whatever order it names its
    fixtures: the directories of its paths."""
    with ExitStack() as exits:
        yield exits


@pytest.fixture
def _uds_maker(
    request: pytest.FixtureRequest, uds: Lab, uds_backend: str, uds_distro: str, _uds_last: ExitStack
) -> _Maker:
    return _Maker(request, uds, uds_backend, uds_distro)


@pytest.fixture
def make_uds_path(_uds_maker: _Maker, _uds_last: ExitStack) -> Callable[..., str]:
    """``make_uds_path(name=None, mode=0o700, group=None)``: a path where nothing is, in a fresh private directory of
    this mode and group. It fits in ``sun_path`` everywhere, whatever TMPDIR or the test's name, and a server in this
    test's backend can bind it. When the test fails, a copy of the directory's files is kept, as with ``tmp_path``."""

    def make(name: str | None = None, *, mode: int = 0o700, group: int | str | None = None) -> str:
        __tracebackhide__ = True
        where = {"backend": _uds_maker.backend, "distro": _uds_maker.distro}
        with _FailingThere():
            path = _uds_last.enter_context(_uds_maker.lab.path(name, mode=mode, group=group, **where))
        directory = os.path.dirname(path)
        _uds_maker.made("make_uds_path", directory=directory)
        _uds_last.callback(_tell_sockets, _uds_maker, directory, made_for(_uds_maker.node)[-1])
        return path

    return make


def _tell_sockets(maker: _Maker, directory: str, made: Made) -> None:
    from udslab.state import status

    things = made_for(maker.node)
    expected = {other.thing.path for other in things if other.may_leave or getattr(other.thing, "killed", False)}
    for entry in os.scandir(directory) if os.path.isdir(directory) else ():
        if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode) and entry.path not in expected:
            found = status(entry.path, owners=True)
            _tell_left(maker.node, f"socket file {entry.path} ({found.describe()}), in the directory {made}")


@pytest.fixture
def uds_path(make_uds_path: Callable[..., str]) -> str:
    """A path where nothing is: see ``make_uds_path``."""
    return make_uds_path()


@pytest.fixture
def make_uds_server(_uds_maker: _Maker, uds_type: str) -> Iterator[Callable[..., RunningServer]]:
    """``make_uds_server(service="upper", path=None, *, handler=None, type=…, abstract=False, **options)``: a server of
    a service, or of a handler, on a fresh path unless one is given: see :meth:`udslab.lab.Lab.server`."""
    with ExitStack() as exits:

        def make(service: Any = None, path: AddressLike | None = None, **options: Any) -> RunningServer:
            options = {"type": uds_type, "backend": _uds_maker.backend, "distro": _uds_maker.distro, **options}
            __tracebackhide__ = True
            undo = exits.enter_context(ExitStack())
            try:
                with _FailingThere():
                    server = undo.enter_context(_uds_maker.lab.server(service, path, **options))
            except Unsupported as error:
                lacking(_uds_maker.settings, _uds_maker.backend, str(error))
            _uds_maker.made("make_uds_server", server)
            made = made_for(_uds_maker.node)[-1]

            @exits.callback
            def end() -> None:
                undo.close()
                for failure in server.failures:
                    if not made.has_told(failure):
                        raise failure

            return server

        yield make


@pytest.fixture
def uds_server(request: pytest.FixtureRequest, make_uds_server: Callable[..., RunningServer]) -> RunningServer:
    """A server that listens: of what ``@pytest.mark.uds(service=…)`` says, otherwise of ``upper``, which answers in
    capitals."""
    return make_uds_server(service_of(request.node))


@pytest.fixture
def make_uds_client(uds: Lab, uds_type: str, _uds_last: ExitStack) -> Iterator[Callable[..., Connection]]:
    """``make_uds_client(path, *, type=…, timeout=30.0, bind=None)``: a ``socket.socket`` that is connected to a server
    of the lab's or to any path, and closed after the test: see :meth:`udslab.lab.Lab.connect`."""
    with ExitStack() as exits:

        def make(path: AddressLike | RunningServer, **options: Any) -> Connection:
            from udslab.lab import RunningServer

            if isinstance(path, RunningServer):
                options = {"type": path.type, **options}
                path = path.address
            __tracebackhide__ = True
            with _FailingThere():
                return exits.enter_context(uds.connect(path, **{"type": uds_type, **options}))

        yield make


@pytest.fixture
def uds_client(uds_server: RunningServer, make_uds_client: Callable[..., Connection]) -> Connection:
    """A client that is connected to ``uds_server``."""
    return make_uds_client(uds_server)


@pytest.fixture
def make_uds_process(
    request: pytest.FixtureRequest, uds: Lab, _uds_last: ExitStack
) -> Iterator[Callable[..., RunningProcess]]:
    """``make_uds_process(command, path=None, *, ready=LISTENING, timeout=10.0, env=None, cwd=None, umask=None,
    stop_signal=SIGTERM, expect_left=False)``: your own server, with its path for ``{socket}`` in its command. It runs
    outside of pytest's process, is followed through its forks, and serves when this returns; with ``image="…"`` in a
    container of your own image: see :meth:`udslab.lab.Lab.process`. What it
    leaves at its end, a socket file or a process, is a leak unless that is expected."""
    node: pytest.Item = request.node
    with ExitStack() as exits:

        def make(
            command: Command, path: str | os.PathLike[str] | None = None, *, expect_left: bool = False, **options: Any
        ) -> RunningProcess:
            __tracebackhide__ = True
            try:
                with granted(request.config):
                    uds.prepare(Backend.PROCESS) if options.get("image") is None else uds.session()
            except (EngineError, Unsupported) as error:
                lacking(request.config.stash[SETTINGS], Backend.CONTAINER, str(error))
            undo = exits.enter_context(ExitStack())
            with _FailingThere():
                process = undo.enter_context(uds.process(command, path, **options))
            made = Made("make_uds_process", where_called(), process, may_leave=expect_left)
            made_for(node).append(made)

            @exits.callback
            def end() -> None:
                undo.close()
                if not expect_left:
                    for line in process.left:
                        _tell_left(node, f"{line}, {made}")

            return process

        yield make


@pytest.fixture
def make_uds_obstacle(uds: Lab, _uds_last: ExitStack) -> Callable[..., PlacedObstacle]:
    """``make_uds_obstacle(kind, path=None)``: puts something in the way of a server, at ``path`` or at a fresh one;
    gives its ``kind`` and the ``path`` that it is in the way of. The kinds are those of
    :class:`udslab.obstacles.Obstacle`."""

    def make(kind: Obstacle | str, path: AddressLike | None = None) -> PlacedObstacle:
        __tracebackhide__ = True
        try:
            with _FailingThere():
                return _uds_last.enter_context(uds.obstacle(kind, path))
        except Unsupported as error:
            pytest.skip(str(error))

    return make


@pytest.fixture
def uds_obstacle(request: pytest.FixtureRequest, make_uds_obstacle: Callable[..., PlacedObstacle]) -> PlacedObstacle:
    """Each kind of obstacle in turn."""
    return make_uds_obstacle(request.param)
