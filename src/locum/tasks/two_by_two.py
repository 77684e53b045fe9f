"""A site's two-by-two table of treatment and outcome: its own effect, and the sums that pool tables without a continuity correction.

Of n patients, a had the event and b had not among the n1 treated, c and d among the n0 controls.

    log odds ratio   log(ad / bc)                variance 1/a + 1/b + 1/c + 1/d
    log risk ratio   log(a n0 / (c n1))          variance 1/a - 1/n1 + 1/c - 1/n0
    risk difference  a/n1 - c/n0                 variance ab/n1^3 + cd/n0^3

Mantel-Haenszel odds ratio, sum(ad/n) / sum(bc/n), with the variance of Robins, Breslow and Greenland (1986), Biometrics 42:311; risk ratio,
sum(a n0/n) / sum(c n1/n), and risk difference, sum((a n0 - c n1)/n) / sum(n1 n0/n), with those of Greenland and Robins (1985), Biometrics
41:55. Peto's odds ratio, Yusuf et al. (1985), Prog Cardiovasc Dis 27:335: sum(a - E) / sum V, hypergeometric.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from locum.tasks.effects import NONE, Effect

Floats = NDArray[np.float64]
MEASURES = ("risk_difference", "log_odds_ratio", "log_risk_ratio")
SIZE = 8


def cells(treated: Floats, y: Floats) -> Floats:
    """a, b, c, d."""
    a, c = float(y[treated == 1].sum()), float(y[treated == 0].sum())
    return np.array([a, float((treated == 1).sum()) - a, c, float((treated == 0).sum()) - c])


def effect(table: Floats, measure: str, continuity: float) -> Effect:
    """The site's own effect. With outcomes all alike a ratio is unknown, and no correction makes it known."""
    a, b, c, d = table
    if not (a + b and c + d) or (measure != "risk_difference" and not (a + c and b + d)):
        return NONE
    corrected = not table.all()
    if corrected and not continuity:
        return NONE
    a, b, c, d = (float(v) for v in table + (continuity if corrected else 0.0))
    n1, n0 = a + b, c + d
    if measure == "log_odds_ratio":
        return Effect(math.log(a * d / (b * c)), 1 / a + 1 / b + 1 / c + 1 / d, corrected)
    if measure == "log_risk_ratio":
        return Effect(math.log(a * n0 / (c * n1)), 1 / a - 1 / n1 + 1 / c - 1 / n0, corrected)
    return Effect(a / n1 - c / n0, a * b / n1**3 + c * d / n0**3, corrected)


def sums(table: Floats, measure: str) -> Floats:
    """The site's addends: five of Mantel-Haenszel, two of Peto, and whether the table is known; shape (SIZE,)."""
    a, b, c, d = (float(v) for v in table)
    n1, n0, n = a + b, c + d, a + b + c + d
    if not (n1 and n0):
        return np.zeros(SIZE)
    if measure == "log_odds_ratio":
        r, s, p, q = a * d / n, b * c / n, (a + d) / n, (b + c) / n
        pooling = (r, s, p * r, p * s + q * r, q * s)
    elif measure == "log_risk_ratio":
        pooling = (a * n0 / n, c * n1 / n, (n1 * n0 * (a + c) - a * c * n) / n**2, 0.0, 0.0)
    else:
        pooling = ((a * n0 - c * n1) / n, n1 * n0 / n, (a * b * n0**3 + c * d * n1**3) / (n1 * n0 * n**2), 0.0, 0.0)
    expected, spread = n1 * (a + c) / n, n1 * n0 * (a + c) * (b + d) / (n**2 * (n - 1.0))
    return np.array([*pooling, a - expected, spread, 1.0])


def pooled(total: Floats, measure: str) -> dict[str, tuple[float, float] | None]:
    """Estimate and standard error by method, from the summed addends; None where the events of all sites are in one arm."""
    r, s, first, second, third, excess, spread, _ = (float(v) for v in total)
    if measure == "risk_difference":
        return {"mantel_haenszel": (r / s, math.sqrt(first) / s) if first > 0.0 else None}
    known = r > 0.0 and s > 0.0
    if measure == "log_risk_ratio":
        return {"mantel_haenszel": (math.log(r / s), math.sqrt(first / (r * s))) if known and first > 0.0 else None}
    variance = first / (2 * r**2) + second / (2 * r * s) + third / (2 * s**2) if known else 0.0
    return {
        "mantel_haenszel": (math.log(r / s), math.sqrt(variance)) if known else None,
        "peto": (excess / spread, math.sqrt(1 / spread)) if spread > 0.0 else None,
    }
