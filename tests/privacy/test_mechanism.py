"""The mechanism: what it promises about sensitivity, noise and privacy, against brute force and exact distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from locum.errors import LocumError
from locum.privacy import matrix
from locum.privacy.mechanism import Kind, Mechanism
from locum.privacy.noise import LARGEST, LARGEST_SKELLAM

KINDS: tuple[Kind, Kind] = ("gaussian", "skellam")
both = pytest.mark.parametrize("kind", KINDS)
Floats = NDArray[np.float64]


def key(*n: int) -> bytes:
    return b"".join(i.to_bytes(8, "big") for i in n).rjust(32, b"\0")


# --- how much noise ---------------------------------------------------------------------------------------------------


@both
@given(z=st.floats(0.02, 30), h=st.integers(1, 500), d=st.integers(1, 20_000), spread=st.floats(1, 4))
@settings(max_examples=150, deadline=None)
def test_the_multiplier_reached_is_what_was_asked_or_a_trifle_more(kind: Kind, z: float, h: int, d: int, spread: float) -> None:
    try:
        m = Mechanism(z, h, d, kind, spread=spread)
    except LocumError:
        assert kind == "skellam"
        assert 2 * z * 10 * math.sqrt(d) * spread / math.sqrt(h) > LARGEST_SKELLAM, "refused though a coarse grid would do"
        return
    assert z <= m.multiplier <= z * (1 + 1e-9) or m.share == 32.0
    assert m.share >= 32.0
    assert m.grid & (m.grid - 1) == 0
    noise = math.sqrt(h) * m.share / m.sensitivity
    assert m.multiplier <= noise <= m.multiplier * 1.003, "the inflation for integers is small, and never negative"
    assert m.share <= (LARGEST if kind == "gaussian" else LARGEST_SKELLAM)


@given(z=st.floats(0.02, 10), h=st.integers(1, 500), d=st.integers(1, 10_000_000))
@settings(max_examples=100, deadline=None)
def test_rounding_and_integers_cost_under_one_percent(z: float, h: int, d: int) -> None:
    m = Mechanism(z, h, d)
    assert math.sqrt(d) / m.grid <= 0.005
    assert z <= m.std(h) <= z * 1.01 or m.share == 32.0


def test_more_sites_than_the_minimum_add_their_noise() -> None:
    m = Mechanism(1.0, 4, 10)
    assert m.std(9) == pytest.approx(1.5 * m.std(4))
    assert Mechanism(1.0, 16, 10).share / Mechanism(1.0, 16, 10).grid == pytest.approx(m.share / m.grid / 2, rel=0.01)


def test_skellam_for_a_large_vector_takes_a_coarser_grid() -> None:
    m = Mechanism(1.0, 8, 1_000_000, "skellam")
    assert m.multiplier >= 1.0
    assert 0.005 < math.sqrt(m.dimension) / m.grid <= 0.1
    with pytest.raises(LocumError, match="skellam noise"):
        Mechanism(4.0, 8, 1_000_000, "skellam")
    assert Mechanism(4.0, 8, 1_000_000).multiplier >= 4.0


@both
def test_table_error_is_negligible_but_counted(kind: Kind) -> None:
    m = Mechanism(1.0, 5, 1000, kind)
    assert m.delta == 5000 * m.noise.error
    assert 0 < m.delta < 2.0**-60


# --- sensitivity ------------------------------------------------------------------------------------------------------


def moved(m: Mechanism, one: Floats, other: Floats) -> float:
    """By how much the rounded integers of two sums differ: the same key, so the noise cancels."""
    return float(np.linalg.norm((m.protect(one, key(1)) - m.protect(other, key(1))).astype(float)))


@given(rows=st.integers(1, 60), d=st.integers(1, 40), scale=st.sampled_from([1e-9, 1e-3, 1.0]), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_one_row_moves_the_integers_by_at_most_the_stated_sensitivity(rows: int, d: int, scale: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, d)) * draw.choice([scale, 1.0], size=(rows, 1))
    x /= np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True))
    m = Mechanism(0.5, 1, d)
    assert moved(m, x.sum(axis=0), x[1:].sum(axis=0)) <= m.sensitivity


def test_the_sensitivity_is_reached_so_rounding_must_be_counted() -> None:
    """d = 1024: a unit vector of whole steps and a hair, added where every coordinate is a hair below one half."""
    m = Mechanism(1.0, 1, 1024)
    base = np.full(1024, (0.5 - 1e-7) / m.grid)
    other = base + 2.0**-5 * (1 + 1e-6)
    assert m.grid + 0.99 * 32 < moved(m, base, other) <= m.sensitivity


def test_the_sensitivity_of_a_correlated_run_needs_its_spread() -> None:
    band, d, rounds = 6, 1024, 6
    plain, m = Mechanism(1.0, 1, d), Mechanism(1.0, 1, d, spread=matrix.spread(band))
    for mechanism, holds in ((m, True), (plain, False)):
        y = np.full((rounds, d), (0.5 - 1e-7) / mechanism.grid)
        x: list[Floats] = []
        for t in range(rounds):
            x.append(matrix.restore(x, y[t], band))
        without = x[0] - 2.0**-5 * (1 + 1e-6)
        base = [matrix.correlate(x[:t], x[t], band) for t in range(rounds)]
        other = [matrix.correlate([without, *x[1:]][:t], [without, *x[1:]][t], band) for t in range(rounds)]
        # mirrored: half a step and a hair above, so that leaving the row out rounds down by one more
        total = math.hypot(*(moved(mechanism, 2 * y[t] + 2e-7 / mechanism.grid - y[t], other[t] + 2e-7 / mechanism.grid) for t in range(rounds)))
        assert np.allclose(base, y, atol=1e-12)
        assert (total <= mechanism.sensitivity * matrix.sensitivity(band, rounds, rounds)) is holds


# --- the noise --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("z", "h"), [(0.3, 1), (1.0, 5), (4.0, 20)])
def test_the_noise_of_h_shares_has_the_stated_deviation(kind: Kind, z: float, h: int) -> None:
    d = 20_000
    m = Mechanism(z, h, d, kind)
    x = m.reveal(sum((m.protect(np.zeros(d), key(2, i)) for i in range(h)), np.zeros(d, np.int64)))
    assert x.std() == pytest.approx(m.std(h), rel=5 / math.sqrt(2 * d))
    assert abs(x.mean()) < 5 * m.std(h) / math.sqrt(d)
    assert stats.kstest(x / m.std(h), "norm").pvalue > 1e-4


@both
def test_reveal_is_unbiased(kind: Kind) -> None:
    d, n = 5000, 4
    m = Mechanism(0.05, n, d, kind)
    sites = [np.random.default_rng(i).uniform(-0.01, 0.01, d) for i in range(n)]
    total = sum((m.protect(v, key(3, i)) for i, v in enumerate(sites)), np.zeros(d, np.int64))
    error = m.reveal(total) - np.sum(sites, axis=0)
    assert abs(error.mean()) < 5 * m.std(n) / math.sqrt(d)
    assert error.std() == pytest.approx(m.std(n), rel=5 / math.sqrt(2 * d))


@both
def test_without_noise_the_value_is_the_nearest_step(kind: Kind) -> None:
    m = Mechanism(0.5, 1, 3, kind)
    v = np.array([0.123456, -0.7, 0.0])
    steps = m.protect(v, key(4)) - m.protect(np.zeros(3), key(4))
    assert np.abs(m.reveal(steps) - v).max() <= 0.5 / m.grid


# --- privacy, exactly -------------------------------------------------------------------------------------------------


def pmf(kind: Kind, variance: float) -> tuple[NDArray[np.int64], Floats]:
    k = np.arange(-math.ceil(14 * math.sqrt(variance)), math.ceil(14 * math.sqrt(variance)) + 1)
    p = np.exp(-(k**2) / (2 * variance)) if kind == "gaussian" else special.ive(np.abs(k), variance)
    return k, p / p.sum()


def gaussian_profile(mu: float, eps: float) -> float:
    return float(stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu))


@pytest.mark.parametrize("z", [0.1, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5, 1.0, 3.0, 8.0])
def test_the_exact_profile_is_not_worse_than_the_continuous_gaussians(z: float, eps: float) -> None:
    """Canonne, Kamath, Steinke 2020, theorem 7, in one dimension, at the largest shift of integers that one unit causes."""
    m = Mechanism(z, 1, 1)
    k, p = pmf("gaussian", m.share**2)
    for shift in {1, m.grid // 3, m.grid + 1}:
        assert shift <= m.sensitivity
        middle = eps * m.share**2 / shift
        above, below = p[k > middle - shift / 2].sum(), p[k > middle + shift / 2].sum()
        delta = above - math.exp(eps) * below
        assert delta <= gaussian_profile(1 / m.multiplier, eps) + 1e-12 * (above + math.exp(eps) * below)


def curve(kind: Kind, variance: float, shift: int) -> Floats:
    """Normal quantiles of the vertices of the trade-off curve of X and X + shift: their differences, which for Gaussians are all mu."""
    k, p = pmf(kind, variance)
    tail = np.cumsum(p[::-1])[::-1]
    left = stats.norm.isf(np.where(tail <= 0.5, tail, 0.5))
    right = -stats.norm.isf(np.where(tail > 0.5, np.cumsum(p) - p, 0.5))
    z = np.where(tail <= 0.5, left, right)
    inside = z[np.abs(k) <= 10 * math.sqrt(variance)]
    out: Floats = inside[shift:] - inside[:-shift]
    return out


def allowed(kind: Kind, variance: float, shift: int) -> float:
    """The mechanism's 1 / multiplier for one site, one dimension and integers that move by `shift`."""
    if kind == "gaussian":
        return shift / math.sqrt(variance - 1 / 8)
    return math.sqrt(shift**2 / variance + (shift**2 + 3 * shift) / variance**2)


@both
@pytest.mark.parametrize("sigma", [2.0, 5.0, 16.0, 100.0, 1000.0])
@pytest.mark.parametrize("over", [0.0, 0.3, 1.0, 4.0])
def test_trade_off_curve_lies_above_the_gaussian_one(kind: Kind, sigma: float, over: float) -> None:
    """This justifies Gaussian-DP filters: in one dimension each integer shift, then products of curves keep their order."""
    shift = max(1, round(over * sigma))
    assert curve(kind, sigma**2, shift).max() <= allowed(kind, sigma**2, shift) * (1 + 1e-10)


@pytest.mark.parametrize("sigma", [2.0, 16.0])
def test_without_the_correction_the_curve_would_lie_below(sigma: float) -> None:
    assert curve("gaussian", sigma**2, round(sigma)).max() > round(sigma) / sigma * (1 + 1 / (30 * sigma**2))


@both
def test_the_mechanism_uses_the_formulas_that_were_checked(kind: Kind) -> None:
    for z, h, d in ((0.7, 1, 1), (0.7, 6, 1), (2.0, 3, 50)):
        m = Mechanism(z, h, d, kind)
        s2, step = h * m.share**2, m.sensitivity
        l1 = math.sqrt(d) * step
        inverse = step / math.sqrt(s2 - 4) if kind == "gaussian" else math.sqrt(step**2 / s2 + (step**2 + 3 * l1) / s2**2)
        assert 1 / m.multiplier == pytest.approx(inverse, rel=1e-12)


ORDERS = [(s, d, a) for s in (16.0, 60.0) for d in (1, 7, 60, 200) for a in (1.1, 1.5, 2.0, 2.5, 8.0, 64.0) if a * d <= 25 * s]
"""(sigma, shift, order): the moments must be dominated by probabilities that float64 can hold."""


@pytest.mark.parametrize(("sigma", "shift", "order"), ORDERS)
def test_renyi_divergence_of_skellam_shifts(sigma: float, shift: int, order: float) -> None:
    """Proven for whole orders; here for others too."""
    k = np.arange(-math.ceil(36 * sigma), math.ceil(36 * sigma) + 1)
    log = np.log(special.ive(np.abs(k), sigma**2))
    moment = order * log[shift:] + (1 - order) * log[:-shift]
    divergence = special.logsumexp(moment) / (order - 1)
    assert 0.7 * order / 2 * (shift / sigma) ** 2 < divergence <= order / 2 * allowed("skellam", sigma**2, shift) ** 2


@pytest.mark.parametrize(("sigma", "h"), [(0.6, 2), (0.6, 5), (1.0, 3)])
def test_a_sum_of_discrete_gaussians_is_one_within_tau(sigma: float, h: int) -> None:
    """The bound that Kairouz et al. prove, with k / (k + 1) replaced by 1/2."""
    k = np.arange(-60, 61)
    one = np.exp(-(k**2) / (2 * sigma**2))
    one /= one.sum()
    total = one
    for _ in range(h - 1):
        total = np.convolve(total, one)
    at = np.arange(-60 * h, 60 * h + 1)
    exact = np.exp(-(at**2) / (2 * h * sigma**2))
    exact /= exact.sum()
    near = np.abs(at) <= 5 * sigma * math.sqrt(h)
    ratio = np.abs(np.log(total[near] / exact[near])).max()
    assert 1e-6 < ratio <= 10 * (h - 1) * math.exp(-((math.pi * sigma) ** 2))


# --- bad input --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("z", [0.0, -1.0, math.nan, math.inf, 1e300, 1e-300])
def test_a_bad_multiplier_is_refused(kind: Kind, z: float) -> None:
    with pytest.raises(LocumError, match="multiplier"):
        Mechanism(z, 3, 10, kind)


@pytest.mark.parametrize("count", [0, -1, 1.5, math.nan, True, 10**400])
def test_a_bad_count_is_refused(count: int) -> None:
    with pytest.raises(LocumError, match="honest minimum"):
        Mechanism(1.0, count, 10)
    with pytest.raises(LocumError, match="dimension"):
        Mechanism(1.0, 3, count)


@pytest.mark.parametrize("spread", [0.0, 0.99, math.nan, math.inf])
def test_a_bad_spread_is_refused(spread: float) -> None:
    with pytest.raises(LocumError, match="spread"):
        Mechanism(1.0, 3, 10, spread=spread)


def test_another_kind_is_refused() -> None:
    with pytest.raises(LocumError, match="laplace"):
        Mechanism(1.0, 3, 10, "laplace")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_a_value_that_cannot_be_rounded_is_refused(bad: float) -> None:
    with pytest.raises(LocumError, match="NaN, infinity or a value too large"):
        Mechanism(1.0, 3, 3).protect(np.array([0.0, bad, 0.0]), key(5))


def test_another_shape_is_refused() -> None:
    m = Mechanism(1.0, 3, 3)
    with pytest.raises(LocumError, match="shape"):
        m.protect(np.zeros(4), key(5))
    with pytest.raises(LocumError, match="shape"):
        m.reveal(np.zeros((3, 1), np.int64))
