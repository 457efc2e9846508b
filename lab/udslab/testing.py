"""Assertions about what is at a path, for any test framework.

What is there instead, who holds it, and since when, stands in the failure.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from udslab.address import AddressLike
from udslab.state import State, Status, status

__all__ = ["assert_gone", "assert_in_use", "assert_serving", "assert_stale", "assert_untouched"]

__tracebackhide__ = True  # pytest shows the test's line, and none of this


def assert_serving(address: AddressLike) -> Status:
    """Something listens there, or is a bound datagram socket. No server notices the question."""
    return _check(address, "serving", lambda found: found.serving)


def assert_in_use(address: AddressLike) -> Status:
    """A socket is bound there, whether it listens or not."""
    return _check(address, "in use", lambda found: found.state in (State.LISTENING, State.BOUND))


def assert_stale(address: AddressLike) -> Status:
    """A socket file is there, and certainly no socket is bound to it."""
    return _check(address, "stale", lambda found: found.state is State.STALE and found.certain)


def assert_gone(address: AddressLike) -> Status:
    """Nothing is there, not even a dangling link; the directory may be gone, too. Where that may not be searched, it
    cannot be told, and so does not hold."""
    return _check(address, "gone", _is_gone)


class assert_untouched:
    """A context manager: what is at ``path`` is the same file with the same mode, owner and content after the block as
    before it. Of what may not be read, and of directories, the time of the last change stands for the content."""

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._before = _fingerprint(self._path)
        if self._before["there"] == _CANNOT_BE_TOLD:
            raise AssertionError(f"{_describe(_status_of(self._path))}; whether it is touched {_CANNOT_BE_TOLD}")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            return
        before, after = self._before, _fingerprint(self._path)
        if after != before:
            changed = ", ".join(
                f"{key}: {before.get(key)} before, {after.get(key)} after"
                for key in before.keys() | after.keys()
                if before.get(key) != after.get(key)
            )
            raise AssertionError(f"{_describe(_status_of(self._path))}; it was touched: {changed}")


_CANNOT_BE_TOLD = "cannot be told"


def _fingerprint(path: str | bytes | os.PathLike[str]) -> dict[str, object]:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return {"there": False}
    except PermissionError:
        return {"there": _CANNOT_BE_TOLD}
    facts: dict[str, object] = {
        "there": True,
        "inode": (info.st_dev, info.st_ino),
        "mode": oct(info.st_mode),
        "owner": (info.st_uid, info.st_gid),
        "size": info.st_size,
    }
    if stat.S_ISREG(info.st_mode):
        try:
            with open(path, "rb") as file:
                facts["content"] = hashlib.sha256(file.read()).hexdigest()
        except PermissionError:
            facts["changed"] = info.st_mtime_ns
    elif stat.S_ISDIR(info.st_mode):
        facts["changed"] = info.st_mtime_ns
    elif stat.S_ISLNK(info.st_mode):
        facts["target"] = os.readlink(os.fsencode(path))
    elif stat.S_ISSOCK(info.st_mode):
        facts["state"] = _status_of(path).state.value
    return facts


def _is_gone(found: Status) -> bool:
    if found.state is not State.UNREACHABLE:
        return found.state is State.ABSENT
    try:
        os.lstat(found.address.name)
    except OSError as error:
        return not isinstance(error, PermissionError)
    return False


def _status_of(path: str | bytes | os.PathLike[str]) -> Status:
    # As a path whatever it looks like: "@x" is a file here.
    return status(Path(os.fsdecode(path)), owners=True)


def _check(address: AddressLike, wanted: str, right: Callable[[Status], bool]) -> Status:
    found = status(address)
    if not right(found):
        raise AssertionError(f"{_describe(status(address, owners=True))}; expected: {wanted}")
    return found


def _describe(found: Status) -> str:
    words = [f"{found.address} is {found.describe()}"]
    if found.made is not None:
        since = datetime.datetime.fromtimestamp(found.made, datetime.timezone.utc)
        words.append(f"made {since:%Y-%m-%d %H:%M:%S} UTC by uid {found.uid}")
    words.extend(found.evidence)
    return "; ".join(words)
