"""One variance, at least zero, where a decreasing score meets zero: Newton's method over rounds, kept inside a bracket.

The coordinator knows the score and its slope at one point from the sites' sums, and says where to evaluate next. Where the score
at zero is not positive the answer is zero, on the boundary; a step below zero goes there to look. Of the steps by Newton in the
variance's logarithm, by Newton in the variance, and upwards by Fisher, the first that stays in the bracket is taken; else the share
x / (x + unit) is halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from numpy.typing import NDArray

LARGEST = 1e12
"""A ratio of variances that runs beyond it has no end."""


@dataclass(frozen=True)
class Search:
    """at: where the sites evaluate next. low, high: the score is positive at low, negative at high (-1: none is known yet)."""

    at: float
    low: float = -1.0
    high: float = -1.0
    converged: int = 0

    def arrays(self, prefix: str) -> dict[str, Any]:
        return {f"{prefix}_{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, get: Callable[[str], NDArray[Any]], prefix: str) -> Self:
        """Read back what `arrays` wrote."""
        at, low, high, converged = (float(get(f"{prefix}_{f.name}")) for f in fields(cls))
        return cls(at, low, high, int(converged))

    @property
    def endless(self) -> bool:
        """Whether no end was found: the ratio of variances grows without limit."""
        return self.low >= LARGEST

    def advance(self, score: float, slope: float, unit: float, tolerance: float) -> Self:
        """One round. score: at `at`. slope: minus its derivative. unit: a standard error of the variance, > 0."""
        if self.converged or (self.at == 0.0 and score <= 0.0):
            return replace(self, converged=1)
        low, high = (self.at, self.high) if score > 0.0 else (self.low, self.at)
        for step, newton in self._steps(score, slope, unit):
            following = self.at + step
            if newton and abs(step) <= tolerance * (self.at + unit):
                return replace(self, converged=1)
            if low < 0.0 and following <= 0.0:
                return replace(self, at=0.0, low=low, high=high)
            if low < following and (following < high or (high < 0.0 and following < 10.0 * (self.at + unit))):
                return replace(self, at=following, low=low, high=high)
        if high >= 0.0 and high - low <= tolerance * unit:
            return replace(self, converged=1)
        bottom, top = max(low, 0.0), 1.0 if high < 0.0 else high / (high + unit)
        share = (bottom / (bottom + unit) + top) / 2.0
        return replace(self, at=unit * share / (1.0 - share), low=low, high=high)

    def _steps(self, score: float, slope: float, unit: float) -> Iterator[tuple[float, bool]]:
        """Steps in the order in which they are tried, and whether they are Newton's, which are short only near the end."""
        x, fisher = self.at, score * unit**2
        curvature = slope * x**2 - score * x  # in log x
        if x == 0.0:
            yield fisher, False
        elif curvature > 0.0 and (score > 0.0 or self.low >= 0.0):
            yield x * math.expm1(min(score * x / curvature, 2.0)), True
        if slope > 0.0:
            yield score / slope, True
        if self.high < 0.0 and score > 0.0:
            yield fisher, False
        elif self.low < 0.0 and score <= 0.0:
            yield -x, False
