"""A rare disease: 415 patients at 173 hospitals, half of which saw one. No hospital can fit anything, and no patient is lost to the cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import LocumError
from locum.scenarios.base import Line, Outcome, Scenario
from locum.scenarios.lab import Lab, Ran
from locum.scenarios.survival_help import bootstrap, curves, expanded, mean_concordance, row_of, survival_at, together
from locum.study import Study
from locum.tasks import build
from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
COLUMN = "RCONSC[U]"
RATIO = "hazard ratio, unconscious against drowsy"
NAMES = {"D": "drowsy", "U": "unconscious"}
WORDS = {
    "age": "age, per year",
    "female": "female",
    COLUMN: "unconscious",
    "ratrial": "atrial fibrillation",
    "rsbp": "blood pressure, per mm Hg",
    "rxasp": "aspirin",
}
FEATURES = ("age", "female", "RCONSC", "ratrial", "rsbp", "rxasp")
ODDS = "odds ratio of death within 14 days, unconscious"
EPS = (8.0, 30.0, 100.0)
"""At which, besides the study's own, the private form is tried."""
ADDITIVE = ("hazards", "grouped")
"""The steps whose likelihood is a sum over patients."""
HORIZONS = ((14.0, "14 days"), (183.0, "6 months"))


def answer(lab: Lab) -> Outcome:
    if lab.mode == "private":
        return _private(lab)
    study = lab.study("rare-disease")
    ran = lab.run(study, "ist", by="hospital")
    fits = pooled(ran)
    one = lab.simulate(singles_study(study, ADDITIVE[:1] if lab.quick else ADDITIVE), singles(ran.sites))
    lines = [*_ratios(ran, one, fits), _cox_of_singles(lab, study, ran), *_alone(ran), *_survival(ran), *_concordance(ran)]
    worst = max(worst_difference(ran, fits), worst_difference(one, fits))
    deaths, alone = without_comparison(ran.sites)
    metrics = {"rare_max_abs_diff_vs_pooled": worst, "rare_sites": float(len(ran.sites)), "rare_deaths_without_comparison": float(alone)}
    return Outcome(tuple(lines), _figures(ran), _notes(ran, worst, deaths, alone), metrics)


def _notes(ran: Ran, worst: float, deaths: int, alone: int) -> tuple[str, ...]:
    sizes, terms = np.asarray([len(r) for r in ran.sites.values()]), ran.study.terms
    cohort = (
        f"{sizes.sum()} patients at {len(sizes)} hospitals: {(sizes == 1).sum()} have one of them, the largest {sizes.max()}. It is the cohort that "
        f"satisfies the minimum: no sum is formed of fewer than {terms.min_cohort} hospitals, and a hospital takes part from {terms.min_rows} patient on."
    )
    same = f"Largest difference of a coefficient from the pooled fit, both models, by hospital and with one patient a site: {worst:.1e}."
    within = (
        "A Cox model with a baseline for each hospital compares patients within hospitals: "
        f"at {alone} of {deaths} deaths nobody else is at risk there, and they add nothing."
    )
    exact = (
        "The sums are exact. A hospital with one patient adds that patient's values, so this study is for masks, never for clear text; and somebody who knows "
        "all patients of the cohort but one could compute the last from an exact result."
    )
    part = "That a hospital takes part says that it has had such a patient; where that is too much, it has to be asked and to answer with zeros."
    return cohort, same, within, exact, part


# --- what pooling would have given ------------------------------------------------------------------------------------
def pooled(ran: Ran) -> dict[str, Any]:
    """Both models by statsmodels, on one row per patient and interval of all hospitals together."""
    import statsmodels.api as sm

    time, event, x = _design(ran.sites)
    ends = [2.0, 5.0, 14.0, 45.0, 183.0]
    big, y, lived = expanded(x, time, event, ends, whole=False)
    poisson = sm.GLM(y, big, family=sm.families.Poisson(), offset=np.log(lived)).fit(tol=1e-14, maxiter=200)
    big, y, _ = expanded(x, time, event, ends, whole=True)
    grouped = sm.GLM(y, big, family=sm.families.Binomial(sm.families.links.CLogLog())).fit(tol=1e-14, maxiter=300)
    return {"hazards": poisson, "grouped": grouped}


def worst_difference(ran: Ran, fits: Mapping[str, Any]) -> float:
    """The largest absolute difference of a coefficient from the pooled fit, over the steps that ran."""
    here = {n: [r["coef"] for r in ran.results[n]["coefficients"]] for n in ADDITIVE if n in ran.results}
    return max(float(np.abs(np.asarray(b) - fits[n].params[-len(b) :]).max()) for n, b in here.items())


def _design(sites: Mapping[str, Rows]) -> tuple[Floats, Floats, Floats]:
    """Time, event and the columns of the models, of the complete cases."""
    d, _ = together(sites, *FEATURES, "time", "died")
    x = np.column_stack([d[n] for n in FEATURES])
    return np.maximum(d["time"], 0.5), d["died"], x


# --- one patient a site -----------------------------------------------------------------------------------------------
def singles(sites: Mapping[str, Rows]) -> dict[str, Rows]:
    """The same patients, each at a site of its own."""
    return {f"{name}-{i}": rows.take(np.asarray([i])) for name, rows in sites.items() for i in range(len(rows))}


def singles_study(study: Study, steps: tuple[str, ...]) -> Study:
    """The study with only these steps of its plan."""
    plan = [s.model_dump() for s in study.plan if s.name in steps]
    return Study.parse({**study.model_dump(by_alias=True), "plan": plan})


def without_comparison(sites: Mapping[str, Rows]) -> tuple[int, int]:
    """How many deaths there are, and at how many of them nobody else of the same hospital is at risk."""
    deaths = alone = 0
    for rows in sites.values():
        time, died = rows.columns["time"], rows.columns["died"] == 1.0
        at_risk = (time[None, :] >= time[died][:, None]).sum(axis=1)
        deaths, alone = deaths + int(died.sum()), alone + int((at_risk == 1).sum())
    return deaths, alone


def _cox_of_singles(lab: Lab, study: Study, ran: Ran) -> Line:
    who, metric = "Cox model stratified by site, one patient a site", RATIO
    try:
        got = lab.simulate(singles_study(study, ("within-hospitals",)), singles(ran.sites))
    except LocumError as error:
        return Line(who, metric, None, note=f"no information at all: {error.what}")
    return replace(_ratio(who, row_of(got.results["within-hospitals"], COLUMN)), note="unexpected: it should have no answer")


# --- the table --------------------------------------------------------------------------------------------------------
def _ratio(who: str, row: Mapping[str, Any], note: str = "") -> Line:
    return Line(who, RATIO, row["hazard_ratio"], (row["ci95"][0], row["ci95"][1]), note=note)


def _ratios(ran: Ran, one: Ran, fits: Mapping[str, Any]) -> list[Line]:
    got, fit, within = ran.results["hazards"], fits["hazards"], row_of(ran.results["within-hospitals"], COLUMN)
    k = len(fit.params) - len(got["coefficients"]) + [r["name"] for r in got["coefficients"]].index(COLUMN)
    low, high = (float(np.exp(fit.params[k] + z * fit.bse[k])) for z in (-Z95, Z95))
    kept = (row_of(got, COLUMN)["se"] / within["se"]) ** 2
    who, facts = f"{got['n']} patients", f"{got['events']} deaths, {got['sites']} hospitals"
    return [
        Line("pooled", RATIO, float(np.exp(fit.params[k])), (low, high), note=f"{who}; statsmodels, Poisson with a row per patient and interval"),
        _ratio("federated", row_of(got, COLUMN), f"{who}, {facts}; piecewise exponential"),
        _ratio("federated, grouped times", row_of(ran.results["grouped"], COLUMN), f"{who}; discrete time, complementary log-log"),
        _ratio("federated, one patient a site", row_of(one.results["hazards"], COLUMN), f"{one.results['hazards']['sites']} sites; piecewise exponential"),
        _ratio("Cox model stratified by site", within, f"{kept:.0%} of the federated model's information on this coefficient"),
    ]


def _alone(ran: Ran) -> list[Line]:
    got = ran.results["alone"]
    note = f"of {got['sites']} hospitals, by the same model without a penalty on their own patients; no other figure of a hospital alone exists"
    return [Line("each site alone", "hospitals that can fit the model", float(got["sites_fitted"]), note=note)]


def _survival(ran: Ran) -> list[Line]:
    out = []
    for group, name in NAMES.items():
        curve = ran.results["curves"]["groups"][group]
        for time, words in HORIZONS:
            value, ci = survival_at(curve, time)
            out.append(Line("Kaplan-Meier, federated", f"survival at {words}, {name}", value, ci, note=f"{curve['n']} patients"))
    model = ran.results["hazards"]["survival"]
    for time, words in HORIZONS:
        if time in model["times"]:
            j = model["times"].index(time)
            ci = (model["ci95_low"][j], model["ci95_high"][j])
            out.append(Line("federated", f"survival at {words}, at the means", model["survival"][j], ci, note="piecewise exponential"))
    return out


def _concordance(ran: Ran) -> list[Line]:
    got, study = ran.results["evaluation"], ran.study
    test = {s: part for s, r in ran.sites.items() if len(part := r.part("test", study.data.split))}
    model: Any = build(next(s for s in study.plan if s.name == "hazards-train"), study)
    d, _ = together(test, *model.reads())
    score = model.scores(ran.state, Rows.of(d))
    ci = bootstrap(lambda parts: mean_concordance(d["time"], d["died"], score, parts), [np.arange(len(score))])
    bound = got["concordance"]["error_bound"]
    within = got["concordance_within_sites"]
    note = f"{got['n']} test patients, {got['events']} deaths, bootstrap over them (their rows are public); binning may cost {bound:.3f}"
    return [
        Line("federated", "C-index", got["concordance"]["value"], ci, note=note),
        Line("federated", "C-index within hospitals", within["value"], note=f"{within['pairs']} pairs: too few to mean anything"),
        Line("a coin", "C-index", 0.5),
    ]


# --- what noise costs -------------------------------------------------------------------------------------------------
def _private(lab: Lab) -> Outcome:
    """Early death by a logistic model with noise, at several eps, beside the exact one."""
    import statsmodels.api as sm

    study = lab.study("rare-disease")
    exact = lab.run(_with_eps(study, None), "ist", by="hospital")
    d, _ = together(exact.sites, *FEATURES, "dead_14d")
    fit = sm.Logit(d["dead_14d"], sm.add_constant(np.column_stack([d[n] for n in FEATURES]))).fit(disp=0, tol=1e-12)
    k = 1 + FEATURES.index("RCONSC")
    low, high = (float(np.exp(fit.params[k] + z * fit.bse[k])) for z in (-Z95, Z95))
    lines = [Line("pooled", ODDS, float(np.exp(fit.params[k])), (low, high), note=f"{len(d['dead_14d'])} patients; statsmodels")]
    sure: dict[float | None, bool] = {}
    for eps in (study.terms.privacy.eps, None, *EPS[: 1 if lab.quick else None]):
        got = exact if eps is None else lab.run(_with_eps(study, eps), "ist", by="hospital")
        row = row_of(got.results["early-death"], COLUMN)
        sure[eps] = row.get("odds_ratio_ci95") is not None
        ci = (row["odds_ratio_ci95"][0], row["odds_ratio_ci95"][1]) if sure[eps] else None
        who = "federated" if eps == study.terms.privacy.eps else "federated, exact" if eps is None else f"federated, eps {eps:g}"
        note = "no noise" if eps is None else f"eps {eps:g}" + ("" if sure[eps] else "; no interval can be given: noise drowns what the rows say")
        lines.append(Line(who, ODDS, row["odds_ratio"], ci, note=note))
    notes = (
        "Neither survival model has a form with noise; this is a logistic model of death within 14 days, on the same patients and features.",
        "An estimate without an interval is no answer: another run draws other noise and gives another number. An eps above 8 protects nobody in practice.",
    )
    return Outcome(tuple(lines), notes=notes)


def _with_eps(study: Study, eps: float | None) -> Study:
    """The study at another eps, above 8 with the reason that is asked for; None: with exact sums."""
    privacy = (
        {"unit": "none"} if eps is None else study.terms.privacy.model_dump() | {"eps": eps, "override": "to show what an answer would cost" if eps > 8 else ""}
    )
    return Study.parse({**study.model_dump(by_alias=True), "terms": study.terms.model_dump() | {"privacy": privacy}})


def _figures(ran: Ran) -> dict[str, str]:
    from locum.report.plots import forest, kaplan_meier

    rows = [(WORDS[r["name"]], r["hazard_ratio"], *r["ci95"]) for r in ran.results["hazards"]["coefficients"]]
    rows += [
        (f"{WORDS[r['name']]} (within hospitals)", r["hazard_ratio"], *r["ci95"])
        for r in ran.results["within-hospitals"]["coefficients"]
        if r["name"] == COLUMN
    ]
    return {
        "survival": kaplan_meier(curves(ran.results["curves"], NAMES), title="Survival after posterior circulation stroke", unit="days"),
        "hazard-ratios": forest(rows, title="Hazard ratios over six months", label="hazard ratio (95 % interval)"),
    }


SCENARIO = Scenario(
    name="rare-disease",
    title="A rare disease: 415 patients at 173 hospitals",
    question="What can be said of the survival of patients whom most hospitals see once?",
    data=("ist",),
    studies=("rare-disease", "rare-disease-private"),
    needs=("statsmodels",),
    answer=answer,
    modes=("clear", "masked", "private", "network"),
)
