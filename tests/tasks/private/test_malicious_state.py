"""The coordinator chooses the global state. Whatever it chooses, one patient moves a private vector by at most 1, and no visit fails for a row's sake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum import Rows, Study
from locum.federation.budget import budget_of
from locum.federation.door import Door, ReleaseDeclined, SitePolicy
from locum.federation.runner import Runner
from locum.federation.visit import visit
from locum.study.vector import Layout, Total

VARIABLES = {
    "a": {"minimum": 0, "maximum": 100},
    "b": {"minimum": -1, "maximum": 1},
    "c": {"type": "category", "categories": ["x", "y", "z"]},
    "y": {"type": "boolean"},
    "t": {"type": "text"},
}
FEATURES = {"features": ["a", "b", "c"], "outcome": "y"}
ROBUST = {"name": "r", "task": "robust_scale", "variables": ["a", "b"], "bins": 4}
FLAGGED = {"features": ["a", "b", "c", "a_missing"], "outcome": "y"}
REGRESSION = {"variables": ["a", "b"], "method": "regression", "predictors": ["a", "b", "c"]}
NUMBER = {"features": ["a", "c"], "outcome": "b"}
MODEL = {"name": "m", "task": "logistic", **FEATURES, "part": "train"}
CASES: dict[str, list[dict[str, Any]]] = {
    "logistic": [{"name": "m", "task": "logistic", **FEATURES}],
    "linear": [{"name": "m", "task": "linear", **NUMBER}],
    "sgd": [{"name": "m", "task": "sgd", **FEATURES, "rounds": 5}],
    "sgd mlp": [{"name": "m", "task": "sgd", **FEATURES, "rounds": 5, "model": "mlp", "hidden": [4]}],
    "sgd relu": [{"name": "m", "task": "sgd", **FEATURES, "rounds": 5, "model": "mlp", "hidden": [4, 3], "activation": "relu"}],
    "sgd linear": [{"name": "m", "task": "sgd", **NUMBER, "rounds": 5, "model": "linear"}],
    "sgd standardised": [{"name": "z", "task": "standardise", "variables": ["a", "b"]}, {"name": "m", "task": "sgd", **FEATURES, "standardise": "z"}],
    "logistic standardised": [{"name": "z", "task": "standardise", "variables": ["a", "b"]}, {"name": "m", "task": "logistic", **FEATURES, "standardise": "z"}],
    "robust_scale": [ROBUST],
    "scaled by robust_scale": [ROBUST, {"name": "m", "task": "logistic", **FEATURES, "standardise": "r"}],
    "impute": [{"name": "i", "task": "impute", "variables": ["a", "c"], "indicators": True}],
    "imputed by mean": [{"name": "i", "task": "impute", "variables": ["a", "b", "c"], "indicators": True}, {"name": "m", "task": "logistic", **FLAGGED}],
    "imputed by median": [{"name": "i", "task": "impute", "variables": ["a", "b"], "method": "median"}, {"name": "m", "task": "sgd", **FEATURES, "rounds": 5}],
    "impute regression": [{"name": "i", "task": "impute", **REGRESSION}],
    "imputed by regression": [{"name": "i", "task": "impute", **REGRESSION, "rounds": 2}, {"name": "m", "task": "moments", "variables": ["a", "b"]}],
    "drift": [{"name": "d", "task": "drift", "variables": ["a", "c", "y"], "bins": 4, "psi": 0, "tv": 0}],
    "vocabulary": [{"name": "v", "task": "vocabulary", "variable": "t", "length": 3, "per_patient": 2}],
    "evaluate": [MODEL, {"name": "e", "task": "evaluate_binary", "model": "m"}],
}
EVIL = [0.0, 1.0, -1.0, 1e-300, 1e-9, 30.0, 1e6, 1e154, 1e300, -1e308, float(np.finfo(float).max)]


def study(plan: list[dict[str, Any]]) -> Study:
    privacy = {"eps": 8.0, "delta": 1e-6, "patients": 60, "spare": 0}
    return Study.parse({"name": "s", "data": {"variables": VARIABLES}, "terms": {"privacy": privacy}, "plan": plan})


def people(seed: int, records: int) -> Rows:
    rng, n = np.random.default_rng(seed), 30
    who = np.sort(rng.integers(0, n // records, n))
    columns = {"a": rng.uniform(-20, 150, n), "b": rng.normal(size=n), "c": rng.integers(0, 3, n).astype(float), "y": rng.integers(0, 2, n).astype(float)}
    columns["a"][0], columns["b"][1], columns["y"][2], columns["a"][3] = np.nan, np.inf, 2.0, 1e300
    columns["c"][4] = np.nan
    return replace(Rows.of(columns, patient=who.tolist()), texts={"t": rng.choice(["", "a", "ab", "abc", "\u00e9t\u00e9", "a long one"], n)})


@pytest.mark.parametrize("case", CASES)
def test_an_honest_state_is_answered_by_more_than_noise(case: str) -> None:
    """Else the test below would say nothing: a visit that always fails is silent for everybody."""
    s = study(CASES[case])
    budget, runner = budget_of(s), Runner(s, "r")
    while not runner.finished:
        a = runner.assignment([f"h{i}" for i in range(5)], 0.0, runner.layout)
        made, layout = visit(runner.task, runner.state, people(0, 3), {}, a, Door("h0", SitePolicy(), entropy=lambda n: bytes(n)), s.terms, budget)
        assert not made.purpose.startswith("noise alone"), made.purpose
        assert layout.size
        runner.advance(Total(Layout(runner.layout.fields[:-1]).zeros(), 1.0, 5))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_patient_moves_a_vector_by_at_most_one_and_nothing_fails(case: str, data: st.DataObject) -> None:
    s = study(CASES[case])
    budget = budget_of(s)
    assert budget
    runner = Runner(s, "r")
    while runner.cursor.step < len(s.plan) - 1:  # as a run without any row would go
        runner.advance(Total(Layout(runner.layout.fields[:-1]).zeros(), 1.0, 5))
    task, step = runner.task, runner.cursor.step
    state = dict(runner.state)
    if data.draw(st.booleans()) or case == "evaluate":
        if case != "evaluate":
            state = dict(task.combine(state, Total(task.layout(state).zeros(), 1.0, 5, noise=1.0)))
        for name, array in state.items():
            if array.dtype.kind == "f" and data.draw(st.booleans()):
                flat = np.asarray(data.draw(st.lists(st.sampled_from(EVIL), min_size=array.size, max_size=array.size)), float)
                state[name] = flat.reshape(array.shape)
    rows = people(data.draw(st.integers(0, 5)), data.draw(st.sampled_from([1, 3])))
    without = rows.take(rows.codes != data.draw(st.integers(0, rows.patients - 1)))
    a = runner.assignment([f"h{i}" for i in range(5)], 0.0, runner.layout)
    door = Door("h0", SitePolicy(), entropy=lambda n: bytes(n))
    assert a.step == step
    vectors, silent = [], []
    for some in (rows, without):
        try:
            made, layout = visit(task, state, some, {}, a, door, s.terms, budget)
        except ReleaseDeclined:
            silent.append(True)
            vectors.append(np.zeros(task.layout(state).size))
            continue
        flat = np.concatenate([np.ravel(made.vector[f.name]) for f in layout.fields])
        assert np.isfinite(flat).all()
        silent.append(made.purpose.startswith("noise alone"))
        vectors.append(flat)
    assert silent[0] == silent[1], "a state may be one that nobody can use, but not for one patient's sake"
    assert np.linalg.norm(vectors[0] - vectors[1]) <= 1 + 1e-6
