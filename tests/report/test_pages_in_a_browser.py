"""The pages of the reports as a reader uses them: in Chromium, without a window."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from audits import audit, finding
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from surveys import cell, known, survey, unexpected

from udslab.report.atlas import atlas_html
from udslab.report.scorecard import scorecard_html

pytest.importorskip("jinja2")

DRIVER = shutil.which("chromedriver")
QUIET = ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(DRIVER is None, reason="needs chromedriver (Debian: apt-get install chromium-driver)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for word in (*QUIET, f"user-data-dir={tmp_path_factory.mktemp('profile')}", "window-size=1000,800"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, Service(DRIVER)) as browser:
        yield browser


@pytest.fixture
def show(browser, tmp_path):
    """Shows a page; at the end it must have had nothing to complain of: no error, nothing against its policy."""

    def show(source):
        (tmp_path / "page.html").write_text(source)
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    yield show
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


@pytest.fixture
def scorecard(show):
    good = audit("b-good", [finding("half-close", "answers"), finding("second-instance", "refused")])
    bad = audit("a-bad", [finding("half-close", "no-answer"), finding("second-instance", "steals", ["it took it"])])
    return show(scorecard_html([good, bad]))


@pytest.fixture
def atlas(show):
    first = survey(cell(), known(), cell("LSN-04", claim="it waits"))
    other = survey(cell(), known(), replace(unexpected("LSN-04"), claim="it waits"), kernel="5.10.0")
    return show(atlas_html([first, other]))


def one(browser, selector):
    (found,) = browser.find_elements(By.CSS_SELECTOR, selector)
    return found


def shown(browser):
    """What the visible rows are called, in their order, and how many there are, as the page says."""
    rows = browser.find_elements(By.CSS_SELECTOR, "tbody tr[data-of]")
    names = [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()]
    return names, one(browser, "output").text


def choose(browser, name, word):
    """By the keyboard: for a click on an option chromedriver makes one event less than a reader's does."""
    select = Select(one(browser, f"select[name={name}]"))
    (index,) = (number for number, option in enumerate(select.options) if option.text.partition(":")[0] == word)
    one(browser, f"select[name={name}]").send_keys(Keys.HOME, *[Keys.ARROW_DOWN] * index)
    assert select.first_selected_option == select.options[index]


def search(browser, words):
    field = one(browser, "input[type=search]")
    field.clear()
    field.send_keys(words)


def test_subjects_are_found_by_words_of_their_name_and_evidence(scorecard):
    assert shown(scorecard) == (["b-good", "a-bad"], "2 of 2")
    search(scorecard, "A-B")
    assert shown(scorecard) == (["a-bad"], "1 of 2")
    search(scorecard, "TOOK it")
    assert shown(scorecard) == (["a-bad"], "1 of 2")
    search(scorecard, "took nothing")
    assert shown(scorecard) == ([], "0 of 2")
    assert not one(scorecard, "[id^=of-a-bad]").is_displayed()


def test_subjects_are_found_by_a_verdict_that_they_have(scorecard):
    choose(scorecard, "verdict", "fail")
    assert shown(scorecard) == (["a-bad"], "1 of 2")
    choose(scorecard, "verdict", "pass")
    assert shown(scorecard) == (["b-good"], "1 of 2")
    choose(scorecard, "verdict", "verdict of any kind")
    assert shown(scorecard) == (["b-good", "a-bad"], "2 of 2")


@pytest.mark.parametrize(("heading", "first"), [("subject", "a-bad"), ("fail", "a-bad"), ("second-instance", "a-bad")])
def test_subjects_are_sorted_by_a_click_on_a_heading_and_the_other_way_by_a_second_one(scorecard, heading, first):
    (button,) = (each for each in scorecard.find_elements(By.CSS_SELECTOR, "thead button") if each.text == heading)
    button.click()
    assert shown(scorecard)[0][0] == first
    button.click()
    assert shown(scorecard)[0][-1] == first
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"


def test_the_evidence_behind_a_cell_is_shown_in_place(scorecard):
    dialog = one(scorecard, "dialog")
    assert not dialog.is_displayed()
    one(scorecard, "td.fail a").click()
    assert dialog.is_displayed()
    assert "it took it" in dialog.text
    one(scorecard, "#close").click()
    assert not dialog.is_displayed()


def test_the_arrow_keys_go_from_cell_to_cell(scorecard):
    cells = scorecard.find_elements(By.CSS_SELECTOR, "tbody tr:first-child td a")
    cells[0].send_keys(Keys.ARROW_RIGHT)
    assert scorecard.switch_to.active_element == cells[1]
    cells[1].send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert "a-bad" in one(scorecard, "dialog").text


def test_a_link_to_evidence_opens_the_section_that_it_is_in(scorecard):
    anchor = one(scorecard, "td.fail a").get_attribute("href").partition("#")[2]
    assert not one(scorecard, f"[id='{anchor}']").is_displayed()
    scorecard.execute_script("location.hash = arguments[0]", anchor)
    assert one(scorecard, f"[id='{anchor}']").is_displayed()
    scorecard.refresh()
    assert one(scorecard, f"[id='{anchor}']").is_displayed()


def test_behaviours_are_found_by_words_of_their_claim_and_by_their_group(atlas):
    assert shown(atlas)[1] == "3 of 3"
    search(atlas, "it WAITS")
    assert shown(atlas) == (["LSN-04 it waits"], "1 of 3")
    search(atlas, "")
    choose(atlas, "group", "SHU")
    assert shown(atlas) == (["SHU-04 it is ok"], "1 of 3")


def test_behaviours_are_found_by_a_verdict_and_by_what_differs_from_place_to_place_or_from_what_is_expected(atlas):
    choose(atlas, "verdict", "known")
    assert shown(atlas)[0] == ["SHU-04 it is ok"]
    choose(atlas, "verdict", "of any kind")
    one(atlas, "input[name=differ]").click()
    assert shown(atlas) == (["LSN-04 it waits", "SHU-04 it is ok"], "2 of 3")


def test_a_group_of_which_no_row_is_left_has_no_heading(atlas):
    before = [each for each in atlas.find_elements(By.CSS_SELECTOR, "tr.heading") if each.is_displayed()]
    search(atlas, "it waits")
    after = [each for each in atlas.find_elements(By.CSS_SELECTOR, "tr.heading") if each.is_displayed()]
    assert len(before) > len(after) == 1


def test_what_was_seen_in_the_place_of_a_cell_is_marked(atlas):
    one(atlas, "td.fail a").click()
    dialog = one(atlas, "dialog")
    assert dialog.is_displayed()
    (chosen,) = dialog.find_elements(By.CSS_SELECTOR, ".chosen")
    assert "waited" in chosen.text
