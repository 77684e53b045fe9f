"""Every medical question of `locum scenario`, on real data in one process: its figures beside their references, and how long all of it takes.

`--only NAME` runs one. Each answer's own table is printed by `locum scenario run NAME`.
"""

import time

from bench.report import Report

UNITS = {"total_s": "s", "rare_max_abs_diff_vs_pooled": "", "flu_wis_over_baseline": "x"}
REFERENCE = {
    "ist_auc_federated": 0.792,
    "ist_auc_pooled": 0.792,
    "ist_auc_local": 0.761,
    "flu_wis_over_baseline": 0.688,
    "ecg_macro_auc": 0.920,
    "watch_accuracy": 0.851,
    "gwas_lambda_naive": 1.708,
    "gwas_lambda_stratified": 1.003,
}
"""From the specification; what has none stands alone, or its note says the aim."""
NOTES = {
    "rare_max_abs_diff_vs_pooled": "aim: at most 1e-6",
    "trees_auc_minus_pooled": "aim: at least -0.005; pooled LightGBM on the same split",
}


def run(report: Report, *, quick: bool = False, only: str | None = None) -> None:
    """All metrics of all scenarios, and `total_s`."""
    from locum.scenarios import Lab, names, scenario

    total = 0.0
    for name in [only] if only else names():
        lab, began = Lab("masked", quick=quick), time.perf_counter()
        outcome = scenario(name).answer(lab)
        seconds = time.perf_counter() - began
        total += seconds
        for metric, value in outcome.metrics.items():
            report.add(metric, value, UNITS.get(metric, ""), reference=REFERENCE.get(metric), note=NOTES.get(metric, f"scenario {name}"))
        for line in outcome.lines:
            if line.value is not None and line.reference is not None:
                report.add(f"{name}: {line.who}, {line.metric}"[:60], line.value, "", reference=line.reference, note=line.note)
        report.add(f"{name}_s", seconds, "s", note=f"{len(lab.ran)} studies, {sum(r.rounds for r in lab.ran)} rounds")
    if only in (None, "gwas"):
        from bench import gwas

        gwas.measure(report, quick=quick)
    report.add("total_s", total, "s", note="all scenarios, one run, the million variants not counted; aim: under 900" if not only else f"{only} alone")
