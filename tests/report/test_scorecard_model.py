"""The score card: rows, cells, counts, and foreign text made printable."""

from __future__ import annotations

import string

import pytest
from audits import audit, finding, many, whole

from udslab.audit.verdicts import VERDICTS, WARNING_FACTS, Verdict
from udslab.report.scorecard.model import Scorecard


def test_a_row_for_each_subject_in_their_order_and_a_cell_for_each_probe_in_the_order_of_the_verdicts():
    card = Scorecard.of([whole("valkey"), whole("redis")])
    assert [row.name for row in card.rows] == ["valkey", "redis"]
    for row in card.rows:
        assert [cell.probe for cell in row.cells] == list(VERDICTS)


def test_each_probe_has_one_letter_whatever_else_was_asked():
    every = {column.probe: column.letter for column in Scorecard.of([whole()]).columns}
    assert list(every.values()) == list(string.ascii_lowercase[: len(VERDICTS)])
    (column,) = Scorecard.of([audit(findings=[finding("half-close", "answers")])]).columns
    assert column.letter == every["half-close"]


def test_only_what_was_asked_of_any_is_a_column_and_what_was_not_asked_of_one_is_an_empty_cell():
    asked = [audit("one", [finding("half-close", "answers")]), audit("two", [finding("regular-file", "refused-kept")])]
    card = Scorecard.of(asked)
    assert [column.probe for column in card.columns] == ["regular-file", "half-close"]
    assert [[cell.verdict for cell in row.cells] for row in card.rows] == [[None, Verdict.PASS], [Verdict.PASS, None]]


def test_a_probe_that_this_release_does_not_know_comes_last():
    found = {"probe": "moon-phase", "outcome": "full", "verdict": "info", "facts": {}, "evidence": [], "seconds": 0}
    card = Scorecard.of([audit(findings=[found, finding("half-close", "answers")])])
    assert [column.probe for column in card.columns] == ["half-close", "moon-phase"]


def test_counts_are_of_the_findings():
    card = Scorecard.of(many(5))
    assert card.counts.total() == 5 * len(VERDICTS)
    for row in card.rows:
        for verdict in Verdict:
            assert row.counts[verdict] == sum(cell.verdict is verdict for cell in row.cells)


def test_what_troubles_is_what_fails_and_then_what_warns():
    row = Scorecard.of([whole("emacs-daemon")]).rows[0]
    verdicts = [cell.verdict for cell in row.troubling]
    assert verdicts == [Verdict.FAIL] * row.counts[Verdict.FAIL] + [Verdict.WARN] * row.counts[Verdict.WARN]
    assert len(set(verdicts)) == 2


def test_names_for_links_are_unique_and_harmless():
    card = Scorecard.of([audit("My Server/2"), audit("my server 2"), audit("\N{SNOWMAN}"), audit('"><b>')])
    assert [row.anchor for row in card.rows] == ["my-server-2", "my-server-2-2", "subject", "b"]


def test_shared_is_what_all_say_alike():
    card = Scorecard.of([audit("one", kernel="6.1", user="nobody"), audit("two", kernel="6.18", user="nobody")])
    assert (card.shared("kernel"), card.shared("user"), card.shared("nothing")) == ("", "nobody", "")


def test_a_subject_that_could_not_be_had_says_why():
    (row,) = Scorecard.of([audit("knot", why="knotd is not installed")]).rows
    assert (row.why, row.cells) == ("knotd is not installed", ())


def test_an_audit_that_says_nothing_of_its_subject():
    bare = audit(name="", command=[], version="", user="", kernel="", lab="")
    assert [(row.name, row.about) for row in Scorecard.of([bare]).rows] == [("?", {})]


def test_a_card_of_no_audits_is_empty():
    card = Scorecard.of([])
    assert (card.columns, card.rows, card.counts.total()) == ((), (), 0)


class TestTelling:
    def telling(self, *args, **kwargs):
        return Scorecard.of([audit(findings=[finding(*args, **kwargs)])]).rows[0].cells[0].telling

    def test_it_is_what_was_seen_last(self):
        assert self.telling("second-instance", "steals", ["done", "seen"]) == "seen"

    def test_or_why_it_was_skipped(self):
        assert self.telling("half-close", "", why="no ping") == "no ping"

    @pytest.mark.parametrize("fact", WARNING_FACTS)
    def test_or_what_a_fact_warns_of(self, fact):
        assert self.telling("fresh-start", "listens", ["seen"], {fact: True}) == WARNING_FACTS[fact]
        assert self.telling("fresh-start", "listens", ["seen"], {fact: False}) == "seen"

    def test_or_nothing(self):
        assert self.telling("half-close", "answers") == ""


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("a\0b", r"a\x00b"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines", r"two\nlines"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\N{SNOWMAN} é", "\N{SNOWMAN} é"),
    ],
)
def test_foreign_text_is_made_printable_wherever_it_stands(foreign, shown):
    found = finding("half-close", "no-answer", [foreign], {foreign: [foreign]})
    found |= {"outcome": foreign, "why": foreign}
    (row,) = Scorecard.of([audit(foreign, [found], version=foreign, command=[foreign], why=foreign)]).rows
    (cell,) = row.cells
    assert (row.name, row.about["version"], row.why) == (shown, shown, shown)
    assert shown in row.about["command"]
    assert (cell.outcome, cell.why, cell.evidence) == (shown, shown, (shown,))
    ((key, value),) = cell.facts
    assert key == shown
    assert (row.name + row.about["command"] + value + cell.telling).isprintable()
