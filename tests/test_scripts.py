"""The scripts do their own set-up, from any directory and with hardly any environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from udslab.audit.findings import Audit, Finding
from udslab.audit.verdicts import Verdict

ROOT = Path(__file__).parent.parent
PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)))


@pytest.fixture
def script(directory: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs script/NAME with an empty home and hardly any environment."""
    home = directory.parent / "home"
    home.mkdir()

    def run(
        name: str, *arguments: str, root: Path = ROOT, cwd: Path | str = "/", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHON": PYTHON, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["DOCKER_HOST"] = "unix:///nonexistent"  # the demo in containers: tests/containers/test_compose.py
        return subprocess.run(
            [str(root / "script" / name), *arguments],
            env={**environment, **variables},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def fake_python(directory: Path, name: str, source: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{source}\n")
    path.chmod(0o755)
    return str(path)


# script/scoreboard


@pytest.mark.parametrize(
    ("installs", "audits", "code"),
    [(0, True, 0), (0, False, 1), (3, True, 3)],
    ids=["all is well", "a crash", "a failed installation"],
)
def test_a_scoreboard_is_written_by_an_audit_alone_and_without_this_place(script, directory, installs, audits, code):
    """Both that some servers fail and that Python does end with status 1."""
    for name in ("script", "docs", "environment/bin"):
        (directory / name).mkdir(parents=True)
    shutil.copy(ROOT / "script" / "scoreboard", directory / "script")
    fake_python(directory / "script", "subjects", f"echo installing; echo /bin; exit {installs}")
    fake_python(directory / "script", "environment", f"echo '{directory}/environment'")
    steals = Finding("second-instance", "steals", Verdict.FAIL, evidence=(f"see {directory}/.cache/bin/server",))
    (directory / "found").write_text(json.dumps([Audit({"name": "redis"}, (steals,)).as_dict()]))
    fake_python(
        directory / "environment" / "bin",
        "python",
        f"""[ "$1" != -c ] || exec echo redis
[ "$1" != - ] || PYTHONPATH='{ROOT}/lab' exec '{sys.executable}' "$@"
{str(audits).lower()} || exit 1
while [ $# -gt 0 ]; do case $1 in --json | --html) cp '{directory}/found' "$2" ;; esac; shift; done
exit 1""",
    )
    assert script("scoreboard", root=directory).returncode == code
    pages = [page.read_text() for page in sorted((directory / "docs").iterdir())]
    assert len(pages) == (2 if code == 0 else 0)
    for page in pages:
        assert "see .cache/bin/server" in page
        assert str(directory) not in page


def test_the_scoreboard_leads_to_the_docs_and_is_short_enough_to_be_shown_as_a_page():
    page = (ROOT / "docs/scoreboard.md").read_bytes()
    assert b"](audit.md#second-instance)" in page
    assert b"](scoreboard.html)" in page
    assert len(page) < 512_000, "GitHub shows it as plain text"


# script/demo


def test_the_demo_runs_from_any_directory_with_an_empty_home(script, directory):
    done = script("demo", cwd=directory, TMPDIR=str(directory))
    assert done.returncode == 0
    assert done.stdout.endswith("\nAll was as told.\n")
    assert os.listdir(directory) == []


def test_the_demo_needs_nothing_but_python(script):
    # The system's, which has none of the packages of this environment.
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"], check=False).returncode:
        pytest.skip(f"needs {python}, 3.10 or newer")
    assert script("demo", PYTHON=python).returncode == 0


def test_the_demo_takes_what_the_command_takes(script):
    done = script("demo", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["passed"] is True
    assert script("demo", "--loud").returncode == 2


def test_the_demo_says_by_its_status_that_an_act_was_not_as_told(script, directory):
    home = directory / ("d" * 100)
    home.mkdir()
    assert script("demo", TMPDIR=str(home)).returncode == 1


def test_the_demo_runs_from_a_checkout_with_an_odd_path(script, directory):
    root = directory / "a checkout with 'quotes' and größe"
    for name in ("script", "lab"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = script("demo", root=root)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1


def test_without_an_engine_the_demo_plays_by_processes_and_says_why(script):
    done = script("demo")
    assert done.returncode == 0
    line, end, rest = done.stderr.partition("\n")
    assert line.startswith("By processes: ")
    assert line.endswith("; see script/engine.")
    assert (end, rest) == ("\n", "")


def test_with_an_engine_but_no_compose_the_demo_plays_by_processes_and_says_why(script, directory):
    fake_python(directory, "docker", 'test "$1" = version')  # stands for a docker command without the plugin
    done = script("demo", PATH=f"{directory}:/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, "By processes: the docker command has no compose (version 2).\n")


def test_the_demo_keeps_the_users_pythonpath(script, directory):
    (directory / "sitecustomize.py").write_text("import sys; print('customized', file=sys.stderr)")
    done = script("demo", PYTHONPATH=str(directory))
    assert done.returncode == 0
    assert "customized" in done.stderr


# script/engine and script/base-images


def test_an_engine_that_is_named_and_does_not_answer_is_not_replaced(script):
    done = script("engine")
    assert (done.returncode, done.stdout) == (1, "")
    said = "script/engine: DOCKER_HOST is unix:///nonexistent, and no engine answers there\n"
    assert done.stderr == said


def test_what_the_engine_script_does_not_know_is_told(script):
    done = script("engine", "restart")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "script/engine: usage: script/engine [stop]\n")


def test_only_root_starts_an_engine(script, directory):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    (directory / "script").mkdir()
    shutil.copy(ROOT / "script" / "engine", directory / "script")
    fake_python(directory, "docker", "exit 1")  # stands for a docker command that reaches no engine
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    done = subprocess.run(
        [directory / "script" / "engine"],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        user=65534,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "script/engine: no engine answers, and only root can start one\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_distribution_that_is_not_known_is_told(script):
    done = script("base-images", "plan-9")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "plan-9" in done.stderr
    assert "debian-12" in done.stderr


def test_without_an_engine_no_base_image_is_made_and_it_is_said_why(script):
    done = script("base-images", "debian-12")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("script/base-images: ")
    assert len(done.stderr.splitlines()) == 1


# script/python


def test_the_python_that_is_named_is_taken(script):
    done = script("python", PYTHON=PYTHON)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.path.samefile(done.stdout.strip(), PYTHON)


def test_a_python_that_is_too_old_is_passed_over(script, directory):
    old = fake_python(directory, "python3", "exit 1")
    fake_python(directory, "python3.12", f'exec {PYTHON} "$@"')
    done = script("python", PYTHON="", PATH=f"{directory}:/usr/bin:/bin")
    assert done.returncode == 0
    assert done.stdout.strip() != old
    version = subprocess.run([done.stdout.strip(), "-c", "import sys; print(sys.version_info >= (3, 10))"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    assert version.stdout == "True\n"


@pytest.mark.parametrize("name", ["/bin/false", "/nonexistent/python"])
def test_without_a_python_that_will_do_one_line_says_what_to_do(script, name):
    done = script("python", PYTHON=name)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("script/python: Python 3.10 or newer is needed")


@pytest.mark.parametrize("name", ["demo", "environment", "test"])
def test_then_no_other_script_goes_on(script, name):
    done = script(name, "test", PYTHON="/bin/false")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.10 or newer is needed" in done.stderr


# script/environment


@pytest.fixture
def made(script) -> Path:
    """The environment that these tests run in, if script/environment has made it."""
    prefix = Path(sys.prefix)
    if prefix.parent != ROOT / ".cache" or not (prefix / "complete").exists():
        pytest.skip("runs in an environment that script/environment has not made")
    return prefix


def test_an_environment_that_is_made_is_not_made_again(script, made):
    done = script("environment", "test")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{made}\n"


def test_it_may_be_asked_for_at_the_same_time(script, made):
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: script("environment", "test"), range(4)))
    assert [(done.returncode, done.stdout) for done in answers] == [(0, f"{made}\n")] * 4


def test_a_test_run_passes_its_arguments_and_its_status_on(script, made):
    done = script("test", "-n", "0", "-q", "-p", "no:cacheprovider", "no/such/test.py")
    assert done.returncode == 4
    assert "no/such/test.py" in done.stdout + done.stderr


def test_every_script_can_be_run_and_is_sound_bash():
    scripts = list((ROOT / "script").iterdir())
    assert len(scripts) > 3
    for path in scripts:
        assert os.access(path, os.X_OK)
        assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
        assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).stderr == b""
