"""The states of the USA as a grid of tiles, so that a small state shows as well as a large one (NPR's layout, 2015, with Puerto Rico)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from locum.report.plots.draw import INK, QUIET, PlotError, empty, heading, number, rect, shown, svg, text

_ROWS = (
    "AK .. .. .. .. .. .. .. .. .. ME",
    ".. .. .. .. .. .. .. .. .. VT NH",
    "WA ID MT ND MN IL WI MI NY RI MA",
    "OR NV WY SD IA IN OH PA NJ CT ..",
    "CA UT CO NE MO KY WV VA MD DE ..",
    ".. AZ NM KS AR TN NC SC DC .. ..",
    ".. .. .. OK LA MS AL GA .. .. ..",
    "HI .. .. TX .. .. .. .. FL .. PR",
)
TILES = {name: (column, row) for row, names in enumerate(_ROWS) for column, name in enumerate(names.split()) if name != ".."}
_DARK, _LIGHT, _OTHER = (0, 62, 115), (232, 241, 247), (166, 60, 0)


def us_map(values: Mapping[str, Any], *, title: str, label: str) -> str:
    """values: postal abbreviation -> number, None or absent where there is none; DC and PR among them. Where all numbers are on one side of 0 the
    colour goes from light to dark; otherwise 0 is white, blue above and brown below. label: of the scale.

    Raises `PlotError` for a name that is no state.
    """
    unknown = [name for name in values if str(name).upper() not in TILES]
    if unknown:
        raise PlotError("A name on the map is no state's postal abbreviation.", fix="use two letters: AL ... WY, DC, PR; leave out the sum of the country")
    found = {str(name).upper(): number(v, "map") for name, v in values.items()}
    known = {name: v for name, v in found.items() if math.isfinite(v)}
    if not known:
        return empty(title)
    low, high = min(known.values()), max(known.values())
    side, left = 54.0, 16.0
    width = left * 2 + side * 11
    drawn, top = heading(title, width)
    top += 8
    for name, (column, row) in TILES.items():
        value = known.get(name, math.nan)
        fill = colour(value, low, high) if name in known else "#f1f1f1"
        ink = "#fff" if _dark(fill) else INK if name in known else QUIET
        x, y = left + column * side, top + row * side
        told = f"{name}: {shown(value)}" if name in known else f"{name}: no value"
        drawn += [rect(x, y, side - 3, side - 3, fill, tip=told), text(x + side / 2 - 1.5, y + 22, name, anchor="middle", size=13, fill=ink, bold=True)]
        drawn.append(text(x + side / 2 - 1.5, y + 39, short(value) if name in known else "-", anchor="middle", size=11, fill=ink))
    # The scale stands where no state is: above the middle of the country.
    x, y, steps, long = left + 1.4 * side, top + 0.55 * side, 40, 6.2 * side
    drawn += [rect(x + long * k / steps, y, long / steps + 0.6, 13, colour(low + (high - low) * k / (steps - 1), low, high)) for k in range(steps)]
    drawn += [text(x, y - 7, label, size=12, fill=QUIET, width=long), text(x, y + 28, short(low), size=11, fill=QUIET)]
    if high > low:
        drawn += [text(x + long, y + 28, short(high), anchor="end", size=11, fill=QUIET)]
        share, middle = (-low / (high - low), 0.0) if low < 0 < high else (0.5, (low + high) / 2)
        if 0.15 < share < 0.85:
            drawn += [text(x + long * share, y + 28, short(middle), anchor="middle", size=11, fill=QUIET)]
    return svg(width, top + side * len(_ROWS) + 8, title, drawn)


def short(value: float) -> str:
    """A number that fits a tile."""
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e6 if unit == 'M' else 1e3):.3g}{unit}"
    if 0.095 <= abs(value) < 1:
        return f"{value:.2f}"
    return shown(value, 2 if abs(value) < 1 else 3) if len(shown(value)) <= 7 else f"{value:.1e}"


def colour(value: float, low: float, high: float) -> str:
    """A colour on the scale from low to high."""
    if low < 0 < high:
        share, end = abs(value) / max(-low, high), _DARK if value > 0 else _OTHER
        return _mix((255, 255, 255), end, share)
    share = (value - low) / (high - low) if high > low else 0.5
    return _mix(_LIGHT, _DARK, 1.0 - share if high <= 0 and low < high else share)


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> str:
    share = min(1.0, max(0.0, share))
    return "#" + "".join(f"{round(u + (v - u) * share):02x}" for u, v in zip(a, b, strict=True))


def _dark(fill: str) -> bool:
    r, g, b = (int(fill[k : k + 2], 16) for k in (1, 3, 5)) if len(fill) == 7 else (255, 255, 255)
    return 0.299 * r + 0.587 * g + 0.114 * b < 140
