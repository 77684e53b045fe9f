"""Against statsmodels and the textbook's formulas on the pooled rows, on synthetic and on real data, and against the ways in which it fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import chi2
from statsmodels.miscmodels.ordinal_model import OrderedModel

import locum.tasks.ordinal  # noqa: F401 - registers the task
from locum import Rows, Study, simulate
from locum.data import registry
from locum.errors import LocumError, ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "dose": {},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "y": {"type": "category", "categories": ["none", "mild", "severe", "dead"], "role": "outcome"},
}
FIT = {"name": "fit", "task": "ordinal", "features": ["age", "dose", "arm"], "outcome": "y"}


def cohort(n=400, seed=1, odd=0.0):
    """odd: how far the effect of dose differs between thresholds."""
    r = np.random.default_rng(seed)
    age, dose, arm = r.normal(60, 10, n), r.uniform(-1, 1, n), r.integers(0, 3, n).astype(float)
    eta = 0.04 * (age - 60) + 0.8 * dose - 0.7 * (arm == 1)
    u = np.log(1 / r.uniform(size=n) - 1)
    cuts = np.array([-1.0, 0.5, 1.8])
    y = (u[:, None] + eta[:, None] + odd * dose[:, None] * [-1, 0, 1] > cuts).sum(1).astype(float)
    return {"age": age, "dose": dose, "arm": arm, "y": y}


def matrix(d):
    return np.column_stack([d["age"], d["dose"], d["arm"] == 1, d["arm"] == 2]).astype(float)


def naive(x, y, theta, b):
    """Log-likelihood, score and observed information by (theta, b), as in McCullagh's section 2 without any rearrangement."""
    z = np.column_stack([np.full(len(x), -np.inf), theta - (x @ b)[:, None], np.full(len(x), np.inf)])
    rows, k = np.arange(len(x)), y.astype(int)
    u, low = z[rows, k + 1], z[rows, k]
    p, fu, fl = expit(u) - expit(low), expit(u) * expit(-u), expit(low) * expit(-low)
    du, dl = fu * (1 - 2 * expit(u)), fl * (1 - 2 * expit(low))
    j = len(theta)
    up, down = (k[:, None] == np.arange(j)).astype(float), (k[:, None] - 1 == np.arange(j)).astype(float)
    gu, gl = np.column_stack([up, -x]), np.column_stack([down, -x])
    g = (fu[:, None] * gu - fl[:, None] * gl) / p[:, None]
    second = np.einsum("n,ni,nj->ij", du / p, gu, gu) - np.einsum("n,ni,nj->ij", dl / p, gl, gl) - g.T @ g
    return np.log(p).sum(), g.sum(0), -second


def reference(d):
    """statsmodels' coefficients and thresholds, polished by Newton steps of `naive`, and the covariance from the latter."""
    x, y = matrix(d), d["y"]
    mean, sd = x.mean(0), x.std(0)
    s = (x - mean) / sd
    model = OrderedModel(y, s, distr="logit")
    fit = model.fit(method="bfgs", disp=0, gtol=1e-8, maxiter=500)
    j = int(y.max())
    at = np.r_[model.transform_threshold_params(fit.params)[1:-1], fit.params[: s.shape[1]]]
    np.testing.assert_allclose(naive(s, y, at[:j], at[j:])[1] / len(y), 0, atol=1e-6)
    a = np.eye(len(at))
    a[:j, j:], a[j:, j:] = mean / sd, np.diag(1 / sd)
    unpolished = a @ at
    for _ in range(5):
        _, g, h = naive(s, y, at[:j], at[j:])
        at = at + np.linalg.solve(h, g)
    value, _, h = naive(s, y, at[:j], at[j:])
    np.testing.assert_allclose(value, fit.llf, rtol=1e-9)
    return a @ at, a @ np.linalg.inv(h) @ a.T, value, unpolished, fit


def parameters(got, key="coef"):
    return np.array([c[key] for c in [*got["thresholds"], *got["coefficients"]]])


def check(got, d):
    at, cov, value, statsmodels, fit = reference(d)
    se, j = np.sqrt(np.diag(cov)), int(d["y"].max())
    assert got["converged"]
    np.testing.assert_allclose(parameters(got), at, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(parameters(got), statsmodels, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(parameters(got, "se"), se, rtol=1e-7)
    np.testing.assert_allclose(parameters(got, "se")[j:] * matrix(d).std(0), fit.bse[: len(se) - j], rtol=1e-4)
    np.testing.assert_allclose([c["odds_ratio"] for c in got["coefficients"]], np.exp(at[j:]), rtol=1e-8)
    np.testing.assert_allclose(got["log_likelihood"], value, rtol=1e-11)
    np.testing.assert_allclose(got["log_likelihood_null"], fit.llnull, rtol=1e-8)
    np.testing.assert_allclose(got["likelihood_ratio"]["p"], fit.llr_pvalue, rtol=1e-5, atol=1e-300)


def general(x, y, theta, b):
    """Score and expected information of the model with one b per threshold, from its probabilities, at b the same for all."""
    j, p, full = len(theta), x.shape[1], np.column_stack([np.ones(len(x)), -x])
    z = theta - (x @ b)[:, None]
    f = expit(z) * expit(-z)
    prob = np.diff(expit(z), axis=1, prepend=0, append=1)
    score, info = np.zeros((j, p + 1)), np.zeros((j, p + 1, j, p + 1))
    for k in range(j + 1):
        slope = np.zeros_like(z)  # d P(Y = k) / dz
        if k < j:
            slope[:, k] += f[:, k]
        if k:
            slope[:, k - 1] -= f[:, k - 1]
        here = y == k
        score += np.einsum("nj,np->jp", slope[here] / prob[here, k][:, None], full[here])
        info += np.einsum("n,nj,nk,np,nq->jpkq", 1 / prob[:, k], slope, slope, full, full)
    return score.reshape(-1), info.reshape(j * (p + 1), -1)


@pytest.mark.parametrize("standardise", [False, True])
def test_equal_to_statsmodels_pooled(run, scatter, standardise):
    d = cohort()
    plan = [{**FIT, **({"standardise": "scale"} if standardise else {})}]
    if standardise:
        plan.insert(0, {"name": "scale", "task": "standardise", "variables": ["age", "dose"]})
    got = run(VARIABLES, plan, scatter(d, [1, 1, 2, 0, 50, 100]))["fit"]
    check(got, d)
    assert [c["name"] for c in got["coefficients"]] == ["age", "dose", "arm[b]", "arm[c]"]
    assert got["thresholds"][1]["between"] == ["mild", "severe"]
    assert got["order"] == VARIABLES["y"]["categories"]


def test_proportional_odds_are_tested_by_the_score(run, scatter):
    d = cohort(500, odd=0.8)
    got = run(VARIABLES, [FIT], scatter(d, [1, 40, 200]))["fit"]
    test, x, y, at = got["proportional_odds"], matrix(d), d["y"], parameters(got)
    score, info = general(x, y, at[:3], at[3:])
    assert test["df"] == 8
    # U'I^-1 U is Rao's statistic of all that the null forbids, since the score of the rest is zero at the fit
    np.testing.assert_allclose(test["chi_square"], score @ np.linalg.solve(info, score), rtol=1e-6)
    np.testing.assert_allclose(test["p"], chi2.sf(test["chi_square"], 8), rtol=1e-8)
    assert [t["df"] for t in test["variables"]] == [2, 2, 4]
    c = np.zeros((3, 5, 3 + 4 + 2))  # thresholds, b, and two more for dose
    for k in range(3):
        c[k, 0, k] = 1
        c[k, 1:, 3:7] = np.eye(4)
    c[1, 2, 7] = c[2, 2, 8] = 1
    c = c.reshape(15, -1)
    np.testing.assert_allclose(test["variables"][1]["chi_square"], (c.T @ score) @ np.linalg.solve(c.T @ info @ c, c.T @ score), rtol=1e-6)
    assert test["variables"][1]["p"] < 0.01
    assert "most clearly for dose" in got["warnings"][-1]
    fine = run(VARIABLES, [FIT], scatter(cohort(500), [1, 40, 200]))["fit"]
    assert fine["proportional_odds"]["p"] > 0.05
    assert fine["warnings"] == []
    assert run(VARIABLES, [{**FIT, "test": False}], scatter(d, [9]))["fit"]["proportional_odds"] is None


def test_the_score_test_is_near_the_likelihood_ratio(run, scatter):
    d = cohort(3000, odd=0.1, seed=4)
    got = run(VARIABLES, [{**FIT, "features": ["dose"]}], scatter(d, [100]))["fit"]
    x, y = d["dose"], d["y"].astype(int)

    def loss(v):
        z = v[:3] - np.outer(x, v[3:])
        p = np.diff(expit(z), axis=1, prepend=0, append=1)[np.arange(len(y)), y]
        return -np.log(np.maximum(p, 1e-300)).sum()

    start = np.r_[[t["coef"] for t in got["thresholds"]], np.repeat(got["coefficients"][0]["coef"], 3)]
    ratio = 2 * (-minimize(loss, start, method="BFGS").fun - got["log_likelihood"])
    assert got["proportional_odds"]["df"] == 2
    assert got["proportional_odds"]["chi_square"] == pytest.approx(ratio, rel=0.05)


def test_under_the_null_the_test_keeps_its_level(run):
    p = [run(VARIABLES, [FIT], [Rows.of(cohort(300, seed=s))])["fit"]["proportional_odds"]["p"] for s in range(100)]
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) < 0.1) < 0.2


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 150), max_size=6), seed=st.integers(0, 1000))
def test_any_partition_gives_the_pooled_result(run, scatter, cuts, seed):
    d = cohort(150)
    one = run(VARIABLES, [FIT], [Rows.of(d)])["fit"]
    many = run(VARIABLES, [FIT], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    np.testing.assert_allclose(parameters(many), parameters(one), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parameters(many, "se"), parameters(one, "se"), rtol=1e-9)
    np.testing.assert_allclose(many["proportional_odds"]["chi_square"], one["proportional_odds"]["chi_square"], rtol=1e-7)


def test_sites_of_one_patient_in_the_masked_engine():
    d = cohort(150)
    everyone = Rows.of(d)
    parts = {f"s{i:03d}": everyone.take(np.asarray([i])) for i in range(90)} | {"big": everyone.take(np.arange(90, 150))}
    study = Study.parse({"name": "test", "data": {"variables": VARIABLES}, "terms": {"privacy": "none", "min_cohort": 40}, "plan": [FIT]})
    got = simulate(study, parts).results["fit"]
    check(got, d)
    assert got["proportional_odds"]["df"] == 8


def test_stroke_outcome_of_four_levels_over_466_hospitals():
    """IST at 6 months: recovered, not recovered, dependent, dead, which the registry's own contract makes yes or no."""
    ist, features = registry.get("ist"), ["age", "female", "rsbp", "rconsc", "stype", "rxasp"]
    variables = ist.data.model_dump()["variables"]
    outcome = {"type": "category", "categories": ["recovered", "not recovered", "dependent", "dead"], "role": "outcome"}
    data = type(ist.data).parse({"variables": {n: variables[n] for n in features} | {"outcome": outcome}})
    values = {"1": "dead", "2": "dependent", "3": "not recovered", "4": "recovered"}
    columns = {n: ist.mapping.columns[n].model_dump(exclude_defaults=True) for n in features}
    mapping = type(ist.mapping).parse({"columns": columns | {"outcome": {"column": "OCCODE", "values": values, "missing": [0, 9]}}})
    try:
        parts = registry.load(replace(ist, data=data, mapping=mapping))
    except LocumError as error:
        pytest.skip(str(error))
    fit = {"name": "fit", "task": "ordinal", "features": features, "outcome": "outcome"}
    study = Study.parse({"name": "test", "data": data.model_dump(), "terms": {"privacy": "none", "min_cohort": 100}, "plan": [fit]})
    got = simulate(study, parts).results["fit"]
    rows = np.vstack([r.matrix([*features, "outcome"]) for r in parts.values()])
    rows = rows[~np.isnan(rows).any(axis=1)]
    x = np.column_stack(
        [rows[:, 0] / 10, rows[:, 1], rows[:, 2] / 100, *(rows[:, 3] == k for k in (1, 2)), *(rows[:, 4] == k for k in range(1, 5)), rows[:, 5]]
    )
    model, scale = OrderedModel(rows[:, 6], (x - x.mean(0)).astype(float), distr="logit"), np.r_[1.0, 1.0, 1.0, 10, 1, 100, np.ones(7)]
    near = np.round(parameters(got) * scale, 1)  # a start that saves half a minute
    cuts = np.r_[near[0] - x.mean(0) @ near[3:], np.log(np.diff(near[:3]))]
    ref = model.fit(start_params=np.r_[near[3:], cuts], method="bfgs", disp=0, gtol=1e-8, maxiter=1000, skip_hessian=True)
    at = np.r_[model.transform_threshold_params(ref.params)[1:-1] + x.mean(0) @ ref.params[:10], ref.params[:10]] / scale
    assert len(parts) == 466
    assert min(len(r) for r in parts.values()) == 1
    assert (got["n"], got["sites"]) == (len(rows), 464)  # two hospitals have no patient with all values, and decline
    np.testing.assert_allclose(parameters(got) * scale, at * scale, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)
    _, score, info = naive(x, rows[:, 6], *np.split(parameters(got) * scale, [3]))
    np.testing.assert_allclose(np.linalg.solve(info, score), 0, atol=1e-9)
    se = np.sqrt(np.diag(np.linalg.inv(info)))
    np.testing.assert_allclose(parameters(got, "se") * scale, se, rtol=1e-6)
    assert 0.9 < got["coefficients"][-1]["odds_ratio"] < 1.0  # aspirin


def test_heart_disease_severity_of_four_hospitals():
    heart, features = registry.get("heart_disease"), ["age", "sex", "cp", "exang", "oldpeak"]
    variables = heart.data.model_dump()["variables"]
    num = {"type": "category", "categories": ["0", "1", "2", "3", "4"], "role": "outcome", "max_missing": 0}
    data = type(heart.data).parse({"variables": {n: variables[n] for n in features} | {"num": num}})
    columns = {n: heart.mapping.columns[n].model_dump(exclude_defaults=True) for n in features if n in heart.mapping.columns}
    try:
        parts = registry.load(replace(heart, data=data, mapping=type(heart.mapping).parse({"columns": columns | {"num": "num"}})))
    except LocumError as error:
        pytest.skip(str(error))
    fit = {"name": "fit", "task": "ordinal", "features": features, "outcome": "num"}
    study = Study.parse({"name": "test", "data": data.model_dump(), "terms": {"privacy": "none", "min_cohort": 4}, "plan": [fit]})
    got = simulate(study, parts).results["fit"]
    rows = np.vstack([r.matrix([*features, "num"]) for r in parts.values()])
    rows = rows[~np.isnan(rows).any(axis=1)]
    x = np.column_stack([rows[:, 0] / 10, rows[:, 1], *(rows[:, 2] == k for k in (1, 2, 3)), rows[:, 3:5]]).astype(float)
    model = OrderedModel(rows[:, 5], x, distr="logit")
    ref = model.fit(method="bfgs", disp=0, gtol=1e-7, maxiter=1000)
    scale = np.r_[np.ones(4), 10, np.ones(6)]
    np.testing.assert_allclose(parameters(got) * scale, np.r_[model.transform_threshold_params(ref.params)[1:-1], ref.params[:7]], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)


def test_probabilities_are_those_of_statsmodels(build_study, run_state):
    d, study = cohort(200), build_study(VARIABLES, [FIT])
    _, state = run_state(study, [Rows.of(d)])
    got = build_plan(study)[0].probabilities(state, Rows.of(d))
    x = (matrix(d) - matrix(d).mean(0)) / matrix(d).std(0)
    ref = OrderedModel(d["y"], x, distr="logit").fit(method="bfgs", disp=0, gtol=1e-9, maxiter=500)
    np.testing.assert_allclose(got, ref.predict(), atol=1e-6)


def test_ridge_maximises_the_penalised_likelihood(run, scatter):
    d = cohort(120)
    plan = [{"name": "scale", "task": "standardise", "variables": ["age", "dose"]}, {**FIT, "standardise": "scale", "ridge": 3.0}]
    got, x = run(VARIABLES, plan, scatter(d, [7]))["fit"], matrix(d)
    mean, sd = np.r_[x[:, :2].mean(0), 0, 0], np.r_[x[:, :2].std(0, ddof=1), 1, 1]
    at = np.r_[-1.0, 0, 1, 0, 0, 0, 0]
    for _ in range(30):
        _, g, h = naive((x - mean) / sd, d["y"], at[:3], at[3:])
        ridge = np.r_[0, 0, 0, 3.0, 3, 3, 3]
        at = at + np.linalg.solve(h + np.diag(ridge), g - ridge * at)
    np.testing.assert_allclose(parameters(got), np.r_[at[:3] + mean @ (at[3:] / sd), at[3:] / sd], rtol=1e-8)
    assert got["proportional_odds"] is None


def test_merged_neighbours_are_one(run, scatter):
    d = cohort()
    got = run(VARIABLES, [{**FIT, "merge": [["severe", "dead"]]}], scatter(d, [30, 1]))["fit"]
    check(got, {**d, "y": np.minimum(d["y"], 2.0)})
    assert got["order"] == ["none", "mild", "severe+dead"]


def test_an_empty_category_is_named_and_can_be_merged(run, scatter):
    d = cohort()
    d["y"][d["y"] == 1] = 0
    with pytest.raises(TaskError, match=r"No usable row of the cohort has y = 'mild'.*merge it with a neighbour"):
        run(VARIABLES, [FIT], scatter(d, [100]))
    got = run(VARIABLES, [{**FIT, "merge": [["none", "mild"]]}], scatter(d, [100]))["fit"]
    check(got, {**d, "y": np.maximum(d["y"] - 1, 0)})


def test_steps_that_would_cross_thresholds_are_shortened(run, scatter):
    """One of 2,000 patients in a middle category, and a strong effect: thresholds nearly touch."""
    d = cohort(2000, seed=3)
    u = np.log(1 / np.random.default_rng(0).uniform(size=2000) - 1)
    order = np.argsort(u + 4 * d["dose"])
    y = np.zeros(2000)
    y[order[1000]], y[order[1001:1995]], y[order[1995:]] = 1, 2, 3
    d["y"] = y
    got = run(VARIABLES, [FIT], scatter(d, [100]))["fit"]
    check(got, d)
    assert "Only 1 rows have 'mild'" in got["warnings"][0]


def test_separation_is_named(run, scatter):
    d = cohort()
    d["y"] = np.clip(np.floor(2 * (d["dose"] + 1)), 0, 3)
    with pytest.raises(TaskError, match=r"coefficients of 'dose' grow without end.*separation.*ridge"):
        run(VARIABLES, [FIT], scatter(d, [100]))
    assert run(VARIABLES, [{**FIT, "ridge": 1.0}], scatter(d, [100]))["fit"]["converged"]
    d = cohort()
    d["y"][d["arm"] == 2] = 3.0
    with pytest.raises(TaskError, match=r"of 'arm\[c\]' grow"):
        run(VARIABLES, [FIT], scatter(d, [100]))


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_collinear_and_constant_columns_are_named(run, scatter, scale):
    d = cohort()
    d["age"] = 2 * scale * d["dose"] - 7 * scale
    with pytest.raises(TaskError, match=r"'(age|dose)', '(age|dose)'.* are collinear"):
        run(VARIABLES, [FIT], scatter(d, [100]))
    d["age"] = np.full(400, 0.1 * scale)
    with pytest.raises(TaskError, match="'age' is constant"):
        run(VARIABLES, [FIT], scatter(d, [100]))


def test_rounds_that_end_early_are_said(run, scatter):
    sites = scatter(cohort(), [100])
    got = run(VARIABLES, [{**FIT, "rounds": 3}], sites)["fit"]
    assert not got["converged"]
    full = run(VARIABLES, [FIT], sites)["fit"]
    untested = run(VARIABLES, [{**FIT, "rounds": full["iterations"]}], sites)["fit"]
    assert untested["proportional_odds"] is None
    assert "No round was left to test" in untested["warnings"][0]
    np.testing.assert_allclose(parameters(untested), parameters(full), rtol=1e-12)
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, [{**FIT, "rounds": 1}], sites)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"outcome": "age", "features": ["dose"]}, "is of type 'number', not a category"),
        ({"merge": [["none", "severe"]]}, "not neighbours in the contract's order"),
        ({"merge": [["none", "mild", "severe"]]}, "has 2 categories"),
        ({"reference": "none"}, "reference"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**FIT, **params}]))


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, [FIT]))[0]
    assert "gradient (7 numbers)" in task.leaves()
    assert "score (15 numbers)" in task.leaves()
    assert task.layout({}).size == 4 + 1 + 5
