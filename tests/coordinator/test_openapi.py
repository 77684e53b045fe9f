"""The description is valid OpenAPI, and says of every endpoint what it takes and gives."""

import json

import msgspec
from openapi_spec_validator import validate

from locum.coordinator.api import ENDPOINTS
from locum.coordinator.openapi import document


def test_the_description_is_valid_and_complete() -> None:
    described = json.loads(msgspec.json.encode(document(ENDPOINTS, "https://localhost:8443")))
    validate(described)
    listed = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert listed == {(e.method, e.path.replace(":int", "").replace(":path", "")) for e in ENDPOINTS}
    names = {o["operationId"] for methods in described["paths"].values() for o in methods.values()}
    assert len(names) == len(ENDPOINTS)
    assert {"Work", "SignedAssignment", "RunView", "StudyView", "SiteView", "Problem"} <= set(described["components"]["schemas"])
    release = described["paths"]["/v1/runs/{run}/rounds/{seq}/{phase}"]["put"]
    assert release["security"] == [{"signature": []}]
    assert {p["name"]: p["in"] for p in release["parameters"]} == {"run": "path", "seq": "path", "phase": "path", "Locum-Envelope": "header"}
    assert described["paths"]["/v1/health"]["get"]["security"] == []
