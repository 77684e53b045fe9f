"""Means, variances and the step that standardises, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "year": {},
    "arm": {"type": "category", "categories": ["a", "b"]},
}
MOMENTS = {"name": "m", "task": "moments", "variables": ["age", "year"]}


def columns(n=300, seed=0):
    r = np.random.default_rng(seed)
    age = r.normal(60, 12, n)
    age[::7] = np.nan
    return {"age": age, "year": 2.0e6 + r.normal(0, 0.01, n), "arm": r.integers(0, 2, n).astype(float)}


def test_means_and_variances_even_far_from_zero(run, scatter):
    d = columns()
    got = run(VARIABLES, [MOMENTS], scatter(d, [1, 2, 0, 100]))["m"]["variables"]
    for name in ("age", "year"):
        x = d[name][~np.isnan(d[name])]
        np.testing.assert_allclose([got[name]["mean"], got[name]["variance"]], [x.mean(), x.var(ddof=1)], rtol=1e-7)
        assert (got[name]["n"], got[name]["missing"]) == (len(x), 300 - len(x))


def test_one_round_is_enough_near_the_public_midpoint(build_study, run_state, scatter):
    one = run_state(build_study(VARIABLES, [{**MOMENTS, "variables": ["age"]}]), scatter(columns(), [50]))[1]
    two = run_state(build_study(VARIABLES, [MOMENTS]), scatter(columns(), [50]))[1]
    assert (int(one["m.rounds"]), int(two["m.rounds"])) == (1, 2)


def test_by_group(run, scatter):
    d = columns()
    got = run(VARIABLES, [{**MOMENTS, "by": "arm"}], scatter(d, [50]))["m"]["variables"]["age"]
    for g, name in enumerate("ab"):
        x = d["age"][(d["arm"] == g) & ~np.isnan(d["age"])]
        np.testing.assert_allclose([got[name]["mean"], got[name]["sd"]], [x.mean(), x.std(ddof=1)], rtol=1e-10)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50),
    cuts=st.lists(st.integers(0, 50), max_size=5),
    seed=st.integers(0, 100),
)
def test_any_partition_gives_the_pooled_moments(run, scatter, x, cuts, seed):
    d = {"age": np.array(x), "year": np.zeros(len(x)), "arm": np.zeros(len(x))}
    got = run(VARIABLES, [MOMENTS], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["m"]["variables"]["age"]
    np.testing.assert_allclose(got["mean"], np.mean(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got["variance"], np.var(x, ddof=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9, -3.3e-7])
def test_a_constant_column_cannot_be_standardised(run, scatter, value):
    d = {**columns(), "year": np.full(300, value)}
    with pytest.raises(TaskError, match="'year' is constant in the cohort"):
        run(VARIABLES, [{**MOMENTS, "task": "standardise"}], scatter(d, [1, 7]))
    assert run(VARIABLES, [MOMENTS], scatter(d, [1, 7]))["m"]["variables"]["year"]["variance"] == 0.0


def test_a_column_missing_everywhere(run, scatter):
    with pytest.raises(TaskError, match="'year' is missing in every row"):
        run(VARIABLES, [MOMENTS], scatter({**columns(), "year": np.full(300, np.nan)}, [7]))


def test_one_row_has_a_mean_and_no_variance(run):
    got = run(VARIABLES, [MOMENTS], [Rows.of({"age": [50.0], "year": [2000.0], "arm": [0.0]})])["m"]["variables"]
    assert got["age"] == {"n": 1, "missing": 0, "mean": 50.0, "variance": None, "sd": None}


def test_patients_not_rows_are_counted(build_study):
    task = build_plan(build_study(VARIABLES, [MOMENTS]))[0]
    rows = Rows.of({"age": [1, 2, np.nan], "year": [1, 2, np.nan], "arm": [0, 0, 0]}, patient=["p", "p", "q"])
    assert task.visit({}, rows, {}, np.random.default_rng(0)).rows == 1


def test_wrong_parameters(build_study):
    for more, message in (
        ({"variables": ["arm"]}, "is a category and has no mean"),
        ({"by": "age"}, "by = 'age' is not a category"),
        ({"variables": ["agge"]}, "did you mean 'age'"),
        ({"task": "standardise", "by": "arm"}, "unknown key 'by'"),
    ):
        with pytest.raises(ManifestError, match=message):
            build_plan(build_study(VARIABLES, [{**MOMENTS, **more}]))
