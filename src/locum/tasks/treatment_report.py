"""Two adjusted means and their covariance as contrasts with intervals, and what the weights say for and against them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.tails import Z95, normal_two_sided

Floats = NDArray[np.float64]
IMBALANCED = 0.1
"""A standardised mean difference beyond which balance is usually called poor (Austin, 2009, Statistics in Medicine 28:3083)."""
INEFFICIENT = 0.5
"""An effective sample below this share of the arm means that few patients carry the answer."""
EDGE = 0.05
"""Propensities closer to 0 or 1 than this are called extreme."""


def mean(value: float, se: float) -> dict[str, Any]:
    return {"mean": value, "se": se, "ci95": [value - Z95 * se, value + Z95 * se]}


def contrasts(means: Floats, covariance: Floats, binary: bool) -> dict[str, Any]:
    """Treated against control: the difference and, of risks, the ratios with intervals on the log scale (delta method)."""
    m0, m1 = (float(m) for m in means)
    out: dict[str, Any] = {"difference": _row(m1 - m0, np.array([-1.0, 1.0]), covariance)}
    if binary:
        inside = m0 > 0.0 and m1 > 0.0
        out["risk_ratio"] = _ratio(math.log(m1 / m0), np.array([-1 / m0, 1 / m1]), covariance) if inside else None
        inside = inside and m0 < 1.0 and m1 < 1.0
        odds = [m / (1.0 - m) for m in (m0, m1)] if inside else [1.0, 1.0]
        slope = np.array([-1 / (m0 * (1 - m0)), 1 / (m1 * (1 - m1))]) if inside else np.zeros(2)
        out["odds_ratio"] = _ratio(math.log(odds[1] / odds[0]), slope, covariance) if inside else None
    return out


def balance(names: Sequence[str], before: Floats, after: Floats, sd: Floats) -> list[dict[str, Any]]:
    """Standardised mean differences. before, after: (2, p) means of each arm without and with weights; sd (p,). The intercept is left out."""
    columns = [j for j, name in enumerate(names) if name != "(intercept)"]
    smd = [[float((m[1, j] - m[0, j]) / sd[j]) if sd[j] > 0 else None for m in (before, after)] for j in columns]
    return [{"name": names[j], "smd_before": b, "smd_after": a} for j, (b, a) in zip(columns, smd, strict=True)]


def warnings(arms: Mapping[str, Mapping[str, Any]], covariates: Sequence[Mapping[str, Any]], histogram: Mapping[str, Sequence[Any]], binary: bool) -> list[str]:
    """What a reader should know before believing the effect. No count is said that is not shown."""
    out = []
    for name, arm in arms.items():
        ess, n = arm["effective_sample_size"], arm["analysed"] or arm["n"]
        if ess is not None and n and ess < INEFFICIENT * n:
            out.append(f"The weights leave the {name} arm an effective sample of {ess:.0f} patients: a few with extreme propensities carry the answer.")
        if binary and (arm["mean"] <= 0.0 or arm["mean"] >= 1.0 or arm["se"] == 0.0):
            out.append(f"The adjusted risk in the {name} arm is {arm['mean']:.3g}, with hardly any variation, so the interval is not to be trusted.")
    worst = [c["name"] for c in covariates if c["smd_after"] is None or abs(c["smd_after"]) > IMBALANCED]
    if worst:
        out.append(f"After weighting the arms still differ by more than {IMBALANCED} standard deviations: {', '.join(worst)}; change the propensity model.")
    return out + _positivity(histogram)


def _positivity(histogram: Mapping[str, Sequence[Any]]) -> list[str]:
    """Where one arm has patients and the other has none; where many are near 0 or 1."""
    edges, out = histogram["edges"], []
    for arm, other in (("treated", "control"), ("control", "treated")):
        lone = [i for i, (here, there) in enumerate(zip(histogram[other], histogram[arm], strict=True)) if here and there == 0]
        if lone:
            where = ", ".join(f"{edges[i]:g} to {edges[i + 1]:g}" for i in lone)
            out.append(f"There are {other} but no {arm} patients with a propensity of {where}: nobody stands for them (positivity).")
        extreme = sum(c or 0 for i, c in enumerate(histogram[arm]) if edges[i + 1] <= EDGE + 1e-12 or edges[i] >= 1.0 - EDGE - 1e-12)
        if extreme:
            out.append(f"At least {extreme} {arm} patients have a propensity within {EDGE} of 0 or 1; consider trim, or estimand = 'ato'.")
    return out


def _row(estimate: float, slope: Floats, covariance: Floats) -> dict[str, Any]:
    se = _se(slope, covariance)
    z = estimate / se if se > 0 else None
    return {
        "estimate": estimate, "se": se, "z": z, "p": None if z is None else normal_two_sided(z), "ci95": [estimate - Z95 * se, estimate + Z95 * se],
    }  # fmt: skip


def _ratio(log: float, slope: Floats, covariance: Floats) -> dict[str, Any]:
    se = _se(slope, covariance)
    return {"estimate": math.exp(log), "se_log": se, "ci95": [math.exp(log - Z95 * se), math.exp(log + Z95 * se)]}


def _se(slope: Floats, covariance: Floats) -> float:
    return math.sqrt(max(0.0, float(slope @ covariance @ slope)))
