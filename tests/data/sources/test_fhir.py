from __future__ import annotations

import gzip
import json
import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.fhir import run_view
from locum.data.fhir.table import FURTHER, NO_ROW, NOT_SELECTED, OTHER_TYPE
from locum.data.fhir.tables import NO_VIEW
from locum.data.sources import fhir
from locum.data.sources.base import open_source as open_any
from locum.data.sources.base import read
from locum.data.sources.fhir import BROKEN, TOO_LONG, Spec, open_source
from locum.data.sources.fhir_views import JoinedSource, ViewSource
from locum.errors import DataError, LocumError, ManifestError, TooLarge

SUITE = Path(os.environ.get("LOCUM_DATA_DIR", "/nowhere")) / "sql_on_fhir_v2_tests" / "tests"
VIEW: dict[str, Any] = {
    "resource": "Patient",
    "where": [{"path": "active.exists().not() or active"}],
    "select": [
        {
            "column": [
                {"name": "id", "path": "id", "type": "id"},
                {"name": "born", "path": "birthDate", "type": "date"},
                {"name": "dead", "path": "deceased.ofType(boolean)", "type": "boolean"},
                {"name": "children", "path": "multipleBirth.ofType(integer)", "type": "integer"},
                {"name": "family", "path": "name.family", "type": "string"},
            ]
        }
    ],
}


def patient(i: int, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": f"p{i}", "birthDate": "1950-01-02", "name": [{"family": f"F{i}"}], **more}


def ndjson(path: Path, *resources: Any) -> Path:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in resources).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def source(path: Path, view: dict[str, Any] = VIEW) -> ViewSource:
    return open_source(Spec(view=view), path)


def test_ndjson_to_typed_columns(tmp_path: Path) -> None:
    found = source(ndjson(tmp_path / "a.ndjson", patient(1, deceasedBoolean=True, multipleBirthInteger=2), patient(2)))
    frame = read(found, found.columns())
    assert frame.schema == {"id": pl.String, "born": pl.Date, "dead": pl.Boolean, "children": pl.Int64, "family": pl.String}
    assert frame.rows() == [("p1", date(1950, 1, 2), True, 2, "F1"), ("p2", date(1950, 1, 2), None, None, "F2")]
    assert (found.tally.read, found.tally.used) == (2, 2)


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz", "a.jsonl"])
def test_plain_and_compressed_and_in_chunks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir, "BLOCK_BYTES", 1000)
    found = source(ndjson(tmp_path / name, *map(patient, range(500))))
    chunks = list(found.chunks(["id"], 100))
    assert len(chunks) == 5
    assert pl.concat(chunks)["id"].to_list() == [f"p{i}" for i in range(500)]


def test_every_line_is_accounted_for(tmp_path: Path) -> None:
    lines = [
        "\ufeff" + json.dumps(patient(0)),
        patient(1),
        '{"resourceType": "Patient", "id": "cut',
        "[1, 2]",
        "",
        {"resourceType": "Observation", "id": "o"},
        patient(2, active=False),
        patient(3, birthDate="1950-01"),
        patient(4, name=[{"family": "A"}, {"family": "B"}]),
        patient(5, deceasedBoolean="yes"),
        patient(6, multipleBirthInteger=10**30),
        patient(7, birthDate="1950-02-31"),
        "[" * 100_000,
        {},
    ]
    found = source(ndjson(tmp_path / "a.ndjson", *lines))
    frame = read(found, found.columns())
    assert frame["id"].to_list() == ["p0", "p1"]
    tally = found.tally
    assert tally.read == 13
    assert tally.balanced
    assert tally.left_out == {OTHER_TYPE: 2, NOT_SELECTED: 1}
    assert tally.refused.total() == 8
    assert tally.refused[BROKEN] == 3
    assert "column 'family' has more than one value" in tally.refused
    assert found.resources.first_refused[BROKEN].startswith("line 3 of a.ndjson")


def test_only_the_columns_asked_for_can_refuse(tmp_path: Path) -> None:
    found = source(ndjson(tmp_path / "a.ndjson", patient(3, birthDate="1950")))
    assert read(found, ["family", "id"]).rows() == [("F3", "p3")]
    assert len(read(found, ["born"])) == 0
    assert found.tally.refused.total() == 1


def test_a_line_without_end_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(fhir, "MAX_RECORD_BYTES", 5000)
    found = source(ndjson(tmp_path / "a.ndjson", patient(1), "x" * 40_000, patient(2), "y" * 40_000))
    assert read(found, ["id"])["id"].to_list() == ["p1", "p2"]
    assert found.tally.refused[TOO_LONG] == 2
    assert found.tally.balanced


def bundle(*resources: Any) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "urn:uuid:1", "resource": r} for r in resources]}


def test_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps({**bundle(patient(1), {"resourceType": "Group"}, 7), "link": []}).replace("[{", '[{"request": {}},{', 1))
    found = source(tmp_path / "b.json")
    assert read(found, ["id"])["id"].to_list() == ["p1"]
    assert (found.tally.read, found.tally.used, found.tally.refused.total(), found.tally.left_out.total()) == (4, 1, 1, 2)


def test_a_folder_of_all_kinds_in_order(tmp_path: Path) -> None:
    ndjson(tmp_path / "2.ndjson.gz", patient(2))
    (tmp_path / "1.json").write_text(json.dumps(bundle(patient(1))))
    (tmp_path / "3.json").write_text(json.dumps(patient(3)))
    (tmp_path / "notes.txt").write_text("x")
    found = source(tmp_path)
    assert read(found, ["id"])["id"].to_list() == ["p1", "p2", "p3"]
    assert found.tally.notes.total() == 1


@pytest.mark.parametrize("text", ["", "{", '{"resourceType": "Bundle", "entry": 7}', "[" * 100_000, '{"resourceType": "Bundle", "entry": [{"resource": {"re'])
def test_a_broken_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(DataError):
        read(source(tmp_path / "b.json"), ["id"])


def test_damaged_archives_and_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ndjson(tmp_path / "a.ndjson.gz", *map(patient, range(300)))
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:50] + b"\x00" * 50 + whole[100:], b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            read(source(path), ["id"])
    path.write_bytes(gzip.compress(b" " * (64 << 20)))
    with pytest.raises(TooLarge):
        read(source(path), ["id"])
    monkeypatch.setattr(fhir, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "b.json").write_text(json.dumps(bundle(patient(1))))
    with pytest.raises(TooLarge):
        read(source(tmp_path / "b.json"), ["id"])


@given(st.lists(st.one_of(st.binary(max_size=60), st.integers(0, 9).map(lambda i: json.dumps(patient(i)).encode())), max_size=8))
def test_any_bytes_are_counted(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.ndjson"
    path.write_bytes(b"\n".join(lines))
    found = source(path)
    read(found, found.columns())
    assert found.tally.balanced
    assert found.tally.used == sum(line.startswith(b'{"resourceType": "Patient"') for line in lines)


def test_rows_of_each_element(tmp_path: Path) -> None:
    view = {"resource": "Patient", "select": [{"column": VIEW["select"][0]["column"][:1]}, {"forEach": "name", "column": [{"name": "n", "path": "family"}]}]}
    found = source(ndjson(tmp_path / "a.ndjson", patient(1, name=[{"family": "A"}, {"family": "B"}]), patient(2, name=[])), view)
    assert read(found, ["n", "id"]).rows() == [("A", "p1"), ("B", "p1")]
    assert found.tally.left_out == {NO_ROW: 1}


def test_the_view_is_a_file_beside_the_mapping(tmp_path: Path) -> None:
    (tmp_path / "view.json").write_text(json.dumps(VIEW))
    ndjson(tmp_path / "a.ndjson", patient(1))
    spec = Spec.parse({"path": "a.ndjson", "view": "view.json"}).found_from(tmp_path)
    assert read(open_any(spec), ["id"])["id"].to_list() == ["p1"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"name": "n", "path": "name.family", "type": "string", "collection": True}, "collection"),
        ({"name": "n", "path": "maritalStatus", "type": "CodeableConcept"}, "not a simple one"),
    ],
)
def test_columns_that_no_table_holds(tmp_path: Path, column: dict[str, Any], words: str) -> None:
    found = source(ndjson(tmp_path / "a.ndjson", patient(1)), {"resource": "Patient", "select": [{"column": [column]}]})
    with pytest.raises(ManifestError, match=words):
        read(found, ["n"])


def test_a_view_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("{")
    ndjson(tmp_path / "a.ndjson")
    for view in (str(tmp_path / "v.json"), str(tmp_path / "absent.json"), {"resource": "Patient"}):
        with pytest.raises(ManifestError):
            open_source(Spec(view=view), tmp_path / "a.ndjson")
    with pytest.raises(LocumError):
        read(source(tmp_path / "a.ndjson"), ["absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError):
        source(tmp_path / "empty")


@pytest.mark.skipif(not SUITE.is_dir(), reason="the data set sql_on_fhir_v2_tests is not in LOCUM_DATA_DIR")
def test_files_give_what_the_runner_gives(tmp_path: Path) -> None:
    """Every official case whose columns are simple: skipping unread members and making columns changes nothing."""
    seen = 0
    for suite in map(json.loads, (f.read_text() for f in sorted(SUITE.glob("*.json")))):
        path = ndjson(tmp_path / "suite.ndjson", *suite["resources"])
        for case in suite["tests"]:
            if case.get("expectError") or '"collection": true' in json.dumps(case["view"]):
                continue
            found = source(path, case["view"])
            columns = [c.name for c in found.view.columns()]
            expected = [tuple(r[c] for c in columns) for r in run_view(case["view"], suite["resources"])]
            dates = [c.name for c in found.view.columns() if c.type == "date"]
            rows = read(found, columns).with_columns(pl.col(dates).cast(pl.String)).rows() if expected else []
            assert rows == expected, case["title"]
            assert found.tally.balanced
            seen += 1
    assert seen > 110


def view_of(kind: str, columns: dict[str, tuple[str, str]], *where: str) -> dict[str, Any]:
    listed = [{"name": name, "path": path, "type": fhir_type} for name, (path, fhir_type) in columns.items()]
    return {"resource": kind, "where": [{"path": w} for w in where], "select": [{"column": listed}]}


def value_view(code: str) -> dict[str, Any]:
    columns = {
        "patient": ("subject.getReferenceKey(Patient)", "string"),
        "value": ("value.ofType(Quantity).value", "decimal"),
        "taken": ("effective.ofType(dateTime)", "dateTime"),
    }
    return view_of("Observation", columns, f"code.coding.where(code = '{code}').exists()")


def observation(i: int, who: str, code: str, value: Any, day: str = "2024-03-01T10:00:00+01:00") -> dict[str, Any]:
    coding = {"coding": [{"system": "http://loinc.org", "code": code}]}
    reference = {"reference": f"Patient/{who}"}
    return {"resourceType": "Observation", "id": f"o{i}", "code": coding, "subject": reference, "valueQuantity": {"value": value}, "effectiveDateTime": day}


VIEWS: dict[str, Any] = {
    "patient": view_of("Patient", {"id": ("id", "id"), "born": ("birthDate", "date"), "sex": ("gender", "code")}),
    "chol": value_view("2093-3"),
    "pressure": value_view("8480-6"),
}
JOIN = """
SELECT p.id AS patient, p.sex, date_sub('year', p.born, CAST(max(c.taken)[:10] AS DATE)) AS age, max(c.value) AS chol, avg(b.value) AS sbp
FROM patient p LEFT JOIN chol c ON c.patient = p.id LEFT JOIN pressure b ON b.patient = p.id
GROUP BY p.id, p.sex, p.born ORDER BY p.id
"""
EXPORT = [
    patient(1, gender="female"),
    patient(2, gender="male"),
    patient(3),
    observation(1, "p1", "2093-3", 201.5),
    observation(2, "p1", "8480-6", 120),
    observation(3, "p1", "8480-6", 130),
    observation(4, "p2", "8480-6", 150),
    observation(5, "p2", "8867-4", 70),
    {"resourceType": "Condition", "id": "c"},
]


def joined(path: Path, query: str = JOIN, **more: Any) -> JoinedSource:
    found = open_source(Spec.parse({"views": VIEWS, "query": query, **more}), path)
    assert isinstance(found, JoinedSource)
    return found


def test_views_are_joined(tmp_path: Path) -> None:
    found = joined(ndjson(tmp_path / "a.ndjson", *EXPORT))
    assert found.columns() == ["patient", "sex", "age", "chol", "sbp"]
    frame = read(found, ["patient", "sex", "age", "chol", "sbp"])
    assert frame.rows() == [("p1", "female", 74, 201.5, 125.0), ("p2", "male", None, None, 150.0), ("p3", None, None, None, None)]
    assert (found.tally.read, found.tally.used, found.tally.balanced) == (3, 3, True)
    assert found.tally.notes == {
        "resources read": 9,
        "resources that make rows of a view": 7,
        OTHER_TYPE: 1,
        NO_VIEW: 1,
        "rows of the view patient": 3,
        "rows of the view chol": 1,
        "rows of the view pressure": 3,
    }
    assert read(found, ["chol", "patient"]).columns == ["chol", "patient"]
    assert found.tally.read == 3


def test_the_files_are_read_once_for_all_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = fhir.open_bounded
    monkeypatch.setattr(fhir, "open_bounded", lambda path: opened.append(path.name) or real(path))
    for kind in ("Patient", "Observation", "Condition"):
        ndjson(tmp_path / f"{kind}.ndjson.gz", *(r for r in EXPORT if r["resourceType"] == kind))
    assert len(read(joined(tmp_path), ["age"])) == 3
    assert opened == ["Condition.ndjson.gz", "Observation.ndjson.gz", "Patient.ndjson.gz"]


def test_a_resource_that_one_view_refuses_is_in_none(tmp_path: Path) -> None:
    views = {"all": value_view("x"), "few": view_of("Observation", {"id": ("id", "id"), "value": ("value.ofType(Quantity).value", "decimal")})}
    views["all"]["where"] = []
    del views["all"]["select"][0]["column"][1]
    lines = [observation(i, "p1", "x", "high" if i == 5 else i) for i in range(10)]
    found = joined(ndjson(tmp_path / "a.ndjson", *lines, "{"), "SELECT a.patient, s.id, s.value FROM \"all\" a, few s WHERE s.id != ''", views=views)
    frame = read(found, found.columns())
    assert len(frame) == 81
    assert "o5" not in frame["id"]
    assert found.tally.refused == {"view few: column 'value' has a value that is not decimal": 1, BROKEN: 1}
    assert (found.tally.read, found.tally.used, found.tally.balanced) == (83, 81, True)
    assert (found.tally.notes["resources read"], found.tally.notes["resources that make rows of a view"]) == (11, 9)
    assert found.resources.first_refused[BROKEN].startswith("line 11 of a.ndjson")


def test_only_views_and_columns_that_the_query_reads_can_refuse(tmp_path: Path) -> None:
    lines = [patient(1, birthDate="1950"), observation(1, "p1", "2093-3", "high"), observation(2, "p1", "2093-3", 5)]
    found = joined(ndjson(tmp_path / "a.ndjson", *lines), "SELECT p.id, sex FROM patient p")
    assert read(found, ["id"]).rows() == [("p1",)]
    assert (found.tally.refused.total(), found.tally.notes[OTHER_TYPE]) == (0, 2)
    whole = joined(tmp_path / "a.ndjson", "SELECT p.*, c.value FROM patient p LEFT JOIN chol c ON c.patient = p.id")
    assert len(read(whole, ["id"])) == 0
    assert whole.tally.refused.total() == 2


def test_cells_are_typed(tmp_path: Path) -> None:
    query = """SELECT born, value, CAST(value AS DECIMAL(9, 2)) AS exact, taken, CAST(taken[:19] AS TIMESTAMP) AS moment, CAST(taken[:10] AS DATE) AS day,
               value > 3 AS high, count(*) OVER () AS n FROM patient JOIN chol ON chol.patient = patient.id"""
    found = joined(ndjson(tmp_path / "a.ndjson", *EXPORT), query)
    names = ["born", "value", "exact", "taken", "moment", "day", "high", "n"]
    frame = read(found, names)
    assert frame.dtypes == [pl.Date, pl.Float64, pl.Float64, pl.String, pl.Datetime("us"), pl.Date, pl.Boolean, pl.Int64]
    when = "2024-03-01T10:00:00+01:00"
    assert frame.rows() == [(date(1950, 1, 2), 201.5, 201.5, when, datetime(2024, 3, 1, 10), date(2024, 3, 1), True, 1)]
    nothing = read(joined(ndjson(tmp_path / "b.ndjson", patient(1)), query), names)
    assert len(nothing) == 0


def test_the_answer_comes_in_chunks_of_one_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir, "BLOCK_BYTES", 5000)
    people = [patient(i, gender="male" if i % 2 else None) for i in range(700)]
    found = joined(ndjson(tmp_path / "a.ndjson", *people, *(observation(i, f"p{i}", "2093-3", i) for i in range(700))))
    chunks = list(found.chunks(["patient", "chol", "sbp"], 100))
    assert {len(c) for c in chunks} == {100}
    assert {tuple(c.dtypes) for c in chunks} == {(pl.String, pl.Float64, pl.Float64)}
    assert {p: c for p, c, _ in pl.concat(chunks).rows()} == {f"p{i}": float(i) for i in range(700)}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT id FROM patients", "'patients'.*did you mean 'patient'"),
        ("WITH a AS (SELECT * FROM cohl) SELECT * FROM a", "'cohl'.*did you mean 'chol'"),
        ("SELECT id FROM patient WHERE id IN (SELECT patient FROM presure)", "'presure'.*did you mean 'pressure'"),
        ("SELECT id FROM patient WHERE AND", "is no SQL"),
        ("SELECT idd FROM patient", "does not answer the query"),
        ("SELECT * FROM read_csv('/etc/hostname')", "does not answer the query"),
        ("SELECT * FROM '/etc/hostname'", "does not answer the query"),
        ("COPY patient TO '/tmp/out.csv'", "not a SELECT"),
        ("SELECT 1; DROP TABLE patient", "semicolon"),
        ("SELECT 1 AS a", "none of the views"),
        ("SELECT p.id, c.patient AS id FROM patient p, chol c", "more than one column 'id'"),
        ("SELECT patient AS p FROM patient", "(neither a number|cannot be told)"),
    ],
)
def test_queries_that_are_refused(tmp_path: Path, query: str, words: str) -> None:
    ndjson(tmp_path / "a.ndjson", *EXPORT)
    with pytest.raises(LocumError, match=words):
        read(found := joined(tmp_path / "a.ndjson", query), found.columns())


def test_too_many_rows_for_the_memory_are_too_large(tmp_path: Path) -> None:
    path = ndjson(tmp_path / "a.ndjson", *(patient(i, name=[{"family": "x" * 2000 + str(i)}]) for i in range(60_000)))
    views = {"person": view_of("Patient", {"id": ("id", "id"), "family": ("name.family", "string")})}
    with pytest.raises(TooLarge, match="memory_mb") as caught:
        read(joined(path, "SELECT id, family FROM person", views=views, memory_mb=64), ["id"])
    assert "xxx" not in f"{caught.value.what}{caught.value.why}{caught.value.fix}"
    assert len(read(joined(path, "SELECT id FROM person", views=views, memory_mb=64), ["id"])) == 60_000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"view": VIEW}, "give view, or views"),
        ({"views": {}}, "give view, or views"),
        ({"query": None}, "views need one of query and query_file"),
        ({"query_file": "x.sql"}, "views need one of query and query_file"),
        ({"views": {}, "view": VIEW}, "one view needs none"),
        ({"views": {"a b": VIEW}}, "a b"),
        ({"views": {"a": VIEW, "A": VIEW}}, "one name in SQL"),
        ({"memory_mb": 1}, "memory_mb"),
    ],
)
def test_views_that_make_no_sense(wrong: dict[str, Any], words: str) -> None:
    good = {"views": VIEWS, "query": JOIN}
    with pytest.raises(ManifestError, match=words):
        Spec.parse({k: v for k, v in {**good, **wrong}.items() if v is not None})


def test_columns_that_differ_only_in_case(tmp_path: Path) -> None:
    views = {"v": view_of("Patient", {"id": ("id", "id"), "ID": ("id", "id")})}
    with pytest.raises(ManifestError, match="one name in SQL"):
        joined(ndjson(tmp_path / "a.ndjson"), "SELECT id FROM v", views=views).columns()


def test_views_and_query_lie_beside_the_mapping(tmp_path: Path) -> None:
    for name in ("patient", "chol"):
        (tmp_path / f"{name}.view.json").write_text(json.dumps(VIEWS[name]))
    (tmp_path / "join.sql").write_text(JOIN)
    ndjson(tmp_path / "a.ndjson", *EXPORT)
    views = {"patient": "patient.view.json", "chol": "chol.view.json", "pressure": VIEWS["pressure"]}
    spec = Spec.parse({"path": "a.ndjson", "views": views, "query_file": "join.sql"}).found_from(tmp_path)
    assert {p.name for p in spec.companions()} == {"patient.view.json", "chol.view.json", "join.sql"}
    assert all(p.is_file() for p in spec.companions())
    assert spec.model_dump(exclude_unset=True).keys() == {"path", "views", "query_file"}
    assert read(open_any(spec), ["age"])["age"].to_list() == [74, None, None]


def test_rows_that_one_resource_makes_pass_the_gate(tmp_path: Path) -> None:
    """Gates compare the records used with the rows seen."""
    view = {"resource": "Patient", "select": [{"column": VIEW["select"][0]["column"][:1]}, {"forEach": "name", "column": [{"name": "n", "path": "family"}]}]}
    found = source(ndjson(tmp_path / "a.ndjson", patient(1, name=[{"family": "A"}, {"family": "B"}]), patient(2)), view)
    assert len(read(found, ["n"])) == 3
    assert (found.tally.read, found.tally.used, found.tally.notes[FURTHER], found.tally.balanced) == (3, 3, 1, True)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["high", 1, 2.5, None, True, [1, 2]]), max_size=30), st.lists(st.sampled_from(["2093-3", "8480-6", "0"]), min_size=30))
def test_every_resource_has_one_fate(tmp_path_factory: pytest.TempPathFactory, values: list[Any], codes: list[str]) -> None:
    lines = [observation(i, "p1", code, value) for i, (value, code) in enumerate(zip(values, codes, strict=False))]
    path = ndjson(tmp_path_factory.mktemp("any") / "a.ndjson", *lines, patient(1), "{")
    found = joined(path, "SELECT patient, value FROM chol UNION ALL SELECT patient, value FROM pressure UNION ALL SELECT id, 0 FROM patient")
    frame = read(found, found.columns())
    notes = found.tally.notes
    assert found.tally.balanced
    assert found.tally.used == len(frame) == notes["resources that make rows of a view"]
    assert notes["resources read"] == len(lines) + 2 == found.tally.used + found.tally.refused.total() + notes[NO_VIEW]
    assert notes[NO_VIEW] == sum(c == "0" for _, c in zip(values, codes, strict=False))
