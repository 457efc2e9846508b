"""Rows of the atlas that a C program measures, too: what it says, and what the runner has seen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from udslab.atlas.catalogue import select
from udslab.atlas.runner import Verdict, run

CHECKS = Path(__file__).parent / "checks"


def measured_in_c(name: str, directory: Path) -> dict[str, Any]:
    """What ``checks/NAME.c`` says in that directory, by id."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("for Linux with a C compiler")
    program = directory / "check"
    subprocess.run(["cc", "-Wall", "-Wno-unused-result", "-o", program, CHECKS / f"{name}.c"], check=True)
    said = subprocess.run([program], cwd=directory, check=True, timeout=30, capture_output=True, text=True).stdout
    return {line.split(" ", 1)[0]: json.loads(line.split(" ", 1)[1]) for line in said.splitlines()}


def seen_by_runner(ids: list[str]) -> dict[str, list[Any]]:
    """What the runner has seen of these, all variants each."""
    seen: dict[str, list[Any]] = {id: [] for id in ids}
    for cell in run(select(ids), jobs=2):
        if cell.verdict is not Verdict.NOT_APPLICABLE:
            seen[cell.id].append(cell.seen)
    return seen


def compare(name: str, directory: Path) -> None:
    """Assert that for each of its five rows all variants of the runner's are what the program says."""
    said = measured_in_c(name, directory)
    assert len(said) == 5
    seen = seen_by_runner(list(said))
    assert all(seen.values())
    assert seen == {id: [value] * len(seen[id]) for id, value in said.items()}
