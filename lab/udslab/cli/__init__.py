"""The ``udslab`` command. Exit status: 0 for success, 1 for "no", 2 for wrong use, 130 when interrupted."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import udslab
from udslab.cli.options import Unusable, reason, told
from udslab.errors import AddressError, ServiceError, UdsError

__all__ = ["main"]

_COMMANDS = ("serve", "send", "status", "explain", "audit", "atlas", "matrix", "ps", "clean", "demo")
_WRITE_FAILED = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (sys.argv's unless given); the exit status."""
    _prepare_standard_streams()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        # Not left to the interpreter's end, which would tell of a closed output in its own way.
        sys.stdout.flush()
    except (AddressError, ServiceError) as error:
        code = _complain(error, 2)
    except UdsError as error:
        code = _complain(error, 1)
    except OSError as error:
        if error.filename is None and error.errno in _WRITE_FAILED:
            code = _cannot_print(error)
        else:
            code = _complain(told(error), 2 if isinstance(error, Unusable) else 1)
    except KeyboardInterrupt:
        code = 130
    try:
        sys.stderr.flush()
    except OSError:
        _discard(2)
    return code


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="udslab",
        description="A test lab for Unix domain sockets.",
        epilog="An ADDRESS is a path, @name (abstract), or a unix: URL. Exit status: 0 success, 1 no, 2 wrong use.",
    )
    parser.add_argument("--version", action="version", version=f"udslab {udslab.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in names:
        import_module(f"udslab.cli.{name}").add_parser(commands)
    return parser


def _run(arguments: Sequence[str]) -> int:
    # Only what is asked for is imported, for that is most of the time that a command takes.
    asked = [word for word in arguments if not word.startswith("-")][:1]
    try:
        options = _parser(asked if asked and asked[0] in _COMMANDS else _COMMANDS).parse_args(arguments)
    except SystemExit as end:  # --help, --version, wrong use: not yet, for what was printed has not been written
        return int(end.code or 0)
    return int(options.run(options))


def _complain(error: object, code: int) -> int:
    with suppress(OSError):  # there is nowhere left to complain, and the exit status tells
        print(f"udslab: {error}", file=sys.stderr)
    return code


def _cannot_print(error: OSError) -> int:
    _discard(1)
    return _complain(f"standard output: {reason(error)}: what was to be printed is lost", 1)


def _discard(fd: int) -> None:
    """Let what is left in the buffer go nowhere: it must not fail once more when the interpreter ends (status 120)."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


def _prepare_standard_streams() -> None:
    """Put something where a standard descriptor was closed, or the next socket would get its number. Writing to
    standard output fails still (EBADF). And print what the output's encoding has not got as an escape sequence."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
