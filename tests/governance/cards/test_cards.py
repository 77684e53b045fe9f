"""What the cards say: what happened, what nobody stated, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from locum.governance.cards import FILES, NOT_STATED, Facts, cards, missing
from locum.governance.cards.figures import figures

CLAIMS = re.compile(r"complian|anonym|\bsecure\b|certified|guarante", re.IGNORECASE)


def text(facts: Facts, name: str = "README.md") -> str:
    return cards(facts)[name].decode()


def test_the_same_facts_give_the_same_bytes(exact: Facts) -> None:
    assert cards(exact) == cards(replace(exact))
    assert set(cards(exact)) == set(FILES)


def test_every_file_names_the_run_or_the_study_and_claims_nothing(exact: Facts, bare: Facts) -> None:
    for facts in (exact, bare):
        for name, body in cards(facts).items():
            assert facts.digest in body.decode() or facts.contract in body.decode(), name
            assert not CLAIMS.search(body.decode()), (name, CLAIMS.search(body.decode()))


def test_figures_are_the_results_own(exact: Facts) -> None:
    found = {(f.step, f.name, f.group): f for f in figures(exact)}
    results = exact.run["results"]
    assert found["judged", "auc", "everybody"].value == results["judged"]["auc"]["value"]
    assert found["judged", "calibration_slope", "everybody"].value == results["judged"]["calibration"]["slope"]
    low, high = (found["judged", "calibration_slope", "everybody"].low, found["judged", "calibration_slope", "everybody"].high)
    assert low is not None
    assert high is not None
    assert low < results["judged"]["calibration"]["slope"] < high
    for row in results["groups"]["subgroups"]:
        figure = found["groups", "auc", row["name"]]
        assert (figure.value, figure.low, figure.high, figure.n) == (row["auc"]["value"], row["auc"]["low"], row["auc"]["high"], row["n"])
        assert figure.kind == "group"
    alone = [f for f in figures(exact) if f.kind == "alone" and f.name == "accuracy"]
    assert {f.value for f in alone} == {results["alone"][f"{who}_accuracy"] for who in ("local", "federated", "majority")}


def test_the_model_card_holds_subgroups_calibration_protection_and_limits(exact: Facts) -> None:
    readme = text(exact)
    for row in exact.run["results"]["groups"]["subgroups"]:
        assert row["name"].replace("_", r"\_") in readme
    assert "calibration" in readme
    assert exact.privacy["headline"][0] in readme
    assert "Nothing was measured at a site that had no part in it." in readme
    assert "MONDO:0005098" in readme
    assert "Who comes back?" in readme
    assert "auc is at least 0.6" in readme
    assert "seen 2019-01-01 to 2024-12-31" in readme
    (inputs,) = [line for line in readme.splitlines() if line.startswith("- Input")]
    assert inputs == "- Input: age (age, number, in a); female (female sex, boolean)"


def test_noise_is_named_where_there_was_noise(bare: Facts) -> None:
    assert "eps 2, delta 1e-06 for each patient" in text(bare)
    assert json.loads(text(bare, "dpia.json"))["d_measures"]["noise"] == {"unit": "patient", "eps": 2.0, "delta": 1e-6}


def test_a_failed_privacy_check_comes_with_the_protection(exact: Facts) -> None:
    checks = [{**c, "status": "FAIL", "sentence": "It did not hold."} if c["id"] == "margin" else c for c in exact.privacy["checks"]]
    failed = replace(exact, privacy={**exact.privacy, "checks": checks})
    readme = text(failed)
    assert "It did not hold." in readme[readme.index("What protected") : readme.index("What this does not show")]
    risks = json.loads(text(failed, "dpia.json"))["c_risks"]
    assert any("FAIL" in r["source"] for r in risks)


def test_what_nobody_stated_is_listed_with_the_key_that_would_fill_it(bare: Facts, exact: Facts) -> None:
    open_ = {g.key for g in missing(bare)}
    wanted = {"question", "purpose", "requester", "governance.use", "governance.basis", "governance.permit", "governance.ethics", "governance.region"}
    assert wanted | {"governance.gate", "governance.envelope.may_change", "governance.envelope.protocol", "governance.envelope.impact"} <= open_
    stated = {g.key for g in missing(exact)}
    assert not {k for k in stated if k.startswith("governance") or k in ("question", "purpose", "requester")}
    assert NOT_STATED in text(bare)


def test_every_not_stated_of_a_paper_is_in_the_list(bare: Facts) -> None:
    for name in ("hti1.json", "ropa.json"):
        written = text(bare, name).count(f'"{NOT_STATED}"')
        assert written <= len([g for g in missing(bare) if g.file == name])


@pytest.mark.parametrize(
    ("key", "value"),
    [("question", "Q1 asked"), ("requester", "R1 asked"), ("purpose", "P1 meant"), ("governance.basis", "B1 law"), ("governance.ethics", "E1 board")],
)
def test_the_key_that_the_list_names_fills_the_field(say: Callable[..., Facts], key: str, value: str) -> None:
    assert key in {g.key for g in missing(say(**{key: ""}))}
    filled = say(**{key: value})
    assert key not in {g.key for g in missing(filled)}
    assert value in "".join(body.decode() for body in cards(filled).values())


def test_the_change_plan_is_the_envelope_with_todays_values(exact: Facts) -> None:
    plan = json.loads(text(exact, "pccp.json"))
    assert plan["modifications"]["may_change"] == [{"path": "seed", "now": 0}, {"path": "plan.fit.rounds", "now": 50}]
    assert plan["modifications"]["updates_at_most"] == 3
    assert plan["protocol"]["gate"]["at_least"] == {"auc": 0.6}
    assert plan["impact"]["benefits_and_risks"] == "The same inputs."


def test_nothing_may_change_where_no_envelope_says_so(bare: Facts) -> None:
    plan = json.loads(text(bare, "pccp.json"))
    assert plan["modifications"]["may_change"] == []
    assert plan["modifications"]["updates_at_most"] == 0


def test_variables_that_no_step_names_are_pointed_at(exact: Facts) -> None:
    assert json.loads(text(exact, "dpia.json"))["b_necessity"]["variables_that_no_step_names"] == ["seen", "ward"]


def test_what_leaves_a_site_is_what_the_tasks_say(exact: Facts) -> None:
    operations = json.loads(text(exact, "dpia.json"))["a_description"]["operations"]
    assert [(o["step"], o["leaves_a_site"]) for o in operations] == list(exact.leaves.items())


def test_sites_are_named_in_the_record_of_processing_and_nowhere_else(exact: Facts) -> None:
    named = replace(exact, approved=["ostrava-clinic", "turku-clinic"])
    assert {name for name, body in cards(named).items() if b"turku-clinic" in body} == {"ropa.json"}


def test_results_that_are_withheld_or_no_numbers_are_no_figures(exact: Facts) -> None:
    results = {**exact.run["results"], "judged": {"n": 3, "auc": {"value": None}, "brier": None, "accuracy": True, "calibration": {}}}
    odd = replace(exact, run={**exact.run, "results": results})
    assert not [f for f in figures(odd) if f.step == "judged"]
    assert cards(odd)["sbom.cdx.json"]


def test_warnings_and_a_fit_that_did_not_converge_are_limits(exact: Facts) -> None:
    results = {**exact.run["results"], "fit": {"converged": False, "warnings": ["few events"]}}
    readme = text(replace(exact, run={**exact.run, "results": results}))
    assert "Step 'fit' did not converge." in readme
    assert "Step 'fit': few events." in readme


def test_the_cohorts_rules_are_written_as_people_write_them(say: Callable[..., Facts]) -> None:
    rules = {"seen": {"at_least": 18_262.0}, "ward": {"among": ["medical"]}, "age": {"at_most": 80.0}, "female": {"present": True}}
    readme = text(say(**{"data.cohort.include": rules}))
    assert "Patients with seen at least 2020-01-01; ward among medical; age at most 80; female recorded." in readme
