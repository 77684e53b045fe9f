"""A scenario's page says what was asked and found, and what protected it; it loads nothing and escapes what it is given."""

from __future__ import annotations

import re
from typing import Any

from locum.report import plots, scenario_page
from locum.report.scenario import by_measure

EVIL = "<script>alert(1)</script>"
LINES = [
    {"who": "pooled", "metric": "AUC", "value": 0.7921, "ci95": [0.78, 0.8], "reference": 0.792, "note": "5,800 patients"},
    {"who": "federated", "metric": "AUC", "value": 0.792, "ci95": [0.78, 0.8], "reference": None, "note": EVIL},
    {"who": EVIL, "metric": "AUC", "value": None, "ci95": None, "reference": None, "note": "one patient: no model"},
]
COST = {"mode": "masked", "metric": "AUC", "value": 0.792, "difference": 0.0, "eps": None, "delta": None, "sites": 7, "studies": 1, "rounds": 12,
        "sent_per_site": 1234567.0, "seconds": 3.25, "same_model": None}  # fmt: skip


def made(**change: Any) -> str:
    return scenario_page(
        **{
            "scenario": {"name": "stroke", "title": "Stroke", "question": f"Who {EVIL}?", "mode": "masked"},
            "outcome": {"lines": LINES, "notes": [f"A limit {EVIL}"], "figures": [], "metrics": {}},
            "figures": {"forest": plots.forest([(EVIL, 1.0, 0.5, 2.0)], title=EVIL, label="OR")},
            "protection": ["updates: masked"],
            "costs": [COST, {**COST, "mode": "private", "difference": -0.01, "eps": 4.0, "delta": 1e-6, "same_model": True}],
            "studies": {"stroke": "d" * 64},
            "files": {"stroke.toml": f'title = "{EVIL}"'},
            "machine": "2 cores",
            **change,
        }
    )


def test_it_stands_alone_and_escapes() -> None:
    text = made()
    assert not re.search(r"<(script|img|link|iframe)|\b(src|href|on[a-z]+)=", text)
    assert "default-src 'none'" in text
    assert EVIL not in text
    assert "<svg" in text


def test_it_tells_everything_it_was_given() -> None:
    text = made()
    for part in (
        "updates: masked",
        "0.7921",
        "0.7800 to 0.8000",
        "one patient: no model",
        "Reference",
        "1.23 MB",
        "-0.0100",
        "4, 1e-06",
        "yes, bit for bit",
        "d" * 64,
        "2 cores",
    ):
        assert part in text, part
    assert '<td class="n">-</td>' in text, "no answer is a dash"


def test_further_modes_are_there_and_folded() -> None:
    text = made(others=[{"mode": "private", "protection": [f"noise {EVIL}"], "lines": [{**LINES[0], "value": 0.7123}], "notes": ["Noise is drawn afresh."]}])
    head, _, rest = text.partition("<summary>The answer in mode private</summary>")
    assert "0.7123" not in head
    for part in ("0.7123", "Noise is drawn afresh."):
        assert part in rest
    assert EVIL not in text


def test_figures_of_a_measure_stand_together_with_the_same_decimals() -> None:
    lines = [
        {"who": "pooled", "metric": "hazard ratio", "value": 1.97, "ci95": [1.3322, 2.919], "reference": 2.0, "note": ""},
        {"who": "each site alone", "metric": "sites that can fit", "value": 0.0},
        {"who": "federated", "metric": "hazard ratio", "value": 2},
        {"who": "federated", "metric": "largest difference", "value": 3.04e-9},
        {"who": "federated", "metric": "patients", "value": 19285.0},
    ]
    found = by_measure(lines)
    assert [measure for measure, _ in found] == ["hazard ratio", "sites that can fit", "largest difference", "patients"]
    first, second = found[0][1]
    assert (first["value"], first["interval"], first["reference"], second["value"]) == ("1.970", "1.332 to 2.919", "2", "2.000")
    assert [of[0]["value"] for _, of in found[1:]] == ["0", "3.0e-09", "19,285"]


def test_little_is_enough() -> None:
    text = made(figures={}, protection=[], costs=[], studies=None, files=None, machine="", outcome={"lines": [LINES[1]]}, quick=True)
    assert "What each mode costs" not in text
    assert "Reference" not in text
    assert "Smaller sizes" in text
