"""How long the atlas takes: its runner's start from a zip, this place, a container of a distribution.

The runner comes over standard input, as into a container, and is timed until it has told where it is, and its first
cell. A container's survey is timed from the request for a container until that has gone, and compared with one of this
place, taken in turn.

Needs a container engine, the lab's base image (script/base-images) and the docker SDK:
`$(script/environment test)/bin/python benchmarks/atlas.py`.

Exit status: 0 the limits are met, 1 they are not, 2 the benchmark could not be run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from statistics import median

from common import BenchmarkError, positive, run, table, verdict

from udslab.containers import Session, bundle
from udslab.errors import EngineError
from udslab.places.container import Place, survey
from udslab.places.here import Here

START = 150.0
"""Milliseconds until the zip's runner tells where it is."""
HERE = 20.0
"""Seconds for all behaviours in this place."""
MORE = 3.0
"""Seconds that a distribution's container may take more than this place does."""


def benchmark() -> int:
    """Measure, print, judge; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="of each survey (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="measurements at a time (%(default)s)")
    parser.add_argument("--distro", default="debian-12", help="the container's (default: %(default)s)")
    options = parser.parse_args()
    starts = [_start() for _ in range(10 * options.rounds)]
    here: list[float] = []
    there: list[float] = []
    try:
        with Session() as session:
            for _ in range(options.rounds):
                here.append(_here(options.jobs))
                there.append(_there(session, options.distro, options.jobs))
    except EngineError as error:
        raise BenchmarkError(str(error)) from error
    told, first = (median(times) for times in zip(*starts, strict=True))
    rows = [
        ["the runner tells where it is", f"{told / 1000:.3f}"],
        ["the runner's first cell", f"{first / 1000:.3f}"],
        ["all behaviours in this place", f"{median(here):.2f}"],
        [f"all behaviours in a container of {options.distro}", f"{median(there):.2f}"],
    ]
    print(f"The atlas, {options.jobs} measurements at a time; medians:\n")
    print(table(["until", "s"], rows) + "\n")
    print(f"Linux {platform.release()}, CPython {platform.python_version()}, {os.cpu_count()} cores, not pinned\n")
    more = median(there) - median(here)
    statuses = [
        verdict(f"{START:.0f} ms", told <= START, f"the zip's runner starts in {told:.0f} ms"),
        verdict(f"{HERE:.0f} s", median(here) <= HERE, f"all behaviours in this place take {median(here):.1f} s"),
        verdict(f"this place + {MORE:.0f} s", more <= MORE, f"a container takes {more:+.1f} s more"),
    ]
    return max(statuses)


def _start() -> tuple[float, float]:
    """Milliseconds until a runner with one job has told where it is, and until its first cell."""
    words = bundle.command("--owned", module="udslab.atlas.__main__")
    before = time.perf_counter()
    with subprocess.Popen([sys.executable, *words[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as runner:
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(bundle.contents())
        runner.stdin.flush()
        times = []
        for _ in range(2):
            if not runner.stdout.readline():
                raise BenchmarkError("the runner does not run")
            times.append((time.perf_counter() - before) * 1000)
        runner.stdin.close()  # which ends it
        runner.stdout.read()
    return times[0], times[1]


def _here(jobs: int) -> float:
    before = time.perf_counter()
    with Here(jobs=jobs) as here:
        for _ in here:
            pass
    return time.perf_counter() - before


def _there(session: Session, distro: str, jobs: int) -> float:
    before = time.perf_counter()
    survey(session, Place(distro), jobs=jobs)
    return time.perf_counter() - before


if __name__ == "__main__":
    sys.exit(run(benchmark))
