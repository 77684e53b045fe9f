"""R data files: IST as it is published against its re-encoding, what rdata itself writes and reads, and files that are no good."""

import bz2
import gzip
import lzma
import os
import struct
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from locum.data import r_data
from locum.data.r_data import frames_of, read_r
from locum.errors import DataError, LocumError, NotFound, TooLarge, Unavailable

rdata = pytest.importorskip("rdata", reason="rdata is not installed")
pd = pytest.importorskip("pandas")
DATA = os.environ.get("LOCUM_DATA_DIR")
needs_ist = pytest.mark.skipif(not DATA or not (Path(DATA) / "ist" / "IST.rda").is_file(), reason="LOCUM_DATA_DIR has no ist/IST.rda")


def frame():
    return pd.DataFrame(
        {
            "whole": pd.array([1, None, -3], dtype="Int32"),
            "real": [0.5, np.nan, 2.0],
            "text": pd.array(["a", None, "é ✓"], dtype="string"),
            "truth": [True, False, True],
            "factor": pd.Categorical(["low", "high", "low"], categories=["low", "mid", "high"]),
        }
    )


def expected():
    return pl.DataFrame(
        {
            "whole": pl.Series([1, None, -3], dtype=pl.Int32),
            "real": [0.5, float("nan"), 2.0],
            "text": ["a", None, "é ✓"],
            "truth": [True, False, True],
            "factor": ["low", "high", "low"],
        }
    )


@needs_ist
def test_ist_equals_its_lossless_reencoding_column_by_column():
    folder = Path(DATA) / "ist"
    ours, theirs = read_r(folder / "IST.rda"), pl.read_parquet(folder / "ist.parquet")
    assert ours.shape == (19435, 112)
    assert ours.columns == theirs.columns
    for name in theirs.columns:
        assert ours[name].dtype.is_integer() == theirs[name].dtype.is_integer(), name
        assert ours[name].equals(theirs[name].cast(ours[name].dtype), null_equal=True), name
    assert ours["RATRIAL"].null_count() == 0  # blank is '' there, and stays so
    assert ours["DDEADD"].null_count() == 17401


@pytest.mark.parametrize("format_", ["xdr", "ascii"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "xz"])
def test_what_rdata_writes(tmp_path, format_, compression):
    path = tmp_path / "x.rda"
    rdata.write_rda(path, {"one": frame(), "n": np.array([1.0, 2.0])}, file_format=format_, compression=compression)
    assert list(frames_of(path)) == ["one"]
    assert_frame_equal(read_r(path), expected())
    rdata.write_rds(tmp_path / "x.rds", frame(), file_format=format_, compression=compression)
    assert_frame_equal(read_r(tmp_path / "x.rds"), expected())


def test_text_is_read_in_one_loop_as_rdata_reads_it_one_by_one(tmp_path):
    """The shortcut for vectors of text against rdata's own parser, object by object."""
    path = tmp_path / "x.rda"
    rng = np.random.default_rng(3)
    words = np.array(["", "Y", "N", "a longer cell", "ü"], dtype=object)[rng.integers(0, 5, 500)]
    rdata.write_rda(path, {"t": pd.DataFrame({"x": words, "y": rng.integers(0, 9, 500)})}, compression=None)
    data = path.read_bytes()
    assert r_data._parsed(rdata, data).object == rdata.parser.parse_data(data).object


def test_files_that_r_itself_wrote():
    for path in (rdata.TESTDATA_PATH / "test_dataframe.rda", rdata.TESTDATA_PATH / "test_dataframe.rds"):
        read = read_r(Path(str(path)))
        assert read.to_dict(as_series=False) == {"class": ["a", "b", "b"], "value": [1, 2, 3]}
    with pytest.raises(DataError, match="0 data frames"):
        read_r(Path(str(rdata.TESTDATA_PATH / "test_vector.rda")))


def xdr(*objects: bytes) -> bytes:
    return b"X\n" + struct.pack(">iii", 2, 0x30502, 0x20300) + b"".join(objects)


def chars(text: str | None) -> bytes:
    return struct.pack(">Ii", 9 | 1 << 15, -1) if text is None else struct.pack(">Ii", 9 | 1 << 15, len(text.encode())) + text.encode()


def strings(*texts: str | None) -> bytes:
    return struct.pack(">Ii", 16, len(texts)) + b"".join(map(chars, texts))


def attributes(**values: bytes) -> bytes:
    return b"".join(struct.pack(">I", 1026) + struct.pack(">I", 1) + chars(n.rstrip("_")) + v for n, v in values.items()) + struct.pack(">I", 254)


def reals(values: list[float], *classes: str) -> bytes:
    head = 14 | (768 if classes else 0)
    packed = b"".join(struct.pack(">Q", 0x7FF00000000007A2) if v is None else struct.pack(">d", v) for v in values)
    return struct.pack(">Ii", head, len(values)) + packed + (attributes(class_=strings(*classes)) if classes else b"")


def table(columns: dict[str, bytes], names: list[str | None] | None = None) -> bytes:
    body = struct.pack(">Ii", 19 | 768, len(columns)) + b"".join(columns.values())
    return xdr(body, attributes(names=strings(*(names or columns)), class_=strings("data.frame")))


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.rds"
    path.write_bytes(data)
    return path


def test_dates_times_and_the_difference_between_na_and_nan(tmp_path):
    """Written byte by byte from R Internals 1.8: a Date is days, a POSIXct seconds, NA a NaN whose low word is 1954."""
    columns = {
        "day": reals([0.0, None, 19000.0], "Date"),
        "time": reals([0.5, 86400.0, None], "POSIXct", "POSIXt"),
        "x": reals([1.0, float("nan"), None]),
        "t": strings("a", None, "NA"),
    }
    read = read_r(write(tmp_path, table(columns)))
    assert read["day"].to_list() == [date(1970, 1, 1), None, date(2022, 1, 8)]
    assert read["time"].dtype == pl.Datetime("us", "UTC")
    assert read["time"].dt.timestamp("ms").to_list() == [500, 86_400_000, None]
    assert read["x"].is_null().to_list() == [False, False, True]
    assert np.isnan(read["x"][1])
    assert read["t"].to_list() == ["a", None, "NA"]


@pytest.mark.parametrize("value", [-719163.0, 2932897.0, 1e300, float("inf")])
def test_what_cannot_be_a_date_is_refused_and_not_wrapped_round(tmp_path, value):
    for unit, classes in ((1, ("Date",)), (86400, ("POSIXct", "POSIXt"))):
        with pytest.raises(DataError, match="1 values of 'd' are no dates"):
            read_r(write(tmp_path, table({"d": reals([0.0, value * unit, None], *classes)})))
    assert read_r(write(tmp_path, table({"d": reals([-719162.0, 2932896.0], "Date")})))["d"].to_list() == [date.min, date.max]


def test_64_bit_integers_of_package_bit64(tmp_path):
    big = struct.pack(">qq", 2**62 + 1, -(2**63))
    column = struct.pack(">Ii", 14 | 768, 2) + big + attributes(class_=strings("integer64"))
    assert read_r(write(tmp_path, table({"id": column})))["id"].to_list() == [2**62 + 1, None]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read as an R data file"),
        (b"RDX3\n", "cannot be read"),
        (b"not R at all", "cannot be read"),
        (table({"a": reals([1.0])})[:-9], "cannot be read"),
        (table({"a": reals([1.0]), "b": reals([1.0, 2.0])}), "differ in length"),
        (table({"a": reals([1.0]), "b": reals([1.0])}, ["a", "a"]), "a name of their own"),
        (table({"a": reals([1.0])}, [None]), "a name of their own"),
        (table({"a": struct.pack(">Ii", 19, 1) + reals([1.0])}), "is not a vector"),
        (xdr(struct.pack(">Ii", 16, 2**31 - 1) + chars("x")), "cannot be read"),
        (xdr(struct.pack(">IiIi", 16, 1, 9, -7)), "cannot be read"),
        (xdr(struct.pack(">II", 1026, 1) * 5000), "cannot be read"),
        (xdr(struct.pack(">Ii", 14, 2**31 - 1)), "0 data frames"),
        (gzip.compress(gzip.compress(b"RDX3\nX\n", mtime=0), mtime=0), "cannot be read"),
        (gzip.compress(table({"a": reals([1.0])}), mtime=0)[:-20], "cannot be unpacked"),
        (b"BZh9 is not bzip2", "cannot be unpacked"),
        (b"\xfd7zXZ\x00 is not xz", "cannot be unpacked"),
    ],
)
def test_files_that_are_no_good_are_refused_in_words(tmp_path, data, says):
    with pytest.raises(DataError, match=says):
        read_r(write(tmp_path, data))


def test_a_factor_is_its_levels(tmp_path):
    def factor(*codes: int) -> bytes:
        return struct.pack(f">Ii{len(codes)}i", 13 | 768, len(codes), *codes) + attributes(levels=strings("a", "b"), class_=strings("factor"))

    assert read_r(write(tmp_path, table({"f": factor(2, -(2**31), 1)})))["f"].to_list() == ["b", None, "a"]
    for wrong in (0, 3, -1):
        with pytest.raises(DataError, match="without a level"):
            read_r(write(tmp_path, table({"f": factor(1, wrong)})))


def test_a_matrix_is_refused(tmp_path):
    matrix = struct.pack(">Ii", 14 | 512, 2) + struct.pack(">dd", 1, 2) + attributes(dim=struct.pack(">Iiii", 13, 2, 1, 2))
    with pytest.raises(DataError, match="is a matrix"):
        read_r(write(tmp_path, table({"m": matrix})))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_is_stopped_while_it_unpacks(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(r_data, "MAX_BYTES", 1 << 21)
    path = write(tmp_path, pack(b"RDX3\nX\n" + bytes(1 << 24)))
    assert path.stat().st_size < 40_000
    with pytest.raises(TooLarge, match="unpacks to more than 2 MiB"):
        read_r(path)


def test_a_sequence_that_is_written_as_its_length_is_bounded(tmp_path, monkeypatch):
    """R 3.5 writes 1:n as three numbers; n may say anything."""

    def compact(n: float) -> bytes:
        info = struct.pack(">II", 2, 1) + chars("compact_intseq") + struct.pack(">II", 2, 1) + chars("base") + struct.pack(">IIii", 2, 13, 1, 13)
        state = struct.pack(">Iiddd", 14, 3, n, 1, 1)
        return struct.pack(">I", 238) + info + struct.pack(">I", 254) + state + struct.pack(">I", 254)

    assert read_r(write(tmp_path, table({"a": compact(3)})))["a"].to_list() == [1, 2, 3]
    for n in (1e12, -5.0, float("nan")):
        with pytest.raises(TooLarge, match="more than is read"):
            read_r(write(tmp_path, table({"a": compact(n)})))
    monkeypatch.setattr(r_data, "MAX_BYTES", 800)
    assert read_r(write(tmp_path, table({"a": compact(50), "b": compact(50)}))).shape == (50, 2)
    with pytest.raises(TooLarge):  # all of a file's sequences together
        read_r(write(tmp_path, table({"a": compact(51), "b": compact(50)})))


@pytest.mark.parametrize("many", [struct.pack(">Ii", 19, 5000) + struct.pack(">I", 254) * 5000, struct.pack(">II", 1026, 1) * 2000], ids=["list", "pairs"])
def test_few_bytes_that_stand_for_many_objects_are_bounded(tmp_path, monkeypatch, many):
    monkeypatch.setattr(r_data, "MAX_OBJECTS", 1000)
    with pytest.raises(LocumError):
        read_r(write(tmp_path, xdr(many)))
    cells = strings(*map(str, range(2000)))
    with pytest.raises(TooLarge, match="more than is read"):
        read_r(write(tmp_path, table({"a": cells})))
    assert len(read_r(write(tmp_path, table({"a": strings(*(["x", None] * 5000))})))) == 10_000  # equal cells count once


def test_the_ascii_form_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(r_data, "MAX_TEXT_FORM", 100)
    rdata.write_rds(tmp_path / "x.rds", frame(), file_format="ascii", compression=None)
    with pytest.raises(TooLarge, match="ASCII form"):
        read_r(tmp_path / "x.rds")


def test_every_cut_of_a_file_is_an_error_in_words(tmp_path):
    whole = table({"a": reals([1.0, None], "Date"), "b": strings("x", None)})
    assert read_r(write(tmp_path, whole)).shape == (2, 2)
    for cut in range(len(whole)):
        with pytest.raises(LocumError):
            read_r(write(tmp_path, whole[:cut]))


def test_names(tmp_path, monkeypatch):
    path = tmp_path / "x.rda"
    rdata.write_rda(path, {"trial": frame(), "notes": frame()})
    assert read_r(path, "notes").shape == (3, 5)
    with pytest.raises(DataError, match="2 data frames") as caught:
        read_r(path)
    assert "trial" in caught.value.fix
    with pytest.raises(NotFound) as caught:
        read_r(path, "trail")
    assert "'trial'" in caught.value.fix
    with pytest.raises(DataError, match="There is no file"):
        read_r(tmp_path / "y.rda")
    monkeypatch.setitem(__import__("sys").modules, "rdata", None)
    with pytest.raises(Unavailable) as caught:
        read_r(path)
    assert "locum[r]" in caught.value.fix
