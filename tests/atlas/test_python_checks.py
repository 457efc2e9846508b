"""What the atlas says of Python is what a plain Python says to a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from independent import CHECKS, seen_by_runner


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux")
def test_five_rows_are_as_a_shell_sees_them(directory: Path) -> None:
    command = ["sh", CHECKS / "python.sh", sys.executable]
    told = subprocess.run(command, cwd=directory, check=True, timeout=30, capture_output=True, text=True).stdout
    said = {line.split(" ", 1)[0]: json.loads(line.split(" ", 1)[1]) for line in told.splitlines()}
    assert len(said) == 5
    seen = seen_by_runner(list(said))
    assert seen == {id: [value] * len(seen[id]) for id, value in said.items()}
