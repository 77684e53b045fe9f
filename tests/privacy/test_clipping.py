"""Clipping by patient, against a plain loop over patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from locum.errors import LocumError
from locum.privacy import clipping
from locum.privacy.clipping import clipped_sum, factors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TINY = 1e-12


def data(rows: int, d: int, patients: int, seed: int) -> tuple[Floats, Ints]:
    """Rows of very different lengths, some of them zero."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, d)) * draw.choice([0.0, 1e-200, 1e-3, 1.0, 1e3, 1e200], size=(rows, 1))
    return x, draw.integers(0, patients, rows) * 7 - 3


def plain(x: Floats, who: Ints, clip: float) -> Floats:
    total = np.zeros(x.shape[1])
    for p in set(who.tolist()):
        g = x[who == p].sum(axis=0)
        norm = math.hypot(*g.tolist())
        total += g * min(1.0, clip / norm) if norm else g
    return total


shapes = given(rows=st.integers(0, 30), d=st.integers(1, 12), patients=st.integers(1, 40), clip=st.sampled_from([1e-3, 1.0, 50.0]), seed=st.integers(0, 10**6))


@shapes
@settings(max_examples=100, deadline=None)
def test_equal_to_a_loop_over_patients(rows: int, d: int, patients: int, clip: float, seed: int) -> None:
    x, who = data(rows, d, patients, seed)
    np.testing.assert_allclose(clipped_sum(x, who, clip).total, plain(x, who, clip), rtol=0, atol=clip * rows * 1e-6)


@shapes
@settings(max_examples=150, deadline=None)
def test_one_patient_more_or_less_changes_the_sum_by_at_most_the_clip(rows: int, d: int, patients: int, clip: float, seed: int) -> None:
    x, who = data(rows, d, patients, seed)
    with_all = clipped_sum(x, who, clip).total
    for p in set(who.tolist()):
        without = clipped_sum(x[who != p], who[who != p], clip).total
        assert np.linalg.norm(with_all - without) <= clip * (1 + TINY)


@given(d=st.integers(1, 3000), dtype=st.sampled_from(["f4", "f8"]), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_one_long_vector_is_never_above_the_clip(d: int, dtype: str, seed: int) -> None:
    """Judged with exact sums: the margin must absorb every rounding."""
    g = np.random.default_rng(seed).normal(size=(1, d)).astype(dtype)
    total = clipped_sum(g, [0], 0.5).total
    length = math.sqrt(math.fsum(v * v for v in total.tolist()))
    assert 0.5 * (1 - 2e-6) < length <= 0.5 or np.linalg.norm(g) < 0.5


def test_many_rows_of_a_patient_weigh_as_one() -> None:
    """Clipping rows instead would let the patient weigh 100 times the clip."""
    x = np.tile([[3.0, 4.0]], (100, 1))
    total = clipped_sum(x, np.zeros(100, int)).total
    np.testing.assert_allclose(total, [0.6, 0.8], rtol=2e-6)
    np.testing.assert_allclose(clipped_sum(x, np.arange(100)).total, [60.0, 80.0], rtol=2e-6)


def test_short_vectors_stay_as_they_are() -> None:
    x = np.array([[0.25, 0.5], [-0.125, 0.0]])
    assert clipped_sum(x, [1, 2]).total.tolist() == [0.125, 0.5]


def test_the_share_that_was_clipped() -> None:
    made = clipped_sum(np.array([[2.0], [0.1], [0.2], [3.0], [-3.0]]), ["a", "b", "c", "d", "d"])
    assert made.clipped_share == 0.25


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_patient_who_is_not_finite_adds_nothing_and_stops_nobody(bad: float) -> None:
    x = np.array([[0.5, 0.0], [bad, 1.0], [0.0, 1.0]])
    made = clipped_sum(x, [1, 2, 2])
    assert made.total.tolist() == [0.5, 0.0]
    assert made.not_finite == 1


def test_sums_that_overflow_add_nothing() -> None:
    made = clipped_sum(np.array([[1e308], [1e308], [0.5]]), [1, 1, 2])
    assert made.total.tolist() == [0.5]
    assert made.not_finite == 1


def test_nobody_drawn_gives_zero() -> None:
    made = clipped_sum(np.zeros((0, 3)), np.zeros(0, int))
    assert made.total.tolist() == [0.0, 0.0, 0.0]
    assert made.clipped_share == 0.0


def test_order_of_rows_does_not_matter() -> None:
    x, who = data(30, 4, 8, 5)
    x = np.clip(x, -10, 10)
    order = np.random.default_rng(1).permutation(30)
    np.testing.assert_allclose(clipped_sum(x, who).total, clipped_sum(x[order], who[order]).total, atol=1e-5)


def test_more_patients_than_a_block() -> None:
    n = 2 * clipping._BLOCK + 17
    x = np.random.default_rng(2).normal(size=(n, 2))
    f = np.minimum(1, 1 / np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(clipped_sum(x, np.arange(n)).total, f @ x, atol=n * 2e-6)


# --- factors for ghost norms --------------------------------------------------------------------------------------------


@given(norms=st.lists(st.floats(0, 1e300), max_size=20), clip=st.floats(1e-6, 1e6))
def test_factors_bring_every_norm_under_the_clip(norms: list[float], clip: float) -> None:
    f = factors(norms, clip)
    assert f.shape == (len(norms),)
    for norm, factor in zip(norms, f.tolist(), strict=True):
        assert norm * factor <= clip
        assert factor == 1.0 if norm <= clip * (1 - 2.0**-20) else norm * factor >= clip * (1 - 2e-6)


def test_factors_of_norms_that_are_not_finite_are_zero() -> None:
    assert factors([math.nan, math.inf, 0.0]).tolist() == [0.0, 0.0, 1.0]


def test_factors_give_the_clipped_sum() -> None:
    x = np.random.default_rng(3).normal(size=(50, 6))
    np.testing.assert_allclose(factors(np.linalg.norm(x, axis=1)) @ x, clipped_sum(x, np.arange(50)).total, rtol=1e-12)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_clip_is_refused(clip: float) -> None:
    with pytest.raises(LocumError, match="clip"):
        clipped_sum(np.ones((2, 2)), [0, 1], clip)


@pytest.mark.parametrize(("vectors", "patient"), [(np.ones((2, 2)), [0]), (np.ones(2), [0, 1]), (np.ones((2, 2)), [[0], [1]])])
def test_shapes_that_do_not_match_are_refused(vectors: Floats, patient: list[int]) -> None:
    with pytest.raises(LocumError, match="shape"):
        clipped_sum(vectors, patient)
