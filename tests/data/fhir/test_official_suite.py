"""The official conformance suite of SQL on FHIR v2: every case, each by its name."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from locum.data.fhir import run_view
from locum.errors import LocumError

FOLDER = Path(os.environ.get("LOCUM_DATA_DIR", "/nowhere")) / "sql_on_fhir_v2_tests" / "tests"
FILES = sorted(FOLDER.glob("*.json"))
CASES = [pytest.param(s["resources"], c, id=f"{s['title']}: {c['title']}") for s in (json.loads(f.read_text()) for f in FILES) for c in s["tests"]]

pytestmark = pytest.mark.skipif(not FILES, reason="the data set sql_on_fhir_v2_tests is not in LOCUM_DATA_DIR")


def bag(rows: list[dict[str, Any]]) -> Counter[str]:
    """Rows without their order, which a view does not define."""
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.parametrize(("resources", "case"), CASES)
def test_case(resources: list[dict[str, Any]], case: dict[str, Any]) -> None:
    if case.get("expectError"):
        with pytest.raises(LocumError):
            list(run_view(case["view"], resources))
        return
    rows = list(run_view(case["view"], resources))
    assert bag(rows) == bag(case["expect"])
    if "expectColumns" in case:
        assert list(rows[0]) == case["expectColumns"]


def test_the_suite_is_whole() -> None:
    assert len(CASES) == 134
