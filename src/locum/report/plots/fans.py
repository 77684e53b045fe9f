"""Fan charts: what was observed, and the quantiles of what was forecast, one small picture for each series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from locum.report.plots.axes import Axis, date_ticks, frame, gutter, nice_ticks, padded
from locum.report.plots.draw import COLOURS, INK, PlotError, circle, empty, heading, number, numbers, path, rect, same, svg, text

COVER = (0.95, 0.8, 0.5)
_SHADE = {0.95: 0.18, 0.8: 0.22, 0.5: 0.3}
_TOGETHER = {0.95: 0.18, 0.8: 0.36, 0.5: 0.55}
Band = tuple[float, list[float], list[float]]


def fan(series: Mapping[str, Mapping[str, Any]], *, title: str, unit: str = "", columns: int = 3) -> str:
    """series: name -> {"time": [...], "observed": [...], "ahead": [...], "quantiles": {0.025: [...], ..., 0.975: [...]}}.

    time and ahead: numbers, dates, or ISO dates; one observation for each time, and of each quantile one value for each time ahead. Drawn are
    the bands of 50, 80 and 95 % whose two quantiles are there, and the median. What was observed at or after the first time ahead
    is drawn open: it was not known to the forecast. unit: of what is observed. Several series stand in `columns`, each with its own scale.

    Raises `PlotError` for lists of different lengths, or for quantiles that are not numbers between 0 and 1.
    """
    parts = {str(name): _series(one) for name, one in series.items()}
    parts = {name: p for name, p in parts.items() if p["time"] or p["ahead"]}
    if not parts:
        return empty(title)
    across = min(max(1, columns), len(parts))
    cell, tall = (720.0, 300.0) if across == 1 else (max(270.0, 960.0 / across), 200.0)
    width = cell * across
    drawn, top = heading(title, width)
    told = [f"{c:.0%}" for c in COVER if any(c == band[0] for p in parts.values() for band in p["bands"])]
    x = 12.0
    for c in (c for c in COVER if f"{c:.0%}" in told):
        drawn += [rect(x, top + 5, 14, 12, COLOURS[0], opacity=_TOGETHER[c]), text(x + 18, top + 15.5, f"{c:.0%}", size=12)]
        x += 58
    drawn += [path([(x, top + 11), (x + 16, top + 11)], stroke=COLOURS[0], width=2.5), text(x + 21, top + 15.5, "median", size=12)]
    drawn += [circle(x + 84, top + 11, 3, INK), text(x + 91, top + 15.5, "observed", size=12)]
    drawn += [circle(x + 160, top + 11, 3, "#fff", stroke=INK), text(x + 167, top + 15.5, "observed later", size=12)]
    top += 34
    for k, (name, p) in enumerate(parts.items()):
        drawn += _panel(name if len(parts) > 1 else "", p, (k % across) * cell, top + (k // across) * tall, cell, tall, unit, k % across == 0)
    return svg(width, top + math.ceil(len(parts) / across) * tall + 4, title, drawn)


def _panel(name: str, p: Mapping[str, Any], left: float, top: float, cell: float, tall: float, unit: str, first: bool) -> list[str]:
    bands: list[Band] = p["bands"]
    values = [*p["observed"], *p["median"], *(v for _, low, high in bands for v in (*low, *high))]
    low, high = padded(values, zero=all(v >= 0 for v in values if math.isfinite(v)))
    start, end = padded([*p["time"], *p["ahead"]], share=0.02)
    named = unit if first else ""
    inside = left + gutter(nice_ticks(low, high, 4), named)
    x, y = Axis(start, end, inside, left + cell - 16), Axis(low, high, top + tall - 34, top + 22)
    several = (cell - 60) / 70
    drawn = frame(x, y, y_label=named, x_ticks=date_ticks(start, end, int(several)) if p["dates"] else None, most=(int(several), 4))
    if name:
        drawn.append(text(inside, top + 13, name, size=13, bold=True, width=cell - 60))
    for cover, below, above in bands:
        known = [k for k in range(len(p["ahead"])) if math.isfinite(below[k]) and math.isfinite(above[k])]
        upper = [(x(p["ahead"][k]), y(above[k])) for k in known]
        lower = [(x(p["ahead"][k]), y(below[k])) for k in known]
        if len(known) == 1:  # one week ahead is a bar, not a line without width
            (a, b), (_, d) = upper[0], lower[0]
            drawn.append(rect(a - 5, b, 10, d - b, COLOURS[0], opacity=_SHADE[cover]))
        elif known:
            drawn.append(path([*upper, *lower[::-1]], fill=COLOURS[0], opacity=_SHADE[cover]))
    middle = [(x(t), y(v)) for t, v in zip(p["ahead"], p["median"], strict=False) if math.isfinite(v)]
    drawn.append(path(middle, stroke=COLOURS[0], width=2.5))
    if len(middle) == 1:
        drawn.append(circle(*middle[0], 3.5, COLOURS[0]))
    known_until = min(p["ahead"], default=math.inf)
    seen = [(t, v) for t, v in zip(p["time"], p["observed"], strict=True) if math.isfinite(v)]
    drawn.append(path([(x(t), y(v)) for t, v in seen if t < known_until], stroke=INK, width=1))
    small = 3.0 if len(seen) < 60 else 2.0
    drawn += [circle(x(t), y(v), small, INK) if t < known_until else circle(x(t), y(v), small, "#fff", stroke=INK) for t, v in seen]
    return drawn


def _series(one: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(one, Mapping):
        raise PlotError("A fan chart's series is not a mapping.", fix='give {"time": [...], "observed": [...], "ahead": [...], "quantiles": {0.5: [...]}}')
    time, dates = _times(one.get("time", ()))
    ahead, later = _times(one.get("ahead", ()))
    observed = numbers(one.get("observed", ()), "fan chart, 'observed',")
    same("fan chart's observations", time, observed)
    quantiles: dict[float, list[float]] = {}
    for q, values in (one.get("quantiles") or {}).items():
        try:
            level = round(float(q), 6)
        except (TypeError, ValueError):
            level = math.nan
        if not 0 < level < 1:
            raise PlotError("A fan chart's quantile is not between 0 and 1.", fix="name quantiles as 0.025, 0.5, 0.975")
        quantiles[level] = numbers(values, "fan chart, 'quantiles',")
        same("fan chart's quantiles", ahead, quantiles[level])
    bands = [(c, quantiles[a], quantiles[b]) for c in COVER for a, b in [(round((1 - c) / 2, 6), round((1 + c) / 2, 6))] if a in quantiles and b in quantiles]
    return {"time": time, "observed": observed, "ahead": ahead, "bands": bands, "median": quantiles.get(0.5, []), "dates": dates or later}


def _times(values: Sequence[Any]) -> tuple[list[float], bool]:
    """Numbers, and whether they are days of a calendar."""
    out, dates = [], False
    for value in values:
        if isinstance(value, str):
            try:
                value = date.fromisoformat(value[:10])
            except ValueError:
                raise PlotError("A time of the fan chart is neither a number nor a date.", fix="write dates as 2024-12-31") from None
        if hasattr(value, "astype"):  # numpy's dates
            value = value.astype("datetime64[D]").astype(object) if "datetime64" in str(value.dtype) else float(value)
        if isinstance(value, date):
            dates, value = True, float(value.toordinal())
        out.append(number(value, "fan chart, 'time',"))
    if any(not math.isfinite(t) for t in out):
        raise PlotError("A time of the fan chart is missing.", fix="leave out what has no time")
    return out, dates
