"""OMOP CDM 5.4: the Synthea data set as zip, folder, Parquet, SQLite, DuckDB and PostgreSQL; counts against polars on the raw files."""

import io
import os
import sqlite3
import zipfile
from datetime import date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from locum.data.sources import read
from locum.data.sources.omop import Spec, one_row_per_person, open_source
from locum.data.sources.omop_cdm import EVENTS, TABLES
from locum.errors import DataError, ManifestError, TooLarge

SBP = 3004249
VARIABLES = {
    "sbp": {"table": "measurement", "concept": SBP, "value": "value_as_number"},
    "sbp at first": {"table": "measurement", "concept": SBP, "value": "value_as_number", "pick": "first"},
    "sbp_mean": {"table": "measurement", "concept": [SBP], "value": "value_as_number", "pick": "mean"},
    "bp": {"table": "measurement", "concept": [SBP, 3012888], "pick": "count"},
    "ferritin": {"table": "measurement", "concept": 3001122, "value": "value_as_number", "pick": "max"},
    "sinusitis": {"table": "condition_occurrence", "concept": 40481087, "pick": "any"},
    "died": {"table": "death", "value": "death_date"},
}


@pytest.fixture(scope="module")
def synthea():
    path = Path(os.environ.get("LOCUM_DATA_DIR", "")) / "omop_synthea27nj" / "Synthea27Nj_5.4.zip"
    if not os.environ.get("LOCUM_DATA_DIR") or not path.is_file():
        pytest.skip("the data set omop_synthea27nj is not in LOCUM_DATA_DIR")
    return path


@pytest.fixture(scope="module")
def raw(synthea):
    """The tables as polars reads them, by nothing of ours."""
    archive = zipfile.ZipFile(synthea)
    return lambda table: pl.read_csv(io.BytesIO(archive.read(f"{table.upper()}.csv")), infer_schema_length=None)


def answer(path, **spec):
    source = open_source(Spec(**spec), path)
    frame = read(source, source.columns())
    assert source.tally.balanced
    return frame, source.tally


def test_every_table_has_the_columns_of_the_data_set(synthea):
    with zipfile.ZipFile(synthea) as archive:
        for table, columns in TABLES.items():
            header = archive.read(f"{table.upper()}.csv").split(b"\n")[0].decode().strip()
            assert header.split(",") == list(columns), table
    for table, event in EVENTS.items():
        assert {event.key, event.concept, event.date, event.datetime or event.date, "person_id"} <= TABLES[table].keys()
        assert TABLES[table][event.date] == "DATE"


def test_counts_of_every_table(synthea, raw):
    for table in ("person", "measurement", "observation", "condition_occurrence", "condition_era", "visit_occurrence", "concept", "death", "specimen"):
        frame, tally = answer(synthea, query=f"SELECT count(*) AS n FROM {table}")
        assert frame["n"].to_list() == [len(raw(table))], table
        assert not tally.refused
        assert tally.notes[f"records of the table {table}"] == len(raw(table))


def test_sql_sees_the_types_of_the_model(synthea, raw):
    query = "SELECT person_id, birth_datetime, measurement_date, value_as_number, measurement_source_value FROM measurement JOIN person USING (person_id)"
    frame, _ = answer(synthea, query=query)
    assert frame.dtypes == [pl.Int64, pl.Datetime("us"), pl.Date, pl.Float64, pl.String]
    first = raw("person").sort("person_id").row(0, named=True)
    assert frame.sort("person_id")["birth_datetime"][0] == datetime.fromisoformat(first["birth_datetime"])
    assert frame["value_as_number"].sum() == pytest.approx(raw("measurement")["value_as_number"].sum())
    assert frame["value_as_number"].null_count() == raw("measurement")["value_as_number"].null_count() > 0
    ages, _ = answer(synthea, query="SELECT person_id, date_diff('year', birth_datetime, TIMESTAMP '2020-01-01') AS age FROM person ORDER BY 1")
    assert ages["age"].to_list() == [2020 - y for y in raw("person").sort("person_id")["year_of_birth"]]


def expected(raw):
    """The variables, computed with polars."""
    people = raw("person").sort("person_id").select("person_id", "year_of_birth", "gender_concept_id")
    m = raw("measurement").sort("measurement_datetime", "measurement_id")
    value = pl.col("value_as_number").drop_nulls()
    sbp = m.filter(pl.col("measurement_concept_id") == SBP).group_by("person_id")
    parts = [
        sbp.agg(sbp=value.last()),
        sbp.agg(value.first().alias("sbp at first")),
        sbp.agg(sbp_mean=value.mean()),
        m.filter(pl.col("measurement_concept_id").is_in([SBP, 3012888])).group_by("person_id").agg(bp=pl.len()),
        m.filter(pl.col("measurement_concept_id") == 3001122).group_by("person_id").agg(ferritin=value.max()),
        raw("condition_occurrence").filter(pl.col("condition_concept_id") == 40481087).group_by("person_id").agg(sinusitis=pl.lit(1)),
        raw("death").select("person_id", died=pl.col("death_date").str.to_date()),
    ]
    for part in parts:
        people = people.join(part, on="person_id", how="left")
    return people.with_columns(pl.col("bp", "sinusitis").fill_null(0))


def check(frame, raw):
    want = expected(raw)
    assert frame.columns == want.columns
    assert len(frame) == 28
    for name in want.columns:
        got = frame[name]
        if name == "died" and got.dtype == pl.String:  # SQLite has no dates
            got = got.str.to_date()
        assert got.null_count() == want[name].null_count(), name
        assert got.drop_nulls().to_list() == pytest.approx(want[name].drop_nulls().to_list()) if name != "died" else (got == want[name]).drop_nulls().all()
    assert want["sbp"].null_count() < 28
    assert 0 < want["sinusitis"].sum() < 28


def test_one_row_a_person_from_the_zip(synthea, raw):
    frame, tally = answer(synthea, variables=VARIABLES)
    check(frame, raw)
    assert tally.used == 28


def test_one_row_a_person_from_a_folder_of_csv_and_parquet(synthea, raw, tmp_path):
    with zipfile.ZipFile(synthea) as archive:
        for name in ("PERSON.csv", "CONDITION_OCCURRENCE.csv"):
            archive.extract(name, tmp_path)
    raw("measurement").write_parquet(tmp_path / "measurement.parquet")
    raw("death").with_columns(pl.col("death_date").str.to_date()).write_parquet(tmp_path / "Death.parquet")
    check(answer(tmp_path, variables=VARIABLES)[0], raw)
    packed = tmp_path / "cdm.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in tmp_path.glob("*.*"):
            if path != packed:
                archive.write(path, f"cdm/{path.name}")
                archive.writestr(f"__MACOSX/cdm/._{path.name}", "x")
                archive.writestr(f"__MACOSX/cdm/{path.name}", "x")
    check(answer(packed, variables=VARIABLES)[0], raw)


def in_database(raw, execute, insert):
    """The tables that VARIABLES reads, with the types of the CDM."""
    for table in ("person", "measurement", "condition_occurrence", "death"):
        kinds = {"DOUBLE": "DOUBLE PRECISION"}
        execute(f"CREATE TABLE {table} ({', '.join(f'{c} {kinds.get(t, t)}' for c, t in TABLES[table].items())})")
        insert(table, raw(table).select(list(TABLES[table])))


def test_one_row_a_person_from_sqlite(synthea, raw, tmp_path):
    with sqlite3.connect(tmp_path / "cdm.sqlite") as db:
        in_database(raw, db.execute, lambda table, f: db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * f.width)})", f.rows()))
    db.close()
    check(answer(tmp_path / "cdm.sqlite", variables=VARIABLES)[0], raw)


def test_one_row_a_person_from_duckdb(synthea, raw, tmp_path):
    with duckdb.connect(str(tmp_path / "cdm.duckdb")) as db:
        db.execute("CREATE SCHEMA cdm; USE cdm")

        def insert(table, frame):
            db.register("frame", frame.to_arrow())
            db.execute(f"INSERT INTO {table} SELECT * FROM frame")

        in_database(raw, db.execute, insert)
    check(answer(tmp_path / "cdm.duckdb", variables=VARIABLES, schema="cdm")[0], raw)


def test_one_row_a_person_from_postgres(synthea, raw, postgres_url, monkeypatch):
    import psycopg

    with psycopg.connect(postgres_url) as db:
        db.execute("CREATE SCHEMA cdm")
        db.execute("SET search_path = cdm")

        def insert(table, frame):
            with db.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                for row in frame.rows():
                    copy.write_row(row)

        in_database(raw, db.execute, insert)
    monkeypatch.setenv("CDM_URL", postgres_url)
    check(answer(None, url_env="CDM_URL", variables=VARIABLES, schema="cdm")[0], raw)


PERSON = "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_concept_id,ethnicity_concept_id\n"


def small(tmp_path, persons, **tables):
    (tmp_path / "person.csv").write_text(PERSON + persons)
    for table, text in tables.items():
        (tmp_path / f"{table}.csv").write_text(text)
    return tmp_path


def test_records_that_are_not_of_the_model_are_refused_by_table_and_column(tmp_path):
    rows = "1,8507,1990,1,1,1990-01-01,0,0\n2.0,8507,1990,NA,,19900101,0,0\n3.5,8507,1990,,,,0,0\n4,8507,199o,,,,0,0\n5,8507\n"
    rows += "6,,1991,,,1991-02-30,0,0\n7,,1991,,,1991-02-03T10:11,0,\n"
    frame, tally = answer(small(tmp_path, rows), query="SELECT person_id, year_of_birth, month_of_birth, birth_datetime FROM person ORDER BY 1")
    assert frame["person_id"].to_list() == [1, 7]
    assert frame["birth_datetime"].to_list() == [datetime(1990, 1, 1), datetime(1991, 2, 3, 10, 11)]
    assert tally.read == 7
    assert dict(tally.refused) == {
        "person: person_id is no whole number": 1,
        "person: year_of_birth is no whole number": 1,
        "person: birth_datetime is no time": 2,
        "person: it has fewer fields than the header": 1,
    }


def test_dates_of_records_and_of_vocabularies(tmp_path):
    (tmp_path / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tvalid_start_date\tvalid_end_date\n1\tCough\t19700101\t2099-12-31 00:00:00\n2\tPain\t1970-01-01\t\n"
    )
    frame, _ = answer(tmp_path, query="SELECT concept_id, concept_name, valid_start_date, valid_end_date FROM concept ORDER BY 1")
    assert frame.rows() == [(1, "Cough", date(1970, 1, 1), date(2099, 12, 31)), (2, "Pain", date(1970, 1, 1), None)]


def test_concepts_below_units_and_ties(tmp_path):
    measurement = "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,value_as_number,unit_concept_id\n"
    measurement += "1,1,10,2020-01-01,,5,1\n2,1,11,2020-01-01,,6,1\n3,1,11,2019-01-01,2019-01-01 10:00:00,7,2\n4,1,12,2021-01-01,,,1\n5,2,11,2020-01-01,,8,2\n"
    ancestors = "ancestor_concept_id,descendant_concept_id,min_levels_of_separation,max_levels_of_separation\n10,11,1,1\n10,12,1,1\n"
    people = "1,8507,1990,1,1,,0,0\n2,8532,1990,1,1,,0,0\n3,8532,1990,1,1,,0,0\n"
    folder = small(tmp_path, people, measurement=measurement, concept_ancestor=ancestors)
    own = {"table": "measurement", "concept": 10, "value": "value_as_number"}
    below = {**own, "descendants": True}
    variables = {"own": own, "all": below, "unit2": {**below, "unit": 2, "pick": "first"}, "n": {"table": "measurement", "pick": "count"}}
    frame, _ = answer(folder, variables=variables)
    assert frame.select("person_id", "own", "all", "unit2", "n").rows() == [(1, 5.0, 6.0, 7.0, 4), (2, None, 8.0, 8.0, 1), (3, None, None, None, 0)]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT * FROM read_csv('/etc/hostname')", "does not answer"),
        ("SELECT * FROM '/etc/hostname'", "does not answer"),
        ("SELECT * FROM drug_exposure", "no file of the table drug_exposure"),
        ("SELECT absent FROM person", "does not answer"),
        ("SELECT p.provider_id FROM person p", "no column 'provider_id', which the query reads"),
    ],
)
def test_queries_that_reach_too_far(tmp_path, query, says):
    source = open_source(Spec(query=query), small(tmp_path, "1,8507,1990,1,1,,0,0\n"))
    with pytest.raises(DataError, match=says):
        read(source, source.columns())


def test_a_common_table_and_an_alias_do_not_load_tables(tmp_path):
    query = "WITH dead AS (SELECT person_id AS death FROM person) SELECT death AS note FROM dead AS measurement"
    frame, tally = answer(small(tmp_path, "1,8507,1990,1,1,,0,0\n"), query=query)
    assert frame.rows() == [(1,)]
    assert tally.notes == {"records of the table person": 1}


def test_archives_that_mean_harm(tmp_path):
    path = tmp_path / "cdm.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../person.csv", PERSON + "1,8507,1990,1,1,,0,0\n" * 1_000_000)
    with pytest.raises(TooLarge, match="unpacks to more than"):
        answer(path, query="SELECT person_id FROM person")
    assert sorted(p.name for p in tmp_path.parent.parent.iterdir() if p.name == "person.csv") == []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/person.csv", PERSON)
        archive.writestr("b/PERSON.csv", PERSON)
    with pytest.raises(DataError, match="2 files of the table person"):
        answer(path, query="SELECT person_id FROM person")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cannot be unpacked"):
        answer(path, query="SELECT person_id FROM person")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(ManifestError, match="neither a folder"):
        answer(tmp_path / "x.txt", query="SELECT 1 AS a")


def test_memory_is_bounded(tmp_path):
    frame = pl.DataFrame({"note_id": range(300_000), "person_id": 1, "note_text": ["x" * 300 + str(i) for i in range(300_000)]})
    frame.write_csv(tmp_path / "note.csv")
    with pytest.raises(TooLarge, match="more than 64 MB"):
        answer(tmp_path, query="SELECT note_id, note_text FROM note", memory_mb=64)
    frame, _ = answer(tmp_path, query="SELECT sum(note_id) AS s FROM note", memory_mb=64)
    assert frame["s"].to_list() == [str(sum(range(300_000)))]


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ({"table": "measurment", "pick": "any"}, "'measurement'"),
        ({"table": "measurement", "value": "value_as_numbr"}, "'value_as_number'"),
        ({"table": "measurement"}, "takes a value"),
        ({"table": "measurement", "value": "value_as_number", "pick": "count"}, "takes no value"),
        ({"table": "measurement", "value": "value_as_number", "pick": "median"}, "pick"),
        ({"table": "measurement", "value": "value_as_number", "concept": "3004249; DROP"}, "concept"),
        ({"table": "death", "pick": "any", "unit": 5}, "no units"),
    ],
)
def test_variables_that_make_no_sense(variable, says):
    with pytest.raises(ManifestError, match=says):
        Spec.parse({"variables": {"x": variable}})


def test_a_hostile_variable_name_is_only_a_name():
    spec = Spec(variables={'x"; DROP TABLE person; --': {"table": "death", "pick": "any"}})
    with duckdb.connect() as db:
        db.execute("CREATE TABLE person (person_id INT, year_of_birth INT, gender_concept_id INT); CREATE TABLE death (person_id INT)")
        assert len(db.extract_statements(one_row_per_person(spec.variables))) == 1
        assert db.sql(one_row_per_person(spec.variables)).columns[3] == 'x"; DROP TABLE person; --'
    with pytest.raises(ManifestError, match="without being asked"):
        Spec.parse({"variables": {"Person_ID": {"table": "death", "pick": "any"}}})
