from __future__ import annotations

import gzip
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data.fhir import run_view
from locum.data.fhir.table import NO_ROW, NOT_SELECTED, OTHER_TYPE
from locum.data.sources import fhir
from locum.data.sources.base import open_source as open_any
from locum.data.sources.base import read
from locum.data.sources.fhir import BROKEN, TOO_LONG, FhirSource, Spec, open_source
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


def source(path: Path, view: dict[str, Any] = VIEW) -> FhirSource:
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
    assert found.first_refused[BROKEN].startswith("line 3 of a.ndjson")


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
