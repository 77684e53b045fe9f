"""The design matrix of the private forms: every column scaled by public numbers, so that its share of a patient's bound is a fair one.

A number x becomes (x - middle) / half-range by the contract, in [-1, 1]; a boolean x - 1/2, and a category 0 or 1, as measured numbers
seldom fill their declared range: about equal root mean squares share the bound best. Without an intercept nothing is centred. With an
earlier 'standardise' step, itself private, a number is scaled by that step's mean and standard deviation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.manifest import Variable
from locum.tasks.base import BaseTask, State
from locum.tasks.design import Column, Design, Features, midpoint

Floats = NDArray[np.float64]
CUT = 100.0
"""Standardised numbers are cut here: a guard of the arithmetic, not of the answer."""
SQUARE, STANDARDISED_SQUARE = 0.05, 0.5
"""About half of a typical squared entry: the unit of length below is a little short on purpose, since weights cost less than noise."""


class ScaledDesign(Design):
    """Raises `ManifestError` where a number has neither a range nor a standardise step."""

    def __init__(self, task: BaseTask[Any], params: Features, *, intercept: bool) -> None:
        super().__init__(task, params, intercept=intercept, centred=intercept)
        for name in params.features:
            if self._contract[name].type in ("number", "integer") and not self._standardised(name):
                need_range(task, name, self._contract[name])

    def location(self, state: State) -> tuple[Floats, Floats]:
        pairs = [self._place(state, column) for column in self.columns]
        return np.asarray([c for c, _ in pairs]), np.asarray([s for _, s in pairs])

    def matrix(self, state: State, rows: Rows) -> Floats:
        out, first = super().matrix(state, rows), int(self.intercept)
        limits = [CUT if self._standardised(c.variable) else 1.0 for c in self.columns]
        out[:, first:] = np.clip(out[:, first:], -np.asarray(limits), limits)
        return out

    @property
    def radius(self) -> float:
        """The default unit of a row's length."""
        squares = [STANDARDISED_SQUARE if self._standardised(c.variable) else SQUARE for c in self.columns]
        return math.sqrt(float(self.intercept) + sum(squares))

    def _standardised(self, name: str) -> bool:
        return self._scaler is not None and name in self._scaler.variables

    def _place(self, state: State, column: Column) -> tuple[float, float]:
        variable = self._contract[column.variable]
        if column.category is not None:
            return 0.0, 1.0
        if self._scaler is not None and self._standardised(column.variable):
            mean, sd = self._scaler.moments_of(state, column.variable)
            return (float(mean) if self._centred else 0.0), (float(sd) if sd > 0 else 1.0)
        if variable.type == "boolean":
            return (0.5 if self._centred else 0.0), 1.0
        return interval(variable, centred=self._centred)


def interval(variable: Variable, *, centred: bool) -> tuple[float, float]:
    """Centre and scale that bring the declared range into [-1, 1]; a boolean and a category of two have the range 0 to 1."""
    if variable.type in ("boolean", "category"):
        return (0.5, 0.5) if centred else (0.0, 1.0)
    low, high = float(variable.minimum or 0.0), float(variable.maximum or 0.0)
    return (midpoint(variable), high / 2.0 - low / 2.0) if centred else (0.0, max(abs(low), abs(high)))


def need_range(task: BaseTask[Any], name: str, variable: Variable) -> None:
    """Raise `ManifestError` unless the contract bounds this number on both sides."""
    if variable.type in ("number", "integer") and (variable.minimum is None or variable.maximum is None):
        raise ManifestError(
            f"Step '{task.step.name}': '{name}' has no declared range, so nothing public bounds what one patient adds.",
            fix=f"give data.variables.{name} a minimum and a maximum",
        )
