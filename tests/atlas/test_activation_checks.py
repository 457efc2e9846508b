"""What the atlas says of socket activation is what a C program sees."""

from __future__ import annotations

import shutil
from pathlib import Path

from independent import measured_in_c, seen_by_runner


def test_rows_are_as_a_c_program_sees_them(directory: Path) -> None:
    said = measured_in_c("activation", directory)
    # One is of a command that is not everywhere.
    assert len(said) == (5 if shutil.which("systemd-socket-activate") else 4)
    seen = seen_by_runner(list(said))
    assert all(seen.values())
    assert seen == {id: [value] * len(seen[id]) for id, value in said.items()}
