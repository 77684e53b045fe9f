"""VCF and BCF against cyvcf2 (htslib), the example of the VCF specification, and damaged files."""

import gzip
from pathlib import Path

import cyvcf2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.sources.base import SourceSpec, open_source, read
from locum.data.sources.vcf import Spec, VcfSource
from locum.errors import DataError, LocumError, ManifestError, TooLarge

BAD = Path(__file__).parents[2] / "bad_inputs" / "genomes"

# the example of hts-specs VCFv4.3, section 1.1
SPEC_EXAMPLE = """##fileformat=VCFv4.3
##fileDate=20090805
##source=myImputationProgramV3.1
##contig=<ID=20,length=62435964,assembly=B36,md5=f126cdf8a6e0c7f379d618ff66beb2da,species="Homo sapiens",taxonomy=x>
##phasing=partial
##INFO=<ID=NS,Number=1,Type=Integer,Description="Number of Samples With Data">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Total Depth">
##INFO=<ID=AF,Number=A,Type=Float,Description="Allele Frequency">
##INFO=<ID=AA,Number=1,Type=String,Description="Ancestral Allele">
##INFO=<ID=DB,Number=0,Type=Flag,Description="dbSNP membership, build 129">
##INFO=<ID=H2,Number=0,Type=Flag,Description="HapMap2 membership">
##FILTER=<ID=q10,Description="Quality below 10">
##FILTER=<ID=s50,Description="Less than 50% of samples have data">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=GQ,Number=1,Type=Integer,Description="Genotype Quality">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Read Depth">
##FORMAT=<ID=HQ,Number=2,Type=Integer,Description="Haplotype Quality">
#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT NA00001 NA00002 NA00003
20 14370 rs6054257 G A 29 PASS NS=3;DP=14;AF=0.5;DB;H2 GT:GQ:DP:HQ 0|0:48:1:51,51 1|0:48:8:51,51 1/1:43:5:.,.
20 17330 . T A 3 q10 NS=3;DP=11;AF=0.017 GT:GQ:DP:HQ 0|0:49:3:58,50 0|1:3:5:65,3 0/0:41:3
20 1110696 rs6040355 A G,T 67 PASS NS=2;DP=10;AF=0.333,0.667;AA=T;DB GT:GQ:DP:HQ 1|2:21:6:23,27 2|1:2:0:18,2 2/2:35:4
20 1230237 . T . 47 PASS NS=3;DP=13;AA=T GT:GQ:DP:HQ 0|0:54:7:56,60 0|0:48:4:51,51 0/0:61:2
20 1234567 microsat1 GTC G,GTCT 50 PASS NS=3;DP=9;AA=G GT:GQ:DP 0/1:35:4 0/2:17:2 1/1:40:3
"""


def tabbed(text: str) -> str:
    return "".join(line if line.startswith("##") else line.replace(" ", "\t") for line in text.splitlines(keepends=True))


def small(body: str, samples: str = "a b c", head: str = "##fileformat=VCFv4.2\n") -> str:
    head += '##contig=<ID=1>\n##contig=<ID=2>\n##contig=<ID=X>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
    head += '##FORMAT=<ID=DS,Number=1,Type=Float,Description="d">\n##FORMAT=<ID=DP,Number=1,Type=Integer,Description="d">\n'
    return tabbed(f"{head}#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT {samples}\n{body}")


def source(path: Path, text: str | bytes | None = None, **options: object) -> VcfSource:
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return VcfSource(path, Spec.parse({"type": "vcf", **options}))


def dosages(src: VcfSource) -> dict[str, list[int | float]]:
    found: dict[str, list[int | float]] = {}
    for table, values in src.blocks(2):
        found |= {n: values[:, i].tolist() for i, n in enumerate(table["name"])}
    assert src.tally.balanced
    return found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 samples by 300 variants with further FORMAT keys, missing calls and haploid ones, as text; rewritten by htslib as .vcf.gz and .bcf."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(5)
    calls = np.array(["0/0", "0|1", "1/1", "./.", "1|0", "0/.", "1", "."])
    lines = []
    for j in range(300):
        cells = calls[rng.choice(len(calls), 200, p=[0.5, 0.2, 0.1, 0.05, 0.05, 0.02, 0.05, 0.03])]
        lines.append(f"{1 + j // 200} {100 + 10 * (j % 200)} rs{j} A G . PASS . GT:DP " + " ".join(f"{c}:{int(rng.integers(99))}" for c in cells))
    (folder / "c.vcf").write_text(small("\n".join(lines) + "\n", " ".join(f"s{i}" for i in range(200))))
    for suffix, mode in ((".vcf.gz", "wz"), (".bcf", "wb")):
        reader = cyvcf2.VCF(str(folder / "c.vcf"))
        writer = cyvcf2.Writer(str(folder / f"c{suffix}"), reader, mode)
        for record in reader:
            writer.write_record(record)
        writer.close()
        reader.close()
    return folder


@pytest.mark.parametrize("suffix", [".vcf", ".vcf.gz", ".bcf"])
def test_agrees_with_htslib(cohort: Path, suffix: str) -> None:
    expected = {}
    for record in cyvcf2.VCF(str(cohort / "c.vcf")):
        genotypes = record.genotype.array()[:, :2].astype(int)  # -1 missing, -2 no second allele
        first, second = genotypes.T
        copies = np.where(second == -2, 2 * first, first + second)
        expected[record.ID] = np.where((first == -1) | (second == -1), -1, copies).tolist()
    src = source(cohort / f"c{suffix}")
    assert dosages(src) == expected
    assert src.tally.read == src.tally.used == 300


def test_rows_are_samples(cohort: Path) -> None:
    src = source(cohort / "c.bcf", region="2:100-500")
    assert src.columns()[:4] == ["sample", "genotypes", "rs200", "rs201"]
    frame = read(src, ["rs203", "sample", "genotypes"])
    assert frame.schema == {"rs203": pl.Int8, "sample": pl.String, "genotypes": pl.Array(pl.Float32, 41)}
    assert len(frame) == 200
    assert src.tally.used == 41
    assert src.tally.left_out == {"a variant outside the region": 201}  # reading stops behind the region
    array, column = frame["genotypes"].to_numpy(), frame["rs203"]
    assert np.array_equal(np.isnan(array[:, 3]), column.is_null().to_numpy())
    assert np.nansum(array[:, 3]) == column.sum()


def test_example_of_the_specification(tmp_path: Path) -> None:
    src = source(tmp_path / "e.vcf", tabbed(SPEC_EXAMPLE))
    assert dosages(src) == {"rs6054257": [0, 1, 2], "20:17330:T:A": [0, 1, 0], "20:1230237:T:.": [0, 0, 0]}
    assert src.tally.read == 5
    assert sum(src.tally.refused.values()) == 2
    src = source(tmp_path / "e.vcf", multiallelic="split")
    split = dosages(src)
    assert split["rs6040355:G"] == [1, 1, 0]
    assert split["rs6040355:T"] == [1, 1, 2]
    assert split["microsat1:G"] == [1, 0, 2]
    assert (src.tally.read, src.tally.used) == (5, 5)
    src = source(tmp_path / "e.vcf", multiallelic="leave_out")
    assert len(dosages(src)) == 3
    assert src.tally.left_out.total() == 2


def test_through_a_mapping_with_labels(tmp_path: Path) -> None:
    (tmp_path / "e.vcf").write_text(tabbed(SPEC_EXAMPLE))
    (tmp_path / "labels.csv").write_text("iid;age\nNA00003;61\nNA00001;54\nother;9\n")
    spec = Spec.parse({"path": "e.vcf", "labels_file": "labels.csv", "labels_key": "iid", "multiallelic": "leave_out"}).found_from(tmp_path)
    frame = read(open_source(spec), ["sample", "age", "rs6054257"])
    assert frame.rows() == [("NA00001", "54", 0), ("NA00002", None, 1), ("NA00003", "61", 2)]
    (tmp_path / "labels.csv").write_text("iid;age\nNA00003;61\nNA00003;54\n")
    with pytest.raises(DataError, match=r"1 rows of labels\.csv name a sample"):
        read(open_source(spec), ["age"])
    assert isinstance(open_source(SourceSpec(path=str(tmp_path / "e.vcf"))), VcfSource)


def test_variants_asked_for_are_columns_in_that_order(tmp_path: Path) -> None:
    text = small("1 5 rs1 A G . . . GT 0/0 0/1 1/1\n1 6 rs2 C T,A . . . GT 0/0 0/1 1/2\n1 7 rs3 C T . . . GT 0/0 ./. 1/1\n")
    src = source(tmp_path / "v.vcf", text, variants=["rs3 C", "rs1 G"])
    assert src.columns() == ["sample", "genotypes", "rs3", "rs1"]
    frame = read(src, ["genotypes", "rs3"])
    assert frame["rs3"].to_list() == [2, None, 0]  # copies of C, which is the reference here
    assert np.array_equal(frame["genotypes"].to_numpy(), [[2, 0], [np.nan, 1], [0, 2]], equal_nan=True)
    assert src.tally.left_out == {"a variant that was not asked for": 1}  # the multi-allelic one bothers nobody
    with pytest.raises(DataError, match="1 of the 2 variants asked for are not in"):
        read(source(tmp_path / "v.vcf", variants=["rs1", "rs9"]), ["genotypes"])
    with pytest.raises(DataError, match="has not the allele asked for"):
        read(source(tmp_path / "v.vcf", variants=["rs1 T"]), ["rs1"])
    with pytest.raises(ManifestError, match="is there twice"):
        source(tmp_path / "v.vcf", variants=["rs1", "rs1"]).columns()


def test_dosages_and_haploid_calls(tmp_path: Path) -> None:
    text = small("X 5 rs1 A G . . . GT:DS 0:0.1 1:1.9 ./.:.\nX 6 rs2 A G . . . GT:DS 0:0.1 1:2.9 0/0:0\nX 7 rs3 A G . . . GT 0 1 0|1\n")
    src = source(tmp_path / "x.vcf", text, field="DS")
    frame = read(src, ["rs1"])
    assert frame["rs1"].dtype == pl.Float32
    assert frame["rs1"].to_list() == [pytest.approx(0.1), pytest.approx(1.9), None]
    assert [*dosages(src)] == ["rs1"]
    assert src.tally.refused == {"a record with a dosage outside 0 to 2": 1, "a record without DS": 1}
    assert dosages(source(tmp_path / "x.vcf"))["rs3"] == [0, 2, 1]
    assert dosages(source(tmp_path / "x.vcf", haploid="single"))["rs3"] == [0, 1, 1]


REFUSED = {
    "1 5 rs1 A G . . . GT 0/0 0/1\n": "a line with a wrong number of samples",
    "1 5 rs1 A G . . .\n": "a line with too few columns",
    "1 x rs1 A G . . . GT 0/0 0/1 1/1\n": "a line without a position",
    "1 5 rs1 A  . . . GT 0/0 0/1 1/1\n": "a line without alleles",
    "1 5 rs1 A G . . . GT 0/0 foo 1/1\n": "a record with a genotype that is not one of at most two alleles",
    "1 5 rs1 A G . . . GT 0/0 0/1/1 1/1\n": "a record with a genotype that is not one of at most two alleles",
    "1 5 rs1 A G . . . GT 0/0  1/1\n": "a record with a genotype that is not one of at most two alleles",
    "1 5 rs1 A G . . . GT 0/0 0/2 1/1\n": "a record with a genotype of an allele that it does not list",
    "1 5 rs1 A G . . . GT 0/0 0/12 1/1\n": "a record with a genotype of an allele that it does not list",
    "1 5 rs1 A G . . . DP 3 4 5\n": "a record without GT as the first key of FORMAT",
}


@pytest.mark.parametrize(("line", "reason"), REFUSED.items())
def test_a_bad_record_is_refused_and_counted(tmp_path: Path, line: str, reason: str) -> None:
    src = source(tmp_path / "b.vcf", small(line + "1 9 rs2 A G . . . GT 0/0 0/1 1/1\n"))
    assert dosages(src) == {"rs2": [0, 1, 2]}
    assert src.tally.refused == {reason: 1}
    assert src.tally.read == 2


def test_names_twice(tmp_path: Path) -> None:
    src = source(tmp_path / "d.vcf", small("1 5 rs1 A G . . . GT 0/0 0/1 1/1\n1 6 rs1 A G . . . GT 1/1 1/1 1/1\n"))
    assert read(src, ["rs1"])["rs1"].to_list() == [0, 1, 2]
    assert src.tally.refused == {"a variant whose name an earlier one has": 1}
    assert src.tally.balanced
    with pytest.raises(DataError, match="1 of 3 samples"):
        source(tmp_path / "d.vcf", small("", "patient7 patient7 c")).columns()


@pytest.mark.parametrize("path", sorted(BAD.glob("*.vcf*")) + sorted(BAD.glob("*.bcf")), ids=lambda p: p.name)
def test_bad_files_are_refused_without_quoting_them(path: Path) -> None:
    with pytest.raises(LocumError) as caught:
        read(source(path), ["genotypes"])
    assert "patient" not in str(caught.value)
    assert caught.value.fix


def test_bad_files_are_there() -> None:
    assert len([*BAD.glob("*.vcf*")]) >= 7


def test_bounds(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge, match="More than 10 variants"):
        source(cohort / "c.vcf", max_variants=10).columns()
    monkeypatch.setattr("locum.data.sources.vcf.MAX_LINE_BYTES", 256)
    with pytest.raises(TooLarge, match="longer than 256 bytes"):
        source(cohort / "c.vcf").columns()


def test_a_region_is_read_as_written(tmp_path: Path) -> None:
    lines = "".join(f"1 {p} rs{p} A G . . . GT 0/0 0/1 1/1\n" for p in (1, 5, 9)) + "2 5 rs25 A G . . . GT 0/0 0/1 1/1\n"
    (tmp_path / "r.vcf").write_text(small(lines))
    for region, names in {"1": ["rs1", "rs5", "rs9"], "1:5": ["rs5"], "1:5-": ["rs5", "rs9"], "1:1-5": ["rs1", "rs5"], "2:1-1,000": ["rs25"]}.items():
        assert [*dosages(source(tmp_path / "r.vcf", region=region))] == names
    with pytest.raises(ManifestError, match="region"):
        source(tmp_path / "r.vcf", region="1:a-b")


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 3), suffix=st.sampled_from([".vcf", ".vcf.gz", ".bcf", "raw.bcf"]))
def test_a_flipped_byte_never_crashes(cohort: Path, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: int, suffix: str) -> None:
    data = bytearray((cohort / f"c{suffix.removeprefix('raw')}").read_bytes())
    if suffix == "raw.bcf":  # past the checksums of the blocks
        data = bytearray(gzip.decompress(data))
    data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("flip") / f"f{suffix}"
    path.write_bytes(data[: len(data) - cut * 7])
    src = source(path)
    try:
        found = dosages(src)
    except LocumError:
        return
    assert src.tally.read >= 299 or suffix == "raw.bcf"
    assert len(found) <= 300
