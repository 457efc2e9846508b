"""The atlas from the host: where behaviours are measured, what came of it, and what is known to be otherwise there."""

from udslab.places.survey import Survey

__all__ = ["Survey"]
