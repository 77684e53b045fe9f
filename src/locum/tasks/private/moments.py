"""Noisy counts, means and variances from one sum of three Chebyshev polynomials of each value, and `standardise` from them.

A value is scaled by its declared range to u in [-1, 1]; its record holds T(u) = (1, u, 2 u^2 - 1) / sqrt(3 J) for each of J
variables. |T|^2 <= 1 / J, with equality at the ends (it is convex in u^2), so a record's norm is at most 1. With t the sum of
sqrt(3 J) T: n = t0, mean of u = t1 / n, mean of u^2 = (t2 / n + 1) / 2. A missing value adds nothing; the other
variables of its record stay. Standard deviations of the noise are to first order (the delta method).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, State, register_private
from locum.tasks.moments import Moments, MomentsParams, StandardiseParams
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import of_part

Floats = NDArray[np.float64]
FLOOR = 0.01
"""The least standard deviation to scale by, as a share of half the declared range: noise may leave nothing of a smaller one."""


@register_private
class PrivateMoments(PrivateTask[MomentsParams], Moments):
    """n, mean and variance of each variable over its own non-missing rows, values clipped to the declared range."""

    def __init__(self, step: Step, params: Any, study: Study) -> None:
        super().__init__(step, params, study)
        ends = np.array([public_range(self, name) for name in self.variables])
        self.middle, self.half = ends.mean(axis=1), (ends[:, 1] - ends[:, 0]) / 2.0
        self._scale = float(np.sqrt(3.0 * len(self.variables)))

    def leaves(self) -> str:
        groups = f" and each of {len(self.groups)} groups" if self.groups else ""
        return f"With noise, for each of {len(self.variables)} variables{groups}: a count, a sum and a sum of squares; {self.layout({}).size} numbers in all."

    def layout(self, state: State) -> Layout:
        return Layout.of(sums=(max(1, len(self.groups)), len(self.variables), 3))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = of_part(self, rows, self.params.part)
        if not len(rows):
            return self.addend(self.layout(state).zeros(), 0)
        x = rows.matrix(self.variables)
        u, present = scaled(x, self.middle, self.half), np.isfinite(x)
        basis = np.stack([np.ones_like(u), u, 2.0 * u**2 - 1.0], axis=2) * present[:, :, None] / self._scale
        member = rows.columns[self.by][:, None] == np.arange(len(self.groups)) if self.by else np.ones((len(rows), 1), dtype=bool)
        return self.sum_over_patients(rows, {"sums": member[:, :, None, None] * basis[:, None]})

    def combine(self, state: State, total: Total) -> State:
        count, first, second = np.moveaxis(np.asarray(total["sums"], float) * self._scale, 2, 0)
        n = np.maximum(count, 1.0)
        mean = np.clip(first / n, -1.0, 1.0)
        square = np.clip((second / n + 1.0) / 2.0, 0.0, 1.0)
        variance = np.maximum(0.0, square - mean**2) * n / np.maximum(n - 1.0, 1.0)
        return self.merge(state, n=np.maximum(count, 0.0), mean=self.middle + self.half * mean, variance=self.half**2 * variance, noise=total.noise, finished=1)

    def result(self, state: State) -> dict[str, Any]:
        return super().result(state) | {"ranges": {name: (self.middle[j] + self.half[j] * np.array([-1, 1])).tolist() for j, name in enumerate(self.variables)}}

    def moments_of(self, state: State, name: str) -> tuple[float, float]:
        """Mean and standard deviation of one variable for a later step; never a standard deviation that may be noise alone."""
        if self.key("mean") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is nothing to standardise by.", fix="keep the plan's order")
        j = self.variables.index(name)
        variance = max(float(self.own(state, "variance")[0, j]), self._noise(state, 0, j)["variance"], float(FLOOR * self.half[j]) ** 2)
        return float(self.own(state, "mean")[0, j]), float(np.sqrt(variance))

    def _row(self, state: State, g: int, j: int) -> dict[str, Any]:
        n, mean, variance = (float(self.own(state, k)[g, j]) for k in ("n", "mean", "variance"))
        sd = float(np.sqrt(variance))
        return {"n": round(n), "missing": None, "mean": mean, "variance": variance, "sd": sd, "noise_sd": self._noise(state, g, j)}

    def _noise(self, state: State, g: int, j: int) -> dict[str, float]:
        """Standard deviations of the noise in n, mean and variance, from those of t0, t1, t2, which are equal and independent."""
        noise, half = float(self.own(state, "noise")) * self._scale, float(self.half[j])
        n, mean, variance = (float(self.own(state, k)[g, j]) for k in ("n", "mean", "variance"))
        n, u = max(n, 1.0), (mean - float(self.middle[j])) / half
        square = variance / half**2 + u**2
        slopes = (2.0 * u**2 - square + 0.5, -2.0 * u, 0.5)
        return {"n": noise, "mean": noise * half * float(np.hypot(1.0, u)) / n, "variance": noise * half**2 * float(np.linalg.norm(slopes)) / n}


@register_private
class PrivateStandardise(PrivateMoments):
    """Moments that other steps scale by. A constant column is not refused: its scale is the floor."""

    kind = "standardise"
    Config: ClassVar[type[Any]] = StandardiseParams


def public_range(task: BaseTask[Any], name: str) -> tuple[float, float]:
    """The declared range of a variable, to which its values are clipped; raises `ManifestError` where there is none."""
    variable = task.study.data.variables[name]
    if variable.type == "category":
        return 0.0, max(1.0, len(variable.categories) - 1.0)
    low, high = (0.0, 1.0) if variable.type == "boolean" else (None, None)
    low = low if variable.minimum is None else variable.minimum
    high = high if variable.maximum is None else variable.maximum
    if low is None or high is None:
        raise ManifestError(
            f"Step '{task.step.name}' needs the range of '{name}'.",
            why="With differential privacy one patient may move a sum only so far, and that is fixed before anybody looks at data.",
            fix=f"declare minimum and maximum of '{name}' in the data contract: what is plausible, not what was observed",
        )
    return low, high


def scaled(x: Floats, middle: Floats, half: Floats) -> Floats:
    """x (n, J) by its range to [-1, 1], clipped there; 0 where it is missing or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(np.isfinite(x), np.clip((x - middle) / half, -1.0, 1.0), 0.0)
