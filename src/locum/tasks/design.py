"""From the contract's variables to a design matrix, and from its coefficients back to the original scale."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.document import nearest
from locum.study.manifest import Name, Variable, VariableName
from locum.tasks.base import BaseTask, Params, State, build

Floats = NDArray[np.float64]
INTERCEPT = "(intercept)"


class Features(Params):
    """Parameters of every task that fits coefficients.

    features: contract variables; a category becomes one dummy column per category but the first, called `cp[2]`.
    standardise: an earlier step whose means and standard deviations (or medians and interquartile ranges) scale the numbers
    (coefficients are still reported on the original scale). part: which patients. ridge: the objective loses ridge/2 times the sum of squared
    coefficients, on the scale that is fitted, without the intercept.
    """

    features: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=512)]
    standardise: Name | None = None
    part: Part = "all"
    ridge: Annotated[float, Field(ge=0)] = 0.0
    tolerance: Annotated[float, Field(gt=0, le=1e-3)] = 1e-9


@dataclass(frozen=True)
class Used:
    """The rows a step may use, and how many it left out because a column that it reads is missing."""

    rows: Rows
    left_out: int


def usable(task: BaseTask[Any], rows: Rows, part: Part, names: tuple[str, ...] | None = None) -> Used:
    """Complete cases of `names` (default: all that the task reads) among the patients of `part`. Raises `TaskError`."""
    names = task.reads() if names is None else names
    for name in names:
        if name not in rows.columns:
            raise TaskError(f"Step '{task.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
    rows = rows.part(part, task.study.data.split)
    missing = np.zeros(len(rows), dtype=bool)
    for name in names:
        if np.isinf(rows.columns[name]).any():
            raise TaskError(f"Variable '{name}' holds an infinite value.", fix="correct it at its source, or give it a missing code")
        missing |= np.isnan(rows.columns[name])
    return Used(rows.take(~missing), int(missing.sum()))


def earlier(task: BaseTask[Any], name: str, param: str, *kinds: str) -> Any:
    """The task of an earlier step of the plan that is one of `kinds`; raises `ManifestError` that names the nearest."""
    before = {s.name: s for s in takewhile(lambda s: s.name != task.step.name, task.study.plan)}
    fit = [s.name for s in before.values() if s.task in kinds]
    if name not in before:
        hint = nearest(name, fit) if fit else f"add a step of task {' or '.join(repr(k) for k in kinds)} before it"
        raise ManifestError(f"Step '{task.step.name}': {param} = '{name}' is not an earlier step of the plan.", fix=hint)
    if before[name].task not in kinds:
        raise ManifestError(
            f"Step '{task.step.name}': {param} = '{name}' is a '{before[name].task}' step; it must be {' or '.join(repr(k) for k in kinds)}.",
            fix=nearest(name, fit) if fit else "add such a step before it",
        )
    return build(before[name], task.study)


@dataclass(frozen=True)
class Column:
    """One column of the matrix: a number as it is, or the indicator of one category."""

    name: str
    variable: str
    category: int | None


class Design:
    """The matrix of one step. Columns: the intercept first, if there is one, then the features in order.

    The matrix that is fitted is (x - centre) / scale. From a standardise step both come from the state; else the centre
    is the contract's midpoint where a range is declared and an intercept absorbs it, which only improves conditioning.
    """

    def __init__(self, task: BaseTask[Any], params: Features, *, intercept: bool, centred: bool) -> None:
        task.require(*params.features)
        twice = sorted({n for n in params.features if params.features.count(n) > 1})
        if twice:
            raise ManifestError(f"Step '{task.step.name}' lists the feature '{twice[0]}' twice.", fix="list it once")
        self.variables, self.intercept, self._centred = params.features, intercept, centred
        self._contract = task.study.data.variables
        self.columns = [c for name in params.features for c in columns_of(name, self._contract[name])]
        self.names = ((INTERCEPT,) if intercept else ()) + tuple(c.name for c in self.columns)
        self.size = len(self.names)
        self._scaler = earlier(task, params.standardise, "standardise", "standardise", "robust_scale", "moments") if params.standardise else None
        self._check_scaler(task, params)

    def _check_scaler(self, task: BaseTask[Any], params: Features) -> None:
        if self._scaler is None:
            return
        if self._scaler.groups:
            raise ManifestError(f"Step '{task.step.name}': '{params.standardise}' holds means by group.", fix="name a 'standardise' step")
        for name in params.features:
            if self._contract[name].type in ("number", "integer") and name not in self._scaler.variables:
                raise ManifestError(
                    f"Step '{task.step.name}' standardises by '{params.standardise}', which does not cover '{name}'.",
                    fix=f"add '{name}' to that step's variables",
                )

    def location(self, state: State) -> tuple[Floats, Floats]:
        """Centre and scale, one per column without the intercept."""
        centre, scale = np.zeros(len(self.columns)), np.ones(len(self.columns))
        for j, column in enumerate(self.columns):
            if column.category is not None:
                continue
            if self._scaler is not None and column.variable in self._scaler.variables:
                centre[j], scale[j] = self._scaler.moments_of(state, column.variable)
            elif self._centred:
                centre[j] = midpoint(self._contract[column.variable])
        return (centre if self._centred else np.zeros_like(centre)), scale

    def matrix(self, state: State, rows: Rows) -> Floats:
        """The scaled matrix, shape (n, size)."""
        centre, scale = self.location(state)
        out = np.ones((len(rows), self.size))
        first = int(self.intercept)
        for j, column in enumerate(self.columns):
            values = rows.columns[column.variable]
            out[:, first + j] = values if column.category is None else values == column.category
        out[:, first:] = (out[:, first:] - centre) / scale
        return out

    def original(self, state: State) -> Floats:
        """The matrix A, shape (size, size), with coefficients on the original scale = A @ fitted, covariance = A C A'."""
        centre, scale = self.location(state)
        if not self.intercept:
            return np.asarray(np.diag(1.0 / scale))
        out: Floats = np.diag(np.r_[1.0, 1.0 / scale])
        out[0, 1:] = -centre / scale
        return out

    def ridge(self, ridge: float) -> Floats:
        """The penalty per coefficient, zero for the intercept."""
        return np.asarray(np.r_[np.zeros(int(self.intercept)), np.full(len(self.columns), ridge)])


def midpoint(variable: Variable) -> float:
    """The public middle of the contract's range, or 0 where none is declared."""
    if variable.minimum is None or variable.maximum is None:
        return 0.0
    return variable.minimum + (variable.maximum - variable.minimum) / 2.0


def linear_predictor(x: Floats, coefficients: Floats) -> Floats:
    """x @ coefficients row by row, so that equal rows get equal values to the last bit, wherever they stand."""
    return np.asarray(np.ascontiguousarray(x * coefficients).sum(axis=1))


def columns_of(name: str, variable: Variable) -> list[Column]:
    """The columns that one variable becomes."""
    if variable.type != "category":
        return [Column(name, name, None)]
    return [Column(f"{name}[{c}]", name, k) for k, c in enumerate(variable.categories) if k > 0]
