"""Features of signals in a private study: a row's features are a function of that row alone, so that making them costs nothing.

Precondition   as `tasks.signal`: row_wise
Pseudocode     count = the patients all of whose signals are complete;  release count + noise
Postcondition  adding or removing a patient moves the count by at most 1
"""

from __future__ import annotations

from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.private.base import PrivateTask
from locum.tasks.signal import SignalFeatures, SignalParams


@register_private
class PrivateSignalFeatures(PrivateTask[SignalParams], SignalFeatures):
    """One release, the count; give the step a small `share`, for nothing else needs it."""

    def leaves(self) -> str:
        return "With noise: of how many patients every signal is complete. The features that are made of the signals stay."

    def layout(self, state: State) -> Layout:
        return Layout.of(complete=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        return self.addend({"complete": np.asarray(float(rows.patients - len(np.unique(rows.codes[~self.complete(rows)]))))}, rows.patients)

    def combine(self, state: State, total: Total) -> State:
        return self.merge(state, complete=total["complete"], noise=total.noise)

    def result(self, state: State) -> dict[str, Any]:
        patients = {"patients": float(self.own(state, "complete")), "se": float(self.own(state, "noise"))}
        return patients | {"features": len(self.names), "names": list(self.names)}
