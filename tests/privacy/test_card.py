"""The card is valid under its published schema, counts what ran against what was paid for, and never says more than is promised."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from locum import Study
from locum.federation.budget import budget_of, quote_of
from locum.federation.wire import RoundView, RunView
from locum.privacy import accountant
from locum.privacy.card import card, schema, text
from locum.privacy.errors import PrivacyError
from locum.report import card_of
from locum.report.privacy import colluding

AGE = {"minimum": 0, "maximum": 120}
HISTOGRAM = {"name": "ages", "task": "histogram", "variable": "age", "bins": 6}
MOMENTS = {"name": "mean", "task": "moments", "variables": ["age"]}
SGD = {"name": "fit", "task": "sgd", "features": ["age"], "outcome": "died", "rounds": 3}
FEDAVG = {"name": "fit", "task": "fedavg", "features": ["age"], "outcome": "died", "rounds": 3}
NEVER = ("anonym", "complian", "secur")
AUDIT = {
    "passed": True,
    "findings": [{"check": "canaries", "measure": "m", "unprotected": None, "protected": 3.58, "limit": "<= 4.001", "passed": True}],
    "mutants": [{"mutant": "half the noise", "caught": True, "by": ["canaries"], "failed": []}],
}


def study(privacy: dict[str, Any] | str | None = None, plan: list[dict[str, Any]] | None = None, *, linked: bool = True, **terms: Any) -> Study:
    given = {"eps": 1.0, "delta": 1e-6, "patients": 600} if privacy is None else privacy
    variables: dict[str, Any] = {"age": AGE, "died": {"type": "boolean", "role": "outcome"}}
    variables |= {"who": {"type": "integer", "role": "patient"}} if linked else {}
    return Study.parse({"name": "t", "data": {"variables": variables}, "terms": {"privacy": given, **terms}, "plan": plan or [HISTOGRAM, MOMENTS]})


def run(s: Study, **change: Any) -> RunView:
    values: dict[str, Any] = {
        "id": "r1", "study": s.digest, "name": s.name, "status": "finished", "version": 9, "step": 2, "steps": tuple(p.name for p in s.plan), "iteration": 0,
        "seq": 2, "asked": 6, "answered": 6, "approvals": 6, "needed": 5, "created": 0.0, "started": 1.0, "ended": 4.0,
        "protection": s.terms.protection(), "model": "0" * 64, "error": "", "results": {},
    }  # fmt: skip
    return RunView(**{**values, **change})


def rounds(*steps: str, status: str = "closed", summed: int = 6) -> list[RoundView]:
    shape: dict[str, Any] = {"iteration": 0, "opened": 1.0, "closed": 2.0, "asked": 6, "answered": summed, "declined": {}, "bytes_in": 9, "bytes_out": 9}
    return [RoundView(seq=i, step=step, status=status, summed=summed, **shape) for i, step in enumerate(steps)]


def made(s: Study, seen: list[RoundView] | None = None, *, results: dict[str, Any] | None = None, status: str = "finished", **more: Any) -> dict[str, Any]:
    """The card of a run, valid under the schema, and silent where it must be."""
    found = card_of(s, run(s, results=results or {}, status=status), rounds("ages", "mean") if seen is None else seen, **more)
    Draft202012Validator(schema(), format_checker=None).validate(json.loads(json.dumps(found, allow_nan=False)))
    assert not [word for word in NEVER if word in json.dumps(found).lower() + text(found).lower()]
    return found


def of(found: dict[str, Any], check: str) -> dict[str, Any]:
    return next(c for c in found["checks"] if c["id"] == check)


def status(found: dict[str, Any], check: str) -> str:
    return str(of(found, check)["status"])


# --- the schema --------------------------------------------------------------------------------------------------------


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if ("type" in node and isinstance(node["type"], str | list)) or "const" in node or "oneOf" in node:
            yield node
        for part in node.values():
            yield from nodes(part)
    elif isinstance(node, list):
        for part in node:
            yield from nodes(part)


def test_the_schema_is_strict_and_says_what_each_field_means() -> None:
    published = schema()
    Draft202012Validator.check_schema(published)
    assert published["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    every = list(nodes(published))
    assert len(every) > 60
    assert all(node.get("description") for node in every)
    objects = [node for node in every if node.get("type") == "object" and "properties" in node]
    assert len(objects) >= 9
    assert all(node["additionalProperties"] is False and set(node["required"]) == set(node["properties"]) for node in objects)
    assert not [word for word in NEVER if word in json.dumps(published).lower()]


def test_a_card_with_a_word_more_or_less_is_not_one() -> None:
    found, judge = made(study()), Draft202012Validator(schema())
    assert not judge.is_valid({**found, "certified": True})
    assert not judge.is_valid({k: v for k, v in found.items() if k != "trust"})
    assert not judge.is_valid({**found, "checks": [{**found["checks"][0], "status": "OK"}]})


# --- what is promised --------------------------------------------------------------------------------------------------


def test_the_promise_is_the_quotes() -> None:
    s = study()
    found, quote = made(s), quote_of(s)
    promise = found["promise"]
    assert (promise["eps"], promise["delta"], promise["mu"], promise["tpr_at_1pct_fpr"]) == (quote.epsilon, 1e-6, quote.mu, quote.tpr)
    assert promise["eps"] <= 1.0
    assert found["headline"] == [quote.sentence]
    assert promise["released_model"] == quote.sentence.replace("the coordinator's view", "the released model") != quote.sentence
    assert quote.elsewhere
    assert promise["two_hospitals"] == {"eps_one_sum": quote.elsewhere.shared, "eps_separate_sums": quote.elsewhere.independent}
    assert promise["eps"] < quote.elsewhere.independent < quote.elsewhere.shared
    assert sum(step["share"] for step in found["steps"]) == pytest.approx(1.0)
    assert [(x["step"], x["task"], x["planned"], x["released"]) for x in found["steps"]] == [("ages", "histogram", 1, 1), ("mean", "moments", 1, 1)]
    assert found["status"] == "NOTE"
    assert {c["id"] for c in found["checks"] if c["status"] == "NOTE"} == {"not_protected", "hospitals", "tuning", "ledger", "audit", "subgroups"}


def test_exact_sums_have_a_card_that_says_so_first() -> None:
    found = made(study("none"))
    assert found["headline"][0] == "Nothing protects a single patient beyond the cohort: the sums are exact, and no noise was added."
    assert found["promise"] is None
    assert status(found, "unit") == "NOTE"
    assert not {"epsilon", "delta", "randomness", "weights"} & {c["id"] for c in found["checks"]}
    clear = made(study("none", aggregation="clear"))
    assert "Not even the cohort" in clear["headline"][1]
    assert clear["trust"]["colluding"] is None


def test_a_study_without_a_patient_identifier_promises_for_one_record_each() -> None:
    assert status(made(study()), "records") == "PASS"
    found = made(study(linked=False))
    assert status(found, "records") == "NOTE"
    assert "one record each" in found["headline"][1]


def test_a_sampled_plan_says_what_two_hospitals_cost() -> None:
    s = study(plan=[{**SGD, "sample": 0.2}])
    found, budget = made(s, rounds("fit")), budget_of(s)
    assert budget
    plan = accountant.with_spare(budget.plan, 1)
    both = found["promise"]["two_hospitals"]
    assert found["promise"]["mu"] is None
    assert both["eps_separate_sums"] == accountant.at_hospitals(plan, 1e-6, 2, shared=False) > found["promise"]["eps"]
    assert both["eps_one_sum"] > both["eps_separate_sums"]
    assert "with probability 0.2" in of(found, "sampler")["value"]


def test_skellam_noise_and_a_fixed_order_have_cards_too() -> None:
    assert of(made(study({"eps": 1.0, "delta": 1e-6, "patients": 600, "noise": "skellam"})), "integers")["value"] == "Skellam, integers"
    assert made(study(plan=[{**SGD, "order": "fixed", "batches": 2}]), rounds("fit"))["promise"]["mu"] is not None


def test_whole_sites_are_a_unit_and_pay_for_the_clip() -> None:
    s = study({"unit": "site", "eps": 3.0, "delta": 1e-6}, [FEDAVG], min_cohort=60)
    found = made(s, rounds("fit", summed=60))
    assert found["promise"]["unit"] == "site"
    assert of(found, "adjacency")["value"] == "add or remove one site"
    assert status(found, "clip_bit") == status(found, "delta") == "PASS"
    assert "clip_bit" not in {c["id"] for c in made(study())["checks"]}


def test_above_eps_8_is_noted() -> None:
    assert status(made(study({"eps": 9.0, "delta": 1e-6, "patients": 600, "override": "a phantom"})), "epsilon") == "NOTE"


# --- what ran ----------------------------------------------------------------------------------------------------------


def test_more_rounds_than_were_paid_for_fail_the_card() -> None:
    s = study()
    spare = made(s, rounds("ages", "ages", "mean"))  # one was repeated, and one spare round was paid for
    assert (status(spare, "releases"), of(spare, "releases")["value"]) == ("PASS", "3 of 2 rounds, 1 of 1 spare")
    over = made(s, rounds("ages", "ages", "mean", "mean"))
    assert (status(over, "releases"), over["status"]) == ("FAIL", "FAIL")
    assert over["headline"][0] == "What follows does not hold as it stands: every release charged."
    assert status(made(s, rounds("ages", "mean", "elsewhere", "elsewhere")), "releases") == "FAIL"


def test_a_round_that_failed_counts_once_a_vector_had_arrived() -> None:
    s, good = study(), rounds("ages", "mean")
    read = made(s, good + rounds("ages", "mean", status="failed", summed=2))
    assert status(read, "releases") == "FAIL"
    assert status(read, "margin") == "PASS"  # of two sites no sum can be read: only how often they paid is wrong
    nothing = made(s, good + rounds("ages", "mean", status="failed", summed=0))
    assert of(nothing, "releases")["value"] == "2 of 2 rounds, 0 of 1 spare"
    assert "1 that did not close" in of(made(s, good + rounds("ages", status="failed", summed=2)), "releases")["sentence"]


def test_the_budget_is_of_all_the_studys_runs() -> None:
    s = study()
    assert status(made(s), "releases") == "PASS"
    again = made(s, others=rounds("ages", "mean"))
    assert status(again, "releases") == "FAIL"
    assert again["steps"][0]["released"] == 2


def test_the_card_counts_as_the_ledger_does() -> None:
    """Whatever a ledger lets pass is within the card's plan, and what it refuses is not."""
    from locum.privacy.ledger import Ledger

    s = study()
    budget = budget_of(s)
    assert budget
    for steps in (["ages", "mean", "ages"], ["ages", "mean", "ages", "mean"], ["mean", "mean", "mean"], ["mean", "mean"]):
        kept = Ledger.in_memory(site="h", dataset="d", data_sha256="0" * 64, eps=8.0, delta=1e-6)
        kept.reserve(s.digest, budget.plan, 1, requester="r")
        refused = False
        for seq, step in enumerate(steps):
            try:
                kept.charge(s.digest, "r1", seq, step, 0)
            except PrivacyError:
                refused = True
        assert (status(made(s, rounds(*steps)), "releases") == "FAIL") == refused, steps


def test_a_sum_over_too_few_sites_fails_the_card() -> None:
    s = study()
    assert status(made(s, rounds("ages", "mean", summed=5)), "margin") == "PASS"
    low = made(s, [*rounds("ages"), *rounds("mean", summed=4)])
    assert status(low, "margin") == "FAIL"
    assert "over 4 sites" in of(low, "margin")["sentence"]
    assert status(made(s, []), "margin") == "NOTE"


def test_a_run_that_goes_on_is_counted_so_far() -> None:
    assert made(study(), rounds("ages"), status="running")["headline"][0].startswith("The run has not ended")


def test_a_plan_that_costs_more_than_was_approved_or_a_delta_too_large_fails_the_card() -> None:
    from locum.privacy.card import Facts

    s = study()
    quote, plain = quote_of(s), {"id": "r1", "status": "finished", "model": None, "results": {}}
    facts = Facts(s, quote, plain, [])
    assert status(card(facts), "epsilon") == "PASS"
    assert status(card(replace(facts, quote=replace(quote, epsilon=1.1))), "epsilon") == "FAIL"
    assert status(card(replace(facts, quote=replace(quote, delta=1e-3))), "delta") == "FAIL"
    assert status(card(replace(facts, table_error=1e-6)), "integers") == "FAIL"
    assert status(card(replace(facts, quote=replace(quote, rows=quote.rows[:1]))), "steps") == "FAIL"
    endless = card(replace(facts, quote=replace(quote, epsilon=float("inf"))))
    assert endless["promise"]["eps"] is None
    assert status(endless, "epsilon") == "FAIL"
    Draft202012Validator(schema()).validate(endless)


# --- whom one has to trust ---------------------------------------------------------------------------------------------


def test_as_many_may_collude_as_neither_masks_nor_noise_mind() -> None:
    for n in (5, 9, 10, 128):
        terms = study(min_cohort=n).terms
        most = colluding(terms)
        assert most is not None
        assert 3 * most < n  # the masks stand: fewer than a third
        assert n - most >= terms.honest  # enough noise is left
        assert 3 * (most + 1) >= n or n - most - 1 < terms.honest  # and no more would do
    assert colluding(study({"eps": 1.0, "delta": 1e-6, "patients": 600, "honest": 10}, min_cohort=10).terms) == 0
    assert colluding(study(min_cohort=200, masking={"corrupt": 0.1}).terms) == 20
    assert colluding(study(aggregation="clear").terms) is None


def test_in_clear_text_a_sites_own_noise_suffices() -> None:
    found = made(study(aggregation="clear"))
    assert found["trust"]["honest"] == 1
    assert "that site's own noise" in found["trust"]["sentence"]


# --- what was given besides --------------------------------------------------------------------------------------------


def test_an_audit_report_goes_on_the_card() -> None:
    s = study()
    assert of(made(s), "audit")["value"] == "not audited in this run"
    good = made(s, audit=AUDIT)
    assert status(good, "audit") == "PASS"
    assert "passing never proves" in of(good, "audit")["sentence"]
    assert (good["audit"]["eps_found"], good["audit"]["eps_claimed"]) == (3.58, 4.001)
    for broken in ({"findings": []}, {"mutants": []}, {"mutants": [{"caught": False}]}, {"findings": [{**AUDIT["findings"][0], "passed": False}]}):  # type: ignore[index]
        assert status(made(s, audit={**AUDIT, **broken}), "audit") == "FAIL"
    for other in ({}, {"findings": [1], "mutants": []}, {"findings": [{"passed": True, "check": "canaries"}], "mutants": []}):
        with pytest.raises(PrivacyError, match="not one"):
            made(s, audit=other)


def test_the_audits_own_report_is_one() -> None:
    from locum.privacy.attacks.audit import AuditReport
    from locum.privacy.attacks.findings import at_least, at_most
    from locum.privacy.attacks.mutants import Caught

    bad = at_most("canaries", "m", 9.0, 4.0)
    report = AuditReport(False, 0, (at_most("canaries", "m", 3.9, 4.0, unprotected=9.0, leaks=5.0), at_least("law", "p", 0.5, 0.01)), (Caught("x", (bad,)),))
    found = made(study(), audit=report.to_json())
    assert found["audit"] | {"eps_claimed": 4.0} == found["audit"]
    assert status(found, "audit") == "PASS"


def test_utility_by_subgroup_is_shown_where_a_step_has_it() -> None:
    rows = [{"name": "women", "n": 40, "auc": 0.71, "kept": True}, {"name": "men", "n": 60, "auc": float("nan")}]
    found = made(study(), results={"mean": {"subgroups": rows}, "ages": {"counts": [1]}})
    assert found["subgroups"] == [
        {"step": "mean", "subgroup": "women", "figures": {"n": 40, "auc": 0.71}},
        {"step": "mean", "subgroup": "men", "figures": {"n": 60}},
    ]
    assert status(found, "subgroups") == "PASS"


def test_a_card_is_text_too() -> None:
    shown = text(made(study()))
    assert shown.startswith("For any one patient at this site")
    assert "NOTE  Ledger: held by each site" in shown
