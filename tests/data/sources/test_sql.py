"""SQLite and DuckDB files and a real PostgreSQL server: the same table out of each, read only, in chunks, secrets out of sight."""

import sqlite3
from datetime import date, datetime

import duckdb
import polars as pl
import pytest

from locum.data.sources import read
from locum.data.sources.sql import Spec, open_source, single_select
from locum.data.sources.sql_postgres import BAD_TIME, PostgresSource
from locum.data.sources.sql_sqlite import NOT_UTF8
from locum.errors import DataError, LocumError, ManifestError, TooLarge, Unavailable

N = 1000
DAY, WHEN = date(2020, 2, 29), datetime(2020, 2, 29, 13, 5, 7, 250_000)


@pytest.fixture
def sqlite_path(tmp_path):
    path = tmp_path / "t.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE visits (id INTEGER PRIMARY KEY, patient TEXT, sbp REAL, big INTEGER, mixed, raw BLOB)")
        db.executemany(
            "INSERT INTO visits VALUES (?, ?, ?, ?, ?, ?)", [(i, f"P{i // 3:04}", 100 + i / 8, 2**53 + 1, i if i % 2 else "n/a", b"x") for i in range(N)]
        )
    db.close()
    return path


@pytest.fixture
def duckdb_path(tmp_path):
    path = tmp_path / "t.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE visits AS SELECT i::BIGINT id, 'P' || (i // 3) patient, 100 + i / 8 sbp, i % 2 = 0 AS drug FROM range(1000) t(i)")
    return path


@pytest.fixture
def postgres(postgres_url, monkeypatch):
    import psycopg

    with psycopg.connect(postgres_url) as db:
        db.execute(
            "CREATE TABLE visits (id int8 PRIMARY KEY, patient text, sbp float8, drug bool, day date, at timestamp, zoned timestamptz,"
            " price numeric(10, 2), long numeric(20, 0), any_number numeric, code uuid, raw bytea, doc jsonb)"
        )
        db.execute(
            "INSERT INTO visits SELECT i, 'P' || i / 3, 100 + i / 8.0, i % 2 = 0, '2020-02-29', '2020-02-29 13:05:07.25', '2020-02-29 13:05:07.25+01', 1.25,"
            " 12345678901234567890, 'NaN', '00000000-0000-0000-0000-00000000000a', 'x', '{}' FROM generate_series(0, 999) i"
        )
    monkeypatch.setenv("REGISTRY_URL", postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    return postgres_url


def test_sqlite(sqlite_path):
    source = open_source(Spec(table="visits"), sqlite_path)
    assert source.columns() == ["id", "patient", "sbp", "big", "mixed", "raw"]
    frame = read(source, ["big", "patient", "mixed", "sbp"])
    assert frame.dtypes == [pl.Int64, pl.String, pl.String, pl.Float64]
    assert frame.row(999) == (2**53 + 1, "P0333", "999", 224.875)
    assert frame["mixed"].n_unique() == 501
    assert (source.tally.read, source.tally.used) == (N, N)
    with pytest.raises(DataError, match=r"'raw' of t\.sqlite holds bytes"):
        read(source, ["raw"])
    answer = open_source(
        Spec(query="WITH a AS (SELECT patient, max(sbp) AS top FROM visits GROUP BY 1) SELECT * FROM a ORDER BY top DESC -- all;"), sqlite_path
    )
    assert read(answer, ["top", "patient"]).row(0) == (224.875, "P0333")
    assert [len(c) for c in source.chunks(["id"], 300)] == [300, 300, 300, 100]


def test_sqlite_text_that_is_not_utf8_is_refused(sqlite_path):
    with sqlite3.connect(sqlite_path) as db:
        db.execute("UPDATE visits SET patient = CAST(x'ff41' AS TEXT) WHERE id = 5")
    db.close()
    source = open_source(Spec(table="visits"), sqlite_path)
    frame = read(source, ["id", "patient"])
    assert 5 not in frame["id"].to_list()
    assert source.tally.refused == {NOT_UTF8: 1}
    assert source.tally.balanced
    assert source.tally.read == N


@pytest.mark.parametrize("query", ["SELECT load_extension('x')", "SELECT * FROM absent", "SELECT", "SELECT writefile('x', 'y')"])
def test_sqlite_refuses(sqlite_path, query):
    before = sqlite_path.read_bytes()
    with pytest.raises(DataError, match="does not answer"):
        read(open_source(Spec(query=query), sqlite_path), [])
    assert sqlite_path.read_bytes() == before


def test_sqlite_is_stopped_after_its_time(sqlite_path):
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) AS top FROM c"
    with pytest.raises(Unavailable, match=r"not read within 0.2 s"):
        read(open_source(Spec(query=endless, timeout_s=0.2), sqlite_path), ["top"])


def test_duckdb(duckdb_path):
    source = open_source(Spec(table="visits"), duckdb_path)
    assert source.columns() == ["id", "patient", "sbp", "drug"]
    frame = read(source, ["drug", "sbp"])
    assert frame.dtypes == [pl.Boolean, pl.Float64]
    assert frame.row(999) == (False, 224.875)
    assert source.tally.used == N
    types = "SELECT 1.50::DECIMAL(9,2) AS price, DATE '2020-02-29' AS day, uuid() AS code, 'a'::ENUM('a','b') AS kind, sum(id) AS total FROM visits"
    frame = read(open_source(Spec(query=types), duckdb_path), ["price", "day", "kind", "total", "code"])
    assert frame.row(0)[:4] == (1.5, DAY, "a", "499500")
    with pytest.raises(DataError, match=r"'b' of t\.duckdb holds binary"):
        read(open_source(Spec(query="SELECT 'x'::BLOB AS b"), duckdb_path), ["b"])


def test_an_order_by_holds(duckdb_path, sqlite_path):
    for path in (duckdb_path, sqlite_path):
        frame = read(open_source(Spec(query="SELECT * FROM visits ORDER BY sbp DESC"), path), ["id"])
        assert frame["id"].to_list() == list(range(N))[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_text('/etc/hostname')",
        "WITH a AS (SELECT 1) INSERT INTO visits SELECT 1, 'x', 1, true",
        "SELECT * FROM absent",
    ],
)
def test_duckdb_reaches_nothing_else(duckdb_path, query):
    with pytest.raises(DataError):
        read(open_source(Spec(query=query), duckdb_path), [])


def test_duckdb_has_bounds(duckdb_path):
    with pytest.raises(Unavailable, match="not read within"):
        read(
            open_source(Spec(query="SELECT count(*) AS n FROM range(10000000000) a(i), range(1000) b(j) WHERE hash(i + j) = 7", timeout_s=0.3), duckdb_path),
            ["n"],
        )
    with pytest.raises(TooLarge, match="more than 64 MB"):
        read(open_source(Spec(query="SELECT i, list(i) AS l FROM range(50000000) t(i) GROUP BY i", memory_mb=64), duckdb_path), ["i"])
    assert not list(duckdb_path.parent.glob("*.tmp"))


def test_a_file_that_is_open_elsewhere(duckdb_path):
    import subprocess
    import sys

    code = f"import duckdb, time; c = duckdb.connect({str(duckdb_path)!r}); print('open', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(Unavailable, match="open in another program"):
            open_source(Spec(table="visits"), duckdb_path).columns()
    finally:
        other.kill()
        other.wait()


def test_postgres(postgres):
    source = open_source(Spec(url_env="REGISTRY_URL", table="public.visits"), None)
    assert source.columns()[:4] == ["id", "patient", "sbp", "drug"]
    names = ["id", "patient", "sbp", "drug", "day", "at", "zoned", "price", "long", "any_number", "code"]
    frame = read(source, names)
    assert len(frame) == source.tally.used == N
    row = frame.sort("id").row(3)
    assert row[:6] == (3, "P1", 100.375, False, DAY, WHEN)
    assert row[6].timestamp() == datetime.fromisoformat("2020-02-29T13:05:07.25+01:00").timestamp()
    assert row[7:9] == (1.25, "12345678901234567890")
    assert row[9] != row[9]
    assert row[10].endswith("0000a")
    for name in ("raw", "doc"):
        with pytest.raises(DataError, match=f"column '{name}'"):
            read(source, [name])
    assert "locum@" not in repr(source) + source.name


def test_postgres_dates_that_are_none_are_refused(postgres):
    days = "WHEN 1 THEN date 'infinity' WHEN 2 THEN date '0044-03-15 BC' WHEN 3 THEN NULL ELSE date '2020-02-29'"
    query = f"SELECT i, CASE i {days} END AS day FROM generate_series(1, 5) i"
    source = open_source(Spec(url_env="REGISTRY_URL", query=query), None)
    assert read(source, ["i", "day"]).rows() == [(3, None), (4, DAY), (5, DAY)]
    assert source.tally.refused == {BAD_TIME: 2}
    assert source.tally.balanced


def test_postgres_query_and_its_file(postgres, tmp_path):
    (tmp_path / "cohort.sql").write_text("-- the cohort\nSELECT id, patient FROM visits WHERE patient LIKE 'P1%' ORDER BY id DESC;\n")
    (tmp_path / "address").write_text(postgres + "\n")
    spec = Spec(url_file="address", query_file="cohort.sql").found_from(tmp_path)
    frame = read(open_source(spec, None), ["id"])
    assert frame["id"].is_sorted(descending=True)
    assert len(frame) == sum(f"P{i // 3}".startswith("P1") for i in range(N))


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("WITH d AS (DELETE FROM visits RETURNING id) SELECT * FROM d", DataError, ""),
        ("SELECT nextval('s')", DataError, ""),
        ("SELECT set_config('transaction_read_only', 'off', false)", DataError, ""),
        ("SELECT * FROM absent", DataError, "42P01"),
        ("SELECT patient::int FROM visits", DataError, "22P02"),
        ("SELECT pg_sleep(60)::text AS t", Unavailable, "did not answer within 0.5 s"),
    ],
)
def test_postgres_refuses(postgres, query, error, says):
    import psycopg

    with psycopg.connect(postgres) as db:
        db.execute("CREATE SEQUENCE s")
    source = open_source(Spec(url_env="REGISTRY_URL", query=query, timeout_s=0.5), None)
    with pytest.raises(error) as caught:
        list(source.chunks(source.columns()))
    assert says in str(caught.value)
    assert '"P' not in str(caught.value)
    with psycopg.connect(postgres) as db:
        assert db.execute("SELECT count(*), (SELECT is_called FROM s) FROM visits").fetchone() == (N, False)


def test_a_server_that_goes_away_in_the_middle(postgres):
    import psycopg

    source = open_source(Spec(url_env="REGISTRY_URL", query="SELECT i, repeat('x', 500) AS t FROM generate_series(1, 500000) i"), None)
    chunks = source.chunks(["i", "t"], 20_000)
    next(chunks)
    with psycopg.connect(postgres, autocommit=True) as admin:
        ended = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'locum' AND datname = current_database()"
        ).fetchone()
        assert ended == (1,)
    with pytest.raises(Unavailable, match="went away after") as caught:
        list(chunks)
    assert "start again" in caught.value.fix


def test_postgres_streams(postgres):
    """A cursor at the server: the first chunk comes long before an answer of 50 million rows is complete."""
    source = open_source(Spec(url_env="REGISTRY_URL", query="SELECT i, repeat('x', 100) AS t FROM (SELECT generate_series(1, 50000000) AS i) s"), None)
    chunks = source.chunks(["i"])
    assert len(next(chunks)) == 1 << 17
    chunks.close()


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("postgresql://user:hunter2@127.0.0.1:1/x", Unavailable, "cannot be reached"),
        ("postgresql://user:hunter2@127.0.0.1:port/x", LocumError, ""),
        ("postgresql://user:hunter2@127.0.0.1/x?hunter2=1", LocumError, ""),
        ("postgresql://user:hunter2%zz@127.0.0.1/x", LocumError, ""),
        ("mysql://user:hunter2@127.0.0.1/x", ManifestError, "does not start with postgresql://"),
        ("", ManifestError, "REGISTRY_URL is not set"),
    ],
)
def test_an_address_never_shows(monkeypatch, url, error, says):
    monkeypatch.setenv("REGISTRY_URL", url)
    with pytest.raises(error) as caught:
        open_source(Spec(url_env="REGISTRY_URL", table="t"), None).columns()
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value) + caught.value.local


@pytest.mark.parametrize(
    "query",
    ["DELETE FROM t", "SELECT 1; SELECT 2", "", "-- SELECT 1", "COPY t TO '/tmp/x'", "PRAGMA table_info(t)", "ATTACH 'x' AS y", "selection", "SELECT 'a;b'"],
)
def test_a_query_is_one_select(query):
    with pytest.raises(ManifestError):
        single_select(query)


@pytest.mark.parametrize(
    "query", ["select 1", " SELECT 1 ;\n", "-- why\n/* really; */ SELECT 1".replace(";", ""), "(SELECT 1)", "WITH a AS (SELECT 1) SELECT * FROM a"]
)
def test_a_select_is_left_as_it_is(query):
    assert single_select(query) == query.rstrip("; \n")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"query": "SELECT 1", "table": "t"}, "give one of query"),
        ({}, "give one of query"),
        ({"table": "t", "path": "x", "url_env": "Y"}, "give one of path"),
        ({"table": "t", "url": "postgresql://x:y@z/q"}, "unknown key 'url'"),
    ],
)
def test_specs_that_make_no_sense(spec, says):
    with pytest.raises(ManifestError, match=says):
        Spec.parse(spec)


def test_not_a_database_and_not_a_column(tmp_path, sqlite_path):
    (tmp_path / "t.db").write_bytes(b"hello")
    with pytest.raises(DataError, match="neither a SQLite nor a DuckDB"):
        open_source(Spec(table="t"), tmp_path / "t.db")
    with pytest.raises(DataError, match="no column 'sbq'") as caught:
        read(open_source(Spec(table="visits"), sqlite_path), ["sbq"])
    assert "'sbp'" in caught.value.fix
    with pytest.raises(DataError, match="more than one column"):
        open_source(Spec(query="SELECT 1 AS a, 2 AS a"), sqlite_path).columns()


def test_a_hostile_table_name_is_only_a_name(sqlite_path, duckdb_path, postgres):
    evil = 'visits"; DROP TABLE visits; --'
    for spec, path in [({}, sqlite_path), ({}, duckdb_path), ({"url_env": "REGISTRY_URL"}, None)]:
        with pytest.raises(DataError):
            open_source(Spec(table=evil, **spec), path).columns()
        assert open_source(Spec(table="visits", **spec), path).columns()[0] == "id"


def test_the_address_is_not_in_what_is_printed():
    assert "hunter2" not in repr(PostgresSource("postgresql://a:hunter2@b/c", "x", None))
