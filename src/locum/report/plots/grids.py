"""Grids of colour: a confusion matrix, and an image under what a model looked at."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.report.plots.draw import INK, QUIET, PlotError, empty, heading, rect, svg, text, wide
from locum.report.plots.maps import colour

SIDE = 96
"""Larger images are averaged down to at most this many pixels a side."""
GREYS, HEATS = 32, 8


def confusion(matrix: Any, names: Sequence[str], *, title: str) -> str:
    """matrix: counts (k, k), rows the truth and columns the prediction, in the order of names. The colour is the share of the row."""
    counts = _array(matrix, "confusion matrix")
    names = [str(n) for n in names]
    if counts.shape != (len(names), len(names)):
        raise PlotError(f"The confusion matrix is {' x '.join(map(str, counts.shape))}, and there are {len(names)} names.", fix="give one name for each class")
    if (counts < 0).any():
        raise PlotError("A count of the confusion matrix is negative.", fix="give counts")
    if not counts.size or not np.nansum(counts) > 0:
        return empty(title)
    k, cell = len(names), 64.0 if len(names) <= 8 else 48.0
    longest = max(wide(n, 12) for n in names)
    left = min(200.0, longest + 44)
    turned = longest > cell - 6
    above = min(120.0, longest + 12) if turned else 22.0
    width = max(420.0, left + cell * k + 24)
    drawn, top = heading(title, width)
    drawn.append(text(left + cell * k / 2, top + 16, "predicted", anchor="middle", size=12, fill=QUIET))
    top += 22 + above
    drawn.append(text(max(16.0, left - longest - 20), top + cell * k / 2, "truth", anchor="middle", size=12, fill=QUIET, turn=True))
    total = np.nansum(counts, axis=1)
    for i in range(k):
        drawn.append(text(left - 8, top + cell * (i + 0.5) + 4, names[i], anchor="end", size=12, width=left - 36))
        x = left + cell * (i + 0.5)
        drawn.append(text(x + 4, top - 8, names[i], size=12, turn=True, width=above - 8) if turned else text(x, top - 8, names[i], anchor="middle", size=12))
        for j in range(k):
            share = counts[i, j] / total[i] if total[i] else 0.0
            x, y = left + cell * j, top + cell * i
            told = f"{names[i]} taken for {names[j]}: {counts[i, j]:g} ({share:.1%})"
            ink = "#fff" if share > 0.5 else INK
            drawn += [rect(x, y, cell - 2, cell - 2, colour(share, 0.0, 1.0) if total[i] else "#f1f1f1", tip=told)]
            drawn.append(text(x + cell / 2 - 1, y + cell / 2 - 1, f"{counts[i, j]:,.0f}", anchor="middle", size=12, fill=ink))
            drawn.append(text(x + cell / 2 - 1, y + cell / 2 + 14, f"{share:.0%}" if total[i] else "", anchor="middle", size=10.5, fill=ink))
    return svg(width, top + cell * k + 14, title, drawn)


def heat(image: Any, overlay: Any = None, *, title: str) -> str:
    """image: (h, w) brightness, any scale; overlay: (h, w), or a grid of another size, how much each place mattered, 0 and more. Drawn as grey
    with the overlay in red, as rectangles, since a page with a strict content policy shows no embedded picture."""
    pixels = _array(image, "image")
    if not pixels.size or not np.isfinite(pixels).any():
        return empty(title)
    pixels = _small(pixels)
    h, w = pixels.shape
    scale = 320.0 / max(h, w)
    above = None if overlay is None else _array(overlay, "overlay")
    mattered = above is not None and above.size > 0 and bool(np.isfinite(above).any())
    width = max(360.0, 24 + w * scale * (2 if mattered else 1) + 20)
    drawn, top = heading(title, width)
    top += 8
    grey = _levels(pixels, GREYS)
    shades = [f"#{v:02x}{v:02x}{v:02x}" for v in np.linspace(0, 255, GREYS).round().astype(int)]
    picture = "".join(f'<path d="{d}" fill="{shades[level]}"/>' for level, d in _runs(grey).items())
    places = [12.0, 20.0 + w * scale] if mattered else [12.0]
    for x in places:
        drawn.append(f'<g transform="translate({x:g} {top:g}) scale({scale:.4g})" shape-rendering="crispEdges">{picture}')
        if mattered and x > 12 and above is not None:
            red = _levels(np.maximum(_small(above), 0.0), HEATS, floor=0.0)
            r, c = red.shape
            drawn.append(f'<g transform="scale({w / c:.4g} {h / r:.4g})">')
            drawn += [f'<path d="{d}" fill="#e0301e" fill-opacity="{0.75 * k / (HEATS - 1):.2f}"/>' for k, d in _runs(red).items() if k]
            drawn.append("</g>")
        drawn.append("</g>")
    below = top + h * scale + 16
    drawn.append(text(12, below, "image", size=11, fill=QUIET))
    if mattered:
        drawn.append(text(places[1], below, "the same, in red what mattered", size=11, fill=QUIET))
    return svg(width, below + 10, title, drawn)


def _array(values: Any, what: str) -> NDArray[np.float64]:
    try:
        out = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise PlotError(f"The {what} is no grid of numbers.", fix="give rows of equal length") from None
    if out.size == 0:
        return np.zeros((0, 0))
    if out.ndim == 3 and out.shape[2] in (1, 3, 4):
        out = out[..., :3].mean(axis=2)
    if out.ndim != 2:
        raise PlotError(f"The {what} has {out.ndim} dimensions.", fix="give rows and columns")
    return out


def _small(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages over blocks, so that no side is longer than SIDE."""
    block = max(1, math.ceil(max(a.shape) / SIDE))
    h, w = (max(1, n // block) for n in a.shape)
    return a if block == 1 else np.asarray(a[: h * block, : w * block].reshape(h, min(block, a.shape[0]), w, min(block, a.shape[1])).mean(axis=(1, 3)))


def _levels(a: NDArray[np.float64], count: int, floor: float | None = None) -> NDArray[np.int64]:
    known = np.where(np.isfinite(a), a, np.nan)
    low = float(np.nanmin(known)) if floor is None else floor
    span = (float(np.nanmax(known)) - low) or 1.0
    return np.clip(np.nan_to_num((known - low) / span * (count - 1)).round(), 0, count - 1).astype(np.int64)


def _runs(levels: NDArray[np.int64]) -> dict[int, str]:
    """Of each level one path of the rectangles it covers, joined along the rows."""
    out: dict[int, list[str]] = {}
    for y, row in enumerate(levels):
        starts = np.r_[0, np.flatnonzero(np.diff(row)) + 1, len(row)]
        for a, b in itertools.pairwise(starts):
            out.setdefault(int(row[a]), []).append(f"M{a} {y}h{b - a}v1h{a - b}z")
    return {level: "".join(found) for level, found in sorted(out.items())}
