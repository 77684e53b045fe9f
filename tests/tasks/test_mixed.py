"""Against statsmodels' MixedLM, against the likelihood of the full covariance matrix, and on real data."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from statsmodels.regression.mixed_linear_model import MixedLM

import locum
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks import mixed as _mixed  # noqa: F401 - registers the task

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "dose": {},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "beds": {},
    "y": {"minimum": 0, "maximum": 300, "role": "outcome"},
}
FEATURES = ["age", "dose", "arm"]
SIZES = [1, 1, 2, 0, 3, 8, 15, 40, 1, 5, 60, 30, 2, 7]


def cohort(seed=0, sizes=SIZES, sd=3.0):
    r = np.random.default_rng(seed)
    out = []
    for n in sizes:
        age, dose, arm = r.normal(60, 10, n), r.normal(0, 1, n), r.integers(0, 3, n).astype(float)
        y = 130 + 0.4 * (age - 60) + 2 * dose - 3 * (arm == 1) + sd * r.normal() + 5 * r.normal(size=n)
        out.append(Rows.of({"age": age, "dose": dose, "arm": arm, "beds": np.full(n, r.integers(1, 9)), "y": y}))
    return out


def plan(**more):
    return [{"name": "fit", "task": "mixed", "features": FEATURES, "outcome": "y", **more}]


def pooled(sites, beds=False):
    d = {k: np.concatenate([s.columns[k] for s in sites]) for k in VARIABLES}
    x = np.column_stack([np.ones(len(d["y"])), d["age"], d["dose"], d["arm"] == 1, d["arm"] == 2, *([d["beds"]] if beds else [])]).astype(float)
    return d["y"], x, np.repeat(np.arange(len(sites)), [len(s) for s in sites])


def exact(y, x, group, reml):
    """Coefficients, covariance, lambda, sigma^2 and log-likelihood from the full covariance matrix, its determinant and scipy."""
    same = (group[:, None] == group[None, :]).astype(float)
    n, p = x.shape

    def at(ratio):
        v = np.eye(n) + ratio * same
        inverse = np.linalg.inv(v)
        a = x.T @ inverse @ x
        b = np.linalg.solve(a, x.T @ inverse @ y)
        m = n - p * reml
        s2 = (y - x @ b) @ inverse @ (y - x @ b) / m
        value = -(m * np.log(2 * np.pi * s2) + m + np.linalg.slogdet(v)[1] + reml * np.linalg.slogdet(a)[1]) / 2
        return value, b, s2, np.linalg.inv(a) * s2

    found = minimize_scalar(lambda s: -at(s / (1 - s))[0], bounds=(0, 0.99), method="bounded", options={"xatol": 1e-12})
    ratio = found.x / (1 - found.x)
    ratio = ratio if at(ratio)[0] > at(0.0)[0] else 0.0
    return ratio, *at(ratio)


def column(result, key):
    return [c[key] for c in result["coefficients"]]


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_statsmodels(run, method, seed):
    sites = cohort(seed)
    got = run(VARIABLES, plan(method=method), sites)["fit"]
    y, x, group = pooled(sites)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ref = MixedLM(y, x, group).fit(reml=method == "reml", method=["bfgs"], gtol=1e-10, maxiter=2000)
    np.testing.assert_allclose(column(got, "coef"), ref.fe_params, rtol=1e-5, atol=1e-6)
    same = (group[:, None] == group[None, :]).astype(float)
    information = x.T @ np.linalg.inv(ref.scale * np.eye(len(y)) + ref.cov_re[0, 0] * same) @ x
    np.testing.assert_allclose(column(got, "se"), np.sqrt(np.diag(np.linalg.inv(information))), rtol=1e-5)
    np.testing.assert_allclose(column(got, "se"), ref.bse_fe, rtol=2e-2)  # which come from the observed information, variances included
    np.testing.assert_allclose(got["site_variance"]["estimate"], ref.cov_re[0, 0], rtol=2e-5)
    np.testing.assert_allclose(got["residual_variance"]["estimate"], ref.scale, rtol=1e-5)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-9)
    assert got["log_likelihood"] >= ref.llf - 1e-9
    assert got["sites"] == 13
    assert got["iterations"] <= 12


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("sd", [0.0, 0.5, 3.0, 40.0])
def test_equals_the_full_likelihood(run, method, sd):
    sites = cohort(5, sd=sd)
    got = run(VARIABLES, plan(method=method, features=[*FEATURES, "beds"]), sites)["fit"]
    y, x, group = pooled(sites, beds=True)
    ratio, value, b, s2, covariance = exact(y, x, group, method == "reml")
    assert got["converged"]
    np.testing.assert_allclose(got["log_likelihood"], value, rtol=1e-11)
    np.testing.assert_allclose(column(got, "coef"), b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(column(got, "se"), np.sqrt(np.diag(covariance)), rtol=1e-6)
    np.testing.assert_allclose(got["site_variance"]["estimate"], ratio * s2, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(got["residual_variance"]["estimate"], s2, rtol=1e-6)


def test_errors_of_the_variances_are_those_of_the_joint_likelihood(run):
    sites = cohort(1)
    got = run(VARIABLES, plan(method="ml"), sites)["fit"]
    y, x, group = pooled(sites)
    same, b = (group[:, None] == group[None, :]).astype(float), np.array(column(got, "coef"))

    def value(theta):
        v = theta[1] * np.eye(len(y)) + theta[0] * same
        inverse = np.linalg.inv(v)
        r = y - x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ y)
        return -(np.linalg.slogdet(v)[1] + r @ inverse @ r) / 2

    at, h = np.array([got["site_variance"]["estimate"], got["residual_variance"]["estimate"]]), 1e-3
    e = np.eye(2) * h
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    hessian = np.array([[sum(p * q * value(at + p * e[i] + q * e[j]) for p, q in signs) / (4 * h * h) for j in (0, 1)] for i in (0, 1)])
    se = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    np.testing.assert_allclose([got["site_variance"]["se"], got["residual_variance"]["se"]], se, rtol=1e-4)
    assert b.shape == (5,)


def test_standardised_features_change_nothing(run):
    sites = cohort(2)
    steps = [{"name": "scale", "task": "standardise", "variables": ["age", "dose"]}, *plan(standardise="scale")]
    one, other = run(VARIABLES, plan(), sites)["fit"], run(VARIABLES, steps, sites)["fit"]
    np.testing.assert_allclose(column(one, "coef"), column(other, "coef"), rtol=1e-8)
    np.testing.assert_allclose(column(one, "se"), column(other, "se"), rtol=1e-8)
    np.testing.assert_allclose(one["log_likelihood"], other["log_likelihood"], rtol=1e-11)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), sd=st.sampled_from([0.0, 1.0, 5.0]), method=st.sampled_from(["reml", "ml"]))
def test_never_below_another_ratio_and_order_does_not_matter(run, seed, sd, method):
    sites = cohort(seed, sizes=[1, 0, 4, 2, 12, 7, 20], sd=sd)
    one, other = (run(VARIABLES, plan(method=method), s)["fit"] for s in (sites, sites[::-1]))
    np.testing.assert_allclose(column(one, "coef"), column(other, "coef"), rtol=1e-7, atol=1e-8)
    value = exact(*pooled(sites), method == "reml")[1]
    assert one["log_likelihood"] >= value - 1e-8 * abs(value)


def test_the_predicted_intercept_stays_in_memory(build_study, run):
    sites = cohort(1)
    study = build_study(VARIABLES, plan())
    task = build_plan(study)[0]
    from locum.study import Total

    state, memories = {}, [{} for _ in sites]
    while not task.done(state):
        total = task.layout(state).zeros()
        for rows, memory in zip(sites, memories, strict=True):
            vector = task.visit(state, rows, memory, np.random.default_rng(0)).vector
            total = {k: a + vector[k] for k, a in total.items()}
        state = task.combine(state, Total(total, 1.0, len(sites)))
    y, x, group = pooled(sites)
    ref = MixedLM(y, x, group).fit(method=["bfgs"], gtol=1e-10, maxiter=2000)
    for i, (rows, memory) in enumerate(zip(sites, memories, strict=True)):
        if len(rows):
            np.testing.assert_allclose(memory["site_effect"], ref.random_effects[i].to_numpy()[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(task.site_effect(state, rows), memory["site_effect"], rtol=1e-9, atol=1e-9)
        else:
            assert not memory
            assert task.site_effect(state, rows) == 0.0


def test_blood_pressure_in_the_stroke_trial(sites, real_study):
    parts = sites("ist", "hospital")
    steps = [{"name": m, "task": "mixed", "features": ["age", "female", "rconsc"], "outcome": "rsbp", "method": m} for m in ("reml", "ml")]
    got = locum.simulate(real_study("ist", steps), parts).results
    rows = [parts[s] for s in sorted(parts)]
    d = {k: np.concatenate([r.columns[k] for r in rows]) for k in ("age", "female", "rconsc", "rsbp")}
    group = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    keep = ~np.isnan(np.column_stack(list(d.values()))).any(axis=1)
    x = np.column_stack([np.ones(len(group)), d["age"], d["female"], d["rconsc"] == 1, d["rconsc"] == 2]).astype(float)[keep]
    for method, result in got.items():
        ref = MixedLM(d["rsbp"][keep], x, group[keep]).fit(reml=method == "reml", method=["bfgs"], gtol=1e-8)
        np.testing.assert_allclose(column(result, "coef"), ref.fe_params, rtol=1e-5)
        np.testing.assert_allclose(column(result, "se"), ref.bse_fe, rtol=1e-3)
        np.testing.assert_allclose([result["site_variance"]["estimate"], result["residual_variance"]["estimate"]], [ref.cov_re[0, 0], ref.scale], rtol=1e-4)
        np.testing.assert_allclose(result["log_likelihood"], ref.llf, rtol=1e-9)


def test_on_the_boundary_it_is_least_squares_and_says_so(run):
    r = np.random.default_rng(0)
    y = r.normal(100, 5, 60)
    y = np.concatenate([p - p.mean() + 100 for p in np.split(y, 6)])
    x = r.normal(size=60)
    sites = [Rows.of({"x": a, "y": b}) for a, b in zip(np.split(x, 6), np.split(y, 6), strict=True)]
    got = run({"x": {}, "y": {}}, [{"name": "fit", "task": "mixed", "features": ["x"], "outcome": "y"}], sites)["fit"]
    assert got["site_variance"] == {"estimate": 0.0, "se": None, "ci95": None}
    assert got["site_variance_test"] == {"chi_square": 0.0, "p": 1.0}
    assert any("boundary" in w for w in got["warnings"])
    assert got["iterations"] == 2
    b = np.linalg.lstsq(np.column_stack([np.ones(60), x]), y, rcond=None)[0]
    np.testing.assert_allclose(column(got, "coef"), b, rtol=1e-9)


def test_without_features_it_divides_the_variance(run):
    """Balanced: the REML estimates are those of the analysis of variance."""
    r = np.random.default_rng(1)
    y = r.normal(0, 2, (8, 1)) + r.normal(0, 1, (8, 10)) + 100
    got = run({"y": {}}, [{"name": "fit", "task": "mixed", "outcome": "y"}], [Rows.of({"y": row}) for row in y])["fit"]
    within, between = y.var(axis=1, ddof=1).mean(), y.mean(axis=1).var(ddof=1)
    np.testing.assert_allclose(got["residual_variance"]["estimate"], within, rtol=1e-8)
    np.testing.assert_allclose(got["site_variance"]["estimate"], between - within / 10, rtol=1e-8)
    low, high = got["icc"]["ci95"]
    assert 0 < low < got["icc"]["estimate"] < high < 1


def test_what_cannot_be_fitted_is_named(run):
    sites = cohort(0)
    with pytest.raises(TaskError, match="Only one site has usable rows"):
        run(VARIABLES, plan(), sites[7:8])
    with pytest.raises(TaskError, match="No site has more than one usable row"):
        run(VARIABLES, plan(), [s.take(np.arange(1)) for s in sites if len(s)])
    with pytest.raises(TaskError, match="as many coefficients as rows"):
        run(VARIABLES, plan(), [sites[2], sites[4]])
    with pytest.raises(TaskError, match="No site has a usable row"):
        run(VARIABLES, plan(), [Rows.of({**{k: s.columns[k] for k in VARIABLES}, "y": np.full(len(s), np.nan)}) for s in sites])

    def changed(**made):
        return [Rows.of({**s.columns, **{k: f(s.columns) for k, f in made.items()}}) for s in sites]

    with pytest.raises(TaskError, match="are collinear"):
        run(VARIABLES, plan(features=["age", "dose"]), changed(dose=lambda c: 2 * c["age"] - 7))
    with pytest.raises(TaskError, match="'dose' is constant"):
        run(VARIABLES, plan(features=["age", "dose"]), changed(dose=lambda c: np.full(len(c["age"]), 0.1)))
    with pytest.raises(TaskError, match="explain 'y' exactly"):
        run(VARIABLES, plan(features=["age"]), changed(y=lambda c: 3 * c["age"] + 7))
    with pytest.raises(TaskError, match="hardly varies within sites"):
        run(VARIABLES, plan(features=["age"]), changed(y=lambda c: c["beds"] * 10))
    with pytest.raises(TaskError, match="infinite value"):
        run(VARIABLES, plan(), changed(dose=lambda c: np.full(len(c["age"]), np.inf)))
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, plan(rounds=1), sites)
    short = run(VARIABLES, plan(rounds=2), sites)["fit"]
    assert not short["converged"]
    assert any("rounds ended" in w for w in short["warnings"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"features": ["agee"]}, "did you mean 'age'"),
        ({"features": ["age", "y"]}, "both a feature and the outcome"),
        ({"outcome": "arm", "features": ["age"]}, "is a category"),
        ({"ridge": 1.0}, "no ridge penalty"),
        ({"method": "remel"}, "method"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**plan()[0], **params}]))


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, plan()))[0]
    assert f"{task.layout({}).size} numbers in all" in task.leaves()
    assert "own intercept stays" in task.leaves()
    assert task.reads() == ("age", "dose", "arm", "y")
