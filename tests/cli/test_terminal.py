"""What is printed on a terminal of 80 columns: in colour with rich, and the same words without it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def without_rich(directory: Path, variables: dict[str, str]) -> dict[str, str]:
    """Variables with which rich cannot be imported."""
    shadow = directory.parent / "shadow"
    shadow.mkdir()
    (shadow / "rich.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": os.pathsep.join([str(shadow), variables["PYTHONPATH"]])}


@pytest.fixture
def place(directory: Path, make_socket) -> list[Path]:
    """Paths of every kind and length."""
    long = directory / ("d" * 200) / "n"
    long.parent.mkdir()
    long.touch()
    make_socket(directory / "live", backlog=5)
    make_socket(directory / "old").close()
    return [directory / "live", directory / "old", long, directory / "missing" / "s", directory / "nothing"]


@pytest.mark.parametrize("words", [["status"], ["status", "-v"], ["explain"], ["clean"]])
def test_with_rich_the_words_are_the_same_as_without(on_terminal, without_rich, place, words):
    pytest.importorskip("rich")
    arguments = {"explain": place[:1], "clean": [place[0].parent]}.get(words[0], place)
    coloured = on_terminal(*words, *arguments)
    plain = on_terminal(*words, *arguments, set=without_rich)
    assert COLOUR.search(coloured)
    assert not COLOUR.search(plain)
    assert COLOUR.sub("", coloured) == plain
    assert plain.count("\n") > 1


def test_states_have_colours(on_terminal, place):
    pytest.importorskip("rich")
    shown = on_terminal("status", *place)
    assert re.search(r"\x1b\[32mlistening", shown)
    assert re.search(r"\x1b\[31mstale", shown)
    assert re.search(r"\x1b\[33munreachable", shown)


def test_a_path_is_never_cut_nor_folded(on_terminal, place):
    lines = COLOUR.sub("", on_terminal("status", *place)).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == list(map(str, place))
    old = COLOUR.sub("", on_terminal("clean", place[0].parent))
    assert f" {place[1]}\n" in old


def test_no_colour_where_none_is_wanted(on_terminal, place):
    assert "\x1b" not in on_terminal("status", *place, set={"TERM": "dumb"})
    assert not re.search(r"\x1b\[3\d", on_terminal("status", *place, set={"NO_COLOR": "1"}))


def test_no_colour_in_a_file(cli, place):
    done = cli("status", *place, set={"TERM": "xterm-256color"})
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("rich", [True, False])
def test_the_demo_fits_and_ends_well(on_terminal, without_rich, rich):
    shown = on_terminal("demo", set={} if rich else without_rich)
    assert bool(COLOUR.search(shown)) == rich
    lines = COLOUR.sub("", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "All was as told."
    assert any(line.startswith("ok ") for line in lines)
    assert not any(line.startswith("FAILED") for line in lines)


@pytest.mark.parametrize("address", ["/tmp/a.sock", "@name", "/" + "x" * 106, "/" + "x" * 4000])
def test_what_is_explained_fits_but_for_the_path_itself(on_terminal, address):
    first, *rest = COLOUR.sub("", on_terminal("explain", address)).splitlines()
    assert first == address
    assert max(map(len, rest)) <= 80


def test_json_has_no_colour(on_terminal, place):
    assert "\x1b" not in on_terminal("status", "--json", *place)
