"""Cards and papers of one finished run, made of what happened and of nothing else: `cards(facts)` gives file name -> bytes.

A field that nobody stated says so, and `missing(facts)` lists it with the manifest key that would fill it. The same facts give the same bytes:
times are the run's. Nothing here judges whether a law is kept; the files are fields that laws and standards name, filled from the run.
"""

from __future__ import annotations

from collections.abc import Callable

from locum.governance.cards import chai, croissant, dpia, hti1, pccp, provenance, readme, ropa, sbom
from locum.governance.cards.facts import NOT_STATED, Facts, Gap, Gaps, Package
from locum.governance.cards.schemas import schema

__all__ = ["FILES", "NOT_STATED", "Facts", "Gap", "Package", "cards", "missing", "schema"]

FILES: dict[str, Callable[[Facts, Gaps], bytes]] = {
    "README.md": readme.render,
    "model-card.chai.xml": chai.render,
    "provenance.intoto.jsonl": provenance.render,
    "sbom.cdx.json": sbom.render,
    "datasets.croissant.json": croissant.render,
    "dpia.json": dpia.render,
    "dpia.md": dpia.render_text,
    "ropa.json": ropa.render,
    "pccp.json": pccp.render,
    "hti1.json": hti1.render,
}


def cards(facts: Facts) -> dict[str, bytes]:
    """Every file, by name."""
    return {name: render(facts, Gaps(name)) for name, render in FILES.items()}


def missing(facts: Facts) -> list[Gap]:
    """What the files leave open, file by file."""
    out: list[Gap] = []
    for name, render in FILES.items():
        gaps = Gaps(name)
        render(facts, gaps)
        out += gaps.found
    return out
