"""Changed values: what a measurement would have given had the kernel done otherwise."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

_ERRNOS = [*sorted(set(errno.errorcode.values())), "ok"]


def mutants(value: Any) -> Iterator[Any]:
    """Each with one thing changed: another errno, number, text or truth, another order, something less or more."""
    yield from _of_leaf(value)
    if isinstance(value, dict):
        for key in value:
            yield {other: each for other, each in value.items() if other != key}
            yield {(f"{other}?" if other == key else other): each for other, each in value.items()}
            for each in mutants(value[key]):
                yield {**value, key: each}
        yield {**value, "more": "ok"}
    if isinstance(value, list):
        if value != value[::-1]:
            yield value[::-1]
        for number, each in enumerate(value):
            yield value[:number] + value[number + 1 :]
            for other in mutants(each):
                yield [*value[:number], other, *value[number + 1 :]]
        yield [*value, "ok"]


def _of_leaf(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
        yield int(value)
    elif isinstance(value, (int, float)):
        yield value + 1
        yield -value - 1
        yield str(value)
    elif isinstance(value, str):
        if value in _ERRNOS:
            yield _ERRNOS[_ERRNOS.index(value) - 1]
        yield value + "x"
        yield value[:-1] if value else " "
        yield [value]
    if value is not None:
        yield None
    else:
        yield "ok"
