"""Our FHIRPath against the specification's examples, and against fhirpathpy."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data.fhir.compiler import Compiler
from locum.data.fhir.values import EvaluationError, items
from locum.errors import ManifestError

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "birthDate": "1970-06-15",
    "_birthDate": {"extension": [{"url": "http://t", "valueDateTime": "1970-06-15T08:00:00Z"}]},
    "name": [{"use": "official", "family": "A", "given": ["x", None, "y"]}, {"use": "usual", "family": "B"}],
    "multipleBirthInteger": 2,
    "contact": [{"name": {"family": "C", "given": ["z"]}}],
    "managingOrganization": {"reference": "Organization/o1"},
    "link": [{"other": {"reference": "https://h/fhir/Patient/p9/_history/2"}}, {"other": {"reference": "#c"}}, {"other": {"reference": "urn:uuid:77"}}],
    "extension": [{"url": "http://e", "valueDecimal": 1.5}],
    "contained": [{"resourceType": "Organization", "id": "c", "name": "Org"}],
}


def evaluate(text: str, resource: Any = PATIENT, **constants: Any) -> list[Any]:
    compiler = Compiler({k: (v, "string") for k, v in constants.items()})
    compiled = compiler.compile(text)
    compiler.frame.resource = resource
    return list(items(compiled.evaluate(resource)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name.family", ["A", "B"]),
        ("Patient.name.family", ["A", "B"]),
        ("Observation.name.family", []),
        ("name.given", ["x", "y"]),
        ("contact.name.given", ["z"]),
        ("contact.name.given.nothing.at.all", []),
        ("name[1].family", ["B"]),
        ("name[7].family", []),
        ("name.last().family", ["B"]),
        ("name.where($index = 1).family", ["B"]),
        ("name.where(use = 'usual' or family = 'A').family", ["A", "B"]),
        ("name.where(given.where($this = 'y').exists()).family", ["A"]),
        ("name.where(given.exists()).exists()", [True]),
        ("name.exists(family = 'Z')", [False]),
        ("name.all(family.exists())", [True]),
        ("name.all(given.exists())", [False]),
        ("nothing.all(false)", [True]),
        ("name.count()", [2]),
        ("multipleBirth", [2]),
        ("multipleBirth.ofType(integer) + 1", [3]),
        ("multipleBirth.ofType(boolean)", []),
        ("(multipleBirth as integer) > 1", [True]),
        ("multipleBirth.first().ofType(integer)", [2]),
        ("contained.ofType(Organization).name", ["Org"]),
        ("contained.ofType(Patient).name", []),
        ("extension('http://e').value.ofType(decimal)", [1.5]),
        ("birthDate.extension('http://t').value.ofType(dateTime)", ["1970-06-15T08:00:00Z"]),
        ("managingOrganization.getReferenceKey(Organization)", ["o1"]),
        ("managingOrganization.getReferenceKey(Patient)", []),
        ("link.other.getReferenceKey()", ["p9", "77"]),
        ("getResourceKey()", ["p1"]),
        ("%resource.id", ["p1"]),
        ("name.where(family = %wanted).use", ["usual"]),
        ("0.1 + 0.2 = 0.3", [True]),
        ("7 div 2", [3]),
        ("-7 div 2", [-3]),
        ("-7 mod 2", [-1]),
        ("1 / 0", []),
        ("1 + 2 * 3", [7]),
        ("(1 + 2) * -3", [-9]),
        ("3 - 2 - 1", [0]),
        ("'a' + 'b'", ["ab"]),
        ("'a' & {} & 'b'", ["ab"]),
        ("'a' in ('a' | 'b')", [True]),
        ("'it\\'s' = 'it\\u0027s'", [True]),
        ("`id`", ["p1"]),
        ("'\\ud83d\\ude00'", ["\U0001f600"]),
        ("1 = true", [False]),
        ("1 = 1.0", [True]),
        ("name.family = 'A'", [False]),
        ("nothing = 'A'", []),
        ("true and nothing.first()", []),
        ("false and nothing", [False]),
        ("true or nothing", [True]),
        ("false or nothing", []),
        ("true xor false", [True]),
        ("nothing.not()", []),
        ("birthDate < @1970-06-16", [True]),
        ("birthDate = @1970-06", []),
        ("birthDate > @1969", [True]),
        ("@2020-01-01T00:00:00+02:00 = @2019-12-31T22:00:00Z", [True]),
        ("@2020-01-01T00:00:00.0 = @2020-01-01T00:00:00.000", [True]),
        ("@2020-01-01T00:00:00 < @2020-01-02T00:00:00Z", []),
        ("@T10:00 < @T11:00", [True]),
        ("id // a comment", ["p1"]),
    ],
)
def test_expression(text: str, expected: list[Any]) -> None:
    assert evaluate(text, wanted="B") == expected
    assert [type(x) for x in evaluate(text, wanted="B")] == [type(x) for x in expected]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("1.0", 0.95, 1.05),
        ("7", 6.5, 7.5),
        ("@2020-02", "2020-02-01", "2020-02-29"),
        ("@2020", "2020-01-01", "2020-12-31"),
        ("@2020-01-01T10:30", "2020-01-01T10:30:00.000+14:00", "2020-01-01T10:30:59.999-12:00"),
        ("@2020-01-01T10:30:05Z", "2020-01-01T10:30:05.000Z", "2020-01-01T10:30:05.999Z"),
        ("@T10", "10:00:00.000", "10:59:59.999"),
    ],
)
def test_boundaries(text: str, low: Any, high: Any) -> None:
    assert evaluate(f"({text}).lowBoundary()") == [low]
    assert evaluate(f"({text}).highBoundary()") == [high]


@pytest.mark.parametrize(
    "text", ["name.family + 1", "name.family > 'A'", "'a' > 1", "name.join(',')", "id + 1", "name['x']", "id.lowBoundary()", "name and true"]
)
def test_what_cannot_be_evaluated(text: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate(text)
    assert "p1" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@@",
        "name.",
        "name..family",
        "(name",
        "name[",
        "name)",
        "1 +",
        "name.frist()",
        "name.first(1)",
        "where()",
        "%unknown",
        "$total",
        "value.ofType('Quantity')",
        "value.where(true).ofType(Quantity)",
        "extension(url)",
        "@2020 + 1",
        "'open",
        "`\\ud800`",
        "a" * 5000,
        "a" + ".a" * 400,
        "(" * 200 + "1" + ")" * 200,
        "-" * 200 + "1",
    ],
)
def test_what_cannot_be_compiled(text: str) -> None:
    with pytest.raises(ManifestError):
        evaluate(text)


def test_a_wrong_function_names_the_nearest() -> None:
    with pytest.raises(ManifestError, match="did you mean 'first'"):
        evaluate("name.frist()")


@given(st.text(alphabet="ab.()[]'\"`%$@0123456789TZ:+-*/&|=<>!, {}\\ofwhertypisn", max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(ManifestError, EvaluationError):
        evaluate(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["A", "B", "2020-01", "official"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "family", "use", "given", "value", "valueQuantity", "id"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["name", "family", "use", "given", "value", "valueQuantity", "id", "extension", "birthDate"]), json_values))
def test_no_shape_of_json_breaks_an_expression(resource: dict[str, Any]) -> None:
    for text in (
        "name.family.first()",
        "name.where(use = 'official').given.join(',')",
        "value.ofType(Quantity).value > 1.5",
        "name.given.first() = id",
        "name[0].given & id",
        "extension('A').value",
        "birthDate.lowBoundary()",
        "name.value + name.value",
        "(name | given | id).count()",
        "name.all(use.exists()) and id",
        "name.getReferenceKey()",
        "id in name.family",
    ):
        with contextlib.suppress(EvaluationError):
            evaluate(text, resource)


@pytest.mark.parametrize(
    "text",
    [
        "id",
        "name.family",
        "name.where(use = 'official').family.first()",
        "name.given.count() > 1 and birthDate.exists()",
        "name.exists(use = 'usual')",
        "name[1].family",
        "multipleBirth.ofType(integer) * 3 - 1",
        "extension('http://e').value.ofType(decimal)",
        "contact.name.given.first() & '!'",
        "name.family.join(', ')",
        "nothing.empty() or nothing = 1",
        "birthDate < @1980-01-01",
        "name.all(family.exists())",
        "10 div 4 + 10 mod 4",
        "('a' | 'b' | 'a').count()",
    ],
)
def test_agrees_with_fhirpathpy(text: str) -> None:
    fhirpathpy = pytest.importorskip("fhirpathpy")
    from fhirpathpy.models import models

    assert evaluate(text) == fhirpathpy.evaluate(PATIENT, text, model=models["r4"])
