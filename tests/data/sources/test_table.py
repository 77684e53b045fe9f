"""Delimited text and Parquet as hospitals export them: byte order marks, semicolons, old encodings, damage, and any size."""

import csv
import gzip
import io
import subprocess
import sys
import zipfile
from datetime import date, datetime
from decimal import Decimal

import hypothesis.strategies as st
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from locum.data.sources import base, delimited, open_source, read, table
from locum.data.sources.base import Tally
from locum.data.sources.table import CsvSource, ParquetSource, Spec
from locum.errors import DataError, ManifestError, TooLarge


def written(tmp_path, raw, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(raw)
    return path


def rows_of(source, names=None):
    return read(source, names or source.columns()).rows()


@pytest.mark.parametrize(
    ("raw", "spec"),
    [
        (b"id,name\n1,Zo\xc3\xab\n", {}),
        (b"\xef\xbb\xbfid,name\n1,Zo\xc3\xab\n", {}),
        (b"\xef\xbb\xbfid,name\n1,Zo\xc3\xab\n", {"encoding": "UTF-8-SIG"}),
        (b"id;name\r\n1;Zo\xc3\xab\r\n", {}),
        (b"sep=;\r\nid;name\r\n1;Zo\xc3\xab\r\n", {}),
        (b"id;name\r1;Zo\xc3\xab\r", {}),
        (b"id\tname\n1\tZo\xc3\xab\n", {}),
        (b"id|name\n1|Zo\xc3\xab", {"separator": "|"}),
        (b'"id","name"\n"1","Zo\xc3\xab"\n\n\n', {}),
        (b"id,name\n1,Zo\xeb\n", {"encoding": "latin-1"}),
        ("id;name\n1;Zoë\n".encode("utf-16"), {"encoding": "utf-16"}),
        ("\ufeffid;name\r\n1;Zoë\r\n".encode("utf-16-be"), {"encoding": "utf-16-be"}),
    ],
)
def test_one_table_in_many_dialects(tmp_path, raw, spec):
    source = open_source(Spec(**spec), written(tmp_path, raw))
    assert source.columns() == ["id", "name"]
    assert rows_of(source, ["name", "id"]) == [("Zoë", "1")]
    assert (source.tally.read, source.tally.used) == (1, 1)


@pytest.mark.parametrize("packed", ["t.csv.gz", "t.zip"])
def test_packed_files(tmp_path, packed):
    path = tmp_path / packed
    if packed.endswith(".gz"):
        path.write_bytes(gzip.compress(b"id,name\n1,a\n2,b\n"))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside.csv", "id,name\n1,a\n2,b\n")
    assert rows_of(open_source(Spec(type="csv"), path)) == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.zip"])
def test_a_decompression_bomb_is_stopped(tmp_path, name):
    body = b"id,name\n" + b"1,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" * 500_000
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(body))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside.csv", body)
    with pytest.raises(TooLarge, match="unpacks to more than"):
        rows_of(open_source(Spec(type="csv"), path))


def test_a_separator_inside_a_quoted_header_does_not_count(tmp_path):
    source = open_source(Spec(), written(tmp_path, b'"carcinoma, NOS, left, right";b\n1;2\n'))
    assert source.columns() == ["carcinoma, NOS, left, right", "b"]
    assert rows_of(source) == [("1", "2")]


def test_csv_cells_stay_text(tmp_path):
    """An identifier keeps its leading zeros, and a decimal comma is the contract's business."""
    assert rows_of(open_source(Spec(), written(tmp_path, b"id;x\n007;1e3\n08;1,5\n"))) == [("007", "1e3"), ("08", "1,5")]


def test_empty_cells_are_null_and_columns_without_a_name_get_one(tmp_path):
    source = open_source(Spec(), written(tmp_path, b',b,\n1,"",x\n'))
    assert source.columns() == ["column_1", "b", "column_3"]
    assert rows_of(source) == [("1", None, "x")]


def test_records_that_do_not_fit_are_refused_and_counted(tmp_path):
    raw = b'a,b\n1,2\n3\n4,5,6\n,\n\n"","" \n7,"x""y"\n8,a\0b\n9,"multi\nline"\n10,5" wide\n11,"x"y\n12,z'
    source = open_source(Spec(), written(tmp_path, raw))
    assert rows_of(source) == [("1", "2"), ("7", 'x"y'), ("9", "multi\nline"), ("10", '5" wide'), ("12", "z")]
    tally = source.tally
    assert tally.balanced
    assert tally.refused == {delimited.FEW: 1, delimited.MANY: 1, delimited.NUL: 1, delimited.QUOTE: 2}
    assert tally.left_out == {delimited.BLANK: 1}
    assert tally.notes == {delimited.UNENDED: 1}
    assert tally.read == 11


def test_quotes_may_have_no_meaning(tmp_path):
    source = open_source(Spec(quote=""), written(tmp_path, b'a\tb\n1\t"x\n2\ty"\n'))
    assert rows_of(source) == [("1", '"x'), ("2", 'y"')]


CELL = st.text(alphabet=st.sampled_from('ab1 ",;\t\n\réß€😀'), max_size=6)


def as_csv(rows, quoting):
    out = io.StringIO()
    csv.writer(out, quoting=quoting, lineterminator="\n").writerows(rows)
    return out.getvalue()


@settings(max_examples=80)
@given(
    st.lists(st.tuples(CELL, CELL, CELL), max_size=30),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.integers(5, 60),
    st.sampled_from(["utf-8", "utf-16"]),
)
def test_what_the_csv_module_writes_comes_back_whatever_the_size_of_a_block(tmp_path_factory, rows, quoting, block, encoding):
    rows = [tuple(c.replace("\r", "") for c in row) for row in rows]
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes((as_csv([("x", "y", "z")], quoting) + as_csv(rows, quoting)).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK", block)
        source = CsvSource(path, Spec(encoding=encoding))
        found = rows_of(source, ["x", "y", "z"])
    filled = [r for r in rows if any(c.strip('"') for c in r)]
    assert found == [tuple(c or None for c in r) for r in filled]
    assert source.tally.balanced
    assert source.tally.left_out.total() == len(rows) - len(filled)
    assert not source.tally.refused


@settings(max_examples=150)
@given(st.text(alphabet='a1",\n', max_size=80), st.integers(4, 40))
def test_the_fast_and_the_slow_way_agree(body, block):
    """Whatever the text, the two parsers see the same records, however it is cut into blocks."""
    results = []
    for slow in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delimited, "BLOCK", 1 << 20 if slow else block)
            if slow:
                patch.setattr(delimited, "_split", lambda *_: None)
            tally = Tally()
            try:
                opened = delimited.Table.open(io.BytesIO(f"x,y\n{body}".encode()), "t", encoding="utf-8", separator=",", quote='"')
                results.append(([row for f in opened.frames(["x", "y"], tally) for row in f.rows()], tally))
            except DataError as error:
                results.append((error.what, error.why))
    assert results[0] == results[1]


@pytest.mark.parametrize("block", [7, 1 << 22])
def test_one_column_and_no_rows(tmp_path, monkeypatch, block):
    monkeypatch.setattr(delimited, "BLOCK", block)
    source = open_source(Spec(), written(tmp_path, b"a\n1\n\n3\n"))
    assert rows_of(source) == [("1",), (None,), ("3",)]
    assert rows_of(open_source(Spec(), written(tmp_path, b"a,b\n"))) == []


def test_a_mis_encoded_byte_is_placed_by_its_line_on_this_machine_only(tmp_path):
    source = open_source(Spec(), written(tmp_path, b"id,name\n" + b"1,a\n" * 100 + b"2,Zo\xeb\n"))
    with pytest.raises(DataError, match="UTF-8") as caught:
        rows_of(source)
    assert "line 102" in caught.value.local
    assert "Zo" not in str(caught.value) + caught.value.local
    assert "latin-1" in caught.value.fix


@pytest.mark.parametrize(
    ("raw", "name", "says", "fix"),
    [
        (b"", "t.csv", "is empty", "header line"),
        (b"\n\n \n", "t.csv", "no header line", "header line"),
        (b"\n\n\n", "t.csv", "is empty", "header line"),
        (b"id,name\n1,Zo\xeb\n", "t.csv", "UTF-8", "latin-1"),
        (b'a,b\n1,"secret\n', "t.csv", "inside a quoted cell", "stray quote"),
        (b"a,b,a\n1,2,3\n", "t.csv", "more than one column 'a'", "own name"),
        ("a,b\n1,2\n".encode("utf-16"), "t.csv", "UTF-8", "utf-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "t.csv", "NUL bytes", "utf-16"),
        (gzip.compress(b"a,b\n1,secret\n" * 1000, mtime=0)[:-30], "t.csv.gz", "cannot be", ""),
        (b"PK\x03\x04 and then nothing", "t.csv.gz", "cannot be", ""),
        (b"PAR1 and then nothing", "t.parquet", "cannot be read", "export it again"),
        (b"", "t.parquet", "cannot be read", "export it again"),
    ],
)
def test_bad_files_are_explained_without_their_content(tmp_path, raw, name, says, fix):
    source = open_source(Spec(), written(tmp_path, raw, name))
    with pytest.raises(DataError) as caught:
        rows_of(source)
    assert says in caught.value.what
    assert fix in caught.value.fix
    assert "secret" not in str(caught.value)


def test_wrong_declared_encoding_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        open_source(Spec(encoding="utf-16"), written(tmp_path, b"a,b\n1,2\n3")).columns()
    assert "encoding" in str(caught.value)


def test_missing_file_unknown_kind_and_no_file(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        open_source(Spec(), tmp_path / "absent.csv")
    with pytest.raises(ManifestError, match="What kind of"):
        open_source(Spec(), written(tmp_path, b"x", "t.sav"))
    with pytest.raises(ManifestError, match="No data file is named"):
        open_source(Spec(), None)
    with pytest.raises(DataError, match="no column 'nam'") as caught:
        rows_of(open_source(Spec(), written(tmp_path, b"id,name\n1,2\n")), ["nam"])
    assert "'name'" in caught.value.fix


@pytest.mark.parametrize("spec", [{"encoding": "ebcdic-9"}, {"encoding": "zlib"}, {"separator": "\n"}, {"separator": "§"}, {"quote": "x"}])
def test_a_dialect_that_cannot_be(spec):
    with pytest.raises(ManifestError):
        Spec.parse(spec)


def test_one_endless_cell_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 1000)
    monkeypatch.setattr(delimited, "MAX_RECORD", 10_000)
    for body in (b"1,2\n3," + b"x" * 20_000, b'1,2\n3,"' + b"x\n" * 20_000):
        with pytest.raises(TooLarge, match="longer than") as caught:
            rows_of(open_source(Spec(), written(tmp_path, b"a,b\n" + body)))
        assert "line 3" in caught.value.local
    monkeypatch.setattr(delimited, "MAX_HEADER", 1000)
    with pytest.raises(DataError, match="header line"):
        open_source(Spec(), written(tmp_path, b"x" * 5000)).columns()


STREAM = """
import sys
from locum.data.sources.table import open_source, Spec
from locum.errors import LocumError
from pathlib import Path
source = open_source(Spec(), Path(sys.argv[1]))

def peak():  # ru_maxrss would tell of the parent, before exec
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10

try:
    columns = source.columns()
    before = peak()
    for chunk in source.chunks(columns): pass
    print(source.tally.read, peak() - before)
except LocumError as error:
    print(type(error).__name__, error, peak())
"""


def streamed(path):
    done = subprocess.run([sys.executable, "-c", STREAM, str(path)], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("start", [b"", b"id,name\n1,a\n"])
def test_a_sparse_file_of_100_gb_fails_at_once(tmp_path, start):
    path = written(tmp_path, start)
    with path.open("r+b") as file:
        file.truncate(100 << 30)
    out = streamed(path)
    assert "NUL bytes" in out or "longer than 16 MiB" in out
    assert int(out.split()[-1]) < 500


def test_memory_does_not_grow_with_the_file(tmp_path):
    frame = pl.DataFrame({"id": range(1_500_000), "x": ["some text of a cell"] * 1_500_000})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet", row_group_size=len(frame))
    for name in ("t.csv", "t.parquet"):
        rows, grown = streamed(tmp_path / name).split()
        assert int(rows) == len(frame)
        assert int(grown) < 250


def test_parquet_reads_only_what_is_asked(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1, 2], "b": ["x", None]}).write_parquet(path)
    source = open_source(Spec(), path)
    assert source.columns() == ["a", "b"]
    assert read(source, ["b"]).to_dict(as_series=False) == {"b": ["x", None]}


def test_parquet_types(tmp_path):
    path = tmp_path / "t.parquet"
    when = datetime(2020, 1, 2, 3, 4, 5)
    columns = {
        "small": pa.array([1, None], pa.int8()),
        "float": pa.array([1.5, float("nan")], pa.float32()),
        "bool": pa.array([True, None]),
        "code": pa.array(["x", "y"]).dictionary_encode(),
        "number": pa.array([1, 2], pa.int64()).dictionary_encode(),
        "price": pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
        "id": pa.array([Decimal("12345678901234567890"), None], pa.decimal128(20, 0)),
        "day": pa.array([when.date(), None], pa.date32()),
        "when": pa.array([when, None], pa.timestamp("ns")),
        "zoned": pa.array([when, None], pa.timestamp("ms", "Europe/Berlin")),
        "none": pa.nulls(2),
        "beat": pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float64(), 3)),
        "image": pa.array([[[1, 2]], [[3, 4]]], pa.list_(pa.list_(pa.int16(), 2), 1)),
        "ragged": pa.array([[1], [1, 2]]),
        "record": pa.array([{"secret": 1}, None]),
        "bytes": pa.array([b"x", None]),
        "span": pa.array([1, None], pa.duration("s")),
    }
    pq.write_table(pa.table(columns), path)
    source = open_source(Spec(), path)
    good = source.columns()[:13]
    frame = read(source, good)
    assert frame.row(0) == (1, 1.5, True, "x", 1, 1.25, "12345678901234567890", date(2020, 1, 2), when, frame["zoned"][0], None, [1, 2, 3], [[1, 2]])
    assert frame["zoned"][0].utctimetuple() == when.utctimetuple()
    assert frame.schema["beat"] == pl.Array(pl.Float32, 3)
    assert frame.schema["image"] == pl.Array(pl.Float32, (1, 2))
    assert (frame.schema["none"], frame.schema["code"], frame.schema["number"]) == (pl.String, pl.String, pl.Int64)
    for name in source.columns()[13:]:
        with pytest.raises(DataError, match=f"column '{name}'") as caught:
            read(source, [name])
        assert "secret" not in str(caught.value)


def test_parquet_chunks_are_small_where_arrays_are_large(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 1_000_000, pa.float32()), 50_000)}), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "CHUNK_BYTES", 1 << 20)
        assert [len(c) for c in ParquetSource(path).chunks(["image"])] == [5, 5, 5, 5]


def test_parquet_that_is_cut_off_or_lies(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": range(10_000)}).write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        open_source(Spec(), path).columns()
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(DataError, match="more than one column 'a'"):
        open_source(Spec(), path).columns()


def test_a_table_that_is_read_as_a_whole_is_bounded(tmp_path, monkeypatch):
    path = written(tmp_path, b"a,b\n" + b"1,2\n" * 11)
    monkeypatch.setattr(base, "MAX_CELLS", 20)
    with pytest.raises(TooLarge, match="more than 20 cells"):
        read(open_source(Spec(), path), ["a", "b"])
    assert len(read(open_source(Spec(), path), ["a"])) == 11


def test_chunks_are_of_the_size_that_was_asked_for(tmp_path):
    path = written(tmp_path, b"a,b\n" + b"1,2\n" * 1000)
    assert [len(c) for c in open_source(Spec(), path).chunks(["a"], 300)] == [300, 300, 300, 100]


@pytest.mark.parametrize("block", [1 << 22, 4, 5, 6, 7])
def test_a_byte_order_mark_in_a_cell_is_the_cells_wherever_a_block_begins(tmp_path, monkeypatch, block):
    monkeypatch.setattr(delimited, "BLOCK", block)
    source = CsvSource(written(tmp_path, "a,b\n1,2\n\ufeff3,4\n\ufeff5,6\n".encode()))
    assert read(source, ["a"])["a"].to_list() == ["1", "\ufeff3", "\ufeff5"]
