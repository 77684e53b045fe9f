"""A fileset of genotypes passes the gates as any table does, though its records are variants; wide rows are judged a few at a time."""

from dataclasses import replace

import numpy as np
import pytest

from locum.data.gates import check, check_source
from locum.data.genotypes import Genotypes
from locum.data.mapping import SiteMapping
from locum.data.rows import Rows
from locum.data.sources import open_source
from locum.scenarios import studies
from locum.scenarios.genomes import simulated, write
from locum.scenarios.gwas import _sized
from locum.study.manifest import DataSpec


@pytest.fixture(scope="module")
def fileset(tmp_path_factory):
    return write(simulated(300, 1), tmp_path_factory.mktemp("gates"))["islands"]


def test_a_fileset_passes(fileset):
    bed, mapping = fileset
    site = SiteMapping.load(mapping)
    report = check_source(_sized(studies.study("gwas"), 300).data, open_source(site.source, bed), site)
    assert report.result == "PASS", [str(f) for f in report.findings if f.result != "PASS"]
    assert report.rows == 100
    assert report.source["left_out"] == {"a variant that was not asked for": 3}


def test_a_fileset_with_a_variant_twice_does_not(fileset):
    bed, mapping = fileset
    bim = bed.with_suffix(".bim")
    text = bim.read_text()
    bim.write_text(text.replace("islands-0\t", "rs7\t"))
    site = SiteMapping.load(mapping)
    report = check_source(_sized(studies.study("gwas"), 300).data, open_source(site.source, bed), site)
    bim.write_text(text)
    assert [f.gate for f in report.of("REFUSE")] == ["source"]


def test_packed_rows_are_judged_as_their_numbers_are(monkeypatch):
    calls = np.random.default_rng(0).integers(-1, 3, (50, 40)).astype(np.int8)
    data = DataSpec.parse({"variables": {"g": {"type": "array", "shape": [40], "minimum": 0, "maximum": 2}}})
    rows = replace(Rows.of({}, patient=range(50)), arrays={"g": np.asarray(Genotypes.of(calls))})
    whole = check(data, rows)
    monkeypatch.setattr("locum.data.gates.stream.CELLS", 200)
    packed = check(data, replace(rows, arrays={"g": Genotypes.of(calls)}))
    assert whole.result == packed.result == "PASS"
    for a, b in zip(
        whole.variables.values() if isinstance(whole.variables, dict) else whole.variables,
        packed.variables.values() if isinstance(packed.variables, dict) else packed.variables,
        strict=True,
    ):
        assert (a.rows, a.values, a.missing) == (b.rows, b.values, b.missing)
        assert a.mean == pytest.approx(b.mean)
