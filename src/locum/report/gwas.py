"""Manhattan and quantile-quantile plots as SVG text that stands alone: no script, no font, nothing loaded.

A million points are drawn as the pixels that they cover, joined to upright strokes, so that a plot stays a few hundred kilobytes;
the smallest p-values are circles that name their variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.report.plots import draw

Floats = NDArray[np.float64]
GENOME_WIDE, SUGGESTIVE = -np.log10(5e-8), 5.0
COLOURS = ("#224455", "#22aa77")
NAMED = 200
"""Variants drawn one by one, with their names."""
_LEFT, _TOP, _BOTTOM, _RIGHT = 52, 30, 44, 14


def manhattan(table: pl.DataFrame, *, title: str = "", width: int = 1000, height: int = 360) -> str:
    """-log10 p along the genome. table: as `locum.tasks.gwas.table` gives it; with the columns chrom and pos it is drawn by chromosome, else in
    the order of the array."""
    table = table.filter(pl.col("minus_log10_p").is_not_null())
    y = table["minus_log10_p"].to_numpy().astype(float)
    x, chromosomes, edges = _places(table)
    top = _top(y)
    across, down = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    px = _LEFT + x * across
    py = _TOP + (1.0 - y / top) * down
    order = np.argsort(-y, kind="stable")[:NAMED]
    named = order if len(y) <= NAMED else order[y[order] >= min(SUGGESTIVE, top)]
    drawn = [_axis_y(top, width, height), _line(GENOME_WIDE, top, width, height, "#aa3333"), _line(SUGGESTIVE, top, width, height, "#8899aa")]
    which = np.searchsorted(edges[1:-1], x, side="right")
    for k, name in enumerate(chromosomes):
        mine = which == k
        drawn.append(f'<path d="{_strokes(px[mine], py[mine])}" stroke="{COLOURS[k % 2]}" stroke-width="2" fill="none"/>')
        drawn.append(_text(_LEFT + across * (edges[k] + edges[k + 1]) / 2.0, height - 24, name, "middle", 11))
    labels = _labels(table)
    for i in named:
        colour = "#aa3333" if y[i] >= GENOME_WIDE else COLOURS[int(which[i]) % 2]
        drawn.append(f'<circle cx="{px[i]:.1f}" cy="{py[i]:.1f}" r="2.5" fill="{colour}"><title>{draw.clean(labels[i])}: -log10 p {y[i]:.2f}</title></circle>')
    where = "chromosome" if "chrom" in table.columns else "variant, in the order of the array"
    drawn.append(_text(_LEFT + across / 2.0, height - 6, where, "middle", 12))
    return _svg(width, height, title or f"Manhattan plot of {len(table):,} variants", drawn)


def hits_of(result: dict[str, Any], *, title: str = "", width: int = 1000, height: int = 360) -> str:
    """The Manhattan plot of a step's JSON result, which holds the variants with the smallest p only."""
    hits = result["hits"]
    table = pl.DataFrame(
        {
            "name": [str(h.get("variant") or f"variant {h['column']}") for h in hits],
            "column": [int(h["column"]) for h in hits],
            "minus_log10_p": [None if h["minus_log10_p"] is None else float(h["minus_log10_p"]) for h in hits],
        },
        schema={"name": pl.String, "column": pl.Int64, "minus_log10_p": pl.Float64},
    )
    if hits and all(h.get("chrom") is not None and h.get("pos") is not None for h in hits):
        table = table.with_columns(pl.Series("chrom", [str(h["chrom"]) for h in hits]), pl.Series("pos", [int(h["pos"]) for h in hits]))
    return manhattan(table, title=title or f"The {len(hits)} variants with the smallest p", width=width, height=height)


def qq(minus_log10_p: Sequence[float] | Floats, *, lambda_gc: float | None = None, title: str = "", size: int = 380) -> str:
    """Observed against expected -log10 p, with the band that holds 95 % of each order statistic if nothing is associated."""
    observed = -np.sort(-np.asarray(minus_log10_p, dtype=float))
    m = len(observed)
    expected = -np.log10((np.arange(1, m + 1) - 0.5) / max(m, 1))
    return _qq(expected, observed, m, lambda_gc, title, size)


def qq_of(result: dict[str, Any], *, title: str = "", size: int = 380) -> str:
    """The same from a step's JSON result, which holds the points at some ranks."""
    pairs = np.asarray(result["qq"], dtype=float).reshape(-1, 2)
    return _qq(pairs[:, 0], pairs[:, 1], int(result["tested"]), result["lambda_gc"], title, size)


def _qq(expected: Floats, observed: Floats, m: int, lambda_gc: float | None, title: str, size: int) -> str:
    from scipy.special import betaincinv

    right, top = max(1.0, float(np.ceil(expected.max(initial=0.0)))), _top(observed, floor=1.0)
    across, down = size - _LEFT - _RIGHT, size - _TOP - _BOTTOM

    def at(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        return _LEFT + x / right * across, _TOP + (1.0 - np.minimum(y, top) / top) * down

    drawn = [_axis_y(top, size, size)]
    if m:
        ranks = np.unique(np.rint(np.geomspace(1, m, 120)))
        middle = -np.log10((ranks - 0.5) / m)
        ends = [-np.log10(betaincinv(ranks, m + 1 - ranks, q)) for q in (0.025, 0.975)]
        upper, lower = (np.column_stack(at(middle, e)) for e in ends)
        outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*upper, *lower[::-1]])
        drawn.append(f'<polygon points="{outline}" fill="#dde6e4"/>')
    reach = min(right, top)
    (x0, x1), (y0, y1) = at(np.array([0.0, reach]), np.array([0.0, reach]))
    drawn.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#8899aa"/>')
    px, py = at(expected, observed)
    _, first = np.unique(np.column_stack([np.rint(px), np.rint(py)]), axis=0, return_index=True)
    drawn += [f'<circle cx="{px[i]:.1f}" cy="{py[i]:.1f}" r="2" fill="{COLOURS[0]}"/>' for i in first]
    for tick in _ticks(right):
        drawn.append(_text(_LEFT + tick / right * across, size - 26, f"{tick:g}", "middle", 11))
    drawn.append(_text(_LEFT + across / 2.0, size - 8, "expected -log10 p", "middle", 12))
    if lambda_gc is not None:
        drawn.append(_text(_LEFT + 10, _TOP + 16, f"lambda_GC = {lambda_gc:.3f}", "start", 12))
    return _svg(size, size, title or f"Quantiles of {m:,} variants", drawn)


def _places(table: pl.DataFrame) -> tuple[Floats, list[str], Floats]:
    """Each variant's place along the genome from 0 to 1, the chromosomes in order, and where each begins; the last ends at 1."""
    n = len(table)
    if "chrom" not in table.columns or not n:
        column = table["column"].to_numpy().astype(float) if n else np.zeros(0)
        return column / max(1.0, float(column.max(initial=0.0))), [""], np.array([0.0, 1.0])
    chrom, pos = table["chrom"].cast(pl.String).fill_null("?"), table["pos"].to_numpy().astype(float)
    names = sorted(chrom.unique(), key=_chromosome)
    index = {name: k for k, name in enumerate(names)}
    which = np.array([index[c] for c in chrom], dtype=np.intp)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(low, which, pos)
    np.maximum.at(high, which, pos)
    spans = np.maximum(high - low, 1.0)
    spans = np.maximum(spans, spans.sum() / (50.0 * len(names)))  # one variant alone has a place too
    edges = np.r_[0.0, np.cumsum(spans)] / spans.sum()
    inside = np.clip((pos - low[which]) / spans[which], 0.0, 1.0 - 1e-9)
    return edges[which] + inside * (edges[1:] - edges[:-1])[which], names, edges


def _chromosome(name: str) -> tuple[int, int, str]:
    bare = name.removeprefix("chr")
    return (0, int(bare), "") if bare.isascii() and bare.isdigit() and len(bare) < 6 else (1, 0, bare)


def _labels(table: pl.DataFrame) -> list[str]:
    if "name" in table.columns:
        return [str(n) for n in table["name"]]
    return [f"variant {c}" for c in table["column"]]


def _strokes(px: Floats, py: Floats) -> str:
    """The pixels of 2 by 2 that the points cover, joined along each column."""
    cells = np.unique(np.column_stack([np.rint(px / 2.0), np.rint(py / 2.0)]).astype(int), axis=0)
    if not len(cells):
        return "M0 0"
    new = np.r_[True, (np.diff(cells[:, 0]) != 0) | (np.diff(cells[:, 1]) != 1)]
    starts = np.flatnonzero(new)
    ends = np.r_[starts[1:], len(cells)] - 1
    return "".join(f"M{2 * cells[a, 0]} {2 * cells[a, 1] - 1}v{2 * (cells[b, 1] - cells[a, 1] + 1)}" for a, b in zip(starts, ends, strict=True))


def _top(y: Floats, floor: float = 8.0) -> float:
    return float(max(floor, np.ceil(1.05 * y.max(initial=0.0))))


def _ticks(top: float) -> list[float]:
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if top / s <= 9), 1000)
    return [float(t) for t in np.arange(0, top + 1e-9, step)]


def _axis_y(top: float, width: int, height: int) -> str:
    down = height - _TOP - _BOTTOM
    lines = []
    for tick in _ticks(top):
        y = _TOP + (1.0 - tick / top) * down
        lines.append(f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eef2f1"/>')
        lines.append(_text(_LEFT - 6, y + 4, f"{tick:g}", "end", 11))
    middle = _TOP + down / 2.0
    turned = f'<text x="14" y="{middle:.1f}" transform="rotate(-90 14 {middle:.1f})" text-anchor="middle" font-size="12" fill="#556677">-log10 p</text>'
    return "".join(lines) + turned


def _line(value: float, top: float, width: int, height: int, colour: str) -> str:
    y = _TOP + (1.0 - value / top) * (height - _TOP - _BOTTOM)
    return f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-dasharray="4 3"/>' if value <= top else ""


def _text(x: float, y: float, text: str, anchor: str, size: int) -> str:
    return draw.text(x, y, text, anchor=anchor, size=size, fill=draw.QUIET)


def _svg(width: int, height: int, title: str, drawn: Sequence[str]) -> str:
    return draw.svg(width, height, title, [draw.text(12, 19, title, size=14, bold=True, width=width - 24), *drawn])
