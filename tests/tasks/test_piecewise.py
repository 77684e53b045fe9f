"""Against statsmodels' Poisson regression on one row per patient and interval, for any split of the patients, and against bad input."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_lung

from locum import simulate
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.intervals import join
from locum.tasks.piecewise import PiecewiseExponential

VARIABLES = {
    "time": {"role": "time", "minimum": 0, "maximum": 1100},
    "dead": {"type": "boolean", "role": "event"},
    "age": {"minimum": 0, "maximum": 120},
    "sex": {},
    "ecog": {"type": "category", "categories": ["0", "1", "2"]},
    "wt": {},
}
FEATURES = ["age", "sex", "ecog", "wt"]
COLUMNS = ["age", "sex", "ecog[1]", "ecog[2]", "wt"]
CUTS = [90, 180, 300, 450]


def lung():
    df = load_lung()[["time", "status", "age", "sex", "ph.ecog", "wt.loss"]].dropna()
    df.columns = ["time", "dead", "age", "sex", "ecog", "wt"]
    d = {k: df[k].to_numpy(float) for k in df}
    return {**d, "ecog": np.minimum(d["ecog"], 2)}


def step(**more):
    return {"name": "fit", "task": "piecewise_exponential", "features": FEATURES, "time": "time", "event": "dead", "cuts": CUTS, **more}


def matrix(d):
    return np.column_stack([d["age"], d["sex"], d["ecog"] == 1, d["ecog"] == 2, d["wt"]]).astype(float)


def expanded(x, time, dead, edges):
    """One row per patient and interval: which patient, which interval, outcome and exposure."""
    rows = [
        (i, k, float(dead[i] and time[i] <= edges[k + 1]), min(time[i], edges[k + 1]) - edges[k])
        for i in range(len(time))
        for k in range(len(edges) - 1)
        if time[i] > edges[k]
    ]
    i, k, y, e = (np.array(c) for c in zip(*rows, strict=True))
    return np.column_stack([(k[:, None] == np.arange(len(edges) - 1)), x[i] - x.mean(axis=0)]).astype(float), y, e


def reference(d, edges=(0, *CUTS, np.inf), x=None):
    x = matrix(d) if x is None else x
    big, y, e = expanded(x, d["time"], d["dead"], edges)
    fit = sm.GLM(y, big, family=sm.families.Poisson(), offset=np.log(e)).fit(tol=1e-14, maxiter=200)
    return fit, fit.llf - np.log(e[y == 1]).sum()


def column(result, key):
    return np.array([c[key] for c in result["coefficients"]])


def baseline(result, key):
    return np.array([c[key] for c in result["baseline"]["intervals"]])


def differences(got, fit, llf):
    """The largest absolute difference of each kind of number from the pooled fit; coefficients, errors, log hazards, log-likelihood."""
    k = len(got["baseline"]["intervals"])
    a, se = np.log(baseline(got, "hazard")), baseline(got, "se") / baseline(got, "hazard")
    pairs = (column(got, "coef"), fit.params[k:]), (column(got, "se"), fit.bse[k:]), (a, fit.params[:k]), (se, fit.bse[:k]), (got["log_likelihood"], llf)
    return [float(np.abs(mine - theirs).max()) for mine, theirs in pairs]


@pytest.mark.parametrize("standardise", [False, True])
def test_pooled_poisson_on_the_expanded_rows(run, scatter, standardise):
    d = lung()
    plan = [step(**({"standardise": "scale"} if standardise else {}))]
    if standardise:
        plan.insert(0, {"name": "scale", "task": "standardise", "variables": ["age", "sex", "wt"]})
    got = run(VARIABLES, plan, scatter(d, [1, 2, 0, 50]))["fit"]
    fit, llf = reference(d)
    assert got["converged"]
    assert (got["n"], got["events"], got["sites"]) == (len(d["time"]), int(d["dead"].sum()), 5)
    assert np.max(differences(got, fit, llf)) < 1e-6
    np.testing.assert_allclose(column(got, "coef"), fit.params[5:], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(column(got, "p"), fit.pvalues[5:], rtol=1e-6)
    np.testing.assert_allclose(column(got, "coef_ci95"), fit.conf_int()[5:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(column(got, "ci95"), np.exp(fit.conf_int()[5:]), rtol=1e-6)
    np.testing.assert_allclose(baseline(got, "ci95"), np.exp(fit.conf_int()[:5]), rtol=1e-6)
    assert [c["name"] for c in got["coefficients"]] == COLUMNS
    np.testing.assert_allclose(list(got["baseline"]["reference"].values()), matrix(d).mean(axis=0), rtol=1e-12)
    null, null_llf = reference(d, x=np.zeros((len(d["time"]), 0)))
    assert got["likelihood_ratio"]["chi_square"] == pytest.approx(2 * (llf - null_llf), abs=1e-7)
    assert null.params.shape == (5,)


def test_survival_at_the_means_with_its_delta_interval(run, scatter):
    d = lung()
    got = run(VARIABLES, [step(horizon=800)], scatter(d, [1, 2, 80]))["fit"]
    fit, _ = reference(d, (0, *CUTS, 800))
    k, edges = 5, np.array([0, *CUTS, 800.0])
    hazard, c = np.exp(fit.params[:k]), fit.cov_params()[:k, :k]
    for i, t in enumerate(got["survival"]["times"]):
        g = hazard * np.clip(t - edges[:-1], 0, np.diff(edges))
        h, se = g.sum(), np.sqrt(g @ c @ g)
        s = {name: got["survival"][name][i] for name in ("survival", "se", "ci95_low", "ci95_high")}
        assert s["survival"] == pytest.approx(np.exp(-h), abs=1e-9)
        assert s["se"] == pytest.approx(np.exp(-h) * se, abs=1e-8)
        assert s["ci95_low"] == pytest.approx(np.exp(-h * np.exp(1.959963984540054 * se / h)), abs=1e-8)
        assert s["ci95_high"] == pytest.approx(np.exp(-h * np.exp(-1.959963984540054 * se / h)), abs=1e-8)
    assert got["survival"]["times"] == [*CUTS, 800]
    assert got["events"] == int(d["dead"][d["time"] <= 800].sum())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 213), max_size=8), seed=st.integers(0, 1000), days=st.lists(st.integers(1, 1000), max_size=6, unique=True))
def test_any_split_gives_the_same_answer(run, scatter, cuts, seed, days):
    d, plan = lung(), [step(cuts=sorted(days))]
    one = run(VARIABLES, plan, [Rows.of(d)])["fit"]
    many = run(VARIABLES, plan, scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    for key in ("coef", "se"):
        np.testing.assert_allclose(column(many, key), column(one, key), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(baseline(many, "hazard"), baseline(one, "hazard"), rtol=1e-9)
    np.testing.assert_allclose(many["survival"]["ci95_low"], one["survival"]["ci95_low"], rtol=1e-9)
    assert many["log_likelihood"] == pytest.approx(one["log_likelihood"], rel=1e-12)


def rare(d, seed):
    """Every patient at a site of one or two."""
    sizes = np.random.default_rng(seed).integers(1, 3, len(d["time"]))
    return sizes[np.cumsum(sizes) < len(d["time"])].tolist()


def test_a_rare_disease_one_or_two_patients_a_site(scatter, build_study, capsys):
    d = lung()
    parts = [s for s in scatter(d, rare(d, 3)) if len(s)]
    when = {"name": "when", "task": "quantiles", "variable": "time", "probabilities": [0.2, 0.4, 0.6, 0.8]}
    study = build_study(VARIABLES, [when, step(), {**step(cuts=[], cuts_from="when"), "name": "by_quantiles"}])
    results = simulate(study, {f"site-{i:03d}": s for i, s in enumerate(parts)}).results
    cuts = [q["value"] for q in results["when"]["quantiles"]]
    found = [*differences(results["fit"], *reference(d)), *differences(results["by_quantiles"], *reference(d, (0, *cuts, np.inf)))]
    with capsys.disabled():
        print(f"\nlung, {len(d['time'])} patients at {len(parts)} sites of 1 to 2: max abs difference from pooled {np.max(found):.1e}")
    assert len(parts) > 100
    assert max(len(s) for s in parts) <= 2
    assert np.max(found) < 1e-6


def test_tcga_brca_spread_over_hundreds_of_sites(sites, real_study, pooled, scatter, capsys):
    names = ["age_at_index", "race_white", "treatment_or_therapy_yes", "prior_malignancy_yes", "ajcc_pathologic_t_T2", "tumor_stage_stage_iia"]
    table, cuts = pooled(sites("tcga_brca"), *names, "time", "event"), [365, 730, 1460, 2555]
    d = dict(zip([*names, "time", "event"], table.T, strict=True))
    parts = [s for s in scatter(d, rare(d, 5)) if len(s)]
    study = real_study("tcga_brca", [step(features=names, event="event", cuts=cuts, at_least=0.5)])
    got = simulate(study, {f"site-{i:03d}": s for i, s in enumerate(parts)}).results["fit"]
    follow = {"time": np.maximum(d["time"], 0.5), "dead": d["event"]}
    found = differences(got, *reference(follow, (0, *cuts, np.inf), np.column_stack([d[n] for n in names])))
    with capsys.disabled():
        print(f"\ntcga_brca, {got['n']} patients at {len(parts)} sites of 1 to 2: max abs difference from pooled {np.max(found):.1e}")
    assert len(parts) > 600
    assert np.max(found) < 1e-6


def test_two_patients_at_a_stratified_cox_say_nothing_but_here_they_count(run):
    d = lung()
    pair = [Rows.of({k: v[i : i + 1] for k, v in d.items()}) for i in range(120)]
    cox = {"name": "cox", "task": "cox", "features": FEATURES, "time": "time", "event": "dead", "strata": "site"}
    with pytest.raises(TaskError, match="constant within every site"):
        run(VARIABLES, [cox], pair)
    assert run(VARIABLES, [step()], pair)["fit"]["n"] == 120


def test_censored_sites_and_empty_sites_are_fine(run):
    d = lung()
    quiet = d["dead"] == 0
    parts = [Rows.of({k: v[m] for k, v in d.items()}) for m in (quiet, ~quiet, np.zeros(len(quiet), bool))]
    assert np.max(differences(run(VARIABLES, [step()], parts)["fit"], *reference(d))) < 1e-6


def test_tied_times_need_no_rule(run, scatter):
    d = lung()
    d["time"] = np.ceil(d["time"] / 90) * 90  # every time is a cut
    got = run(VARIABLES, [step(cuts=[90, 180, 270, 450])], scatter(d, [1, 1, 80]))["fit"]
    assert np.max(differences(got, *reference(d, (0, 90, 180, 270, 450, np.inf)))) < 1e-6


def test_intervals_without_events_are_joined_with_the_next(run, scatter):
    d = lung()
    d["dead"] = np.where(((d["time"] > 200) & (d["time"] <= 300)) | (d["time"] > 700), 0.0, d["dead"])
    got = run(VARIABLES, [step(cuts=[100, 200, 250, 300, 450, 700, 900])], scatter(d, [1, 1, 80]))["fit"]
    assert [(i["start"], i["end"]) for i in got["baseline"]["intervals"]] == [(0, 100), (100, 200), (200, 450), (450, None)]
    assert got["warnings"] == [
        "Intervals without events were joined with a neighbour: the baseline is constant over (0, 100], (100, 200], (200, 450], (450, ...)."
    ]
    assert np.max(differences(got, *reference(d, (0, 100, 200, 450, np.inf)))) < 1e-6
    with pytest.raises(TaskError, match=r"No event lies in \(200, 250\], \(250, 300\], \(700, 900\], \(900, \.\.\.\).*empty = 'join'"):
        run(VARIABLES, [step(cuts=[100, 200, 250, 300, 450, 700, 900], empty="refuse")], scatter(d, [90]))


@given(events=st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_every_joined_interval_has_events_and_none_is_lost(events):
    starts = join(np.array(events, float))
    if sum(events):
        assert starts[0] == 0
        assert (np.add.reduceat(events, starts) > 0).all()
        assert len(starts) == np.count_nonzero(events)
    else:
        assert not len(starts)


def test_cuts_beyond_all_follow_up_are_joined(run, scatter):
    d = lung()
    got = run({**VARIABLES, "time": {"role": "time", "maximum": 5000}}, [step(cuts=[180, 450, 3000, 4000])], scatter(d, [80]))["fit"]
    assert [i["end"] for i in got["baseline"]["intervals"]] == [180, 450, None]
    assert got["survival"]["times"] == [180, 450]


def test_columns_far_from_zero_and_one_interval(run, scatter):
    d = lung()
    near, away = (run(VARIABLES, [step(cuts=[])], scatter(x, [50]))["fit"] for x in (d, {**d, "wt": d["wt"] + 1e6}))
    np.testing.assert_allclose(column(away, "coef"), column(near, "coef"), rtol=1e-6)
    np.testing.assert_allclose(column(away, "se"), column(near, "se"), rtol=1e-6)
    assert [i["end"] for i in near["baseline"]["intervals"]] == [None]
    assert near["survival"]["times"] == []


def test_ridge_is_the_penalised_maximum(run, scatter):
    from scipy.optimize import minimize

    d = lung()
    got = run(VARIABLES, [step(ridge=40.0)], scatter(d, [80]))["fit"]
    big, y, e = expanded(matrix(d), d["time"], d["dead"], (0, *CUTS, np.inf))

    def loss(theta):
        mu = e * np.exp(big @ theta)
        return mu.sum() - y @ (big @ theta) + 20.0 * theta[5:] @ theta[5:], big.T @ (mu - y) + 40.0 * np.r_[np.zeros(5), theta[5:]]

    best = minimize(loss, np.r_[np.full(5, -6.0), np.zeros(5)], jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(column(got, "coef"), best.x[5:], atol=1e-6)


def test_evaluation_ranks_by_the_linear_predictor(run, scatter):
    d = lung()
    fit = step(part="train")
    grid = {"name": "grid", "task": "event_times", "time": "time", "event": "dead"}
    plan = [
        grid,
        fit,
        {"name": "eval", "task": "evaluate_survival", "model": "fit", "times": "grid"},
        {"name": "own", "task": "evaluate_survival", "model": "fit"},
    ]
    got = run(VARIABLES, plan, scatter(d, [1, 2, 60]))
    from lifelines.utils import concordance_index

    from locum.study import Split

    test = Rows.of(d).part("test", Split())
    risk = matrix(test.columns) @ column(got["fit"], "coef")
    exact = concordance_index(test.columns["time"], -np.round(risk, 9), test.columns["dead"])
    assert abs(got["eval"]["concordance"]["value"] - exact) <= got["eval"]["concordance"]["error_bound"] < 0.02
    assert got["own"]["concordance"] is None
    assert got["own"]["concordance_within_sites"] == got["eval"]["concordance_within_sites"]
    alone = run(VARIABLES, plan, scatter(d, [1] * 213))
    assert alone["own"]["concordance_within_sites"] == {"value": None, "pairs": 0}
    assert alone["eval"]["concordance"]["value"] == pytest.approx(got["eval"]["concordance"]["value"], abs=1e-12)


def test_rows_that_cannot_be_used(run, scatter):
    d = lung()
    with pytest.raises(TaskError, match=r"no event in 'dead' among the usable rows"):
        run(VARIABLES, [step()], scatter({**d, "dead": np.zeros_like(d["dead"])}, [90]))
    with pytest.raises(TaskError, match=r"no event in 'dead'.*horizon"):
        run(VARIABLES, [step(cuts=[1], horizon=2)], scatter(d, [90]))
    with pytest.raises(TaskError, match="other than 0 and 1"):
        run(VARIABLES, [step()], scatter({**d, "dead": d["dead"] + 1}, [90]))
    with pytest.raises(TaskError, match="are negative"):
        run(VARIABLES, [step()], scatter({**d, "time": d["time"] - 100}, [90]))
    with pytest.raises(TaskError, match=r"happen at time 0.*at_least = 0.5"):
        run(VARIABLES, [step()], scatter({**d, "time": np.where(np.arange(len(d["time"])) == np.argmax(d["dead"]), 0.0, d["time"])}, [90]))
    with pytest.raises(TaskError, match="'wt' is constant"):
        run(VARIABLES, [step()], scatter({**d, "wt": np.full_like(d["wt"], 1234.1)}, [90]))
    with pytest.raises(TaskError, match=r"'ecog\[1\]' is constant"):
        run(VARIABLES, [step()], scatter({**d, "ecog": np.where(d["ecog"] == 1, 2.0, d["ecog"])}, [90]))
    with pytest.raises(TaskError, match=r"'age'.*'wt'.*collinear|'wt'.*'age'.*collinear"):
        run(VARIABLES, [step()], scatter({**d, "wt": 3 * d["age"] - d["sex"]}, [90]))
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, [step(rounds=1)], scatter(d, [90]))


def test_a_category_without_events_is_named(run, scatter):
    d = lung()
    d["dead"] = np.where(d["ecog"] == 2, 0.0, d["dead"])
    with pytest.raises(TaskError, match=r"of 'ecog\[2\]' grow without end.*no events at all.*ridge"):
        run(VARIABLES, [step()], scatter(d, [90]))


def test_follow_up_of_zero_and_missing_values_are_counted(run, scatter):
    d = lung()
    d["time"][np.flatnonzero(d["dead"] == 0)[:3]] = 0.0
    d["wt"][np.flatnonzero(d["dead"] == 1)[:2]] = np.nan
    got = run(VARIABLES, [step()], scatter(d, [1, 90]))["fit"]
    keep = (d["time"] > 0) & ~np.isnan(d["wt"])
    assert (got["n"], got["no_follow_up"], got["left_out"]) == (keep.sum(), 3, 2)
    assert np.max(differences(got, *reference({k: v[keep] for k, v in d.items()}))) < 1e-6


def test_warns_where_the_rounds_did_not_suffice(run, scatter):
    got = run(VARIABLES, [step(rounds=3)], scatter(lung(), [90]))["fit"]
    assert not got["converged"]
    assert "had not converged" in " ".join(got["warnings"])


def test_warns_of_few_events(run, scatter):
    d = lung()
    d["dead"] = np.where(np.arange(len(d["dead"])) % 5 == 0, d["dead"], 0.0)
    assert "fewer than 10 events per coefficient" in " ".join(run(VARIABLES, [step(cuts=[200])], scatter(d, [90]))["fit"]["warnings"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cuts": [90, 90]}, "cuts must increase"),
        ({"cuts": [0, 90]}, "cuts"),
        ({"cuts": [90, 1100]}, "outside the follow-up: the contract's maximum of 'time' is 1100"),
        ({"cuts": [90, 400], "horizon": 400}, "not before the horizon"),
        ({"cuts_from": "when"}, "both cuts and cuts_from"),
        ({"cuts": [], "cuts_from": "wen"}, "did you mean 'when'"),
        ({"cuts": [], "cuts_from": "ages"}, "quantiles of 'age', not of 'time'"),
        ({"site_intercepts": True}, "a site of one patient its own intercept would fit that patient perfectly"),
        ({"features": ["age", "time"]}, "both a feature and the outcome"),
        ({"event": "ded"}, "did you mean 'dead'"),
        ({"cut": [90]}, "cuts"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    before = [{"name": "when", "task": "quantiles", "variable": "time"}, {"name": "ages", "task": "quantiles", "variable": "age"}]
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [*before, step(**params)]))


def test_what_leaves_is_said_before_the_cuts_are_known(build_study):
    plan = [{"name": "when", "task": "quantiles", "variable": "time"}, step(cuts=[], cuts_from="when")]
    task = build_plan(build_study(VARIABLES, plan))[1]
    assert isinstance(task, PiecewiseExponential)
    assert task.leaves().startswith("First, for each of 4 intervals of follow-up: the number of events")
    with pytest.raises(TaskError, match="'when' has not run"):
        task.layout({})
