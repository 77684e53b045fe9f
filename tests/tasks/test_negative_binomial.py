"""Negative binomial regression against statsmodels, over uneven sites, on made and real counts, and where there is no answer."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import special, stats

import locum
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Study
from locum.tasks import build_plan, negative_binomial

VARIABLES = {"x": {}, "arm": {"type": "category", "categories": ["a", "b", "c"]}, "logt": {}, "y": {"type": "integer", "role": "outcome"}}


def made(alpha, n=600, seed=1, level=0.3):
    """Counts with dispersion alpha, which is 0 for Poisson."""
    r = np.random.default_rng(seed)
    x, arm, logt = r.normal(size=n), r.integers(0, 3, n).astype(float), np.log(r.uniform(1, 5, n))
    mu = np.exp(level + 0.5 * x - 0.4 * (arm == 1) + logt)
    y = r.poisson(mu * (r.gamma(1 / alpha, alpha, n) if alpha else 1.0)).astype(float)
    return {"x": x, "arm": arm, "logt": logt, "y": y}


def step(**more):
    return {"name": "fit", "task": "negative_binomial", "features": ["x", "arm"], "outcome": "y", "offset": "logt", **more}


def reference(y, x, offset=None):
    """statsmodels' fit, sharpened by Newton from its own BFGS."""
    model = sm.NegativeBinomial(y, x, offset=offset)
    rough = model.fit(disp=0, maxiter=1000)
    return model.fit(start_params=rough.params, method="newton", tol=1e-14, maxiter=200, disp=0)


def design(d):
    return np.column_stack([np.ones(len(d["y"])), d["x"], d["arm"] == 1, d["arm"] == 2]).astype(float)


def column(result, key):
    return [c[key] for c in result["coefficients"]]


def check(got, ref, poisson):
    assert got["converged"]
    assert got["warnings"] == []
    np.testing.assert_allclose(column(got, "coef"), ref.params[:-1], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(column(got, "se"), ref.bse[:-1], rtol=1e-6)
    np.testing.assert_allclose(column(got, "p"), ref.pvalues[:-1], rtol=1e-5, atol=1e-300)
    np.testing.assert_allclose(column(got, "ci95"), ref.conf_int()[:-1], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got["alpha"]["estimate"], ref.params[-1], rtol=1e-7)
    np.testing.assert_allclose(got["alpha"]["se"], ref.bse[-1], rtol=1e-6)
    np.testing.assert_allclose(got["alpha"]["ci95"], np.maximum(0.0, ref.conf_int()[-1]), rtol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)
    np.testing.assert_allclose(got["poisson_log_likelihood"], poisson.llf, rtol=1e-10)
    test = got["overdispersion_test"]
    np.testing.assert_allclose(test["statistic"], 2 * (ref.llf - poisson.llf), rtol=1e-6)
    np.testing.assert_allclose(test["p"], stats.chi2.sf(test["statistic"], 1) / 2, rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 2.0, 10.0])
def test_pooled_result(run, scatter, alpha):
    d = made(alpha)
    got = run(VARIABLES, [step()], scatter(d, [1, 1, 2, 0, 50, 100]))["fit"]
    x = design(d)
    check(got, reference(d["y"], x, d["logt"]), sm.GLM(d["y"], x, family=sm.families.Poisson(), offset=d["logt"]).fit(tol=1e-14))
    assert (got["n"], got["sites"], got["left_out"]) == (600, 7, 0)


def test_doctor_visits_of_the_rand_experiment(scatter):
    """20,190 person-years (Cameron and Trivedi), over 40 sites of 1 to some thousand, through the whole simulation."""
    data = sm.datasets.randhie.load_pandas().data
    names = [n for n in data.columns if n != "mdvis"]
    plan = [
        {"name": "scale", "task": "standardise", "variables": names},
        {"name": "fit", "task": "negative_binomial", "features": names, "outcome": "mdvis", "standardise": "scale"},
    ]
    study = Study.parse({"name": "test", "data": {"variables": {n: {} for n in data.columns}}, "terms": {"privacy": "none", "min_cohort": 4}, "plan": plan})
    parts = scatter({n: data[n].to_numpy(float) for n in data.columns}, [1, 1, 1, 2, *(37 * k for k in range(1, 30))])
    got = locum.simulate(study, {f"s{i}": rows for i, rows in enumerate(parts)}).results["fit"]
    x = sm.add_constant(data[names].to_numpy(float))
    ref = reference(data["mdvis"].to_numpy(float), x)
    check(got, ref, sm.GLM(data["mdvis"], x, family=sm.families.Poisson()).fit(tol=1e-14))
    assert got["alpha"]["estimate"] == pytest.approx(1.2930, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_near_poisson_counts_end_at_the_maximum_or_at_the_edge(run, scatter, seed):
    d = made(0.0, 300, seed)
    got = run(VARIABLES, [step()], scatter(d, [1, 100]))["fit"]
    x, alpha = design(d), got["alpha"]["estimate"]
    poisson = sm.GLM(d["y"], x, family=sm.families.Poisson(), offset=d["logt"]).fit(tol=1e-14)
    score = float(((d["y"] - poisson.mu) ** 2 - d["y"]).sum()) / 2
    assert got["converged"]
    assert (score <= 0) == got["alpha"]["at_boundary"]
    if score > 0:
        gradient = sm.NegativeBinomial(d["y"], x, offset=d["logt"]).score(np.r_[column(got, "coef"), math.log(alpha)])
        np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
        return
    assert got["alpha"] == {"estimate": 0.0, "se": None, "ci95": None, "at_boundary": True}
    assert "alpha = 0" in got["warnings"][0]
    assert (got["overdispersion_test"]["statistic"], got["overdispersion_test"]["p"]) == (0.0, 1.0)
    np.testing.assert_allclose(column(got, "coef"), poisson.params, rtol=1e-7)
    np.testing.assert_allclose(column(got, "se"), poisson.bse, rtol=1e-7)
    assert got["log_likelihood"] == got["poisson_log_likelihood"]


def test_counts_less_dispersed_than_poisson_are_said_to_be(run, scatter):
    d = made(0.0, 300)
    d["y"] = np.round(np.exp(0.3 + 0.5 * d["x"] + d["logt"]))
    got = run(VARIABLES, [step()], scatter(d, [1, 100]))["fit"]
    assert got["alpha"]["at_boundary"]
    assert "no more than its mean says" in got["warnings"][0]


def test_a_trace_of_overdispersion_is_found_exactly(run, scatter):
    """alpha below 1e-4 at the maximum: the terms of its information nearly cancel."""
    r = np.random.default_rng(0)
    x = r.normal(size=400)
    y = r.poisson(np.exp(1 + 0.2 * x)).astype(float)
    mu = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-14).mu
    for k in np.argsort(-x)[:40]:  # widen single counts until the score at 0 is barely positive
        if ((y - mu) ** 2 - y).sum() > 0:
            break
        y[k] += 1 if y[k] >= mu[k] else -min(1, y[k])
        mu = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-14).mu
    got = run({"x": {}, "y": {}}, [{"name": "fit", "task": "negative_binomial", "features": ["x"], "outcome": "y"}], scatter({"x": x, "y": y}, [150]))["fit"]
    assert got["converged"]
    assert 0 < got["alpha"]["estimate"] < 0.02
    gradient = sm.NegativeBinomial(y, sm.add_constant(x)).score(np.r_[column(got, "coef"), math.log(got["alpha"]["estimate"])])
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 120), max_size=6), seed=st.integers(0, 1000))
def test_any_partition_gives_the_pooled_result(run, scatter, cuts, seed):
    d = made(1.0, 120)
    one = run(VARIABLES, [step()], [Rows.of(d)])["fit"]
    many = run(VARIABLES, [step()], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    np.testing.assert_allclose(column(many, "coef"), column(one, "coef"), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(many["alpha"]["estimate"], one["alpha"]["estimate"], rtol=1e-9)
    np.testing.assert_allclose(column(many, "se"), column(one, "se"), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(log_alpha=st.floats(-8, 5), seed=st.integers(0, 1000), level=st.floats(-2, 4))
def test_likelihood_gradient_and_information(log_alpha, seed, level):
    """The value against the gamma functions of scipy; the derivatives against central differences of it."""
    r = np.random.default_rng(seed)
    x, b = np.column_stack([np.ones(30), r.normal(size=30)]), np.array([level, 0.4])
    y = r.negative_binomial(1.0, 1 / (1 + np.exp(level)), 30).astype(float)
    here = negative_binomial.nb2(x, y, x @ b, log_alpha)
    a, mu = math.exp(log_alpha), np.exp(x @ b)
    gammas = special.gammaln(y + 1 / a) - special.gammaln(1 / a) - special.gammaln(y + 1)
    direct = gammas + y * np.log(a * mu / (1 + a * mu)) - np.log1p(a * mu) / a
    np.testing.assert_allclose(here.value, direct.sum(), rtol=1e-7)
    for j in range(3):
        h = np.where(np.arange(3) == j, 1e-5, 0.0)
        up, down = (negative_binomial.nb2(x, y, x @ (b + s * h[:2]), log_alpha + s * h[2]) for s in (1, -1))
        size = np.abs(here.information).max() + np.abs(here.gradient).max() + 1.0
        np.testing.assert_allclose(here.gradient[j], (up.value - down.value) / 2e-5, rtol=1e-4, atol=1e-6 * size)
        np.testing.assert_allclose(here.information[j], -(up.gradient - down.gradient) / 2e-5, rtol=1e-4, atol=1e-6 * size)


def test_the_gap_keeps_its_digits():
    """Against exact fractions of its series where that converges fast, and against its definition where nothing cancels."""
    for t in (1e-12, 1e-6, 1e-3, 0.05, 0.0999):
        exact = sum((-1) ** k * (1 - Fraction(1, k)) * Fraction(t) ** k for k in range(2, 40))
        assert negative_binomial.gap(np.array([t]))[0] == pytest.approx(float(exact), rel=1e-14)
    t = np.array([0.1001, 1.0, 1e6, 1e200])
    np.testing.assert_allclose(negative_binomial.gap(t), np.log1p(t) - t / (1 + t), rtol=1e-15)
    assert negative_binomial.gap(np.zeros(1))[0] == 0.0


def test_a_site_of_zeros_and_missing_values(run, scatter):
    d = made(1.0, 300)
    d["x"] = np.where(np.arange(300) < 20, np.nan, d["x"])
    zeros = Rows.of({"x": [0.3, -0.2], "arm": [0, 1], "logt": [0.1, 0.2], "y": [0, 0]})
    got = run(VARIABLES, [step()], [zeros, *scatter(d, [100])])["fit"]
    assert (got["n"], got["left_out"]) == (282, 20)
    joined = {k: np.r_[zeros.columns[k], v[20:]] for k, v in d.items()}
    np.testing.assert_allclose(column(got, "coef"), reference(joined["y"], design(joined), joined["logt"]).params[:-1], rtol=1e-6)


def test_ridge_gives_estimates_without_the_test(run, scatter):
    got = run(VARIABLES, [step(ridge=5.0)], scatter(made(1.0, 300), [100]))["fit"]
    assert got["converged"]
    assert got["overdispersion_test"] is None
    assert "ridge" in got["warnings"][0]
    assert abs(column(got, "coef")[1]) < abs(column(run(VARIABLES, [step()], scatter(made(1.0, 300), [100]))["fit"], "coef")[1])


@pytest.mark.parametrize(("value", "message"), [(-1.0, "are negative"), (1.5, "not whole numbers"), (3e6, "above 2000000")])
def test_what_is_no_count_is_refused_and_how_many_stays_at_the_site(run, scatter, value, message):
    d = made(1.0, 50)
    d["y"][[3, 7]] = value
    with pytest.raises(TaskError, match=message) as error:
        run(VARIABLES, [step()], [Rows.of(d)])
    assert error.value.local == "2 of 50 rows"
    assert "2 of 50" not in str(error.value)


def test_what_cannot_be_fitted_is_named(run, scatter):
    d = made(1.0, 90)
    with pytest.raises(TaskError, match=r"of 'arm\[c\]' grow without end.*no events"):
        run(VARIABLES, [step()], scatter({**d, "y": np.where(d["arm"] == 2, 0.0, d["y"])}, [30]))
    with pytest.raises(TaskError, match="zero in every row"):
        run(VARIABLES, [step()], scatter({**d, "y": np.zeros(90)}, [30]))
    with pytest.raises(TaskError, match="'x' is constant"):
        run(VARIABLES, [step()], scatter({**d, "x": np.full(90, 2.0)}, [30]))
    with pytest.raises(TaskError, match=r"'arm\[c\]' is constant"):
        run(VARIABLES, [step()], scatter({**d, "arm": np.minimum(d["arm"], 1.0)}, [30]))
    with pytest.raises(TaskError, match="No site has a usable row"):
        run(VARIABLES, [step()], scatter({**d, "x": np.full(90, np.nan)}, [30]))
    with pytest.raises(TaskError, match="no round left for the dispersion"):
        run(VARIABLES, [step(rounds=5)], scatter(d, [30]))
    short = run(VARIABLES, [step(rounds=8)], scatter(d, [30]))["fit"]
    assert not short["converged"]
    assert "raise rounds" in short["warnings"][0]


def test_what_a_study_may_not_ask(build_study):
    with pytest.raises(ManifestError, match="no site intercepts"):
        build_plan(build_study(VARIABLES, [step(site_intercepts=True)]))
    with pytest.raises(ManifestError, match="both a feature and the outcome"):
        build_plan(build_study(VARIABLES, [step(features=["x", "y"])]))
    task = build_plan(build_study(VARIABLES, [step()]))[0]
    assert f"{task.layout({}).size} numbers in all" in task.leaves()
    assert task.reads() == ("x", "arm", "y", "logt")
