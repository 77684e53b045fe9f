"""Transforms: later steps see transformed rows and a contract to match; the work is done once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from locum import Rows, Study, simulate
from locum.errors import ManifestError, TaskError
from locum.federation.visit import _made_up
from locum.tasks import build_plan
from locum.tasks.base import MOST_TRANSFORMS, Seen, Transform, asked
from locum.tasks.impute import Impute
from locum.tasks.prepare import prepared, with_columns

VARIABLES = {"age": {"minimum": 0, "maximum": 120}, "sbp": {"minimum": 50, "maximum": 300}, "id": {"role": "patient"}, "note": {"type": "text"}}
PLAN = [
    {"name": "before", "task": "moments", "variables": ["age"]},
    {"name": "fill", "task": "impute", "variables": ["age"], "indicators": True},
    {"name": "after", "task": "moments", "variables": ["age", "age_missing"]},
]
ROWS = Rows.of({"age": [20.0, 40.0, np.nan, 60.0], "sbp": [100.0, np.nan, 120.0, 140.0]}, patient=["a", "a", "b", "c"])


def study(plan=PLAN, privacy="none"):
    return Study.parse({"name": "s", "data": {"variables": VARIABLES}, "terms": {"privacy": privacy}, "plan": plan})


def test_later_steps_see_transformed_rows_and_earlier_ones_do_not():
    found = simulate(study(), {f"h{i}": ROWS for i in range(5)}).results
    assert found["before"]["variables"]["age"]["missing"] == 5
    assert (found["after"]["variables"]["age"]["missing"], found["after"]["variables"]["age"]["n"]) == (0, 20)
    assert found["after"]["variables"]["age_missing"]["mean"] == 0.25


def test_a_derived_variable_is_known_after_its_step_only():
    with pytest.raises(ManifestError, match="reads 'age_missing', which the data contract does not list"):
        build_plan(study([PLAN[2], PLAN[1]]))
    assert [t.study.data.variables.keys() - VARIABLES.keys() for t in build_plan(study())] == [set(), set(), {"age_missing"}]


def test_the_study_as_a_step_sees_it_is_the_same_study():
    s = study()
    seen = build_plan(s)[2].study
    assert isinstance(seen, Seen)
    assert (seen.digest, asked(seen), seen.terms, seen.plan) == (s.digest, s, s.terms, s.plan)
    assert "age_missing" not in s.data.variables


def test_an_earlier_step_is_rebuilt_as_it_saw_the_study():
    """A regression scaled by a step before the imputation: that step's contract has no indicator."""
    plan = [PLAN[0] | {"task": "standardise"}, PLAN[1], {"name": "m", "task": "linear", "features": ["age"], "outcome": "sbp", "standardise": "before"}]
    task = build_plan(study(plan))[2]
    assert "age_missing" in task.study.data.variables
    assert "age_missing" not in task.design._scaler.study.data.variables


def test_what_was_made_is_kept_while_state_and_rows_are_the_same(monkeypatch):
    made = []
    original = Impute.apply
    monkeypatch.setattr(Impute, "apply", lambda self, state, rows: made.append(1) or original(self, state, rows))
    task, rows = build_plan(study())[2], ROWS.take(np.arange(4))
    state = {"fill.(means):mean": np.full((1, 1), 33.0), "fill.(means):variance": np.ones((1, 1)), "fill.(means):finished": np.asarray(1)}
    first = prepared(task, state, rows)
    assert first.columns["age"].tolist() == [20, 40, 33, 60]
    for _ in range(1000):  # each round brings equal arrays, but not the same objects
        assert prepared(task, {k: v.copy() for k, v in state.items()}, rows) is first
    assert prepared(task, state | {"other.mean": np.zeros(1)}, rows) is first
    assert len(made) == 1
    other = prepared(task, state | {"fill.(means):mean": np.full((1, 1), 34.0)}, rows)
    assert other.columns["age"][2] == 34
    assert prepared(task, state, rows.take(np.array([2]))).columns["age"].tolist() == [33]
    assert prepared(build_plan(study())[0], {}, rows) is rows


def test_two_studies_on_the_same_rows_do_not_mix():
    rows = ROWS.take(np.arange(4))
    for value, name in ((33.0, "one"), (34.0, "two")):
        s = study().model_copy(update={"name": name})
        state = {"fill.(means):mean": np.full((1, 1), value), "fill.(means):variance": np.ones((1, 1)), "fill.(means):finished": np.asarray(1)}
        assert prepared(build_plan(s)[2], state, rows).columns["age"][2] == value


def test_columns_change_and_patients_texts_arrays_and_split_stay():
    rows = replace(ROWS, texts={"note": np.array(list("wxyz"))}, arrays={"ecg": np.zeros((4, 2), np.float32)}, test=np.array([True, False, True, False]))
    codes = rows.codes
    new = with_columns(rows, {"age": np.zeros(4), "more": np.ones(4)})
    assert new.texts is rows.texts
    assert new.arrays is rows.arrays
    assert new.test is rows.test
    assert new.codes is codes
    assert set(new.columns) == {"age", "sbp", "more"}
    assert np.isnan(rows.columns["age"][2])


def test_a_transform_that_loses_rows_is_found_out(monkeypatch):
    monkeypatch.setattr(Impute, "apply", lambda self, state, rows: rows.take(np.arange(2)))
    with pytest.raises(TaskError, match="changed whose rows they are"):
        prepared(build_plan(study())[2], {}, ROWS)


def test_a_transform_that_did_not_run(build_study):
    with pytest.raises(TaskError, match="'fill' has not run"):
        prepared(build_plan(study())[2], {}, ROWS)


def test_not_row_wise_and_private_is_refused_with_the_reason():
    plan = [{"name": "h", "task": "combat", "variables": ["age", "sbp"]}, PLAN[0]]
    with pytest.raises(ManifestError, match=r"'combat' no patient could be protected.*depend on the other patients"):
        build_plan(study(plan, {"eps": 3, "delta": 1e-6, "patients": 1000}))
    assert build_plan(study(plan))


def test_every_registered_transform_says_whether_it_is_row_wise():
    from locum.tasks.base import _EXACT, _PRIVATE

    found = {cls for cls in (*_EXACT.values(), *_PRIVATE.values()) if issubclass(cls, Transform)}
    assert {cls.kind: cls.row_wise for cls in found} == {"impute": True, "combat": False, "pca": True, "genotype_pca": True, "signal_features": True}


def test_too_many_transforms():
    plan = [{"name": f"f{i}", "task": "impute", "variables": ["age"]} for i in range(MOST_TRANSFORMS)]
    assert build_plan(study([*plan, PLAN[0]]))
    with pytest.raises(ManifestError, match="More than 32 steps"):
        build_plan(study([*plan, {"name": "one-more", "task": "impute", "variables": ["age"]}, PLAN[0]]))


def test_text_is_not_read_as_a_number():
    with pytest.raises(ManifestError, match="'note' is of type 'text', which 'moments' cannot read"):
        build_plan(study([{"name": "m", "task": "moments", "variables": ["note"]}]))


def test_rows_that_a_state_is_tried_on_hold_the_contract_and_nothing_derived():
    rows = _made_up(build_plan(study())[2], 7)
    assert (set(rows.columns), set(rows.texts), len(rows), rows.patients) == ({"age", "sbp"}, {"note"}, 7, 7)
