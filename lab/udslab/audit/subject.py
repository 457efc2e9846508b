"""Somebody's server, as the audit is told of it: how it is started, asked, and what it needs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Union

from udslab.audit.ping import PRESETS, Ping
from udslab.errors import ServiceError
from udslab.processes import split_command
from udslab.socktype import SocketType

__all__ = ["Places", "Subject"]


@dataclass(frozen=True)
class Places:
    """What stands for the words in braces in a subject's command, set-up, files and logs.

    They are replaced literally, for configurations are full of braces."""

    socket: str
    """``{socket}``: the path that it is to serve. ``{parent}`` is its directory, ``{name}`` its last part."""
    dir: str
    """``{dir}``: the instance's own directory, where it is started."""

    def fill(self, text: str) -> str:
        """``text`` with these in place."""
        parent, _, name = self.socket.rpartition("/")
        for word, place in (("socket", self.socket), ("parent", parent), ("name", name), ("dir", self.dir)):
            text = text.replace("{" + word + "}", place)
        return text


@dataclass(frozen=True)
class Subject:
    """A server that is audited. Texts may have ``{socket}``, ``{parent}``, ``{name}`` and ``{dir}``: see
    :class:`Places`.

    ``command``, as all commands: its words, or one text, which is taken apart as a shell would.
    """

    command: Sequence[str]
    name: str = ""
    """What it is called; its command's first word unless given."""
    setup: Sequence[Sequence[str]] = ()
    """Commands that are run in ``{dir}``, one after the other, before its first start there."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that are put into ``{dir}`` before that: configurations, applications."""
    ping: Union[Ping, str, None] = None
    """How to ask whether it answers, or the name of a preset; None: nobody can, and some probes are skipped."""
    type: SocketType = SocketType.STREAM
    socket_name: str = ""
    """The socket file's name, if the server takes no other."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What its environment has besides; HOME is ``{dir}``."""
    logs: Sequence[str] = ()
    """Files that it logs into, beside its standard output and error."""
    version: Sequence[str] = ()
    """A command that prints its version, in the first line."""
    get: str = ""
    """How to get it, if it is not installed."""
    root_command: Sequence[str] = ()
    """A command for root, with the server's own option to become an ordinary user; for the probe privilege-drop."""
    image: str = ""
    """A container image in which it runs, instead of on this machine."""

    def __post_init__(self) -> None:
        # Frozen: what was given in a shorter form is put right here, once.
        words = tuple(split_command(self.command))
        if not words:
            raise ServiceError("a subject has a command", "write it after --")
        given = "\0".join([*words, *self.files.values(), *self.env.values()])
        if not any(word in given for word in ("{socket}", "{parent}", "{name}")):
            hint = "write {socket} in the command where the path belongs"
            raise ServiceError(f"the command {' '.join(words)!r} is not told which path it is to serve", hint)
        ping = self.ping
        if isinstance(ping, str):
            if ping not in PRESETS:
                raise ServiceError(f"no ping is called {ping!r}", f"there are {', '.join(PRESETS)}")
            ping = PRESETS[ping]
        for name, value in (
            ("command", words),
            ("name", self.name or words[0].rpartition("/")[2]),
            ("setup", tuple(tuple(split_command(command)) for command in self.setup)),
            ("ping", ping),
            ("type", SocketType(self.type)),
            ("version", tuple(split_command(self.version))),
            ("root_command", tuple(split_command(self.root_command))),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any]) -> Subject:
        """From a table of a TOML file: the fields above; ``ping`` is a name, or a table of ``send`` and ``expect``.

        Raises :class:`~udslab.errors.ServiceError` for what is none."""
        unknown = set(table) - {each.name for each in fields(cls)}
        if unknown:
            raise ServiceError(f"the subject {name} has {', '.join(sorted(unknown))}, which no subject has")
        if "command" not in table:
            raise ServiceError(f"the subject {name} has no command")
        given = dict(table)
        ping = given.get("ping")
        if isinstance(ping, Mapping):
            # One byte for each character, so that "\u0000" can be written in TOML.
            given["ping"] = Ping(*(str(ping.get(key, "")).encode("latin-1") for key in ("send", "expect")))
        return cls(**{"name": name, **given})

    def missing(self) -> str:
        """The program that is not installed; empty if it is there, or is in an image."""
        programs = {command[0] for command in (self.command, *self.setup) if "{" not in command[0]}
        absent = sorted(program for program in programs if not self.image and shutil.which(program) is None)
        return ", ".join(absent)
