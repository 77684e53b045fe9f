"""Means and variances from sums of shifted values, and the `standardise` step that later steps scale by.

With a shift c: mean = c + S1/n and variance = (S2 - S1^2/n) / (n - 1), S1 = sum(x - c), S2 = sum((x - c)^2). This loses
digits when the mean lies many standard deviations from c (Chan, Golub and LeVeque, 1983, The American Statistician 37:242).
So c starts at the contract's public midpoint, and only where that was too far away does a second round use the mean.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import midpoint, usable

FAR = 1e3
"""Squared distance of mean and shift, in variances, beyond which another round is worth its cost: 3 digits lost."""
CONSTANT = 1e-13
"""A standard deviation below this share of the mean's size is rounding error."""


class StandardiseParams(Params):
    variables: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=4096)]
    part: Part = "all"


class MomentsParams(StandardiseParams):
    """by: a category variable; then every figure is per category."""

    by: VariableName | None = None


@register
class Moments(BaseTask[MomentsParams]):
    """n, mean and variance (ddof = 1) of each variable, over its own non-missing rows."""

    kind = "moments"
    Config: ClassVar[type[Any]] = MomentsParams

    def __init__(self, step: Step, params: Any, study: Study) -> None:
        super().__init__(step, params, study)
        self.variables: tuple[str, ...] = params.variables
        self.by: str | None = getattr(params, "by", None)
        self.require(*self.reads())
        contract = study.data.variables
        for name in self.variables:
            if contract[name].type == "category":
                raise ManifestError(f"Step '{step.name}': '{name}' is a category and has no mean.", fix="use it as by, or list numbers only")
        if self.by and contract[self.by].type != "category":
            raise ManifestError(f"Step '{step.name}': by = '{self.by}' is not a category.", fix="name a variable of type 'category'")
        self.groups: tuple[str, ...] = contract[self.by].categories if self.by else ()

    def reads(self) -> tuple[str, ...]:
        return (*self.variables, self.by) if self.by else self.variables

    def leaves(self) -> str:
        groups = f" and each of {len(self.groups)} groups" if self.groups else ""
        return f"For each of {len(self.variables)} variables{groups}: a count, a sum and a sum of squares; {self.layout({}).size} numbers in all."

    def layout(self, state: State) -> Layout:
        shape = (max(1, len(self.groups)), len(self.variables))
        return Layout.of(count=shape, total=shape, squares=shape, missing=shape)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = usable(self, rows, self.params.part, (self.by,) if self.by else ()).rows
        vector = self.layout(state).zeros()
        shift, used = self._shift(state), np.zeros(len(rows), dtype=bool)
        for g in range(max(1, len(self.groups))):
            member = rows.columns[self.by] == g if self.by else np.ones(len(rows), dtype=bool)
            for j, name in enumerate(self.variables):
                x = rows.columns[name][member]
                x, present = x - shift[g, j], ~np.isnan(x)
                vector["count"][g, j], vector["missing"][g, j] = present.sum(), (~present).sum()
                vector["total"][g, j], vector["squares"][g, j] = x[present].sum(), (x[present] ** 2).sum()
                used[np.flatnonzero(member)[present]] = True
        return Contribution(vector, rows.take(used).patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        n, shift = np.asarray(total["count"], dtype=np.float64), self._shift(state)
        self._refuse_empty(n)
        s1, s2 = np.asarray(total["total"], dtype=np.float64), np.asarray(total["squares"], dtype=np.float64)
        away = s1 / np.maximum(n, 1.0)
        variance = np.maximum(0.0, (s2 - s1 * away) / np.maximum(n - 1.0, 1.0))
        mean, again = shift + away, self._rounds(state) == 0 and bool((away**2 > FAR * variance).any())
        variance = np.where(np.sqrt(variance) <= CONSTANT * np.abs(mean), 0.0, variance)
        new = self.merge(state, n=n, mean=mean, variance=variance, missing=total["missing"], rounds=self._rounds(state) + 1, finished=int(not again))
        if not again:
            self._check(n, variance)
        return new

    def done(self, state: State) -> bool:
        return bool(state.get(self.key("finished"), np.asarray(0)))

    def result(self, state: State) -> dict[str, Any]:
        return {"variables": {name: self._rows(state, j) for j, name in enumerate(self.variables)}}

    def moments_of(self, state: State, name: str) -> tuple[float, float]:
        """Mean and standard deviation of one variable, for a later step that standardises."""
        if self.key("mean") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is nothing to standardise by.", fix="keep the plan's order")
        j = self.variables.index(name)
        mean, sd = float(self.own(state, "mean")[0, j]), float(np.sqrt(self.own(state, "variance")[0, j]))
        return mean, sd or 1.0

    def _rows(self, state: State, j: int) -> dict[str, Any]:
        return {g: self._row(state, i, j) for i, g in enumerate(self.groups)} if self.by else self._row(state, 0, j)

    def _row(self, state: State, g: int, j: int) -> dict[str, Any]:
        n, missing, mean, variance = (float(self.own(state, k)[g, j]) for k in ("n", "missing", "mean", "variance"))
        enough = n > 1
        return {
            "n": int(n),
            "missing": int(missing),
            "mean": mean if n else None,
            "variance": variance if enough else None,
            "sd": float(np.sqrt(variance)) if enough else None,
        }

    def _rounds(self, state: State) -> int:
        return int(state.get(self.key("rounds"), np.asarray(0)))

    def _shift(self, state: State) -> NDArray[np.float64]:
        if self._rounds(state):
            return np.asarray(self.own(state, "mean"), dtype=np.float64)
        public = [midpoint(self.study.data.variables[name]) for name in self.variables]
        return np.tile(public, (max(1, len(self.groups)), 1))

    def _refuse_empty(self, n: NDArray[np.float64]) -> None:
        for j, name in enumerate(self.variables):
            if not n[:, j].any():
                raise TaskError(f"'{name}' is missing in every row of the cohort.", fix=f"drop it from step '{self.step.name}', or correct the mapping")

    def _check(self, n: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
        """A place for a stricter subclass to refuse."""


@register
class Standardise(Moments):
    """Moments that other steps scale by: a constant column is refused."""

    kind = "standardise"
    Config: ClassVar[type[Any]] = StandardiseParams

    def _check(self, n: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
        for j, name in enumerate(self.variables):
            if variance[0, j] == 0.0:
                raise TaskError(
                    f"'{name}' is constant in the cohort, so it cannot be standardised.",
                    why="Its standard deviation is zero.",
                    fix=f"drop '{name}' from step '{self.step.name}' and from the features",
                )
