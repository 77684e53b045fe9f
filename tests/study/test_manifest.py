"""Malformed studies name what is wrong and the nearest right word; one edit changes the digest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import ManifestError
from locum.study import Study

GOOD = {
    "schema": "locum/study/1",
    "name": "s",
    "data": {"variables": {"age": {"type": "number", "minimum": 0, "maximum": 120}}},
    "terms": {"min_cohort": 3},
    "plan": [{"name": "m", "task": "moments", "columns": ["age"]}],
}


def test_digest_is_stable_and_survives_json() -> None:
    study = Study.parse(GOOD)
    assert Study.from_json(study.canonical).digest == study.digest
    assert study.digest == Study.parse({**GOOD, "title": ""}).digest, "a default written out is the same study"


def test_the_order_of_keys_means_nothing() -> None:
    b = {"type": "boolean", "role": "outcome"}
    one = Study.parse({**GOOD, "data": {"variables": {"b": b, "age": {}}}})
    two = Study.parse({**GOOD, "data": {"variables": {"age": {}, "b": dict(reversed(b.items()))}}})
    assert one.digest == two.digest
    assert list(one.data.variables) == list(two.data.variables) == list(Study.from_json(one.canonical).data.variables)


@given(st.sampled_from(["title", "question", "requester", "purpose"]), st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20))
def test_one_edit_changes_the_digest(field: str, text: str) -> None:
    assert Study.parse({**GOOD, field: text}).digest != Study.parse(GOOD).digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nmae": "x"}, "did you mean 'name'"),
        ({"terms": {"min_cohrot": 3}}, "did you mean 'min_cohort'"),
        ({"data": {"variables": {"age": {"tpye": "number"}}}}, "did you mean 'type'"),
        ({"terms": {"min_cohort": 1}}, "terms.min_cohort"),
        ({"terms": {"min_cohort": 5, "quorum": 3}}, "below min_cohort"),
        ({"terms": {"deadline_s": float("nan")}}, "terms.deadline_s"),
        ({"terms": {"aggregation": "secret"}}, "terms.aggregation"),
        ({"plan": []}, "plan"),
        ({"plan": [{"name": "a", "task": "moments", "p": float("inf")}]}, "'plan.0.p': the number is not finite"),
        ({"plan": [{"name": "a", "task": "moments", "p": 1 << 53}]}, "beyond 2^53"),
        ({"plan": [{"name": "a", "task": "moments", "p": json.loads("[" * 100 + "]" * 100)}]}, "levels deep"),
        ({"question": "\ud800"}, "not Unicode"),
        ({"title": "fine\x1b[2J"}, "control character"),
        ({"requester": "A\nDecision here: approved"}, "control character"),
        ({"data": {"variables": {"x": {"label": "\u202e"}}}}, "control character"),
        ({"data": {"variables": {"x": {"type": "category", "categories": ["a\nb"]}}}}, "control character"),
        ({"data": {"variables": {"x": {"type": "category", "categories": ["a", "a"]}}}}, "listed twice"),
        ({"data": {"variables": {"x": {"type": "array", "shape": [1 << 24, 1 << 24]}}}}, "numbers a row"),
        ({"data": {"variables": {"x": {"minimum": -1e308, "maximum": 1e308}}}}, "minimum"),
        ({"data": {"variables": {"x": {"plausible": [0, 5e-324]}}}}, "too close"),
        ({"plan": [{"name": "a", "task": "moments"}, {"name": "a", "task": "moments"}]}, "two steps are called 'a'"),
        ({"name": "../etc"}, "name"),
        ({"schema": "locum/study/9"}, "schema"),
        ({"data": {"variables": {"x": {"type": "category"}}}}, "categories"),
        ({"data": {"variables": {"x": {"minimum": 3, "maximum": 1}}}}, "minimum must lie below maximum"),
    ],
)
def test_bad_study(change: dict, says: str) -> None:
    with pytest.raises(ManifestError) as error:
        Study.parse({**GOOD, **change})
    assert says in str(error.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * (2 << 20)])
def test_bad_json(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        Study.from_json(raw)


def test_toml_file(tmp_path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('schema = "locum/study/1"\nname = \n')
    with pytest.raises(ManifestError, match="not valid TOML"):
        Study.load(path)
    with pytest.raises(ManifestError, match="no file"):
        Study.load(tmp_path / "absent.toml")
