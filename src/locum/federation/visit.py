"""One visit: the site's side of a round, the same in process and in the network."""

from __future__ import annotations

from locum.data.rows import Rows
from locum.errors import LocumError, TaskError
from locum.federation.budget import Budget
from locum.federation.door import Door, ReleaseDeclined
from locum.federation.runner import site_rng
from locum.federation.wire import Assignment
from locum.study.manifest import Terms
from locum.study.vector import Contribution, Layout
from locum.tasks import Memory, State, Task


def visit(
    task: Task, state: State, rows: Rows, memory: Memory, assignment: Assignment, door: Door, terms: Terms, budget: Budget | None = None
) -> tuple[Contribution, Layout]:
    """Run `task` on `rows`, after the door has admitted the round and was paid. The result has not left yet.

    Whatever a task raises becomes `ReleaseDeclined`, whose code alone may travel; the cause stays at the site.
    """
    door.admit(assignment, terms)
    try:
        layout = task.layout(state)
        rows = door.sample(rows, budget, assignment) if budget else rows
        return task.visit(state, rows, memory, site_rng(assignment, door.site)), layout
    except TaskError as error:
        raise ReleaseDeclined("task", error.what, why=error.why, fix=error.fix) from error
    except LocumError as error:
        raise ReleaseDeclined("data", error.what, why=error.why, fix=error.fix) from error
    except (ArithmeticError, ValueError, KeyError, IndexError, MemoryError) as error:
        raise ReleaseDeclined("internal", f"The task failed with {type(error).__name__}.", fix="see this site's own log") from error
