"""One visit: the site's side of a round, the same in process and in the network."""

from __future__ import annotations

import numpy as np

from locum.data.rows import Rows
from locum.errors import LocumError, TaskError
from locum.federation.budget import Budget
from locum.federation.door import Door, ReleaseDeclined
from locum.federation.runner import site_rng
from locum.federation.wire import Assignment
from locum.study.manifest import Terms
from locum.study.vector import Bound, Contribution, Layout
from locum.tasks import Memory, State, Task

FAILURES = (ArithmeticError, ValueError, KeyError, IndexError, MemoryError)


def visit(
    task: Task, state: State, rows: Rows, memory: Memory, assignment: Assignment, door: Door, terms: Terms, budget: Budget | None = None
) -> tuple[Contribution, Layout]:
    """Run `task` on `rows`, after the door has admitted the round and was paid. The result has not left yet.

    Whatever a task raises becomes `ReleaseDeclined`, whose code alone may travel; the cause stays at the site.
    """
    door.admit(assignment, terms)
    try:
        layout = task.layout(state)
        if budget is None:
            return task.visit(state, rows, memory, site_rng(assignment, door.site)), layout
    except TaskError as error:
        raise ReleaseDeclined("task", error.what, why=error.why, fix=error.fix) from error
    except LocumError as error:
        raise ReleaseDeclined("data", error.what, why=error.why, fix=error.fix) from error
    except FAILURES as error:
        raise ReleaseDeclined("internal", f"The task failed with {type(error).__name__}.", fix="see this site's own log") from error
    return _private(task, state, door.sample(rows, budget, assignment), memory, site_rng(assignment, door.site), layout, terms), layout


def _private(task: Task, state: State, rows: Rows, memory: Memory, rng: np.random.Generator, layout: Layout, terms: Terms) -> Contribution:
    """A visit that answers whatever happens: that this site declined, for a row's sake, would say something about that row.

    The coordinator chooses the state, and could choose one that fails for a single patient. What fails here adds nothing but noise; the
    site's own release log says so.
    """
    try:
        with np.errstate(all="ignore"):
            contribution = task.visit(state, rows, memory, rng)
        layout.check(contribution.vector)
        return contribution
    except (LocumError, *FAILURES) as error:
        reason = error.what if isinstance(error, LocumError) else type(error).__name__
        bound = Bound("l2", 1.0, "site" if terms.privacy.unit == "site" else "patient")
        return Contribution(layout.zeros(), rows.patients, f"noise alone, for the task failed here: {reason}", bound=bound)
