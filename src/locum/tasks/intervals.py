"""Follow-up cut into intervals (start, end]: where the cuts come from, who is where, and the public rule for intervals without events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, VariableName
from locum.tasks.base import BaseTask, State
from locum.tasks.design import Features, earlier
from locum.tasks.quantiles import Quantiles

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Positive = Annotated[float, Field(gt=0)]


class IntervalParams(Features):
    """time, event: follow-up and 0/1 indicator. cuts: where the intervals end, in the unit of time. cuts_from: or the earlier 'quantiles' step of
    `time` that says where. horizon: follow-up beyond it is not used.

    at_least: shorter follow-up counts as this, for example half a day where some events are on day 0. empty: what happens to an interval
    without events. site_intercepts: not possible here.
    """

    time: VariableName
    event: VariableName
    cuts: Annotated[tuple[Positive, ...], Field(max_length=200)] = ()
    cuts_from: Name | None = None
    horizon: Positive | None = None
    at_least: Positive | None = None
    empty: Literal["join", "refuse"] = "join"
    site_intercepts: bool = False


class Cuts:
    """The declared intervals of one step. open_ended: whether the last one, without a horizon, has no end."""

    def __init__(self, task: BaseTask[Any], params: IntervalParams, *, open_ended: bool) -> None:
        self._params, self._step, self.open_ended = params, task.step.name, open_ended and params.horizon is None
        self.quantiles: Quantiles | None = None
        if params.cuts_from is not None:
            self.quantiles = earlier(task, params.cuts_from, "cuts_from", "quantiles")
            self._check_quantiles(self.quantiles)
        self._check(task.study.data.variables[params.time].maximum)

    @property
    def most(self) -> int:
        """The number of intervals: fewer only where quantiles coincide."""
        cuts = self.quantiles.params.probabilities if self.quantiles else self._params.cuts
        return len(cuts) + int(self.open_ended or self._params.horizon is not None)

    def edges(self, state: State) -> Floats:
        """Where the intervals begin and end, shape (K + 1,), the last perhaps infinite; raises `TaskError` before the quantiles are known."""
        cuts, horizon = np.asarray(self._params.cuts, float), self._params.horizon
        if self.quantiles:
            if self.quantiles.key("low") not in state:
                raise TaskError(f"Step '{self.quantiles.step.name}' has not run, so the cuts are unknown.", fix="keep the plan's order")
            cuts = np.unique([q["value"] for q in self.quantiles.result(state)["quantiles"]])
            cuts = cuts[(cuts > 0) & (cuts < (horizon or np.inf))]
        return self.ended(np.r_[0.0, cuts, [horizon] if horizon else []])

    def ended(self, edges: Floats) -> Floats:
        """Finite edges, with the infinite one where there is no end."""
        return np.asarray(np.r_[edges, [np.inf] if self.open_ended else []], float)

    def _check_quantiles(self, found: Quantiles) -> None:
        if self._params.cuts:
            raise ManifestError(f"Step '{self._step}' has both cuts and cuts_from.", fix="keep one of them")
        name, time = found.params.variable, self._params.time
        if name != time:
            raise ManifestError(
                f"Step '{self._step}': '{found.step.name}' holds quantiles of '{name}', not of '{time}'.",
                fix=f"name a 'quantiles' step with variable = '{time}'",
            )

    def _check(self, longest: float | None) -> None:
        cuts, horizon, step = self._params.cuts, self._params.horizon, self._step
        if any(b <= a for a, b in pairwise(cuts)):
            raise ManifestError(f"Step '{step}': cuts must increase.", fix="sort them, and list each once")
        last = cuts[-1] if cuts else 0.0
        if horizon is not None and last >= horizon:
            raise ManifestError(f"Step '{step}': the cut {last:g} is not before the horizon {horizon:g}.", fix="drop it, or raise horizon")
        if longest is not None and (last > longest or (self.open_ended and last == longest)):
            raise ManifestError(
                f"Step '{step}': the cut {last:g} lies outside the follow-up: the contract's maximum of '{self._params.time}' is {longest:g}.",
                fix="drop it, or check the unit of time",
            )
        if not self.most:
            raise ManifestError(f"Step '{step}' does not say where its intervals end.", fix="add cuts = [...], or cuts_from = '<a quantiles step>'")


@dataclass(frozen=True)
class Spells:
    """Follow-up by intervals with these `edges` (K + 1,), of which the last may be infinite.

    k: the interval in which each patient's follow-up ends, shape (n,). within: how much of it was lived, (n,). event: whether it ended in the
    event, (n,). whole: whether the patient lived through all of interval k, (n,).
    """

    edges: Floats
    k: Ints
    within: Floats
    event: NDArray[np.bool_]
    whole: NDArray[np.bool_]

    @classmethod
    def of(cls, edges: Floats, time: Floats, event: NDArray[np.bool_]) -> Spells:
        event, time = event & (time <= edges[-1]), np.minimum(time, edges[-1])
        k = np.searchsorted(edges[1:], time, side="left")
        return cls(edges, k, time - edges[k], event, ~event & (time == edges[k + 1]))

    @property
    def size(self) -> int:
        return len(self.edges) - 1

    @property
    def widths(self) -> Floats:
        """Of the intervals that somebody can live through; zero for one without an end."""
        return np.where(np.isfinite(self.edges[1:]), np.diff(self.edges), 0.0)

    def sums(self, values: NDArray[np.floating[Any]]) -> Floats:
        """The sum of values (n,) or (n, c) over those whose follow-up ends in each interval, shape (K,) or (K, c)."""
        if values.ndim == 1:
            return np.asarray(np.bincount(self.k, values, self.size), float)
        return np.column_stack([self.sums(v) for v in values.T])


def join(events: Floats) -> Ints:
    """Where the joined intervals start: each takes the ones without events before it, and the last also those after it. Shape (at most K,)."""
    with_events = np.flatnonzero(events > 0)
    return np.r_[0, with_events[:-1] + 1] if len(with_events) else with_events


def label(start: float, end: float) -> str:
    """(start, end], or (start, ...) without an end."""
    return f"({start:g}, {end:g}]" if math.isfinite(end) else f"({start:g}, ...)"
