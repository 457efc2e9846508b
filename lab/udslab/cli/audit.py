"""``udslab audit``: what a server does to its socket file."""

from __future__ import annotations

import argparse
import codecs
import fnmatch
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from udslab.audit.auditor import DOES_NOT_START
from udslab.audit.crew import Crew
from udslab.audit.findings import Audit
from udslab.audit.host import user_named
from udslab.audit.ping import PRESETS, Ping
from udslab.audit.probes import PROBES
from udslab.audit.subject import Subject
from udslab.audit.verdicts import Verdict
from udslab.cli.forms import Form, add_forms, as_json, asked, tell
from udslab.cli.options import Commands, add_jobs, add_type, named_files
from udslab.errors import ServiceError
from udslab.report.progress import progress
from udslab.report.scorecard import print_scorecard, scorecard_html, scorecard_markdown
from udslab.report.terminal import print_table
from udslab.socktype import SocketType
from udslab.subjects import READY, load

__all__ = ["add_parser"]

_EPILOG = """\
In COMMAND, {socket} stands for the path, {parent} and {name} for its directory and its last part, {dir} for a scratch
directory of each instance, in which it is started. The server runs as an ordinary user: nobody, if this is root.
Exit status: 0 no probe has failed, 1 one has, or none could be played, or a server does not start, 2 wrong use, or a
file could not be written, 130 interrupted, 129 and 143 by SIGHUP and SIGTERM; what is known by then is printed."""


def add_parser(commands: Commands) -> None:
    """Add ``audit``."""
    parser = commands.add_parser(
        "audit",
        help="tell what a server does to its socket file",
        description="Put a server through the probes: does it steal a live server's path, delete a user's file, trip "
        "over a stale one, leave its own behind? All of it happens in directories of the audit's own.",
        usage="udslab audit [options] -- COMMAND... {socket}\n       udslab audit NAME... [options]",
        epilog=_EPILOG,
    )
    parser.add_argument("words", nargs="*", metavar="NAME", help="ready subjects, or those of --subjects")
    parser.add_argument("--subjects", metavar="FILE", help="take subjects from a TOML file; all of it if none is named")
    parser.add_argument("--list", action="store_true", help="list the subjects and the probes, and end")
    parser.add_argument(
        "--only", nargs="+", action="extend", metavar="PROBE", default=[], help="play these probes only (globs)"
    )
    parser.add_argument(
        "--ping",
        nargs="+",
        metavar="WORD",
        help="how to ask whether it answers: what to send, and what its answer has in it (\\n, \\x00: as in Python); "
        f"or a preset: {', '.join(PRESETS)}",
    )
    add_type(parser, default=None)
    parser.add_argument(
        "--setup",
        action="append",
        metavar="COMMAND",
        default=[],
        help="run this in {dir} before the first start there; may be repeated",
    )
    parser.add_argument(
        "--root-command",
        metavar="COMMAND",
        default="",
        help="how root starts it, with its own option to become an ordinary user",
    )
    parser.add_argument("--user", metavar="NAME", help="whom the server runs as")
    parser.add_argument(
        "--start-limit", type=float, metavar="SECONDS", help="how long a start may take (30, or as a file says)"
    )
    add_jobs(parser, "probes")
    add_forms(parser, json="the findings as JSON", html="the score card as HTML", markdown="it as Markdown")
    parser.add_argument(
        "--fail-on",
        choices=[Verdict.FAIL.value, Verdict.WARN.value],
        default=Verdict.FAIL.value,
        help="the least verdict for exit status 1 (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Audit."""
    if options.list:
        return _list(options)
    probes = _probes(options.only)
    subjects = _subjects(options)
    if options.start_limit is not None:
        subjects = [replace(subject, start_limit=options.start_limit) for subject in subjects]
    crew = Crew(subjects, probes, jobs=options.jobs, user=user_named(options.user))
    forms = asked(options, json=as_json, html=scorecard_html, markdown=scorecard_markdown)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # SIGINT also as a shell starts what is in the background; who was started with nohup stays.
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        with progress("audit", crew.size) as advance, closing(crew.work()) as work:
            for subject, finding in work:
                advance(f"{subject.name}: {finding.probe}")
    except _Ended as end:
        _tell_of_part(forms, crew.audits())
        print("udslab: interrupted: the probes that had not ended are missing", file=sys.stderr)
        return 128 + end.number
    except BaseException:
        _tell_of_part(forms, crew.audits())  # nothing of what is known is lost
        raise
    audits = crew.audits()
    if not tell(audits, print_scorecard, forms):
        return 2
    findings = [finding for audit in audits for finding in audit.findings]
    if all(finding.verdict is Verdict.SKIP for finding in findings):
        return 1
    if any(finding.why.startswith(DOES_NOT_START) for finding in findings):
        return 1
    bad = (Verdict.FAIL,) if options.fail_on == Verdict.FAIL else (Verdict.FAIL, Verdict.WARN)
    return 1 if any(audit.worst(*bad) for audit in audits) else 0


class _Ended(KeyboardInterrupt):
    """A signal that tells to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _end(number: int, frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):  # a terminal that closes and a service manager send several
        signal.signal(each, signal.SIG_IGN)
    raise _Ended(number)


def _tell_of_part(forms: Mapping[str, Form], audits: Sequence[Audit]) -> None:
    """What has found nothing does not take the place of what another audit has found."""
    tell(audits, print_scorecard, forms, into_files=any(audit.findings for audit in audits))


def _subjects(options: argparse.Namespace) -> list[Subject]:
    words: list[str] = options.words
    if any("{" in word for word in words):
        if options.subjects:
            raise ServiceError("--subjects is for names, and a command is given", "audit one after the other")
        return [_command(options)]
    for name in ("setup", "root_command", "ping", "type"):
        if getattr(options, name):
            hint = "write {socket} in the command where the path belongs"
            raise ServiceError(f"--{name.replace('_', '-')} is for a command, and none is given", hint)
    known = _known(options)
    unknown = [word for word in words if word not in known]
    if unknown:
        hint = f"there are {', '.join(known)}; a command has {{socket}} where its path belongs"
        raise ServiceError(f"no subject is called {unknown[0]!r}", hint)
    if not words and not options.subjects:
        raise ServiceError("nothing is given to audit", "name subjects (--list shows them), or a command after --")
    subjects = [known[word] for word in words or known]
    for subject in subjects:
        if subject.image:
            what = f"the subject {subject.name} runs in a container, and this command audits processes of this machine"
            raise ServiceError(what, "put it through uds_audit, in a test")
    return subjects


def _known(options: argparse.Namespace) -> dict[str, Subject]:
    with named_files():
        return load(options.subjects or READY)


def _command(options: argparse.Namespace) -> Subject:
    ping: Ping | str | None = None
    if options.ping:
        if len(options.ping) > 2:
            raise ServiceError("--ping takes the name of a preset, or what to send and what to expect")
        ping = options.ping[0] if len(options.ping) == 1 else Ping(*map(_octets, options.ping))
    return Subject(
        options.words,
        setup=options.setup,
        ping=ping,
        type=options.type or SocketType.STREAM,
        root_command=options.root_command,
    )


def _octets(word: str) -> bytes:
    """What was typed, with Python's escapes."""
    try:
        return codecs.escape_decode(os.fsencode(word))[0]
    except ValueError as error:
        raise ServiceError(f"--ping {word!r}: {error}") from None


def _probes(patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(PROBES, pattern):
            raise ServiceError(f"no probe is called {pattern!r}", f"there are {', '.join(PROBES)}")
    return [name for name in PROBES if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _list(options: argparse.Namespace) -> int:
    subjects = _known(options)
    rows = [[name, "missing" if subject.missing() else "there", subject.get] for name, subject in subjects.items()]
    print_table(("SUBJECT", "PROGRAM", "HOW TO GET IT"), rows)
    print()
    print_table(("PROBE", "WHAT IS DONE"), [[probe.name, probe.done] for probe in PROBES.values()])
    return 0
