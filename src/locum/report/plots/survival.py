"""Kaplan-Meier curves: steps, 95 % bands, and the numbers at risk below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from locum.report.plots.axes import Axis, frame, labels, nice_ticks
from locum.report.plots.draw import COLOURS, INK, PlotError, dashed, empty, heading, key, numbers, path, same, svg, text, wide


def kaplan_meier(curves: Mapping[str, Mapping[str, Any]], *, title: str, unit: str = "") -> str:
    """Survival over time. curves: name -> {"time", "survival", "low", "high"} after each event time, in order of time; optional "at_risk" at each of
    them, and "n" at the start. The number at risk below a tick is that of the next event time. unit: of the time.

    Raises `PlotError` for lists of different lengths, times out of order, or what is no probability.
    """
    parts = {str(name): _curve(curve) for name, curve in curves.items()}
    parts = {name: c for name, c in parts.items() if c["time"]}
    if not parts:
        return empty(title)
    width, plot = 720.0, 300.0
    right = max(c["time"][-1] for c in parts.values()) or 1.0
    ticks = nice_ticks(0.0, right, 7)
    tables = [name for name, c in parts.items() if c["at_risk"]]
    names = max((wide(name, 12) for name in tables), default=0.0)
    left = min(230.0, max(86.0, names + 50))
    drawn, top = heading(title, width)
    legend, tall = key(list(parts), top + 4, left, width - left - 20) if len(parts) > 1 or not tables else ([], 6.0)
    top += tall + 8
    x, y = Axis(0.0, right, left, width - 24), Axis(0.0, 1.0, top + plot, top)
    drawn += [*legend, *frame(x, y, x_label=f"time ({unit})" if unit else "time", y_label="survival", x_ticks=list(zip(ticks, labels(ticks), strict=True)))]
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(parts)}
    for name, c in parts.items():
        drawn.append(_band(c, x, y, colours[name], 0.16 if len(parts) <= 3 else 0.07))
    for k, (name, c) in enumerate(parts.items()):
        drawn.append(path(_steps(c["time"], c["survival"], x, y), stroke=colours[name], width=2, dash=dashed(k)))
    bottom = top + plot + 60
    if tables:
        drawn.append(text(12, bottom, "Number at risk", size=12, bold=True))
    for k, name in enumerate(tables):
        base = bottom + 19 + 18 * k
        drawn += [text(left - 34, base, name, anchor="end", size=12, fill=colours[name], width=left - 46)]
        for tick in ticks:
            drawn.append(text(x(tick), base, _at_risk(parts[name], tick), anchor="middle", size=11, fill=INK))
    return svg(width, bottom + 18 * len(tables) + 12 if tables else bottom - 10, title, drawn)


def _curve(curve: Mapping[str, Any]) -> dict[str, list[float]]:
    if not isinstance(curve, Mapping):
        raise PlotError("A survival curve is not a mapping of lists.", fix='give {"time": [...], "survival": [...], "low": [...], "high": [...]}')
    time, survival = (numbers(curve.get(name), f"survival curve, '{name}',") for name in ("time", "survival"))
    low, high, risk = (numbers(curve.get(name), f"survival curve, '{name}',") for name in ("low", "high", "at_risk"))
    same("survival curve", time, survival, *(x for x in (low, high, risk) if x))
    kept = [k for k, (t, s) in enumerate(zip(time, survival, strict=True)) if math.isfinite(t) and math.isfinite(s)]
    out = {name: [x[k] for k in kept] if x else [] for name, x in (("time", time), ("survival", survival), ("low", low), ("high", high), ("at_risk", risk))}
    if any(b < a for a, b in zip([0.0, *out["time"]], out["time"], strict=False)):
        raise PlotError("The times of a survival curve are not in order, or one is negative.", fix="sort them, from 0 on")
    if any(not -1e-9 <= s <= 1 + 1e-9 for s in (*out["survival"], *(v for v in (*out["low"], *out["high"]) if math.isfinite(v)))):
        raise PlotError("A survival is not between 0 and 1.", fix="give probabilities")
    return out | {"n": numbers([curve["n"]], "survival curve, 'n',") if curve.get("n") is not None else []}


def _steps(time: Sequence[float], value: Sequence[float], x: Axis, y: Axis) -> list[tuple[float, float]]:
    points, before = [(x(0.0), y(1.0))], 1.0
    for t, v in zip(time, value, strict=True):
        points += [(x(t), y(before)), (x(t), y(v))]
        before = v
    return points


def _band(c: Mapping[str, list[float]], x: Axis, y: Axis, colour: str, opacity: float) -> str:
    if not c["low"] or not c["high"]:
        return ""
    known = [k for k in range(len(c["time"])) if math.isfinite(c["low"][k]) and math.isfinite(c["high"][k])]
    time = [c["time"][k] for k in known]
    above, below = (_steps(time, [c[name][k] for k in known], x, y) for name in ("high", "low"))
    return path([*above, *below[::-1]], fill=colour, opacity=opacity)


def _at_risk(c: Mapping[str, list[float]], at: float) -> str:
    if at <= 0 and c["n"]:
        return f"{c['n'][0]:,.0f}"
    after = next((r for t, r in zip(c["time"], c["at_risk"], strict=True) if t >= at and math.isfinite(r)), None)
    return "" if after is None else f"{after:,.0f}"
