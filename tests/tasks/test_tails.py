"""Against scipy, which is a dependency of the tests only."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from locum.tasks.tails import chi_square_upper, normal_two_sided, student_95, student_two_sided


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 10, 51])
@pytest.mark.parametrize("x", [0.0, 1e-6, 0.3, 1.0, 3.84, 20.0, 90.0, 400.0])
def test_chi_square(x, df):
    np.testing.assert_allclose(chi_square_upper(x, df), stats.chi2.sf(x, df), rtol=1e-11)


@pytest.mark.parametrize("df", [1, 2, 5, 30, 1000, 250_000])
@pytest.mark.parametrize("t", [0.0, 1e-4, 0.5, -1.96, 3.0, 12.0, 35.0])
def test_student(t, df):
    np.testing.assert_allclose(student_two_sided(t, df), 2 * stats.t.sf(abs(t), df), rtol=1e-9)


@pytest.mark.parametrize("df", [1, 2, 5, 30, 1000, 250_000])
def test_student_quantile(df):
    np.testing.assert_allclose(student_95(df), stats.t.ppf(0.975, df), rtol=1e-9)


@pytest.mark.parametrize("z", [0.0, 0.1, -1.0, 1.96, 6.0, 30.0])
def test_normal(z):
    np.testing.assert_allclose(normal_two_sided(z), 2 * stats.norm.sf(abs(z)), rtol=1e-12)
