"""What a behaviour is: its claim, how it is measured, what is expected; and the register of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from udslab.atlas.requirement import Requirement
from udslab.socktype import SocketType
from udslab.word import Word

__all__ = [
    "BEHAVIOURS",
    "CONNECTED",
    "LISTENING",
    "PAIRS",
    "RECORDS",
    "STREAMS",
    "TYPES",
    "Behaviour",
    "ByKernel",
    "Either",
    "Kind",
    "NotHere",
    "Pair",
    "behaviour",
]


class NotHere(Exception):
    """A behaviour cannot be measured in this place; the reason, in a few words."""


class Kind(Word):
    """How two sockets have come together."""

    SOCKETPAIR = "socketpair"
    PATHNAME = "pathname"
    ABSTRACT = "abstract"


@dataclass(frozen=True)
class Pair:
    """A kind of pair of connected sockets, over which a behaviour is measured: one variant of it."""

    kind: Kind
    type: SocketType
    blocking: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.type}" + ("" if self.blocking else " non-blocking")


def _pairs(*types: SocketType) -> tuple[Pair, ...]:
    return tuple(Pair(kind, type, blocking) for kind in Kind for type in types for blocking in (True, False))


PAIRS = _pairs(*SocketType)
"""Every kind of pair: socketpair, pathname, abstract; stream, datagram, seqpacket; blocking and non-blocking."""
STREAMS = _pairs(SocketType.STREAM)
CONNECTED = _pairs(SocketType.STREAM, SocketType.SEQPACKET)
"""Those of types that are connected."""
RECORDS = _pairs(SocketType.DGRAM, SocketType.SEQPACKET)
"""Those of types that keep boundaries."""
TYPES = tuple(SocketType)
LISTENING = (SocketType.STREAM, SocketType.SEQPACKET)
"""Those types that listen and accept."""


@dataclass(frozen=True)
class Either:
    """Any of these values is expected."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class ByKernel:
    """What is expected has changed: by the version from which on it is so, ascending."""

    values: Mapping[tuple[int, ...], Any]


@dataclass(frozen=True)
class Behaviour:
    """One row of the atlas.

    ``measure`` takes a :class:`~udslab.atlas.kit.Kit`, and the variant if there are any; it gives what it has seen as
    JSON has it (names of errnos, numbers, lists, mappings) and judges nothing. It raises :class:`NotHere` where it
    cannot be measured.
    """

    id: str
    claim: str
    """What Linux does, in one line."""
    source: str
    """Where that is said: man page and section, kernel function, test of a suite."""
    expected: Any
    """What is seen where the claim holds; :class:`Either`, :class:`ByKernel`, or a function of the variant."""
    measure: Callable[..., Any]
    variants: Sequence[Any] = ()
    needs: frozenset[Requirement] = frozenset()
    since: tuple[int, ...] = ()
    """The kernel version from which on there is such a thing at all."""
    limit: float = 5.0
    """Seconds that it may take."""
    notes: str = ""
    """Why it is so, and what to mind."""

    @property
    def group(self) -> str:
        """The letters of its id."""
        return self.id.partition("-")[0]

    def expects(self, variant: Any, kernel: tuple[int, ...]) -> Any:
        """What is expected of a variant on a kernel."""
        wanted = self._wanted(variant)
        if isinstance(wanted, ByKernel):
            held = [value for since, value in wanted.values.items() if kernel >= since]
            return held[-1] if held else None
        return wanted

    def _wanted(self, variant: Any) -> Any:
        return self.expected(variant) if callable(self.expected) else self.expected

    @property
    def changes(self) -> list[tuple[int, ...]]:
        """The kernel versions from which on something else is expected than before, of any variant."""
        wanted = map(self._wanted, self.variants or ("",))
        return sorted({since for each in wanted if isinstance(each, ByKernel) for since in list(each.values)[1:]})


BEHAVIOURS: dict[str, Behaviour] = {}
"""By id, in the order of their modules."""

Measure = Callable[..., Any]


def behaviour(
    id: str,
    claim: str,
    *,
    source: str,
    expected: Any,
    over: Sequence[Any] = (),
    needs: Union[Requirement, Sequence[Requirement]] = (),
    since: tuple[int, ...] = (),
    limit: float = 5.0,
    notes: str = "",
) -> Callable[[Measure], Measure]:
    """Register a function as the measurement of a behaviour, over some variants."""

    def register(measure: Measure) -> Measure:
        if id in BEHAVIOURS:
            raise ValueError(f"there are two behaviours {id}")
        wanted = frozenset([needs] if isinstance(needs, Requirement) else needs)
        BEHAVIOURS[id] = Behaviour(id, claim, source, expected, measure, tuple(over), wanted, since, limit, notes)
        return measure

    return register
