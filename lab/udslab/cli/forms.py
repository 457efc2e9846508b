"""Files that a report is written to: whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["is_standard_output", "try_out", "write"]

_NO_SUCCESSOR = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
"""A directory that may not be written, an owner that cannot be given, a mount."""


def is_standard_output(file: str) -> bool:
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
