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
    others: Sequence[Mapping[str, Any]] = (),
    costs: Sequence[Mapping[str, Any]] = (),
    studies: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    machine: str = "",
    quick: bool = False,
) -> str:
    """HTML, with the same policy as a run's page: no script, nothing loaded.

    scenario: {"name", "title", "question", "mode"}. outcome: an outcome as plain data, {"lines": [...], "notes": [...]}; each line {"who", "metric",
    "value", "ci95", "reference", "note"}. figures: name -> SVG text from `locum.report.plots`, shown as it is. protection: what protected the
    updates, a sentence each. others: the answers of further modes, each an outcome with "mode" and "protection". costs: of each mode {"mode",
    "metric", "value", "difference", "eps", "delta", "sites", "studies", "rounds", "sent_per_site" in bytes, "seconds", "same_model"}. studies: name -> digest
    of what ran. files: name -> text of the study files. machine: where it ran, in words. quick: smaller sizes were used.
    """
    return (
        environment()
        .get_template("scenario.html")
        .render(
            scenario={"name": "", "mode": "", **scenario},
            first=_answer(outcome),
            others=[{**_answer(o), "mode": o["mode"], "protection": list(o.get("protection", ()))} for o in others],
            figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - made by locum.report.plots, which escapes what it is given
            protection=list(protection),
            costs=[cost_row(c) for c in costs],
            studies=dict(studies or {}),
            files=dict(files or {}),
            machine=machine,
            quick=quick,
        )
    )


def _answer(outcome: Mapping[str, Any]) -> dict[str, Any]:
    lines = outcome["lines"]
    return {"measures": by_measure(lines), "referenced": any(x.get("reference") is not None for x in lines), "notes": list(outcome.get("notes", ()))}


def by_measure(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, str]]]]:
    """Lines as text, gathered by measure in the order in which measures first appear; the figures of one measure have the same decimals."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for x in lines:
        groups.setdefault(str(x["metric"]), []).append(x)
    return [(metric, [_line(x, _decimals(of)) for x in of]) for metric, of in groups.items()]


def figure(value: float | None, decimals: int | None = 4) -> str:
    """A number in a table; '-' for None. decimals: None for a whole number; what they would round to nothing is written with its power of ten."""
    if value is None:
        return "-"
    if decimals is None:
        return f"{value:,.0f}"
    return f"{value:.1e}" if value and abs(value) < 10.0**-decimals else f"{value:,.{decimals}f}"


def _decimals(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """Of the figures of one measure: four up to 1, three up to 10, two up to 1,000; none for counts."""
    values = [float(v) for x in lines for v in (x.get("value"), x.get("reference"), *(x.get("ci95") or ())) if v is not None]
    whole = bool(values) and all(v.is_integer() for v in values)
    if whole and (max(values) > 1 or not any(x.get("ci95") for x in lines)):
        return None
    largest = max((abs(v) for v in values), default=0.0)
    return 4 if largest <= 1 else 3 if largest < 10 else 2 if largest < 1000 else None


def _line(x: Mapping[str, Any], decimals: int | None) -> dict[str, str]:
    ends = x.get("ci95")
    return {
        "who": str(x["who"]),
        "value": figure(x["value"], decimals),
        "interval": f"{figure(ends[0], decimals)} to {figure(ends[1], decimals)}" if ends else "",
        "reference": "" if x.get("reference") is None else f"{x['reference']:.6g}",
        "note": str(x.get("note", "")),
    }


def cost_row(c: Mapping[str, Any]) -> dict[str, str]:
    """What one mode costs, as text; '-' where it does not apply."""
    eps, delta, sent, same, value = (c.get(k) for k in ("eps", "delta", "sent_per_site", "same_model", "value"))
    decimals = _decimals([{"value": value}])
    return {
        "mode": str(c["mode"]),
        "metric": str(c.get("metric", "")),
        "value": figure(value, decimals),
        "difference": "-" if c.get("difference") is None else "0" if abs(c["difference"]) < 5e-5 else f"{c['difference']:+.4f}",
        "sites": "-" if c.get("sites") is None else f"{c['sites']:,}",
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
