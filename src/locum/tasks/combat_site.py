"""One site's shift and scale by empirical Bayes: the site's side of the task `combat`. Nothing here leaves the site.

Given z (n, g), the site's standardised values, gamma_g ~ N(m, t2) and delta_g ~ inverse gamma(a, b), with m, t2, a, b from the moments of
the estimates over the variables. The posterior means solve, together,

    gamma = (n t2 mean_g + delta m) / (n t2 + delta)          delta = (b + sum_j (z_jg - gamma)^2 / 2) / (n / 2 + a - 1)

Source: Johnson, Li and Rabinovic (2007), equations 3.1 to 3.3. Their program stops at a relative change of 1e-4; this one goes on to 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE, MOST = 1e-12, 10_000


@dataclass(frozen=True)
class Effects:
    """shift: gamma, (g,). scale: delta, (g,), a variance. Both in units of the pooled residuals."""

    shift: Floats
    scale: Floats


def effects(z: Floats) -> Effects:
    """z: (n, g), n and g at least 2."""
    n = len(z)
    mean, variance = z.mean(axis=0), z.var(axis=0, ddof=1)
    variance = np.where(variance == 0.0, 1.0, variance)  # a variable that is constant here keeps its scale
    m, t2 = float(mean.mean()), float(mean.var(ddof=1))
    v, s2 = float(variance.mean()), float(variance.var(ddof=1))
    # all scales alike: the prior is a point
    prior = ((2.0 * s2 + v**2) / s2, (v * s2 + v**3) / s2) if s2 > 1e-12 * v**2 else None
    shift, scale = mean, variance
    for _ in range(MOST):
        new_shift = (n * t2 * mean + scale * m) / (n * t2 + scale)
        squares = ((z - new_shift) ** 2).sum(axis=0)
        new_scale = np.full_like(scale, v) if prior is None else (prior[1] + squares / 2.0) / (n / 2.0 + prior[0] - 1.0)
        change = max(float(np.abs(new_shift - shift).max()), float((np.abs(new_scale - scale) / scale).max()))
        shift, scale = new_shift, new_scale
        if change <= TOLERANCE:
            break
    return Effects(shift, scale)
