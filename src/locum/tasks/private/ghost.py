"""Per-patient clipping of gradients at about the price of a plain gradient: norms first, then one weighted sum.

Precondition   a row's gradient by a layer is the outer product a d' of that layer's input and error signal, as `Trace` holds them
Pseudocode     patient with one record:       |g|^2 = sum over layers of |a|^2 |d|^2       (the gradient is never made)
               patient with m records r:      |g|^2 = sum over layers of |sum_r a_r d_r'|^2: made, in chunks, or where that is less work
                                              = sum over r, s of (a_r a_s) (d_r d_s)
               f = min(1, clip / |g|), 0 where |g| is not finite;   sum = sum over records of f[patient] / clip * a d'
Postcondition  each patient's addend, all records together, has a norm of at most 1: what `clipped_sum` of the gradients over
               clip gives, to rounding. A patient whose gradient is not finite adds nothing, and nothing is said of them.
               Where records cancel, the double sum loses digits; so the most that rounding can take is added to it, which is
               (i + o + m^2) 2^-52 of (sum_r |a_r| |d_r|)^2 for i inputs and o outputs, and norms err upwards.
Source         Goodfellow (2015), Efficient per-example gradient computations; Li, Tramer, Liang and Hashimoto (2022), Large language
               models can be strong differentially private learners, section 4 ("ghost clipping")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from locum.privacy.clipping import factors
from locum.tasks.models import Trace, row_squares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CHUNK = 1 << 18
"""Numbers that are made at a time for patients with several records: 2 MiB, which a cache holds."""
_ROUNDING = 2.0**-52


def clipped_gradient(trace: Trace, codes: Ints, clip: float, *, first: Floats | None = None, several: Sequence[Ints] | None = None) -> Floats:
    """The sum over patients of their gradients, clipped to `clip` and divided by it, flat, shape (size,).

    codes: which patient each row is of, (n,), from 0. first: squared norms of the first input's rows, (n,), and several: `repeated(codes)`,
    if they are known from an earlier round.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = patient_squares(trace, codes, first=first, several=several)
        weights = (factors(np.sqrt(squares) / clip) / clip)[codes]
    sound = weights > 0.0
    if not sound.all():  # 0 times infinity is not 0: rows that add nothing are left out
        return trace.take(sound).gradient(weights[sound])
    return trace.gradient(weights)


def patient_squares(trace: Trace, codes: Ints, *, first: Floats | None = None, several: Sequence[Ints] | None = None) -> Floats:
    """The squared norm of each patient's summed gradient, shape (patients,); see `clipped_gradient`."""
    out = np.asarray(np.bincount(codes, weights=trace.squares(first)), dtype=np.float64)
    for rows in repeated(codes) if several is None else several:
        many = max(max(rows.shape[1] * (a.shape[1] + d.shape[1]), a.shape[1] * d.shape[1]) for a, d in trace.layers)
        step = max(1, CHUNK // many)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            out[codes[part[:, 0]]] = sum(_summed_squares(a[part], d[part]) for a, d in trace.layers)
    return out


def repeated(codes: Ints) -> list[Ints]:
    """The rows of the patients with several records: for each number m of records above 1 that occurs, an array (patients, m)."""
    records = np.bincount(codes)
    if not (records > 1).any():
        return []
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(records) - records
    return [order[starts[records == m][:, None] + np.arange(m)] for m in np.unique(records) if m > 1]


def _summed_squares(a: Floats, d: Floats) -> Floats:
    """|sum over a patient's records of a d'|^2, shape (k,), for a (k, m, i) and d (k, m, o)."""
    (k, m, i), o = a.shape, d.shape[2]
    if o == 1:
        return row_squares((a * d).sum(axis=1))
    if m * (i + o) >= i * o:
        return row_squares((a.transpose(0, 2, 1) @ d).reshape(k, -1))
    inner = np.einsum("kri,ksi->krs", a, a) * np.einsum("kro,kso->krs", d, d)
    most = np.sqrt(np.diagonal(inner, axis1=1, axis2=2)).sum(axis=1) ** 2
    return np.asarray(np.maximum(inner.sum(axis=(1, 2)), 0.0) + (i + o + m * m) * _ROUNDING * most)
