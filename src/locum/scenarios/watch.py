"""Exercises seen by smart watches: leave one person out, over ten people, each a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from locum.data import Rows
from locum.scenarios.base import Line, Outcome, Scenario
from locum.scenarios.devices import Fitted, evaluated, federated, line, logistic, matrix, mean_of, own, size, trained_on_all
from locum.scenarios.lab import Lab
from locum.study import Study

DATA = "watch"
REFERENCE = {"federated": 0.851, "alone": 0.700}
"""Of the specification, leave one subject out; 'alone' is the model of another single device."""


def answer(lab: Lab) -> Outcome:
    """First the study as it is signed, on a fixed split of people; then once for each person a study of the nine others."""
    study = _smaller(lab.study("watch")) if lab.quick else lab.study("watch")
    if lab.mode == "network":
        sites = lab.rows(study, DATA)
        held = {n: r for n, r in sites.items() if r.part("test", study.data.split).patients}
        ran = lab.run(trained_on_all(study, f"{study.name}-training-people"), DATA, of=[n for n in sites if n not in held])
        evaluation, how = evaluated(study, ran.state, held), f"trained by {len(ran.sites)} watches over the network"
    else:
        ran = lab.run(study, DATA)
        sites, evaluation, how = dict(ran.sites), ran.results["evaluation"], "the study as signed"
    left_out = [*sites][: 3 if lab.quick else None]
    folds = {name: _without(lab, study, sites, name) for name in left_out}
    lab.say("the pooled reference, and each watch alone")
    scores = {name: _accuracy(fitted, sites[name]) for name, fitted in folds.items()}
    pooled = {name: _pooled(fitted, sites, name) for name, fitted in folds.items()}
    alone = _alone(lab, study, sites, left_out)
    majority = {name: _majority(sites, name) for name in left_out}
    value, n = float(np.mean([*scores.values()])), sum(len(sites[name]) for name in left_out)
    model, found = folds[left_out[0]], evaluation["accuracy"]
    worst, best = min(scores, key=lambda s: scores[s]), max(scores, key=lambda s: scores[s])
    over = f"mean over {len(left_out)} people left out in turn, {n:,} windows; interval over people"
    lines = (
        line("pooled", "accuracy", mean_of([*pooled.values()]), None, "scikit-learn on the rows of the nine others"),
        line("federated", "accuracy", mean_of([*scores.values()]), REFERENCE["federated"], over),
        line("each site alone", "accuracy", mean_of(alone), REFERENCE["alone"], "another single watch's own model, mean over the others; interval over people"),
        line("majority class", "accuracy", mean_of([*majority.values()]), None, "the most frequent exercise of the nine others"),
        Line("federated, people held out", "accuracy", found["value"], _pair(found["ci95_by_patient"]), None, _held_out(evaluation, how)),
    )
    notes = (
        f"The model: {size(model)}; with its scaling it fits on any watch.",
        f"People differ more than windows: from {scores[worst]:.2f} ({worst}) to {scores[best]:.2f} ({best}). Ten people give a wide interval.",
        "Windows overlap by half, so people are split and never windows. One wearer on two watches would spoil that: see the page.",
    )
    return Outcome(lines, _figures(folds, sites), notes, {"watch_accuracy": value})


# --- parts ------------------------------------------------------------------------------------------------------------
def without(study: Study, name: str) -> Study:
    """The study of everybody but one person."""
    return trained_on_all(study, f"{study.name}-without-{name}")


def _smaller(study: Study) -> Study:
    """With three kinds of features: for a quick look."""
    value = study.model_dump(by_alias=True)

    def kept(step: dict[str, Any]) -> dict[str, Any]:
        return {k: [n for n in v if n.endswith(("_mean", "_sd", "_corr"))] if k in ("variables", "features") else v for k, v in step.items()}

    return Study.parse({**value, "plan": [step if step["task"] == "signal_features" else kept(step) for step in value["plan"]]})


def _without(lab: Lab, study: Study, sites: Mapping[str, Rows], name: str) -> Fitted:
    fold = without(study, name)
    ran = lab.simulate(fold, {n: r for n, r in sites.items() if n != name})
    return federated(fold, ran.state)


def _accuracy(fitted: Fitted, rows: Rows) -> float:
    return float((fitted.probabilities(rows).argmax(axis=1) == fitted.classes(rows)).mean())


def _pooled(fitted: Fitted, sites: Mapping[str, Rows], name: str) -> float:
    x, y = matrix(fitted, {n: r for n, r in sites.items() if n != name})
    x_test, y_test = matrix(fitted, {name: sites[name]})
    return float((logistic(x, y, fitted.task.params.ridge).predict(x_test) == y_test).mean())


def _alone(lab: Lab, study: Study, sites: Mapping[str, Rows], left_out: list[str]) -> list[float]:
    """For each person left out the mean accuracy of the others' own models on that person's windows, with the penalty per row of the federated model."""
    fold = without(study, "everyone-else")
    ridge = next(s for s in fold.plan if s.name == "model").params["ridge"] / (len(sites) - 1)
    devices = [*sites][: 4 if lab.quick else None]
    models = {name: fitted for name in devices if (fitted := own(fold, sites[name], ridge)) is not None}
    found = ([_accuracy(m, sites[name]) for other, m in models.items() if other != name] for name in left_out)
    return [float(np.mean(values)) for values in found]


def _majority(sites: Mapping[str, Rows], name: str) -> float:
    others = np.concatenate([r.columns["exercise"] for n, r in sites.items() if n != name]).astype(np.int64)
    return float((sites[name].columns["exercise"] == np.bincount(others).argmax()).mean())


def _figures(folds: Mapping[str, Fitted], sites: Mapping[str, Rows]) -> dict[str, str]:
    from locum.report.plots import confusion

    names = list(next(iter(folds.values())).task.categories)
    table = np.zeros((len(names), len(names)), dtype=np.int64)
    for name, fitted in folds.items():
        np.add.at(table, (fitted.classes(sites[name]), fitted.probabilities(sites[name]).argmax(axis=1)), 1)
    return {"confusion": confusion(table.tolist(), names, title="Windows of people whom the model never saw: true exercise by predicted exercise")}


def _held_out(found: Mapping[str, Any], how: str) -> str:
    return f"{how}: {found['patients']} people held out, {found['n']:,} windows; interval by patient"


def _pair(ci95: list[float] | None) -> tuple[float, float] | None:
    return None if ci95 is None else (ci95[0], ci95[1])


WITHOUT = "ten people are too few to hide one among them by noise, and a model of seven exercises has no form with noise"
SCENARIO = Scenario(
    name="watch",
    title="Shoulder exercises by smart watch: ten people, leave one out",
    question="Can watches learn together which exercise somebody does, for a person whom none of them has seen?",
    data=(DATA,),
    studies=("watch",),
    needs=("sklearn",),
    answer=answer,
    without={"private": WITHOUT},
)
