"""docs/matrix.md: its example is a matrix, its words are the library's; and so are the matrices that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from udslab.places.container import USERS, VOLUMES
from udslab.places.matrix import Matrix

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs/matrix.md").read_text()


def test_the_example_is_a_matrix(tmp_path):
    (example,) = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    file = tmp_path / "atlas.toml"
    file.write_text(example)
    matrix = Matrix.load(file)
    assert len(matrix.items) == 3 * 1 * 2 * 2 + 1 + 6 * 2
    assert matrix.results == file.with_suffix(".results")


@pytest.mark.parametrize(("row", "words"), [("users", USERS), ("volumes", VOLUMES)])
def test_all_users_and_volumes_are_named(row, words):
    (line,) = (line for line in DOCUMENT.splitlines() if line.startswith(f"| {row} |"))
    assert re.findall(r"`([\w-]+)`", line) == list(words)


@pytest.mark.parametrize("name", ["matrix", "hosted"])
def test_the_matrices_of_the_lab_can_be_read(name):
    matrix = Matrix.load(ROOT / f"lab/images/{name}.toml")
    assert len(matrix.items) > 10
    assert {"json", "html", "markdown"} <= matrix.outputs.keys()


@pytest.mark.parametrize("word", ["--fresh", "--uds-engine", "--suite", "--suite-requirements"])
def test_its_options_are_there(cli, word):
    assert word in DOCUMENT
    assert word.encode() in cli("matrix", "--help").stdout
