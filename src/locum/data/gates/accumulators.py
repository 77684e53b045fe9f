"""What a pass over a table keeps of one variable: counts, moments and bins, in memory that does not grow with the rows."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from locum.data.gates.cells import Bools, Cells, Floats
from locum.data.gates.histogram import BinCounter, FineBins, Histogram, edges_of
from locum.data.gates.modes import Modes
from locum.data.gates.report import Example, VariableSummary
from locum.study.manifest import Variable

EXAMPLES = 5
BLOCK = 1 << 14
MOST_CODES = 1000
"""Different codes that are listed; the rest are counted as '(others)'."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Accumulator:
    """Of one variable. `add` takes its chunks in order."""

    def __init__(self, variable: Variable, *, examples: bool = True) -> None:
        self.variable, self.most_examples = variable, EXAMPLES if examples else 0
        self.rows = self.values = self.missing = self.recoded = self.wrong = 0
        self.below = self.above = self.low = self.high = 0
        self.least, self.greatest = math.inf, -math.inf
        self.mean = self.squares = 0.0
        self.unknown: Counter[str] = Counter()
        self.outside: Counter[float] = Counter()
        self.wrong_examples: list[Example] = []
        self.range_examples: list[Example] = []
        edges = edges_of(variable)
        self.bins = BinCounter(edges) if edges is not None else None
        self.coded = variable.type in ("boolean", "category")
        self.counted = not (self.coded or variable.type == "text" or variable.role == "patient")
        self.fine = FineBins() if self.counted else None
        self.modes = Modes() if variable.min_varying and self.counted and variable.type != "array" else None

    def add(self, cells: Cells, first: int, keep: Bools | None = None) -> None:
        """first: the number of the chunk's first record, from 1. keep: which of its rows belong to the cohort; all, if None."""
        x = cells.values
        wrong = self._wrong(cells)
        if wrong is not None:
            self._note_wrong(cells, np.flatnonzero(wrong), first)
        self.wrong += cells.more_wrong
        if keep is not None:
            x, wrong = x[keep], wrong[keep] if wrong is not None else None
        n = len(x)
        if wrong is not None:
            x = x[~wrong]
        there = ~np.isnan(x) if x.ndim == 1 else ~np.isnan(x).all(axis=1)
        seen = x[there] if not there.all() else x
        self.rows += n
        self.values += len(seen)
        self.missing += len(x) - len(seen)
        if cells.recoded is not None:
            self.recoded += int((cells.recoded if keep is None else cells.recoded & keep).sum())
        if self.counted:
            if len(seen):
                self._note_range(seen, cells, first, keep)
            self._numbers(seen[~np.isnan(seen)] if x.ndim > 1 else seen)
        elif self.coded and self.bins is not None and len(seen):
            self.bins.add(seen)

    def summary(self) -> VariableSummary:
        histogram = self.bins.result() if self.bins else None
        total = histogram.total if self.coded and histogram else 0
        mode = max(histogram.counts) / total if histogram and total else None
        if self.modes is not None and self.values:
            mode = self.modes.most() / self.values
        elif self.counted and self.values and self.least == self.greatest:
            mode = 1.0
        n = self._n
        numbers = self.counted and n > 0
        quantiles = self.fine.quantiles(QUANTILES) if self.fine else ()
        return VariableSummary(
            variable=self.variable,
            **{k: getattr(self, k) for k in ("rows", "values", "missing", "recoded", "wrong", "below", "above", "low", "high")},
            mean=self.mean if numbers and math.isfinite(self.mean) else None,
            sd=math.sqrt(self.squares / (n - 1)) if numbers and n > 1 and math.isfinite(self.squares) else None,
            mode_share=mode,
            quantiles=tuple(min(max(round(q) if self.variable.type == "integer" else q, self.least), self.greatest) for q in quantiles),
            histogram=histogram,
            shown=self._shown(histogram),
            unknown=dict(self.unknown.most_common()),
        )

    _n = 0

    def _wrong(self, cells: Cells) -> Bools | None:
        """Cells that are no value, and values that their type does not allow."""
        x, kind = cells.values, self.variable.type
        if kind == "text" or self.variable.role == "patient":
            return np.isnan(x) if self.variable.role == "patient" and np.isnan(x).any() else cells.wrong
        if kind == "boolean":
            good = (x == 0) | (x == 1)
        elif kind == "category":
            good = (x >= 0) & (x < len(self.variable.categories)) & (x == np.rint(x))
        elif kind == "integer" and not cells.whole:
            good = (x == np.rint(x)) & np.isfinite(x)
        elif kind == "array":
            good = ~np.isinf(x).any(axis=1)
        else:
            if not np.isinf(x).any():
                return cells.wrong
            good = np.isfinite(x)
        bad = np.asarray(~good if x.ndim > 1 else ~(good | np.isnan(x)), dtype=bool)
        if cells.wrong is not None:
            bad |= cells.wrong
        return bad if bad.any() else None

    def _note_wrong(self, cells: Cells, at: NDArray[np.intp], first: int) -> None:
        self.wrong += len(at)
        if self.most_examples and self.variable.type == "category":
            for code, count in Counter(cells.text(at)).items():
                self.unknown[code if code in self.unknown or len(self.unknown) < MOST_CODES else "(others)"] += count
        self._note(self.wrong_examples, cells, at, first)

    def _note(self, kept: list[Example], cells: Cells, at: NDArray[np.intp], first: int) -> None:
        at = at[: self.most_examples - len(kept)]
        if len(at):
            kept += [Example(first + int(i), text) for i, text in zip(at, cells.text(at), strict=False)]

    def _note_range(self, seen: Floats, cells: Cells, first: int, keep: Bools | None) -> None:
        """Count rows outside the hard and the plausible range; an array is outside where any of its numbers is."""
        v = self.variable
        low, high = (seen, seen) if seen.ndim == 1 else (np.nanmin(seen, axis=1), np.nanmax(seen, axis=1))
        least, greatest = float(low.min()), float(high.max())
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        if v.plausible is not None and (least < v.plausible[0] or greatest > v.plausible[1]):
            self.low += int((low < v.plausible[0]).sum())
            self.high += int((high > v.plausible[1]).sum())
        under, over = v.minimum is not None and least < v.minimum, v.maximum is not None and greatest > v.maximum
        if not (under or over):
            return
        floor, ceiling = -math.inf if v.minimum is None else v.minimum, math.inf if v.maximum is None else v.maximum
        self.below += int((low < floor).sum())
        self.above += int(((high > ceiling) & ~(low < floor)).sum())
        if seen.ndim == 1 and len(self.outside) < MOST_CODES:
            values, counts = np.unique(seen[(seen < floor) | (seen > ceiling)], return_counts=True)
            self.outside.update(dict(zip(values[:MOST_CODES].tolist(), counts.tolist(), strict=False)))
        if len(self.range_examples) < self.most_examples:
            x = cells.values if cells.values.ndim == 1 else np.where(np.isnan(cells.values), floor, cells.values)
            out = ((x < floor) | (x > ceiling)) & np.isfinite(x)
            rows = np.asarray(out.any(axis=1) if out.ndim > 1 else out, dtype=bool)
            self._note(self.range_examples, cells, np.flatnonzero(rows if keep is None else rows & keep), first)

    def _numbers(self, x: Floats) -> None:
        """Moments, bins and the most frequent value, in blocks whose temporary arrays stay in the cache and are not given back to the system."""
        for start in range(0, len(x), BLOCK):
            block = x[start : start + BLOCK]
            self._moments(block)
            if self.bins is not None:
                self.bins.add(block)
            if self.fine is not None:
                self.fine.add(block)
        if self.modes is not None and len(x):
            self.modes.add(x)

    def _moments(self, x: Floats) -> None:
        """The update of Chan, Golub and LeVeque (1983), Am Stat 37:242. Not by BLAS, whose own threads would wait for each other here."""
        n = len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(x.mean())
            centred = x - mean
            delta, total = mean - self.mean, self._n + n
            self.squares += float(np.square(centred, out=centred).sum()) + delta * delta * self._n * n / total
            self.mean += delta * n / total
        self._n = total

    def _shown(self, declared: Histogram | None) -> Histogram | None:
        """What a page draws: the declared bins that hold values; where the values fill few of them, bins of their own."""
        if self.coded or declared is None or self.fine is None:
            return declared if self.coded else self.fine.histogram() if self.fine else None
        trimmed = declared.trimmed()
        few = not sum(trimmed.counts) or (len(trimmed.counts) < 8 and self.variable.type != "integer")
        return (self.fine.histogram() or trimmed) if few else trimmed
