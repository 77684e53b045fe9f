"""PLINK filesets that bed-reader writes and reads too, and damaged ones."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bed_reader import open_bed, to_bed
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.sources.base import SourceSpec, open_source, read
from locum.data.sources.plink import PlinkSource, Spec
from locum.errors import DataError, LocumError

BAD = Path(__file__).parents[2] / "bad_inputs" / "genomes"
N, M = 103, 61


@pytest.fixture(scope="module")
def fileset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plink") / "c.bed"
    rng = np.random.default_rng(2)
    counts = rng.choice(np.array([0, 1, 2, -127], np.int8), (N, M), p=[0.5, 0.3, 0.15, 0.05])
    properties = {
        "fid": [f"f{i // 3}" for i in range(N)],
        "iid": [f"p{i}" for i in range(N)],
        "sex": rng.integers(0, 3, N),
        "pheno": [str(p) for p in rng.choice([-9, 0, 1, 2], N)],
        "sid": [f"rs{j}" if j != 7 else "." for j in range(M)],
        "chromosome": ["1" if j < 40 else "X" for j in range(M)],
        "bp_position": [10 * j + 10 for j in range(M)],
        "allele_1": ["A"] * M,
        "allele_2": ["G"] * M,
    }
    to_bed(path, counts, properties=properties)
    return path


def source(path: Path, **options: object) -> PlinkSource:
    return PlinkSource(path, Spec.parse({"type": "plink", **options}))


def copied(fileset: Path, folder: Path) -> Path:
    for suffix in (".bed", ".bim", ".fam"):
        shutil.copy(fileset.with_suffix(suffix), folder)
    return folder / fileset.name


@pytest.mark.parametrize("size", [1, 7, 61, 5000])
def test_blocks_agree_with_bed_reader(fileset: Path, size: int) -> None:
    with open_bed(fileset) as bed:
        expected = bed.read(dtype="int8")
        names = [*bed.sid]
    src = source(fileset)
    blocks = [*src.blocks(size)]
    assert all(values.shape[1] == len(table) <= size for table, values in blocks)
    assert np.array_equal(np.concatenate([v for _, v in blocks], axis=1), np.where(expected == -127, -1, expected))
    names[7] = "1:80:G:A"
    assert pl.concat([t for t, _ in blocks])["name"].to_list() == names
    assert (src.tally.read, src.tally.used) == (M, M)


def test_rows_are_samples(fileset: Path) -> None:
    src = open_source(SourceSpec(path=str(fileset)))
    assert src.columns()[:8] == ["sample", "family", "father", "mother", "sex", "phenotype", "genotypes", "rs0"]
    frame = read(src, src.columns(), size=10)
    assert frame.schema["genotypes"] == pl.Array(pl.Float32, M)
    fam = [line.split() for line in fileset.with_suffix(".fam").read_text().splitlines()]
    assert frame["sample"].to_list() == [f[1] for f in fam]
    assert frame["sex"].to_list() == [int(f[4]) or None for f in fam]
    assert frame["phenotype"].to_list() == [None if f[5] in ("-9", "0") else float(f[5]) for f in fam]
    assert frame["father"].is_null().all()
    assert np.array_equal(frame["genotypes"].to_numpy()[:, 5], frame["rs5"].cast(pl.Float32).to_numpy(), equal_nan=True)


def test_region_variants_and_the_counted_allele(fileset: Path) -> None:
    region = source(fileset, region="X:450-500")
    assert region.variant_names == [f"rs{j}" for j in range(44, 50)]
    assert region.tally.left_out == {"a variant outside the region": M - 6}
    plain = read(source(fileset), ["rs3"])["rs3"]
    other = read(source(fileset, variants=["rs9", "rs3 G"]), ["rs3"])["rs3"]
    assert other.to_list() == [None if v is None else 2 - v for v in plain]
    src = source(fileset, variants=["rs3 T"])
    with pytest.raises(DataError, match="has not the allele"):
        read(src, ["rs3"])
    assert src.tally.balanced


def test_quantitative_phenotypes_and_names(fileset: Path, tmp_path: Path) -> None:
    path = copied(fileset, tmp_path)
    lines = path.with_suffix(".fam").read_text().splitlines()
    values = ["0", "-9", "NA", "3.5", *["1"] * (N - 4)]
    rows = ["\t".join([*line.split()[:5], v]) for line, v in zip(lines, values, strict=True)]
    path.with_suffix(".fam").write_text("\n".join(rows))
    assert read(source(path), ["phenotype"])["phenotype"].to_list()[:4] == [0.0, None, None, 3.5]
    path.with_suffix(".fam").write_text("\n".join([rows[0].replace("p0", "p1"), *rows[1:]]))
    with pytest.raises(DataError, match="1 of 103 samples"):
        source(path).columns()
    path.with_suffix(".fam").write_text("\n".join([rows[3].replace("p3", "p0"), *rows[1:]]))
    assert source(path, sample="FID_IID").samples[0] == "f1_p0"
    path.with_suffix(".fam").write_text("\n".join(rows).replace("3.5", "secret"))
    with pytest.raises(DataError, match="1 phenotypes") as caught:
        read(source(path), ["phenotype"])
    assert "secret" not in str(caught.value)


def test_damaged_filesets(fileset: Path, tmp_path: Path) -> None:
    data = fileset.read_bytes()
    cases = {
        "bytes, and": data[:-1],
        "does not begin as": b"chr1\t100\t200\n" + data[13:],
        "is stored sample by sample": data[:2] + b"\x00" + data[3:],
        "does not begin": b"",
    }
    for what, content in cases.items():
        path = copied(fileset, tmp_path)
        path.write_bytes(content)
        with pytest.raises(DataError, match=what):
            read(source(path), ["genotypes"])
    path = copied(fileset, tmp_path)
    bim = path.with_suffix(".bim").read_text().splitlines()
    for what, lines in {
        "bytes, and": bim[1:],
        r"Line 1 of c\.bim has 2 columns": ["1 rs0", *bim[1:]],
        "no position": [bim[0].replace("\t10\t", "\tx\t"), *bim[1:]],
    }.items():
        path.with_suffix(".bim").write_text("\n".join(lines))
        with pytest.raises(DataError, match=what):
            read(source(path), ["genotypes"])
    path.with_suffix(".bim").unlink()
    with pytest.raises(DataError, match="There is no file"):
        source(path)


@pytest.mark.parametrize("name", sorted(p.stem for p in BAD.glob("*.bed")))
def test_bad_filesets_are_refused(name: str) -> None:
    with pytest.raises(LocumError) as caught:
        read(source(BAD / f"{name}.bed"), ["genotypes"])
    assert caught.value.fix
    assert "patient" not in str(caught.value)


@settings(max_examples=120, deadline=None)
@given(suffix=st.sampled_from([".bed", ".bim", ".fam"]), at=st.integers(0, 5000), byte=st.integers(0, 255))
def test_a_flipped_byte_never_crashes(fileset: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str, at: int, byte: int) -> None:
    path = copied(fileset, tmp_path_factory.mktemp("flip"))
    data = bytearray(path.with_suffix(suffix).read_bytes())
    data[at % len(data)] = byte
    path.with_suffix(suffix).write_bytes(data)
    src = source(path)
    try:
        frame = read(src, ["sample", "phenotype", "genotypes"])
    except LocumError:
        return
    assert len(frame) == N
    assert src.tally.balanced
    assert src.tally.read == M
