"""Clip once per patient: all rows of a patient are summed, the sum is scaled to L2 norm at most `clip`, then patients are summed.

Precondition    each row belongs to one patient; a patient's rows depend on no other patient (no batch statistics).
Pseudocode      g[p] = sum of rows of p
                f[p] = min(1, clip (1 - 2^-20) / |g[p]|);  0 where g[p] is not finite
                total = sum over p of f[p] g[p]
Postcondition   adding or removing one patient with all rows changes `total` by at most `clip` in L2 norm, up to the rounding of the last
                sum, which `mechanism` allows for: 2^-20 absorbs the rounding of norms and products for vectors of up to 2^30
                numbers. With factors(norms) the caller's norms must be right within 2^-21 of themselves, or err upwards.
                A patient whose sum is not finite adds nothing. An error in its place would tell the coordinator about this patient.
Source          Abadi et al. 2016 (clipping); Levy et al. 2021 (user level: clip the sum of what a user holds).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locum.privacy.errors import PrivacyError

Floats = NDArray[np.float64]

_MARGIN = 1 - 2.0**-20
_BLOCK = 1 << 12
"""Patients summed at a time: the rounding error of the sum grows with a block's length and with the number of blocks, not with the patients."""


@dataclass(frozen=True)
class Clipped:
    """A clipped sum. Only `total` may leave the site, and only through a mechanism: the others are not protected."""

    total: Floats
    """(d,), the sum over patients of their clipped vectors."""
    clipped_share: float
    """The share of patients whose vector was longer than the clip, 0 if there are none."""
    not_finite: int
    """Patients who added nothing because their vector held NaN or infinity."""


def factors(norms: ArrayLike, clip: float = 1.0) -> Floats:
    """What to multiply vectors of these L2 norms with, (n,), so that none is longer than `clip`; 0 where a norm is not finite.

    For norms that are known without their vectors (ghost norms): multiply each patient's loss with its factor.
    """
    if not (isfinite(clip) and clip > 0):
        raise PrivacyError(f"The clip is {clip:g}.", fix="give a finite number above 0")
    n = np.asarray(norms, np.float64)
    return np.where(np.isfinite(n), clip * _MARGIN / np.maximum(n, clip * _MARGIN), 0.0)


def clipped_sum(vectors: ArrayLike, patient: ArrayLike, clip: float = 1.0) -> Clipped:
    """vectors: (n, d), one row a record. patient: (n,), equal for the rows of one patient, any integers or strings. Raises `PrivacyError`."""
    rows, who = np.asarray(vectors), np.asarray(patient)
    if rows.ndim != 2 or who.shape != rows.shape[:1]:
        raise PrivacyError(f"Vectors of shape {rows.shape} came with patients of shape {who.shape}.", fix="give one patient for each row")
    with np.errstate(over="ignore", invalid="ignore"):
        sums = _by_patient(rows, who)
        norms = _norms(sums)
    f = factors(norms, clip)
    bad = ~np.isfinite(norms)
    if bad.any():
        sums = np.where(bad[:, None], 0.0, sums)
    total = np.zeros(rows.shape[1])
    for start in range(0, len(sums), _BLOCK):
        total += f[start : start + _BLOCK] @ sums[start : start + _BLOCK]
    return Clipped(total, float(np.mean(norms > clip)) if len(norms) else 0.0, int(bad.sum()))


def _by_patient(rows: NDArray[np.generic], who: NDArray[np.generic]) -> Floats:
    """(patients, d): each patient's rows summed, in float64."""
    _, first, index = np.unique(who, return_index=True, return_inverse=True)
    if len(first) == len(who):
        return np.asarray(rows, np.float64)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(first)))
    return np.add.reduceat(np.asarray(rows, np.float64)[order], starts, axis=0)


def _norms(vectors: Floats) -> Floats:
    """L2 norms of rows; those that would overflow or underflow when squared are scaled first."""
    square = np.einsum("ij,ij->i", vectors, vectors)
    out: Floats = np.sqrt(square)
    (odd,) = np.nonzero(~((square > 1e-200) & (square < 1e300)))
    if odd.size and vectors.shape[1]:
        largest = np.abs(vectors[odd]).max(axis=1)
        scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
        out[odd] = np.where(np.isfinite(largest), scale * np.linalg.norm(vectors[odd] / scale[:, None], axis=1), np.inf)
    return out
