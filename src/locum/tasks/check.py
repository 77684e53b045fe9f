"""The first step of a plan: are the data there, in range, and varied enough to answer the question?

Of each variable, every row is in one cell: missing, below the range, above it, an event, or any other value. A cell with a few patients is
not shown, nor what would give it away (`locum.privacy.disclosure`), neither in the answer nor in the state; no message says its number.
That a variable is constant, or has no event, is said whatever the counts are.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import TaskError
from locum.privacy.disclosure import HIDDEN, THRESHOLD, shown, suppress
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import midpoint, usable

Floats = NDArray[np.float64]
ROUNDING = 1e-14
"""A sum of squared deviations below this share of the sum of squares is rounding error: the column is constant."""
CELLS = ("missing", "below", "above", "events", "other")


class CheckParams(Params):
    """variables: what to check, by default all that have numbers, without identifiers. max_missing: the cohort's limit on each variable's
    missing share, besides the contract's own. min_rows: what a site needs to be counted as large enough. threshold: how many patients a
    count needs to be shown; 0 shows every count."""

    variables: tuple[VariableName, ...] = ()
    max_missing: Annotated[float, Field(ge=0, le=1)] = 1.0
    min_rows: Annotated[int, Field(ge=1)] | None = None
    threshold: Annotated[int, Field(ge=0, le=1_000_000)] = THRESHOLD
    part: Part = "all"


@register
class DataCheck(BaseTask[CheckParams]):
    """Per variable: present, missing, out of range, and whether it varies; events for the event variables."""

    kind = "data_check"
    Config = CheckParams

    def __init__(self, step: Step, params: CheckParams, study: Study) -> None:
        super().__init__(step, params, study)
        every = study.data.variables.items()
        self.variables = params.variables or tuple(n for n, v in every if v.type in self.takes and v.role not in ("patient", "split"))
        self.require(*self.variables)
        self.contract = [study.data.variables[n] for n in self.variables]
        self.min_rows = params.min_rows or study.terms.min_rows

    def reads(self) -> tuple[str, ...]:
        return self.variables

    def leaves(self) -> str:
        rule = f"; counts of fewer than {self.params.threshold} patients are suppressed in the answer" if self.params.threshold else ""
        return (
            f"For each of {len(self.variables)} variables: how many values, and of how many patients, are missing, below and above the contract's range, "
            f"events and others, and two sums; and the number of rows; {self.layout({}).size} numbers in all{rule}."
        )

    def layout(self, state: State) -> Layout:
        j = len(self.variables)
        return Layout.of(rows=(), people=(), large_sites=(), counts=(j, len(CELLS)), patients=(j, len(CELLS)), total=(j,), squares=(j,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = usable(self, rows, self.params.part, ()).rows
        vector = self.layout(state).zeros()
        vector["rows"], vector["people"] = np.asarray(float(len(rows))), np.asarray(float(rows.patients))
        vector["large_sites"] = np.asarray(float(len(rows) >= self.min_rows))
        for j, name in enumerate(self.variables):
            x = usable(self, rows, "all", (name,)).rows.columns[name]
            cells = self.cells(j, rows.columns[name])
            pairs = np.unique(np.column_stack([rows.codes, cells]), axis=0)
            vector["counts"][j], vector["patients"][j] = (np.bincount(where, minlength=len(CELLS)) for where in (cells, pairs[:, 1]))
            shifted = x - midpoint(self.contract[j])
            vector["total"][j], vector["squares"][j] = shifted.sum(), (shifted**2).sum()
        return Contribution(vector, rows.patients, self.leaves())

    def cells(self, j: int, x: Floats) -> NDArray[np.int64]:
        """The cell of each value of variable j, shape (n,)."""
        variable = self.contract[j]
        low, high = (-np.inf if variable.minimum is None else variable.minimum), (np.inf if variable.maximum is None else variable.maximum)
        event = (x >= 0.5) & (variable.role == "event")
        return np.select([np.isnan(x), x < low, x > high, event], [0, 1, 2, 3], 4).astype(np.int64)

    def combine(self, state: State, total: Total) -> State:
        exact = {f.name: np.asarray(total[f.name], float) for f in self.layout(state).fields}
        few = (exact["patients"] > 0) & (exact["patients"] < self.params.threshold)
        counts = np.array([self._suppressed(of, small) for of, small in zip(exact["counts"], few, strict=True)]).reshape(-1, len(CELLS))
        refusals = self._refused(exact, counts)
        if refusals:
            raise TaskError(" ".join(what for what, _ in refusals[:5]), fix="; ".join(dict.fromkeys(fix for _, fix in refusals[:5])))
        rows = HIDDEN if exact["people"] < self.params.threshold else exact["rows"]
        return self.merge(state, rows=rows, large_sites=exact["large_sites"], counts=counts, sites=total.sites)

    def done(self, state: State) -> bool:
        return self.key("rows") in state

    def result(self, state: State) -> dict[str, Any]:
        return {
            "rows": shown([self.own(state, "rows")])[0],
            "sites": int(self.own(state, "sites")),
            "sites_with_enough_rows": int(self.own(state, "large_sites")),
            "min_rows": self.min_rows,
            "variables": {name: self._answer(state, j) for j, name in enumerate(self.variables)},
            "threshold": self.params.threshold,
            "warnings": self._warnings(state),
        }

    def _answer(self, state: State, j: int) -> dict[str, int | None]:
        """The counts of one variable, None where suppressed."""
        rows = shown([self.own(state, "rows")])[0]
        cells = dict(zip(CELLS, shown(self.own(state, "counts")[j]), strict=True))
        present = None if rows is None or cells["missing"] is None else rows - cells["missing"]
        return {"present": present} | {k: cells[k] for k in CELLS[: 4 if self.contract[j].role == "event" else 3]}

    def _suppressed(self, counts: Floats, few: NDArray[np.bool_]) -> Floats:
        """First among the values alone, for other steps may show how many are missing; then all together."""
        hidden = few.copy()
        hidden[1:] = suppress(counts[1:], self.params.threshold, also=few[1:]) == HIDDEN
        return suppress(counts, self.params.threshold, also=hidden)

    def _refused(self, exact: dict[str, Floats], counts: Floats) -> list[tuple[str, str]]:
        """What makes the study impossible: (what, fix) pairs. exact: sums; counts: suppressed, which decide what a message may say."""
        rows = float(exact["rows"])
        if not rows:
            return [("The cohort has no rows.", "check each site's mapping and the study's inclusion rules")]
        found = []
        for j, (name, variable) in enumerate(zip(self.variables, self.contract, strict=True)):
            missing, events = float(exact["counts"][j, 0]), float(exact["counts"][j, 3])
            limit = min(self.params.max_missing, variable.max_missing)
            if missing / rows > limit or missing == rows:
                share = "more of the rows than it may be" if counts[j, 0] == HIDDEN else f"{missing / rows:.0%} of the rows"
                found.append((f"'{name}' is missing in {share}; the limit is {limit:.0%}.", f"drop '{name}', or correct its mapping where it is missing"))
            elif variable.role == "event" and not events:
                found.append((f"There is no event at all in '{name}'.", f"check that 1 means the event in '{name}', or choose another outcome"))
            elif _constant(rows - missing, float(exact["total"][j]), float(exact["squares"][j])):
                found.append((f"'{name}' is constant: it has the same value in every row.", f"drop '{name}', or correct its mapping"))
        return found

    def _warnings(self, state: State) -> list[str]:
        out, rows = [], shown([self.own(state, "rows")])[0]
        for j, name in enumerate(self.variables):
            missing, below, above, *values = shown(self.own(state, "counts")[j])
            if {missing, below, above, *values} == {None}:
                out.append(f"'{name}' has too few values of some kind to show any count.")
            elif below is None or above is None:
                out.append(f"'{name}' has some values outside the contract's range (how many is not shown); check its unit at each site.")
            elif below + above:
                out.append(f"'{name}' has {below + above} values outside the contract's range; check its unit at each site.")
            if rows and missing is not None and missing > 0.2 * rows:
                out.append(f"'{name}' is missing in more than a fifth of the rows, which the complete-case steps leave out.")
        small = int(self.own(state, "sites")) - int(self.own(state, "large_sites"))
        return out + ([f"{small} sites have fewer than {self.min_rows} rows."] if small > 0 else [])


def _constant(n: float, s1: float, s2: float) -> bool:
    """From n values' sum and sum of squares."""
    return s2 - s1 * s1 / n <= ROUNDING * s2
