"""Evaluation against scikit-learn, statsmodels and lifelines on the pooled test patients."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_lung
from lifelines.utils import concordance_index
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Split
from locum.tasks import build_plan
from locum.tasks.concordance import auc_table, harrell, harrell_table, pairs

NAMES = ["texture", "smoothness", "symmetry"]
BINARY = {**{n: {} for n in NAMES}, "y": {"type": "boolean", "role": "outcome"}}
SURVIVAL = {"time": {"maximum": 1100}, "dead": {"type": "boolean", "role": "event"}, "age": {}, "sex": {}, "ecog": {}}


def cancer():
    data = load_breast_cancer()
    x = {n: data.data[:, list(data.feature_names).index(f"mean {n}")] for n in NAMES}
    return {**x, "y": data.target.astype(float)}


def lung():
    df = load_lung()[["time", "status", "age", "sex", "ph.ecog"]].dropna()
    df.columns = list(SURVIVAL)
    return {k: df[k].to_numpy(float) for k in df}


def binary_plan(**more):
    fit = {"name": "fit", "task": "logistic", "features": NAMES, "outcome": "y", "part": "train", "standardise": "scale"}
    scale = {"name": "scale", "task": "standardise", "variables": NAMES, "part": "train"}
    return [scale, fit, {"name": "eval", "task": "evaluate_binary", "model": "fit", **more}]


def survival_plan(cox=None, **more):
    grid = {"name": "grid", "task": "event_times", "time": "time", "event": "dead"}
    fit = {"name": "fit", "task": "cox", "features": ["age", "sex", "ecog"], "time": "time", "event": "dead", "times": "grid", "part": "train", **(cox or {})}
    return [grid, fit, {"name": "eval", "task": "evaluate_survival", "model": "fit", **more}]


def scores(result, columns):
    return sum(c["coef"] * (1.0 if c["name"] == "(intercept)" else columns[c["name"]]) for c in result["coefficients"])


def test_binary_on_unseen_patients(run, scatter):
    d = cancer()
    sites = scatter(d, [1, 2, 0, 60, 200])
    results = run(BINARY, binary_plan(), sites)
    got, test = results["eval"], Rows.of(d).part("test", Split())
    y, eta = test.columns["y"], scores(results["fit"], test.columns)
    p = 1 / (1 + np.exp(-eta))
    assert (got["n"], got["positives"]) == (len(test), int(y.sum()))
    assert abs(got["auc"]["value"] - roc_auc_score(y, eta)) <= got["auc"]["error_bound"] < 1e-3
    assert got["auc"]["se"] == pytest.approx(delong(y, eta), rel=1e-2)
    np.testing.assert_allclose([got["accuracy"], got["brier"]], [accuracy_score(y, p > 0.5), brier_score_loss(y, p)], rtol=1e-9)
    line = sm.GLM(y, sm.add_constant(eta), family=sm.families.Binomial()).fit(tol=1e-14)
    c = got["calibration"]
    np.testing.assert_allclose([c["intercept"], c["slope"]], line.params, rtol=1e-6)
    np.testing.assert_allclose([c["intercept_se"], c["slope_se"]], line.bse, rtol=1e-6)
    np.testing.assert_allclose(c["observed_over_expected"], y.sum() / p.sum(), rtol=1e-9)
    within = [site_pairs(s.part("test", Split()), results["fit"]) for s in sites]
    assert got["auc_within_sites"]["value"] == pytest.approx(sum(a for a, _ in within) / sum(n for _, n in within), rel=1e-12)
    assert got["auc_within_sites"]["pairs"] == sum(n for _, n in within)


def site_pairs(rows, fit):
    eta, y = scores(fit, rows.columns), rows.columns["y"] == 1
    n = int(y.sum() * (~y).sum())
    return (roc_auc_score(y, eta) * n if n else 0.0), n


def delong(y, s):
    a, b = s[y == 1], s[y == 0]
    kernel = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    return np.sqrt(kernel.mean(1).var(ddof=1) / len(a) + kernel.mean(0).var(ddof=1) / len(b))


def test_binary_that_separates_has_no_calibration_line(run, scatter):
    d = cancer()
    d["texture"] = d["y"] + 0.001 * d["texture"] / d["texture"].max()
    plan = binary_plan()
    plan[1]["ridge"] = 1.0
    got = run(BINARY, plan, scatter(d, [100]))["eval"]
    assert got["auc"]["value"] == 1.0
    assert got["calibration"]["slope"] is None
    assert got["accuracy"] > 0.99


def test_binary_with_one_outcome_only(run, scatter):
    d = cancer()
    test = Rows.of(d).part("test", Split())
    d["y"][np.isin(np.arange(len(d["y"])).astype(str), test.patient)] = 1.0
    with pytest.raises(TaskError, match="do not include both outcomes of 'y'"):
        run(BINARY, binary_plan(), scatter(d, [100]))


@pytest.mark.parametrize("cox", [{}, {"strata": "site"}])
def test_survival_on_unseen_patients(run, scatter, cox):
    d = lung()
    sites = scatter(d, [1, 2, 0, 60])
    results = run(SURVIVAL, survival_plan(cox), sites)
    got, test = results["eval"], Rows.of(d).part("test", Split())
    risk = scores(results["fit"], test.columns)
    assert (got["n"], got["events"]) == (len(test), int(test.columns["dead"].sum()))
    exact = concordance_index(test.columns["time"], -np.round(risk, 9), test.columns["dead"])
    assert abs(got["concordance"]["value"] - exact) <= got["concordance"]["error_bound"] < 0.02
    total = np.zeros(2)
    for site in (s.part("test", Split()) for s in sites):
        total += harrell(site.columns["time"], site.columns["dead"] == 1, np.round(scores(results["fit"], site.columns), 9))
    assert got["concordance_within_sites"] == {"value": pytest.approx(total[0] / total[1], rel=1e-12), "pairs": int(total[1])}


def test_survival_by_site_alone_needs_no_event_times(run, scatter):
    plan = survival_plan({"strata": "site", "times": None})
    got = run(SURVIVAL, [{**s, "ridge": 0.1} if s["name"] == "fit" else s for s in plan[1:]], scatter(lung(), [60, 70]))["eval"]
    assert got["concordance"] is None
    assert 0.4 < got["concordance_within_sites"]["value"] < 0.9


outcomes = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(-3, 3)), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(rows=outcomes)
def test_harrell_is_lifelines(rows):
    time, event, score = np.array(rows, float).T
    concordant, comparable = harrell(time, event == 1, score)
    if comparable:
        assert concordant / comparable == pytest.approx(concordance_index(time, -score, event), abs=1e-12)
    else:
        with pytest.raises(ZeroDivisionError):
            concordance_index(time, -score, event)


@settings(max_examples=200, deadline=None)
@given(rows=outcomes, coarse=st.integers(1, 4))
def test_the_table_bounds_the_error_of_binning(rows, coarse):
    time, event, score = np.array(rows, float).T
    if not event.any():
        return
    times = np.unique(time[event == 1])
    position, bins = np.searchsorted(times, time, "right"), ((score + 3) // coarse).astype(int)
    tables = np.zeros((2, len(times) + 1, 7))
    np.add.at(tables, (np.where(event == 1, 0, 1), position, bins), 1)
    concordant, comparable, same = harrell_table(tables[0, 1:], tables[1, 1:])
    exact, pairs_ = harrell(time, event == 1, score)
    assert comparable == pairs_
    assert abs(concordant - exact) <= same / 2
    assert coarse > 1 or concordant == exact


@settings(max_examples=200, deadline=None)
@given(rows=outcomes, coarse=st.integers(1, 4))
def test_auc_from_a_table(rows, coarse):
    _, y, score = np.array(rows, float).T
    if len(set(y)) < 2:
        return
    bins = ((score + 3) // coarse).astype(int)
    auc, bound, se = auc_table(*(np.bincount(bins[y == c], minlength=7).astype(float) for c in (1, 0)))
    exact = roc_auc_score(y, score)
    assert abs(auc - exact) <= bound + 1e-12
    assert pairs(score[y == 1], score[y == 0]) == pytest.approx(exact * (y == 1).sum() * (y == 0).sum())
    if coarse == 1:
        assert auc == pytest.approx(exact)
        assert se is None or se == pytest.approx(delong(y, score), abs=1e-12)


def test_local_models_against_the_federated_one(run, scatter):
    d = cancer()
    sites = scatter(d, [1, 3, 0, 60, 200])
    plan = [*binary_plan(), {"name": "alone", "task": "local_baseline", "model": "fit", "ridge": 0.5}]
    results = run(BINARY, plan, sites)
    got = results["alone"]
    x = {n: d[n] for n in NAMES}
    train = Rows.of(d).part("train", Split()).columns
    centre, scale = ({n: f(train[n]) for n in NAMES} for f in (np.mean, lambda a: np.std(a, ddof=1)))
    expected = dict.fromkeys(("pairs", "local", "federated", "n", "correct", "majority", "fitted"), 0.0)
    for site in sites:
        parts = [site.part(p, Split()).columns for p in ("train", "test")]
        (a, ya), (b, yb) = ((np.column_stack([(c[n] - centre[n]) / scale[n] for n in x]), c["y"]) for c in parts)
        if len(set(ya)) < 2 or not len(yb):
            continue
        model = LogisticRegression(C=2.0, tol=1e-10, max_iter=1000).fit(a, ya)
        own, ours = model.decision_function(b), scores(results["fit"], parts[1])
        n = (yb == 1).sum() * (yb == 0).sum()
        expected["pairs"] += n
        expected["local"] += pairs(own[yb == 1], own[yb == 0])
        expected["federated"] += pairs(ours[yb == 1], ours[yb == 0])
        expected["n"] += len(yb)
        expected["correct"] += ((own > 0) == yb).sum()
        expected["majority"] += ((ya.mean() > 0.5) == yb).sum()
        expected["fitted"] += 1
    assert (got["sites"], got["sites_tried"], got["pairs"], got["n"]) == (5, expected["fitted"], expected["pairs"], expected["n"])
    assert got["sites_without_model"] == got["sites"] - got["sites_fitted"] >= 1  # of one patient nothing can be said
    for key, value in (("local", "local"), ("federated", "federated")):
        assert got[f"{key}_concordance"] == pytest.approx(expected[value] / expected["pairs"], abs=1e-9)
    assert got["local_accuracy"] == pytest.approx(expected["correct"] / expected["n"])
    assert got["majority_accuracy"] == pytest.approx(expected["majority"] / expected["n"])


def test_local_survival_models(run, scatter):
    d = lung()
    sites = scatter(d, [1, 2, 0, 60])
    results = run(SURVIVAL, [*survival_plan(), {"name": "alone", "task": "local_baseline", "model": "fit"}], sites)
    got = results["alone"]
    assert got["sites"] == 4
    assert 2 <= got["sites_fitted"] <= 4
    assert got["pairs"] <= results["eval"]["concordance_within_sites"]["pairs"]
    assert 0.4 < got["local_concordance"] < 0.8
    assert 0.4 < got["federated_concordance"] < 0.8


RANGED = {**BINARY, **{n: {"minimum": 0, "maximum": 50} for n in NAMES}}
ALONE = {"name": "alone", "task": "local_baseline", "model": "fit", "by_size": True}
TREES = {
    "name": "fit", "task": "boosted_trees", "features": NAMES, "outcome": "y", "part": "train", "trees": 4, "depth": 2, "min_child_patients": 11, "rounds": 12,
}  # fmt: skip
SCALED = {"features": NAMES, "outcome": "y", "part": "train", "standardise": "scale"}
TIMED = {"features": ["age", "sex", "ecog"], "time": "time", "event": "dead", "part": "train"}
FITS = {
    "elastic_net": {**SCALED, "family": "logistic", "lambdas": [0.05]},
    "sgd": {**SCALED, "rounds": 40},
    "boosted_trees": TREES,
    "cox": {**TIMED, "strata": "site"},
    "piecewise_exponential": {**TIMED, "cuts": [200, 500]},
    "discrete_time": {**TIMED, "cuts": [200, 500, 1100]},
}


@pytest.mark.parametrize("kind", sorted(FITS))
def test_every_model_that_is_evaluated_has_a_local_form(kind, run, scatter):
    """The whole federation as one site: its own model is the federated one, and by the same pairs."""
    survival = "time" in FITS[kind]
    variables, d = (SURVIVAL, lung()) if survival else (RANGED, cancer())
    scale = [] if survival or kind == "boosted_trees" else binary_plan()[:1]
    plan = [*scale, {**FITS[kind], "name": "fit", "task": kind}, {**ALONE, "ridge": 0.0}]
    one = run(variables, plan, scatter(d, [len(next(iter(d.values())))]))["alone"]
    assert one["sites_without_model"] == 0
    assert one["local_concordance"] == pytest.approx(one["federated_concordance"], abs=1e-9)
    assert one["local_concordance_mean_of_sites"] == pytest.approx(one["local_concordance"], abs=1e-12)

    many = run(variables, plan, scatter(d, [1, 2, 0, 20, 60]))["alone"]
    by = many["by_test_rows"]
    assert many["sites"] == 5
    assert all(row["sites"] is None or row["sites"] in (0, 3, 4, 5) for row in by)
    assert sum("withheld" in row for row in by) != 1  # one alone could be subtracted from all
    assert many["sites_without_model"] + many["sites_fitted"] == 5
    assert 0.0 <= many["local_concordance"] <= 1.0
    assert (many["ridge"] is None) == (kind in ("elastic_net", "sgd", "boosted_trees"))
    assert ("majority_accuracy" in many) == (not survival)


def test_sites_that_can_fit_nothing_are_counted(run):
    """Every site has one patient: nobody can fit a model, and there is no figure, not a NaN."""
    d = lung()
    sites = [Rows.of({k: v[i : i + 1] for k, v in d.items()}, patient=[i]) for i in range(len(d["time"]))]
    plan = [{**FITS["discrete_time"], "name": "fit", "task": "discrete_time"}, ALONE]
    got = run(SURVIVAL, plan, sites)["alone"]
    assert (got["sites_fitted"], got["sites_without_model"], got["pairs"], got["n"]) == (0, len(sites), 0, 0)
    assert got["local_concordance"] is None
    assert got["local_concordance_mean_of_sites"] is None


def test_sites_by_size_add_up_to_all(run, scatter):
    d = cancer()
    plan = [*binary_plan(), {**ALONE, "ridge": 0.5}]
    got = run(BINARY, plan, scatter(d, [*[8] * 9, *[45] * 5, 110, 110]))["alone"]
    by = {row["test_rows"]: row for row in got["by_test_rows"]}
    assert list(by) == ["none", "1-9", "10-29", "30 or more"]
    assert by["1-9"]["sites"] >= 6
    for name in ("sites_fitted", "sites_tried", "n", "pairs"):
        assert sum(row.get(name, 0) for row in by.values()) < got[name]  # some are withheld
    assert "withheld" in by["30 or more"] or by["30 or more"]["sites"] >= 3
    assert sum("withheld" in row for row in by.values()) != 1  # one alone could be subtracted from all


def test_one_large_site_cannot_be_subtracted_from_the_sizes(build_study, run_state, scatter):
    d = cancer()
    results, state = run_state(build_study(BINARY, [*binary_plan(), {**ALONE, "ridge": 0.5}]), scatter(d, [*[8] * 9, *[45] * 8]))
    got = results["alone"]
    hidden = [k for k, row in enumerate(got["by_test_rows"]) if "withheld" in row]
    assert len(hidden) == 2
    assert all((state[name][hidden] == 0).all() for name in state if name.startswith("alone.") and state[name].shape == (4,))  # nor in the model's file
    assert got["n"] > sum(row.get("n", 0) for row in got["by_test_rows"])


def test_the_mean_of_the_sites_own_concordance(run, scatter):
    d = lung()
    sites = scatter(d, [1, 2, 0, 60])
    plan = [{**FITS["cox"], "name": "fit", "task": "cox"}, {"name": "eval", "task": "evaluate_survival", "model": "fit"}]
    results = run(SURVIVAL, plan, sites)
    own = []
    for site in sites:
        c = site.part("test", Split()).columns
        if len(c["time"]) > 1 and c["dead"].any():
            own.append(concordance_index(c["time"], -scores(results["fit"], c), c["dead"]))
    got = results["eval"]["concordance_mean_of_sites"]
    assert (got["value"], got["sites"]) == (pytest.approx(np.mean(own)), len(own))


def test_wrong_plans(build_study):
    scale, fit, evaluate = binary_plan()
    for variables, steps, message in (
        (BINARY, [scale, {**fit, "part": "all"}, evaluate], "would be too good.*part = 'train' in step 'fit'"),
        (BINARY, [scale, fit, {**evaluate, "model": "fitt"}], "did you mean 'fit'"),
        (BINARY, [scale, fit, {**evaluate, "model": "scale"}], "is a 'standardise' step; it must be 'logistic'"),
        (BINARY, [scale, {**fit, "site_intercepts": True}, evaluate], "intercept per site, which never leaves"),
        (SURVIVAL, [*survival_plan({"part": "all"})], "would be too good"),
        (SURVIVAL, [*survival_plan(), {"name": "b", "task": "local_baseline", "model": "grid"}], "must be 'logistic' or .*'cox'"),
        (BINARY, [scale, {**fit, "task": "sgd", "model": "linear"}, ALONE], "predicts a number, so it has no pairs"),
        (BINARY, [scale, {**fit, "site_intercepts": True}, ALONE], "no common intercept to compare"),
        (BINARY, [scale, {**fit, "task": "elastic_net", "family": "logistic", "choose": "test"}, ALONE], "was chosen by the test patients"),
        (RANGED, [{**TREES, "stop_after": 3, "stop_on": "test"}, ALONE], "was chosen by the test patients"),
    ):
        with pytest.raises(ManifestError, match=message):
            build_plan(build_study(variables, steps))


def test_the_state_stays_small(build_study, run_state, scatter):
    study = build_study(BINARY, [{**s, "bins": 100_000} if s["name"] == "eval" else s for s in binary_plan()])
    _, state = run_state(study, scatter(cancer(), [100]))
    assert sum(np.asarray(a).size for a in state.values()) < 200
    _, state = run_state(build_study(SURVIVAL, survival_plan()), scatter(lung(), [100]))
    assert sum(np.asarray(a).size for a in state.values()) < 1000
    assert all(np.asarray(a).dtype.name in ("float64", "int64") and np.isfinite(a).all() for a in state.values())
