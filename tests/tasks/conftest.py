"""A plan over a list of sites, as small as it can be said: visit, check, sum in order, combine, until done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from locum.data.rows import Rows
from locum.study import Study, Total
from locum.tasks import State, build_plan


def _run(study: Study, sites: Sequence[Rows]) -> tuple[dict[str, Any], State]:
    state: State = {}
    results, rng = {}, np.random.default_rng(0)
    for step, task in zip(study.plan, build_plan(study), strict=True):
        for _ in range(step.rounds):
            layout, total = task.layout(state), task.layout(state).zeros()
            for rows in sites:
                contribution = task.visit(state, rows, {}, rng)
                layout.check(contribution.vector)
                assert 0 <= contribution.rows <= rows.patients
                total = {name: a + contribution.vector[name] for name, a in total.items()}
            state = task.combine(state, Total(total, float(len(sites)), len(sites)))
            if task.done(state):
                break
        results[step.name] = task.result(state)
    return results, state


def _scatter(columns: dict[str, Any], sizes: Sequence[int], seed: int = 0, patient: Sequence[object] | None = None) -> list[Rows]:
    """Rows in random order over sites of the given sizes; the last site takes the rest."""
    rows = Rows.of(columns, patient)
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows.take(part) for part in np.split(order, np.minimum(np.cumsum(sizes), len(rows)))]


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """run(variables, plan, sites) -> the results by step."""

    def call(variables: dict[str, dict[str, Any]], plan: Sequence[dict[str, Any]], sites: Sequence[Rows]) -> dict[str, Any]:
        return _run(Study.parse({"name": "test", "data": {"variables": variables}, "terms": {"privacy": "none"}, "plan": plan}), sites)[0]

    return call


@pytest.fixture
def build_study() -> Callable[..., Study]:
    """build_study(variables, plan) -> the study, its plan not yet built."""
    return lambda variables, plan: Study.parse({"name": "test", "data": {"variables": variables}, "terms": {"privacy": "none"}, "plan": plan})


@pytest.fixture
def scatter() -> Callable[..., list[Rows]]:
    """scatter(columns, sizes, seed) -> the same rows over several sites."""
    return _scatter


@pytest.fixture
def run_state() -> Callable[[Study, Sequence[Rows]], tuple[dict[str, Any], State]]:
    """run_state(study, sites) -> results and the final state."""
    return _run
