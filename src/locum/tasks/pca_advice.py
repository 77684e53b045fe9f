"""How sure the components of the task `pca` are: intervals, components that cannot be told apart, and how many to keep."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
MOST, DRAWS = 200, 200
"""Variables for which parallel analysis is made, and its number of simulated matrices."""


def log_interval(value: float, se: float) -> list[float] | None:
    """A 95 % interval of a positive number, symmetric in its logarithm; None where there is no scale to measure it on."""
    if value <= 0.0 or se > 10.0 * value:
        return None
    width = Z95 * se / value
    return [value * math.exp(-width), value * math.exp(width)]


def logit_interval(share: float, se: float) -> list[float] | None:
    """A 95 % interval of a share, symmetric in its logit; None where it is 0 or 1 for sure, or not known at all."""
    odds = share * (1.0 - share)
    if odds <= 1e-12 or se > 10.0 * odds:
        return None
    middle, width = math.log(share / (1.0 - share)), Z95 * se / odds
    return [1.0 / (1.0 + math.exp(-(middle - width))), 1.0 / (1.0 + math.exp(-(middle + width)))]


def overlapping(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Neighbours whose variances differ by less than the larger one's standard error (North et al., 1982, Monthly Weather Review 110:699)."""
    return [(a["name"], b["name"]) for a, b in pairwise(parts) if a["variance"] - b["variance"] < a["se"]]


def parallel_analysis(spectrum: Floats, n: int, seed: int) -> dict[str, Any] | None:
    """How many leading eigenvalues of a correlation matrix (all p given) exceed the 95 % point of those of n independent normal rows.

    The correlation matrices are drawn by Bartlett's decomposition, at a cost that does not grow with n. None for too many variables or too few rows.
    """
    p = len(spectrum)
    if p > MOST or n - 1 < p:
        return None
    rng, drawn = np.random.default_rng([seed, p, n]), np.empty((DRAWS, p))
    below = np.tril_indices(p, -1)
    for i in range(DRAWS):
        lower = np.zeros((p, p))
        lower[below] = rng.standard_normal(len(below[0]))
        lower[np.diag_indices(p)] = np.sqrt(rng.chisquare(n - 1 - np.arange(p)))
        lower /= np.linalg.norm(lower, axis=1)[:, None]
        drawn[i] = np.linalg.eigvalsh(lower @ lower.T)[::-1]
    limit = np.quantile(drawn, 0.95, axis=0)
    beyond = spectrum > limit
    return {"components": int(p if beyond.all() else np.argmin(beyond)), "eigenvalues_95": limit.tolist()}
