"""Advanced lung cancer at 18 institutions: the smallest scenario, on data that a dependency ships, so that it needs no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.scenarios.base import Line, Outcome, Scenario
from locum.scenarios.lab import Lab, Ran
from locum.scenarios.survival_help import bootstrap, mean_concordance, pooled_cox, row_of, together
from locum.tasks import build
from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
RATIO, ALL, WITHIN = "hazard ratio, one point of ECOG", "C-index, all pairs", "C-index, pairs within institutions"
WORDS = {
    "age": "age, per year", "female": "female", "ph_ecog": "ECOG score", "ph_karno": "Karnofsky, by the physician", "pat_karno": "Karnofsky, by the patient",
    "wt_loss": "weight loss, per pound",
}  # fmt: skip


def answer(lab: Lab) -> Outcome:
    ran = lab.run(lab.study("lung"), "lung")
    got = ran.results["cox"]
    beta, se = _pooled(ran, "cox", "all")
    names = [r["name"] for r in got["coefficients"]]
    k = names.index("ph_ecog")
    worst = float(np.abs(beta - [r["coef"] for r in got["coefficients"]]).max())
    row, who = row_of(got, "ph_ecog"), f"{got['n']} patients, {got['events']} deaths"
    lines = (
        Line("pooled", RATIO, float(np.exp(beta[k])), (float(np.exp(beta[k] - Z95 * se[k])), float(np.exp(beta[k] + Z95 * se[k]))), note=f"{who}; lifelines"),
        Line("federated", RATIO, row["hazard_ratio"], (row["ci95"][0], row["ci95"][1]), note=f"{who}; {len(ran.sites)} institutions, Efron's ties"),
        *_concordance(ran),
    )
    sizes = [len(r) for r in ran.sites.values()]
    notes = (
        f"Largest difference of a log hazard ratio from lifelines' on the pooled rows: {worst:.1e}.",
        f"Institutions have {min(sizes)} to {max(sizes)} patients: with so few test patients differences of .05 in a C-index mean little.",
        "The data are of 1994 and the smallest of the scenarios: this shows that the machinery is right, not how well lung cancer can be predicted.",
    )
    return Outcome(lines, _figures(ran), notes, {"lung_max_abs_diff_vs_pooled": worst})


def _pooled(ran: Ran, step: str, part: Any) -> tuple[Floats, Floats]:
    """The model of a step by lifelines on the rows of all institutions together, on the original scale."""
    features = next(s for s in ran.study.plan if s.name == step).params["features"]
    d, _ = together({s: r.part(part, ran.study.data.split) for s, r in ran.sites.items()}, *features, "time", "status")
    return pooled_cox(np.column_stack([d[n] for n in features]), d["time"], d["status"])


def _concordance(ran: Ran) -> list[Line]:
    """On the test patients, of whom neither the federated nor the pooled model has seen any."""
    study, got, alone = ran.study, ran.results["evaluation"], ran.results["alone"]
    model: Any = build(next(s for s in study.plan if s.name == "cox-train"), study)
    d, _ = together({s: r.part("test", study.data.split) for s, r in ran.sites.items()}, *model.reads())
    beta, _ = _pooled(ran, "cox-train", "train")
    scores = {"pooled": np.column_stack([d[n] for n in model.params.features]) @ beta, "federated": model.scores(ran.state, Rows.of(d))}
    every, notes = [np.arange(len(d["time"]))], {"pooled": "lifelines", "federated": f"{got['n']} test patients, {got['events']} deaths; bootstrap over them"}

    def line(who: str) -> Line:
        value = mean_concordance(d["time"], d["status"], scores[who], every)
        return Line(who, ALL, value, bootstrap(lambda parts: mean_concordance(d["time"], d["status"], scores[who], parts), every), note=notes[who])

    within, pairs = got["concordance_within_sites"], f"{got['concordance_within_sites']['pairs']} pairs"
    fitted = f"{alone['sites_fitted']} of {alone['sites']} institutions could fit a model at all, ridge {alone['ridge']:g}; {alone['pairs']} pairs"
    return [
        line("pooled"),
        line("federated"),
        Line("federated", WITHIN, within["value"], note=pairs),
        Line("federated", f"{WITHIN} that can fit", alone["federated_concordance"], note=f"{alone['pairs']} pairs, the same as of the next line"),
        Line("each site alone", f"{WITHIN} that can fit", alone["local_concordance"], note=fitted),
        Line("a coin", ALL, 0.5),
    ]


def _figures(ran: Ran) -> dict[str, str]:
    from locum.report.plots import forest

    rows = [(WORDS[r["name"]], r["hazard_ratio"], *r["ci95"]) for r in ran.results["cox"]["coefficients"]]
    return {"hazard-ratios": forest(rows, title="Hazard ratios, advanced lung cancer", label="hazard ratio (95 % interval)")}


SCENARIO = Scenario(
    name="lung",
    title="Advanced lung cancer at 18 institutions",
    question="How do performance scores, age, sex and weight loss relate to survival?",
    data=("lung",),
    studies=("lung",),
    needs=("lifelines",),
    answer=answer,
    without={"private": "a Cox model has no form with noise, and 227 patients are too few to hide one"},
)
