"""What pytest loads: for now the line in the report's header, and the option that makes tests that need an engine
fail, instead of being skipped, where there is none."""

from __future__ import annotations

import pytest

import udslab
from udslab.address import SUN_PATH_SIZE

__all__ = ["lacking", "pytest_addoption", "pytest_report_header"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--uds-require``."""
    group = parser.getgroup("udslab", "Unix domain sockets")
    group.addoption(
        "--uds-require",
        action="append",
        choices=["container"],
        default=[],
        help="fail instead of skipping where this cannot be had: container, a container engine and an image",
    )


def pytest_report_header(config: pytest.Config) -> str:
    """One line: the version, and how long a socket's path may be here."""
    return f"udslab: {udslab.__version__}, sun_path {SUN_PATH_SIZE} bytes"


def lacking(config: pytest.Config, what: str, reason: str) -> None:
    """``what`` cannot be had for ``reason``: skip, or fail if ``--uds-require`` asks for it."""
    if what in config.getoption("--uds-require"):
        pytest.fail(f"{what} is required, and cannot be had: {reason}", pytrace=False)
    pytest.skip(reason)
