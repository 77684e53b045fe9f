"""Views that are wrong, views that would explode, and the order of columns and rows."""

from __future__ import annotations

from typing import Any

import pytest

from locum.data.fhir import Program, ViewDefinition, run_view
from locum.data.fhir.values import EvaluationError
from locum.errors import ManifestError

ID = {"name": "id", "path": "id", "type": "id"}


def view(*selects: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"resource": "Patient", "select": [*selects], **more}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (view(), "select"),
        (view({"column": [ID]}, resource="patient"), "resource"),
        (view({"column": [ID]}, {"column": [ID]}), "more than one column 'id'"),
        (view({"column": [{**ID, "name": "1st"}]}), "name"),
        (view({"column": [{**ID, "pth": "id"}]}), "did you mean 'path'"),
        (view({"forEach": "name"}), "needs column"),
        (view({"forEach": "name", "forEachOrNull": "name", "column": [ID]}), "one of them"),
        (view({"column": [ID]}, constant=[{"name": "c", "valueString": "a", "valueCode": "b"}]), "exactly one value"),
        (view({"column": [ID]}, constant=[{"name": "c", "valueInteger": "1"}]), "another type"),
        (view({"column": [ID]}, constant=[{"name": "c", "valueInteger": True}]), "another type"),
        (view({"column": [{**ID, "path": "name.frist()"}]}), "did you mean 'first'"),
        (view({"unionAll": [{"column": [ID]}, {"column": [{**ID, "name": "other"}]}]}), "different columns"),
        (view({"column": [{**ID, "name": f"c{i}"} for i in range(1001)]}), "1,001 columns"),
    ],
)
def test_a_wrong_view_says_what_is_wrong(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Program(ViewDefinition.load(wrong))
    assert words in str(caught.value)


def test_nesting_is_bounded() -> None:
    select: dict[str, Any] = {"column": [ID]}
    for _ in range(20):
        select = {"select": [select]}
    with pytest.raises(ManifestError, match="deep"):
        ViewDefinition.load(view(select))


def test_rows_of_one_resource_are_bounded() -> None:
    patient = {"resourceType": "Patient", "name": [{"use": str(i)} for i in range(400)]}
    each = [{"forEach": "name", "column": [{"name": f"c{i}", "path": "use"}]} for i in range(2)]
    with pytest.raises(EvaluationError, match="rows of one resource"):
        list(run_view(view(*each), [patient]))
    endless = view({"repeat": ["$this"], "column": [ID]})
    with pytest.raises(EvaluationError, match="rows of one resource"):
        list(run_view(endless, [patient]))


def test_an_unwanted_column_is_checked_and_not_read() -> None:
    given = view({"column": [ID, {"name": "born", "path": "birthDate", "type": "date"}]})
    assert Program(ViewDefinition.load(given), ["id"]).members == {"resourceType", "id"}
    assert "birthDate" in Program(ViewDefinition.load(given)).members
    with pytest.raises(ManifestError):
        Program(ViewDefinition.load(view({"column": [ID, {"name": "born", "path": "birthDate."}]})), ["id"])


def test_after_an_error_the_next_resource_starts_anew() -> None:
    given = view({"forEach": "name", "column": [{"name": "n", "path": "%rowIndex + use"}, {"name": "i", "path": "%rowIndex"}]})
    program = Program(ViewDefinition.load(given))
    with pytest.raises(EvaluationError):
        program.rows({"resourceType": "Patient", "name": [{"use": 1}, {"use": "x"}]})
    assert program.rows({"resourceType": "Patient", "name": [{"use": 5}]}) == [[5, 0]]
