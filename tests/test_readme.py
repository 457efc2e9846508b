"""What the README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

from udslab.obstacles import Obstacle

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_prints_what_its_comments_say(path):
    sources = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (source,) = (source for source in sources if "status(" in source)
    promised = re.findall(r"print\(.*\)  # (.*)", source)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source.replace("/run/app.sock", str(path)), "README.md", "exec"), {})
    ours = f"pid {os.getpid()} uid {os.geteuid()} gid {os.getegid()}"
    assert printed.getvalue().splitlines() == [line.replace("pid 4711 uid 1000 gid 1000", ours) for line in promised]
    assert len(promised) == 4


@pytest.mark.parametrize("uds_backend", ["thread", "process", "container"])
def test_the_project_of_ten_lines_works_as_it_stands(pytester, uds_backend, uds_path):  # which sees to the backend
    (source,) = (source for source in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def test_" in source)
    pytester.makepyfile(test_greeter=source)
    options = ["--uds-backend", uds_backend, "--uds-require", uds_backend, "--uds-image", "udslab-base:debian-12"]
    outcomes = pytester.runpytest_subprocess("-q", "-p", "no:asyncio", *options).parseoutcomes()
    # For root there is no path without permission; no server in a container is root's.
    skipped = int(os.geteuid() == 0 and uds_backend != "container")
    assert outcomes.pop("skipped", 0) == skipped
    assert outcomes == {"passed": 2 + len(Obstacle) - skipped}


def test_the_act_that_is_shown_is_what_the_demo_prints(cli):
    (shown,) = re.findall(r"```\n(Act .*?)```", README, re.DOTALL)
    printed = cli("demo").stdout.decode()
    for line in shown.splitlines():
        assert line in printed


def test_every_link_leads_to_a_file():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("command", re.findall(r"^udslab (\w+) ", README, re.MULTILINE))
def test_every_command_that_is_shown_exists(cli, command):
    assert cli(command, "--help").returncode == 0
