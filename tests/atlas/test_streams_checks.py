"""What the atlas says of stream input and output is what a C program sees."""

from __future__ import annotations

from pathlib import Path

from independent import compare


def test_five_rows_are_as_a_c_program_sees_them(directory: Path) -> None:
    compare("streams", directory)
