"""Round trips to the lab's own server against a C server, at 1 and at 8 clients, all on one core.

The same C client asks the two servers in turn, so that whatever else the machine does meets both alike. The
first turn is thrown away. Judged is the lab's median round trip over C's, taken in each repetition: the
median of these ratios must not be above the limit, at either number of clients.

Exit status: 0 the limit is met, 1 it is not, 2 the benchmark could not be run.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from common import (
    Percentiles,
    lab_server,
    machine,
    pin_to_one_core,
    positive,
    run,
    serving,
    table,
    verdict,
    workshop,
)

LIMIT = 2.2
"""The lab's median round trip over the C server's."""

CLIENTS = (1, 8)


def benchmark() -> int:
    """Measure, print, judge; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=positive, default=7, help="how often each server is asked (7)")
    parser.add_argument("--round-trips", type=positive, default=20_000, help="in each run (20,000)")
    parser.add_argument("--size", type=positive, default=64, help="bytes of a request (64)")
    options = parser.parse_args()

    core = pin_to_one_core()
    runs: dict[tuple[int, str], list[Percentiles]] = {}
    with workshop() as shop:
        paths = {"C": shop.socket_path("c"), "udslab": shop.socket_path("lab")}
        with (
            serving([*shop.c_server, paths["C"]], paths["C"]),
            serving(lab_server(paths["udslab"]), paths["udslab"]),
        ):
            for repetition in range(1 + options.repetitions):
                for clients in CLIENTS:
                    for server, path in paths.items():
                        figures = shop.ping_pong(
                            path, clients=clients, size=options.size, round_trips=options.round_trips
                        )
                        if repetition > 0:
                            runs.setdefault((clients, server), []).append(figures)

    print(f"Round trips of {options.size} bytes over a Unix stream socket, {options.round_trips:,} a run:")
    print(f"medians of {options.repetitions} interleaved repetitions.\n")
    header = ["clients, server", "p50 µs", "p90 µs", "p99 µs", "round trips/s"]
    print(table(header, [_row(*asked, figures) for asked, figures in runs.items()]) + "\n")
    ratios = {
        clients: [lab.p50 / c.p50 for c, lab in zip(runs[clients, "C"], runs[clients, "udslab"], strict=True)]
        for clients in CLIENTS
    }
    print(table(["udslab/C, p50", "min", "median", "max"], [_ratio_row(*item) for item in ratios.items()]))
    print(f"\n{machine(core)}\n")
    worst = max(median(of_clients) for of_clients in ratios.values())
    return verdict(str(LIMIT), worst <= LIMIT, f"the median round trip is at most {worst:.2f} times C's")


def _row(clients: int, server: str, repetitions: list[Percentiles]) -> list[str]:
    return [
        f"{clients}, {server}",
        f"{median(r.p50 for r in repetitions):.1f}",
        f"{median(r.p90 for r in repetitions):.1f}",
        f"{median(r.p99 for r in repetitions):.1f}",
        f"{median(r.per_second for r in repetitions):,.0f}",
    ]


def _ratio_row(clients: int, ratios: list[float]) -> list[str]:
    unit = "client" if clients == 1 else "clients"
    return [f"{clients} {unit}", f"{min(ratios):.2f}", f"{median(ratios):.2f}", f"{max(ratios):.2f}"]


if __name__ == "__main__":
    sys.exit(run(benchmark))
