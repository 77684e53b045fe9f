"""Histograms and quantiles against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "x": {"minimum": -100, "maximum": 1000},
    "k": {"type": "integer", "minimum": 0, "maximum": 50},
    "free": {},
}
QUANTILES = {"name": "q", "task": "quantiles", "variable": "x"}


def both(x):
    return {"x": np.asarray(x, float), "k": np.zeros(len(x)), "free": np.zeros(len(x))}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=st.lists(st.one_of(st.floats(-100, 1000), st.sampled_from([-100.0, 0.0, 7.25, 1000.0])), min_size=1, max_size=60),
    p=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    bins=st.sampled_from([2, 10, 64]),
)
def test_the_quantile_lies_within_the_stated_bound(run, scatter, x, p, cuts, bins):
    sites = scatter(both(x), np.diff([0, *sorted(cuts)]).tolist())
    got = run(VARIABLES, [{**QUANTILES, "probabilities": p, "tail": 1, "bins": bins}], sites)["q"]
    assert got["converged"]
    for answer in got["quantiles"]:
        exact = np.sort(x)[max(0, int(np.ceil(answer["probability"] * len(x) - 1e-9)) - 1)]
        assert abs(answer["value"] - exact) <= answer["error_bound"] * (1 + 1e-9) + 1e-12
        assert answer["error_bound"] <= 1100e-6


def test_against_numpy(run, scatter):
    x = np.random.default_rng(0).normal(50, 20, 1001)
    got = run(VARIABLES, [{**QUANTILES, "tolerance": 1e-9}], scatter(both(x), [1, 2, 0, 400]))["q"]
    np.testing.assert_allclose([q["value"] for q in got["quantiles"]], np.quantile(x, [0.25, 0.5, 0.75], method="inverted_cdf"), atol=1e-9)


def test_a_tolerance_below_the_precision_of_a_double_still_ends(run, scatter):
    got = run(VARIABLES, [{**QUANTILES, "tolerance": 1e-30}], scatter(both(np.full(50, 0.1)), [20]))["q"]
    assert got["converged"]
    assert all(abs(q["value"] - 0.1) <= q["error_bound"] < 1e-12 for q in got["quantiles"])


def test_whole_numbers_are_exact(run, scatter):
    k = np.random.default_rng(1).integers(0, 51, 200).astype(float)
    got = run(VARIABLES, [{**QUANTILES, "variable": "k"}], scatter({**both(k), "k": k}, [90]))["q"]["quantiles"]
    assert [q["value"] for q in got] == np.quantile(k, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    assert all(q["error_bound"] == 0 for q in got)


def test_extremes_are_not_shown(run, scatter):
    for p in (0.01, 0.99):
        with pytest.raises(TaskError, match="fewer than 5 values on one side"):
            run(VARIABLES, [{**QUANTILES, "probabilities": [p]}], scatter(both(np.arange(100)), [40]))
    with pytest.raises(TaskError, match="fewer than 5"):
        run(VARIABLES, [QUANTILES], scatter(both([np.nan] * 9), [4]))


def test_limits_given_in_the_step(run, scatter):
    x = np.random.default_rng(3).normal(0, 1, 301)
    plan = [{**QUANTILES, "variable": "free", "minimum": -10, "maximum": 10, "probabilities": [0.5]}]
    got = run(VARIABLES, plan, scatter({**both(x), "free": x}, [90]))["q"]["quantiles"][0]
    assert abs(got["value"] - np.median(x)) <= got["error_bound"] <= 1e-5


@pytest.mark.parametrize("value", [-200.0, 2000.0])
def test_values_outside_the_range_are_refused(run, scatter, value):
    with pytest.raises(TaskError, match="outside the declared range"):
        run(VARIABLES, [QUANTILES], scatter(both(np.full(50, value)), [20]))


def test_histogram(run, scatter):
    x = np.r_[np.random.default_rng(2).uniform(-150, 1100, 300), 1000.0, -100.0, np.nan]
    sites = scatter(both(x), [1, 2, 0, 100])
    for more, edges in (({"bins": 7}, np.linspace(-100, 1000, 8)), ({"edges": [0, 1, 10, 999]}, np.array([0, 1, 10, 999.0]))):
        got = run(VARIABLES, [{"name": "h", "task": "histogram", "variable": "x", **more}], sites)["h"]
        assert got["counts"] == np.histogram(x[:-1], edges)[0].tolist()
        assert (got["below"], got["above"], got["missing"]) == ((x < edges[0]).sum(), (x > edges[-1]).sum(), 1)
        assert sum(got["counts"]) + got["below"] + got["above"] == len(x) - 1


def test_wrong_parameters(build_study):
    for step, message in (
        ({**QUANTILES, "variable": "free"}, "needs the range of 'free'"),
        ({**QUANTILES, "minimum": 5, "maximum": 4}, "minimum must lie below maximum"),
        ({**QUANTILES, "probabilities": [0]}, "greater than 0"),
        ({"name": "h", "task": "histogram", "variable": "x", "edges": [1, 1]}, "increasing"),
        ({"name": "h", "task": "histogram", "variable": "free"}, r"edges = \[\.\.\.\]"),
    ):
        with pytest.raises(ManifestError, match=message):
            build_plan(build_study(VARIABLES, [step]))
