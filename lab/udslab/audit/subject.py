"""Somebody's server, as the audit is told of it: how it is started, asked, and what it needs."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Union

from udslab.audit.ping import PRESETS, Ping
from udslab.audit.verdicts import VERDICTS
from udslab.errors import ServiceError
from udslab.processes import check, split_command
from udslab.socktype import SocketType
from udslab.spawn import Process

__all__ = ["Places", "Subject", "said_of", "search_path"]

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def search_path(env: Mapping[str, str]) -> str:
    """Where a subject's programs are looked for: PATH, and the directories of servers, which an ordinary user has not
    got there on Debian."""
    found = env.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*found, *(directory for directory in _SBIN if directory not in found)])


@contextmanager
def said_of(what: str) -> Iterator[None]:
    """What is refused in the block is said to be about that."""
    try:
        yield
    except ServiceError as error:
        raise ServiceError(f"{what}: {error.strerror}", error.hint) from None


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

    ``command``, as all commands: its words, or one text, which is taken apart as a shell would. A program that is
    given by a relative path is the one that this leads to now: servers are started in directories of their own.
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
    modules: Sequence[str] = ()
    """Python modules that its programs import: those that ``python3`` has not got are missing, too."""
    note: str = ""
    """What is to be known about it, such as why it has no ping."""
    root_command: Sequence[str] = ()
    """A command for root, with the server's own option to become an ordinary user; for the probe privilege-drop."""
    skips: Mapping[str, str] = field(default_factory=dict)
    """Probes that would judge how it is started instead, and why."""
    image: str = ""
    """A container image in which it runs, instead of on this machine."""
    start_limit: float = 30.0
    """Seconds in which it starts if nothing is in its way; after that it hangs. By how long it takes it is measured how
    long is waited for what may not happen."""

    def __post_init__(self) -> None:
        # Frozen: what was given in a shorter form is put right here, once.
        words = self._program("command", self.command)
        setup = tuple(_checked("setup", command) for command in self.setup)
        root_command = self._program("root_command", self.root_command) if self.root_command else ()
        with said_of("env"):
            check(words, self.env, 0, signal.SIGTERM)
        elsewhere = [*sum(setup, ()), *self.files.values(), *self.env.values()]
        for key, command in (("command", words), ("root_command", root_command)):
            given = "\0".join([*command, *elsewhere])
            if command and not any(word in given for word in ("{socket}", "{parent}", "{name}")):
                hint = "write {socket} in the command where the path belongs"
                raise ServiceError(f"the {key} {' '.join(command)!r} is not told which path it is to serve", hint)
        for key, name in (("socket_name", self.socket_name or "sock"), *(("files", name) for name in self.files)):
            if not _is_name(name):
                hint = "a name is not empty, not . nor .., and holds neither / nor NUL"
                raise ServiceError(f"{key}: {name!r} is no file's name", hint)
        for module in self.modules:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ServiceError(f"modules: {module!r} is no module's name", "write it as Python imports it")
        ping = self.ping
        if isinstance(ping, str):
            if ping not in PRESETS:
                raise ServiceError(f"no ping is called {ping!r}", f"there are {', '.join(PRESETS)}")
            ping = PRESETS[ping]
        if ping is not None and not ping.expect:
            raise ServiceError("the ping expects nothing, which all answers have", "give what is to be in the answer")
        if self.type not in list(SocketType):
            raise ServiceError(f"no type of socket is called {self.type!r}", f"there are {', '.join(SocketType)}")
        if not 0 < self.start_limit < math.inf:
            raise ServiceError(f"start_limit: a start takes no {self.start_limit:g} seconds", "give a number above 0")
        unknown = set(self.skips) - set(VERDICTS)
        if unknown:
            hint = f"there are {', '.join(VERDICTS)}"
            raise ServiceError(f"no probe is called {min(unknown)!r}, which the subject skips", hint)
        for name, value in (
            ("command", words),
            ("name", self.name or words[0].rpartition("/")[2]),
            ("setup", setup),
            ("ping", ping),
            ("type", SocketType(self.type)),
            ("version", self._program("version", self.version) if self.version else ()),
            ("root_command", root_command),
        ):
            object.__setattr__(self, name, value)

    def _program(self, key: str, command: str | Sequence[str]) -> tuple[str, ...]:
        words = _checked(key, command)
        if "/" not in words[0] or words[0].startswith(("/", "{")) or self.image:
            return words
        try:
            return (os.path.join(os.getcwd(), words[0].removeprefix("./")), *words[1:])
        except OSError:
            hint = "go to one that is there, or give the program's whole path"
            raise ServiceError(f"{key}: {words[0]!r} leads nowhere: this directory is gone", hint) from None

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any]) -> Subject:
        """From a table of a TOML file: the fields above; ``ping`` is a name, or a table of ``send`` and ``expect``.

        Raises :class:`~udslab.errors.ServiceError` for what is none."""
        unknown = set(table) - {each.name for each in fields(cls)}
        if unknown:
            raise ServiceError(f"the subject {name} has {', '.join(sorted(unknown))}, which no subject has")
        if "command" not in table:
            raise ServiceError(f"the subject {name} has no command")
        for key, value in table.items():
            form, fits = _FORMS.get(key, _TEXT)
            if not fits(value):
                raise ServiceError(f"the subject {name} has a {key} that is not {form}")
        given = {"name": name, **table}
        if isinstance(given.get("ping"), Mapping):
            # One byte for each character, so that "\u0000" can be written in TOML.
            given["ping"] = Ping(*(given["ping"].get(key, "").encode("latin-1") for key in ("send", "expect")))
        with said_of(f"the subject {name}"):
            return cls(**given)

    def missing(self) -> str:
        """The programs and Python modules that are not installed; empty if all are there, or are in an image."""
        if self.image:
            return ""
        programs = {command[0] for command in (self.command, *self.setup) if "{" not in command[0]}
        absent = sorted(program for program in programs if not _is_there(program))
        if self.modules and not absent:
            absent += _absent_modules(tuple(self.modules))
        return ", ".join(absent)


def _checked(key: str, command: str | Sequence[str]) -> tuple[str, ...]:
    """The words of the command in a field, with which a process can be started."""
    with said_of(key):
        try:
            words = tuple(split_command(command))
        except ValueError as error:
            hint = "its words are taken apart as by a shell"
            raise ServiceError(f"{command!r} is no command: {error}", hint) from None
        check(words, {}, 0, signal.SIGTERM)
        return words


def _is_there(program: str) -> bool:
    """Whether there is such a program, also if it cannot be started: its start tells why."""
    if "/" not in program:
        return shutil.which(program, os.F_OK, search_path(os.environ)) is not None
    try:
        os.stat(program)
    except (FileNotFoundError, NotADirectoryError):
        return not os.path.isabs(program)  # a set-up's, in {dir}
    except OSError:
        pass
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_name(value: object) -> bool:
    """Whether a file in a directory can be called that."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\0"}


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value.values()))


def _is_command(value: object) -> bool:
    return _is_text(value) or _is_list(value)


def _is_ping(value: object) -> bool:
    if _is_text(value):
        return True
    if not isinstance(value, Mapping) or not _is_table(value) or not value.get("expect"):
        return False
    return set(value) <= {"send", "expect"} and all(max(text, default="") <= "\xff" for text in value.values())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TEXT = "a text", _is_text
_LIST = "a list of texts", _is_list
_TABLE = "a table of texts", _is_table
_COMMAND = "a text or a list of texts", _is_command
_FORMS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "command": _COMMAND,
    "setup": ("a list of commands", lambda value: isinstance(value, list) and all(map(_is_command, value))),
    "files": _TABLE,
    "ping": ("the name of one, nor a table of send and expect, in characters of one byte", _is_ping),
    "socket_name": ("the name of a file", _is_name),
    "env": _TABLE,
    "logs": _LIST,
    "version": _COMMAND,
    "modules": _LIST,
    "root_command": _COMMAND,
    "skips": _TABLE,
    "start_limit": ("a number", _is_number),
}
"""What a field has to be in a table, if that is not a text."""


_FIND_SPEC = """
import importlib.util, sys
for module in sys.argv[1:]:
    try:
        absent = importlib.util.find_spec(module) is None
    except Exception:  # a dotted name's first part is imported
        absent = True
    if absent:
        print(f"\\nabsent: {module}")
"""


@cache
def _absent_modules(modules: tuple[str, ...]) -> list[str]:
    """Those that the ``python3`` of PATH has not got."""
    with Process(["python3", "-c", _FIND_SPEC, *modules]) as python:
        python.wait()
        lines = python.output().splitlines()  # also what is printed by what it imports
        return [module for module in modules if f"absent: {module}" in lines]
