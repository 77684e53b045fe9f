"""Against statsmodels and scipy on the pooled rows, on synthetic and on real data, and against the ways in which it fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import chi2

import locum.tasks.multinomial  # noqa: F401 - registers the task
from locum import Rows, Study, simulate
from locum.data import registry
from locum.errors import LocumError, ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "dose": {},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "y": {"type": "category", "categories": ["home", "ward", "icu", "dead"], "role": "outcome"},
}
FEATURES = ["age", "dose", "arm"]
FIT = {"name": "fit", "task": "multinomial", "features": FEATURES, "outcome": "y"}


def cohort(n=400, seed=1):
    r = np.random.default_rng(seed)
    age, dose, arm = r.normal(60, 10, n), r.normal(0, 1, n), r.integers(0, 3, n).astype(float)
    eta = np.column_stack([np.zeros(n), 0.03 * (age - 60), 0.5 * dose - 0.6 * (arm == 1) - 0.4, 0.04 * (age - 60) - 0.5 * dose - 1.0])
    p = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
    y = (r.uniform(size=n)[:, None] > np.cumsum(p, 1)).sum(1).astype(float)
    return {"age": age, "dose": dose, "arm": arm, "y": y}


def matrix(d):
    return np.column_stack([np.ones(len(d["y"])), d["age"], d["dose"], d["arm"] == 1, d["arm"] == 2]).astype(float)


def reference(d):
    """statsmodels' fit, from standardised columns for precision, with parameters (K-1, p) on the original scale, and their covariance."""
    x = matrix(d)
    mean, sd = np.r_[0.0, x[:, 1:].mean(0)], np.r_[1.0, x[:, 1:].std(0)]
    mean[0] = 0.0
    a = np.diag(1 / sd)
    a[0, 1:] = -mean[1:] / sd[1:]
    fit = sm.MNLogit(d["y"], np.column_stack([np.ones(len(x)), (x[:, 1:] - mean[1:]) / sd[1:]])).fit(method="newton", tol=1e-14, maxiter=200, disp=0)
    k = len(np.unique(d["y"])) - 1
    big = np.kron(np.eye(k), a)
    return fit, (big @ fit.params.T.reshape(-1)), big @ fit.cov_params() @ big.T


def column(result, key):
    return np.array([c[key] for c in result["coefficients"]], float)


def check(got, d, rtol=1e-6):
    ref, b, cov = reference(d)
    se = np.sqrt(np.diag(cov))
    assert got["converged"]
    np.testing.assert_allclose(column(got, "coef"), b, rtol=rtol, atol=1e-8)
    np.testing.assert_allclose(column(got, "se"), se, rtol=rtol)
    np.testing.assert_allclose(column(got, "p"), chi2.sf((b / se) ** 2, 1), rtol=1e-4, atol=1e-300)
    np.testing.assert_allclose(column(got, "relative_risk_ratio"), np.exp(b), rtol=1e-5)
    np.testing.assert_allclose(column(got, "relative_risk_ratio_ci95")[:, 1], np.exp(b + 1.959963984540054 * se), rtol=1e-5)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)
    np.testing.assert_allclose(got["log_likelihood_null"], ref.llnull, rtol=1e-8)
    np.testing.assert_allclose(got["likelihood_ratio"]["chi_square"], ref.llr, rtol=1e-6)
    np.testing.assert_allclose(got["likelihood_ratio"]["p"], ref.llr_pvalue, rtol=1e-5, atol=1e-300)
    return b, cov


@pytest.mark.parametrize("standardise", [False, True])
def test_equal_to_statsmodels_pooled(run, scatter, standardise):
    d = cohort()
    plan = [{**FIT, **({"standardise": "scale"} if standardise else {})}]
    if standardise:
        plan.insert(0, {"name": "scale", "task": "standardise", "variables": ["age", "dose"]})
    got = run(VARIABLES, plan, scatter(d, [1, 1, 2, 0, 50, 100]))["fit"]
    b, cov = check(got, d)
    assert [c["name"] for c in got["coefficients"]][:6] == ["ward: (intercept)", "ward: age", "ward: dose", "ward: arm[b]", "ward: arm[c]", "icu: (intercept)"]
    assert got["reference"] == "home"
    assert got["counts"] == {name: int((d["y"] == k).sum()) for k, name in enumerate(VARIABLES["y"]["categories"])}
    index = np.r_[3, 4, 8, 9, 13, 14]
    wald = b[index] @ np.linalg.solve(cov[np.ix_(index, index)], b[index])
    assert got["variables"][2]["variable"] == "arm"
    assert got["variables"][2]["df"] == 6
    np.testing.assert_allclose(got["variables"][2]["chi_square"], wald, rtol=1e-6)


def test_reference_changes_only_the_contrasts(run, scatter):
    d = cohort()
    sites = scatter(d, [30, 1, 100])
    home, icu = (run(VARIABLES, [{**FIT, "reference": name}], sites)["fit"] for name in ("home", "icu"))
    swapped = {**d, "y": np.choose(d["y"].astype(int), [1, 2, 0, 3]).astype(float)}
    _, b, _ = reference(swapped)
    assert icu["reference"] == "icu"
    assert list(dict.fromkeys(c["outcome"] for c in icu["coefficients"])) == ["home", "ward", "dead"]
    np.testing.assert_allclose(column(icu, "coef"), b, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(icu["log_likelihood"], home["log_likelihood"], rtol=1e-12)
    np.testing.assert_allclose(column(icu, "coef")[:5], -column(home, "coef")[5:10], rtol=1e-8)


def test_merged_categories_are_one(run, scatter):
    d = cohort()
    got = run(VARIABLES, [{**FIT, "merge": [["icu", "dead"]]}], scatter(d, [30, 1]))["fit"]
    check(got, {**d, "y": np.minimum(d["y"], 2.0)})
    assert list(got["counts"]) == ["home", "ward", "icu+dead"]


def test_ridge_maximises_the_penalised_likelihood(run, scatter):
    d = cohort(120)
    got = run(
        VARIABLES, [{"name": "scale", "task": "standardise", "variables": ["age", "dose"]}, {**FIT, "standardise": "scale", "ridge": 3.0}], scatter(d, [7])
    )
    fit, x, y = got["fit"], matrix(d), d["y"].astype(int)
    mean, sd = x[:, 1:3].mean(0), x[:, 1:3].std(0, ddof=1)
    x[:, 1:3] = (x[:, 1:3] - mean) / sd

    def loss(flat):
        eta = np.column_stack([np.zeros(len(x)), x @ flat.reshape(3, 5).T])
        p = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
        slope = (p[:, 1:] - (y[:, None] == [1, 2, 3])).T @ x
        penalty = flat.reshape(3, 5) * [0, 1, 1, 1, 1]
        return -np.log(p[np.arange(len(y)), y]).sum() + 1.5 * (penalty**2).sum(), (slope + 3.0 * penalty).reshape(-1)

    best = minimize(loss, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-9}).x.reshape(3, 5)
    best[:, 1:3] /= sd
    best[:, 0] -= best[:, 1:3] @ mean
    np.testing.assert_allclose(column(fit, "coef"), best.reshape(-1), rtol=1e-5, atol=1e-7)
    assert "likelihood_ratio" not in fit
    assert "ridge" in fit["warnings"][0]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 150), max_size=6), seed=st.integers(0, 1000))
def test_any_partition_gives_the_pooled_result(run, scatter, cuts, seed):
    d = cohort(150)
    one = run(VARIABLES, [FIT], [Rows.of(d)])["fit"]
    many = run(VARIABLES, [FIT], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    np.testing.assert_allclose(column(many, "coef"), column(one, "coef"), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(column(many, "se"), column(one, "se"), rtol=1e-9)


def test_sites_of_one_patient_in_the_masked_engine(build_study):
    d = cohort(150)
    everyone = Rows.of(d)
    parts = {f"s{i:03d}": everyone.take(np.asarray([i])) for i in range(90)} | {"big": everyone.take(np.arange(90, 150))}
    study = Study.parse({"name": "test", "data": {"variables": VARIABLES}, "terms": {"privacy": "none", "min_cohort": 40}, "plan": [FIT]})
    got = simulate(study, parts).results["fit"]
    check(got, d)
    assert got["n"] == 150


def real(name, features, outcome, categories, column, least, **fit):
    """A registered data set with an outcome of several levels, which its own contract makes yes or no: the result, and the pooled complete cases."""
    found = registry.get(name)
    variables = found.data.model_dump()["variables"]
    made = {"type": "category", "categories": categories, "role": "outcome"}
    data = type(found.data).parse({"variables": {n: variables[n] for n in features} | {outcome: made}})
    columns = {n: c.model_dump(exclude_defaults=True) for n, c in found.mapping.columns.items() if n in features}
    mapping = type(found.mapping).parse({"columns": columns | {outcome: column}})
    try:
        parts = registry.load(replace(found, data=data, mapping=mapping))
    except LocumError as error:
        pytest.skip(str(error))
    plan = [{"name": "fit", "task": "multinomial", "features": features, "outcome": outcome, **fit}]
    study = Study.parse({"name": "test", "data": data.model_dump(), "terms": {"privacy": "none", "min_cohort": least}, "plan": plan})
    rows = np.vstack([r.matrix([*features, outcome]) for r in parts.values()])
    return lambda: simulate(study, parts).results["fit"], rows[~np.isnan(rows).any(axis=1)], parts


def test_heart_disease_of_four_hospitals():
    features = ["age", "sex", "cp", "exang", "oldpeak"]
    run, rows, _ = real("heart_disease", features, "num", list("01234"), "num", 4)
    assert not ((rows[:, 2] == 1) & (rows[:, 5] == 4)).any()  # nobody with chest pain of type 2 has four narrowed vessels
    with pytest.raises(TaskError, match=r"'cp\[2\] for 4' grow without end"):
        run()
    run, _, parts = real("heart_disease", features, "num", list("01234"), "num", 4, merge=[["3", "4"]])
    got = run()
    x = np.column_stack([np.ones(len(rows)), rows[:, 0] - 50, rows[:, 1], *(rows[:, 2] == k for k in (1, 2, 3)), rows[:, 3:5]]).astype(float)
    ref = sm.MNLogit(np.minimum(rows[:, 5], 3), x).fit(method="newton", tol=1e-14, maxiter=200, disp=0)
    b = ref.params.T.copy()
    b[:, 0] -= 50 * b[:, 1]
    assert (got["n"], len(parts)) == (len(rows), 4)
    np.testing.assert_allclose(column(got, "coef").reshape(3, -1), b, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(column(got, "se").reshape(3, -1)[:, 1:], ref.bse.T[:, 1:], rtol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)


def test_stroke_outcome_of_four_levels_over_466_hospitals():
    features = ["age", "female", "rsbp", "rconsc", "rxasp"]
    levels, values = ["recovered", "not recovered", "dependent", "dead"], {"1": "dead", "2": "dependent", "3": "not recovered", "4": "recovered"}
    run, rows, parts = real("ist", features, "outcome", levels, {"column": "OCCODE", "values": values, "missing": [0, 9]}, 100)
    got = run()
    ones = np.ones(len(rows))
    x = np.column_stack([ones, (rows[:, 0] - 70) / 10, rows[:, 1], (rows[:, 2] - 160) / 100, rows[:, 3] == 1, rows[:, 3] == 2, rows[:, 4]]).astype(float)
    ref = sm.MNLogit(rows[:, 5], x).fit(method="newton", tol=1e-14, maxiter=200, disp=0)
    b = ref.params.T / [1, 10, 1, 100, 1, 1, 1]
    b[:, 0] -= 70 * b[:, 1] + 160 * b[:, 3]
    assert (len(parts), min(len(r) for r in parts.values())) == (466, 1)
    assert (got["n"], got["sites"]) == (len(rows), 464)  # two hospitals have no patient with all values, and decline
    np.testing.assert_allclose(column(got, "coef").reshape(3, -1), b, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(column(got, "se").reshape(3, -1)[:, 1:], (ref.bse.T / [1, 10, 1, 100, 1, 1, 1])[:, 1:], rtol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)


def test_probabilities_are_those_of_statsmodels(build_study, run_state):
    d, study = cohort(200), build_study(VARIABLES, [FIT])
    _, state = run_state(study, [Rows.of(d)])
    got = build_plan(study)[0].probabilities(state, Rows.of(d))
    ref = sm.MNLogit(d["y"], matrix(d)).fit(method="newton", tol=1e-13, maxiter=200, disp=0)
    np.testing.assert_allclose(got, ref.predict(), rtol=1e-6, atol=1e-9)


def test_missing_values_are_left_out_and_counted(run, scatter):
    d = cohort()
    d["y"][:25] = np.nan
    got = run(VARIABLES, [FIT], scatter(d, [100]))["fit"]
    assert (got["n"], got["left_out"]) == (375, 25)
    check(got, {k: v[25:] for k, v in d.items()})


def test_an_empty_category_is_named(run, scatter):
    d = cohort()
    d["y"][d["y"] == 2] = 0
    with pytest.raises(TaskError, match=r"No usable row of the cohort has y = 'icu'.*merge"):
        run(VARIABLES, [FIT], scatter(d, [100]))
    assert run(VARIABLES, [{**FIT, "merge": [["icu", "dead"]]}], scatter(d, [100]))["fit"]["converged"]


def test_separation_names_column_and_category(run, scatter):
    d = cohort()
    d["y"][(d["arm"] == 2) & (d["y"] == 3)] = 1
    with pytest.raises(TaskError, match=r"coefficients of 'arm\[c\] for dead' grow without end.*separation.*ridge"):
        run(VARIABLES, [FIT], scatter(d, [100]))
    assert run(VARIABLES, [{**FIT, "ridge": 1.0}], scatter(d, [100]))["fit"]["converged"]
    d = cohort()
    d["dose"] = d["y"] + 0.1 * np.sin(np.arange(400))
    with pytest.raises(TaskError, match=r"'dose for .*grow without end"):
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


def test_bad_rows_are_refused(run, scatter):
    d = cohort(30)
    with pytest.raises(TaskError, match="15 coefficients and only 12 rows"):
        run(VARIABLES, [FIT], scatter({k: np.r_[v[:8], v[:4]] if k != "y" else np.arange(12) % 4.0 for k, v in d.items()}, [3]))
    with pytest.raises(TaskError, match="values that are none of its categories"):
        run(VARIABLES, [FIT], scatter({**d, "y": d["y"] + 0.5}, [3]))
    with pytest.raises(TaskError, match="No site has a usable row"):
        run(VARIABLES, [FIT], scatter({**d, "dose": np.full(30, np.nan)}, [3]))


def test_too_few_rounds_are_said(run, scatter):
    sites = scatter(cohort(), [100])
    got = run(VARIABLES, [{**FIT, "rounds": 3}], sites)["fit"]
    assert not got["converged"]
    assert "before the fit converged" in got["warnings"][0]
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, [{**FIT, "rounds": 1}], sites)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"outcome": "age", "features": ["dose"]}, "is of type 'number', not a category"),
        ({"features": ["age", "y"]}, "both a feature and the outcome"),
        ({"reference": "hom"}, "did you mean 'home'"),
        ({"merge": [["icu", "deat"]]}, "did you mean 'dead'"),
        ({"merge": [["icu", "dead"], ["dead", "home"]]}, "merge names 'dead' twice"),
        ({"merge": [["icu"]]}, "fewer than two categories"),
        ({"merge": [["icu", "dead", "ward"]]}, "has 2 categories"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**FIT, **params}]))


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, [FIT]))[0]
    assert "gradient (15 numbers)" in task.leaves()
    assert task.layout({}).size == 4 + 1 + 5
    assert task.reads() == ("age", "dose", "arm", "y")
