"""Behaviours between two containers that share a volume."""

from __future__ import annotations

import fnmatch
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from udslab.atlas import two_sided
from udslab.atlas.runner import Cell, Verdict, matches, too_old
from udslab.atlas.two_sided import TWO_SIDED, Between, TwoSided
from udslab.containers import Job, Mount, Session, Shared
from udslab.deadline import Deadline, now
from udslab.errors import EngineError, Stage, Unsupported
from udslab.places.container import USERS, Place, about, check_runtime, first_word, shared_on
from udslab.places.survey import Survey

__all__ = ["SHARES", "Pair", "select_two_sided", "survey_pair"]

SHARES = ("network", "pid")
"""The namespaces that two containers may share."""
_LOOK = "/l"
_NO_PID = {"tell": {"pid": -1}}
_SLACK = 10.0
"""Seconds beyond a part's limit in which its runner tells that it is over."""


@dataclass(frozen=True)
class Pair:
    """A server's place and a client's; the volume is of the server's kind. ``shares``: namespaces that the client's
    container has from the server's."""

    server: Place
    client: Place
    shares: tuple[str, ...] = ()

    def __str__(self) -> str:
        sides = "+".join(f"{side.distro}/{side.runtime}/{side.user}" for side in (self.server, self.client))
        return "/".join((sides, self.server.volume, "+".join(self.shares) or "apart"))


def select_two_sided(patterns: Sequence[str] = ()) -> list[TwoSided]:
    """Those whose id matches any of these globs (in any case); all without any. What no server is left after, last."""
    chosen = [
        each
        for each in TWO_SIDED.values()
        if not patterns or any(fnmatch.fnmatchcase(each.id.upper(), pattern.upper()) for pattern in patterns)
    ]
    return sorted(chosen, key=lambda each: each.last)


def survey_pair(
    session: Session,
    pair: Pair,
    patterns: Sequence[str] = (),
    *,
    advance: Callable[[Cell], object] = lambda cell: None,
) -> Survey:
    """Measure the two-sided behaviours whose ids match ``patterns``; ``advance`` is told of each cell. ``expected`` and
    ``seen`` of a cell have the keys ``server`` and ``client``.

    Raises as :func:`udslab.places.container.survey`.
    """
    for side in (pair.server, pair.client):
        check_runtime(session.engine, side.runtime)
        if USERS[side.user].mapped:
            raise Unsupported("a user who is mapped by the runner itself takes no part in pairs", "", Stage.ENGINE)
    cells: list[Cell] = []
    shared = shared_on(session, pair.server.volume)
    try:
        with _Sides(session, pair, shared) as sides:
            for each in select_two_sided(patterns):
                cells.append(sides.measure(each))
                advance(cells[-1])
    finally:
        session.discard(shared)
    return Survey(_place(session, pair, sides), tuple(cells))


def _place(session: Session, pair: Pair, sides: _Sides) -> dict[str, Any]:
    both = {name: about(sides.told[name], each) for name, each in _named(pair)}
    server, client = both["server"], both["client"]
    place: dict[str, Any] = {key: f"{server[key]} → {client[key]}" for key in ("distro", "runtime", "user")}
    for key in ("release", "kernel", "machine", "python", "libc"):
        place[key] = server[key] if server[key] == client[key] else f"{server[key]} → {client[key]}"
    inside = [name for name in both if both[name].get("gvisor")]
    if inside:
        place["gvisor"] = "both" if len(inside) == 2 else inside[0]
    shares = "+".join(pair.shares) or "apart"
    return {**place, "volume": pair.server.volume, "shares": shares, "engine": session.engine.version, "pair": True}


def _named(pair: Pair) -> Iterator[tuple[str, Place]]:
    yield "server", pair.server
    yield "client", pair.client


class _Sides:
    """The two runners, and what goes between them."""

    def __init__(self, session: Session, pair: Pair, shared: Shared) -> None:
        self._session = session
        self._pair = pair
        self._shared = shared
        self._exits = ExitStack()
        self._jobs: dict[str, Job] = {}
        self._numbers = 0
        self.told: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> _Sides:
        try:
            for name in ("server", "client"):
                self._there(name)
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._exits.close()

    def _there(self, name: str) -> Job:
        """The runner of that side, started unless it runs."""
        if name not in self._jobs:
            self._jobs[name] = self._start(name, [])
        return self._jobs[name]

    def _start(self, name: str, more: Sequence[Mount]) -> Job:
        place = self._pair.server if name == "server" else self._pair.client
        user = USERS[place.user]
        look = replace(self._shared, mountpoint=_LOOK)
        path = self._shared.path.replace(self._shared.mountpoint, _LOOK, 1)
        options = {}
        if name == "client":
            options = {space: self._there("server") for space in self._pair.shares}
        job = self._session.job(
            place.image,
            "udslab.atlas.two_sided",
            name,
            "--directory",
            self._shared.path,
            "--look",
            path,
            mounts=[self._shared, look.read_only, *more],
            runtime=place.runtime,
            **user.options,
            **options,
        )
        self._exits.callback(job.close)
        self.told[name] = first_word(job, user)["place"]
        return job

    def _between(self) -> Between:
        uids = {name: USERS[place.user].uid for name, place in _named(self._pair)}
        bound = {name: bool(told["bound"]) for name, told in self.told.items()}
        return Between(frozenset(self._pair.shares), uids, bound)

    def measure(self, each: TwoSided) -> Cell:
        """One behaviour."""
        began = now()
        if each.late and self._shared.kind != "bind":
            why = "the engine mounts no single file of such a volume"
            return _cell(each, {}, None, Verdict.NOT_APPLICABLE, why, began)
        if each.last and "pid" in self._pair.shares:
            return _cell(each, {}, None, Verdict.NOT_APPLICABLE, "the client would end with the server's pids", began)
        self._numbers += 1
        results = self._play(each, f"m{self._numbers}")
        why_not = {result["not_here"] for result in results.values() if "not_here" in result}
        if why_not:
            return _cell(each, {}, None, Verdict.NOT_APPLICABLE, "; ".join(sorted(why_not)), began)
        seen = {name: results[name]["seen"] for name in ("server", "client")}
        why = "; ".join(f"{name}: {result['why']}" for name, result in results.items() if result.get("why"))
        cell = _cell(each, each.expected(self._between()), seen, None, why, began)
        old = {too_old(each.since, told["kernel"], "gvisor" in told) for told in self.told.values()} - {""}
        if old and cell.verdict is not Verdict.EXPECTED:
            return replace(cell, seen=None, verdict=Verdict.NOT_APPLICABLE, why="; ".join(sorted(old)))
        return cell

    def _play(self, each: TwoSided, directory: str) -> dict[str, dict[str, Any]]:
        """What both have seen. The server begins, for it makes the directory."""
        order = {"measure": [each.id, each.variant], "name": directory}
        playing = {"server": self._there("server")}
        playing["server"].send(order)
        results: dict[str, dict[str, Any]] = {}
        held: list[dict[str, Any]] = []
        """What the server has told before there is a client."""
        deadline = Deadline(each.limit + _SLACK)
        while len(results) < 2:
            name = _next(playing, results, deadline)
            other = "client" if name == "server" else "server"
            line = playing[name].receive(deadline.left())
            if line is None:
                self._jobs.pop(name, None)
                results[name] = {"seen": None, "why": str(playing[name].unfit())}
                hand_on: dict[str, Any] = {"gone": "its container has ended"}
            elif line.get("ask") == "kill":
                self._jobs.pop(name).kill()
                results[name] = {"seen": "killed"}
                hand_on = {"tell": {"killed": True}}
            elif "tell" in line:
                hand_on = line
            else:
                results[name] = line
                hand_on = {"gone": line.get("why", "")}
            if other in playing:
                playing[other].send(hand_on)
            elif name in results:
                results[other] = {"seen": None, "why": "it was not started"}
            else:
                held.append(line or {})
                if each.late and len(held) == 1:
                    playing["server"].send(_NO_PID)
                    continue
                try:
                    playing["client"] = self._late(directory) if each.late else self._there("client")
                except EngineError as error:
                    if not each.late:
                        raise
                    # The engine sees no file: a sandbox keeps its sockets to itself.
                    results["client"] = {"seen": None, "why": str(error)}
                    playing["server"].send({"gone": "the client could not be started"})
                    continue
                for early in (order, *held):
                    playing["client"].send(early)
                if each.late:
                    playing["client"].receive(deadline.left())  # its pid, instead of which the server has had none
        if each.late and "client" in playing:
            playing["client"].close()
        return results

    def _late(self, directory: str) -> Job:
        source = f"{self._shared.source}/{directory}/{two_sided.FILE}"
        return self._start("client", [Mount(two_sided.MOUNTED, source, type="bind")])


def _next(playing: dict[str, Job], results: dict[str, dict[str, Any]], deadline: Deadline) -> str:
    """The side that has something to say; one whose time is over if none has."""
    left = {name: job for name, job in playing.items() if name not in results}
    for name, job in left.items():
        if job.waiting:
            return name
    ready, _, _ = select.select(list(left.values()), [], [], deadline.left())
    return next((name for name, job in left.items() if job in ready), next(iter(left)))


def _cell(each: TwoSided, expected: Any, seen: Any, verdict: Verdict | None, why: str, began: float) -> Cell:
    if verdict is None:
        verdict = Verdict.EXPECTED if matches(seen, expected) else Verdict.UNEXPECTED
    return Cell(each.id, each.variant, each.claim, dict(expected), seen, verdict, why, now() - began)
