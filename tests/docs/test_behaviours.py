"""docs/behaviours.md: its example is a behaviour that holds, and its table a known divergence."""

from __future__ import annotations

import json
import re
from pathlib import Path

from udslab.atlas import behaviour as module
from udslab.atlas.behaviour import BEHAVIOURS, LISTENING
from udslab.atlas.catalogue import select
from udslab.atlas.kit import Kit, errno_of
from udslab.atlas.runner import Verdict, run
from udslab.places.known import known, load
from udslab.places.survey import Survey
from udslab.socktype import SocketType

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/behaviours.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return found


def test_the_example_is_a_behaviour_that_holds():
    select()  # so that all others are there
    names = {"behaviour": module.behaviour, "LISTENING": LISTENING, "Kit": Kit, "errno_of": errno_of}
    try:
        exec(compile(block("python"), "behaviours.md", "exec", dont_inherit=True), {**names, "SocketType": SocketType})
        cells = list(run(select(["ABS-99"])))
    finally:
        BEHAVIOURS.pop("ABS-99", None)
    assert [cell.verdict for cell in cells] == [Verdict.EXPECTED] * 2


def test_the_table_is_one(tmp_path):
    (tmp_path / "known.toml").write_text(block("toml"))
    (divergence,) = load(tmp_path / "known.toml")
    (same,) = (each for each in known() if "SHU-04" in each.ids)
    assert (divergence.place, divergence.reason, divergence.issue) == (same.place, same.reason, same.issue)


def test_every_key_of_the_json_is_told():
    (cell,) = run(select(["UNN-06"]))
    whole = json.loads(json.dumps(Survey({}, (cell,)).as_dict()))
    for key in [*whole, *whole["cells"][0], *(f"`{verdict}`" for verdict in Verdict)]:
        assert key in DOCUMENT.partition("## The JSON")[2]


def test_what_is_said_to_have_no_row_has_none():
    section = DOCUMENT.partition("## What has no row\n")[2].partition("\n## ")[0]
    ids = re.findall(r"\b[A-Z]{3}-\d\d\b", section)
    assert len(ids) == len(set(ids)) > 10
    assert not {each.id for each in select()} & set(ids)
