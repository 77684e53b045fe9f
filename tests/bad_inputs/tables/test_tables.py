"""Every broken table either gives rows whose counts add up or a message with a remedy, and never a cell's content or another exception."""

import io
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.data.sources.sql import Spec as SqlSpec
from locum.data.sources.sql import open_source as open_sql
from locum.data.sources.table import Spec, open_source
from locum.errors import DataError, LocumError, TooLarge, Unavailable

HERE = Path(__file__).parent
SECRET = "QQSECRET"

READABLE = {  # file -> records used, refused, left out
    "truncated_row.csv": (3, 1, 0),
    "truncated_cell.csv": (4, 0, 0),
    "ragged.csv": (2, 2, 1),
    "stray_quotes.csv": (2, 1, 0),
    "swallowing_quote.csv": (1, 3, 0),
    "nul_bytes.csv": (2, 2, 0),
    "bare_cr.csv": (2, 0, 0),
    "mixed_line_ends.csv": (3, 0, 0),
    "mixed_separators.csv": (1, 1, 0),
    "header_only.csv": (0, 0, 0),
    "html.csv": (1, 0, 0),
    "traversal.csv.zip": (1, 0, 0),
    "not_utf8.sqlite": (1, 1, 0),
}
REFUSED = {  # file -> part of the message
    "truncated_quote.csv": "inside a quoted cell",
    "latin1.csv": "latin-1",
    "utf8_cut_in_a_letter.csv": "UTF-8",
    "utf16_undeclared.csv": "utf-16",
    "utf16_no_bom.csv": "utf-16",
    "only_nul_bytes.csv": "NUL bytes",
    "empty.csv": "is empty",
    "blank.csv": "is empty",
    "spaces.csv": "no header line",
    "twins.csv": "more than one column 'name'",
    "binary.csv": "UTF-8",
    "word_document.csv": "NUL bytes",
    "truncated.csv.gz": "cannot be",
    "checksum.csv.gz": "cannot be",
    "not_gzip.csv.gz": "cannot be",
    "bomb.csv.gz": "unpacks to more than",
    "bomb.csv.zip": "unpacks to more than",
    "two_members.csv.zip": "holds 2 files",
    "no_member.csv.zip": "holds 0 files",
    "crc.csv.zip": "cannot be",
    "locked.csv.zip": "password",
    "truncated.parquet": "cannot be read",
    "half.parquet": "cannot be read",
    "no_footer.parquet": "cannot be read",
    "text.parquet": "cannot be read",
    "footer_length_lies.parquet": "cannot be read",
    "page_damaged.parquet": "cannot be read",
    "rows_lie.parquet": "298 rows",
    "nested.parquet": "column 'record'",
    "truncated.sqlite": "does not answer",
    "header_only.sqlite": "does not answer",
    "page_damaged.sqlite": "does not answer",
    "no_table.sqlite": "does not answer",
    "text.sqlite": "neither a SQLite nor a DuckDB",
    "evil_view.sqlite": "does not answer",
    "truncated.duckdb": "does not answer",
}


def opened(path):
    if path.suffix in (".sqlite", ".duckdb"):
        return open_sql(SqlSpec(table="t"), path)
    return open_source(Spec(type="csv") if path.suffix == ".zip" else Spec(), path)


def consumed(path):
    source = opened(path)
    rows = sum(len(chunk) for chunk in source.chunks(source.columns()))
    assert source.tally.balanced
    assert source.tally.used == rows
    assert SECRET not in str(source.tally.to_json())
    return source


def outcome(path):
    """None where rows came out, or the error, which must have a remedy and no cell's content."""
    try:
        consumed(path)
    except LocumError as error:
        said = error
    else:
        return None
    assert said.fix
    assert SECRET not in str(said)
    return said


def test_every_file_is_listed():
    files = {p.name for p in HERE.iterdir() if p.suffix not in (".py", ".md", ".pyc", "") and p.is_file()}
    assert files == READABLE.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_read_is_counted(name):
    tally = consumed(HERE / name).tally
    assert (tally.used, tally.refused.total(), tally.left_out.total()) == READABLE[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_explained(name):
    with pytest.raises((DataError, TooLarge)) as caught:
        consumed(HERE / name)
    assert REFUSED[name] in str(caught.value)
    assert caught.value.fix
    assert SECRET not in str(caught.value)


FRAME = pl.DataFrame({"id": range(60), "name": [f"{SECRET}{i}" for i in range(60)], "sbp": [i / 7 if i % 3 else None for i in range(60)]})


def as_bytes(kind, folder):
    out = io.BytesIO()
    if kind == "csv":
        FRAME.write_csv(out, quote_style="always")
    elif kind.endswith("parquet"):
        FRAME.write_parquet(out, compression="snappy" if kind == "snappy.parquet" else "uncompressed")
    else:
        with sqlite3.connect(folder / "whole.sqlite") as db:
            db.execute("PRAGMA page_size = 512")
            db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, sbp REAL)")
            db.executemany("INSERT INTO t VALUES (?, ?, ?)", FRAME.rows())
        db.close()
        return (folder / "whole.sqlite").read_bytes()
    return out.getvalue()


@pytest.fixture(scope="module", params=["csv", "snappy.parquet", "plain.parquet", "sqlite"])
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return as_bytes(request.param, folder), folder / f"t.{request.param}"


FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=FLIPS, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_damaged_files_end_in_counts_or_in_a_message(whole, flips, keep):
    raw, path = whole
    data = bytearray(raw[: round(len(raw) * keep)])
    for place, byte in flips:
        if data:
            data[int(place * len(data))] = byte
    path.write_bytes(data)
    said = outcome(path)
    assert said is None or isinstance(said, (DataError, TooLarge, Unavailable))


@settings(max_examples=100)
@given(data=st.binary(max_size=300), name=st.sampled_from(["t.csv", "t.parquet", "t.csv.gz", "t.zip", "t.sqlite"]))
def test_any_bytes_end_in_counts_or_in_a_message(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes({"t.sqlite": b"SQLite format 3\0", "t.zip": b"PK\x03\x04", "t.csv.gz": b"\x1f\x8b\x08"}.get(name, b"") + data)
    outcome(path)
