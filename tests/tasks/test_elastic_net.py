"""The elastic net against scikit-learn and the conditions of optimality, over uneven sites, and where there is no answer."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, LogisticRegression

import locum
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Study
from locum.tasks import build_plan
from locum.tasks import elastic_net as _elastic_net  # noqa: F401
from locum.tasks.proximal import Penalty, minimise

SIZES = [1, 1, 2, 0, 50, 100]
NAMES = ["a", "b", "c", "d", "e", "f"]
VARIABLES = {n: {} for n in NAMES} | {"arm": {"type": "category", "categories": ["x", "y", "z"]}, "y": {"role": "outcome"}}


def made(family, n=300, seed=0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(n, 6)) @ (np.eye(6) + 0.3)
    arm = r.integers(0, 3, n).astype(float)
    eta = 0.3 + x[:, 0] - 0.7 * x[:, 2] + 0.5 * (arm == 2)
    y = eta + r.normal(size=n) if family == "linear" else (r.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)
    return {**{name: x[:, j] for j, name in enumerate(NAMES)}, "arm": arm, "y": y}


def step(family, features=(*NAMES, "arm"), **more):
    return {"name": "fit", "task": "elastic_net", "family": family, "features": list(features), "outcome": "y", **more}


def scaled(family, features, **more):
    """A plan that standardises first."""
    return [{"name": "scale", "task": "standardise", "variables": list(features)}, step(family, features, standardise="scale", **more)]


def column(result, key):
    return [c[key] for c in result["coefficients"]]


def toy(family):
    x, y = (load_diabetes if family == "linear" else load_breast_cancer)(return_X_y=True)
    names = [f"x{j}" for j in range(x.shape[1])]
    return x, y.astype(float), names, {**{n: x[:, j] for j, n in enumerate(names)}, "y": y.astype(float)}


def pooled(family, z, y, lam, ratio):
    """scikit-learn's intercept, coefficients, and the objective of `elastic_net` at them."""
    n = len(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if family == "linear":
            m = ElasticNet(alpha=lam, l1_ratio=ratio, tol=1e-14, max_iter=1_000_000).fit(z, y)
        else:
            m = LogisticRegression(C=1 / (n * lam), l1_ratio=ratio, solver="saga", random_state=0, tol=1e-10, max_iter=10_000).fit(z, y)
    b, a = np.ravel(m.coef_), float(np.ravel(m.intercept_)[0])
    return a, b, objective(family, z, y, a, b, lam, ratio)


def objective(family, z, y, a, b, lam, ratio):
    eta = a + z @ b
    loss = ((y - eta) ** 2).mean() / 2 if family == "linear" else (np.logaddexp(0, eta) - y * eta).mean()
    return loss + lam * (ratio * np.abs(b).sum() + (1 - ratio) / 2 * b @ b)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("family", ["linear", "logistic"])
def test_a_path_is_scikit_learn(run, scatter, family, ratio):
    x, y, names, d = toy(family)
    z, sites = (x - x.mean(0)) / x.std(0, ddof=1), scatter(d, SIZES)
    variables = {n: {} for n in d}
    got = run(variables, scaled(family, names, l1_ratio=ratio, path=8, smallest=0.02), sites)["fit"]
    assert got["converged"]
    assert (got["n"], got["sites"]) == (len(y), 7)
    mean, intercept = y.mean(), np.log(y.mean() / (1 - y.mean())) if family == "logistic" else y.mean()
    assert got["path"][0]["objective"] == pytest.approx(objective(family, z, y, intercept, np.zeros(len(names)), 1.0, ratio), rel=1e-12)
    assert got["path"][0]["lambda"] == pytest.approx(np.abs(z.T @ (y - mean)).max() / len(y) / ratio, rel=1e-9)
    for row in got["path"][1:]:  # saga stops too early where it selects nothing
        a, b, least = pooled(family, z, y, row["lambda"], ratio)
        alone = run(variables, scaled(family, names, l1_ratio=ratio, lambdas=[row["lambda"]]), sites)["fit"]
        fitted = np.array(column(alone, "fitted"))
        assert row["objective"] == pytest.approx(least, rel=1e-7)
        assert row["objective"] <= least + 1e-11 * abs(least)
        assert objective(family, z, y, fitted[0], fitted[1:], row["lambda"], ratio) == pytest.approx(row["objective"], rel=1e-10)
        np.testing.assert_allclose(fitted[1:], b, atol=2e-6 * max(1.0, np.abs(b).max()))
        np.testing.assert_allclose(np.array(column(alone, "coef")[1:]) * x.std(0, ddof=1), fitted[1:], rtol=1e-12)
        shift = x.mean(0) / x.std(0, ddof=1)
        np.testing.assert_allclose(column(alone, "coef")[0], a - b @ shift, rtol=1e-6, atol=2e-6 * max(1.0, np.abs(b).max()) * np.abs(shift).sum())
        assert alone["selected"] == row["selected"]
        assert row["optimality_gap"] < 1e-8
    assert got["path"][0]["df"] == 0
    assert got["path"][1]["df"] > 0


def test_ridge_alone_and_no_intercept(run, scatter):
    x, y, names, d = toy("linear")
    got = run({n: {} for n in d}, scaled("linear", names, l1_ratio=0.0, lambdas=[0.1], intercept=False), scatter(d, SIZES))["fit"]
    z = x / x.std(0, ddof=1)
    closed = np.linalg.solve(z.T @ z / len(y) + 0.1 * np.eye(10), z.T @ y / len(y))
    np.testing.assert_allclose(column(got, "fitted"), closed, rtol=1e-9)
    assert [c["name"] for c in got["coefficients"]] == names


@pytest.mark.parametrize("family", ["linear", "logistic"])
def test_the_choice_is_the_published_formula(run, scatter, family):
    d, n = made(family), 300
    parts = scatter(d, SIZES)
    got = {c: run(VARIABLES, [step(family, choose=c, path=15)], parts)["fit"] for c in ("bic", "ebic")}
    for row in got["bic"]["path"]:
        fit = n * math.log(row["deviance"] / n) if family == "linear" else row["deviance"]
        assert row["bic"] == pytest.approx(fit + row["df"] * math.log(n), rel=1e-12)
        assert row["ebic"] == pytest.approx(row["bic"] + math.log(math.comb(8, row["df"])), rel=1e-12)
    for name, result in got.items():
        best = min(result["path"], key=lambda row: row[name])
        assert (result["lambda"], result["selected"], result["chosen_by"]) == (best["lambda"], best["selected"], name)
        assert {"a", "c"} <= set(result["selected"])
        assert result["selected"] == [c["name"] for c in result["coefficients"] if c["selected"] and c["name"] != "(intercept)"]


def test_stroke_outcome_in_36_countries(sites, real_study, pooled):
    """IST: the chosen lambda has the least deviance on test patients, and meets the conditions of optimality on the pooled rows."""
    numbers, yes = ["age", "rdelay", "rsbp"], ["female", "rsleep", "rct", "rvisinf"]
    defects = [f"rdef{k}" for k in range(1, 9)]
    features, outcome = [*numbers, *yes, "rconsc", *defects, "stype"], "dead_or_dependent"
    plan = [
        {"name": "scale", "task": "standardise", "variables": numbers, "part": "train"},
        {**step("logistic", features), "outcome": outcome, "standardise": "scale", "part": "train", "choose": "test", "path": 12, "l1_ratio": 0.9},
    ]
    parts = sites("ist", "country")
    study = real_study("ist", plan)
    got = locum.simulate(study, parts).results["fit"]
    assert got["converged"]
    assert got["lambda"] == min(got["path"], key=lambda row: row["test_deviance"])["lambda"]
    columns = [(f, None) for f in (*numbers, *yes)]
    columns += [(f, k) for f in ("rconsc", *defects, "stype") for k in range(1, len(study.data.variables[f].categories))]
    rows = {part: pooled({s: r.part(part, study.data.split) for s, r in parts.items()}, *features, outcome) for part in ("train", "test")}
    rows = {part: a[~np.isnan(a).any(axis=1)] for part, a in rows.items()}
    place = {f: j for j, f in enumerate(features)}
    x, y = np.column_stack([rows["train"][:, place[f]] if k is None else rows["train"][:, place[f]] == k for f, k in columns]), rows["train"][:, -1]
    raw = pooled({s: r.part("train", study.data.split) for s, r in parts.items()}, *numbers)
    sd = np.r_[np.nanstd(raw, axis=0, ddof=1), np.ones(x.shape[1] - 3)]
    coef = np.array(column(got, "coef"))
    slope = ((x / sd - (x / sd).mean(0)).T @ (1 / (1 + np.exp(-(coef[0] + x @ coef[1:]))) - y)) / len(y) + got["lambda"] * 0.1 * coef[1:] * sd
    zero = coef[1:] == 0.0
    np.testing.assert_allclose(slope[~zero], -got["lambda"] * 0.9 * np.sign(coef[1:][~zero]), atol=1e-9)
    assert (np.abs(slope[zero]) <= got["lambda"] * 0.9).all()
    assert got["n"] == len(y)
    xt, yt = np.column_stack([rows["test"][:, place[f]] if k is None else rows["test"][:, place[f]] == k for f, k in columns]), rows["test"][:, -1]
    eta = coef[0] + xt @ coef[1:]
    chosen = next(row for row in got["path"] if row["lambda"] == got["lambda"])
    assert chosen["test_deviance"] == pytest.approx(2 * (np.logaddexp(0, eta) - yt * eta).mean(), rel=1e-9)
    assert "age" in got["selected"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 150), max_size=6), seed=st.integers(0, 1000), family=st.sampled_from(["linear", "logistic"]))
def test_any_partition_gives_the_pooled_result(run, scatter, cuts, seed, family):
    d = made(family, 150)
    one = run(VARIABLES, [step(family, path=6)], [Rows.of(d)])["fit"]
    many = run(VARIABLES, [step(family, path=6)], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    assert many["selected"] == one["selected"]
    np.testing.assert_allclose(column(many, "fitted"), column(one, "fitted"), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose([r["objective"] for r in many["path"]], [r["objective"] for r in one["path"]], rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.integers(1, 12), rows=st.integers(1, 20), lasso=st.floats(1e-4, 1), ridge=st.sampled_from([0.0, 1e-3, 0.5]))
def test_the_quadratic_is_minimised(seed, p, rows, lasso, ridge):
    """Also where there are fewer rows than columns."""
    r = np.random.default_rng(seed)
    x, y = r.normal(size=(rows, p)), r.normal(size=rows)
    penalty = Penalty(np.full(p, lasso), np.full(p, ridge), np.arange(p) == 3)
    a, c = x.T @ x / rows, x.T @ y / rows
    b = minimise(a, c, penalty, r.normal(size=p))
    assert penalty.violation(a @ b - c, b) <= 1e-9 * np.abs(c).max()
    assert b[3:4].tolist() in ([0.0], [])


def test_separated_outcomes_have_an_answer(run, scatter):
    """Also where a long step has to be halved."""
    r = np.random.default_rng(3)
    x = r.normal(size=(80, 6)) * [1, 1, 1, 30, 1, 1]
    d = {**{n: x[:, j] for j, n in enumerate(NAMES)}, "arm": np.zeros(80), "y": (x[:, 0] > 0).astype(float)}
    got = run(VARIABLES, [step("logistic", NAMES, path=10, smallest=1e-4)], scatter(d, [20]))["fit"]
    assert got["converged"]
    assert got["path"][-1]["optimality_gap"] < 1e-7
    assert "a" in got["selected"]


def test_more_columns_than_rows(run, scatter):
    r = np.random.default_rng(0)
    names = [f"x{j}" for j in range(40)]
    x = r.normal(size=(25, 40))
    y = 3 * x[:, 0] - 2 * x[:, 1] + 0.1 * r.normal(size=25)
    d = {**{n: x[:, j] for j, n in enumerate(names)}, "y": y}
    got = run({n: {} for n in d}, [step("linear", names, choose="ebic")], scatter(d, [1, 1, 5]))["fit"]
    assert got["selected"][:2] == ["x0", "x1"]
    assert any("nearly as many coefficients as rows" in w for w in got["warnings"])
    for row in got["path"]:
        assert row["objective"] == pytest.approx(pooled_objective(x, y, row["lambda"]), rel=1e-7)


def pooled_objective(x, y, lam):
    return pooled("linear", x, y, lam, 1.0)[2]


def test_twins_and_constant_columns(run, scatter):
    d = made("linear")
    d |= {"b": d["a"], "f": np.full(300, 0.1), "arm": np.minimum(d["arm"], 1.0)}
    got = run(VARIABLES, [step("linear", path=10, l1_ratio=0.5)], scatter(d, SIZES))["fit"]
    fitted = {c["name"]: c["fitted"] for c in got["coefficients"]}
    assert fitted["a"] == pytest.approx(fitted["b"], rel=1e-9)
    assert fitted["f"] == fitted["arm[z]"] == 0.0
    assert "Constant in the cohort, so never selected: f, arm[z]." in got["warnings"]
    lasso = run(VARIABLES, [step("linear", path=10)], scatter(d, SIZES))["fit"]
    assert lasso["converged"]
    with pytest.raises(TaskError, match="Every feature is constant"):
        run(VARIABLES, [step("linear", ["f"])], scatter(d, SIZES))


def test_what_is_said_beside_the_answer(run, scatter):
    got = run(VARIABLES, [step("linear", path=5)], scatter(made("linear"), SIZES))["fit"]
    assert got["intervals"] is None
    assert "too optimistic" in got["intervals_note"]
    assert "ElasticNet(alpha=lambda" in got["objective"]
    assert any("not standardised" in w for w in got["warnings"])
    none = run(VARIABLES, [step("linear", lambdas=[1e3])], scatter(made("linear"), SIZES))["fit"]
    assert (none["selected"], none["chosen_by"]) == ([], "given")
    assert "No variable was selected." in none["warnings"]
    short = run(VARIABLES, [step("logistic", rounds=3)], scatter(made("logistic"), SIZES))["fit"]
    assert not short["converged"]
    assert any("raise rounds" in w for w in short["warnings"])


@pytest.mark.parametrize("family", ["linear", "logistic"])
def test_what_has_no_answer_is_named(run, scatter, family):
    d = made(family, 60)
    with pytest.raises(TaskError, match="same in every row"):
        run(VARIABLES, [step(family)], scatter({**d, "y": np.ones(60)}, [20]))
    with pytest.raises(TaskError, match="No site has a usable row"):
        run(VARIABLES, [step(family)], scatter({**d, "a": np.full(60, np.nan)}, [20]))
    with pytest.raises(TaskError, match=r"same in every row|Every feature is constant"):
        run(VARIABLES, [step(family)], [Rows.of({k: v[:1] for k, v in d.items()})])
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, [step(family, rounds=1)], scatter(d, [20]))
    with pytest.raises(TaskError, match="'a' holds an infinite value"):
        run(VARIABLES, [step(family)], scatter({**d, "a": np.r_[np.inf, d["a"][1:]]}, [20]))
    if family == "logistic":
        with pytest.raises(TaskError, match="values other than 0 and 1"):
            run(VARIABLES, [step(family)], scatter({**d, "y": np.arange(60.0)}, [20]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ridge": 1.0}, "takes no ridge"),
        ({"l1_ratio": 0.0}, "no path begins"),
        ({"choose": "test"}, "set part = 'train'"),
        ({"lambdas": [0.0]}, "lambdas"),
        ({"features": ["a", "y"]}, "both a feature and the outcome"),
        ({"l1ratio": 1}, "did you mean 'l1_ratio'"),
        ({"standardise": "nothing"}, "not an earlier step"),
    ],
)
def test_what_a_study_may_not_ask(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**step("logistic"), **params}]))


def test_a_path_too_wide_is_refused_and_what_leaves_is_counted(build_study):
    names = [f"x{j}" for j in range(500)]
    with pytest.raises(ManifestError, match="more than 8000000 numbers"):
        build_plan(build_study({n: {} for n in [*names, "y"]}, [step("logistic", names, path=100)]))
    for family in ("linear", "logistic"):
        task = build_plan(build_study(VARIABLES, [step(family)]))[0]
        assert f"{task.layout({}).size} numbers in all" in task.leaves()
        assert task.reads() == (*NAMES, "arm", "y")


def test_registered_under_its_name_and_refused_under_privacy():
    terms = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 1000}}
    study = Study.parse({"name": "test", "data": {"variables": VARIABLES}, "terms": terms, "plan": [step("linear")]})
    with pytest.raises(ManifestError, match="'elastic_net' has no form that protects"):
        build_plan(study)
