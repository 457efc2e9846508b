"""What pytest loads: options, hooks, fixtures."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

import udslab
from pytest_udslab import audit, leaks, markers, options
from pytest_udslab.audit import _uds_auditors, uds_audit
from pytest_udslab.fixtures import (
    REQUEST,
    SETTINGS,
    _uds_test,
    make_uds_client,
    make_uds_obstacle,
    make_uds_path,
    make_uds_process,
    make_uds_server,
    uds,
    uds_backend,
    uds_client,
    uds_distro,
    uds_obstacle,
    uds_path,
    uds_server,
    uds_type,
)
from pytest_udslab.made import encodable, forget_made, made_for, report_sections, teardown_sections

__all__ = [
    "_uds_auditors",
    "_uds_test",
    "make_uds_client",
    "make_uds_obstacle",
    "make_uds_path",
    "make_uds_process",
    "make_uds_server",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_header",
    "pytest_report_to_serializable",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "uds",
    "uds_audit",
    "uds_backend",
    "uds_client",
    "uds_distro",
    "uds_obstacle",
    "uds_path",
    "uds_server",
    "uds_type",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--uds-…``."""
    options.add_options(parser)
    leaks.add_options(parser)
    audit.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options."""
    config.stash[SETTINGS] = options.Settings.of(config)
    options.register_marker(config)
    config.pluginmanager.register(leaks.LeakCheck(config), "udslab-leaks")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The version, and how long a socket's path may be here."""
    from udslab.address import SUN_PATH_SIZE

    line = leaks.header(config)
    return [f"udslab: {udslab.__version__}, sun_path {SUN_PATH_SIZE} bytes", *([line] if line else [])]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a wrong marker before anything is run."""
    markers.refuse_wrong(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """What a handler has raised fails the test itself; what it raises later, or a test skips over, the teardown."""
    skipped = False
    try:
        result = yield
    except pytest.skip.Exception:
        skipped = True
        raise
    finally:
        for made in made_for(item) if not skipped else ():
            made.told += getattr(made.thing, "failures", ())
    for made in made_for(item):
        for failure in made.told:
            raise failure
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """The report of a failed test has its servers' logs, and says where its files are kept."""
    report = yield
    if call.when == "teardown":
        if report.failed:
            report.sections += teardown_sections(item)
        forget_made(item)
    elif report.failed and made_for(item):
        shown = call.excinfo.value if call.excinfo else None
        report.sections += report_sections(item, item.stash[REQUEST], shown)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """A path need not be UTF-8; what pytest-xdist sends must be."""
    data = yield
    if data is not None:
        data.update({key: encodable(data[key]) for key in ("longrepr", "sections") if key in data})
    return data
