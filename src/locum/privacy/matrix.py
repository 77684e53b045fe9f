"""Correlated noise for fixed-order training: the banded square root factorisation (BSR) of the prefix-sum matrix.

Sums of the first t gradients are what training uses: A = lower triangle of ones = B C, with C = A^(1/2) cut to a band. The mechanism
releases C x + Z with independent noise Z; whoever knows C restores x + C^-1 Z, whose prefix sums carry less noise than those of x + Z.

Precondition    a patient takes part in at most k rounds, at least b ("separation") rounds apart; each time the clipped sum changes by at
                most 1. The accountant counts the whole run as one Gaussian release of `sensitivity` at the mechanism's multiplier.
Pseudocode      c[0] = 1,  c[j] = c[j-1] (2j - 1) / (2j),  j < band
                site, round t          correlate:  y[t] = sum over j of c[j] x[t-j];   then mechanism.protect(y[t])
                coordinator, round t   restore:    x'[t] = y'[t] - sum over j >= 1 of c[j] x'[t-j]       (on the sum over the sites)
Postcondition   restore undoes correlate; x' = x + C^-1 Z.
                sensitivity = | sum over i < k of column 1 + i b of C |, attained (columns of a Toeplitz matrix with falling,
                non-negative entries overlap most when participations come as early and as close as they may); sqrt(k) |c| if band <= b.
                Rounding: a participation touches `band` rounds, so its rounding errors are sqrt(band) instead of 1 against a signal of
                |c|: `spread` = sqrt(band) / |c|, which `Mechanism` takes.
Not needed      trust in the coordinator: C^-1 is applied after the release. A site that misses a round leaves out its term of y[t]
                only; its later terms still carry c[j] x[t-j].
Source          Kalinin, Lampert 2024, Banded Square Root Matrix Factorization for Differentially Private Model Training (theorem 2:
                the sensitivity); Choquette-Choo et al. 2023 (minimum separation, banded matrices).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from locum.privacy.errors import PrivacyError

Floats = NDArray[np.float64]


def coefficients(band: int) -> Floats:
    """c, (band,): the first entries of the first column of A^(1/2)."""
    _positive(band=band)
    j = np.arange(1, band, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * j - 1) / (2 * j))])


def participations(rounds: int, separation: int) -> int:
    """k: how often a patient can take part in so many rounds."""
    _positive(rounds=rounds, separation=separation)
    return -(-rounds // separation)


def sensitivity(band: int, rounds: int, separation: int, most: int | None = None) -> float:
    """L2 norm by which one patient moves C x, if each participation moves x by at most 1. most: a bound on participations, if tighter."""
    k = participations(rounds, separation)
    if most is not None:
        _positive(most=most)
        k = min(k, most)
    c = coefficients(band)
    column = np.zeros(max(rounds, (k - 1) * separation + band))
    for i in range(k):
        column[i * separation : i * separation + band] += c
    return float(np.linalg.norm(column[:rounds]))


def spread(band: int) -> float:
    """How much more a patient's rounding errors weigh than in one plain release; for `Mechanism`."""
    return sqrt(band) / float(np.linalg.norm(coefficients(band)))


def correlate(history: Sequence[Floats], gradient: Floats, band: int) -> Floats:
    """The site's release of this round before noise, (d,). history: its clipped sums of earlier rounds, (d,) each, oldest first.

    Only the last band - 1 are used. They are patients' data: keep them at the site.
    """
    return _mix(history, gradient, coefficients(band), 1.0)


def restore(history: Sequence[Floats], released: Floats, band: int) -> Floats:
    """The coordinator's noisy sum of this round, (d,). history: what `restore` gave for earlier rounds, oldest first."""
    return _mix(history, released, coefficients(band), -1.0)


def _mix(history: Sequence[Floats], now: Floats, c: Floats, sign: float) -> Floats:
    out = np.array(now, np.float64)
    for j in range(1, min(len(c), len(history) + 1)):
        if history[-j].shape != out.shape:
            raise PrivacyError(f"Round {len(history) - j} of the history has shape {history[-j].shape}, this round {out.shape}.")
        out += sign * c[j] * history[-j]
    return out


def error(band: int, rounds: int, separation: int) -> float:
    """Root mean square noise of a coordinate of the prefix sums, where noise of one sensitivity has standard deviation 1.

    sensitivity * |A C^-1| / sqrt(rounds), Frobenius norm: what choosing a band is about.
    """
    _positive(rounds=rounds)
    c = coefficients(band)
    inverse = np.zeros(rounds)
    inverse[0] = 1.0
    for t in range(1, rounds):
        w = min(band - 1, t)
        inverse[t] = -float(c[1 : w + 1] @ inverse[t - w : t][::-1])
    first_column = np.cumsum(inverse)
    square = float(np.arange(rounds, 0, -1) @ first_column**2)
    return sensitivity(band, rounds, separation) * sqrt(square / rounds)


def best_band(rounds: int, separation: int) -> int:
    """The band up to the separation with the least `error`, of the powers of two and the separation itself."""
    _positive(rounds=rounds, separation=separation)
    top = min(separation, rounds)
    return min({top, *(1 << i for i in range(top.bit_length()))}, key=lambda band: error(band, rounds, separation))


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise PrivacyError(f"The {name} of correlated noise is {value}.", fix="give a whole number from 1")
