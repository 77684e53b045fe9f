"""The drift gate with noise. Round 1: a patient weighs at most 1 / sqrt(J) in each of J histograms. Round 2: yes or no for each variable.

One patient more or less changes a site's answer for one variable by at most 1, so all J answers by sqrt(J), by which they are
divided: the vector moves by at most 1. That is much noise for few sites: it has the same standard deviation, times sqrt(J), whether 5 sites
answer or 500. Only how many of hundreds of sites drift can be told in this way, and the result says how exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.privacy.accountant import Request
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.drift import Drift, DriftParams
from locum.tasks.histogram import HistogramParams
from locum.tasks.parts import Parts, shares
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import PrivateHistogram, of_part


@register_private
class PrivateDrift(PrivateTask[DriftParams], Drift):
    """Nothing is hidden in the federation's histograms: their noise protects."""

    def make_histogram(self, name: str) -> PrivateHistogram:
        return PrivateHistogram(self.step, self.counted(name), self.study)

    def counted(self, name: str) -> HistogramParams:
        return super().counted(name).model_copy(update={"threshold": 0})

    def make_parts(self) -> Parts:
        return Parts(self.histograms, shares(dict.fromkeys(self.histograms, 1)))

    def request(self) -> Request:
        return self.releases(2)

    def leaves(self) -> str:
        j = len(self.variables)
        return (
            f"With noise: how many values of each of {j} variables lie in each bin, {self.layout({}).size} counts in all; then, with noise, of each "
            "variable, whether this site's distribution differs from that of all sites."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(drifting=(len(self.variables),)) if self.parts.done(state) else self.parts.layout(state)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = of_part(self, rows, self.params.part)
        if not self.parts.done(state):
            made = self.parts.visit(state, rows, memory, rng, self.leaves())
            return self.addend(made.vector, used.patients)
        return self.addend({"drifting": self.compare(state, used, memory) / np.sqrt(len(self.variables))}, used.patients)

    def combine(self, state: State, total: Total) -> State:
        if not self.parts.done(state):
            return self.merge(self.parts.combine(state, total), rows=0.0)
        scale = float(np.sqrt(len(self.variables)))
        return self.merge(state, drifting=np.asarray(total["drifting"]) * scale, judged=total.sites, noise=total.noise * scale)

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            return super().result(state)
        judged, sd = int(self.own(state, "judged")), float(self.own(state, "noise"))
        found = {name: round(float(np.clip(n, 0.0, judged)), 1) for name, n in zip(self.variables, self.own(state, "drifting"), strict=True)}
        raw = dict(zip(self.variables, np.asarray(self.own(state, "drifting"), float).tolist(), strict=True))
        warnings = [f"'{name}' differs from the federation at about {found[name]:.0f} of {judged} sites." for name, n in raw.items() if n > 2.0 * sd]
        if 2.0 * sd > judged / 2.0:
            warnings.append(f"The noise (standard deviation {sd:.1f}) is too large to tell which of {judged} sites drift; nothing follows from no warning.")
        return {"sites": judged, "variables": found, "noise_sd": sd, "limits": {"psi": self.params.psi, "tv": self.params.tv}, "warnings": warnings}
