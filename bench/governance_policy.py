"""How long a site's decision takes: rules, purposes and days, for each of the presets. `measure` is a part of `python -m bench governance`."""

import statistics
import time
from datetime import UTC, date, datetime

from bench.report import Report
from locum import Study
from locum.governance.code import code_digest
from locum.governance.policy import ACTIONS, PRESETS, Approval, Permissions, Policy, Question, judge, preset

STUDY = {
    "schema": "locum/study/1",
    "name": "bench",
    "data": {"variables": {f"x{i}": {} for i in range(30)}},
    "terms": {"min_rows": 11, "privacy": {"eps": 1.0, "delta": 1e-6, "patients": 10_000}},
    "governance": {"use": "DS", "disease": "MONDO:0005098", "ethics": "2026-17", "permit": "FDP-12", "region": ["CH", "DE"], "valid_until": "2027-12-31"},
    "plan": [{"name": f"s{i}", "task": "histogram", "variable": f"x{i}"} for i in range(12)],
}
PERMISSIONS = {"use": "DS", "disease": ["MONDO:0005098"], "modifiers": ["IRB", "NPU", "GS:CH,DE,AT", "TS:2027-12-31", "PS:FDP-12,FDP-13"]}


def measure(report: Report, quick: bool = False) -> None:
    """Adds policy_ms: the median of 1,000 decisions under the preset for which it is longest, in turn over the four actions."""
    study = Study.parse(STUDY)
    question = Question(
        study=study, requester="ida", key="0123-4567-89ab-cdef", data="main", now=datetime(2026, 11, 24, 12, tzinfo=UTC), code=code_digest(),
        permissions=Permissions.parse(PERMISSIONS), approval=Approval(study.digest, "0" * 64, code_digest(), "main", date(2027, 1, 1)), patients=4000,
        cell=11, min_cohort=5, min_rows=11, spent=1.0, remaining=7.0,
    )  # fmt: skip
    policies = {name: Policy.load(preset(name)) for name in PRESETS}
    times: dict[str, list[float]] = {name: [] for name in PRESETS}
    for i in range(100 if quick else 1000):
        for name, policy in policies.items():
            began = time.perf_counter()
            ruling = judge(policy, ACTIONS[i % 4], question)
            times[name].append((time.perf_counter() - began) * 1e3)
            assert ruling.allowed, ruling.refusals
    slowest = max(times, key=lambda name: statistics.median(times[name]))
    median, ends = statistics.median(times[slowest]), statistics.quantiles(times[slowest], n=20)
    report.add("policy_ms", median, "ms", reference=2.0, note=f"preset {slowest}; 90 % within {ends[0]:.2f}-{ends[-1]:.2f} ms")


def run(report: Report, *, quick: bool = False, only: str | None = None) -> None:
    """This part alone."""
    measure(report, quick=quick)
