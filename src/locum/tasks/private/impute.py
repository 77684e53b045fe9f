"""Imputation with noise: means, medians and most frequent categories from noisy sums, and a regression from noisy products.

Each of the J variables that are learned of has the same share, 1 / J, of a patient's squared bound. A filled value is a function of what
was released and of the patient's own other values, so nothing further is spent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.privacy.accountant import Request
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, State, register_private
from locum.tasks.impute import MEANS, MODES, Impute, ImputeParams
from locum.tasks.modes import Modes, ModesParams
from locum.tasks.moments import MomentsParams
from locum.tasks.parts import Parts, shares
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import cell_sums, of_part
from locum.tasks.private.moments import PrivateMoments
from locum.tasks.private.quantiles import PrivateQuantiles
from locum.tasks.private.regression import PrivateRegression
from locum.tasks.regression import RegressionParams


class PrivateModes(PrivateTask[ModesParams], Modes):
    """Counts with noise, of which the largest is taken: there may be a more frequent category if noise is as large as their difference."""

    def leaves(self) -> str:
        return "With noise: how many records are of each category."

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows, weight = of_part(self, rows, self.params.part), 1.0 / np.sqrt(len(self.sizes))
        vector = {}
        for name, size in self.sizes.items():
            cells = self.cells(rows, name)
            there = cells < size
            vector[name] = cell_sums(cells[there], rows.codes[there], size) * weight
        return self.addend(vector, rows.patients)

    def combine(self, state: State, total: Total) -> State:
        return self.merge(state, mode=[int(np.asarray(total[name]).argmax()) for name in self.sizes])


@register_private
class PrivateImpute(PrivateTask[ImputeParams], Impute):
    """One round, and for a regression a second one."""

    def __init__(self, step: Step, params: ImputeParams, study: Study) -> None:
        super().__init__(step, params, study)
        if self.regression:
            self.regression.places({})  # refuses what has no declared range

    def make_parts(self, numbers: tuple[str, ...], others: tuple[str, ...]) -> Parts:
        parts: dict[str, BaseTask[Any]] = {}
        if numbers and self.params.method == "median":
            parts |= {name: PrivateQuantiles(self.step, self.median(name), self.study) for name in numbers}
        elif numbers:
            parts[MEANS] = PrivateMoments(self.step, MomentsParams(variables=numbers, part=self.params.part), self.study)
        if others:
            parts[MODES] = PrivateModes(self.step, ModesParams(variables=others, part=self.params.part), self.study)
        return Parts(parts, shares({name: {MEANS: len(numbers), MODES: len(others)}.get(name, 1) for name in parts}))

    def make_regression(self) -> PrivateRegression:
        params = RegressionParams(targets=self.numbers, predictors=self.params.predictors, part=self.params.part)
        made = PrivateRegression(self.step, params, self.study)
        made.within = "regression:"
        return made

    def request(self) -> Request:
        return self.releases(2 if self.regression else 1)

    def leaves(self) -> str:
        more = f"; then, with noise, {self.regression.layout({}).size} sums of products" if self.regression else ""
        return f"With noise: counts and sums of {len(self.reads())} variables, {self.parts.layout({}).size} numbers in all{more}."

    def layout(self, state: State) -> Layout:
        return Impute.layout(self, state)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        made = super().visit(state, rows, memory, rng)
        return self.addend(made.vector, rows.patients)
