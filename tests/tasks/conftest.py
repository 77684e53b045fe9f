"""A plan over a list of sites, as small as it can be said: visit, check, sum in order, combine, until done."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from locum.data import registry
from locum.data.rows import Rows
from locum.errors import LocumError
from locum.study import Study, Total
from locum.tasks import State, build_plan
from locum.tasks.prepare import prepared


def _run(study: Study, sites: Sequence[Rows]) -> tuple[dict[str, Any], State]:
    state: State = {}
    results, rng = {}, np.random.default_rng(0)
    for step, task in zip(study.plan, build_plan(study), strict=True):
        for _ in range(step.rounds):
            layout, total = task.layout(state), task.layout(state).zeros()
            for rows in sites:
                contribution = task.visit(state, prepared(task, state, rows), {}, rng)
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


@functools.cache
def _loaded(name: str, by: str | None) -> dict[str, Rows]:
    """Read once for all tests, which can therefore not write to it."""
    loaded = registry.load(name, by=by)
    for rows in loaded.values():
        for array in (*rows.columns.values(), *rows.arrays.values()):
            array.setflags(write=False)
    return loaded


def _sites(name: str, by: str | None = None) -> dict[str, Rows]:
    """A registered data set's sites."""
    try:
        return {site: replace(rows, columns=dict(rows.columns)) for site, rows in _loaded(name, by).items()}
    except LocumError as error:
        pytest.skip(f"{name}: {error.what}")


def _real_study(name: str, plan: list[dict[str, Any]], min_cohort: int = 4, **terms: Any) -> Study:
    """An exact study on the data set's own contract."""
    data = registry.get(name).data.model_dump()
    return Study.parse({"name": "test", "data": data, "terms": {"privacy": "none", "min_cohort": min_cohort, **terms}, "plan": plan})


def _pooled(parts: dict[str, Rows], *names: str) -> NDArray[np.float64]:
    """The named columns of all sites in order of their names, shape (n, len(names))."""
    return np.vstack([parts[s].matrix(names) for s in sorted(parts)])


@pytest.fixture
def sites() -> Callable[..., dict[str, Rows]]:
    """sites(name, by) -> a registered data set's sites."""
    return _sites


@pytest.fixture
def real_study() -> Callable[..., Study]:
    """real_study(name, plan) -> an exact study on a registered data set's contract."""
    return _real_study


@pytest.fixture
def pooled() -> Callable[..., NDArray[np.float64]]:
    """pooled(parts, *names) -> the columns of all sites."""
    return _pooled


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
