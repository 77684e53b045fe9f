"""Bars, lines and points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from locum.report.plots.axes import Axis, frame, gutter, labels, nice_ticks, padded
from locum.report.plots.draw import (
    COLOURS,
    GRID,
    INK,
    MANY,
    QUIET,
    PlotError,
    circle,
    dashed,
    empty,
    field,
    heading,
    key,
    line,
    number,
    numbers,
    path,
    rect,
    same,
    shown,
    svg,
    text,
    wide,
)


def bars(rows: Sequence[Any], *, title: str, label: str, missing: str = "not known") -> str:
    """rows: (name, value), optionally with low and high of an interval; tuples in that order or mappings with those names. label: of the axis.
    Bars start at 0. missing: what is written where the value is None."""
    names = ("name", "value", "low", "high")
    got = [field(r, names, "bars") for r in rows]
    value_of, low_of, high_of = ([number(r[k], f"bars, '{k}',") for r in got] for k in names[1:])
    parts = list(zip([str(r["name"]) for r in got], value_of, low_of, high_of, strict=True))
    if not parts:
        return empty(title)
    left = min(300.0, max(80.0, max(wide(name, 13) for name, *_ in parts) + 24))
    width = 720.0
    drawn, top = heading(title, width)
    top += 8
    bottom = top + 24.0 * len(parts)
    low, high = padded([*value_of, *low_of, *high_of, 0.0], zero=True, share=0.02)
    x = Axis(low, high, left + (60 if low < 0 else 0), width - 90)
    ticks = x.ticks(6)
    for tick, name in zip(ticks, labels(ticks), strict=True):
        drawn += [line(x(tick), top, x(tick), bottom, stroke=GRID), text(x(tick), bottom + 17, name, anchor="middle", size=11, fill=QUIET)]
    for k, (name, value, below, above) in enumerate(parts):
        y = top + 24.0 * k + 12
        drawn.append(text(left - 10, y + 4.5, name, anchor="end", size=13, width=left - 18))
        if not math.isfinite(value):
            drawn.append(text(x(0.0) + 6, y + 4.5, missing, size=12, fill=QUIET))
            continue
        a, b = sorted((x(0.0), x(value)))
        drawn.append(rect(a, y - 8, b - a, 16, COLOURS[0], opacity=0.85))
        if math.isfinite(below) and math.isfinite(above):
            drawn.append(line(x(below), y, x(above), y, stroke=INK, width=1.5))
            drawn += [line(x(v), y - 4, x(v), y + 4, stroke=INK, width=1.5) for v in (below, above)]
            a, b = min(a, x(below)), max(b, x(above))
        at, anchor = (b + 6, "start") if value >= 0 else (a - 6, "end")
        drawn.append(text(at, y + 4.5, shown(value), anchor=anchor, size=12, fill=QUIET))
    drawn.append(line(x(0.0), top, x(0.0), bottom, stroke=INK))
    drawn.append(text((x.start + x.end) / 2, bottom + 38, label, anchor="middle", size=12, fill=QUIET, width=width - 100))
    return svg(width, bottom + 50, title, drawn)


def lines(series: Mapping[str, Any], *, title: str, x: str, y: str) -> str:
    """series: name -> points (x, y) in order of x, or {"x": [...], "y": [...]} with optional "low" and "high" of a band. x, y: names of the axes."""
    parts = {str(name): _points(one) for name, one in series.items()}
    parts = {name: p for name, p in parts.items() if any(math.isfinite(a) and math.isfinite(b) for a, b in zip(p["x"], p["y"], strict=True))}
    if not parts:
        return empty(title)
    drawn, across, up = _field(title, parts, x, y)
    for k, p in enumerate(parts.values()):
        known = [j for j in range(len(p["low"])) if math.isfinite(p["x"][j]) and math.isfinite(p["low"][j]) and math.isfinite(p["high"][j])]
        upper, lower = ([(across(p["x"][j]), up(p[name][j])) for j in known] for name in ("high", "low"))
        drawn.append(path([*upper, *lower[::-1]], fill=COLOURS[k % len(COLOURS)], opacity=0.16))
    for k, p in enumerate(parts.values()):
        places = [(a, b) for a, b in zip(p["x"], p["y"], strict=True) if math.isfinite(a)]
        run: list[tuple[float, float]] = []
        for a, b in [*places, (math.nan, math.nan)]:  # a missing value breaks the line
            if math.isfinite(b):
                run.append((across(a), up(b)))
            elif run:
                colour = COLOURS[k % len(COLOURS)]
                drawn.append(path(_thin(run), stroke=colour, width=2, dash=dashed(k)))
                drawn += [circle(*at, 3, colour) for at in (run if len(places) <= 30 or len(run) == 1 else ())]
                run = []
    return svg(720, up.start + 52, title, drawn)


def scatter(points: Any, *, title: str, x: str, y: str, diagonal: bool = False) -> str:
    """points: (x, y) pairs, or name -> pairs for groups in several colours, or name -> {"x": [...], "y": [...]}. Points on one pixel are drawn once.
    diagonal: the line x = y."""
    groups = points if isinstance(points, Mapping) else {"": points}
    parts = {str(name): _points(one) for name, one in groups.items()}
    for p in parts.values():
        known = [(a, b) for a, b in zip(p["x"], p["y"], strict=True) if math.isfinite(a) and math.isfinite(b)]
        p["x"], p["y"] = [a for a, _ in known], [b for _, b in known]
    parts = {name: p for name, p in parts.items() if p["x"]}
    if not parts:
        return empty(title)
    drawn, across, up = _field(title, parts, x, y)
    if diagonal:
        a, b = max(across.low, up.low), min(across.high, up.high)
        drawn.append(line(across(a), up(a), across(b), up(b), stroke=QUIET, dash="4 4") if b > a else "")
    for k, p in enumerate(parts.values()):
        places = {(round(across(a)), round(up(b))) for a, b in zip(p["x"], p["y"], strict=True)}
        colour = COLOURS[k % len(COLOURS)]
        if len(places) < 800:
            r = 4.0 if len(places) < 60 else 2.5
            drawn.append(f'<g fill-opacity=".75">{"".join(circle(a, b, r, colour) for a, b in sorted(places))}</g>')
        else:  # dots as one path, on a grid of two pixels
            dots = "".join(f"M{2 * a} {2 * b}h0" for a, b in sorted({(a // 2, b // 2) for a, b in places}))
            drawn.append(f'<path d="{dots}" stroke="{colour}" stroke-width="3" stroke-linecap="round" stroke-opacity=".75"/>')
    return svg(720, up.start + 52, title, drawn)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of very many points the first, lowest, highest and last in each column of pixels (Jugel et al., 2014, VLDB 7:797)."""
    if len(points) <= 2000:
        return points
    out: list[tuple[float, float]] = []
    for _, column in groupby(points, key=lambda p: round(p[0])):
        here = list(column)
        kept = {0, len(here) - 1, *(f(range(len(here)), key=lambda j: here[j][1]) for f in (min, max))}
        out += [here[j] for j in sorted(kept)]
    return out


def _field(title: str, parts: Mapping[str, Mapping[str, list[float]]], x: str, y: str) -> tuple[list[str], Axis, Axis]:
    """Title, legend and axes for named points."""
    low, high = padded(v for p in parts.values() for v in (*p["y"], *p["low"], *p["high"]))
    start, end = padded((v for p in parts.values() for v in p["x"]), share=0.02)
    drawn, top = heading(title, 720)
    left = gutter(nice_ticks(low, high, 6), y)
    legend, tall = key(list(parts), top + 4, left, 720 - left - 20) if list(parts) != [""] else ([], 0.0)
    top += tall + 10
    across, up = Axis(start, end, left, 696), Axis(low, high, top + 320, top)
    whole = all(v.is_integer() for p in parts.values() for v in p["x"] if math.isfinite(v))  # rounds, trees: no ticks between them
    places = [t for t in across.ticks(8) if t.is_integer() or not whole]
    ticks = list(zip(places, labels(places), strict=True))
    return [*drawn, *legend, *frame(across, up, x_label=x, y_label=y, x_ticks=ticks, most=(8, 6))], across, up


def _points(one: Any) -> dict[str, list[float]]:
    if isinstance(one, Mapping):
        got = {name: numbers(one.get(name), f"points, '{name}',") for name in ("x", "y", "low", "high")}
        same("points", got["x"], got["y"])
        if got["low"] or got["high"]:
            same("points", got["x"], got["low"], got["high"])
        return got
    if isinstance(one, str | bytes) or not hasattr(one, "__iter__"):
        raise PlotError("The plot's points are no list of (x, y).", fix="give pairs of numbers")
    pairs = [field(tuple(p) if hasattr(p, "__iter__") else (), ("x", "y"), "points") for p in one]
    if len(pairs) > MANY:
        raise PlotError(f"The plot has {len(pairs):,} points; at most {MANY:,} are drawn.", fix="summarise them first")
    return {"x": [number(p["x"], "points, 'x',") for p in pairs], "y": [number(p["y"], "points, 'y',") for p in pairs], "low": [], "high": []}
