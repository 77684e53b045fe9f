"""Stroke outcome: one model of hundreds of hospitals, what each could do alone, and whether it holds in a country that had no part in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.scenarios.base import Line, Outcome, Scenario, interval
from locum.scenarios.lab import Lab, Ran
from locum.study import Study
from locum.tasks import build_plan
from locum.tasks.concordance import auc_table
from locum.tasks.design import linear_predictor

Floats = NDArray[np.float64]
OUTCOME = "dead_or_dependent"
RIDGE = 3.0
"""Of a hospital's own model, as in the study's step 'alone'."""
ENOUGH = 30
"""Test patients of a hospital whose own AUC says something."""


def answer(lab: Lab) -> Outcome:
    study = lab.study("stroke")
    by = "country" if lab.mode == "network" else "hospital"
    ran = lab.simulate(*largest(study, lab.rows(study, "ist"))) if lab.quick else lab.run(study, "ist", by=by)
    train, test = (complete(ran, part) for part in ("train", "test"))
    lab.say("the same model by statsmodels, on all rows together")
    pooled = Pooled(ran, train)
    score, y = pooled.scores(test), outcomes(test)
    lines = [_auc_line("pooled", "AUC", score, y, 0.792, f"statsmodels, all rows together: fitted on {len(outcomes(train)):,}, tried on {len(y):,} patients")]
    lines.append(_federated(ran, pooled, score, y))
    private = "countries" not in ran.results
    mine = _scores(ran, test)
    if private:
        cost = auc(score, y)[0] - auc(mine, y)[0]
        note = f"the private model looked at in the open, which no study could do: noise cost {cost:+.4f}"
        lines.append(_auc_line("federated", "AUC without the evaluation's noise", mine, y, None, note))
    else:
        lines += _released(ran) + _trees(lab, ran)
    local, sizes = _alone(lab, ran, train, test)
    lines += local
    lines += [_majority(train, test), *sizes]
    metrics = {"ist_auc_federated": _value(lines, "federated"), "ist_auc_pooled": _value(lines, "pooled"), "ist_auc_local": _value(lines, "each site alone")}
    figures, notes = {"calibration": _calibration(mine, y)}, []
    if private:
        metrics = {"ist_auc_private": _value(lines, "federated"), "ist_auc_cost_of_privacy": cost}
        notes.append("Trees and leaving countries out have no form with noise; they are in the study without it.")
    else:
        more, forests, notes = _countries(ran)
        lines, figures = lines + more, figures | forests
        metrics["trees_auc_minus_pooled"] = _value(lines, "federated, trees") - _value(lines, "pooled, trees")
        metrics["ist_auc_leave_one_country_out"] = ran.results["countries"]["mean_auc"]
    if ran.processes:
        notes.append(f"{len(ran.sites)} countries, the largest, are the sites here: one process each. The other modes have all hospitals.")
    notes.append("Patients who lack a value are left out: the pilot of 1991 and 1992 did not ask for atrial fibrillation or earlier aspirin.")
    notes.append("Intervals of an AUC are DeLong's and take patients as independent.")
    return Outcome(tuple(lines), figures, tuple(notes), metrics)


def largest(study: Study, sites: Mapping[str, Rows], most: int = 60) -> tuple[Study, dict[str, Rows]]:
    """The study with the largest sites alone, for tests."""
    chosen = sorted(sorted(sites, key=lambda s: -len(sites[s]))[:most])
    terms = study.terms.model_dump() | {"min_cohort": min(study.terms.min_cohort, most), "start_when": None}
    terms["privacy"] = terms["privacy"] | ({"honest": None} if study.terms.privacy.on else {})
    return Study.parse({**study.model_dump(by_alias=True), "terms": terms}), {s: sites[s] for s in chosen}


# --- the same rows, together ------------------------------------------------------------------------------------------
def complete(ran: Ran, part: str) -> dict[str, Rows]:
    """The sites' rows of a part that have a value in every variable of the model."""
    fit = next(s for s in ran.study.plan if s.name == "fit").params
    out = {}
    for name, rows in ran.sites.items():
        rows = rows.part(part, ran.study.data.split)  # type: ignore[arg-type]
        rows = rows.take(np.asarray(np.isfinite(rows.matrix([*fit["features"], fit["outcome"]])).all(axis=1)))
        if len(rows):
            out[name] = rows
    return out


def outcomes(parts: Mapping[str, Rows]) -> Floats:
    return np.concatenate([rows.columns[OUTCOME] for rows in parts.values()])


class Pooled:
    """Maximum likelihood by statsmodels, on rows that were put together for this alone."""

    def __init__(self, ran: Ran, train: Mapping[str, Rows]) -> None:
        import statsmodels.api as sm

        self.features = next(s for s in ran.study.plan if s.name == "fit").params["features"]
        self.variables = ran.study.data.variables
        self.coefficients = sm.Logit(outcomes(train), self.matrix(train)).fit(disp=0, maxiter=100, tol=1e-12).params

    def matrix(self, parts: Mapping[str, Rows]) -> Floats:
        columns = [np.ones(sum(len(rows) for rows in parts.values()))]
        for name in self.features:
            values = np.concatenate([rows.columns[name] for rows in parts.values()])
            k = len(self.variables[name].categories)
            columns += [values == c for c in range(1, k)] if k else [values]
        return np.column_stack(columns).astype(np.float64)

    def scores(self, parts: Mapping[str, Rows]) -> Floats:
        return np.asarray(self.matrix(parts) @ self.coefficients)


def _scores(ran: Ran, parts: Mapping[str, Rows]) -> Floats:
    task: Any = build_plan(ran.study)[[s.name for s in ran.study.plan].index("fit")]
    return np.concatenate([task.scores(ran.state, rows) for rows in parts.values()])


def auc(score: Floats, y: Floats) -> tuple[float, float | None]:
    """The AUC, ties counting half, and DeLong's standard error."""
    where = np.unique(score, return_inverse=True)[1].reshape(-1)
    positive, negative = (np.bincount(where[y == v], minlength=where.max() + 1).astype(np.float64) for v in (1.0, 0.0))
    value, _, se = auc_table(positive, negative)
    return value, se


def _auc_line(who: str, metric: str, score: Floats, y: Floats, reference: float | None, note: str) -> Line:
    value, se = auc(score, y)
    return Line(who, metric, value, interval(value, se, low=0.0, high=1.0), reference, note)


def _federated(ran: Ran, pooled: Pooled, score: Floats, y: Floats) -> Line:
    got, fit = ran.results["evaluation"], ran.results["fit"]
    largest_ = float(np.abs(np.asarray([c["coef"] for c in fit["coefficients"]]) - pooled.coefficients).max())
    value, se = got["auc"]["value"], got["auc"]["se"]
    note = f"{len(ran.sites)} sites, {fit['n']:,} patients; largest difference of a coefficient from the pooled one {largest_:.1e}"
    if "noise_sd" in got:
        note = f"{len(ran.sites)} sites, about {fit['n']:,} patients; model and evaluation with noise, together eps {ran.study.terms.privacy.eps:g}"
    return Line("federated", "AUC", value, interval(value, se, low=0.0, high=1.0), 0.792, note)


def _value(lines: Iterable[Line], who: str) -> float:
    """The first AUC of `who`."""
    return float(next(x.value for x in lines if x.who == who and x.metric == "AUC" and x.value is not None))


# --- alternatives -----------------------------------------------------------------------------------------------------
def _alone(lab: Lab, ran: Ran, train: Mapping[str, Rows], test: Mapping[str, Rows]) -> tuple[list[Line], list[Line]]:
    """Every hospital's own ridge model on its own test patients, looked at in the open; and of hospitals with many of them."""
    lab.say("each hospital's own model")
    task: Any = build_plan(ran.study)[[s.name for s in ran.study.plan].index("fit")]
    found: list[tuple[Floats, Floats, Floats]] = []
    for name, rows in test.items():
        own = task.fit_here(ran.state, train[name], RIDGE) if name in train else None
        if own is not None:
            found.append((linear_predictor(task.design.matrix(ran.state, rows), own), task.scores(ran.state, rows), rows.columns[OUTCOME]))
    scale = "; scaled by declared ranges" if ran.study.terms.privacy.on else ""
    own_score, federated, y = (np.concatenate([f[k] for f in found]) for k in range(3))
    same = auc(federated, y)[0]
    note = f"own ridge models of {len(found)} sites, {len(y):,} test patients{scale}; the federated model on the same patients {same:.4f}"
    large = [f for f in found if len(f[2]) >= ENOUGH and 0 < f[2].sum() < len(f[2])]
    sizes = []
    for who, k, reference in (("federated", 1, 0.787), ("each site alone", 0, 0.746)) if large else ():
        values = np.asarray([auc(f[k], f[2])[0] for f in large])
        se = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        more = f"mean of {len(large)} sites' own AUC, {sum(len(f[2]) for f in large):,} test patients; interval between sites"
        sizes.append(Line(who, f"AUC, sites with {ENOUGH}+ test patients", float(values.mean()), interval(float(values.mean()), se), reference, more))
    return [_auc_line("each site alone", "AUC", own_score, y, 0.761, note)], sizes


def _released(ran: Ran) -> list[Line]:
    """The study's own comparison, from sums: pairs of patients of one site, where that site could fit a model."""
    got, out = ran.results["alone"], []
    for who, key in (("federated", "federated"), ("each site alone", "local")):
        note = f"share of {got['pairs']:,} pairs of test patients ranked rightly; {got['sites_fitted']} of {got['sites']} sites could fit a model"
        out.append(Line(who, "AUC within sites", got[f"{key}_concordance"], None, None, note))
    for who, key in (("federated", "federated"), ("each site alone", "local"), ("majority class", "majority")):
        out.append(Line(who, "accuracy", got[f"{key}_accuracy"], None, None, f"{got['n']:,} test patients of those sites"))
    return out


def _majority(train: Mapping[str, Rows], test: Mapping[str, Rows]) -> Line:
    right, n = 0.0, 0
    for name, rows in test.items():
        share = train[name].columns[OUTCOME].mean() if name in train else outcomes(train).mean()
        right, n = right + float((rows.columns[OUTCOME] == (share > 0.5)).sum()), n + len(rows)
    return Line("majority class", "AUC", 0.5, None, None, f"by definition; the training majority of each site is right for {right / n:.1%} of {n:,}")


def _trees(lab: Lab, ran: Ran) -> list[Line]:
    """Federated boosted trees, and lightgbm on the same rows together. Sites are countries: sums are the same however rows are spread."""
    import lightgbm

    study = lab.study("stroke-trees")
    plan = [s.model_dump() for s in study.plan]
    if lab.quick:
        plan[0] |= {"trees": 8, "rounds": 36}
    sites = _by_country(ran)
    terms = {**study.terms.model_dump(), "min_cohort": min(study.terms.min_cohort, len(sites))}
    trees = lab.simulate(Study.parse({**study.model_dump(by_alias=True), "plan": plan, "terms": terms}), sites)
    step = plan[0]
    names = list(step["features"])

    def table(part: str) -> tuple[Floats, Floats]:
        x = np.concatenate([rows.part(part, study.data.split).matrix([*names, OUTCOME]) for rows in sites.values()])  # type: ignore[arg-type]
        x = x[np.isfinite(x[:, -1])]
        return x[:, :-1], x[:, -1]

    (x, y), (xt, yt) = table("train"), table("test")
    lab.say("the same trees by lightgbm, on all rows together")
    params = {
        "objective": "binary", "learning_rate": 0.1, "max_depth": step["depth"], "num_leaves": 2 ** step["depth"], "lambda_l2": 1.0, "min_data_in_leaf": 20,
        "min_sum_hessian_in_leaf": 1.0, "verbosity": -1, "seed": 1, "num_threads": 1,
    }  # fmt: skip
    category = [k for k, n in enumerate(names) if study.data.variables[n].categories]
    score = np.asarray(lightgbm.train(params, lightgbm.Dataset(x, y, categorical_feature=category), step["trees"]).predict(xt, raw_score=True))
    got = trees.results["evaluation"]["auc"]
    note = f"{step['trees']} trees of depth {step['depth']}, {len(yt):,} test patients: trees use those with missing values"
    return [
        _auc_line("pooled, trees", "AUC", score, yt, None, f"lightgbm; {note}"),
        Line("federated, trees", "AUC", got["value"], interval(got["value"], got["se"]), None, f"{len(sites)} countries, each one site; {note}"),
    ]


def _by_country(ran: Ran) -> dict[str, Rows]:
    """Hospitals put together by country, each patient in the same part of the split as before."""
    codes = ran.study.data.variables["country"].categories
    members: dict[str, list[Rows]] = {}
    for name, rows in ran.sites.items():
        test = np.isin(rows.patient, rows.part("test", ran.study.data.split).patient)
        patient = np.char.add(f"{name}/", rows.patient)
        members.setdefault(codes[int(rows.columns["country"][0])].lower(), []).append(Rows(rows.columns, patient, test=test))
    return {country: _together(parts) for country, parts in members.items()}


def _together(parts: list[Rows]) -> Rows:
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in parts[0].columns}
    test = np.concatenate([p.test for p in parts if p.test is not None])
    return Rows(columns, np.concatenate([p.patient for p in parts]), test=test)


# --- countries --------------------------------------------------------------------------------------------------------
def _countries(ran: Ran) -> tuple[list[Line], dict[str, str], list[str]]:
    from locum.report import plots

    got = ran.results["countries"]
    known = sorted((g for g in got["groups"] if g["reason"] is None), key=lambda g: -g["n"])
    n, effects = sum(g["n"] for g in known), got["random_effects"]
    weighted = sum(g["n"] * g["auc"]["value"] for g in known) / n if known else None
    note = f"{len(known)} models, each tried in the country it had no part in; {n:,} patients"
    lines = [
        Line("federated", "AUC, one country left out: mean weighted by patients", weighted, None, 0.790, note),
        Line("federated", "AUC, one country left out: plain mean", got["mean_auc"], None, 0.790, note),
    ]
    for key, metric in (("auc", "AUC"), ("observed_over_expected", "observed / expected"), ("calibration_slope", "calibration slope")):
        found = effects[key]
        if found is not None:
            beyond = found["prediction_interval95"]
            more = (
                f"in a new country between {beyond[0]:.3f} and {beyond[1]:.3f} (95 % prediction interval)" if beyond else "too few countries for a prediction"
            )
            lines.append(Line("federated", f"{metric}, one country left out: random effects", found["estimate"], tuple(found["ci95"]), None, more))
    rows: dict[str, list[tuple[Any, ...]]] = {"auc": [], "observed_over_expected": []}
    for g in known:
        rows["auc"].append((f"{g['group']} ({g['n']:,})", g["auc"]["value"], *(g["auc"]["ci95"] or (None, None))))
        rows["observed_over_expected"].append((f"{g['group']} ({g['n']:,})", g["calibration"]["observed_over_expected"], *g["calibration"]["ci95"]))
    for key, drawn in rows.items():
        if effects[key] is not None:
            drawn.append(("all: random effects", effects[key]["estimate"], *effects[key]["ci95"], 0.0, True))
    figures = {
        "countries": plots.forest(rows["auc"], title="A country that the model has not seen (patients)", label="AUC", log=False),
        "countries-calibration": plots.forest(rows["observed_over_expected"], title="Too many or too few predicted, by country", label="observed / expected"),
    }
    told = list(got["warnings"])
    hidden = [g["group"] for g in got["groups"] if g["reason"] and g["reason"].startswith("fewer")]
    failed = [f"{g['group']} ({g['reason']})" for g in got["groups"] if g["reason"] and g["reason"].startswith("without")]
    told += [f"Too small to be left out in turn, and not shown: {', '.join(hidden)}."] if hidden else []
    told += [f"No model: {'; '.join(failed)}."] if failed else []
    return lines, figures, told


def _calibration(score: Floats, y: Floats) -> str:
    """Tenths of the test patients by predicted risk; Wilson's interval (1927, JASA 22:209)."""
    from locum.report import plots

    risk, bins = 1.0 / (1.0 + np.exp(-score)), []
    for part in np.array_split(np.argsort(risk, kind="stable"), 10):
        n, share, z = len(part), float(y[part].mean()), 1.96
        middle, half = (share + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
        bins.append((float(risk[part].mean()), share, middle - half, middle + half, n))
    return plots.calibration(bins, title="Predicted and observed, tenths of the test patients")


SCENARIO = Scenario(
    name="stroke",
    title="Stroke outcome across 466 hospitals in 36 countries",
    question="How well can death or dependency at six months be predicted at admission, and would the model hold in a country that had no part in it?",
    data=("ist",),
    studies=("stroke", "stroke-private", "stroke-trees"),
    needs=("statsmodels", "lightgbm"),
    answer=answer,
    modes=("clear", "masked", "private", "network"),
)
