"""The atlas as a page: well-formed, escaped, on its own, differences first, and fast with all that there is."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import time
from html import escape

import pytest
from pages import Page, WholePage
from surveys import NASTY, between, cell, large, mixed, nasty, otherwise, survey

from udslab.atlas.runner import Verdict
from udslab.atlas.two_sided import TWO_SIDED
from udslab.errors import Unsupported

pytest.importorskip("jinja2")

from udslab.report.atlas import atlas_html

DAY = datetime.date(2026, 11, 25)
ATLASES = {
    "one": [mixed()],
    "two": [mixed(), survey(cell(), kernel="5.10.0")],
    "twice": [mixed(), mixed()],
    "nasty": [nasty()],
    "nasty ones": [nasty(), nasty(), mixed()],
    "nothing": [survey()],
    "otherwise": otherwise(),
    "between": [mixed(), survey(cell("NSC-05"), *between(*TWO_SIDED))],
    "none": [],
}


@pytest.fixture(scope="module", params=ATLASES.values(), ids=ATLASES)
def page(request):
    return Page(atlas_html(request.param, DAY))


class TestPage(WholePage):
    """What holds for every page."""


def test_ids_are_unique_and_every_link_leads_to_one(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for attributes in page.all("a")]
    assert all(re.fullmatch(r"#[A-Za-z0-9-]+", target) for target in targets)
    assert {target[1:] for target in targets} <= set(ids)


def test_foreign_text_is_text():
    source = atlas_html([nasty()], DAY)
    assert source.count("<script") == 1
    assert "<img" not in source
    assert "\0" not in source
    assert "\x1b" not in source
    assert "{{ 7 * 7 }}" in source  # a template in it is not one
    assert "<script>alert('&amp;')</script>" in Page(source).text["dd"]
    source.encode()  # there is no surrogate in it


def rows(source: str) -> list[tuple[str, list[str]]]:
    """The id of each row, and the words of its cells, as they are on the page."""
    table = source[source.index("<table") : source.index("</table")]
    return [
        (id, re.findall(r'class="word">([^<]*)<', line))
        for id, line in re.findall(r'<tr data-of="([^"]+)"(.*?)</tr>', table, re.DOTALL)
    ]


def test_differences_come_first():
    source = atlas_html([mixed(runtime="runsc"), survey(cell(), cell("LSN-04"), runtime="runc")], DAY)
    assert rows(source) == [
        ("BND-03", ["unexpected 1/3"]),
        ("LSN-04", ["unexpected", "expected"]),
        ("SHU-04", ["known"]),
        ("BND-01", ["expected", "expected"]),
        ("FSK-01", ["n/a"]),
    ]
    headings = re.findall(r'<th scope="rowgroup"[^>]*><span>(.*?)</span>', source)
    assert headings == ["Not as expected (2)", "Known divergences (1)", "bind (1)", "File systems (1)"]


def test_what_differs_and_is_as_expected_comes_after_what_is_known():
    source = atlas_html([mixed(), *otherwise()], DAY)
    assert [id for id, _ in rows(source)] == ["BND-03", "LSN-04", "SHU-04", "LIF-15", "BND-01", "FSK-01"]
    assert "As expected, but not the same in all places (1)" in source
    # The box that shows differences alone hides what is in tables of this class.
    (same,) = re.findall(r"parentNode.className !== \"(\w+)\"", source)
    (body,) = re.findall(r'<tbody class="(\w+)">(?:(?!</tbody>).)*data-of="LIF-15"', source, re.DOTALL)
    assert body == "differs" != same == "same"


def test_what_holds_between_two_places_has_rows_and_a_source_of_its_own():
    keys = [("NSC-05", "SO_PEERPIDFD, two places"), ("NSC-05", "SCM_CREDENTIALS, two places")]
    source = atlas_html([survey(*between(*keys), cell("NSC-05"))], DAY)
    assert [id for id, _ in rows(source)] == ["NSC-05", "NSC-05-2", "NSC-05-3"]
    for anchor, key in (("NSC-05-2", keys[1]), ("NSC-05-3", keys[0])):
        article = source[source.index(f'<article id="{anchor}"') :]
        article = article[: article.index("</article>")]
        assert escape(TWO_SIDED[key].claim).replace("&#x27;", "&#39;") in article
        assert f"Source: {TWO_SIDED[key].source}" in article


def test_behind_each_cell_are_expected_seen_why_source_and_notes():
    source = atlas_html([mixed()], DAY)
    article = source[source.index('<article id="LSN-04"') :]
    article = article[: article.index("</article>")]
    assert "unix_wait_for_peer" in article
    assert "Never ETIMEDOUT" in article
    assert "Kernel" not in article
    assert "<mark>&#34;waited&#34;: true</mark>, &#34;after&#34;: &#34;ok&#34;}" in article
    assert "<mark>&#34;waited&#34;: false</mark>" in article
    assert "line 3 of f" in article


def test_what_is_alike_in_places_and_variants_is_told_once():
    source = atlas_html([mixed(runtime=name) for name in ("runc", "crun", "runsc")], DAY)
    article = source[source.index('<article id="BND-03"') :]
    article = article[: article.index("</article>")]
    assert article.count("<section") == 2
    assert article.count("in all places") == 2
    assert "<small>dgram</small>" in article
    assert "<small>seqpacket, stream</small>" in article


def test_a_cell_has_a_sign_and_a_word_so_that_colour_is_not_needed():
    signs = dict(re.findall(r'class="sign"[^>]*>(.)</span><span class="word">([^ <]+)', atlas_html([mixed()], DAY)))
    assert signs == {"✗": "unexpected", "!": "known", "✓": "expected", "-": "n/a"}


def test_it_says_what_where_when_and_how_many():
    source = atlas_html([mixed()], DAY)
    assert "<title>Unix socket atlas: debian 12</title>" in source
    assert "in 1 place: 5 behaviours, 2026-11-25" in source
    assert "in 2 places" in atlas_html([mixed(), mixed()], DAY)
    for verdict in Verdict:
        assert f"{verdict}</span>" in source
    assert "6.18.0" in source


def test_places_are_called_by_what_tells_them_apart():
    both = atlas_html([mixed(), mixed(kernel="5.10.0"), mixed(kernel="5.10.0")], DAY)
    headings = re.findall(r'<a class="sort" href="#place-\d">([^<]*)</a>', both)
    assert headings == ["debian 12 kernel 6.18.0", "debian 12 kernel 5.10.0 (1)", "debian 12 kernel 5.10.0 (2)"]
    assert "debian 12 runsc gVisor" in atlas_html([mixed(runtime="runsc", gvisor=True)], DAY)


def test_two_thousand_cells_in_ten_places_are_made_fast_and_stay_small():
    surveys = large(10)
    assert sum(len(each.cells) for each in surveys) > 20_000
    began = time.process_time()
    source = atlas_html(surveys, DAY)
    assert time.process_time() - began < 5
    assert len(source) < 2_500_000
    assert len(rows(source)) == len(surveys[0].cells) // 5


def test_without_jinja2_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Unsupported, match=r"jinja2 is not installed .*: pip install 'pytest-udslab\[report\]'"):
        atlas_html([])


def test_importing_the_report_takes_neither_jinja2_nor_rich(environment):
    source = "import sys, udslab.report.atlas; sys.exit(len(sys.modules.keys() & {'jinja2', 'rich'}))"
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_id_of_another_release_is_shown_too():
    source = atlas_html([survey(cell("XYZ-01", claim="new"), cell(NASTY, claim="newer"))], DAY)
    assert [id for id, _ in rows(source)] == ["row", "row-2"]
    assert "<small>XYZ-01</small> new" in source
