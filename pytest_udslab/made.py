"""What fixtures have made for a test: kept with the test, so that its report can tell of it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest

import udslab

__all__ = ["Made", "made_for", "report_sections", "where_called"]

_OURS = tuple(os.path.dirname(os.path.abspath(file)) + os.sep for file in (__file__, udslab.__file__))
_PLUGGY = os.sep + "pluggy" + os.sep
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

    def has_told(self, failure: BaseException) -> bool:
        """Whether that is one of them."""
        return any(failure is told for told in self.told)

    def __str__(self) -> str:
        return f"made by {self.fixture}" + (f" at {self.where}" if self.where else "")


_made = pytest.StashKey[list[Made]]()


def made_for(node: pytest.Item) -> list[Made]:
    """The things of a test, in the order in which they were made."""
    return node.stash.setdefault(_made, [])


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


def report_sections(
    node: pytest.Item, request: pytest.FixtureRequest, shown: BaseException | None
) -> list[tuple[str, str]]:
    """What the report of a failed test says of its things: their logs, and where their files are kept. ``request``: the
    test's. ``shown``: the exception that the report shows, which may be that of a handler."""
    sections = []
    for made in made_for(node):
        told = shown is not None and shown in getattr(made.thing, "failures", ())
        log = made.thing.log() if hasattr(made.thing, "log") and not told else ""
        if log:
            sections.append((f"log of {made.thing!r}, {made}", log))
        if made.directory is not None and os.path.isdir(made.directory):
            name = re.sub(r"\W+", "_", node.name)[:30]
            factory = request.getfixturevalue("tmp_path_factory")  # not before: each fixture costs every test
            kept = _keep(made.directory, str(factory.mktemp(f"{name}-uds")))
            if kept:
                sections.append((f"directory of {made.fixture}", "\n".join(kept)))
    return sections


def _keep(directory: str, target: str) -> list[str]:
    """Copy the files, and say of the others what they are; a line each."""
    from udslab.state import status  # see fixtures.uds

    lines = [f"a copy of its files is kept in {target}"]
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        try:
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode) and info.st_size <= _LONGEST:
                shutil.copy2(path, target)
                lines.append(f"{name}: {info.st_size} bytes")
            else:
                lines.append(f"{name}: {status(path, owners=True).describe()}")
        except OSError as error:
            lines.append(f"{name}: {error.strerror}")
    return lines if len(lines) > 1 else []
