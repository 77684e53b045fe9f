"""Several tasks side by side as one step: their tensors travel together, named '<part>:<tensor>', and so do their arrays in the state.

With differential privacy each part is a sum over patients of vectors of norm at most 1. A part of weight w is multiplied by w,
and the squares of the weights add up to 1, so that a patient's whole vector has norm at most 1 as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.study.vector import Contribution, Field, Layout, Total
from locum.tasks.base import BaseTask, Memory, State


class Parts:
    """The parts of one step. A part that is done rests, with zeros in its place, until the last one is.

    weights: by part; without them 1, for exact sums.
    """

    def __init__(self, parts: Mapping[str, BaseTask[Any]], weights: Mapping[str, float] | None = None) -> None:
        self._tasks: dict[str, Any] = dict(parts)
        self._weights = weights or dict.fromkeys(parts, 1.0)
        for name, task in parts.items():
            task.within = f"{name}:"

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def __getitem__(self, name: str) -> Any:
        return self._tasks[name]

    def layout(self, state: State) -> Layout:
        return Layout(tuple(Field(f"{n}:{f.name}", f.shape, f.dtype) for n, task in self._tasks.items() for f in task.layout(state).fields))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator, purpose: str) -> Contribution:
        vector, patients = self.layout(state).zeros(), 0
        for name, task in self._tasks.items():
            if not task.done(state):
                made = task.visit(state, rows, memory, rng)
                patients = max(patients, made.rows)
                vector |= {f"{name}:{k}": np.asarray(a * self._weights[name]) for k, a in made.vector.items()}
        return Contribution(vector, patients, purpose)

    def combine(self, state: State, total: Total) -> State:
        for name, task in self._tasks.items():
            if not task.done(state):
                w = self._weights[name]
                own = {f.name: np.asarray(total[f"{name}:{f.name}"]) / w for f in task.layout(state).fields}
                state = task.combine(state, Total(own, total.weight, total.sites, total.noise / w))
        return state

    def done(self, state: State) -> bool:
        return all(task.done(state) for task in self._tasks.values())


def shares(sizes: Mapping[str, int]) -> dict[str, float]:
    """Weights by which each of a part's variables gets the same share of a patient's bound. sizes: variables of each part."""
    total = sum(sizes.values())
    return {name: float(np.sqrt(size / total)) for name, size in sizes.items()}
