"""Which variants go with a trait, across hospitals of different ancestry: naive, stratified by hospital, and with principal components."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from locum.data import Rows, load_rows
from locum.errors import LocumError
from locum.scenarios.base import Line, Outcome, Scenario
from locum.scenarios.genome_scans import LEVEL, Scan, pooled, score_tests, stacked
from locum.scenarios.genomes import Genomes, simulated, write
from locum.scenarios.lab import Lab, Ran
from locum.simulate import simulate
from locum.study import Study
from locum.tasks.gwas import table
from locum.testing.populations import three_populations

VARIANTS, QUICK = 20_000, 2_000
SEED, NULL_SEEDS = 2026, (1, 2, 3)
REFERENCE = {"naive": 1.708, "site": 1.003}
SAMPLE = 50
"""Variants tested by statsmodels too."""
FORMS = (("site", "stratified by hospital"), ("naive", "one intercept, ancestry ignored"), ("pca", "two principal components of the genotypes"))


def answer(lab: Lab) -> Outcome:
    variants = QUICK if lab.quick else VARIANTS
    study = _sized(lab.study("gwas"), variants)
    lab.say(f"simulating five hospitals of 1,000 patients and {variants:,} variants, and writing their PLINK files")
    genomes = simulated(variants, SEED)
    with tempfile.TemporaryDirectory(prefix="locum-gwas-") as folder:
        files = write(genomes, Path(folder) / "sites")
        sites = {name: load_rows(study, mapping, bed) for name, (bed, mapping) in files.items()}
        ran = _over_processes(lab, study, sites, files, Path(folder)) if lab.mode == "network" else lab.simulate(study, sites)
        refused = _refused(study, genomes, Path(folder))
    places = {name: at for name, (at, _) in genomes.planted.items()}
    lab.say("pooled references, and each hospital alone")
    together = pooled(sites)
    federated = {form: Scan.of(ran, f"gwas-{form}") for form, _ in FORMS}
    lines = [x for form, what in FORMS for x in _lines("pooled", together[form], places, f"score tests written out in numpy; {what}")]
    for form, what in FORMS:
        lines += _lines("federated", federated[form], places, f"{what}; 1,000 patients", REFERENCE.get(form))
    note = "logistic score test, stratified; an odds ratio of 1.35 a copy is too little here"
    lines += _lines("federated, diagnosis", Scan.of(ran, "gwas-case"), places, note)
    lines += _differences(ran, together, sites)
    lines += [x for name, rows in sites.items() for x in _alone(name, rows, places)]
    null = _without_effects(QUICK if lab.quick else VARIANTS, NULL_SEEDS[:1] if lab.quick else NULL_SEEDS)
    lines += null
    metrics = {f"gwas_lambda_{name}": float(line.value or 0.0) for name, line in zip(("naive", "stratified"), null, strict=True)}
    notes = (
        "Every genome is simulated: no set of individual genomes is free to ship. The hospitals' files are real PLINK filesets, read as a hospital would.",
        "'hidden' was planted where the allele is commoner in the population with more of the trait, and lowers it; 'plain' is as common everywhere.",
        f"'hidden' has rank {_rank(federated['naive'], places['hidden'])} in the naive study, {_rank(federated['site'], places['hidden'])} stratified.",
        f"Found: p below {LEVEL} over the number of tests. False: another variant that passes; none of them has an effect.",
        f"Not tested, and so reported: {', '.join(f'{n} {why}' for why, n in ran.results['gwas-site']['not_shown'].items() if n)}.",
        *refused,
        "Strata take out what differs between hospitals only; relatives, and ancestry within a hospital, need principal components or a mixed model.",
        "Exact frequencies of so many variants tell whoever has a person's genotypes whether that person took part (Homer et al., 2008).",
    )
    return Outcome(tuple(lines), _figures(ran, genomes.variants), notes, metrics)


def _sized(study: Study, variants: int) -> Study:
    value = study.model_dump(by_alias=True)
    value["data"]["variables"]["genotypes"]["shape"] = [variants]
    return Study.parse(value)


def _over_processes(lab: Lab, study: Study, sites: Mapping[str, Rows], files: Mapping[str, tuple[Path, Path]], folder: Path) -> Ran:
    """Each hospital a process that reads its own PLINK fileset through its mapping; then the same in one process."""
    from locum.scenarios.processes import over_processes

    ran = over_processes(folder / "run", study, files, sites, lab.say)
    ran = Ran(**{**vars(ran), "same_model": simulate(study, sites).model_sha256 == ran.model_sha256})
    lab.ran.append(ran)
    return ran


def _refused(study: Study, genomes: Genomes, folder: Path) -> list[str]:
    """What happens where variants.txt names no alleles, and each hospital counts what its own .bim lists first."""
    files = write(genomes, folder / "unharmonised", alleles=False)
    sites = {name: load_rows(study, mapping, bed) for name, (bed, mapping) in files.items()}
    value = study.model_dump(by_alias=True)
    try:
        simulate(Study.parse({**value, "plan": [s for s in value["plan"] if s["name"] in ("null-site", "gwas-site")]}), sites)
    except LocumError as error:
        return [f"Without the alleles in variants.txt the study stops: {error.what}"]
    return []


# --- references -------------------------------------------------------------------------------------------------------


def _differences(ran: Ran, together: Mapping[str, Scan], sites: Mapping[str, Rows]) -> list[Line]:
    """The largest difference of a chi-square from the pooled one: of all variants from the formula, of a sample from statsmodels."""
    import statsmodels.api as sm

    lines = []
    for form, what in FORMS:
        got, want = Scan.of(ran, f"gwas-{form}"), together[form]
        both, a, b = np.intersect1d(got.column, want.column, return_indices=True)
        gap = float((np.abs(got.chi2[a] - want.chi2[b]) / np.maximum(1.0, want.chi2[b])).max())
        lines.append(Line("federated", "largest relative difference of a chi-square from pooled", gap, None, None, f"{what}; {len(both):,} variants"))
    y, age, g, _ = stacked(sites)
    fit = sm.GLM(y, np.column_stack([np.ones(len(y)), age]), family=sm.families.Gaussian()).fit(tol=1e-14)
    scan, gaps = Scan.of(ran, "gwas-naive"), []
    for at in np.unique(np.linspace(0, len(scan.column) - 1, SAMPLE).astype(int)):
        dosage = g[:, scan.column[at]]
        dosage = np.where(np.isnan(dosage), np.nanmean(dosage), dosage)
        statistic = float(np.squeeze(fit.score_test(exog_extra=dosage[:, None])[0]))
        gaps.append(abs(statistic - scan.chi2[at]) / max(1.0, statistic))
    lines.append(Line("federated", "largest relative difference of a chi-square from statsmodels", max(gaps), None, None, f"naive; {len(gaps)} variants"))
    return lines


def _alone(name: str, rows: Rows, places: Mapping[str, int]) -> list[Line]:
    """A hospital's own study: no structure within it, and too few patients."""
    x = np.column_stack([np.ones(len(rows)), rows.columns["age"]])
    chi2 = score_tests(rows.columns["trait"], x, np.asarray(rows.arrays["genotypes"], dtype=np.float64))
    tested = np.flatnonzero(~np.isnan(chi2))
    return _lines("each site alone", Scan(chi2[tested], tested), places, f"{name}, {len(rows)} patients")


def _without_effects(variants: int, seeds: tuple[int, ...]) -> list[Line]:
    """The specification's figures: the trait differs between populations and no variant has an effect; the median of some simulations."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in seeds:
        sites, variables = three_populations(variants, seed)
        for stratified, lambdas in found.items():
            null = {"name": "null", "task": "linear", "features": ["age"], "outcome": "y", "site_intercepts": stratified}
            plan = [null, {"name": "gwas", "task": "gwas", "null": "null"}]
            study = Study.parse({"name": "no-effect", "data": {"variables": variables}, "terms": {"privacy": "none"}, "plan": plan})
            lambdas.append(simulate(study, sites).results["gwas"]["lambda_gc"])
    lines = []
    for stratified, lambdas in found.items():
        spread = f"{min(lambdas):.3f} to {max(lambdas):.3f}" if len(lambdas) > 1 else "one"
        note = f"{'stratified' if stratified else 'naive'}; median of {len(seeds)} simulations of 1,000 patients ({spread})"
        reference = REFERENCE["site" if stratified else "naive"]
        lines.append(Line("federated, no variant has an effect", "lambda_GC", float(np.median(lambdas)), None, reference, note))
    return lines


# --- what is shown ----------------------------------------------------------------------------------------------------


def _lines(who: str, scan: Scan, places: Mapping[str, int], note: str, reference: float | None = None) -> list[Line]:
    names, false = scan.found(places)
    told = f"{', '.join(names) or 'none'}; {false} false; {note}"
    count = Line(who, f"planted variants found, of {len(places)}", float(len(names)), None, None, told)
    return [Line(who, "lambda_GC", scan.lambda_gc, scan.ci95, reference, f"{note}; {len(scan.chi2):,} variants"), count]


def _rank(scan: Scan, place: int) -> int:
    return 1 + int((scan.chi2 > scan.chi2[scan.column == place].max(initial=0.0)).sum())


def _figures(ran: Ran, variants: pl.DataFrame) -> dict[str, str]:
    from locum.report.gwas import manhattan, qq

    out = {}
    for form, what in FORMS:
        frame, title = table(ran.state, f"gwas-{form}", variants=variants), f"{what[0].upper()}{what[1:]}"
        out[f"manhattan-{form}"] = manhattan(frame, title=title)
        out[f"qq-{form}"] = qq(frame["minus_log10_p"].to_numpy(), lambda_gc=ran.results[f"gwas-{form}"]["lambda_gc"], title=title)
    return out


SCENARIO = Scenario(
    name="gwas",
    title="A genome-wide association study under population structure",
    question="Which variants go with a trait, when hospitals differ in their patients' ancestry?",
    data=(),
    studies=("gwas",),
    needs=("statsmodels",),
    answer=answer,
    without={"private": "a score test has no form with noise: that of 20,000 scores would drown what 1,000 patients can show"},
)
