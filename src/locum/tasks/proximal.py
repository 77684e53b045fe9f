"""The elastic-net penalty, and the minimum of a quadratic with it: what the coordinator solves in a round of `elastic_net`.

Source: Friedman, Hastie and Tibshirani (2010), Journal of Statistical Software 33(1), section 2.2 (coordinate descent with
covariance updates). After each sweep the signs are taken as settled: then the minimum solves linear equations, and b moves towards
it until a coefficient reaches zero (Lee, Battle, Raina and Ng, 2007, Efficient sparse coding algorithms, section 3). Where it
arrives, and the conditions of optimality (Karush-Kuhn-Tucker) hold, that is the exact minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SWEEPS = 5_000
FLAT = 1e-10
"""With unit diagonal, a direction in which the quadratic curves less than this is flat."""
EXACT = 1e-11
"""The conditions of optimality hold where they are met to this share of the largest entry of the linear term."""


@dataclass(frozen=True)
class Penalty:
    """sum_j l1_j |b_j| + l2_j b_j^2 / 2, with b_j = 0 where `fixed`. All of shape (p,)."""

    l1: Floats
    l2: Floats
    fixed: NDArray[np.bool_]

    def value(self, b: Floats) -> float:
        return float(self.l1 @ np.abs(b) + self.l2 @ b**2 / 2.0)

    def violation(self, gradient: Floats, b: Floats) -> float:
        """How far -gradient of the smooth part is from the subgradients of the penalty at b: 0 at the minimum."""
        slope = gradient + self.l2 * b
        off = np.where(b == 0.0, np.maximum(0.0, np.abs(slope) - self.l1), np.abs(slope + self.l1 * np.sign(b)))
        return float(off[~self.fixed].max(initial=0.0))


def minimise(matrix: Floats, linear: Floats, penalty: Penalty, start: Floats) -> Floats:
    """The b that minimises b' matrix b / 2 - linear' b + penalty, from a start that is near it. Shapes (p, p), (p,), (p,)."""
    free = np.flatnonzero(~penalty.fixed)
    h = matrix[np.ix_(free, free)] + np.diag(penalty.l2[free])
    c, l1, b = linear[free], penalty.l1[free], start[free].copy()
    out = np.zeros_like(start)
    out[free] = _descend(h, c, l1, b)
    return out


def _descend(h: Floats, c: Floats, l1: Floats, b: Floats) -> Floats:
    rest, scale = c - h @ b, np.sqrt(np.diag(h))
    for _ in range(SWEEPS):
        moved = 0.0
        for j in range(len(b)):
            rho = rest[j] + h[j, j] * b[j]
            new = np.sign(rho) * max(abs(rho) - l1[j], 0.0) / h[j, j]
            step = new - b[j]
            if step != 0.0:
                rest -= h[:, j] * step
                b[j] = new
                moved = max(moved, abs(step) * scale[j])
        face = _on_face(h, c, l1, b)
        if face is not None:
            crossing = (l1 > 0.0) & (np.sign(face) != np.sign(b))
            after = c - h @ face
            if not crossing.any() and (np.abs(after - l1 * np.sign(face)) <= np.where(face == 0.0, l1, 0.0) + EXACT * np.abs(c).max()).all():
                return face
            b = _towards(face, b, crossing)
            rest = c - h @ b
        if moved <= 1e-15 * float((np.abs(b) * scale).max()):
            return b
    return b


def _on_face(h: Floats, c: Floats, l1: Floats, b: Floats) -> Floats | None:
    """The minimum if b's zeros and signs are kept; where it has no unique value, far along a flat direction that ends at a zero, or None."""
    on, out = np.flatnonzero((b != 0.0) | (l1 == 0.0)), np.zeros_like(b)
    if not len(on):
        return out
    d = 1.0 / np.sqrt(np.diag(h)[on])
    scaled, rhs = h[np.ix_(on, on)] * np.outer(d, d), (c[on] - l1[on] * np.sign(b[on])) * d
    try:
        if np.diag(np.linalg.cholesky(scaled)).min() ** 2 > FLAT:
            out[on] = np.linalg.solve(scaled, rhs) * d
            return out
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(scaled)
    flat = vectors[:, values <= max(FLAT, values[0])]
    step = flat @ (flat.T @ rhs)
    if np.abs(step).max() <= 1e-9 * np.abs(rhs).max():  # as good in every flat direction: the one that shrinks
        step = -flat[:, 0] * (1.0 if float(l1[on] * np.sign(b[on]) @ (d * flat[:, 0])) >= 0.0 else -1.0)
    step = step * d
    shrinks = (step * b[on] < 0.0) & (l1[on] > 0.0)
    if not shrinks.any():
        return None
    out[on] = b[on] + 2.0 * float((-b[on][shrinks] / step[shrinks]).min()) * step
    return out


def _towards(face: Floats, b: Floats, crossing: NDArray[np.bool_]) -> Floats:
    """From b as far towards the face's minimum as no coefficient changes sign; the one that would is zero there."""
    share = np.where(crossing, b / np.where(crossing, b - face, 1.0), 1.0)
    first = int(share.argmin())
    moved = b + share[first] * (face - b)
    moved[first] = 0.0 if crossing[first] else moved[first]
    return np.asarray(moved)
