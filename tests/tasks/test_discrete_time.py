"""Against statsmodels' binomial regression on one row per patient and interval, both links, for any split of the patients, and against bad input."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_lung
from scipy.optimize import approx_fprime

from locum import simulate
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.discrete_time import bernoulli

VARIABLES = {
    "time": {"role": "time", "minimum": 0, "maximum": 1100},
    "dead": {"type": "boolean", "role": "event"},
    "age": {"minimum": 0, "maximum": 120},
    "sex": {},
    "ecog": {},
    "wt": {},
}
FEATURES = ["age", "sex", "ecog", "wt"]
CUTS = [90, 180, 300, 450, 700]
LINKS = {"logit": sm.families.links.Logit, "cloglog": sm.families.links.CLogLog}


def lung():
    df = load_lung()[["time", "status", "age", "sex", "ph.ecog", "wt.loss"]].dropna()
    df.columns = ["time", "dead", "age", "sex", "ecog", "wt"]
    return {k: df[k].to_numpy(float) for k in df}


def step(**more):
    return {"name": "fit", "task": "discrete_time", "features": FEATURES, "time": "time", "event": "dead", "cuts": CUTS, **more}


def expanded(x, time, dead, ends, censored):
    """One row per patient and interval at risk: design and outcome."""
    starts, rows = [0, *ends[:-1]], []
    for i in range(len(time)):
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            happened = bool(dead[i]) and start < time[i] <= end
            if time[i] >= end or happened or (censored == "end" and time[i] > start):
                rows.append((i, k, float(happened)))
    i, k, y = (np.array(c) for c in zip(*rows, strict=True))
    return np.column_stack([(k[:, None] == np.arange(len(ends))), x[i] - x.mean(axis=0)]).astype(float), y


def reference(d, ends=CUTS, link="logit", censored="start", x=None):
    x = np.column_stack([d[n] for n in FEATURES]) if x is None else x
    big, y = expanded(x, d["time"], d["dead"], ends, censored)
    return sm.GLM(y, big, family=sm.families.Binomial(LINKS[link]())).fit(tol=1e-14, maxiter=300)


def column(result, key):
    return np.array([c[key] for c in result["coefficients"]])


def baseline(result, key):
    return np.array([c[key] for c in result["baseline"]["intervals"]])


def differences(got, fit, link="logit"):
    k = len(got["baseline"]["intervals"])
    h = baseline(got, "hazard")
    a = np.log(h / (1 - h)) if link == "logit" else np.log(-np.log1p(-h))
    pairs = (column(got, "coef"), fit.params[k:]), (column(got, "se"), fit.bse[k:]), (a, fit.params[:k]), (got["log_likelihood"], fit.llf)
    return [float(np.abs(mine - theirs).max()) for mine, theirs in pairs]


@pytest.mark.parametrize("censored", ["start", "end"])
@pytest.mark.parametrize("link", ["logit", "cloglog"])
def test_pooled_regression_on_the_expanded_rows(run, scatter, link, censored):
    d = lung()
    got = run(VARIABLES, [step(link=link, censored=censored)], scatter(d, [1, 2, 0, 50]))["fit"]
    fit, k = reference(d, link=link, censored=censored), len(CUTS)
    assert got["converged"]
    assert np.max(differences(got, fit, link)) < 1e-6
    np.testing.assert_allclose(column(got, "ci95"), np.exp(fit.conf_int()[k:]), rtol=1e-6)
    np.testing.assert_allclose(column(got, "p"), fit.pvalues[k:], rtol=1e-6)
    assert ("odds_ratio" if link == "logit" else "hazard_ratio") in got["coefficients"][0]
    inverse = LINKS[link]().inverse
    np.testing.assert_allclose(baseline(got, "ci95"), inverse(fit.conf_int()[:k]), rtol=1e-6)
    np.testing.assert_allclose(got["survival"]["survival"], np.cumprod(1 - inverse(fit.params[:k])), rtol=1e-8)
    big, _ = expanded(np.zeros((len(d["time"]), 0)), d["time"], d["dead"], CUTS, censored)
    assert [i["at_risk"] for i in got["baseline"]["intervals"]] == big.sum(axis=0).astype(int).tolist()
    assert got["events"] == int(d["dead"][d["time"] <= 700].sum())
    null = reference(d, link=link, censored=censored, x=np.zeros((len(d["time"]), 0)))
    assert got["likelihood_ratio"]["chi_square"] == pytest.approx(2 * (fit.llf - null.llf), abs=1e-7)


@pytest.mark.parametrize("link", ["logit", "cloglog"])
def test_survival_interval_is_the_delta_method(run, scatter, link):
    d = lung()
    got = run(VARIABLES, [step(link=link)], scatter(d, [90]))["fit"]
    fit, k = reference(d, link=link), len(CUTS)
    inverse, a, c = LINKS[link]().inverse, fit.params[:k], fit.cov_params()[:k, :k]
    for i in range(k):

        def log_h(at, upto=i):
            return float(np.log(-np.log1p(-inverse(at[: upto + 1])).sum()))

        g = approx_fprime(a, log_h, 1e-7)
        h, se = np.exp(log_h(a)), np.sqrt(g @ c @ g)
        assert got["survival"]["ci95_low"][i] == pytest.approx(np.exp(-h * np.exp(1.959963984540054 * se)), abs=1e-6)
        assert got["survival"]["se"][i] == pytest.approx(np.exp(-h) * h * se, abs=1e-6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 213), max_size=8),
    seed=st.integers(0, 1000),
    ends=st.lists(st.integers(60, 1100), min_size=1, max_size=6, unique=True),
    link=st.sampled_from(["logit", "cloglog"]),
    censored=st.sampled_from(["start", "end"]),
)
def test_any_split_gives_the_same_answer(run, scatter, cuts, seed, ends, link, censored):
    d, plan = lung(), [step(cuts=sorted(ends), link=link, censored=censored, ridge=1.0)]
    one = run(VARIABLES, plan, [Rows.of(d)])["fit"]
    many = run(VARIABLES, plan, scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["fit"]
    for key in ("coef", "se"):
        np.testing.assert_allclose(column(many, key), column(one, key), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(baseline(many, "hazard"), baseline(one, "hazard"), rtol=1e-9)
    assert many["log_likelihood"] == pytest.approx(one["log_likelihood"], rel=1e-12)


def test_a_rare_disease_one_or_two_patients_a_site(scatter, build_study, capsys):
    d = lung()
    sizes = np.random.default_rng(3).integers(1, 3, 140).tolist()
    parts = [s for s in scatter(d, sizes) if len(s)]
    parts = [Rows.of({k: v[i : i + 2] for k, v in s.columns.items()}) for s in parts for i in range(0, len(s), 2)]
    found = {}
    for link in LINKS:
        study = build_study(VARIABLES, [step(link=link)])
        got = simulate(study, {f"site-{i:03d}": s for i, s in enumerate(parts)}).results["fit"]
        found[link] = np.max(differences(got, reference(d, link=link), link))
    with capsys.disabled():
        print(f"\nlung, {len(d['time'])} patients at {len(parts)} sites of 1 to 2: max abs difference from pooled {max(found.values()):.1e}")
    assert len(parts) > 100
    assert np.max(list(found.values())) < 1e-6


def test_tcga_brca_spread_over_hundreds_of_sites(sites, real_study, pooled, scatter, run_state, capsys):
    names = ["age_at_index", "race_white", "treatment_or_therapy_yes", "prior_malignancy_yes", "ajcc_pathologic_t_T2", "tumor_stage_stage_iia"]
    table = pooled(sites("tcga_brca"), *names, "time", "event")
    d = dict(zip([*names, "time", "event"], table.T, strict=True))
    parts = [s for s in scatter(d, np.random.default_rng(5).integers(1, 3, 722).tolist()) if len(s)]
    parts = [Rows.of({k: v[i : i + 2] for k, v in s.columns.items()}) for s in parts for i in range(0, len(s), 2)]
    ends, found = [365, 730, 1460, 2555, 3650], {}
    follow = {"time": np.maximum(d["time"], 0.5), "dead": d["event"]}
    for link in LINKS:
        study = real_study("tcga_brca", [step(features=names, event="event", cuts=ends, at_least=0.5, link=link)])
        got = run_state(study, parts)[0]["fit"]
        found[link] = np.max(differences(got, reference(follow, ends, link, x=np.column_stack([d[n] for n in names])), link))
    with capsys.disabled():
        print(f"\ntcga_brca, {len(d['time'])} patients at {len(parts)} sites of 1 to 2: max abs difference from pooled {max(found.values()):.1e}")
    assert len(parts) > 600
    assert np.max(list(found.values())) < 1e-6


def test_death_within_14_days_and_6_months_at_the_smallest_hospitals_of_ist(sites, real_study, pooled, capsys):
    """IST knows whether, not when: two intervals, which is what grouped times are for."""
    names = ["age", "female", "rsbp", "rasp3"]

    def grouped(rows):
        early, late = rows.columns["dead_14d"], rows.columns["dead_6m"]
        return Rows.of({**{n: rows.columns[n] for n in names}, "days": np.where(early == 1, 14.0, 182.0), "dead_6m": np.maximum(early, late)})

    small = {n: grouped(r) for n, r in sites("ist", "hospital").items() if len(r) <= 6}
    study = real_study("ist", [step(features=names, time="days", event="dead_6m", cuts=[14, 182])])
    more = {**study.data.variables, "days": {"role": "time", "unit": "d", "minimum": 0, "maximum": 182}}
    study = type(study).parse({**study.model_dump(by_alias=True), "data": {**study.data.model_dump(), "variables": {k: dict(v) for k, v in more.items()}}})
    got = simulate(study, small).results["fit"]
    table = pooled(small, *names, "days", "dead_6m")
    table = table[~np.isnan(table).any(axis=1)]
    fit = reference({"time": table[:, 4], "dead": table[:, 5]}, [14, 182], x=table[:, :4])
    found = np.max(differences(got, fit))
    with capsys.disabled():
        ones = sum(len(r) <= 2 for r in small.values())
        print(f"\nist, {got['n']} patients at the {len(small)} hospitals of at most 6 ({ones} of 1 or 2): max abs difference from pooled {found:.1e}")
    assert len(small) > 50
    assert (got["n"], got["left_out"] > 0) == (len(table), True)
    assert found < 1e-6


def test_censored_sites_and_tied_times_are_fine(run):
    d = lung()
    d["time"] = np.ceil(d["time"] / 90) * 90
    quiet = d["dead"] == 0
    parts = [Rows.of({k: v[m] for k, v in d.items()}) for m in (quiet, ~quiet, np.zeros(len(quiet), bool))]
    for censored in ("start", "end"):  # all times are ends, so nobody is censored inside an interval
        got = run(VARIABLES, [step(cuts=[90, 180, 270, 360, 450], censored=censored)], parts)["fit"]
        assert np.max(differences(got, reference(d, [90, 180, 270, 360, 450]))) < 1e-6


@pytest.mark.parametrize("censored", ["start", "end"])
def test_intervals_without_events_are_joined_and_those_nobody_outlives_are_not_used(run, scatter, censored):
    d = lung()
    d["dead"] = np.where((d["time"] > 200) & (d["time"] <= 300), 0.0, d["dead"])
    last = d["time"].max()
    d["dead"] = np.where(d["time"] > 700, 1.0, d["dead"])
    got = run(VARIABLES, [step(cuts=[100, 200, 250, 300, 450, 700, last, last + 10], censored=censored)], scatter(d, [1, 1, 80]))["fit"]
    assert [(i["start"], i["end"]) for i in got["baseline"]["intervals"]] == [(0, 100), (100, 200), (200, 450), (450, 700)]
    assert "Follow-up after 700 is not used" in " ".join(got["warnings"])
    assert "joined with a neighbour" in " ".join(got["warnings"])
    assert np.max(differences(got, reference(d, [100, 200, 450, 700], censored=censored))) < 1e-6
    with pytest.raises(TaskError, match=r"No event lies in \(200, 250\], \(250, 300\], so"):
        run(VARIABLES, [step(cuts=[100, 200, 250, 300, 450, 700], censored=censored, empty="refuse")], scatter(d, [90]))


def test_when_everybody_at_risk_has_the_event(run, scatter):
    d = lung()
    with pytest.raises(TaskError, match=r"Nobody at risk outlives the interval \(0, 1100\].*earlier and more cuts"):
        run(VARIABLES, [step(cuts=[1100])], scatter(d, [90]))


def test_the_score_is_the_derivative_and_the_information_its_variance():
    eta = np.r_[np.linspace(-30, 3, 60), -150.0, 5.0, 200.0, -200.0]
    for link in ("logit", "cloglog"):
        one, zero = bernoulli(np.ones(len(eta), bool), eta, link), bernoulli(np.zeros(len(eta), bool), eta, link)
        assert all(np.isfinite(v).all() for v in (*one, *zero))
        h = np.exp(one[0])
        moderate = (eta > -20) & (eta < 2)
        np.testing.assert_allclose((h + np.exp(zero[0])), 1.0, rtol=1e-12)
        np.testing.assert_allclose((h * one[1] + np.exp(zero[0]) * zero[1])[moderate], 0.0, atol=1e-12)
        np.testing.assert_allclose((h * one[1] ** 2 + np.exp(zero[0]) * zero[1] ** 2)[moderate], one[2][moderate], rtol=1e-8)
        for y, value in ((True, one), (False, zero)):
            up, down = (bernoulli(np.full(len(eta), y), eta + s, link)[0] for s in (1e-5, -1e-5))
            np.testing.assert_allclose(((up - down) / 2e-5)[moderate], value[1][moderate], rtol=1e-4, atol=1e-9)


def test_evaluation_ranks_by_the_linear_predictor(run, scatter):
    d = lung()
    grid = {"name": "grid", "task": "event_times", "time": "time", "event": "dead"}
    plan = [grid, step(part="train", link="cloglog"), {"name": "eval", "task": "evaluate_survival", "model": "fit", "times": "grid"}]
    got = run(VARIABLES, plan, scatter(d, [1, 2, 60]))["eval"]
    assert 0.5 < got["concordance"]["value"] < 0.9
    assert got["concordance_within_sites"]["pairs"] > 0


def test_rows_that_cannot_be_used(run, scatter):
    d = lung()
    with pytest.raises(TaskError, match="no event in 'dead'"):
        run(VARIABLES, [step()], scatter({**d, "dead": np.zeros_like(d["dead"])}, [90]))
    with pytest.raises(TaskError, match="are negative"):
        run(VARIABLES, [step()], scatter({**d, "time": d["time"] - 100}, [90]))
    with pytest.raises(TaskError, match="happen at time 0"):
        run(VARIABLES, [step()], scatter({**d, "time": np.where(d["dead"] == 1, 0.0, d["time"])}, [90]))
    with pytest.raises(TaskError, match="'wt' is constant"):
        run(VARIABLES, [step()], scatter({**d, "wt": np.full_like(d["wt"], 1234.1)}, [90]))
    with pytest.raises(TaskError, match=r"of 'sex' grow without end.*ridge"):
        run(VARIABLES, [step()], scatter({**d, "dead": np.where(d["sex"] == 2, 0.0, d["dead"])}, [90]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cuts": []}, "does not say where its intervals end"),
        ({"cuts": [90, 1101]}, "outside the follow-up"),
        ({"site_intercepts": True}, "'discrete_time' has no site intercepts.*one patient"),
        ({"link": "probit"}, "link"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, params, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [step(**params)]))
