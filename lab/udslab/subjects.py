"""Servers that are ready to be audited, and those of a file: TOML, a table for each."""

from __future__ import annotations

import os
import sys
from typing import Any

from udslab.audit.subject import Subject, said_of
from udslab.errors import ServiceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]  # pytest brings it

__all__ = ["READY", "load", "ready"]

READY = os.path.join(os.path.dirname(__file__), "subjects.toml")


def load(path: str | os.PathLike[str]) -> dict[str, Subject]:
    """The subjects of a TOML file, by name; the fields of each are those of :class:`~udslab.audit.subject.Subject`.

    Raises OSError; :class:`~udslab.errors.ServiceError` for what is no such file.
    """
    with open(path, "rb") as file, said_of(os.fspath(path)):
        try:
            tables: dict[str, Any] = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ServiceError(str(error), "it is to be a TOML file, with a table for each subject") from error
        if not tables:
            raise ServiceError("it names no subjects", "each subject is a table, as in [redis]")
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ServiceError(f"{name} is no table", "each subject is a table, as in [redis]")
        return {name: Subject.from_table(name, table) for name, table in tables.items()}


def ready(name: str) -> Subject:
    """A ready subject. Raises :class:`~udslab.errors.ServiceError` if there is none of that name."""
    subjects = load(READY)
    if name not in subjects:
        raise ServiceError(f"no ready subject is called {name!r}", f"there are {', '.join(sorted(subjects))}")
    return subjects[name]
