"""The plugin: its line in the report's header, and good manners in somebody else's process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

import udslab

HEADER = f"udslab: {udslab.__version__}, sun_path 108 bytes"


@pytest.fixture
def one_test(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a test that passes."""
    pytester.makepyfile("def test_it(): pass")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")  # or pytest-asyncio complains
    return pytester


def test_the_header_has_one_line(one_test):
    result = one_test.runpytest()
    result.assert_outcomes(passed=1)
    assert result.outlines.count(HEADER) == 1
    assert sum("udslab:" in line for line in result.outlines) == 1


def test_the_installed_plugin_is_found_by_its_entry_point(one_test):
    result = one_test.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([HEADER, f"plugins: *udslab-{udslab.__version__}*"])


def test_quietly_there_is_none(one_test):
    result = one_test.runpytest("-q")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("udslab:*")


def test_it_can_be_turned_off(one_test):
    result = one_test.runpytest("-p", "no:udslab")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("udslab:*")


@pytest.fixture
def alone(pytester, monkeypatch) -> Callable[..., pytest.RunResult]:
    """Runs pytest in a process of its own, with the plugins that are named and no others."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*plugins: str, options: tuple[str, ...] = ()) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*(word for name in plugins for word in ("-p", name)), *options)

    return run


OURS = "pytest_udslab.plugin"


def test_it_is_loaded_by_its_name_where_nothing_is_by_itself(one_test, alone):
    alone().stdout.no_fnmatch_line("udslab:*")
    alone(OURS).stdout.fnmatch_lines([HEADER])


def test_it_works_with_xdist(one_test, alone):
    result = alone(OURS, "xdist", options=("-n", "1"))
    result.assert_outcomes(passed=1)
    assert result.outlines.count(HEADER) == 1


def test_nothing_is_used_unasked(pytester, alone):
    pytester.makepyfile("def test_it(request): assert request.fixturenames == ['request']")
    alone(OURS).assert_outcomes(passed=1)


def test_the_users_process_is_as_without_it(pytester, alone):
    pytester.makepyfile(
        """
        import os, signal, socket, threading

        def test_it():
            handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
            threads = [thread.name for thread in threading.enumerate()]
            umask = os.umask(0)
            os.umask(umask)
            print("\\nstate:", handlers, threads, umask, os.getcwd(), socket.socket, socket.getdefaulttimeout())
            print("descriptors:", len(os.listdir("/proc/self/fd")))
        """
    )
    states = []
    for plugins in ([], [OURS]):
        result = alone(*plugins, options=("-s",))
        states.append([line for line in result.outlines if line.startswith(("state:", "descriptors:"))])
    assert len(states[0]) == 2
    assert states[0] == states[1]


def modules_after(statement: str) -> set[str]:
    source = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()}


def test_importing_it_brings_in_nothing_heavy():
    brought = modules_after("import pytest_udslab.plugin") - modules_after("import pytest")
    assert {"udslab", "pytest_udslab"} <= brought
    assert not brought & {"asyncio", "docker", "rich", "jinja2", "requests", "multiprocessing", "concurrent", "urllib3"}


def test_importing_it_without_af_unix_and_fcntl_is_harmless():
    source = (
        "import sys, socket\n"
        "del socket.AF_UNIX\n"
        "sys.modules['fcntl'] = None\n"
        "import pytest_udslab.plugin\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "imported\n"


def test_it_is_typed():
    import importlib.resources

    for package in ("udslab", "pytest_udslab"):
        assert importlib.resources.files(package).joinpath("py.typed").is_file()
