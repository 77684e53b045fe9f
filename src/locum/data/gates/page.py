"""The report as one HTML page for the data manager, with histograms: no script, nothing loaded from elsewhere. It stays at the site."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from locum.data.gates.histogram import Histogram
from locum.data.gates.report import GATES, Example, Finding, Report, VariableSummary, worst
from locum.data.gates.words import number
from locum.errors import DataError
from locum.study.manifest import Variable

_ENV = Environment(loader=PackageLoader("locum.data.gates", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
WIDTH, HEIGHT = 220, 44
_MOST_CODES = 20
_MOST_LABELS = 12


def page(report: Report, *, title: str, source: str, examples: bool = True, seen: Mapping[str, Any] | None = None) -> str:
    """HTML of a report. title: of the study. source: the table's name. examples: whether cells are shown, to be read on this machine only.
    seen: what `summary.outgoing` would let out."""
    return _ENV.get_template("check.html").render(
        report=report,
        title=title,
        source=source,
        examples=examples,
        seen=seen,
        of_table=[_finding(f, examples) for f in report.about("")],
        variables=[_line(report, name, v, examples) for name, v in report.variables.items()],
        absent=[_finding(f, examples) for f in report.findings if f.variable and f.variable not in report.variables],
        counts={r: len(report.of(r)) for r in ("REFUSE", "WARN", "PASS")},
    )


def write_page(path: Path, html: str) -> None:
    """Write it for its owner's eyes only (mode 0600), over such a page at most. Raises `DataError`."""
    if os.path.lexists(path) and not _is_page(path):
        raise DataError(f"{path} is there already, and is no page of this kind.", why="It may be a table.", fix="choose another name, or remove it first")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.chmod(path, 0o600)  # a file that was there before keeps its mode otherwise
            file.write(html)
    except OSError as error:
        raise DataError(f"The page cannot be written to {path}.", why=error.strerror or "", fix="name a file in a folder that you may write to") from None


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(15).lower() == b"<!doctype html>"
    except OSError:
        return False


def _finding(f: Finding, examples: bool) -> dict[str, Any]:
    shown: tuple[Example, ...] = f.examples if examples else ()
    return {"variable": f.variable, "gate": f.gate, "result": f.result, "what": f.what, "fix": f.fix, "examples": shown}


def _line(report: Report, name: str, s: VariableSummary, examples: bool) -> dict[str, Any]:
    v, findings = s.variable, report.about(name)
    return {
        "name": name,
        "label": v.label,
        "kind": ", ".join(p for p in (v.type, v.unit, v.role if v.role != "feature" else None) if p),
        "allowed": _allowed(v),
        "result": worst(findings),
        "gates": [(g, worst([f for f in findings if f.gate == g])) for g in GATES if any(f.gate == g for f in findings)],
        "values": s.values,
        "missing": s.missing,
        "share": s.missing / s.rows if s.rows else 0.0,
        "recoded": s.recoded,
        "moments": "" if s.mean is None or v.type == "date" else f"{number(s.mean)} ± {number(s.sd or 0.0)}",
        "median": f"{number(s.quantiles[2], v)} ({number(s.quantiles[1], v)} – {number(s.quantiles[3], v)})" if s.quantiles else "",
        "plot": plot(s.shown, v) if s.shown is not None and s.shown.total else None,
        "findings": [_finding(f, examples) for f in findings if f.result != "PASS"],
        "unknown": [*s.unknown.items()][:_MOST_CODES] if examples else [],
    }


def _allowed(v: Variable) -> str:
    hard = "" if v.minimum is None and v.maximum is None else f"{_end(v.minimum, v)} to {_end(v.maximum, v)}"
    usual = f"usually {number(v.plausible[0], v)} to {number(v.plausible[1], v)}" if v.plausible else ""
    return "; ".join(p for p in (hard, usual) if p)


def _end(limit: float | None, v: Variable) -> str:
    return "any" if limit is None else number(limit, v)


def plot(h: Histogram, v: Variable) -> dict[str, Any]:
    """A histogram as bars in a box of WIDTH by HEIGHT pixels, with what is written below it; bars outside the hard range are marked."""
    top, k = max(h.counts) or 1, len(h.counts)
    span = (h.edges[-1] - h.edges[0]) or 1.0
    coded = v.type in ("boolean", "category")
    names = ("0", "1") if v.type == "boolean" else v.categories
    whole = v.type == "integer" and h.edges[1] - h.edges[0] == 1  # bins of one number each, which stands in their middle
    bars = []
    for i, count in enumerate(h.counts):
        left, right = ((e - h.edges[0]) / span * WIDTH for e in h.edges[i : i + 2])
        height = max(HEIGHT * count / top, 1.0) if count else 0.0
        middle = (h.edges[i] + h.edges[i + 1]) / 2
        out = not coded and ((v.minimum is not None and middle < v.minimum) or (v.maximum is not None and middle > v.maximum))
        label = names[i] if coded else number(middle) if whole else f"{number(h.edges[i], v)} to {number(h.edges[i + 1], v)}"
        gap = min(1.5, (right - left) / 4)
        bar = {"x": round(left + gap / 2, 2), "width": round(max(right - left - gap, 0.5), 2), "y": round(HEIGHT - height, 2), "height": round(height, 2)}
        bars.append({**bar, "out": out, "title": f"{label}: {count:,}"})
    ends = [] if coded else [number(h.edges[0] + whole / 2, v), number(h.edges[-1] - whole / 2, v)]
    labels = [f"{n} {c:,}" for n, c in zip(names, h.counts, strict=True)] if coded and k <= _MOST_LABELS else [f"{k} categories"] if coded else []
    outside = [f"{h.below:,} below" if h.below else "", f"{h.above:,} above" if h.above else ""]
    return {"bars": bars, "ends": ends, "labels": labels, "outside": [o for o in outside if o], "width": WIDTH, "height": HEIGHT}
