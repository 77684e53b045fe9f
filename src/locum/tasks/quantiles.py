"""Quantiles by counting: each round zooms into the bin that holds the quantile, until the bin is narrow enough.

The quantile is the smallest value x such that at least a share p of the values are <= x (the inverse of the empirical
distribution, numpy's 'inverted_cdf'). It lies in the bracket (low, high]; the answer is its middle, wrong by at most half
its width. A point mass needs nothing special. The extremes are never approached: `tail` values must lie on either side.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import usable
from locum.tasks.histogram import check_beside_quantiles, contract_range, counts_at_or_below, earlier_counts

Probability = Annotated[float, Field(gt=0, lt=1)]


class QuantilesParams(Params):
    """minimum, maximum: where to look, by default the contract's range. tolerance: width of the final bracket, by default
    a millionth of that range. tail: how many values must lie on either side of a quantile, so that neither an extreme nor a
    small group beyond it is shown."""

    variable: VariableName
    probabilities: Annotated[tuple[Probability, ...], Field(min_length=1, max_length=99)] = (0.25, 0.5, 0.75)
    bins: Annotated[int, Field(ge=2, le=10_000)] = 64
    minimum: float | None = None
    maximum: float | None = None
    tolerance: Annotated[float, Field(gt=0)] | None = None
    tail: Annotated[int, Field(ge=1)] = THRESHOLD
    part: Part = "all"


@register
class Quantiles(BaseTask[QuantilesParams]):
    """All probabilities are refined side by side."""

    kind = "quantiles"
    Config: ClassVar[type[Any]] = QuantilesParams

    def __init__(self, step: Step, params: QuantilesParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(params.variable)
        self.range = contract_range(self, params.variable, "minimum and maximum", params.minimum, params.maximum)
        if self.range[0] >= self.range[1]:
            raise ManifestError(f"Step '{step.name}': minimum must lie below maximum.")
        # doubles cannot be told apart below this width
        self.tolerance = max(params.tolerance or (self.range[1] - self.range[0]) * 1e-6, 4 * np.spacing(max(abs(self.range[0]), abs(self.range[1]))))
        self.whole = study.data.variables[params.variable].type in ("integer", "boolean", "category")
        self.check_plan()

    def check_plan(self) -> None:
        """Raise `ManifestError` where an earlier histogram of the variable suppresses cells; `tasks.histogram` says why."""
        for step, params in earlier_counts(self, self.params.variable, self.params.part):
            check_beside_quantiles(step, self.step, params)

    def reads(self) -> tuple[str, ...]:
        return (self.params.variable,)

    def leaves(self) -> str:
        q, edges, size = len(self.params.probabilities), self.params.bins + 1, self.layout({}).size
        return f"Each round, for each of {q} quantiles of '{self.params.variable}': how many values are at or below {edges} edges; {size} counts in all."

    def layout(self, state: State) -> Layout:
        return Layout.of(at_or_below=(len(self.params.probabilities), self.params.bins + 1), rows=(), below=(), missing=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        x = used.rows.columns[self.params.variable]
        vector = {
            "at_or_below": np.stack([counts_at_or_below(x, edges) for edges in self._edges(state)]),
            "rows": np.asarray(float(len(x))),
            "below": np.asarray(float((x < self.range[0]).sum())),
            "missing": np.asarray(float(used.left_out)),
        }
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        n, edges = round(float(total["rows"])), self._edges(state)
        low, high = np.empty(len(edges)), np.empty(len(edges))
        for i, p in enumerate(self.params.probabilities):
            rank = max(1, int(np.ceil(p * n - 1e-9)))
            self._check(p, rank, n, float(total["below"]), float(np.asarray(total["at_or_below"])[i, -1]))
            k = int(np.argmax(np.asarray(total["at_or_below"])[i] >= rank))
            # at the very first edge the value is the minimum itself
            low[i], high[i] = (edges[i, k - 1] if k else edges[i, 0]), edges[i, k]
        return self.merge(state, low=low, high=high, rows=total["rows"], missing=total["missing"])

    def done(self, state: State) -> bool:
        return self.key("low") in state and all(self._settled(a, b) for a, b in zip(*self._brackets(state), strict=True))

    def result(self, state: State) -> dict[str, Any]:
        quantiles = [self._answer(p, a, b) for p, a, b in zip(self.params.probabilities, *self._brackets(state), strict=True)]
        return {
            "variable": self.params.variable,
            "n": int(self.own(state, "rows")),
            "missing": int(self.own(state, "missing")),
            "quantiles": quantiles,
            "converged": self.done(state),
        }

    def _answer(self, p: float, low: float, high: float) -> dict[str, float]:
        if self.whole and np.floor(high) - np.floor(low) == 1:
            return {"probability": p, "value": float(np.floor(high)), "error_bound": 0.0}
        return {"probability": p, "value": low + (high - low) / 2.0, "error_bound": (high - low) / 2.0}

    def _settled(self, low: float, high: float) -> bool:
        return high - low <= self.tolerance or bool(self.whole and np.floor(high) - np.floor(low) == 1)

    def _brackets(self, state: State) -> tuple[list[float], list[float]]:
        return [float(a) for a in self.own(state, "low")], [float(b) for b in self.own(state, "high")]

    def _edges(self, state: State) -> NDArray[np.float64]:
        """The edges of this round per quantile, shape (q, bins + 1)."""
        q = len(self.params.probabilities)
        low, high = (self.own(state, "low"), self.own(state, "high")) if self.key("low") in state else (np.full(q, e) for e in self.range)
        return np.linspace(low, high, self.params.bins + 1, axis=1)

    def _check(self, p: float, rank: int, n: int, below: float, inside: float) -> None:
        name = self.params.variable
        if min(rank, n - rank + 1) <= self.params.tail - 1 or not n:
            raise TaskError(
                f"The {p:g} quantile of '{name}' would have fewer than {self.params.tail} values on one side.",
                why=f"The cohort has {n} values, and extremes are not shown.",
                fix="ask for a probability nearer to 0.5, or for a larger cohort",
            )
        if below >= rank or inside < rank:
            raise TaskError(
                f"The {p:g} quantile of '{name}' lies outside the declared range.", fix="correct the unit at the sites, or widen minimum and maximum"
            )
