"""The audit: what does a server do to its socket file?

A :class:`~udslab.audit.subject.Subject` is somebody's server; a :class:`~udslab.audit.probes.Probe` is one scenario
that it is put through; a :class:`~udslab.audit.findings.Finding` says in one word how it went, with the evidence.
"""

from udslab.audit.ping import Ping
from udslab.audit.subject import Subject

__all__ = ["Ping", "Subject"]
