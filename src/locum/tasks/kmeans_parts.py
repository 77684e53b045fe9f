"""The arithmetic of the task `kmeans`: first centres from public points and sums, and what a site computes of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def spread(n: int, p: int, seed: int) -> Floats:
    """n points that fill the unit cube evenly, (n, p): multiples of the square roots of primes, modulo 1 (Richtmyer, 1951), shifted by the seed
    (Cranley and Patterson, 1976, SIAM Journal on Numerical Analysis 13:904)."""
    primes = islice((i for i in count(2) if all(i % d for d in range(2, int(i**0.5) + 1))), p)
    shift = np.random.default_rng([seed, n, p]).random(p)
    return np.asarray((np.arange(1, n + 1)[:, None] * np.sqrt(np.array(list(primes), float)) + shift) % 1.0)


def ellipsoid(points: Floats, n: float, total: Floats, products: Floats) -> Floats:
    """Points of the unit cube as points of the normal distribution with the mean and covariance of n rows z, from sum z and sum z z'."""
    mean = total / n
    values, vectors = np.linalg.eigh(products / n - np.outer(mean, mean))
    normal = np.vectorize(NormalDist().inv_cdf, otypes=[float])(np.clip(points, 1e-9, 1.0 - 1e-9))
    return np.asarray(mean + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def plus_plus(averages: Floats, weights: Floats, others: Floats, k: int, seed: Sequence[int]) -> Floats:
    """k of the averages (m, p), each drawn with probability proportional to its weight times its squared distance from those before; where
    there are fewer than k, the first of the others (public points) are added."""
    rng, chosen = np.random.default_rng(seed), list[int]()
    while len(chosen) < min(k, len(averages)):
        gaps = np.min([((averages - averages[i]) ** 2).sum(axis=1) for i in chosen], axis=0) if chosen else np.ones(len(averages))
        mass = weights * gaps
        mass[chosen] = 0.0
        if not mass.sum() > 0.0:
            mass = weights * ~np.isin(np.arange(len(averages)), chosen)
        chosen.append(int(np.searchsorted(np.cumsum(mass) / mass.sum(), rng.random(), side="right").clip(0, len(averages) - 1)))
    return np.vstack([averages[chosen], others[: k - len(chosen)]])


def split(centres: Floats, within: Floats, size: Floats, few: Bools) -> Floats:
    """The centres (k, p), where each of too few patients moves next to the widest other one, which steps aside: both by about half a standard
    deviation of its widest feature, a power of two, so that no sum can be read off it. within: sums of squares (k, p)."""
    out, left = centres.copy(), np.where(few, -1.0, within.sum(axis=1))
    for i in np.flatnonzero(few):
        j = int(left.argmax())
        if left[j] <= 0.0:
            break
        feature = int(within[j].argmax())
        step = 2.0 ** (np.round(np.log2(within[j, feature] / size[j]) / 2.0) - 1.0)
        out[i] = out[j]
        out[i, feature] -= step
        out[j, feature] += step
        left[j] = -1.0
    return out


def distances_to(z: Floats, centres: Floats) -> Floats:
    """Squared, (n, k), row by row: a tie is decided alike wherever the row stands."""
    return np.column_stack([np.ascontiguousarray((z - c) ** 2).sum(axis=1) for c in centres])


def silhouettes(squared: Floats) -> Floats:
    """The simplified silhouette of each row, (n,)."""
    nearest = np.sqrt(np.partition(squared, 1, axis=1)[:, :2])
    return np.where(nearest[:, 1] > 0.0, 1.0 - nearest[:, 0] / np.where(nearest[:, 1] > 0.0, nearest[:, 1], 1.0), 0.0)


def sums_by(label: Ints, values: Floats, k: int) -> Floats:
    """Sums of the rows (n, p) by label, (k, p)."""
    out = np.zeros((k, values.shape[1]))
    for i in range(k):
        out[i] = values[label == i].sum(axis=0)
    return out


def movers(codes: Ints, before: Ints, label: Ints, k: int) -> Floats:
    """How many patients have a row that entered or left each cluster, (k,)."""
    moved = before != label
    pairs = np.vstack([np.column_stack([codes[moved], at[moved]]) for at in (before, label)])
    return np.bincount(np.unique(pairs, axis=0)[:, 1], minlength=k).astype(np.float64)
