"""The loop of tests/tasks for studies with differential privacy, with Gaussian noise of a given size in each sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from locum.data.rows import Rows
from locum.study import Study, Total
from locum.tasks import State, build_plan
from locum.tasks.prepare import prepared

PRIVACY = {"eps": 3.0, "delta": 1e-6, "patients": 1000}


def _study(variables: dict[str, Any], plan: Sequence[dict[str, Any]], privacy: dict[str, Any] | str = PRIVACY) -> Study:
    return Study.parse({"name": "test", "data": {"variables": variables}, "terms": {"privacy": privacy}, "plan": plan})


def _run(study: Study, sites: Sequence[Rows], noise: float = 0.0, seed: int = 0) -> tuple[dict[str, Any], State]:
    rng, state, results = np.random.default_rng(seed), {}, {}
    for step, task in zip(study.plan, build_plan(study), strict=True):
        for _ in range(step.rounds):
            layout, total = task.layout(state), task.layout(state).zeros()
            assert all(f.dtype == "float64" for f in layout.fields)
            for rows in sites:
                contribution = task.visit(state, prepared(task, state, rows), {}, rng)
                layout.check(contribution.vector)
                assert contribution.bound is not None
                total = {name: a + contribution.vector[name] for name, a in total.items()}
            noisy = {name: a + rng.normal(0.0, noise, a.shape) for name, a in total.items()} if noise else total
            state = task.combine(state, Total(noisy, float(len(sites)), len(sites), noise))
            if task.done(state):
                break
        results[step.name] = task.result(state)
    return results, state


@pytest.fixture
def private_study() -> Callable[..., Study]:
    """private_study(variables, plan, privacy) -> the study."""
    return _study


@pytest.fixture
def private_run() -> Callable[..., dict[str, Any]]:
    """private_run(variables, plan, sites, noise, seed) -> the results by step."""
    return lambda variables, plan, sites, noise=0.0, seed=0: _run(_study(variables, plan), sites, noise, seed)[0]


@pytest.fixture
def private_state() -> Callable[..., tuple[dict[str, Any], State]]:
    """private_state(study, sites, noise, seed) -> the results and the final state."""
    return _run
