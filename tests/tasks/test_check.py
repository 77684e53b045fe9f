"""The data check: its counts, and everything it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def columns(n=400):
    r = np.random.default_rng(0)
    age = r.uniform(20, 90, n)
    age[: n // 4] = np.nan
    age[n // 4 : n // 4 + 15], age[n // 4 + 15 : n // 4 + 45] = -5, 300
    return {"age": age, "dead": (np.arange(n) % 4 == 0).astype(float), "arm": np.arange(n) % 2.0}


def test_counts_and_warnings(run, scatter):
    got = run(VARIABLES, [CHECK], scatter(columns(), [1, 2, 0, 200]))["check"]
    assert (got["rows"], got["sites"], got["sites_with_enough_rows"]) == (400, 5, 2)
    assert got["variables"]["age"] == {"present": 300, "missing": 100, "below": 15, "above": 30}
    assert got["variables"]["dead"] == {"present": 400, "missing": 0, "below": 0, "above": 0, "events": 100}
    assert list(got["variables"]) == ["age", "arm", "dead"]
    text = " ".join(got["warnings"])
    assert "'age' has 45 values outside" in text
    assert "'age' is missing in more than a fifth" in text
    assert "3 sites have fewer than 5 rows" in text


def test_small_counts_are_not_shown_nor_what_gives_them_away(run, scatter):
    d = columns()
    d["age"] = np.r_[np.full(100, np.nan), [-5.0] * 3, np.linspace(20, 90, 297)]
    d["dead"] = np.r_[np.ones(4), np.zeros(396)]
    got = run(VARIABLES, [CHECK], scatter(d, [20]))["check"]
    assert got["variables"]["age"] == {"present": 300, "missing": 100, "below": None, "above": 0}
    assert got["variables"]["dead"]["events"] is None
    assert "'age' has some values outside the contract's range (how many is not shown)" in " ".join(got["warnings"])
    d["age"] = np.r_[np.full(10, np.nan), np.linspace(20, 90, 390)]
    got = run(VARIABLES, [CHECK], scatter(d, [20]))["check"]
    assert (got["variables"]["age"]["present"], got["variables"]["age"]["missing"]) == (None, None), "390 of 400 would say it"
    shown = run(VARIABLES, [{**CHECK, "threshold": 0}], scatter(d, [20]))["check"]
    assert (shown["variables"]["age"]["missing"], shown["variables"]["dead"]["events"]) == (10, 4)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.tuples(*(st.sampled_from([0, 1, 5, 10, 11, 30]) for _ in range(3))))
def test_what_is_hidden_can_be_anything_within_the_threshold(run_state, build_study, cells):
    """From the answer and the whole state, missing + below + above + in range = rows leaves every hidden count vague."""
    missing, below, above = cells
    rows = Rows.of({"age": np.r_[np.full(missing, np.nan), np.full(below, -1.0), np.full(above, 200.0), np.linspace(20, 90, 40)]})
    results, state = run_state(build_study({"age": VARIABLES["age"]}, [CHECK]), [rows])
    hidden = [c for c, k in zip(cells, ("missing", "below", "above"), strict=True) if results["check"]["variables"]["age"][k] is None]
    assert all(0 < c < 11 for c in cells) <= bool(hidden)
    for of, true in zip(state["check.counts"][0], (missing, below, above, 0, 40), strict=True):
        assert of in (-1.0, true)
        assert of == -1.0 or not 0 < true < 11
    unknown = [t for of, t in zip(state["check.counts"][0], (missing, below, above, 0, 40), strict=True) if of == -1.0]
    assert not unknown or (len(unknown) > 1 and sum(unknown) - len([u for u in unknown if u]) >= 11)
    assert {n: a.shape for n, a in state.items()} == {"check.rows": (), "check.large_sites": (), "check.counts": (1, 5), "check.sites": ()}


def test_many_records_of_few_patients_are_a_small_count(run):
    n = 400
    d = columns(n)
    d["age"] = np.r_[np.full(100, np.nan), np.linspace(20, 90, 300)]
    patient = ["one"] * 100 + [str(i) for i in range(300)]
    got = run(VARIABLES, [CHECK], [Rows.of(d, patient)])["check"]
    assert got["rows"] == 400
    assert got["variables"]["age"]["missing"] is None


def test_a_cohort_of_a_few_patients_shows_no_count(run):
    got = run({"arm": VARIABLES["arm"]}, [CHECK], [Rows.of({"arm": np.arange(8) % 2.0})])["check"]
    assert got["rows"] is None
    assert got["variables"]["arm"] == {"present": None, "missing": None, "below": None, "above": None}


@pytest.mark.parametrize("missing", [1, 4, 10])
def test_a_refusal_does_not_tell_a_small_count(run, scatter, missing):
    d = columns()
    d["age"] = np.r_[np.full(missing, np.nan), np.linspace(20, 90, 400 - missing)]
    with pytest.raises(TaskError, match="'age' is missing in more of the rows than it may be; the limit is 0%") as refusal:
        run(VARIABLES, [{**CHECK, "max_missing": 0}], scatter(d, [20]))
    messages = str(refusal.value)
    d["age"] = np.r_[np.full(7, np.nan), np.linspace(20, 90, 393)]
    with pytest.raises(TaskError) as other:
        run(VARIABLES, [{**CHECK, "max_missing": 0}], scatter(d, [20]))
    assert str(other.value) == messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": np.full(400, np.nan)}, "'age' is missing in 100% of the rows; the limit is 50%.*correct its mapping"),
        ({"dead": np.zeros(400)}, "no event at all in 'dead'.*check that 1 means the event"),
        ({"dead": np.ones(400)}, "'dead' is constant"),
        ({"age": np.full(400, 60.1)}, "'age' is constant"),
        ({"arm": np.ones(400)}, "'arm' is constant"),
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


def test_texts_arrays_and_identifiers_are_not_counted(build_study):
    more = {"note": {"type": "text"}, "ecg": {"type": "array", "shape": [4]}, "part": {"type": "boolean", "role": "split"}}
    assert build_plan(build_study({**VARIABLES, **more}, [CHECK]))[0].reads() == ("age", "arm", "dead")
