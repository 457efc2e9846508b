"""``udslab demo``: the life of a socket file, in acts, each of them checked."""

from __future__ import annotations

import argparse
import errno
import json
import signal
from typing import Any

from udslab.cli.options import Commands, add_json, address, seconds
from udslab.demo import Act, in_containers, play, with_processes
from udslab.errors import Stage, TimedOut
from udslab.report.terminal import print_table

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="tell the life of a socket file",
        description="Tell the life of a socket file in acts, with real processes: each with what the calls returned "
        "and what is on the disk, and each checked. Exit status 1 if any act is not as told.",
    )
    parser.add_argument(
        "--agent",
        type=address,
        metavar="PATH",
        help="the server's part is played by the agent at PATH, in another container, and the acts in its directory",
    )
    parser.add_argument("--limit", type=seconds, metavar="SECONDS", help="give up after so long")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Play, print, and say whether all was as told."""
    if options.limit is not None:
        signal.signal(signal.SIGALRM, _give_up)
        # Again and again: the handler of a signal that comes just before a call that waits runs when that is over.
        signal.setitimer(signal.ITIMER_REAL, options.limit, 0.1)
    try:
        return _run(options)
    except _LimitReached:
        what = f"not over in {options.limit:g} s"
        raise TimedOut(Stage.SERVICE, errno.ETIMEDOUT, None, "see what the last act waits for", what) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # or it comes when the handler has gone


def _run(options: argparse.Namespace) -> int:
    passed = True
    acts = []
    with in_containers(options.agent) if options.agent else with_processes() as scene:
        for number, act in enumerate(play(scene), 1):
            passed = passed and act.passed
            if options.json:
                acts.append(_facts(act))
                continue
            print(f"Act {number}. {act.title}")
            print_table((), [_shown_line(*line) for line in act.lines])
            print(flush=True)
    if options.json:
        print(json.dumps({"passed": passed, "acts": acts}, indent=2))
    else:
        print("All was as told." if passed else "Not all was as told: see FAILED.")
    return 0 if passed else 1


class _LimitReached(BaseException):
    """No Exception, which an act could take for its own."""


def _give_up(*_: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise _LimitReached


def _facts(act: Act) -> dict[str, Any]:
    lines = [{"who": who, "what": what, "result": result} for who, what, result in act.lines]
    return {"title": act.title, "passed": act.passed, "lines": lines}


def _shown_line(who: str, what: str, result: str) -> tuple[str, str, str]:
    returned = who not in ("disk", "ok", "FAILED")
    return f"{who:8}", what, f"= {result}" if returned else result
