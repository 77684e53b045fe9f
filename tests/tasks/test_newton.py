"""Newton's method by itself, on functions whose maximum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.errors import TaskError
from locum.tasks.newton import Problem, Progress, Quadratic, advance, dependent, fit, pack, unpack

ONE = Problem(("x",), np.ones(1), 1e-9, "")


def log_cosh(b):
    """-log cosh(b): plain Newton diverges from |b| > 1.09."""
    return Quadratic(float(-np.log(np.cosh(b[0]))), -np.tanh(b), np.atleast_2d(1 / np.cosh(b[0]) ** 2))


def test_a_step_that_lowers_the_value_is_halved_until_it_does_not():
    progress, factors = Progress.start(np.asarray([2.0])), []
    while not progress.converged:
        progress = advance(progress, log_cosh(progress.at), ONE)
        factors.append(progress.factor)
    assert min(factors) < 1.0
    assert abs(progress.best[0]) < 1e-9


def test_an_objective_that_falls_along_its_own_gradient_is_refused():
    progress = advance(Progress.start(np.zeros(1)), Quadratic(0.0, np.ones(1), np.eye(1)), ONE)
    lower = Quadratic(-1.0, np.ones(1), np.eye(1))
    for _ in range(40):
        progress = advance(progress, lower, ONE)
    with pytest.raises(TaskError, match="does not rise"):
        advance(progress, lower, ONE)


def test_progress_survives_a_stop_after_any_round():
    progress = Progress.start(np.asarray([2.0]))
    for _ in range(30):
        arrays = progress.arrays()
        assert {a.dtype.name for a in arrays.values()} <= {"float64", "int64"}
        progress = advance(Progress.of(arrays.__getitem__), log_cosh(progress.at), ONE)
        if progress.converged:
            break
    assert progress.converged


def test_ridge_shrinks_a_quadratic_by_its_closed_form():
    def evaluate(b):
        return Quadratic(float(3 * b[0] - 2 * b[0] ** 2), np.asarray([3 - 4 * b[0]]), np.asarray([[4.0]]))

    np.testing.assert_allclose(fit(evaluate, np.asarray([2.0]), ONE), [0.5])


@settings(max_examples=50, deadline=None)
@given(p=st.integers(2, 8), seed=st.integers(0, 10_000), data=st.data())
def test_a_dependent_column_is_found_with_the_columns_it_depends_on(p, seed, data):
    r = np.random.default_rng(seed)
    x = r.normal(size=(50, p))
    parts = data.draw(st.lists(st.integers(0, p - 1), min_size=1, max_size=p, unique=True))
    y = np.column_stack([x, x[:, parts] @ r.uniform(1, 2, len(parts))])
    for matrix, expected in ((x, None), (y, {p, *parts})):
        gram = matrix.T @ matrix
        found = dependent(gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))))
        assert (found if found is None else set(found)) == expected


def test_triangle_there_and_back():
    a = np.random.default_rng(0).normal(size=(4, 4))
    np.testing.assert_array_equal(unpack(pack(a + a.T), 4), a + a.T)
