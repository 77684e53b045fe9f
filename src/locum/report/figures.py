"""The figures of a run: what each step's result, plain JSON data, can be drawn as."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from locum.report import plots

Result = Mapping[str, Any]
RATIOS = ("hazard_ratio", "odds_ratio", "rate_ratio", "relative_risk_ratio")
_UNIT = "unit of time"
_SPELT = {"d": "days", "wk": "weeks", "mo": "months", "a": "years", "h": "hours", "min": "minutes"}
"""UCUM's units of time in words."""
MOST = 60
"""Rows of one picture; of more coefficients those are drawn whose |z| is largest, of more bars the first."""


def figures_of(results: Mapping[str, Any], study: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Title -> SVG text of every figure of a run. results: step -> its result; steps without a figure add none. study: the manifest as plain
    data, for the units."""
    return {title: svg for name, result in results.items() for title, svg in figures_of_step(name, result, study).items()}


def figures_of_step(name: str, result: Any, study: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Title -> SVG text of one step's figures; every title begins with the step's name."""
    out: dict[str, str] = {}
    if isinstance(result, Mapping):
        result = {**result, _UNIT: _unit_of_time(name, study or {})}
        for draw, needs in _FIGURES:
            if all(result.get(key) for key in needs):
                out |= draw(name, result)
    return out


def files_of(figures: Mapping[str, str]) -> dict[str, str]:
    """File name -> SVG text: the titles in small letters, digits and hyphens; alike ones are numbered."""
    out: dict[str, str] = {}
    for title, svg in figures.items():
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80] or "figure"
        n = 1
        while (file := f"{slug}{'' if n == 1 else f'-{n}'}.svg") in out:
            n += 1
        out[file] = svg
    return out


def ratio_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """What e^coefficient is called in these rows; '' if it is not among them."""
    return next((name for name in RATIOS if all(name in r for r in rows)), "")


def _unit_of_time(step: str, study: Mapping[str, Any]) -> str:
    """The unit of the variable that the step names as its time; '' where there is none."""
    time = next((s.get("time", "") for s in study.get("plan", ()) if s.get("name") == step), "")
    variable = study.get("data", {}).get("variables", {}).get(time) if isinstance(time, str) else None
    unit = str((variable or {}).get("unit") or "")
    return _SPELT.get(unit, unit)


def _coefficients(step: str, result: Result) -> dict[str, str]:
    rows = result["coefficients"]
    name = ratio_of(rows)
    if not name or not all("se" in r for r in rows):
        return {}
    shown = [r for r in rows if not r["name"].endswith("(intercept)")]
    more = ""
    if len(shown) > MOST:
        strongest = sorted(shown, key=lambda r: -abs(r["coef"] / r["se"]) if r["coef"] is not None and r["se"] else 0.0)[:MOST]
        shown, more = [r for r in shown if r in strongest], f", the {MOST} of {len(shown)} with the largest |z|"
    label = name.replace("_", " ")
    title = f"{step}: {label}s{more}"
    return {title: plots.forest([(r["name"], r[name], *(r.get(f"{name}_ci95") or r.get("ci95") or (None, None))) for r in shown], title=title, label=label)}


def _kaplan_meier(step: str, result: Result) -> dict[str, str]:
    groups = result["groups"]
    if any("survival" not in g for g in groups.values()):
        return _log_rank(step, result)
    curves = {name or "all": {**_curve(g), "at_risk": g["at_risk"], "n": g["n"]} for name, g in groups.items()}
    title = f"{step}: survival (Kaplan-Meier)"
    return {title: plots.kaplan_meier(curves, title=title, unit=result[_UNIT])}


def _log_rank(step: str, result: Result) -> dict[str, str]:
    if "chi_square" not in result:
        return {}
    title = f"{step}: events observed over expected"
    return {title: plots.bars([(n, g["observed"] / g["expected"] if g["expected"] else None) for n, g in result["groups"].items()], title=title, label="ratio")}


def _model_survival(step: str, result: Result) -> dict[str, str]:
    curve = result["survival"]
    if not isinstance(curve, Mapping) or not curve.get("times"):
        return {}
    c, title = _curve(curve), f"{step}: survival at the mean of the covariates"
    series = {"x": [0.0, *c["time"]], "y": [1.0, *c["survival"]], "low": [1.0, *c["low"]], "high": [1.0, *c["high"]]}
    return {title: plots.lines({"": series}, title=title, x=f"time ({result[_UNIT]})" if result[_UNIT] else "time", y="survival")}


def _curve(g: Result) -> dict[str, list[float]]:
    return {"time": g["times"], "survival": g["survival"], "low": g["ci95_low"], "high": g["ci95_high"]}


def _calibration(step: str, result: Result) -> dict[str, str]:
    title = f"{step}: calibration, {'test patients' if result.get('part') == 'test' else 'patients of part ' + repr(result.get('part', 'all'))}"
    return {title: plots.calibration(result["calibration_bins"], title=title)}


_POOLED = {
    "fixed": "common effect",
    "mantel_haenszel": "Mantel-Haenszel",
    "peto": "Peto",
    "DL": "random effects (DerSimonian-Laird)",
    "PM": "random effects (Paule-Mandel)",
    "REML": "random effects (REML)",
}


def _meta(step: str, result: Result) -> dict[str, str]:
    found = {key: value for key, value in result.items() if isinstance(value, Mapping) and "ci95" in value}
    found |= result.get("random") or {}
    ratio = next((r for r in (*RATIOS, "risk_ratio") if any(r in value for value in found.values())), "")
    rows: list[dict[str, Any]] = []
    for key, value in found.items():
        rows.append(_estimate(_POOLED.get(key, key.replace("_", " ")), value, ratio, summary=True))
        if value.get("hartung_knapp"):
            rows.append({**_estimate("  with Hartung-Knapp's interval", value["hartung_knapp"], ratio), "value": rows[-1]["value"]})
        if value.get("prediction_interval95"):
            low, high = (math.exp(min(v, 700.0)) if ratio else v for v in value["prediction_interval95"])
            rows.append({"name": "  in a new site (prediction)", "value": rows[-1]["value"], "low": low, "high": high})
    label = (ratio or str(result.get("measure", "effect"))).replace("_", " ")
    title = f"{step}: {label} over the sites"
    return {title: plots.forest(rows, title=title, label=label, log=bool(ratio))} if rows else {}


def _estimate(name: str, value: Result, ratio: str, *, summary: bool = False) -> dict[str, Any]:
    """A row of a forest plot."""
    low, high = value.get(f"{ratio}_ci95", value["ci95"]) if ratio else value["ci95"]
    return {"name": name, "value": value.get(ratio if ratio else "estimate"), "low": low, "high": high, "summary": summary}


def _effect(step: str, result: Result) -> dict[str, str]:
    out = {}
    both = (("weighted", result["effect"]), ("crude", result.get("crude") or {}))
    for name, log in (("difference", False), ("risk_ratio", True), ("odds_ratio", True)):
        rows = []
        for who, contrasts in both:
            got = contrasts.get(name)
            if got:
                value = got.get(name) if name in got else got.get("estimate")
                rows.append((who, value, *(got.get(f"{name}_ci95") or got.get("ci95") or (None, None))))
        if rows and any(r[1] is not None for r in rows):
            title = f"{step}: {name.replace('_', ' ')}"
            out[title] = plots.forest(rows, title=title, label=f"{name.replace('_', ' ')} of {result['outcome']}", log=log)
    return out


def _balance(step: str, result: Result) -> dict[str, str]:
    title, rows = f"{step}: balance of the arms", result["balance"][:MOST]
    bars = [(f"{r['name']}, {when}", None if r[key] is None else abs(r[key])) for r in rows for when, key in (("before", "smd_before"), ("after", "smd_after"))]
    return {title: plots.bars(bars, title=title, label="absolute standardised mean difference (above 0.1 is poor)")}


def _importance(step: str, result: Result) -> dict[str, str]:
    rows, title = [r for r in result["importance"] if r["splits"]][:30], f"{step}: importance of the features"
    return {title: plots.bars([(r["name"], r["gain"]) for r in rows], title=title, label="share of the gain of all splits")}


def _stopping(step: str, result: Result) -> dict[str, str]:
    loss, title = result["stopping"]["loss"], f"{step}: loss on held-out patients"
    return {title: plots.lines({"": list(enumerate(loss))}, title=title, x="trees", y="loss")}


def _components(step: str, result: Result) -> dict[str, str]:
    title = f"{step}: variance explained"
    rows = [(c["name"], c["share"], *(c.get("share_ci95") or (None, None))) for c in result["components"][:MOST]]
    return {title: plots.bars(rows, title=title, label="share of the variance")}


def _clusters(step: str, result: Result) -> dict[str, str]:
    found = [a for a in result["by_k"] if a.get("clusters")]
    best = next((a for a in found if a["k"] == result.get("best_by_silhouette")), None)
    out = {}
    if len(found) > 1:
        title = f"{step}: which number of clusters"
        out[title] = plots.lines({"": [(a["k"], a["silhouette"]) for a in found]}, title=title, x="clusters", y="mean silhouette (simplified)")
    if best:
        title = f"{step}: size of the {best['k']} clusters"
        out[title] = plots.bars([(f"cluster {i + 1}", c["patients"]) for i, c in enumerate(best["clusters"])], title=title, label="patients")
    return out


def _histogram(step: str, result: Result) -> dict[str, str]:
    edges, counts = result["edges"], result["counts"]
    if not isinstance(counts, Sequence) or len(edges) != len(counts) + 1:
        return {}
    title = f"{step}: distribution of {result.get('variable', 'the variable')}"
    if len(counts) > MOST:
        return {title: plots.lines({"": list(zip(edges, counts, strict=False))}, title=title, x=str(result.get("variable", "")), y="patients")}
    names = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    hidden = f"hidden: fewer than {result['threshold']}, or would tell of such" if result.get("threshold") else "not known"
    return {title: plots.bars(list(zip(names, counts, strict=True)), title=title, label="values", missing=hidden)}


def _gwas(step: str, result: Result) -> dict[str, str]:
    from locum.report.gwas import hits_of, qq_of

    titles = (f"{step}: quantiles of {result['tested']:,} variants", f"{step}: the {len(result['hits'])} variants with the smallest p")
    return {titles[0]: qq_of(dict(result), title=titles[0]), titles[1]: hits_of(dict(result), title=titles[1])}


def _alone(step: str, result: Result) -> dict[str, str]:
    out = {}
    for metric in ("concordance", "accuracy"):
        rows = [
            (name, result.get(f"{who}_{metric}")) for who, name in (("federated", "federated"), ("local", "each site alone"), ("majority", "majority class"))
        ]
        rows = [r for r in rows if r[1] is not None]
        if rows:
            title = f"{step}: {metric}"
            out[title] = plots.bars(rows, title=title, label=f"{metric}, within sites" if metric == "concordance" else metric)
    return out


# What a result needs to hold for a figure, and who draws it.
_FIGURES: tuple[tuple[Callable[[str, Result], dict[str, str]], tuple[str, ...]], ...] = (
    (_coefficients, ("coefficients",)),
    (_kaplan_meier, ("groups",)),
    (_model_survival, ("survival",)),
    (_calibration, ("calibration_bins",)),
    (_meta, ("fixed", "measure")),
    (_effect, ("effect", "arms")),
    (_balance, ("balance", "arms")),
    (_importance, ("importance", "trees")),
    (_stopping, ("stopping",)),
    (_components, ("components",)),
    (_clusters, ("by_k",)),
    (_histogram, ("edges", "counts")),
    (_gwas, ("hits", "qq")),
    (_alone, ("sites_fitted",)),
)
