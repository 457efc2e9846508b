"""Surveys as `udslab atlas --json` gives them, made up."""

from __future__ import annotations

from typing import Any

from udslab.atlas.catalogue import select
from udslab.atlas.runner import Cell, Verdict
from udslab.atlas.two_sided import TWO_SIDED
from udslab.places.survey import Survey

LINUX = {"distro": "debian 12", "kernel": "6.18.0", "machine": "x86_64", "python": "3.11.2", "uid": 0}
NASTY = "<script>alert('&amp;')</script>\"'><img src=x onerror=alert(1)>\0\x1b[31m\udcff{{ 7 * 7 }}|`*_"


def cell(
    id: str = "BND-01",
    variant: str = "",
    verdict: Verdict = Verdict.EXPECTED,
    expected: Any = "ok",
    seen: Any = None,
    why: str = "",
    claim: str = "it is ok",
) -> Cell:
    seen = expected if verdict is Verdict.EXPECTED and seen is None else seen
    return Cell(id, variant, claim, expected, seen, verdict, why, 0.01)


def survey(*cells: Cell, **place: Any) -> Survey:
    return Survey({**LINUX, **place}, cells)


def unexpected(id: str = "LSN-04", variant: str = "") -> Cell:
    expected = {"waited": True, "after": "ok"}
    return cell(id, variant, Verdict.UNEXPECTED, expected, {"waited": False, "after": "ok"}, "line 3 of f")


def known(
    id: str = "SHU-04",
    variant: str = "",
    why: str = "no SIGPIPE (https://issues.example/161)",
    claim: str = "it is ok",
) -> Cell:
    return cell(id, variant, Verdict.KNOWN, ["EPIPE", 1], ["EPIPE", 0], why, claim)


def cannot(id: str = "FSK-01", why: str = "no capability sys-admin") -> Cell:
    return cell(id, "", Verdict.NOT_APPLICABLE, "ok", None, why)


def mixed(**place: Any) -> Survey:
    """One of each verdict, and variants that differ."""
    streams = [cell("BND-03", variant) for variant in ("stream", "seqpacket")]
    return survey(*streams, unexpected("BND-03", "dgram"), unexpected(), known(), cannot(), cell(), **place)


def between(*keys: tuple[str, str]) -> list[Cell]:
    """Cells of behaviours between two places."""
    return [cell(id, variant, claim=TWO_SIDED[id, variant].claim) for id, variant in keys]


def otherwise() -> list[Survey]:
    """A place that does otherwise than another, and both are as expected; what is n/a in one is no difference."""
    same, old, new = cell(), cell("LIF-15", expected=False), cell("LIF-15", expected=True)
    return [survey(same, old, cannot(), python="3.9"), survey(same, new, cell("FSK-01"), python="3.13")]


def nasty() -> Survey:
    odd = cell(NASTY, NASTY, Verdict.UNEXPECTED, {NASTY: NASTY}, NASTY, NASTY, NASTY)
    return Survey({"distro": NASTY, NASTY: NASTY, "kernel": [NASTY]}, (odd, known(why=NASTY)))


def large(places: int, variants: int = 5) -> list[Survey]:
    """All behaviours, some variants each, in so many places."""
    rows = select()
    return [
        survey(
            *(
                cell(row.id, f"variant {number}", claim=row.claim)
                if (index + place) % 40
                else known(row.id, f"variant {number}", claim=row.claim)
                for index, row in enumerate(rows)
                for number in range(variants)
            ),
            distro=f"debian {place}",
        )
        for place in range(places)
    ]
