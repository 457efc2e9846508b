"""``udslab serve``: a server around a service, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import resource
import sys

from udslab.address import Address
from udslab.cli.options import Commands, add_type, address, seconds
from udslab.errors import AddressError, Stage, failure
from udslab.listener import Listener, OnExisting, inherited
from udslab.server import ConnectionServer, DatagramServer, Server, run_until_signal, serve
from udslab.services import SERVICES, resolve
from udslab.socketfile import BoundSocket
from udslab.socktype import SocketType

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add ``serve``."""
    parser = commands.add_parser(
        "serve",
        help="listen on a path and serve, in upper case unless told otherwise",
        description="Listen on PATH and serve until SIGTERM or SIGINT; then answer what has come, and remove the "
        "socket file. One line to standard error for each client. Sockets handed over by a service manager "
        "(LISTEN_FDS) are served instead of a new one, and their files left alone.",
    )
    parser.add_argument("path", metavar="PATH", type=address, help="a path, @name (abstract), or a unix: URL")
    add_type(parser)
    parser.add_argument(
        "--service",
        default="upper",
        metavar="NAME",
        help=f"{', '.join(SERVICES)}, or module:name (default: %(default)s)",
    )
    parser.add_argument(
        "--on-existing",
        choices=[policy.value for policy in OnExisting],
        default=OnExisting.REPLACE_STALE.value,
        help="what to do when something is at PATH (default: %(default)s)",
    )
    parser.add_argument(
        "--backlog", type=_backlog, default=128, metavar="N", help="how many may wait (default: %(default)s)"
    )
    parser.add_argument(
        "--mode", type=_mode, metavar="OCTAL", help="the file's mode, such as 660 (default: by the umask)"
    )
    parser.add_argument(
        "--group", type=_group, metavar="GROUP", help="the file's group; with it the mode is 660 unless given"
    )
    parser.add_argument(
        "--long-path", choices=["refuse", "alias"], default="refuse", help="what to do when PATH does not fit"
    )
    parser.add_argument("--once", action="store_true", help="serve one client, and exit when it has gone")
    parser.add_argument(
        "--identify",
        action="store_true",
        help="tell callers by the file they have bound, too: check it, remove it, turn others away",
    )
    parser.add_argument(
        "--drain", type=seconds, default=5.0, metavar="SECONDS", help="how long clients get at the end (default: 5)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but warnings and errors")
    parser.add_argument("-v", "--verbose", action="store_true", help="say also how each client went")
    parser.set_defaults(run=run)


def _mode(word: str) -> int:
    try:
        value = int(word, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise argparse.ArgumentTypeError(f"{word!r} is no mode: it is octal, from 0 to 777")
    return value


def _backlog(word: str) -> int:
    value = int(word) if word.isdecimal() else -1
    if not 0 <= value < 1 << 31:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of connections")
    return value


def _group(word: str) -> int | str:
    if not word.isdigit():
        return word
    # The last one means "leave it as it is" (chown(2)).
    if not word.isdecimal() or int(word) >= (1 << 32) - 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no group id")
    return int(word)


def run(options: argparse.Namespace) -> int:
    """Serve."""
    level = logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO
    logging.basicConfig(level=level, format="udslab: %(message)s", stream=sys.stderr)
    if ":" in options.service:
        sys.path.insert(0, "")  # it may lie in the current directory, as with python -m
    resolve(options.service)
    _take_all_descriptors()
    drain = options.drain or float("inf")

    def make() -> Server:
        sock = _inherited(Address.parse(options.path))
        if isinstance(sock, Listener):
            return ConnectionServer(sock, options.service, drain=drain, once=options.once, identify=options.identify)
        if sock is not None:
            return DatagramServer(sock, options.service, drain=drain, once=options.once)
        names = ("service", "type", "on_existing", "backlog", "mode", "group", "long_path", "once", "identify")
        return serve(options.path, drain=drain, **{name: getattr(options, name) for name in names})

    def ready(server: Server) -> None:
        kind = f"listening, {server.type}" if server.type.connects else "bound, dgram"
        logging.getLogger("udslab").info(
            "serving %s on %s (%s, pid %d)", options.service, server.address, kind, os.getpid()
        )

    run_until_signal(make, ready)
    return 0


def _inherited(wanted: Address) -> Listener | BoundSocket | None:
    """The socket that a service manager has handed over for this address; None if it has handed over none."""
    sockets = inherited()
    for sock in sockets:
        if sock.address == wanted:
            if isinstance(sock, Listener) or sock.type == SocketType.DGRAM.constant:
                return sock
            raise failure(Stage.LISTEN, errno.EINVAL, wanted, "the socket handed over (LISTEN_FDS) does not listen")
    if sockets:
        raise AddressError(
            Stage.ADDRESS,
            errno.EINVAL,
            str(wanted),
            f"they are bound to {', '.join(str(sock.address) for sock in sockets)}",
            "none of the sockets handed over (LISTEN_FDS) is bound to it",
        )
    return None


def _take_all_descriptors() -> None:
    """One client, one descriptor: raise the soft limit, which is low for the sake of select(2), to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
