"""Robust scaling, imputation and drift with noise: right without it, bounded for one patient, and useful with it."""

from __future__ import annotations

import numpy as np
import pytest

from locum import Rows, Study, simulate
from locum.errors import ManifestError
from locum.tasks import build_plan
from locum.tasks.prepare import prepared

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "sbp": {"minimum": 50, "maximum": 300},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "smoker": {"type": "boolean"},
}
SCALE = {"name": "r", "task": "robust_scale", "variables": ["age", "sbp"], "bins": 60}
FILL = {"name": "i", "task": "impute", "variables": ["age", "sbp", "arm", "smoker"]}
REGRESSION = {**FILL, "method": "regression", "predictors": ["age", "arm", "smoker"]}
DRIFT = {"name": "d", "task": "drift", "variables": ["age", "sbp", "arm"]}


def people(n=2000, seed=0, shift=0.0, missing=0.2):
    r = np.random.default_rng(seed)
    age = r.normal(60 + shift, 10, n).clip(0, 120)
    d = {
        "age": age,
        "sbp": (80 + age + r.normal(0, 10, n)).clip(50, 300),
        "arm": r.choice(3, n, p=[0.2, 0.5, 0.3]).astype(float),
        "smoker": (r.random(n) < 0.3).astype(float),
    }
    for x in d.values():
        x[r.random(n) < missing] = np.nan
    return Rows.of(d)


def flat(task, state, rows):
    return np.concatenate([np.ravel(a) for a in task.visit(state, rows, {}, np.random.default_rng(0)).vector.values()])


def test_without_noise_the_answers_are_the_exact_ones(private_state, private_study):
    parts = [people(1000, seed) for seed in range(2)]
    everyone = {n: np.concatenate([r.columns[n] for r in parts]) for n in VARIABLES}
    found, state = private_state(private_study(VARIABLES, [SCALE, REGRESSION]), parts)
    for name, width in (("age", 2.0), ("sbp", 250 / 60)):
        low, middle, high = np.nanquantile(everyone[name], [0.25, 0.5, 0.75])
        assert abs(found["r"]["variables"][name]["median"] - middle) < width
        assert abs(found["r"]["variables"][name]["iqr"] - (high - low)) < 2 * width
    assert found["i"]["variables"]["arm"]["most_frequent"] == "b"
    task = build_plan(private_study(VARIABLES, [SCALE, REGRESSION, {**SCALE, "name": "s"}]))[2]
    filled = [prepared(task, state, r).columns for r in parts]
    there = ~np.isnan(everyone["sbp"])
    known = {n: np.where(np.isnan(everyone[n]), v, everyone[n]) for n, v in (("age", np.nanmean(everyone["age"])), ("arm", 1.0), ("smoker", 0.0))}
    z = np.column_stack([np.ones(2000), known["age"], known["arm"] == 1, known["arm"] == 2, known["smoker"]])
    b = np.linalg.lstsq(z[there], everyone["sbp"][there], rcond=None)[0]
    got = np.concatenate([f["sbp"] for f in filled])
    assert np.abs(got - np.where(there, everyone["sbp"], z @ b)).max() < 1.5, "long records weigh a little less"


@pytest.mark.parametrize("method", ["mean", "median"])
def test_noise_moves_what_is_filled_in_only_a_little(method):
    plan = [{**FILL, "method": method, "indicators": True}, {"name": "m", "task": "moments", "variables": ["sbp", "sbp_missing"]}]
    terms = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 10_000}, "min_cohort": 5}
    parts = {f"h{i}": people(2000, i) for i in range(5)}
    found = simulate(Study.parse({"name": "s", "data": {"variables": VARIABLES}, "terms": terms, "plan": plan}), parts).results
    everyone = np.concatenate([r.columns["sbp"] for r in parts.values()])
    middle = np.nanmean(everyone) if method == "mean" else np.nanmedian(everyone)
    assert abs(found["i"]["variables"]["sbp"][method] - middle) < 4.0
    assert found["i"]["variables"]["arm"]["most_frequent"] == "b"
    assert abs(found["m"]["variables"]["sbp_missing"]["mean"] - 0.2) < 0.05


@pytest.mark.parametrize("plan", [[SCALE], [FILL], [{**FILL, "method": "median"}], [REGRESSION], [DRIFT]], ids=str)
@pytest.mark.parametrize("records", [1, 4])
def test_one_patient_moves_every_round_by_at_most_one(private_state, private_study, plan, records):
    s = private_study(VARIABLES, plan)
    task = build_plan(s)[0]
    rows = people(40, 3, missing=0.1)
    rows.columns["age"][0], rows.columns["sbp"][1], rows.columns["arm"][2] = 1e300, -np.inf, 77.0
    rows = Rows.of(rows.columns, patient=[i // records for i in range(40)])
    states = [{}]
    if task.request().rounds == 2:  # the state after the first round
        states.append(private_state(private_study(VARIABLES, [{**plan[0], "rounds": 1}]) if plan == [DRIFT] else _first(private_study, plan), [rows])[1])
    for state in states:
        whole = flat(task, state, rows)
        moved = [np.linalg.norm(whole - flat(task, state, rows.take(rows.codes != p))) for p in range(rows.patients)]
        assert max(moved) <= 1.0 + 1e-9
        assert max(moved) > 0.3 or plan == [DRIFT], "a bound that nobody comes near is noise for nothing"


def _first(private_study, plan):
    """The study's first round alone: means and categories."""
    return private_study(VARIABLES, [{**FILL, "variables": REGRESSION["variables"]}])


def test_drift_of_many_sites_shows_through_the_noise_and_of_few_does_not():
    def run(sites, drifting):
        terms = {"privacy": {"eps": 8.0, "delta": 1e-7, "patients": 60 * sites}, "min_cohort": sites, "masking": {"corrupt": 0.01}}
        s = Study.parse({"name": "s", "data": {"variables": VARIABLES}, "terms": terms, "plan": [{**DRIFT, "variables": ["age"], "tv": 0.05}]})
        parts = {f"h{i}": people(60, i, shift=-40.0 * (i < drifting)) for i in range(sites)}
        return simulate(s, parts).results["d"]

    many = run(150, 40)
    print(many)
    assert abs(many["variables"]["age"] - 40) < 4 * many["noise_sd"]
    assert many["warnings"] == [f"'age' differs from the federation at about {many['variables']['age']:.0f} of 150 sites."]
    few = run(5, 1)
    print(few)
    assert "too large to tell which of 5 sites drift" in few["warnings"][-1]


def test_a_scale_is_never_noise_alone(private_state, private_study):
    rows = people(200)
    rows.columns["age"][:] = 60.0
    _, state = private_state(private_study(VARIABLES, [SCALE]), [rows], noise=1.0)
    task = build_plan(private_study(VARIABLES, [SCALE]))[0]
    assert task.moments_of(state, "age")[1] >= 0.6


@pytest.mark.parametrize("plan", [[{**FILL, "variables": ["lab"]}], [SCALE | {"variables": ["lab"]}], [{**REGRESSION, "predictors": ["lab"]}]])
def test_what_has_no_range_is_refused(private_study, plan):
    with pytest.raises(ManifestError, match="needs the range of 'lab'"):
        build_plan(private_study({**VARIABLES, "lab": {}}, plan))


def test_a_site_that_drifts_everywhere_says_so_with_a_norm_of_one(private_state, private_study):
    """One patient may turn all of a site's answers: together they are the bound."""
    s = private_study(VARIABLES, [{**DRIFT, "rounds": 1}])
    state = private_state(s, [people(2000, i, missing=0.0) for i in range(4)])[1]
    d = people(500, 9, missing=0.0).columns
    far = Rows.of({"age": d["age"] * 0 + 5.0, "sbp": d["sbp"] * 0 + 290.0, "arm": d["arm"] * 0})
    assert np.linalg.norm(flat(build_plan(s)[0], state, far)) == pytest.approx(1.0)


def test_a_noisy_regression_fills_in_better_than_the_mean():
    """Over the whole path: two rounds are paid for and run, and what is filled in explains what was missing."""
    terms = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 10_000}, "min_cohort": 5}
    plan = [{**REGRESSION, "variables": ["sbp"], "predictors": ["age"]}, {"name": "m", "task": "moments", "variables": ["sbp"]}]
    s = Study.parse({"name": "s", "data": {"variables": VARIABLES}, "terms": terms, "plan": plan})
    assert [t.request().rounds for t in build_plan(s)] == [2, 1]
    whole = {f"h{i}": people(2000, i, missing=0.0) for i in range(5)}
    gone = np.arange(2000) % 4 == 0
    parts = {h: Rows.of({**r.columns, "sbp": np.where(gone, np.nan, r.columns["sbp"])}) for h, r in whole.items()}
    run = simulate(s, parts)
    assert run.rounds == 3
    filled = prepared(build_plan(s)[1], run.state, parts["h0"]).columns["sbp"]
    truth = whole["h0"].columns["sbp"]
    error, by_mean = (np.sqrt(((x - truth[gone]) ** 2).mean()) for x in (filled[gone], np.nanmean(parts["h0"].columns["sbp"])))
    print(f"root mean squared error {error:.1f}, by the mean {by_mean:.1f}; 10.0 is what age leaves unexplained")
    assert error < 0.85 * by_mean
