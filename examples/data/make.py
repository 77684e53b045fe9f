"""Makes the made-up extracts of this folder, the same ones every time: `python make.py`. Nobody in them exists."""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path

HERE = Path(__file__).parent
PATIENTS = 200
FIRST = date(2023, 1, 2)


def extract(rng: random.Random, *, accidents: bool) -> str:
    """A clinic's export as it really looks: decimal commas, its own units, codes and dates, a code for "not measured". accidents: of the first export."""
    lines = ["PatNr;Aufnahme;Alter;Geschl;RR_syst;Chol;Größe;Gewicht;Hypertonie;Station"]
    for n in range(PATIENTS):
        age, woman = round(min(95.0, max(16.0, rng.gauss(58, 16)))), rng.random() < 0.48
        pressure = round(rng.gauss(104 + 0.45 * age, 14))
        height, weight = rng.gauss(165 if woman else 178, 7), rng.gauss(71 if woman else 84, 12)
        ill = rng.random() < (0.75 if pressure >= 140 else 0.2)
        sex = "u" if n in (31, 144) else "w" if woman else "m"
        said = "999" if n % 23 == 7 else str(pressure)
        chol = "n.b." if n % 29 == 4 else "" if n % 17 == 5 else f"{rng.gauss(4.5 + 0.012 * age, 0.9):.2f}".replace(".", ",")
        admitted = FIRST + timedelta(days=rng.randrange(700))
        ward = rng.choice(["Innere 1", "Innere 2", "Kardiologie"])
        row = [f"{400_113 + 7 * n}", f"{admitted:%d.%m.%Y}", str(age), sex, said, chol, f"{height:.0f}", f"{weight:.1f}".replace(".", ",")]
        lines.append(";".join([*row, "ja" if ill else "nein", ward]))
    again = lines[60].split(";")  # this patient came back after two months
    again[1] = "21.11.2024"
    lines.insert(90, ";".join(again))
    if accidents:
        lines.insert(120, lines[119])  # exported twice
        lines[150] = lines[150].rpartition(";")[0] + ";Innere; Notaufnahme"  # a separator in a cell that is not quoted
    return "\n".join(lines) + "\n"


def resources(rng: random.Random) -> str:
    """A bulk export in FHIR R4: 40 patients, each with one to four readings of blood pressure, and a few other observations."""
    lines: list[str] = []
    for n in range(40):
        who = f"p{n:03d}"
        born = f"{rng.randrange(1935, 2003)}-06-15"
        lines.append(json.dumps({"resourceType": "Patient", "id": who, "gender": rng.choice(["female", "male"]), "birthDate": born}))
        usual = rng.gauss(131, 14)
        for k in range(rng.randint(1, 4)):
            day = date(2024, 1, 1) + timedelta(days=rng.randrange(330))
            high, low = round(rng.gauss(usual, 7)), round(rng.gauss(0.42 * usual + 24, 5))
            made = reading(f"{who}-bp{k}", who, day, high, None if rng.random() < 0.04 else low)
            if n % 9 == 2 and k == 0:  # the cuff had slipped; whoever saw it said so
                made = {**reading(f"{who}-bp{k}", who, day, 0, 0), "status": "entered-in-error"}
            lines.append(json.dumps(made))
        if n % 4 == 0:
            lines.append(json.dumps(heart_rate(f"{who}-hr", who, round(rng.gauss(74, 9)))))
    return "\n".join(lines) + "\n"


def findings(rng: random.Random) -> str:
    """The same patients' laboratory values, body mass index and diagnoses."""
    lines: list[str] = []
    for n in range(40):
        who, day = f"p{n:03d}", date(2023, 6, 1) + timedelta(days=rng.randrange(200))
        for k in range(2 if n % 5 == 1 else 0 if n % 13 == 6 else 1):
            taken = day + timedelta(days=90 * k)
            lines.append(json.dumps(quantity(f"{who}-chol{k}", who, taken, "2093-3", round(rng.gauss(5.2, 0.9), 2), "mmol/L")))
        lines.append(json.dumps(quantity(f"{who}-bmi", who, day, "39156-5", round(rng.gauss(26.5, 3.6), 1), "kg/m2")))
        if rng.random() < 0.35:  # "refuted": it was suspected, and is not so
            lines.append(json.dumps(condition(f"{who}-ht", who, "I10", "refuted" if rng.random() < 0.2 else "confirmed")))
    return "\n".join(lines) + "\n"


def quantity(key: str, who: str, day: date, code: str, value: float, unit: str) -> dict[str, object]:
    measured = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return {**observation(key, who, code), "effectiveDateTime": f"{day.isoformat()}T08:00:00+01:00", "valueQuantity": measured}


def condition(key: str, who: str, code: str, status: str) -> dict[str, object]:
    verification = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": status}]}
    codes = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": code}]}
    return {"resourceType": "Condition", "id": key, "verificationStatus": verification, "code": codes, "subject": {"reference": f"Patient/{who}"}}


def reading(key: str, who: str, day: date, high: int, low: int | None) -> dict[str, object]:
    """One reading of blood pressure, as the profile of FHIR R4 writes it: a panel with two components."""
    parts = [component("8480-6", high)] + ([component("8462-4", low)] if low is not None else [])
    return {**observation(key, who, "85354-9"), "effectiveDateTime": f"{day.isoformat()}T09:30:00+01:00", "component": parts}


def component(code: str, value: int) -> dict[str, object]:
    unit = {"value": value, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
    return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": unit}


def heart_rate(key: str, who: str, value: int) -> dict[str, object]:
    return {**observation(key, who, "8867-4"), "valueQuantity": {"value": value, "code": "/min"}}


def observation(key: str, who: str, code: str) -> dict[str, object]:
    codes = {"coding": [{"system": "http://loinc.org", "code": code}]}
    return {"resourceType": "Observation", "id": key, "status": "final", "code": codes, "subject": {"reference": f"Patient/{who}"}}


def write(folder: Path) -> None:
    """The three extracts, byte for byte the same each time."""
    for name, accidents in (("extract.csv", True), ("again.csv", False)):
        (folder / name).write_bytes(extract(random.Random(11), accidents=accidents).encode("latin-1"))  # noqa: S311  no secret
    (folder / "export.ndjson").write_text(resources(random.Random(12)) + findings(random.Random(13)), encoding="utf-8")  # noqa: S311


if __name__ == "__main__":
    write(HERE)
