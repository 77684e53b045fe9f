"""Principal components by sums against numpy and scikit-learn on the pooled rows, and against the ways in which they fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import locum.tasks.pca  # noqa: F401 - registers the task
from locum import Rows, simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.pca_advice import log_interval, logit_interval, parallel_analysis
from locum.tasks.prepare import prepared

NAMES = ["a", "b", "c", "d"]
VARIABLES = {"a": {"minimum": 0, "maximum": 100}, "b": {}, "c": {"type": "integer"}, "d": {"type": "boolean"}}


def rows(n=300, seed=0):
    r = np.random.default_rng(seed)
    f = r.normal(size=(n, 2))
    return {
        "a": 50 + 8 * f[:, 0] + r.normal(size=n),
        "b": f[:, 0] - f[:, 1] + r.gamma(2, 0.3, n),
        "c": np.round(6 * f[:, 1]),
        "d": (f.sum(axis=1) > 0).astype(float),
    }


def step(variables=NAMES, **more):
    return {"name": "p", "task": "pca", "variables": list(variables), **more}


def reference(x, matrix, k):
    z = StandardScaler().fit_transform(x) * np.sqrt((len(x) - 1) / len(x)) if matrix == "correlation" else x
    return PCA(k, svd_solver="full").fit(z), z


def column(result, key):
    return np.array([c[key] for c in result["components"]])


def weights(result):
    return np.array([list(c["weights"].values()) for c in result["components"]])


def columns(names, x):
    return dict(zip(names, x.T, strict=True))


def breast():
    x = load_breast_cancer().data
    names = [f"x{j}" for j in range(x.shape[1])]
    return x, names, {n: {} for n in names}


@pytest.mark.parametrize("matrix", ["correlation", "covariance"])
@pytest.mark.parametrize("method", ["exact", "subspace"])
def test_breast_cancer_is_scikit_learn(run, scatter, matrix, method):
    x, names, variables = breast()
    got = run(
        variables,
        [step(names, matrix=matrix, method=method, components=4, rounds=200, tolerance=1e-12)],
        scatter(columns(names, x), [1, 1, 0, 7, 200]),
    )
    got = got["p"]
    ref, _ = reference(x, matrix, 4)
    assert got["converged"]
    assert (got["n"], got["patients"], got["sites"], got["left_out"]) == (569, 569, 6, 0)
    np.testing.assert_allclose(column(got, "variance"), ref.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(column(got, "share"), ref.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(column(got, "cumulative"), np.cumsum(ref.explained_variance_ratio_), rtol=1e-9)
    np.testing.assert_allclose(weights(got), ref.components_, atol=1e-9)
    np.testing.assert_allclose([v["mean"] for v in got["variables"].values()], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose([v["sd"] for v in got["variables"].values()], x.std(axis=0, ddof=1), rtol=1e-10)


def test_loadings_are_correlations_of_variables_and_components(build_study, run_state, scatter):
    d = rows()
    for matrix in ("correlation", "covariance"):
        study, sites = build_study(VARIABLES, [step(matrix=matrix), {"name": "after", "task": "moments", "variables": ["pc1"]}]), scatter(d, [1, 100])
        results, state = run_state(study, sites)
        made = [prepared(build_plan(study)[1], state, s) for s in sites]
        pcs = np.vstack([m.matrix(["pc1", "pc2"]) for m in made])
        x = np.vstack([m.matrix(NAMES) for m in made])
        got = np.array([list(c["loadings"].values()) for c in results["p"]["components"]])
        np.testing.assert_allclose(got, np.corrcoef(pcs.T, x.T)[:2, 2:], atol=1e-10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12), seed=st.integers(0, 1000), method=st.sampled_from(["exact", "subspace"]))
def test_any_split_gives_the_same(run, scatter, sizes, seed, method):
    d = rows()
    one, many = (run(VARIABLES, [step(method=method)], scatter(d, s, seed))["p"] for s in ([300], sizes))
    for key in ("variance", "se", "share", "share_se", "cumulative_se"):
        np.testing.assert_allclose(column(many, key), column(one, key), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weights(many), weights(one), atol=1e-9)


def test_digits_are_kept_far_from_zero(run, scatter):
    d = rows()
    far = {**d, "b": d["b"] + 1e9}
    exact = np.column_stack([far[n] - far[n][0] for n in NAMES])
    got = run(VARIABLES, [step()], scatter(far, [3, 50]))["p"]
    ref, _ = reference(exact, "correlation", 2)
    np.testing.assert_allclose(column(got, "variance"), ref.explained_variance_, rtol=1e-6)
    near = run(VARIABLES, [step(components=4)], scatter({**d, "b": d["b"] + 1e5}, [3, 50]))["p"]
    ref, _ = reference(np.column_stack([d[n] for n in NAMES]), "correlation", 4)
    np.testing.assert_allclose(column(near, "variance"), ref.explained_variance_, rtol=1e-9)


@pytest.mark.parametrize("matrix", ["correlation", "covariance"])
def test_standard_errors_are_those_of_the_jackknife(run, scatter, matrix):
    d, n = rows(250, 3), 250
    got = run(VARIABLES, [step(matrix=matrix)], scatter(d, [20, 100]))["p"]
    x = np.column_stack([d[name] for name in NAMES])

    def figures(x):
        v = np.linalg.eigvalsh(np.corrcoef(x.T) if matrix == "correlation" else np.cov(x.T))[::-1]
        return np.r_[v[:2], v[:2] / v.sum(), np.cumsum(v)[:2] / v.sum()]

    left = np.array([figures(np.delete(x, i, axis=0)) for i in range(n)])
    jackknife = np.sqrt((n - 1) ** 2 / n * left.var(axis=0, ddof=1))
    mine = np.r_[column(got, "se"), column(got, "share_se"), column(got, "cumulative_se")]
    np.testing.assert_allclose(mine, jackknife, rtol=0.05)
    for c in got["components"]:
        assert c["ci95"][0] < c["variance"] < c["ci95"][1]
        assert 0 < c["share_ci95"][0] < c["share"] < c["share_ci95"][1] < 1


def test_intervals_cover_under_normality(run):
    cover, truth = 0, 1.6
    for seed in range(200):
        r = np.random.default_rng(seed)
        f = r.normal(size=200)
        d = {"a": np.sqrt(0.6) * f + np.sqrt(0.4) * r.normal(size=200), "b": np.sqrt(0.6) * f + np.sqrt(0.4) * r.normal(size=200)}
        low, high = run({"a": {}, "b": {}}, [step(["a", "b"], components=1)], [Rows.of(d)])["p"]["components"][0]["ci95"]
        cover += low < truth < high
    assert 180 <= cover <= 198


def test_a_patients_rows_count_as_one(run):
    d = rows(100)
    twice = {k: np.repeat(v, 2) for k, v in d.items()}
    apart, together = (run(VARIABLES, [step()], [Rows.of(twice, patient=who)])["p"] for who in (range(200), np.repeat(range(100), 2)))
    np.testing.assert_allclose(column(together, "se"), column(apart, "se") * np.sqrt(2.0), rtol=1e-9)
    assert (together["n"], together["patients"]) == (200, 100)


def test_many_variables_by_subspace(run, build_study, scatter):
    r, n, p = np.random.default_rng(0), 400, 2100
    x = r.normal(size=(n, 12)) * 2.0 ** -np.arange(12) @ r.normal(size=(12, p)) + 0.01 * r.normal(size=(n, p)) + 5
    names = [f"g{j}" for j in range(p)]
    variables, plan = {name: {} for name in names}, [step(names, components=3, matrix="covariance")]
    task = build_plan(build_study(variables, plan))[0]
    assert task.subspace
    got = run(variables, plan, scatter(columns(names, x), [1, 30, 100]))["p"]
    ref = PCA(3, svd_solver="full").fit(x)
    assert got["converged"]
    assert got["iterations"] < 25
    np.testing.assert_allclose(column(got, "variance"), ref.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(column(got, "share"), ref.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(weights(got), ref.components_, atol=1e-9)


def test_components_are_columns_of_later_steps(build_study, run_state, scatter):
    d = rows()
    d["a"][7] = np.nan
    d["y"] = d["b"] * 2 + np.random.default_rng(1).normal(size=300)
    plan = [
        step(components=3),
        {"name": "m", "task": "moments", "variables": ["pc1", "pc2", "pc3"]},
        {"name": "fit", "task": "linear", "features": ["pc1", "pc2"], "outcome": "y"},
    ]
    results, _ = run_state(build_study({**VARIABLES, "y": {"role": "outcome"}}, plan), scatter(d, [1, 2, 60]))
    assert results["p"]["left_out"] == 1
    assert results["fit"]["left_out"] == 1
    for j, found in enumerate(results["m"]["variables"].values()):
        assert found["n"] == 299
        assert found["missing"] == 1
        assert abs(found["mean"]) < 1e-10
        np.testing.assert_allclose(found["variance"], results["p"]["components"][j]["variance"], rtol=1e-10)
    ok = ~np.isnan(d["a"])
    x = np.column_stack([d[n][ok] for n in NAMES])
    ref, z = reference(x, "correlation", 2)
    design = np.column_stack([np.ones(299), ref.transform(z)])
    want = np.linalg.lstsq(design, d["y"][ok], rcond=None)[0]
    np.testing.assert_allclose([c["coef"] for c in results["fit"]["coefficients"]], want, rtol=1e-9, atol=1e-10)


def test_ist_masked_over_466_hospitals(sites, real_study, pooled):
    parts = sites("ist")
    names = ["age", "rsbp", "rdelay", "female", "rsleep", "rct", "rvisinf"]
    study = real_study("ist", [step(names, components=2)])
    result = simulate(study, parts).results["p"]
    x = pooled(parts, *names)
    x = x[~np.isnan(x).any(axis=1)]
    ref, _ = reference(x, "correlation", 2)
    assert result["n"] == len(x)
    assert result["sites"] == len(parts)
    np.testing.assert_allclose(column(result, "variance"), ref.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(weights(result)), np.abs(ref.components_), atol=1e-9)


def test_parallel_analysis():
    r = np.random.default_rng(0)
    f = r.normal(size=(500, 2))
    x = np.column_stack([f[:, [0]] + r.normal(size=(500, 4)), f[:, [1]] + r.normal(size=(500, 4))])
    found = parallel_analysis(np.linalg.eigvalsh(np.corrcoef(x.T))[::-1], 500, seed=0)
    assert found["components"] == 2
    noise = np.array([np.linalg.eigvalsh(np.corrcoef(r.normal(size=(8, 60))))[-1] for _ in range(400)])
    np.testing.assert_allclose(parallel_analysis(np.ones(8), 60, seed=1)["eigenvalues_95"][0], np.quantile(noise, 0.95), rtol=0.04)
    assert parallel_analysis(np.ones(8), 60, seed=1)["components"] == 0
    assert parallel_analysis(np.full(8, 9.0), 60, seed=1)["components"] == 8
    assert parallel_analysis(np.ones(8), 8, seed=1) is None


def test_intervals_at_their_limits():
    assert log_interval(0.0, 0.0) is None
    assert log_interval(1.0, 1e3) is None
    assert logit_interval(1.0, 0.0) is None
    assert logit_interval(0.5, 1e3) is None


def test_the_sign_does_not_hang_on_rounding(run, scatter):
    d = {n: v for n, v in rows().items() if n in ("a", "b")}
    for seed in range(5):
        got = run(VARIABLES, [step(["a", "b"])], scatter(d, [1, 50, 100], seed))["p"]
        np.testing.assert_allclose(weights(got), np.array([[1, 1], [1, -1]]) / np.sqrt(2), atol=1e-9)


def test_variables_that_determine_each_other(run):
    d = rows()
    d["b"] = 2 * d["a"] - 3
    got = run(VARIABLES, [step(["a", "b", "c"], components=3)], [Rows.of(d)])["p"]
    assert any("no variance left" in w for w in got["warnings"])
    assert got["components"][2]["ci95"] is None


def test_equal_variances_are_said_to_be_so(run):
    r = np.random.default_rng(0)
    d = {n: r.normal(size=100) for n in ("a", "b", "c")}
    assert any("about as much" in w for w in run({n: {} for n in d}, [step(["a", "b", "c"])], [Rows.of(d)])["p"]["warnings"])


@pytest.mark.parametrize("method", ["exact", "subspace"])
def test_a_constant_column(run, method):
    d = {**rows(), "b": np.full(300, 0.1)}
    with pytest.raises(TaskError, match="'b' is constant"):
        run(VARIABLES, [step(method=method)], [Rows.of(d)])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"components": 5}, "5 components of 4 variables"),
        ({"prefix": "q"}, "'q1' is a variable already"),
        ({"variables": ["a", "a"]}, "lists a variable twice"),
        ({"variables": ["a", "k"]}, "of type 'category'"),
        ({"variables": ["a", "zz"]}, "does not list"),
    ],
)
def test_plans_that_make_no_sense(build_study, more, said):
    variables = {**VARIABLES, "q1": {}, "k": {"type": "category", "categories": ["x", "y"]}}
    with pytest.raises(ManifestError, match=said):
        build_plan(build_study(variables, [{**step(), **more}]))


def test_too_few_patients_or_rounds(run):
    with pytest.raises(TaskError, match="Too few complete rows"):
        run(VARIABLES, [step()], [Rows.of(rows(10))])
    with pytest.raises(TaskError, match="Too few complete rows"):
        run(VARIABLES, [step()], [Rows.of({**rows(), "b": np.full(300, np.nan)})])
    with pytest.raises(TaskError, match="too few rounds"):
        run(VARIABLES, [step(rounds=2)], [Rows.of(rows())])
    x = np.random.default_rng(0).normal(size=(300, 40))
    names = [f"x{j}" for j in range(40)]
    with pytest.raises(TaskError, match="last residual"):
        run({n: {} for n in names}, [step(names, rounds=4, method="subspace", oversample=0)], [Rows.of(columns(names, x))])


def test_before_it_has_run(build_study):
    task = build_plan(build_study(VARIABLES, [step()]))[0]
    with pytest.raises(TaskError, match="has not run"):
        task.apply({}, Rows.of(rows()))


def test_a_flat_spectrum_by_subspace(run):
    """Nothing to separate the components by: the rounds that plain subspace iteration needs would be hundreds."""
    x = np.random.default_rng(0).normal(size=(300, 200))
    names = [f"x{j}" for j in range(200)]
    got = run({n: {} for n in names}, [step(names, method="subspace", components=3)], [Rows.of(columns(names, x))])["p"]
    ref, _ = reference(x, "correlation", 3)
    np.testing.assert_allclose(column(got, "variance"), ref.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(weights(got), ref.components_, atol=1e-7)
    assert got["iterations"] < 50


def test_what_leaves_is_said(build_study):
    task = build_plan(build_study(VARIABLES, [step()]))[0]
    assert "10 sums of their products" in task.leaves()
    assert task.reads() == tuple(NAMES)
