"""Packed genotypes behave as the array that they stand for, and stay packed from a file to the task."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bed_reader import to_bed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from locum.data.genotypes import Genotypes, list_hash, pack, turned, unpack
from locum.data.load import load_rows
from locum.data.sources.plink import PlinkSource, Spec
from locum.errors import DataError, TooLarge
from locum.study import Study

CALLS = hnp.arrays(np.int8, st.tuples(st.integers(1, 13), st.integers(1, 9)), elements=st.integers(-1, 2))
N, M = 21, 12


def as_float(calls):
    return np.where(calls < 0, np.nan, calls).astype(np.float32)


@given(CALLS, st.data())
def test_it_stands_for_its_array(calls, data):
    g, whole = Genotypes.of(calls), as_float(calls)
    n, m = calls.shape
    assert (len(g), g.shape, g.size, g.ndim, g.dtype) == (n, (n, m), n * m, 2, np.float32)
    np.testing.assert_array_equal(np.asarray(g), whole)
    np.testing.assert_array_equal(np.asarray(Genotypes.of(whole)), whole)
    rows = data.draw(st.lists(st.integers(0, n - 1), max_size=9)) if data.draw(st.booleans()) else data.draw(hnp.arrays(bool, n))
    rows = np.asarray(rows, dtype=bool if isinstance(rows, np.ndarray) else np.intp)
    first, last, step = data.draw(st.integers(0, m)), data.draw(st.integers(0, m)), data.draw(st.integers(1, 3))
    np.testing.assert_array_equal(np.asarray(g[rows]), whole[rows])
    np.testing.assert_array_equal(g[rows, first:last:step], whole[rows, first:last:step])
    np.testing.assert_array_equal(g[rows].calls(columns=slice(first, last, step)), calls[rows, first:last:step])
    np.testing.assert_array_equal(g[rows][:, m - 1], whole[rows, m - 1])
    np.testing.assert_array_equal(g[n - 1], whole[n - 1])
    np.testing.assert_array_equal(g[1:], whole[1:])
    assert np.asarray(g, dtype=np.float64).dtype == np.float64


@given(CALLS)
def test_two_bits_and_back_and_the_other_allele(calls):
    n = len(calls)
    packed = pack(calls)
    assert packed.nbytes == calls.shape[1] * ((n + 3) // 4)
    np.testing.assert_array_equal(unpack(packed)[:, :n].T, calls)
    np.testing.assert_array_equal(unpack(turned(packed))[:, :n].T, np.where(calls < 0, calls, 2 - calls))


def test_a_list_is_told_by_names_alleles_and_order():
    one = [("rs1", "A"), ("rs2", "C")]
    assert len({list_hash(v) for v in (one, one[::-1], [("rs1", "G"), one[1]], one[:1], [("rs1", "A"), ("rs3", "C")])}) == 5
    assert list_hash(one) == list_hash(iter(one))


def written(folder: Path, name: str, calls, first="A", second="G") -> Path:
    """A fileset and its table of ages; alleles as one for all variants or one each."""
    n, m = calls.shape
    path = folder / f"{name}.bed"
    each = [[a] * m if isinstance(a, str) else list(a) for a in (first, second)]
    properties = {"iid": [f"{name}{i}" for i in range(n)], "sid": [f"rs{j}" for j in range(m)], "allele_1": each[0], "allele_2": each[1]}
    to_bed(path, np.where(calls < 0, -127, calls).astype(np.int8), properties=properties)
    pl.DataFrame({"sample": [f"{name}{i}" for i in range(n)], "age": [40.0 + i for i in range(n)]}).write_csv(folder / f"{name}.csv")
    return path


@pytest.fixture
def calls():
    return np.random.default_rng(4).integers(-1, 3, (N, M)).astype(np.int8)


def asked(m=M, **cohort):
    variables = {"sample": {"role": "patient", "type": "text"}, "g": {"type": "array", "shape": [m]}, "age": {}}
    return Study.parse({"name": "s", "data": {"variables": variables, "cohort": cohort}, "plan": [{"name": "n", "task": "count"}]})


def mapping(folder: Path, name: str, more: str = "") -> Path:
    file = folder / f"{name}.toml"
    file.write_text(f'[source]\ntype = "plink"\nlabels_file = "{name}.csv"\n{more}\n[columns]\ng = "genotypes"\n')
    return file


def test_rows_hold_them_packed_and_in_the_order_of_the_samples(tmp_path, calls):
    rows = load_rows(asked(), mapping(tmp_path, "h"), written(tmp_path, "h", calls))
    g = rows.arrays["g"]
    assert isinstance(g, Genotypes)
    assert g.named
    np.testing.assert_array_equal(np.asarray(g), as_float(calls))
    some = load_rows(asked(include={"age": {"at_least": 45, "at_most": 55}}), mapping(tmp_path, "h"), tmp_path / "h.bed")
    np.testing.assert_array_equal(np.asarray(some.arrays["g"]), as_float(calls[5:16]))
    np.testing.assert_array_equal(some.columns["age"], np.arange(45, 56))
    part = some.take(np.array([3, 0]))
    np.testing.assert_array_equal(np.asarray(part.arrays["g"]), as_float(calls[[8, 5]]))
    test, train = (rows.part(p, asked().data.split) for p in ("test", "train"))
    assert len(test) + len(train) == N
    assert isinstance(test.arrays["g"], Genotypes)


def test_some_variants_in_the_order_and_the_allele_that_the_study_names(tmp_path, calls):
    (tmp_path / "list.txt").write_text("rs7\nrs2 G\nrs3 A\n")
    rows = load_rows(asked(3), mapping(tmp_path, "h", 'variants_file = "list.txt"'), written(tmp_path, "h", calls))
    expected = as_float(calls[:, [7, 2, 3]])
    expected[:, 1] = 2 - expected[:, 1]
    np.testing.assert_array_equal(np.asarray(rows.arrays["g"]), expected)


def test_the_same_list_turns_files_that_count_other_alleles(tmp_path, calls):
    """A site whose .bim has the alleles the other way round, or has never seen one of them (0), is as the others."""
    (tmp_path / "list.txt").write_text("".join(f"rs{j} A\n" for j in range(M)))
    more = 'variants_file = "list.txt"'
    one = load_rows(asked(), mapping(tmp_path, "a", more), written(tmp_path, "a", calls)).arrays["g"]
    other = load_rows(asked(), mapping(tmp_path, "b", more), written(tmp_path, "b", np.where(calls < 0, calls, 2 - calls), "G", "A")).arrays["g"]
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert one.named == other.named
    absent = np.where(calls < 0, calls, 0)
    for name, alleles, values in (("c", ("0", "G"), absent), ("d", ("G", "0"), np.where(absent < 0, absent, 2))):
        g = load_rows(asked(), mapping(tmp_path, name, more), written(tmp_path, name, values, *alleles)).arrays["g"]
        np.testing.assert_array_equal(np.asarray(g), as_float(absent))
        assert g.named == one.named
    plain = load_rows(asked(), mapping(tmp_path, "e"), written(tmp_path, "e", calls, "G", "A")).arrays["g"]
    assert plain.named != one.named
    with pytest.raises(DataError, match=r"are not in f\.bed"):
        load_rows(asked(), mapping(tmp_path, "f", more), written(tmp_path, "f", calls, "T", "C"))


def test_another_number_of_variants_and_variants_that_a_file_lacks(tmp_path, calls):
    path = written(tmp_path, "h", calls)
    with pytest.raises(DataError, match=r"array of shape \[9\], and 12 variants are chosen from h\.bed") as caught:
        load_rows(asked(9), mapping(tmp_path, "h"), path)
    assert "variants_file" in caught.value.fix
    (tmp_path / "list.txt").write_text("rs1\nrs999\n")
    with pytest.raises(DataError, match="1 of the 2 variants asked for are not in"):
        load_rows(asked(2), mapping(tmp_path, "h", 'variants_file = "list.txt"'), path)
    with pytest.raises(TooLarge, match="More than 5 variants"):
        load_rows(asked(), mapping(tmp_path, "h", "max_variants = 5"), path)


def test_a_name_twice_is_refused_with_the_count(tmp_path, calls):
    path = written(tmp_path, "h", calls)
    bim = path.with_suffix(".bim").read_text().replace("rs5\t", "rs4\t")
    path.with_suffix(".bim").write_text(bim)
    source = PlinkSource(path, Spec.parse({"type": "plink"}))
    assert source.packed().shape == (N, M - 1)
    assert source.tally.balanced
    with pytest.raises(DataError, match=r"1 of 12 records of h\.bed cannot be used"):
        load_rows(asked(M - 1), mapping(tmp_path, "h"), path)


def test_dosages_stay_numbers(tmp_path):
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tp0\tp1"]
    lines += ["1\t10\trs0\tA\tG\t.\t.\t.\tGT:DS\t0/1:0.9\t1/1:1.8", "1\t20\trs1\tA\tG\t.\t.\t.\tGT:DS\t0/0:0.1\t./.:."]
    (tmp_path / "x.vcf").write_text("\n".join(lines) + "\n")
    variables = {"sample": {"role": "patient", "type": "text"}, "genotypes": {"type": "array", "shape": [2]}}
    study = Study.parse({"name": "s", "data": {"variables": variables}, "plan": [{"name": "n", "task": "count"}]})
    for field, expected in (("DS", [[0.9, 0.1], [1.8, np.nan]]), ("GT", [[1, 0], [2, np.nan]])):
        (tmp_path / "m.toml").write_text(f'[source]\ntype = "vcf"\nfield = "{field}"\n')
        g = load_rows(study, tmp_path / "m.toml", tmp_path / "x.vcf").arrays["genotypes"]
        assert isinstance(g, Genotypes) == (field == "GT")
        np.testing.assert_allclose(np.asarray(g), np.asarray(expected, np.float32))


def test_a_contract_of_genotypes_alone(tmp_path, calls):
    study = Study.parse({"name": "s", "data": {"variables": {"genotypes": {"type": "array", "shape": [M]}}}, "plan": [{"name": "n", "task": "count"}]})
    rows = load_rows(study, None, written(tmp_path, "h", calls))
    assert len(rows) == rows.patients == N
    np.testing.assert_array_equal(rows.arrays["genotypes"][:, :], as_float(calls))
