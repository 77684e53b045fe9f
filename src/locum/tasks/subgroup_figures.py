"""The figures of one group of patients from counts, their intervals, and which groups of a variable may be shown at all.

Intervals, 95 %: of a share Wilson's (1927, JASA 22:209); of the AUC Newcombe's (2006, Statistics in Medicine 25:559, method 5), which stays
within 0 and 1 and is not empty at 1, widened by what binning may cost; of the Brier score the normal one; of observed over expected the one of
its logarithm, se^2 = (1 - O/n) / O (Debray et al., 2017, BMJ 356:i6460); of the calibration line Wald's. The difference of two groups, which
have no patient in common, has the interval made of theirs (MOVER: Zou and Donner, 2008, Statistics in Medicine 27:1693).

Small cells: a level is shown if it has no patients, or at least `threshold` patients with the outcome, `threshold` without, and patients of at
least FEWEST_SITES sites. Levels that are not are joined, and with them the smallest of the others until the joint group is large
enough: else whoever subtracts the shown from everybody would have them. So nothing smaller can be computed from one variable's table. Two
tables with different bands of one variable can be subtracted from each other: a site looks at that when it reads the study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.tasks.concordance import auc_table
from locum.tasks.glm import expit
from locum.tasks.score_groups import wilson
from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
CELLS = ("patients", "patients_with", "patients_without", "sites")
COUNTS = ("n", "events", *CELLS, "true_positive", "true_negative", "squared_error", "fourth_power", "expected")
FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "brier", "observed_over_expected", "calibration_slope", "calibration_intercept")
PARTS = ("value", "se", "low", "high")
FEWEST_SITES = 3
"""Of a group whose patients are all at two sites, each could subtract its own."""


def shown(cells: Mapping[str, Floats], threshold: int) -> list[tuple[int, ...]]:
    """Which levels of one variable make a group that may be shown: single ones, and at most one of several. Empty where none may.

    cells: of each level its patients, and how many with and without the outcome, and sites, each (levels,).
    """

    def small(levels: Sequence[int]) -> bool:
        index = list(levels)
        least = min(float(cells[name][index].sum()) for name in ("patients_with", "patients_without"))
        return least < threshold or float(cells["sites"][index].max()) < FEWEST_SITES  # the joint group has at least the sites of the widest

    present = [k for k in range(len(cells["patients"])) if cells["patients"][k] > 0]
    kept = sorted((k for k in present if not small([k])), key=lambda k: float(cells["patients"][k]))
    joined = [k for k in present if small([k])]
    while joined and kept and (len(joined) < 2 or small(joined)):
        joined.append(kept.pop(0))
    if joined and not kept:  # the joint group would be everybody
        return []
    return [(k,) for k in sorted(kept)] + ([tuple(sorted(joined))] if joined else [])


def figures(counts: Mapping[str, float], positive: Floats, negative: Floats, span: float) -> Floats:
    """Value, standard error and interval of each of FIGURES, shape (len(FIGURES), 4); NaN where there is none.

    positive, negative: (bins,) patients with and without the outcome by linear predictor, from -span to span.
    """
    n, events = counts["n"], counts["events"]
    rest = n - events
    brier, expected = counts["squared_error"] / n, counts["expected"]
    se = math.sqrt(max(0.0, counts["fourth_power"] / n - brier**2) / n)
    rows = [
        _auc(positive, negative),
        _share(counts["true_positive"] + counts["true_negative"], n),
        _share(counts["true_positive"], events),
        _share(counts["true_negative"], rest),
        (brier, se, max(0.0, brier - Z95 * se), min(1.0, brier + Z95 * se)),
        _ratio(events, n, expected),
        *_line(positive, negative, span),
    ]
    return np.asarray(rows, dtype=np.float64)


def described(row: Floats) -> dict[str, dict[str, float | None]]:
    """FIGURES by name as plain JSON data."""
    return {name: {p: float(v) if math.isfinite(v) else None for p, v in zip(PARTS, row[k], strict=True)} for k, name in enumerate(FIGURES)}


def gaps(groups: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each figure the two groups that differ most: the difference, its interval, and between whom. The pair is the largest of all pairs, and
    the interval makes no allowance for that."""
    out: dict[str, dict[str, Any]] = {}
    for name in FIGURES:
        known = [g for g in groups if g[name]["value"] is not None and g[name]["low"] is not None]
        pairs = [difference(a[name], b[name]) | {"between": [a["name"], b["name"]]} for a, b in combinations(known, 2)]
        if pairs:
            out[name] = max(pairs, key=lambda p: float(p["value"]))
    return out


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """The larger less the smaller of two independent figures, with its interval; the low end is negative where they may be equal."""
    high, low = (a, b) if a["value"] >= b["value"] else (b, a)
    gap = high["value"] - low["value"]
    down = math.hypot(high["value"] - high["low"], low["high"] - low["value"])
    up = math.hypot(high["high"] - high["value"], low["value"] - low["low"])
    return {"value": gap, "low": gap - down, "high": gap + up}


def newcombe(auc: float, positives: float, negatives: float) -> tuple[float, float]:
    """The 95 % interval of an AUC from it and the two numbers of patients."""
    half = (positives + negatives) / 2.0 - 1.0

    def beyond(t: float) -> bool:
        variance = t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) / (positives * negatives)
        return (auc - t) ** 2 > Z95**2 * variance

    ends = []
    for edge in (0.0, 1.0):
        inside, outside = auc, edge
        if not beyond(edge):
            ends.append(edge)
            continue
        for _ in range(60):
            middle = (inside + outside) / 2.0
            inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


def _auc(positive: Floats, negative: Floats) -> tuple[float, ...]:
    p, q = float(positive.sum()), float(negative.sum())
    if not (p and q):
        return (math.nan,) * 4
    auc, bound, se = auc_table(positive, negative)
    low, high = newcombe(auc, p, q)
    return auc, math.nan if se is None else se, max(0.0, low - bound), min(1.0, high + bound)


def _share(k: float, n: float) -> tuple[float, ...]:
    if not n:
        return (math.nan,) * 4
    share = k / n
    return (share, math.sqrt(share * (1 - share) / n), *wilson(k, n))


def _ratio(events: float, n: float, expected: float) -> tuple[float, ...]:
    if not (events and expected > 0):
        return (math.nan,) * 4
    ratio, se = events / expected, math.sqrt((1 - events / n) / events)
    return ratio, ratio * se, ratio * math.exp(-Z95 * se), ratio * math.exp(Z95 * se)


def _line(positive: Floats, negative: Floats, span: float) -> list[tuple[float, ...]]:
    """Slope, then intercept, of the outcome's logistic regression on the bins' middles (Cox, 1958), each with se and interval."""
    bins, n = len(positive), positive + negative
    used = n > 0
    eta, n, y = (-span + (np.arange(bins) + 0.5) * 2.0 * span / bins)[used], n[used], positive[used]
    x = np.column_stack([np.ones(len(eta)), eta])
    b = np.array([0.0, 1.0])
    for _ in range(50):
        mu = expit(x @ b)
        information = x.T @ (x * (n * mu * (1 - mu))[:, None])
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
            break
        step = np.linalg.solve(information, x.T @ (y - n * mu))
        b = b + step * min(1.0, 4.0 / max(1e-300, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-9:
            se = np.sqrt(np.diag(np.linalg.inv(information)))
            return [(float(b[k]), float(se[k]), float(b[k] - Z95 * se[k]), float(b[k] + Z95 * se[k])) for k in (1, 0)]
    return [(math.nan,) * 4] * 2  # all scores equal, or a perfect separation
