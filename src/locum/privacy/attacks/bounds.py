"""How much privacy loss an attack's success proves: lower bounds on eps at a given delta, each wrong with probability at most 1 - confidence.

gaussian_fit   assumes that a score is normal with one variance and that membership moves its mean. The tightest of the three, and the
               only one that rests on that assumption. It measures a correct mechanism at about 90 % of its eps.
f_dp           one run, m canaries, each in with probability 1/2; g guesses of which c are right. Assumes that the mechanism is
               mu-Gaussian DP for some mu, and rejects every mu under which c or more right guesses have probability below 5 %:
                   T(i) = sum over j >= i of j p_j / m  and  H(i) = sum over j >= i of (g - j) p_j / m  satisfy
                   H(i) >= Phi(Phi^-1(T(i+1)) - mu), and T(0) + H(0) = g / m
               where p_j = P(exactly j guesses are right); so what p_c >= 5 % forces on T(0) + H(0) must not exceed g / m.
pure           one run, no assumption but (eps, delta)-DP: c is then dominated by Binomial(g, e^eps / (1 + e^eps)) up to delta.

The number of guesses is fixed before the release is seen. Sources: Balle, Wang 2018 (eps of a Gaussian); Mahloujifar, Melis, Chaudhuri 2024,
algorithm 3 (f_dp); Steinke, Nasr, Jagielski 2023, theorem 5.2 (pure).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import binom

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST = 60.0
"""Where the searches for mu and eps end: a bound of this size means "at least"."""


def gaussian_epsilon(mu: float, delta: float) -> float:
    """eps of mu-Gaussian differential privacy at delta."""

    def excess(eps: float) -> float:
        return float(ndtr(mu / 2 - eps / mu) - np.exp(eps + log_ndtr(-mu / 2 - eps / mu))) - delta

    if mu <= 0 or excess(0) <= 0:
        return 0.0
    return float(brentq(excess, 0, mu * (mu + 40)))


def gaussian_fit(scores: Floats, member: Bools, delta: float, confidence: float = 0.95) -> float:
    """The bound from all scores, (m,), of canaries of which member, (m,), were in. Infinite if the scores do not vary within a group."""
    inside, outside = scores[member], scores[~member]
    m = len(scores)
    spread = float(np.sqrt((np.sum((inside - inside.mean()) ** 2) + np.sum((outside - outside.mean()) ** 2)) / (m - 2)))
    if spread == 0:
        return float("inf")
    mu = float(inside.mean() - outside.mean()) / spread
    error = np.sqrt(1 / len(inside) + 1 / len(outside) + mu**2 / (2 * m))
    return gaussian_epsilon(mu - float(ndtri(confidence) * error), delta)


def guess(scores: Floats, member: Bools, guesses: int) -> int:
    """How many of `guesses` are right, half of them "in" for the highest scores and half "out" for the lowest."""
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int(np.count_nonzero(member[order[-half:]]) + np.count_nonzero(~member[order[:half]]))


def f_dp(m: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """eps at delta of the largest mu that `right` of `guesses` right guesses about m canaries reject."""
    return gaussian_epsilon(_largest(lambda mu: _rejects(mu, m, guesses, right, 1 - confidence)), delta)


def pure(m: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """The largest eps such that (eps, delta)-DP is rejected by `right` of `guesses` right guesses about m canaries."""
    return _largest(lambda eps: _p_value(eps, m, guesses, right, delta) < 1 - confidence)


def _rejects(mu: float, m: int, guesses: int, right: int, level: float) -> bool:
    correct, wrong = level * right / m, level * (guesses - right) / m
    for i in range(right - 1, -1, -1):
        more = max(wrong, float(ndtr(ndtri(correct) - mu)))
        correct += i / (guesses - i) * (more - wrong)
        wrong = more
        if correct + wrong > guesses / m:
            return True
    return False


def _p_value(eps: float, m: int, guesses: int, right: int, delta: float) -> float:
    q = 1 / (1 + np.exp(-eps))
    slack = 0.0
    if right:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, q)) / np.arange(1, right + 1)
        slack = max(0.0, float(below.max()))
    return float(binom.sf(right - 1, guesses, q)) + 2 * m * delta * slack


def _largest(rejected: Callable[[float], bool]) -> float:
    """The largest value in [0, MOST] that is rejected, within 1e-4; 0 if none is."""
    low, high = 0.0, MOST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
