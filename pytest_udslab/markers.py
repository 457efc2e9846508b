"""Markers that say what they cannot: nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_udslab import leaks, options

__all__ = ["refuse_wrong"]


def refuse_wrong(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raises :class:`pytest.UsageError` for the first wrong marker. A worker of pytest-xdist cannot end the run by
    that: there, the test fails that has it."""
    for index, item in enumerate(items):
        try:
            options.check_marker(item)
            leaks.mode_of(item)
        except pytest.UsageError as error:
            if not hasattr(config, "workerinput"):
                raise
            items[index] = _refused(item, str(error))


def _refused(item: pytest.Item, why: str) -> pytest.Item:
    return _Refused.from_parent(item.parent or item.session, name=item.name, why=why, where=item.reportinfo())


class _Refused(pytest.Item):
    """In the place of a test with a wrong marker. It has none, not even those of its class: an xfail is of the test."""

    def __init__(self, *, why: str, where: Any, **given: Any) -> None:
        super().__init__(**given)
        self._why, self._where = why, where

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[Any]:
        return iter(())

    def reportinfo(self) -> Any:
        return self._where

    def runtest(self) -> None:
        pytest.fail(self._why, pytrace=False)
