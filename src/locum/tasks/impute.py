"""Fill missing values from what the federation knows: a mean, a median, a regression, or the most frequent category.

First the means, medians and categories are found; regression takes one round more. Each is that of the pooled rows. From then on
every later step of the plan sees the filled columns, and, with `indicators`, which values were filled. One value is filled in for each
missing one, so standard errors of later steps are too small where much is missing.
Source: Little and Rubin (2019), Statistical Analysis with Missing Data, chapter 4 (mean and regression imputation, and their limits).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Step, Study, Variable, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, Transform, register
from locum.tasks.modes import Modes, ModesParams
from locum.tasks.moments import Moments, MomentsParams
from locum.tasks.parts import Parts
from locum.tasks.prepare import columns, with_columns
from locum.tasks.quantiles import Quantiles, QuantilesParams
from locum.tasks.regression import Places, Regression, RegressionParams

Floats = NDArray[np.float64]
MEANS, MODES = "(means)", "(modes)"
OBSERVED_ONLY = ("outcome", "time", "event", "patient", "split")
"""Roles that are never filled in: later steps would take a made-up outcome for an observed one."""


class ImputeParams(Params):
    """method: for numbers; a category or boolean gets its most frequent value. predictors: what a regression explains the numbers by (an
    outcome among them sharpens an estimate of association, and spoils an evaluation).
    indicators: add a boolean '<name>_missing' for each variable. part: of which patients the values are learned; all are filled.
    bins, tail: of medians, as for quantiles."""

    variables: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=512)]
    method: Literal["mean", "median", "regression"] = "mean"
    predictors: Annotated[tuple[VariableName, ...], Field(max_length=64)] = ()
    indicators: bool = False
    bins: Annotated[int, Field(ge=2, le=10_000)] = 64
    tail: Annotated[int, Field(ge=1)] = THRESHOLD
    part: Part = "all"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.method == "regression") != bool(self.predictors):
            raise ValueError("predictors are listed for method 'regression', and only for it")
        if len(set(self.variables)) < len(self.variables) or len(set(self.predictors)) < len(self.predictors):
            raise ValueError("a variable is listed twice")
        return self


@register
class Impute(Transform[ImputeParams]):
    """A prediction outside the declared range is cut to it, for nothing outside can be right."""

    kind = "impute"
    Config = ImputeParams
    row_wise = True

    def __init__(self, step: Step, params: ImputeParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*self.reads())
        self.contract = study.data.variables
        for name in params.variables:
            self._check(name)
        self.numbers = tuple(n for n in params.variables if self._is_number(n))
        numbers, others = ([n for n in self.reads() if self._is_number(n) == wanted] for wanted in (True, False))
        self.parts = self.make_parts(tuple(numbers), tuple(others))
        self.regression = self.make_regression() if params.method == "regression" and self.numbers else None

    def _is_number(self, name: str) -> bool:
        return self.contract[name].type not in ("category", "boolean")

    def _check(self, name: str) -> None:
        role, flag = self.contract[name].role, f"{name}_missing"
        if role in OBSERVED_ONLY:
            raise ManifestError(f"Step '{self.step.name}': '{name}' has the role '{role}' and is not filled in.", fix=f"leave out '{name}'")
        if self.params.indicators and (flag in self.contract or len(flag) > 64):
            what = "is a variable already" if flag in self.contract else "is too long for a name"
            raise ManifestError(f"Step '{self.step.name}': '{flag}' {what}.", fix="rename the variable, or set indicators = false")

    def make_parts(self, numbers: tuple[str, ...], others: tuple[str, ...]) -> Parts:
        """What is learned of each number, and of each category and boolean."""
        parts: dict[str, BaseTask[Any]] = {}
        if numbers and self.params.method == "median":
            parts |= {name: Quantiles(self.step, self.median(name), self.study) for name in numbers}
        elif numbers:
            parts[MEANS] = Moments(self.step, MomentsParams(variables=numbers, part=self.params.part), self.study)
        if others:
            parts[MODES] = Modes(self.step, ModesParams(variables=others, part=self.params.part), self.study)
        return Parts(parts)

    def make_regression(self) -> Regression:
        params = RegressionParams(targets=self.numbers, predictors=self.params.predictors, part=self.params.part)
        made = Regression(self.step, params, self.study)
        made.within = "regression:"
        return made

    def median(self, name: str) -> QuantilesParams:
        return QuantilesParams(variable=name, probabilities=(0.5,), bins=self.params.bins, tail=self.params.tail, part=self.params.part)

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.params.variables, *self.params.predictors)))

    def leaves(self) -> str:
        what = {"mean": "a count, a sum and a sum of squares", "median": "how many values are at or below some edges"}
        first = f"Of each number {what.get(self.params.method, what['mean'])}, and how many records are of each category"
        return f"{first}; {self.layout({}).size} numbers in all." + (f" Then {self.regression.layout({}).size} sums of products." if self.regression else "")

    def layout(self, state: State) -> Layout:
        return self.regression.layout(state) if self.regression and self.parts.done(state) else self.parts.layout(state)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        if self.regression and self.parts.done(state):
            made = self.regression.sums(self._places(state), self._filled(state, rows), rows)
            return Contribution(made.vector, made.rows, self.leaves())
        return self.parts.visit(state, rows, memory, rng, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        return self.regression.combine(state, total) if self.regression and self.parts.done(state) else self.parts.combine(state, total)

    def done(self, state: State) -> bool:
        return self.parts.done(state) and (self.regression is None or self.regression.done(state))

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' had too few rounds to find its values.", fix="give it more rounds")
        return {"method": self.params.method, "variables": {name: self._answer(state, name) for name in self.params.variables}}

    def derived(self) -> dict[str, Variable]:
        whole = ("integer", "date") if self.params.method != "median" else ()
        out = {n: self.contract[n].model_copy(update={"type": "number"} if self.contract[n].type in whole else {}) for n in self.params.variables}
        flags = {f"{n}_missing": Variable(type="boolean", label=f"'{n}' was missing and filled in") for n in self.params.variables}
        return out | (flags if self.params.indicators else {})

    def apply(self, state: State, rows: Rows) -> Rows:
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is nothing to fill in.", fix="keep the plan's order, and give it rounds")
        given, filled = columns(self, rows), self._filled(state, rows)
        made = {name: filled.columns[name] for name in self.params.variables}
        if self.regression:
            for name in self.numbers:
                missing = np.isnan(given[name])
                if missing.any():
                    made[name] = np.where(missing, self._within(name, self.regression.predict(state, self._places(state), filled, name)), given[name])
        if self.params.indicators:
            made |= {f"{name}_missing": np.isnan(given[name]).astype(np.float64) for name in self.params.variables}
        return with_columns(rows, made)

    def _filled(self, state: State, rows: Rows) -> Rows:
        """Every variable that is read, its missing values replaced by its mean, median or most frequent category."""
        given = columns(self, rows)
        return with_columns(rows, {name: np.where(np.isnan(given[name]), self._fill(state, name), given[name]) for name in self.reads()})

    def _fill(self, state: State, name: str) -> float:
        if not self._is_number(name):
            return float(self.parts[MODES].mode(state, name))
        if self.params.method == "median":
            return float(self.parts[name].result(state)["quantiles"][0]["value"])
        return float(self.parts[MEANS].moments_of(state, name)[0])

    def _places(self, state: State) -> Places:
        found = {name: self.parts[MEANS].moments_of(state, name) for name in self.reads() if self._is_number(name)}
        return self.regression.places(found) if self.regression else found

    def _within(self, name: str, x: Floats) -> Floats:
        low, high = self.contract[name].minimum, self.contract[name].maximum
        return np.asarray(np.clip(x, -np.inf if low is None else low, np.inf if high is None else high))

    def _answer(self, state: State, name: str) -> dict[str, Any]:
        fill = self._fill(state, name)
        if not self._is_number(name):
            categories = self.contract[name].categories or ("0", "1")
            return {"most_frequent": categories[int(fill)]}
        if self.regression is None:
            return {self.params.method: fill}
        coefficients = np.asarray(self.regression.own(state, "coefficients"), float)[self.numbers.index(name)]
        return {"mean": fill, "standardised_coefficients": dict(zip(self.regression.names, coefficients.tolist(), strict=True))}
