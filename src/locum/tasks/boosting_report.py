"""The answer of boosted trees in words and numbers: what they learned from, which features they use, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from locum.errors import counted
from locum.tasks.base import State
from locum.tasks.boosting_loss import Survival

if TYPE_CHECKING:
    from locum.tasks.boosting import BoostedTrees

DRAWN = 20
"""Features whose partial dependence is given: those of the largest gain."""
FEW = 500
"""Rows below which trees seldom do better than a linear predictor."""


def report(task: BoostedTrees, state: State) -> dict[str, Any]:
    """The step's result as plain JSON data."""
    trees, p = task.trees(state), task.params
    losses, held = task.own(state, "loss").tolist(), task.own(state, "held_loss").tolist()
    importance = trees.importance(len(task.features))
    whole = {n: max(float(a.sum()), 1e-300) for n, a in importance.items()}
    order = np.argsort(-importance["gain"], kind="stable").tolist()
    out: dict[str, Any] = {
        "objective": p.objective,
        "n": int(task.own(state, "rows")),
        "patients": int(task.own(state, "patients")),
        "left_out": int(task.own(state, "left_out")),
        "trees": len(trees),
        "leaves": int(trees.leaf.sum()),
        "depth": p.depth,
        "start": task.start(state),
        "training_loss": {"first": losses[0], "last": losses[len(trees)]},
        "importance": [
            {
                "name": task.features[k].name,
                "gain": float(importance["gain"][k]) / whole["gain"],
                "cover": float(importance["cover"][k]) / whole["cover"],
                "splits": int(importance["splits"][k]),
            }
            for k in order
        ],
        "partial_dependence": [_curve(task, state, k) for k in order[:DRAWN] if importance["splits"][k]],
    }
    if p.stop_after:
        out["stopping"] = {"on": p.stop_on, "held_out_rows": int(task.own(state, "held_rows")), "loss": held, "best": len(trees)}
    if isinstance(task.loss, Survival):
        out["baseline"] = task.loss.hazards(task.fit(state))
    return {**out, "warnings": _warnings(task, state)}


def _curve(task: BoostedTrees, state: State, k: int) -> dict[str, Any]:
    """The mean prediction over a feature's bins: log odds, the outcome's mean, or a log relative hazard."""
    feature, inner = task.features[k], task.inner_edges(state)[k]
    mean = task.start(state) + task.trees(state).partial_dependence(k, len(inner) + 1, task.params.depth)
    return {"name": feature.name, "at": feature.middles(inner), "mean": mean[:-1].tolist(), "missing": float(mean[-1])}


def _warnings(task: BoostedTrees, state: State) -> list[str]:
    said = ["Trees have no standard errors: judge them on patients that they have not seen."]
    rows = int(task.own(state, "rows"))
    held = task.own(state, "held_loss").tolist() if task.params.stop_after else []
    for k, feature in enumerate(task.features):
        present, alone = float(task.own(state, "present")[k]), int(task.own(state, "sizes")[k]) == 1
        if not present:
            said.append(f"'{feature.name}' is missing in every row, so no tree can use it.")
        elif alone:
            said.append(f"'{feature.name}' is constant in the cohort, or nearly so: only whether it is missing can be used.")
        elif feature.variable.type == "number" and task.own(state, "crowded")[k]:
            said.append(f"More than half of the values of '{feature.name}' share one fine bin: if they are not equal, declare a narrower plausible range.")
    if held and task.params.stop_on == "test":
        said.append("The number of trees was chosen on the test patients: an evaluation on them is a little too good.")
    if held and min(held) == held[0]:
        said.append("No number of trees does better on the patients held out than none: there may be nothing to learn.")
    if len(task.trees(state)) < task.params.trees and not held:
        said.append(f"Training ended after {counted(len(task.trees(state)), 'tree')}: no further split gained anything.")
    if rows < FEW:
        said.append(f"With {counted(rows, 'row')} trees overfit easily: compare with a logistic or linear model.")
    return said
