"""``udslab status``: what is at a path."""

from __future__ import annotations

import argparse
import json

from udslab.cli.options import Commands, add_json, address
from udslab.report.terminal import print_table
from udslab.state import State, Status, status

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add ``status``."""
    parser = commands.add_parser(
        "status",
        help="tell what is at a path, and who holds it",
        description="Tell what is at each PATH, without any server noticing: absent, not-a-socket, dangling-link, "
        "listening, bound, stale, unreachable or unknown. Exit status 0 if all are served (listening, or bound "
        "datagram sockets), 1 if not.",
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=address, help="a path, @name (abstract), or a unix: URL"
    )
    add_json(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="print the evidence, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Tell."""
    found = [status(path, owners=True) for path in options.paths]
    if options.json:
        print(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        print_table(
            ("STATE", "TYPE", "MODE", "UID", "PIDS", "NOTES", "PATH"),
            [_row(one) for one in found],
        )
        if options.verbose:
            for one in found:
                for line in one.evidence:
                    print(f"{one.address}: {line}")
    return 0 if all(one.serving for one in found) else 1


def _row(found: Status) -> tuple[str, ...]:
    notes = []
    if found.kind is not None and found.kind != "socket" and not found.link:
        notes.append(str(found.kind))
    if found.link:
        notes.append("symbolic link")
    if found.full:
        notes.append("backlog full")
    elif found.backlog:
        notes.append("backlog {} of {}".format(*found.backlog))
    if found.state is State.UNREACHABLE:
        notes.append(found.evidence[0])
    elif not found.certain:
        notes.append("not certain: see -v")
    return (
        str(found.state),
        str(found.type or "-"),
        "-" if found.mode is None else f"{found.mode:04o}",
        "-" if found.uid is None else str(found.uid),
        ",".join(map(str, found.pids or ())) or "-",
        ", ".join(notes) or "-",
        str(found.address),
    )
