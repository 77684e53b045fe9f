"""What pooling all rows gives. Only the demonstration can know it: its data are public and on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.study.manifest import Split


@dataclass(frozen=True)
class Pooled:
    """The pooled Cox fit on all patients, and the concordance of a pooled fit to the training patients on the test patients."""

    coefficients: dict[str, float]
    within: float
    all_pairs: float


def pooled(sites: Mapping[str, Rows], features: list[str], split: Split) -> Pooled:
    """Fit lifelines' Cox model (Efron ties, tight tolerance) to the rows of all sites together."""
    fit = _fit(list(sites.values()), features)
    train = _fit([r.part("train", split) for r in sites.values()], features)
    tests = {name: _complete(r.part("test", split), features) for name, r in sites.items()}
    risk = {name: r.matrix(features) @ np.array([train[f] for f in features]) for name, r in tests.items()}
    concordant = comparable = 0.0
    for name, r in tests.items():
        c, m = _pairs(r.columns["time"], risk[name], r.columns["status"])
        concordant, comparable = concordant + c, comparable + m
    every = _pairs(
        np.concatenate([r.columns["time"] for r in tests.values()]),
        np.concatenate(list(risk.values())),
        np.concatenate([r.columns["status"] for r in tests.values()]),
    )
    return Pooled(fit, float(concordant / comparable), float(every[0] / every[1]))


def _complete(rows: Rows, features: list[str]) -> Rows:
    missing = np.isnan(rows.matrix([*features, "time", "status"]))
    return rows.take(np.flatnonzero(~missing.any(axis=1)))


def _fit(parts: list[Rows], features: list[str]) -> dict[str, float]:
    import pandas as pd
    from lifelines import CoxPHFitter

    names = [*features, "time", "status"]
    frame = pd.DataFrame(np.vstack([_complete(r, features).matrix(names) for r in parts]), columns=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = CoxPHFitter().fit(frame, "time", "status", fit_options={"precision": 1e-13, "r_precision": 1e-14, "max_steps": 100})
    return {f: float(model.params_[f]) for f in features}


def _pairs(time: Any, risk: Any, event: Any) -> tuple[float, float]:
    """Concordant (ties count a half) and comparable pairs of Harrell's C, with lifelines' conventions."""
    order = np.lexsort((-event, time))
    time, risk, event = time[order], risk[order], event[order]
    concordant = comparable = 0.0
    for i in np.flatnonzero(event == 1):
        later = (time > time[i]) | ((time == time[i]) & (event == 0))
        comparable += later.sum()
        concordant += (risk[later] < risk[i]).sum() + 0.5 * (risk[later] == risk[i]).sum()
    return concordant, comparable
