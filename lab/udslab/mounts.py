"""What /proc/self/mountinfo (proc(5)) says of the mount that a file lies on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

__all__ = ["device", "is_overlay_layer"]


def _mounts() -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Mount id, device as ``major:minor``, file system type and super options of each mount."""
    # As bytes, for only newlines and blanks are escaped: a carriage return in a name is no end of line.
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table.read().split(b"\n")[:-1]:
            mount, _, rest = line.partition(b" - ")
            fields, kind_and_options = mount.split(b" "), rest.split(b" ")
            yield fields[0], fields[2], kind_and_options[0], kind_and_options[-1]


def device(fd: int) -> int:
    """The device of the descriptor's mount as the kernel encodes it (major << 20 | minor).

    Not ``st_dev``, if the mount can be seen from here: that is another number on btrfs, and on overlayfs over two file
    systems.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            mount_id = next(line.split()[1] for line in info if line.startswith(b"mnt_id:"))
        number = next(device for mount, device, _, _ in _mounts() if mount == mount_id)
        major, minor = map(int, number.split(b":"))
    except (OSError, StopIteration):
        shown = os.fstat(fd).st_dev
        major, minor = os.major(shown), os.minor(shown)
    return major << 20 | minor


def is_overlay_layer(fd: int) -> bool:
    """Whether the file that ``fd`` pins lies in a directory on which a mounted overlay writes, seen from outside.

    The overlay has an inode of its own for such a file, and a socket that lives in the overlay is bound to that one: a
    container's live socket looks stale in ``/var/lib/docker/overlay2``. Also true if it cannot be told, because the
    directory was given as a relative path when the overlay was mounted.
    """
    try:
        uppers = [upper for _, _, kind, options in _mounts() if kind == b"overlay" for upper in _uppers(options)]
        if not uppers:
            return False
        if not all(upper.startswith(b"/") for upper in uppers):
            return True
        directory = os.path.dirname(os.readlink(b"/proc/self/fd/%d" % fd))
        return bool(set(_identities(uppers)) & set(_identities(_ancestors(directory))))
    except OSError:
        return False


def _uppers(options: bytes) -> Iterator[bytes]:
    for option in re.split(rb"(?<!\\\\),", options):
        if option.startswith(b"upperdir="):
            # Escaped twice: a comma or backslash for the option, and blanks and backslashes, in octal, for the table.
            shown = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), option[len(b"upperdir=") :])
            yield re.sub(rb"\\(.)", rb"\1", shown)


def _ancestors(directory: bytes) -> Iterator[bytes]:
    while True:
        yield directory
        if directory in (b"/", b""):
            return
        directory = os.path.dirname(directory)


def _identities(paths: Iterator[bytes] | list[bytes]) -> Iterator[tuple[int, int]]:
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            continue
        yield info.st_dev, info.st_ino
