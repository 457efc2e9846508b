"""Measure behaviours in this place: ``python3 -m udslab.atlas [--jobs N] [--directory DIR] [PATTERN…]``.

Prints JSON lines: the place, and then each cell as soon as it is known. SIGINT, SIGTERM and SIGHUP end it, as does the
end of whoever reads what it prints: what it has started is ended before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import closing
from typing import Any

from udslab import libc
from udslab.atlas.catalogue import load, select
from udslab.atlas.runner import Stopped, place, run

__all__ = ["main"]

_INTERRUPTED = 130
_NEW_USER_NAMESPACE = 0x10000000  # linux/sched.h


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="udslab.atlas", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at the same time")
    parser.add_argument("--directory", default="", metavar="DIR", help="where the measurements' directories are made")
    parser.add_argument("--mapped", action="store_true", help="as root of a user namespace of its own")
    parser.add_argument("--owned", action="store_true", help="end when standard input does")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="globs of ids (default: all)")
    options = parser.parse_args()
    behaviours = select(options.patterns) if options.patterns else load()
    if options.mapped:
        _become_mapped()
    stops = [_told_by_signals(), *([0] if options.owned else [])]
    try:
        _say({"place": place()})
        with closing(run(behaviours, options.jobs, stops, options.directory)) as cells:
            for cell in cells:
                _say(cell.as_dict())
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Stopped:
        return _INTERRUPTED
    return 0


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


def _told_by_signals() -> int:
    """A descriptor that can be read once a signal has said that this is to end: at a moment of the runner's choice."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return read


def _become_mapped() -> None:
    """Go into a user namespace in which this user is root. Ends the process where none can be made."""
    ids = [("uid_map", os.geteuid()), ("gid_map", os.getegid())]
    if not libc.unshare(_NEW_USER_NAMESPACE):
        sys.exit("no user namespace can be made")
    try:
        with open("/proc/self/setgroups", "w") as file:
            file.write("deny")
        for name, id in ids:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(f"0 {id} 1")
    except OSError as error:
        sys.exit(f"no user namespace can be mapped: {error}")


if __name__ == "__main__":
    sys.exit(main())
