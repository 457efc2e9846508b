"""The audit: what does a server do to its socket file?

A :class:`~udslab.audit.subject.Subject` is somebody's server; a :class:`~udslab.audit.probes.Probe` is one scenario
that it is put through; a :class:`~udslab.audit.findings.Finding` says in one word how it went, with the evidence.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udslab.audit.ping import Ping
    from udslab.audit.subject import Subject

__all__ = ["Ping", "Subject"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'udslab.audit' has no attribute {name!r}")
    # Not before: the plugin takes the names of the probes from here, and is imported in every run of pytest.
    return getattr(import_module(f"udslab.audit.{name.lower()}"), name)
