"""The probes: each a whole scenario of its own, which ends with one word."""

from udslab.audit.probes import clients, in_the_way, races, starting, stopping, two
from udslab.audit.probes.probe import PROBES, Probe

__all__ = ["PROBES", "Probe", "clients", "in_the_way", "races", "starting", "stopping", "two"]
