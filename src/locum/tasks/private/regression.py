"""Noisy sums of products for several regressions on the same predictors: a part of the task `impute`.

Predictors and targets are scaled by their declared ranges to [-1, 1]. With z the predictors of a record and an intercept, its vector
holds, for each of J targets, the upper triangle of z z' and z y. As |y| <= 1, its norm is at most
r = sqrt(J ((|z|^4 + sum z_i^4) / 2 + |z|^2)), whatever the targets are. A patient's records are weighed by min(1, B / sum r), with
B public, and everything is divided by B: so the norm is at most 1, and a weight depends on predictors alone, which keeps the
regression without bias. Eigenvalues that noise may have made are raised to its size (Wang, 2018, UAI: adaptive ridge).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.privacy.clipping import factors
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import State
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import of_part
from locum.tasks.private.moments import public_range
from locum.tasks.regression import Places, Regression, RegressionParams

Floats = NDArray[np.float64]
TYPICAL = 0.25
"""A typical squared entry, by which B is set: a longer record weighs less, which costs less than more noise for all."""


class PrivateRegression(PrivateTask[RegressionParams], Regression):
    """A prediction is cut to the declared range afterwards, so that noise never leads out of it."""

    def __init__(self, step: Step, params: RegressionParams, study: Study) -> None:
        super().__init__(step, params, study)
        square = 1.0 + TYPICAL * len(self.columns)
        self.bound = math.sqrt(len(params.targets) * ((square**2 + square) / 2.0 + square))

    def leaves(self) -> str:
        return "With noise: products of the predictors with each other and with each variable."

    def layout(self, state: State) -> Layout:
        j, p = len(self.params.targets), len(self.names)
        return Layout.of(products=(j, p * (p + 1) // 2), moments=(j, p))

    def places(self, found: Places) -> Places:
        """Middle and half width of each declared range; raises `ManifestError` where there is none."""
        numbers = [n for n in (*self.params.targets, *self.params.predictors) if self.study.data.variables[n].type not in ("category", "boolean")]
        ends = {name: public_range(self, name) for name in numbers}
        return {name: ((low + high) / 2.0, (high - low) / 2.0) for name, (low, high) in ends.items()}

    def sums(self, places: Places, filled: Rows, rows: Rows) -> Contribution:
        rows, filled = of_part(self, rows, self.params.part), of_part(self, filled, self.params.part)
        z, w = self.matrix(places, filled), self._weights(places, filled)
        vector = self.layout({}).zeros()
        for j, name in enumerate(self.params.targets):
            centre, scale = places[name]
            y = rows.columns[name]
            present = np.isfinite(y)
            zw = z[present] * w[present, None]
            vector["products"][j] = newton.pack(zw.T @ z[present])
            vector["moments"][j] = zw.T @ np.clip((y[present] - centre) / scale, -1.0, 1.0)
        return self.addend(vector, rows.patients)

    def _weights(self, places: Places, filled: Rows) -> Floats:
        """Of each record, shape (n,): what its patient's records are multiplied with, over B."""
        squares = self.matrix(places, filled) ** 2
        square = squares.sum(axis=1)
        norms = np.sqrt(len(self.params.targets) * ((square**2 + (squares**2).sum(axis=1)) / 2.0 + square))
        return factors(np.bincount(filled.codes, norms, minlength=filled.patients), self.bound)[filled.codes] / self.bound

    def matrix(self, places: Places, filled: Rows) -> Floats:
        """What is not finite is 0, at the middle of its range."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.clip(np.nan_to_num(super().matrix(places, filled), nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)

    def known(self, total: Total, j: int) -> float:
        return 0.0  # nothing is refused for a private count

    def solve(self, name: str, names: list[str], n: float, products: Floats, moments: Floats, noise: float) -> Floats:
        values, vectors = np.linalg.eigh(products)
        floor = max(1.0 / self.bound, 2.0 * noise * math.sqrt(len(names)))
        return np.asarray(vectors @ ((vectors.T @ moments) / np.maximum(values, floor)))
