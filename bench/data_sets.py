"""What two published data sets say: heart disease through the gates of its contract, and the stroke trial as sums over 466 hospitals."""

import time
from typing import Any

from bench.report import Report
from locum import simulate
from locum.data import check, registry
from locum.errors import LocumError
from locum.study import Study

PUBLISHED = {"dead_or_dependent": {"1": 62.2, "0": 63.5}, "dead_14d": {"1": 9.0, "0": 9.4}}
"""Per cent dead or dependent at six months, and dead within 14 days, with ("1") and without aspirin (Lancet 349:1569, 1997)."""


def measure(report: Report) -> None:
    """Add what the data sets show; a data set that is not on this machine is said to be missing."""
    for part in (heart, stroke):
        try:
            part(report)
        except LocumError as error:
            report.add(f"{part.__name__}_missing", 1, "data sets", note=error.what)


def heart(report: Report) -> None:
    """How many variables the contract refuses at each hospital, and which."""
    spec = registry.get("heart_disease").data
    for hospital, rows in registry.load("heart_disease").items():
        found = check(spec, rows)
        refused = [f"{f.variable} ({f.gate})" for f in found.of("REFUSE")]
        report.add(f"heart_{hospital}_refused", len(refused), "variables", note=", ".join(refused) or "none")


def stroke(report: Report) -> None:
    """Rows, hospitals, countries, and the effect of aspirin as a federated table."""
    arms, outcome = {"type": "category", "categories": ["0", "1"]}, {"type": "boolean", "role": "outcome"}
    asked: dict[str, Any] = {
        "name": "ist-effect",
        "data": {"variables": {"rxasp": arms, **dict.fromkeys(PUBLISHED, outcome)}},
        "terms": {"privacy": "none", "min_cohort": 466},
        "plan": [{"name": "effect", "task": "moments", "variables": [*PUBLISHED], "by": "rxasp"}],
    }
    study = Study.parse(asked)
    sites = registry.load("ist", study.data)
    start = time.perf_counter()
    effect = simulate(study, sites).results["effect"]["variables"]
    seconds = time.perf_counter() - start
    report.add("ist_rows", sum(len(r) for r in sites.values()), "rows", reference=19_435)
    report.add("ist_hospitals", len(sites), "sites", reference=466)
    report.add("ist_countries", len(registry.load("ist", study.data, by="country")), "sites", reference=36)
    for what, published in PUBLISHED.items():
        for code, arm in (("1", "aspirin"), ("0", "no_aspirin")):
            note = f"summed over {len(sites)} hospitals in {seconds:.2f} s; reference: as published"
            report.add(f"ist_{what}_{arm}", 100 * effect[what][code]["mean"], "%", reference=published[code], note=note)
