"""The arithmetic of the task `forecast`: one site's weeks, the matrix of one horizon, models between a site's and the cohort's, and quantiles.

Scale: z = (100,000 v / population + 0.02)^(1/4), on which a count's noise is about the same at every level.
Model of horizon h, from origin week s (direct, one model per horizon: Marcellino, Stock and Watson, 2006, J. Econometrics 135:499):
    z[s + 1 + h] = b0 + b1 z[s] + sum_l b (z[s - l + 1] - z[s - l]) + c1 Z[s] + c2 (Z[s] - Z[s - 1]) + harmonics of the target's date + error
where Z is the same of the cohort's sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OFFSET = 0.02
YEAR = 365.2425
FOLDS, RUN = 8, 13
"""Weeks are held out in runs of a quarter of a year; each eighth run is in the same fold."""
FLOOR = 0.01
OFF = 1e6
"""Penalty, in weeks of one site, of a column that a design leaves out: its coefficient is 0."""
EDGES = np.linspace(-8.0, 8.0, 641)
"""Of the histogram of standardised errors."""
OWN_WEIGHT = 20.0
"""A site's own residual scale counts its weeks against so many of the cohort's."""
PAST, SETTLED, KAPPA, COHORT_KAPPA = 8, 2, 50.0, 500.0
"""Reporting delays are learnt from 8 weeks, published long enough ago to be settled (2 weeks more). A site's own factor counts against 50 admissions."""
LEVELS = (0.01, 0.025, *(round(0.05 * k, 2) for k in range(1, 20)), 0.975, 0.99)
"""The 23 quantiles of the forecast hubs."""


@dataclass(frozen=True)
class Series:
    """One site's weeks on the calendar of the study, NaN where nothing was reported. value: (weeks,); people: the population; delayed: (D, weeks), the value as
    published so many weeks after the week's end."""

    value: Floats
    people: float
    delayed: Floats

    @property
    def per_100k(self) -> float:
        return self.people / 1e5


def transform(rate: Floats) -> Floats:
    """Admissions per 100,000 -> z."""
    return np.asarray((rate + OFFSET) ** 0.25)


def back(z: Floats) -> Floats:
    """z -> admissions per 100,000, at least 0."""
    return np.maximum(np.maximum(z, 0.0) ** 4 - OFFSET, 0.0)


def delays(series: Series) -> Floats:
    """Shape (2, D): what is known now, and what was published then, summed over the settled weeks of the last quarter."""
    weeks, out = len(series.value), np.zeros((2, len(series.delayed)))
    for d, then in enumerate(series.delayed):
        end = weeks - d - SETTLED
        part = slice(max(0, end - PAST), end)
        both = np.isfinite(then[part]) & np.isfinite(series.value[part])
        out[:, d] = series.value[part][both].sum(), then[part][both].sum()
    return out


def completed(series: Series, factor: Floats) -> Floats:
    """The value with its last D weeks multiplied by what such weeks still gained: gamma-Poisson, the cohort's factor as the prior mean."""
    now, then = delays(series)
    value = series.value.copy()
    for d in range(len(factor)):
        value[-1 - d] *= (now[d] + KAPPA * factor[d]) / (then[d] + KAPPA)
    return value


def names(lags: int, harmonics: int, common: bool) -> list[str]:
    """Of the columns."""
    own = ["(intercept)", "level", *(f"change {k} weeks before" if k > 1 else "last change" for k in range(1, lags))]
    season = [f"{wave} {k} a year" for k in range(1, harmonics + 1) for wave in ("sine", "cosine")]
    return own + (["cohort level", "cohort's last change"] if common else []) + season


def matrix(z: Floats, cohort: Floats | None, dates: Floats, horizon: int, lags: int, harmonics: int) -> tuple[Floats, Floats, Ints]:
    """x (n, p), y (n,) and the target's week (n,) of every origin; y is NaN where the target lies beyond the data.

    dates: of the weeks, in days. The last row is of the last week: the forecast.
    """
    origin = np.arange(lags - 1, len(z))
    target = origin + 1 + horizon
    columns = [np.ones(len(origin)), z[origin], *(z[origin - k + 1] - z[origin - k] for k in range(1, lags))]
    if cohort is not None:
        columns += [cohort[origin], cohort[origin] - cohort[origin - 1]]
    angle = 2.0 * np.pi * (dates[origin] + 7.0 * (1 + horizon)) / YEAR
    for k in range(1, harmonics + 1):
        columns += [np.sin(k * angle), np.cos(k * angle)]
    y = np.full(len(origin), np.nan)
    known = target < len(z)
    y[known] = z[target[known]]
    return np.column_stack(columns), y, target.astype(np.int64)


def fold(target: Ints) -> Ints:
    """Which fold a target week is held out in."""
    return (target // RUN) % FOLDS


def sums(x: Floats, y: Floats, target: Ints) -> tuple[Floats, Floats, Floats]:
    """Per fold x'x (FOLDS, p, p), x'y (FOLDS, p) and n (FOLDS,), over complete rows."""
    p, use = x.shape[1], complete(x, y)
    both = np.column_stack([x, y])[use]
    held = (fold(target[use])[None, :] == np.arange(FOLDS)[:, None]).astype(np.float64)
    total = (held @ (both[:, :, None] * both[:, None, :]).reshape(len(both), -1)).reshape(FOLDS, p + 1, p + 1)
    return total[:, :p, :p], total[:, :p, p], held.sum(axis=1)


def complete(x: Floats, y: Floats) -> NDArray[np.bool_]:
    return np.isfinite(x).all(axis=1) & np.isfinite(y)


def without(total: Floats) -> Floats:
    """(FOLDS, ...) -> (FOLDS + 1, ...): the sum without each fold, and the whole sum last."""
    whole = total.sum(axis=0)
    return np.concatenate([whole - total, whole[None]])


def federated(xx: Floats, xy: Floats, penalties: Floats) -> Floats:
    """Coefficients (FOLDS + 1, R, p) of the cohort, for each of R rows of penalties (R, p)."""
    a, b = without(xx), without(xy)
    lhs = a[:, None] + np.einsum("rp,pq->rpq", penalties, np.eye(penalties.shape[1]))
    return np.asarray(np.linalg.solve(lhs, np.broadcast_to(b[:, None], lhs.shape[:-1])[..., None])[..., 0])


def between(xx: Floats, xy: Floats, mean: Floats, cohort: Floats, shrinkage: tuple[float, ...], left_out: NDArray[np.bool_]) -> Floats:
    """A site's coefficients (S + 1, F, R, p): argmin |y - x b|^2 + s (b - cohort)' mean (b - cohort) for each s, and the cohort's own last (s infinite).

    xx (F, p, p), xy (F, p): the site's. mean (F, p, p): x'x of the average site. cohort (F, R, p). left_out (R, p): true where a design has no such column.
    """
    s, one = np.asarray(shrinkage)[:, None, None, None, None], np.eye(xx.shape[-1])
    lhs = xx[:, None] + s * mean[:, None] + (np.where(left_out, OFF, 1e-9)[:, :, None] * one)[None, None]
    pull = np.einsum("fpq,frq->frp", mean, cohort)
    own = np.linalg.solve(lhs, (xy[:, None] + s[..., 0] * pull)[..., None])[..., 0]
    return np.concatenate([own, cohort[None]])


def predicted(x: Floats, coefficients: Floats) -> Floats:
    """Of rows x (n, p), each with the coefficients of its fold in every model (grid, n, p): (grid, n)."""
    return np.ascontiguousarray(np.einsum("np,gnp->gn", x, coefficients))  # in the order in which a site's memory is stored: the last bit hangs on it


def spread(z: Floats | float, per_100k: float) -> Floats:
    """The two parts of var(z) at a predicted level (..., 2): of counting, m^(-1/2) / n, and of growth, m^(1/2); m per 100,000, n in 100,000.

    By the delta method from var(v) = mean + psi mean^2.
    """
    m = np.maximum(back(np.asarray(z)), FLOOR)
    return np.stack([m**-0.5 / per_100k, m**0.5], axis=-1) / 16.0


def weigh(g: Floats) -> Floats:
    """Weights for the regression of squared errors on `g`: the inverse square of their variance where psi is 0.1."""
    return np.asarray((g @ np.array([1.0, 0.1])) ** -2)


def nonnegative(gg: Floats, gr: Floats) -> Floats:
    """The best phi >= 0 of two columns from their normal equations, shape (2,)."""
    try:
        both = np.linalg.solve(gg, gr)
        if (both >= 0).all():
            return np.asarray(both)
    except np.linalg.LinAlgError:
        pass
    single = np.maximum(gr, 0.0) / np.maximum(np.diag(gg), 1e-300)
    gain = gr * single
    return np.where(np.arange(2) == int(gain.argmax()), single, 0.0)


def own_scale(u: Floats) -> float:
    """A site's factor of the cohort's standard deviation, from its own standardised errors, shrunk to 1."""
    return float(np.sqrt((OWN_WEIGHT + float(u @ u)) / (OWN_WEIGHT + len(u))))


def quantiles(counts: Floats, levels: tuple[float, ...]) -> Floats:
    """Of the histogram on `EDGES`, by interpolation within a bin, shape (levels,)."""
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    cumulative /= cumulative[-1]
    keep = np.concatenate([[True], np.diff(cumulative) > 0])
    return np.asarray(np.interp(levels, cumulative[keep], EDGES[keep]), dtype=np.float64)
