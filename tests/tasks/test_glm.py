"""Against statsmodels and scikit-learn on the pooled rows, and against the ways in which a regression fails."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "dose": {},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "y": {"role": "outcome"},
    "logt": {},
}
FEATURES = ["age", "dose", "arm"]


def synthetic(n=400, seed=1):
    r = np.random.default_rng(seed)
    age, dose, arm = r.normal(60, 10, n), r.normal(0, 1, n), r.integers(0, 3, n).astype(float)
    return {"age": age, "dose": dose, "arm": arm, "eta": 0.03 * (age - 60) + 0.5 * dose - 0.7 * (arm == 1), "logt": np.log(r.uniform(1, 5, n))}, r


def outcome(kind, n=400, seed=1):
    d, r = synthetic(n, seed)
    eta = d.pop("eta")
    y = {
        "linear": lambda: eta + r.normal(size=n),
        "logistic": lambda: (r.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: r.poisson(np.exp(0.5 * eta + d["logt"])).astype(float),
    }[kind]()
    return {**d, "y": y}


def pooled(kind, d, extra=None):
    columns = [np.ones(len(d["y"])), d["age"], d["dose"], d["arm"] == 1, d["arm"] == 2]
    x = np.column_stack(columns if extra is None else [*columns[1:], *extra]).astype(float)
    family = {"logistic": sm.families.Binomial, "poisson": sm.families.Poisson}
    if kind == "linear":
        return sm.OLS(d["y"], x).fit()
    return sm.GLM(d["y"], x, family=family[kind](), offset=d["logt"] if kind == "poisson" else None).fit(tol=1e-14, maxiter=200)


def step(kind, **more):
    return {"name": "fit", "task": kind, "features": FEATURES, "outcome": "y", **({"offset": "logt"} if kind == "poisson" else {}), **more}


def column(result, key):
    return [c[key] for c in result["coefficients"]]


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("kind", ["linear", "logistic", "poisson"])
def test_pooled_result(run, scatter, kind, standardise):
    d = outcome(kind)
    plan = [step(kind, **({"standardise": "scale"} if standardise else {}))]
    if standardise:
        plan.insert(0, {"name": "scale", "task": "standardise", "variables": ["age", "dose"]})
    got = run(VARIABLES, plan, scatter(d, [1, 2, 0, 50, 100]))["fit"]
    ref = pooled(kind, d)
    assert got["converged"]
    assert got["n"] == 400
    np.testing.assert_allclose(column(got, "coef"), ref.params, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(column(got, "se"), ref.bse, rtol=1e-7)
    np.testing.assert_allclose(column(got, "t" if kind == "linear" else "z"), ref.tvalues, rtol=1e-6)
    np.testing.assert_allclose(column(got, "p"), ref.pvalues, rtol=1e-6, atol=1e-300)
    np.testing.assert_allclose(column(got, "ci95"), ref.conf_int(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)
    assert [c["name"] for c in got["coefficients"]] == ["(intercept)", "age", "dose", "arm[b]", "arm[c]"]


@pytest.mark.parametrize("kind", ["linear", "logistic", "poisson"])
def test_site_intercepts_equal_one_dummy_per_site(run, scatter, kind):
    d = outcome(kind)
    sites = scatter(d, [3, 80, 0, 120])
    got = run(VARIABLES, [step(kind, site_intercepts=True)], sites)["fit"]
    joined = {k: np.concatenate([s.columns[k] for s in sites]) for k in d}
    where = np.repeat(np.arange(len(sites)), [len(s) for s in sites])
    ref = pooled(kind, joined, extra=[where == s for s in np.unique(where)])
    if kind == "logistic" and len(set(sites[0].columns["y"])) == 1:
        pytest.fail("choose a seed whose small site has both outcomes; the other case is tested below")
    np.testing.assert_allclose(column(got, "coef"), ref.params[:4], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(column(got, "se"), ref.bse[:4], rtol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-9)
    assert got["site_intercepts"] == 4


@pytest.mark.parametrize("kind", ["logistic", "poisson"])
def test_a_site_without_contrast_adds_nothing_to_a_model_with_site_intercepts(run, scatter, kind):
    d = outcome(kind)
    sites = scatter(d, [200])
    flat = Rows.of({k: np.asarray(v[:7]) if k != "y" else np.zeros(7) for k, v in d.items()})
    alone, with_flat = (run(VARIABLES, [step(kind, site_intercepts=True)], s)["fit"] for s in (sites, [flat, *sites]))
    assert column(alone, "coef") == column(with_flat, "coef")
    assert column(alone, "se") == column(with_flat, "se")
    assert with_flat["rows_without_information"] == 7


def test_breast_cancer_with_ridge_is_scikit_learn(run, scatter):
    x, y = load_breast_cancer(return_X_y=True)
    names = [f"x{j}" for j in range(10)]
    d = {**{n: x[:, j] for j, n in enumerate(names)}, "y": y}
    plan = [
        {"name": "scale", "task": "standardise", "variables": names},
        {"name": "fit", "task": "logistic", "features": names, "outcome": "y", "standardise": "scale", "ridge": 2.0},
    ]
    got = run({**{n: {} for n in names}, "y": {"type": "boolean"}}, plan, scatter(d, [1, 60, 0, 200]))["fit"]
    mean, sd = x[:, :10].mean(0), x[:, :10].std(0, ddof=1)
    ref = LogisticRegression(C=0.5, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit((x[:, :10] - mean) / sd, y)
    np.testing.assert_allclose(np.array(column(got, "coef")[1:]) * sd, ref.coef_[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(column(got, "coef")[0], ref.intercept_[0] - ref.coef_[0] @ (mean / sd), rtol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 120), max_size=6), seed=st.integers(0, 1000), kind=st.sampled_from(["linear", "logistic", "poisson"]))
def test_any_partition_gives_the_pooled_result(run, scatter, cuts, seed, kind):
    d = outcome(kind, 120)
    one = run(VARIABLES, [step(kind)], [Rows.of(d)])["fit"]
    many = run(VARIABLES, [step(kind)], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    np.testing.assert_allclose(column(many, "coef"), column(one, "coef"), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(column(many, "se"), column(one, "se"), rtol=1e-8)


def test_missing_values_are_left_out_and_counted(run, scatter):
    d = outcome("logistic")
    d["dose"] = d["dose"].copy()
    d["dose"][:25] = np.nan
    got = run(VARIABLES, [step("logistic")], scatter(d, [100]))["fit"]
    ref = pooled("logistic", {k: v[25:] for k, v in d.items()})
    assert (got["n"], got["left_out"]) == (375, 25)
    np.testing.assert_allclose(column(got, "coef"), ref.params, rtol=1e-7)


def test_big_counts_converge_from_the_overall_rate(run, scatter):
    r = np.random.default_rng(5)
    x = r.normal(size=200)
    y = r.poisson(np.exp(9 + x)).astype(float)
    got = run({"x": {}, "y": {}}, [{"name": "fit", "task": "poisson", "features": ["x"], "outcome": "y"}], scatter({"x": x, "y": y}, [60]))["fit"]
    ref = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-14)
    np.testing.assert_allclose(column(got, "coef"), ref.params, rtol=1e-8)


def test_a_step_too_long_is_halved(run, scatter):
    r = np.random.default_rng(2)
    x = r.exponential(1, 100) ** 3
    y = r.poisson(np.exp(0.04 * x)).astype(float)
    got = run({"x": {}, "y": {}}, [{"name": "fit", "task": "poisson", "features": ["x"], "outcome": "y"}], scatter({"x": x, "y": y}, [40]))["fit"]
    ref = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-14)
    assert got["converged"]
    np.testing.assert_allclose(column(got, "coef"), ref.params, rtol=1e-6)


def one(kind, x, **more):
    d = {"x": {}, "z": {}, "y": {}, "arm": {"type": "category", "categories": ["a", "b", "c"]}}
    return d, [{"name": "fit", "task": kind, "features": x, "outcome": "y", **more}]


def test_complete_separation_is_named(run, scatter):
    x = np.linspace(-1, 1, 60)
    d = {"x": x, "z": np.cos(9 * x), "y": (x > 0).astype(float), "arm": np.zeros(60)}
    with pytest.raises(TaskError, match=r"'x'.*grow without end.*separation.*ridge"):
        run(*one("logistic", ["x", "z"]), scatter(d, [20]))
    assert run(*one("logistic", ["x", "z"], ridge=1.0), scatter(d, [20]))["fit"]["converged"]


def test_quasi_separation_names_the_category(run, scatter):
    r = np.random.default_rng(0)
    arm = np.arange(90) % 3.0
    d = {"x": r.normal(size=90), "z": r.normal(size=90), "arm": arm, "y": np.where(arm == 2, 1.0, r.integers(0, 2, 90))}
    with pytest.raises(TaskError, match=r"of 'arm\[c\]' grow") as error:
        run(*one("logistic", ["x", "arm"]), scatter(d, [30]))
    assert "'x'" not in str(error.value)
    d["y"] = np.where(arm == 2, 0.0, r.poisson(1.5, 90))
    with pytest.raises(TaskError, match=r"of 'arm\[c\]' grow.*no events"):
        run(*one("poisson", ["x", "arm"]), scatter(d, [30]))


@pytest.mark.parametrize("kind", ["linear", "logistic", "poisson"])
@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_collinear_and_constant_columns_are_named(run, scatter, kind, scale):
    r = np.random.default_rng(0)
    x = r.normal(size=60) * scale + 3 * scale
    d = {"x": x, "z": 2 * x - 7 * scale, "arm": np.zeros(60), "y": r.integers(0, 2, 60)}
    with pytest.raises(TaskError, match=r"'[xz]', '[xz]'.* are collinear"):
        run(*one(kind, ["x", "z"]), scatter(d, [30]))
    d["z"] = np.full(60, 0.1 * scale)
    with pytest.raises(TaskError, match="'z' is constant"):
        run(*one(kind, ["x", "z"]), scatter(d, [30]))
    with pytest.raises(TaskError, match="'z' is constant within every site"):
        run(*one(kind, ["x", "z"], site_intercepts=True), scatter(d, [30]))
    with pytest.raises(TaskError, match=r"'arm\[b\]', 'arm\[c\]' are constant"):
        run(*one(kind, ["x", "arm"]), scatter(d, [30]))


def test_bad_values_are_refused_early(run, scatter):
    d = {"x": np.arange(6.0), "z": np.zeros(6), "arm": np.zeros(6), "y": np.array([0, 1, 2, 0, 1, 0.0])}
    with pytest.raises(TaskError, match="'y' has values other than 0 and 1"):
        run(*one("logistic", ["x"]), scatter(d, [2]))
    with pytest.raises(TaskError, match="'y' has negative values"):
        run(*one("poisson", ["x"]), scatter({**d, "y": -d["y"]}, [2]))
    with pytest.raises(TaskError, match="'x' holds an infinite value"):
        run(*one("linear", ["x"]), scatter({**d, "x": np.r_[np.inf, d["x"][1:]]}, [2]))
    with pytest.raises(TaskError, match="No site has a usable row"):
        run(*one("linear", ["x"]), scatter({**d, "x": np.full(6, np.nan)}, [2]))
    with pytest.raises(TaskError, match="as many coefficients as rows"):
        run(*one("linear", ["x"]), scatter({k: v[:2] for k, v in d.items()}, [1]))
    with pytest.raises(TaskError, match="zero in every row"):
        run(*one("poisson", ["x"]), scatter({**d, "y": np.zeros(6)}, [2]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"features": ["agee"]}, "did you mean 'age'"),
        ({"features": ["age", "age"]}, "lists the feature 'age' twice"),
        ({"features": ["age", "y"]}, "both a feature and the outcome"),
        ({"outcome": "arm", "features": ["age"]}, "is a category"),
        ({"standardise": "scael"}, "did you mean 'scale'"),
        ({"standardise": "hist"}, "is a 'histogram' step"),
        ({"standardise": "scale", "features": ["dose"]}, "does not cover 'dose'"),
        ({"ridgee": 1}, "did you mean 'ridge'"),
        ({"standardise": "later"}, "not an earlier step"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    plan = [
        {"name": "scale", "task": "standardise", "variables": ["age"]},
        {"name": "hist", "task": "histogram", "variable": "age"},
        {**step("logistic"), **params},
        {"name": "later", "task": "standardise", "variables": ["age"]},
    ]
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, plan))


def test_too_few_rounds_are_said(run, scatter):
    sites = scatter(outcome("logistic"), [100])
    assert not run(VARIABLES, [step("logistic", rounds=2)], sites)["fit"]["converged"]
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, [step("poisson", rounds=1)], scatter(outcome("poisson"), [100]))


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, [step("logistic")]))[0]
    assert "gradient (5 numbers)" in task.leaves()
    assert f"{task.layout({}).size} numbers in all" in task.leaves()
    assert task.reads() == ("age", "dose", "arm", "y")


def test_a_constant_outcome_has_no_errors_to_speak_of(run, scatter):
    columns = {"x": np.arange(12.0), "y": np.full(12, 3.0)}
    with pytest.raises(TaskError, match="lies exactly on the model"):
        run({"x": {}, "y": {}}, [{"name": "fit", "task": "linear", "features": ["x"], "outcome": "y"}], scatter(columns, [5, 4]))
