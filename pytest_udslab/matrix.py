"""Places as pytest's items: ``python -m pytest -p pytest_udslab.matrix FILE.toml``, which ``udslab matrix`` runs.

Each place, and each pair of places, of the file is an item, so that ``-n``, ``-k``, ``--lf`` and ``-x`` do with them
what they do with tests. What an item has measured is written as soon as it is known, and used again by the next run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_udslab.options import engines
from udslab.atlas.runner import Cell, Verdict
from udslab.atlas.two_sided import row_of
from udslab.containers import Engine, Session
from udslab.errors import ServiceError, UdsError, Unsupported
from udslab.places.known import judge, stale
from udslab.places.matrix import Item, Matrix, Results
from udslab.places.suite import Suite
from udslab.places.survey import Survey

__all__ = [
    "pytest_addoption",
    "pytest_collect_file",
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_unconfigure",
]


class _Run:
    """What a run of pytest has: its matrices, and a session on each engine, opened when it is needed."""

    def __init__(self, config: pytest.Config) -> None:
        self.engines: list[str | None] = list(engines(config)) or [None]
        self.fresh: bool = config.getoption("uds_fresh")
        self.matrices = {file: _load(file) for file in _files(config)}
        suite, requirements = config.getoption("uds_suite"), config.getoption("uds_suite_requirements")
        if suite is None and requirements is not None:
            raise pytest.UsageError("--uds-suite-requirements is for a suite: name it with --uds-suite")
        self.suite = None if suite is None else _usage(Suite.of, suite, requirements)
        if self.suite and not any(matrix.distros for matrix in self.matrices.values()):
            raise pytest.UsageError("--uds-suite is for a matrix with distros: name its TOML file")
        self.written: list[str] = []
        self._sessions: dict[int, Session] = {}
        self._exits = ExitStack()

    def session(self, number: int) -> Session:
        """That on the engine of this number."""
        if number not in self._sessions:
            engine = self._exits.enter_context(Engine(self.engines[number]))
            self._sessions[number] = self._exits.enter_context(Session(engine))
        return self._sessions[number]

    def close(self) -> None:
        self._exits.close()


_RUN = pytest.StashKey[_Run]()


def _usage(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except ServiceError as error:
        hint = f": {error.hint}" if error.hint else ""
        raise pytest.UsageError(f"{error.strerror}{hint}") from None
    except OSError as error:
        raise pytest.UsageError(f"{error.filename}: {error.strerror}") from None


def _load(file: Path) -> Matrix:
    matrix: Matrix = _usage(Matrix.load, file)
    return matrix


def _files(config: pytest.Config) -> Iterator[Path]:
    for argument in config.args:
        name = argument.partition("::")[0]
        if name.endswith(".toml"):
            yield Path(os.path.abspath(os.path.join(config.invocation_params.dir, name)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--uds-fresh``, ``--uds-suite``, ``--uds-suite-requirements``."""
    group = parser.getgroup("udslab", "Unix domain sockets")
    group.addoption(
        "--uds-fresh", "--fresh", action="store_true", help="measure a matrix anew, whatever is known of it"
    )
    suite = "also run this project's tests (a file or directory) in each of the matrix's distributions"
    group.addoption("--uds-suite", "--suite", metavar="PATH", help=suite)
    requirements = "what the suite's tests need beside pytest and the project: a requirements file, as pip has it"
    group.addoption("--uds-suite-requirements", "--suite-requirements", metavar="FILE", help=requirements)


def pytest_configure(config: pytest.Config) -> None:
    """Read the files."""
    config.stash[_RUN] = _Run(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A TOML file that is named is a matrix."""
    if file_path in parent.config.stash[_RUN].matrices:
        return _MatrixFile.from_parent(parent, path=file_path)
    return None


class _MatrixFile(pytest.File):
    """A matrix."""

    def collect(self) -> Iterator[pytest.Item]:
        """Its items: places, pairs, suites. Each belongs to an engine, the same one in all workers and runs."""
        run = self.config.stash[_RUN]
        matrix = run.matrices[self.path]
        number = 0
        for item in matrix.items:
            yield _PlaceItem.from_parent(self, name=str(item), item=item, engine=number % len(run.engines))
            number += 1
        for distro in matrix.distros if run.suite else ():
            engine = number % len(run.engines)
            yield _SuiteItem.from_parent(self, name=f"suite/{distro}", suite=run.suite, distro=distro, engine=engine)
            number += 1


class _Failed(Exception):
    """An item has failed; as text, what is told of it."""


class _Item(pytest.Item):
    def __init__(self, *, engine: int, **options: Any) -> None:
        super().__init__(**options)
        self._engine = engine

    def _session(self) -> Session:
        return self.config.stash[_RUN].session(self._engine)

    def runtest(self) -> None:
        """What it is about; a place that there cannot be here is skipped."""
        try:
            self.work()
        except Unsupported as error:
            pytest.skip(str(error.strerror) + (f": {error.hint}" if error.hint else ""))

    def work(self) -> None:
        raise NotImplementedError

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What was seen, or what went wrong in a line, without a traceback."""
        if isinstance(excinfo.value, (_Failed, UdsError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Its name, for headings."""
        return self.path, None, self.name


class _PlaceItem(_Item):
    """A place or a pair of places."""

    def __init__(self, *, item: Item, **options: Any) -> None:
        super().__init__(**options)
        self._item = item
        self._measured = 0

    def _advance(self, cell: Cell) -> None:
        """Show a colon for every hundred cells, unless this is a worker, which has no terminal."""
        self._measured += 1
        plugins = self.config.pluginmanager
        reporter, capture = plugins.get_plugin("terminalreporter"), plugins.get_plugin("capturemanager")
        if self._measured % 100 == 0 and reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                reporter.write(":", flush=True)

    def work(self) -> None:
        """Measure, unless that is known; fail for what is not as expected and not known to be so."""
        run = self.config.stash[_RUN]
        results = Results(run.matrices[self.path].results)
        session = self._session()
        key = self._item.key(session)
        known = None if run.fresh else results.read(self._item, key)
        if known is None:
            known = self._item.measure(session, self._advance)
            results.write(self._item, key, known)
        bad = [cell for cell in judge(known).cells if cell.verdict is Verdict.UNEXPECTED]
        if bad:
            raise _Failed("\n".join(_told(bad)))


def _told(cells: Sequence[Cell]) -> Iterator[str]:
    yield f"{len(cells)} not as expected:"
    for cell in cells:
        yield ""
        yield f"{cell.id} {cell.variant}".rstrip() + f": {cell.claim}"
        yield f"  expected  {json.dumps(cell.expected, ensure_ascii=False)}"
        yield f"  seen      {json.dumps(cell.seen, ensure_ascii=False)}"
        if cell.why:
            yield f"  why       {cell.why}"
        known = row_of(cell.id, cell.variant)
        if known is not None:
            yield f"  source    {known.source}"


class _SuiteItem(_Item):
    """A project's tests in a distribution."""

    def __init__(self, *, suite: Suite, distro: str, **options: Any) -> None:
        super().__init__(**options)
        self._suite = suite
        self._distro = distro

    def work(self) -> None:
        """Run them; fail with the log."""
        status, log = self._suite.run(self._session(), self._distro)
        if status:
            raise _Failed(f"pytest has ended with status {status}\n{log}")
        self.add_report_section("call", "log", log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the outputs: in the process that has started the workers, or has none."""
    run = session.config.stash.get(_RUN, None)
    if run is None or hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    for matrix in run.matrices.values():
        run.written += _write(matrix)


def _write(matrix: Matrix) -> Iterator[str]:
    """The outputs of what this lab knows of a matrix, also by earlier runs; a line about each."""
    results = Results(matrix.results)
    found = [results.read(item) for item in matrix.items]
    surveys = [judge(survey) for survey in found if survey is not None]
    again: dict[tuple[str, str], list[str]] = {}
    for item, survey in zip(matrix.items, found, strict=True):
        for what in stale(survey) if survey else ():
            again.setdefault(what, []).append(str(item))
    counts = Counter(cell.verdict for survey in surveys for cell in survey.cells)
    said = (
        ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in Verdict if counts[verdict]) or "nothing is known yet"
    )
    yield f"{matrix.path.name}: {len(surveys)} of {len(found)} places; {said}"
    others = sum(survey is None and results.has(item) for item, survey in zip(matrix.items, found, strict=True))
    if others:
        yield f"left out: {others} of another lab or of other ids, which were not measured anew"
    for (glob, reason), places in again.items():
        yield f"{glob} is as expected in {', '.join(places)}, though it is known not to be: {reason}"
    for form, file in matrix.outputs.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_form(form, surveys), encoding="utf-8")
            yield f"wrote {file}"
        except (OSError, Unsupported) as error:
            yield f"not written: {error}"


def _form(form: str, surveys: Sequence[Survey]) -> str:
    from udslab.report.atlas import atlas_html, atlas_markdown

    if form == "html":
        return atlas_html(surveys)
    if form == "markdown":
        return atlas_markdown(surveys)
    return json.dumps([survey.as_dict() for survey in surveys], indent=1) + "\n"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What is known, and what was written."""
    run = config.stash.get(_RUN, None)
    for line in run.written if run else ():
        terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the sessions."""
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.close()
