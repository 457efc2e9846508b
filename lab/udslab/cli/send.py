"""``udslab send``: lines from standard input to a server, its answers to standard output."""

from __future__ import annotations

import argparse

from udslab.cli.options import Commands, add_type, address, seconds
from udslab.client import converse
from udslab.connection import connect
from udslab.socktype import SocketType

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add ``send``."""
    parser = commands.add_parser(
        "send",
        help="send lines to a server and print its answers",
        description="Connect to PATH, send standard input line by line, and print what comes back, until both sides "
        "have ended. With datagrams and packets each line is one record.",
    )
    parser.add_argument("path", metavar="PATH", type=address, help="a path, @name (abstract), or a unix: URL")
    add_type(parser)
    parser.add_argument(
        "--bind",
        type=address,
        metavar="auto|PATH",
        help="bind a client file first: one of its own (auto), or PATH; datagrams do so by themselves, to be answered",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="limit for connecting, and for the next answer once the input has ended; 0 for none (default: 10)",
    )
    parser.add_argument("--no-answers", action="store_true", help="do not wait for answers to datagrams")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Send."""
    own = options.bind
    if own is None and options.type == SocketType.DGRAM and not options.no_answers:
        own = b"auto"
    with connect(options.path, type=options.type, timeout=options.timeout, bind=own) as connection:
        converse(connection, 0, 1, timeout=options.timeout, answers=not options.no_answers)
    return 0
