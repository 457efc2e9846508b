"""The catalogue: each row says what it claims, where that is said, and what is expected of each of its variants."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import pytest

from udslab.atlas.behaviour import Behaviour, ByKernel, Either, behaviour
from udslab.atlas.catalogue import GROUPS, select
from udslab.atlas.requirement import Requirement

KERNELS = [(5, 10), (6, 1), (6, 12), (6, 18), (7, 0)]
ROWS = select()
MANY = 380


def plain(value: object) -> object:
    """As JSON has it; Either and ByKernel by what is in them."""
    if isinstance(value, Either):
        return [plain(each) for each in value.values]
    return json.loads(json.dumps(value))


def test_there_are_many_and_each_group_has_some():
    assert len(ROWS) >= MANY
    assert Counter(each.group for each in ROWS).keys() == GROUPS.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_each_row_is_whole(row: Behaviour):
    assert re.fullmatch(r"[A-Z]{3}-\d\db?", row.id)
    assert row.claim == row.claim.strip()
    assert 10 < len(row.claim) <= 160
    assert "\n" not in row.claim + row.source
    assert not row.claim.endswith(".")
    assert row.source.strip()
    assert not row.source.endswith(".")
    assert not row.notes or row.notes.endswith((".", ")", '"'))
    assert row.needs <= set(Requirement)
    assert 0 < row.limit <= 20
    names = [str(variant) for variant in row.variants]
    assert len(set(names)) == len(names)
    assert all(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_something_is_expected_of_each_variant_on_each_kernel(row: Behaviour):
    for variant in row.variants or ("",):
        for kernel in KERNELS:
            if kernel >= row.since:
                expected = row.expects(variant, kernel)
                assert not isinstance(expected, ByKernel)
                assert plain(expected) is not None


@pytest.mark.parametrize("row", [row for row in ROWS if isinstance(row.expected, ByKernel)], ids=lambda row: row.id)
def test_what_has_changed_is_told_from_the_oldest_kernel_on(row: Behaviour):
    since = list(row.expected.values)
    assert since == sorted(since)
    values = [plain(value) for value in row.expected.values.values()]
    assert all(one != other for one, other in itertools.pairwise(values)), "a change that changes nothing"


def test_claims_tell_rows_apart():
    claims = Counter(row.claim for row in ROWS)
    assert not [claim for claim, number in claims.items() if number > 1]


def test_globs_select_in_any_case_and_each_row_once():
    assert [each.id for each in select(["bnd-01", "BND-0*", "bnd-*"])] == [row.id for row in ROWS if row.group == "BND"]
    assert select() == ROWS
    with pytest.raises(ValueError, match="no behaviour is called 'BND'"):
        select(["BND"])


def test_an_id_is_given_once():
    with pytest.raises(ValueError, match="two behaviours BND-01"):
        behaviour("BND-01", "claim", source="source", expected="ok")(lambda kit: "ok")
