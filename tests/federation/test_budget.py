"""A private study from the manifest to the sum: what is calibrated is what leaves, everything is paid for first, and nothing else leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from locum import Rows, Study, simulate
from locum.errors import LocumError, ManifestError, RunFailed, TaskError
from locum.federation.budget import budget_of, quote_of
from locum.federation.door import Door, ReleaseDeclined, SitePolicy
from locum.federation.runner import Runner
from locum.federation.visit import MADE_UP, visit
from locum.privacy import accountant, matrix
from locum.privacy.filters import Filter
from locum.privacy.ledger import Charged, Ledger
from locum.study.vector import Bound, Contribution
from locum.tasks import build_plan

AGE = {"minimum": 0, "maximum": 120}
HISTOGRAM = {"name": "h", "task": "histogram", "variable": "age", "bins": 6}
MOMENTS = {"name": "m", "task": "moments", "variables": ["age"]}


def study(privacy: dict[str, Any] | str | None = None, plan: list[dict[str, Any]] | None = None, **terms: Any) -> Study:
    given = {"eps": 1.0, "delta": 1e-6, "patients": 600} if privacy is None else privacy
    variables = {"age": AGE, "died": {"type": "boolean", "role": "outcome"}}
    return Study.parse({"name": "t", "data": {"variables": variables}, "terms": {"privacy": given, **terms}, "plan": plan or [HISTOGRAM, MOMENTS]})


def hospitals(n: int = 6, patients: int = 100) -> dict[str, Rows]:
    rng = np.random.default_rng(1)
    return {f"h{i}": Rows.of({"age": rng.normal(60, 12, patients).clip(0, 120), "died": (rng.random(patients) < 0.3).astype(float)}) for i in range(n)}


def seeded(seed: int) -> Callable[[int], bytes]:
    rng = np.random.default_rng(seed)
    return rng.bytes


def ledger(eps: float = 8.0, filter: Filter = Filter("gdp")) -> Ledger:  # noqa: B008 - frozen
    return Ledger.in_memory(site="h0", dataset="d", data_sha256="0" * 64, eps=eps, delta=1e-6, filter=filter)


# --- what is calibrated is what leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["masked", "clear"])
@pytest.mark.parametrize("noise", ["gaussian", "skellam"])
def test_the_noise_in_the_sum_is_the_noise_of_the_accountant(aggregation: str, noise: str) -> None:
    """Over many runs without a patient, the released numbers are noise alone: its size is multiplier x sqrt(sites / honest)."""
    s = study({"eps": 2.0, "delta": 1e-6, "patients": 600, "noise": noise}, [{**HISTOGRAM, "bins": 60, "threshold": 0}], aggregation=aggregation)
    budget = budget_of(s)
    assert budget
    assert accountant.epsilon(accountant.with_spare(budget.plan, 1), 1e-6) == pytest.approx(2.0, rel=2e-3)
    assert accountant.epsilon(accountant.with_spare(budget.plan, 1), 1e-6) <= 2.0
    assert s.terms.honest == (4 if aggregation == "masked" else 1)
    law = Filter("rdp", 4) if noise == "skellam" else Filter("gdp")
    sums = []
    for seed in range(40):
        found: list[Any] = []
        empty = {f"h{i}": Rows.of({"age": [], "died": []}) for i in range(6)}
        runner = Runner(s, "r")
        original = runner.task.combine
        runner.task.combine = lambda state, total, found=found, original=original: (found.append(total), original(state, total))[1]  # type: ignore[method-assign]
        from locum.federation.runner import drive
        from locum.simulate.engine import _InProcess

        port = _InProcess(runner, empty, SitePolicy(min_cohort=5), {n: ledger(filter=law) for n in empty}, seeded(seed), None)
        drive(runner, port)
        assert found[0].noise > 0
        sums.append(np.concatenate([np.ravel(a) for a in found[0].vector.values()]))
    expected = budget.plan.releases[0].multiplier * np.sqrt(6 / s.terms.honest)
    n = np.size(sums)
    assert np.std(sums) == pytest.approx(expected, rel=0.02 + 4 / np.sqrt(2 * n))
    assert abs(np.mean(sums)) < 5 * expected / np.sqrt(n)
    assert found[0].noise == pytest.approx(expected, rel=0.02)


def test_multipliers_are_rounded_up_by_a_hair() -> None:
    for eps in (0.3, 1.0, 2.7, 8.0):
        s = study({"eps": eps, "delta": 1e-6, "patients": 600})
        budget, requests = budget_of(s), [task.request() for task in build_plan(s)]  # type: ignore[attr-defined]
        assert budget
        for shown, least in zip(budget.plan.releases, accountant.calibrate(requests, eps, 1e-6, spare=1).releases, strict=True):
            assert least.multiplier <= shown.multiplier <= least.multiplier * (1 + 2e-5)


@pytest.mark.parametrize("noise", ["gaussian", "skellam"])
def test_the_law_of_the_noise_is_the_one_that_is_accounted(noise: str) -> None:
    budget = budget_of(study({"eps": 2.0, "delta": 1e-6, "patients": 600, "noise": noise}))
    assert budget
    for step, task in enumerate(build_plan(study({"eps": 2.0, "delta": 1e-6, "patients": 600, "noise": noise}))):
        assert budget.release(step).noise == budget.mechanism(step, task.layout({})).kind == noise


def test_a_correlated_release_allows_for_its_rounding_in_every_round_of_the_band() -> None:
    sgd = {"name": "t", "task": "sgd", "features": ["age"], "outcome": "died", "rounds": 8, "order": "fixed", "batches": 8, "band": 5}
    s = study(plan=[sgd, HISTOGRAM])
    budget, tasks = budget_of(s), build_plan(s)
    assert budget
    assert budget.mechanism(0, tasks[0].layout({})).spread == matrix.spread(5) > 1.0
    assert budget.mechanism(1, tasks[1].layout({})).spread == 1.0


def test_a_seeded_private_run_is_repeatable_and_an_ordinary_one_is_not() -> None:
    s, sites = study(), hospitals()
    assert simulate(s, sites, entropy=seeded(3)).model == simulate(s, sites, entropy=seeded(3)).model
    assert simulate(s, sites).model != simulate(s, sites).model


def test_masked_and_clear_sums_hold_the_same_integers() -> None:
    """With the same noise per site the two aggregations differ in nothing but the masks: honest = 1 gives both the same shares."""
    one = study({"eps": 1.0, "delta": 1e-6, "patients": 600, "honest": 1})
    two = study({"eps": 1.0, "delta": 1e-6, "patients": 600, "honest": 1}, aggregation="clear")
    a, b = simulate(one, hospitals(), entropy=seeded(3)), simulate(two, hospitals(), entropy=seeded(3))
    assert a.results == b.results


# --- who is drawn ------------------------------------------------------------------------------------------------------


def trained(**params: Any) -> tuple[Runner, Any, Rows]:
    """Before a round of a training step: the runner, its assignment, and a site of 4000 patients."""
    s = study(plan=[{"name": "t", "task": "sgd", "features": ["age"], "outcome": "died", "rounds": 12, **params}])
    runner = Runner(s, "r")
    return runner, runner.assignment([f"h{i}" for i in range(6)], 0.0, runner.layout), hospitals(1, 4000)["h0"]


def test_who_is_drawn_is_drawn_at_the_rate_that_is_accounted_and_by_a_secret_of_the_site() -> None:
    runner, a, rows = trained(sample=0.2)
    assert runner.budget
    door, fixed = Door("h0", SitePolicy()), Door("h0", SitePolicy(), entropy=lambda n: bytes(n))
    one, two = (set(door.sample(rows, runner.budget, a).patient.tolist()) for _ in range(2))
    assert all(600 < len(drawn) < 1000 for drawn in (one, two))
    assert len(one & two) < 300, "the same round again draws anew: who knows the assignment knows nobody"
    assert set(fixed.sample(rows, runner.budget, a).patient.tolist()) == set(fixed.sample(rows, runner.budget, a).patient.tolist())
    given, _ = visit(runner.task, {}, rows, {}, a, door, runner.study.terms, runner.budget)
    assert 600 < given.rows < 1000, "and nobody else's rows reach the task"


def test_in_a_fixed_order_each_patient_is_drawn_once_an_epoch_by_the_door() -> None:
    runner, a, rows = trained(order="fixed", batches=4, band=2)
    budget, door = runner.budget, Door("h0", SitePolicy())
    assert budget
    drawn = [door.sample(rows, budget, msgspec.structs.replace(a, iteration=i)).patient.tolist() for i in range(8)]
    assert sorted(name for names in drawn[:4] for name in names) == sorted(rows.patient.tolist())
    assert drawn[:4] == drawn[4:]
    assert min(map(len, drawn)) > 800


# --- everything is paid for, first -------------------------------------------------------------------------------------


def test_every_release_of_a_run_has_its_line_in_every_ledger() -> None:
    s, sites = study(), hospitals()
    ledgers = {name: ledger() for name in sites}
    rounds: list[tuple[int, str]] = []
    result = simulate(s, sites, ledgers=ledgers, on_round=lambda runner, r: rounds.append((r.assignment.seq, s.plan[r.assignment.step].name)))
    assert result.rounds == len(rounds) == 2
    for kept in ledgers.values():
        charged = [line.entry for line in kept.lines() if isinstance(line.entry, Charged)]
        assert [(c.seq, c.step) for c in charged] == rounds
        assert kept.balance().eps_spent <= 1.0


def test_a_run_that_would_overspend_runs_nowhere() -> None:
    sites = hospitals()
    poor = {name: ledger(eps=0.9) for name in sites}
    with pytest.raises(RunFailed, match="budget"):
        simulate(study(), sites, ledgers=poor)
    assert all(not any(isinstance(line.entry, Charged) for line in kept.lines()) for kept in poor.values())


def test_a_second_run_of_the_same_study_is_refused() -> None:
    """eps is of the study, not of each run of it; one spare round is not a second run."""
    s, sites = study(), hospitals()
    ledgers = {name: ledger() for name in sites}
    simulate(s, sites, ledgers=ledgers)
    with pytest.raises(RunFailed, match="budget"):
        simulate(s, sites, ledgers=ledgers)
    assert all(kept.balance().eps_spent <= 1.0 for kept in ledgers.values())


def test_a_sampled_plan_needs_a_ledger_that_can_count_it() -> None:
    s = study(plan=[{"name": "t", "task": "sgd", "features": ["age"], "outcome": "died", "rounds": 5, "sample": 0.2}])
    sites = hospitals()
    with pytest.raises(RunFailed, match="budget"):
        simulate(s, sites, ledgers={name: ledger() for name in sites})
    simulate(s, sites, ledgers={name: ledger(eps=20, filter=Filter("rdp", 4)) for name in sites})


class Round:
    """One site before one round of a private study."""

    def __init__(self) -> None:
        self.study = study()
        self.runner = Runner(self.study, "r")
        self.a = self.runner.assignment([f"h{i}" for i in range(6)], 0.0, self.runner.layout)
        self.door = Door("h0", SitePolicy())
        self.rows = hospitals()["h0"]

    def contribution(self) -> tuple[Contribution, Any]:
        return visit(self.runner.task, {}, self.rows, {}, self.a, self.door, self.study.terms, self.runner.budget)


def test_nothing_leaves_unpaid_unclipped_or_with_another_rounds_receipt() -> None:
    r = Round()
    given, layout = r.contribution()
    paid = r.door.charge(r.study, r.runner.budget, r.a, ledger(), requester="lee")
    assert paid
    terms, budget = r.study.terms, r.runner.budget
    assert r.door.protect(given, layout, r.a, terms, budget=budget, charge=paid).scalars == layout.size + 1
    wrong = [
        ({"charge": None, "budget": budget}, given),
        ({"charge": paid, "budget": None}, given),
        ({"charge": type(paid)("other", "r", 0, 0.0, True), "budget": budget}, given),
        ({"charge": type(paid)(paid.study, "r", 1, 0.0, True), "budget": budget}, given),
    ]
    for options, contribution in wrong:
        with pytest.raises(ReleaseDeclined, match="not paid for"):
            r.door.protect(contribution, layout, r.a, terms, **options)
    for change in ({"bound": None}, {"bound": Bound("l2", 2.0, "patient")}, {"bound": Bound("l2", 1.0, "site")}, {"weight": 2.0}):
        unclipped = Contribution(**{"vector": given.vector, "rows": 1, "purpose": "p", "bound": given.bound, **change})  # type: ignore[arg-type]
        with pytest.raises(ReleaseDeclined, match="clipped units"):
            r.door.protect(unclipped, layout, r.a, terms, budget=budget, charge=paid)


def test_a_round_is_paid_for_once_and_before_rows_are_read() -> None:
    r, kept = Round(), ledger()
    one = r.door.charge(r.study, r.runner.budget, r.a, kept, requester="lee")
    spent = kept.balance().spent
    two = r.door.charge(r.study, r.runner.budget, r.a, kept, requester="lee")  # after a crash
    assert one
    assert two
    assert (two.seq, two.fresh, kept.balance().spent) == (one.seq, False, spent)
    with pytest.raises(ReleaseDeclined, match="no ledger") as refused:
        r.door.charge(r.study, r.runner.budget, r.a, None, requester="lee")
    assert refused.value.decline == "budget"


def test_two_vectors_of_one_round_never_share_their_noise() -> None:
    r = Round()
    given, layout = r.contribution()
    paid = r.door.charge(r.study, r.runner.budget, r.a, ledger(), requester="lee")
    a, b = (r.door.protect(given, layout, r.a, r.study.terms, budget=r.runner.budget, charge=paid).vector for _ in range(2))
    assert len(a["noisy"]) == layout.size
    assert (a["noisy"] != b["noisy"]).mean() > 0.9


def test_a_noisy_number_travels_in_four_bytes_while_the_sum_fits_and_in_sixteen_beyond() -> None:
    sizes = {}
    for patients in (600, 10**7):
        s = study({"eps": 1.0, "delta": 1e-9, "patients": patients}, [{**HISTOGRAM, "bins": 1000}])
        runner = Runner(s, "r")
        a = runner.assignment([f"h{i}" for i in range(6)], 0.0, runner.layout)
        sizes[patients] = a.vector_bytes / 1003
        found = simulate(s, hospitals(), entropy=seeded(1)).results["h"]
        assert found["noise_sd"] > 0
    assert 4 <= sizes[600] < 4.5
    assert 16 <= sizes[10**7] < 16.5


def test_a_site_without_patients_answers_with_noise_alone() -> None:
    """That a site declined would say that it has nobody."""
    r = Round()
    r.rows = Rows.of({"age": [], "died": []})
    given, layout = r.contribution()
    paid = r.door.charge(r.study, r.runner.budget, r.a, ledger(), requester="lee")
    assert r.door.protect(given, layout, r.a, r.study.terms, budget=r.runner.budget, charge=paid).vector


FAULTS = [ZeroDivisionError(), ValueError("x"), KeyError("x"), IndexError(), MemoryError(), FloatingPointError(), TaskError("no"), np.nan, np.inf, "shape"]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_whatever_a_task_does_with_the_rows_a_vector_of_noise_is_the_answer(fault: Any) -> None:
    """An error, or a decline in its place, would tell the coordinator about the row that caused it."""
    r = Round()
    layout, sound = r.runner.task.layout({}), r.runner.task.visit

    def broken(state: Any, rows: Rows, *more: Any) -> Contribution:
        if len(rows) in MADE_UP:  # what is tried before is not a row of anybody
            return sound(state, rows, *more)
        if isinstance(fault, Exception):
            raise fault
        vector = {f.name: np.zeros((7, 7)) if fault == "shape" else np.full(f.shape, fault) for f in layout.fields}
        return Contribution(vector, 100, "p", bound=Bound("l2", 1.0, "patient"))

    r.runner.task.visit = broken  # type: ignore[method-assign]
    given, layout = r.contribution()
    assert not any(a.any() for a in given.vector.values())
    paid = r.door.charge(r.study, r.runner.budget, r.a, ledger(), requester="amy")
    left = r.door.protect(given, layout, r.a, r.study.terms, budget=r.runner.budget, charge=paid)
    assert left.vector["noisy"].any()


# --- what a manifest may not say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("privacy", "terms", "says"),
    [
        ({"delta": 1e-6, "patients": 10}, {}, "eps must be given"),
        ({"eps": 1.0, "patients": 10}, {}, "delta must be given"),
        ({"patients": 10}, {}, "eps and delta must be given"),
        ({"eps": 0, "delta": 1e-6, "patients": 10}, {}, "eps"),
        ({"eps": -1, "delta": 1e-6, "patients": 10}, {}, "eps"),
        ({"eps": float("nan"), "delta": 1e-6, "patients": 10}, {}, "eps"),
        ({"eps": float("inf"), "delta": 1e-6, "patients": 10}, {}, "eps"),
        ({"eps": 1.0, "delta": 0, "patients": 10}, {}, "delta"),
        ({"eps": 1.0, "delta": float("nan"), "patients": 10}, {}, "delta"),
        ({"eps": 1.0, "delta": 1.0, "patients": 10}, {}, "delta"),
        ({"eps": 1.0, "delta": 1e-3, "patients": 10_000}, {}, "above 0.1 / patients = 1e-05"),
        ({"eps": 9.0, "delta": 1e-6, "patients": 10}, {}, "above 8"),
        ({"eps": 1.0, "delta": 1e-6, "patients": 10, "unit": "record"}, {}, "unit"),
        ({"eps": 1.0, "delta": 1e-6, "patients": 10, "honest": 6}, {}, "min_cohort is 5"),
        ({"eps": 1.0, "delta": 1e-6, "patients": 10, "honest": 2}, {"aggregation": "clear"}, "noise stands alone"),
        ({"eps": 1.0, "delta": 1e-6, "patients": 10, "unit": "site"}, {}, "min_cohort of at least 50"),
        ({"eps": 1.0, "delta": 1e-6, "patinets": 10}, {}, "did you mean 'patients'"),
    ],
)
def test_bad_terms_are_refused_with_a_reason(privacy: dict[str, Any], terms: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestError) as refused:
        study(privacy, **terms)
    assert says in str(refused.value)


def test_above_eps_8_somebody_has_signed_why() -> None:
    assert study({"eps": 9.0, "delta": 1e-6, "patients": 10, "override": "a phantom, no patients"}).terms.privacy.eps == 9.0


def test_the_rule_is_protection() -> None:
    """A study that says nothing about privacy gets it, and is told what is missing; a task without a private form is refused."""
    silent = Study.parse({"name": "t", "data": {"variables": {"age": AGE}}, "plan": [HISTOGRAM]})
    assert (silent.terms.privacy.unit, silent.terms.privacy.eps, silent.terms.privacy.delta) == ("patient", 3.0, 1e-6)
    with pytest.raises(ManifestError, match=r"terms\.privacy\.patients is missing"):
        build_plan(silent)
    cox = [{"name": "t", "task": "event_times", "time": "age", "event": "died"}]
    with pytest.raises(ManifestError, match="no form that protects each patient"):
        build_plan(study(plan=cox))
    build_plan(study("none", plan=cox))
    assert study("none").terms.protection().endswith("no noise: the sums are exact")


def test_a_study_with_noise_says_so_wherever_its_result_is_shown() -> None:
    assert study().terms.protection().endswith("eps 1, delta 1e-06 for each patient, over the whole study, with the noise of at least 4 honest sites")
    assert "each site's own noise" in study(aggregation="clear").terms.protection()


def test_a_quote_before_anything_runs() -> None:
    found = quote_of(study())
    assert found.epsilon <= 1.0
    assert found.honest == 4
    assert "For any one patient at this site, including all their records" in found.sentence
    with pytest.raises(LocumError, match="exact"):
        quote_of(study("none"))


def test_a_site_that_never_releases_exact_sums_declines_them() -> None:
    sites = hospitals()
    with pytest.raises(RunFailed, match="policy"):
        simulate(study("none"), sites, policy=SitePolicy(exact="never"))
    simulate(study(), sites, policy=SitePolicy(exact="never"))
