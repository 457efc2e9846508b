"""What the atlas says of namespaces is what a C program sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from independent import compare

from udslab.atlas.requirement import Requirement, why_not


def test_five_rows_are_as_a_c_program_sees_them(directory: Path) -> None:
    why = why_not(Requirement.ROOT) or why_not(Requirement.MOUNT_NAMESPACE)
    if why:
        pytest.skip(why)
    compare("namespaces", directory)
