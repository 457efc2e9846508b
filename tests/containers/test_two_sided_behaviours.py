"""Behaviours between two containers: what is expected is seen, the difference that sharing makes is noticed, and a side
that ends does not hold up the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from udslab.atlas import two_sided
from udslab.atlas.runner import Verdict
from udslab.atlas.two_sided import TWO_SIDED, Between, TwoSided
from udslab.containers import find
from udslab.errors import EngineError, Unsupported
from udslab.places.container import Place
from udslab.places.known import judge
from udslab.places.pair import Pair, select_two_sided, survey_pair
from udslab.places.survey import Survey
from udslab.spawn import end_with_parent

DISTRO = "debian-12"
NOTHING_SHARED = Between(frozenset(), {"server": 1, "client": 2}, {"server": True, "client": True})


def pair(*shares, volume="named", users=("user", "other"), distros=(DISTRO, DISTRO), runtimes=("runc", "runc")):
    places = (Place(distros[n], runtimes[n], users[n], volume) for n in (0, 1))
    return Pair(*places, tuple(shares))


def verdicts(survey: Survey) -> dict[tuple[str, str], tuple[Verdict, object]]:
    return {(cell.id, cell.variant): (cell.verdict, cell.seen or cell.why) for cell in survey.cells}


def as_expected(survey: Survey) -> None:
    odd = {key: said for key, said in verdicts(survey).items() if said[0] is Verdict.UNEXPECTED}
    assert odd == {}
    assert verdicts(survey).keys() == TWO_SIDED.keys()


@pytest.mark.parametrize("volume", ["named", "bind", "tmpfs"])
def test_all_is_as_expected_on_every_kind_of_volume(lab, volume):
    measured = survey_pair(lab, pair(volume=volume))
    as_expected(measured)
    left_out = {id for (id, _), said in verdicts(measured).items() if said[0] is Verdict.NOT_APPLICABLE}
    assert left_out - {"NSC-05"} == (set() if volume == "bind" else {"LIF-11"})  # a kernel older than 6.5
    assert Survey.from_dict(measured.as_dict()).as_dict() == measured.as_dict()


@pytest.mark.parametrize("shares", [("network",), ("pid",), ("network", "pid")], ids="+".join)
def test_all_is_as_expected_whatever_namespaces_are_shared(lab, shares):
    measured = survey_pair(lab, pair(*shares))
    as_expected(measured)
    assert measured.place["shares"] == "+".join(shares)
    (told,) = (cell.seen for cell in measured.cells if (cell.id, cell.variant) == ("NSC-04", "stream, two places"))
    assert told["client"] == {"pid": "the other's" if "pid" in shares else 0, "uid": 10001, "gid": 10001}


@pytest.mark.parametrize("users", [("root", "user"), ("user", "root"), ("bare-root", "nobody")], ids="+".join)
def test_all_is_as_expected_whoever_they_are(lab, users):
    as_expected(survey_pair(lab, pair(users=users)))


@pytest.mark.parametrize("distros", [("debian-11", "debian-13"), ("debian-13", "debian-11")], ids="+".join)
def test_all_is_as_expected_between_distributions(lab, distros):
    try:
        as_expected(survey_pair(lab, pair(distros=distros)))
    except EngineError as error:
        pytest.skip(f"{error}; make it: script/base-images {' '.join(distros)}")


def test_what_is_shared_is_noticed():
    """What a place is expected to give would not pass for what another one gives."""
    shared = Between(frozenset({"network", "pid"}), NOTHING_SHARED.uids, NOTHING_SHARED.bound)
    differ = {id for (id, _), each in TWO_SIDED.items() if each.expected(NOTHING_SHARED) != each.expected(shared)}
    assert differ == {"NSC-01", "NSC-04", "NSC-05", "NSC-12"}


def test_gvisor_without_host_sockets_lets_no_path_through(lab):
    try:
        measured = survey_pair(lab, pair(runtimes=("runc", "runsc")), ["NSC-12", "NSC-20", "NSC-22"])
    except Unsupported as error:
        pytest.skip(str(error))
    assert {cell.seen["client"] for cell in measured.cells if cell.id == "NSC-20"} == {"ECONNREFUSED"}
    assert {cell.verdict for cell in measured.cells if cell.id != "NSC-12"} == {Verdict.UNEXPECTED}
    assert {cell.why for cell in measured.cells if cell.id == "NSC-12"} == {"no sock_diag for Unix sockets"}
    assert {cell.verdict for cell in judge(measured).cells} == {Verdict.KNOWN, Verdict.NOT_APPLICABLE}
    assert all("the other side has ended" in cell.why for cell in measured.cells if cell.id == "NSC-20")
    # The server learns at once that nobody comes: it does not wait for five seconds.
    assert max(cell.seconds for cell in measured.cells) < 4.5


def test_what_is_for_newer_kernels_is_tried_and_not_applicable_where_it_is_otherwise(lab, monkeypatch):
    echo = replace(TWO_SIDED["NSC-20", "stream, two places"], since=(99, 1))
    other = replace(echo, expected=lambda between: {"server": "another", "client": "another"})
    monkeypatch.setattr("udslab.places.pair.select_two_sided", lambda patterns: [echo, other])
    brought_back, lacking = survey_pair(lab, pair()).cells
    assert (brought_back.verdict, brought_back.why) == (Verdict.EXPECTED, "")
    assert (lacking.verdict, lacking.seen) == (Verdict.NOT_APPLICABLE, None)
    assert lacking.why == f"Linux 99.1 or newer; this is {os.uname().release}"


# Sides that end. They are played in containers, where only what is in the lab's zip can be imported: so these take
# apart what is there.


def test_a_server_whose_container_ends_does_not_hold_up_the_client_nor_what_comes_next(lab, monkeypatch):
    killing = TWO_SIDED["LIF-06", "two places"]
    first = TwoSided(**{**vars(killing), "last": False})
    echo = TWO_SIDED["NSC-20", "stream, two places"]
    monkeypatch.setattr("udslab.places.pair.select_two_sided", lambda patterns: [first, echo])
    assert {said[0] for said in verdicts(survey_pair(lab, pair())).values()} == {Verdict.EXPECTED}


def test_patterns_choose_and_what_leaves_no_server_comes_last():
    assert [each.id for each in select_two_sided()][-1] == "LIF-06"
    assert {each.id for each in select_two_sided(["nsc-0*", "RTS-01"])} == {"NSC-01", "NSC-04", "NSC-05", "RTS-01"}
    assert select_two_sided(["NAM-*"]) == []


def test_there_are_no_two_of_a_name():
    with pytest.raises(ValueError, match="there are two behaviours NSC-01, two places"):
        two_sided.two_sided("NSC-01", "two places", "", source="", expected=dict, server=len, client=len)


def test_a_user_who_is_mapped_takes_no_part(lab):
    with pytest.raises(Unsupported, match="takes no part in pairs"):
        survey_pair(lab, pair(users=("user", "userns")))


def test_what_is_not_there_is_told_in_one_line(lab):
    with pytest.raises(EngineError, match="udslab-base:debian-0"):
        survey_pair(lab, pair(distros=(DISTRO, "debian-0")))
    with pytest.raises(Unsupported, match="no runtime nix"):
        survey_pair(lab, pair(runtimes=("runc", "nix")))


def test_nothing_is_left(lab, engine):
    def left():
        return sorted(leftover.name for leftover in find(engine, lab.owner.session))

    before = left()
    for volume in ("named", "bind"):
        survey_pair(lab, pair(volume=volume))
    with pytest.raises(EngineError):
        survey_pair(lab, pair(distros=(DISTRO, "debian-0")))
    assert left() == before


DRIVER = """
from udslab.containers import Session
from udslab.places.container import Place
from udslab.places.pair import Pair, survey_pair
with Session() as session:
    print(session.owner.session, flush=True)
    pair = Pair(Place("debian-12", user="user", volume="named"), Place("debian-12", user="other"))
    while True:
        survey_pair(session, pair, advance=lambda cell: print(cell.id, flush=True))
"""


def test_nothing_is_left_of_a_driver_that_is_killed(engine, environment):
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent()
    ) as driver:
        session = driver.stdout.readline().strip()
        driver.stdout.readline()
        end = time.monotonic() + 60
        while not list(find(engine, session)):  # between two of its rounds there are none
            assert time.monotonic() < end
        driver.kill()
    end = time.monotonic() + 60
    while list(find(engine, session)):
        assert time.monotonic() < end, list(find(engine, session))
        time.sleep(0.05)


@pytest.mark.soak
def test_rounds_change_no_cell(lab):
    first = verdicts(survey_pair(lab, pair(volume="bind")))
    for _ in range(10):
        assert verdicts(survey_pair(lab, pair(volume="bind"))) == first
