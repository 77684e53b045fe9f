"""Against statsmodels (Efron, Breslow, strata) and lifelines (intervals, baseline) on the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.datasets import load_lung
from statsmodels.duration.hazard_regression import PHReg

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "time": {"role": "time", "maximum": 1100},
    "dead": {"type": "boolean", "role": "event"},
    "age": {"minimum": 0, "maximum": 120},
    "sex": {},
    "ecog": {},
    "wt": {},
}
FEATURES = ["age", "sex", "ecog", "wt"]


def lung():
    df = load_lung()[["time", "status", "age", "sex", "ph.ecog", "wt.loss"]].dropna()
    df.columns = ["time", "dead", "age", "sex", "ecog", "wt"]
    return {k: df[k].to_numpy(float) for k in df}


def plan(**more):
    times = {"name": "grid", "task": "event_times", "time": "time", "event": "dead"}
    cox = {"name": "cox", "task": "cox", "features": FEATURES, "time": "time", "event": "dead", **more}
    return [cox] if more.get("strata") else [times, {"times": "grid", **cox}]


def reference(d, ties, strata=None, features=FEATURES):
    return PHReg(d["time"], np.column_stack([d[k] for k in features]), status=d["dead"], ties=ties, strata=strata).fit(maxiter=100)


def column(result, key):
    return [c[key] for c in result["coefficients"]]


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("coarse", [1, 30])
def test_lung_pooled(run, scatter, ties, coarse):
    d = lung()
    d["time"] = np.ceil(d["time"] / coarse)
    got = run(VARIABLES, plan(ties=ties), scatter(d, [1, 2, 0, 80]))["cox"]
    ref = reference(d, ties)
    assert got["converged"]
    assert (got["n"], got["events"]) == (len(d["time"]), int(d["dead"].sum()))
    np.testing.assert_allclose(column(got, "coef"), ref.params, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(column(got, "se"), ref.bse, rtol=1e-6)
    np.testing.assert_allclose(column(got, "p"), ref.pvalues, rtol=1e-5)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-10)


def test_lung_is_lifelines(run, scatter):
    import pandas as pd

    d = lung()
    fitted = CoxPHFitter().fit(pd.DataFrame(d), "time", "dead", fit_options={"precision": 1e-14})
    scaled = [{"name": "scale", "task": "standardise", "variables": FEATURES}, *plan(standardise="scale")]
    for steps in (plan(), scaled):
        got = run(VARIABLES, steps, scatter(d, [50, 70]))["cox"]
        np.testing.assert_allclose(column(got, "coef"), fitted.params_, rtol=1e-6)
        np.testing.assert_allclose(column(got, "se"), fitted.standard_errors_, rtol=1e-6)
        np.testing.assert_allclose(column(got, "ci95"), np.exp(fitted.confidence_intervals_), rtol=1e-6)
        np.testing.assert_allclose(got["log_likelihood"], fitted.log_likelihood_, rtol=1e-9)
        test = fitted.log_likelihood_ratio_test()
        np.testing.assert_allclose([got["likelihood_ratio"][k] for k in ("chi_square", "p")], [test.test_statistic, test.p_value], rtol=1e-6)
        base = got["baseline"]
        moved = np.exp(sum(fitted.params_[k] * (base["reference"][k] - d[k].mean()) for k in FEATURES))
        theirs = fitted.baseline_cumulative_hazard_["baseline cumulative hazard"].loc[base["times"]]
        np.testing.assert_allclose(base["cumulative_hazard"], theirs * moved, rtol=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_strata_by_site(run, scatter, ties):
    d = lung()
    d["time"] = np.ceil(d["time"] / 30)
    sites = scatter(d, [2, 60, 0, 70])
    got = run(VARIABLES, plan(strata="site", ties=ties), sites)["cox"]
    joined = {k: np.concatenate([s.columns[k] for s in sites]) for k in d}
    ref = reference(joined, ties, strata=np.repeat(np.arange(len(sites)), [len(s) for s in sites]))
    np.testing.assert_allclose(column(got, "coef"), ref.params, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(column(got, "se"), ref.bse, rtol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], ref.llf, rtol=1e-9)
    assert "baseline" not in got


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 213), max_size=6), seed=st.integers(0, 1000), ties=st.sampled_from(["efron", "breslow"]))
def test_any_partition_gives_the_pooled_result(run, scatter, cuts, seed, ties):
    d = lung()
    d["time"] = np.ceil(d["time"] / 100)
    one = run(VARIABLES, plan(ties=ties), [Rows.of(d)])["cox"]
    many = run(VARIABLES, plan(ties=ties), scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["cox"]
    np.testing.assert_allclose(column(many, "coef"), column(one, "coef"), rtol=1e-8)
    np.testing.assert_allclose(column(many, "se"), column(one, "se"), rtol=1e-8)
    np.testing.assert_allclose(many["baseline"]["cumulative_hazard"], one["baseline"]["cumulative_hazard"], rtol=1e-8)


def test_a_site_without_events_counts_as_at_risk(run):
    d = lung()
    quiet = d["dead"] == 0
    sites = [Rows({k: v[m] for k, v in d.items()}, np.arange(m.sum()).astype(str)) for m in (quiet, ~quiet)]
    got = run(VARIABLES, plan(), sites)["cox"]
    np.testing.assert_allclose(column(got, "coef"), reference(d, "efron").params, rtol=1e-6)


def test_columns_far_from_zero_lose_no_digits(run, scatter):
    d = lung()
    far = {**d, "wt": d["wt"] + 1e6}
    near, away = (run(VARIABLES, plan(), scatter(x, [50]))["cox"] for x in (d, far))
    np.testing.assert_allclose(column(away, "coef"), column(near, "coef"), rtol=1e-6)
    np.testing.assert_allclose(column(away, "se"), column(near, "se"), rtol=1e-6)


def test_ridge_is_lifelines_penalizer(run, scatter):
    import pandas as pd

    d = lung()
    n = len(d["time"])
    scaled = {k: (v - v.mean()) / v.std(ddof=1) if k in FEATURES else v for k, v in d.items()}
    fitted = CoxPHFitter(penalizer=0.1).fit(pd.DataFrame(scaled), "time", "dead", fit_options={"precision": 1e-14})
    got = run(VARIABLES, plan(ridge=0.1 * n), scatter(scaled, [50]))["cox"]
    np.testing.assert_allclose(column(got, "coef"), fitted.params_, rtol=1e-5)


@pytest.mark.parametrize("strata", [None, "site"])
def test_monotone_likelihood_is_named(run, scatter, strata):
    d = lung()
    d["sex"] = ((d["dead"] == 1) & (np.arange(len(d["dead"])) % 3 == 0)).astype(float)
    d["dead"] = d["sex"].copy()  # every event has sex = 1, and nobody else
    with pytest.raises(TaskError, match=r"of 'sex' grow without end. The event is predicted perfectly.*ridge"):
        run(VARIABLES, plan(**({"strata": strata} if strata else {})), scatter(d, [90]))


@pytest.mark.parametrize("strata", [None, "site"])
def test_constant_and_collinear_columns_are_named(run, scatter, strata):
    more = {"strata": strata} if strata else {}
    d = lung()
    with pytest.raises(TaskError, match="'wt' is constant"):
        run(VARIABLES, plan(**more), scatter({**d, "wt": np.full_like(d["wt"], 1234.1)}, [90]))
    with pytest.raises(TaskError, match=r"'age'.*'wt'.*collinear|'wt'.*'age'.*collinear"):
        run(VARIABLES, plan(**more), scatter({**d, "wt": 3 * d["age"] - d["sex"]}, [90]))


def test_no_events_and_times_off_the_grid(run, scatter):
    d = lung()
    with pytest.raises(TaskError, match="no event at all in 'dead'"):
        run(VARIABLES, plan(), scatter({**d, "dead": np.zeros_like(d["dead"])}, [90]))
    with pytest.raises(TaskError, match="no event in 'dead'"):
        run(VARIABLES, plan(strata="site"), scatter({**d, "dead": np.zeros_like(d["dead"])}, [90]))
    with pytest.raises(TaskError, match="not multiples of the resolution 1"):
        run(VARIABLES, plan(), scatter({**d, "time": d["time"] + 0.25}, [90]))
    with pytest.raises(TaskError, match="outside the grid"):
        run(VARIABLES, plan(), scatter({**d, "time": d["time"] + 1000}, [90]))
    with pytest.raises(TaskError, match="other than 0 and 1"):
        run(VARIABLES, plan(), scatter({**d, "dead": d["dead"] + 1}, [90]))
    grid, cox = plan()
    with pytest.raises(TaskError, match=r"did not count.*part = 'all'"):
        run(VARIABLES, [{**grid, "part": "train"}, cox], scatter(d, [90]))


def test_a_fine_grid_of_decimal_times(run, scatter):
    d = lung()
    tenths = {**d, "time": d["time"] * 0.1}
    grid, cox = plan()
    got = run(VARIABLES, [{**grid, "resolution": 0.1}, cox], scatter(tenths, [90]))
    whole = run(VARIABLES, [grid, cox], scatter(d, [90]))
    assert column(got["cox"], "coef") == column(whole["cox"], "coef")
    assert got["grid"]["distinct_times"] == len(np.unique(d["time"][d["dead"] == 1]))
    assert got["grid"]["events"] == d["dead"].sum()


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        ("cox", {"times": "gird"}, "did you mean 'grid'"),
        ("cox", {"times": None}, "does not say where the event times come from"),
        ("cox", {"times": "cox"}, "not an earlier step"),
        ("cox", {"features": ["age", "time"]}, "both a feature and the outcome"),
        ("cox", {"event": "ded"}, "did you mean 'dead'"),
        ("grid", {"time": "age", "resolution": 1e-5}, "coarser resolution"),
        ("grid", {"time": "sex"}, "does not know the longest follow-up"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, step, params, message):
    steps = [{**s, **params} if s["name"] == step else s for s in plan()]
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, steps))
