"""The first step of a plan: are the data there, in range, and varied enough to answer the question?"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import midpoint, usable

Floats = NDArray[np.float64]
ROUNDING = 1e-14
"""A sum of squared deviations below this share of the sum of squares is rounding error: the column is constant."""


class CheckParams(Params):
    """variables: what to check, by default all but patient identifiers. max_missing: the cohort's limit on each
    variable's missing share, besides the contract's own. min_rows: what a site needs to be counted as large enough."""

    variables: tuple[VariableName, ...] = ()
    max_missing: Annotated[float, Field(ge=0, le=1)] = 1.0
    min_rows: Annotated[int, Field(ge=1)] | None = None
    part: Part = "all"


@register
class DataCheck(BaseTask[CheckParams]):
    """Per variable: present, missing, out of range, and whether it varies; events for the event variables."""

    kind = "data_check"
    Config = CheckParams

    def __init__(self, step: Step, params: CheckParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.variables = params.variables or tuple(n for n, v in study.data.variables.items() if v.role != "patient")
        self.require(*self.variables)
        self.contract = [study.data.variables[n] for n in self.variables]
        self.min_rows = params.min_rows or study.terms.min_rows

    def reads(self) -> tuple[str, ...]:
        return self.variables

    def leaves(self) -> str:
        return (
            f"For each of {len(self.variables)} variables: how many values are present, missing, below and above the contract's range, and two sums; "
            f"and the number of rows; {self.layout({}).size} numbers in all."
        )

    def layout(self, state: State) -> Layout:
        shape = (len(self.variables),)
        return Layout.of(rows=(), large_sites=(), present=shape, missing=shape, below=shape, above=shape, total=shape, squares=shape)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = usable(self, rows, self.params.part, ()).rows
        vector = self.layout(state).zeros()
        vector["rows"], vector["large_sites"] = np.asarray(float(len(rows))), np.asarray(float(len(rows) >= self.min_rows))
        for j, (name, variable) in enumerate(zip(self.variables, self.contract, strict=True)):
            x = usable(self, rows, "all", (name,)).rows.columns[name]
            shifted = x - midpoint(variable)
            vector["present"][j], vector["missing"][j] = len(x), len(rows) - len(x)
            vector["below"][j] = (x < variable.minimum).sum() if variable.minimum is not None else 0.0
            vector["above"][j] = (x > variable.maximum).sum() if variable.maximum is not None else 0.0
            vector["total"][j], vector["squares"][j] = shifted.sum(), (shifted**2).sum()
        return Contribution(vector, rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        new = self.merge(state, **{f.name: total[f.name] for f in self.layout(state).fields}, sites=total.sites)
        refusals = self._refusals(new)
        if refusals:
            raise TaskError(" ".join(what for what, _ in refusals[:5]), fix="; ".join(dict.fromkeys(fix for _, fix in refusals[:5])))
        return new

    def done(self, state: State) -> bool:
        return self.key("rows") in state

    def result(self, state: State) -> dict[str, Any]:
        counts = {k: self.own(state, k) for k in ("present", "missing", "below", "above")}
        variables = {name: {k: int(a[j]) for k, a in counts.items()} for j, name in enumerate(self.variables)}
        for j, (name, variable) in enumerate(zip(self.variables, self.contract, strict=True)):
            if variable.role == "event":
                variables[name]["events"] = self._events(state, j)
        return {
            "rows": int(self.own(state, "rows")),
            "sites": int(self.own(state, "sites")),
            "sites_with_enough_rows": int(self.own(state, "large_sites")),
            "min_rows": self.min_rows,
            "variables": variables,
            "warnings": self._warnings(state),
        }

    def _events(self, state: State, j: int) -> int:
        return round(float(self.own(state, "total")[j] + self.own(state, "present")[j] * midpoint(self.contract[j])))

    def _refusals(self, state: State) -> list[tuple[str, str]]:
        """What makes the study impossible: (what, fix) pairs."""
        rows = float(self.own(state, "rows"))
        if not rows:
            return [("The cohort has no rows.", "check each site's mapping and the study's inclusion rules")]
        found = []
        for j, (name, variable) in enumerate(zip(self.variables, self.contract, strict=True)):
            missing, present = float(self.own(state, "missing")[j]), float(self.own(state, "present")[j])
            limit = min(self.params.max_missing, variable.max_missing)
            if missing / rows > limit or not present:
                found.append(
                    (
                        f"'{name}' is missing in {missing / rows:.0%} of the rows; the limit is {limit:.0%}.",
                        f"drop '{name}', or correct its mapping where it is missing",
                    )
                )
            elif variable.role == "event" and not self._events(state, j):
                found.append((f"There is no event at all in '{name}'.", f"check that 1 means the event in '{name}', or choose another outcome"))
            elif self._constant(state, j):
                found.append((f"'{name}' is constant: it has the same value in every row.", f"drop '{name}', or correct its mapping"))
        return found

    def _constant(self, state: State, j: int) -> bool:
        n, s1, s2 = (float(self.own(state, k)[j]) for k in ("present", "total", "squares"))
        return s2 - s1 * s1 / n <= ROUNDING * s2

    def _warnings(self, state: State) -> list[str]:
        out = []
        for j, name in enumerate(self.variables):
            outside = int(self.own(state, "below")[j] + self.own(state, "above")[j])
            if outside:
                out.append(f"'{name}' has {outside} values outside the contract's range; check its unit at each site.")
            if self.own(state, "missing")[j] > 0.2 * self.own(state, "rows"):
                out.append(f"'{name}' is missing in more than a fifth of the rows, which the complete-case steps leave out.")
        small = int(self.own(state, "sites")) - int(self.own(state, "large_sites"))
        return out + ([f"{small} sites have fewer than {self.min_rows} rows."] if small > 0 else [])
