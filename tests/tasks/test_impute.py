"""Imputation: equal to what anybody computes on the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest

from locum import Rows, simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.prepare import prepared

VARIABLES = {
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "sbp": {"minimum": 50, "maximum": 300},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "smoker": {"type": "boolean"},
    "died": {"type": "boolean", "role": "outcome"},
}
FILL = {"name": "fill", "task": "impute", "variables": ["age", "sbp", "arm", "smoker"]}
REGRESSION = {**FILL, "method": "regression", "predictors": ["age", "arm", "smoker"]}
AFTER = {"name": "after", "task": "moments", "variables": ["age", "sbp", "smoker"]}


def columns(n=400, seed=0):
    r = np.random.default_rng(seed)
    age = r.integers(30, 90, n).astype(float)
    d = {
        "age": age,
        "sbp": 80 + age + r.normal(0, 10, n),
        "arm": r.choice([0.0, 1.0, 2.0], n, p=[0.2, 0.5, 0.3]),
        "smoker": (r.random(n) < 0.3).astype(float),
        "died": (r.random(n) < 0.4).astype(float),
    }
    for name in ("age", "sbp", "arm", "smoker"):
        d[name][r.random(n) < 0.2] = np.nan
    return d


def filled(build_study, run_state, plan, parts):
    """The rows as the last step sees them, in order of sites."""
    s = build_study(VARIABLES, plan)
    results, state = run_state(s, parts)
    task = build_plan(s)[-1]
    return results, [prepared(task, state, rows) for rows in parts]


def joined(parts, name):
    return np.concatenate([rows.columns[name] for rows in parts])


@pytest.mark.parametrize("method", ["mean", "median"])
def test_means_medians_and_modes(build_study, run_state, scatter, method):
    parts = scatter(columns(), [1, 2, 0, 100])
    _, after = filled(build_study, run_state, [{**FILL, "method": method, "indicators": True}, AFTER], parts)
    for name in ("age", "sbp", "arm", "smoker"):
        x, y = joined(parts, name), joined(after, name)
        there = x[~np.isnan(x)]
        if name in ("arm", "smoker"):
            want = np.bincount(there.astype(int)).argmax()
        else:
            want = there.mean() if method == "mean" else np.quantile(there, 0.5, method="inverted_cdf")
        np.testing.assert_allclose(y, np.where(np.isnan(x), want, x), rtol=1e-9 if method == "mean" or name != "sbp" else 1e-5)
        np.testing.assert_array_equal(joined(after, f"{name}_missing"), np.isnan(x))


def reference(x):
    """Regression imputation of age and sbp with numpy on the pooled rows: predictors mean-imputed, each target's own complete cases."""
    fill = {"age": np.nanmean(x["age"]), "arm": 1.0, "smoker": 0.0}
    known = {n: np.where(np.isnan(x[n]), v, x[n]) for n, v in fill.items()}
    out = {}
    for target in ("age", "sbp"):
        z = [np.ones(len(x["age"])), *([known["age"]] if target != "age" else []), known["arm"] == 1, known["arm"] == 2, known["smoker"]]
        z = np.column_stack(z)
        there = ~np.isnan(x[target])
        b = np.linalg.lstsq(z[there], x[target][there], rcond=None)[0]
        low, high = VARIABLES[target]["minimum"], VARIABLES[target]["maximum"]
        out[target] = np.where(there, x[target], np.clip(z @ b, low, high))
    return out


def test_regression(build_study, run_state, scatter):
    d = columns()
    parts = scatter(d, [1, 2, 0, 100])
    x = {n: joined(parts, n) for n in d}
    assert np.bincount(x["arm"][~np.isnan(x["arm"])].astype(int)).argmax() == 1
    results, after = filled(build_study, run_state, [REGRESSION, AFTER], parts)
    want = reference(x)
    for target in ("age", "sbp"):
        np.testing.assert_allclose(joined(after, target), want[target], rtol=1e-9)
    assert results["fill"]["variables"]["age"]["standardised_coefficients"]["age"] == 0.0, "nothing explains itself"
    assert results["after"]["variables"]["sbp"]["missing"] == 0


def test_a_prediction_outside_the_range_is_cut_to_it(build_study, run_state):
    age = np.r_[np.linspace(30, 50, 50), 119.0]
    d = {"age": age, "sbp": np.r_[60 + 4 * (age[:-1] - 30), np.nan], "arm": np.arange(51.0) % 3, "smoker": np.arange(51.0) % 2, "died": np.zeros(51)}
    _, after = filled(build_study, run_state, [{**REGRESSION, "predictors": ["age"]}, AFTER], [Rows.of(d)])
    assert after[0].columns["sbp"][-1] == 300.0


def test_each_row_is_filled_by_itself(build_study, run_state, scatter):
    s = build_study(VARIABLES, [REGRESSION, AFTER])
    parts = scatter(columns(), [100])
    state, task = run_state(s, parts)[1], build_plan(s)[1]
    whole = prepared(task, state, parts[0])
    for i in (0, 7, 50):
        alone = prepared(task, state, parts[0].take(np.array([i])))
        for name in whole.columns:
            np.testing.assert_array_equal(alone.columns[name], whole.columns[name][i : i + 1])


def test_values_are_learned_of_the_training_patients_and_fill_all(build_study, run_state, scatter):
    parts = scatter(columns(), [100])
    s = build_study(VARIABLES, [{**FILL, "part": "train"}, AFTER])
    state = run_state(s, parts)[1]
    train = np.concatenate([r.part("train", s.data.split).columns["sbp"] for r in parts])
    test = [prepared(build_plan(s)[1], state, r).part("test", s.data.split).columns["sbp"] for r in parts]
    assert not np.isnan(np.concatenate(test)).any()
    assert np.isclose(np.concatenate(test), np.nanmean(train), rtol=1e-12).any()


def test_types_and_labels_of_what_is_derived(build_study):
    found = build_plan(build_study(VARIABLES, [{**FILL, "indicators": True}, AFTER]))[1].study.data.variables
    assert (found["age"].type, found["age"].minimum, found["arm"].categories) == ("number", 0, ("a", "b", "c"))
    assert (found["age_missing"].type, found["sbp_missing"].role) == ("boolean", "feature")
    medians = build_plan(build_study(VARIABLES, [{**FILL, "method": "median"}, AFTER]))[1].study.data.variables
    assert medians["age"].type == "integer"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": ["died"]}, "'died' has the role 'outcome' and is not filled in"),
        ({"variables": ["agee"]}, "did you mean 'age'"),
        ({"variables": ["age", "age"]}, "listed twice"),
        ({"predictors": ["sbp"]}, "predictors are listed for method 'regression'"),
        ({"method": "regression"}, "predictors are listed for method 'regression'"),
        ({"method": "mode"}, "method"),
    ],
)
def test_wrong_parameters(build_study, change, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**FILL, **change}]))


def test_an_indicator_that_is_there_already(build_study):
    with pytest.raises(ManifestError, match="'age_missing' is a variable already"):
        build_plan(build_study({**VARIABLES, "age_missing": {}}, [{**FILL, "indicators": True}]))


@pytest.mark.parametrize(
    ("change", "plan", "message"),
    [
        ({"arm": np.full(400, np.nan)}, FILL, "'arm' is missing in every row of the cohort"),
        ({"sbp": np.full(400, np.nan)}, FILL, "'sbp' is missing in every row of the cohort"),
        ({"smoker": np.zeros(400)}, REGRESSION, r"'smoker' is constant.*predictors of step 'fill'"),
        ({"sbp": np.r_[120.0, 130.0, np.full(398, np.nan)]}, REGRESSION, "'sbp' is known in too few rows"),
    ],
)
def test_no_answer(run, scatter, change, plan, message):
    with pytest.raises(TaskError, match=message):
        run(VARIABLES, [plan, AFTER], scatter({**columns(), **change}, [100]))


def test_counts_of_categories_are_not_kept(build_study, run_state, scatter):
    _, state = run_state(build_study(VARIABLES, [FILL]), scatter(columns(), [100]))
    assert [n for n in state if "modes" in n] == ["fill.(modes):mode"]


def test_heart_disease_at_four_hospitals(sites, real_study, pooled):
    """Cholesterol is unknown at all of Switzerland; ca and thal nearly everywhere but in Cleveland."""
    parts = sites("heart_disease")
    plan = [
        {"name": "fill", "task": "impute", "variables": ["chol", "trestbps", "ca", "thal"], "method": "regression", "predictors": ["age", "sex", "trestbps"]},
        {"name": "after", "task": "moments", "variables": ["chol", "trestbps", "ca"]},
    ]
    s = real_study("heart_disease", plan)
    run = simulate(s, parts)
    x = {n: pooled(parts, n)[:, 0] for n in ("chol", "trestbps", "ca", "age", "sex", "thal")}
    bp = np.where(np.isnan(x["trestbps"]), np.nanmean(x["trestbps"]), x["trestbps"])
    for target in ("chol", "trestbps", "ca"):
        z = np.column_stack([np.ones(len(bp)), x["age"], x["sex"], *([bp] if target != "trestbps" else [])])
        there = ~np.isnan(x[target])
        b = np.linalg.lstsq(z[there], x[target][there], rcond=None)[0]
        want = np.where(there, x[target], np.clip(z @ b, *((50, 1000) if target == "chol" else (50, 300) if target == "trestbps" else (0, 3))))
        got = run.results["after"]["variables"][target]
        print(target, "missing before", int((~there).sum()), "mean", got["mean"], "pooled", want.mean())
        np.testing.assert_allclose([got["mean"], got["variance"]], [want.mean(), want.var(ddof=1)], rtol=1e-9)
        assert (got["n"], got["missing"]) == (920, 0)
    thal = x["thal"][~np.isnan(x["thal"])].astype(int)
    assert run.results["fill"]["variables"]["thal"]["most_frequent"] == s.data.variables["thal"].categories[np.bincount(thal).argmax()]
