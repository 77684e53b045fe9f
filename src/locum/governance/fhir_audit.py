"""The log's entries as FHIR AuditEvent resources, one JSON object a line, for a hospital's own audit repository.

Source: HL7 FHIR R4 (4.0.1), AuditEvent; DICOM PS3.16 (audit event codes); IHE ATNA.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from locum.governance.events import Entry, Event

DCM = "http://dicom.nema.org/resources/ontology/DCM"
HL7 = "http://terminology.hl7.org/CodeSystem"
_ACTIVITY = ("110100", "Application Activity")
_ALERT = ("110113", "Security Alert")
_CREATES = ("opened", "invited", "enrolled", "installed", "submitted", "created", "made")
_CHANGES = ("revoked", "promoted", "rolled-back", "withdrawn", "cancelled")


def audit_event(n: int, entry: Entry, federation: str) -> dict[str, Any]:
    """One AuditEvent. n: the entry's number in the log; federation: whose log it is."""
    _, kind, action = str(entry.event).split(":")
    code, display = _ALERT if kind in ("party", "access") else _ACTIVITY
    who = f"urn:locum:federation:{federation}"
    failed = action == "failed" or entry.event is Event.ACCESS_DENIED
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"locum-log-{n}",
        "type": {"system": DCM, "code": code, "display": display},
        "subtype": [{"system": "urn:locum:event", "code": str(entry.event)}],
        "action": "C" if action in _CREATES else "U" if action in _CHANGES else "E",
        "recorded": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "outcome": "8" if failed else "0",
        "agent": [{"who": {"identifier": {"system": who, "value": entry.by}}, "name": entry.by, "requestor": True}],
        "source": {
            "site": federation,
            "observer": {"identifier": {"system": who, "value": "coordinator"}},
            "type": [{"system": f"{HL7}/security-source-type", "code": "4", "display": "Application Server"}],
        },
        "entity": [
            {
                "what": {"identifier": {"system": f"{who}:{kind}", "value": entry.subject}},
                "type": {"system": f"{HL7}/audit-entity-type", "code": "2", "display": "System Object"},
                "detail": [{"type": name, "valueString": _text(value)} for name, value in sorted({**entry.details, "log:entry": n}.items())],
            }
        ],
    }
    if failed and entry.details.get("error"):
        event["outcomeDesc"] = str(entry.details["error"])
    return event


def ndjson(entries: Iterable[tuple[int, Entry]], federation: str) -> Iterable[str]:
    """A line for each entry."""
    for n, entry in entries:
        yield json.dumps(audit_event(n, entry, federation), ensure_ascii=False, separators=(",", ":")) + "\n"


def _text(value: object) -> str:
    """Never empty: FHIR has no empty strings."""
    return (value if isinstance(value, str) else json.dumps(value, sort_keys=True)) or "-"
