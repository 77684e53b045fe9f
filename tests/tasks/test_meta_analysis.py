"""Against statsmodels' combine_effects, StratifiedTable and site-wise fits, against the published formulas, and on the International Stroke Trial."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, t
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.meta_analysis import combine_effects, effectsize_2proportions

import locum
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks import meta_analysis as _meta_analysis  # noqa: F401 - registers the task

VARIABLES = {
    "drug": {"type": "boolean"},
    "dead": {"type": "boolean", "role": "outcome"},
    "score": {"role": "outcome"},
    "age": {"minimum": 0, "maximum": 120},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
}
SIZES = [1, 0, 2, 9, 30, 45, 60, 80, 25, 150, 98]


def cohort(seed=0, spread=0.6, sizes=SIZES, rate=-0.7):
    r = np.random.default_rng(seed)
    out = []
    for n in sizes:
        drug, age, arm = r.integers(0, 2, n).astype(float), r.normal(60, 10, n), r.integers(0, 3, n).astype(float)
        eta = rate + r.normal(0, 0.3) + (0.4 + spread * r.normal()) * drug + 0.03 * (age - 60)
        dead, score = (r.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float), 20 + 2 * eta + r.normal(size=n)
        out.append(Rows.of({"drug": drug, "dead": dead, "score": score, "age": age, "arm": arm}))
    return out


def plan(measure, **more):
    outcome = "score" if measure == "mean_difference" else "dead"
    return [{"name": "m", "task": "meta_analysis", "treatment": "drug", "outcome": outcome, "measure": measure, **more}]


def table(s):
    d, y = s.columns["drug"], s.columns["dead"]
    return np.array([y[d == 1].sum(), (d == 1).sum(), y[d == 0].sum(), (d == 0).sum()])


def own_effects(sites, measure):
    """Effects and variances of the sites that have one, by statsmodels or the formula; the continuity correction is 0.5."""
    if measure == "mean_difference":
        arms = [[s.columns["score"][s.columns["drug"] == k] for k in (1, 0)] for s in sites]
        pairs = [(a.mean() - b.mean(), a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) for a, b in arms if min(len(a), len(b)) > 1]
        return np.array(pairs).T
    tables = np.array([table(s) for s in sites])
    both = (tables[:, 1] > 0) & (tables[:, 3] > 0)
    events = tables[:, 0] + tables[:, 2]
    alike = (events == 0) | (events == tables[:, 1] + tables[:, 3])
    kept = tables[both & (~alike | (measure == "risk_difference"))]
    statistic = {"risk_difference": "diff", "log_odds_ratio": "odds-ratio", "log_risk_ratio": "risk-ratio"}[measure]
    cells = np.column_stack([kept[:, 0], kept[:, 1] - kept[:, 0], kept[:, 2], kept[:, 3] - kept[:, 2]])
    # statsmodels 0.15 would add zero_correction to the events of every table, and to the numbers of patients only where a cell is empty
    kept = kept + np.outer(~cells.all(axis=1), [0.5, 1.0, 0.5, 1.0])
    return effectsize_2proportions(*kept.T, statistic=statistic)


def restricted(y, v):
    """The REML estimate of tau2 by scipy."""

    def loss(tau2):
        w = 1 / (v + tau2)
        mu = w @ y / w.sum()
        return np.log(v + tau2).sum() + np.log(w.sum()) + w @ (y - mu) ** 2

    found = minimize_scalar(loss, bounds=(0, 10 * y.var() + 1), method="bounded", options={"xatol": 1e-13})
    return found.x if found.fun < loss(0.0) else 0.0


@pytest.mark.parametrize("measure", ["risk_difference", "log_odds_ratio", "log_risk_ratio", "mean_difference"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_statsmodels_on_the_sites_effects(run, measure, seed):
    sites = cohort(seed)
    got = run(VARIABLES, plan(measure), sites)["m"]
    y, v = own_effects(sites, measure)
    k = len(y)
    assert got["converged"]
    assert got["sites"]["used"] == k
    for method, name in (("DL", "dl"), ("PM", "iterated")):
        ref = combine_effects(y, v, method_re=name, **({"atol": 1e-10, "maxiter": 500} if name == "iterated" else {}))
        np.testing.assert_allclose(got["fixed"]["estimate"], ref.mean_effect_fe, rtol=1e-9)
        np.testing.assert_allclose(got["fixed"]["se"], ref.sd_eff_w_fe, rtol=1e-9)
        np.testing.assert_allclose(got["heterogeneity"]["Q"], ref.q, rtol=1e-8)
        np.testing.assert_allclose(got["heterogeneity"]["I2"], max(0.0, ref.i2), rtol=1e-8)
        np.testing.assert_allclose(got["heterogeneity"]["p"], chi2.sf(ref.q, k - 1), rtol=1e-8)
        random = got["random"][method]
        tau2 = max(0.0, ref.tau2)
        np.testing.assert_allclose(random["tau2"], tau2, rtol=1e-6, atol=1e-9)
        w = 1 / (v + tau2)
        mean, se = w @ y / w.sum(), w.sum() ** -0.5
        if ref.tau2 > 0:
            np.testing.assert_allclose((mean, se), (ref.mean_effect_re, ref.sd_eff_w_re), rtol=1e-6)
            np.testing.assert_allclose(random["hartung_knapp"]["se"], ref.sd_eff_w_re_hksj, rtol=1e-6)
        np.testing.assert_allclose((random["estimate"], random["se"]), (mean, se), rtol=1e-6)
        hksj, reach = np.sqrt(w @ (y - mean) ** 2 / (k - 1)) * se, t.ppf(0.975, k - 1)
        np.testing.assert_allclose(random["hartung_knapp"]["ci95"], [mean - reach * hksj, mean + reach * hksj], rtol=1e-6)
        half = t.ppf(0.975, k - 2) * np.sqrt(tau2 + se**2)
        np.testing.assert_allclose(random["prediction_interval95"], [mean - half, mean + half], rtol=1e-6)
    np.testing.assert_allclose(got["random"]["REML"]["tau2"], restricted(y, v), rtol=1e-5, atol=1e-7)


def test_published_example_of_metafor(run, monkeypatch):
    """BCG vaccine, 13 trials, log risk ratios: metafor's documentation gives REML tau2 0.3132, mean -0.7145, se 0.1798; DL 0.3088; PM 0.3181."""
    cells = [
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619),
        (505, 87886, 499, 87892), (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825),
    ]  # fmt: skip
    sites = [Rows.of({"drug": np.repeat([1.0, 1.0, 0.0, 0.0], c), "dead": np.repeat([1.0, 0.0, 1.0, 0.0], c)}) for c in cells]
    got = run({k: VARIABLES[k] for k in ("drug", "dead")}, plan("log_risk_ratio"), sites)["m"]
    assert [round(got["random"][m]["tau2"], 4) for m in ("REML", "DL", "PM")] == [0.3132, 0.3088, 0.3181]
    assert (round(got["random"]["REML"]["estimate"], 4), round(got["random"]["REML"]["se"], 4)) == (-0.7145, 0.1798)
    assert round(got["heterogeneity"]["Q"], 4) == 152.2330
    assert got["rounds"] <= 12


def test_mantel_haenszel_and_peto(run):
    sites = cohort(3, rate=-2.5)
    tables = np.array([table(s) for s in sites])
    tables = tables[(tables[:, 1] > 0) & (tables[:, 3] > 0)]
    a, n1, c, n0 = tables.T
    n, m = n1 + n0, a + c
    strata = StratifiedTable([np.array([[a_, n1_ - a_], [c_, n0_ - c_]]) for a_, n1_, c_, n0_ in tables])
    got = {measure: run(VARIABLES, plan(measure), sites)["m"] for measure in ("log_odds_ratio", "log_risk_ratio", "risk_difference")}
    mh = got["log_odds_ratio"]["mantel_haenszel"]
    np.testing.assert_allclose(mh["odds_ratio"], strata.oddsratio_pooled, rtol=1e-9)
    np.testing.assert_allclose(mh["se"], strata.logodds_pooled_se, rtol=1e-9)
    np.testing.assert_allclose(got["log_risk_ratio"]["mantel_haenszel"]["risk_ratio"], strata.riskratio_pooled, rtol=1e-9)
    rr = np.sqrt(((n1 * n0 * m - a * c * n) / n**2).sum() / ((a * n0 / n).sum() * (c * n1 / n).sum()))
    np.testing.assert_allclose(got["log_risk_ratio"]["mantel_haenszel"]["se"], rr, rtol=1e-9)
    weight = (n1 * n0 / n).sum()
    np.testing.assert_allclose(got["risk_difference"]["mantel_haenszel"]["estimate"], ((a * n0 - c * n1) / n).sum() / weight, rtol=1e-9)
    rd = np.sqrt(((a * (n1 - a) * n0**3 + c * (n0 - c) * n1**3) / (n1 * n0 * n**2)).sum()) / weight
    np.testing.assert_allclose(got["risk_difference"]["mantel_haenszel"]["se"], rd, rtol=1e-9)
    v = (n1 * n0 * m * (n - m) / (n**2 * (n - 1))).sum()
    np.testing.assert_allclose(got["log_odds_ratio"]["peto"]["estimate"], (a - n1 * m / n).sum() / v, rtol=1e-9)
    np.testing.assert_allclose(got["log_odds_ratio"]["peto"]["se"], v**-0.5, rtol=1e-9)


@pytest.mark.parametrize("family", ["linear", "logistic"])
def test_adjusted_coefficients_are_those_of_each_sites_own_fit(run, family):
    sites = cohort(4)
    sites.append(cohort(5, sizes=[40])[0])
    sites[-1].columns["arm"][:] = 1.0  # one category only: its dummies are left out there
    outcome = "score" if family == "linear" else "dead"
    got = run(VARIABLES, plan("coefficient", outcome=outcome, model=family, adjust=["age", "arm"]), sites)["m"]
    pairs = []
    for s in sites:
        d = s.columns
        x = np.column_stack([np.ones(len(s)), d["drug"], d["age"], d["arm"] == 1, d["arm"] == 2]).astype(float)
        x = x[:, :3] if s is sites[-1] else x
        if len(s) >= 25:
            fit = sm.OLS(d[outcome], x).fit() if family == "linear" else sm.GLM(d[outcome], x, family=sm.families.Binomial()).fit(tol=1e-13)
            pairs.append((fit.params[1], fit.bse[1] ** 2))  # where a category's outcomes are all alike, this is the limit
    if family == "linear":  # nine rows are enough there
        s = sites[3].columns
        x = np.column_stack([np.ones(9), s["drug"], s["age"], s["arm"] == 1, s["arm"] == 2]).astype(float)
        fit = sm.OLS(s["score"], x).fit()
        pairs.append((fit.params[1], fit.bse[1] ** 2))
    y, v = np.array(pairs).T
    assert got["sites"]["used"] == len(y)
    ref = combine_effects(y, v, method_re="dl")
    np.testing.assert_allclose(got["fixed"]["estimate"], ref.mean_effect_fe, rtol=1e-7)
    np.testing.assert_allclose(got["random"]["DL"]["tau2"], max(0.0, ref.tau2), rtol=1e-6, atol=1e-12)
    assert ("odds_ratio" in got["fixed"]) == (family == "logistic")


def test_aspirin_in_the_stroke_trial(sites, real_study):
    for by in ("hospital", "country"):
        parts = sites("ist", by)
        steps = [
            {"name": m, "task": "meta_analysis", "treatment": "rxasp", "outcome": "dead_or_dependent", "measure": m}
            for m in ("log_odds_ratio", "risk_difference")
        ]
        got = locum.simulate(real_study("ist", steps), parts).results
        tables = np.array([table(_renamed(parts[s])) for s in sorted(parts)])
        tables = tables[(tables[:, 1] > 0) & (tables[:, 3] > 0)]
        odds = got["log_odds_ratio"]
        strata = StratifiedTable([np.array([[a, n1 - a], [c, n0 - c]]) for a, n1, c, n0 in tables])
        np.testing.assert_allclose(odds["mantel_haenszel"]["odds_ratio"], strata.oddsratio_pooled, rtol=1e-9)
        for measure, result in got.items():
            y, v = own_effects([_renamed(parts[s]) for s in sorted(parts)], measure)
            ref = combine_effects(y, v, method_re="dl")
            assert result["sites"]["used"] == len(y)
            np.testing.assert_allclose(result["fixed"]["estimate"], ref.mean_effect_fe, rtol=1e-8)
            np.testing.assert_allclose(result["heterogeneity"]["Q"], ref.q, rtol=1e-8)
            np.testing.assert_allclose(result["random"]["REML"]["tau2"], restricted(y, v), rtol=1e-3, atol=2e-6)
        assert round(100 * odds["arms"]["treated"]["mean"], 2) == 62.25
        assert round(100 * odds["arms"]["control"]["mean"], 2) == 63.50


def _renamed(s):
    seen = ~np.isnan(s.columns["dead_or_dependent"]) & ~np.isnan(s.columns["rxasp"])
    return Rows.of({"drug": s.columns["rxasp"][seen], "dead": s.columns["dead_or_dependent"][seen]})


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), measure=st.sampled_from(["risk_difference", "log_odds_ratio", "log_risk_ratio", "mean_difference"]))
def test_neither_order_nor_empty_sites_matter(run, seed, measure):
    sites = cohort(seed, spread=0.3)
    empty = Rows.of({name: [] for name in VARIABLES})
    one, other = (run(VARIABLES, plan(measure), s)["m"] for s in (sites, [empty, *reversed(sites)]))
    assert one["sites"] == other["sites"]
    for key in ("DL", "PM", "REML"):
        a, b = one["random"][key], other["random"][key]
        np.testing.assert_allclose([a["tau2"], a["estimate"], a["se"]], [b["tau2"], b["estimate"], b["se"]], rtol=1e-6, atol=1e-9)


def test_exactly_alike_sites_have_no_variance_between_them(run):
    s = cohort(0, sizes=[60])[0]
    got = run(VARIABLES, plan("mean_difference"), [s] * 4)["m"]
    assert all(got["random"][m]["tau2"] == 0.0 for m in ("DL", "PM", "REML"))
    assert got["heterogeneity"]["I2"] == 0.0
    assert got["rounds"] == 2


def test_empty_cells_are_corrected_and_counted_or_left_out(run):
    full = [Rows.of({"drug": [1, 1, 1, 0, 0, 0], "dead": [1, 0, 0, 1, 1, 0]})] * 3
    empty_cell = Rows.of({"drug": [1, 1, 0, 0], "dead": [0, 0, 1, 0]})
    alike, one_arm = Rows.of({"drug": [1, 0, 1], "dead": [0, 0, 0]}), Rows.of({"drug": [1, 1], "dead": [0, 1]})
    variables = {k: VARIABLES[k] for k in ("drug", "dead")}
    got = run(variables, plan("log_odds_ratio"), [*full, empty_cell, alike, one_arm])["m"]
    assert got["sites"] == {"used": 4, "without_information": 2, "corrected": 1}
    assert any("0.5 was added" in w for w in got["warnings"])
    assert any("2 sites have no effect" in w for w in got["warnings"])
    assert run(variables, plan("log_odds_ratio", continuity=0), [*full, empty_cell, alike, one_arm])["m"]["sites"]["used"] == 3
    assert run(variables, plan("risk_difference"), [*full, empty_cell, alike, one_arm])["m"]["sites"]["used"] == 5


def test_one_site_and_none(run):
    variables = {k: VARIABLES[k] for k in ("drug", "dead")}
    site, flat = Rows.of({"drug": [1, 1, 1, 0, 0, 0], "dead": [1, 0, 0, 1, 1, 0]}), Rows.of({"drug": [1, 0], "dead": [0, 0]})
    got = run(variables, plan("log_odds_ratio"), [site, flat])["m"]
    assert got["random"] is None
    assert got["heterogeneity"] is None
    assert "One site contributes" in got["warnings"][0]
    with pytest.raises(TaskError, match="No site has an effect of 'drug'"):
        run(variables, plan("log_odds_ratio"), [flat, flat])
    with pytest.raises(TaskError, match="No site has an effect"):
        run(variables, plan("log_odds_ratio"), [Rows.of({"drug": [np.nan], "dead": [1]})])


def test_two_sites_have_no_prediction_interval_and_fixed_effect_takes_one_round(run):
    sites = cohort(0, sizes=[50, 60])
    got = run(VARIABLES, plan("mean_difference"), sites)["m"]
    assert got["random"]["DL"]["prediction_interval95"] is None
    assert any("2 sites contribute" in w for w in got["warnings"])
    assert any("work out single sites" in w for w in got["warnings"])
    alone = run(VARIABLES, plan("mean_difference", methods=[]), sites)["m"]
    assert (alone["rounds"], alone["converged"], alone["random"]) == (1, True, None)
    assert alone["fixed"] == got["fixed"]


def test_too_few_rounds_are_said(run):
    got = run(VARIABLES, plan("mean_difference", rounds=2), cohort(0))["m"]
    assert not got["converged"]
    assert set(got["random"]) == {"DL"}
    assert any("rounds ended" in w for w in got["warnings"])


def test_separated_constant_and_small_sites_add_nothing_to_coefficients(run):
    sites = cohort(6, sizes=[80, 90, 100])
    x = np.linspace(0, 1, 30)
    separated = Rows.of({"drug": (x > 0.5) * 1.0, "dead": (x > 0.5) * 1.0, "score": 3 * x, "age": 60 + x, "arm": np.zeros(30)})
    exact = Rows.of({"drug": (x > 0.5) * 1.0, "dead": (x > 0.5) * 1.0, "score": 3 * (x > 0.5), "age": 60 + x, "arm": np.zeros(30)})
    one_arm = Rows.of({name: np.ones(20) if name == "drug" else c[:20] for name, c in sites[0].columns.items()})
    for family, odd in (("logistic", separated), ("linear", exact)):
        params = {"model": family, "outcome": "dead" if family == "logistic" else "score", "adjust": ["age"]}
        alone, more = (run(VARIABLES, plan("coefficient", **params), s)["m"] for s in (sites, [odd, one_arm, *sites, sites[0].take(np.arange(3))]))
        assert alone["fixed"] == more["fixed"]
        assert more["sites"] == {"used": 3, "without_information": 3, "corrected": 0}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"measure": "odds"}, "measure"),
        ({"treatment": "drog"}, "did you mean 'drug'"),
        ({"measure": "coefficient"}, "model goes with"),
        ({"model": "linear"}, "model goes with"),
        ({"adjust": ["age"]}, "is not adjusted"),
        ({"outcome": "drug"}, "names a variable twice"),
        ({"treatment": "arm"}, "more than two categories"),
        ({"measure": "mean_difference", "outcome": "arm"}, "is a category, not a number"),
        ({"methods": ["DLL"]}, "methods"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**plan("log_odds_ratio")[0], **params}]))


def test_bad_values_are_refused_early(run):
    d = {"drug": [0.0, 1, 2, 0], "dead": [0.0, 1, 1, 0], "score": [1.0, 2, 3, 4], "age": np.zeros(4), "arm": np.zeros(4)}
    variables = {**VARIABLES, "drug": {}, "dead": {}}
    with pytest.raises(TaskError, match="'drug' has values other than 0 and 1"):
        run(variables, plan("log_odds_ratio"), [Rows.of(d)])
    with pytest.raises(TaskError, match="'dead' has values other than 0 and 1"):
        run(variables, plan("log_odds_ratio"), [Rows.of({**d, "drug": [0, 1, 1, 0], "dead": [0, 1, 3, 0]})])
    with pytest.raises(TaskError, match="'dead' has values other than 0 and 1"):
        run(variables, plan("coefficient", model="logistic"), [Rows.of({**d, "dead": [0, 1, 3, 0]})])


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, plan("log_odds_ratio", methods=["DL"])))[0]
    assert f"at most {task.layout({}).size} numbers" in task.leaves()
    assert task.reads() == ("drug", "dead")
