"""Decisions: purposes, days and rules together; presets; what a refusal says; what exactly an approval names."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.governance.code import code_digest, digest_of
from locum.governance.policy import ACTIONS, Approval, Policy, PolicyError, judge, preset
from locum.governance.policy.facts import MOST, decimal
from locum.governance.policy.ruling import explained

DEFAULT, CMS, DATASHIELD = (Policy.load(preset(name)) for name in ("default", "cms", "datashield"))
Make = Callable[..., Any]


def rules(extra: str) -> Policy:
    return Policy.load(preset("default") + extra)


NIGHT = rules(
    '@id("night") @reason("Nothing runs at night.") forbid (principal, action in [Action::"round", Action::"release"], resource) when { context.hour < 6 };'
)
NEW = rules(
    '@id("new") @reason("The program changed.") forbid (principal, action in [Action::"round", Action::"release"], resource) when { context.code_changed };'
)


@pytest.mark.parametrize(
    ("governance", "permissions", "refused"),
    [
        ({}, {}, ""),
        ({"use": "HMB"}, {}, ""),
        ({"use": "DS", "disease": "MONDO:0005098"}, {}, ""),
        ({"use": "POA"}, {}, "unstated-use"),
        ({"use": "CC"}, {}, "unstated-use"),
        ({"use": "HMB", "commercial": True}, {}, "unstated-use"),
        ({"use": "HMB", "commercial": True}, {"use": "HMB"}, ""),
        ({"use": "CC"}, {"use": "CC"}, ""),
        ({}, {"use": "HMB"}, "DUO:0000006"),
        ({"use": "POA"}, {"use": "HMB"}, "DUO:0000006"),
        ({"use": "HMB"}, {"modifiers": ["IRB"]}, "DUO:0000021"),
    ],
)
def test_the_default_policy(question: Make, governance: dict[str, Any], permissions: dict[str, Any], refused: str) -> None:
    for action in ACTIONS:
        ruling = judge(DEFAULT, action, question(governance, permissions=permissions))
        assert ruling.allowed == (not refused)
        assert refused in " ".join(ruling.refusals)
        assert ruling.code == ("policy" if refused else "")


def test_a_refusal_names_every_rule_and_its_sentence(question: Make) -> None:
    policy = rules('@id("few") @reason("Too few sites.") forbid (principal, action, resource) when { context.min_cohort < 50 };')
    ruling = judge(policy, "approve", question({"use": "POA"}, permissions={"modifiers": ["IRB"]}))
    assert [r.id for r in ruling.forbids] == ["unstated-use", "few"]
    assert [r.split(" (")[0] for r in ruling.refusals][1:] == [r.reason for r in ruling.forbids]
    assert "DUO:0000021" in ruling.refusals[0]
    line = next(r.line for r in policy.rules if r.id == "few")
    assert f"(rule 'few', line {line} of the site's policy)" in ruling.refusals[-1]
    assert ruling.to_json()["allowed"] is False


def test_default_deny(question: Make) -> None:
    policy = Policy.load('@id("ida-alone") permit (principal == Requester::"ida", action, resource);')
    assert judge(policy, "round", question()).allowed
    ruling = judge(policy, "round", question(requester="eve"))
    assert ruling.refusals == ("No rule of the site's policy permits it.",)


def test_permits_that_a_forbid_overrules_are_told(question: Make) -> None:
    ruling = explained(DEFAULT, judge(DEFAULT, "round", question({"use": "HMB", "commercial": True})))
    assert ruling.permits == ()
    night = explained(NIGHT, judge(NIGHT, "round", question(now=datetime(2026, 11, 24, 3, tzinfo=UTC))))
    assert [r.id for r in night.permits] == ["research"]
    assert [r.id for r in night.forbids] == ["night"]


def test_hours_are_the_sites_own(question: Make) -> None:
    at = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
    assert judge(NIGHT, "round", question(now=at)).allowed
    ruling = judge(NIGHT, "round", question(now=at.astimezone(timezone(timedelta(hours=5)))))
    assert not ruling.allowed
    assert (ruling.context["hour"], ruling.context["weekday"]) == (3, 3)
    assert judge(NIGHT, "review", question(now=at.astimezone(timezone(timedelta(hours=5))))).allowed


def test_the_days_of_a_study(question: Make) -> None:
    q = question({"valid_from": "2026-12-01", "valid_until": "2026-12-31"})
    assert judge(DEFAULT, "approve", q).allowed
    assert judge(DEFAULT, "round", q).code == "expired"
    assert judge(DEFAULT, "round", replace(q, now=datetime(2026, 12, 31, 23, tzinfo=UTC))).allowed
    for action in ACTIONS:
        late = judge(DEFAULT, action, replace(q, now=datetime(2027, 1, 1, tzinfo=UTC)))
        assert (late.code, late.refusals) == ("expired", ("The study was to run until 2026-12-31.",))


def approval(**change: Any) -> Approval:
    return replace(Approval("1" * 64, DEFAULT.digest, "a" * 64, "main"), **change)


def test_an_approval_counts_until_its_last_day(question: Make) -> None:
    q = question(approval=approval(valid_until=date(2026, 11, 24)))
    assert judge(DEFAULT, "round", q).allowed
    for action, code in (("round", "expired"), ("release", "expired"), ("approve", "")):
        assert judge(DEFAULT, action, replace(q, now=datetime(2026, 11, 25, tzinfo=UTC))).code == code


def test_an_approval_of_something_else_counts_for_nothing(question: Make) -> None:
    for other in ({"study": "2" * 64}, {"data": "another"}):
        q = question(approval=approval(**other))
        ruling = judge(DEFAULT, "round", q)
        assert ruling.code == "policy"
        assert any("another" in day for day in ruling.days)
        assert judge(DEFAULT, "approve", q).allowed


def test_another_program_needs_a_new_approval_where_the_rules_ask(question: Make) -> None:
    same, other = question(approval=approval()), question(approval=approval(code="b" * 64))
    assert judge(DEFAULT, "round", other).allowed
    assert judge(NEW, "round", same).allowed
    assert judge(NEW, "round", other).code == "changed"
    both = question({"use": "POA"}, approval=approval(code="b" * 64))  # what a new approval would not cure is another code
    assert judge(NEW, "round", both).code == "policy"
    assert judge(NEW, "approve", other).allowed
    assert judge(NEW, "round", question()).code == "changed"  # approved by a release that kept no program
    assert judge(NEW, "approve", question()).allowed


def test_policy_changed(question: Make) -> None:
    assert judge(DEFAULT, "round", question(approval=approval())).context["policy_changed"] is False
    assert judge(NIGHT, "round", question(approval=approval())).context["policy_changed"] is True


@pytest.mark.parametrize(
    ("policy", "more", "terms", "refused"),
    [
        (CMS, {}, {}, ""),
        (CMS, {"patients": 10}, {}, "patients-11"),
        (CMS, {}, {"min_rows": 10}, "min-rows-11"),
        (CMS, {"min_rows": 11}, {"min_rows": 1}, ""),  # the site's own floor is as good as the study's
        (CMS, {"cell": 10}, {}, "cell-11"),
        (CMS, {"cell": 5, "patients": 3}, {"privacy": {"eps": 1.0, "delta": 1e-6, "patients": 1000}}, ""),
        (DATASHIELD, {"cell": 3}, {"min_rows": 3}, ""),
        (DATASHIELD, {"cell": 2}, {}, "table-3"),
        (DATASHIELD, {}, {"min_rows": 2}, "subset-3"),
        (DATASHIELD, {"parameters": 33, "patients": 100}, {}, ""),
        (DATASHIELD, {"parameters": 34, "patients": 100}, {}, "glm-0.33"),
        (DATASHIELD, {"parameters": 1, "patients": 0}, {}, "glm-0.33"),
    ],
)
def test_presets(question: Make, policy: Policy, more: dict[str, Any], terms: dict[str, Any], refused: str) -> None:
    ruling = judge(policy, "round", question({}, terms, **more))
    assert [r.id for r in ruling.forbids] == ([refused] if refused else [])
    assert ruling.allowed == (not refused)


def test_cms_refuses_counts_without_a_smallest_cell(question: Make, study: Make) -> None:
    counts = study(data={"variables": {"t": {}, "e": {}}}, plan=[{"name": "km", "task": "kaplan_meier", "time": "t", "event": "e"}])
    assert [r.id for r in judge(CMS, "review", question(study=counts)).forbids] == ["bare-counts"]


@given(st.floats(min_value=0, max_value=1e12))
def test_a_decimal_is_rounded_to_the_careful_side(value: float) -> None:
    assert float(decimal(value)) >= value - 1e-9 * (1 + value)
    assert float(decimal(value, up=False)) <= value + 1e-9 * (1 + value)
    assert len(decimal(value).split(".")[1]) == 4


@pytest.mark.parametrize("value", [MOST, 1e300, float("inf"), float("nan")])
def test_a_decimal_that_cedar_cannot_hold(value: float) -> None:
    assert decimal(value) == f"{MOST:.1f}"
    assert decimal(value, up=False) == "0.0"


def test_eps_is_compared(question: Make) -> None:
    policy = rules('@id("eps") @reason("Eps.") forbid (principal, action, resource) when { context.eps.greaterThan(decimal("1.0")) };')
    terms = {"privacy": {"eps": 1.0, "delta": 1e-6, "patients": 1000}}
    assert judge(policy, "round", question({}, terms)).allowed
    assert not judge(policy, "round", question({}, {"privacy": {**terms["privacy"], "eps": 1.0001}})).allowed
    assert not judge(policy, "round", question()).allowed  # exact sums are above every eps


# --- approvals ----------------------------------------------------------------------------------------------------------


def test_an_approval_has_one_form() -> None:
    for one in (approval(), approval(valid_until=date(2027, 1, 31))):
        assert Approval.decode(one.encode()) == one
    assert approval().encode() == (
        f'{{"code":"{"a" * 64}","data":"main","policy":"{DEFAULT.digest}","schema":"locum/approval/1","study":"{"1" * 64}","valid_until":null}}'
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "", "{}", "[]", "null", "{", "[" * 5000, "x" * 5000,
        approval().encode() + " ",
        approval().encode().replace('"schema":"locum/approval/1"', '"schema":"locum/approval/2"'),
        approval().encode().replace("null", '"2027-02-30"'),
        approval().encode().replace("null", "20270101"),
        approval().encode().replace("a" * 64, "A" * 64),
        approval().encode().replace("a" * 64, "a"),
        approval().encode().replace('{"code"', '{"also":1,"code"'),
    ],
)  # fmt: skip
def test_an_approval_in_another_form_is_refused(wrong: str) -> None:
    with pytest.raises(PolicyError, match="not in its one form"):
        Approval.decode(wrong)


# --- the program --------------------------------------------------------------------------------------------------------


def test_the_code_digest_is_of_names_and_bytes(tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("1")
    first = digest_of(tmp_path)
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_bytes(b"1")
    (tmp_path / "y.pyc").write_bytes(b"1")
    assert digest_of(tmp_path) == first
    (tmp_path / "a" / "x.py").rename(tmp_path / "a" / "z.py")
    second = digest_of(tmp_path)
    (tmp_path / "a" / "z.py").write_text("2")
    assert len({first, second, digest_of(tmp_path)}) == 3
    assert code_digest() == code_digest()
