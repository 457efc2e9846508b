"""The kinds of what can be in a server's way at its path."""

from __future__ import annotations

from udslab.word import Word

__all__ = ["Obstacle"]

_LINK_TO = "link-to-"
"""What the names of links to other obstacles begin with."""


class Obstacle(Word):
    """The kinds of what is in the way. A link is a symbolic one, to an obstacle of the other kind beside it."""

    LISTENER = "listener"
    """A stream server that listens, and accepts nobody."""
    BOUND = "bound"
    """A stream socket that is bound and does not listen."""
    STALE = "stale"
    REGULAR_FILE = "regular-file"
    """With a line in it."""
    DIRECTORY = "directory"
    FIFO = "fifo"
    LINK_TO_LISTENER = "link-to-listener"
    LINK_TO_BOUND = "link-to-bound"
    LINK_TO_STALE = "link-to-stale"
    LINK_TO_REGULAR_FILE = "link-to-regular-file"
    LINK_TO_DIRECTORY = "link-to-directory"
    LINK_TO_FIFO = "link-to-fifo"
    DANGLING_LINK = "dangling-link"
    MISSING_PARENT = "missing-parent"
    """The directory of the path is not there: the path is one level deeper than the one that was given."""
    NO_PERMISSION = "no-permission"
    """The directory of the path may not be written or searched: likewise one level deeper. Not for root, who may."""

    @property
    def target(self) -> Obstacle | None:
        """What it is a link to."""
        return Obstacle(self.value[len(_LINK_TO) :]) if self.value.startswith(_LINK_TO) else None
