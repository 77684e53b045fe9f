"""The distinct times at which anything happened in the cohort, on a declared grid: what Cox, Kaplan-Meier and log-rank need first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import usable

ON_GRID = 1e-6
"""How far, in units of the resolution, a time may lie from the grid."""
MAX_GRID = 1_000_000


class TimesParams(Params):
    """time, event: the follow-up and the 0/1 indicator. resolution: the unit in which times were recorded, for example 1 day.

    maximum: the longest follow-up; by default the contract's maximum of `time`.
    """

    time: VariableName
    event: VariableName
    resolution: Annotated[float, Field(gt=0)] = 1.0
    maximum: Annotated[float, Field(gt=0)] | None = None
    part: Part = "all"


@dataclass(frozen=True)
class Timeline:
    """K distinct event times in increasing order: `index` in units of the resolution."""

    index: NDArray[np.int64] | NDArray[np.float64]
    resolution: float

    @property
    def times(self) -> NDArray[np.float64]:
        return np.asarray(self.index * self.resolution)

    def __len__(self) -> int:
        return len(self.index)

    def position(self, time: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many of the K times are at or before each row's time: the row is at risk at those, shape (n,)."""
        return np.searchsorted(self.index, snap(time, self.resolution), side="right")

    def place(self, time: NDArray[np.float64], event: NDArray[np.float64], step: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """`position`, and events as a mask; raises `TaskError` if an event is at none of the K times."""
        position, happened = self.position(time), checked_event(event)
        where = np.maximum(position - 1, 0)
        known = (position > 0) & (self.index[where] == snap(time, self.resolution))
        if (happened & ~known).any():
            raise TaskError(
                "An event lies at a time that the event-time step did not count.",
                why="That step read other patients, or another time or event variable.",
                fix=f"give step '{step}' the same time and event, and part = 'all'",
            )
        return position, happened


@register
class EventTimes(BaseTask[TimesParams]):
    """Sums the events at each point of the grid; keeps the points where there were any."""

    kind = "event_times"
    Config = TimesParams

    def __init__(self, step: Step, params: TimesParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(params.time, params.event)
        maximum = params.maximum or study.data.variables[params.time].maximum
        if maximum is None:
            raise ManifestError(
                f"Step '{step.name}' does not know the longest follow-up.",
                fix=f"give it maximum = ..., or declare the maximum of '{params.time}' in the contract",
            )
        self.size = int(np.floor(maximum / params.resolution + ON_GRID)) + 1
        if self.size > MAX_GRID:
            raise ManifestError(
                f"Step '{step.name}' asks for a grid of {self.size} times; at most {MAX_GRID}.", fix="use a coarser resolution or a smaller maximum"
            )

    def reads(self) -> tuple[str, ...]:
        return (self.params.time, self.params.event)

    def leaves(self) -> str:
        return f"The number of events at each of {self.size} times on the grid 0, {self.params.resolution:g}, ..., and two counts of rows."

    def layout(self, state: State) -> Layout:
        return Layout.of(events=(self.size,), rows=(), left_out=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        units = snap(used.rows.columns[self.params.time], self.params.resolution)
        units = units[checked_event(used.rows.columns[self.params.event])]
        if (units != np.rint(units)).any():
            raise TaskError(
                f"Some event times of '{self.params.time}' are not multiples of the resolution {self.params.resolution:g}.",
                fix="set resolution to the unit in which times are recorded, for example 0.5 for half days, or round the times in the mapping",
            )
        if ((units < 0) | (units >= self.size)).any():
            raise TaskError(f"Some event times of '{self.params.time}' lie outside the grid.", fix="correct negative times, or raise maximum")
        events = np.bincount(units.astype(np.int64), minlength=self.size).astype(np.float64)
        vector = {"events": events, "rows": np.asarray(float(len(used.rows))), "left_out": np.asarray(float(used.left_out))}
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        events = np.rint(np.asarray(total["events"], float)).astype(np.int64)
        index = np.flatnonzero(events > 0).astype(np.int64)
        if not len(index):
            raise TaskError(f"There is no event at all in '{self.params.event}'.", fix="check that 1 means that the event happened, or choose another outcome")
        return self.merge(state, index=index, events=events[index], rows=total["rows"], left_out=total["left_out"])

    def done(self, state: State) -> bool:
        return self.key("index") in state

    def result(self, state: State) -> dict[str, Any]:
        events = self.own(state, "events")
        return {
            "distinct_times": len(events),
            "events": int(events.sum()),
            "n": int(self.own(state, "rows")),
            "left_out": int(self.own(state, "left_out")),
            "first": float(self.timeline(state).times[0]),
            "last": float(self.timeline(state).times[-1]),
        }

    def timeline(self, state: State) -> Timeline:
        """The distinct event times, for later steps; raises `TaskError` before this step ran."""
        if self.key("index") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so the event times are unknown.", fix="keep the plan's order")
        return Timeline(np.asarray(self.own(state, "index"), np.int64), self.params.resolution)


def own_timeline(time: NDArray[np.float64], event: NDArray[np.float64]) -> Timeline:
    """The distinct event times of these rows alone, which need not be whole numbers."""
    return Timeline(np.unique(snap(time, 1.0)[checked_event(event)]), 1.0)


def snap(time: NDArray[np.float64], resolution: float) -> NDArray[np.float64]:
    """Times in units of the resolution, whole where they lie on the grid up to rounding."""
    units = time / resolution
    whole = np.rint(units)
    return np.asarray(np.where(np.abs(units - whole) <= ON_GRID, whole, units))


def checked_event(event: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Events as a mask; raises `TaskError` unless they are 0 and 1."""
    if not np.isin(event, (0.0, 1.0)).all():
        raise TaskError("The event indicator has values other than 0 and 1.", fix="map it to a boolean: 1 where the event happened")
    return np.asarray(event == 1.0)
