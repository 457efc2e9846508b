"""Options that several commands have."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from udslab.address import printable
from udslab.errors import UdsError
from udslab.socktype import SocketType

__all__ = ["Unusable", "add_jobs", "add_json", "add_type", "address", "named_files", "reason", "seconds", "told"]

_MOST_JOBS = 64
_MOST_SECONDS = 1_000_000

Commands = Any
"""What argparse's ``add_subparsers`` gives (its class is private)."""


def add_type(parser: argparse.ArgumentParser, default: str | None = SocketType.STREAM.value) -> None:
    """``--type stream|dgram|seqpacket``. ``default``: None where it is to be seen whether it was given."""
    parser.add_argument(
        "--type",
        choices=[type.value for type in SocketType],
        default=default,
        help=f"the type of socket (default: {SocketType.STREAM})",
    )


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    """``--jobs N``, of ``what`` is done."""
    parser.add_argument(
        "-j",
        "--jobs",
        type=_jobs,
        metavar="N",
        default=os.cpu_count() or 1,
        help=f"{what} at the same time (default: %(default)s)",
    )


def _jobs(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 to {_MOST_JOBS}")
    return int(word)


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``"""
    parser.add_argument("--json", action="store_true", help="print facts as JSON")


def address(word: str) -> bytes:
    """An address on the command line, as its exact bytes: it need not be UTF-8."""
    return os.fsencode(word)


def seconds(word: str) -> float | None:
    """A time limit; ``0`` for none. poll(2) counts milliseconds in 31 bits, so that it ends at some days."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds from 0 to {_MOST_SECONDS:,}")
    return value or None


class Unusable(OSError):
    """A file that was named on the command line cannot be read, or written: wrong use."""


@contextmanager
def named_files() -> Iterator[None]:
    """Within the block files are opened that were named on the command line. Raises :class:`Unusable`."""
    try:
        yield
    except UdsError:
        raise
    except OSError as error:
        raise Unusable(error.errno, error.strerror, error.filename) from error


def told(error: OSError) -> str:
    """An error that is none of the lab's own, in a line: the path, if it has one, and why."""
    if not isinstance(error.filename, (str, bytes)):
        return reason(error)
    return f"{printable(os.fsencode(error.filename))}: {reason(error)}"


def reason(error: OSError) -> str:
    """What the kernel says, with the errno's name."""
    if error.errno is None:  # as a TimeoutError of the socket module
        return str(error) or type(error).__name__
    return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"
