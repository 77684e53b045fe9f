"""How far a site's values lie from the federation's, from counts in the same bins.

With p the site's and q the federation's share of each of B bins, of n and m values:

population stability index   PSI = sum (p - q) ln(p / q), the sum of both Kullback-Leibler divergences (Jeffreys 1946, Proc R Soc A 186:453).
                             Without any drift PSI / (1/n + 1/m) follows chi-squared with B - 1 degrees of freedom
                             (Yurdakul and Naranjo 2020, J Risk Model Valid 14(4)); its 99.9 % quantile is what chance explains.
                             An empty bin counts as half a value, in both histograms, so that the logarithm exists.
total variation              TV = sum |p - q| / 2, the share of the site's values that would have to lie elsewhere. Chance explains at most
                             sum sqrt(q (1 - q) / k) / 2 on average, with 1/k = 1/n + 1/m, and sqrt(ln(1000) / 2k) more in 99.9 % of samples
                             (McDiarmid 1989).

What chance explains is subtracted from both; a measure is compared with its limit after that, so a site of twenty patients is not accused by
noise. A site drifts where both are beyond their limits: the index alone is large for a few values in a bin that is nearly empty elsewhere. PSI 0.25 is
customarily called a major shift (two normal distributions half a standard deviation apart, with TV 0.20); it is WARN here, because hospitals
differ and a federation exists for that. More than half of the values elsewhere (TV 0.5, 1.35 standard deviations) is
REFUSE: another unit, another code, or another population than the study's. The federation's counts hold the site's own values too, which
makes the measures smaller by about its share of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from locum.data.gates.report import GATES, Finding, Report

PSI_WARN = 0.25
TV_WARN, TV_REFUSE = 0.10, 0.50
_CHANCE = 0.001
_NORMAL = 3.0902
"""The 99.9 % quantile of the standard normal distribution."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """psi, tv: as defined above. psi_chance, tv_chance: what chance explains of each. values: how many the site compared."""

    psi: float = 0.0
    tv: float = 0.0
    psi_chance: float = 0.0
    tv_chance: float = 0.0
    values: int = 0

    @property
    def beyond(self) -> tuple[float, float]:
        """PSI and TV without what chance explains."""
        return max(0.0, self.psi - self.psi_chance), max(0.0, self.tv - self.tv_chance)

    def drifts(self, psi: float = PSI_WARN, tv: float = TV_WARN) -> bool:
        """Whether both are beyond their limits."""
        return self.beyond[0] > psi and self.beyond[1] > tv


def distance(site: Floats, federation: Floats) -> Distance:
    """Of two counts in the same bins, shape (B,), at least 0. Nothing to compare is no distance."""
    used = site + federation > 0
    a, b = site[used], federation[used]
    n, m = float(a.sum()), float(b.sum())
    if n < 1.0 or m < 1.0:
        return Distance()
    p, q, k = a / n, b / m, 1.0 / (1.0 / n + 1.0 / m)
    tv_chance = float(np.sqrt(q * (1 - q) / k).sum()) / 2 + math.sqrt(math.log(1 / _CHANCE) / (2 * k))
    return Distance(_psi(a, b), float(np.abs(p - q).sum()) / 2, _chi_squared(len(a) - 1) / k, tv_chance, round(n))


def with_drift(report: Report, distances: Mapping[str, Distance]) -> Report:
    """The report with a finding of the gate 'drift' for each variable among its own."""
    findings = (*report.findings, *(judge(name, d) for name, d in distances.items()))
    return replace(report, findings=tuple(sorted(findings, key=lambda f: GATES.index(f.gate))))


def judge(name: str, d: Distance) -> Finding:
    """The finding about one variable."""
    says = f"population stability index {d.psi:.2f}, of which chance explains up to {d.psi_chance:.2f}; total variation {d.tv:.2f}, chance {d.tv_chance:.2f}"
    if not d.drifts():
        return Finding(name, "drift", "PASS", d.values, says)
    what = f"'{name}' is distributed otherwise here than in the federation ({says})"
    if d.beyond[1] > TV_REFUSE:
        fix = f"check unit, codes and the selection of patients for '{name}'; if it is right, ask for a waiver"
        return Finding(name, "drift", "REFUSE", d.values, what, fix)
    return Finding(name, "drift", "WARN", d.values, what, f"compare the histogram of '{name}' with what this hospital's patients should look like")


def _psi(a: Floats, b: Floats) -> float:
    p, q = (np.maximum(c, 0.5) / np.maximum(c, 0.5).sum() for c in (a, b))
    return float(((p - q) * np.log(p / q)).sum())


def _chi_squared(freedom: int) -> float:
    """The 99.9 % quantile, by Wilson and Hilferty (1931), PNAS 17:684; within 4 % from one degree of freedom on."""
    if freedom < 1:
        return 0.0
    h = 2.0 / (9.0 * freedom)
    return freedom * max(0.0, 1.0 - h + _NORMAL * math.sqrt(h)) ** 3
