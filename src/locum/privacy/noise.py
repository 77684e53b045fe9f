"""Integer noise from a cipher: discrete Gaussian and Skellam samples by an inverse table of 128-bit probabilities.

Precondition    sigma in [1/2, 2^24] (discrete Gaussian) or [1/2, 2^14] (Skellam); a secret 32-byte key that is used once: the same
                key gives the same samples, so that whoever reuses it adds the same noise twice and a difference removes it.
Pseudocode      table, up to sigma = 512:
                    w[k] = exp(-k^2 / 2 sigma^2)      by products in 256-bit fixed point
                    w[k] = I_k(sigma^2)               Skellam: Miller's backward recurrence I[k-1] = I[k+1] + 2k / sigma^2 * I[k] in integers
                    k in [-m, m] with P(|X| > m) <= 2^-127;  t[i] = floor(2^128 * sum of w up to i / sum of w)
                sample: U = 128 bits of AES-256-CTR(key);  X = number of t[i] <= U, minus m
                    only the high 64 bits of U are drawn; where they equal those of a t[i] (once in about 2^50 samples) the low 64 follow
                discrete Gaussian above 512:  X1 + k X2,  k = floor(sqrt(sigma / 2)), sigma1 = 2k, sigma2^2 = (sigma^2 - 4 k^2) / k^2
Postcondition   independent samples; each one's distribution is within `error` <= 2^-100 of the exact one in total variation.
                    tails            2 exp(-m^2 / 2 sigma^2) <= 2^-127: the discrete Gaussian is sub-Gaussian (Canonne et al.);
                                     Skellam: Chernoff, exp(sqrt(mu^2 + m^2) - mu - m asinh(m / mu)) a side
                    rounding of t    2^-128 an entry; of w: below 2^-170 in all, as every term of both recurrences is positive
                    Miller           wrong by at most 2 I[m]^2 / I[k] in w[k] (from the Wronskian), at most 2^-127 an entry
                    X1 + k X2        P(y) = exp(-y^2 / 2 sigma^2) times the sum of a Gaussian of width s = sigma1 sigma2 / sigma over the
                                     integers from an offset, which is constant up to 1 +- r, r = 2 sum over j of exp(-2 pi^2 s^2 j^2)
                                     (Poisson summation); so the error is r / (1 - r). Condition: s^2 >= 3.7; here s^2 > 3.96.
Not promised    constant time: somebody who measures this process's caches may learn about the noise.
Source          Canonne, Kamath, Steinke 2020 (the distribution and its tails); Micciancio, Walter 2017 (sums of two samples);
                Agarwal, Kairouz, Liu 2021 (Skellam); Gautschi 1967 (Miller's recurrence); Chen, Asau 1974 (the guide to the table).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import accumulate
from math import asinh, ceil, exp, isfinite, isqrt, log, pi, sqrt

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from locum.privacy.errors import PrivacyError

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

SMALLEST, LARGEST, LARGEST_SKELLAM = 0.5, 2.0**24, 2.0**14
_DIRECT = 512
"""The largest sigma of a discrete Gaussian with a table of its own; above it the sum of two is quicker to build and to look up."""
_TAIL = 128
_POINT = 256
_GUIDE = 16
_CHUNK = 1 << 15
_BLOCK = 16
_LANE = 1 << 100
"""Bytes between two lanes of one key's stream: the words of X1, their low halves, those of X2, their low halves."""


def keystream(key: bytes, nbytes: int, offset: int = 0) -> bytes:
    """`nbytes` bytes of AES-256-CTR with zero IV from byte `offset`. key: 32 bytes, else `PrivacyError`."""
    if len(key) != 32:
        raise PrivacyError(f"A noise key has 32 bytes, this one has {len(key)}.")
    block, skip = divmod(offset, _BLOCK)
    stream = Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
    return stream.update(bytes(nbytes + skip))[skip:]


@dataclass(frozen=True, eq=False)
class Table:
    """A distribution on first, first + 1, ...: `high` and `low` hold 64 bits each of its cumulative probabilities (without the last, 1).

    high: (n,), one sentinel longer than low. guide: for each value of a word's first 16 bits, how many `high` are below the
    bucket; -1 where the bucket holds more than one, so that a search is needed.
    """

    first: int
    high: Words
    low: Words
    guide: NDArray[np.int32]
    error: float

    def find(self, words: Words, low_of: Callable[[int], int]) -> Ints:
        """The samples of uniform 64-bit `words`, (m,). low_of(i): 64 further bits for word i, asked for only on a tie."""
        index = self.guide[(words >> np.uint64(64 - _GUIDE)).view(np.int64)].astype(np.int64)
        (many,) = np.nonzero(index < 0)
        if many.size:
            index[many] = np.searchsorted(self.high, words[many], side="left")
        cut = self.high[index]
        (ties,) = np.nonzero(cut == words)
        index += cut < words
        for i in ties:
            index[i] = self._exact(int(index[i]), (int(words[i]) << 64) | low_of(int(i)))
        index += self.first
        return index

    def _exact(self, index: int, uniform: int) -> int:
        """How many thresholds are <= `uniform`, 128 bits, if at least `index` are."""
        while index < len(self.low) and ((int(self.high[index]) << 64) | int(self.low[index])) <= uniform:
            index += 1
        return index


def table(half: list[int]) -> Table:
    """The table of the symmetric distribution with weights half[|k|]; all positive."""
    weights = half[:0:-1] + half
    *sums, total = accumulate(weights)
    raw = b"".join(((s << 128) // total).to_bytes(16, "little") for s in sums)
    low, high = np.frombuffer(raw, "<u8").astype(np.uint64).reshape(-1, 2).T
    starts = np.arange(1 << _GUIDE, dtype=np.uint64) << np.uint64(64 - _GUIDE)
    below = np.searchsorted(high, starts, side="left").astype(np.int32)
    inside = np.diff(below, append=np.int32(len(high)))
    guide = np.where(inside > 1, np.int32(-1), below)
    padded = np.append(high, np.uint64(2**64 - 1))
    return Table(1 - len(half), padded, low.copy(), guide, (4 * len(weights) + 8) * 2.0**-128)


@dataclass(frozen=True)
class DiscreteGaussian:
    """P(k) proportional to exp(-k^2 / 2 sigma^2) on the integers. Raises `PrivacyError` for a sigma outside [1/2, 2^24]."""

    sigma: float

    def __post_init__(self) -> None:
        _check(self.sigma, LARGEST)

    @property
    def error(self) -> float:
        """Total-variation distance of a sample from the distribution, at most; it belongs in delta."""
        tables = sum(t.error for t, _ in self._parts())
        return tables if self.sigma <= _DIRECT else tables + _smoothing(self.sigma)

    def sample(self, key: bytes, size: int) -> Ints:
        """(size,) samples. key: 32 secret bytes, never used before; a shorter `size` gives the same first samples."""
        return _sample(self._parts(), key, size)

    def _parts(self) -> list[tuple[Table, int]]:
        variance = Fraction(self.sigma) ** 2
        if self.sigma <= _DIRECT:
            return [(_gaussian_table(variance), 1)]
        k = _factor(self.sigma)
        return [(_gaussian_table(Fraction(4 * k * k)), 1), (_gaussian_table(variance / k**2 - 4), k)]


@dataclass(frozen=True)
class Skellam:
    """The difference of two Poisson variables of mean sigma^2 / 2. Raises `PrivacyError` for a sigma outside [1/2, 2^14]."""

    sigma: float

    def __post_init__(self) -> None:
        _check(self.sigma, LARGEST_SKELLAM)

    @property
    def error(self) -> float:
        """Total-variation distance of a sample from the distribution, at most; it belongs in delta."""
        return _skellam_table(Fraction(self.sigma) ** 2).error

    def sample(self, key: bytes, size: int) -> Ints:
        """(size,) samples. key: 32 secret bytes, never used before; a shorter `size` gives the same first samples."""
        return _sample([(_skellam_table(Fraction(self.sigma) ** 2), 1)], key, size)


def _check(sigma: float, largest: float) -> None:
    if not (isfinite(sigma) and SMALLEST <= sigma <= largest):
        raise PrivacyError(
            f"Integer noise of standard deviation {sigma:g} cannot be drawn.",
            why=f"It must lie between {SMALLEST:g} and {largest:g} steps of the grid.",
            fix="choose a finer grid for less noise, a coarser one for more; discrete Gaussian noise may be larger than Skellam noise",
        )


def _sample(parts: list[tuple[Table, int]], key: bytes, size: int) -> Ints:
    out = np.zeros(size, np.int64)
    for number, (source, factor) in enumerate(parts):
        lane = 2 * number * _LANE
        for start in range(0, size, _CHUNK):
            piece = out[start : start + _CHUNK]
            drawn = source.find(_words(key, lane, start, len(piece)), partial(_low, key, lane + _LANE, start))
            piece += drawn if factor == 1 else drawn * factor
    return out


def _words(key: bytes, lane: int, start: int, size: int) -> Words:
    return np.frombuffer(keystream(key, 8 * size, lane + 8 * start), "<u8").astype(np.uint64, copy=False)


def _low(key: bytes, lane: int, start: int, i: int) -> int:
    return int(_words(key, lane, start + i, 1)[0])


def _factor(sigma: float) -> int:
    return isqrt(int(sigma / 2))


def _smoothing(sigma: float) -> float:
    """The error of X1 + k X2, see the module."""
    s2 = 4 * (1 - (2 * _factor(sigma) / sigma) ** 2)
    r = 2.01 * exp(-2 * pi**2 * s2)
    return r / (1 - r)


@lru_cache(maxsize=32)
def _gaussian_table(variance: Fraction) -> Table:
    q = _exp_minus(1 / (2 * variance))
    square = q * q >> _POINT
    weights = [1 << _POINT]
    for _ in range(ceil(sqrt(2 * _TAIL * log(2) * float(variance)))):
        weights.append(weights[-1] * q >> _POINT)
        q = q * square >> _POINT
    return table(weights)


def _exp_minus(x: Fraction) -> int:
    """exp(-x) * 2^256 within 2^-60 units, for x in [0, 2]."""
    guard = 64
    total = term = 1 << (_POINT + guard)
    n = 0
    while term:
        n += 1
        term = term * x.numerator // (x.denominator * n)
        total += term if n % 2 == 0 else -term
    return total >> guard


@lru_cache(maxsize=16)
def _skellam_table(variance: Fraction) -> Table:
    top = _skellam_reach(float(variance))
    weights = [0, 1 << 192]
    for k in range(top, 0, -1):
        weights.append(weights[-2] + 2 * k * variance.denominator * weights[-1] // variance.numerator)
    return table(weights[:0:-1])


def _skellam_reach(mu: float) -> int:
    """The smallest m whose Chernoff bound is at most 2^-128 a side."""

    def bits(m: int) -> float:
        return (mu - sqrt(mu * mu + m * m) + m * asinh(m / mu)) / log(2)

    low, high = 0, 1
    while bits(high) < _TAIL:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bits(middle) >= _TAIL else (middle, high)
    return high
