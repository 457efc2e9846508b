"""Enumerations whose members are the words that users type and read."""

from __future__ import annotations

from enum import Enum

__all__ = ["Word"]


class Word(str, Enum):
    """A member is its word: equal to it, printed as it, and made from it."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        # Python 3.12 changed what a plain (str, Enum) gives here.
        return str.__format__(str(self.value), spec)
