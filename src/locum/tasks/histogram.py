"""A histogram with edges that are declared before any site looks at its data, and without small cells.

A cell is shown if it is empty or at least `threshold` patients are in it, and further cells are hidden so that no small one
follows from a total (`locum.privacy.disclosure`). What a second step of the plan counts in other bins of the same variable could be
subtracted; such a plan is refused. A quantile is a count too, below an edge that the data choose: with it a suppressed cell
follows from its neighbours, however many values lie in the tails. So the two exclude each other while anything is suppressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError
from locum.privacy.disclosure import THRESHOLD, check_bins, shown, suppress
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import usable

Floats = NDArray[np.float64]
OUTSIDE = ("below", "above", "missing")
DRIFT_BINS = 10
"""Into how many bins the task `drift` counts by default."""


class HistogramParams(Params):
    """edges: increasing bin edges; without them `bins` equal bins over the contract's range, or one for each category. threshold: how
    many patients a cell needs to be shown; 0 shows every cell."""

    variable: VariableName
    edges: Annotated[tuple[float, ...], Field(max_length=100_001)] = ()
    bins: Annotated[int, Field(ge=1, le=100_000)] = 20
    threshold: Annotated[int, Field(ge=0, le=1_000_000)] = THRESHOLD
    part: Part = "all"


@register
class Histogram(BaseTask[HistogramParams]):
    """Counts per bin, [a, b) and the last one [a, b], and outside. What is suppressed is not in the state either."""

    kind = "histogram"
    Config: ClassVar[type[Any]] = HistogramParams

    def __init__(self, step: Step, params: HistogramParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(params.variable)
        self.edges = _edges(self, params)
        self.check_plan()

    def reads(self) -> tuple[str, ...]:
        return (self.params.variable,)

    def check_plan(self) -> None:
        """Raise `ManifestError` where this step and an earlier one could be subtracted."""
        for step, params in earlier_counts(self, self.params.variable, self.params.part):
            suppressed = bool(self.params.threshold or params.threshold)
            check_bins([(step.name, _edges(self, params)), (self.step.name, self.edges)], suppressed=suppressed)
            if suppressed and params.part != self.params.part:
                raise ManifestError(
                    f"The steps '{step.name}' and '{self.step.name}' count '{params.variable}' in parts '{params.part}' and '{self.params.part}'.",
                    why="One minus the other counts the patients of the remaining part, where cells may be small.",
                    fix="count the parts 'train' and 'test', or only 'all'",
                )
        for step, other in earlier_on(self, ("quantiles", "robust_scale", "impute"), self.params.variable, self.params.part):
            if step.task != "impute" or other.get("method") == "median":
                check_beside_quantiles(self.step, step, self.params)

    def leaves(self) -> str:
        rule = f"cells of fewer than {self.params.threshold} patients are suppressed in the answer" if self.params.threshold else "no cell is suppressed"
        bins, size = len(self.edges) - 1, self.layout({}).size
        return (
            f"How many values of '{self.params.variable}' lie in each of {bins} bins, below, above, or are missing, and of how many patients; "
            f"{size} counts in all; {rule}."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(counts=(len(self.edges) - 1,), below=(), above=(), missing=(), patients=(len(self.edges) + 2,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        rows = rows.part(self.params.part, self.study.data.split)
        where = self.cells(rows.columns[self.params.variable])
        pairs = np.unique(np.column_stack([rows.codes, where]), axis=0)
        return Contribution(self.split(self._count(where)) | {"patients": self._count(pairs[:, 1])}, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        counts = np.concatenate([np.ravel(total[name]) for name in ("counts", *OUTSIDE)])
        few = (np.asarray(total["patients"]) > 0) & (np.asarray(total["patients"]) < self.params.threshold)
        return self.merge(state, **self.split(self._suppressed(counts, few)))

    def done(self, state: State) -> bool:
        return self.key("counts") in state

    def result(self, state: State) -> dict[str, Any]:
        counts, outside = shown(self.own(state, "counts")), {name: shown([self.own(state, name)])[0] for name in OUTSIDE}
        return {
            "variable": self.params.variable,
            "edges": self.edges.tolist(),
            "counts": counts,
            **outside,
            "suppressed": [*counts, *outside.values()].count(None),
            "threshold": self.params.threshold,
        }

    def cells(self, x: Floats) -> NDArray[np.int64]:
        """The cell of each value, shape (n,): the bins in order, then below, above, missing (NaN or infinite)."""
        bins = len(self.edges) - 1
        where = np.searchsorted(self.edges, x, side="right") - 1
        where[x == self.edges[-1]] = bins - 1
        where[x < self.edges[0]], where[x > self.edges[-1]], where[~np.isfinite(x)] = bins, bins + 1, bins + 2
        return where.astype(np.int64)

    def split(self, counts: Floats) -> dict[str, Floats]:
        """Counts in the order of `cells` under their names."""
        below, above, missing = (np.asarray(c) for c in counts[-3:])
        return {"counts": counts[:-3], "below": below, "above": above, "missing": missing}

    def _count(self, where: NDArray[np.int64]) -> Floats:
        return np.bincount(where, minlength=len(self.edges) + 2).astype(np.float64)

    def _suppressed(self, counts: Floats, few: NDArray[np.bool_]) -> Floats:
        """First among the bins alone, for other steps may show what is outside and missing; then all together."""
        hidden = few.copy()
        hidden[:-3] = suppress(counts[:-3], self.params.threshold, also=few[:-3]) < 0
        return suppress(counts, self.params.threshold, also=hidden)


def earlier_on(task: BaseTask[Any], kinds: tuple[str, ...], variable: str, part: Part) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Earlier steps of these kinds that count the same variable on a part that shares patients, with their parameters."""
    for step in takewhile(lambda s: s.name != task.step.name, task.study.plan):
        params = step.params
        parts = {part, params.get("part", "all")}
        if step.task not in kinds or not ("all" in parts or len(parts) == 1):
            continue
        if variable in (params.get("variable"), *params.get("variables", ())):
            yield step, params


def earlier_counts(task: BaseTask[Any], variable: str, part: Part) -> Iterator[tuple[Step, HistogramParams]]:
    """Earlier steps that count the variable in bins, each as the histogram that it is."""
    for step, params in earlier_on(task, ("histogram",), variable, part):
        yield step, HistogramParams.parse(params)
    for step, params in earlier_on(task, ("drift",), variable, part):
        yield step, HistogramParams(variable=variable, bins=params.get("bins", DRIFT_BINS), part=params.get("part", "all"))


def check_beside_quantiles(histogram: Step, quantiles: Step, params: HistogramParams) -> None:
    """Raise `ManifestError` where a histogram that suppresses cells stands beside quantiles of the same variable."""
    if params.threshold:
        raise ManifestError(
            f"The steps '{histogram.name}' and '{quantiles.name}' count the same variable '{params.variable}'.",
            why="A quantile tells how many values lie below it: a cell that the histogram suppresses would follow from its neighbours.",
            fix=f"leave '{params.variable}' out of one of them"
            + ("; quantiles can be read off a histogram. Or set threshold = 0 in it, which then shows small cells" if histogram.task == "histogram" else ""),
        )


def _edges(task: BaseTask[Any], params: HistogramParams) -> Floats:
    variable = task.study.data.variables[params.variable]
    if not params.edges and variable.type in ("category", "boolean"):
        return np.arange(len(variable.categories or (0, 1)) + 1.0, dtype=np.float64) - 0.5
    declared = np.asarray(params.edges, float)
    edges = declared if params.edges else np.linspace(*contract_range(task, params.variable, "edges = [...]"), params.bins + 1)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ManifestError(f"Step '{task.step.name}': edges must be at least two increasing numbers.")
    return edges


def contract_range(task: BaseTask[Any], name: str, otherwise: str, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """The given limits, or the declared minimum and maximum of a variable; raises `ManifestError` where there is neither."""
    variable = task.study.data.variables[name]
    low, high = variable.minimum if low is None else low, variable.maximum if high is None else high
    if low is not None and high is not None:
        return low, high
    given = f", or give {otherwise}" if task.step.task in ("histogram", "quantiles") else ""
    changed = next((t.step.name for t in reversed(task.transforms) if name in t.derived()), None)
    if changed is not None:
        what = f"Step '{task.step.name}' needs the range of '{name}', which has none after step '{changed}'."
        raise ManifestError(what, why="Changed values may lie outside the range that the contract declares.", fix=f"put it before '{changed}'{given}")
    raise ManifestError(f"Step '{task.step.name}' needs the range of '{name}'.", fix=f"declare its minimum and maximum in the contract{given}")


def counts_at_or_below(x: Floats, edges: Floats) -> Floats:
    """How many of x are <= each edge."""
    return np.searchsorted(np.sort(x), edges, side="right").astype(np.float64)
