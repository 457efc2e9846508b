"""Measure behaviours in this place: ``python3 -m udslab.atlas [--jobs N] [PATTERN…]``.

Prints JSON lines: the place, and then each cell as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import sys

from udslab.atlas.catalogue import select
from udslab.atlas.runner import place, run


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="udslab.atlas", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at the same time")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="globs of ids (default: all)")
    options = parser.parse_args()
    print(json.dumps({"place": place()}), flush=True)
    for cell in run(select(options.patterns), options.jobs):
        print(json.dumps(cell.as_dict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
