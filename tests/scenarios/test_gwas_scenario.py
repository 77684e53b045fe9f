"""The genome-wide study: PLINK filesets of five hospitals, what structure does to it, and files that do not agree."""

from __future__ import annotations

import numpy as np
import pytest
from bed_reader import open_bed

from locum.data import load_rows
from locum.data.genotypes import Genotypes
from locum.errors import DataError
from locum.scenarios import studies
from locum.scenarios.base import MODES, Outcome
from locum.scenarios.genome_scans import score_tests
from locum.scenarios.genomes import SIZES, simulated, write
from locum.scenarios.gwas import FORMS, SCENARIO, SEED, _sized
from locum.scenarios.lab import Lab
from locum.tasks import build_plan

SMALL = 400


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab("masked", quick=True)


@pytest.fixture(scope="module")
def outcome(lab) -> Outcome:
    return SCENARIO.answer(lab)


@pytest.fixture(scope="module")
def genomes():
    return simulated(SMALL, SEED)


@pytest.fixture(scope="module")
def study():
    return _sized(studies.study("gwas"), SMALL)


def told(outcome, who, metric, note):
    return next(x for x in outcome.lines if x.who == who and metric in x.metric and note in x.note)


def test_structure_inflates_the_naive_study_and_hides_a_variant(outcome):
    naive, site, pca = (told(outcome, "federated", "lambda_GC", what).value for _, what in (FORMS[1], FORMS[0], FORMS[2]))
    assert naive > 1.3 > 1.1 > max(site, pca)
    assert told(outcome, "federated", "found", "stratified").note.startswith("hidden, plain; 0 false")
    assert told(outcome, "federated", "found", "principal").note.startswith("hidden, plain; 0 false")
    assert "hidden" not in told(outcome, "federated", "found", "ignored").note
    assert max(x.value for x in outcome.lines if x.who == "each site alone" and "found" in x.metric) < 2
    assert outcome.headline.value == site
    assert outcome.metrics["gwas_lambda_naive"] > 1.4 > 1.15 > outcome.metrics["gwas_lambda_stratified"]


def test_federated_is_pooled(outcome):
    for note, bound in (("stratified", 1e-9), ("ignored", 1e-9), ("principal", 1e-3)):
        assert told(outcome, "federated", "from pooled", note).value < bound
    assert told(outcome, "federated", "from statsmodels", "").value < 1e-9


def test_every_line_figure_and_note_is_whole(outcome, lab):
    assert {"pooled", "federated", "each site alone"} <= {x.who for x in outcome.lines}
    assert sum(x.who == "each site alone" for x in outcome.lines) == 2 * len(SIZES)
    assert all(x.value is not None and np.isfinite(x.value) for x in outcome.lines)
    assert all(x.ci95[0] <= x.value <= x.ci95[1] for x in outcome.lines if x.ci95)
    assert set(outcome.figures) == {f"{kind}-{form}" for kind in ("manhattan", "qq") for form, _ in FORMS}
    assert all(svg.startswith("<svg") for svg in outcome.figures.values())
    assert any("simulated" in n for n in outcome.notes)
    assert any("20 no variation" in n for n in outcome.notes)
    assert any("not of the same variants" in n for n in outcome.notes)
    assert [len(r.sites) for r in lab.ran] == [5]
    assert all(SCENARIO.reason(m) for m in MODES if m not in SCENARIO.modes)


def test_the_study_file_is_valid_and_reads_nothing_else():
    study = studies.study("gwas")
    read = {name for task in build_plan(study) for name in task.reads()}
    assert read - {"pc1", "pc2"} == {*study.data.variables} - {"sample"}


def test_the_filesets_are_plink_filesets(genomes, tmp_path):
    files = write(genomes, tmp_path)
    with open_bed(files["south"][0]) as bed:
        got = bed.read(dtype="float32")
        swapped = bed.allele_1 != "A"
        assert {"A", "G", "0"} == {*bed.allele_1}
    expected = np.asarray(genomes.sites["south"].arrays["genotypes"])
    got = np.where(swapped & (bed.allele_2 == "A"), 2.0 - got, got)[:, :SMALL]
    np.testing.assert_array_equal(got, expected)


def test_read_back_in_the_study_s_order_with_its_alleles(genomes, study, tmp_path):
    for name, (bed, mapping) in write(genomes, tmp_path).items():
        rows = load_rows(study, mapping, bed)
        assert isinstance(rows.arrays["genotypes"], Genotypes)
        np.testing.assert_array_equal(np.asarray(rows.arrays["genotypes"]), genomes.sites[name].arrays["genotypes"])
        np.testing.assert_allclose(rows.columns["trait"], genomes.sites[name].columns["y"])
        assert rows.patient.tolist() == genomes.sites[name].patient.tolist()


def test_a_hospital_without_the_study_s_list_is_refused(genomes, study, tmp_path):
    bed, mapping = write(genomes, tmp_path)["east"]
    mapping.write_text(mapping.read_text().replace('variants_file = "variants.txt"\n', ""))
    with pytest.raises(DataError, match=r"404 variants are chosen from east\.bed") as caught:
        load_rows(study, mapping, bed)
    assert "variants_file" in caught.value.fix


def test_a_hospital_that_lacks_a_variant_is_refused(genomes, study, tmp_path):
    bed, mapping = write(genomes, tmp_path)["east"]
    bim = bed.with_suffix(".bim")
    bim.write_text(bim.read_text().replace("\trs7\t", "\trs7b\t"))
    with pytest.raises(DataError, match=r"1 of the 400 variants asked for are not in east\.bed"):
        load_rows(study, mapping, bed)


def test_the_planted_variants_are_as_described(genomes):
    (hidden, lowers), (plain, raises) = genomes.planted["hidden"], genomes.planted["plain"]
    f = np.array([np.nanmean(r.arrays["genotypes"], axis=0) / 2 for r in genomes.sites.values()])
    assert lowers < 0 < raises
    assert f[[1, 3], hidden].min() > f[[0, 2], hidden].max() + 0.1
    assert np.ptp(f[:4, plain]) < 0.15


def test_the_reference_is_the_textbook_formula():
    r = np.random.default_rng(0)
    x, g, y = np.column_stack([np.ones(40), r.normal(size=40)]), r.binomial(2, 0.4, (40, 3)).astype(float), r.normal(size=40)
    g[:, 2] = 1.0
    chi2 = score_tests(y, x, g)
    h = x @ np.linalg.solve(x.T @ x, x.T)
    e = y - h @ y
    for j in (0, 1):
        v = g[:, j] @ (g[:, j] - h @ g[:, j])
        assert chi2[j] == pytest.approx((g[:, j] @ e) ** 2 / (v * (e @ e) / 38), rel=1e-12)
    assert np.isnan(chi2[2])
