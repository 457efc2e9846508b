"""``udslab ps``: the lab's containers and volumes, and whose they are."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from udslab.cli.options import Commands, add_json
from udslab.errors import UdsError
from udslab.report.terminal import print_table

if TYPE_CHECKING:
    from udslab.containers import Engine, Leftover

__all__ = ["add_engine", "add_parser", "facts", "print_leftovers", "visit"]

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
    print_leftovers(options, down, rows, ("kind", "name", "state", "owner", "age", "image"))
    return 1 if down else 0


def visit(names: Sequence[str], down: list[str]) -> Iterator[tuple[Engine, Leftover]]:
    """What is on each engine. One that cannot be asked is told of on standard error, and put into ``down``."""
    from udslab.containers import Engine, find

    for name in names or [None]:
        try:
            with Engine(name) as engine:
                for found in find(engine):
                    yield engine, found
        except UdsError as error:
            print(f"udslab: {error}", file=sys.stderr)
            down.append(str(name))


def facts(engine: Engine, found: Leftover) -> dict[str, Any]:
    """One container or volume, for JSON."""
    return {
        "engine": engine.name,
        "kind": str(found.kind),
        "name": found.name,
        "state": found.state,
        "owner": {"session": found.owner.session, "pid": found.owner.pid, "lives": found.owner.lives},
        "age": round(max(0.0, found.age)),
        "image": found.image,
    }
