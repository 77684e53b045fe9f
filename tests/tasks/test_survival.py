"""Kaplan-Meier and log-rank against lifelines on the pooled rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_lung
from lifelines.statistics import multivariate_logrank_test

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "time": {"role": "time", "maximum": 1100},
    "dead": {"type": "boolean", "role": "event"},
    "group": {"type": "category", "categories": ["0", "1", "2", "3"]},
}
GRID = {"name": "grid", "task": "event_times", "time": "time", "event": "dead"}
KM = {"name": "km", "task": "kaplan_meier", "time": "time", "event": "dead", "times": "grid"}
LR = {**KM, "name": "lr", "task": "logrank", "by": "group"}


def lung():
    df = load_lung()[["time", "status", "ph.ecog"]].dropna()
    return {"time": df["time"].to_numpy(float), "dead": df["status"].to_numpy(float), "group": df["ph.ecog"].to_numpy(float)}


def check_curve(got, d):
    ref = KaplanMeierFitter().fit(d["time"], d["dead"])
    np.testing.assert_allclose(got["survival"], ref.survival_function_["KM_estimate"].loc[got["times"]], rtol=1e-10, atol=1e-14)
    alive = np.array(got["survival"]) > 0
    interval = ref.confidence_interval_.loc[got["times"]].to_numpy()
    np.testing.assert_allclose(np.column_stack([got["ci95_low"], got["ci95_high"]])[alive], interval[alive], rtol=1e-8)
    table = ref.event_table.loc[got["times"]]
    exact = np.cumprod([1 - Fraction(int(d), int(n)) for d, n in zip(table["observed"], table["at_risk"], strict=True)])
    assert got["median"] == next((t for t, s in zip(got["times"], exact, strict=True) if s <= Fraction(1, 2)), None)
    assert got["at_risk"] == table["at_risk"].tolist()
    assert got["event_counts"] == table["observed"].tolist()


def test_curve_of_everybody(run, scatter):
    d = lung()
    got = run(VARIABLES, [GRID, KM], scatter(d, [1, 2, 0, 80]))["km"]["groups"]["all"]
    check_curve(got, d)
    assert (got["n"], got["events"]) == (len(d["time"]), int(d["dead"].sum()))


def test_curves_and_test_by_group(run, scatter):
    d = lung()
    got = run(VARIABLES, [GRID, {**KM, "by": "group"}, LR], scatter(d, [1, 2, 0, 80]))
    for g in range(4):
        member = d["group"] == g
        check_curve(got["km"]["groups"][str(g)], {k: v[member] for k, v in d.items()})
    ref = multivariate_logrank_test(d["time"], d["group"], d["dead"])
    np.testing.assert_allclose([got["lr"]["chi_square"], got["lr"]["p"]], [ref.test_statistic, ref.p_value], rtol=1e-8)
    assert got["lr"]["df"] == 3
    assert sum(g["observed"] for g in got["lr"]["groups"].values()) == pytest.approx(sum(g["expected"] for g in got["lr"]["groups"].values()))


def test_a_group_that_no_one_is_in_is_left_out_of_the_test(run, scatter):
    d = lung()
    d["group"] = np.where(d["group"] == 3, 1.0, d["group"])
    got = run(VARIABLES, [GRID, LR], scatter(d, [90]))["lr"]
    ref = multivariate_logrank_test(d["time"], d["group"], d["dead"])
    np.testing.assert_allclose([got["chi_square"], got["df"]], [ref.test_statistic, 2], rtol=1e-8)
    with pytest.raises(TaskError, match="needs two groups with patients; the cohort has 1"):
        run(VARIABLES, [GRID, LR], scatter({**d, "group": np.zeros_like(d["group"])}, [90]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 3)), min_size=2, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 100),
)
def test_any_partition_gives_the_pooled_curve(run, scatter, rows, cuts, seed):
    d = dict(zip(("time", "dead", "group"), np.array([*rows, (3, True, 0), (4, False, 1)], float).T, strict=True))
    plan = [GRID, {**KM, "by": "group"}, LR]
    one, many = run(VARIABLES, plan, [Rows.of(d)]), run(VARIABLES, plan, scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))
    assert one == many
    everybody = run(VARIABLES, [GRID, KM], [Rows.of(d)])["km"]["groups"]["all"]
    check_curve(everybody, d)


def test_wrong_parameters(build_study):
    for steps, message in (
        ([GRID, {**LR, "by": None}], "needs groups to compare"),
        ([GRID, {**KM, "by": "time"}], "is not a category"),
        ([GRID, {**KM, "times": "gridd"}], "did you mean 'grid'"),
        ([KM], "add a step of task 'event_times'"),
    ):
        with pytest.raises(ManifestError, match=message):
            build_plan(build_study(VARIABLES, steps))
