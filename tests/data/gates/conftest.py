"""A table with something of everything, and short ways to look at a report."""

import os
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from locum.data import FrameSource, SiteMapping, registry
from locum.data.gates import check_source
from locum.study import DataSpec

VARIABLES = {
    "pid": {"role": "patient"},
    "age": {"unit": "a", "minimum": 18, "maximum": 110, "plausible": [20, 95]},
    "chol": {"unit": "mg/dL", "minimum": 50, "maximum": 700, "plausible": [90, 420], "missing_codes": [0], "max_missing": 0.5, "molar_mass": 386.65},
    "ecog": {"type": "integer", "minimum": 0, "maximum": 5},
    "female": {"type": "boolean"},
    "stage": {"type": "category", "categories": ["early", "late"]},
    "seen": {"type": "date", "minimum": "2000-01-01", "maximum": "2029-12-31"},
    "died": {"type": "boolean", "role": "event"},
    "note": {"type": "text"},
}
SPEC = DataSpec.parse({"variables": VARIABLES})


def frame(n=6, **columns):
    """n good rows of n patients, with some columns in place of theirs."""
    good = {
        "pid": [f"p{i}" for i in range(n)],
        "age": [float(40 + i % 40) for i in range(n)],
        "chol": [150.0 + i % 100 for i in range(n)],
        "ecog": [i % 5 for i in range(n)],
        "female": [i % 2 for i in range(n)],
        "stage": [("early", "late")[i % 2] for i in range(n)],
        "seen": [f"20{10 + i % 15}-03-1{i % 9}" for i in range(n)],
        "died": [i % 3 == 0 for i in range(n)],
        "note": [f"note {i}" for i in range(n)],
    }
    return pl.DataFrame(good | columns)


def report(table, spec=SPEC, mapping=None, **options):
    return check_source(spec, FrameSource(table), SiteMapping.parse(mapping or {}), **options)


def found(report, result="REFUSE"):
    return [(f.variable, f.gate, f.count) for f in report.of(result)]


def of(report, variable, gate):
    return next(f for f in report.findings if (f.variable, f.gate) == (variable, gate))


def heart(tmp_path):
    """One table per hospital of the heart disease data, as its registry entry maps it: (contract, mapping, site -> file)."""
    place = os.environ.get("LOCUM_DATA_DIR")
    if not place or not (Path(place) / "heart_disease_uci4").is_dir():
        pytest.skip("LOCUM_DATA_DIR does not hold heart_disease_uci4")
    files = registry.export("heart_disease", tmp_path)
    return registry.get("heart_disease").data, SiteMapping.load(tmp_path / "mapping.toml"), files


@pytest.fixture(scope="session")
def g():
    """The functions above, for tests in this folder."""
    return SimpleNamespace(SPEC=SPEC, VARIABLES=VARIABLES, frame=frame, report=report, found=found, of=of, heart=heart)
