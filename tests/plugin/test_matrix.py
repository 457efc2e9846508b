"""A matrix as pytest's items: what is chosen, kept, spread and written, and how an item fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time

import pytest

from udslab.atlas.catalogue import load, select
from udslab.atlas.runner import count
from udslab.containers import Engine, find
from udslab.places.container import Place
from udslab.places.matrix import Item, Matrix, Results
from udslab.places.survey import Survey
from udslab.spawn import Process

pytestmark = pytest.mark.usefixtures("engine")
list(load())  # modules first imported by a pytest within this one are forgotten with it, what they register is not

SMALL = """
distros = ["debian-12"]
users = ["root", "nobody"]
only = ["NAM-01"]
[output]
json = "atlas.json"
html = "atlas.html"
markdown = "atlas.md"
"""
PAIRS = """
[[pairs]]
distros = [["debian-12", "debian-12"]]
shares = [[], ["network"]]
only = ["NSC-01", "NSC-22"]
"""
DIFFERS = """
[[pairs]]
distros = [["debian-12", "debian-12"]]
runtimes = [["runc", "runsc"]]
only = ["NSC-22"]
"""
OWN_KNOWN = """
import pathlib, udslab.places.known as known
known.KNOWN = pathlib.Path(__file__).with_name("known.toml")
"""


class Matrices:
    """``run(text, *options)``: runs pytest on a matrix of that text. The rest is about the last run."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.file = pytester.path / "m.toml"
        self.result: pytest.RunResult

    def run(self, text: str, *options: str) -> pytest.RunResult:
        self.file.write_text(text)
        words = ("-p", "pytest_udslab.plugin", "-p", "pytest_udslab.matrix", self.file, *options)
        self.result = self.pytester.runpytest_subprocess(*words)
        return self.result

    @property
    def output(self) -> str:
        return self.result.stdout.str()

    def surveys(self) -> list[Survey]:
        return [Survey.from_dict(one) for one in json.loads((self.pytester.path / "atlas.json").read_text())]

    def times(self) -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in self.file.with_suffix(".results").iterdir()}


@pytest.fixture
def matrix(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Matrices:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return Matrices(pytester)


def test_each_place_is_an_item_and_the_outputs_are_of_all(matrix):
    matrix.run(SMALL, "-v").assert_outcomes(passed=2)
    assert "m.toml::debian-12/runc/root/overlay PASSED" in matrix.output
    assert "m.toml::debian-12/runc/nobody/overlay PASSED" in matrix.output
    assert "m.toml: 2 of 2 places; " in matrix.output
    assert [survey.place["user"] for survey in matrix.surveys()] == ["root", "nobody"]
    assert "<!doctype html>" in (matrix.pytester.path / "atlas.html").read_text().lower()
    assert "NAM" in (matrix.pytester.path / "atlas.md").read_text()


def test_each_pair_is_an_item(matrix):
    matrix.run(PAIRS, "-v").assert_outcomes(passed=2)
    for shares in ("apart", "network"):
        assert f"m.toml::debian-12/runc/user+debian-12/runc/other/named/{shares} PASSED" in matrix.output


def test_what_is_known_is_not_measured_again(matrix):
    matrix.run(SMALL).assert_outcomes(passed=2)
    before = matrix.times()
    assert len(before) == 2
    matrix.run(SMALL).assert_outcomes(passed=2)
    assert matrix.times() == before
    matrix.run(SMALL, "--uds-fresh").assert_outcomes(passed=2)
    assert all(time > before[name] for name, time in matrix.times().items())


def test_what_is_known_of_something_else_is_measured_again(matrix):
    matrix.run(SMALL).assert_outcomes(passed=2)
    before = matrix.times()
    matrix.run(SMALL.replace("NAM-01", "NAM-02")).assert_outcomes(passed=2)
    assert all(time > before[name] for name, time in matrix.times().items())
    assert {cell.id for survey in matrix.surveys() for cell in survey.cells} == {"NAM-02"}


def test_a_result_that_is_damaged_is_measured_again(matrix):
    matrix.run(SMALL).assert_outcomes(passed=2)
    for name in matrix.times():
        (matrix.file.with_suffix(".results") / name).write_text("{")
    matrix.run(SMALL).assert_outcomes(passed=2)
    assert len(matrix.surveys()) == 2


def test_what_another_lab_has_measured_is_left_out_and_that_is_said(matrix):
    matrix.run(SMALL).assert_outcomes(passed=2)
    assert "left out" not in matrix.output
    for name in matrix.times():
        file = matrix.file.with_suffix(".results") / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "lab": "another"}))
    matrix.run(SMALL, "-k", "nobody").assert_outcomes(passed=1, deselected=1)
    assert [survey.place["user"] for survey in matrix.surveys()] == ["nobody"]
    assert "m.toml: 1 of 2 places; " in matrix.output
    assert "left out: 1 of another lab or of other ids, which were not measured anew" in matrix.output


def test_items_are_chosen_by_k_and_by_name_and_the_outputs_have_all_that_is_known(matrix):
    matrix.run(SMALL, "-k", "nobody").assert_outcomes(passed=1, deselected=1)
    assert [survey.place["user"] for survey in matrix.surveys()] == ["nobody"]
    words = ("-p", "pytest_udslab.plugin", "-p", "pytest_udslab.matrix")
    matrix.result = matrix.pytester.runpytest_subprocess(*words, f"{matrix.file}::debian-12/runc/root/overlay")
    matrix.result.assert_outcomes(passed=1)
    assert [survey.place["user"] for survey in matrix.surveys()] == ["root", "nobody"]


def test_workers_share_the_items(matrix):
    matrix.run(SMALL + PAIRS, "-p", "xdist", "-n", "2", "-v").assert_outcomes(passed=4)
    assert len(matrix.surveys()) == 4
    assert "[gw0]" in matrix.output
    assert "[gw1]" in matrix.output


def test_a_place_with_many_cells_shows_that_it_goes_on(matrix):
    text = SMALL.replace("NAM-01", "STR-*").replace('"root", ', "")
    number = count(select(["STR-*"]))
    assert number >= 100
    matrix.run(text, "-v").assert_outcomes(passed=1)
    assert f"m.toml::debian-12/runc/nobody/overlay {':' * (number // 100)}PASSED" in matrix.output
    matrix.run(text, "-v", "--fresh", "-p", "xdist", "-n", "1").assert_outcomes(passed=1)
    assert ":PASSED" not in matrix.output


def test_nothing_is_written_when_items_are_only_collected(matrix):
    result = matrix.run(SMALL, "--collect-only", "-q")
    assert result.ret == 0
    assert "m.toml::debian-12/runc/nobody/overlay" in matrix.output
    assert (
        sorted(file.name for file in matrix.pytester.path.iterdir() if file.suffix != ".pyc") == ["m.toml"]
        or not (matrix.pytester.path / "atlas.json").exists()
    )


STALE = """
[[divergence]]
place.user = "nobody"
ids = ["NAM-01"]
reason = "it was so once"
"""


def test_a_known_divergence_that_is_none_any_more_is_told(matrix):
    matrix.pytester.makefile(".toml", known=STALE)
    matrix.pytester.makeconftest(OWN_KNOWN)
    matrix.run(SMALL).assert_outcomes(passed=2)
    place = "debian-12/runc/nobody/overlay"
    assert f"NAM-01 is as expected in {place}, though it is known not to be: it was so once" in matrix.output
    assert matrix.output.count("it was so once") == 1


def test_an_unknown_divergence_fails_with_what_was_expected_and_seen_and_the_source(matrix):
    matrix.pytester.makefile(".toml", known="")
    matrix.pytester.makeconftest(OWN_KNOWN)
    result = matrix.run(DIFFERS)
    if result.parseoutcomes().get("skipped"):
        pytest.skip("the engine has no gVisor")
    result.assert_outcomes(failed=1)
    assert "1 not as expected:" in matrix.output
    assert "NSC-22 two places: through a read-only mount a client connects" in matrix.output
    assert '  expected  {"server": "bound", "client": {"connect": "ok"' in matrix.output
    assert '  seen      {"server": "bound", "client": {"connect": "ECONNREFUSED"' in matrix.output
    assert "  source    kernel fs/namei.c" in matrix.output
    assert "Traceback" not in matrix.output


def test_the_rest_goes_on_after_a_failure_and_lf_runs_the_failed_ones_again(matrix):
    text = SMALL.replace('"debian-12"]', '"debian-12", "no.such/image:1"]').replace('"root", "nobody"', '"root"')
    matrix.run(text).assert_outcomes(passed=1, failed=1)
    assert "no.such/image:1" in matrix.output
    assert "Traceback" not in matrix.output
    assert len(matrix.surveys()) == 1
    matrix.run(text, "--lf").assert_outcomes(failed=1, deselected=1)
    matrix.run(text, "-x", "-k", "image").assert_outcomes(failed=1, deselected=1)


def test_a_runtime_that_is_not_registered_skips_with_the_reason(matrix):
    matrix.run(SMALL.replace("users", 'runtimes = ["nix"]\nusers'), "-rs").assert_outcomes(skipped=2)
    assert "the engine has no runtime nix: there are" in matrix.output


@pytest.mark.parametrize(
    ("engine_url", "said"),
    [("unix:///nowhere/docker.sock", "no engine is there"), ("no-such-context", "no Docker context of that name")],
)
def test_without_an_engine_items_fail_in_one_line(matrix, engine_url, said):
    matrix.run(SMALL, "--uds-engine", engine_url).assert_outcomes(failed=2)
    assert said in matrix.output
    assert "Traceback" not in matrix.output


def test_items_are_spread_over_engines(matrix):
    good = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    engines = ("--uds-engine", good, "--uds-engine", "unix:///nowhere/docker.sock")
    matrix.run(SMALL, "-v", *engines).assert_outcomes(passed=1, failed=1)
    assert "root/overlay PASSED" in matrix.output
    assert "nobody/overlay FAILED" in matrix.output
    matrix.run(SMALL, "-v", "-p", "xdist", "-n", "2", *engines).assert_outcomes(passed=1, failed=1)
    assert "nobody/overlay" in next(line for line in matrix.output.splitlines() if "FAILED" in line)


def test_a_suite_is_run_in_each_distribution(matrix):
    project = matrix.pytester.mkdir("project")
    (project / "test_it.py").write_text("import sys\ndef test_good():\n    assert sys.version_info >= (3, 9)\n")
    matrix.run(SMALL, "--uds-suite", str(project), "-k", "suite", "-v").assert_outcomes(passed=1, deselected=2)
    assert "m.toml::suite/debian-12 PASSED" in matrix.output
    (project / "test_it.py").write_text("def test_bad():\n    assert open('/project/new', 'w')\n")
    matrix.run(SMALL, "--uds-suite", str(project), "-k", "suite").assert_outcomes(failed=1, deselected=2)
    assert "pytest has ended with status 1" in matrix.output
    assert "Read-only file system: '/project/new'" in matrix.output


def test_a_suite_has_what_its_requirements_ask_for(matrix):
    project = matrix.pytester.mkdir("project")
    (project / "test_it.py").write_text("def test_it(freezer): assert freezer")
    requirements = project / "for tests.txt"
    options = ("--uds-suite", str(project), "--uds-suite-requirements", str(requirements), "-k", "suite")
    requirements.write_text("# and nothing else\npytest-freezer>=0.4\n")
    matrix.run(SMALL, *options).assert_outcomes(passed=1, deselected=2)
    requirements.write_text("udslab-no-such-package\n")
    matrix.run(SMALL, *options).assert_outcomes(failed=1, deselected=2)
    assert "pip install has failed (ENOPKG): ERROR: " in matrix.output
    assert "udslab-no-such-package" in matrix.output
    assert "Traceback" not in matrix.output


def test_a_suite_has_its_project(matrix):
    project = matrix.pytester.mkdir("project")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "mine"\nversion = "1"\n[tool.hatch.build.targets.wheel]\npackages = ["src/mine"]\n'
    )
    (project / "src" / "mine").mkdir(parents=True)
    (project / "src" / "mine" / "__init__.py").write_text("ANSWER = 42\n")
    (project / "tests").mkdir()
    (project / "tests" / "test_it.py").write_text(
        "import mine\ndef test_good():\n    assert mine.ANSWER == 42 and mine.__file__.startswith('/site/')\n"
    )
    matrix.run(SMALL, "--uds-suite", str(project / "tests"), "-k", "suite").assert_outcomes(passed=1, deselected=2)


def test_nothing_is_left_of_a_run_that_is_killed_and_the_next_one_goes_on(matrix, environment):
    matrix.file.write_text(SMALL.replace('only = ["NAM-01"]', 'only = ["NAM-*", "BND-*"]'))
    command = [sys.executable, "-m", "pytest", "-v", "-p", "pytest_udslab.plugin", "-p", "pytest_udslab.matrix"]
    with Engine() as engine:
        before = {leftover.name for leftover in find(engine)}
        with Process([*command, str(matrix.file)], env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}) as run:
            end = time.monotonic() + 60
            while not matrix.file.with_suffix(".results").exists():
                assert time.monotonic() < end, run.output()
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
        kept = [name for name in matrix.times() if name.endswith(".json")]
        ours = {leftover.owner.session for leftover in find(engine) if leftover.owner.pid == str(run.pid)}
        end = time.monotonic() + 60
        while any(list(find(engine, session)) for session in ours):
            assert time.monotonic() < end, before
            time.sleep(0.1)
    times = {name: matrix.times()[name] for name in kept}
    matrix.run(matrix.file.read_text()).assert_outcomes(passed=2)
    assert {name: matrix.times()[name] for name in kept} == times


def test_a_result_is_of_its_item_and_key(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text(SMALL)
    one, other = Matrix.load(file).items
    results = Results(tmp_path / "r")
    survey = Survey({"distro": "x"}, ())
    assert results.read(one) is None
    results.write(one, "k", survey)
    assert results.read(one, "k") == results.read(one) == survey
    assert results.read(one, "another") is results.read(other, "k") is None
    assert results.has(one)
    assert not results.has(other)
    assert results.read(dataclasses.replace(one, only=("NAM-02",))) is None
    assert [file.suffix for file in (tmp_path / "r").iterdir()] == [".json"]
    assert isinstance(one, Item)


class Told:
    """A session on an engine that says this of itself."""

    def __init__(self, version: str, image: str, **info: object) -> None:
        self.engine = self.client = self
        self.version = version
        self.image = image
        self.info = lambda: {"KernelVersion": "6.18", "Runtimes": {"runc": {"path": "runc"}}, **info}

    def image_id(self, image: str) -> str:
        return self.image

    def telling(self, what: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def test_a_key_has_all_that_a_result_depends_on(monkeypatch):
    item = Item(Place("debian-12"))
    keys = {
        item.key(session)
        for session in (
            Told("26", "a"),
            Told("26", "b"),
            Told("27", "a"),
            Told("26", "a", KernelVersion="6.19"),
            Told("26", "a", Runtimes={"runc": {"path": "runc", "runtimeArgs": ["--host-uds=all"]}}),
        )
    }
    assert len(keys) == 5
    same = Told("26", "a", Runtimes={"runc": {"path": "runc"}, "another": {"path": "crun"}})
    assert item.key(same) == item.key(Told("26", "a")) in keys
    monkeypatch.setattr("udslab.places.matrix._lab", lambda: "another")
    assert item.key(same) not in keys
