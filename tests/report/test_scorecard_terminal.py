"""The score card on a terminal of 80 columns."""

from __future__ import annotations

import io
import re

import pytest
from audits import audit, finding, many, whole

from udslab.audit.verdicts import VERDICTS
from udslab.report.scorecard import print_scorecard


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(*audits, out=None):
    out = out or io.StringIO()
    print_scorecard(audits, out)
    return out.getvalue()


def foreign():
    """A subject whose every text is long, and full of what moves a cursor."""
    text = "\x1b[2J\r\b\0" + "long/" * 60
    found = finding("second-instance", "steals", [text, text])
    findings = [{**found, "outcome": text}, {**found, "probe": text}]
    return audit(text, findings, version=text, command=[text], user=text, note=text)


CARDS = {
    "one": [whole("redis")],
    "many": many(),
    "foreign": [foreign()],
    "foreign ones": [foreign(), foreign()],
    "unaudited": [audit("knot", why="knotd is not installed, and nobody knows where to get it " * 3)],
    "unaudited ones": [audit("knot", why="knotd is not installed " * 9), whole("redis")],
    "none": [],
}


@pytest.mark.parametrize("audits", CARDS.values(), ids=CARDS)
def test_no_line_is_longer_than_the_terminal_and_none_has_a_control_character(audits):
    for line in printed(*audits).splitlines():
        assert len(line) <= 80
        assert line.isprintable()


def test_of_one_subject_each_probe_is_listed_with_its_outcome_and_verdict():
    shown = printed(whole("redis"))
    for found in whole("redis").findings:
        assert re.search(rf"^. {found.probe} +{found.outcome} +{found.verdict}$", shown, re.MULTILINE)


def test_what_is_to_be_known_of_a_subject_stands_below_its_command():
    assert "\n  as root it becomes another user\n" in printed(whole("redis", note="as root it becomes another user"))


def test_what_was_seen_stands_below_what_fails_or_warns_and_nothing_below_the_rest():
    steals = finding("second-instance", "steals", ["two were started", "the path leads to the second"])
    answers = finding("half-close", "answers", ["it was asked", "it answers"])
    skipped = finding("silent-client", "", why="nobody can ask it")
    shown = printed(audit(findings=[steals, answers, skipped])).splitlines()
    assert shown[-7:-2] == [
        "X second-instance             steals                          fail",
        "      the path leads to the second",
        ". half-close                  answers                         pass",
        "- silent-client                                               skip",
        "      nobody can ask it",
    ]


def test_of_several_there_is_a_matrix_of_one_character_for_each_verdict():
    one = audit("one", [finding("second-instance", "steals"), finding("half-close", "answers")])
    two = audit("two", [finding("second-instance", "hangs"), finding("silent-client", "", why="no ping")])
    assert printed(one, two).splitlines() == [
        "                          fwx  fail warn",
        "one                       X.      1",
        "two                       ! -          1",
        "",
        "f second-instance          w half-close               x silent-client",
        "",
        "2 subjects",
        "4 findings:  X 1 fail  ! 1 warn  . 1 pass  i 0 info  - 1 skip",
    ]


def test_why_one_is_missing_in_the_matrix_stands_whole_below_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    one = audit("one", [finding("second-instance", "steals")])
    why = "knotd is not installed: from Debian 13 on: apt-get install knot knot-dnsutils knot-module-dnstap"
    assert printed(one, audit("knot", why=why), audit("nsd", why="nsd is not installed")).splitlines() == [
        "                          f  fail warn",
        "one                       X     1",
        "knot                      not audited: see below",
        "nsd                       not audited: see below",
        "",
        "f second-instance",
        "",
        "knot: not audited: knotd is not installed: from Debian 13 on: apt-get install",
        "  knot knot-dnsutils knot-module-dnstap",
        "nsd: not audited: nsd is not installed",
        "",
        "3 subjects",
        "1 findings:  X 1 fail  ! 0 warn  . 0 pass  i 0 info  - 0 skip",
    ]


def test_the_matrix_has_a_legend_with_every_probe():
    shown = printed(*many(3))
    for probe in VERDICTS:
        assert re.search(rf"\b\w {probe}\b", shown)


def test_on_a_terminal_the_same_words_are_coloured():
    pytest.importorskip("rich")
    for audits in (many(1), many(3)):
        coloured = printed(*audits, out=Terminal())
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed(*audits)


def test_the_letters_of_probes_have_no_colour_for_none_of_them_is_a_verdict(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = printed(*many(3), out=Terminal()).splitlines()
    assert "\x1b[36m" not in lines[0]
    (legend,) = (line for line in lines if "regular-file" in line)
    assert legend.startswith("i regular-file")  # the sign of "info", which has a colour
    assert any("\x1b[36mi" in line for line in lines)


def test_nothing_in_foreign_text_is_taken_for_markup(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = printed(audit("[red]redis[/red]", [finding("half-close", "answers")]), out=Terminal())
    assert "[red]redis[/red]" in shown
    assert "\x1b[" in shown
