"""What the scenario `gwas` compares: one analysis of all variants, and the same by textbook formulas on pooled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.data import Rows
from locum.scenarios.lab import Ran
from locum.tasks.gwas import table
from locum.tasks.gwas_sums import MEDIAN, inflation, p_values

Floats = NDArray[np.float64]
LEVEL = 0.05
"""Over all tests together (Bonferroni): 20,000 variants are no whole genome, whose level would be 5e-8."""


@dataclass(frozen=True)
class Scan:
    """One analysis: chi-squares of the variants tested, and which variants they are."""

    chi2: Floats
    column: NDArray[np.int64]

    @classmethod
    def of(cls, ran: Ran, step: str) -> Scan:
        frame = table(ran.state, step)
        return cls(frame["chi2"].to_numpy(), frame["column"].to_numpy())

    @property
    def lambda_gc(self) -> float:
        return inflation(self.chi2) or 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Of lambda, by the order statistics about the median, as if variants were independent."""
        x, m = np.sort(self.chi2), len(self.chi2)
        low, high = (int(np.clip(m / 2 + s * 0.98 * np.sqrt(m), 0, m - 1)) for s in (-1, 1))
        return float(x[low]) / MEDIAN, float(x[high]) / MEDIAN

    def found(self, places: Mapping[str, int]) -> tuple[list[str], int]:
        """The planted variants that pass, and how many others do."""
        passed = set(self.column[p_values(self.chi2) < LEVEL / len(self.chi2)].tolist())
        return [name for name, at in places.items() if at in passed], len(passed - set(places.values()))


def score_tests(y: Floats, x: Floats, g: Floats) -> Floats:
    """Rao's score test of each column of g by the formula on pooled rows: chi-squares, NaN where a column
    tells nothing. y: (n,). x: (n, p). g: (n, variants), NaN where missing, which counts as the column's mean."""
    mean = np.nanmean(np.where(np.isnan(g).all(axis=0), 0.0, g), axis=0)
    basis, _ = np.linalg.qr(x)
    residual = y - basis @ (basis.T @ y)
    out = np.where(np.isnan(g), mean, g)
    out -= basis @ (basis.T @ out)
    variance = (out**2).sum(axis=0)
    phi = residual @ residual / (len(y) - x.shape[1])
    tells = variance > 1e-9 * len(y)
    return np.asarray(np.where(tells, (residual @ out) ** 2 / (phi * np.where(tells, variance, 1.0)), np.nan))


def stacked(sites: Mapping[str, Rows]) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    """Trait, age, genotypes and hospital of all rows."""
    trait, age = (np.concatenate([r.columns[n] for r in sites.values()]) for n in ("trait", "age"))
    g = np.vstack([np.asarray(r.arrays["genotypes"], dtype=np.float64) for r in sites.values()])
    return trait, age, g, np.repeat(np.arange(len(sites)), [len(r) for r in sites.values()])


def pooled(sites: Mapping[str, Rows]) -> dict[str, Scan]:
    y, age, g, where = stacked(sites)
    one, dummies = np.ones((len(y), 1)), np.eye(len(sites))[where]
    means = np.stack([np.nanmean(g[where == k], axis=0) for k in range(len(sites))])
    within = np.where(np.isnan(g), means[where], g)  # a genotype not called counts as its stratum's mean
    f = np.nanmean(g, axis=0) / 2.0
    used = np.flatnonzero(np.minimum(f, 1.0 - f) >= 0.05)
    used = used[used % 4 == 0]
    z = np.nan_to_num((g[:, used] - 2.0 * f[used]) / np.sqrt(2.0 * f[used] * (1.0 - f[used])))
    axes = np.linalg.eigh(z @ z.T)[1][:, -2:]
    design = {"naive": [one, age], "site": [dummies, age], "pca": [one, age, axes]}
    chi2 = {form: score_tests(y, np.column_stack(x), within if form == "site" else g) for form, x in design.items()}
    copies, called = np.nansum(g, axis=0), (~np.isnan(g)).sum(axis=0)
    enough = np.minimum(copies, 2 * called - copies) >= 20
    return {form: Scan(c[enough & ~np.isnan(c)], np.flatnonzero(enough & ~np.isnan(c))) for form, c in chi2.items()}
