"""What a command has found, in the forms that were asked for: a report is written whole, or not at all."""

from __future__ import annotations

import argparse
import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from udslab.cli.options import named_files, told
from udslab.errors import ServiceError, Unsupported

__all__ = ["Form", "add_forms", "as_json", "asked", "tell", "try_out", "write"]

Form = Callable[[Sequence[Any]], str]

_NO_SUCCESSOR = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
"""A directory that may not be written, an owner that cannot be given, a mount."""


def add_forms(parser: argparse.ArgumentParser, **forms: str) -> None:
    """An option for each form, such as ``--json FILE``, with what is written."""
    for form, what in forms.items():
        parser.add_argument(f"--{form}", metavar="FILE", help=f"write {what} there (-: standard output)")


def as_json(found: Sequence[Any], indent: int = 2) -> str:
    """What has ``as_dict``: an object, or of several a list."""
    whole = [each.as_dict() for each in found]
    return json.dumps(whole[0] if len(whole) == 1 else whole, indent=indent) + "\n"


def asked(options: argparse.Namespace, **forms: Form) -> dict[str, Form]:
    """What is to be written, by file; "-" is standard output.

    Raises what would make the work vain: a file that cannot be written, a program that is needed."""
    files = [(getattr(options, name), form) for name, form in forms.items()]
    given = [("-" if _is_standard_output(file) else file, form) for file, form in files if file is not None]
    if len(dict(given)) < len(given):
        raise ServiceError("two forms cannot be written to the same place")
    for file, form in given:
        try:
            form([])
        except Unsupported as error:
            raise ServiceError(f"--html: {error.strerror}", error.hint) from error
        if file != "-":
            with named_files():
                try_out(file)
    return dict(given)


def tell(
    found: Sequence[Any],
    print_it: Callable[[Sequence[Any]], None],
    forms: Mapping[str, Form],
    *,
    into_files: bool = True,
) -> bool:
    """Print what was found, unless one of its forms takes the place on standard output, and write each form that can be
    written. Whether all could be."""
    try:
        if "-" in forms:
            sys.stdout.write(forms["-"](found))
        else:
            print_it(found)
        sys.stdout.flush()
    finally:  # whoever reads that may have gone
        files = [(file, form(found)) for file, form in forms.items() if file != "-" and into_files]
        written = [_is_written(file, text) for file, text in files]
    return all(written)


def _is_written(file: str, text: str) -> bool:
    try:
        write(file, text)
    except OSError as error:
        print(f"udslab: {told(error)}: what was to be written is lost", file=sys.stderr)
        return False
    return True


def _is_standard_output(file: str) -> bool:
    """Whether that is another name for it, such as /dev/stdout."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(1))
    except OSError:
        return False


def try_out(file: str) -> None:
    """Raise the OSError that writing there would raise, and leave all as it is."""
    if Path(file).is_fifo():  # its reader would take this for the end
        return
    is_new = not os.path.exists(file)
    open(file, "a").close()
    if is_new:
        os.remove(os.path.realpath(file))


def write(file: str, text: str) -> None:
    """Put a report there. A file that is there stays as it is until the report is whole, and its mode, its owner and
    links to it stay; what cannot have a successor is written into. Raises OSError with the file's name."""
    try:
        if not _replaced(file, text):
            with open(file, "w", encoding="utf-8") as out:
                out.write(text)
    except OSError as error:  # which would not say where, or say it of another name
        raise OSError(error.errno, error.strerror, file) from None


def _replaced(file: str, text: str) -> bool:
    """Whether a file of this text could be put in the place of what is there."""
    before = os.stat(file) if os.path.exists(file) else None
    is_plain = before is None or (stat.S_ISREG(before.st_mode) and before.st_nlink == 1)
    if not is_plain or os.path.abspath(file).startswith(("/dev/", "/proc/")):
        return False
    place = os.path.realpath(file)
    beside = os.path.join(os.path.dirname(place), f".udslab-{secrets.token_hex(8)}")
    try:
        with open(beside, "x", encoding="utf-8") as out:
            if before is not None:
                os.fchown(out.fileno(), before.st_uid, before.st_gid)
                os.fchmod(out.fileno(), stat.S_IMODE(before.st_mode))
            out.write(text)
        os.replace(beside, place)
    except OSError as error:
        if error.errno in _NO_SUCCESSOR:
            return False
        raise
    finally:
        with suppress(OSError):
            os.remove(beside)
    return True
