"""Behaviours measured in containers: by whom, on what, by which runtime; and what is left then."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import astuple

import pytest

from udslab.atlas.runner import Verdict
from udslab.containers import Engine, find
from udslab.errors import EngineError, Unsupported
from udslab.places.container import USERS, VOLUMES, Place, first_word, survey
from udslab.places.survey import Survey
from udslab.spawn import end_with_parent

DISTRO = "debian-12"
NAMES = ["NAM-01", "BND-01"]


def left_of(engine: Engine, session: str) -> list[str]:
    return sorted(leftover.name for leftover in find(engine, session))


@pytest.mark.parametrize("volume", VOLUMES)
@pytest.mark.parametrize("user", USERS)
def test_every_user_measures_on_every_kind_of_volume(lab, user, volume):
    measured = survey(lab, Place(DISTRO, "runc", user, volume), NAMES, jobs=2)
    assert {cell.id for cell in measured.cells} == set(NAMES)
    # Nobody can bind on a read-only volume; that is no finding.
    allowed = Verdict.NOT_APPLICABLE if volume == "read-only" else Verdict.EXPECTED
    assert {cell.verdict for cell in measured.cells} == {allowed}
    assert measured.place["user"] == user
    assert measured.place["uid"] == (0 if USERS[user].mapped else USERS[user].uid)
    assert Survey.from_dict(measured.as_dict()) == measured


def test_the_reason_is_told_where_nothing_can_be_written(lab):
    measured = survey(lab, Place(DISTRO, "runc", "nobody", "read-only"), ["NAM-01"])
    assert {cell.why for cell in measured.cells} == {"/v is read-only"}


def test_root_has_the_engines_capabilities_and_bare_root_none(lab):
    by_mode = {}
    for user in ("root", "bare-root"):
        by_mode[user] = survey(lab, Place(DISTRO, "runc", user), ["CON-12"]).cells[0]
    assert by_mode["root"].verdict is Verdict.EXPECTED
    assert by_mode["bare-root"].why.startswith("no capability dac-override")


def test_the_engines_filter_of_calls_is_measured_where_there_is_one(lab):
    filtered, free = (survey(lab, Place(DISTRO, "runc", user), ["LSM-06"]).cells for user in ("user", "userns"))
    assert {cell.verdict for cell in filtered} == {Verdict.EXPECTED}
    assert {cell.why for cell in free} == {"no seccomp filter"}


def test_each_cell_is_told_as_soon_as_it_is_known(lab):
    told = []
    measured = survey(lab, Place(DISTRO), NAMES, advance=told.append)
    assert told == list(measured.cells)


@pytest.mark.parametrize("distro", ["debian-11", "debian-13", "debian-testing"])
def test_the_runner_goes_into_any_python_from_3_9(lab, distro):
    try:
        measured = survey(lab, Place(distro), NAMES, jobs=2)
    except EngineError as error:
        pytest.skip(f"{error}; make it: script/base-images {distro}")
    assert {cell.verdict for cell in measured.cells} == {Verdict.EXPECTED}
    # What it is called, and what it says of itself: testing has no number, or that of what it will be.
    assert measured.place["distro"] == distro
    assert measured.place["release"].startswith("debian")


def test_gvisor_is_a_place(lab):
    try:
        measured = survey(lab, Place(DISTRO, "runsc"), ["NAM-02"])
    except Unsupported as error:
        pytest.skip(str(error))
    assert {cell.seen["length"] for cell in measured.cells} == {110}


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        (Place("debian-0"), EngineError, "udslab-base:debian-0"),
        (Place(DISTRO, "nix"), Unsupported, "the engine has no runtime nix (ENOTSUP): there are"),
    ],
    ids=["image", "runtime"],
)
def test_what_is_not_there_is_told_in_one_line(lab, place, error, said):
    with pytest.raises(error) as raised:
        survey(lab, place)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pattern_that_no_behaviour_has_ends_the_runner_and_says_so(lab):
    with pytest.raises(EngineError, match="no behaviour is called 'XYZ-1'"):
        survey(lab, Place(DISTRO), ["XYZ-1"])


def test_an_image_without_the_module_says_what_went_wrong(lab):
    with lab.job(f"udslab-base:{DISTRO}", "udslab.no_such", user="0:0") as job, pytest.raises(EngineError) as raised:
        first_word(job, USERS["root"])
    assert "ModuleNotFoundError" in str(raised.value)


def test_nothing_is_left_of_a_survey(lab, engine):
    before = left_of(engine, lab.owner.session)
    for volume in ("overlay", "named", "bind"):
        survey(lab, Place(DISTRO, volume=volume), NAMES)
    assert left_of(engine, lab.owner.session) == before


DRIVER = """
import sys
from udslab.containers import Session
from udslab.places.container import Place, survey
with Session() as session:
    print(session.owner.session, flush=True)
    survey(session, Place(*sys.argv[1].split("/")), advance=lambda cell: print(cell.id, flush=True))
"""


def test_nothing_is_left_of_a_driver_that_is_killed_while_behaviours_are_measured(engine, environment):
    place = "/".join(astuple(Place(DISTRO, volume="named")))
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, place],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent(),
    ) as driver:
        session = driver.stdout.readline().strip()
        driver.stdout.readline()
        assert left_of(engine, session)
        driver.kill()
    end = time.monotonic() + 60
    while left_of(engine, session):
        assert time.monotonic() < end, left_of(engine, session)
        time.sleep(0.05)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("user", USERS)
def test_all_is_as_expected_whoever_measures(lab, user):
    cells = survey(lab, Place(DISTRO, "runc", user), jobs=2).cells
    odd = [(cell.id, cell.variant, cell.seen, cell.why) for cell in cells if cell.verdict is Verdict.UNEXPECTED]
    assert odd == []


@pytest.mark.soak
def test_a_place_adds_seconds_and_its_runner_starts_at_once(lab):
    took = []
    for _ in range(3):
        began = time.monotonic()
        survey(lab, Place(DISTRO), ["NAM-01"], jobs=2)
        took.append(time.monotonic() - began)
    assert min(took) < 8  # ten, where an engine waits for who does not end
