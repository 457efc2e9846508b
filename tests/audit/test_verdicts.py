"""The audit names what each planted server does, which is so by construction."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from plants import PLANTED, PLANTS, PYTHON, Plant, make_capable

import udslab
from udslab.audit import Subject
from udslab.audit.verdicts import VERDICTS
from udslab.scratch import scratch_directory

ROOT = os.geteuid() == 0


def subject_of(plant, python=PYTHON):
    """The planted server as a subject; its program is put where its user can read it."""
    command = [python, "-S", "-E", "{dir}/planted.py", plant.traits, "{socket}"]
    return Subject(
        command,
        name=plant.name,
        files={"planted.py": PLANTED.read_text()},
        ping="echo",
        type=plant.type,
        root_command=[*command, "--user", "65534"] if plant.as_root else (),
    )


@pytest.fixture(scope="session")
def readable():
    """A directory that an ordinary user can read."""
    with scratch_directory() as top:
        for directory in (top, os.path.dirname(top)):
            os.chmod(directory, 0o755)
        yield Path(top)


@pytest.fixture(scope="session")
def package(readable):
    """The package, with byte code, where an ordinary user can read it."""
    shutil.copytree(Path(udslab.__file__).parent, readable / "udslab", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([PYTHON, "-m", "compileall", "-q", readable], check=True)
    return readable


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_planted_server_is_named_rightly(plant, audit, readable):
    python = PYTHON
    if not ROOT and (plant.capable or plant.as_root or plant.probe == "foreign-stale"):
        pytest.skip("needs root, for another user's files and servers")
    if plant.capable:
        python = make_capable(readable)
    finding = audit(subject_of(plant, python), plant.probe)
    told = finding.describe()
    assert (finding.outcome, finding.verdict) == (plant.outcome, plant.verdict), told
    assert {name: finding.facts.get(name) for name in plant.facts} == dict(plant.facts), told
    assert finding.evidence
    assert all(re.search(r"\S", line) for line in finding.evidence)


def test_a_server_that_takes_no_other_name_is_asked_about_the_path_that_it_has(audit):
    """It names its own."""
    command = [PYTHON, "-S", "-E", "{dir}/planted.py", "perfect", "{parent}/its-own"]
    subject = Subject(command, files={"planted.py": PLANTED.read_text()}, socket_name="its-own")
    finding = audit(subject, "error-names-path")
    assert finding.outcome == "always", finding.describe()
    assert "/missing/its-own: " in finding.facts["missing parent"]


@pytest.mark.parametrize(
    ("probe", "traits", "found"),
    [
        ("second-instance", "exists=take-over", r"the first has ended with status 0 meanwhile, .*"),
        ("second-instance", "exists=take-over-late", r"the first has ended with status 0 meanwhile, .*"),
        ("first-stops-after-steal", "exists=take-over", r"the first has ended with status 0 meanwhile, .*"),
        ("second-instance", "exists=give-up,lost=bound-anew", "refused"),
        ("second-stops", "refused=unlink,lost=bound-anew", "intact"),
        pytest.param("race-over-stale", "refused=unlink,lost=bound-anew", "exclusive", marks=pytest.mark.soak),
    ],
)
def test_no_path_is_called_lost_that_was_handed_over_or_is_bound_anew(probe, traits, found, audit):
    finding = audit(subject_of(Plant(probe, "", "", traits)), probe)
    assert re.fullmatch(found, finding.outcome or finding.why), finding.describe()


@pytest.mark.parametrize("type", ["stream", "dgram", "seqpacket"])
@pytest.mark.parametrize("probe", VERDICTS)
def test_udslab_serve_is_a_good_server(probe, type, audit, package):
    """Neither a fail nor a warning."""
    subject = Subject(
        [PYTHON, "-m", "udslab", "serve", "--service", "echo", "--type", type, "{socket}"],
        name="udslab serve",
        ping="echo",
        type=type,
        env={"PYTHONPATH": str(package)},
    )
    finding = audit(subject, probe)
    assert finding.verdict in ("pass", "info", "skip"), finding.describe()
    expected_skips = {"first-stops-after-steal", "privilege-drop", *(() if ROOT else ("foreign-stale",))}
    if type == "dgram":  # nobody connects to it
        expected_skips |= {"descriptor-exhaustion", "half-close", "silent-client"}
    assert (finding.verdict == "skip") == (probe in expected_skips), finding.describe()
