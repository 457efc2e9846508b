"""Measures in this place: by a process of its own, for the runner forks and adopts orphans."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import udslab
from udslab.atlas.catalogue import select
from udslab.atlas.runner import Cell, count
from udslab.errors import Stage, UdsError
from udslab.places.survey import Reading, Survey
from udslab.spawn import Process

__all__ = ["Here"]

_DIES = 5.0


class Here:
    """Behaviours whose ids match are measured within the block; iterating gives the cells as they come.

    When the block ends, however it does, the runner and all that it has started are gone. Raises UdsError, with what
    the runner has said last, if it ends before it has told of all; ValueError for a pattern that no id matches.
    """

    def __init__(self, patterns: Sequence[str] = (), jobs: int = 1) -> None:
        self.count = count(select(patterns))
        """How many cells there will be."""
        self._command = [sys.executable, "-m", "udslab.atlas", "--jobs", str(jobs), *patterns]
        self._exits = ExitStack()

    def __enter__(self) -> Here:
        root = str(Path(udslab.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with ExitStack() as exits:
            # Killed with us it could not clean up; it ends when nobody reads what it says.
            self._runner = exits.enter_context(
                Process(self._command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, with_us=False)
            )
            try:
                self._reading = Reading(self._runner.stdout)
            except ValueError as error:
                raise self._ended() from error
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._exits.close()

    @property
    def survey(self) -> Survey:
        """What is known by now."""
        return self._reading.survey

    def __iter__(self) -> Iterator[Cell]:
        try:
            yield from self._reading
        except ValueError as error:
            raise self._ended() from error
        if len(self._reading.cells) < self.count:
            raise self._ended()

    def _ended(self) -> UdsError:
        if not self._runner.exits_within(_DIES):
            return UdsError(Stage.SERVICE, errno.EPROTO, what="the runner of the atlas says what is no cell")
        said = self._runner.output().strip().splitlines() or ["it has said nothing"]
        what = f"the runner of the atlas has ended with status {self._runner.returncode}"
        return UdsError(Stage.SERVICE, errno.ECHILD, None, f"its last line: {said[-1]}", what)
