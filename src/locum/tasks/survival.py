"""Kaplan-Meier curves and the log-rank test: from the numbers at risk and of events at each distinct event time.

Sources: Kaplan and Meier (1958), JASA 53:457; Greenwood's variance with the log-log interval of Kalbfleisch and Prentice
(2002), The Statistical Analysis of Failure Time Data, section 1.4; Mantel (1966) with the hypergeometric covariance, ibid. 1.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import earlier, usable
from locum.tasks.event_times import EventTimes
from locum.tasks.tails import Z95, chi_square_upper

Floats = NDArray[np.float64]


class CurveParams(Params):
    """time, event: follow-up and 0/1 indicator. times: the earlier event_times step. by: a category whose groups are compared."""

    time: VariableName
    event: VariableName
    times: Name
    by: VariableName | None = None
    part: Part = "all"


@register
class KaplanMeier(BaseTask[CurveParams]):
    """Survival curves, one per group, with a pointwise 95 % interval."""

    kind = "kaplan_meier"
    Config = CurveParams

    def __init__(self, step: Step, params: CurveParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*self.reads())
        if params.by and study.data.variables[params.by].type not in ("category", "boolean"):
            raise ManifestError(f"Step '{step.name}': by = '{params.by}' is not a category.", fix="name a variable of type 'category' or 'boolean'")
        self.groups = (study.data.variables[params.by].categories or ("0", "1")) if params.by else ("all",)
        self.times: EventTimes = earlier(self, params.times, "times", "event_times")

    def reads(self) -> tuple[str, ...]:
        return (self.params.time, self.params.event, *((self.params.by,) if self.params.by else ()))

    def leaves(self) -> str:
        return f"At every distinct event time of the cohort, for each of {len(self.groups)} groups: how many are at risk, how many events; and counts of rows."

    def layout(self, state: State) -> Layout:
        g, k = len(self.groups), len(self.times.timeline(state))
        return Layout.of(at_risk=(g, k), events=(g, k), rows=(g,), left_out=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used, timeline = usable(self, rows, self.params.part), self.times.timeline(state)
        columns = used.rows.columns
        position, happened = timeline.place(columns[self.params.time], columns[self.params.event], self.times.step.name)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        for g in range(len(self.groups)):
            member = columns[self.params.by] == g if self.params.by else np.ones(len(position), dtype=bool)
            leaving = np.bincount(position[member], minlength=len(timeline) + 1)
            vector["at_risk"][g] = np.cumsum(leaving[::-1])[::-1][1:]
            vector["events"][g] = np.bincount(position[member & happened] - 1, minlength=len(timeline))
            vector["rows"][g] = member.sum()
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if not np.asarray(total["rows"]).any():
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        return self.merge(state, **{k: total[k] for k in ("at_risk", "events", "rows", "left_out")})

    def done(self, state: State) -> bool:
        return self.key("at_risk") in state

    def result(self, state: State) -> dict[str, Any]:
        return {"groups": {name: self._curve(state, g) for g, name in enumerate(self.groups)}, "left_out": int(self.own(state, "left_out"))}

    def _curve(self, state: State, g: int) -> dict[str, Any]:
        at_risk, events = np.asarray(self.own(state, "at_risk"), float)[g], np.asarray(self.own(state, "events"), float)[g]
        shown = events > 0
        times, at_risk, events = self.times.timeline(state).times[shown], at_risk[shown], events[shown]
        survival, low, high = kaplan_meier(at_risk, events)
        below = np.flatnonzero(survival <= 0.5 * (1.0 + 1e-12))  # a product that is one half, up to rounding
        return {
            "n": int(self.own(state, "rows")[g]),
            "events": int(events.sum()),
            "median": float(times[below[0]]) if len(below) else None,
            "times": times.tolist(),
            "at_risk": [int(n) for n in at_risk],
            "event_counts": [int(d) for d in events],
            "survival": survival.tolist(),
            "ci95_low": low.tolist(),
            "ci95_high": high.tolist(),
        }


@register
class LogRank(KaplanMeier):
    """The log-rank test that the hazards of all groups of `by` are equal."""

    kind = "logrank"

    def __init__(self, step: Step, params: CurveParams, study: Study) -> None:
        if not params.by:
            raise ManifestError(f"Step '{step.name}' needs groups to compare.", fix="add by = '<category variable>'")
        super().__init__(step, params, study)

    def combine(self, state: State, total: Total) -> State:
        present = int((np.asarray(total["rows"]) > 0).sum())
        if present < 2:
            raise TaskError(
                f"The log-rank test of '{self.params.by}' needs two groups with patients; the cohort has {present}.", fix="choose another grouping variable"
            )
        return super().combine(state, total)

    def result(self, state: State) -> dict[str, Any]:
        rows, at_risk, events = (np.asarray(self.own(state, k), float) for k in ("rows", "at_risk", "events"))
        present = np.flatnonzero(rows > 0)
        expected, covariance = log_rank(at_risk[present], events[present])
        observed, df = events[present].sum(axis=1), len(present) - 1
        difference = (observed - expected)[:df]
        statistic = float(difference @ np.linalg.pinv(covariance[:df, :df], hermitian=True) @ difference)
        groups = {self.groups[g]: {"n": int(rows[g]), "observed": int(o), "expected": float(e)} for g, o, e in zip(present, observed, expected, strict=True)}
        return {"chi_square": statistic, "df": df, "p": chi_square_upper(statistic, df), "groups": groups, "left_out": int(self.own(state, "left_out"))}


def kaplan_meier(at_risk: Floats, events: Floats) -> tuple[Floats, Floats, Floats]:
    """Survival after each event time, and its 95 % interval on the log(-log) scale; once survival is 0 the interval is 0."""
    survival = np.asarray(np.cumprod(1.0 - events / at_risk), float)
    alive = survival > 0
    terms = np.divide(events, at_risk * (at_risk - events), out=np.zeros_like(events), where=alive)
    log_survival = np.log(survival, out=np.full_like(survival, -1.0), where=alive)
    reach = Z95 * np.sqrt(np.cumsum(terms)) / -log_survival
    low, high = (np.where(alive, np.exp(log_survival * np.exp(sign * reach)), 0.0) for sign in (1.0, -1.0))
    return survival, low, high


def log_rank(at_risk: Floats, events: Floats) -> tuple[Floats, Floats]:
    """Expected events per group (g,) and the covariance of observed minus expected (g, g), from (g, K) tables."""
    n, d = at_risk.sum(axis=0), events.sum(axis=0)
    share = np.divide(at_risk, n, out=np.zeros_like(at_risk), where=n > 0)
    spread = np.divide(d * (n - d), n - 1.0, out=np.zeros_like(n), where=n > 1)
    return share @ d, np.diag(share @ spread) - (share * spread) @ share.T
