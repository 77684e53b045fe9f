"""The gate blocks whatever is absent, withheld, worse or outside its bounds, and says why; and passes what holds."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum import Study
from locum.errors import ManifestError
from locum.governance.gate import Current, Verdict, digest_of, judge
from locum.governance.gate_figures import Figure, read, worse

GATE = {
    "evaluation": "test", "at_least": {"auc": 0.7}, "at_most": {"brier": 0.2}, "margin": {"auc": 0.05, "brier": 0.02}, "slope": [0.8, 1.25],
    "ratio": [0.8, 1.2], "subgroups": "groups", "gap": {"auc": 0.1}, "subgroup_at_least": {"sensitivity": 0.5}, "subgroup_margin": {"auc": 0.3},
    "worst_site": {"auc": 0.6}, "sites_missing": 0.2, "attacks": True,
}  # fmt: skip
TEST = {
    "n": 2000, "positives": 600, "auc": {"value": 0.80, "error_bound": 0.001, "se": 0.01}, "accuracy": 0.78, "brier": 0.15,
    "calibration": {"observed_over_expected": 1.02, "slope": 0.97, "slope_se": 0.05, "intercept": 0.0, "intercept_se": 0.1},
}  # fmt: skip
AUDIT = {"passed": True, "findings": [{"check": "canaries", "passed": True}], "mutants": [{"mutant": "m", "caught": True}]}


def group(name: str, n: int = 800, auc: float = 0.8, sensitivity: float = 0.7) -> dict[str, Any]:
    def figure(v: float) -> dict[str, float]:
        return {"value": v, "se": 0.02, "low": v - 0.04, "high": v + 0.04}

    return {"name": f"sex: {name}", "variable": "sex", "levels": [name], "n": n, "events": n // 3, "auc": figure(auc), "sensitivity": figure(sensitivity)}


def results() -> dict[str, Any]:
    sites = {"auc": {"sites": 10, "mean": 0.8, "sd": 0.02, "worst_between": [0.74, 0.793], "floor": 0.7, "sites_missing_it": [1, 2]}}
    groups = {"subgroups": [group("female"), group("male", auc=0.78)], "gaps": {"sex": {}}, "sites": sites}
    return {"test": copy.deepcopy(TEST), "groups": groups}


def study(gate: dict[str, Any] | None = None, **terms: Any) -> Study:
    plan = [
        {"name": "fit", "task": "logistic", "features": ["x"], "outcome": "y", "part": "train"},
        {"name": "test", "task": "evaluate_binary", "model": "fit"},
        {"name": "groups", "task": "subgroups", "model": "fit", "by": {"sex": []}},
    ]
    variables = {"x": {}, "sex": {"type": "boolean"}, "y": {"type": "boolean", "role": "outcome"}}
    governance = {"gate": {**GATE, **gate} if gate is not None else None}
    return Study.parse({"name": "t", "data": {"variables": variables}, "terms": {"privacy": "none", **terms}, "plan": plan, "governance": governance})


def card(s: Study, status: str = "PASS", **more: Any) -> dict[str, Any]:
    failed = [{"title": "Plan kept", "status": "FAIL"}] if status == "FAIL" else [{"title": "Plan kept", "status": "PASS"}]
    return {"study": {"digest": s.digest}, "status": status, "promise": None, "checks": failed, **more}


def verdict(change: Any = None, *, gate: dict[str, Any] | None = None, before: dict[str, Any] | None = None, **given: Any) -> Verdict:
    s, r = study(gate or {}), results()
    if change:
        change(r)
    current = Current(3, before if before is not None else results())
    return judge(s, r, **({"current": current, "card": card(s), "audit": AUDIT} | given))


def blocked(v: Verdict) -> list[str]:
    return [c.id for c in v.checks if c.status == "BLOCK"]


def test_what_holds_passes_and_names_what_was_judged() -> None:
    v = verdict()
    assert blocked(v) == []
    assert v.status == "PASS"
    s = study({})
    assert v.inputs == {
        "study": s.digest, "results": digest_of(results()), "current": digest_of(results()), "card": digest_of(card(s)), "audit": digest_of(AUDIT)
    }  # fmt: skip
    assert Verdict.decode(v.canonical) == v
    assert v.text().startswith(f"PASS: all {len(v.checks)} checks pass.")


def put(path: str, value: Any) -> Any:
    def change(r: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for key in way:
            r = r[int(key) if isinstance(r, list) else key]
        if value is None:
            del r[last]
        else:
            r[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "blocks", "reason"),
    [
        (put("test", None), ["evaluation.test"], "no result of this step"),
        (put("test/auc/value", 0.69), ["at_least.auc", "margin.auc"], "it is not"),
        (put("test/auc/value", None), ["at_least.auc", "margin.auc"], "gives no 'auc'"),
        (put("test/auc/value", True), ["at_least.auc", "margin.auc"], "gives no 'auc'"),
        (put("test/auc", "high"), ["at_least.auc", "margin.auc"], "gives no 'auc'"),
        (put("test/auc/se", None), ["margin.auc"], "standard error of 'auc' is not known"),
        (put("test/auc/value", 0.76), ["margin.auc"], "worse by at most 0.0653"),
        (put("test/brier", 0.21), ["at_most.brier", "margin.brier"], "it is not"),
        (put("test/calibration/slope", 0.5), ["within.calibration_slope"], "it is not"),
        (put("test/calibration/slope", None), ["within.calibration_slope"], "gives no 'calibration_slope'"),
        (put("test/calibration/observed_over_expected", 1.3), ["within.observed_over_expected"], "it is not"),
        (put("groups", None), ["subgroups.groups"], "no figures by subgroup"),
        (put("groups/subgroups", []), ["subgroups.sex"], "all are withheld"),
        (put("groups/subgroups/0/n", 12), ["gap.auc.sex"], "one subgroup only"),
        (put("groups/subgroups/1/auc", {"value": 0.65, "low": 0.6, "high": 0.7, "se": 0.03}), ["gap.auc.sex"], "between sex: female and sex: male"),
        (put("groups/subgroups/1/auc", None), ["gap.auc.sex", "subgroup_margin.auc.sex: male"], "there is no 'auc' of sex: male"),
        (put("groups/subgroups/1/sensitivity/value", 0.4), ["subgroup_at_least.sensitivity.sex: male"], "it is not"),
        (put("groups/sites", {}), ["worst_site.auc", "sites_missing"], "too few sites"),
        (put("groups/sites/auc/worst_between", [0.55, 0.7]), ["worst_site.auc"], "no worse than 0.55"),
        (put("groups/sites/auc/sites_missing_it", [1, 3]), ["sites_missing.auc"], "1 to 3 of 10 sites"),
        (put("groups/sites/auc", {"withheld": "fewer than 5"}), ["worst_site.auc", "sites_missing"], "too few sites"),
    ],
)
def test_what_does_not_hold_blocks_with_its_reason(change: Any, blocks: list[str], reason: str) -> None:
    v = verdict(change)
    assert blocked(v) == blocks
    assert any(reason in x for x in v.reasons)
    assert v.status == "BLOCK"
    assert v.text().splitlines()[0].startswith("BLOCK: ")


def test_a_number_that_json_has_no_form_for_is_refused() -> None:
    with pytest.raises(ManifestError, match="no one form"):
        verdict(put("test/auc/value", math.nan))


@pytest.mark.parametrize(
    ("given", "blocks", "reason"),
    [
        ({"card": None}, "privacy", "no privacy card"),
        ({"card": {}}, "privacy", "is not one"),
        ({"card": card(study({}), "FAIL")}, "privacy", "Plan kept"),
        ({"card": card(study({"attacks": False}))}, "privacy", "of another study"),
        ({"audit": None}, "attacks", "not given"),
        ({"audit": {}}, "attacks", "not one of"),
        ({"audit": {"passed": True, "findings": [], "mutants": []}}, "attacks", "not one of"),
        ({"audit": {**AUDIT, "passed": False}}, "attacks", "an attack succeeded"),
        ({"audit": {**AUDIT, "findings": [{"check": "canaries", "passed": False}]}}, "attacks", "canaries"),
        ({"audit": {**AUDIT, "mutants": [{"mutant": "half noise", "caught": False}]}}, "attacks", "half noise"),
    ],
)
def test_privacy_and_attacks(given: dict[str, Any], blocks: str, reason: str) -> None:
    v = verdict(**given)
    assert blocked(v) == [blocks]
    assert reason in v.reasons[0]


def test_a_budget_that_was_passed_blocks() -> None:
    plan = [{"name": "fit", "task": "sgd", "features": ["x"], "outcome": "y", "part": "train"}, {"name": "test", "task": "evaluate_binary", "model": "fit"}]
    variables = {"x": {"minimum": 0, "maximum": 1}, "y": {"type": "boolean", "role": "outcome"}}
    terms = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 1000}}
    gate = {"evaluation": "test", "at_least": {"auc": 0.7}}
    s = Study.parse({"name": "t", "data": {"variables": variables}, "terms": terms, "plan": plan, "governance": {"gate": gate}})
    for eps, good in ((2.9, True), (3.1, False), (None, False)):
        v = judge(s, {"test": TEST}, card=card(s, "NOTE", promise={"eps": eps}))
        assert (v.status == "PASS") is good


def test_without_a_gate_nothing_passes() -> None:
    s = study(None)
    v = judge(s, results(), card=card(s), audit=AUDIT)
    assert blocked(v) == ["gate"]


def test_the_first_version_is_compared_with_none() -> None:
    v = verdict(current=None)
    assert v.status == "PASS"
    assert "there is no current version" in next(c for c in v.checks if c.id == "margin.auc").reason
    assert "current" not in v.inputs


def test_an_old_version_without_the_figure_blocks() -> None:
    v = verdict(before={"test": {"n": 10}})
    assert blocked(v) == ["margin.auc", "margin.brier", "subgroup_margin.auc.sex: female", "subgroup_margin.auc.sex: male"]
    assert "version 3 gives no 'auc'" in v.reasons[0]


def test_small_subgroups_are_named_and_not_judged() -> None:
    v = verdict(lambda r: r["groups"]["subgroups"].append(group("other", n=12, auc=0.3)))
    assert v.status == "PASS"
    assert "not judged, for fewer than 20 patients: sex: other" in next(c for c in v.checks if c.id == "subgroups.sex").reason


@pytest.mark.parametrize(
    ("gate", "what"),
    [
        ({"at_least": {"acu": 0.7}}, r"'acu', which step 'test' does not give; did you mean 'auc'"),
        ({"margin": {"brierr": 0.1}}, r"more or less of 'brierr' is better; did you mean 'brier'"),
        ({"gap": {"sensitivty": 0.1}}, "did you mean 'sensitivity'"),
        ({"worst_site": {"sensitivity": 0.1}}, "does not give"),
        ({"evaluation": "tset"}, "did you mean 'test'"),
        ({"subgroups": "test"}, "did you mean|known here: groups"),
        ({"subgroups": None}, "needs subgroups"),
        ({"slope": [1.2, 0.8]}, "range"),
        ({"floor": {}}, "unknown key"),
    ],
)
def test_a_gate_that_nobody_could_judge_is_refused_with_the_study(gate: dict[str, Any], what: str) -> None:
    with pytest.raises(ManifestError) as caught:
        study(gate)
    import re

    assert re.search(what, str(caught.value)), str(caught.value)


def test_the_bound_is_that_of_two_proportions() -> None:
    """0.80 of 400 against 0.82 of 500: difference 0.02, se sqrt(.16/400 + .1476/500) = 0.02637, bound 0.02 + 1.645 se."""
    new, old = read({"accuracy": 0.80, "n": 400}, "accuracy"), read({"accuracy": 0.82, "n": 500}, "accuracy")
    assert new
    assert old
    found = worse(new, old, "accuracy")
    assert found
    assert found.value == pytest.approx(0.02)
    assert found.bound == pytest.approx(0.02 + 1.6448536 * 0.0263666, abs=1e-5)


def test_noise_of_differential_privacy_widens() -> None:
    plain, noisy = (read({"accuracy": 0.8, "n": 400, "noise_sd": {"accuracy": sd}}, "accuracy") for sd in (0.0, 0.03))
    assert plain
    assert noisy
    assert noisy.se == pytest.approx(math.hypot(plain.se or 0, 0.03))


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2), st.sampled_from(["auc", "brier"]))
def test_a_bound_is_never_inside_its_figure(a: float, b: float, s: float, t: float, name: str) -> None:
    found = worse(Figure(a, s), Figure(b, t), name)
    assert found
    assert found.bound >= found.value
    mirrored = worse(Figure(b, t), Figure(a, s), name)
    assert mirrored
    assert mirrored.value == -found.value


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"checks":[],"inputs":{}}', b"[" * 3000, b"\xff"])
def test_a_verdict_in_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(ManifestError, match="one form"):
        Verdict.decode(raw)
    with pytest.raises(ManifestError):
        Verdict.decode(verdict().canonical.replace(b"PASS", b"Pass", 1) + b" ")
