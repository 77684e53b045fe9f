"""One scenario's answer as a self-contained HTML page: the question, the table, the figures, what each mode costs, and the studies to sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from locum.report.page import environment


def scenario_page(
    *,
    scenario: Mapping[str, Any],
    outcome: Mapping[str, Any],
    figures: Mapping[str, str],
    protection: Sequence[str] = (),
    costs: Sequence[Mapping[str, Any]] = (),
    studies: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    machine: str = "",
    quick: bool = False,
) -> str:
    """HTML, with the same policy as a run's page: no script, nothing loaded.

    scenario: {"name", "title", "question", "mode"}. outcome: an outcome as plain data, {"lines": [...], "notes": [...]}; each line {"who", "metric",
    "value", "ci95", "reference", "note"}. figures: name -> SVG text from `locum.report.plots`, shown as it is. protection: what protected the
    updates, a sentence each. costs: of each mode {"mode", "metric", "value", "difference", "eps", "delta", "studies", "rounds",
    "sent_per_site" in bytes, "seconds", "same_model"}. studies: name -> digest of what ran. files: name -> text of the study files.
    machine: where it ran, in words. quick: smaller sizes were used.
    """
    return (
        environment()
        .get_template("scenario.html")
        .render(
            scenario={"name": "", "mode": "", **scenario},
            lines=[_line(x) for x in outcome["lines"]],
            referenced=any(x.get("reference") is not None for x in outcome["lines"]),
            notes=list(outcome.get("notes", ())),
            figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - made by locum.report.plots, which escapes what it is given
            protection=list(protection),
            costs=[_cost(c) for c in costs],
            studies=dict(studies or {}),
            files=dict(files or {}),
            machine=machine,
            quick=quick,
        )
    )


def figure(value: float | None) -> str:
    """A number in a table; '-' for None."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4f}"


def _line(x: Mapping[str, Any]) -> dict[str, str]:
    ends = x.get("ci95")
    return {
        "who": str(x["who"]),
        "metric": str(x["metric"]),
        "value": figure(x["value"]),
        "interval": _interval(ends) if ends else "",
        "reference": "" if x.get("reference") is None else figure(x["reference"]),
        "note": str(x.get("note", "")),
    }


def _interval(ends: Sequence[float]) -> str:
    if any(not float(v).is_integer() for v in ends) and all(abs(v) < 1e4 for v in ends) and any(abs(v) >= 1e-3 for v in ends):
        return f"{ends[0]:.4f} to {ends[1]:.4f}"  # 0 and 1 with the same decimals as the other end
    return f"{figure(ends[0])} to {figure(ends[1])}"


def _cost(c: Mapping[str, Any]) -> dict[str, str]:
    eps, delta, sent, same = (c.get(k) for k in ("eps", "delta", "sent_per_site", "same_model"))
    return {
        "mode": str(c["mode"]),
        "federated": f"{c.get('metric', '')} {figure(c.get('value'))}".strip(),
        "difference": "-" if c.get("difference") is None else f"{c['difference']:+.4f}",
        "eps": "-" if eps is None else f"{eps:g}" + (f", {delta:g}" if delta else ""),
        "rounds": "-" if c.get("rounds") is None else f"{c['rounds']:,}",
        "sent": "-" if sent is None else _size(sent),
        "seconds": "-" if c.get("seconds") is None else f"{c['seconds']:.1f}",
        "same": {True: "yes, bit for bit", False: "no"}.get(same, "-") if same is not None else "-",
    }


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(n) < 1000:
            return f"{n:.3g} {unit}" if unit != "B" else f"{n:.0f} B"
        n /= 1000
    return f"{n:.3g} GB"
