"""How long a whole audit takes, of a server that starts in about 50 ms and answers every probe by serving or exiting.

The server is a sound one of Python's standard library, whose start is drawn out to 50 ms by work; all probes are
played, with ten rounds of each race, two at a time. Probes run by themselves show what each of them takes.

Exit status: 0 the limit is met, 1 it is not, 2 the benchmark could not be run.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from common import positive, run, table, verdict

from udslab.audit import Subject
from udslab.audit.crew import Crew
from udslab.audit.host import user_named

LIMIT = 60.0
"""Seconds for the whole audit."""
START = 0.05
"""Seconds that a start takes, at the least."""
PLANTED = Path(__file__).parent.parent / "tests" / "audit" / "planted.py"
PROGRAM = f"""
import runpy, sys, time
end = time.monotonic() + {START}
while time.monotonic() < end:
    pass
sys.argv = ["planted.py", "perfect", *sys.argv[1:]]
runpy.run_path("planted.py", run_name="__main__")
"""


def benchmark(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="probes at a time (default: %(default)s)")
    options = parser.parse_args(arguments)
    python = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable  # one that an ordinary user can read
    subject = Subject(
        [python, "-S", "-E", "slow.py", "{socket}"],
        name="a sound server",
        files={"planted.py": PLANTED.read_text(), "slow.py": PROGRAM},
        ping="echo",
    )
    crew = Crew([subject], jobs=options.jobs, user=user_named(None))
    began = time.monotonic()
    for _ in crew.work():
        pass
    took = time.monotonic() - began
    findings = crew.audits()[0].findings
    start = next(finding.facts["seconds"] for finding in findings if finding.probe == "fresh-start")
    print(f"A server that starts in {1000 * start:.0f} ms, {len(findings)} probes, {options.jobs} at a time:\n")
    rows = [[finding.probe, finding.outcome or "(skip)", f"{finding.seconds:.2f}"] for finding in findings]
    print(table(["probe", "outcome", "s"], rows) + "\n")
    print(f"Linux {platform.release()}, {os.cpu_count()} cores, not pinned\n")
    return verdict(f"{LIMIT:.0f} s", took <= LIMIT, f"the whole audit takes {took:.1f} s")


if __name__ == "__main__":
    sys.exit(run(benchmark))
