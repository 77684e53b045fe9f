"""A scenario's page says what was asked and found, and what protected it; it loads nothing and escapes what it is given."""

from __future__ import annotations

import re
from typing import Any

from locum.report import plots, scenario_page

EVIL = "<script>alert(1)</script>"
LINES = [
    {"who": "pooled", "metric": "AUC", "value": 0.7921, "ci95": [0.78, 0.8], "reference": 0.792, "note": "5,800 patients"},
    {"who": "federated", "metric": "AUC", "value": 0.792, "ci95": [0.78, 0.8], "reference": None, "note": EVIL},
    {"who": EVIL, "metric": "AUC", "value": None, "ci95": None, "reference": None, "note": "one patient: no model"},
]
COST = {"mode": "masked", "metric": "AUC", "value": 0.792, "difference": 0.0, "eps": None, "delta": None, "studies": 1, "rounds": 12,
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


def test_little_is_enough() -> None:
    text = made(figures={}, protection=[], costs=[], studies=None, files=None, machine="", outcome={"lines": [LINES[1]]}, quick=True)
    assert "What each mode costs" not in text
    assert "Reference" not in text
    assert "Smaller sizes" in text
