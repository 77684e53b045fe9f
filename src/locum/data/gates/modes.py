"""The most frequent value of a stream, with a bound on the error.

Mergeable summary of Misra and Gries (Agarwal et al. 2012, PODS:23): the counts of K values are kept; when there are more, the (K + 1)th
largest count is subtracted from all. Each kept count is at most n / (K + 1) below the true one, and never above it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEPT = 4096


class Modes:
    """At most `KEPT` values and lower bounds of their counts; exact as long as there are no more different values."""

    def __init__(self) -> None:
        self._values = np.empty(0)
        self._counts = np.empty(0, dtype=np.int64)

    def add(self, x: NDArray[np.float64]) -> None:
        values, counts = np.unique(x, return_counts=True)
        both, where = np.unique(np.concatenate([self._values, values]), return_inverse=True)
        total = np.bincount(where, weights=np.concatenate([self._counts, counts])).astype(np.int64)
        if len(both) > KEPT:
            total -= np.partition(total, -KEPT - 1)[-KEPT - 1]
            both, total = both[total > 0], total[total > 0]
        self._values, self._counts = both, total

    def most(self) -> int:
        """A lower bound of how often the most frequent value occurs."""
        return int(self._counts.max(initial=0))
