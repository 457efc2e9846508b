"""What was found keeps its form through JSON, and is judged with its facts."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udslab.audit.findings import Audit, Finding, judge
from udslab.audit.verdicts import VERDICTS, WARNING_FACTS, Verdict

QUICK = settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SECONDS = st.integers(0, 10**7).map(lambda milliseconds: milliseconds / 1000)


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    probe = draw(st.sampled_from(list(VERDICTS)))
    facts = draw(st.dictionaries(TEXT, VALUES, max_size=4))
    evidence = tuple(draw(st.lists(TEXT, max_size=3)))
    why = draw(st.just("") | st.text(min_size=1))
    outcome = "" if why else draw(st.sampled_from(list(VERDICTS[probe])))
    verdict = Verdict.SKIP if why else judge(probe, outcome, facts)
    return Finding(probe, outcome, verdict, facts, evidence, draw(SECONDS), why)


AUDITS = st.builds(Audit, st.dictionaries(TEXT, VALUES, max_size=4), st.lists(findings(), max_size=4).map(tuple))


@QUICK
@given(findings())
def test_a_finding_comes_back_from_json_as_it_was(finding):
    assert Finding.from_dict(json.loads(json.dumps(finding.as_dict()))) == finding


@QUICK
@given(AUDITS)
def test_an_audit_comes_back_from_json_as_it_was(audit):
    assert Audit.from_dict(json.loads(json.dumps(audit.as_dict()))) == audit


@QUICK
@given(findings())
def test_a_finding_is_described_with_all_of_its_evidence(finding):
    described = finding.describe()
    assert described.startswith(f"{finding.probe}: {finding.outcome or finding.why} ({finding.verdict})")
    assert all(f"\n  {line}" in described for line in finding.evidence)


@pytest.mark.parametrize("schema", [None, 0, 2, "1"])
def test_another_schema_is_refused(schema):
    with pytest.raises(ValueError, match=f"^an audit of schema 1 is wanted, not {schema!r}$"):
        Audit.from_dict({"schema": schema, "subject": {}, "findings": []})


def test_a_verdict_that_is_none_is_refused():
    told = Finding("directory", "deleted", Verdict.FAIL).as_dict()
    with pytest.raises(ValueError, match="bad"):
        Finding.from_dict({**told, "verdict": "bad"})


@pytest.mark.parametrize("fact", WARNING_FACTS)
@pytest.mark.parametrize("probe", VERDICTS)
def test_a_fact_that_warns_makes_a_warning_of_a_pass_and_of_nothing_else(probe, fact):
    for outcome, verdict in VERDICTS[probe].items():
        assert judge(probe, outcome, {fact: True}) == ("warn" if verdict == "pass" else verdict)
        for harmless in ({}, {fact: False}, {fact: "true"}, {"another": True}):
            assert judge(probe, outcome, harmless) == verdict


def test_what_no_probe_says_cannot_be_judged():
    with pytest.raises(KeyError):
        judge("directory", "steals", {})
    with pytest.raises(KeyError):
        judge("no-probe", "deleted", {})


def test_the_worst_is_told_of():
    audit = Audit({}, (Finding("directory", "deleted", Verdict.FAIL), Finding("half-close", "", Verdict.SKIP)))
    assert audit.worst(Verdict.FAIL)
    assert audit.worst(Verdict.WARN, Verdict.SKIP)
    assert not audit.worst(Verdict.WARN, Verdict.INFO)
    assert not Audit({}).worst(*Verdict)
