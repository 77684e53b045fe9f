"""One outcome model in each arm of a comparison, by Newton steps on both at once: a part of the task `treatment_effect`.

The columns, the family and the ridge penalty are those of an earlier linear or logistic step, which itself is fitted on both arms together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import TaskError
from locum.study.vector import Layout, Total
from locum.tasks import newton
from locum.tasks.base import State
from locum.tasks.design import linear_predictor
from locum.tasks.glm import GLM
from locum.tasks.newton import Progress, Quadratic

Floats = NDArray[np.float64]
ARMS = ("control", "treated")
"""The order of every pair."""


class ArmModels:
    """model: the step whose form both models have. prefix: under what names they are in the state."""

    def __init__(self, model: GLM, prefix: str) -> None:
        self.model, self.prefix, self.k = model, prefix, model.design.size

    def layout(self) -> Layout:
        k = self.k
        return Layout.of(arm_rows=(2,), objective=(2,), gradient=(2, k), information=(2, k * (k + 1) // 2), squares=(2, k))

    def done(self, state: State) -> bool:
        return all(self.progress(state, i).converged for i in (0, 1))

    def progress(self, state: State, i: int) -> Progress:
        """Where the model of arm i stands."""
        name = f"{self.prefix}{ARMS[i]}_"
        return Progress.of(lambda n: state[name + n]) if f"{name}at" in state else Progress.start(np.zeros(self.k))

    def sums(self, state: State, arms: Sequence[tuple[Floats, Floats]]) -> dict[str, Any]:
        """The site's addend. arms: of each arm the columns (n, k) and the outcomes (n,)."""
        vector = self.layout().zeros()
        for i, (z, y) in enumerate(arms):
            value, residual, w = self.model.likelihood(y, linear_predictor(z, self.progress(state, i).at))
            vector["arm_rows"][i], vector["objective"][i], vector["gradient"][i] = len(y), value, z.T @ residual
            vector["information"][i], vector["squares"][i] = newton.pack(z.T @ (z * w[:, None])), (z**2).sum(axis=0)
        return vector

    def combine(self, state: State, total: Total) -> Mapping[str, Any]:
        """What changes in the state. Raises `TaskError` that names the arm."""
        ridge = self.model.design.ridge(self.model.params.ridge)
        changed: dict[str, Any] = {}
        for i, arm in enumerate(ARMS):
            progress, n = self.progress(state, i), float(total["arm_rows"][i])
            if progress.converged:
                continue
            if n <= self.k:
                raise TaskError(f"The {arm} arm has too few complete cases for an outcome model of its own.", fix="use fewer features, or per_arm = false")
            here = Quadratic(float(total["objective"][i]), np.asarray(total["gradient"][i], float), newton.unpack(total["information"][i], self.k))
            problem = self.model.problem(np.asarray(total["squares"][i], float), n, here.value)
            try:
                following = newton.advance(progress, here.penalised(progress.at, ridge), problem)
            except TaskError as error:
                raise TaskError(f"In the {arm} arm: {error.what}", why=error.why, fix=f"{error.fix}, in step '{self.model.step.name}'") from None
            changed |= {f"{self.prefix}{arm}_{name}": v for name, v in following.arrays().items()}
        return changed
