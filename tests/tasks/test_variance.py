"""Whatever the score's shape, the search ends where the score falls through zero, or at zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.tasks.variance import LARGEST, Search


def find(score, slope, unit=1.0, start=0.0, tolerance=1e-10, most=200):
    search = Search(start)
    for round_ in range(most):
        search = search.advance(score(search.at), slope(search.at), unit, tolerance)
        if search.converged or search.endless:
            return search, round_ + 1
    raise AssertionError("no end")


@settings(max_examples=2000)
@given(root=st.floats(1e-6, 1e6), start=st.floats(0, 1e3), unit=st.floats(1e-2, 1e2))
def test_a_likelihood_of_one_variance(root, start, unit):
    """The score of n log(x + 1) / 2 + n (root + 1) / (2 (x + 1)): not concave beyond twice the root."""
    n = ((root + 1) / unit) ** 2  # so that the unit is a standard error, as the search is told
    got, _ = find(lambda x: n * (root - x) / (x + 1) ** 2, lambda x: n * (2 * root + 1 - x) / (x + 1) ** 3, unit, start)
    assert abs(got.at - root) <= 1e-7 * (root + unit)


@given(start=st.floats(0, 1e3), at=st.floats(-5, 0))
def test_the_boundary(start, at):
    got, rounds = find(lambda x: at - x, lambda x: 1.0, 1.0, start)
    assert got.at <= 1e-9
    assert rounds <= 5


@pytest.mark.parametrize("start", [0.0, 0.3, 40.0])
def test_a_slope_of_the_wrong_sign_does_not_mislead(start):
    got, _ = find(lambda x: np.cos(x / 10.0) - 0.2, lambda x: -0.5, 4.0, start, most=2000)
    assert abs(np.cos(got.at / 10.0) - 0.2) < 1e-6


def test_without_an_end():
    got, _ = find(lambda x: 1.0 / (1.0 + x), lambda x: 1.0 / (1.0 + x) ** 2)
    assert got.endless
    assert got.at > LARGEST
