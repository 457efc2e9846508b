"""What /proc/self/mountinfo (proc(5)) says of the mount that a file lies on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

__all__ = ["device", "is_overlay_layer"]


def _mounts() -> Iterator[tuple[str, str, str, str]]:
    """Mount id, device as ``major:minor``, file system type and super options of each mount."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as table:
        for line in table:
            mount, _, rest = line.partition(" - ")
            fields, kind_and_options = mount.split(), rest.split()
            yield fields[0], fields[2], kind_and_options[0], kind_and_options[-1]


def device(fd: int) -> int | None:
    """The device of the descriptor's mount as the kernel encodes it (major << 20 | minor); None if it cannot be told.

    Not ``st_dev``: that is another number on btrfs, and on overlayfs over two file systems.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}") as info:
            mount_id = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
        number = next(device for mount, device, _, _ in _mounts() if mount == mount_id)
    except (OSError, StopIteration):
        return None
    major, minor = map(int, number.split(":"))
    return major << 20 | minor


def is_overlay_layer(fd: int) -> bool:
    """Whether the file that ``fd`` pins lies in a directory of which a mounted overlay is made, seen from outside.

    The overlay has an inode of its own for such a file, and a socket that lives in the overlay is bound to that one: a
    container's live socket looks stale in ``/var/lib/docker/overlay2``.
    """
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        layers = [layer for _, _, kind, options in _mounts() if kind == "overlay" for layer in _layers(options)]
    except OSError:
        return False
    return any(path.startswith(layer.rstrip("/") + "/") for layer in layers)


def _layers(options: str) -> Iterator[str]:
    for option in options.split(","):
        key, _, value = option.partition("=")
        if key in ("upperdir", "lowerdir"):
            for directory in value.split(":"):
                # mountinfo writes blanks and backslashes as octal
                yield re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), directory)
