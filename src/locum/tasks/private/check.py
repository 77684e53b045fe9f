"""The data check with noise: what is missing and out of range. It refuses only what noise cannot explain.

A record counts once as a row and, for each of J variables, once at most: as missing, below, above, or as an event. So its norm is
at most sqrt(1 + J), by which it is divided. Whether a column is constant is not asked; `moments` shows its variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.check import CheckParams, DataCheck
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import of_part

Floats = NDArray[np.float64]
SURE = 4.0
"""Standard deviations of noise beyond which a difference is taken for real."""
PER_VARIABLE = ("missing", "below", "above")


@register_private
class PrivateDataCheck(PrivateTask[CheckParams], DataCheck):
    """Counts per variable with noise. How many sites are large enough is not counted: the door of each refuses by itself."""

    def __init__(self, step: Step, params: CheckParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.events = [j for j, variable in enumerate(self.contract) if variable.role == "event"]
        self._scale = float(np.sqrt(1.0 + len(self.variables)))

    def leaves(self) -> str:
        return (
            f"With noise: the number of rows, and for each of {len(self.variables)} variables how many values are missing, below and above the "
            f"contract's range, and events; {self.layout({}).size} counts in all."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(rows=(), **dict.fromkeys(PER_VARIABLE, (len(self.variables),)), events=(len(self.events),))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = of_part(self, rows, self.params.part)
        if not len(rows):
            return self.addend(self.layout(state).zeros(), 0)
        x = rows.matrix(self.variables)
        low = np.array([-np.inf if v.minimum is None else v.minimum for v in self.contract])
        high = np.array([np.inf if v.maximum is None else v.maximum for v in self.contract])
        missing = ~np.isfinite(x)
        below, above = ~missing & (x < low), ~missing & (x > high)
        event = (~(missing | below | above) & (x >= 0.5))[:, self.events]
        counts = {"rows": np.ones(len(rows)), "missing": missing, "below": below, "above": above, "events": event}
        return self.sum_over_patients(rows, {name: a / self._scale for name, a in counts.items()})

    def combine(self, state: State, total: Total) -> State:
        counts = {f.name: np.asarray(total[f.name], float) * self._scale for f in self.layout(state).fields}
        new = self.merge(state, **{name: np.maximum(0.0, a) for name, a in counts.items()}, sites=total.sites, noise=total.noise)
        refusals = self._refusals(new)
        if refusals:
            raise TaskError(" ".join(what for what, _ in refusals[:5]), fix="; ".join(dict.fromkeys(fix for _, fix in refusals[:5])))
        return new

    def result(self, state: State) -> dict[str, Any]:
        sd = self._sd(state)
        names = ("rows", *PER_VARIABLE, "events")
        return {
            "rows": round(float(self.own(state, "rows"))),
            "sites": int(self.own(state, "sites")),
            "variables": {name: self._of(state, j) for j, name in enumerate(self.variables)},
            "noise_sd": {**dict.fromkeys(names, sd), "present": sd * 2**0.5},
            "warnings": self._warnings(state),
        }

    def _of(self, state: State, j: int) -> dict[str, int]:
        rows, missing, below, above = float(self.own(state, "rows")), *(float(self.own(state, k)[j]) for k in PER_VARIABLE)
        out = {"present": round(max(0.0, rows - missing)), "missing": round(missing), "below": round(below), "above": round(above)}
        return out | ({"events": round(float(self.own(state, "events")[self.events.index(j)]))} if j in self.events else {})

    def _sd(self, state: State) -> float:
        """The standard deviation of the noise in each count."""
        return float(self.own(state, "noise")) * self._scale

    def _refusals(self, state: State) -> list[tuple[str, str]]:
        rows, slack = float(self.own(state, "rows")), SURE * self._sd(state)
        if rows + slack < 0.5:
            return [("The cohort has no rows.", "check each site's mapping and the study's inclusion rules")]
        found = []
        for j, (name, variable) in enumerate(zip(self.variables, self.contract, strict=True)):
            missing, limit = float(self.own(state, "missing")[j]), min(self.params.max_missing, variable.max_missing)
            # the noise of missing - limit * rows, and of rows - missing
            excess, present = missing - limit * rows - slack * float(np.hypot(1.0, limit)), rows - missing + slack * 2**0.5
            if excess > 0.5 or present < 0.5:
                what = f"'{name}' is missing in about {min(1.0, missing / max(rows, 1.0)):.0%} of the rows; the limit is {limit:.0%}."
                found.append((what, f"drop '{name}', or correct its mapping where it is missing"))
            elif variable.role == "event" and float(self.own(state, "events")[self.events.index(j)]) + slack < 0.5:
                found.append((f"There is no event at all in '{name}'.", f"check that 1 means the event in '{name}', or choose another outcome"))
        return found

    def _warnings(self, state: State) -> list[str]:
        out, slack, rows = [], SURE * self._sd(state), float(self.own(state, "rows"))
        for j, name in enumerate(self.variables):
            missing, below, above = (float(self.own(state, k)[j]) for k in PER_VARIABLE)
            if below + above > slack * 2**0.5 + 0.5:
                out.append(f"'{name}' has about {round(below + above)} values outside the contract's range; check its unit at each site.")
            if missing - 0.2 * rows > slack * float(np.hypot(1.0, 0.2)) + 0.5:
                out.append(f"'{name}' is missing in more than a fifth of the rows, which the complete-case steps leave out.")
        return out
