"""What the two scenarios of wearable devices share: a device's own model, and figures of several categories with intervals over people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from locum.data import Rows
from locum.errors import TaskError
from locum.scenarios.base import Line
from locum.study import Study, Total
from locum.tasks import State, build_plan
from locum.tasks.concordance import auc_table
from locum.tasks.evaluate_categories import scored
from locum.tasks.multinomial import Multinomial
from locum.tasks.prepare import prepared

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 4096


@dataclass(frozen=True)
class Fitted:
    """A model and what it needs to look at new rows. model: anything with `probabilities`."""

    task: Multinomial
    state: State
    model: Any

    def probabilities(self, rows: Rows) -> Floats:
        """Of rows as a device holds them, shape (n, K)."""
        return np.asarray(self.model.probabilities(self.state, prepared(self.task, self.state, rows)))

    def classes(self, rows: Rows) -> Ints:
        """What is true of each row, shape (n,)."""
        return self.task.observed(rows)


def federated(study: Study, state: State, step: str = "model") -> Fitted:
    """The model of a study that has run."""
    task = task_of(study, step)
    return Fitted(task, state, task)


def trained_on_all(study: Study, name: str) -> Study:
    """The study that trains on all rows of every device that takes part, without its evaluation: the people tested on do not take part.

    Over the network no other study of devices can be completed: a device is one patient, so with a split into parts those of the other part
    would have no rows and decline each step, and a masked round needs more than two thirds of the sites that are asked.
    """
    value = study.model_dump(by_alias=True)
    plan: list[dict[str, Any]] = [{**step, "part": "all"} if "part" in step else step for step in value["plan"] if step["task"] != "evaluate_categories"]
    return Study.parse({**value, "name": name, "plan": plan})


def evaluated(study: Study, state: State, devices: Mapping[str, Rows], step: str = "evaluation") -> dict[str, Any]:
    """What the study's own evaluation says of a model that a study of other devices has fitted, from the same sums over these devices."""
    task = build_plan(study)[[s.name for s in study.plan].index(step)]
    layout = task.layout(state)
    made = [task.visit(state, prepared(task, state, rows), {}, np.random.default_rng(0)).vector for rows in devices.values()]
    total = {f.name: np.sum([v[f.name] for v in made], axis=0) for f in layout.fields}
    return task.result(task.combine(state, Total(total, float(len(devices)), len(devices))))


def own(study: Study, rows: Rows, ridge: float, step: str = "model") -> Fitted | None:
    """What a device could fit alone: features, scaling and model from its own rows; None with fewer than two categories, or a constant feature.

    ridge: for the device's rows.
    """
    state: State = {}
    task = task_of(study, step)
    for earlier in build_plan(study):
        if earlier is task or earlier.reads() == task.reads():
            break
        try:
            while not earlier.done(state):
                made = earlier.visit(state, prepared(earlier, state, rows), {}, np.random.default_rng(0))
                state = earlier.combine(state, Total(made.vector, 1.0, 1))
        except TaskError:
            return None
    model = task.fit_here(state, prepared(task, state, rows), ridge)
    return None if model is None else Fitted(task, state, model)


def task_of(study: Study, step: str) -> Multinomial:
    """The multinomial step of that name."""
    return cast(Multinomial, build_plan(study)[[s.name for s in study.plan].index(step)])


def matrix(fitted: Fitted, rows: Mapping[str, Rows]) -> tuple[Floats, Ints]:
    """The features (n, p) of all devices as they are, without scaling, and the categories (n,): for a pooled reference."""
    seen = [prepared(fitted.task, fitted.state, r) for r in rows.values()]
    return np.vstack([r.matrix(fitted.task.params.features) for r in seen]), np.concatenate([fitted.classes(r) for r in rows.values()])


def macro_auc(own_: Floats, rest: Floats, which: Sequence[int]) -> float:
    """The mean AUC over the categories `which` that rows have, from counts (K, B) of scores of rows of the category and of others."""
    return float(np.mean([auc_table(own_[k], rest[k])[0] for k in which if own_[k].any() and rest[k].any()]))


def tables(fitted: Fitted, rows: Mapping[str, Rows]) -> dict[str, Floats]:
    """Counts by device: 'confusion' (m, K, K), 'own' and 'rest' (m, K, B)."""
    made = [scored(fitted.classes(r), fitted.probabilities(r), BINS) for r in rows.values()]
    return {name: np.stack([m[name] for m in made]) for name in ("confusion", "own", "rest")}


def resampled(counts: Mapping[str, Floats], which: Sequence[int], times: int) -> tuple[float, float] | None:
    """A 95 % interval of the macro-AUC from resampled people (Efron's percentile bootstrap): rows of one person are alike. None for fewer than five."""
    m = len(counts["own"])
    if m < 5:
        return None
    rng, found = np.random.default_rng(5), []
    for _ in range(times):
        weight = np.bincount(rng.integers(0, m, m), minlength=m).astype(float)
        found.append(macro_auc(np.tensordot(weight, counts["own"], 1), np.tensordot(weight, counts["rest"], 1), which))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def mean_of(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """A mean of shares over people and its 95 % interval by Student's t, within [0, 1]; no interval for fewer than three."""
    from scipy.stats import t

    x = np.asarray(values, float)
    if len(x) < 3:
        return float(x.mean()), None
    half = float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return float(x.mean()), (max(0.0, float(x.mean()) - half), min(1.0, float(x.mean()) + half))


def logistic(x: Floats, y: Ints, ridge: float) -> Any:
    """scikit-learn's multinomial fit on pooled rows: the reference. Its penalty is on every category, not on contrasts with the first."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0 / ridge, max_iter=500)).fit(x, y)


def same_objective(x: Floats, y: Ints, ridge: float, levels: int) -> Any:
    """The pooled maximum of the federated objective itself, found by scipy's quasi-Newton method: a function (n, p) -> probabilities (n, K).

    The penalty is on the contrasts with the first category.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    mean, sd = x.mean(axis=0), x.std(axis=0, ddof=1)
    right = np.eye(levels)[y]

    def design(x: Floats) -> Floats:
        return np.column_stack([np.ones(len(x)), (x - mean) / sd])

    def eta(z: Floats, b: Floats) -> Floats:
        return np.column_stack([np.zeros(len(z)), z @ b.reshape(levels - 1, -1).T])

    z, penalised = design(x), np.tile(np.r_[0.0, np.ones(x.shape[1])], levels - 1)

    def loss(b: Floats) -> tuple[float, Floats]:
        scores = eta(z, b)
        gradient = ((softmax(scores, axis=1) - right)[:, 1:].T @ z).reshape(-1) + ridge * penalised * b
        return float(-(log_softmax(scores, axis=1) * right).sum() + ridge / 2.0 * (penalised * b**2).sum()), gradient

    b = minimize(loss, np.zeros(len(penalised)), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-4}).x
    return lambda new: softmax(eta(design(new), b), axis=1)


def size(fitted: Fitted) -> str:
    """How large the model is, in words."""
    n = fitted.task.size
    return f"{n} parameters, {4 * n:,} bytes as float32"


def line(who: str, metric: str, found: tuple[float, tuple[float, float] | None], reference: float | None = None, note: str = "") -> Line:
    """A line of the table from a value with its interval."""
    return Line(who, metric, found[0], found[1], reference, note)
