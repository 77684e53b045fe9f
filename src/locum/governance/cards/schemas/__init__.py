"""The published JSON Schemas of those papers for which no body has published one, and the XML Schema of the CHAI card's elements.

dpia, ropa: the points of GDPR, Regulation (EU) 2016/679, articles 35(7) and 30(1). pccp: the three parts of a predetermined change control plan
(FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan for AI-Enabled Device Software Functions, August 2025).
hti1: the 31 source attributes of 45 CFR 170.315(b)(11)(iv)(B).
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal

Paper = Literal["dpia", "ropa", "pccp", "hti1"]


def schema(paper: Paper) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a paper."""
    found: dict[str, Any] = json.loads((resources.files(__name__) / f"{paper}.schema.json").read_text(encoding="utf-8"))
    return found


def chai() -> bytes:
    """The XML Schema of the elements of a CHAI Applied Model Card v0.2, in our words."""
    return (resources.files(__name__) / "chai-applied-model-card-0.2.xsd").read_bytes()
