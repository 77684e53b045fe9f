"""The likelihood of the linear mixed model at one ratio of variances, profiled over coefficients and residual variance: see `mixed`.

With G, G', G'' partitioned into A (p, p), B (p,) and C, and h = A^-1 B the step of the coefficients,

    q = C - B h,   q' = C' - 2 B' h + h A' h,   q'' = C'' - 2 B'' h + h A'' h - 2 g A^-1 g,   g = B' - A' h
    (log|A|)' = tr(A^-1 A'),   (log|A|)'' = tr(A^-1 A'') - tr(A^-1 A' A^-1 A')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.tasks import newton

Floats = NDArray[np.float64]
LEAST = 1e-90
"""No sum of squares is counted as smaller, so that nothing overflows."""


@dataclass(frozen=True)
class Profile:
    """value: the log-likelihood. step: of the coefficients, (p,). information: X'V^-1 X, (p, p). variance: sigma^2. degrees: M.

    score, curvature: of the value in lambda, the latter with its sign changed. unit: about a standard error of lambda. joint: minus
    the second derivatives of the unprofiled likelihood by lambda and sigma^2, (2, 2).
    """

    value: float
    step: Floats
    information: Floats
    variance: float
    degrees: float
    score: float
    curvature: float
    unit: float
    joint: Floats

    def covariance(self, ratio: float) -> Floats:
        """Of the estimates of lambda and sigma^2; on the boundary lambda counts as known."""
        if ratio > 0.0 and self.joint[0, 0] > 0.0 and np.linalg.det(self.joint) > 0.0:
            return np.asarray(np.linalg.inv(self.joint))
        return np.diag([0.0, 1.0 / float(self.joint[1, 1])])


def profile(products: Sequence[Floats], logs: Floats, n: float, reml: bool) -> Profile:
    """products: G, G', G'', each (p + 1, p + 1). logs: L, L', L''. n: rows of all sites."""
    (a, a1, a2), (b, b1, b2), (c, c1, c2) = zip(*((g[:-1, :-1], g[:-1, -1], float(g[-1, -1])) for g in products), strict=True)
    h = newton.solve(a, b)
    g = b1 - a1 @ h
    q = max(c - float(b @ h), 1e-30 * c, LEAST)
    q1 = c1 - 2.0 * float(b1 @ h) + float(h @ a1 @ h)
    q2 = c2 - 2.0 * float(b2 @ h) + float(h @ a2 @ h) - 2.0 * float(g @ newton.solve(a, g))
    level, first, second = (float(v) for v in logs)
    m = n
    if reml:
        m = n - len(b)
        inner = newton.solve(a, a1)
        level += float(np.linalg.slogdet(a)[1])
        first += float(np.trace(inner))
        second += float(np.trace(newton.solve(a, a2)) - np.trace(inner @ inner))
    fisher = max(-float(logs[2]) - float(logs[1]) ** 2 / m, -1e-3 * float(logs[2])) / 2.0
    v = q / m
    return Profile(
        value=-(m * math.log(2.0 * math.pi * v) + m + level) / 2.0,
        step=h,
        information=a,
        variance=v,
        degrees=m,
        score=-(q1 / v + first) / 2.0,
        curvature=(q2 / v - m * (q1 / q) ** 2 + second) / 2.0,
        unit=1.0 / math.sqrt(fisher),
        joint=np.array([[(second + q2 / v) / 2.0, -q1 / v**2 / 2.0], [-q1 / v**2 / 2.0, m / v**2 / 2.0]]),
    )
