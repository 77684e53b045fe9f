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

from locum.data.sources import fhir_search
from locum.data.sources.base import read
from locum.data.sources.fhir_search import REPEATED, FhirSearchSource, Spec, open_source
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


def source(server: str, mode: str = "", **options: Any) -> FhirSearchSource:
    query = options.pop("query", f"Patient?_count=10&mode={mode}")
    return open_source(Spec.parse({"view": VIEW, "server": server, "query": query, "token_env": "FHIR_TOKEN", **options}), None)


def error_of(found: FhirSearchSource) -> LocumError:
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
    spec = Spec.parse({"view": VIEW, "server": server, "query": "Patient", "token_file": "token"}).found_from(tmp_path)
    assert isinstance(spec, Spec)
    assert len(read(open_source(spec, None), ["id"])) == 25


def test_pages_and_bytes_are_bounded(server: str) -> None:
    assert "more than 2 pages" in error_of(source(server, max_pages=2)).what
    assert isinstance(error_of(source(server, "huge", max_page_mib=1)), TooLarge)
    assert isinstance(error_of(source(server, max_gib=1e-6)), TooLarge)


def test_everything_is_counted(server: str) -> None:
    found = source(server, "mixed", query="Patient?_count=25&mode=mixed")
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
        {"query": "https://elsewhere.example/Patient"},
        {"query": "../admin"},
        {"query": "Patient?name=a b"},
        {"token": "sesame"},
        {"token_file": "x"},
    ],
)
def test_a_mapping_that_is_not_safe_is_refused(wrong: dict[str, Any]) -> None:
    good = {"view": VIEW, "server": "https://fhir.example.org/r4", "query": "Patient", "token_env": "FHIR_TOKEN"}
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
    assert fhir_search.open_source(Spec(view=VIEW, server="https://fhir.invalid", query="Patient"), None).columns() == ["id", "sex"]
