"""Concordant pairs: exactly where the rows are, and from tables of binned scores with a rigorous bound.

Pairs are Harrell's (Harrell, Lee and Mark, 1996, Statistics in Medicine 15:361), with the tie rules of lifelines: i is
comparable with j if i had the event, and j was followed longer, or equally long without the event; two events at the same
time are not comparable; equal scores count one half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def harrell(time: Floats, happened: NDArray[np.bool_], score: Floats) -> tuple[float, float]:
    """Concordant (with half of the ties) and comparable pairs; a higher score means an earlier event."""
    concordant = comparable = 0.0
    for t in np.unique(time[happened]):
        early = score[happened & (time == t)]
        later = np.sort(score[(time > t) | ((time == t) & ~happened)])
        concordant += _below(early, later)
        comparable += float(len(early) * len(later))
    return concordant, comparable


def harrell_table(events: Floats, censored: Floats) -> tuple[float, float, float]:
    """Concordant, comparable and same-bin pairs from (K, B) counts by event time and score bin, bins in increasing order.

    events[k] had the event at the k-th time; censored[k] were followed to it but not to the next. Pairs in one bin
    count half, so the true concordant count differs by at most half of the same-bin pairs.
    """
    leaving = events + censored
    after = np.cumsum(leaving[::-1], axis=0)[::-1] - leaving
    later = after + censored
    lower = np.cumsum(later, axis=1) - later
    same = float((events * later).sum())
    return float((events * lower).sum()) + same / 2.0, float((events.sum(axis=1) * later.sum(axis=1)).sum()), same


def pairs(positive: Floats, negative: Floats) -> float:
    """Number of (positive, negative) pairs in which the positive scores higher, ties one half: AUC = pairs / (P N)."""
    return _below(positive, np.sort(negative))


def auc_table(positive: Floats, negative: Floats) -> tuple[float, float, float | None]:
    """AUC, a rigorous bound on its error from binning, and DeLong's standard error, from counts per score bin (B,).

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837, with each score replaced by its bin. The standard
    error is None with fewer than two of either class.
    """
    p, n = positive.sum(), negative.sum()
    over_negatives = (np.cumsum(negative) - negative / 2.0) / n
    over_positives = (p - np.cumsum(positive) + positive / 2.0) / p
    auc = float(positive @ over_negatives / p)
    bound = float(positive @ negative / (2.0 * p * n))
    if p < 2 or n < 2:
        return auc, bound, None
    v10 = positive @ (over_negatives - auc) ** 2 / (p - 1.0)
    v01 = negative @ (over_positives - auc) ** 2 / (n - 1.0)
    return auc, bound, float(np.sqrt(v10 / p + v01 / n))


def _below(scores: Floats, ordered: Floats) -> float:
    left, right = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    return float(left.sum() + right.sum()) / 2.0
