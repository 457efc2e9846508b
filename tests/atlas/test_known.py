"""Known divergences: what comes with the lab is well-formed; judging makes known what is unexpected, and no more."""

from __future__ import annotations

import dataclasses
import re

import pytest

from udslab.atlas.catalogue import select
from udslab.atlas.runner import UNSAID, Cell, Verdict
from udslab.errors import ServiceError
from udslab.places.known import KNOWN, Divergence, judge, known, load, stale
from udslab.places.survey import Survey

GVISOR = {"kernel": "4.4.0", "gvisor": True, "distro": "debian 12"}
LINUX = {"kernel": "6.18.44", "distro": "debian 12"}
IS_LATER = Divergence({"gvisor": True}, ("LSN-0*",), "it comes later", "https://issues.example/1", ("stream*",))


def cell(id="LSN-04", variant="stream", verdict=Verdict.UNEXPECTED, why="") -> Cell:
    return Cell(id, variant, "claim", "ok", "EPERM", verdict, why, 0.1)


@pytest.mark.parametrize("divergence", known(), ids=lambda divergence: divergence.ids[0])
def test_each_that_comes_with_the_lab_is_about_something_and_says_what(divergence):
    for glob in divergence.ids:
        assert select([glob])
    assert divergence.place
    assert 10 < len(divergence.reason) <= 120
    assert not divergence.reason.endswith(".")
    assert re.fullmatch(r"(https://\S+/(issues|pull)/\d+)?", divergence.issue)


def test_no_behaviour_is_in_two_for_the_same_places():
    seen = [(tuple(each.place.items()), id, each.variants) for each in known() for id in each.ids]
    assert len(seen) == len(set(seen))
    assert load(KNOWN) == known()


@pytest.mark.parametrize(
    ("place", "given", "verdict"),
    [
        (GVISOR, cell(), Verdict.KNOWN),
        (GVISOR, cell(variant="stream non-blocking"), Verdict.KNOWN),
        (GVISOR, cell(variant="seqpacket"), Verdict.UNEXPECTED),
        (GVISOR, cell("LSN-10"), Verdict.UNEXPECTED),
        (GVISOR, cell(verdict=Verdict.EXPECTED), Verdict.EXPECTED),
        (GVISOR, cell(verdict=Verdict.NOT_APPLICABLE), Verdict.NOT_APPLICABLE),
        (LINUX, cell(), Verdict.UNEXPECTED),
        ({**LINUX, "gvisor": False}, cell(), Verdict.UNEXPECTED),
        ({**LINUX, "gvisor": "true"}, cell(), Verdict.UNEXPECTED),
    ],
)
def test_what_is_unexpected_is_known_where_that_is_known(place, given, verdict):
    (judged,) = judge(Survey(place, (given,)), [IS_LATER]).cells
    assert judged.verdict is verdict
    if verdict is Verdict.KNOWN:
        assert judged == dataclasses.replace(given, verdict=verdict, why="it comes later (https://issues.example/1)")
    else:
        assert judged == given


def test_judging_twice_is_judging_once_and_keeps_what_the_runner_said():
    survey = Survey(GVISOR, (cell(why="line 3 of f"),))
    fails = dataclasses.replace(IS_LATER, seen=('"EPERM"',))
    once = judge(survey, [fails])
    assert once.cells[0].why == "it comes later (https://issues.example/1); line 3 of f"
    assert judge(once, [fails]) == once


@pytest.mark.parametrize(
    ("seen", "why", "globs", "is_known"),
    [
        ("EPERM", "", [], True),
        ("no end within 2.5 s", UNSAID, [], False),
        ("ended by SIGSEGV", UNSAID, [], False),
        ("RuntimeError: not full", "line 3 of f", [], False),
        ("no end within 2.5 s", UNSAID, ['"no end *'], True),
        ("ended by SIGSEGV", UNSAID, ['"no end *'], False),
        ({"a": [1, True], "b": None}, "", ['{"a":[[]1,true],"b":null}'], True),
        ({"a": [1, True], "b": "x"}, "", ['{"a":[[]1,true],"b":null}'], False),
        ({"a": 1, "b": 2}, "", ["3", '*"b":2*'], True),
    ],
)
def test_a_measurement_that_has_failed_is_known_only_where_that_is_what_is_to_be_seen(seen, why, globs, is_known):
    given = dataclasses.replace(cell(why=why), seen=seen)
    divergence = dataclasses.replace(IS_LATER, seen=tuple(globs))
    (judged,) = judge(Survey(GVISOR, (given,)), [divergence]).cells
    assert (judged.verdict is Verdict.KNOWN) is is_known


def test_places_are_told_by_globs_of_all_keys_that_are_given():
    old = Divergence({"kernel": "4.4.0*", "distro": "debian *"}, ("*",), "it is old")
    assert old.is_of(GVISOR)
    assert old.is_of({**GVISOR, "kernel": "4.4.0-generic"})
    assert not old.is_of(LINUX)
    assert not old.is_of({"kernel": "4.4.0"})
    assert Divergence({"uid": "0"}, ("*",), "it is root").is_of({"uid": 0})


def test_what_is_as_expected_again_is_stale():
    fine, gone = cell(verdict=Verdict.EXPECTED), cell("LSN-05", verdict=Verdict.EXPECTED)
    other = dataclasses.replace(IS_LATER, ids=("LSN-04", "LSN-05", "BND-01"))
    assert list(stale(Survey(GVISOR, (fine, gone)), [other])) == [
        ("LSN-04", "it comes later"),
        ("LSN-05", "it comes later"),
    ]
    assert list(stale(Survey(GVISOR, (fine, cell("LSN-05"))), [other])) == [("LSN-04", "it comes later")]
    assert list(stale(Survey(LINUX, (fine, gone)), [other])) == []
    not_asked = cell(verdict=Verdict.NOT_APPLICABLE)
    assert list(stale(Survey(GVISOR, (not_asked,)), [other])) == []
    assert list(stale(judge(Survey(GVISOR, (cell(),)), [other]), [other])) == []


GOOD = '[[divergence]]\nplace.gvisor = true\nids = ["LSN-04"]\nreason = "it comes later"\n'


def test_a_file_of_ones_own_is_read(tmp_path):
    (tmp_path / "known.toml").write_text(GOOD)
    assert load(tmp_path / "known.toml") == (Divergence({"gvisor": True}, ("LSN-04",), "it comes later"),)
    (tmp_path / "empty.toml").write_text("")
    assert load(tmp_path / "empty.toml") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[divergence]", "at line 1"),
        ("divergence = 1", "each with place, ids and reason"),
        ("divergence = [1]", "a divergence has the keys place, ids, reason, issue, variants, seen"),
        (GOOD.replace("reason", "because"), "a divergence has the keys"),
        (GOOD.replace('"it comes later"', '""'), "a divergence needs reason"),
        (GOOD.replace('["LSN-04"]', "[]"), "a divergence needs ids"),
        (GOOD.replace('["LSN-04"]', '"LSN-04"'), "a divergence needs ids"),
        (GOOD.replace("place.gvisor = true", ""), "a divergence needs place"),
        (GOOD.replace("place.gvisor = true", 'place = "gVisor"'), "a divergence needs place"),
        (GOOD.replace("true", "[1]"), "a divergence's place has texts and truths"),
        (GOOD + "variants = 3", "a divergence's variants: a list of texts"),
        (GOOD + 'seen = "*"', "a divergence's seen: a list of texts"),
        (GOOD.replace('"LSN-04"', "4"), "a divergence's ids: a list of texts"),
        (GOOD + "issue = 3", "a divergence's issue is a text"),
        ("\udcff", "invalid start byte"),
    ],
)
def test_what_is_no_such_file_is_said(tmp_path, text, said):
    (tmp_path / "bad.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ServiceError) as error:
        load(tmp_path / "bad.toml")
    assert str(tmp_path / "bad.toml") in str(error.value)
    assert said in str(error.value)
