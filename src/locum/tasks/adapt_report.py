"""From the sums of `adapt` to estimates with intervals between sites.

A metric is a ratio R = sum_s d_s / sum_s w_s over sites, so by linearisation (Cochran, 1977, Sampling Techniques, section 6.4)
    var R = E / (E - 1) * sum_s (d_s - R w_s)^2 / (sum_s w_s)^2,      E = (sum_s w_s)^2 / sum_s w_s^2,
where the sum of squares is sum d^2 - 2 R sum d w + R^2 sum w^2: three sums. E is the effective number of sites (Kish, 1965, Survey Sampling,
section 11.2): their number S where all weigh the same, and less where few are large. With S in its place and S - 1 degrees of freedom, nominal
95 % intervals over ten hospitals drawn from the stroke trial held in 90 % of simulations; with E and Student's t of E - 1 they held in 96 %.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.adapt_forms import penalised
from locum.tasks.concordance import auc_table
from locum.tasks.glm import expit
from locum.tasks.score_groups import GROUPS, described, groups
from locum.tasks.tails import student_95

Floats = NDArray[np.float64]
LEAST_EFFECTIVE = 1.5
"""With fewer effective sites one of them is nearly everything, and says nothing of what lies between sites: there is no interval."""


def ratio(d: float, dd: float, dw: float, w: float, ww: float, sites: float) -> dict[str, Any]:
    """The estimate, its standard error and its 95 % interval from the sums of d, d^2, d w, w and w^2; None where they do not exist."""
    if w <= 0.0:
        return {"value": None, "se": None, "ci95": None}
    r = d / w
    effective = min(sites, w * w / ww) if ww > 0.0 else sites
    if sites < 2 or effective < LEAST_EFFECTIVE:
        return {"value": r, "se": None, "ci95": None}
    se = math.sqrt(max(0.0, dd - 2.0 * r * dw + r * r * ww) * effective / (effective - 1.0)) / w
    half = student_95(effective - 1.0) * se
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


def summary(positive: Floats, negative: Floats, span: float) -> tuple[Floats, Floats]:
    """What score bins (B,) say, without the bins: AUC, error bound, standard error, intercept and slope of the calibration line (NaN where there is
    none), shape (5,); and the groups of a calibration plot, shape (GROUPS, 3), zero beyond the last one."""
    n = positive + negative
    middle = (np.arange(len(n)) + 0.5) * 2.0 * span / len(n) - span
    value, bound, se = auc_table(positive, negative) if positive.any() and negative.any() else (None, None, None)
    found, curve = groups(positive, negative, expit(middle)), np.zeros((GROUPS, 3))
    curve[: len(found)] = found
    return np.asarray([np.nan if v is None else v for v in (value, bound, se, *_line(positive, n, middle))], float), curve


def discrimination(found: Floats) -> dict[str, Any]:
    """The AUC over all pairs from `summary`, with DeLong's interval."""
    value, bound, se = (None if math.isnan(v) else float(v) for v in found[:3])
    ci95 = None if value is None or se is None else [max(0.0, value - 1.959964 * se), min(1.0, value + 1.959964 * se)]
    return {"value": value, "error_bound": bound, "se": se, "ci95": ci95}


def calibration(found: Floats, curve: Floats, events: float, expected: float) -> dict[str, Any]:
    """Observed over expected, the calibration line (Cox, 1958) from the middles of the bins, and points of the curve, from `summary`."""
    intercept, slope = (None if math.isnan(v) else float(v) for v in found[3:])
    points = [{"predicted": p["predicted"], "observed": p["observed"], "ci95": [p["low"], p["high"]], "n": p["n"]} for p in described(curve[curve[:, 2] > 0])]
    return {"observed_over_expected": events / expected if expected > 0 else None, "intercept": intercept, "slope": slope, "curve": points}


def _line(positive: Floats, n: Floats, middle: Floats) -> tuple[float | None, float | None]:
    def grouped(y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        mu = expit(eta)
        return float((y * eta - n[used] * np.logaddexp(0.0, eta)).sum()), y - n[used] * mu, n[used] * mu * expit(-eta)

    used = n > 0
    enough = used.sum() > 1 and 0 < positive.sum() < n.sum()
    x = np.column_stack([np.ones(int(used.sum())), middle[used]])
    found = penalised(grouped, x, positive[used], np.asarray([0.0, 1.0]), np.zeros(2)) if enough else None
    return (None, None) if found is None else (float(found[0]), float(found[1]))


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
