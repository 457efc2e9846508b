"""docs/fixtures.md: its tables are those of the plugin, and its whole examples do what they say."""

from __future__ import annotations

import inspect
import re
import signal
from pathlib import Path

import pytest

from pytest_udslab.audit import _Auditors
from pytest_udslab.fixtures import SETTINGS
from udslab import ready
from udslab.lab import Lab

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/fixtures.md").read_text()
PLUGIN = ("-p", "pytest_udslab.plugin")


def table(head: str) -> list[list[str]]:
    """The cells of the rows below this head."""
    (rows,) = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def word(cell: str) -> str | None:
    """What it has between backticks, if it begins with that."""
    found = re.match("`(.*?)`", cell)
    return found and found[1]


@pytest.fixture
def alone(pytester, monkeypatch):
    """A pytest with the plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def test_the_options_are_those_of_the_help_each_with_its_words(alone):
    text = alone.runpytest_subprocess(*PLUGIN, "--help").stdout.str()
    options = {
        name: set(filter(None, words.split(",")))
        for name, words in re.findall(r"^ +(--uds-[\w-]+)(?:=\{(.*?)\})?", text, re.MULTILINE)
    }
    told = {word(option): set(re.findall("`(.*?)`", meaning)) for option, _, _, meaning in table("option") if option}
    assert told == options
    assert {word(ini) for _, ini, _, _ in table("option")} == set(re.findall(r"^ +(uds_\w+) \(", text, re.MULTILINE))
    assert all(option in ("", f"`--{word(ini).replace('_', '-')}`") for option, ini, _, _ in table("option"))


def test_the_defaults_of_the_options_are_those_of_the_code(alone):
    config = alone.parseconfigure(*PLUGIN)
    settings = config.stash[SETTINGS]
    defaults = {
        "uds_backend": settings.backend,
        "uds_require": settings.require,
        "uds_image": settings.lab.image,
        "uds_distro": settings.lab.distro,
        "uds_engine": settings.lab.engine,
        "uds_leaks": config.getini("uds_leaks"),
        "uds_leaks_ignore": config.getini("uds_leaks_ignore"),
        "uds_audit_fail_on": _Auditors(config, Lab()).fail_on,
    }
    assert {word(ini): word(default) for _, ini, default, _ in table("option")} == {
        name: default or None for name, default in defaults.items()
    }


def test_the_parameters_of_a_process_are_those_of_the_code():
    names = {**vars(ready), **vars(signal)}
    told = {
        word(name): eval(word(default), names) if default else inspect.Parameter.empty
        for name, default, _ in table("parameter")
    }
    parameters = inspect.signature(Lab.process).parameters
    assert list(told.items()) == [(name, each.default) for name, each in parameters.items() if name != "self"]


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_the_examples_that_import_what_they_need_pass(alone, backend):
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    examples = [block for block in blocks if "import " in block and "def test_" in block]
    assert len(examples) == 2
    alone.makepyfile(**{f"test_{number}": example for number, example in enumerate(examples)})
    alone.runpytest_subprocess(*PLUGIN, f"--uds-backend={backend}", "-W", "error").assert_outcomes(passed=2)
