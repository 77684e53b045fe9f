"""Noisy counts per bin. Small noisy cells are suppressed as well, so that nobody reads a person into the noise.

Each record lies in exactly one cell: a bin, below, above or missing. A patient with one record has a vector of norm 1; with
several, the patient's counts together are scaled to norm 1. So the counts are of patients where each has one record, and less
than the records elsewhere. Noise protects whatever bins another step counts in, so no choice of bins is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.privacy.clipping import factors
from locum.privacy.disclosure import suppress
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, State, register_private
from locum.tasks.histogram import OUTSIDE, Histogram, HistogramParams
from locum.tasks.private.base import PrivateTask

Floats = NDArray[np.float64]


@register_private
class PrivateHistogram(PrivateTask[HistogramParams], Histogram):
    """The counts, each with the same noise, rounded; negative ones are 0, and those below the threshold are not shown."""

    def check_plan(self) -> None:
        """Nothing to refuse: noise, not the choice of bins, protects here."""

    def leaves(self) -> str:
        return (
            f"With noise: how many values of '{self.params.variable}' lie in each of {len(self.edges) - 1} bins, below, above, or are missing; "
            f"{self.layout({}).size} counts in all."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(counts=(len(self.edges) - 1,), **dict.fromkeys(OUTSIDE, ()))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = of_part(self, rows, self.params.part)
        counts = cell_sums(self.cells(rows.columns[self.params.variable]), rows.codes, self.layout(state).size)
        return self.addend(self.split(counts), rows.patients)

    def combine(self, state: State, total: Total) -> State:
        noisy = np.concatenate([np.ravel(total[name]) for name in ("counts", *OUTSIDE)])
        counts = np.maximum(0.0, np.asarray(noisy, float))
        bins = suppress(counts[:-3], self.params.threshold, zeros=False)
        outside = suppress(counts[-3:], self.params.threshold, total_known=False, zeros=False)
        return self.merge(state, **self.split(np.r_[bins, outside]), noise=total.noise)

    def result(self, state: State) -> dict[str, Any]:
        return super().result(state) | {"noise_sd": float(self.own(state, "noise"))}


def cell_sums(cells: NDArray[np.int64], codes: NDArray[np.int64], size: int) -> Floats:
    """How many records lie in each cell, shape (size,), each patient's counts scaled together to norm at most 1.

    cells, codes: of each record, shape (n,), the cell from 0 to size - 1 and the patient.
    """
    keys, counts = np.unique(codes * size + cells, return_counts=True)
    patient, cell = np.divmod(keys, size)
    norms = np.sqrt(np.bincount(patient, counts.astype(np.float64) ** 2))
    return np.bincount(cell, counts * factors(norms)[patient], minlength=size).astype(np.float64)


def of_part(task: BaseTask[Any], rows: Rows, part: Part) -> Rows:
    """The rows of `part`; raises `TaskError` where the site lacks a column, which says nothing about its rows."""
    for name in task.reads():
        if name not in rows.columns:
            raise TaskError(f"Step '{task.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
    return rows.part(part, task.study.data.split)
