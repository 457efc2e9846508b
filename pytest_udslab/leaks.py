"""The leak check: what a test leaves behind is an error at its teardown.

Two things are told: what our fixtures find of theirs (they append lines to :data:`left_behind`), and the Unix sockets
that this process holds after the teardown and did not hold before the set-up, as a set of inodes.

A socket counts as the fixture's, not as the test's, if it comes during the set-up of a fixture of a higher scope than a
function's, or belongs to a server of the lab's that has come so: its connections come and go as its clients do. What
libraries keep for the life of the process is no leak either: see ``_WELL_KNOWN``, ``_HOLDERS`` and
``_of_multiprocessing``. Each leak is told once.

Not seen are a second descriptor of a socket that was there before, what a fixture of a higher scope does not close, and
what the gate of :class:`udslab.descriptors.Watch` does not see.
"""

from __future__ import annotations

import _socket
import fnmatch
import functools
import gc
import glob
import os
import re
import sys
import time
import traceback
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_udslab.made import encodable
from udslab.deadline import Deadline, now

if TYPE_CHECKING:
    from udslab.address import Address
    from udslab.descriptors import OwnSocket, Watch

__all__ = ["LeakCheck", "UdsLeakWarning", "add_options", "header", "late_failures", "left_behind", "mode_of"]

left_behind = pytest.StashKey[list[str]]()
"""In the stash of a fixture's ``request.node``: one line for each thing of the fixture's that was left behind."""

late_failures = pytest.StashKey[list[BaseException]]()
"""In the stash of the session: what handlers had raised when their servers ended."""

_MODES = {
    "default": "an error, for tests that use a fixture of udslab",
    "all": "an error, for every test",
    "warn": "a warning, for tests that use a fixture of udslab or carry the marker",
    "off": "nothing is checked",
}
_HELP = "what a test leaves behind (Unix sockets, and what fixtures of udslab made) is: "
_HELP += "; ".join(f"{mode}: {meaning}" for mode, meaning in _MODES.items())

_AVAILABLE = os.path.isdir("/proc/self/fd")
"""Whether this platform lists a process's descriptors (Linux with /proc)."""
_GRACE = 0.25
"""Seconds in which a server's thread may close its side of a connection that the test has closed."""

_sleep = time.sleep  # tests replace it

_WELL_KNOWN = (
    "/run/dbus/*",
    "/var/run/dbus/*",
    "/run/user/*/bus",
    "/run/user/*/at-spi/*",
    "/run/user/*/wayland-*",
    "/tmp/.X11-unix/*",  # noqa: S108 - as X11 has it
    "@/tmp/.X11-unix/*",
    "/tmp/.ICE-unix/*",  # noqa: S108
    "@/tmp/.ICE-unix/*",
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/dev/log",
    "/run/systemd/*",
    "/run/nscd/*",
    "/var/run/nscd/*",
    "/var/lib/sss/pipes/*",
)
"""What libraries, libc among them, connect to once and for all."""

_HOLDERS = (
    ("asyncio", "AbstractEventLoop"),
    ("logging", "Handler"),
    ("trio._core._wakeup_socketpair", "WakeupSocketpair"),
)
"""Classes, if they are imported, whose objects have sockets as attributes that are no leak."""

_SERVERS = (("udslab.server", "Server"), ("udslab.handlers", "HandlerServer"))
"""Those of the lab's servers in this process."""


class UdsLeakWarning(pytest.PytestWarning):
    """What a test has left behind, where ``uds_leaks`` is ``warn``."""


def add_options(parser: pytest.Parser) -> None:
    """``--uds-leaks``, and ``uds_leaks`` and ``uds_leaks_ignore`` in the ini file."""
    group = parser.getgroup("udslab", "Unix domain sockets")
    group.addoption("--uds-leaks", choices=list(_MODES), help=_HELP)
    parser.addini("uds_leaks", _HELP, default="default")
    parser.addini(
        "uds_leaks_ignore",
        "globs, a line each: socket files at such a path, and sockets bound or connected to it, are no leaks",
        "linelist",
    )


def mode_of(item: pytest.Item) -> str:
    """``default``, ``all``, ``warn`` or ``off``: as the marker says, otherwise the option, otherwise the ini file.

    Raises :class:`pytest.UsageError` for any other word.
    """
    marker = item.get_closest_marker("uds_leaks")
    if marker is None:
        return _mode_of(item.config)
    if len(marker.args) != 1 or marker.kwargs:
        raise pytest.UsageError(f"{item.nodeid}: uds_leaks takes one word: {', '.join(_MODES)}")
    return _checked(marker.args[0], item.nodeid)


def _mode_of(config: pytest.Config) -> str:
    return config.getoption("uds_leaks") or _checked(config.getini("uds_leaks"), "the ini file")


def _checked(word: object, where: str) -> str:
    if not isinstance(word, str) or word not in _MODES:
        raise pytest.UsageError(f"{where}: uds_leaks is one of {', '.join(_MODES)}, not {word!r}")
    return word


def header(config: pytest.Config) -> str | None:
    """A line for the report's header where sockets cannot be checked."""
    if _AVAILABLE or _mode_of(config) == "off":
        return None
    return "udslab: sockets are not checked for leaks: there is no /proc/self/fd here"


class LeakCheck:
    """The hooks. One for a process: each worker of pytest-xdist has its own."""

    def __init__(self, config: pytest.Config) -> None:
        _mode_of(config)
        config.addinivalue_line("markers", f"uds_leaks(mode): {_HELP}")
        self._ignored: list[str] = config.getini("uds_leaks_ignore")
        self._active = False
        self._base: Collection[int] = ()
        self._began = 0.0
        self._granted: list[tuple[float, float]] = []
        """Since then: when :meth:`granted` was entered and left."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Take the base line."""
        self._active = False
        if _AVAILABLE and _concerns(item):
            self._begin()

    def begin_late(self, item: pytest.Item) -> None:
        """A test has asked for a fixture of udslab while it runs: what it opens from here on is looked at."""
        if not self._active and _AVAILABLE and mode_of(item) != "off":
            self._begin()

    def _begin(self) -> None:
        self._active = True
        self._base = self._watch.look()
        self._began = now()
        self._granted.clear()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """What comes with a fixture of a higher scope belongs to the base line."""
        __tracebackhide__ = True
        if fixturedef.scope == "function":
            return (yield)
        with self.granted():
            return (yield)

    @contextmanager
    def granted(self) -> Iterator[None]:
        """What is opened within the block belongs to the base line."""
        if not self._active:
            yield
            return
        before = self._watch.look()
        entered = now()
        try:
            yield
        finally:
            self._granted.append((entered, now()))
            after = self._watch.look()
            if after is not before:
                self._base = {*self._base, *(after.keys() - before.keys())}

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """What goes with a fixture of a higher scope could hide what the test leaves."""
        if fixturedef.scope != "function" and "_watch" in vars(self):
            self._watch.forget()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tell what is left when everything has been torn down; behind the teardown's own error, if there is one."""
        desktop = _desktop() if self._active else ()  # before the test's environment is undone
        try:
            result = yield
            if failures := item.session.stash.get(late_failures, None):
                raise failures.pop(0)
        except BaseException as error:
            failures = item.session.stash.get(late_failures, [])
            notes = ["".join(traceback.format_exception(type(one), one, one.__traceback__)) for one in failures]
            failures.clear()
            if text := self._told(item, desktop):
                notes.append(text)
            if notes:
                # As add_note does it, for Python 3.10, too.
                vars(error).setdefault("__notes__", []).extend(notes)
            raise
        if text := self._told(item, desktop):
            if mode_of(item) != "warn":
                pytest.fail(text, pytrace=False)
            item.warn(UdsLeakWarning(text))
        return result

    def _told(self, item: pytest.Item, desktop: tuple[str, ...]) -> str:
        lines: list[str] = []
        for node in item.listchain():
            if found := node.stash.get(left_behind, None):
                lines += (line for line in found if not self._is_ignored(line))
                found.clear()
        if lines and mode_of(item) == "off":
            return ""
        if self._active:
            lines += self._sockets(desktop)
        return str(encodable("\n  ".join([f"{item.nodeid} left behind:", *lines]))) if lines else ""

    def _is_ignored(self, line: str) -> bool:
        """Whether it is about a socket file at an ignored path."""
        file = re.match(r"socket file (.*?) \(", line, re.DOTALL)
        return file is not None and any(fnmatch.fnmatchcase(file[1], pattern) for pattern in self._ignored)

    def _sockets(self, desktop: tuple[str, ...]) -> list[str]:
        """The sockets that are new and nobody's, a line each."""
        try:
            if self._watch.look(further=True) is self._base or not self._new(desktop):
                return []
            gc.collect()
            deadline = Deadline(_GRACE)
            while True:
                # Anew in each round: a thread may just be making an event loop, which has no attributes yet.
                kept, served = self._kept()
                found = [sock for sock in self._new(desktop) if sock.inode not in kept and sock.local not in served]
                if not found or deadline.passed:
                    return [sock.describe() for sock in found]
                _sleep(0.005)
        except OSError as error:
            return [f"descriptors that cannot be looked at: {error}"]  # EMFILE

    def _kept(self) -> tuple[set[int], set[Address]]:
        """The inodes of sockets that are no leak, and the addresses of servers of which no connection is one."""
        kept, served = set(_inodes_of(_owners())), set()
        for server in _objects_of(_SERVERS):
            if self._is_granted(server) and (own := set(_inodes_of([server]))):  # none: it has ended
                kept |= own
                served.add(server.address)
        return kept, served

    def _is_granted(self, server: Any) -> bool:
        since = getattr(server, "since", None)  # not yet, where a thread is making it
        if since is None:
            return False
        return since < self._began or any(entered <= since <= left for entered, left in self._granted)

    @functools.cached_property
    def _watch(self) -> Watch:
        from udslab.descriptors import Watch  # not before a test asks for it: importing a plugin costs every run

        return Watch()

    def _new(self, desktop: tuple[str, ...]) -> list[OwnSocket]:
        from udslab.descriptors import own_sockets

        ours = (*self._ignored, *_of_multiprocessing())
        peers = (*ours, *_WELL_KNOWN, *desktop)
        new = {inode: fd for inode, fd in self._watch.look().items() if inode not in self._base}
        return [
            sock
            for sock in own_sockets(new).values()
            if not _matches(sock.local, ours) and not (sock.peer and _matches(sock.peer, peers))
        ]


def _concerns(item: pytest.Item) -> bool:
    mode = mode_of(item)
    if mode == "warn" and item.get_closest_marker("uds_leaks"):
        return True
    if mode in ("default", "warn"):
        return any(name.startswith(("uds", "make_uds")) for name in getattr(item, "fixturenames", ()))
    return mode == "all"


def _matches(address: Address, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(str(address), pattern) for pattern in patterns)


def _desktop() -> tuple[str, ...]:
    """Where this environment has its session bus and its Wayland display."""
    from urllib.parse import unquote  # who looks for leaks has it anyway

    patterns = []
    if bus := os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        for kind, name in re.findall(r"unix:(?:[^;]*,)?(path|abstract)=([^,;]*)", bus):
            patterns.append(glob.escape("@" * (kind == "abstract") + unquote(name)))
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        patterns.append(f"{glob.escape(runtime)}/wayland-*")
    return tuple(patterns)


def _of_multiprocessing() -> Iterator[str]:
    """The managers that this process has asked, and its own thread that hands out descriptors."""
    from udslab.address import Address

    if managers := sys.modules.get("multiprocessing.managers"):
        asked = managers.BaseProxy._address_to_local
        yield from (glob.escape(str(Address.from_sockaddr(address))) for address in asked if isinstance(address, str))
    if sharer := sys.modules.get("multiprocessing.resource_sharer"):
        address = sharer._resource_sharer._address
        if address is not None:
            yield glob.escape(str(Address.from_sockaddr(address)))


def _owners() -> Iterator[object]:
    """The objects whose sockets are no leak: what libraries keep, and what the tracebacks of failures keep alive."""
    yield from _objects_of(_HOLDERS)
    errors: list[BaseException | None] = [getattr(sys, "last_value", None), sys.exc_info()[1]]
    seen = set()
    while errors:
        error = errors.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        errors += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                if not isinstance(value, (FunctionType, ModuleType, type)):  # through which all can be reached
                    yield value


def _objects_of(names: Iterable[tuple[str, str]]) -> Iterator[Any]:
    """The objects of these classes, as far as these are imported."""
    classes = tuple(getattr(sys.modules[module], name) for module, name in names if module in sys.modules)
    yield from (thing for thing in gc.get_objects() if issubclass(type(thing), classes))


def _inodes_of(owners: Iterable[object]) -> Iterator[int]:
    """The sockets among these objects and their attributes."""
    from udslab.descriptors import inode_of

    things = list(owners)
    things += gc.get_referents(*things)
    things += gc.get_referents(*(thing for thing in things if type(thing) is dict))
    for thing in things:
        if issubclass(type(thing), _socket.socket) and (inode := inode_of(cast("_socket.socket", thing))):
            yield inode
