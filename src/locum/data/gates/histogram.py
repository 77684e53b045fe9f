"""Histograms of a stream of numbers whose bins do not depend on the order or the chunks in which the numbers come.

`Histogram` has edges that the contract declares, so that sites and the federation count in the same bins. `FineBins` needs no range: its
bins are 128 to each power of two, after HdrHistogram and, in the guarantee, DDSketch (Masson, Rim and Lee 2019, VLDB 12:2195): any quantile is
found within 0.4 % of its value, in memory that does not grow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.study.manifest import Variable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 40
"""Bins over the range that a contract declares for a number."""
FEW = 1 << 16
_BITS = 7
_LEAST, _MOST = -40, 56
"""Powers of two between which numbers are told apart: 1e-12 to 7e16. Smaller ones count as zero, larger ones as the largest."""
_TOP = (_MOST - _LEAST) << _BITS
_BASE = ((1023 + _LEAST) << _BITS) - 1


@dataclass(frozen=True)
class Histogram:
    """Counts of values in [a, b) between neighbouring edges, the last bin [a, b], and outside. A category is its index, in bins of width 1."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts) + self.below + self.above

    def trimmed(self) -> Histogram:
        """Without the empty bins at either end."""
        full = [i for i, c in enumerate(self.counts) if c]
        if not full:
            return self
        first, last = full[0], full[-1] + 1
        return Histogram(self.edges[first : last + 1], self.counts[first:last], self.below, self.above)


def edges_of(variable: Variable, bins: int = BINS) -> Floats | None:
    """The public edges that the contract implies, (k + 1,): one bin a category, one a whole number where they are few, else equal bins over
    the hard range, or over the plausible one and half its width on either side. None where the contract says nothing."""
    if variable.type in ("boolean", "category"):
        return np.arange((2 if variable.type == "boolean" else len(variable.categories)) + 1, dtype=np.float64) - 0.5
    if variable.type in ("text", "array"):
        return None
    low, high = variable.minimum, variable.maximum
    if low is None or high is None:
        if variable.plausible is None:
            return None
        half = (variable.plausible[1] - variable.plausible[0]) / 2
        low = variable.plausible[0] - half if low is None else low
        high = variable.plausible[1] + half if high is None else high
    if not low < high:
        return None
    if variable.type == "integer" and high - low <= 2 * bins:
        return np.arange(np.floor(low), np.ceil(high) + 2, dtype=np.float64) - 0.5
    return np.linspace(low, high, bins + 1)


class BinCounter:
    """Counts in fixed edges, filled a chunk at a time."""

    def __init__(self, edges: Floats) -> None:
        self.edges, self.counts = edges, np.zeros(len(edges) + 1, dtype=np.int64)
        self._width = (edges[-1] - edges[0]) / (len(edges) - 1)
        self._equal = bool(np.allclose(np.diff(edges), self._width, rtol=1e-9))

    def add(self, x: Floats) -> None:
        """x: finite, (n,)."""
        e, last = self.edges, len(self.edges) - 1
        if self._equal:  # a guess that is off by one at most, then put right against the edges themselves
            with np.errstate(over="ignore"):
                guess = (x - e[0]) * (1.0 / self._width)
            where = np.clip(guess, 0, last - 1).astype(np.int64)
            where += (x >= e[where + 1]).astype(np.int64) - (x < e[where])
            where += 1
            where[x == e[-1]] = last
        else:
            where = np.searchsorted(e, x, side="right")
            where[x == e[-1]] = last
        self.counts += np.bincount(where, minlength=last + 2)

    def result(self) -> Histogram:
        below, *counts, above = self.counts.tolist()
        return Histogram(tuple(self.edges.tolist()), tuple(counts), below, above)


class FineBins:
    """Quantiles and an adaptive histogram of numbers of unknown range. Up to `FEW` numbers are kept as they are, and their quantiles exact."""

    def __init__(self) -> None:
        self._few: list[Floats] | None = []
        self._n = 0
        self._positive: Ints | None = None
        self._negative: Ints | None = None

    def add(self, x: Floats) -> None:
        """x: finite, (n,)."""
        self._n += len(x)
        if self._few is None:
            self._count(x)
            return
        self._few.append(x.copy())
        if self._n > FEW:
            self._count(np.concatenate(self._few))
            self._few = None

    def _count(self, x: Floats) -> None:
        """The bin is the exponent and the first bits of the fraction of the IEEE 754 number."""
        if self._positive is None:
            self._positive = np.zeros(_TOP + 1, dtype=np.int64)
        bits = x.view(np.int64)
        where = bits & np.int64((1 << 63) - 1)
        where >>= 52 - _BITS
        where -= _BASE
        np.clip(where, 0, _TOP, out=where)
        if len(x) and x.min() < 0:
            minus = bits < 0
            if self._negative is None:
                self._negative = np.zeros(_TOP + 1, dtype=np.int64)
            self._negative += np.bincount(where[minus], minlength=_TOP + 1)
            where = where[~minus]
        self._positive += np.bincount(where, minlength=_TOP + 1)

    def quantiles(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """The value of each quantile, or of the bin that holds it; empty where nothing was counted."""
        if self._few:
            return tuple(np.quantile(np.concatenate(self._few), shares, method="inverted_cdf").tolist())
        edges, counts = self._joined()
        reached = np.cumsum(counts)
        if not len(counts) or not reached[-1]:
            return ()
        at = np.searchsorted(reached, np.ceil(np.asarray(shares) * reached[-1]).clip(1), side="left")
        middle = (edges[at] + edges[at + 1]) / 2
        return tuple(np.where(np.abs(middle) < 2.0**_LEAST, 0.0, middle).tolist())

    def histogram(self, bins: int = BINS // 2) -> Histogram | None:
        """Equal bins between the 0.5 % and the 99.5 % quantile, the counts of many numbers interpolated; None where nothing was counted."""
        ends = self.quantiles((0.005, 0.995))
        if not ends:
            return None
        low, high = ends
        if low == high:
            low, high = low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5
        edges = np.linspace(low, high, bins + 1)
        if self._few:
            x = np.sort(np.concatenate(self._few))
            at = np.concatenate([np.searchsorted(x, edges[:-1], side="left"), np.searchsorted(x, edges[-1:], side="right")])
            return Histogram(tuple(edges.tolist()), tuple(np.diff(at).tolist()), int(at[0]), int(len(x) - at[-1]))
        fine, counts = self._joined()
        reached = np.concatenate([[0.0], np.cumsum(counts)])
        at = np.rint(np.interp(edges, fine, reached)).astype(np.int64)
        return Histogram(tuple(edges.tolist()), tuple(np.diff(at).tolist()), int(at[0]), int(reached[-1] - at[-1]))

    def _joined(self) -> tuple[Floats, Ints]:
        """Edges in ascending order and the counts between them, without the empty bins at either end."""
        steps = np.arange(_TOP + 1)
        edges = np.ldexp(1.0 + (steps % (1 << _BITS)) / (1 << _BITS), _LEAST + (steps >> _BITS))
        upper = np.concatenate([[0.0], edges])
        positive = self._positive if self._positive is not None else np.zeros(_TOP + 1, dtype=np.int64)
        counts, whole = positive, upper
        if self._negative is not None:
            counts = np.concatenate([self._negative[::-1], positive])
            whole = np.concatenate([-upper[:0:-1], upper])
        full = np.flatnonzero(counts)
        if not len(full):
            return np.empty(0), np.empty(0, dtype=np.int64)
        return whole[full[0] : full[-1] + 2], counts[full[0] : full[-1] + 1]
