"""``udslab atlas``: what AF_UNIX really does in this place."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from udslab.atlas.catalogue import select
from udslab.atlas.runner import Cell, Verdict
from udslab.cli.forms import add_forms, as_json, asked, tell
from udslab.cli.options import Commands, add_jobs
from udslab.errors import ServiceError
from udslab.places.here import Here
from udslab.places.known import judge, known, stale
from udslab.places.survey import Survey, load
from udslab.report.atlas import atlas_html, atlas_markdown, print_behaviour, print_survey
from udslab.report.atlas.model import Atlas
from udslab.report.progress import progress
from udslab.report.text import clean, folded

__all__ = ["add_parser"]

_EPILOG = """\
A GLOB is of ids, in any case: 'BND-*', lsn-04. Exit status: 0 all is as expected, or known not to be here; 1 something
is not (diff: they differ); 2 wrong use, or a file could not be written; 130 interrupted: what is known by then is
printed."""


def add_parser(commands: Commands) -> None:
    """Add ``atlas``."""
    parser = commands.add_parser(
        "atlas",
        help="tell what AF_UNIX really does in this place",
        description="Measure the behaviours of Unix domain sockets in this place, and compare them with what Linux is "
        "known to do. All of it happens in child processes and a directory of their own.",
        usage="udslab atlas [options]\n       udslab atlas show ID... [--of FILE...]\n"
        "       udslab atlas diff A.json B.json",
        epilog=_EPILOG,
    )
    parser.add_argument("--only", nargs="+", action="extend", metavar="GLOB", default=[], help="these behaviours only")
    add_jobs(parser, "measurements")
    add_forms(parser, json="what was seen as JSON", html="it as HTML", markdown="it as Markdown")
    parser.set_defaults(run=run)
    acts = parser.add_subparsers(title="acts", metavar="")
    show = acts.add_parser(
        "show",
        help="tell what behaviours are, why, where that is said, and what was seen",
        description="Tell of each behaviour its claim, why it is so, where that is said, and what each place said: "
        "this one, or those of the files.",
    )
    show.add_argument("ids", nargs="+", metavar="ID", help="an id, or a glob of ids")
    show.add_argument("--of", nargs="+", metavar="FILE", default=[], help="what udslab atlas --json has written")
    show.set_defaults(run=_show)
    diff = acts.add_parser(
        "diff",
        help="tell what two places, or times, do not have in common",
        description="Tell which cells of two files that udslab atlas --json has written differ.",
    )
    diff.add_argument("files", nargs=2, metavar="FILE")
    diff.set_defaults(run=_diff)


def run(options: argparse.Namespace) -> int:
    """Measure."""
    forms = asked(options, json=partial(as_json, indent=1), html=atlas_html, markdown=atlas_markdown)
    survey, interrupted = _measure(options.only, options.jobs)
    written = tell([survey], _print, forms)
    for glob, reason in stale(survey):
        print(f"udslab: {clean(glob)} is as expected here, though it is known not to be: {reason}", file=sys.stderr)
    if interrupted:
        print("udslab: interrupted: the cells that had not come are missing", file=sys.stderr)
        return 130
    if not written:
        return 2
    return 1 if any(cell.verdict is Verdict.UNEXPECTED for cell in survey.cells) else 0


def _measure(patterns: Sequence[str], jobs: int) -> tuple[Survey, bool]:
    """The survey of this place, and whether it was interrupted."""
    _select(patterns)
    with Here(patterns, jobs) as here:
        interrupted = False
        try:
            with progress("atlas", here.count) as advance:
                for cell in here:
                    advance(f"{cell.id} {cell.variant}")
        except KeyboardInterrupt:
            interrupted = True
        return judge(here.survey), interrupted


def _select(patterns: Sequence[str]) -> list[str]:
    try:
        return [each.id for each in select(patterns)]
    except ValueError as error:
        raise ServiceError(str(error), "ids are like BND-01, their groups' letters BND; '*' gives all") from error


def _print(surveys: Sequence[Survey]) -> None:
    for survey in surveys:
        print_survey(survey)


def _show(options: argparse.Namespace) -> int:
    ids = _select(options.ids)
    surveys = [judge(survey) for file in options.of for survey in load(file)]
    interrupted = False
    if not options.of:
        survey, interrupted = _measure(options.ids, options.jobs)
        surveys = [survey]
    atlas = Atlas.of([Survey(survey.place, tuple(c for c in survey.cells if c.id in ids)) for survey in surveys])
    missing = [id for id in ids if id not in {row.id for row in atlas.rows}]
    if missing and not interrupted:
        raise ServiceError(f"nothing was measured of {', '.join(missing)}", "the files are of something else")
    for number, row in enumerate(row for _, _, rows in atlas.sections for row in rows):
        print(end="\n" if number else "")
        print_behaviour(row, [place.label for place in atlas.places])
        for each in known():
            if each.is_about(row.id) and each.is_of_pairs is row.between:
                places = ", ".join(
                    f"{key} is {json.dumps(value, ensure_ascii=False)}" for key, value in each.place.items()
                )
                print("\n".join(folded(f"where {places}: {each.why}", " " * 12, "  known     ")))
    return 130 if interrupted else int(any(row.worst is Verdict.UNEXPECTED for row in atlas.rows))


def _diff(options: argparse.Namespace) -> int:
    files: list[str] = options.files
    surveys = [_only(file) for file in files]
    cells = [{(cell.id, cell.variant): cell for cell in survey.cells} for survey in surveys]
    both = cells[0].keys() & cells[1].keys()
    differ = {key for key in both if _what(cells[0][key]) != _what(cells[1][key])}
    atlas = Atlas.of(
        [replace(survey, cells=tuple(c for c in survey.cells if (c.id, c.variant) in differ)) for survey in surveys]
    )
    for row in atlas.rows:
        print_behaviour(row, [place.label for place in atlas.places])
        print()
    for file, mine, others in zip(files, cells, reversed(cells), strict=True):
        alone = dict.fromkeys(id for id, _ in mine.keys() - others.keys())
        if alone:
            print("\n".join([f"only in {clean(file)}:", *folded(", ".join(map(clean, sorted(alone))), "  ")]))
    print(f"{len(differ):,} of {len(both):,} cells differ")
    return int(len(differ) > 0 or len(both) < len(cells[0]) or len(both) < len(cells[1]))


def _what(cell: Cell) -> tuple[object, Verdict]:
    return cell.seen, cell.verdict


def _only(file: str) -> Survey:
    surveys = load(file)
    if len(surveys) != 1:
        raise ServiceError(f"{clean(file)}: {len(surveys)} surveys are in it", "diff compares files of one each")
    return judge(surveys[0])
