"""Calibration: the observed share against the predicted risk in groups of patients, and how many there are in each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from locum.report.plots.axes import Axis, frame
from locum.report.plots.draw import COLOURS, QUIET, circle, empty, field, heading, line, number, rect, svg, text

NAMES = ("predicted", "observed", "low", "high", "n")


def calibration(bins: Sequence[Any], *, title: str) -> str:
    """bins: (predicted, observed, low, high, n) of each group of patients, risks and shares from 0 to 1; tuples in that order or mappings with those
    names. Under the plot, bars of n."""
    rows = [{name: number(v, f"calibration, '{name}',") for name, v in field(b, NAMES, "calibration").items()} for b in bins]
    rows = [r for r in rows if math.isfinite(r["predicted"]) and math.isfinite(r["observed"])]
    if not rows:
        return empty(title)
    width, side, bars = 496.0, 380.0, 56.0
    drawn, top = heading(title, width)
    top += 10
    # One scale for both axes, so that the diagonal is where the predictions are right.
    reach = max(v for r in rows for v in (r["predicted"], r["observed"], r["high"]) if math.isfinite(v))
    reach = next((t for t in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8) if reach <= t), 1.0)
    x, y = Axis(0.0, reach, 68.0, 68.0 + side), Axis(0.0, reach, top + side, top)
    drawn += frame(x, y, x_label="predicted risk", y_label="observed share", most=(6, 6), label_at=bars + 46)
    drawn.append(line(x.start, y.start, x.end, y.end, stroke=QUIET, dash="4 4"))
    drawn.append(text(x.end + 6, y.end + 4, "ideal", size=11, fill=QUIET))
    for r in rows:
        told = f"predicted {r['predicted']:.3f}, observed {r['observed']:.3f}" + (f", n {r['n']:,.0f}" if math.isfinite(r["n"]) else "")
        if math.isfinite(r["low"]) and math.isfinite(r["high"]):
            drawn.append(line(x(r["predicted"]), y(r["low"]), x(r["predicted"]), y(r["high"]), stroke=COLOURS[0], width=1.5))
        drawn.append(circle(x(r["predicted"]), y(r["observed"]), 4.5, COLOURS[0], tip=told))
    base = y.start + 28 + bars
    most = max((r["n"] for r in rows if math.isfinite(r["n"])), default=0.0)
    if most > 0:
        apart = min([abs(x(b["predicted"]) - x(a["predicted"])) for a, b in itertools.pairwise(rows)], default=24.0)
        half = min(10.0, max(1.5, 0.42 * apart))
        for r in rows:
            tall = bars * r["n"] / most * 0.8 if math.isfinite(r["n"]) else 0.0
            drawn.append(rect(x(r["predicted"]) - half, base - tall, 2 * half, tall, QUIET, opacity=0.6, tip=f"n {r['n']:,.0f}"))
        drawn += [line(x.start, base, x.end, base, stroke=QUIET), text(x.start - 7, base - 0.8 * bars + 8, f"{most:,.0f}", anchor="end", size=11, fill=QUIET)]
        drawn.append(text(x.start - 7, base, "n", anchor="end", size=11, fill=QUIET))
    return svg(width, base + 32, title, drawn)
