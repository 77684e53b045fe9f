"""Public bins for each feature: fine counts over the declared range are summed once, and bins of about equal count are cut from them.

No bin of a number holds fewer patients of the cohort than `least`, so that two splits next to each other do not tell one patient from another.
Source: Chen and Guestrin (2016), KDD, section 3.3 (the global proposal); Ke et al. (2017), NeurIPS, section 2.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locum.errors import ManifestError, TaskError
from locum.study.manifest import Variable
from locum.tasks.tree import MOST_BINS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FINE = 1024
"""Fine bins of a number."""


class Feature:
    """One feature: how its values become cells of the fine count, and bins. The last cell, and the last bin, are of missing values."""

    def __init__(self, name: str, variable: Variable, step: str) -> None:
        self.name, self.variable = name, variable
        self.labels: tuple[str, ...] | None = None
        if variable.type in ("category", "boolean"):
            self.labels = variable.categories or ("0", "1")
            self.inner = np.arange(0.5, len(self.labels) - 1.0)
            if len(self.labels) > MOST_BINS:
                raise ManifestError(
                    f"Step '{step}': '{name}' has {len(self.labels)} categories; a tree takes at most {MOST_BINS}.", fix="merge rare ones, or leave it out"
                )
            return
        self.low, self.high = _range(name, variable, step)
        if variable.type in ("integer", "date"):
            width = np.ceil((self.high - self.low + 1.0) / FINE)
            self.inner = np.arange(self.low - 0.5 + width, self.high, width)
        else:
            self.inner = np.unique(np.linspace(self.low, self.high, FINE + 1)[1:-1].astype(np.float32)).astype(np.float64)

    @property
    def categorical(self) -> bool:
        return self.variable.type == "category"

    @property
    def cells(self) -> int:
        """Cells of the fine count, without that of the missing values."""
        return len(self.inner) + 1

    def most(self, bins: int) -> int:
        """The most bins that it can have."""
        return self.cells if self.labels else min(self.cells, bins)

    def place(self, x: Floats, inner: Floats) -> Ints:
        """The bin of each value (n,): bin k holds inner[k-1] < x <= inner[k]; a missing value is in the last one. Raises `TaskError`."""
        missing = np.isnan(x)
        if np.isinf(x).any():
            raise TaskError(f"Variable '{self.name}' holds an infinite value.", fix="correct it at its source, or give it a missing code")
        if self.labels and not np.isin(x[~missing], np.arange(len(self.labels))).all():
            raise TaskError(
                f"'{self.name}' holds a category that the contract does not list.",
                fix="correct the mapping, or name the category that others become with `other`",
            )
        where = np.searchsorted(inner, x, side="left")
        return np.asarray(np.where(missing, len(inner) + 1, where), dtype=np.int64)

    def cut(self, counts: Floats, bins: int, least: float) -> Floats:
        """Edges between bins, from how many patients are in each fine cell (cells,). Categories and booleans keep theirs."""
        if self.labels:
            return self.inner
        occupied = np.flatnonzero(counts > 0)
        if not len(occupied):
            return np.zeros(0)
        rest, open_, each = float(counts.sum()), bins, len(occupied) <= bins
        edges: list[float] = []
        held = 0.0
        for k in occupied[:-1].tolist():
            held += float(counts[k])
            wanted = least if each else max(least, (rest / open_) if open_ else np.inf)
            if held >= wanted - 1e-9 and rest - held >= least - 1e-9 and len(edges) < bins - 1:
                edges.append(float(self.inner[k]))
                rest, open_, held = rest - held, open_ - 1, 0.0
        return np.asarray(edges, dtype=np.float64)

    def middles(self, inner: Floats) -> list[float] | list[str]:
        """What stands for each bin: its middle, or its category."""
        if self.labels:
            return list(self.labels)
        ends = np.r_[self.low, inner, self.high]
        return [float(m) for m in (ends[:-1] + ends[1:]) / 2.0]


def _range(name: str, variable: Variable, step: str) -> tuple[float, float]:
    """Where the fine bins lie: the plausible range of the contract, else minimum and maximum. Values outside fall into the outermost ones."""
    low, high = variable.plausible or (variable.minimum, variable.maximum)
    if low is None or high is None:
        raise ManifestError(f"Step '{step}' needs the range of '{name}' to bin it.", fix="declare its minimum and maximum, or its plausible range")
    return float(low), float(high)
