"""Robust scaling: the median and the interquartile range of each variable, by bisection on counts, for later steps to scale by.

Outliers and gross errors of a few patients move neither. Sources: Huber (1981), Robust Statistics, section 5.1; for the counts,
`tasks.quantiles`.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.parts import Parts
from locum.tasks.quantiles import Quantiles, QuantilesParams

QUARTILES = (0.25, 0.5, 0.75)


class RobustParams(Params):
    """variables: numbers whose range the contract declares. bins, tail: as for quantiles."""

    variables: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=512)]
    bins: Annotated[int, Field(ge=2, le=10_000)] = 64
    tail: Annotated[int, Field(ge=1)] = THRESHOLD
    part: Part = "all"


@register
class RobustScale(BaseTask[RobustParams]):
    """Quartiles of all variables, refined side by side. A later step names it in `standardise`."""

    kind = "robust_scale"
    Config = RobustParams
    takes = ("number", "integer", "date")
    groups: tuple[str, ...] = ()

    def __init__(self, step: Step, params: RobustParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.variables = params.variables
        self.require(*self.variables)
        if len(set(self.variables)) < len(self.variables):
            raise ManifestError(f"Step '{step.name}' lists a variable twice.", fix="list it once")
        self.parts = self.make_parts()

    def make_parts(self) -> Parts:
        return Parts({name: Quantiles(self.step, self.quartiles(name), self.study) for name in self.variables})

    def quartiles(self, name: str) -> QuantilesParams:
        return QuantilesParams(variable=name, probabilities=QUARTILES, bins=self.params.bins, tail=self.params.tail, part=self.params.part)

    def reads(self) -> tuple[str, ...]:
        return self.variables

    def leaves(self) -> str:
        size = self.parts.layout({}).size
        return f"Each round, for each of {len(self.variables)} variables: how many values are at or below some edges; {size} counts in all."

    def layout(self, state: State) -> Layout:
        return self.parts.layout(state)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        return self.parts.visit(state, rows, memory, rng, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        state = self.parts.combine(state, total)
        if self.done(state):
            for name in self.variables:
                self._check(state, name)
        return state

    def done(self, state: State) -> bool:
        return self.parts.done(state)

    def result(self, state: State) -> dict[str, Any]:
        out = {}
        for name in self.variables:
            found = self.parts[name].result(state)
            del found["variable"]
            out[name] = {"median": self._quartile(state, name, 1), "iqr": self._iqr(state, name), **found}
        return {"variables": out, "converged": self.done(state)}

    def moments_of(self, state: State, name: str) -> tuple[float, float]:
        """Median and interquartile range of one variable, for a later step that scales by them."""
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is nothing to scale by.", fix="keep the plan's order, and give it rounds")
        return self._quartile(state, name, 1), self._iqr(state, name) or 1.0

    def _quartile(self, state: State, name: str, i: int) -> float:
        return float(self.parts[name].result(state)["quantiles"][i]["value"])

    def _iqr(self, state: State, name: str) -> float:
        return self._quartile(state, name, 2) - self._quartile(state, name, 0)

    def _check(self, state: State, name: str) -> None:
        low, _, high = self.parts[name].result(state)["quantiles"]
        if high["value"] - low["value"] <= low["error_bound"] + high["error_bound"]:
            raise TaskError(
                f"Half of the values of '{name}' are the same, so it has no interquartile range to scale by.",
                fix=f"scale '{name}' by a 'standardise' step instead",
            )
