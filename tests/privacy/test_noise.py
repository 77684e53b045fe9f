"""Integer noise against its exact distribution, and the table against 128-bit integers."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from locum.errors import LocumError
from locum.privacy import noise
from locum.privacy.noise import DiscreteGaussian, Skellam, keystream, table

SIZE = 200_000
GAUSSIAN = [0.5, 0.7, 1.0, 3.3, 40.0, 512.0, 512.5, 3000.0, 2.0**20, 2.0**24]
SKELLAM = [0.5, 1.0, 5.5, 100.0, 4096.0]
both = pytest.mark.parametrize("source", [DiscreteGaussian(2.5), DiscreteGaussian(700.0), Skellam(2.5)])


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def exact_gaussian(sigma: float, values: NDArray[np.int64]) -> NDArray[np.float64]:
    top = math.ceil(12 * sigma)
    total = float(np.exp(-(np.arange(-top, top + 1) ** 2) / (2 * sigma**2)).sum()) if sigma < 1e5 else sigma * math.sqrt(2 * math.pi)
    return np.exp(-(values.astype(float) ** 2) / (2 * sigma**2)) / total


def p_value(samples: NDArray[np.int64], sigma: float, pmf: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> float:
    """Chi-square in about 60 cells of equal width, those expected under 10 times joined to their neighbour."""
    top = math.ceil(9 * sigma)
    width = max(1, round(sigma / 8))
    edges = np.arange(-top, top + width + 1, width)
    at = np.arange(edges[0], edges[-1])
    expected = np.add.reduceat(pmf(at), np.arange(0, len(at), width)) * len(samples)
    found = np.histogram(samples, edges)[0]
    cells = np.minimum(np.searchsorted(np.cumsum(expected), np.arange(1, len(samples) // 10) * 10.0), len(expected) - 1)
    starts = np.unique(np.concatenate([[0], cells[:-1] + 1]))
    starts = starts[starts < len(expected)]
    observed, wanted = np.add.reduceat(found, starts), np.add.reduceat(expected, starts)
    if wanted[-1] < 10:
        observed, wanted = np.append(observed[:-2], observed[-2:].sum()), np.append(wanted[:-2], wanted[-2:].sum())
    return float(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)


@pytest.mark.parametrize("sigma", [s for s in GAUSSIAN if s < 2**20])
def test_discrete_gaussian_has_its_distribution(sigma: float) -> None:
    x = DiscreteGaussian(sigma).sample(key(1), SIZE)
    assert p_value(x, sigma, lambda k: exact_gaussian(sigma, k)) > 1e-4


@pytest.mark.parametrize("sigma", SKELLAM)
def test_skellam_has_its_distribution(sigma: float) -> None:
    x = Skellam(sigma).sample(key(2), SIZE)
    # scipy's own pmf is wrong for large means; there the normal approximation has errors far below the test's
    exact = (lambda k: stats.norm.pdf(k, 0, sigma)) if sigma > 1000 else (lambda k: stats.skellam.pmf(k, sigma**2 / 2, sigma**2 / 2))
    assert p_value(x, sigma, exact) > 1e-4


@pytest.mark.parametrize("wrong", [0.98, 1.02])
def test_the_chi_square_sees_two_percent(wrong: float) -> None:
    x = DiscreteGaussian(40.0).sample(key(1), SIZE)
    assert p_value(x, 40.0 * wrong, lambda k: exact_gaussian(40.0 * wrong, k)) < 1e-4


@pytest.mark.parametrize("source", [*(DiscreteGaussian(s) for s in GAUSSIAN if s >= 1), *(Skellam(s) for s in SKELLAM)])
def test_moments(source: DiscreteGaussian | Skellam) -> None:
    x = source.sample(key(3), SIZE).astype(float) / source.sigma
    excess = 1 / source.sigma**2 if isinstance(source, Skellam) else 0.0
    spread = math.sqrt((2 + excess) / SIZE)
    assert abs(x.mean()) < 5 / math.sqrt(SIZE)
    assert abs(x.var() - 1) < 5 * spread
    assert abs((x**4).mean() - 3 - excess) < 5 * math.sqrt(96 * (1 + 20 * excess) / SIZE)


def test_large_samples_do_not_move_in_steps_of_the_second_factor() -> None:
    x = DiscreteGaussian(2.0**20).sample(key(4), SIZE)
    for modulus in (2, 3, noise._factor(2.0**20)):
        counts = np.bincount(x % modulus, minlength=modulus)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_are_independent() -> None:
    x = DiscreteGaussian(900.0).sample(key(5), SIZE).astype(float)
    for lag in (1, 2, 1 << 15):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 5 / math.sqrt(SIZE - lag)


# --- the table ------------------------------------------------------------------------------------------------------


def exact_thresholds(half: list[int]) -> list[int]:
    weights = half[:0:-1] + half
    total, run, out = sum(weights), 0, []
    for w in weights[:-1]:
        run += w
        out.append((run << 128) // total)
    return out


@given(
    half=st.lists(st.one_of(st.integers(1, 50), st.integers(1, 2**70)), min_size=1, max_size=40),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_every_word_even_a_tie_gives_what_128_bits_give(half: list[int], seed: int) -> None:
    """Words beside and on thresholds, so that ties are met, with low halves beside and on those of the threshold."""
    draw, cuts = random.Random(seed), exact_thresholds(half)
    uniform = [draw.getrandbits(128) for _ in range(20)] + [0, 2**128 - 1, 2**64 - 1, (2**64 - 1) << 64]
    uniform += [(c + step) % 2**128 for c in cuts for step in (-1, 0, 1, -(2**64), 2**64)]
    asked = []

    def low(i: int) -> int:
        asked.append(i)
        return uniform[i] % 2**64

    found = table(half).find(np.array([u >> 64 for u in uniform], np.uint64), low)
    assert found.tolist() == [bisect_right(cuts, u) - (len(half) - 1) for u in uniform]
    assert len(asked) >= len(cuts), "no tie was met"


def test_a_tie_in_a_sample_draws_the_low_half_of_its_own_word() -> None:
    """A table whose only threshold is the high half of a word that the key gives: the low half decides."""
    size = noise._CHUNK + 100
    words, lows = (np.frombuffer(keystream(key(6), 8 * size, at), "<u8") for at in (0, noise._LANE))
    for i in (0, 7, 98, noise._CHUNK, size - 1):
        for step in (0, 1):
            at = np.array([words[i]], np.uint64)
            low = np.array([int(lows[i]) + step], np.uint64)
            tied = noise.Table(0, np.append(at, np.uint64(2**64 - 1)), low, np.full(1 << 16, -1, np.int32), 0.0)
            got = noise._sample([(tied, 1)], key(6), size)
            assert got[i] == 1 - step
            others = np.arange(size) != i
            assert (got[others] == (words > words[i])[others]).all()


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(17, 3), Fraction(512**2)])
def test_gaussian_table_against_logarithms(variance: Fraction) -> None:
    made = noise._gaussian_table(variance)
    cdf = made.high[:-1].astype(float) * 2.0**-64
    sigma = math.sqrt(variance)
    values = made.first + np.arange(len(cdf))
    assert made.first <= -13 * sigma
    np.testing.assert_allclose(cdf, np.cumsum(exact_gaussian(sigma, values)), rtol=0, atol=1e-12)


def test_gaussian_weights_to_128_bits() -> None:
    """sigma^2 = 2: thresholds from exp(-1/4) by a rational series, not by the code's recurrence."""
    x, e, term = Fraction(1, 4), Fraction(0), Fraction(1)
    for n in range(1, 60):
        e += term
        term = -term * x / n
    weights = [Fraction(e ** (k * k)) for k in range(25)]  # the rest weighs less than 2^-200
    total = 2 * sum(weights, Fraction(0)) - 1
    made = noise._gaussian_table(Fraction(2))
    for k in (-8, -1, 0, 3):
        exact = (sum(weights[abs(j)] for j in range(-24, k + 1)) + Fraction(0)) / total
        i = k - made.first
        got = Fraction((int(made.high[i]) << 64) | int(made.low[i]), 2**128)
        assert abs(got - exact) < Fraction(1, 2**122)


def test_skellam_weights_to_128_bits() -> None:
    """mu = 3: I_k by its power series in rationals."""
    mu = 3

    def bessel(k: int) -> Fraction:
        return sum((Fraction(mu, 2) ** (2 * m + k) / (math.factorial(m) * math.factorial(m + k)) for m in range(60)), Fraction(0))

    series = [bessel(k) for k in range(60)]
    total = 2 * sum(series) - series[0]
    made = noise._skellam_table(Fraction(mu))
    for k in (-9, -1, 0, 4):
        exact = sum((series[abs(j)] for j in range(-59, k + 1)), Fraction(0)) / total
        i = k - made.first
        got = Fraction((int(made.high[i]) << 64) | int(made.low[i]), 2**128)
        assert abs(got - exact) < Fraction(1, 2**120)


@pytest.mark.parametrize("source", [*(DiscreteGaussian(s) for s in GAUSSIAN), *(Skellam(s) for s in SKELLAM)])
def test_the_stated_error_is_below_2_to_minus_100(source: DiscreteGaussian | Skellam) -> None:
    assert 0 < source.error < 2.0**-100


@pytest.mark.parametrize("sigma", [513.0, 1000.0, 77777.7, 2.0**24])
def test_two_tables_have_the_variance_and_the_smoothness_of_one(sigma: float) -> None:
    parts = [(variance(t), factor) for t, factor in DiscreteGaussian(sigma)._parts()]
    (one, _), (two, k) = parts
    assert sum(f * f * v for v, f in parts) == pytest.approx(sigma**2, rel=1e-9)
    assert one * two / (one + k * k * two) > 3.7, "the condition on the smoothing parameter"


def variance(made: noise.Table) -> float:
    cdf = np.concatenate([[0.0], made.high[:-1].astype(float) * 2.0**-64, [1.0]])
    values = made.first + np.arange(len(cdf) - 1).astype(float)
    # from both ends: differences of a cumulative probability near 1 lose what the tails hold, and the tails are equal
    half = np.diff(cdf)[: len(values) // 2] * values[: len(values) // 2] ** 2
    return float(2 * half.sum())


# --- keys and bad input -----------------------------------------------------------------------------------------------


def test_the_stream_is_aes_in_counter_mode_from_any_byte() -> None:
    whole = Cipher(algorithms.AES(key(7)), modes.CTR(bytes(16))).encryptor().update(bytes(200))
    for offset in (0, 1, 8, 16, 39):
        assert keystream(key(7), 100, offset) == whole[offset : offset + 100]


@both
def test_same_key_same_samples_and_a_prefix_is_the_same(source: DiscreteGaussian | Skellam) -> None:
    x = source.sample(key(8), 70_000)
    assert (source.sample(key(8), 70_000) == x).all()
    for size in (0, 1, 33, (1 << 15) - 1, 1 << 15, (1 << 15) + 1):
        assert (source.sample(key(8), size) == x[:size]).all()
    assert (source.sample(key(9), 1000) != x[:1000]).any()
    assert x.dtype == np.int64


def test_frozen_samples() -> None:
    """A seeded run gives the same model in every engine and in every release of the library."""
    assert DiscreteGaussian(10.0).sample(key(1), 6).tolist() == FROZEN[0]
    assert DiscreteGaussian(1e6).sample(key(1), 4).tolist() == FROZEN[1]
    assert Skellam(10.0).sample(key(1), 6).tolist() == FROZEN[2]


FROZEN: tuple[list[int], list[int], list[int]] = ([-3, -10, -23, -14, 9, 16], [-247144, 1054099, 577860, -1056123], [-3, -10, -23, -14, 9, 16])


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0.49, math.nan, math.inf, -math.inf, 2.0**24 + 1])
def test_a_bad_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(LocumError, match="cannot be drawn"):
        DiscreteGaussian(sigma)
    with pytest.raises(LocumError, match="cannot be drawn"):
        Skellam(sigma)


def test_skellam_is_limited_earlier() -> None:
    with pytest.raises(LocumError, match="cannot be drawn"):
        Skellam(2.0**14 + 1)


@both
@pytest.mark.parametrize("bad", [b"", bytes(16), bytes(33)])
def test_a_bad_key_is_refused(source: DiscreteGaussian | Skellam, bad: bytes) -> None:
    with pytest.raises(LocumError, match="32 bytes"):
        source.sample(bad, 10)
