"""The run's options: from the command line, otherwise from the ini file, otherwise a default."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NoReturn

import pytest

from udslab.needs import Backend, Need, Options, why_not

__all__ = [
    "Settings",
    "add_options",
    "backend_of",
    "check_marker",
    "check_needs",
    "engines",
    "lacking",
    "need_real_files",
    "register_marker",
    "service_of",
    "skip",
    "word",
]

_BACKENDS = [backend.value for backend in Backend]
_MARKER = """uds(needs={"kill", …}, backend="process", service="echo"): what a test needs of its server's backend \
(handler, abstract, kill, pause), which backend it wants, and what uds_server serves"""


def add_options(parser: pytest.Parser) -> None:
    """``--uds-…``, and ``uds_…`` in the ini file."""
    group = parser.getgroup("udslab", "Unix domain sockets")
    backend = "where servers run in tests that do not say: a thread, a process or a container (default: the first of "
    backend += "these that has what the test needs)"
    group.addoption("--uds-backend", choices=_BACKENDS, help=backend)
    parser.addini("uds_backend", backend)
    require = "fail instead of skipping a test where this backend cannot be had, or cannot do what the test needs"
    group.addoption("--uds-require", action="append", choices=_BACKENDS, default=[], help=require)
    parser.addini("uds_require", require, "args")
    for name, metavar, help in (
        ("distro", "NAME", f"containers are of the lab's base image of this distribution (default: {Options.distro})"),
        ("image", "IMAGE", "containers are of this image, which needs Python 3.9 or newer and nothing else"),
    ):
        group.addoption(f"--uds-{name}", metavar=metavar, help=help)
        parser.addini(f"uds_{name}", help)
    engine = "the container engine: a Docker context or a URL (default: as the docker command); if it is given several "
    engine += "times, a matrix is spread over them, and all else is on the first"
    group.addoption("--uds-engine", metavar="NAME", action="append", help=engine)
    parser.addini("uds_engine", engine)


@dataclass(frozen=True)
class Settings:
    """What the command line and the ini file say."""

    backend: Backend | None
    """None: nothing."""
    require: frozenset[Backend]
    lab: Options = field(default_factory=Options)

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        """Raises :class:`pytest.UsageError` for a word that is none."""

        def given(name: str) -> Any:
            return config.getoption(f"uds_{name}") or config.getini(f"uds_{name}") or None

        backend = _word(Backend, given("backend"), "uds_backend") if given("backend") else None
        require = frozenset(_word(Backend, word, "uds_require") for word in given("require") or ())
        engine = next(iter(engines(config)), None)
        lab = Options(backend or Backend.THREAD, given("image"), given("distro") or Options.distro, engine)
        return cls(backend, require, lab)


def engines(config: pytest.Config) -> list[str]:
    """The container engines that are named."""
    ini: str = config.getini("uds_engine")
    return config.getoption("uds_engine") or ([ini] if ini else [])


def register_marker(config: pytest.Config) -> None:
    """``@pytest.mark.uds``."""
    config.addinivalue_line("markers", _MARKER)


def _word(words: Any, word: object, where: str) -> Any:
    try:
        return words(word)
    except ValueError:
        raise pytest.UsageError(f"{where} is one of {', '.join(map(str, words))}, not {word!r}") from None


def word(words: Any, given: object, where: str) -> Any:
    """One of ``words``. A wrong one fails the test, with the right ones, and no traceback."""
    try:
        return _word(words, given, where)
    except pytest.UsageError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _said(node: pytest.Item, name: str) -> Any:
    """What the nearest marker that says anything about ``name`` says."""
    for marker in node.iter_markers("uds"):
        unknown = set(marker.kwargs) - {"needs", "backend", "service"}
        if marker.args or unknown:
            wrong = ", ".join(sorted(unknown)) or "an argument without a name"
            raise pytest.UsageError(f"{node.nodeid}: the marker uds takes needs, backend and service, not {wrong}")
        if name in marker.kwargs:
            return marker.kwargs[name]
    return None


def needs_of(node: pytest.Item) -> set[Need]:
    """What a test's markers say that it needs."""
    words = _said(node, "needs") or ()
    where = f"{node.nodeid}: each of the marker's needs"
    return {_word(Need, word, where) for word in ([words] if isinstance(words, str) else words)}


def _backend_said(node: pytest.Item) -> Backend | None:
    word = _said(node, "backend")
    return None if word is None else Backend(_word(Backend, word, f"{node.nodeid}: the marker's backend"))


def check_marker(node: pytest.Item) -> None:
    """Raises :class:`pytest.UsageError` for a marker that says what it cannot."""
    needs_of(node)
    _backend_said(node)


def service_of(node: pytest.Item) -> Any:
    """What ``uds_server`` serves in this test; None if it does not say."""
    return _said(node, "service")


def backend_of(node: pytest.Item, settings: Settings) -> Backend:
    """The backend of a test: its marker's, otherwise the run's, otherwise the first that has what it needs."""
    said = _backend_said(node) or settings.backend
    if said is not None:
        return said
    needs = needs_of(node)
    able = (backend for backend in Backend if not any(why_not(backend, need) for need in needs))
    return next(able, Backend.THREAD)


def check_needs(node: pytest.Item, backend: Backend, settings: Settings) -> None:
    """Skip a test that needs what its backend cannot do, or fail it if the backend is required."""
    for need in sorted(needs_of(node)):
        why = why_not(backend, need)
        if why is not None:
            lacking(settings, backend, f"it needs {need}, which the backend {backend} has not: {why}")


def lacking(settings: Settings, backend: Backend, reason: str) -> NoReturn:
    """``backend`` cannot be had, or not what a test needs of it: skip the test, or fail it with ``--uds-require``."""
    if backend in settings.require:
        raise pytest.fail.Exception(f"--uds-require {backend}: {reason}", pytrace=False) from None
    skip(reason)


def need_real_files() -> None:
    """Fail the test where pyfakefs has put an object of its own in the place of ``os``: what the lab keeps for the run
    would be made of that."""
    if type(os) is not ModuleType:
        what = "the lab's sockets and processes are real, and files are not (pyfakefs)"
        hint = "name fs behind the lab's fixtures, and make all paths before it"
        raise pytest.fail.Exception(f"{what}: {hint}", pytrace=False)


def skip(reason: str) -> NoReturn:
    """Skip the test, which is said to be skipped at its own line, not at this one."""
    raise pytest.skip.Exception(reason, _use_item_location=True) from None
