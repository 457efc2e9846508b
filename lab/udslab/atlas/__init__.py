"""The atlas: what AF_UNIX really does, here and elsewhere.

A *behaviour* is one row of it: a small function that measures, and what is expected of it (:mod:`.behaviour`). A *cell*
is a behaviour in one place, in one variant (:mod:`.runner`). The behaviours stand in a module for each group.
"""

__all__: list[str] = []
