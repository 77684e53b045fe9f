"""Tail probabilities of the normal, chi-square and Student t distributions, without a numerical library.

Sources: Abramowitz and Stegun (1964), 26.4.4-26.4.5 (chi-square with integer degrees of freedom) and 26.5.8 (the
continued fraction of the incomplete beta function), evaluated by Lentz's method.
"""

from __future__ import annotations

import math
from functools import lru_cache

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


def normal_two_sided(z: float) -> float:
    """P(|Z| >= |z|)."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def chi_square_upper(x: float, df: int) -> float:
    """P(X >= x) for a chi-square variable with `df` >= 1 degrees of freedom."""
    if x <= 0:
        return 1.0
    half, odd = x / 2.0, df % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    powers = [k + (0.5 if odd else 0.0) for k in range(df // 2)]
    return min(1.0, tail + math.fsum(math.exp(k * math.log(half) - half - math.lgamma(k + 1.0)) for k in powers))


def student_two_sided(t: float, df: float) -> float:
    """P(|T| >= |t|) for Student's t with `df` > 0 degrees of freedom."""
    return _incomplete_beta(df / 2.0, 0.5, df / (df + t * t), t * t / (df + t * t))


@lru_cache(maxsize=1024)
def student_95(df: float) -> float:
    """The 97.5 % point of Student's t, by bisection to full precision."""
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_two_sided(middle, df) > 0.05 else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b); `rest` is 1 - x, given apart because it may be tiny."""
    if x <= 0.0 or rest <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast only below the mean
        return 1.0 - _incomplete_beta(b, a, rest, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)) / a
    return front * _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0), tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 / _away(1.0 + term * d, tiny)
            c = _away(1.0 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return value


def _away(x: float, tiny: float) -> float:
    return x if abs(x) > tiny else tiny
