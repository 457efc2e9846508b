"""Many places, as a TOML file has them, and what is known of each.

distros = ["debian-12", "debian-13"]
runtimes = ["runc"]
users = ["root", "nobody"]
volumes = ["overlay", "named"]
only = ["BND-*"]

[[pairs]]
distros = "each"
users = [["user", "other"]]
volumes = ["named"]
shares = [[], ["network", "pid"]]

[output]
json = "atlas.json"
html = "atlas.html"
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from udslab.atlas.catalogue import select
from udslab.atlas.runner import Cell
from udslab.containers import Session
from udslab.containers.bundle import contents
from udslab.errors import ServiceError
from udslab.places import images
from udslab.places.container import USERS, VOLUMES, Place, survey
from udslab.places.pair import SHARES, Pair, select_two_sided, survey_pair
from udslab.places.survey import Survey

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]  # pytest brings it

__all__ = ["Item", "Matrix", "Results"]

_LISTS = ("distros", "runtimes", "users", "volumes", "only")
_PAIR_KEYS = ("distros", "runtimes", "users", "volumes", "shares", "only")
_OUTPUTS = ("json", "html", "markdown", "results")
_SHARED_VOLUMES = ("named", "bind", "tmpfs")
_MOST_JOBS = 64
_EACH = "each"


@dataclass(frozen=True)
class Item:
    """A place or a pair of places, and the globs of the ids of what is measured there."""

    where: Union[Place, Pair]
    only: tuple[str, ...] = ()
    jobs: int = 1

    def __str__(self) -> str:
        return str(self.where)

    @property
    def _places(self) -> tuple[Place, ...]:
        return (self.where,) if isinstance(self.where, Place) else (self.where.server, self.where.client)

    @property
    def lab(self) -> str:
        """What its result depends on that is known without an engine: the lab, and what is measured."""
        return _hash([str(self), self.only, _lab()])

    def key(self, session: Session) -> str:
        """All that its result depends on: :attr:`lab`, the images, which are made, the engine, its kernel, and its
        runtimes."""
        engine = session.engine
        ids = [images.provide(engine, place.distro) for place in self._places]
        with engine.telling("it does not tell its runtimes"):
            info = engine.client.info()
        runtimes = [info.get("Runtimes", {}).get(place.runtime) for place in self._places]
        return _hash([self.lab, ids, engine.version, info.get("KernelVersion"), runtimes])

    def measure(self, session: Session, advance: Callable[[Cell], object]) -> Survey:
        """Raises as :func:`udslab.places.container.survey`."""
        if isinstance(self.where, Place):
            return survey(session, self.where, self.only, jobs=self.jobs, advance=advance)
        return survey_pair(session, self.where, self.only, advance=advance)


def _hash(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@functools.cache
def _lab() -> str:
    """Of all that measures: what is sent into containers, and what sends it."""
    with zipfile.ZipFile(io.BytesIO(contents())) as bundle:
        inside = {name: hashlib.sha256(bundle.read(name)).hexdigest() for name in sorted(bundle.namelist())}
    host = [file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("*.py"))]
    return _hash([inside, host])


@dataclass(frozen=True)
class Matrix:
    """What a file says. ``outputs``: the files to write, by form; ``results``: the directory of what is known of each
    item; ``distros``: those that suites are run in."""

    path: Path
    items: tuple[Item, ...]
    distros: tuple[str, ...]
    outputs: Mapping[str, Path]
    results: Path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Matrix:
        """Raises OSError; :class:`~udslab.errors.ServiceError` for what is no such file, in a line that says where."""
        file = Path(path)
        try:
            return _read(file, tomllib.loads(file.read_text(encoding="utf-8")))
        except ServiceError as error:
            raise ServiceError(f"{file}: {error.strerror}", error.hint) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ServiceError(f"{file}: {error}", "a matrix is a TOML file: distros = […]") from None


def _read(file: Path, table: Mapping[str, Any]) -> Matrix:
    _only_keys(table, (*_LISTS, "jobs", "places", "pairs", "output"), "a matrix")
    jobs = _jobs(table, os.cpu_count() or 1)
    only = _globs(table.get("only", []))
    axes = _axes(table)
    items = [Item(Place(*words), only, jobs) for words in itertools.product(*axes)]
    for more in _tables(table, "places"):
        _only_keys(more, (*_LISTS, "jobs"), "[[places]]")
        globs = _globs(more["only"]) if "only" in more else only
        found = [Item(Place(*words), globs, _jobs(more, jobs)) for words in itertools.product(*_axes(more))]
        if not found:
            raise ServiceError("[[places]] names no distros")
        items += found
    distros, runtimes, _, _ = axes
    for pair in _tables(table, "pairs"):
        items += _pairs(pair, distros, runtimes, only)
    if not items:
        raise ServiceError("it names no places", "name distributions: distros = ['debian-12']; or [[pairs]] of them")
    unique: dict[str, Item] = {}
    for item in items:
        unique.setdefault(str(item), item)
    outputs = _outputs(table.get("output", {}), file)
    results = outputs.pop("results", file.with_suffix(".results"))
    return Matrix(file, tuple(unique.values()), tuple(distros), outputs, results)


def _jobs(table: Mapping[str, Any], otherwise: int) -> int:
    jobs = table.get("jobs", otherwise)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or not 1 <= jobs <= _MOST_JOBS:
        raise ServiceError(f"jobs is a number from 1 to {_MOST_JOBS}, not {jobs!r}")
    return jobs


def _axes(table: Mapping[str, Any]) -> tuple[list[str], list[str], list[str], list[str]]:
    return (
        _words(table, "distros", [], images.check),
        _words(table, "runtimes", ["runc"]),
        _words(table, "users", ["root"], _one_of("user", USERS)),
        _words(table, "volumes", ["overlay"], _one_of("volume", VOLUMES)),
    )


def _tables(table: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    tables = table.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise ServiceError(f"{key} are tables: [[{key}]]")
    return tables


def _pairs(
    table: Mapping[str, Any], distros: Sequence[str], runtimes: Sequence[str], only: Sequence[str]
) -> Iterator[Item]:
    _only_keys(table, _PAIR_KEYS, "[[pairs]]")
    users = [user for user, kind in USERS.items() if not kind.mapped]
    different = [(one, other) for one, other in _product(distros) if one != other]
    axes = (
        _twos(table, "distros", [(one, one) for one in distros], different, images.check),
        _twos(table, "runtimes", [("runc", "runc")], _product(runtimes)),
        _twos(table, "users", [("user", "other")], _product(users), _one_of("user for pairs", users)),
        _words(table, "volumes", ["named"], _one_of("volume for pairs", _SHARED_VOLUMES)),
        _shares(table.get("shares", [[]])),
    )
    globs = _globs(table["only"]) if "only" in table else tuple(only)
    if not select_two_sided(globs):
        if "only" in table:
            raise ServiceError("only of [[pairs]] has no behaviour that is between two places")
        return
    for (d1, d2), (r1, r2), (u1, u2), volume, shares in itertools.product(*axes):
        yield Item(Pair(Place(d1, r1, u1, volume), Place(d2, r2, u2, volume), shares), globs)


def _product(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.product(words, words))


def _only_keys(table: Any, keys: Sequence[str], what: str) -> None:
    if not isinstance(table, Mapping):
        raise ServiceError(f"{what} is a table")
    unknown = sorted(set(table) - set(keys))
    if unknown:
        raise ServiceError(f"{what} has no {unknown[0]!r}", f"there are {', '.join(keys)}")


def _words(
    table: Mapping[str, Any], key: str, default: list[str], check: Callable[[str], None] = lambda word: None
) -> list[str]:
    words = table.get(key, default)
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise ServiceError(f"{key} is a list of words, not {words!r}")
    if key in table and not words:
        raise ServiceError(f"{key} is empty")
    for word in words:
        check(word)
    return list(dict.fromkeys(words))


def _twos(
    table: Mapping[str, Any],
    key: str,
    default: Sequence[tuple[str, str]],
    each: Sequence[tuple[str, str]],
    check: Callable[[str], None] = lambda word: None,
) -> list[tuple[str, str]]:
    """Pairs of words; "each" for all pairs of the words that the matrix has."""
    twos = table.get(key, default)
    if twos == _EACH:
        twos = each
    good = isinstance(twos, (list, tuple)) and all(
        isinstance(two, (list, tuple)) and len(two) == 2 and all(isinstance(word, str) and word for word in two)
        for two in twos
    )
    if not good:
        raise ServiceError(f"{key} of [[pairs]] is a list of pairs of words, or {_EACH!r}, not {twos!r}")
    if not twos:
        raise ServiceError(f"{key} of [[pairs]] is empty", "name pairs there, or distros above")
    for word in itertools.chain(*twos):
        check(word)
    return [(one, other) for one, other in twos]


def _shares(value: Any) -> list[tuple[str, ...]]:
    good = isinstance(value, list) and value and all(isinstance(spaces, list) for spaces in value)
    if not good or any(space not in SHARES for spaces in value for space in spaces):
        words = ", ".join(SHARES)
        raise ServiceError(f"shares of [[pairs]] is a list of lists of some of {words}, not {value!r}")
    return [tuple(spaces) for spaces in value]


def _globs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ServiceError(f"only is a list of globs of ids, not {value!r}")
    try:
        select(value)
    except ValueError as error:
        raise ServiceError(f"only: {error}", "ids are like BND-01; 'BND-*' gives a group") from None
    return tuple(value)


def _one_of(what: str, words: Iterable[str]) -> Callable[[str], None]:
    known = list(words)

    def check(word: str) -> None:
        if word not in known:
            raise ServiceError(f"no {what} is called {word!r}", f"there are {', '.join(known)}")

    return check


def _outputs(table: Any, file: Path) -> dict[str, Path]:
    _only_keys(table, _OUTPUTS, "[output]")
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise ServiceError(f"{key} of [output] is the name of a file, not {value!r}")
    return {key: Path(os.path.normpath(file.parent / value)) for key, value in table.items()}


@dataclass(frozen=True)
class Results:
    """What is known of items: a JSON file for each, written as soon as it is known."""

    directory: Path

    def _file(self, item: Item) -> Path:
        return self.directory / (re.sub(r"[^\w.+-]", "_", str(item)) + ".json")

    def write(self, item: Item, key: str, survey: Survey) -> None:
        """Keep it; whole or not at all, whatever dies."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self._file(item)
        partial = file.with_suffix(f".{os.getpid()}.part")
        told = {"item": str(item), "lab": item.lab, "key": key, "survey": survey.as_dict()}
        partial.write_text(json.dumps(told), encoding="utf-8")
        partial.replace(file)

    def has(self, item: Item) -> bool:
        """Whether there is anything of it, be it of another lab."""
        return self._file(item).exists()

    def read(self, item: Item, key: str | None = None) -> Survey | None:
        """What this lab knows of it, if that has this key, or whatever the key is; None if nothing is."""
        try:
            told = json.loads(self._file(item).read_text(encoding="utf-8"))
            if told["item"] != str(item) or told["lab"] != item.lab or (key is not None and told["key"] != key):
                return None
            return Survey.from_dict(told["survey"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or of another version, or damaged
            return None
