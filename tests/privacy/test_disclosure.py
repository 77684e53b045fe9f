"""Suppression against a reader who knows everything that is shown, by brute force; and bins that may not stand side by side."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.errors import ManifestError
from locum.privacy.disclosure import HIDDEN, THRESHOLD, check_bins, interval, nested, shown, suppress, suppress_table

T = 4


def fits(counts, out, total, least):
    """Every table that fits the shown cells and the total, shape (k, n)."""
    free = [range(least, total + 1) if c == HIDDEN else [int(c)] for c in out]
    return np.array([c for c in product(*free) if sum(c) == total])


@settings(max_examples=300, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=5), zeros=st.booleans())
def test_no_hidden_cell_follows_from_the_total(counts, zeros):
    out = suppress(counts, T, zeros=zeros)
    np.testing.assert_array_equal(np.where(out == HIDDEN, counts, out), counts)
    assert all(c >= T or (zeros and c == 0) for c in out[out != HIDDEN])
    hidden = np.flatnonzero(out == HIDDEN)
    everything = len(hidden) == len(counts)
    if not len(hidden):
        return
    possible = fits(counts, out, sum(counts), 0 if everything or not zeros else 1)
    for k in hidden:
        width = np.ptp(possible[:, k])
        assert width >= T or (everything and (len(counts) == 1 or width == sum(counts) < T + len(counts)))
    for subset in range(1, 2 ** len(hidden) - 1):  # nor a set of hidden cells, short of all of them
        members = [k for b, k in enumerate(hidden) if subset >> b & 1]
        assert everything or np.ptp(possible[:, members].sum(axis=1)) >= T


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_nothing_is_hidden_without_need(counts):
    out = suppress(counts)
    if all(c == 0 or c >= THRESHOLD for c in counts):
        assert out.tolist() == counts
    alone = suppress(counts, total_known=False)
    assert alone.tolist() == [HIDDEN if 0 < c < THRESHOLD else c for c in counts]
    assert suppress(counts, 0).tolist() == counts


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 3, 50, 70], [0, None, None, 70]),
        ([10, 11, 70], [None, None, 70]),
        ([5, 7, 70], [None, None, None]),  # 5 + 7 is within 10 of what two occupied cells hold at least
        ([5, 8, 70], [None, None, 70]),
        ([0, 5, 0], [None, None, None]),  # the shown zeros would leave one place for the total
        ([11, 0, 12], [11, 0, 12]),
        ([], []),
    ],
)
def test_examples(counts, expected):
    assert shown(suppress(counts)) == expected


def test_noisy_counts_hide_zeros_too():
    assert shown(suppress([2.0, 10.9, 40.2, 80.7], zeros=False)) == [None, None, 40, 81]
    assert shown(suppress([0.0, 3.0, 40.2, 80.7], zeros=False)) == [None, None, None, 81]


def test_cells_that_are_hidden_in_any_case():
    assert shown(suppress([30, 40, 50], also=[True, False, False])) == [None, None, 50]


def tables(full, out, least):
    """Every 2 x 2 table with margins that fits what is shown, shape (k, 3, 3); up to a total of 16 where that is hidden."""
    top = int(full[-1, -1]) if out[-1, -1] != HIDDEN else 16
    free = [np.arange(least, top + 1) if v == HIDDEN else np.array([v]) for v in out[:-1, :-1].ravel()]
    inside = np.stack(np.meshgrid(*free, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    rows = np.concatenate([inside, inside.sum(axis=2, keepdims=True)], axis=2)
    both = np.concatenate([rows, rows.sum(axis=1, keepdims=True)], axis=1)
    return both[((both == out) | ((out == HIDDEN) & (both >= least))).all(axis=(1, 2))]


@settings(max_examples=80, deadline=None)
@given(cells=st.lists(st.integers(0, 6), min_size=4, max_size=4), zeros=st.booleans())
def test_no_hidden_cell_follows_from_the_margins(cells, zeros):
    counts = np.reshape(cells, (2, 2)).astype(float)
    out = suppress_table(counts, 3, zeros=zeros)
    full = np.vstack([np.column_stack([counts, counts.sum(1)]), np.r_[counts.sum(0), counts.sum()]])
    np.testing.assert_array_equal(np.where(out == HIDDEN, full, out), full)
    assert all(v >= 3 or (zeros and v == 0) for v in out[out != HIDDEN])
    if not (out == HIDDEN).any() or (out == HIDDEN).all():
        return
    possible = tables(full, out, 1 if zeros else 0)
    for i, j in np.argwhere(out == HIDDEN):
        low, high = possible[:, i, j].min(), possible[:, i, j].max()
        assert high - low >= 3
        if out[-1, -1] != HIDDEN:
            assert interval(full, out == HIDDEN, (int(i), int(j)), float(zeros)) == pytest.approx((low, high))


def test_a_table():
    out = suppress_table([[3, 40, 50], [60, 70, 80], [90, 20, 100]])
    assert out[0, 0] == HIDDEN
    hidden = out == HIDDEN
    assert (hidden.sum(axis=0)[hidden.any(axis=0)] >= 2).all()
    assert (hidden.sum(axis=1)[hidden.any(axis=1)] >= 2).all()
    assert hidden.sum() == 4
    assert out[-1, -1] == 513


def test_a_table_without_small_cells_is_shown_whole():
    out = suppress_table([[11, 0], [20, 30]])
    assert out.tolist() == [[11, 0, 11], [20, 30, 50], [31, 30, 61]]


def test_nested_bins():
    assert nested([0, 5, 10], [0, 1, 5, 7, 10])
    assert nested([0, 1, 5, 7, 10], [0, 5, 10])
    assert not nested([0, 5, 10], [0, 6, 10])
    assert not nested([0, 5], [0, 5, 10])  # [0, 5] less [0, 5) counts those at exactly 5
    check_bins([("a", [0, 5, 10]), ("b", [0, 1, 5, 10])])
    check_bins([("a", [0, 5, 10]), ("b", [0, 5, 10])], suppressed=True)


@pytest.mark.parametrize(("other", "suppressed"), [([0, 6, 10], False), ([0, 1, 5, 10], True)])
def test_bins_that_could_be_subtracted(other, suppressed):
    with pytest.raises(ManifestError, match=r"'a' and 'c'.*To fix it: give 'c' the edges of 'a'"):
        check_bins([("a", [0, 5, 10]), ("b", [0, 5, 10]), ("c", other)], suppressed=suppressed)
