"""The data check: its counts, and everything it must refuse."""

from __future__ import annotations

import numpy as np
import pytest

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120, "max_missing": 0.5},
    "dead": {"type": "boolean", "role": "event", "minimum": 0, "maximum": 1},
    "arm": {"type": "category", "categories": ["a", "b"]},
    "id": {"role": "patient"},
}
CHECK = {"name": "check", "task": "data_check", "min_rows": 5}


def columns(n=40):
    r = np.random.default_rng(0)
    age = r.uniform(20, 90, n)
    age[:10] = np.nan
    age[10:13] = [-5, 300, 121]
    return {"age": age, "dead": (np.arange(n) % 4 == 0).astype(float), "arm": np.arange(n) % 2.0}


def test_counts_and_warnings(run, scatter):
    got = run(VARIABLES, [CHECK], scatter(columns(), [1, 2, 0, 20]))["check"]
    assert (got["rows"], got["sites"], got["sites_with_enough_rows"]) == (40, 5, 2)
    assert got["variables"]["age"] == {"present": 30, "missing": 10, "below": 1, "above": 2}
    assert got["variables"]["dead"] == {"present": 40, "missing": 0, "below": 0, "above": 0, "events": 10}
    assert list(got["variables"]) == ["age", "arm", "dead"]
    text = " ".join(got["warnings"])
    assert "'age' has 3 values outside" in text
    assert "'age' is missing in more than a fifth" in text
    assert "3 sites have fewer than 5 rows" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": np.full(40, np.nan)}, "'age' is missing in 100% of the rows; the limit is 50%.*correct its mapping"),
        ({"dead": np.zeros(40)}, "no event at all in 'dead'.*check that 1 means the event"),
        ({"dead": np.ones(40)}, "'dead' is constant"),
        ({"age": np.full(40, 60.1)}, "'age' is constant"),
        ({"arm": np.ones(40)}, "'arm' is constant"),
    ],
)
@pytest.mark.parametrize("sizes", [[], [1, 2, 0, 20]])
def test_refusals_name_the_variable_and_the_remedy(run, scatter, change, message, sizes):
    with pytest.raises(TaskError, match=message):
        run(VARIABLES, [CHECK], scatter({**columns(), **change}, sizes))


def test_the_step_may_be_stricter_than_the_contract(run, scatter):
    with pytest.raises(TaskError, match="missing in 25% of the rows; the limit is 10%"):
        run(VARIABLES, [{**CHECK, "max_missing": 0.1}], scatter(columns(), [20]))


def test_an_empty_cohort(run):
    with pytest.raises(TaskError, match="The cohort has no rows"):
        run(VARIABLES, [CHECK], [Rows.of({"age": [], "dead": [], "arm": []})] * 2)


def test_a_site_without_the_column(run):
    with pytest.raises(TaskError, match="reads 'arm', which this site's rows do not have"):
        run(VARIABLES, [CHECK], [Rows.of({"age": [1.0], "dead": [1.0]})])


def test_unknown_variable(build_study):
    with pytest.raises(ManifestError, match="did you mean 'dead'"):
        build_plan(build_study(VARIABLES, [{**CHECK, "variables": ["dea"]}]))
