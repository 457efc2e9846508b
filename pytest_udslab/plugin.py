"""What pytest loads: for now the line in the report's header."""

from __future__ import annotations

import pytest

import udslab
from udslab.address import SUN_PATH_SIZE

__all__ = ["pytest_report_header"]


def pytest_report_header(config: pytest.Config) -> str:
    """One line: the version, and how long a socket's path may be here."""
    return f"udslab: {udslab.__version__}, sun_path {SUN_PATH_SIZE} bytes"
