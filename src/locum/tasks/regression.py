"""One linear regression for each of several numbers on the same predictors, from summed products: a part of the task `impute`.

Each target's own complete cases give Z'Z and Z'y, with Z an intercept and the predictors, whose missing values are filled before.
A target that is a predictor as well does not explain itself: its columns are left out of its equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Params, State
from locum.tasks.design import INTERCEPT, columns_of, usable

Floats = NDArray[np.float64]
Places = Mapping[str, tuple[float, float]]
"""Of each number the centre and the scale by which the sums are well conditioned."""


class RegressionParams(Params):
    targets: tuple[VariableName, ...]
    predictors: tuple[VariableName, ...]
    part: Part = "all"


class Regression(BaseTask[RegressionParams]):
    """Least squares. `places` and filled rows are given by the task that this is a part of."""

    kind = "regression"
    Config: ClassVar[type[Any]] = RegressionParams

    def __init__(self, step: Step, params: RegressionParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.columns = [c for name in params.predictors for c in columns_of(name, study.data.variables[name])]
        self.names = (INTERCEPT, *(c.name for c in self.columns))

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.params.targets, *self.params.predictors)))

    def layout(self, state: State) -> Layout:
        j, p = len(self.params.targets), len(self.names)
        return Layout.of(rows=(j,), products=(j, p * (p + 1) // 2), moments=(j, p))

    def places(self, found: Places) -> Places:
        """Where to centre and how to scale: by default as found, so that the sums are well conditioned."""
        return found

    def sums(self, places: Places, filled: Rows, rows: Rows) -> Contribution:
        """The site's addend. filled: the rows, with no predictor missing."""
        rows, filled = (usable(self, r, self.params.part, ()).rows for r in (rows, filled))
        z, vector, used = self.matrix(places, filled), self.layout({}).zeros(), np.zeros(len(rows), dtype=bool)
        for j, name in enumerate(self.params.targets):
            y = rows.columns[name]
            present = ~np.isnan(y)
            centre, scale = places[name]
            vector["rows"][j] = present.sum()
            vector["products"][j] = newton.pack(z[present].T @ z[present])
            vector["moments"][j] = z[present].T @ ((y[present] - centre) / scale)
            used |= present
        return Contribution(vector, rows.take(used).patients, "products of the predictors with each other and with each variable")

    def combine(self, state: State, total: Total) -> State:
        p = len(self.names)
        coefficients = np.zeros((len(self.params.targets), p))
        for j, name in enumerate(self.params.targets):
            own = np.flatnonzero([True, *(c.variable != name for c in self.columns)])
            products, moments = newton.unpack(np.asarray(total["products"])[j], p)[np.ix_(own, own)], np.asarray(total["moments"], float)[j, own]
            coefficients[j, own] = self.solve(name, [self.names[i] for i in own], self.known(total, j), products, moments, total.noise)
        return self.merge(state, coefficients=coefficients)

    def known(self, total: Total, j: int) -> float:
        """In how many rows target j is known."""
        return float(np.asarray(total["rows"])[j])

    def solve(self, name: str, names: list[str], n: float, products: Floats, moments: Floats, noise: float) -> Floats:
        """The coefficients of one target; raises `TaskError` where they have no unique value."""
        if n <= len(names):
            raise TaskError(f"'{name}' is known in too few rows to be explained by {len(names) - 1} columns.", fix="name fewer predictors")
        try:
            newton.diagnose(products, newton.Problem(names, np.diag(products), 0.0, "", "where it would explain " + name))
        except TaskError as error:
            raise TaskError(error.what, why=error.why, fix=f"drop it from the predictors of step '{self.step.name}'") from None
        return newton.solve(products, moments)

    def done(self, state: State) -> bool:
        return self.key("coefficients") in state

    def predict(self, state: State, places: Places, filled: Rows, name: str) -> Floats:
        """The prediction of one target for each row, shape (n,), on its own scale."""
        coefficients = np.asarray(self.own(state, "coefficients"), float)[self.params.targets.index(name)]
        centre, scale = places[name]
        return centre + scale * np.asarray((self.matrix(places, filled) * coefficients).sum(axis=1))

    def matrix(self, places: Places, filled: Rows) -> Floats:
        """An intercept and the predictors, shape (n, p)."""
        out = np.ones((len(filled), len(self.names)))
        for j, column in enumerate(self.columns, start=1):
            x = filled.columns[column.variable]
            centre, scale = places.get(column.variable, (0.0, 1.0))
            out[:, j] = (x - centre) / scale if column.category is None else x == column.category
        return out
