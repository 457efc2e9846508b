"""What a probe is, and the register of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from udslab.audit.scene import Scene, Skipped
from udslab.socktype import SocketType

__all__ = ["REGISTER", "Probe", "probe"]


@dataclass(frozen=True)
class Probe:
    """One question about a server. ``play`` plays its scenario in a scene, and gives the outcome's word."""

    name: str
    done: str
    """What is done, in a few words."""
    play: Callable[[Scene], str]
    asks: bool = False
    """Whether it needs a ping."""
    connects: bool = False
    """Whether it makes no sense for datagrams, which nobody accepts."""
    in_image: bool = True
    """Whether it can be played in containers."""

    def why_not(self, scene: Scene) -> str:
        """Why it cannot be played there; empty if it can."""
        if self.asks and scene.subject.ping is None:
            return "nobody knows how to ask this server whether it answers: give a ping"
        if self.connects and scene.subject.type is SocketType.DGRAM:
            return "nobody connects to a datagram server"
        if not self.in_image and scene.host.is_image:
            return "it needs a process of this machine, and this server runs in a container"
        return scene.subject.skips.get(self.name, "")

    def __call__(self, scene: Scene) -> str:
        """Play it. Raises :class:`~udslab.audit.scene.Skipped`."""
        why = self.why_not(scene)
        if why:
            raise Skipped(why)
        return self.play(scene)


REGISTER: dict[str, Probe] = {}
"""By name, as the modules are imported."""


def probe(
    name: str, *, asks: bool = False, connects: bool = False, in_image: bool = True
) -> Callable[[Callable[[Scene], str]], Callable[[Scene], str]]:
    """Register a function as a probe; its docstring says what is done."""

    def register(play: Callable[[Scene], str]) -> Callable[[Scene], str]:
        REGISTER[name] = Probe(name, (play.__doc__ or "").strip(), play, asks, connects, in_image)
        return play

    return register
