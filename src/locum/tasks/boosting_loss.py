"""What boosted trees minimise: for each row the loss and its first two derivatives by the prediction f, and what is needed around them.

binary           y f - log(1 + e^f) with its sign changed: g = p - y, h = p (1 - p), p = 1 / (1 + e^-f); starts at the log odds of the cohort
squared_error    (y - f)^2 / 2 in the outcome's standard deviations: g = f - y, h = 1; starts at the mean
survival         piecewise exponential: the hazard in interval j is b_j e^f. With e_j the time that a patient spent in it, and d = 1 for an event,
                 g = m - d and h = m, m = e^f sum_j b_j e_j: a Poisson regression with exposure (Holford, 1980, Biometrics 36:299)

Cox's partial likelihood compares patients with each other, so it is no sum over sites; this one is, and a site with one patient counts. After each
tree b_j = events_j / sum of e_j e^f is fitted anew, which is Breslow's estimate as the intervals shrink (Breslow, 1974, Biometrics 30:89).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.vector import Total
from locum.tasks.base import BaseTask
from locum.tasks.design import midpoint
from locum.tasks.event_times import checked_event
from locum.tasks.models import sigmoid
from locum.tasks.tree_bins import FINE, Feature

Floats = NDArray[np.float64]
LIMIT = 30.0
"""|f| of a log hazard is cut here."""


@dataclass(frozen=True)
class Target:
    """The outcome of each row: y (n,) is 0/1, a number, or the event; exposure (n, intervals) and interval (n,) of survival."""

    y: Floats
    exposure: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    interval: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Fit:
    """What is public about the outcome: where f starts, the unit in which gradients are measured, and of survival the baseline."""

    start: float = 0.0
    unit: float = 1.0
    edges: Floats = field(default_factory=lambda: np.zeros(0))
    baseline: Floats = field(default_factory=lambda: np.zeros(0))


class Loss:
    """A 0/1 outcome; the other two differ from it."""

    survival: ClassVar[bool] = False
    most_step: ClassVar[float] = np.inf

    def __init__(self, task: BaseTask[Any], name: str | None) -> None:
        if name is None:
            raise ManifestError(f"Step '{task.step.name}' does not say which outcome it explains.", fix="set outcome = '<variable>'")
        task.require(name)
        self.outcome, self.variable = name, task.study.data.variables[name]
        if self.variable.type == "category" and (not self.binary or len(self.variable.categories) != 2):
            raise ManifestError(f"Step '{task.step.name}': the outcome '{name}' is a category, not a number.", fix="name a numeric or boolean outcome")

    @property
    def binary(self) -> bool:
        return True

    def reads(self) -> tuple[str, ...]:
        return (self.outcome,)

    def sums(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what the first round sums beside the bins."""
        return {"outcome": ()}

    def first(self, rows: Rows) -> dict[str, Floats]:
        return {"outcome": np.asarray(self.target(rows, Fit()).y.sum())}

    def fit(self, total: Total, n: float) -> Fit:
        """Where to start, from the first round's sums over n rows. Raises `TaskError` where there is nothing to learn."""
        share = float(total["outcome"]) / n
        if not 0.0 < share < 1.0:
            raise TaskError(
                f"'{self.outcome}' is {int(share)} in every row, so there is nothing to tell apart.", fix="check the mapping, or choose another outcome"
            )
        return Fit(start=float(np.log(share / (1.0 - share))))

    def target(self, rows: Rows, fit: Fit) -> Target:
        """Raises `TaskError` where the outcome is not what it should be."""
        y = rows.columns[self.outcome]
        if not np.isin(y, (0.0, 1.0)).all():
            raise TaskError(f"The outcome '{self.outcome}' has values other than 0 and 1.", fix="correct the mapping, or set objective = 'squared_error'")
        return Target(y)

    def derivatives(self, target: Target, f: Floats, fit: Fit) -> tuple[Floats, Floats, Floats]:
        """The loss of each row and its first and second derivative, shape (n,) each."""
        p = sigmoid(f)
        return np.logaddexp(0.0, f) - target.y * f, p - target.y, p * (1.0 - p)


class Squared(Loss):
    """A number."""

    @property
    def binary(self) -> bool:
        return False

    def sums(self) -> dict[str, tuple[int, ...]]:
        return {"outcome": (), "squares": ()}

    def first(self, rows: Rows) -> dict[str, Floats]:
        y = self.target(rows, Fit()).y - midpoint(self.variable)
        return {"outcome": np.asarray(y.sum()), "squares": np.asarray((y**2).sum())}

    def fit(self, total: Total, n: float) -> Fit:
        mean = float(total["outcome"]) / n
        variance = float(total["squares"]) / n - mean**2
        if variance <= 1e-12 * mean**2 or n < 2:
            raise TaskError(f"'{self.outcome}' is the same in every row, so there is nothing to explain.", fix="check the mapping, or choose another outcome")
        unit = 2.0 ** round(float(np.log2(np.sqrt(variance))))
        grid = unit * 2.0**-24  # coarser than the order of addition can show
        return Fit(start=midpoint(self.variable) + round(mean / grid) * grid, unit=unit)

    def target(self, rows: Rows, fit: Fit) -> Target:
        return Target(rows.columns[self.outcome])

    def derivatives(self, target: Target, f: Floats, fit: Fit) -> tuple[Floats, Floats, Floats]:
        g = (f - target.y) / fit.unit
        return g**2 / 2.0, g, np.ones_like(g)


class Survival(Loss):
    """A time to an event. Times are measured in shares of the longest follow-up of the contract."""

    survival = True
    most_step = 0.7

    def __init__(self, task: BaseTask[Any], time: str | None, event: str | None, intervals: int) -> None:
        if time is None or event is None:
            raise ManifestError(f"Step '{task.step.name}' explains a survival time.", fix="set time = '<variable>' and event = '<variable>'")
        task.require(time, event)
        self.time, self.event, self.intervals = time, event, intervals
        maximum = task.study.data.variables[time].maximum
        if maximum is None:
            raise ManifestError(f"Step '{task.step.name}' does not know the longest follow-up.", fix=f"declare the maximum of '{time}' in the contract")
        self.longest = maximum
        # the same fine counts as of a feature, over the whole follow-up
        variable = task.study.data.variables[time].model_copy(update={"type": "number", "plausible": (0.0, 1.0)})
        self.clock = Feature(time, variable, task.step.name)

    @property
    def binary(self) -> bool:
        return False

    def reads(self) -> tuple[str, ...]:
        return (self.time, self.event)

    def sums(self) -> dict[str, tuple[int, ...]]:
        return {"event_times": (FINE,)}

    def first(self, rows: Rows) -> dict[str, Floats]:
        share, event = self._share(rows)
        return {"event_times": np.bincount(self.clock.place(share[event], self.clock.inner), minlength=FINE + 1)[:FINE].astype(np.float64)}

    def fit(self, total: Total, n: float) -> Fit:
        counts = np.asarray(total["event_times"], dtype=np.float64)
        if not counts.any():
            raise TaskError(f"There is no event in '{self.event}' among the usable rows.", fix="check that 1 means that the event happened")
        return Fit(edges=self.clock.cut(counts, self.intervals, THRESHOLD))

    def target(self, rows: Rows, fit: Fit) -> Target:
        share, event = self._share(rows)
        low, high = np.r_[0.0, fit.edges], np.r_[fit.edges, 1.0]
        spent = np.clip(share[:, None] - low, 0.0, high - low)
        return Target(event.astype(np.float64), spent, np.searchsorted(fit.edges, share, side="left"))

    def derivatives(self, target: Target, f: Floats, fit: Fit) -> tuple[Floats, Floats, Floats]:
        mean = np.exp(np.clip(f, -LIMIT, LIMIT)) * (target.exposure * fit.baseline).sum(axis=1)
        loss = mean - target.y * (f + np.log(np.maximum(fit.baseline, 1e-300))[target.interval])
        return loss, mean - target.y, mean

    def baseline_sums(self, target: Target, f: Floats, fit: Fit) -> tuple[Floats, Floats]:
        """Of each interval e^f times the time spent there by each row (n, J), and who had the event there (n, J)."""
        where = (target.interval[:, None] == np.arange(len(fit.edges) + 1)) & (target.y == 1.0)[:, None]
        return np.exp(np.clip(f, -LIMIT, LIMIT))[:, None] * target.exposure, where.astype(np.float64)

    def surviving(self, f: Floats, time: float, fit: Fit) -> Floats:
        """The probability of no event until `time` at log relative hazards f (n,)."""
        low, high = np.r_[0.0, fit.edges], np.r_[fit.edges, 1.0]
        return np.asarray(np.exp(-np.exp(f) * float(np.clip(time / self.longest - low, 0.0, high - low) @ fit.baseline)))

    def hazards(self, fit: Fit) -> list[dict[str, float]]:
        """The baseline hazard of each interval, per unit of time."""
        ends = np.r_[0.0, fit.edges, 1.0] * self.longest
        rows = zip(ends[:-1].tolist(), ends[1:].tolist(), (fit.baseline / self.longest).tolist(), strict=True)
        return [{"from": a, "to": b, "hazard": h} for a, b, h in rows]

    def _share(self, rows: Rows) -> tuple[Floats, NDArray[np.bool_]]:
        time, event = rows.columns[self.time], checked_event(rows.columns[self.event])
        if ((time < 0) | (time > self.longest)).any():
            raise TaskError(f"Some times of '{self.time}' are negative, or above its declared maximum.", fix="correct the times, or the contract")
        return np.maximum(time / self.longest, 2.0**-20), event


def loss_of(task: BaseTask[Any], params: Any) -> Loss:
    """The loss that a step's parameters name. Raises `ManifestError`."""
    if params.objective == "survival":
        return Survival(task, params.time, params.event, params.intervals)
    return (Loss if params.objective == "binary" else Squared)(task, params.outcome)


def baseline_of(sums: Mapping[str, Any]) -> Floats:
    """Events over weighted time, by interval."""
    events, spent = (np.asarray(sums[name], dtype=np.float64) for name in ("events", "exposure"))
    return np.divide(events, spent, out=np.zeros_like(events), where=spent > 0)
