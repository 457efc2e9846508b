"""What the audit is to say of the planted servers: one at the least for each outcome of each probe."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PLANTED", "PLANTS", "PYTHON", "Plant", "make_capable", "planted"]

PLANTED = Path(__file__).with_name("planted.py")
PYTHON = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
"""One that an ordinary user can read, too: the audit runs servers as nobody if it is root."""


def planted(traits: str, *options: str, path: str = "{socket}", python: str = PYTHON) -> list[str]:
    """The command of a planted server."""
    return [python, "-S", "-E", str(PLANTED), traits, path, *options]


@dataclass(frozen=True)
class Plant:
    """A planted server, and what one probe is to find."""

    probe: str
    outcome: str
    verdict: str
    traits: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Those that are as they are by construction; a finding may have more."""
    type: str = "stream"
    as_root: bool = False
    """Whether it is started as root, to become nobody."""
    capable: bool = False
    """Whether only a server with CAP_FOWNER can do so: see :func:`make_capable`."""

    @property
    def name(self) -> str:
        """What the server is called."""
        return self.traits.replace("=", "-").replace(",", "+")

    def __str__(self) -> str:
        return f"{self.probe}:{self.outcome}:{self.name}"


PERFECT = {
    "fresh-start": "listens",
    "term-cleanup": "removed",
    "int-cleanup": "removed",
    "stale-restart": "starts",
    "kill-main": "all-exit",
    "second-instance": "refused",
    "second-stops": "intact",
    "regular-file": "refused-kept",
    "symlink-to-file": "refused-kept",
    "symlink-dangling": "refused-kept",
    "symlink-to-stale": "refused-kept",
    "directory": "refused-kept",
    "missing-parent": "refused",
    "path-length": "honest",
    "race-over-stale": "exclusive",
    "race-after-kill": "exclusive",
    "read-only-directory": "refused",
    "foreign-stale": "refused",
    "exit-deletes-foreign": "kept",
    "descriptor-exhaustion": "recovers",
    "vanishing-clients": "survives",
    "half-close": "answers",
    "silent-client": "answers",
    "privilege-drop": "removed",
    "error-names-path": "always",
}
"""What the perfect server does; ``first-stops-after-steal`` asks nothing of it, for it steals nothing."""

_FACTS: Mapping[str, Mapping[str, Any]] = {
    "fresh-start": {"follows_umask": True, "open_to_all": False, "backlog": 128, "sockets": 1, "processes": 1},
    "kill-main": {"restart": "starts"},
    "path-length": {"107": "listens", "108": "refused", "120": "refused", "max_ok": 107},
    "race-over-stale": {"one": 10, "both": 0, "none": 0, "path-lost": 0},
    "race-after-kill": {"one": 10, "both": 0, "none": 0, "path-lost": 0},
    "descriptor-exhaustion": {"spins": False},
    "vanishing-clients": {},
    "privilege-drop": {"users": ["nobody", "root"], "owner": "root"},
}

_BOTH = {"one": 0, "both": 10, "none": 0, "path-lost": 0}
_NONE = {"one": 0, "both": 0, "none": 10, "path-lost": 0}
_LOST = {"one": 0, "both": 0, "none": 0, "path-lost": 10}
_BEHIND = "term=leave,int=leave"

PLANTS: tuple[Plant, ...] = (
    *(
        Plant(probe, outcome, "pass", "perfect", _FACTS.get(probe, {}), as_root=probe == "privilege-drop")
        for probe, outcome in PERFECT.items()
    ),
    # Starts that harnesses trip over: sound servers, all of them
    Plant("fresh-start", "listens", "pass", "fork=daemon", {"processes": 1}),
    Plant("fresh-start", "listens", "pass", "fork=daemon-late"),
    Plant("fresh-start", "listens", "pass", "fork=daemon-twice", {"processes": 1}),
    Plant("fresh-start", "listens", "pass", "fork=workers", {"processes": 3}),
    Plant("fresh-start", "listens", "pass", "sockets=control", {"sockets": 2}),
    Plant("fresh-start", "listens", "pass", "lock=file", {"sockets": 1}),
    Plant("fresh-start", "listens", "pass", "place=rename", {"sockets": 1}),
    Plant("fresh-start", "listens", "pass", "banner=yes"),
    Plant("fresh-start", "listens", "pass", "start=slow"),
    Plant("fresh-start", "listens", "pass", "start=flood"),
    Plant("fresh-start", "listens", "pass", "backlog=5", {"backlog": 5}),
    Plant("fresh-start", "listens", "pass", "type=seqpacket", {"type": "seqpacket"}, "seqpacket"),
    Plant("fresh-start", "listens", "pass", "type=dgram", {"type": "dgram"}, "dgram"),
    Plant("term-cleanup", "removed", "pass", "fork=daemon"),
    Plant("term-cleanup", "removed", "pass", "fork=daemon-late"),
    Plant("term-cleanup", "removed", "pass", "fork=daemon-launched"),
    Plant("term-cleanup", "removed", "pass", "fork=daemon-twice"),
    Plant("term-cleanup", "removed", "pass", "fork=workers"),
    Plant("term-cleanup", "removed", "pass", "sockets=control"),
    Plant("term-cleanup", "removed", "pass", "type=dgram", type="dgram"),
    Plant("stale-restart", "starts", "pass", "lock=file"),
    Plant("stale-restart", "starts", "pass", "sockets=control"),
    Plant("stale-restart", "starts", "pass", "fork=workers"),
    Plant("stale-restart", "starts", "pass", "fork=daemon-twice"),
    Plant("second-instance", "refused", "pass", "fork=daemon-twice"),
    Plant("second-instance", "refused", "pass", "fork=workers"),
    Plant("second-instance", "refused", "pass", "lock=file"),
    Plant("second-instance", "refused", "pass", "place=rename"),
    Plant("second-instance", "refused", "pass", "banner=yes"),
    Plant("second-instance", "refused", "pass", "exists=retry"),
    Plant("second-instance", "refused", "pass", "exists=ask"),
    Plant("second-instance", "refused", "pass", "type=dgram", type="dgram"),
    Plant("silent-client", "answers", "pass", "banner=yes"),
    # The start
    Plant("fresh-start", "listens", "pass", "mode=0600", {"follows_umask": False, "open_to_all": False}),
    Plant("fresh-start", "listens", "pass", "mode=umask-0666", {"follows_umask": True, "open_to_all": False}),
    Plant("fresh-start", "listens", "warn", "mode=late-0777", {"follows_umask": False, "open_to_all": True}),
    Plant("fresh-start", "listens", "warn", "mode=0666", {"follows_umask": False, "open_to_all": True}),
    Plant("fresh-start", "listens", "warn", "mode=0777", {"follows_umask": False, "open_to_all": True}),
    Plant("fresh-start", "fails", "fail", "start=exit-3"),
    Plant("fresh-start", "hangs", "fail", "start=never"),
    Plant("fresh-start", "hangs", "fail", "start=bound"),
    # The end
    Plant("term-cleanup", "left", "warn", "term=leave"),
    Plant("term-cleanup", "left", "warn", "term=rebind"),
    Plant("term-cleanup", "ignored", "warn", "term=ignore"),
    Plant("term-cleanup", "removed", "pass", "int=ignore"),
    Plant("term-cleanup", "removed", "pass", "handlers=late"),
    Plant("int-cleanup", "removed", "pass", "handlers=late"),
    Plant("int-cleanup", "left", "warn", "int=leave"),
    Plant("int-cleanup", "ignored", "warn", "int=ignore"),
    Plant("int-cleanup", "removed", "pass", "fork=group"),
    Plant("int-cleanup", "removed", "pass", "term=ignore"),
    Plant("exit-deletes-foreign", "deleted", "fail", "term=unlink-any"),
    Plant("exit-deletes-foreign", "deleted", "fail", "int=unlink-any"),
    Plant("exit-deletes-foreign", "deleted", "fail", "handlers=late,term=unlink-any"),
    Plant("exit-deletes-foreign", "kept", "pass", _BEHIND),
    # The start after it
    Plant("stale-restart", "starts", "pass", "exists=unlink"),
    Plant("stale-restart", "fails", "warn", "exists=unlooked"),
    Plant("stale-restart", "fails", "warn", "lock=exclusive-file"),
    Plant("stale-restart", "hangs", "warn", "exists=wait"),
    Plant("stale-restart", "hangs", "warn", "exists=elsewhere"),
    Plant("kill-main", "all-exit", "pass", "exists=unlooked", {"restart": "fails"}),
    Plant("kill-main", "all-exit", "pass", "exists=wait", {"restart": "hangs"}),
    Plant("kill-main", "all-exit", "pass", "fork=tied-workers", {"restart": "starts"}),
    Plant("kill-main", "all-exit", "pass", "fork=daemon-late", {"restart": "starts"}),
    Plant("kill-main", "all-exit", "pass", "fork=daemon-twice", {"restart": "starts"}),
    Plant("kill-main", "orphans-listen", "warn", "fork=workers", {"survivors": 2, "restart": "fails"}),
    Plant("kill-main", "orphans-listen", "warn", "fork=workers,exists=unlink", {"survivors": 2, "restart": "starts"}),
    Plant("kill-main", "orphans-listen", "warn", "fork=workers,exists=wait", {"survivors": 2, "restart": "hangs"}),
    Plant("kill-main", "orphans", "warn", "fork=helper", {"survivors": 1, "restart": "starts"}),
    Plant("kill-main", "orphans", "warn", "fork=helper,exists=unlooked", {"survivors": 1, "restart": "fails"}),
    Plant("kill-main", "orphans", "warn", "fork=helper,exists=wait", {"survivors": 1, "restart": "hangs"}),
    # A second one
    Plant("second-instance", "refused", "pass", "exists=unlooked"),
    Plant("second-instance", "refused", "pass", "lock=exclusive-file"),
    Plant("second-instance", "steals", "fail", "exists=unlink"),
    Plant("second-instance", "steals", "fail", "exists=unlink-socket"),
    Plant("second-instance", "steals", "fail", "exists=unlooked,place=rename"),
    Plant("second-instance", "path-lost", "fail", "exists=give-up"),
    Plant("second-instance", "path-lost", "fail", "exists=truncate"),
    Plant("second-instance", "path-lost", "fail", "refused=unlink"),
    Plant("second-instance", "hangs", "warn", "exists=wait"),
    Plant("second-instance", "hangs", "warn", "exists=ask,request=ignore"),
    Plant("second-instance", "hangs", "warn", "exists=elsewhere"),
    Plant("second-stops", "intact", "pass", "exists=wait"),
    Plant("second-stops", "stale", "fail", f"exists=unlink,{_BEHIND}"),
    Plant("second-stops", "gone", "fail", "exists=unlink"),
    Plant("second-stops", "gone", "fail", "refused=unlink"),
    Plant("first-stops-after-steal", "intact", "pass", "exists=unlink"),
    Plant("first-stops-after-steal", "intact", "pass", "exists=unlooked,place=rename"),
    Plant("first-stops-after-steal", "gone", "fail", "exists=unlink,term=unlink-any,int=unlink-any"),
    Plant("first-stops-after-steal", "gone", "fail", "exists=unlink,term=unlink-any,handlers=late"),
    Plant("second-stops", "gone", "fail", "exists=unlink,handlers=late"),
    Plant("first-stops-after-steal", "stale", "fail", "exists=unlink,term=rebind,int=rebind"),
    # What is not its own
    Plant("regular-file", "refused-kept", "pass", "exists=unlink-socket"),
    Plant("regular-file", "deleted-starts", "fail", "exists=unlink"),
    Plant("regular-file", "deleted-starts", "fail", "exists=unlooked,place=rename"),
    Plant("regular-file", "deleted-fails", "fail", "exists=give-up"),
    Plant("regular-file", "deleted-fails", "fail", "exists=truncate"),
    Plant("regular-file", "deleted-fails", "fail", "refused=unlink"),
    Plant("regular-file", "hangs", "warn", "exists=wait"),
    Plant("symlink-to-file", "refused-kept", "pass", "links=followed"),
    Plant("symlink-to-file", "link-replaced", "warn", "exists=unlink"),
    Plant("symlink-to-file", "link-replaced", "warn", "exists=unlooked,place=rename"),
    Plant("symlink-to-file", "link-removed", "warn", "exists=give-up"),
    Plant("symlink-to-file", "target-damaged", "fail", "exists=unlink,links=followed"),
    Plant("symlink-to-file", "target-damaged", "fail", "exists=truncate"),
    Plant("symlink-to-file", "target-damaged", "fail", "refused=chmod"),
    Plant("symlink-to-file", "hangs", "warn", "exists=wait"),
    Plant("symlink-dangling", "link-replaced", "warn", "exists=unlink"),
    Plant("symlink-dangling", "link-replaced", "warn", "exists=touch"),
    Plant("symlink-dangling", "link-removed", "warn", "exists=give-up"),
    Plant("symlink-dangling", "target-created", "info", "links=followed"),
    Plant("symlink-dangling", "target-created", "info", "exists=truncate"),
    Plant("symlink-dangling", "hangs", "warn", "exists=wait"),
    Plant("symlink-to-stale", "link-replaced", "warn", "exists=unlink"),
    Plant("symlink-to-stale", "link-replaced", "warn", "exists=unlooked,place=link"),
    Plant("symlink-to-stale", "link-removed", "warn", "exists=give-up"),
    Plant("symlink-to-stale", "target-created", "info", "exists=truncate"),
    Plant("symlink-to-stale", "starts-through-link", "pass", "links=followed"),
    Plant("symlink-to-stale", "hangs", "warn", "exists=wait"),
    Plant("directory", "refused-kept", "pass", "exists=unlink"),
    Plant("directory", "deleted", "fail", "exists=unlink-all"),
    Plant("directory", "deleted", "fail", "exists=unlink-empty"),
    Plant("directory", "hangs", "warn", "exists=wait"),
    Plant("foreign-stale", "refused", "pass", "exists=unlink"),
    Plant("foreign-stale", "starts", "info", "exists=unlink", capable=True),
    Plant("foreign-stale", "hangs", "warn", "exists=wait"),
    # Where it can not be
    Plant("missing-parent", "created", "info", "parent=made"),
    Plant("missing-parent", "hangs", "warn", "parent=awaited"),
    Plant("read-only-directory", "starts", "info", "denied=chmod", capable=True),
    Plant("read-only-directory", "hangs", "warn", "denied=wait"),
    Plant("path-length", "honest", "pass", "long=relative", {"108": "listens", "120": "listens", "max_ok": 120}),
    Plant("path-length", "honest", "pass", "sockets=control", {"107": "refused", "max_ok": 99}),
    Plant(
        "path-length", "truncates", "fail", "long=cut-107", {"107": "listens", "108": "truncated", "120": "truncated"}
    ),
    Plant(
        "path-length", "truncates", "fail", "long=cut-90", {"107": "truncated", "108": "truncated", "120": "truncated"}
    ),
    # Races. The lock makes sure of what each of the two sees; it is no help to who does not look.
    Plant("race-over-stale", "exclusive", "pass", "lock=file", {"one": 10}),
    Plant("race-over-stale", "exclusive", "pass", "lock=awaited-file,sockets=private", {"one": 10}),
    Plant("race-over-stale", "exclusive", "pass", "lock=awaited-file,sockets=hidden", {"one": 10}),
    Plant("race-over-stale", "exclusive", "pass", "lock=exclusive-file", {"one": 10}),
    Plant("race-over-stale", "exclusive", "pass", "exists=unlink,lost=withdraws", {"one": 10}),
    Plant("race-over-stale", "refuses", "info", "exists=unlooked", _NONE),
    Plant("race-over-stale", "races", "warn", "exists=unlink", _BOTH),
    Plant("race-over-stale", "races", "warn", "exists=unlink,place=dot", _BOTH),
    Plant("race-over-stale", "races", "warn", "exists=unlink,place=left", _BOTH),
    Plant("race-over-stale", "races", "warn", "exists=unlink,place=descriptor", _BOTH),
    Plant("race-over-stale", "races", "warn", "exists=unlink,sockets=hidden", _BOTH),
    Plant("race-over-stale", "races", "warn", "exists=unlooked,place=rename", _BOTH),
    Plant("race-over-stale", "races", "warn", "exists=unlooked,place=rename-out", _BOTH),
    Plant("race-over-stale", "races", "warn", "refused=unlink", _LOST),
    Plant("race-after-kill", "exclusive", "pass", "lock=file", {"one": 10}),
    Plant("race-after-kill", "refuses", "info", "exists=unlooked", _NONE),
    Plant("race-after-kill", "refuses", "info", "lock=exclusive-file", _NONE),
    Plant("race-after-kill", "races", "warn", "exists=unlink", _BOTH),
    Plant("race-after-kill", "races", "warn", "refused=unlink", _LOST),
    # Clients
    Plant("descriptor-exhaustion", "recovers", "pass", "accept=blocking", {"spins": False}),
    Plant("descriptor-exhaustion", "recovers", "pass", "fork=workers", {"spins": False}),
    Plant("descriptor-exhaustion", "recovers", "pass", "fork=per-client", {"spins": False}),
    Plant("descriptor-exhaustion", "recovers", "warn", "exhausted=spin", {"spins": True}),
    Plant("descriptor-exhaustion", "recovers", "warn", "exhausted=spin-and-log", {"spins": True}),
    Plant("descriptor-exhaustion", "no-recovery", "fail", "exhausted=give-up", {"spins": False}),
    Plant("descriptor-exhaustion", "dies", "fail", "exhausted=die"),
    Plant("descriptor-exhaustion", "dies", "fail", "exhausted=end"),
    Plant("descriptor-exhaustion", "dies", "fail", "fork=renewed,exhausted=end"),
    Plant("descriptor-exhaustion", "dies", "fail", "fork=restarted,exhausted=killed"),
    Plant("vanishing-clients", "survives", "pass", "banner=yes"),
    Plant("vanishing-clients", "survives", "pass", "clients=one-by-one"),
    Plant("vanishing-clients", "survives", "pass", "fork=renewed,retires=after-6"),
    Plant("vanishing-clients", "survives", "pass", "clients=one-by-one,vanished=rests"),
    Plant("vanishing-clients", "dies", "fail", "vanished=dies"),
    Plant("vanishing-clients", "dies", "fail", "fork=renewed,vanished=dies"),
    Plant("vanishing-clients", "stops-answering", "fail", "clients=one-by-one,vanished=wedges"),
    Plant("vanishing-clients", "survives", "pass", "backlog=5"),
    Plant("vanishing-clients", "stops-answering", "fail", "backlog=5,vanished=wears-out"),
    Plant("half-close", "answers", "pass", "rest=afresh"),
    Plant("half-close", "answers", "pass", "half-close=impatient"),
    Plant("half-close", "no-answer", "info", "half-close=aborts"),
    Plant("half-close", "no-answer", "info", "half-close=hasty"),
    Plant("silent-client", "blocked", "warn", "clients=one-by-one"),
    Plant("silent-client", "blocked", "warn", "clients=one-by-one,silent=dies"),
    # Root
    Plant("privilege-drop", "removed", "pass", "handlers=late", {"users": ["nobody", "root"]}, as_root=True),
    Plant("privilege-drop", "removed", "pass", "parent=removed", {"owner": "root"}, as_root=True),
    Plant("privilege-drop", "left", "warn", "drop=after-bind", {"users": ["nobody"], "owner": "root"}, as_root=True),
    # Errors
    Plant("error-names-path", "always", "pass", "errors=cut"),
    Plant("error-names-path", "always", "pass", "errors=escaped"),
    Plant("error-names-path", "always", "pass", "errors=wrapped"),
    Plant("error-names-path", "always", "pass", "errors=coloured"),
    Plant("error-names-path", "always", "pass", "errors=sentence"),
    Plant("error-names-path", "sometimes", "info", "errors=some"),
    Plant("error-names-path", "never", "warn", "errors=beside"),
    Plant("error-names-path", "never", "warn", "errors=banner"),
    Plant("error-names-path", "never", "warn", "errors=name"),
    Plant("error-names-path", "never", "warn", "errors=unnamed"),
    Plant("error-names-path", "never", "warn", "errors=silent"),
)


def make_capable(directory: Path) -> str:
    """A copy of Python with CAP_FOWNER in a directory: whoever runs it may treat all files as its owner may.

    Raises OSError (EPERM, ENOTSUP) where files can be given no capability: that takes root, and CAP_SETFCAP.
    """
    copy = directory / "python3"
    shutil.copyfile(PYTHON, copy)
    copy.chmod(0o755)
    # struct vfs_cap_data, revision 2, of linux/capability.h: effective, permitted and inheritable in two words each.
    revision_2, effective, fowner = 0x02000000, 0x000001, 1 << 3
    os.setxattr(copy, "security.capability", struct.pack("<5I", revision_2 | effective, fowner, 0, 0, 0))
    return str(copy)
