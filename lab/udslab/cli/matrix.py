"""``udslab matrix``: the atlas of many places, by pytest."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import NoReturn

from udslab.cli.options import Commands
from udslab.errors import ServiceError, Stage, Unsupported

__all__ = ["add_parser"]

_PLUGIN = "pytest_udslab.matrix"
# pytest's exit statuses as this command has them: interrupted, an internal error, wrong use, nothing to run.
_RUN = """\
import sys, pytest
status = int(pytest.main(sys.argv[1:]))
sys.exit({2: 130, 3: 1, 4: 2, 5: 2}.get(status, status))
"""
_EPILOG = """\
Options beside FILE go to pytest: -n 4 spreads places over processes, -k and --lf choose among them, -x ends with the
first failure. --fresh measures anew what is known; --suite PATH also runs a project's own tests in each distribution,
with what --suite-requirements FILE asks for; --uds-engine CONTEXT... spreads places over container engines. Exit
status: 0 all is as expected or known, 1 something is not, 2 wrong use, 130 interrupted: the next run goes on from
there."""


def add_parser(commands: Commands) -> None:
    """Add ``matrix``."""
    parser = commands.add_parser(
        "matrix",
        help="tell what AF_UNIX does in many places: distributions, runtimes, users, volumes",
        description="Measure the atlas in each place that a TOML file names, in containers, and write one JSON and one "
        "HTML page of all of them. Places are pytest's items.",
        usage="udslab matrix FILE.toml [pytest's options]",
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="FILE", help="the matrix")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> NoReturn:
    """Become pytest."""
    if not os.path.isfile(options.file):
        raise ServiceError(f"no matrix is at {options.file}", "name a TOML file: distros = ['debian-12']")
    if find_spec("pytest") is None or find_spec("pytest_udslab") is None:
        raise ServiceError("a matrix is run by pytest, which is not installed", "pip install 'pytest-udslab[all]'")
    if find_spec("docker") is None:
        raise Unsupported("the docker SDK is not installed", "pip install 'pytest-udslab[docker]'", Stage.ENGINE)
    file = options.file
    if not file.endswith(".toml"):
        raise ServiceError(f"{file} is no TOML file by its name", "its name is to end in .toml")
    sys.stdout.flush()
    # Other plugins' random order would not let one see where it is; the ini file is of tests, and this is none.
    own = ["-p", _PLUGIN, "-p", "no:randomly", "-p", "no:asyncio", "-rs", "-c", os.devnull]
    own += ["--rootdir", os.path.dirname(os.path.abspath(file))]
    os.execv(sys.executable, [sys.executable, "-c", _RUN, *own, file, *_engines(options.rest)])  # noqa: S606


def _engines(words: Sequence[str]) -> Iterator[str]:
    """The words, with --uds-engine before each of its engines, as pytest takes it."""
    option = "--uds-engine"
    after = False
    for word in words:
        if after and not word.startswith("-"):
            yield from (option, word)
            continue
        after = word == option
        if not after:
            yield word
