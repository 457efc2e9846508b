"""``udslab ps``: the lab's containers and volumes, and whose they are."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from udslab.cli.options import Commands, add_json
from udslab.errors import EngineError
from udslab.report.terminal import print_table

if TYPE_CHECKING:
    from udslab.containers import Engine, Leftover

__all__ = ["add_engine", "add_parser", "all_down", "facts", "print_rows", "visit"]

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def add_parser(commands: Commands) -> None:
    """Add ``ps``."""
    parser = commands.add_parser(
        "ps",
        help="list the lab's containers and volumes",
        description="List the containers and volumes that sessions have made, of every user of the engine: whose they "
        "are, and whether that process lives, has gone, or is elsewhere and cannot be seen from here. Exit status 1 if "
        "an engine could not be asked.",
    )
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """``--engine``, repeatable"""
    parser.add_argument(
        "--engine",
        dest="engines",
        metavar="NAME",
        action="append",
        default=[],
        help="a Docker context or a URL; may be repeated (default: what the docker command would use)",
    )


def run(options: argparse.Namespace) -> int:
    """List."""
    down: list[str] = []
    rows = [facts(engine, found) for engine, found in visit(options.engines, down)]
    if options.json and not all_down(options.engines, down):
        print(json.dumps(rows, indent=2))
    elif rows:
        print_rows(options.engines, ("kind", "name", "state", "owner", "age", "image"), rows)
    elif not down:
        print("nothing of the lab's is there")
    return 1 if down else 0


def visit(names: Sequence[str], down: list[str]) -> Iterator[tuple[Engine, Leftover]]:
    """What is on each engine; one that cannot be asked is told of on standard error, and its name put into ``down``.

    Raises :class:`~udslab.errors.Unsupported` if the docker SDK is not installed.
    """
    from udslab.containers import Engine, find

    for name in names or [""]:
        try:
            with Engine(name or None) as engine:
                for found in find(engine):
                    yield engine, found
        except EngineError as error:
            print(f"udslab: {error}", file=sys.stderr)
            down.append(name)


def all_down(names: Sequence[str], down: Sequence[str]) -> bool:
    """Whether there is nothing to tell, for no engine could be asked."""
    return len(down) >= max(1, len(names))


def facts(engine: Engine, found: Leftover) -> dict[str, Any]:
    """One container or volume; ``age`` in seconds, by the engine's clock."""
    return {
        "engine": engine.name,
        "kind": found.kind,
        "name": found.name,
        "state": found.state,
        "owner": {**vars(found.owner), "lives": found.owner.lives},
        "age": max(0, round(found.age)),
        "image": found.image,
    }


def print_rows(engines: Sequence[str], columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print ``columns`` of rows; those of several engines with the engine before them."""
    columns = ("engine", *columns) if len(engines) > 1 else columns
    table = [[_WORDS.get(column, str)(row[column]) for column in columns] for row in rows]
    print_table([column.upper() for column in columns], table)


def _owner(owner: dict[str, Any]) -> str:
    word = {True: "lives", False: "gone", None: "elsewhere"}[owner["lives"]]
    pid = owner["pid"] if owner["pid"].isdecimal() else "?"  # labels may hold anything
    return f"{pid} {word}"


def _age(seconds: int) -> str:
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size or size == 1)
    return f"{seconds // size} {unit}"


_WORDS: dict[str, Callable[[Any], str]] = {"owner": _owner, "age": _age}
