"""Robust scaling with noise: the quartiles of J variables, each from noisy counts in which a patient weighs at most 1 / sqrt(J)."""

from __future__ import annotations

import numpy as np

from locum.data.rows import Rows
from locum.study.vector import Contribution
from locum.tasks.base import Memory, State, register_private
from locum.tasks.parts import Parts, shares
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.moments import FLOOR
from locum.tasks.private.quantiles import PrivateQuantiles
from locum.tasks.robust import RobustParams, RobustScale


@register_private
class PrivateRobustScale(PrivateTask[RobustParams], RobustScale):
    """Never a scale that may be noise alone: at least a small share of the declared range."""

    def make_parts(self) -> Parts:
        parts = {name: PrivateQuantiles(self.step, self.quartiles(name), self.study) for name in self.variables}
        return Parts(parts, shares(dict.fromkeys(parts, 1)))

    def leaves(self) -> str:
        return f"With noise, for each of {len(self.variables)} variables: how many values lie in each bin of its range, and how many are missing."

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        made = self.parts.visit(state, rows, memory, rng, self.leaves())
        return self.addend(made.vector, rows.patients)

    def _iqr(self, state: State, name: str) -> float:
        low, high = self.parts[name].range
        return float(max(super()._iqr(state, name), FLOOR * (high - low) / 2.0))

    def _check(self, state: State, name: str) -> None:
        """A constant column is not refused: its scale is the floor."""
