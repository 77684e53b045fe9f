"""Breast cancer survival across six regions: FLamby's Fed-TCGA-BRCA, by a Cox model whose Newton steps are sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.scenarios.base import Line, Outcome, Scenario
from locum.scenarios.lab import Lab, Ran
from locum.scenarios.survival_help import bootstrap, curves, mean_concordance, pooled_cox, row_of, together
from locum.tasks import build
from locum.tasks.alone import fitted_alone, local_form
from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
MEAN, ALL = "C-index, mean of regions", "C-index, all pairs"
EFFECT = "ajcc_pathologic_stage_Stage_IIIC"
WORDS = {
    "age_at_index": "age, per year", "ajcc_pathologic_stage_Stage_IIA": "stage IIA", "ajcc_pathologic_stage_Stage_IIB": "stage IIB",
    "ajcc_pathologic_stage_Stage_IIIA": "stage IIIA", EFFECT: "stage IIIC", "prior_malignancy_yes": "earlier malignancy",
}  # fmt: skip
FLAMBY = {"pooled training": 0.676, "FedAvg": 0.732, "FedAdam": 0.815}
"""Mean over regions of the test concordance, mean of five seeds: Ogier du Terrail et al. (2022), NeurIPS, published runs."""


@dataclass(frozen=True)
class Tested:
    """Test patients of all regions together, and what each model says of them. parts: the positions of each region's."""

    time: Floats
    event: Floats
    parts: Mapping[str, NDArray[np.intp]]
    scores: Mapping[str, Floats]

    def mean(self, who: str, region: str | None = None) -> tuple[float, tuple[float, float] | None]:
        """The concordance within each region, averaged, or of one region, and its interval."""
        parts = list(self.parts.values()) if region is None else [self.parts[region]]
        score = self.scores[who]
        return mean_concordance(self.time, self.event, score, parts), bootstrap(lambda p: mean_concordance(self.time, self.event, score, p), parts)

    def every_pair(self, who: str) -> tuple[float, tuple[float, float] | None]:
        score, one = self.scores[who], [np.arange(len(self.time))]
        return mean_concordance(self.time, self.event, score, one), bootstrap(lambda p: mean_concordance(self.time, self.event, score, p), one)

    def difference(self, a: str, b: str) -> tuple[float, tuple[float, float] | None]:
        """Of the means of two models, on the same patients."""

        def figure(parts: Any) -> float:
            first, second = (mean_concordance(self.time, self.event, self.scores[who], parts) for who in (a, b))
            return first - second

        return figure(list(self.parts.values())), bootstrap(figure, list(self.parts.values()))


def answer(lab: Lab) -> Outcome:
    ran = lab.run(lab.study("breast-cancer"), "tcga_brca", by="region")
    lab.say("pooled references and intervals")
    tested, got = _tested(ran), ran.results["evaluation"]
    worst, effect = _effects(ran)
    who = f"{got['n']} test patients, {got['events']} deaths"
    mean, every = got["concordance_mean_of_sites"], got["concordance"]
    lines = (
        _line("pooled", MEAN, tested.mean("pooled"), f"{who}; lifelines, the same penalty"),
        _line("federated", MEAN, tested.mean("federated"), f"{who}; the study's own sum says {mean['value']:.3f}", 0.821),
        _line("each site alone", MEAN, tested.mean("alone"), "its own model with the same penalty, on its own test patients"),
        Line("a coin", MEAN, 0.5),
        *(Line(f"FLamby, {name}", MEAN, None, reference=value, note="published, mean of 5 seeds; not run here") for name, value in FLAMBY.items()),
        _line("federated minus each site alone", "difference of the means", tested.difference("federated", "alone"), "paired, on the same patients"),
        _line("pooled", ALL, tested.every_pair("pooled"), "lifelines"),
        _line("federated", ALL, tested.every_pair("federated"), f"the study's table says {every['value']:.3f} ± {every['error_bound']:.4f}", 0.850),
        *_by_region(tested),
        *effect,
    )
    metrics = {f"brca_c_index_{name}": tested.mean(key)[0] for name, key in (("federated", "federated"), ("pooled", "pooled"), ("local", "alone"))}
    return Outcome(lines, _figures(ran), _notes(ran, worst), metrics)


def _notes(ran: Ran, worst: float) -> tuple[str, ...]:
    curve, rank = ran.results["by-stage"], ran.results["stage-differs"]
    groups = ", ".join(f"{'IIIA' if g == '1' else 'others'} {c['n']} patients with {c['events']} deaths" for g, c in curve["groups"].items())
    few = (
        "Intervals of a C-index are from a bootstrap over test patients within regions, here and not in the study: the rows are public. With "
        f"{ran.results['evaluation']['events']} deaths, of which two regions have one or two, the mean of regions is uncertain: differences of .05 mean little."
    )
    recorded = (
        "Some of the 39 features say how a record was made (therapy not reported, edition of the staging manual): they rank patients of these years and "
        "these hospitals, and need not rank others."
    )
    return (
        few,
        f"Largest difference of a log hazard ratio from lifelines' on the pooled rows: {worst:.1e}.",
        f"Stage IIIA against all others: {groups}; log-rank chi-square {rank['chi_square']:.2f}, p = {rank['p']:.2f}.",
        recorded,
    )


def _line(who: str, metric: str, figure: tuple[float, tuple[float, float] | None], note: str, reference: float | None = None) -> Line:
    return Line(who, metric, figure[0], figure[1], reference, note)


def _by_region(tested: Tested) -> list[Line]:
    out = []
    for region, part in tested.parts.items():
        note = f"{len(part)} test patients, {int(tested.event[part].sum())} deaths"
        out += [_line(who, f"C-index, {region}", tested.mean(key, region), note) for who, key in (("federated", "federated"), ("each site alone", "alone"))]
    return out


# --- the test patients under each model -------------------------------------------------------------------------------
def _tested(ran: Ran) -> Tested:
    study = ran.study
    model: Any = build(next(s for s in study.plan if s.name == "cox"), study)
    own = local_form(model, "alone", ridge=model.params.ridge)
    train, test = ({s: r.part(part, study.data.split) for s, r in sorted(ran.sites.items())} for part in ("train", "test"))
    beta, _ = _pooled_fit(model, ran, train, model.params.ridge)
    scores: dict[str, list[Floats]] = {"federated": [], "pooled": [], "alone": []}
    for site, rows in test.items():
        x = model.design.matrix(ran.state, rows)
        alone = fitted_alone(own, ran.state, train[site], np.random.default_rng(0))
        scores["federated"].append(model.scores(ran.state, rows))
        scores["pooled"].append(x @ beta)
        scores["alone"].append(np.zeros(len(rows)) if alone is None else own.scores(alone, rows))
    ends = np.cumsum([len(r) for r in test.values()])
    parts = {s: np.arange(end - len(r), end) for (s, r), end in zip(test.items(), ends, strict=True)}
    columns, _ = together(test, "time", "event")
    return Tested(columns["time"], columns["event"], parts, {who: np.concatenate(s) for who, s in scores.items()})


def _pooled_fit(model: Any, ran: Ran, rows: Mapping[str, Rows], ridge: float) -> tuple[Floats, Floats]:
    """The same model by lifelines on the rows of all regions together, on the scale that the federated one was fitted on."""
    x = np.vstack([model.design.matrix(ran.state, r) for r in rows.values()])
    time, event = (np.concatenate([r.columns[n] for r in rows.values()]) for n in ("time", "event"))
    return pooled_cox(x, time, event, ridge=ridge, strata=np.repeat(list(rows), [len(r) for r in rows.values()]))


def _effects(ran: Ran) -> tuple[float, list[Line]]:
    """The largest difference of a log hazard ratio from lifelines', and the table's lines of one of them."""
    model: Any = build(next(s for s in ran.study.plan if s.name == "effects"), ran.study)
    beta, se = _pooled_fit(model, ran, dict(sorted(ran.sites.items())), 0.0)
    here = ran.results["effects"]
    worst = float(np.abs(model.design.original(ran.state) @ beta - [r["coef"] for r in here["coefficients"]]).max())
    row, k = row_of(here, EFFECT), list(model.design.names).index(EFFECT)
    metric = "hazard ratio, stage IIIC"
    note = f"{here['n']} patients, {here['events']} deaths; against stages other than II and III; no penalty, each region its own baseline hazard"
    return worst, [
        Line("pooled", metric, float(np.exp(beta[k])), (float(np.exp(beta[k] - Z95 * se[k])), float(np.exp(beta[k] + Z95 * se[k]))), note="lifelines"),
        Line("federated", metric, row["hazard_ratio"], (row["ci95"][0], row["ci95"][1]), note=note),
    ]


def _figures(ran: Ran) -> dict[str, str]:
    from locum.report.plots import forest, kaplan_meier

    rows = [(WORDS[r["name"]], r["hazard_ratio"], *r["ci95"]) for r in ran.results["effects"]["coefficients"]]
    stages = curves(ran.results["by-stage"], {"0": "other stages", "1": "stage IIIA"})
    return {
        "survival": kaplan_meier(stages, title="Breast cancer survival by stage", unit="days"),
        "hazard-ratios": forest(rows, title="Hazard ratios, each region with its own baseline", label="hazard ratio (95 % interval)"),
    }


SCENARIO = Scenario(
    name="breast-cancer",
    title="Breast cancer survival across six regions",
    question="Which features relate to survival, and how well do six regions together rank patients whom the model has not seen?",
    data=("tcga_brca",),
    studies=("breast-cancer",),
    needs=("lifelines",),
    answer=answer,
    without={"private": "a Cox model has no form with noise: one patient changes the risk sets of all others"},
)
