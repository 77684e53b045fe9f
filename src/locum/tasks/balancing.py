"""One site's rows as a comparison of two arms sees them, and the balancing weights of Li, Morgan and Zaslavsky (2018, JASA 113:390, table 1).

Parts of the task `treatment_effect`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Estimand = Literal["ate", "att", "ato"]


@dataclass(frozen=True)
class Sample:
    """The rows of one site. Where a row has no part in something, its numbers there are zero.

    x, score (n, p): the propensity model's columns and score. e, f (n,): propensity and 1 - e. y (n,): outcome. arm (n, 2): who is in which arm, of all
    complete cases; kept (n, 2): without those who are trimmed or `extreme` (n,). z (2, n, k): the outcome model's columns if treated or not.
    modelled (n, 2): on whom the outcome model is fitted, by arm.
    """

    rows: Rows
    x: Floats
    score: Floats
    e: Floats
    f: Floats
    y: Floats
    arm: Bools
    kept: Bools
    extreme: Bools
    z: Floats
    modelled: Bools

    @property
    def inside(self) -> Bools:
        """Who is kept, of either arm, shape (n,)."""
        return np.asarray(self.kept.any(axis=1))


@dataclass(frozen=True)
class Outcome:
    """What the outcome model says: mean (n, 2) under each arm, gradient (2, n, q) of it by all its coefficients, and score (n, q)."""

    mean: Floats
    gradient: Floats
    score: Floats


def balancing(estimand: Estimand, s: Sample) -> tuple[Floats, Floats]:
    """The weights (n, 2) in each arm, zero in the other, and their derivatives by the propensity's linear predictor."""
    one = np.ones_like(s.e)
    e, f = (np.where(s.inside, v, 0.5) for v in (s.e, s.f))
    w, slope = {
        "ate": ((1 / f, 1 / e), (e / f, -f / e)),
        "att": ((e / f, one), (e / f, 0 * one)),
        "ato": ((e, f), (e * f, -e * f)),
    }[estimand]
    return s.kept * np.column_stack(w), s.kept * np.column_stack(slope)


def complete(rows: Rows, names: tuple[str, ...]) -> Bools:
    """Which rows have all of these variables, shape (n,)."""
    return np.asarray(~np.isnan(rows.matrix(names)).any(axis=1))
