"""The one mechanism: a clipped sum, rounded to integers, plus integer noise that the honest sites share.

Precondition    at most one unit is added or removed, which changes the float64 sum v of one site by a vector of L2 norm at most 1 (clip
                units, see `clipping`; in a correlated release by the shares of one, see `matrix`), summed from up to 2^20 rows in any
                order; at least h of the sites add their noise and keep its keys; every key is used once.
Pseudocode      site          y = round(G v) + X,   X in each coordinate from the discrete Gaussian or Skellam, sigma = share
                coordinator   sum of y over the sites / G
                G: the power of two with sqrt(d) / G <= 0.5 % and share >= 32
Postcondition   - The integer sum changes by at most D = G (1 + 2^-11) + sqrt(d) in L2 norm: each coordinate of two rounded vectors differs
                  by less than one more than the vectors themselves; float64 errs by at most (n - 1) 2^-53 n <= 2^-13 for each of the two sums,
                  and the other half of 2^-11 is for the rounding in what follows the sum (`matrix.correlate`).
                - The release of the sum over the sites is at least as private as Gaussian noise of `multiplier` times the sensitivity:
                    discrete Gaussian   1/multiplier = D / sqrt(s^2 - 4) + tau sqrt(d),  s^2 = h share^2,  tau = 10 (h - 1) exp(-pi^2 share^2)
                    Skellam             1/multiplier^2 = D^2 / s^2 + (D^2 + 3 D1) / s^4,   D1 = D min(sqrt(d), D), the L1 sensitivity
                  Discrete Gaussian: as private as the continuous Gaussian of standard deviation sqrt(s^2 - 4), in every dimension and in
                  every sense (trade-off curve, PLD, Renyi): noise of it, then rounding each coordinate at random by a discrete Gaussian
                  of standard deviation 2 around it, gives the integer noise up to a factor within e^(+-4 d exp(-8 pi^2)) pointwise
                  (Peikert, theorem 3.1; exp(-8 pi^2) is 5e-35), and rounding is post-processing. The sum of h shares is one discrete
                  Gaussian up to tau, pointwise (Kairouz et al.); tau is 0 in float64 at the least share.
                  Skellam: Renyi divergences of the integer orders from 2 (Agarwal et al., (2a - 1) D^2 + 6 D1 <= a (2 D^2 + 6 D1)), and
                  nothing else is claimed of it.
                  Tested besides: in one dimension the exact trade-off curve of integer shifts lies above the Gaussian one at its vertices.
                - reveal(sum of protect) has the mean sum of v within n / 2G a coordinate, and standard deviation std(n).
                - `delta`: how far the noise of h sites and d coordinates is from the distribution named, in total variation, because tables
                  are rounded. A release that is (eps, delta') with exact noise is (eps, delta' + (1 + e^eps) delta). Below 2^-60 as a rule.
Source          Canonne, Kamath, Steinke 2020; Kairouz, Liu, Steinke 2021 (distributed discrete Gaussian); Agarwal, Kairouz, Liu 2021
                (Skellam); Peikert 2010, "An efficient and parallel Gaussian sampler for lattices"; Dong, Roth, Su 2022.
"""

from __future__ import annotations

import operator
from math import ceil, exp, log2, pi, sqrt
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from locum.privacy.errors import PrivacyError
from locum.privacy.noise import LARGEST, LARGEST_SKELLAM, DiscreteGaussian, Skellam

Kind = Literal["gaussian", "skellam"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FINE = 0.005
"""What rounding may add to the sensitivity, as a share of it; `_COARSE` where the noise would otherwise be too large to draw."""
_COARSE = 0.1
_SHARE = 32.0
_ROUNDED = 4.0
"""The variance that rounding a continuous Gaussian at random to integers takes: the rest is its own."""
_FLOAT = 2.0**-11
_LARGEST_GRID = 2.0**40
_LARGEST_VALUE = 2.0**62
_LARGEST_COUNT = 1 << 40


class Mechanism:
    """How a vector of `dimension` numbers leaves a site. All attributes are public and the same at every site.

    multiplier: noise / sensitivity, asked for, and afterwards what is reached (a trifle more). honest: h, how many sites' noise is
    guaranteed; with 1 each site's own noise suffices. spread: how much a unit's rounding errors weigh against its
    signal, 1 for plain sums, `matrix.spread(band)` for correlated ones. Raises `PrivacyError`.
    """

    __slots__ = ("dimension", "grid", "honest", "kind", "multiplier", "share", "spread")

    multiplier: Final[float]
    honest: Final[int]
    dimension: Final[int]
    kind: Final[Kind]
    spread: Final[float]
    grid: Final[int]
    """G: steps of the integer grid in one clip."""
    share: Final[float]
    """Standard deviation of one site's noise in steps."""

    def __init__(self, multiplier: float, honest: int, dimension: int, kind: Kind = "gaussian", *, spread: float = 1.0) -> None:
        _check(multiplier, spread, kind)
        self.honest, self.dimension = _count("honest minimum", honest), _count("dimension", dimension)
        self.kind, self.spread = kind, spread
        self.grid, self.share = self._fit(multiplier)
        self.multiplier = self._reached(self.grid, self.share)

    @property
    def sensitivity(self) -> float:
        """D: by how many steps one unit moves the integer sum, in L2 norm, at most (times `matrix.sensitivity` where correlated)."""
        return self._sensitivity(self.grid)

    @property
    def noise(self) -> DiscreteGaussian | Skellam:
        return DiscreteGaussian(self.share) if self.kind == "gaussian" else Skellam(self.share)

    @property
    def delta(self) -> float:
        """Total-variation distance of one release's noise from the exact one, at most."""
        return self.honest * self.dimension * self.noise.error

    def std(self, n: int) -> float:
        """Standard deviation of a coordinate of the sum over n sites' releases, in clip units."""
        return sqrt(n) * self.share / self.grid

    def protect(self, vector: Floats, key: bytes) -> Ints:
        """round(G vector) + noise, (d,). vector: (d,), finite. key: 32 secret bytes, never used before. Raises `PrivacyError`."""
        if vector.shape != (self.dimension,):
            raise PrivacyError(f"A vector of shape {vector.shape} came to a mechanism for {self.dimension} numbers.")
        scaled = np.asarray(vector, np.float64) * self.grid
        if not (np.abs(scaled) < _LARGEST_VALUE).all():
            raise PrivacyError(
                "A vector to be protected holds NaN, infinity or a value too large.",
                why="It cannot be rounded to an integer.",
                fix="clip each patient's contribution, and look for missing or extreme values",
            )
        return np.rint(scaled).astype(np.int64) + self.noise.sample(key, self.dimension)

    def reveal(self, total: Ints) -> Floats:
        """The sum of the sites' vectors with its noise, (d,), in clip units, from the sum of what `protect` gave them."""
        if total.shape != (self.dimension,):
            raise PrivacyError(f"A sum of shape {total.shape} came to a mechanism for {self.dimension} numbers.")
        out: Floats = total / np.float64(self.grid)
        return out

    # --- how much noise ---------------------------------------------------------------------------------------------

    def _sensitivity(self, grid: int) -> float:
        return grid * (1 + _FLOAT) + self.spread * sqrt(self.dimension)

    def _reached(self, grid: int, share: float) -> float:
        """The multiplier of the Gaussian mechanism that is no more private."""
        d, h, step = self.dimension, self.honest, self._sensitivity(grid)
        s2 = h * share**2
        if self.kind == "gaussian":
            return 1 / (step / sqrt(s2 - _ROUNDED) + 10 * (h - 1) * exp(-((pi * share) ** 2)) * sqrt(d))
        return 1 / sqrt(step**2 / s2 + (step**2 + 3 * _l1(step, d)) / s2**2)

    def _needed(self, multiplier: float, grid: int) -> float:
        """The smallest share that reaches `multiplier`: the formulas solved for s^2, then rounded up."""
        step = self._sensitivity(grid)
        need = (multiplier * step) ** 2
        if self.kind == "gaussian":
            s2 = need + _ROUNDED
        else:
            s2 = (need + sqrt(need**2 + 4 * multiplier**2 * (step**2 + 3 * _l1(step, self.dimension)))) / 2
        share = max(_SHARE, sqrt(s2 / self.honest))
        while self._reached(grid, share) < multiplier:
            share *= 1 + 1e-12
        return share

    def _fit(self, multiplier: float) -> tuple[int, float]:
        rounding, largest = self.spread * sqrt(self.dimension), LARGEST if self.kind == "gaussian" else LARGEST_SKELLAM
        wish = max(rounding / _FINE, _SHARE * sqrt(self.honest) / multiplier)
        if wish > _LARGEST_GRID:
            raise PrivacyError(f"A noise multiplier of {multiplier:g} for {self.dimension} numbers needs a finer grid than there is.", fix="ask for more noise")
        grid = 1 << max(0, ceil(log2(wish)))
        while (share := self._needed(multiplier, grid)) > largest:
            grid //= 2
            if rounding > _COARSE * grid:
                raise PrivacyError(
                    f"A noise multiplier of {multiplier:g} for {self.dimension} numbers needs more {self.kind} noise than can be drawn.",
                    fix="use discrete Gaussian noise, or fewer numbers" if self.kind == "skellam" else "release fewer numbers, or spend more of the budget",
                )
        return grid, share


def _l1(step: float, dimension: int) -> float:
    """Of integer vectors of L2 norm `step`, the largest L1 norm: an integer is at most its square."""
    return step * min(sqrt(dimension), step)


def _count(name: str, value: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or not 1 <= count <= _LARGEST_COUNT:
        raise PrivacyError(f"The {name} is {value}.", fix="give a whole number from 1")
    return count


def _check(multiplier: float, spread: float, kind: str) -> None:
    if not 0 < multiplier <= LARGEST:  # so written, NaN is refused too
        raise PrivacyError(
            f"The noise multiplier is {multiplier:g}.",
            why="Without positive noise there is no promise.",
            fix="give a number above 0, as the accountant calibrates it",
        )
    if not 1 <= spread <= _LARGEST_COUNT:
        raise PrivacyError(f"The spread of rounding is {spread:g}.", fix="give 1, or matrix.spread(band)")
    if kind not in ("gaussian", "skellam"):
        raise PrivacyError(f"There is no noise '{kind}'.", fix="write gaussian or skellam")
