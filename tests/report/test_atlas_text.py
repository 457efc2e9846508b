"""The atlas on a terminal and as Markdown: what is not as expected, and the rest as numbers."""

from __future__ import annotations

import datetime
import io
import json
import re

import pytest
from surveys import cannot, cell, known, large, mixed, nasty, otherwise, survey, unexpected

from udslab.places.survey import Survey
from udslab.report.atlas import atlas_markdown, print_behaviour, print_survey
from udslab.report.atlas.model import Atlas

DAY = datetime.date(2026, 11, 25)


def printed(given: Survey) -> str:
    out = io.StringIO()
    print_survey(given, out)
    return out.getvalue()


@pytest.mark.parametrize("given", [mixed(), nasty(), survey(), large(1)[0]], ids=["mixed", "nasty", "empty", "large"])
def test_lines_fit_a_terminal_and_are_printable(given):
    for line in printed(given).splitlines():
        assert len(line) <= 80
        assert line.isprintable()


def test_each_group_has_a_line_with_its_counts():
    text = printed(survey(*[cell("BND-01", str(number)) for number in range(7)], unexpected("BND-02"), cannot()))
    assert re.search(r"^BND  bind +7 +\. +1 +\.$", text, re.MULTILINE)
    assert re.search(r"^FSK  File systems +\. +\. +\. +1$", text, re.MULTILINE)
    assert text.endswith("3 behaviours, 9 cells\nX 1 unexpected  ! 0 known  . 7 expected  - 1 n/a\n")


def test_what_is_unexpected_is_told_with_claim_expected_seen_and_source():
    text = printed(survey(unexpected(), cell("LSN-04", "stream")))
    assert "X LSN-04  it is ok\n  in        1 of 2: \n" not in text
    assert '  expected  {"waited": true, "after": "ok"}\n  seen      {"waited": false, "after": "ok"}\n' in text
    assert "  why       line 3 of f\n" in text
    assert "  source    unix(7), ERRORS; connect(2), EAGAIN; kernel net/unix/af_unix.c,\n" in text


def test_of_long_values_what_differs_is_told():
    expected = {f"step {number}": "ok" for number in range(20)}
    from udslab.atlas.runner import Verdict

    text = printed(survey(cell("BND-01", "", Verdict.UNEXPECTED, expected, {**expected, "step 7": "EPERM"})))
    assert '  expected  "step 7": "ok", ...\n  seen      "step 7": "EPERM", ...\n' in text


def test_what_is_known_is_told_by_reason_and_what_is_not_applicable_by_how_often():
    text = printed(survey(known(), known("SHU-05"), cannot("FSK-01"), cannot("FSK-02"), cannot("FSK-03", "no root")))
    assert "known not to be as expected here\n  SHU-04, SHU-05: no SIGPIPE (https://issues.example/161)\n" in text
    assert "not applicable here\n     2  no capability sys-admin\n     1  no root\n" in text
    assert "expected  [" not in text


def test_one_behaviour_is_told_with_what_each_place_said():
    atlas = Atlas.of([survey(unexpected(), runtime="runsc"), survey(cell("LSN-04"), runtime="runc")])
    out = io.StringIO()
    print_behaviour(atlas.rows[0], [place.label for place in atlas.places], out)
    text = out.getvalue()
    assert "  unexpected in\n    debian 12 runsc\n" in text
    assert "  expected in\n    debian 12 runc\n" in text
    assert "Never ETIMEDOUT" in text


def test_markdown_has_the_differences_and_the_rest_as_numbers():
    text = atlas_markdown([mixed(runtime="runsc"), survey(cell(), runtime="runc")], DAY)
    assert "2026-11-25: what AF\\_UNIX does, 5 behaviours" in text
    assert "| BND | bind | 3/4 | 1/1 |" in text
    assert "| [LSN-04](#lsn-04) | it is ok | **✗** |  |" in text
    assert "| [SHU-04](#shu-04) | it is ok | **!** |  |" in text
    assert "(#bnd-01)" not in text
    for anchor in re.findall(r"\(#([^)]*)\)", text):
        assert f'<a id="{anchor}"></a>' in text
    expected, seen = (json.dumps({"waited": waited, "after": "ok"}) for waited in (True, False))
    detail = f"- **✗** debian 12 runsc: expected `{expected}`, seen `{seen}`"
    assert detail in text
    assert "- Source: unix(7), ERRORS; connect(2), EAGAIN" in text


def test_markdown_has_what_differs_though_it_is_as_expected():
    text = atlas_markdown(otherwise(), DAY)
    assert text.index("## As expected, but not the same in all places") < text.index("[LIF-15](#lif-15)")
    assert "- ✓ debian 12 python 3.9: seen `false`" in text
    assert "- ✓ debian 12 python 3.13: seen `true`" in text
    assert "(#bnd-01)" not in text
    assert "(#fsk-01)" not in text
    assert "not the same" not in atlas_markdown(otherwise()[:1], DAY)


def test_which_kernels_it_is_of_and_what_it_needs_is_told():
    atlas = Atlas.of([survey(cell("CRD-16"), cell("BND-03"), cell("LSM-01"), cell("XYZ-01"))])
    facts = {row.id: {name: fact for name, fact in row.facts.items() if name != "source"} for row in atlas.rows}
    assert facts == {
        "BND-03": {"kernel": "changed in 5.14"},
        "CRD-16": {"kernel": "Linux 6.5 or newer; changed in 6.16", "needs": "proc"},
        "LSM-01": {"kernel": "Linux 6.12 or newer", "needs": "ctypes"},
        "XYZ-01": {},
    }
    out = io.StringIO()
    print_behaviour(next(row for row in atlas.rows if row.id == "CRD-16"), ["a place"], out)
    assert "  kernel    Linux 6.5 or newer; changed in 6.16\n  needs     proc\n  source    " in out.getvalue()


def test_markdown_of_one_place_does_not_repeat_it():
    text = atlas_markdown([survey(unexpected("BND-03", "dgram"), cell("BND-03", "stream"))], DAY)
    assert "- **✗** dgram: expected" in text


def test_foreign_text_is_text_in_markdown():
    text = atlas_markdown([nasty()], DAY)
    outside = re.sub(r"(`+).*?\1", "", text)
    assert "<script" not in outside
    assert "<img" not in outside
    assert all(line.isprintable() for line in text.splitlines())


def test_every_row_of_a_table_has_as_many_columns_as_its_head():
    for surveys in ([mixed()], [mixed(), nasty()], large(3)):
        columns = None
        for line in atlas_markdown(surveys, DAY).splitlines():
            if not line.startswith("|"):
                columns = None
                continue
            number = len(re.findall(r"(?<!\\)\|", line))
            assert columns in (None, number), line
            columns = number


def test_behaviours_are_in_the_order_of_the_groups():
    atlas = Atlas.of([survey(cell("PYT-01"), cell("BND-02"), cell("ABS-01"), cell("NAM-01"), cell("BND-01"))])
    assert [row.id for row in atlas.rows] == ["NAM-01", "BND-01", "BND-02", "ABS-01", "PYT-01"]
