"""The private path attacked: by a coordinator that chooses states and orders, an investigator who chooses numbers, and a careless operator.

Each attack worked once, or might have: the test shows that it does not.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from locum import Rows, Study, simulate
from locum.errors import LocumError, ManifestError
from locum.federation.budget import budget_of, quote_of
from locum.federation.door import Door, Release, ReleaseDeclined, SitePolicy
from locum.federation.runner import Runner
from locum.federation.visit import visit
from locum.federation.wire import Assignment
from locum.privacy import accountant
from locum.privacy.clipping import clipped_sum
from locum.privacy.filters import Filter
from locum.privacy.ledger import Ledger
from locum.privacy.sampler import FixedOrder
from locum.secagg.kdf import digest as hashed
from locum.site.agent import Agent
from locum.site.inbox import Request
from locum.site.ledgers import LedgerTerms, SiteLedgers
from locum.site.store import DataSet, Store
from locum.study.vector import Layout
from locum.tasks import build_plan

AGE, BMI = {"minimum": 0, "maximum": 120}, {"minimum": 10, "maximum": 60}
VARIABLES = {"age": AGE, "bmi": BMI, "died": {"type": "boolean", "role": "outcome"}}
PRIVACY = {"eps": 3.0, "delta": 1e-6, "patients": 600}
LOGISTIC = {"name": "t", "task": "logistic", "features": ["age", "bmi"], "outcome": "died", "steps": 2}
ROSTER = [f"h{i}" for i in range(6)]
SLACK = 1.0 + 1e-3
"""What clipping and float sums may err by."""


def study(*plan: dict[str, Any], privacy: dict[str, Any] | None = None, variables: dict[str, Any] | None = None, **terms: Any) -> Study:
    given = {"privacy": {**PRIVACY, **(privacy or {})}, **terms}
    return Study.parse({"name": "t", "data": {"variables": variables or VARIABLES}, "terms": given, "plan": list(plan)})


def crowd(n: int = 200, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"age": rng.integers(40, 80, n).astype(float), "bmi": rng.normal(27, 4, n).clip(11, 59), "died": (rng.random(n) < 0.3).astype(float)}


def with_patient(columns: dict[str, Any], **values: float) -> tuple[Rows, Rows]:
    """The same patients without and with one more."""
    n = len(columns["age"])
    names = [f"p{i}" for i in range(n)]
    return Rows.of(columns, names), Rows.of({k: np.r_[a, values[k]] for k, a in columns.items()}, [*names, "target"])


def assignment(s: Study, iteration: int = 0, seq: int = 0) -> Assignment:
    return Assignment(
        study=s.digest, run="r", seq=seq, step=0, iteration=iteration, roster=tuple(ROSTER), state="0" * 64, state_bytes=1,
        layout="0" * 64, vector_bytes=1, deadline=9.0, seed=0,
    )  # fmt: skip


def addend(s: Study, rows: Rows, state: dict[str, Any], memory: dict[str, Any] | None = None, iteration: int = 0, step: int = 0) -> np.ndarray:
    """What a site hands to its door, before rounding and noise, flat: the real path from the assignment on.

    Infinity in every place where it declines: a decline is the same for all rows, or shows as an infinite distance.
    """
    task, a = build_plan(s)[step], msgspec.structs.replace(assignment(s, iteration), step=step)
    try:
        with np.errstate(all="ignore"):
            given, layout = visit(task, state, rows, {} if memory is None else memory, a, Door("h0", SitePolicy()), s.terms, budget_of(s))
    except ReleaseDeclined:
        return np.full(task.layout(state).size, 1e300)
    return np.concatenate([given.vector[f.name].reshape(-1) for f in layout.fields])


def moved(s: Study, pair: tuple[Rows, Rows], state: dict[str, Any]) -> float:
    without, with_ = (addend(s, rows, state) for rows in pair)
    return float(np.linalg.norm(with_ - without))


# --- a malicious coordinator: the state --------------------------------------------------------------------------------


def test_an_infinite_coefficient_singles_out_who_is_exactly_at_the_centre() -> None:
    """The midpoint of age is 60: only a patient of exactly 60 has 0 * inf. With that one the site's sum is zero, without it is not."""
    others = {k: a[crowd()["age"] != 60] for k, a in crowd().items()}
    pair = with_patient(others, age=60.0, bmi=27.0, died=1.0)
    assert moved(study(LOGISTIC), pair, {"t.best": np.array([0.0, np.inf, 0.0])}) <= SLACK


def test_a_chosen_mean_and_an_infinite_coefficient_single_out_anybody() -> None:
    plan = ({"name": "z", "task": "standardise", "variables": ["age", "bmi"]}, {**LOGISTIC, "standardise": "z"})
    state = {"z.mean": np.array([[87.0, 27.0]]), "z.variance": np.array([[100.0, 16.0]]), "z.n": np.full((1, 2), 600.0), "z.noise": np.array(0.1)}
    state["t.best"] = np.array([0.0, np.inf, 0.0])
    without, with_ = (addend(study(*plan), rows, state, step=1) for rows in with_patient(crowd(), age=87.0, bmi=27.0, died=1.0))
    assert np.linalg.norm(with_ - without) <= SLACK


@pytest.mark.parametrize("theta", [[1e308, 1e308, -1e308], [-1e308, 1e154, 1e154], [1e-320, 1e-320, 0.0], [700.0, -700.0, 0.0], [np.nan, 0.0, 0.0]])
def test_states_that_single_nobody_out(theta: list[float]) -> None:
    pair = with_patient(crowd(), age=119.0, bmi=59.0, died=1.0)
    assert moved(study(LOGISTIC), pair, {"t.best": np.array(theta)}) <= SLACK


@pytest.mark.parametrize("extreme", [0.0, 1.0, 1e150, 1e300, -1e308, np.inf, -np.inf, np.nan])
def test_no_parameters_of_a_network_single_somebody_out(extreme: float) -> None:
    s = study({"name": "t", "task": "sgd", "features": ["age", "bmi"], "outcome": "died", "model": "mlp", "hidden": [4], "activation": "relu", "rounds": 3})
    task: Any = build_plan(s)[0]
    theta = np.random.default_rng(1).normal(size=task.network.size)
    theta[::3] = extreme
    pair = with_patient(crowd(), age=60.0, bmi=35.0, died=1.0)
    assert moved(s, pair, {"t.theta": theta, "t.round": np.asarray(1)}) <= SLACK


def test_a_broken_state_does_not_fail_for_the_only_complete_patient() -> None:
    """An investigator asks for a test that was made in one patient; the coordinator leaves the model out of the state."""
    s = study(LOGISTIC, {"name": "e", "task": "evaluate_binary", "model": "t", "bins": 4, "part": "all"})
    others = {**crowd(), "bmi": np.full(200, np.nan)}
    without, with_ = (addend(s, rows, {}, step=1) for rows in with_patient(others, age=60.0, bmi=27.0, died=1.0))
    assert np.linalg.norm(with_ - without) <= SLACK


def test_coefficients_for_each_row_do_not_count_the_rows() -> None:
    """A state of shape (rows, columns) fits a site with so many rows and no other: one patient more, and the sum is zero."""
    pair = with_patient(crowd(), age=60.0, bmi=27.0, died=1.0)
    assert moved(study(LOGISTIC), pair, {"t.best": np.zeros((200, 3))}) <= SLACK


def test_a_model_for_each_row_does_not_count_the_rows() -> None:
    s = study(LOGISTIC, {"name": "e", "task": "evaluate_binary", "model": "t", "bins": 4, "part": "all"})
    without, with_ = (addend(s, rows, {"t.best": np.zeros((200, 3))}, step=1) for rows in with_patient(crowd(), age=60.0, bmi=27.0, died=1.0))
    assert np.linalg.norm(with_ - without) <= SLACK


def test_no_error_of_any_kind_becomes_a_decline() -> None:
    """The one complete patient is scored, and the number of rounds in the state is two numbers."""
    sgd = {"name": "t", "task": "sgd", "features": ["age", "bmi"], "outcome": "died", "rounds": 2}
    s = study(sgd, {"name": "e", "task": "evaluate_binary", "model": "t", "bins": 4, "part": "all"})
    others = {**crowd(), "bmi": np.full(200, np.nan)}
    state = {"t.theta": np.zeros(3), "t.round": np.array([1, 1])}
    without, with_ = with_patient(others, age=60.0, bmi=27.0, died=1.0)
    addend(s, without, state, step=1)
    addend(s, with_, state, step=1)


# --- a malicious coordinator: the order ---------------------------------------------------------------------------------


FIXED = {"name": "t", "task": "sgd", "features": ["age", "bmi"], "outcome": "died", "rounds": 64, "order": "fixed", "batches": 8, "band": 8}


def correlated_cost(order: list[int], rounds: list[int]) -> float:
    """Squared L2 norm by which one patient moves all releases of a run in which the coordinator asks for these iterations, with
    states that say these rounds: at worst, of patients whose gradient is the same each time.
    """
    s = study(FIXED)
    (sampler,) = {r.sampler for r in budget_of(s).plan.releases}  # type: ignore[union-attr]
    assert sampler == FixedOrder(8, 8)
    batch = sampler.batch(np.array([f"p{i}" for i in range(64)]), door_key(s))
    name = f"p{int(np.flatnonzero(batch == 0)[0])}"
    here, nobody = Rows.of({"age": [100.0], "bmi": [50.0], "died": [1.0]}, [name]), Rows.of({"age": [], "bmi": [], "died": []}, [])
    memory: dict[str, dict[str, Any]] = {"with": {}, "without": {}}
    total = 0.0
    for iteration, said in zip(order, rounds, strict=True):
        state = {"t.theta": np.array([-50.0, 0.0, 0.0]), "t.round": np.asarray(said)}
        total += float(np.sum((addend(s, here, state, memory["with"], iteration) - addend(s, nobody, state, memory["without"], iteration)) ** 2))
    return total


def door_key(s: Study) -> bytes:
    return hashed("order", s.digest, "h0")


def paid(order: list[int]) -> float:
    """What the ledger took for these rounds, in units of one clip's price."""
    s = study(FIXED, privacy={"spare": 8})
    plan = budget_of(s).plan  # type: ignore[union-attr]
    kept = Ledger.in_memory(site="h0", dataset="d", data_sha256="0" * 64)
    kept.reserve(s.digest, plan, 8, requester="r")
    return sum(kept.charge(s.digest, "r", seq, "t", i).cost for seq, i in enumerate(order)) * plan.releases[0].multiplier ** 2


def test_a_fixed_order_costs_what_was_paid_where_nobody_cheats() -> None:
    order = list(range(32))
    assert correlated_cost(order, order) <= paid(order) * SLACK


def test_a_state_that_lies_about_the_round_does_not_make_windows_overlap() -> None:
    """Only batch 0 of each epoch, as if the epochs were consecutive rounds: the patient's windows add up instead of standing side by side."""
    order = [0, 8, 16, 24, 32, 40, 48, 56]
    assert correlated_cost(order, list(range(8))) <= paid(order) * SLACK


def test_a_round_that_is_repeated_costs_no_more_than_was_paid() -> None:
    """No attack is needed: this is what an honest retry does."""
    order = [0, 0, *range(1, 9)]
    assert correlated_cost(order, order) <= paid(order) * SLACK


def test_epochs_asked_for_backwards_cost_no_more_than_was_paid() -> None:
    order = [56, 48, 40, 32, 24, 16, 8, 0]
    assert correlated_cost(order, order) <= paid(order) * SLACK


def test_runs_side_by_side_are_each_paid_for() -> None:
    s = study({"name": "t", "task": "histogram", "variable": "age", "bins": 4}, privacy={"spare": 1})
    kept = Ledger.in_memory(site="h0", dataset="d", data_sha256="0" * 64)
    plan = budget_of(s).plan  # type: ignore[union-attr]
    kept.reserve(s.digest, plan, 1, requester="r")
    kept.charge(s.digest, "a", 0, "t", 0)
    kept.charge(s.digest, "b", 0, "t", 0)
    with pytest.raises(LocumError, match="outside what the study reserved"):
        kept.charge(s.digest, "c", 0, "t", 0)
    assert kept.balance().eps_spent <= 3.0


# --- a malicious investigator: numbers that parse -----------------------------------------------------------------------


def test_a_tiny_radius_does_not_drop_a_site_for_its_oldest_patient() -> None:
    """Lengths in units of 1e-154 overflow when squared, for rows that are longer than the investigator likes."""
    step = {"name": "t", "task": "linear", "features": ["age"], "outcome": "bmi"}
    with pytest.raises(ManifestError, match="radius"):
        build_plan(study({**step, "radius": 1e-154}))
    others = {k: a[crowd()["age"] < 75] for k, a in crowd().items()}
    pair = with_patient(others, age=119.0, bmi=30.0, died=0.0)
    assert moved(study({**step, "radius": 1e-6}), pair, {}) <= SLACK


def test_a_subnormal_clip_is_refused() -> None:
    with pytest.raises(ManifestError, match="clip"):
        build_plan(study({"name": "t", "task": "sgd", "features": ["age"], "outcome": "bmi", "model": "linear", "rounds": 1, "clip": 1e-320}))


@pytest.mark.parametrize("clip", [1e-9, 1e-6, 1.0, 1e9])
def test_other_clips_clip(clip: float) -> None:
    s = study({"name": "t", "task": "sgd", "features": ["age"], "outcome": "bmi", "model": "linear", "rounds": 1, "clip": clip})
    one = Rows.of({"age": [119.0], "bmi": [59.0], "died": [1.0]}, ["a"])
    for t in (0.0, 1.0, 1e5, -1e150, 1e300):
        assert np.linalg.norm(addend(s, one, {"t.theta": np.array([t, 0.0]), "t.round": np.asarray(0)})) <= SLACK


FEDAVG = {"name": "t", "task": "fedavg", "features": ["age"], "outcome": "bmi", "model": "linear", "rounds": 2}


def site_study() -> Study:
    return study(FEDAVG, privacy={"unit": "site", "patients": None}, min_cohort=50, start_when=50)


def test_a_subnormal_clip_in_the_state_does_not_lengthen_a_sites_update() -> None:
    s, door = site_study(), Door("h0", SitePolicy())
    rows, longest = Rows.of({k: crowd()[k] for k in ("age", "bmi")}), 0.0
    a = Assignment(
        study=s.digest, run="r", seq=0, step=0, iteration=0, roster=tuple(f"h{i}" for i in range(50)), state="0" * 64, state_bytes=1,
        layout="0" * 64, vector_bytes=1, deadline=9.0, seed=0,
    )  # fmt: skip
    for size in np.geomspace(1e12, 1e16, 300):
        state = {"t.theta": np.array([size, 0.0]), "t.clip": np.asarray(6e-309)}
        given, _ = visit(build_plan(s)[0], state, rows, {}, a, door, s.terms, budget_of(s))
        longest = max(longest, float(np.linalg.norm(np.r_[given.vector["update"], given.vector["small"]])))
    assert longest <= SLACK


def test_a_ledger_of_patients_prices_a_promise_to_sites_at_two_clips() -> None:
    """Adding a site moves a sum by one clip, but a patient can turn the site's update round, which moves it by two: four times the price."""
    s = site_study()
    budget, a = budget_of(s), assignment(s)
    assert budget
    kept = Ledger.in_memory(site="h0", dataset="d", data_sha256="0" * 64, unit="patient", eps=50.0)
    paid = Door("h0", SitePolicy()).charge(s, budget, a, kept, requester="r")
    assert paid
    assert paid.cost == pytest.approx(4 * Filter("gdp").cost(budget.release(0), 0), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({}, {}),
        ({}, {"share": 1e-12}),
        ({"eps": 1e-3, "noise": "skellam"}, {}),
    ],
)
def test_a_study_that_cannot_run_is_refused_when_it_is_checked(change: dict[str, Any], step: dict[str, Any]) -> None:
    s = study(
        {"name": "h", "task": "histogram", "variable": "age", "bins": 4, **step},
        {"name": "g", "task": "histogram", "variable": "age", "share": 1e6},
        privacy=change,
    )
    checked = True
    try:
        budget_of(s)  # as `locum study check` and the coordinator do
    except ManifestError:
        checked = False
    runs = True
    try:
        _ = Runner(s, "r").layout
    except LocumError:
        runs = False
    assert checked == runs


def test_a_tiny_sampling_rate_is_refused_in_words() -> None:
    with pytest.raises(LocumError):
        quote_of(study({"name": "t", "task": "sgd", "features": ["age"], "outcome": "died", "rounds": 10, "sample": 1e-300}))
    with pytest.raises(ManifestError):
        study({"name": "h", "task": "histogram", "variable": "age"}, privacy={"eps": 1e300, "override": "x"})


def test_what_a_study_states_is_what_its_plan_costs_whatever_it_says() -> None:
    steps = [{"name": "h", "task": "histogram", "variable": "age", "bins": 4, "share": 1e-3}, {**LOGISTIC, "steps": 50}, {**FIXED, "name": "f"}]
    for change in ({"spare": 0}, {"spare": 1000}, {"patients": 1, "delta": 0.1, "eps": 8.0}, {"honest": 1}, {"eps": 1e-3}):
        s = study(*steps, privacy=change)
        p = s.terms.privacy
        plan = budget_of(s).plan  # type: ignore[union-attr]
        assert accountant.epsilon(accountant.with_spare(plan, p.spare), p.delta) <= p.eps
        kept = Ledger.in_memory(site="h0", dataset="d", data_sha256="0" * 64, eps=50.0, delta=p.delta)
        assert kept.reserve(s.digest, plan, p.spare, requester="r").eps_reserved <= p.eps * (1 + 1e-3)


def test_nothing_is_left_of_the_noise_by_fewer_honest_sites_than_the_study_names() -> None:
    """honest = min_cohort parses: then one site that colludes is one too many, and the site is not warned."""
    loose = study({"name": "h", "task": "histogram", "variable": "age", "bins": 4}, privacy={"honest": 5})
    careful = study({"name": "h", "task": "histogram", "variable": "age", "bins": 4})
    shares = [budget_of(s).mechanism(0, build_plan(s)[0].layout({})).share for s in (loose, careful)]  # type: ignore[union-attr]
    assert shares[1] / shares[0] == pytest.approx(np.sqrt(5 / 4), rel=1e-3)
    with pytest.raises(ManifestError, match="honest"):
        study({"name": "h", "task": "histogram", "variable": "age"}, privacy={"honest": 6})


def test_two_identifiers_of_patients_are_refused_when_the_study_is_read() -> None:
    with pytest.raises(ManifestError):
        study({"name": "h", "task": "histogram", "variable": "age"}, variables={"age": AGE, "a": {"role": "patient"}, "b": {"role": "patient"}})


def test_a_delta_of_a_half_for_each_site_is_refused_when_the_study_is_read() -> None:
    with pytest.raises(ManifestError):
        study(FEDAVG, privacy={"unit": "site", "patients": None, "delta": 0.5}, min_cohort=50)


# --- floating point and sizes -------------------------------------------------------------------------------------------


PLANS: dict[str, dict[str, Any]] = {
    "data_check": {"name": "t", "task": "data_check"},
    "histogram": {"name": "t", "task": "histogram", "variable": "age", "bins": 4},
    "quantiles": {"name": "t", "task": "quantiles", "variable": "age", "bins": 8},
    "moments": {"name": "t", "task": "moments", "variables": ["age", "bmi"]},
    "linear": {"name": "t", "task": "linear", "features": ["age"], "outcome": "bmi"},
    "logistic": LOGISTIC,
    "sgd": {"name": "t", "task": "sgd", "features": ["age", "bmi"], "outcome": "died", "rounds": 2},
}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_one_patient_with_all_rows_moves_a_sum_by_one(kind: str, rows: int) -> None:
    """And so do no rows, an empty identifier, and values that no contract foresees."""
    rng = np.random.default_rng(2)
    columns = {
        "age": rng.choice([0.0, 60.0, 120.0, 1e300, -np.inf, np.nan], rows),
        "bmi": rng.choice([35.0, 1e308, np.nan], rows),
        "died": rng.choice([0.0, 1.0, 0.5], rows),
    }
    everything = Rows.of(columns, [""] * rows)
    assert np.linalg.norm(addend(study(PLANS[kind]), everything, {})) <= SLACK


def test_a_sum_that_does_not_fit_wraps_and_nothing_else() -> None:
    """patients is off by a hundred million: the integers wrap, in silence at the site, and whoever knows the sum modulo 2^32 knows no more."""
    s = study({"name": "h", "task": "histogram", "variable": "age", "bins": 4}, privacy={"patients": 1, "eps": 8.0})
    budget, layout = budget_of(s), build_plan(s)[0].layout({})
    assert budget
    (field,) = budget.layout(0, layout).fields
    assert field.dtype == "int32"
    huge = {f.name: np.full(f.shape, 1e7) for f in layout.fields}
    key = hashlib.sha256(b"k").digest()
    narrow = budget.add_noise(0, layout, huge, key)[field.name]
    wide = budget.mechanism(0, layout).protect(np.full(layout.size, 1e7), key)
    assert (np.abs(wide) > 2**31).all()
    assert ((wide - narrow) % 2**32 == 0).all()


def test_a_million_rows_add_up_within_what_the_mechanism_allows() -> None:
    rng = np.random.default_rng(3)
    v = rng.normal(size=(1 << 20, 2))
    who = np.arange(len(v))
    moved_by = clipped_sum(v, who).total - clipped_sum(v[:-1], who[:-1]).total
    assert np.linalg.norm(moved_by) <= 1 + 2.0**-12


# --- a careless operator ------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Any:
    (tmp_path / "t.csv").write_text("id,visit,age\n1,1,50\n1,2,51\n")
    store = Store(tmp_path)
    with SiteLedgers(store, "h0") as ledgers:
        data = DataSet("main", str(tmp_path / "t.csv"), "")
        store.put_data(data)
        ledgers.create(data, LedgerTerms(), {})
        yield store, ledgers, data
    store.close()


def test_a_table_under_a_second_name_gets_no_second_budget(site: Any) -> None:
    store, ledgers, data = site
    twin = DataSet("twin", data.source, "")
    store.put_data(twin)
    with pytest.raises(LocumError, match="is the table that 'main'"):
        ledgers.create(twin, LedgerTerms(), {})
    Path(data.source).write_text("id,visit,age\n1,1,50\n")
    ledgers.accept(data)
    old = Path(data.source).with_name("old.csv")
    old.write_text("id,visit,age\n1,1,50\n1,2,51\n")
    store.put_data(DataSet("old", str(old), ""))
    with pytest.raises(LocumError, match="is the table that 'main'"):
        ledgers.create(DataSet("old", str(old), ""), LedgerTerms(), {})
    mapping = old.with_name("map.toml")
    mapping.write_text('[columns]\nage = "age"\n')
    store.put_data(DataSet("mapped", str(old), str(mapping)))
    with pytest.raises(LocumError, match="is the table that 'main'"):
        ledgers.create(DataSet("mapped", str(old), str(mapping)), LedgerTerms(), {})


def test_a_new_extract_that_was_not_accepted_yet_is_no_other_table(site: Any) -> None:
    store, ledgers, data = site
    Path(data.source).write_text("id,visit,age\n1,1,50\n1,2,51\n2,1,60\n")
    copy = Path(data.source).with_name("copy.csv")
    copy.write_bytes(Path(data.source).read_bytes())
    store.put_data(DataSet("copy", str(copy), ""))
    with pytest.raises(LocumError, match="is the table that 'main'"):
        ledgers.create(DataSet("copy", str(copy), ""), LedgerTerms(), {})


def test_a_table_that_is_put_back_has_its_ledger_again(site: Any) -> None:
    _, ledgers, data = site
    path = Path(data.source)
    before = path.read_bytes()
    path.write_bytes(before + b"2,1,60\n")
    with pytest.raises(LocumError, match="hash is not the one"):
        ledgers.open(data)
    path.write_bytes(before)
    assert ledgers.open(data).balance().eps_spent == 0


def test_a_mapping_that_makes_each_visit_a_patient_is_noticed(site: Any) -> None:
    store, ledgers, data = site
    rules = Path(data.source).with_name("m.toml")
    rules.write_text('[columns.patient]\ncolumn = "visit"\n')
    changed = DataSet("main", data.source, str(rules))
    store.put_data(changed)
    with pytest.raises(LocumError):
        ledgers.open(changed)


def test_a_ledger_that_is_put_back_while_it_is_open_is_noticed(site: Any, tmp_path: Path) -> None:
    _, ledgers, data = site
    kept = ledgers.open(data)
    home = tmp_path / "ledgers" / "main"
    copies = {name: (home / name).read_bytes() for name in ("ledger.db", "ledger.head")}
    s = study({"name": "h", "task": "histogram", "variable": "age", "bins": 4})
    kept.reserve(s.digest, budget_of(s).plan, 1, requester="r")  # type: ignore[union-attr]
    kept.charge(s.digest, "r", 0, "h", 0)
    for name, raw in copies.items():
        (home / name).write_bytes(raw)
    with pytest.raises(LocumError, match="rolled back"):
        kept.charge(s.digest, "r", 1, "h", 0)


def test_no_vector_leaves_before_it_is_durable() -> None:
    """Else a crash draws noise a second time for one charge, under the same masks: here above INLINE_BYTES, where it once travelled early."""
    durable, early = threading.Event(), []

    class Slow:
        def keep(self, *_: Any, **__: Any) -> None:
            threading.Event().wait(0.1)
            durable.set()

        def mark(self, *_: Any) -> None: ...

    class Coordinator:
        async def upload(self, *_: Any, **__: Any) -> None:
            early.append(not durable.is_set())

    agent: Any = Agent.__new__(Agent)
    agent.store, agent.api, agent.computing = Slow(), Coordinator(), 0
    layout = Layout.of(x=(200_000,))
    release = Release(layout, {"x": np.zeros(200_000)}, "0" * 64, "e")
    asyncio.run(agent._keep(Request(assignment(study(LOGISTIC)), b"raw"), release, None, private=True))
    assert early == [False]


# --- the whole run, once ------------------------------------------------------------------------------------------------


def test_a_run_over_sites_without_patients_and_with_one_ends() -> None:
    s = study(
        {"name": "h", "task": "histogram", "variable": "age", "bins": 4, "threshold": 0}, {"name": "m", "task": "moments", "variables": ["age"]}, LOGISTIC
    )
    nobody = Rows.of({"age": [], "bmi": [], "died": []}, [])
    sites = {f"h{i}": nobody for i in range(5)} | {"one": Rows.of({"age": [60.0], "bmi": [27.0], "died": [1.0]}, [""])}
    kept = {name: Ledger.in_memory(site=name, dataset="d", data_sha256="0" * 64, filter=Filter("gdp")) for name in sites}
    result = simulate(s, sites, ledgers=kept)
    assert result.declined == {}
    assert all(ledger.balance().eps_spent <= 3.0 for ledger in kept.values())
