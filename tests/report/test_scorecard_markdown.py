"""The score card as Markdown."""

from __future__ import annotations

import datetime
import re

import pytest
from audits import audit, finding, many, whole

from udslab.audit.verdicts import VERDICTS
from udslab.report.scorecard import scorecard_markdown

DAY = datetime.date(2026, 11, 25)


def table(page):
    return [line for line in page.splitlines() if line.startswith("|")]


def test_the_head_says_when_where_and_how_many():
    page = scorecard_markdown(many(3), DAY)
    assert "2026-11-25, kernel 6.18.0, lab 0.1.0, user nobody." in page
    assert "**✗** fail (" in page


def test_the_day_is_today_unless_given():
    assert str(datetime.date.today()) in scorecard_markdown([])


def test_each_line_of_the_matrix_has_a_cell_for_each_probe():
    lines = table(scorecard_markdown([*many(), audit("knot", why="not installed")], DAY))
    assert len(lines) == 2 + 35 + 1
    assert {re.sub(r"\\.", "", line).count("|") for line in lines[:1] + lines[2:]} == {len(VERDICTS) + 2}
    assert lines[1] == "|---" + "|:-:" * len(VERDICTS) + "|"


def test_every_link_within_the_page_leads_somewhere_and_only_to_one_place():
    page = scorecard_markdown([*many(), whole("redis", seed=1)], DAY)
    places = re.findall(r'<a id="([^"]+)">', page)
    assert len(places) == len(set(places))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == set(places)


def test_each_fail_and_warning_is_there_with_its_evidence():
    evidence = ["two were started", "the path leads to the second"]
    page = scorecard_markdown([audit(findings=[finding("second-instance", "steals", evidence)])], DAY)
    assert "**second-instance: steals** (fail)\n  - two were started\n  - the path leads to the second\n" in page


def test_a_page_that_gets_too_long_has_the_whole_evidence_of_fails_and_a_line_of_each_warning():
    lines = [f"seen {number}" for number in range(50)]
    findings = [finding("second-instance", "steals", lines), finding("race-over-stale", "races", lines)]
    short, long = ([audit(f"server-{number}", findings) for number in range(size)] for size in (1, 200))
    fail, warning = ("  - " + "\n  - ".join(lines) + "\n" + end for end in ("- <a", ""))
    page = scorecard_markdown(short, DAY)
    assert (page.count(fail), page.count(f"(warn)\n{warning}")) == (1, 1)
    assert "--html" not in page
    page = scorecard_markdown(long, DAY)
    assert (page.count(fail), page.count("(warn)\n  - seen 49\n\n")) == (200, 199)
    assert "The rest is in what `udslab audit --html` writes." in page


def test_a_warning_of_which_nothing_is_told_has_no_line_on_a_long_page():
    page = scorecard_markdown([audit("server", [finding("race-over-stale", "races")])] * 2000, DAY)
    assert "The rest is in" in page
    assert "races** (warn)\n\n" in page


def test_a_page_of_somebody_elses_repository_leads_nowhere_else_and_one_of_the_docs_to_its_neighbours():
    audits = many() * 9
    page, ours = scorecard_markdown(audits, DAY), scorecard_markdown(audits, DAY, in_docs=True)
    assert {target[0] for target in re.findall(r"\]\(([^)]+)\)", page)} == {"#"}
    assert "What the probes do: `udslab audit --list`." in page
    named = {f"audit.md#{probe}" for probe in VERDICTS}
    assert set(re.findall(r"\]\(([^#)][^)]*)\)", ours)) == {"audit.md", "scoreboard.html", *named}


def test_a_subject_without_trouble_and_one_that_could_not_be_had():
    page = scorecard_markdown(
        [audit("one", [finding("half-close", "answers")]), audit("two", why="not installed")], DAY
    )
    assert "Nothing fails, nothing warns." in page
    assert "| [two](#two) (not audited) |" in page
    assert "Not audited: not installed" in page


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a|b", r"a\|b"),
        ("[x](javascript:y)", r"\[x\](javascript:y)"),
        ("`code` *bold* _so_", r"\`code\` \*bold\* \_so\_"),
        ("&lt;", "&amp;lt;"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("6.18.0", "6.18.0"),
        ("a\nb\0", r"a\\nb\\x00"),
    ],
)
def test_foreign_text_is_shown_as_it_is(foreign, shown):
    page = scorecard_markdown([audit(foreign, [finding("second-instance", "steals", [foreign])], command=["c"])], DAY)
    assert f"  - {shown}\n" in page
    assert f"| [{shown}](#" in page
    assert "<script" not in page


def test_what_is_to_be_known_of_a_subject_stands_with_its_command():
    text = scorecard_markdown([whole("redis", note="as root it becomes another user")])
    assert re.search(r"`redis-server [^`]*`, as root it becomes another user$", text, re.MULTILINE)


def test_a_command_is_code_whatever_ticks_are_in_it():
    assert "`` sh -c '`x`' ``" in scorecard_markdown([audit(command=["sh", "-c", "`x`"])], DAY)
