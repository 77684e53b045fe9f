"""A federated trial analysis: the randomised effect of aspirin in acute stroke, from hospitals that keep their patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.scenarios.base import Line, Outcome, Scenario, interval
from locum.scenarios.lab import Lab, Ran
from locum.scenarios.stroke import largest
from locum.study import Study
from locum.tasks.two_by_two import cells, effect

Floats = NDArray[np.float64]
OUTCOME, ARM = "dead_or_dependent", "rxasp"
DIFFERENCE, ODDS = "risk difference, points", "odds ratio"
PUBLISHED = {OUTCOME: -1.25, "dead_14d": -0.39}
"""Lancet 349:1569 (1997): 62.2 against 63.5 %, 9.0 against 9.4 %; with the decimals of the published data."""
LABELS = {OUTCOME: "dead or dependent at 6 months", "dead_14d": "dead within 14 days", "recurrent_ischaemic_14d": "recurrent ischaemic stroke within 14 days"}
LEAST = 20
"""Patients of a country that is drawn: the own table of a smaller one is nearly its patients."""
LEVELS = (3.0, 1.0, 0.3, 0.1)


def answer(lab: Lab) -> Outcome:
    study = lab.study("aspirin")
    if lab.mode == "private":
        return _private(lab, study)
    by = "country" if lab.mode == "network" else "hospital"
    ran = lab.simulate(*largest(study, lab.rows(study, "ist"))) if lab.quick else lab.run(study, "ist", by=by)
    countries = lab.rows(lab.study("aspirin-countries"), "ist", by="country")
    lab.say("the same by statsmodels, on all rows together")
    lines = _as_randomised(ran) + _adjusted(ran)
    more, forest, told = _between(lab, countries)
    lines += more + _alone(ran) + [_events(ran, "deaths", "dead_14d"), _events(ran, "recurrences", "recurrent_ischaemic_14d")]
    got = ran.results["effect"]
    worst = max(got["balance"], key=lambda b: abs(b["smd_before"] or 0.0))
    notes = [
        "Published (IST Collaborative Group, Lancet 349:1569, 1997): 62.2 against 63.5 %, 13 fewer per 1,000 (SD 7), 2p = 0.07.",
        "Adjusted for baseline prognosis the publication has 14 fewer per 1,000 (SD 6), 2p = 0.03.",
        f"Balance: the largest standardised difference between the arms is {worst['smd_before']:+.3f} ({worst['name']}); below 0.1 is usually called balanced.",
        *told,
        "The publication has recurrent ischaemic stroke in 2.8 against 3.9 %, by its own definition; here it is the answer on the form at 14 days.",
        f"{sum(map(len, ran.sites.values())) - ran.results['odds']['n']} patients whose outcome at six months is unknown are left out.",
    ]
    if ran.processes:
        notes.append(f"Chosen for size, the {len(ran.sites)} countries are not the trial: their figures differ from those of all hospitals in the other modes.")
    metrics = {"aspirin_risk_difference": float(lines[1].value or 0.0), "aspirin_max_abs_diff_vs_pooled": _largest_difference(lines)}
    return Outcome(tuple(lines), {"countries": forest, "balance": _balance(got["balance"])}, tuple(notes), metrics)


# --- as randomised ----------------------------------------------------------------------------------------------------
def _as_randomised(ran: Ran) -> list[Line]:
    import statsmodels.api as sm
    from statsmodels.stats.contingency_tables import StratifiedTable
    from statsmodels.stats.proportion import confint_proportions_2indep

    arm, y, _ = _pooled(ran.sites)
    a, n1, c, n0 = y[arm == 1].sum(), (arm == 1).sum(), y[arm == 0].sum(), (arm == 0).sum()
    low, high = confint_proportions_2indep(a, n1, c, n0, method="wald", compare="diff")
    strata = StratifiedTable([t for t in (_table(*_pooled({"": rows})[:2]) for rows in ran.sites.values()) if t.sum(axis=1).all()])
    odds = sm.Logit(y, np.column_stack([np.ones(len(y)), arm])).fit(disp=0, tol=1e-12)
    got = ran.results
    arms = got["odds-by-hospital"]["arms"]
    risks = [(arms[name]["mean"], arms[name]["n"]) for name in ("treated", "control")]
    said = " against ".join(f"{100 * m:.2f} % of {n:,}" for m, n in risks)
    difference, se = risks[0][0] - risks[1][0], math.sqrt(sum(m * (1 - m) / n for m, n in risks))
    by = f"by {len(ran.sites)} sites"
    return [
        Line("pooled", DIFFERENCE, 100 * (a / n1 - c / n0), _two((100 * low, 100 * high)), PUBLISHED[OUTCOME], f"statsmodels, {len(y):,} patients"),
        Line("federated", DIFFERENCE, 100 * difference, interval(100 * difference, 100 * se), PUBLISHED[OUTCOME], f"as randomised: {said}"),
        _line("federated", f"{DIFFERENCE}, Mantel-Haenszel", got["difference-by-hospital"]["mantel_haenszel"], 100.0, by),
        Line("pooled", ODDS, math.exp(odds.params[1]), _two(np.exp(odds.conf_int()[1])), None, "statsmodels Logit"),
        _ratio("federated", ODDS, _coefficient(got["odds"]), "logistic"),
        Line("pooled", f"{ODDS}, Mantel-Haenszel", strata.oddsratio_pooled, _two(strata.oddsratio_pooled_confint()), None, "statsmodels StratifiedTable"),
        _ratio("federated", f"{ODDS}, Mantel-Haenszel", got["odds-by-hospital"]["mantel_haenszel"], by),
    ]


def _adjusted(ran: Ran) -> list[Line]:
    import statsmodels.api as sm

    features = [f for f in next(s for s in ran.study.plan if s.name == "adjusted").params["features"] if f != ARM]
    arm, y, x = _pooled(ran.sites, ran.study, features)
    fit = sm.Logit(y, np.column_stack([np.ones(len(y)), arm, x])).fit(disp=0, tol=1e-12, maxiter=100)
    got, effect_ = ran.results, ran.results["effect"]["effect"]["difference"]
    out = [
        Line("pooled", f"{ODDS}, adjusted", math.exp(fit.params[1]), _two(np.exp(fit.conf_int()[1])), None, f"statsmodels, {len(features)} baseline variables"),
        _ratio("federated", f"{ODDS}, adjusted", _coefficient(got["adjusted"]), f"{len(features)} baseline variables"),
    ]
    dummies = _intercepts(ran.sites)
    if dummies is not None:
        out.append(dummies)
    kept = got["intercepts"]["site_intercepts"]
    out.append(_ratio("federated", f"{ODDS}, site intercepts", _coefficient(got["intercepts"]), f"{kept} intercepts, which stay at their sites"))
    note = "doubly robust (AIPW): published adjusted figure 14 fewer per 1,000"
    out.append(Line("federated", f"{DIFFERENCE}, adjusted", 100 * effect_["estimate"], _two(np.multiply(100, effect_["ci95"])), -1.4, note))
    return out


def _intercepts(sites: Mapping[str, Rows]) -> Line | None:
    """The pooled model with a dummy for each site whose outcomes differ: the others tell nothing."""
    import statsmodels.api as sm

    parts = [p for p in (_pooled({"": rows})[:2] for rows in sites.values()) if len(p[1]) and p[1].min() < p[1].max()]
    arm, y = (np.concatenate([p[k] for p in parts]) for k in range(2))
    site = np.repeat(np.arange(len(parts)), [len(p[1]) for p in parts])
    fit = sm.GLM(y, np.column_stack([arm, site[:, None] == np.arange(len(parts))]).astype(float), family=sm.families.Binomial()).fit(tol=1e-12)
    ends = fit.params[0] + np.array([-1.959964, 1.959964]) * fit.bse[0]
    return Line("pooled", f"{ODDS}, site intercepts", math.exp(fit.params[0]), _two(np.exp(ends)), None, f"statsmodels with {len(parts)} dummies")


def _events(ran: Ran, step: str, outcome: str) -> Line:
    got = ran.results[step]
    treated, control = got["arms"]["treated"], got["arms"]["control"]
    note = f"{LABELS[outcome]}: {100 * treated['mean']:.2f} against {100 * control['mean']:.2f} %; Mantel-Haenszel"
    return _line("federated", f"risk difference, points: {LABELS[outcome]}", got["mantel_haenszel"], 100.0, note, PUBLISHED.get(outcome))


# --- between countries, and alone -------------------------------------------------------------------------------------
def _between(lab: Lab, countries: Mapping[str, Rows]) -> tuple[list[Line], str, list[str]]:
    from statsmodels.stats.meta_analysis import combine_effects

    from locum.report import plots

    ran = lab.simulate(lab.study("aspirin-countries"), countries)
    got = ran.results["between"]
    found = got["random"]["REML"]
    own = {name: effect(cells(*_pooled({"": rows})[:2]), "log_odds_ratio", 0.5) for name, rows in countries.items()}
    own = {name: e for name, e in own.items() if e.variance > 0}
    y, v = np.array([e.value for e in own.values()]), np.array([e.variance for e in own.values()])
    ref = combine_effects(y, v, method_re="iterated")  # Paule and Mandel
    ends = ref.mean_effect_re + np.array([-1.959964, 1.959964]) * ref.sd_eff_w_re
    low, high = (math.exp(x) for x in found["prediction_interval95"])
    h = got["heterogeneity"]
    note = f"{len(own)} countries, REML; tau {math.sqrt(found['tau2']):.3f}, I2 {h['I2']:.0%}, p {h['p']:.2f}; in a new country {low:.2f} to {high:.2f}"
    lines = [
        Line("pooled", f"{ODDS}, random effects by country", math.exp(ref.mean_effect_re), _two(np.exp(ends)), None, "statsmodels, Paule-Mandel"),
        _ratio("federated", f"{ODDS}, random effects by country", found, note),
    ]
    order = sorted((s for s in own if len(countries[s]) >= LEAST), key=lambda s: -len(countries[s]))
    half = {name: 1.96 * math.sqrt(own[name].variance) for name in order}
    rows: list[Any] = [
        (f"{s.upper()} ({len(countries[s]):,})", *(math.exp(own[s].value + k * half[s]) for k in (0, -1, 1)), float(1 / own[s].variance / (1 / v).sum()), False)
        for s in order
    ]
    rows.append(("all: random effects", found["odds_ratio"], *found["odds_ratio_ci95"], 0.0, True))
    figure = plots.forest(rows, title="Dead or dependent at 6 months: aspirin against none, by country (patients)", label="odds ratio")
    notes = [
        "A country's own odds ratio in the forest plot is what it would compute itself; the study releases none of them, only sums over countries.",
        f"Countries of fewer than {LEAST} patients are in the sums and not drawn.",
    ]
    return lines, figure, notes + got["warnings"]


def _alone(ran: Ran) -> list[Line]:
    """What each site could say: how wide its own interval is."""
    found = [effect(cells(*_pooled({"": rows})[:2]), "risk_difference", 0.0) for rows in ran.sites.values()]
    widths = np.asarray([2 * 196.0 * math.sqrt(e.variance) for e in found if e.variance > 0])
    nothing = len(found) - len(widths)
    note = f"median of {len(widths)} sites' own 95 % intervals; the narrowest has {widths.min():.0f}; {nothing} have none: an empty arm, or outcomes alike"
    return [Line("each site alone", "width of the interval, points", float(np.median(widths)), None, None, note)]


def _balance(rows: list[dict[str, Any]]) -> str:
    from locum.report import plots

    shown = [(b["name"], b["smd_before"]) for b in rows if b["smd_before"] is not None]
    return plots.bars(shown, title="Balance at baseline: aspirin less control", label="standardised mean difference")


# --- with noise -------------------------------------------------------------------------------------------------------
def _private(lab: Lab, study: Study) -> Outcome:
    """The same difference with noise, at several levels of eps: each is a study of its own on its own budget."""
    sites = lab.rows(study, "ist")
    study, sites = largest(study, sites) if lab.quick else (study, sites)
    arm, y, _ = _pooled(sites)
    exact, se = 100 * float(y[arm == 1].mean() - y[arm == 0].mean()), 100 * math.sqrt(sum(y[arm == k].var() / (arm == k).sum() for k in (0, 1)))
    lines = [Line("pooled", DIFFERENCE, exact, interval(exact, se), PUBLISHED[OUTCOME], f"without noise, {len(y):,} patients")]
    metrics: dict[str, float] = {"aspirin_risk_difference": exact}
    for eps in LEVELS[:1] if lab.quick else LEVELS:
        terms = study.terms.model_dump()
        terms["privacy"] |= {"eps": eps}
        ran = lab.simulate(Study.parse({**study.model_dump(by_alias=True), "terms": terms}), sites)
        row = _coefficient(ran.results["difference"])
        metrics[f"aspirin_risk_difference_eps{eps:g}".replace(".", "_")] = 100 * row["coef"]
        share = f"noise is {row['privacy_share']:.0%} of the variance" if row["ci95"] else "noise drowns it: no interval"
        ci = _two(np.multiply(100, row["ci95"])) if row["ci95"] else None
        lines.append(Line("federated", DIFFERENCE, 100 * row["coef"], ci, PUBLISHED[OUTCOME], f"eps {eps:g}; {share}"))
        if eps == study.terms.privacy.eps:
            odds, deaths = _coefficient(ran.results["odds"]), _coefficient(ran.results["deaths"])
            lines.append(_ratio("federated", ODDS, odds, f"eps {eps:g}, all three answers together"))
            ends = _two(np.multiply(100, deaths["ci95"])) if deaths["ci95"] else None
            lines.append(Line("federated", f"risk difference, points: {LABELS['dead_14d']}", 100 * deaths["coef"], ends, PUBLISHED["dead_14d"], f"eps {eps:g}"))
    notes = [
        "Two risks are two counts each: with many patients noise costs them little. What is uncertain about a difference of 1.25 points is chance, not noise.",
        "Each eps is a study of its own; a hospital whose patients take part in all of them would pay for all.",
        "Hospital intercepts, Mantel-Haenszel, random effects and weighting have no form with noise.",
    ]
    return Outcome(tuple(lines), {}, tuple(notes), metrics)


# --- small helpers ----------------------------------------------------------------------------------------------------
def _pooled(sites: Mapping[str, Rows], study: Study | None = None, features: list[str] | None = None) -> tuple[Floats, Floats, Floats]:
    """Arm, outcome and baseline columns of everybody whose outcome is known."""
    names = [ARM, OUTCOME, *(features or [])]
    table = np.concatenate([rows.matrix(names) for rows in sites.values()])
    table = table[np.isfinite(table).all(axis=1)]
    columns: list[Floats] = []
    for j, name in enumerate(names[2:], start=2):
        k = len(study.data.variables[name].categories) if study else 0
        columns += [(table[:, j] == c).astype(np.float64) for c in range(1, k)] if k else [table[:, j]]
    return table[:, 0], table[:, 1], np.column_stack(columns) if columns else np.empty((len(table), 0))


def _table(arm: Floats, y: Floats) -> Floats:
    a, b, c, d = cells(arm, y)
    return np.array([[a, b], [c, d]])


def _coefficient(result: Mapping[str, Any]) -> dict[str, Any]:
    return dict(next(c for c in result["coefficients"] if c["name"] == ARM))


def _line(who: str, metric: str, found: Mapping[str, Any], scale: float, note: str, reference: float | None = None) -> Line:
    return Line(who, metric, scale * found["estimate"], _two(np.multiply(scale, found["ci95"])), reference, note)


def _ratio(who: str, metric: str, found: Mapping[str, Any], note: str) -> Line:
    ends = found["odds_ratio_ci95"]
    return Line(who, metric, found["odds_ratio"], _two(ends) if ends else None, None, note)


def _two(ends: Any) -> tuple[float, float]:
    low, high = ends
    return float(low), float(high)


def _largest_difference(lines: list[Line]) -> float:
    """Between the pooled and the federated figure of the same name, which the same method made."""
    pooled = {x.metric: x.value for x in lines if x.who == "pooled" and "random effects" not in x.metric}
    same = [(x.value, pooled[x.metric]) for x in lines if x.who == "federated" and x.metric in pooled]
    return max(abs(a - b) for a, b in same if a is not None and b is not None)


SCENARIO = Scenario(
    name="aspirin",
    title="Aspirin in acute stroke: a federated trial analysis of 466 hospitals",
    question="By how much does aspirin, begun within 48 hours, change the risk of being dead or dependent six months after an ischaemic stroke?",
    data=("ist",),
    studies=("aspirin", "aspirin-countries", "aspirin-private"),
    needs=("statsmodels",),
    answer=answer,
    modes=("clear", "masked", "private", "network"),
)
