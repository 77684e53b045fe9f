"""FHIR resources through a flat view: resources a second on one core, from NDJSON on disk to polars frames, beside fhirpathpy."""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import Report

PATIENTS: dict[str, Any] = {
    "resource": "Patient",
    "select": [
        {
            "column": [
                {"name": "patient", "path": "id", "type": "id"},
                {"name": "sex", "path": "gender", "type": "code"},
                {"name": "born", "path": "birthDate", "type": "date"},
                {"name": "dead", "path": "deceased.ofType(boolean)", "type": "boolean"},
                {"name": "family", "path": "name.where(use = 'official').family.first()", "type": "string"},
                {"name": "mrn", "path": "identifier.where(system = 'http://hospital.example.org/mrn').value.first()", "type": "string"},
                {"name": "city", "path": "address.city.first()", "type": "string"},
                {
                    "name": "birth_sex",
                    "path": "extension('http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex').value.ofType(code).first()",
                    "type": "code",
                },
            ]
        }
    ],
}
OBSERVATIONS: dict[str, Any] = {
    "resource": "Observation",
    "where": [{"path": "status = 'final'"}],
    "select": [
        {
            "column": [
                {"name": "id", "path": "id", "type": "id"},
                {"name": "patient", "path": "subject.reference", "type": "string"},
                {"name": "code", "path": "code.coding.where(system = 'http://loinc.org').code.first()", "type": "code"},
                {"name": "value", "path": "value.ofType(Quantity).value", "type": "decimal"},
                {"name": "unit", "path": "value.ofType(Quantity).code", "type": "code"},
                {"name": "taken", "path": "effective.ofType(dateTime)", "type": "dateTime"},
                {"name": "high", "path": "referenceRange.high.value.first()", "type": "decimal"},
                {"name": "abnormal", "path": "value.ofType(Quantity).value > 5.2", "type": "boolean"},
            ]
        }
    ],
}


def patient(i: int, draw: random.Random) -> dict[str, Any]:
    """A Patient as a US Core server writes it, about 2.3 kB."""
    family, given = f"Family{draw.randrange(5000)}", f"Given{draw.randrange(2000)}"
    core = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
    race = {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3", "display": "White"}
    return {
        "resourceType": "Patient",
        "id": f"pat-{i:08d}",
        "meta": {"versionId": "1", "lastUpdated": "2024-03-01T10:11:12.000+00:00", "profile": [core + "patient"]},
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{given} {family}</p><p>Generated narrative of the record.</p></div>',
        },
        "extension": [
            {"url": core + "race", "extension": [{"url": "ombCategory", "valueCoding": race}, {"url": "text", "valueString": "White"}]},
            {"url": core + "birthsex", "valueCode": draw.choice("MF")},
            {"url": "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName", "valueString": f"Mother{i % 977}"},
        ],
        "identifier": [
            {
                "system": "http://hospital.example.org/mrn",
                "value": f"{draw.randrange(10**8):08d}",
                "type": {"coding": [{"code": "MR", "display": "Medical record"}]},
            },
            {"system": "http://hl7.org/fhir/sid/us-ssn", "value": f"999-{i % 100:02d}-{i % 10000:04d}", "type": {"coding": [{"code": "SS"}], "text": "Social"}},
        ],
        "name": [
            {"use": "official", "family": family, "given": [given, "M."], "prefix": ["Dr."]},
            {"use": "maiden", "family": f"Old{family}", "given": [given]},
        ],
        "telecom": [{"system": "phone", "value": f"555-{i % 1000:03d}-{i % 10000:04d}", "use": "home"}, {"system": "email", "value": f"p{i}@example.org"}],
        "gender": draw.choice(["male", "female"]),
        "birthDate": f"{draw.randrange(1930, 2010)}-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d}",
        "deceasedBoolean": draw.random() < 0.1,
        "address": [{"line": [f"{i % 999} Main Street"], "city": f"City{i % 300}", "state": "MA", "postalCode": f"{i % 99999:05d}", "country": "US"}],
        "maritalStatus": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus", "code": "M", "display": "Married"}],
            "text": "Married",
        },
        "communication": [{"language": {"coding": [{"system": "urn:ietf:bcp:47", "code": "en-US", "display": "English"}], "text": "English"}}],
        "managingOrganization": {"reference": "Organization/org-1", "display": "Example Hospital"},
    }


def observation(i: int, draw: random.Random) -> dict[str, Any]:
    """A laboratory Observation, about 1.3 kB."""
    unit = {"unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"}
    day = f"2023-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d}"
    category = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory", "display": "Laboratory"}
    return {
        "resourceType": "Observation",
        "id": f"obs-{i:08d}",
        "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-observation-lab"], "lastUpdated": f"{day}T10:11:12.000+00:00"},
        "identifier": [{"system": "http://hospital.example.org/lab", "value": f"L{i:09d}"}],
        "status": "final" if draw.random() < 0.95 else "preliminary",
        "category": [{"coding": [category], "text": "Laboratory"}],
        "code": {
            "coding": [
                {"system": "http://hospital.example.org/codes", "code": "CHOL", "display": "Cholesterol"},
                {"system": "http://loinc.org", "code": "2093-3", "display": "Cholesterol [Mass/volume] in Serum or Plasma"},
            ],
            "text": "Total Cholesterol",
        },
        "subject": {"reference": f"Patient/pat-{i % 50000:08d}", "display": f"Given{i % 2000} Family{i % 5000}"},
        "encounter": {"reference": f"Encounter/enc-{i // 7:08d}"},
        "effectiveDateTime": f"{day}T08:30:00+01:00",
        "issued": f"{day}T09:31:00.123+01:00",
        "performer": [{"reference": "Organization/lab-1", "display": "Central laboratory"}],
        "valueQuantity": {"value": round(draw.uniform(2.5, 9.0), 2), **unit},
        "referenceRange": [{"low": {"value": 3.1, **unit}, "high": {"value": 5.2, **unit}, "text": "3.1 - 5.2 mmol/L"}],
    }


def write(folder: Path, make: Any, n: int) -> Path:
    """n resources as one NDJSON file."""
    draw = random.Random(1)
    path = folder / f"{make.__name__}.ndjson"
    with path.open("w") as file:
        for i in range(n):
            file.write(json.dumps(make(i, draw), separators=(",", ":")) + "\n")
    return path


def ours(path: Path, view: dict[str, Any], n: int) -> float:
    """Resources a second through the source, in processor seconds."""
    from locum.data.sources import fhir

    source = fhir.open_source(fhir.Spec(view=view), path)
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        rows = sum(len(frame) for frame in source.chunks(source.columns()))
        best = min(best, time.process_time() - start)
        assert source.tally.balanced
        assert source.tally.read == n
        assert rows == source.tally.used > 0.9 * n
    return n / best


def fhirpathpy_rate(path: Path, view: dict[str, Any], n: int) -> float:
    """Resources a second by the same paths in fhirpathpy, compiled once, with its FHIR model; JSON by msgspec, no frame made."""
    import fhirpathpy
    import msgspec
    from fhirpathpy.models import models

    paths = [fhirpathpy.compile(c["path"], models["r4"]) for c in view["select"][0]["column"]]
    lines = path.read_bytes().splitlines()[:n]
    start = time.process_time()
    for line in lines:
        resource = msgspec.json.decode(line)
        for evaluate in paths:
            evaluate(resource)
    return n / (time.process_time() - start)


def passed() -> tuple[int, int]:
    """Cases of the official suite that pass, of how many; (0, 0) where its files are not here."""
    from locum.data.fhir import run_view
    from locum.errors import LocumError

    folder = Path(os.environ.get("LOCUM_DATA_DIR", "")) / "sql_on_fhir_v2_tests" / "tests"
    good = total = 0
    for suite in map(json.loads, (f.read_text() for f in sorted(folder.glob("*.json")))):
        for case in suite["tests"]:
            total += 1
            try:
                rows = [json.dumps(r, sort_keys=True) for r in run_view(case["view"], suite["resources"])]
                good += "expect" in case and sorted(rows) == sorted(json.dumps(r, sort_keys=True) for r in case["expect"])
            except LocumError:
                good += bool(case.get("expectError"))
    return good, total


def measure(report: Report, *, quick: bool = False) -> None:
    """Add fhir_resources_per_s and sql_on_fhir_passed to the report."""
    n, few, runs = (2_000, 20, 1) if quick else (30_000, 150, 5)
    rates, references = [], []
    with tempfile.TemporaryDirectory() as folder:
        for make, view in ((patient, PATIENTS), (observation, OBSERVATIONS)):
            path = write(Path(folder), make, n)
            pairs = [(ours(path, view, n), fhirpathpy_rate(path, view, few)) for _ in range(runs)]
            rate, reference = (statistics.median(each) for each in zip(*pairs, strict=True))
            rates.append(rate)
            references.append(reference)
            size, spread = path.stat().st_size / n, [r for r, _ in pairs]
            note = (
                f"NDJSON of {size:,.0f} bytes a resource, 8 columns, to frames, {runs} runs of {min(spread):,.0f} to {max(spread):,.0f}; reference: fhirpathpy"
            )
            report.add(f"fhir_{make.__name__}_per_s", rate, "1/s", reference=reference, note=note)
    mixed, mixed_reference = (2 / sum(1 / r for r in each) for each in (rates, references))
    report.add("fhir_resources_per_s", mixed, "1/s", reference=mixed_reference, note="a core, half Patients and half Observations; reference: fhirpathpy")
    good, total = passed()
    report.add("sql_on_fhir_passed", good, "cases", reference=total or None, note="official SQL on FHIR v2 suite" if total else "suite not in LOCUM_DATA_DIR")
