"""Every kind of entry as a FHIR AuditEvent, read back by an independent model of FHIR R4."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from locum.governance.events import Entry, Event
from locum.governance.fhir_audit import audit_event, ndjson


@pytest.mark.parametrize("event", list(Event))
def test_an_entry_is_a_valid_audit_event(event: Event) -> None:
    entry = Entry(1_790_000_000.125, event, "s1", "a" * 64, {"seq": 3, "error": "it stopped", "none": None, "list": [1], "empty": ""})
    made = AuditEvent.model_validate(audit_event(7, entry, "f" * 32))
    assert made.id == "locum-log-7"
    assert made.recorded.timestamp() == 1_790_000_000.125
    assert made.subtype[0].code == str(event)
    assert made.agent[0].name == "s1"
    assert made.entity[0].what.identifier.value == "a" * 64
    assert {d.type: d.valueString for d in made.entity[0].detail}["seq"] == "3"


def test_what_failed_or_was_refused_says_so() -> None:
    failed = audit_event(0, Entry(1.0, Event.RUN_FAILED, "coordinator", "r", {"error": "too few sites"}), "f")
    assert (failed["outcome"], failed["outcomeDesc"]) == ("8", "too few sites")
    assert audit_event(0, Entry(1.0, Event.ACCESS_DENIED, "eve", "r"), "f")["outcome"] == "8"
    assert audit_event(0, Entry(1.0, Event.STUDY_DENIED, "s1", "r"), "f")["outcome"] == "0"  # a decision, and no failure


def test_lines_are_one_object_each() -> None:
    lines = list(ndjson([(0, Entry(1.0, Event.LOG_OPENED, "coordinator", "log", {"text": "two\nlines"}))] * 2, "f"))
    assert [json.loads(line)["resourceType"] for line in lines] == ["AuditEvent"] * 2
    assert all(line.count("\n") == 1 for line in lines)
