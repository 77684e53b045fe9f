"""One site's own treatment effect with its variance: what a meta-analysis weighs. It never leaves its site as it is.

A difference of means has Welch's variance. A coefficient is that of the site's own regression with an intercept. Columns that the site's
rows do not tell apart (a category that it has not seen, a column that others determine) are left out of it. So are the rows of a category
whose outcomes are all alike (of a count: all zero), for its coefficient is infinite and they tell nothing of the others (Albert and
Anderson, 1984, Biometrika 71:1). Where the treatment itself cannot be told apart, or is separated, the site has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.study.manifest import Step, Study
from locum.tasks import newton
from locum.tasks.base import State
from locum.tasks.design import linear_predictor
from locum.tasks.glm import GLM, Linear, Logistic, Poisson
from locum.tasks.newton import Problem, Quadratic

Floats = NDArray[np.float64]
EXACT = 1e-20
"""A residual variance below this share of the mean square is rounding."""


@dataclass(frozen=True)
class Effect:
    """variance 0: the site has none. corrected: a continuity correction was added to its table."""

    value: float
    variance: float
    corrected: bool = False


NONE = Effect(0.0, 0.0)


def mean_difference(treated: Floats, y: Floats) -> Effect:
    """The mean of y (n,) among the treated minus that of the others."""
    one, other = y[treated == 1], y[treated == 0]
    if min(len(one), len(other)) < 2:
        return NONE
    variance = float(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    return Effect(float(one.mean() - other.mean()), variance) if variance > EXACT * float((y**2).mean()) else NONE


def model_of(step: Step, family: str, features: tuple[str, ...], outcome: str, study: Study) -> GLM:
    """The regression that every site fits for itself. The first feature is the treatment."""
    kinds: dict[str, type[GLM]] = {"linear": Linear, "logistic": Logistic, "poisson": Poisson}
    return kinds[family].build(Step.model_validate({"name": step.name, "task": family, "features": features, "outcome": outcome}), study)


def adjusted(model: GLM, state: State, rows: Rows) -> Effect:
    """The treatment's coefficient from these rows alone."""
    rows = _undecided(model, rows)
    y = rows.columns[model.params.outcome]
    problem = model.outcome_error(y)
    if problem:
        raise TaskError(f"The outcome '{model.params.outcome}' {problem}.", fix="correct the mapping, or choose another model")
    if len(y) < 3:
        return NONE
    x = _told_apart(model.design.matrix(state, rows))
    if x is None or len(y) <= x.shape[1]:
        return NONE
    centre, scale = x.mean(axis=0), x.std(axis=0)
    centre[0], scale[0] = 0.0, 1.0
    x = (x - centre) / scale

    def evaluate(b: Floats) -> Quadratic:
        value, residual, weight = model.likelihood(y, linear_predictor(x, b))
        return Quadratic(value, x.T @ residual, x.T @ (x * weight[:, None]))

    names = [str(j) for j in range(x.shape[1])]
    try:
        b = newton.fit(evaluate, np.zeros(len(names)), Problem(names, (x**2).sum(axis=0), model.params.tolerance, ""))
    except TaskError:
        return NONE
    if b is None:
        return NONE
    here = evaluate(b)
    variance = float(newton.covariance(here.information)[1, 1])
    if isinstance(model, Linear):
        dispersion = -2.0 * here.value / (len(y) - len(b))
        variance *= dispersion if dispersion > EXACT * float((y**2).mean()) else 0.0
    return Effect(float(b[1] / scale[1]), variance / float(scale[1]) ** 2)


def _undecided(model: GLM, rows: Rows) -> Rows:
    """The rows, without the categories of an adjusted variable within which all outcomes are alike."""
    if isinstance(model, Linear):
        return rows
    names = [n for n in model.params.features[1:] if model.study.data.variables[n].type in ("category", "boolean")]
    while len(rows):
        y, keep = rows.columns[model.params.outcome], np.ones(len(rows), dtype=bool)
        for name in names:
            for value in np.unique(rows.columns[name]):
                member = rows.columns[name] == value
                within = y[member]
                if not within.any() or (isinstance(model, Logistic) and within.all()):
                    keep &= ~member
        if keep.all():
            break
        rows = rows.take(keep)
    return rows


def _told_apart(x: Floats) -> Floats | None:
    """The intercept, the treatment, and in order each column that is not determined by those before it; None where the treatment is."""
    basis, kept = [np.ones(len(x)) / np.sqrt(len(x))], [0]
    for j in range(1, x.shape[1]):
        rest = x[:, j].copy()
        for _ in range(2):  # twice is enough: Giraud, Langou and Rozloznik (2005)
            for q in basis:
                rest = rest - (q @ rest) * q
        length = float(np.linalg.norm(rest))
        if length > 1e-7 * float(np.linalg.norm(x[:, j])):
            basis.append(rest / length)
            kept.append(j)
        elif j == 1:
            return None
    return np.ascontiguousarray(x[:, kept])
