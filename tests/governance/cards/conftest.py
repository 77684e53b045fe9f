"""Facts of two runs that really ran, in this process: one with exact sums and subgroups, one with noise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from locum import Rows, Study, simulate
from locum.federation.wire import RoundView, RunView
from locum.governance.cards import Facts, Package
from locum.report import card_of
from locum.tasks import build_plan

VARIABLES = {
    "age": {"unit": "a", "minimum": 0, "maximum": 120, "label": "age"},
    "female": {"type": "boolean", "label": "female sex"},
    "seen": {"type": "date", "minimum": "2019-01-01", "maximum": "2024-12-31"},
    "ward": {"type": "category", "categories": ["medical", "surgical"]},
    "y": {"type": "boolean", "role": "outcome", "label": "readmitted"},
}
GOVERNANCE = {
    "use": "DS",
    "disease": "MONDO:0005098",
    "basis": "GDPR article 9(2)(j)",
    "permit": "P-17",
    "ethics": "EC 2026/4",
    "region": ["FI", "SE"],
    "valid_from": "2026-01-01",
    "valid_until": "2027-01-01",
    "gate": {"evaluation": "judged", "at_least": {"auc": 0.6}, "slope": [0.5, 2.0], "subgroups": "groups", "gap": {"auc": 0.3}},
    "envelope": {"may_change": ["seed", "plan.fit.rounds"], "protocol": "Fit again, judge again.", "impact": "The same inputs.", "updates": 3},
}
PLAN = [
    {"name": "check", "task": "data_check"},
    {"name": "scale", "task": "standardise", "variables": ["age", "female"], "part": "train"},
    {"name": "fit", "task": "logistic", "features": ["age", "female"], "outcome": "y", "standardise": "scale", "part": "train"},
    {"name": "judged", "task": "evaluate_binary", "model": "fit"},
    {"name": "groups", "task": "subgroups", "model": "fit", "by": {"female": [], "age": [0, 60, 120]}},
    {"name": "alone", "task": "local_baseline", "model": "fit"},
]
PRIVATE = [{"name": "ages", "task": "histogram", "variable": "age", "bins": 6}]


def hospitals(n: int = 400, sites: int = 6) -> dict[str, Rows]:
    out = {}
    for i in range(sites):
        rng = np.random.default_rng(i)
        age, female = rng.uniform(20, 95, n), rng.integers(0, 2, n).astype(float)
        y = (rng.random(n) < 1 / (1 + np.exp(-(age - 60) / 12 - female))).astype(float)
        columns = {"age": age, "female": female, "seen": rng.integers(18_000, 19_000, n).astype(float), "ward": rng.integers(0, 2, n).astype(float), "y": y}
        out[f"h{i}"] = Rows.of(columns)
    return out


def facts_of(**study: Any) -> Facts:
    asked = Study.parse({"data": {"variables": VARIABLES}, **study})
    sites = hospitals()
    done = simulate(asked, sites)
    shape: dict[str, Any] = {"status": "closed", "asked": 6, "answered": 6, "summed": 6, "declined": {}, "bytes_in": 1, "bytes_out": 1}
    steps = tuple(s.name for s in asked.plan)
    rounds = [RoundView(seq=i, step=s, iteration=0, opened=1.8e9 + i, closed=1.8e9 + i + 1, **shape) for i, s in enumerate(steps)]
    run = RunView(
        id="r1", study=asked.digest, name=asked.name, status="finished", version=1, step=len(steps), steps=steps, iteration=0, seq=len(steps), asked=6,
        answered=6, approvals=6, needed=5, created=1.8e9, started=1.8e9, ended=1.8e9 + 60.5, protection=asked.terms.protection(), model=done.model_sha256,
        error="", results=json.loads(json.dumps(done.results)),
    )  # fmt: skip
    return Facts(
        study=asked.model_dump(mode="json", by_alias=True),
        digest=asked.digest,
        run=msgspec.to_builtins(run),
        rounds=msgspec.to_builtins(rounds),
        privacy=card_of(asked, run, rounds),
        model_bytes=len(done.model),
        approved=sorted(sites),
        leaves={s.name: t.leaves() for s, t in zip(asked.plan, build_plan(asked), strict=True)},
        rosters=["ab" * 32],
        code="cd" * 32,
        version="0.1.0",
        python="3.11.9",
        packages=[Package("locum", "0.1.0", "Apache-2.0", ("numpy",)), Package("numpy", "2.4.6+local", "BSD & <others>")],
    )


@pytest.fixture(scope="session")
def exact() -> Facts:
    terms = {"min_cohort": 5, "privacy": "none"}
    return facts_of(
        name="readmission", title="Readmission at six hospitals", question="Who comes back?", requester="A. Nurmi", purpose="Research", terms=terms,
        governance=GOVERNANCE, plan=PLAN,
    )  # fmt: skip


@pytest.fixture(scope="session")
def bare() -> Facts:
    """A study that states nothing that it need not."""
    return facts_of(name="ages", terms={"min_cohort": 5, "privacy": {"eps": 2.0, "delta": 1e-6, "patients": 2000}}, plan=PRIVATE)


@pytest.fixture(scope="session")
def say(exact: Facts) -> Callable[..., Facts]:
    """The same run of a study that says something else: say(title="...") or say(**{"governance.basis": "..."})."""

    def changed(**keys: Any) -> Facts:
        study = copy.deepcopy(dict(exact.study))
        for path, value in keys.items():
            *parts, last = path.split(".")
            here = study
            for part in parts:
                here = here[part]
            here[last] = value
        return replace(exact, study=study)

    return changed
