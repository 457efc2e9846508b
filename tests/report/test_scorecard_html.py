"""The score card as a page: well-formed, escaped, and on its own."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys

import pytest
from audits import audit, finding, many, whole
from pages import Page, WholePage

from udslab.audit.verdicts import VERDICTS, Verdict
from udslab.errors import Unsupported

pytest.importorskip("jinja2")

from udslab.report.scorecard import scorecard_html

DAY = datetime.date(2026, 11, 25)


def nasty():
    text = "<script>alert('&amp;')</script>\"'><img src=x onerror=alert(1)>\0\x1b[31m\udcff{{ 7 * 7 }}{% raw %}"
    found = finding("second-instance", "steals", [text], {text: text})
    findings = [{**found, "outcome": text}, {**found, "probe": text, "why": text}]
    return audit(text, findings, version=text, command=[text, text], user=text, kernel=text, lab=text, note=text)


CARDS = {
    "one": [whole("redis")],
    "many": [*many(), audit("knot", why="not installed")],
    "twice": [whole("redis"), whole("redis", seed=1)],
    "nasty": [nasty()],
    "nasty ones": [nasty(), nasty()],
    "none": [],
}


@pytest.fixture(scope="module", params=CARDS.values(), ids=CARDS)
def page(request):
    return Page(scorecard_html(request.param, DAY))


class TestPage(WholePage):
    """What holds for every page."""


def test_ids_are_unique_and_every_link_leads_to_one(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for attributes in page.all("a")]
    assert all(target.startswith("#") for target in targets)
    assert {target[1:] for target in targets} <= set(ids)


def test_every_cell_has_a_sign_and_a_word_and_leads_to_its_evidence():
    source = scorecard_html(many(), DAY)
    cells = re.findall(
        r'<td class="(\w+)"><a href="#([^"]+)"[^>]*><span class="sign"[^>]*>(.)</span><span class="word">(\w+)<', source
    )
    assert len(cells) == 35 * len(VERDICTS)
    assert {word: sign for _, _, sign, word in cells} == {
        "pass": "✓",
        "warn": "!",
        "fail": "✗",
        "info": "i",
        "skip": "-",
    }
    for kind, anchor, _, word in cells:
        assert kind == word
        assert f'<article id="{anchor}" class="{kind}">' in source


def test_foreign_text_is_text():
    source = scorecard_html([nasty()], DAY)
    assert source.count("<script") == 1
    assert "<img" not in source
    assert "\0" not in source
    assert "\x1b" not in source
    assert "{{ 7 * 7 }}" in source  # a template in it is not one
    shown = Page(source).text["li"]
    assert "<script>alert('&amp;')</script>" in shown
    assert r"\x00\x1b[31m\udcff" in shown
    source.encode()  # there is no surrogate in it


def test_it_says_what_when_and_how_many():
    source = scorecard_html(many(3), DAY)
    assert "What 3 servers do to\ntheir socket files: 26 probes, 2026-11-25, kernel 6.18.0" in source
    assert "What 1 server does to\nits socket file" in scorecard_html(many(1), DAY)
    for verdict in Verdict:
        assert f"{verdict}</span>" in source


def test_without_jinja2_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Unsupported, match=r"jinja2 is not installed .*: pip install 'pytest-udslab\[report\]'"):
        scorecard_html([])


def test_importing_the_reports_takes_neither_jinja2_nor_rich(environment):
    source = "import sys, udslab.report.scorecard; sys.exit(len(sys.modules.keys() & {'jinja2', 'rich'}))"
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
