"""Against the likelihood integrated on a fine grid and maximised by scipy, and on the International Stroke Trial."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp

import locum
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks import mixed_logistic as _mixed_logistic  # noqa: F401 - registers the task

VARIABLES = {"age": {"minimum": 0, "maximum": 120}, "dose": {}, "arm": {"type": "category", "categories": ["a", "b", "c"]}, "y": {"type": "boolean"}}
SIZES = [1, 1, 2, 0, 3, 8, 15, 40, 1, 5, 60, 30, 2, 7]
GRID = np.linspace(-9, 9, 1001)


def cohort(seed=0, sizes=SIZES, sd=1.0):
    r = np.random.default_rng(seed)
    out = []
    for n in sizes:
        age, dose, arm = r.normal(60, 10, n), r.normal(0, 1, n), r.integers(0, 3, n).astype(float)
        eta = -0.3 + 0.04 * (age - 60) + 0.6 * dose - 0.7 * (arm == 1) + sd * r.normal()
        out.append(Rows.of({"age": age, "dose": dose, "arm": arm, "y": (r.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)}))
    return out


def plan(**more):
    return [{"name": "fit", "task": "mixed_logistic", "features": ["age", "dose", "arm"], "outcome": "y", **more}]


def design(s):
    d = s.columns
    return np.column_stack([np.ones(len(s)), d["age"] - 60, d["dose"], d["arm"] == 1, d["arm"] == 2]).astype(float)


def value(theta, sites):
    """The log-likelihood by the trapezoidal rule, whose error here is far below rounding of the optimum."""
    total, width = 0.0, GRID[1] - GRID[0]
    for s in sites:
        eta = (design(s) @ theta[:-1])[:, None] + theta[-1] * GRID
        logs = (s.columns["y"][:, None] * eta - np.logaddexp(0, eta)).sum(axis=0) - GRID**2 / 2 - np.log(2 * np.pi) / 2
        total += logsumexp(logs) + np.log(width)
    return total


def estimate(got):
    return np.array([*(c["coef"] for c in got["coefficients"]), got["site_sd"]["estimate"]])


@pytest.mark.parametrize(("seed", "sd"), [(0, 1.0), (1, 0.7), (2, 2.5)])
def test_equals_the_integrated_likelihood(run, seed, sd):
    sites = cohort(seed, sd=sd)
    got = run(VARIABLES, plan(), sites)["fit"]
    theta = estimate(got)
    theta[0] += 60 * theta[1]
    assert got["converged"]
    np.testing.assert_allclose(got["log_likelihood"], value(theta, sites), rtol=1e-9)
    ref = minimize(lambda t: -value(t, sites), theta * 0.9 + 0.01, method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(theta, ref.x * np.r_[np.ones(5), np.sign(ref.x[-1])], rtol=1e-4, atol=1e-4)
    h, k = 1e-3 * np.diag([1, 0.1, 1, 1, 1, 1]), 6
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    steps = np.diag(h)

    def second(i, j):
        return sum(p * q * value(theta + p * h[i] + q * h[j], sites) for p, q in signs) / (4 * steps[i] * steps[j])

    hessian = np.array([[second(i, j) for j in range(k)] for i in range(k)])
    se = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    np.testing.assert_allclose([*[c["se"] for c in got["coefficients"]][1:], got["site_sd"]["se"]], se[1:], rtol=1e-4)


def test_sites_that_do_not_differ(run):
    r = np.random.default_rng(0)
    y = np.concatenate([r.permutation(np.repeat([0.0, 1.0], [6, 4])) for _ in range(12)])
    sites = [Rows.of({"x": a, "y": b}) for a, b in zip(np.split(r.normal(size=120), 12), np.split(y, 12), strict=True)]
    variables = {"x": {}, "y": {"type": "boolean"}}
    step = {"name": "fit", "features": ["x"], "outcome": "y"}
    got = run(variables, [{**step, "task": "mixed_logistic"}], sites)["fit"]
    plain = run(variables, [{**step, "task": "logistic"}], sites)["fit"]
    assert got["converged"]
    assert got["site_sd"]["ci95"] is None
    assert any("zero" in w for w in got["warnings"])
    np.testing.assert_allclose([c["coef"] for c in got["coefficients"]], [c["coef"] for c in plain["coefficients"]], rtol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], plain["log_likelihood"], rtol=1e-9)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 200))
def test_neither_order_nor_more_nodes_matter(run, seed):
    sites = cohort(seed, sizes=[20, 30, 0, 1, 12, 40, 25, 18])
    one, other, fine = (run(VARIABLES, p, s)["fit"] for p, s in ((plan(), sites), (plan(), sites[::-1]), (plan(nodes=61), sites)))
    np.testing.assert_allclose(estimate(one), estimate(other), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(estimate(one), estimate(fine), rtol=1e-5, atol=1e-5)


def test_hospitals_of_the_stroke_trial_differ(sites, real_study):
    parts = sites("ist", "hospital")
    shared = {"features": ["age", "female", "rxasp"], "outcome": "dead_or_dependent"}
    got = locum.simulate(
        real_study("ist", [{"name": "mixed", "task": "mixed_logistic", **shared}, {"name": "plain", "task": "logistic", **shared}]), parts
    ).results
    assert got["mixed"]["converged"]
    assert got["mixed"]["log_likelihood"] > got["plain"]["log_likelihood"] + 50
    assert 0.2 < got["mixed"]["site_sd"]["estimate"] < 1.0


def test_what_cannot_be_fitted_is_named(run):
    sites = cohort(0)
    with pytest.raises(TaskError, match="Only one site has usable rows"):
        run(VARIABLES, plan(), sites[7:8])
    with pytest.raises(TaskError, match="No site has more than one usable row"):
        run(VARIABLES, plan(), [s.take(np.arange(1)) for s in sites if len(s)])
    with pytest.raises(TaskError, match="No site has a usable row"):
        run(VARIABLES, plan(), [Rows.of({**s.columns, "y": np.full(len(s), np.nan)}) for s in sites])

    def changed(**made):
        return [Rows.of({**s.columns, **{k: f(s.columns) for k, f in made.items()}}) for s in sites]

    with pytest.raises(TaskError, match="'y' has values other than 0 and 1"):
        run({**VARIABLES, "y": {}}, plan(), changed(y=lambda c: c["age"]))
    with pytest.raises(TaskError, match="are collinear"):
        run(VARIABLES, plan(features=["age", "dose"]), changed(dose=lambda c: 2 * c["age"] - 7))
    with pytest.raises(TaskError, match="'dose' is constant"):
        run(VARIABLES, plan(features=["age", "dose"]), changed(dose=lambda c: np.full(len(c["age"]), 0.1)))
    with pytest.raises(TaskError, match="no maximum"):
        run(VARIABLES, plan(), changed(y=lambda c: (c["dose"] > 0) * 1.0))
    short = run(VARIABLES, plan(rounds=2), sites)["fit"]
    assert not short["converged"]
    assert any("rounds ended" in w for w in short["warnings"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"features": ["agee"]}, "did you mean 'age'"),
        ({"features": ["age", "y"]}, "both a feature and the outcome"),
        ({"outcome": "arm", "features": ["age"]}, "more than two categories"),
        ({"nodes": 1}, "nodes"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**plan()[0], **params}]))


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, plan()))[0]
    assert f"{task.layout({}).size} numbers in all" in task.leaves()
    assert task.reads() == ("age", "dose", "arm", "y")
