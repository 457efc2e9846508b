"""What fixtures have made for a test: kept with the test, so that its report can tell of it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from dataclasses import dataclass, field
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any

import pytest

import udslab

__all__ = [
    "Made",
    "encodable",
    "forget_made",
    "is_ours_alone",
    "made_for",
    "report_sections",
    "teardown_sections",
    "where_called",
]

_OURS = tuple(os.path.dirname(os.path.abspath(file)) + os.sep for file in (__file__, udslab.__file__))
_PLUGGY = os.sep + "pluggy" + os.sep
_STDLIB = os.path.dirname(os.__file__) + os.sep
_LONGEST = 1 << 20
"""Bytes of a file that are kept of a test that has failed."""


@dataclass
class Made:
    """A thing, and where it was asked for."""

    fixture: str
    where: str
    """File and line of the test or of its own fixture; empty if it came by the fixture's name alone."""
    thing: Any = None
    directory: str | None = None
    """What is kept when the test fails."""
    told: list[BaseException] = field(default_factory=list)
    """What of its handler's exceptions the test's own report tells."""
    shown: bool = False
    """Whether a report has its log."""

    def has_told(self, failure: BaseException) -> bool:
        """Whether that is one of them."""
        return any(failure is told for told in self.told)

    def __str__(self) -> str:
        return f"made by {self.fixture}" + (f" at {self.where}" if self.where else "")


_made = pytest.StashKey[list[Made]]()


def made_for(node: pytest.Item) -> list[Made]:
    """The things of a test, in the order in which they were made."""
    return node.stash.setdefault(_made, [])


def forget_made(node: pytest.Item) -> None:
    """The test is over: what it has made is not kept for the rest of the run, nor taken for its next attempt's."""
    if _made in node.stash:
        del node.stash[_made]


def where_called() -> str:
    """The file and line, outside of this package, from which this is called; empty if that is pytest."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    while frame is not None and frame.f_code.co_filename.endswith("contextlib.py"):
        frame = frame.f_back
    if frame is None or _PLUGGY in frame.f_code.co_filename or f"{os.sep}_pytest{os.sep}" in frame.f_code.co_filename:
        return ""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def is_ours_alone(traceback: TracebackType | None) -> bool:
    """Whether all of it is in the lab and in Python's own library."""
    files = (frame.f_code.co_filename for frame, _ in walk_tb(traceback))
    return all(file.startswith((*_OURS, _STDLIB, "<frozen ")) and "site-packages" not in file for file in files)


def encodable(text: Any) -> Any:
    """A text, also within dicts and lists, with a backslash and a number for each byte of a path that is not UTF-8."""
    if isinstance(text, str):
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()
    if isinstance(text, dict):
        return {key: encodable(value) for key, value in text.items()}
    if isinstance(text, (list, tuple)):
        return type(text)(map(encodable, text))
    return text


def report_sections(
    node: pytest.Item, request: pytest.FixtureRequest, shown: BaseException | None
) -> list[tuple[str, str]]:
    """What the report of a failed test says of its things: their logs, and where their files are kept. ``request``: the
    test's. ``shown``: the exception that the report shows, which may be that of a handler."""
    sections = _logs(node, shown)
    for made in made_for(node):
        if made.directory is not None and os.path.isdir(made.directory):
            try:
                name = re.sub(r"\W+", "_", node.name)[:30]
                factory = request.getfixturevalue("tmp_path_factory")  # not before: each fixture costs every test
                kept = _keep(made.directory, str(factory.mktemp(f"{name}-uds")), getattr(made.thing, "path", None))
            except (OSError, pytest.FixtureLookupError) as error:  # the latter: -p no:tmpdir
                kept = [f"its files are not kept: {_said(error)}"]
            if kept:
                sections.append((f"directory of {made.fixture}", "\n".join(kept)))
    return sections


def teardown_sections(node: pytest.Item) -> list[tuple[str, str]]:
    """The same where all has been undone: the logs of what has left something, unless they have been told."""
    return _logs(node, None)


def _logs(node: pytest.Item, shown: BaseException | None) -> list[tuple[str, str]]:
    sections = []
    for made in made_for(node):
        told = shown is not None and shown in getattr(made.thing, "failures", ())
        if made.shown or told or not hasattr(made.thing, "log"):
            continue
        log, ended = _log_of(made.thing), getattr(made.thing, "ended", None)
        if log or ended:
            made.shown = True
            how = f", which {ended}" if ended else ""
            sections.append((f"log of {made.thing!r}{how}, {made}", log or "nothing"))
    return sections


def _log_of(thing: Any) -> str:
    try:
        return str(thing.log())
    except OSError as error:  # what could tell it has gone: the zygote, the container
        return f"its log is not to be had: {error}"


def _said(error: OSError | pytest.FixtureLookupError) -> str:
    return str(error) if isinstance(error, OSError) else f"there is no fixture {error.argname}"


def _keep(directory: str, target: str, but: str | None) -> list[str]:
    """Copy the files, and say of the others what they are; a line each. ``but``: one that is told of elsewhere."""
    from udslab.report.text import clean  # see fixtures.uds
    from udslab.state import status

    lines = []

    def failed(error: OSError) -> None:
        if error.filename == directory:
            raise error
        lines.append(f"{os.path.relpath(error.filename, directory)}: {error.strerror}")

    for where, inner, names in os.walk(directory, onerror=failed):
        inner.sort()
        for path in (os.path.join(where, name) for name in sorted(names)):
            name = os.path.relpath(path, directory)
            if path == but:
                continue
            try:
                info = os.lstat(path)
                if not stat.S_ISREG(info.st_mode):
                    lines.append(f"{name}: {status(path, owners=True).describe()}")
                elif info.st_size > _LONGEST:
                    lines.append(f"{name}: {info.st_size} bytes, which is too much to be kept")
                else:
                    kept = os.path.join(target, name)
                    os.makedirs(os.path.dirname(kept), exist_ok=True)
                    shutil.copy2(path, kept)
                    lines.append(f"{name}: {info.st_size} bytes")
            except OSError as error:
                lines.append(f"{name}: {error.strerror}")
    return [f"a copy of its files is kept in {target}", *map(clean, lines)] if lines else []
