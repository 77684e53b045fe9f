"""How well a survival model ranks patients it has not seen: Harrell's concordance, within sites and over the whole cohort.

Within sites every pair is counted exactly where its rows are, and each site's own concordance is one addend of a mean over sites (what FLamby
reports: Ogier du Terrail et al., 2022, NeurIPS). For pairs across sites a first round finds mean and
standard deviation of the scores; bins of about equal size follow; and a table by event time and bin gives the concordance
with a rigorous bound on what the binning may cost.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.concordance import harrell, harrell_table
from locum.tasks.cox import Cox
from locum.tasks.design import earlier, usable
from locum.tasks.evaluate_binary import EvaluateParams, check_unseen
from locum.tasks.event_times import EventTimes, checked_event
from locum.tasks.interval_hazards import IntervalHazards

FIRST = ("rows", "left_out", "events", "score", "score_squares", "within_concordant", "within_pairs", "site_shares", "sites_ranked")


class EvaluateSurvivalParams(EvaluateParams):
    """times: the event_times step for pairs across sites, by default the model's. bins: of the score."""

    times: Name | None = None
    bins: Annotated[int, Field(ge=2, le=100_000)] = 256


@register
class EvaluateSurvival(BaseTask[EvaluateSurvivalParams]):
    """One round for pairs within sites; a second, where event times are known, for all pairs."""

    kind = "evaluate_survival"
    Config = EvaluateSurvivalParams

    def __init__(self, step: Step, params: EvaluateSurvivalParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Cox | IntervalHazards = earlier(self, params.model, "model", "cox", "piecewise_exponential", "discrete_time", "boosted_trees")
        if not getattr(self.model.params, "time", None):
            raise ManifestError(
                f"Step '{step.name}': the model '{params.model}' does not predict survival.", fix='give it objective = "survival", time and event'
            )
        check_unseen(self, self.model)
        self.times: EventTimes | None = earlier(self, params.times, "times", "event_times") if params.times else self.model.times

    def reads(self) -> tuple[str, ...]:
        return self.model.reads()

    def leaves(self) -> str:
        own = "How many pairs of the site's patients the model ranks rightly, how many it could rank, the share of these, and six counts and sums"
        if self.times is None:
            return f"{own}."
        return f"{own}; then, for each distinct event time and each of {self.params.bins} risk bins, the number of events and of patients last seen there."

    def layout(self, state: State) -> Layout:
        if self.key("mean") not in state or self.times is None:
            return Layout.of(**dict.fromkeys(FIRST, ()))
        shape = (len(self.times.timeline(state)), self.params.bins)
        return Layout.of(events=shape, censored=shape)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part, getattr(self.model, "needed", None))  # trees take missing features
        score = self.model.scores(state, used.rows)
        time, event = used.rows.columns[self.model.params.time], used.rows.columns[self.model.params.event]
        if self.key("mean") in state:
            vector = self._table(state, time, event, score)
        else:
            concordant, comparable = harrell(time, checked_event(event), score)
            share = concordant / comparable if comparable else 0.0
            numbers = (len(score), used.left_out, event.sum(), score.sum(), (score**2).sum(), concordant, comparable, share, comparable > 0)
            vector = {name: np.asarray(float(v)) for name, v in zip(FIRST, numbers, strict=True)}
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if self.key("mean") in state:
            concordant, comparable, same = harrell_table(np.asarray(total["events"], float), np.asarray(total["censored"], float))
            return self.merge(state, concordant=concordant, pairs=comparable, same_bin=same)
        n = float(total["rows"])
        if not n or not float(total["events"]):
            raise TaskError(
                f"There is no event among the patients of part '{self.params.part}', so there is no concordance.", fix="use a larger test share or part = 'all'"
            )
        mean = float(total["score"]) / n
        variance = max(0.0, float(total["score_squares"]) / n - mean**2)
        return self.merge(state, **{k: total[k] for k in FIRST if not k.startswith("score")}, mean=mean, sd=np.sqrt(variance) or 1.0)

    def done(self, state: State) -> bool:
        return self.key("pairs") in state or (self.times is None and self.key("mean") in state)

    def result(self, state: State) -> dict[str, Any]:
        within = self._share(state, "within_concordant", "within_pairs")
        pooled: dict[str, Any] | None = None
        if self.key("pairs") in state:
            pooled = self._share(state, "concordant", "pairs")
            pooled["error_bound"] = float(self.own(state, "same_bin")) / 2.0 / pooled["pairs"] if pooled["pairs"] else None
        counts = {"n": int(self.own(state, "rows")), "events": int(self.own(state, "events")), "left_out": int(self.own(state, "left_out"))}
        ranked = int(self.own(state, "sites_ranked"))
        mean = {"value": float(self.own(state, "site_shares")) / ranked if ranked else None, "sites": ranked}
        return {"part": self.params.part, **counts, "concordance": pooled, "concordance_within_sites": within, "concordance_mean_of_sites": mean}

    def _share(self, state: State, concordant: str, comparable: str) -> dict[str, Any]:
        pairs = float(self.own(state, comparable))
        return {"value": float(self.own(state, concordant)) / pairs if pairs else None, "pairs": int(pairs)}

    def _table(self, state: State, time: NDArray[np.float64], event: NDArray[np.float64], score: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        assert self.times is not None  # noqa: S101 - done() after the first round otherwise
        timeline, bins = self.times.timeline(state), self.params.bins
        position, happened = timeline.place(time, event, self.times.step.name)
        normal = NormalDist(float(self.own(state, "mean")), float(self.own(state, "sd")))
        where = np.searchsorted([normal.inv_cdf(k / bins) for k in range(1, bins)], score, side="right")
        cell, seen = (position - 1) * bins + where, position > 0

        def count(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
            return np.bincount(cell[mask & seen], minlength=len(timeline) * bins).reshape(-1, bins).astype(np.float64)

        return {"events": count(happened), "censored": count(~happened)}
