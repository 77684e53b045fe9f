"""Axes with ticks at 1, 2 or 5 times a power of ten (Heckbert, Graphics Gems, 1990), and the frame that the plots share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from locum.report.plots.draw import GRID, INK, QUIET, line, text, wide


def nice_step(span: float, most: int = 6) -> float:
    """The smallest of 1, 2, 5 times a power of ten that leaves at most `most` intervals."""
    if not (math.isfinite(span) and span > 0):
        return 1.0
    rough = span / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 5) if m * power >= rough * (1 - 1e-9)), 10 * power)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Ticks within [low, high]."""
    step = nice_step(high - low, most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) if step < 1e6 else k * step for k in range(first, last + 1)] if last - first <= 4 * most else []


def labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, all with the same number of decimals."""
    step = min((abs(b - a) for a, b in itertools.pairwise(ticks)), default=abs(ticks[0]) if ticks else 1.0) or 1.0
    top = max((abs(t) for t in ticks), default=0.0)
    if top >= 1e7 or (0 < top < 1e-4):
        return [f"{t:.2g}" for t in ticks]
    comma = "," if top >= 10_000 else ""  # 2024 may be a year
    return [f"{t:{comma}.{max(0, min(6, -math.floor(math.log10(step) + 1e-9)))}f}" for t in ticks]


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Ticks on a logarithmic axis over [low, high], both above 0: 1-2-5 in each decade, powers of ten over many, evenly where the range is narrow."""
    if high / low < 3:
        return [t for t in nice_ticks(low, high, 5) if t > 0]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 5), (1,)):
        found = [m * 10.0**e for e in range(first, last + 1) for m in steps if low * (1 - 1e-9) <= m * 10.0**e <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found if len(found) >= 3 or high / low > 10 else [t for t in nice_ticks(low, high, 8) if t > 0]
    return found[:: math.ceil(len(found) / most)]


def padded(values: Iterable[float], *, zero: bool = False, share: float = 0.04) -> tuple[float, float]:
    """A range that holds the finite values with some room; (0, 1) without any. zero: from 0 where none is below it."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(0.0, low), max(0.0, high)
    room = share * (high - low) or 0.5 * abs(high) or 0.5
    return low if zero and low == 0 else low - room, high if zero and high == 0 else high + room


@dataclass(frozen=True)
class Axis:
    """From values low..high to pixels start..end; outside values are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value) if value > 0 else -math.inf
        share = (value - low) / ((high - low) or 1.0)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high, most)


def frame(
    x: Axis,
    y: Axis,
    *,
    x_label: str = "",
    y_label: str = "",
    x_ticks: Sequence[tuple[float, str]] | None = None,
    y_ticks: Sequence[tuple[float, str]] | None = None,
    most: tuple[int, int] = (7, 5),
    label_at: float = 36.0,
) -> list[str]:
    """Grid, ticks and labels around x.start..x.end and y.end..y.start (up is smaller). Labels of x that would touch are left out."""
    left, right, top, bottom = x.start, x.end, y.end, y.start
    drawn = []
    across = x.ticks(most[0])
    up = y.ticks(most[1])
    y_ticks = list(zip(up, labels(up), strict=True)) if y_ticks is None else list(y_ticks)
    x_ticks = list(zip(across, labels(across), strict=True)) if x_ticks is None else list(x_ticks)
    for value, name in y_ticks:
        drawn += [line(left, y(value), right, y(value), stroke=GRID), text(left - 7, y(value) + 4, name, anchor="end", size=11, fill=QUIET)]
    end = -math.inf
    for value, name in x_ticks:
        at, half = x(value), wide(name, 11) / 2.0
        drawn.append(line(at, bottom, at, bottom + 4, stroke=INK))
        if at - half > end + 4:
            drawn.append(text(at, bottom + 17, name, anchor="middle", size=11, fill=QUIET))
            end = at + half
    drawn.append(line(left, bottom, right, bottom, stroke=INK))
    if x_label:
        drawn.append(text((left + right) / 2.0, bottom + label_at, x_label, anchor="middle", size=12, fill=QUIET, width=right - left + 60))
    if y_label:
        widest = max((wide(name, 11) for _, name in y_ticks), default=0.0)
        drawn.append(text(left - widest - 14, (top + bottom) / 2.0, y_label, anchor="middle", size=12, fill=QUIET, turn=True, width=bottom - top + 30))
    return drawn


def gutter(ticks: Sequence[float] | Sequence[str], label: str = "") -> float:
    """Pixels that the labels of a y axis and its name need."""
    names = [t if isinstance(t, str) else "" for t in ticks]
    if ticks and not isinstance(ticks[0], str):
        names = labels([float(t) for t in ticks])
    return max(40.0, max((wide(n, 11) for n in names), default=0.0) + 14 + (18 if label else 4))


def date_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Ticks at days, weeks, months or years for an axis of days since the year 1 (`date.toordinal`)."""
    first, last = date.fromordinal(max(1, math.ceil(low))), date.fromordinal(max(1, math.floor(high)))
    days = (last - first).days
    if days <= 10 * most:
        step = next(s for s in (1, 2, 7, 14, 1000) if days / s <= most)
        return [(float(k), f"{date.fromordinal(k):%d %b}") for k in range(first.toordinal(), last.toordinal() + 1, step)]
    months = (last.year - first.year) * 12 + last.month - first.month
    step = next((s for s in (1, 2, 3, 6) if months / s <= most), 0)
    name: Callable[[date], str] = (lambda d: f"{d:%b %Y}") if step else (lambda d: f"{d:%Y}")
    step = step or 12 * max(1, math.ceil(months / 12 / most))
    starts = [date(k // 12, k % 12 + 1, 1) for k in range(first.year * 12, last.year * 12 + 12) if k % step == 0]
    return [(float(d.toordinal()), name(d)) for d in starts if first <= d <= last]
