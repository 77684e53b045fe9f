"""The federated drift gate: does a site's data look like the federation's? Only how many sites differ is ever learned.

Round 1 counts every variable in public bins, over all sites together. In round 2 each site compares its own counts with the federation's
and says of each variable whether it drifts (`data.gates.drift` has the measures, and what chance explains of them). Where few patients
are in a bin, the federation's count is hidden and the hidden bins are compared as one. What a site found stays in its memory, for its own
report. The federation includes the site: one that holds most of the rows cannot drift from it.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.gates.drift import PSI_WARN, TV_WARN, Distance, distance
from locum.data.rows import Part, Rows
from locum.errors import ManifestError
from locum.privacy.disclosure import HIDDEN, THRESHOLD
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.histogram import DRIFT_BINS, OUTSIDE, Histogram, HistogramParams
from locum.tasks.parts import Parts

Floats = NDArray[np.float64]
DISTANCES = "distances"
"""The name in a site's memory under which the fields of a `Distance` lie, shape (J, 5)."""


class DriftParams(Params):
    """bins: of the declared range; a category has one for each. psi, tv: how far apart is too far, in both."""

    variables: Annotated[tuple[VariableName, ...], Field(min_length=1, max_length=512)]
    bins: Annotated[int, Field(ge=2, le=1000)] = DRIFT_BINS
    psi: Annotated[float, Field(ge=0)] = PSI_WARN
    tv: Annotated[float, Field(ge=0, lt=1)] = TV_WARN
    part: Part = "all"


@register
class Drift(BaseTask[DriftParams]):
    """Two rounds: what the federation's distributions are, and how many sites differ from them."""

    kind = "drift"
    Config: ClassVar[type[Any]] = DriftParams

    def __init__(self, step: Step, params: DriftParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.variables = params.variables
        self.require(*self.variables)
        if len(set(self.variables)) < len(self.variables):
            raise ManifestError(f"Step '{step.name}' lists a variable twice.", fix="list it once")
        self.histograms = {name: self.make_histogram(name) for name in self.variables}
        self.parts = self.make_parts()

    def make_histogram(self, name: str) -> Histogram:
        return Histogram(self.step, self.counted(name), self.study)

    def counted(self, name: str) -> HistogramParams:
        return HistogramParams(variable=name, bins=self.params.bins, part=self.params.part)

    def make_parts(self) -> Parts:
        return Parts(self.histograms)

    def reads(self) -> tuple[str, ...]:
        return self.variables

    def leaves(self) -> str:
        j = len(self.variables)
        return (
            f"How many values of each of {j} variables lie in each bin, {self.layout({}).size} counts in all; then, of each variable, whether this site's "
            "distribution differs from that of all sites, yes or no."
        )

    def layout(self, state: State) -> Layout:
        if self.parts.done(state):
            return Layout.of(drifting=(len(self.variables),), judged=())
        return self.parts.layout(state)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        if not self.parts.done(state):
            return self.parts.visit(state, rows, memory, rng, self.leaves())
        used = rows.part(self.params.part, self.study.data.split)
        drifting = self.compare(state, used, memory)
        return Contribution({"drifting": drifting, "judged": np.asarray(float(len(used) > 0))}, used.patients, self.leaves())

    def compare(self, state: State, rows: Rows, memory: Memory) -> Floats:
        """1 for each variable in which this site drifts, shape (J,). What is behind it goes into the site's memory alone."""
        found = [self._distance(state, name, rows) for name in self.variables]
        memory[DISTANCES] = np.array([astuple(d) for d in found], dtype=np.float64)
        return np.array([d.drifts(self.params.psi, self.params.tv) for d in found], dtype=np.float64)

    def combine(self, state: State, total: Total) -> State:
        if self.parts.done(state):
            return self.merge(state, drifting=total["drifting"], judged=total["judged"])
        name = self.variables[0]  # every row is in one cell of each variable
        everything = sum(float(np.asarray(total[f"{name}:{cell}"]).sum()) for cell in ("counts", *OUTSIDE))
        return self.merge(self.parts.combine(state, total), rows=everything if everything >= THRESHOLD else 0.0)

    def done(self, state: State) -> bool:
        return self.key("drifting") in state

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            return {"variables": {}, "warnings": [f"Step '{self.step.name}' had one round; it needs two."]}
        judged, counts = int(self.own(state, "judged")), self.own(state, "drifting").astype(int).tolist()
        found = dict(zip(self.variables, counts, strict=True))
        warnings = [f"'{name}' differs from the federation at {n} of {judged} sites." for name, n in found.items() if n]
        return {"sites": judged, "variables": found, "limits": {"psi": self.params.psi, "tv": self.params.tv}, "warnings": warnings}

    def kept(self, memory: Memory) -> dict[str, Distance]:
        """What this site found, from its memory; empty before round 2."""
        if DISTANCES not in memory:
            return {}
        rows = zip(self.variables, memory[DISTANCES].tolist(), strict=True)
        return {name: Distance(psi, tv, psi_chance, tv_chance, round(n)) for name, (psi, tv, psi_chance, tv_chance, n) in rows}

    def _distance(self, state: State, name: str, rows: Rows) -> Distance:
        histogram = self.histograms[name]
        federation = np.concatenate([np.ravel(histogram.own(state, cell)) for cell in ("counts", *OUTSIDE)]).astype(np.float64)
        own = np.bincount(histogram.cells(rows.columns[name]), minlength=len(federation)).astype(np.float64)
        hidden = federation == HIDDEN
        if hidden.any():
            rest = max(0.0, float(self.own(state, "rows")) - float(federation[~hidden].sum()))
            federation, own = np.r_[federation[~hidden], rest], np.r_[own[~hidden], own[hidden].sum()]
        return distance(own, np.clip(federation, 0.0, 1e15))
