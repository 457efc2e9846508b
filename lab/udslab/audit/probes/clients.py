"""Probes of what clients do to a server."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from udslab.audit.asking import answers, ask, hurry
from udslab.audit.ping import Ping
from udslab.audit.probes.probe import probe
from udslab.audit.scene import Run, Scene, Skipped, Start, is_runnable, listed
from udslab.connection import Connection, connect
from udslab.deadline import Deadline, now
from udslab.limits import room_for_files

__all__ = ["descriptor_exhaustion", "half_close", "silent_client", "vanishing_clients"]

_VANISHING = 200
_SILENT = 8
_MOST_SILENT = 200
"""Of those that take what is left of descriptors."""
_SERVED = 4
"""Clients that have come before, and use descriptors."""
_WAITING = 8
"""Clients that wait while there is no descriptor for them."""
_NO_ROOM = 0.5
"""Seconds after which a client takes it that the backlog has no room."""
_PRESSED = 2.0
"""Seconds in which it has none."""
_RECOVERY = 40.0
"""Seconds in which it may recover: some sleep for half a minute before they accept again."""
_BETWEEN = 0.1
"""Seconds between two attempts of a client."""
_BY_ITSELF = "it has ended meanwhile by itself"
_SPINNING = 50
"""Percent of a processor from which on a server spins."""
_IDLE = 0.05
"""Of a processor: what a server uses less than that has nothing to do."""


@probe("descriptor-exhaustion", asks=True, connects=True, in_image=False)
def descriptor_exhaustion(scene: Scene) -> str:
    """No descriptor is left for accept(2), then there is room again."""
    first, ping, _ = _first(scene)
    at_rest = first.holders()
    come = 2 * _SERVED + _WAITING  # with the first ones that said nothing, or only asked

    def anyway() -> bool:
        return _ends_anyway(scene, first, lambda other, clients: _connect(scene, other, ping, come, clients))

    with ExitStack() as clients:
        served = _connect(scene, first, ping, _SERVED, clients)
        if _answered(served, first, scene.patience) < len(served):
            if first.gone:
                raise Skipped(_BY_ITSELF)
            raise Skipped("it serves one client after the other, and so needs no descriptor for many")
        scene.note(f"{len(served)} clients are connected and served")
        pids = _take_room(first, _accepting(scene, first, at_rest, len(served), clients))
        scene.note(f"RLIMIT_NOFILE of who accepts (pid {listed(pids)}) is lowered to what is open there")
        let_go = _let_go(served)
        come += _take_what_is_left(scene, first, pids, clients)
        restless = _spins_anyway(first)
        before = _Use.of(first)
        waiting = _connect(scene, first, ping, _WAITING, clients)
        answered = _answered(waiting, first, _PRESSED)
        use = _Use.of(first).since(before)
        if first.gone:
            scene.note(f"{len(waiting)} more connect, {answered} have an answer; it {first.how()}")
            return _dies(scene, first, anyway)
        if use.seconds >= _PRESSED / 2:  # less is too short to tell
            scene.facts |= {"cpu_percent": round(use.cpu), "bytes_logged": use.logged}
            if restless:
                scene.note("it uses a processor also while it has room: whether it spins without cannot be told")
            else:
                scene.facts["spins"] = use.spins
        scene.note(
            f"{len(waiting)} more connect, {answered} have an answer; within {use.seconds:.1f} s the server uses "
            f"{use.cpu:.0f} % of a processor, and writes {use.logged} bytes"
        )
        # Later others may, that are too many by then; and who has come for the clients may go with them.
        ended = [pid for pid in _ended(first, pids) if pid in at_rest]
        if waiting and answered == len(waiting) and not ended:
            why = "it has no room for another descriptor, and needs none"
            if others := sorted(set(first.beside(pids)) - set(pids)):
                why = f"pid {listed(others)}, which has come meanwhile, has room"
            elif _let_go(served) > let_go:
                why = "it has let go of others, and so had room"
            raise Skipped(f"it answers all of them: {why}")
        with suppress(OSError):  # it has died since
            first.process.open_files(True)
        late = _answered(waiting, first, _PRESSED)  # read, for who goes without is another probe's
        scene.note(f"it has room again: {late} more have an answer; then all these clients go")
    word = _still_answers(scene, first, ping, ("recovers", "no-recovery"), _RECOVERY, anyway)
    if word != "recovers" or not ended:
        return word
    if not anyway():
        scene.note(f"pid {listed(ended)}, who accepted, has ended of it, and others accept instead")
        return "dies"
    if len(ended) == len(pids):
        raise Skipped(f"pid {listed(ended)}, who accepted, has ended, as it also does with room; who came then has it")
    return word


def _take_room(run: Run, accepting: Sequence[int]) -> Sequence[int]:
    """Those of whom that could be done."""
    pids: Sequence[int] = ()
    with suppress(OSError):  # it has ended
        pids = run.process.open_files(False, accepting)
    if not pids:
        raise Skipped(_BY_ITSELF if run.gone else "the limit of its processes may not be changed from here")
    return pids


def _let_go(clients: Sequence[socket.socket]) -> int:
    """Of how many the server has closed the connection."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLRDHUP)
    return len(poll.poll(0))


def _ended(run: Run, pids: Collection[int]) -> list[int]:
    """Those of them that live no longer."""
    return sorted(set(pids) - set(run.pids))


def _ends_anyway(scene: Scene, run: Run, play: Callable[[Run, ExitStack], object]) -> bool:
    """Whether another one, or who has its listening socket, ends also of as many clients that nothing is amiss with, or
    without any, within the time for which this run has lived. That is at its end."""
    lived = now() - run.started
    run.kill()
    path = scene.make_path("undisturbed")
    other = scene.instance(path).start("another one", path)
    if other.settle() is not Start.SERVES:
        raise Skipped("another one, to see whether it ends also undisturbed, does not serve")
    at_rest = other.holders()

    def ends(seconds: float) -> bool:
        deadline = Deadline(seconds)
        while not (found := other.gone or bool(_ended(other, at_rest))) and not deadline.passed:
            other.process.gone_within(_BETWEEN)
        return found

    with ExitStack() as clients:
        play(other, clients)
        found = ends(_PRESSED)
    found = found or ends(max(_PRESSED, other.started + lived - now()))
    what = f"pid {listed(_ended(other, at_rest))} of it ends as well" if found else "nothing of it ends"
    scene.note(f"another one has as many clients, and nothing is amiss: {what}")
    return found


def _spins_anyway(run: Run) -> bool:
    """Whether it uses a processor while nothing is asked of it: by a short look, and if not idle a long one."""
    before = _Use.of(run)
    run.process.gone_within(_BETWEEN)
    # On a busy machine who would run has perhaps not run in so short a time: neither use nor waiting is counted yet.
    if _Use.of(run).since(before).idle and not any(map(is_runnable, run.pids)):
        return False
    before = _Use.of(run)
    run.process.gone_within(_PRESSED)
    return _Use.of(run).since(before).spins


def _connect(scene: Scene, run: Run, ping: Ping, number: int, exits: ExitStack) -> list[Connection]:
    """Clients that have sent a request, as many as the server's backlog has room for, also if it turns them away."""
    clients: list[Connection] = []
    for _ in range(number):
        with suppress(OSError):
            clients.append(exits.enter_context(connect(run.path, type=scene.subject.type, timeout=_NO_ROOM)))
            ask(clients[-1], ping, Deadline(_NO_ROOM))
    return clients


def _take_what_is_left(scene: Scene, run: Run, pids: Sequence[int], exits: ExitStack) -> int:
    """Clients that say nothing, until the numbers are taken that are free below the limits; how many. Raises Skipped if
    they are not."""
    deadline = Deadline(_PRESSED)
    number = 0
    while room := sum(map(_room, pids)):
        if deadline.passed or number + room > _MOST_SILENT:
            raise Skipped(f"there is room for {room} more files below those that it has open, which no client takes")
        number += _be_silent(scene, run, room, exits)
        select.select([], [], [], _BETWEEN)
        with suppress(OSError):  # it has ended; who leaves clients to its children had one open for a moment
            run.process.open_files(False, pids)
    if number:
        scene.note(f"{number} clients that say nothing take what was free below")
    return number


def _accepting(scene: Scene, run: Run, before: Mapping[int, set[int]], served: int, exits: ExitStack) -> list[int]:
    """The pids of those that accept. If clients that have their answer do not tell, others come that say nothing."""
    with suppress(Skipped):
        return run.accepting(before, served)
    before = run.holders()
    silent = _be_silent(scene, run, _SERVED, exits)
    scene.note(f"{silent} clients are connected and say nothing")
    deadline = Deadline(_PRESSED)
    while not deadline.passed:
        with suppress(Skipped):
            return run.accepting(before, silent)
        select.select([], [], [], _BETWEEN)
    return run.accepting(before, silent)


def _be_silent(scene: Scene, run: Run, number: int, exits: ExitStack) -> int:
    """Clients that connect and say nothing; for how many the backlog has had room."""
    for connected in range(number):
        try:
            exits.enter_context(connect(run.path, type=scene.subject.type, timeout=_NO_ROOM))
        except OSError:  # nor is there room for another one
            return connected
    return number


def _room(pid: int) -> int:
    with suppress(OSError):  # it has ended
        return room_for_files(pid)
    return 0


def _answered(clients: Sequence[socket.socket], run: Run, seconds: float) -> int:
    """How many have an answer, at the latest after so many seconds. Under pressure one may, of whoever is in accept(2),
    which has taken its descriptor before (accept4 in the kernel's net/socket.c)."""
    poll = select.poll()
    waiting = {client.fileno(): client for client in clients}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    deadline = Deadline(seconds)
    answered = 0
    while waiting and not deadline.passed and not run.gone:
        for fd, _ in poll.poll(min(100.0, (deadline.left() or 0.0) * 1000)):
            poll.unregister(fd)
            with suppress(OSError):  # it was turned away
                answered += bool(waiting.pop(fd).recv(1 << 16))
    return answered


@dataclass(frozen=True)
class _Use:
    """What a server uses: seconds of processor time and of waiting for a processor, by thread, and bytes written."""

    seconds: float
    threads: Mapping[str, tuple[float, float]]
    logged: int

    @classmethod
    def of(cls, run: Run) -> _Use:
        """Until now."""
        return cls(now(), {thread: times for pid in run.pids for thread, times in _schedule(pid)}, run.written)

    def since(self, before: _Use) -> _Use:
        """Between then and now; nothing of what has ended meanwhile."""
        threads = {}
        for thread, (processor, waiting) in self.threads.items():
            used, waited = before.threads.get(thread, (0.0, 0.0))
            threads[thread] = max(0.0, processor - used), max(0.0, waiting - waited)
        return _Use(self.seconds - before.seconds, threads, self.logged - before.logged)

    @property
    def cpu(self) -> float:
        """Percent of a processor."""
        return 100 * sum(processor for processor, _ in self.threads.values()) / self.seconds

    @property
    def idle(self) -> bool:
        """Whether it has done next to nothing, and has not waited for a processor either."""
        return sum(map(sum, self.threads.values())) < _IDLE * self.seconds

    @property
    def spins(self) -> bool:
        """Also on a busy machine: there, a thread that spins uses what it gets, and waits for a processor all the rest.
        Of threads that sleep, each waits a little: that is nothing to add up."""
        return self.cpu >= _SPINNING or any(
            processor + waiting >= 0.9 * self.seconds and 100 * processor / self.seconds >= _SPINNING / 4
            for processor, waiting in self.threads.values()
        )


def _schedule(pid: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """schedstat counts nanoseconds (the kernel's Documentation/scheduler/sched-stats.rst)."""
    with suppress(OSError):  # it ends
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                used, waited, _ = file.read().split()
            yield thread, (int(used) / 1e9, int(waited) / 1e9)


@probe("vanishing-clients", asks=True)
def vanishing_clients(scene: Scene) -> str:
    """200 clients connect and go."""
    first, ping, took = _first(scene)
    at_rest = first.holders()
    # Some serve one after the other, and have all of these before the next one.
    seconds = max(_VANISHING * took, scene.patience)
    come, errors = hurry(scene.path, ping, scene.subject.type, _VANISHING, seconds)
    scene.facts["errors"] = errors
    told = ", ".join(f"{count} x {name}" for name, count in errors.items()) or "no error"
    scene.note(f"{come} of {_VANISHING} clients that wait for nothing but room have come and gone: {told}")
    word = _still_answers(scene, first, ping, ("survives", "stops-answering"), max(seconds, _RECOVERY))
    if word != "survives":
        return word
    ended = _ended(first, at_rest)  # those that are born with the clients are none of them
    if ended and not _ends_anyway(scene, first, lambda other, clients: _come_and_wait(scene, other, ping, clients)):
        scene.note(f"pid {listed(ended)}, who had the listening socket, has ended of it, and others have it instead")
        return "dies"
    if come < _VANISHING:
        raise Skipped(f"only {come} of {_VANISHING} clients could come")
    return word


def _come_and_wait(scene: Scene, run: Run, ping: Ping, exits: ExitStack) -> None:
    """As many clients that have an answer before they go, a few at a time: also who serves one after the other has room
    for these."""
    clients: list[Connection] = []
    for _ in range(_VANISHING + _WAITING):  # some have asked before and after
        clients += _connect(scene, run, ping, 1, exits)
        if len(clients) == _SERVED:
            with clients.pop(0) as client:
                _answered([client], run, scene.patience)


@probe("half-close", asks=True, connects=True)
def half_close(scene: Scene) -> str:
    """A client sends its request and shuts down its sending side."""
    first, ping, _ = _first(scene)
    if not ping.send:
        raise Skipped("it speaks first: there is no request after which a client could shut down")
    with first.stopped():  # of which some calls of its own fail (EINTR, signal(7)): is that too much for it?
        pass
    if why := answers(scene.path, ping, scene.subject.type, scene.patience):
        raise Skipped(f"once it was stopped (SIGSTOP) and has gone on, it does not answer any more: {why}")
    first.rest()
    # Who has answered before the end of file comes has not met with it: there is no telling which is sooner.
    why = answers(scene.path, ping, scene.subject.type, scene.patience, half_close=first.stopped())
    what = "while it is stopped, a client comes, sends its request, and shuts down its sending side (SHUT_WR)"
    scene.note(f"{what}; it goes on: {why or 'it answers'}")
    return "no-answer" if why else "answers"


@probe("silent-client", asks=True, connects=True)
def silent_client(scene: Scene) -> str:
    """Clients that connect and say nothing, while another one asks."""
    first, ping, _ = _first(scene)
    with ExitStack() as clients:
        silent = _be_silent(scene, first, _SILENT, clients)
        why = "" if silent == _SILENT else f", of {_SILENT} that come: the backlog has no room for the others"
        scene.note(f"{silent} clients are connected and say nothing{why}")
        word = _still_answers(scene, first, ping, ("answers", "blocked"))
    return "blocked" if word == "dies" else word  # nobody is answered any more


def _first(scene: Scene) -> tuple[Run, Ping, float]:
    """A server that has answered once and has come to rest, and how many seconds the answer took. Raises Skipped if it
    does not answer."""
    first, ping = scene.first(), scene.subject.ping
    assert isinstance(ping, Ping)
    began = now()
    why = answers(scene.path, ping, scene.subject.type, scene.patience)
    if why:
        raise Skipped(f"it does not answer the ping undisturbed: {why}")
    took = now() - began
    scene.note(f"it answers a first ping after {took:.2f} s")
    first.rest()  # some start all over when their last client goes, and turn away who comes meanwhile
    return first, ping, took


def _still_answers(
    scene: Scene,
    run: Run,
    ping: Ping,
    words: tuple[str, str],
    seconds: float = 0.0,
    anyway: Callable[[], bool] = lambda: True,
) -> str:
    """The first of ``words`` if it answers, the second if it does not, for so many seconds and as long as it is waited
    at least, what :func:`_dies` says if nothing of it lives."""
    seconds = max(seconds, scene.patience)
    deadline = Deadline(seconds)
    while True:
        why = answers(scene.path, ping, scene.subject.type, min(scene.patience, max(deadline.left() or 0.0, 0.1)))
        if not why:
            scene.note("another client has its answer")
            return words[0]
        if run.process.gone_within(_BETWEEN):  # whoever ends turns clients away before it has ended
            scene.note(f"another client has none: {why}; it {run.how()}")
            return _dies(scene, run, anyway)
        if deadline.passed:
            scene.note(f"another client has none, for {seconds:.0f} s: {why}")
            return words[1]


def _dies(scene: Scene, run: Run, anyway: Callable[[], bool] = lambda: True) -> str:
    """The word for it. Raises Skipped if it has ended as one does that has done its work, and would have anyway: after
    so many requests, or without any."""
    scene.quote(run)
    if run.how() == "has ended with status 0" and anyway():
        raise Skipped(_BY_ITSELF)
    return "dies"
