"""The probes: each a whole scenario of its own, which ends with one word."""

from udslab.audit.probes import clients, in_the_way, races, starting, stopping, two
from udslab.audit.probes.probe import REGISTER, Probe
from udslab.audit.verdicts import VERDICTS

__all__ = ["PROBES", "Probe", "clients", "in_the_way", "races", "starting", "stopping", "two"]

PROBES = {name: REGISTER[name] for name in VERDICTS}
"""All of them, by name, in the order in which they are shown."""
