"""A histogram with edges that are declared before any site looks at its data."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import usable


class HistogramParams(Params):
    """edges: increasing bin edges; without them `bins` equal bins over the contract's range."""

    variable: VariableName
    edges: Annotated[tuple[float, ...], Field(max_length=100_001)] = ()
    bins: Annotated[int, Field(ge=1, le=100_000)] = 20
    part: Part = "all"


@register
class Histogram(BaseTask[HistogramParams]):
    """Counts per bin, [a, b) and the last one [a, b], and outside."""

    kind = "histogram"
    Config = HistogramParams

    def __init__(self, step: Step, params: HistogramParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(params.variable)
        self.edges = np.asarray(params.edges, float) if params.edges else np.linspace(*contract_range(self, params.variable, "edges = [...]"), params.bins + 1)
        if len(self.edges) < 2 or (np.diff(self.edges) <= 0).any():
            raise ManifestError(f"Step '{step.name}': edges must be at least two increasing numbers.")

    def reads(self) -> tuple[str, ...]:
        return (self.params.variable,)

    def leaves(self) -> str:
        bins = len(self.edges) - 1
        return f"How many values of '{self.params.variable}' lie in each of {bins} bins, below, above, or are missing; {bins + 3} counts in all."

    def layout(self, state: State) -> Layout:
        return Layout.of(counts=(len(self.edges) - 1,), below=(), above=(), missing=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        x = used.rows.columns[self.params.variable]
        vector = {
            "counts": np.histogram(x, self.edges)[0].astype(np.float64),
            "below": np.asarray(float((x < self.edges[0]).sum())),
            "above": np.asarray(float((x > self.edges[-1]).sum())),
            "missing": np.asarray(float(used.left_out)),
        }
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        return self.merge(state, **{f.name: total[f.name] for f in self.layout(state).fields})

    def done(self, state: State) -> bool:
        return self.key("counts") in state

    def result(self, state: State) -> dict[str, Any]:
        counts = {k: int(self.own(state, k)) for k in ("below", "above", "missing")}
        return {"variable": self.params.variable, "edges": self.edges.tolist(), "counts": [int(c) for c in self.own(state, "counts")], **counts}


def contract_range(task: BaseTask[Any], name: str, otherwise: str, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """The given limits, or the declared minimum and maximum of a variable; raises `ManifestError` where there is neither."""
    variable = task.study.data.variables[name]
    low, high = variable.minimum if low is None else low, variable.maximum if high is None else high
    if low is None or high is None:
        raise ManifestError(
            f"Step '{task.step.name}' needs the range of '{name}'.", fix=f"declare its minimum and maximum in the contract, or give {otherwise}"
        )
    return low, high


def counts_at_or_below(x: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of x are <= each edge."""
    return np.searchsorted(np.sort(x), edges, side="right").astype(np.float64)
