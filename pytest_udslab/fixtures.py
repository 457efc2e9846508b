"""The fixtures. Each is a few lines around a context manager of :class:`udslab.lab.Lab`.

A noun is one instance, ready; ``make_…`` is its factory. What is made is undone after the test in reverse order.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_udslab.leaks import LeakCheck, late_failures, left_behind
from pytest_udslab.made import Made, is_ours_alone, made_for, where_called
from pytest_udslab.options import Settings, backend_of, check_needs, lacking, need_real_files, service_of, skip, word
from udslab.errors import EngineError, UdsError, Unsupported
from udslab.needs import Backend
from udslab.obstacle_kinds import Obstacle

if TYPE_CHECKING:
    from udslab.address import AddressLike
    from udslab.connection import Connection
    from udslab.lab import Lab, PlacedObstacle, RunningServer
    from udslab.processes import Command, RunningProcess

    Target = AddressLike | RunningServer | RunningProcess | PlacedObstacle

SETTINGS = pytest.StashKey[Settings]()
REQUEST = pytest.StashKey[pytest.FixtureRequest]()
"""In the stash of a test: what its fixtures ask for others with."""


@pytest.fixture(scope="session")
def uds(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab with this run's options: ``uds.path()``, ``uds.server()``, ``uds.process()``, … are context managers, for
    fixtures of your own of any scope."""
    from udslab.lab import Lab  # not before a test asks for it: importing a plugin costs every run

    need_real_files()
    with Lab(request.config.stash[SETTINGS].lab) as lab:
        lab.opening = functools.partial(granted, request.config)
        # Told after the test with which the server ends, whatever its scope.
        request.node.stash[left_behind] = lab.left
        request.node.stash[late_failures] = lab.failures
        yield lab


class _FailingThere:
    """An error of the lab's is shown where it was asked for something: it says all that there is to be said. So is one
    for a wrong argument, unless it comes of the user's own code; ``--full-trace`` shows where it was raised."""

    def __init__(self, full_trace: bool) -> None:
        self._full_trace = full_trace

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        __tracebackhide__ = True
        wrong = (TypeError, ValueError, LookupError, re.error)
        if isinstance(error, UdsError) or (
            isinstance(error, wrong) and not self._full_trace and is_ours_alone(traceback)
        ):
            raise error.with_traceback(None) from None


class _Test:
    """What the fixtures of one test have in common."""

    def __init__(self, node: pytest.Item, lab: Lab, last: ExitStack) -> None:
        self.node = node
        self.lab = lab
        self.last = last
        """What is undone when all servers, processes and clients of the test have ended, in whatever order it names its
        fixtures: the directories of its paths."""
        self.settings = node.config.stash[SETTINGS]
        self.failing_there = _FailingThere(node.config.option.fulltrace)

    def prepare(self, backend: str, distro: str) -> Backend:
        """See to what servers of this backend need; skip the test, or fail it, where that cannot be had."""
        wanted: Backend = word(Backend, backend, f"{self.node.nodeid}: uds_backend")
        check_needs(self.node, wanted, self.settings)
        self.start(wanted, distro)
        return wanted

    def start(self, backend: Backend, distro: str | None = None) -> None:
        """Start what servers of this backend need, unless it runs."""
        if not self.lab.is_prepared(backend, distro):
            need_real_files()
            with self.lacking(backend):
                self.lab.prepare(backend, distro)

    @contextmanager
    def lacking(self, backend: Backend) -> Iterator[None]:
        """Skip the test, or fail it, if within the block it turns out that the backend cannot be had."""
        __tracebackhide__ = True
        try:
            yield
        except (EngineError, Unsupported) as error:
            lacking(self.settings, backend, str(error))

    def connect(self, exits: ExitStack, address: Target, **options: Any) -> Connection:
        """A client until ``exits`` ends."""
        __tracebackhide__ = True
        with self.failing_there:
            return exits.enter_context(self.lab.connect(address, **options))

    def made(self, fixture: str, thing: Any = None, directory: str | None = None) -> Made:
        """Note what a fixture has made."""
        made = Made(fixture, where_called(), thing, directory)
        made_for(self.node).append(made)
        return made

    def tell_left(self, line: str) -> None:
        """Something was left behind."""
        self.node.stash.setdefault(left_behind, []).append(line)


def granted(config: pytest.Config) -> AbstractContextManager[None]:
    """What the lab opens within the block for the rest of the run is no leak of a test's."""
    return _leak_check(config).granted()


def _leak_check(config: pytest.Config) -> LeakCheck:
    leaks = config.pluginmanager.get_plugin("udslab-leaks")
    assert isinstance(leaks, LeakCheck)
    return leaks


@pytest.fixture
def _uds_test(request: pytest.FixtureRequest, uds: Lab) -> Iterator[_Test]:
    # The only one that takes request, which costs pytest as much as a fixture.
    need_real_files()
    request.node.stash[REQUEST] = request
    _leak_check(request.config).begin_late(request.node)
    with ExitStack() as last:
        yield _Test(request.node, uds, last)


@pytest.fixture
def uds_backend(_uds_test: _Test) -> str:
    """Where the servers of a test run: ``thread``, ``process`` or ``container``. Parametrise or override it."""
    return str(backend_of(_uds_test.node, _uds_test.settings))


@pytest.fixture
def uds_type() -> str:
    """The socket type of a test: ``stream``, ``datagram`` or ``seqpacket``. Parametrise or override it."""
    return "stream"


@pytest.fixture
def uds_distro(_uds_test: _Test) -> str:
    """The distribution whose base image the containers of a test are of. Parametrise or override it."""
    return str(_uds_test.settings.lab.distro)


@pytest.fixture
def make_uds_path(_uds_test: _Test, uds_backend: str, uds_distro: str) -> Callable[..., str]:
    """``make_uds_path(name=None, mode=0o700, group=None)``: a path where nothing is, in a fresh private directory of
    this mode and group. It fits in ``sun_path`` everywhere, whatever TMPDIR or the test's name, and a server in this
    test's backend can bind it. When the test fails, a copy of the directory's files is kept, as with ``tmp_path``."""
    backend = _uds_test.prepare(uds_backend, uds_distro)

    def make(name: str | None = None, *, mode: int = 0o700, group: int | str | None = None) -> str:
        __tracebackhide__ = True
        made = _uds_test.made("make_uds_path")
        options: dict[str, Any] = {"backend": backend, "distro": uds_distro, "whose": str(made)}
        with _uds_test.failing_there:
            path = _uds_test.last.enter_context(_uds_test.lab.path(name, mode=mode, group=group, **options))
        made.directory = os.path.dirname(path)
        return path

    return make


@pytest.fixture
def uds_path(make_uds_path: Callable[..., str]) -> str:
    """A path where nothing is: see ``make_uds_path``."""
    return make_uds_path()


@contextmanager
def _servers(test: _Test, fixture: str, backend: str, type: str, distro: str) -> Iterator[Callable[..., RunningServer]]:
    from udslab.socktype import SocketType  # see uds

    wanted = test.prepare(backend, distro)
    word(SocketType, type, f"{test.node.nodeid}: uds_type")
    mine: list[Made] = []
    with ExitStack() as exits:

        def make(service: Any = None, path: AddressLike | None = None, **options: Any) -> RunningServer:
            # What the handler raises is told below, or by the test itself.
            options = {"type": type, "backend": wanted, "distro": distro, "expect_failures": True, **options}
            __tracebackhide__ = True
            try:
                with test.failing_there:
                    server = exits.enter_context(test.lab.server(service, path, **options))
            except Unsupported as error:
                lacking(test.settings, wanted, str(error))
            mine.append(test.made(fixture, server))
            return server

        yield make
    for made in mine:
        for failure in made.thing.failures:
            if not made.has_told(failure):
                raise failure


@pytest.fixture
def make_uds_server(
    _uds_test: _Test, uds_backend: str, uds_type: str, uds_distro: str
) -> Iterator[Callable[..., RunningServer]]:
    """``make_uds_server(service="upper", path=None, *, handler=None, type=…, abstract=False, **options)``: a server of
    a service, or of a handler, on a fresh path unless one is given: see :meth:`udslab.lab.Lab.server`."""
    with _servers(_uds_test, "make_uds_server", uds_backend, uds_type, uds_distro) as make:
        yield make


# Not by its factory, nor is uds_client: each fixture more costs pytest as much as the thread that serves.
@pytest.fixture
def uds_server(_uds_test: _Test, uds_backend: str, uds_type: str, uds_distro: str) -> Iterator[RunningServer]:
    """A server that listens: of what ``@pytest.mark.uds(service=…)`` says, otherwise of ``upper``, which answers in
    capitals."""
    with _servers(_uds_test, "uds_server", uds_backend, uds_type, uds_distro) as make:
        yield make(service_of(_uds_test.node))


@pytest.fixture
def make_uds_client(_uds_test: _Test, uds_type: str) -> Iterator[Callable[..., Connection]]:
    """``make_uds_client(path, *, type=…, timeout=30.0, bind=None)``: a ``socket.socket`` that is connected to a server,
    process or obstacle of the lab's or to any path, and closed after the test: see :meth:`udslab.lab.Lab.connect`."""
    with ExitStack() as exits:

        def make(path: Target, **options: Any) -> Connection:
            __tracebackhide__ = True
            return _uds_test.connect(exits, path, **{"type": getattr(path, "type", uds_type), **options})

        yield make


@pytest.fixture
def uds_client(_uds_test: _Test, uds_server: RunningServer | RunningProcess) -> Iterator[Connection]:
    """A client that is connected to ``uds_server``, which may be overridden by one of ``make_uds_process``."""
    type = getattr(uds_server, "type", None) or _uds_test.node.stash[REQUEST].getfixturevalue("uds_type")
    with ExitStack() as exits:
        yield _uds_test.connect(exits, uds_server, type=type)


@pytest.fixture
def make_uds_process(_uds_test: _Test) -> Iterator[Callable[..., RunningProcess]]:
    """``make_uds_process(command, path=None, *, ready=LISTENING, timeout=10.0, env=None, cwd=None, umask=None,
    stop_signal=SIGTERM, expect_left=False)``: your own server, with its path for ``{socket}`` in its command. It runs
    outside of pytest's process, is followed through its forks, and serves when this returns; with ``image="…"`` in a
    container of your own image: see :meth:`udslab.lab.Lab.process`. What it leaves at its end, a socket file or a
    process, is a leak unless that is expected."""
    lab = _uds_test.lab
    with ExitStack() as exits:

        def make(
            command: Command, path: str | os.PathLike[str] | None = None, *, expect_left: bool = False, **options: Any
        ) -> RunningProcess:
            __tracebackhide__ = True
            if options.get("image") is None:
                _uds_test.start(Backend.PROCESS)
            else:
                with _uds_test.lacking(Backend.CONTAINER):
                    lab.session()
            undo = exits.enter_context(ExitStack())
            with _uds_test.failing_there:
                process = undo.enter_context(lab.process(command, path, expect_left=True, **options))  # told below
            directory = os.path.dirname(process.path) if path is None else None
            made = _uds_test.made("make_uds_process", process, directory=directory)

            @exits.callback
            def end() -> None:
                try:
                    undo.close()
                except UdsError as error:  # its container has gone, or the engine
                    what = f"{process!r}, {made}, could not be ended: {error}"
                    raise pytest.fail.Exception(what, pytrace=False) from None
                if not expect_left:
                    for line in process.left:
                        _uds_test.tell_left(f"{line}, {made}")

            return process

        yield make


@pytest.fixture
def make_uds_obstacle(_uds_test: _Test, uds_backend: str, uds_distro: str) -> Callable[..., PlacedObstacle]:
    """``make_uds_obstacle(kind, path=None)``: puts something in the way of a server in this test's backend, at ``path``
    or at a fresh one; gives its ``kind`` and the ``path`` that it is in the way of. The kinds are those of
    :class:`udslab.obstacles.Obstacle`."""
    backend = _uds_test.prepare(uds_backend, uds_distro)

    def make(kind: Obstacle | str, path: AddressLike | None = None) -> PlacedObstacle:
        __tracebackhide__ = True
        try:
            with _uds_test.failing_there:
                return _uds_test.last.enter_context(
                    _uds_test.lab.obstacle(kind, path, backend=backend, distro=uds_distro)
                )
        except Unsupported as error:
            skip(str(error))

    return make


@pytest.fixture(params=list(Obstacle), ids=str)
def uds_obstacle(request: pytest.FixtureRequest, make_uds_obstacle: Callable[..., PlacedObstacle]) -> PlacedObstacle:
    """Each kind of obstacle in turn."""
    return make_uds_obstacle(request.param)
