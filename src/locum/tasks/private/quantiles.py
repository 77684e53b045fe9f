"""Quantiles from one round of noisy counts in equal bins of the declared range; no extreme is ever approached.

With noisy counts c_1..c_B of standard deviation s, C_k their cumulative sums and N = C_B: g_k = C_k - p N estimates how many more
than a share p lie at or below edge k. Its noise has variance s^2 (k (1 - p)^2 + (B - k) p^2). The p quantile lies in the first bin
with g_k >= 0. Where |g_k| is within two standard deviations, the noise may have moved it: all such bins are in the error bound.
The value is read off the cumulative counts after isotonic regression (Barlow et al., 1972), which noise cannot make decrease.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import cell_sums, of_part
from locum.tasks.quantiles import Quantiles, QuantilesParams

Floats = NDArray[np.float64]
SURE = 2.0
"""Standard deviations of noise in an error bound: it holds for about 95 % of the quantiles."""


@register_private
class PrivateQuantiles(PrivateTask[QuantilesParams], Quantiles):
    """Values outside the range are counted at its ends. Whole numbers of a narrow range have a bin each."""

    def __init__(self, step: Step, params: QuantilesParams, study: Study) -> None:
        super().__init__(step, params, study)
        if params.tolerance is not None:
            raise ManifestError(
                f"Step '{step.name}': tolerance means nothing with differential privacy.",
                why="There is one round, and bins and noise decide how exact the answer is; it says so.",
                fix="leave tolerance out, and set bins",
            )
        first, last = np.ceil(self.range[0]), np.floor(self.range[1])
        self.single = bool(self.whole and 0 <= last - first < params.bins)
        self.edges: Floats = np.arange(first, last + 2.0) - 0.5 if self.single else np.linspace(*self.range, params.bins + 1)

    def check_plan(self) -> None:
        """Nothing to refuse: noise, not the choice of bins, protects here."""

    def leaves(self) -> str:
        return f"With noise: how many values of '{self.params.variable}' lie in each of {len(self.edges) - 1} bins, and how many are missing."

    def layout(self, state: State) -> Layout:
        return Layout.of(counts=(len(self.edges) - 1,), missing=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows, bins = of_part(self, rows, self.params.part), len(self.edges) - 1
        x = rows.columns[self.params.variable]
        inside = np.clip(np.searchsorted(self.edges, x) - 1, 0, bins - 1)
        counts = cell_sums(np.where(np.isfinite(x), inside, bins).astype(np.int64), rows.codes, bins + 1)
        return self.addend({"counts": counts[:-1], "missing": np.asarray(counts[-1])}, rows.patients)

    def combine(self, state: State, total: Total) -> State:
        counts = np.asarray(total["counts"], float)
        found = np.array([locate(counts, total.noise, p) for p in self.params.probabilities])
        n, missing = max(0.0, float(counts.sum())), max(0.0, float(total["missing"]))
        return self.merge(state, at=found[:, 0], low=found[:, 1], high=found[:, 2], rows=n, missing=missing, noise=total.noise)

    def done(self, state: State) -> bool:
        return self.key("at") in state

    def result(self, state: State) -> dict[str, Any]:
        where = zip(self.params.probabilities, *(self.own(state, k).tolist() for k in ("at", "low", "high")), strict=True)
        noise, bins = float(self.own(state, "noise")), len(self.edges) - 1
        return {
            "variable": self.params.variable,
            "n": round(float(self.own(state, "rows"))),
            "missing": round(float(self.own(state, "missing"))),
            "quantiles": [self._at(p, at, int(low), int(high)) for p, at, low, high in where],
            "bins": bins,
            "noise_sd": {"n": noise * float(np.sqrt(bins)), "missing": noise},
            "converged": True,
        }

    def _at(self, p: float, at: float, low: int, high: int) -> dict[str, float]:
        """The value at a fractional edge, and its greatest distance to the ends of bins low..high - 1."""
        if self.single:  # the bin's whole number; edges are halfway between them
            value, first, last = float(self.edges[max(int(np.ceil(at)) - 1, low)]), float(self.edges[low]), float(self.edges[high - 1])
            return {"probability": p, "value": value + 0.5, "error_bound": max(value - first, last - value)}
        value = float(np.interp(at, np.arange(len(self.edges)), self.edges))
        return {"probability": p, "value": value, "error_bound": max(value - float(self.edges[low]), float(self.edges[high]) - value)}


def locate(counts: Floats, noise: float, p: float) -> tuple[float, int, int]:
    """Where the p quantile is, as a fractional edge from 0 to B, and the edges between which it lies all but surely.

    counts: (B,) noisy, whose standard deviation is `noise`.
    """
    bins, n = len(counts), float(counts.sum())
    k = np.arange(1.0, bins + 1.0)
    over = np.cumsum(counts) - p * n
    slack = SURE * noise * np.sqrt(k * (1.0 - p) ** 2 + (bins - k) * p**2) + 1e-9
    if n < 1.0:
        return bins / 2.0, 0, bins
    low = int(np.argmax(over >= -slack))
    below = np.flatnonzero(over < (slack if noise else -slack))
    high = max(low + 1, min(bins, int(below[-1]) + 2) if len(below) else 1)
    return float(np.clip(_crossing(np.r_[-p * n, over]), low, high)), low, high


def _crossing(over: Floats) -> float:
    """The fractional edge at which the regression of g, shape (B + 1,), reaches 0."""
    smooth = isotonic(np.maximum(over, over[0]))
    reached = smooth >= -1e-9
    first = max(1, int(np.argmax(reached)) if reached.any() else len(over) - 1)
    step = smooth[first] - smooth[first - 1]
    return first - 1 + (float(np.clip(-smooth[first - 1] / step, 0.0, 1.0)) if step > 0 else 0.5)


def isotonic(y: Floats) -> Floats:
    """The non-decreasing sequence nearest to y in least squares, by pooling adjacent violators."""
    means: list[float] = []
    sizes: list[int] = []
    for value in y.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.repeat(means, sizes)
