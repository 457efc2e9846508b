"""The audit against system calls: its outcome is one that the calls of harness and server together allow."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from posixpath import basename, dirname, join
from typing import Any

import pytest
from calls import Log, trace
from oracle import PROBES, Replay, Scene, Start, expect, mode_of_file, path_length, race_round, starts
from plants import PLANTS, Plant
from test_verdicts import subject_of

from udslab.audit.subject import Subject
from udslab.subjects import READY, load

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(400),  # ten rounds of a server that tries for seconds to bind
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

_NAMES = [
    "redis",
    "nginx",
    "socketserver",
    "asyncio",
    "gunicorn",
    "uvicorn",
    "postgres",
    "haproxy",
    "memcached",
    "supervisord",
    "node",
    "node-cluster",
    "socat",
]
_ALWAYS = ("redis", "nginx", "socketserver")
"""Those that are checked in every run; the others on demand."""
_SUBJECTS = {name: subject for name, subject in load(READY).items() if name in _NAMES}
_PLANTS = [plant for plant in PLANTS if plant.probe in PROBES and not plant.as_root and not plant.capable]
_AUDIT = Path(__file__).with_name("audit_one.py")
_RACES = ("race-over-stale", "race-after-kill")


def _pattern(subject: Subject, probe: str) -> re.Pattern[str]:
    """The words of its command, with anything in the places of the words in braces."""
    words = subject.root_command if probe == "privilege-drop" else subject.command
    return re.compile("\0".join(re.sub(r"\\\{(socket|parent|name|dir)\\\}", ".*", re.escape(word)) for word in words))


def _path(log: Log, top: str, start: Start, subject: Subject, probe: str) -> str:
    """The path that an instance was to serve: in the directory that the harness has made last, but for the instances'
    own, which are numbered."""
    made = [
        each.paths[0]
        for each in log.operations
        if each.name == "mkdir" and not each.error and each.last < start.line and each.paths[0].startswith(top + "/")
        if not re.match(rf"{re.escape(top)}/\d\d?(/|$)", each.paths[0]) and not start.owns(each.by)
    ]
    name = subject.socket_name or "sock"
    if probe == "directory":
        return made[-1]
    if probe == "missing-parent":
        return join(made[-1], "missing", name)
    if probe == "path-length" and not subject.socket_name:
        length = int(re.match(rf"{re.escape(top)}/(\d+)", made[-1])[1])
        room = length - len(made[-1]) - 1
        return join(made[-1], "".join(f"{number:03d}-" for number in range(108))[:room])
    return join(made[-1], name)


def _scenes(log: Log, subject: Subject, probe: str) -> list[Scene]:
    pattern = _pattern(subject, probe)
    found = starts(log, lambda argv, cwd: bool(re.search(r"/\d+/\d+$", cwd) and pattern.fullmatch("\0".join(argv))))
    if not found:
        return []
    # The last of the directories: in another one it was measured how long a start takes.
    top = dirname(found[-1].cwd)
    found = [start for start in found if dirname(start.cwd) == top]
    replay = Replay(log, top, [start.cwd for start in found])
    groups: list[tuple[str, list[Start]]] = []
    for start in found:
        path = _path(log, top, start, subject, probe)
        begun = groups[-1][1] if groups and groups[-1][0] == path else []
        round_over = probe in _RACES and (len(begun) == 2 or any(each.signals_before(start.line) for each in begun))
        if begun and not round_over:
            groups[-1][1].append(start)
        else:
            groups.append((path, [start]))
    return [Scene(replay, path, each) for path, each in groups if probe not in _RACES or len(each) == 2]


def _audit(subject: Subject, probe: str, log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The finding, when harness and servers are traced into ``log``."""
    done = subprocess.run(
        [*trace(log), sys.executable, _AUDIT, probe],
        input=pickle.dumps(subject),
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "probe"),
    [
        pytest.param(name, probe, marks=() if name in _ALWAYS else pytest.mark.exhaustive)
        for name, probe in itertools.product(_SUBJECTS, PROBES)
    ],
)
def test_the_audits_outcome_is_what_the_system_calls_tell(
    name: str, probe: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    subject = _SUBJECTS[name]
    if subject.missing():
        pytest.skip(f"not installed: {subject.missing()}")
    log = tmp_path / "log"
    finding = _audit(subject, probe, log, environment)
    if not finding["outcome"]:
        pytest.skip(finding["why"])
    scenes = _scenes(Log(log.read_text()), subject, probe)
    assert finding["outcome"] in expect(probe, scenes), "\n".join(finding["evidence"])
    if probe in _RACES:
        _check_rounds(finding["facts"], scenes)
    if probe == "path-length":
        for scene in scenes:
            told = finding["facts"].get(str(len(scene.path)))  # nothing of those by which the longest was looked for
            assert told is None or told in path_length(scene)
    if probe == "fresh-start":
        _check_modes(finding["facts"], scenes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("plant", _PLANTS, ids=str)
def test_what_is_planted_can_be_told_from_system_calls(
    plant: Plant, tmp_path: Path, environment: dict[str, str]
) -> None:
    subject = subject_of(plant)
    log = tmp_path / "log"
    finding = _audit(subject, plant.probe, log, environment)
    scenes = _scenes(Log(log.read_text()), subject, plant.probe)
    assert plant.outcome in expect(plant.probe, scenes), finding
    if plant.probe == "fresh-start" and plant.outcome == "listens":
        _check_modes(finding["facts"], scenes)


def _check_modes(facts: dict[str, Any], scenes: Sequence[Scene]) -> None:
    """By umask, which is the name of the directory."""
    modes = {basename(dirname(scene.path)): mode_of_file(scene) for scene in scenes}
    assert facts["modes"] == {umask: f"{mode:04o}" for umask, mode in modes.items()}
    assert facts["open_to_all"] == all(mode & 0o002 for mode in modes.values())


def _check_rounds(facts: dict[str, int], scenes: Sequence[Scene]) -> None:
    words = [race_round(scene) for scene in scenes]
    for word in ("one", "both", "none", "path-lost"):
        assert sum(each == {word} for each in words) <= facts[word] <= sum(word in each for each in words)
