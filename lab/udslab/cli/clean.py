"""``udslab clean``: remove stale socket files."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from udslab.address import Address
from udslab.cli.options import Commands, add_json, address
from udslab.deadline import Deadline
from udslab.errors import Stage, UdsError, failure
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
        help="remove stale socket files",
        description="Find the socket files in each DIR and below that are certainly stale, and with --yes remove them. "
        "Nothing else is touched. Exit status 1 if something could not be read or removed.",
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", type=address, help="a directory")
    parser.add_argument("--yes", action="store_true", help="remove them; otherwise they are only listed")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Clean."""
    for directory in options.directories:
        _check(Address.pathname(directory))  # all of them, before anything is removed
    results = [result for directory in options.directories for result in _clean(directory, options.yes)]
    if options.json:
        print(json.dumps(results, indent=2))
    elif results:
        print_table(("STATE", "DONE", "PATH"), [(row["state"], row["done"], row["path"]) for row in results])
    if not options.json:
        stale = sum(row["state"] == "stale" for row in results)
        removed = sum(row["done"] == "removed" for row in results)
        hint = "" if options.yes or not stale else "; remove them with --yes"
        print(f"{stale} stale, {removed} removed{hint}")
    return 1 if any(row["failed"] for row in results) else 0


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
