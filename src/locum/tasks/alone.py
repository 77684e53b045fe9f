"""The model that one site would have by itself: a task run to its end over that site's rows and no others, in this process.

What a federation does, a site can do alone: the sum over a cohort of one. So every model has a local form without a line of its own, with
its own parameters but for the penalty, which small sites need. What earlier steps found (means to scale by, event times, cuts) is the
federation's: it is public, and makes the local model rather better than it would be.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.study.manifest import Step
from locum.study.vector import Total
from locum.tasks.base import BaseTask, Memory, State


def local_form(task: BaseTask[Any], part: str, **changes: Any) -> Any:
    """The same task with these parameters changed, whose arrays in a state have names of their own, under `part`."""
    step = Step.parse({"name": task.step.name, "task": task.step.task, "rounds": task.step.rounds, **task.step.params, **changes})
    made = type(task).build(step, task.study)
    made.within = f"{part}:"
    return made


def fitted_alone(task: Any, state: State, rows: Rows, rng: np.random.Generator) -> State | None:
    """`state` with what `task` found on these rows alone, shape as after a run; None where they give no answer, or it was not reached."""
    memory: Memory = {}
    try:
        for _ in range(task.step.rounds):
            made = task.visit(state, rows, memory, rng)
            state = task.combine(state, Total(made.vector, 1.0, 1))
            if task.done(state):
                return state
    except TaskError:  # no event, one class only, a column without variation, ...: expected at small sites, and counted
        return None
    return None
