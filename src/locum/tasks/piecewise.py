"""Piecewise-exponential regression: a hazard that is constant in each interval of follow-up, and log-linear in the columns.

Sources: Holford (1980), Biometrics 36:299; Laird and Olivier (1981), JASA 76:231; Friedman (1982), Annals of Statistics 10:101.

Patient i has the hazard e^(a_k + x_i b) in interval k, is at risk there for e_ik, and has the event in interval k(i) or not at all (d_i):

    log L = sum_i [ d_i (a_k(i) + x_i b) - m_i ],   m_i = e^(x_i b) sum_k e_ik e^(a_k).

It is the likelihood of Poisson counts d_ik with the offset log e_ik, but for the constant sum of log e_ik over the events, and
its maximum, standard errors and tests are those of that regression on one row per patient and interval. Those rows are never made: with
E_k = sum_i e_ik e^(x_i b) (1, x_i), which is the interval's width times the sum over all who outlive it, plus what the others
lived of it, gradient and information are D_k - e^(a_k) E_k0, X'(d - m); and e^(a_k) E_k0, e^(a_k) E_k1, X' diag(m) X.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from locum.tasks.base import State, register
from locum.tasks.design import linear_predictor
from locum.tasks.interval_hazards import LIMIT, IntervalHazards, Sums
from locum.tasks.intervals import Floats, Spells
from locum.tasks.tails import Z95


@register
class PiecewiseExponential(IntervalHazards):
    """Hazard ratios, and the hazard in each interval. Without a horizon the last interval has no end."""

    kind = "piecewise_exponential"
    open_ended = True
    facts: ClassVar[tuple[str, ...]] = ("events", "lived")
    counted = "the number of events and the time lived"

    def counts(self, spells: Spells) -> dict[str, Floats]:
        return {"events": spells.sums(spells.event * 1.0), "lived": exposure(spells, np.ones((len(spells.k), 1)))[:, 0]}

    def null(self, counts: dict[str, Floats]) -> Floats:
        return np.asarray(np.log(counts["events"] / counts["lived"]))

    def quadratic(self, x: Floats, spells: Spells, a: Floats, b: Floats) -> Sums:
        eta, hazard = np.clip(linear_predictor(x, b), -LIMIT, LIMIT), np.exp(np.clip(a, -LIMIT, LIMIT))
        w, d = np.exp(eta), spells.event * 1.0
        reached = np.r_[0.0, np.cumsum(hazard * spells.widths)]
        m = w * (reached[spells.k] + hazard[spells.k] * spells.within)
        lived = hazard[:, None] * exposure(spells, w[:, None] * np.column_stack([np.ones(len(w)), x]))
        value = float((d * (a[spells.k] + eta) - m).sum())
        return value, (spells.sums(d) - lived[:, 0], x.T @ (d - m)), (lived[:, 0], lived[:, 1:], x.T @ (x * m[:, None]))

    def cumulative(self, a: Floats, edges: Floats, t: Floats) -> tuple[Floats, Floats]:
        slope = np.exp(a) * np.clip(t[:, None] - edges[:-1], 0.0, np.diff(edges))
        return slope.sum(axis=1), slope

    def baseline(self, a: float, se: float, k: int, state: State) -> dict[str, Any]:
        return {
            "events": int(self.own(state, "events")[k]),
            "time_at_risk": float(self.own(state, "lived")[k]),
            "hazard": math.exp(a),
            "se": math.exp(a) * se,
            "ci95": [math.exp(a - Z95 * se), math.exp(a + Z95 * se)],
        }


def exposure(spells: Spells, values: Floats) -> Floats:
    """For each interval the sum over patients of the time lived in it times values (n, c), shape (K, c)."""
    ending = spells.sums(values)
    outlived = np.cumsum(ending[::-1], axis=0)[::-1] - ending
    return np.asarray(spells.widths[:, None] * outlived + spells.sums(values * spells.within[:, None]))
