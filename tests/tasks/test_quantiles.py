"""Histograms and quantiles against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.data.rows import Rows
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
        with pytest.raises(TaskError, match="fewer than 11 values on one side"):
            run(VARIABLES, [{**QUANTILES, "probabilities": [p]}], scatter(both(np.arange(100)), [40]))
    with pytest.raises(TaskError, match="fewer than 11"):
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
        got = run(VARIABLES, [{"name": "h", "task": "histogram", "variable": "x", "threshold": 0, **more}], sites)["h"]
        assert got["suppressed"] == 0
        assert got["counts"] == np.histogram(x[:-1], edges)[0].tolist()
        assert (got["below"], got["above"], got["missing"]) == ((x < edges[0]).sum(), (x > edges[-1]).sum(), 1)
        assert sum(got["counts"]) + got["below"] + got["above"] == len(x) - 1


HISTOGRAM = {"name": "h", "task": "histogram", "variable": "x", "edges": [0, 10, 20, 30, 40]}


def test_small_cells_are_suppressed_with_a_partner(build_study, run_state, scatter):
    x = np.repeat([5.0, 15.0, 25.0, 35.0, -1.0], [3, 50, 40, 60, 12])
    study = build_study(VARIABLES, [HISTOGRAM])
    results, state = run_state(study, scatter(both(x), [20, 40]))
    got = results["h"]
    assert got["counts"] == [None, 50, None, 60]
    assert (got["below"], got["above"], got["missing"]) == (12, 0, 0)
    assert (got["suppressed"], got["threshold"]) == (2, 11)
    assert state["h.counts"].tolist() == [-1, 50, -1, 60]
    assert not any(np.isin([3, 40], a).any() for a in state.values())


def test_small_cells_outside_the_bins(run, scatter):
    x = np.repeat([5.0, 15.0, 25.0, 35.0, -1.0, np.nan], [30, 50, 40, 60, 2, 12])
    got = run(VARIABLES, [HISTOGRAM], scatter(both(x), [20]))["h"]
    assert (got["counts"], got["below"], got["above"], got["missing"]) == ([30, 50, 40, 60], None, 0, None)


def test_a_cell_with_many_records_of_few_patients(run):
    x = np.repeat([5.0, 15.0, 25.0, 35.0], [40, 50, 40, 60])
    patient = [f"p{i % 3}" if v == 5.0 else f"q{i}" for i, v in enumerate(x)]
    got = run(VARIABLES, [HISTOGRAM], [Rows.of(both(x), patient)])["h"]
    assert got["counts"] == [None, 50, None, 60]


def test_no_threshold_shows_everything_and_says_so(build_study):
    shows, hides = (build_plan(build_study(VARIABLES, [{**HISTOGRAM, "threshold": t}]))[0].leaves() for t in (0, 11))
    assert "no cell is suppressed" in shows
    assert "fewer than 11 patients are suppressed" in hides


SECOND = {**HISTOGRAM, "name": "h2"}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"edges": [0, 15, 40]}, "'h' and 'h2' count the same variable in different bins.*give 'h2' the edges of 'h'"),
        ({}, {"edges": [0, 20, 40]}, "'h' and 'h2'.*different bins"),  # nested, but a subtotal gives a suppressed cell away
        ({"threshold": 0}, {"threshold": 0, "edges": [0, 15, 40]}, "different bins"),
        ({"part": "train"}, {}, "in parts 'train' and 'all'"),
        ({}, {"task": "quantiles", "edges": None}, "'h' and 'h2'.*A quantile tells.*threshold = 0"),
    ],
)
def test_steps_that_could_be_subtracted(build_study, first, second, message):
    steps = [{**HISTOGRAM, **first}, {k: v for k, v in {**SECOND, **second}.items() if v is not None}]
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, steps))
    if second.get("task"):
        with pytest.raises(ManifestError, match="A quantile tells"):
            build_plan(build_study(VARIABLES, steps[::-1]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"threshold": 0}, {"threshold": 0, "edges": [0, 20, 40]}),
        ({"part": "train"}, {"part": "test", "edges": [0, 15, 40]}),
        ({}, {"variable": "k", "edges": [0, 15, 40]}),
        ({"threshold": 0}, {"task": "quantiles", "edges": None}),
    ],
)
def test_steps_that_say_nothing_about_each_other(build_study, first, second):
    steps = [{**HISTOGRAM, **first}, {k: v for k, v in {**SECOND, **second}.items() if v is not None}]
    if second.get("task") == "quantiles":
        steps[1].pop("threshold", None)
    assert len(build_plan(build_study(VARIABLES, steps))) == 2


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
