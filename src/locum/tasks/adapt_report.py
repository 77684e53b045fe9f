"""From the sums of `adapt` to estimates with intervals between sites.

A metric is a ratio R = sum_s d_s / sum_s w_s over the S sites with weight, so by linearisation (Cochran, 1977, Sampling Techniques, section 6.4)
    var R = S / (S - 1) * sum_s (d_s - R w_s)^2 / (sum_s w_s)^2,
where the sum of squares is sum d^2 - 2 R sum d w + R^2 sum w^2: three sums. Intervals use Student's t with S - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.adapt_forms import penalised
from locum.tasks.concordance import auc_table
from locum.tasks.glm import expit
from locum.tasks.tails import student_95

Floats = NDArray[np.float64]
GROUPS = 10
"""Points of the calibration curve, of about equally many patients."""


def ratio(d: float, dd: float, dw: float, w: float, ww: float, sites: float) -> dict[str, Any]:
    """The estimate, its standard error and its 95 % interval from the sums of d, d^2, d w, w and w^2; None where they do not exist."""
    if w <= 0.0:
        return {"value": None, "se": None, "ci95": None}
    r = d / w
    if sites < 2:
        return {"value": r, "se": None, "ci95": None}
    se = math.sqrt(max(0.0, dd - 2.0 * r * dw + r * r * ww) * sites / (sites - 1.0)) / w
    half = student_95(sites - 1.0) * se
    return {"value": r, "se": se, "ci95": [r - half, r + half]}


def merged(sites: Floats, least: int) -> list[list[int]]:
    """Neighbouring classes joined until each has no site, or at least `least`: what is published says nothing about one or two sites."""
    out: list[list[int]] = []
    pending: list[int] = []
    for k, n in enumerate(sites.tolist()):
        pending.append(k)
        if n == 0 and len(pending) == 1:
            pending.clear()
        elif sites[pending].sum() >= least:
            out.append(pending)
            pending = []
    if sites[pending].sum() if pending else 0:
        if out:
            out[-1] = list(range(out[-1][0], pending[-1] + 1))
        else:
            out.append(pending)
    return out


def label(classes: list[int], cuts: tuple[int, ...]) -> str:
    """The test rows of a run of classes: '1-9', '10-29', '100 or more'."""
    low = 1 if classes[0] == 0 else cuts[classes[0] - 1]
    return f"{low} or more" if classes[-1] == len(cuts) else f"{low}-{cuts[classes[-1]] - 1}"


def discrimination(positive: Floats, negative: Floats) -> dict[str, Any]:
    """The AUC over all pairs from score bins (B,), with DeLong's interval."""
    if not positive.any() or not negative.any():
        return {"value": None, "error_bound": None, "se": None, "ci95": None}
    value, bound, se = auc_table(positive, negative)
    return {"value": value, "error_bound": bound, "se": se, "ci95": None if se is None else [max(0.0, value - 1.959964 * se), min(1.0, value + 1.959964 * se)]}


def calibration(positive: Floats, negative: Floats, expected: float, span: float) -> dict[str, Any]:
    """Observed over expected, the calibration line (Cox, 1958) from the middles of the bins, and points of the curve."""
    n = positive + negative
    middle = (np.arange(len(n)) + 0.5) * 2.0 * span / len(n) - span
    return {
        "observed_over_expected": float(positive.sum()) / expected if expected > 0 else None,
        **_line(positive, n, middle),
        "curve": _curve(positive, n, expit(middle)),
    }


def _line(positive: Floats, n: Floats, middle: Floats) -> dict[str, Any]:
    def grouped(y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        mu = expit(eta)
        return float((y * eta - n[used] * np.logaddexp(0.0, eta)).sum()), y - n[used] * mu, n[used] * mu * expit(-eta)

    used = n > 0
    enough = used.sum() > 1 and 0 < positive.sum() < n.sum()
    x = np.column_stack([np.ones(int(used.sum())), middle[used]])
    found = penalised(grouped, x, positive[used], np.asarray([0.0, 1.0]), np.zeros(2)) if enough else None
    return {"intercept": None, "slope": None} if found is None else {"intercept": float(found[0]), "slope": float(found[1])}


def _curve(positive: Floats, n: Floats, risk: Floats) -> list[dict[str, Any]]:
    """Points from the lowest to the highest risk."""
    before = np.cumsum(n) - n
    group = np.minimum((before + n / 2.0) * GROUPS / max(1.0, n.sum()), GROUPS - 1).astype(np.int64)
    out = []
    for k in range(GROUPS):
        here = (group == k) & (n > 0)
        total = float(n[here].sum())
        if total:
            share = float(positive[here].sum()) / total
            out.append({"predicted": float(n[here] @ risk[here]) / total, "observed": share, "ci95": wilson(share, total), "n": int(total)})
    return out


def wilson(share: float, n: float) -> list[float]:
    """Wilson's 95 % interval of a share of n > 0 patients."""
    z2 = 1.959964**2
    middle, half = (share + z2 / (2 * n)) / (1 + z2 / n), math.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def verdicts(differences: dict[str, dict[str, Any]], metric: str, against: str) -> list[str]:
    """Plain sentences on each form that does not beat the reference in `metric`, where less is better."""
    out = []
    for form, found in differences.items():
        value, ci = found[metric]["value"], found[metric]["ci95"]
        if form in ("local", "majority") or value is None or ci is None:
            continue
        if ci[0] > 0:
            out.append(f"'{form}' predicts worse than '{against}': {metric} is higher by {value:.4f} (95 % interval {ci[0]:.4f} to {ci[1]:.4f}).")
        elif ci[1] >= 0:
            out.append(f"No gain of '{form}' over '{against}' is shown: {metric} differs by {value:+.4f} (95 % interval {ci[0]:.4f} to {ci[1]:.4f}).")
    return out
