"""What the survival scenarios share: rows put together for pooled references, one row per patient and interval, and intervals for a concordance.

All of it is possible only where rows are public; nothing here is part of a study.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.tasks.concordance import harrell

Floats = NDArray[np.float64]
Parts = Sequence[NDArray[np.intp]]
"""The positions of each site's rows, or of all rows as one part."""
DRAWS = 500


def together(sites: Mapping[str, Rows], *names: str) -> tuple[dict[str, Floats], NDArray[np.str_]]:
    """The complete cases of these columns over all sites, and the site of each row."""
    columns = {n: np.concatenate([sites[s].columns[n] for s in sorted(sites)]) for n in names}
    site = np.repeat(np.asarray(sorted(sites), dtype=np.str_), [len(sites[s]) for s in sorted(sites)])
    complete = ~np.isnan(np.column_stack(list(columns.values()))).any(axis=1)
    return {n: c[complete] for n, c in columns.items()}, site[complete]


def expanded(x: Floats, time: Floats, event: Floats, ends: Sequence[float], *, whole: bool) -> tuple[Floats, Floats, Floats]:
    """One row per patient and interval (start, end] of follow-up: the interval's indicators and x (n, p) from its mean, outcome, and time lived.

    whole: only intervals that are lived through or end in the event, as in discrete time.
    """
    edges = np.r_[0.0, ends]
    i, k = np.nonzero(time[:, None] > edges[:-1])
    happened = (event[i] == 1.0) & (time[i] <= edges[k + 1])
    keep = happened | (time[i] >= edges[k + 1]) if whole else np.ones(len(i), dtype=bool)
    i, k, happened = i[keep], k[keep], happened[keep]
    lived = np.minimum(time[i], edges[k + 1]) - edges[k]
    return np.column_stack([k[:, None] == np.arange(len(ends)), (x - x.mean(axis=0))[i]]).astype(float), happened.astype(float), lived


def pooled_cox(x: Floats, time: Floats, event: Floats, *, ridge: float = 0.0, strata: NDArray[np.str_] | None = None) -> tuple[Floats, Floats]:
    """Log hazard ratios and standard errors by lifelines on rows put together, shape (p,) each. Its penalty falls on columns of standard deviation 1."""
    import pandas as pd
    from lifelines import CoxPHFitter

    frame = pd.DataFrame(x).assign(time=time, event=event)
    fit = CoxPHFitter(penalizer=ridge / len(frame), l1_ratio=0.0)
    options = {"precision": 1e-13, "r_precision": 1e-14, "max_steps": 100}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that vary little
        if strata is None:
            fit.fit(frame, "time", "event", fit_options=options)
        else:
            fit.fit(frame.assign(strata=strata), "time", "event", strata=["strata"], fit_options=options)
    return np.asarray(fit.params_, dtype=np.float64), np.asarray(fit.standard_errors_, dtype=np.float64)


def mean_concordance(time: Floats, event: Floats, score: Floats, parts: Parts) -> float:
    """The mean over parts of Harrell's concordance within each; parts without a pair do not count, and NaN where none has one."""
    shares = [harrell(time[p], event[p] == 1.0, score[p]) for p in parts]
    known = [c / n for c, n in shares if n]
    return float(np.mean(known)) if known else float("nan")


def bootstrap(figure: Callable[[Parts], float], parts: Parts, *, seed: int = 1, draws: int = DRAWS) -> tuple[float, float] | None:
    """The 95 % percentile interval of a figure, over patients who are drawn within their parts.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3. It says how much the test patients matter, not the
    training patients: the models stay as they are.
    """
    rng = np.random.default_rng(seed)
    drawn = np.asarray([figure([rng.choice(p, len(p)) for p in parts]) for _ in range(draws)])
    drawn = drawn[np.isfinite(drawn)]
    return (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))) if len(drawn) else None


def curves(result: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """What a `kaplan_meier` step found, as `locum.report.plots.kaplan_meier` draws it. names: of the groups, as people read them."""
    made = {}
    for group, c in result["groups"].items():
        shown = {"time": c["times"], "survival": c["survival"], "low": c["ci95_low"], "high": c["ci95_high"], "at_risk": c["at_risk"], "n": c["n"]}
        made[(names or {}).get(group, group)] = shown
    return made


def survival_at(curve: Mapping[str, Any], time: float) -> tuple[float, tuple[float, float] | None]:
    """The Kaplan-Meier estimate at a time, and its interval."""
    k = int(np.searchsorted(curve["times"], time, side="right")) - 1
    if k < 0:
        return 1.0, None
    low, high = float(curve["ci95_low"][k]), float(curve["ci95_high"][k])
    return float(curve["survival"][k]), (low, high) if np.isfinite([low, high]).all() else None


def row_of(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One coefficient of a fitted step."""
    row: dict[str, Any] = next(r for r in result["coefficients"] if r["name"] == name)
    return row
