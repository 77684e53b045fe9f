"""Leave one group out: against statsmodels and scikit-learn refitted group by group on pooled rows, over any split of rows to sites."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from statsmodels.stats.meta_analysis import combine_effects

import locum.tasks.leave_one_out  # noqa: F401 - registers the task
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.simulate import simulate
from locum.study import Study
from locum.tasks import build_plan
from locum.tasks.held_out import random_effects

GROUPS = ["a", "b", "c", "d", "e", "f"]
VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "arm": {"type": "category", "categories": ["x", "y", "z"]},
    "land": {"type": "category", "categories": GROUPS, "role": "group"},
    "flag": {"type": "boolean"},
    "died": {"type": "boolean", "role": "outcome"},
}
STEP = {"name": "out", "task": "leave_one_out", "features": ["age", "arm"], "outcome": "died", "group": "land"}


def data(n=900, seed=0, share=(0.36, 0.25, 0.2, 0.19, 0.0, 0.0)):
    r = np.random.default_rng(seed)
    age, arm, land = r.normal(65, 12, n).clip(20, 100), r.integers(0, 3, n), r.choice(6, n, p=share)
    eta = 0.06 * (age - 65) + 0.8 * (arm == 2) + 0.3 * (land == 1) - 0.2
    died = r.random(n) < 1 / (1 + np.exp(-eta))
    return {"age": age, "arm": arm.astype(float), "land": land.astype(float), "flag": (r.random(n) < 0.5).astype(float), "died": died.astype(float)}


def spread(d, sizes, seed=0):
    """Sites of these sizes, one of all patients of the third group, and one of the rest."""
    rows = Rows.of(d)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(d["land"] != 2))
    return [*(rows.take(p) for p in np.split(order, np.minimum(np.cumsum(sizes), len(order)))), rows.take(np.flatnonzero(d["land"] == 2))]


def design(d):
    return np.column_stack([np.ones(len(d["age"])), d["age"], d["arm"] == 1, d["arm"] == 2]).astype(float)


def by_name(found):
    return {g["group"]: g for g in found["groups"]}


def test_each_group_is_predicted_as_by_a_pooled_model_of_the_others(run):
    d = data()
    found = run(VARIABLES, [STEP], spread(d, [1, 1, 0, 200, 7]))["out"]
    x, y = design(d), d["died"]
    for g, name in enumerate("abcd"):
        inside, got = d["land"] == g, by_name(found)[name]
        fit = sm.Logit(y[~inside], x[~inside]).fit(disp=0, tol=1e-12)
        eta, observed = x[inside] @ fit.params, y[inside]
        p = 1 / (1 + np.exp(-eta))
        assert (got["n"], got["events"], got["reason"]) == (inside.sum(), observed.sum(), None)
        assert abs(got["auc"]["value"] - roc_auc_score(observed, p)) <= got["auc"]["error_bound"] + 1e-12
        np.testing.assert_allclose(got["brier"]["value"], brier_score_loss(observed, p), rtol=1e-8)
        np.testing.assert_allclose(got["brier"]["se"], ((observed - p) ** 2).std() / np.sqrt(len(p)), rtol=1e-7)
        np.testing.assert_allclose(got["calibration"]["observed_over_expected"], observed.sum() / p.sum(), rtol=1e-8)
        line = sm.Logit(observed, sm.add_constant(eta)).fit(disp=0, tol=1e-12)
        np.testing.assert_allclose([got["calibration"]["intercept"], got["calibration"]["slope"]], line.params, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose([got["calibration"]["intercept_se"], got["calibration"]["slope_se"]], line.bse, rtol=1e-6)
    assert found["held_out"] == 4
    assert found["converged"]
    assert by_name(found)["c"]["sites"] == 1
    assert "c: at one site only" in found["warnings"][0]


def test_a_ridge_is_that_of_scikit_learn(run):
    from sklearn.linear_model import LogisticRegression

    d = data(400)
    variables = {**VARIABLES, "age": {}}  # without a range nothing is centred, as in the reference
    found = run(variables, [{**STEP, "ridge": 3.0}], spread(d, [100]))["out"]
    inside = d["land"] == 0
    x = design(d)[:, 1:]
    model = LogisticRegression(C=1 / 3.0, tol=1e-10, max_iter=5000, solver="newton-cholesky").fit(x[~inside], d["died"][~inside])
    p = model.predict_proba(x[inside])[:, 1]
    np.testing.assert_allclose(by_name(found)["a"]["calibration"]["expected"], p.mean(), rtol=1e-6)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 1000))
def test_any_split_of_rows_to_sites_gives_the_same(run, cuts, seed):
    d = data(400)
    one = run(VARIABLES, [STEP], [Rows.of(d)])["out"]
    many = run(VARIABLES, [STEP], spread(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["out"]
    for a, b in zip(one["groups"], many["groups"], strict=True):
        assert a["reason"] == b["reason"]
        if a["reason"] is None:
            np.testing.assert_allclose(b["brier"]["value"], a["brier"]["value"], rtol=1e-9)
            np.testing.assert_allclose(b["calibration"]["slope"], a["calibration"]["slope"], rtol=1e-6)


def test_small_groups_are_fitted_on_and_hidden_with_what_would_give_them_away(build_study, run_state):
    d = data(share=(0.35, 0.25, 0.2, 0.19, 0.01, 0.0))
    results, state = run_state(build_study(VARIABLES, [STEP]), spread(d, [100]))
    groups, counts = by_name(results["out"]), np.bincount(d["land"].astype(int), minlength=6)
    assert 0 < counts[4] < 20
    assert groups["f"]["reason"] == "no patient"
    # the small group alone would follow from a total, so the smallest of the others is hidden with it
    for name in ("e", "c"):
        assert "fewer than 20 patients" in groups[name]["reason"]
        assert groups[name]["n"] is None
        assert groups[name]["events"] is None
    assert all(groups[name]["reason"] is None for name in "abd")
    kept = np.concatenate([np.ravel(state[f"out.{n}"]) for n in ("patients", "sites", "rows", "events")])
    assert not np.isin(counts[[2, 4]], kept).any()
    json.dumps(results, allow_nan=False)


def test_a_group_whose_absence_leaves_no_answer_says_why_and_the_others_stand(run):
    d = data()
    d["arm"] = np.where(d["land"] == 0, d["arm"], np.minimum(d["arm"], 1.0))  # arm z exists in group a alone
    found = by_name(run(VARIABLES, [STEP], spread(d, [100]))["out"])
    assert "constant or collinear: set ridge" in found["a"]["reason"]
    assert found["a"]["auc"] is None
    assert found["b"]["auc"]["value"] > 0.5
    assert found["b"]["calibration"]["slope"]


def test_separation_without_a_group_is_a_reason(run):
    d = data()
    d["flag"] = np.where(d["land"] == 1, d["flag"], d["died"])
    found = by_name(run(VARIABLES, [{**STEP, "features": ["age", "flag"]}], spread(d, [100]))["out"])
    assert "grows without end" in found["b"]["reason"]
    ridge = by_name(run(VARIABLES, [{**STEP, "features": ["age", "flag"], "ridge": 1.0}], spread(d, [100]))["out"])
    assert ridge["b"]["reason"] is None


def test_where_no_model_exists_the_missing_means_have_a_reason(run):
    d = data()
    d["age"][:] = 50.0
    found = run(VARIABLES, [STEP], spread(d, [200]))["out"]
    assert found["mean_auc"] is None
    told = " ".join(found["warnings"])
    assert "columns are constant or collinear" in told
    assert "No model could be tried, so there are no means." in told


def test_perfect_discrimination_has_no_line_and_no_nan(run):
    d = data()
    d["age"] = np.where(d["land"] == 1, 40.0 + 40.0 * d["died"], d["age"])
    found = run(VARIABLES, [{**STEP, "features": ["age"]}], spread(d, [100]))["out"]
    b = by_name(found)["b"]
    assert b["auc"]["value"] == 1.0
    assert b["calibration"]["slope"] is None
    json.dumps(found, allow_nan=False)


def test_repeated_rows_of_a_patient_count_once(run):
    d = data(300)
    twenty = np.flatnonzero(d["land"] == 0)[:20]
    rows = Rows.of(d, patient=[f"p{min(i, 2)}" if i in set(twenty.tolist()) else f"q{i}" for i in range(300)])
    few = rows.take(np.r_[twenty, np.flatnonzero(d["land"] != 0)])
    assert by_name(run(VARIABLES, [STEP], [few])["out"])["a"]["reason"]


def test_missing_values_are_left_out_and_counted(run):
    d = data()
    d["age"][:10] = np.nan
    d["died"][5:15] = np.nan
    assert run(VARIABLES, [STEP], spread(d, [100]))["out"]["left_out"] == 15


def test_random_effects_are_those_of_statsmodels():
    r = np.random.default_rng(1)
    y, se = r.normal(0.5, 0.4, 12), r.uniform(0.1, 0.3, 12)
    got, ref = random_effects(y.tolist(), se.tolist()), combine_effects(y, se**2, method_re="dl", use_t=True)
    np.testing.assert_allclose([got["estimate"], got["tau"] ** 2, got["I2"]], [ref.mean_effect_re, ref.tau2, ref.i2], rtol=1e-9)
    assert got["se"] >= ref.sd_eff_w_re * 0.999
    np.testing.assert_allclose(got["se"], max(ref.sd_eff_w_re, ref.sd_eff_w_re_hksj), rtol=1e-9)
    assert got["prediction_interval95"][0] < got["ci95"][0] < got["ci95"][1] < got["prediction_interval95"][1]
    assert random_effects([0.1], [0.2]) is None
    assert random_effects([0.1, 0.2], [0.2, 0.2])["prediction_interval95"] is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"group": "age"}, "no category with two values"),
        ({"group": "flag", "features": ["age"]}, "no category with two values"),
        ({"features": ["age", "age"]}, "twice"),
        ({"group": "county"}, "does not list"),
        ({"features": ["age", "land"]}, "cannot be a feature"),
        ({"features": ["age", "died"]}, "cannot be a feature"),
        ({"outcome": "arm"}, "is a category"),
        ({"min_group": 0}, "min_group"),
        ({"groups": "land"}, "groups"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(run, change, what):
    with pytest.raises(ManifestError, match=what):
        run(VARIABLES, [{**STEP, "features": ["flag"], **change}], [Rows.of(data(50))])


def test_too_many_numbers_are_refused(run):
    many = {**VARIABLES, "land": {"type": "category", "categories": [f"g{i}" for i in range(5000)]}}
    with pytest.raises(ManifestError, match="numbers in a round"):
        run(many, [STEP], [Rows.of(data(50))])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"land": lambda d: np.zeros(len(d["age"]))}, "nobody is left"),
        ({"land": lambda d: d["land"] + 3}, "does not list"),
        ({"died": lambda d: d["died"] * 2}, "other than 0 and 1"),
        ({"died": lambda d: np.zeros(len(d["age"]))}, "No 'land' has 20 patients and 11 with"),
        ({"age": lambda d: d["age"] * np.nan}, "No site has a usable row"),
    ],
)
def test_rows_that_have_no_answer_get_a_clear_message(run, change, what):
    d = data(300)
    d |= {name: f(d) for name, f in change.items()}
    with pytest.raises(TaskError, match=what):
        run(VARIABLES, [STEP], [Rows.of(d)])


def test_two_steps_that_would_hide_other_groups_are_refused(build_study):
    for change in ({"min_group": 40}, {"min_events": 20}, {"part": "train"}):
        with pytest.raises(ManifestError, match="both leave out 'land', with another"):
            build_plan(build_study(VARIABLES, [STEP, {**STEP, "name": "again", **change}]))
    assert build_plan(build_study(VARIABLES, [STEP, {**STEP, "name": "again", "features": ["age"]}]))


def test_it_is_refused_under_privacy():
    terms = {"privacy": {"eps": 1.0, "delta": 1e-6, "patients": 1000}}

    with pytest.raises(ManifestError, match="no form that protects"):
        build_plan(Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": terms, "plan": [STEP]}))


def test_masked_sums_give_the_answer_of_clear_ones(build_study):
    d, found = data(500), []
    for aggregation in ("clear", "masked"):
        study = build_study(VARIABLES, [STEP])
        study = Study.parse({**study.model_dump(by_alias=True), "terms": {"privacy": "none", "min_cohort": 3, "aggregation": aggregation}})
        sites = {f"s{i}": rows for i, rows in enumerate(spread(d, [1, 50, 100]))}
        found.append(simulate(study, sites).results["out"])
    np.testing.assert_allclose(found[0]["mean_auc"], found[1]["mean_auc"], rtol=1e-9)


def test_the_stroke_trial_leaves_each_country_out(sites, real_study):
    parts = sites("ist", by="country")
    features = ["age", "female", "rconsc", "rsbp", "stype", "rdef1", "rdef2", "rdef3"]
    found = simulate(real_study("ist", [{**STEP, "features": features, "outcome": "dead_or_dependent", "group": "country"}]), parts).results["out"]
    groups = by_name(found)
    assert set(groups) == {name.upper() for name in parts}
    assert found["held_out"] >= 30
    assert groups["FRAN"]["n"] is None
    assert groups["UK"]["sites"] == 1
    assert groups["UK"]["n"] > 6000
    assert 0.76 < found["mean_auc"] < 0.80
    low, high = found["random_effects"]["auc"]["prediction_interval95"]
    assert low < found["random_effects"]["auc"]["estimate"] < high
