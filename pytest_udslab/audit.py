"""The audit as tests: ``uds_audit`` is one probe, and the test's subject is put through it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_udslab.fixtures import SETTINGS, granted
from pytest_udslab.options import lacking, skip
from udslab.audit.verdicts import VERDICTS
from udslab.errors import EngineError, ServiceError, UdsError, Unsupported
from udslab.needs import Backend

if TYPE_CHECKING:
    from udslab.audit.auditor import Auditor
    from udslab.audit.findings import Finding
    from udslab.audit.subject import Subject
    from udslab.lab import Lab

__all__ = ["AuditWarning", "add_options", "uds_audit"]

_FAIL_ON = ("fail", "warn")


class AuditWarning(UserWarning):
    """A probe has ended with the verdict ``warn``."""


def add_options(parser: pytest.Parser) -> None:
    """``--uds-audit-fail-on``."""
    help = "the least verdict of the audit that fails a test: fail, or warn (default: fail; a warning is warned of)"
    parser.getgroup("udslab").addoption("--uds-audit-fail-on", choices=_FAIL_ON, help=help)
    parser.addini("uds_audit_fail_on", help)


class _Auditors:
    """Those of a session, by subject and user: what a subject's patience is need be measured once."""

    def __init__(self, config: pytest.Config, lab: Lab) -> None:
        self._lab = lab
        self._exits = ExitStack()
        self._made: list[tuple[Subject, str | None, Auditor]] = []
        self._hosts: dict[tuple[str, str | None], object] = {}
        self.accepted = _accepted(config)
        self.fail_on = config.getoption("uds_audit_fail_on") or config.getini("uds_audit_fail_on") or _FAIL_ON[0]
        if self.fail_on not in _FAIL_ON:
            raise pytest.UsageError(f"uds_audit_fail_on is one of {', '.join(_FAIL_ON)}, not {self.fail_on!r}")

    def close(self) -> None:
        self._exits.close()

    def of(self, subject: Subject, user: str | None) -> Auditor:
        from udslab.audit.auditor import Auditor

        for known, name, auditor in self._made:
            if known == subject and name == user:
                return auditor
        auditor = Auditor(subject, self._host(subject.image, user))
        self._made.append((subject, user, auditor))
        return auditor

    def _host(self, image: str, user: str | None) -> Any:
        from udslab.audit.host import ImageHost, ProcessHost, user_named

        if image and user is not None:
            what = f"whom a server in a container runs as is not for the audit to say, and {user!r} is asked for"
            raise ServiceError(what, "leave out user=: it is who tests, or uid 10001 if that is root")
        if (image, user) not in self._hosts:
            self._hosts[image, user] = (
                ImageHost(self._lab.session(), image)
                if image
                else self._exits.enter_context(ProcessHost(user_named(user)))
            )
        return self._hosts[image, user]


@pytest.fixture(scope="session")
def _uds_auditors(request: pytest.FixtureRequest, uds: Lab) -> Iterator[_Auditors]:
    try:
        auditors = _Auditors(request.config, uds)
    except pytest.UsageError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    try:
        yield auditors
    finally:
        auditors.close()


@pytest.fixture(params=list(VERDICTS))
def uds_audit(request: pytest.FixtureRequest, _uds_auditors: _Auditors) -> Callable[..., Finding]:
    """``uds_audit(subject, user=None)``: one probe of the audit, each in turn; puts a
    :class:`udslab.audit.subject.Subject` through it, run as ``user`` (an ordinary one, if this is root; not for
    one with an image). The finding, unless its verdict fails the test, with the evidence, or skips it.

    ``[tool.udslab.audit]`` in pyproject.toml has the outcomes that a project accepts: a probe, and a list of them."""
    probe: str = request.param
    if probe not in VERDICTS:
        pytest.fail(f"no probe is called {probe!r}; they are: {', '.join(VERDICTS)}", pytrace=False)

    def audit(subject: Subject, user: str | None = None) -> Finding:
        __tracebackhide__ = True
        missing = subject.missing()
        if missing:
            skip(f"{missing} is not installed" + (f": {subject.get}" if subject.get else ""))
        try:
            with granted(request.config):
                finding = _uds_auditors.of(subject, user).audit(probe)
        except (EngineError, Unsupported) as error:
            if subject.image:
                lacking(request.config.stash[SETTINGS], Backend.CONTAINER, str(error))
            skip(str(error))
        except UdsError as error:
            raise error.with_traceback(None) from None
        if finding.verdict == "skip":
            skip(_clean(finding.why))
        if finding.outcome in _uds_auditors.accepted.get(probe, ()):
            return finding
        said = _clean(f"{subject.name}: {finding.describe()}")
        if finding.verdict == "fail" or finding.verdict == _uds_auditors.fail_on:
            pytest.fail(said, pytrace=False)
        if finding.verdict == "warn":
            warnings.warn(said, AuditWarning, stacklevel=2)
        return finding

    return audit


def _clean(text: str) -> str:
    """Each line without what does not print: a server's log is in it, and whatever it does to a terminal."""
    from udslab.report.text import clean  # see fixtures.uds

    return "\n".join(map(clean, text.split("\n")))


def _accepted(config: pytest.Config) -> Mapping[str, list[str]]:
    """``[tool.udslab.audit]`` of the nearest pyproject.toml that has it. Raises :class:`pytest.UsageError` for what no
    probe says."""
    found = ((file, accepted) for file in _projects(config) if (accepted := _table(file)) is not None)
    file, accepted = next(found, (None, {}))
    where = f"{file}: [tool.udslab.audit]"
    for probe, outcomes in accepted.items():
        if probe not in VERDICTS:
            raise pytest.UsageError(f"{where}: no probe is called {probe!r}")
        words = list(VERDICTS[probe])
        if not isinstance(outcomes, list) or any(outcome not in words for outcome in outcomes):
            raise pytest.UsageError(f"{where}: {probe} has a list of some of: {', '.join(words)}")
    return accepted


def _projects(config: pytest.Config) -> Iterator[Path]:
    """Where it may be, the nearest first: pytest's own root may be below the project, as with tests/pytest.ini, or
    beside it. What a repository accepts does not depend on where it lies."""
    for start in (config.rootpath, *([config.inipath.parent] if config.inipath else [])):
        for directory in (start, *start.parents):
            yield directory / "pyproject.toml"
            if (directory / ".git").exists():
                break


def _table(file: Path) -> dict[str, Any] | None:
    """``[tool.udslab.audit]``, or None. Raises :class:`pytest.UsageError` if that is no table."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    meaning = {"audit": ": a probe, and the outcomes that are accepted"}
    where = ""
    for key in ("tool", "udslab", "audit"):
        if key not in table:
            return None
        where, value = f"{where}.{key}".lstrip("."), table[key]
        if not isinstance(value, dict):
            raise pytest.UsageError(f"{file}: [{where}] is a table{meaning.get(key, '')}")
        table = value
    return table
