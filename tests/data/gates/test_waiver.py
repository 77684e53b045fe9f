"""What a person may let pass, and what nobody may."""

from datetime import date

import pytest

from locum.data.gates.waiver import Waiver
from locum.errors import DataError, ManifestError

STUDY = "a" * 64
GOOD = {"study": STUDY, "data": "main", "variable": "chol", "gate": "completeness", "at_most": 5, "reason": "the analyser was out of order", "by": "Dr Example"}


def test_a_refusal_that_is_covered_becomes_a_warning_that_names_the_waiver(g):
    report = g.report(g.frame(6, chol=[0, 0, 0, 0, None, 200]))
    waived = report.waived([Waiver.parse(GOOD)])
    finding = g.of(waived, "chol", "completeness")
    assert finding.result == "WARN"
    assert "waived by Dr Example for up to 5 rows: the analyser was out of order" in finding.what
    waived.raise_if_refused()
    assert g.of(report, "chol", "completeness").result == "REFUSE"


@pytest.mark.parametrize("other", [{"at_most": 4}, {"variable": "age"}, {"gate": "plausibility"}])
def test_a_waiver_covers_its_own_variable_gate_and_number_of_rows(g, other):
    report = g.report(g.frame(6, chol=[0, 0, 0, 0, None, 200])).waived([Waiver.parse(GOOD | other)])
    with pytest.raises(DataError):
        report.raise_if_refused()


def test_a_waiver_is_for_one_study_and_until_a_day():
    waiver = Waiver.parse(GOOD | {"until": "2026-03-31"})
    assert waiver.in_force(STUDY, "main", date(2026, 3, 31))
    assert not waiver.in_force(STUDY, "main", date(2026, 4, 1))
    assert not waiver.in_force("b" * 64, "main", date(2026, 3, 31))
    assert not waiver.in_force(STUDY, "other", date(2026, 3, 31))
    assert Waiver.parse(GOOD).in_force(STUDY, "main", date(2099, 1, 1))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"gate": "conformance"}, "guessed or dropped"),
        ({"gate": "split"}, "tested on patients"),
        ({"gate": "rows"}, "protected by their number"),
        ({"gate": "source"}, "accept_refused"),
        ({"reason": "because"}, "reason"),
        ({"at_most": 0}, "at_most"),
        ({"by": " "}, "by"),
        ({"study": "heart"}, "study"),
        ({"rows": 3}, "unknown key 'rows'"),
    ],
)
def test_what_is_no_waiver(wrong, why):
    with pytest.raises(ManifestError, match=why):
        Waiver.parse(GOOD | wrong)
