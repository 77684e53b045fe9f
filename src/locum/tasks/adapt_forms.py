"""What a site makes of a federated model with its own training patients: every form is a vector of coefficients that stays there.

At prior b and precisions v, the penalised maximum is argmax_c loglik(c) - sum_j v_j (c_j - b_j)^2 / 2: the posterior mode under independent
normal priors, on the scale on which the federated model was fitted. v = 0 is maximum likelihood, and b = 0 with v = ridge a ridge fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Likelihood = Callable[[Floats, Floats], tuple[float, Floats, Floats]]
"""(y, eta) -> log-likelihood, residual y - mu (n,), weight dmu/deta (n,)."""

FORMS = ("federated", "intercept", "recalibrated", "shrunk", "local", "majority")
STEPS = 30
"""Newton steps before a maximum counts as not existing: along a separating direction each one only adds about 1 to a linear predictor."""


def penalised(likelihood: Likelihood, x: Floats, y: Floats, prior: Floats, precision: Floats, *, offset: Floats | float = 0.0) -> Floats | None:
    """The penalised maximum of x (n, p), y (n,) from `prior` (p,), by Newton with step-halving; None where there is none."""
    b = prior.copy()

    def at(c: Floats) -> tuple[float, Floats, Floats]:
        value, residual, w = likelihood(y, x @ c + offset)
        return value - float(precision @ (c - prior) ** 2) / 2.0, residual, w

    value, residual, w = at(b)
    for _ in range(STEPS):
        gradient = x.T @ residual - precision * (b - prior)
        try:
            step = np.linalg.solve(x.T @ (x * w[:, None]) + np.diag(precision), gradient)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(step).all():
            return None
        rise = float(gradient @ step)
        if rise <= 1e-16 * (1.0 + abs(value)):
            return b
        factor, following = 1.0, at(b + step)
        while following[0] < value - 1e-12 * (1.0 + abs(value)) and factor > 1e-9:
            factor /= 2.0
            following = at(b + factor * step)
        b, (value, residual, w) = b + factor * step, following
    return None


def own_intercept(likelihood: Likelihood, y: Floats, eta: Floats) -> float | None:
    """What to add to eta (n,) so that observed equals expected; None where no finite number does."""
    one = np.ones((len(y), 1))
    start = np.zeros(1)
    found = penalised(likelihood, one, y, start, start, offset=eta) if len(y) and y.min() < y.max() else None
    return None if found is None else float(found[0])


def own_line(likelihood: Likelihood, y: Floats, eta: Floats) -> tuple[float, float] | None:
    """Intercept and slope of the recalibration of eta (n,), Cox (1958); None where there is no finite one."""
    if len(y) < 3 or y.min() == y.max() or eta.min() == eta.max():
        return None
    found = penalised(likelihood, np.column_stack([np.ones(len(y)), eta]), y, np.asarray([0.0, 1.0]), np.zeros(2))
    return None if found is None else (float(found[0]), float(found[1]))


def smoothed_log_odds(y: Floats) -> float:
    """The log odds of a 0/1 outcome with half a patient of either kind added: finite, and 0 without patients."""
    return math.log((float(y.sum()) + 0.5) / (len(y) - float(y.sum()) + 0.5))


def precisions(p: int, slopes: float, intercept: float) -> Floats:
    """One precision per coefficient (p,), the intercept's first."""
    return np.asarray(np.r_[intercept, np.full(p - 1, slopes)], dtype=np.float64)


def only_intercept(p: int, value: float) -> Floats:
    """Coefficients (p,) that predict the same for everybody."""
    out = np.zeros(p)
    out[0] = value
    return out
