"""What a data manager writes under [source] for each kind of source that a file's name alone cannot describe."""

from __future__ import annotations

EXAMPLES: dict[str, dict[str, str]] = {
    "sql": {"path": '"warehouse.sqlite"', "query": '"SELECT * FROM admissions"'},
    "omop": {"path": '"cdm.zip"', "query_file": '"rows.sql"'},
    "fhir": {"path": '"export.ndjson"', "view": '"view.json"'},
    "fhir_search": {"server": '"https://fhir.hospital.example/r4"', "search": '"Observation?code=http://loinc.org|85354-9"', "view": '"view.json"'},
    "dicom": {"path": '"images"', "size": "[224, 224]"},
    "nifti": {"path": '"volumes"', "size": "[64, 64, 64]"},
    "wfdb": {"path": '"records"', "fs": "250", "seconds": "10"},
    "edf": {"path": '"recordings"', "fs": "100", "seconds": "30"},
}
"""Kind -> the keys that it cannot do without, with a value each; `type` aside."""

FOLDERS = ("omop", "fhir", "dicom", "nifti", "wfdb", "edf", "apple_health", "fit")
"""Kinds that read a folder of files."""

PROGRAMS = (".xls", ".xlsx", ".xlsm", ".ods", ".sav", ".sas7bdat", ".xpt", ".dta", ".rds", ".rdata", ".mdb", ".accdb")
"""Suffixes of spreadsheets, statistics programs and desktop databases, which no kind reads."""


def example(kind: str, path: str = "") -> str:
    """What to write in a mapping file for this kind; '' where it needs no more than a path."""
    if kind not in EXAMPLES:
        return ""
    keys = {"type": f'"{kind}"', **EXAMPLES[kind], **({"path": f'"{path}"'} if path and "path" in EXAMPLES[kind] else {})}
    lines = "".join(f"\n    {key} = {value}" for key, value in keys.items())
    return f"write what is missing in a mapping file, and name it with --mapping (docs/data.md, section 8), for example:\n    [source]{lines}"
