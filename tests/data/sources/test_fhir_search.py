from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from locum.data.fhir.table import OTHER_TYPE
from locum.data.sources import fhir_search
from locum.data.sources.base import read
from locum.data.sources.fhir import BROKEN_ENTRY
from locum.data.sources.fhir_search import REPEATED, Spec, open_source
from locum.data.sources.fhir_views import JoinedSource, ViewSource
from locum.errors import DataError, LocumError, ManifestError, TooLarge, Unavailable

VIEW = {"resource": "Patient", "select": [{"column": [{"name": "id", "path": "id", "type": "id"}, {"name": "sex", "path": "gender", "type": "code"}]}]}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("fhir_server.py")), str(port)])
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/calls", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/r4"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "sesame")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)


def source(server: str, mode: str = "", **options: Any) -> ViewSource:
    search = options.pop("search", f"Patient?_count=10&mode={mode}")
    return open_source(Spec.parse({"view": VIEW, "server": server, "search": search, "token_env": "FHIR_TOKEN", **options}), None)


def error_of(found: ViewSource) -> LocumError:
    with pytest.raises(LocumError) as caught:
        read(found, ["id"])
    shown = str(caught.value)
    assert "Jane" not in shown
    assert "sesame" not in shown
    return caught.value


@pytest.mark.parametrize("mode", ["", "relative"])
def test_all_pages_are_read(server: str, mode: str) -> None:
    found = source(server, mode)
    frame = read(found, ["sex", "id"])
    assert frame["id"].to_list() == [f"p{i}" for i in range(25)]
    assert frame.columns == ["sex", "id"]
    assert (found.tally.read, found.tally.used, found.tally.balanced) == (25, 25, True)


def test_a_busy_server_is_asked_again(server: str) -> None:
    assert len(read(source(server, "busy"), ["id"])) == 25
    calls = httpx.get(server.replace("/r4", "/calls"), trust_env=False).json()
    assert [calls[f"busy@{c}"] for c in (0, 10, 20)] == [3, 3, 3]


def test_a_server_that_stays_down_is_unavailable(server: str) -> None:
    assert isinstance(error_of(source(server, "down")), Unavailable)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda s: None)
    assert "cannot be reached" in error_of(source(f"http://127.0.0.1:{free_port()}/r4")).what


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("wrong", "not-supported"),
        ("outcome", "OperationOutcome"),
        ("moved", "redirects"),
        ("html", "other than a FHIR Bundle"),
        ("elsewhere", "another server"),
        ("address", "another server"),
        ("loop", "sent before"),
    ],
)
def test_what_the_server_does_wrong_is_said(server: str, mode: str, words: str) -> None:
    error = error_of(source(server, mode))
    assert isinstance(error, DataError)
    assert words in str(error)


def test_diagnostics_stay_on_this_machine(server: str) -> None:
    assert "Jane Doe" in error_of(source(server, "wrong")).local


def test_a_wrong_token_is_explained(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "guess")
    assert "refuses access (401)" in error_of(source(server)).what


def test_a_token_from_a_file(server: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\n")
    spec = Spec.parse({"view": VIEW, "server": server, "search": "Patient", "token_file": "token"}).found_from(tmp_path)
    assert isinstance(spec, Spec)
    assert len(read(open_source(spec, None), ["id"])) == 25


def test_pages_and_bytes_are_bounded(server: str) -> None:
    assert "more than 2 pages" in error_of(source(server, max_pages=2)).what
    assert isinstance(error_of(source(server, "huge", max_page_mib=1)), TooLarge)
    assert isinstance(error_of(source(server, max_gib=1e-6)), TooLarge)


def test_everything_is_counted(server: str) -> None:
    found = source(server, "mixed", search="Patient?_count=25&mode=mixed")
    assert len(read(found, ["id"])) == 25
    assert found.tally.read == 29
    assert found.tally.refused.total() == 1
    assert found.tally.left_out.total() == 3
    assert found.tally.balanced


def test_a_record_that_moved_to_a_later_page_counts_once(server: str) -> None:
    found = source(server, "shift")
    assert len(read(found, ["id"])) == 25
    assert found.tally.left_out[REPEATED] == 2
    assert found.tally.balanced


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "http://fhir.example.org/r4"},
        {"server": "https://user:word@fhir.example.org"},
        {"server": "ftp://127.0.0.1/"},
        {"server": "https://h:99999999/"},
        {"server": "https://"},
        {"server": None, "server_env": "NOT_SET_AT_ALL"},
        {"server": None},
        {"search": "https://elsewhere.example/Patient"},
        {"search": "../admin"},
        {"search": "Patient?name=a b"},
        {"token": "sesame"},
        {"token_file": "x"},
    ],
)
def test_a_mapping_that_is_not_safe_is_refused(wrong: dict[str, Any]) -> None:
    good = {"view": VIEW, "server": "https://fhir.example.org/r4", "search": "Patient", "token_env": "FHIR_TOKEN"}
    open_source(Spec.parse(good), None)
    with pytest.raises(ManifestError) as caught:
        open_source(Spec.parse({k: v for k, v in {**good, **wrong}.items() if v is not None}), None)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "é"])
def test_a_token_that_is_none(server: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_TOKEN", token)
    assert "no access token" in error_of(source(server)).what


def test_retry_after_is_bounded() -> None:
    from locum.data.sources.http_retry import MAX_WAIT_S, _retry_after

    assert _retry_after("7") == 7.0
    assert _retry_after("99999") == MAX_WAIT_S
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert _retry_after("soon") is None
    assert _retry_after("") is None


def test_columns_ask_nothing() -> None:
    assert fhir_search.open_source(Spec(view=VIEW, server="https://fhir.invalid", search="Patient"), None).columns() == ["id", "sex"]


VIEWS: dict[str, Any] = {
    "patient": VIEW,
    "ldl": {
        "resource": "Observation",
        "select": [
            {
                "column": [
                    {"name": "patient", "path": "subject.getReferenceKey(Patient)", "type": "string"},
                    {"name": "value", "path": "value.ofType(Quantity).value", "type": "decimal"},
                ]
            }
        ],
    },
}
JOIN = "SELECT p.id, p.sex, max(l.value) AS ldl FROM patient p JOIN ldl l ON l.patient = p.id GROUP BY p.id, p.sex ORDER BY ldl"
SEX_AND_LDL = [(f"p{i}", "male" if i % 2 else "female", 101.0 + 2 * i) for i in range(10)]


def joined(server: str, search: Any, query: str = JOIN) -> JoinedSource:
    found = open_source(Spec.parse({"views": VIEWS, "server": server, "search": search, "token_env": "FHIR_TOKEN", "query": query}), None)
    assert isinstance(found, JoinedSource)
    return found


def test_a_search_for_each_view(server: str) -> None:
    found = joined(server, {"patient": "Patient?_count=10", "ldl": "Observation?code=2089-1"})
    assert read(found, ["id", "sex", "ldl"]).rows() == SEX_AND_LDL
    assert (found.tally.read, found.tally.used, found.tally.balanced) == (10, 10, True)
    notes = {"resources read": 45, "resources that make rows of a view": 45, "rows of the view patient": 25, "rows of the view ldl": 20}
    assert found.tally.notes == notes


def test_one_search_that_includes_the_patients(server: str) -> None:
    found = joined(server, "Observation?code=2089-1&_include=Observation:subject")
    assert read(found, ["id", "sex", "ldl"]).rows() == SEX_AND_LDL
    assert found.tally.notes == {
        "resources read": 31,
        "resources that make rows of a view": 30,
        "rows of the view patient": 10,
        "rows of the view ldl": 20,
        REPEATED: 1,
    }


def test_a_search_whose_view_is_not_read_is_not_asked(server: str) -> None:
    found = joined(server, {"patient": "Patient?mode=down", "ldl": "Observation"}, "SELECT count(*) AS n FROM ldl")
    assert read(found, ["n"])["n"].to_list() == [20]


def test_a_search_sees_only_its_view(server: str) -> None:
    found = joined(
        server, {"patient": "Observation?_include=Observation:subject", "ldl": "Patient"}, "SELECT p.id FROM patient p LEFT JOIN ldl ON ldl.patient = p.id"
    )
    assert len(read(found, ["id"])) == 10
    assert found.tally.notes[OTHER_TYPE] == 45
    assert found.tally.notes["rows of the view ldl"] == 0


def test_what_goes_wrong_in_a_join(server: str) -> None:
    with pytest.raises(Unavailable):
        read(joined(server, {"patient": "Patient?mode=down", "ldl": "Observation"}), ["id"])
    with pytest.raises(DataError, match=r"'ldll'.*did you mean 'ldl'"):
        joined(server, "Patient", "SELECT patient FROM ldll").columns()
    found = joined(server, {"patient": "Patient?_count=25&mode=mixed", "ldl": "Observation"})
    assert len(read(found, ["id"])) == 10
    assert (found.tally.refused.total(), found.tally.balanced) == (1, True)
    assert BROKEN_ENTRY in found.resources.first_refused


@pytest.mark.parametrize(
    "search", [{"patient": "Patient"}, {"patient": "Patient", "ldl": "../x"}, {"patient": "Patient", "ldl": "Observation", "x": "Patient"}, {}]
)
def test_searches_and_views_belong_together(search: dict[str, str]) -> None:
    with pytest.raises(ManifestError, match="search"):
        joined("https://fhir.invalid", search)
    with pytest.raises(ManifestError, match="search"):
        Spec.parse({"view": VIEW, "server": "https://fhir.invalid", "search": {"patient": "Patient"}})


def test_columns_of_a_join_ask_nothing() -> None:
    assert joined("https://fhir.invalid", "Patient").columns() == ["id", "sex", "ldl"]


def test_paths_of_views_start_at_the_mapping(tmp_path: Path) -> None:
    views = {"patient": "p.json", "ldl": VIEWS["ldl"]}
    spec = Spec.parse({"views": views, "server": "https://fhir.invalid", "search": "Patient", "token_file": "t", "ca_file": "c", "query_file": "q.sql"})
    found = spec.found_from(tmp_path)
    assert isinstance(found, Spec)
    assert found.token_file == str(tmp_path / "t")
    assert found.ca_file == str(tmp_path / "c")
    assert {*found.companions()} == {tmp_path / "p.json", tmp_path / "q.sql"}
