"""``udslab clean``: remove stale socket files, and what sessions have left on container engines."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from udslab.address import Address
from udslab.cli.options import Commands, add_json, address
from udslab.cli.ps import add_engine, all_down, facts, print_rows, visit
from udslab.deadline import Deadline
from udslab.errors import EngineError, Stage, UdsError, failure
from udslab.mounts import is_overlay_layer
from udslab.report.terminal import print_table
from udslab.socketfile import lock, remove_pinned
from udslab.state import examine, pin

__all__ = ["add_parser"]

_LOCK_TIMEOUT = 1.0


def add_parser(commands: Commands) -> None:
    """Add ``clean``."""
    parser = commands.add_parser(
        "clean",
        help="remove stale socket files, and containers and volumes that were left behind",
        description="Find the socket files in each DIR and below that are certainly stale, and with --yes remove them. "
        "With --containers, too, the lab's containers that do not run and volumes that are not mounted, unless the "
        "process that made them lives; of those whose owner is elsewhere, only you can know. Nothing else is touched. "
        "Exit status 1 if something could not be read or removed.",
    )
    parser.add_argument("directories", metavar="DIR", nargs="*", type=address, help="a directory")
    parser.add_argument("--containers", action="store_true", help="containers and volumes, with the lab's labels")
    add_engine(parser)
    parser.add_argument("--yes", action="store_true", help="remove them; otherwise they are only listed")
    add_json(parser)
    parser.set_defaults(run=run, error=parser.error)


def run(options: argparse.Namespace) -> int:
    """Clean."""
    if not options.directories and not options.containers:
        return _wrong(options, "name a DIR, or --containers")
    if options.engines and not options.containers:
        return _wrong(options, "--engine needs --containers")
    for directory in options.directories:
        _check(Address.pathname(directory))  # all of them, before anything is removed
    down: list[str] = []
    left = list(_clean_engines(options.engines, options.yes, down)) if options.containers else []
    results = [result for directory in options.directories for result in _clean(directory, options.yes)]
    answered = options.containers and not all_down(options.engines, down)
    if options.json:
        if options.directories or answered:
            print(json.dumps(results + left, indent=2))
    else:
        if results:
            print_table(("STATE", "DONE", "PATH"), [(row["state"], row["done"], row["path"]) for row in results])
        if options.directories:
            _sum_up("stale", [row for row in results if row["state"] == "stale"])
        if left:
            print_rows(options.engines, ("kind", "name", "state", "done"), left)
        if answered:
            _sum_up("of the lab's", left)
    return 1 if down or any(row["failed"] for row in results + left) else 0


def _wrong(options: argparse.Namespace, what: str) -> int:
    with suppress(SystemExit):
        options.error(what)
    return 2


def _sum_up(what: str, rows: list[dict[str, Any]]) -> None:
    removed = sum(row["done"] == "removed" for row in rows)
    hint = "; remove them with --yes" if any(row["done"].startswith("would be") for row in rows) else ""
    print(f"{len(rows)} {what}, {removed} removed{hint}")


def _check(top: Address) -> None:
    try:
        os.close(os.open(top.name, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        raise failure(Stage.STATUS, error, top, "name a directory that can be read") from error


def _clean(top: bytes, remove: bool) -> Iterator[dict[str, Any]]:
    # With a slash at its end it is walked also if it is a symbolic link.
    for directory, below, files, dir_fd in os.fwalk(os.path.join(top, b"")):
        for name in sorted(below):
            try:
                os.close(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=dir_fd))
            except PermissionError as error:
                yield _unreachable(os.path.join(directory, name), error)
            except OSError:
                pass  # a symbolic link, or gone; it is not walked
        for name in sorted(files):
            found = _look(os.path.join(directory, name), name, dir_fd, remove)
            if found is not None:
                yield found


def _look(path: bytes, name: bytes, dir_fd: int, remove: bool) -> dict[str, Any] | None:
    where = Address.pathname(path)
    try:
        with pin(name, dir_fd=dir_fd) as fd:
            found = examine(fd, where, at=(dir_fd, name))
            if found.state != "stale":
                return None
            done, failed = "left: not certain", False
            if found.removable and not is_overlay_layer(fd):
                done, failed = _remove(where, name, dir_fd, fd) if remove else ("would be removed", False)
    except FileNotFoundError:
        return None  # it has just gone
    except PermissionError as error:
        return _unreachable(path, error)
    return {"path": str(where), "state": "stale", "done": done, "failed": failed}


def _unreachable(path: bytes, error: OSError) -> dict[str, Any]:
    done = f"left: {os.strerror(error.errno or 0)}"
    return {"path": str(Address.pathname(path)), "state": "unreachable", "done": done, "failed": True}


def _remove(where: Address, name: bytes, dir_fd: int, fd: int) -> tuple[str, bool]:
    try:
        with lock(dir_fd, Deadline(_LOCK_TIMEOUT), where):
            return (
                ("removed", False)
                if remove_pinned(dir_fd, name, os.fstat(fd))
                else ("left: it has just been replaced", False)
            )
    except OSError as error:
        known = error if isinstance(error, UdsError) else failure(Stage.CLOSE, error)
        return f"left: {known.strerror}", True


def _clean_engines(names: list[str], remove: bool, down: list[str]) -> Iterator[dict[str, Any]]:
    for engine, found in visit(names, down):
        done, failed = f"left: {found.why_left}", False
        if found.removable:
            done = "would be removed" if found.owner.lives is False else "would be removed (owner elsewhere)"
            if remove:
                try:
                    found.remove(engine)
                    done = "removed"
                except EngineError as error:
                    done, failed = f"left: {error.strerror}", True
        yield {**facts(engine, found), "done": done, "failed": failed}
