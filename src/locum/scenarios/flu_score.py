"""Scores of forecasts that are given as quantiles: the weighted interval score, and how often intervals held the truth.

    WIS = 1 / (K + 1/2) (|y - m| / 2 + sum_k alpha_k / 2 IS_k),  IS = (u - l) + 2 / alpha (l - y)+ + 2 / alpha (y - u)+
which for K central intervals and the median m is twice the mean pinball loss of the 2K + 1 quantiles:
    WIS = 2 / (2K + 1) sum_tau (1(y <= q_tau) - tau) (q_tau - y)
Source: Bracher et al. (2021), PLoS Computational Biology 17:e1008618, equations 1 and 2 and section 2.2. On log(1 + count): Bosse et al. (2023), PLoS
Computational Biology 19:e1011393.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def weighted_interval_score(quantiles: Floats, levels: Sequence[float], truth: Floats) -> Floats:
    """quantiles (..., levels), truth (...) in the same unit -> scores (...), smaller is better; NaN where the truth is unknown."""
    tau, y = np.asarray(levels, float), np.asarray(truth, float)[..., None]
    return np.asarray(2.0 * (((y <= quantiles) - tau) * (quantiles - y)).mean(axis=-1))


def inside(quantiles: Floats, levels: Sequence[float], truth: Floats, cover: float) -> Floats:
    """1 where the central interval of nominal coverage `cover` holds the truth, else 0; NaN where the truth is unknown."""
    tau = np.asarray(levels)
    low, high = (int(np.abs(tau - level).argmin()) for level in ((1 - cover) / 2, (1 + cover) / 2))
    held = (quantiles[..., low] <= truth) & (truth <= quantiles[..., high])
    return np.where(np.isnan(truth), np.nan, held)


def ratio(scores: Floats, baseline: Floats) -> float:
    """The mean score over the mean of the baseline's, over the same forecasts (those with a known truth)."""
    known = np.isfinite(scores) & np.isfinite(baseline)
    return float(scores[known].sum() / baseline[known].sum())


def block_interval(statistic: Callable[[NDArray[np.int64]], float], n: int, *, block: int = 4, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of the dates 0 ... n - 1, by the moving block bootstrap (Kuensch, 1989, Annals of Statistics 17:1217):
    scores of neighbouring dates are alike, so dates are drawn in runs of `block`."""
    rng = np.random.default_rng(seed)
    block = min(block, n)
    starts = rng.integers(0, n - block + 1, (draws, -(-n // block)))
    picks = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :n]
    low, high = np.quantile([statistic(p) for p in picks], [0.025, 0.975])
    return float(low), float(high)
