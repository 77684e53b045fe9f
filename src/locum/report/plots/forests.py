"""Forest plots: an estimate and its interval in each row, and a diamond where rows are combined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from locum.report.plots.axes import Axis, labels, padded
from locum.report.plots.draw import ALERT, COLOURS, GRID, INK, QUIET, circle, empty, field, heading, line, number, path, rect, shown, svg, text, wide

NAMES = ("name", "value", "low", "high", "weight", "summary")
BEYOND = 20.0
"""An interval that reaches further than this factor beyond all estimates ends in an arrow, so that the others stay legible."""


def forest(rows: Sequence[Any], *, title: str, label: str, log: bool = True) -> str:
    """rows: (name, value, low, high), optionally with a weight, which is the mark's area, and whether the row is a summary, drawn as a diamond;
    tuples in that order or mappings with those names. value None: 'not estimable'. label: of the axis. log: the axis, with the line of no
    effect at 1; otherwise at 0.
    """
    parts = [_row(r) for r in rows]
    if not parts:
        return empty(title)
    lines = [r for r in parts if _drawable(r, log)]
    low, high = _reach(lines, log)
    left = min(300.0, max(90.0, max(wide(r["name"], 14 if r["summary"] else 13) for r in parts) + 30))
    told = [_told(r, log) for r in parts]
    beside = max(wide(t, 12) for t in told) + 24
    width = max(720.0, left + beside + 300)
    drawn, top = heading(title, width)
    top += 14
    bottom = top + 26.0 * len(parts)
    x = Axis(low, high, left, width - beside - 10, log)
    nothing = 1.0 if log else 0.0
    ticks = x.ticks(6)
    end = -math.inf
    for tick, name in zip(ticks, [f"{t:g}" for t in ticks] if log else labels(ticks), strict=True):
        drawn.append(line(x(tick), top, x(tick), bottom, stroke=GRID))
        if x(tick) - wide(name, 11) / 2 > end + 4:
            drawn.append(text(x(tick), bottom + 17, name, anchor="middle", size=11, fill=QUIET))
            end = x(tick) + wide(name, 11) / 2
    if low <= nothing <= high:
        drawn.append(line(x(nothing), top - 4, x(nothing), bottom, stroke=ALERT, dash="3 3"))
    drawn.append(line(x.start, bottom, x.end, bottom, stroke=INK))
    heaviest = max((r["weight"] for r in lines if r["weight"] > 0), default=math.nan)
    for k, r in enumerate(parts):
        y = top + 26.0 * k + 13
        drawn.append(text(left - 14, y + 4.5, r["name"], anchor="end", size=13, bold=r["summary"], width=left - 24))
        drawn.append(text(width - beside + 8, y + 4.5, told[k], size=12, fill=QUIET, bold=r["summary"]))
        if _drawable(r, log):
            drawn.append(_mark(r, x, y, heaviest))
    drawn.append(text((x.start + x.end) / 2.0, bottom + 38, _named(label, log), anchor="middle", size=12, fill=QUIET))
    return svg(width, bottom + 52, title, drawn)


def _named(label: str, log: bool) -> str:
    more = [*([] if "95 %" in label else ["95 % interval"]), *(["log axis"] if log else [])]
    return f"{label} ({', '.join(more)})" if more else label


def _row(row: Any) -> dict[str, Any]:
    got = field(row, NAMES, "forest")
    figures = {name: number(got[name], f"forest, '{name}',") for name in NAMES[1:5]}
    return {"name": str(got["name"]), **figures, "summary": bool(got["summary"])}


def _drawable(r: Mapping[str, Any], log: bool) -> bool:
    return math.isfinite(r["value"]) and (r["value"] > 0 or not log)


def _told(r: Mapping[str, Any], log: bool) -> str:
    if not _drawable(r, log):
        return "not estimable"
    weight = f"   {r['weight']:.1%}" if 0 < r["weight"] <= 1 else ""
    if math.isnan(r["low"]) or math.isnan(r["high"]):
        return f"{_figure(r['value'])} (no interval){weight}"
    return f"{_figure(r['value'])} ({_figure(r['low'])} to {_figure(r['high'])}){weight}"


def _figure(value: float) -> str:
    return f"{value:.3f}" if 0.0005 <= abs(value) < 100 else shown(value)


def _reach(lines: Sequence[Mapping[str, Any]], log: bool) -> tuple[float, float]:
    """The axis: all estimates, and their intervals as far as they stay legible."""
    values = [r["value"] for r in lines]
    ends = [v for r in lines for v in (r["low"], r["high"]) if math.isfinite(v)]
    if not log:
        low, high = padded([*values, *ends])
        near = low - (high - low) <= 0.0 <= high + (high - low)  # an AUC of 0.8 needs no line at 0
        return padded([low, high, 0.0]) if near else (low, high)
    lowest, highest = min([*values, 1.0]), max([*values, 1.0])
    ends = [v for v in ends if lowest / BEYOND <= v <= highest * BEYOND]
    low, high = min([lowest, *ends, 1 / 1.05]), max([highest, *ends, 1.05])
    room = (high / low) ** 0.04
    return low / room, high * room


def _mark(r: Mapping[str, Any], x: Axis, y: float, heaviest: float) -> str:
    at, colour = x(r["value"]), INK if r["summary"] else COLOURS[0]
    low, high = (v if not math.isnan(v) else r["value"] for v in (r["low"], r["high"]))
    a, b = x(low), x(high)
    if r["summary"]:
        return path([(a, y), (at, y - 7), (b, y), (at, y + 7)], fill=colour)
    drawn = [line(a, y, b, y, stroke=colour, width=2)] if b > a else []
    if low < x.low:
        drawn.append(path([(a, y), (a + 8, y - 4), (a + 8, y + 4)], fill=colour))
    if high > x.high:
        drawn.append(path([(b, y), (b - 8, y - 4), (b - 8, y + 4)], fill=colour))
    if r["weight"] > 0:
        half = max(2.0, 7.0 * math.sqrt(r["weight"] / heaviest))
        return "".join([*drawn, rect(at - half, y - half, 2 * half, 2 * half, colour)])
    return "".join([*drawn, circle(at, y, 4.5, colour)])
