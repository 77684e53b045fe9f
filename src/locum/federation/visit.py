"""One visit: the site's side of a round, the same in process and in the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from locum.data.rows import Rows
from locum.errors import LocumError, TaskError
from locum.federation.budget import Budget
from locum.federation.door import Door, ReleaseDeclined
from locum.federation.runner import site_rng
from locum.federation.wire import Assignment
from locum.privacy.sampler import FixedOrder
from locum.study.manifest import Terms
from locum.study.vector import Bound, Contribution, Layout
from locum.tasks import Memory, State, Task
from locum.tasks.base import asked
from locum.tasks.design import midpoint
from locum.tasks.prepare import prepared

FAILURES = (ArithmeticError, ValueError, TypeError, AttributeError, KeyError, IndexError, MemoryError)
MADE_UP = (41, 98)
"""Rows of two public tables by which a state is tried: of different lengths, in every part of a split."""


def visit(
    task: Task,
    state: State,
    rows: Rows,
    memory: Memory,
    assignment: Assignment,
    door: Door,
    terms: Terms,
    budget: Budget | None = None,
    *,
    tried: bool = False,
) -> tuple[Contribution, Layout]:
    """Run `task` on `rows`, after the door has admitted the round and was paid. The result has not left yet. tried: by `check_state`.

    Whatever a task raises becomes `ReleaseDeclined`, whose code alone may travel; the cause stays at the site.
    """
    door.admit(assignment, terms)
    try:
        layout = task.layout(state)
        if budget is None:
            return task.visit(state, prepared(task, state, rows), memory, site_rng(assignment, door.site)), layout
    except TaskError as error:
        raise ReleaseDeclined("task", error.what, why=error.why, fix=error.fix) from error
    except LocumError as error:
        raise ReleaseDeclined("data", error.what, why=error.why, fix=error.fix) from error
    except FAILURES as error:
        raise ReleaseDeclined("internal", f"The task failed with {type(error).__name__}.", fix="see this site's own log") from error
    if not tried:
        check_state(task, state)
    if isinstance(budget.release(assignment.step).sampler, FixedOrder):
        memory["iteration"] = np.asarray(assignment.iteration)  # which the ledger has priced; the state may say anything
    return _private(task, state, door.sample(rows, budget, assignment), memory, site_rng(assignment, door.site), layout, terms), layout


def check_state(task: Task, state: State) -> None:
    """Decline a state that no honest coordinator sends, before any row is looked at: so that what a visit does never hangs on a row.

    Every number is finite, and the task can visit made-up rows with it, whatever their number.
    """
    wrong = [name for name, array in state.items() if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and not np.isfinite(array).all())]
    if wrong:
        raise ReleaseDeclined("task", f"The global state's '{wrong[0]}' is not of finite numbers.", why="The coordinator sent a state that no run has.")
    try:
        with np.errstate(all="ignore"):
            for count in MADE_UP:
                task.visit(state, prepared(task, state, _made_up(task, count)), {"iteration": np.asarray(0)}, np.random.default_rng(0))
    except Exception as error:
        what = error.what if isinstance(error, LocumError) else f"It fails with {type(error).__name__}."
        raise ReleaseDeclined("task", f"The task cannot use the global state that it was sent. {what}") from error


def _made_up(task: Task, count: int) -> Rows:
    """Rows that say nothing: each variable of the contract at the middle of its declared range."""
    variables = {n: v for n, v in asked(task.study).data.variables.items() if v.role != "patient"}  # type: ignore[attr-defined]
    columns = {name: np.full(count, midpoint(v)) for name, v in variables.items() if v.type not in ("text", "array")}
    texts = {name: np.full(count, "made up") for name, v in variables.items() if v.type == "text"}
    arrays = {name: np.zeros((count, *v.shape), np.float32) for name, v in variables.items() if v.type == "array"}
    return replace(Rows.of(columns, patient=[f"made up {i}" for i in range(count)]), texts=texts, arrays=arrays)


def _private(task: Task, state: State, rows: Rows, memory: Memory, rng: np.random.Generator, layout: Layout, terms: Terms) -> Contribution:
    """A visit that answers whatever happens, for that this site declined would say something about a row.

    After `check_state` nothing should fail; what does adds nothing but noise, and the site's own release log says so.
    """
    try:
        with np.errstate(all="ignore"):
            contribution = task.visit(state, prepared(task, state, rows), memory, rng)
        layout.check(contribution.vector)
        return contribution
    except Exception as error:
        reason = error.what if isinstance(error, LocumError) else type(error).__name__
        bound = Bound("l2", 1.0, "site" if terms.privacy.unit == "site" else "patient")
        return Contribution(layout.zeros(), rows.patients, f"noise alone, for the task failed here: {reason}", bound=bound)
