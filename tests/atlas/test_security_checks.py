"""What the atlas says of Landlock is what a C program sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from independent import measured_in_c, seen_by_runner

from udslab.atlas import calls
from udslab.atlas.kit import outcome


def test_three_rows_are_as_a_c_program_sees_them(directory: Path) -> None:
    if outcome(calls.landlock_abi) not in range(6, 100):
        pytest.skip("no Landlock with scopes")
    said = measured_in_c("security", directory)
    assert len(said) == 3
    seen = seen_by_runner(list(said))
    assert all(seen.values())
    assert seen == {id: [value] * len(seen[id]) for id, value in said.items()}
