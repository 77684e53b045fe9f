"""The banded square root factorisation, against dense matrices and brute force."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg

from locum.errors import LocumError
from locum.privacy import matrix
from locum.privacy.matrix import best_band, coefficients, correlate, error, participations, restore, sensitivity, spread

Floats = NDArray[np.float64]


def dense(band: int, rounds: int) -> Floats:
    column = np.zeros(rounds)
    column[: min(band, rounds)] = coefficients(band)[:rounds]
    out: Floats = linalg.toeplitz(column, np.zeros(rounds))
    return out


def run(x: Floats, band: int) -> Floats:
    return np.array([correlate(list(x[:t]), x[t], band) for t in range(len(x))])


def undo(y: Floats, band: int) -> Floats:
    x: list[Floats] = []
    for row in y:
        x.append(restore(x, row, band))
    return np.array(x)


def test_the_full_band_is_the_square_root_of_the_prefix_sums() -> None:
    c = dense(30, 30)
    np.testing.assert_allclose(c @ c, np.tril(np.ones((30, 30))), atol=1e-12)


def test_coefficients() -> None:
    assert coefficients(5).tolist() == [1.0, 0.5, 0.375, 0.3125, 0.2734375]
    assert coefficients(1).tolist() == [1.0]


@pytest.mark.parametrize("band", [1, 2, 5, 12, 40])
def test_correlate_is_the_matrix_and_restore_undoes_it(band: int) -> None:
    x = np.random.default_rng(1).normal(size=(25, 3))
    y = run(x, band)
    np.testing.assert_allclose(y, dense(band, 25) @ x, atol=1e-12)
    np.testing.assert_allclose(undo(y, band), x, atol=1e-10)


@pytest.mark.parametrize("band", [1, 4, 12])
def test_what_is_restored_carries_the_noise_times_the_inverse(band: int) -> None:
    draw = np.random.default_rng(2)
    x, z = draw.normal(size=(20, 4)), draw.normal(size=(20, 4))
    restored = undo(run(x, band) + z, band)
    np.testing.assert_allclose(restored - x, np.linalg.inv(dense(band, 20)) @ z, atol=1e-9)


def test_restoring_a_sum_restores_each_site() -> None:
    x = np.random.default_rng(3).normal(size=(3, 15, 2))
    np.testing.assert_allclose(undo(np.sum([run(site, 4) for site in x], axis=0), 4), x.sum(axis=0), atol=1e-10)


def test_nothing_is_changed_in_place() -> None:
    history, now = [np.ones(2), np.ones(2)], np.ones(2)
    correlate(history, now, 3)
    restore(history, now, 3)
    assert now.tolist() == [1.0, 1.0]
    assert [h.tolist() for h in history] == [[1.0, 1.0], [1.0, 1.0]]


# --- sensitivity ------------------------------------------------------------------------------------------------------


def brute_force(band: int, rounds: int, separation: int, most: int) -> float:
    """The largest |C u| over all patterns of participation. Entries of C are >= 0, so equal directions are worst."""
    c, best = dense(band, rounds), 0.0
    for k in range(1, most + 1):
        for pattern in combinations(range(rounds), k):
            if all(b - a >= separation for a, b in pairwise(pattern)):
                best = max(best, float(np.linalg.norm(c[:, list(pattern)].sum(axis=1))))
    return best


@pytest.mark.parametrize("rounds", [1, 5, 9, 10])
@pytest.mark.parametrize("separation", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("band", [1, 2, 3, 7, 15])
def test_sensitivity_is_exact(band: int, rounds: int, separation: int) -> None:
    k = participations(rounds, separation)
    assert sensitivity(band, rounds, separation) == pytest.approx(brute_force(band, rounds, separation, k), rel=1e-12)
    assert sensitivity(band, rounds, separation, 2) == pytest.approx(brute_force(band, rounds, separation, min(2, k)), rel=1e-12)


def test_directions_other_than_equal_are_not_worse() -> None:
    draw, c = np.random.default_rng(4), dense(5, 12)
    for _ in range(300):
        u = np.zeros((12, 3))
        u[[0, 3, 6, 9]] = draw.normal(size=(4, 3))
        u /= np.maximum(1e-300, np.linalg.norm(u, axis=1, keepdims=True))
        assert np.linalg.norm(c @ u) <= sensitivity(5, 12, 3) + 1e-12


def test_a_band_within_the_separation_costs_root_k_columns() -> None:
    c = coefficients(8)
    assert sensitivity(8, 40, 10) == pytest.approx(np.sqrt(4 * c @ c))


@pytest.mark.parametrize(("rounds", "separation", "k"), [(100, 10, 10), (101, 10, 11), (9, 10, 1), (1, 1, 1)])
def test_participations(rounds: int, separation: int, k: int) -> None:
    assert participations(rounds, separation) == k


@pytest.mark.parametrize("band", [1, 2, 6, 20])
@pytest.mark.parametrize("separation", [3, 6, 20])
@pytest.mark.parametrize("rounds", [6, 20, 25])
def test_spread_covers_the_rounding_of_every_round_that_a_patient_touches(band: int, separation: int, rounds: int) -> None:
    """sqrt(rounds touched) <= spread * sensitivity, for each way to take part as often as possible."""
    touched = {t + j for t in range(0, rounds, separation) for j in range(band) if t + j < rounds}
    assert np.sqrt(len(touched)) <= spread(band) * sensitivity(band, rounds, separation) * (1 + 1e-12)


# --- what it is for -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("band", "rounds", "separation"), [(1, 20, 5), (3, 20, 5), (5, 17, 5), (20, 20, 20)])
def test_error_is_that_of_the_dense_matrices(band: int, rounds: int, separation: int) -> None:
    b = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(dense(band, rounds))
    assert error(band, rounds, separation) == pytest.approx(sensitivity(band, rounds, separation) * np.linalg.norm(b) / np.sqrt(rounds), rel=1e-10)


@pytest.mark.parametrize(("rounds", "separation"), [(20, 5), (100, 10), (300, 60), (64, 64)])
def test_correlated_noise_hurts_prefix_sums_less(rounds: int, separation: int) -> None:
    band = best_band(rounds, separation)
    assert 1 < band <= separation
    assert error(band, rounds, separation) < error(2, rounds, separation) <= error(1, rounds, separation)
    # and as drawn: noise of one sensitivity, restored, summed up
    z = np.random.default_rng(5).normal(size=(rounds, 2000))
    drawn = {w: np.cumsum(undo(z, w), axis=0).std() * sensitivity(w, rounds, separation) for w in (1, band)}
    assert drawn[band] < 0.8 * drawn[1]
    assert drawn[band] == pytest.approx(error(band, rounds, separation), rel=0.05)


def test_one_round_needs_no_band() -> None:
    assert best_band(1, 1) == 1
    assert error(1, 1, 1) == 1.0


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -3])
def test_numbers_below_one_are_refused(bad: int) -> None:
    for call in (
        lambda: coefficients(bad),
        lambda: sensitivity(bad, 5, 2),
        lambda: sensitivity(2, bad, 2),
        lambda: sensitivity(2, 5, bad),
        lambda: sensitivity(2, 5, 2, bad),
        lambda: error(2, bad, 2),
        lambda: best_band(5, bad),
    ):
        with pytest.raises(LocumError, match="whole number from 1"):
            call()


def test_a_history_of_another_shape_is_refused() -> None:
    with pytest.raises(LocumError, match="shape"):
        correlate([np.zeros(3)], np.zeros(4), 2)
    with pytest.raises(LocumError, match="shape"):
        matrix.restore([np.zeros(1)], np.zeros(4), 2)
